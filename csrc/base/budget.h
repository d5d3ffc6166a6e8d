/*
 * base/budget.h - memory that is counted against a limit.
 *
 * Purpose: tables that grow with what an attacker wrote (the entries of a tar, the bytes of their
 * attributes) end with an error, not with the memory of the machine. What is counted is what was
 * asked of malloc, also where it was never touched.
 *
 * Errors: -ENOBUFS, the limit is reached; -ENOMEM, the machine has no more.
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

/* As um_reserve, counted. Where doubling would go beyond the limit the rest of it is shared out, so that
 * the limit is reached by what is needed and not by what was rounded up. */
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
