/*
 * upper/file.h - open files, for the other files of the upper.
 */
#ifndef UM_UPPER_FILE_H
#define UM_UPPER_FILE_H

#include "upper/nodes.h"

/* [w] Close the descriptor of a file that is not open, where its place leads to it again; then as
 * um_upper_node_demote. */
void um_upper_node_close_unused(struct um_upper *upper, struct um_upper_node *node);

/* [w] Keep the descriptor of a file that was just made, which is open for reading and writing and is taken over,
 * since nearly every program writes to what it makes. It is closed when the file was opened and closed again, or
 * UM_UPPER_KEPT others were made since. */
void um_upper_node_keep(struct um_upper *upper, struct um_upper_node *node, int fd);

#endif
