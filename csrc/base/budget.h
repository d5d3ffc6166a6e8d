/*
 * base/budget.h - memory that is counted against a limit.
 *
 * Purpose: a table whose size an attacker chooses (entries of a tar, bytes of their attributes)
 * has to fail with an error before it exhausts the memory of the machine. The budget counts what
 * was requested from malloc, including memory that was never touched.
 *
 * Errors: -ENOBUFS where the limit is reached; -ENOMEM where the machine has no more memory.
 * Ownership: none. Threads: one at a time.
 */
#ifndef UM_BUDGET_H
#define UM_BUDGET_H

#include "base/base.h"

struct um_budget {
    uint64_t limit, used; /* bytes */
};

static inline uint64_t um_budget_left(const struct um_budget *budget)
{
    return budget->limit > budget->used ? budget->limit - budget->used : 0;
}

static inline int um_budget_take(struct um_budget *budget, uint64_t bytes)
{
    if (bytes > um_budget_left(budget))
        return -ENOBUFS;
    budget->used += bytes;
    return 0;
}

static inline void um_budget_give(struct um_budget *budget, uint64_t bytes)
{
    budget->used -= bytes;
}

/* Make room as um_reserve does, and count it. Near the limit the array grows by a quarter of what
 * is left instead of doubling, so that memory which was only reserved in advance does not exhaust
 * the budget. */
static inline int um_budget_reserve(struct um_budget *budget, void **array, size_t *capacity,
                                    size_t need, size_t width)
{
    if (need <= *capacity)
        return 0;
    uint64_t wanted = *capacity ? (uint64_t)*capacity * 2 : 16;
    uint64_t share = *capacity + um_budget_left(budget) / 4 / width;
    if (wanted > share)
        wanted = share;
    if (wanted < need)
        wanted = need;
    if (wanted > SIZE_MAX / width)
        return -ENOMEM;
    int error = um_budget_take(budget, (wanted - *capacity) * width);
    if (error != 0)
        return error;
    void *moved = realloc(*array, (size_t)wanted * width);
    if (moved == NULL) {
        um_budget_give(budget, (wanted - *capacity) * width);
        return -ENOMEM;
    }
    *array = moved;
    *capacity = (size_t)wanted;
    return 0;
}

#endif
