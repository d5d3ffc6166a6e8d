/*
 * upper/copy_up.h - what of a file has to be in the upper before it is changed.
 *
 * Purpose: copy up at once what is quick, under the lock, and say -EAGAIN where data has to be copied first:
 * then the caller of the verb calls um_upper_copy_up, which does that without the lock, and asks again.
 */
#ifndef UM_UPPER_COPY_UP_H
#define UM_UPPER_COPY_UP_H

#include "upper/nodes.h"

enum um_upper_need {
    UM_UPPER_NEED_NAME,  /* its name or attributes change */
    UM_UPPER_NEED_EMPTY, /* its data is thrown away: the file is empty afterwards */
    UM_UPPER_NEED_DATA,  /* its data changes */
};

/* [w] Let a node be in the upper, as far as that is needed. A directory never needs -EAGAIN. */
int um_upper_node_copy_up(struct um_upper *upper, struct um_upper_node *node,
                          enum um_upper_need need);

/* [w] To be called before a file of the upper moves or gets another name. Where its data is still that of a
 * lower file, and its mark finds that by the name it has now, as the kernel's overlayfs writes it, the mark
 * gets the path of the data instead. -EAGAIN where that is too long, or may not be written: the data is
 * copied first. */
int um_upper_node_fix_data_path(struct um_upper *upper, struct um_upper_node *node);

#endif
