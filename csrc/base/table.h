/*
 * base/table.h - the hash tables of the core.
 *
 * Purpose: there are two kinds, and growth and removal stand here once. Both are open-addressed
 * with linear probing, and at most half of their slots are used, so that nearly every lookup reads
 * one cache line. Lookups are inline and call nothing.
 *
 *   struct um_table    holds structs of the caller, each beginning with its key, a uint64_t that is not 0.
 *                      It is for keys that no attacker chooses: numbers of nodes and requests.
 *   struct um_numbers  holds numbers of records, which the caller keeps in an array and compares by
 *                      whatever identifies them. A slot takes four bytes, and nothing can be removed. It is
 *                      for keys that come from a layer, hashed with base/keyed_hash.h.
 *
 * Two tables are neither, for a reason: system/fd_cache.c keeps so few descriptors that scanning
 * them is faster than hashing; the upper's link counts (upper/shown_names.c) may be forgotten at
 * any time, so that one slot for each hash is enough.
 *
 * Errors: -ENOMEM, or -ENOBUFS where the memory is counted and the limit is reached
 * (base/budget.h). A table that could not grow stays as it was.
 * Ownership: a table owns its slots, and nothing that they point to. A table of zeros is empty.
 * Pointers that a function returns point into the table, and are valid until the next reserve or
 * remove.
 * Threads: one writer, or any number of readers; the caller does the locking.
 */
#ifndef UM_TABLE_H
#define UM_TABLE_H

#include "base/base.h"
#include "base/budget.h"

/* ---- entries by key ---------------------------------------------------------------------------------- */

struct um_table {
    void *slots;              /* n_slots structs of the caller; an empty slot has the key 0 */
    size_t n_slots;           /* a power of two, or 0 */
    size_t n;                 /* entries */
    struct um_budget *budget; /* counts the slots; NULL: they are not counted. Borrowed */
};

/* In all functions `width` is the size of the struct that the table holds, a constant for the
 * compiler. */

/* Return slot number `at`, and the key of a slot. */
static inline void *um_table_slot(const struct um_table *table, size_t width, size_t at)
{
    return (uint8_t *)table->slots + at * width;
}

static inline uint64_t um_table_key(const void *slot)
{
    return *(const uint64_t *)slot;
}

/* Return the entry of a key, or NULL. */
static inline void *um_table_find(const struct um_table *table, size_t width, uint64_t key)
{
    size_t mask = table->n_slots - 1;
    if (table->n_slots == 0)
        return NULL;
    for (size_t at = um_hash_number(key) & mask;; at = (at + 1) & mask) {
        void *slot = um_table_slot(table, width, at);
        uint64_t found = um_table_key(slot);
        if (found == 0)
            return NULL;
        if (found == key)
            return slot;
    }
}

/* Make room for `more` new entries. 0, -ENOMEM or -ENOBUFS. */
int um_table_grow(struct um_table *table, size_t width, size_t more);
static inline int um_table_reserve(struct um_table *table, size_t width, size_t more)
{
    return more <= table->n_slots / 2 - table->n ? 0 : um_table_grow(table, width, more);
}

/* Return the entry of a key that is not 0, adding it where it is missing: with zeros behind its
 * key, in room that was reserved. */
static inline void *um_table_add(struct um_table *table, size_t width, uint64_t key)
{
    size_t mask = table->n_slots - 1;
    for (size_t at = um_hash_number(key) & mask;; at = (at + 1) & mask) {
        uint64_t *slot = um_table_slot(table, width, at);
        if (*slot == 0) {
            *slot = key;
            table->n++;
        }
        if (*slot == key)
            return slot;
    }
}

/* Remove an entry. A table that has become far too large shrinks. */
void um_table_remove(struct um_table *table, size_t width, void *entry);

/* Return the entry after `entry`, in no particular order: the first one for NULL, and NULL at the
 * end. */
static inline void *um_table_next(const struct um_table *table, size_t width, const void *entry)
{
    size_t at = 0;
    if (entry != NULL)
        at = (size_t)((const uint8_t *)entry - (const uint8_t *)table->slots) / width + 1;
    for (; at < table->n_slots; at++) {
        void *slot = um_table_slot(table, width, at);
        if (um_table_key(slot) != 0)
            return slot;
    }
    return NULL;
}

/* Free the slots, which leaves an empty table. */
void um_table_clear(struct um_table *table, size_t width);

/* ---- records by hash --------------------------------------------------------------------------------- */

struct um_numbers {
    uint32_t *slots;          /* 0: empty; else 1 + the number of a record */
    size_t n_slots;           /* a power of two, or 0 */
    size_t n;                 /* numbers in the table */
    struct um_budget *budget; /* as of struct um_table */
};

/* No record; more records than this do not fit. */
#define UM_NUMBERS_NONE UINT32_MAX

/* To find a record, begin at um_numbers_home of its hash and compare the record whose number
 * um_numbers_at returns; go on with um_numbers_behind until one matches or the number is
 * UM_NUMBERS_NONE. A new record may be put there, in room that was reserved. */
static inline size_t um_numbers_home(const struct um_numbers *table, uint64_t hash)
{
    return hash & (table->n_slots - 1);
}

static inline uint32_t um_numbers_at(const struct um_numbers *table, size_t at)
{
    return table->slots[at] - 1; /* of an empty slot 0 - 1, which is UM_NUMBERS_NONE */
}

static inline size_t um_numbers_behind(const struct um_numbers *table, size_t at)
{
    return (at + 1) & (table->n_slots - 1);
}

static inline void um_numbers_put(struct um_numbers *table, size_t at, uint32_t number)
{
    table->slots[at] = number + 1;
    table->n++;
}

/* Put a record that is known to be missing. */
static inline void um_numbers_add(struct um_numbers *table, uint64_t hash, uint32_t number)
{
    size_t at = um_numbers_home(table, hash);
    while (table->slots[at] != 0)
        at = um_numbers_behind(table, at);
    um_numbers_put(table, at, number);
}

/* Make room for `more` records, at least one. 0; 1 where the table has grown and is empty now: the
 * caller has to add all records again, because it alone knows their hashes; or -ENOMEM, -ENOBUFS. */
int um_numbers_grow(struct um_numbers *table, size_t more);
static inline int um_numbers_reserve(struct um_numbers *table, size_t more)
{
    return more <= table->n_slots / 2 - table->n ? 0 : um_numbers_grow(table, more);
}

/* Free the slots, which leaves an empty table. */
void um_numbers_clear(struct um_numbers *table);

#endif
