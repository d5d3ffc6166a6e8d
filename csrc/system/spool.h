/*
 * system/spool.h - bytes that are written once, and read again later.
 *
 * Purpose: hold what is too much for memory: the extended attributes of a layer, of which a tar may
 * bring gigabytes. What is beyond UM_SPOOL_MEMORY goes to a file; without one everything is in memory,
 * and counted.
 *
 * Errors: those of base/budget.h, of pwrite(2) and of pread(2).
 * Ownership: a spool owns its memory; the file is the caller's, and the spool's to write to.
 * Threads: one at a time.
 */
#ifndef UM_SPOOL_H
#define UM_SPOOL_H

#include "base/budget.h"

#define UM_SPOOL_MEMORY ((size_t)1 << 20)

struct um_spool {
    int fd; /* -1: there is none */
    uint8_t *bytes; /* what is not in the file yet */
    size_t n, capacity;
    uint64_t written; /* bytes of the file */
};

static inline uint64_t um_spool_size(const struct um_spool *spool)
{
    return spool->written + spool->n;
}

int um_spool_append(struct um_spool *spool, struct um_budget *budget, struct um_slice bytes);

/* Read [offset, offset + size), which must have been appended. */
int um_spool_read(const struct um_spool *spool, uint64_t offset, void *buffer, size_t size);

/* 1 where the bytes at `offset` are these, 0 where not, or an errno. */
int um_spool_equal(const struct um_spool *spool, uint64_t offset, struct um_slice bytes);

void um_spool_free(struct um_spool *spool);

#endif
