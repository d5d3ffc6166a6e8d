/*
 * system/read_at.h - bytes of a file, with or without waiting for them.
 *
 * Threads: any.
 */
#ifndef UM_READ_AT_H
#define UM_READ_AT_H

#include "base/base.h"

/* Up to `size` bytes from `offset` on: how many there are before the end of the file, or a negative
 * errno. With `nowait` it is -EAGAIN where not all of them are in memory (preadv2(2), RWF_NOWAIT), and
 * where the file system can't tell, as FUSE and NFS can't: it may wait for a server. */
int64_t um_read_at(int fd, uint64_t offset, void *buffer, size_t size, bool nowait);

/* All `size` bytes from `offset` on, waiting for them: 0, an errno, or `missing` where the file ends before. */
int um_read_all_at(int fd, uint64_t offset, void *buffer, size_t size, int missing);

#endif
