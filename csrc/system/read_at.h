/*
 * system/read_at.h - read from a place in a file, with or without waiting for the disk.
 *
 * Threads: any.
 */
#ifndef UM_READ_AT_H
#define UM_READ_AT_H

#include <sys/uio.h>

#include "base/base.h"

/* Read up to `size` bytes at `offset`: return how many there are before the end of the file, or a
 * negative errno. With `nowait` it is -EAGAIN where some of them are not in memory (preadv2(2),
 * RWF_NOWAIT), and where the file system cannot tell: FUSE and NFS may wait for a server. */
int64_t um_read_at(int fd, uint64_t offset, void *buffer, size_t size, bool nowait);

/* Read all `size` bytes at `offset`, waiting for them: 0, an errno, or `missing` where the file
 * ends earlier. */
int um_read_all_at(int fd, uint64_t offset, void *buffer, size_t size, int missing);

/* Read bytes that follow each other in a file into several buffers, `n` of at most IOV_MAX, waiting
 * for them: 0, an errno, or -EIO where the file ends earlier. The contents of `buffers` change. */
int um_read_vector_at(int fd, uint64_t offset, struct iovec *buffers, size_t n);

#endif
