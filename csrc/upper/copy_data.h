/*
 * upper/copy_data.h - the data of a file of the lower tree -> an empty file.
 *
 * Purpose: copy what is data and leave what is a hole, as cheaply as the file systems allow:
 * sharing blocks, else in the kernel, else by reading and writing. It knows nothing of the upper.
 * Ownership: nothing; descriptors are borrowed.
 * Threads: pure but for the files; may take long.
 */
#ifndef UM_COPY_DATA_H
#define UM_COPY_DATA_H

#include "tree/tree.h"

/* Copy all `size` bytes of a regular file into the file `to`, which is empty and open for writing.
 * -EIO where the layer has less than it promised; -ENOSPC, -EDQUOT, -EFBIG, … of `to`; -EINTR where the
 * patience was over before the end. */
int um_upper_copy_data(struct um_tree *tree, uint64_t node, uint64_t size, int to,
                       const struct um_patience *patience);

#endif
