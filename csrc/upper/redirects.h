/*
 * upper/redirects.h - directories that were renamed: which of them continues a lower directory.
 *
 * Purpose: the redirects of an upper are on its directories; the other way, from a lower directory to the one
 * that shows it, needs all of them. They are found by one scan, when the first is asked for, and kept until
 * one changes.
 */
#ifndef UM_UPPER_REDIRECTS_H
#define UM_UPPER_REDIRECTS_H

#include "upper/nodes.h"

/* [w] The node of the directory that continues `lower` because it was renamed, pinned; -ENOENT. */
int um_upper_find_redirected(struct um_upper *upper, uint64_t lower, struct um_upper_node **out);

/* [w] The node of the subdirectory `name` of a directory, pinned; the directory is unpinned in any case.
 * -ENOENT where the mount shows no directory there. */
int um_upper_enter_directory(struct um_upper *upper, struct um_upper_node *directory,
                             struct um_slice name, struct um_upper_node **out);

/* [w] To be called after a redirect was made or moved, and before the upper is closed: forgets them. */
void um_upper_redirects_changed(struct um_upper *upper);

#endif
