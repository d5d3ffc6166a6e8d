/*
 * system/write_at.h - write all bytes to a place in a file.
 *
 * Ownership: borrows the descriptor. Threads: any.
 */
#ifndef UM_WRITE_AT_H
#define UM_WRITE_AT_H

#include "base/base.h"

/* Write all `size` bytes at `offset`: pwrite(2) alone may write fewer or be interrupted. 0 or an
 * errno; -EIO where the file system accepts none and gives no reason. After an error some bytes
 * may be written. */
int um_write_at(int fd, uint64_t offset, const void *data, size_t size);

#endif
