/*
 * upper/shown_names.h - the names under which the mount shows a file of the lower layers, and their number.
 *
 * Purpose: the lower tree knows all names of a file. The mount shows each of them unless something in the
 * upper hides it, and shows it elsewhere where a directory above it was renamed.
 */
#ifndef UM_UPPER_SHOWN_NAMES_H
#define UM_UPPER_SHOWN_NAMES_H

#include "upper/nodes.h"

struct um_upper_shown_name {
    struct um_upper_node *directory; /* pinned */
    const char *name;                /* lives as long as the tree */
    size_t name_size;
};

/* [w] The names of a lower file that is not in the upper. The caller frees them with
 * um_upper_shown_names_free, also after an error. */
int um_upper_shown_names(struct um_upper *upper, uint64_t number,
                         struct um_upper_shown_name **names, size_t *n);
void um_upper_shown_names_free(struct um_upper *upper, struct um_upper_shown_name **names,
                               size_t *n);

/* [r] 1 where `name` shows the lower file `number`, which the upper neither hides nor has; 0; or an errno. */
int um_upper_shows_lower(struct um_upper *upper, struct um_upper_node *directory,
                         struct um_slice name, uint64_t number);

/* [w] Let nlink of a file that is not in the upper be the number of names that the mount shows, at least 1.
 * Cheap where nlink is 1, or while no names changed since the last time. */
int um_upper_count_links(struct um_upper *upper, struct um_attr *attr);

/* [w] To be called after a name of a lower file ceased to be shown, or was moved, and before the upper is
 * closed: forgets the counts. */
void um_upper_shown_names_changed(struct um_upper *upper);

#endif
