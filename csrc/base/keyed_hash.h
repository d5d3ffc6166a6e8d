/*
 * base/keyed_hash.h - a hash that the author of the input cannot predict.
 *
 * Purpose: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) for hash
 * tables whose keys come from a layer. With a known hash, somebody could craft 100 MB of tar whose
 * names all collide, and each lookup would then scan all of them.
 * Ownership and threads: pure functions on memory of the caller. Each table makes its own key.
 */
#ifndef UM_KEYED_HASH_H
#define UM_KEYED_HASH_H

#include <sys/random.h>

#include "base/base.h"

struct um_hash_key {
    uint64_t words[2];
};

/* Make a new random key. 0 or the errno of getrandom(2). */
static inline int um_hash_key_make(struct um_hash_key *key)
{
    ssize_t got;
    do {
        got = getrandom(key, sizeof *key, 0);
    } while (got < 0 && errno == EINTR);
    return got == sizeof *key ? 0 : got < 0 ? -errno : -EIO;
}

static inline uint64_t um_hash_rotate(uint64_t value, unsigned by)
{
    return value << by | value >> (64 - by);
}

static inline void um_hash_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = um_hash_rotate(v[1], 13) ^ v[0];
    v[3] = um_hash_rotate(v[3], 16) ^ v[2];
    v[0] = um_hash_rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = um_hash_rotate(v[1], 17) ^ v[2];
    v[3] = um_hash_rotate(v[3], 21) ^ v[0];
    v[2] = um_hash_rotate(v[2], 32);
}

static inline void um_hash_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    um_hash_round(v);
    v[0] ^= word;
}

/* Hash `first` (8 bytes, little-endian) followed by the bytes of `text`. */
static inline uint64_t um_hash_keyed(const struct um_hash_key *key, uint64_t first,
                                     struct um_slice text)
{
    uint64_t v[4] = {key->words[0] ^ 0x736f6d6570736575ull, key->words[1] ^ 0x646f72616e646f6dull,
                     key->words[0] ^ 0x6c7967656e657261ull, key->words[1] ^ 0x7465646279746573ull};
    um_hash_word(v, first);
    size_t at = 0;
    for (; at + 8 <= text.size; at += 8)
        um_hash_word(v, um_load64(text.data + at));
    uint64_t last = (uint64_t)(text.size + 8) << 56;
    for (unsigned shift = 0; at < text.size; at++, shift += 8)
        last |= (uint64_t)text.data[at] << shift;
    um_hash_word(v, last);
    v[2] ^= 0xff;
    um_hash_round(v);
    um_hash_round(v);
    um_hash_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
