/*
 * system/spool.h - bytes that are written once and read again later.
 *
 * Purpose: hold data that is too large for memory, such as the extended attributes of a layer, of
 * which a tar may have gigabytes. Bytes beyond UM_SPOOL_MEMORY go to a file. Without a file
 * everything stays in memory and is counted.
 *
 * Errors: those of base/budget.h, of pwrite(2) and of pread(2).
 * Ownership: a spool owns its memory. The caller owns the file, and writes nothing to it.
 * Threads: one at a time.
 */
#ifndef UM_SPOOL_H
#define UM_SPOOL_H

#include "base/budget.h"

#define UM_SPOOL_MEMORY ((size_t)1 << 20)

struct um_spool {
    int fd; /* -1: there is none */
    uint8_t *bytes; /* those that are not in the file yet */
    size_t n, capacity;
    uint64_t written; /* bytes of the file */
};

static inline uint64_t um_spool_size(const struct um_spool *spool)
{
    return spool->written + spool->n;
}

int um_spool_append(struct um_spool *spool, struct um_budget *budget, struct um_slice bytes);

/* Read [offset, offset + size), which has to be appended before. */
int um_spool_read(const struct um_spool *spool, uint64_t offset, void *buffer, size_t size);

/* Compare the bytes at `offset` with these: 1 where they are equal, 0 where not, or an errno. */
int um_spool_equal(const struct um_spool *spool, uint64_t offset, struct um_slice bytes);

void um_spool_free(struct um_spool *spool);

#endif
