/*
 * upper/list.h - the entries of a directory of the mount, for the other files of the upper.
 */
#ifndef UM_UPPER_LIST_H
#define UM_UPPER_LIST_H

#include "upper/nodes.h"

/* [w] 1 where a directory shows no entry, 0, or an errno. */
int um_upper_is_empty(struct um_upper *upper, struct um_upper_node *directory);

#endif
