/*
 * upper/copy_data.h - the data of a file of the lower tree -> an empty file.
 *
 * Purpose: copy what is data and leave what is a hole, as cheaply as the file systems allow:
 * sharing blocks, else in the kernel, else by reading and writing. It knows nothing of the upper.
 * Ownership: nothing; descriptors are borrowed.
 * Threads: pure but for the files and the devices in `unshared`, which any threads may use together; may take
 * long.
 */
#ifndef UM_COPY_DATA_H
#define UM_COPY_DATA_H

#include <stdatomic.h>

#include "tree/tree.h"

/* Devices whose files can't share blocks with those of one other device, as was tried; all zero at first.
 * The kernel is not asked again. If there are more of them, the oldest ones are forgotten. */
#define UM_UPPER_UNSHARED 8u

struct um_upper_unshared {
    atomic_ullong devices[UM_UPPER_UNSHARED]; /* st_dev; 0: none */
    atomic_uint next;                         /* the place of the next one, modulo the size */
};

struct um_upper_data_copy {
    struct um_tree *tree;
    struct um_upper_unshared *unshared; /* of the device that is copied to */
    const struct um_patience *patience;
    /* The caller waits for bytes that are written, so even a small file had better share blocks. Otherwise it is
     * read and written at once: then its pages are in memory for the write that usually follows, while those
     * of shared blocks would have to be read. */
    bool waits;
    bool written; /* set: bytes were written; otherwise all data shares blocks */
};

/* Copy all `size` bytes of a regular file into the file `to`, which is empty and open for writing.
 * -EIO where the layer has less than it promised; -ENOSPC, -EDQUOT, -EFBIG, … of `to`; -EINTR where the
 * patience was over before the end. */
int um_upper_copy_data(struct um_upper_data_copy *copy, uint64_t node, uint64_t size, int to);

#endif
