/*
 * upper/publish.h - copies get their names in the upper.
 *
 * Purpose: a copy appears by one rename, or, where the mount shows several names of the file, as a group of
 * hard links: all or none, also after a crash (upper/recover.c). The times of directories in which it appears
 * stay.
 */
#ifndef UM_UPPER_PUBLISH_H
#define UM_UPPER_PUBLISH_H

#include "upper/copy.h"
#include "upper/shown_names.h"

/* [w] Let a copy be what its node has in the upper, under all names that the mount shows; without a name
 * where there is none. The caller discards what is left of the copy. */
int um_upper_copy_publish(struct um_upper *upper, struct um_upper_node *node,
                          struct um_upper_copy *copy);

/* [w] Let a directory have its part in the upper, and all above it, the outermost first. */
int um_upper_copy_up_directory(struct um_upper *upper, struct um_upper_node *directory);

/* [w] Make all these names links to what stands at (fd, entry), or none: *linked says how many are, which is
 * not 0 after an error only where they could not be removed again. */
int um_upper_link_names(struct um_upper *upper, int fd, const char *entry,
                        const struct um_upper_shown_name *names, size_t n, size_t *linked);

#endif
