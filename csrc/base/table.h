/*
 * base/table.h - hash tables: one whose entries have a number as their key, one that finds records.
 *
 * Purpose: both kinds of hash table that the core needs, with their growth and removal in one place. They
 * are open-addressed with linear probing, and at most half of their slots are in use, so that looking
 * something up reads one cache line in nearly all cases. Lookups are inline and call nothing.
 *
 *   struct um_table    entries are structs of the caller, each beginning with its key, a uint64_t that is
 *                      not 0. For keys that nobody outside chooses: numbers of nodes, of requests.
 *   struct um_numbers  slots hold numbers of records, which the caller keeps in an array and compares by
 *                      whatever they are known by. Four bytes a slot. For keys that a layer chooses, with
 *                      the hash of base/keyed_hash.h. Nothing is removed.
 *
 * What is not one of these, and why: descriptors that are kept open (system/fd_cache.c) are so few that
 * reading them in a row is faster than hashing; link counts of the upper (upper/shown_names.c) may be
 * forgotten at any time, so that one slot for each hash is enough.
 *
 * Errors: -ENOMEM, or -ENOBUFS where the memory is counted and the limit is reached (base/budget.h). A
 * table that could not grow is as it was before.
 * Ownership: a table owns its slots, and nothing that is in them. All zeros is an empty table. What a
 * function returns points into the table, and is valid until the next reserve or remove.
 * Threads: one writer, or any number of readers; locks are the caller's.
 */
#ifndef UM_TABLE_H
#define UM_TABLE_H

#include "base/base.h"
#include "base/budget.h"

/* ---- entries by key ---------------------------------------------------------------------------------- */

struct um_table {
    void *slots;              /* n_slots structs of the caller; a key of 0 is an empty slot */
    size_t n_slots;           /* a power of two, or 0 */
    size_t n;                 /* entries */
    struct um_budget *budget; /* where the slots are counted; NULL: nowhere. Borrowed */
};

/* `width` is, in all functions, the size of the struct that the table holds: a constant for the compiler. */

/* The slot of number `at`, and its key. For loops over a table, and for the functions below. */
static inline void *um_table_slot(const struct um_table *table, size_t width, size_t at)
{
    return (uint8_t *)table->slots + at * width;
}

static inline uint64_t um_table_key(const void *slot)
{
    return *(const uint64_t *)slot;
}

/* The entry of a key, or NULL. */
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

/* Let there be room for `more` new entries. 0, -ENOMEM or -ENOBUFS. */
int um_table_grow(struct um_table *table, size_t width, size_t more);
static inline int um_table_reserve(struct um_table *table, size_t width, size_t more)
{
    return more <= table->n_slots / 2 - table->n ? 0 : um_table_grow(table, width, more);
}

/* The entry of a key that is not 0. A new one is zeros behind its key, and room for it was reserved. */
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

/* Remove an entry. A table that has become much too large shrinks. */
void um_table_remove(struct um_table *table, size_t width, void *entry);

/* The entry behind `entry` in no order, the first one behind NULL; NULL behind the last one. */
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

/* Free the slots: the table is empty afterwards. */
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

/* How a record is looked for: begin at um_numbers_home of its hash, and compare the record whose number is
 * um_numbers_at of a place, going on with um_numbers_behind, until one fits or there is UM_NUMBERS_NONE.
 * There the record may be put, if room was reserved. */
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

/* Put a record that is known to be new. */
static inline void um_numbers_add(struct um_numbers *table, uint64_t hash, uint32_t number)
{
    size_t at = um_numbers_home(table, hash);
    while (table->slots[at] != 0)
        at = um_numbers_behind(table, at);
    um_numbers_put(table, at, number);
}

/* Let there be room for `more` records, at least one: 0, or 1 where the table has grown and is empty now, as
 * only the caller knows hashes. All records have to be added again then. Or -ENOMEM, -ENOBUFS. */
int um_numbers_grow(struct um_numbers *table, size_t more);
static inline int um_numbers_reserve(struct um_numbers *table, size_t more)
{
    return more <= table->n_slots / 2 - table->n ? 0 : um_numbers_grow(table, more);
}

/* Free the slots: the table is empty afterwards. */
void um_numbers_clear(struct um_numbers *table);

#endif
