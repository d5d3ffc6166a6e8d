/*
 * upper/file.h - open files, for the other files of the upper.
 */
#ifndef UM_UPPER_FILE_H
#define UM_UPPER_FILE_H

#include "upper/nodes.h"

/* [w] Close the descriptor of a file that is not open, where its place leads to it again; then as
 * um_upper_node_demote. */
void um_upper_node_close_unused(struct um_upper *upper, struct um_upper_node *node);

#endif
