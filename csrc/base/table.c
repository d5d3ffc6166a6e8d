#include "base/table.h"

#define FEWEST_SLOTS 64u
#define SHRINKS_ABOVE 1024u /* slots: a small table is not worth the work */

/* The number of slots of which `n` are at most half; 0 where there is no such number. */
static size_t slots_for(size_t n, size_t n_slots)
{
    size_t grown = n_slots != 0 ? n_slots : FEWEST_SLOTS;
    while (grown / 2 < n) {
        if (grown > SIZE_MAX / 2)
            return 0;
        grown *= 2;
    }
    return grown;
}

/* Zeroed slots, counted; NULL with *error. */
static void *new_slots(struct um_budget *budget, size_t n_slots, size_t width, int *error)
{
    if (n_slots == 0 || n_slots > SIZE_MAX / width) {
        *error = -ENOMEM;
        return NULL;
    }
    *error = budget != NULL ? um_budget_take(budget, n_slots * width) : 0;
    if (*error != 0)
        return NULL;
    void *slots = calloc(n_slots, width);
    if (slots == NULL) {
        *error = -ENOMEM;
        if (budget != NULL)
            um_budget_give(budget, n_slots * width);
    }
    return slots;
}

static void free_slots(struct um_budget *budget, void *slots, size_t n_slots, size_t width)
{
    free(slots);
    if (budget != NULL)
        um_budget_give(budget, n_slots * width);
}

/* ---- entries by key ---------------------------------------------------------------------------------- */

static int resize(struct um_table *table, size_t width, size_t n_slots)
{
    int error;
    struct um_table old = *table;
    void *slots = new_slots(table->budget, n_slots, width, &error);
    if (slots == NULL)
        return error;
    *table = (struct um_table){.slots = slots, .n_slots = n_slots, .budget = old.budget};
    for (const void *entry = NULL; (entry = um_table_next(&old, width, entry)) != NULL;)
        memcpy(um_table_add(table, width, um_table_key(entry)), entry, width);
    free_slots(old.budget, old.slots, old.n_slots, width);
    return 0;
}

int um_table_grow(struct um_table *table, size_t width, size_t more)
{
    size_t n;
    if (__builtin_add_overflow(table->n, more, &n))
        return -ENOMEM;
    return resize(table, width, slots_for(n, table->n_slots));
}

void um_table_remove(struct um_table *table, size_t width, void *entry)
{
    size_t mask = table->n_slots - 1;
    size_t hole = (size_t)((uint8_t *)entry - (uint8_t *)table->slots) / width;
    /* Entries behind it that probing would not reach any more move up. */
    for (size_t at = (hole + 1) & mask;; at = (at + 1) & mask) {
        void *slot = um_table_slot(table, width, at);
        if (um_table_key(slot) == 0)
            break;
        size_t home = um_hash_number(um_table_key(slot)) & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            memcpy(um_table_slot(table, width, hole), slot, width);
            hole = at;
        }
    }
    memset(um_table_slot(table, width, hole), 0, width);
    table->n--;
    if (table->n_slots > SHRINKS_ABOVE && table->n < table->n_slots / 8)
        resize(table, width, table->n_slots / 4); /* where that fails it stays large */
}

void um_table_clear(struct um_table *table, size_t width)
{
    free_slots(table->budget, table->slots, table->n_slots, width);
    *table = (struct um_table){.budget = table->budget};
}

/* ---- records by hash --------------------------------------------------------------------------------- */

int um_numbers_grow(struct um_numbers *table, size_t more)
{
    int error;
    size_t n;
    if (__builtin_add_overflow(table->n, more, &n) || n >= UM_NUMBERS_NONE)
        return -ENOMEM;
    size_t n_slots = slots_for(n, table->n_slots);
    uint32_t *slots = new_slots(table->budget, n_slots, sizeof *slots, &error);
    if (slots == NULL)
        return error;
    um_numbers_clear(table);
    table->slots = slots;
    table->n_slots = n_slots;
    return 1;
}

void um_numbers_clear(struct um_numbers *table)
{
    free_slots(table->budget, table->slots, table->n_slots, sizeof *table->slots);
    *table = (struct um_numbers){.budget = table->budget};
}
