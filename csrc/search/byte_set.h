/*
 * search/byte_set.h - a set of bytes, as terms and steps of an automaton have it.
 */
#ifndef UM_SEARCH_BYTE_SET_H
#define UM_SEARCH_BYTE_SET_H

#include "base/base.h"

struct um_byte_set {
    uint64_t bits[4];
};

static inline bool um_byte_set_has(const struct um_byte_set *set, uint8_t byte)
{
    return set->bits[byte / 64] >> byte % 64 & 1;
}

#endif
