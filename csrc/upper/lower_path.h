/*
 * upper/lower_path.h - paths in the lower tree, as redirects and metacopies say them.
 *
 * Purpose: an absolute path from the root of the lower tree, written from the end of the caller's room.
 */
#ifndef UM_UPPER_LOWER_PATH_H
#define UM_UPPER_LOWER_PATH_H

#include "upper/nodes.h"

#define UM_UPPER_REDIRECT_ROOM 1024u /* every file system has room for an xattr of that size */

/* [-] The path of a directory: *path points into `room`, and ends where that ends. -EXDEV where it is too
 * long. */
int um_upper_lower_directory_path(struct um_upper *upper, uint64_t number, char *room, size_t size,
                                  const char **path);

/* [-] The path of `name` in a directory; NULL where it is too long for a mark. */
const char *um_upper_lower_file_path(struct um_upper *upper, uint64_t directory,
                                     struct um_slice name, char room[UM_UPPER_REDIRECT_ROOM]);

/* [r] The path of the lower file that a node stands for, where its place leads to that; NULL where it does
 * not, or where the path is too long for a mark. */
const char *um_upper_node_lower_path(struct um_upper *upper, const struct um_upper_node *node,
                                     char room[UM_UPPER_REDIRECT_ROOM]);

#endif
