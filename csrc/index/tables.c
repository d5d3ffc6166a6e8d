#include <sys/stat.h>

#include "index/tables.h"

#include "index/indexer.h"

const struct um_build_inode um_implied_directory = {.mode = S_IFDIR | 0755,
                                                    .flags = UM_INODE_IMPLIED};

int um_indexer_check_strings(const struct um_indexer *ix, size_t more, uint64_t header,
                             struct um_fault *fault)
{
    uint64_t have = ix->tables.n_strings + um_spool_size(&ix->tables.values);
    if (um_within(have, more, ix->limits.max_strings))
        return 0;
    return um_refuse(fault, -EFBIG, header, "names and attributes exceed %llu bytes",
                     (unsigned long long)ix->limits.max_strings);
}

int um_indexer_add_string(struct um_indexer *ix, struct um_slice text, uint32_t *offset,
                          uint64_t header, struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    int error = um_indexer_check_strings(ix, text.size, header, fault);
    if (error == 0)
        error = um_budget_reserve(&t->budget, (void **)&t->strings, &t->strings_capacity,
                                  t->n_strings + text.size, 1);
    if (error != 0)
        return error;
    if (text.size != 0)
        memcpy(t->strings + t->n_strings, text.data, text.size);
    *offset = (uint32_t)t->n_strings;
    t->n_strings += text.size;
    return 0;
}

static uint32_t hash_name(const struct um_indexer *ix, uint32_t parent, struct um_slice text)
{
    return (uint32_t)um_hash_keyed(&ix->key, parent, text);
}

/* The slot that holds the name, or the empty one where it belongs. */
static uint32_t *find_slot(const struct um_indexer *ix, uint32_t parent, struct um_slice text,
                           uint32_t hash)
{
    size_t mask = ix->n_slots - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &ix->slots[at];
        if (*slot == 0)
            return slot;
        const struct um_name *name = &ix->tables.names[*slot - 1];
        if (name->hash == hash && name->parent == parent &&
            um_slice_equal(um_tables_text(&ix->tables, name), text))
            return slot;
    }
}

uint32_t um_indexer_find_name(const struct um_indexer *ix, uint32_t parent, struct um_slice text)
{
    return *find_slot(ix, parent, text, hash_name(ix, parent, text)) - 1; /* 0 - 1 is UM_NONE */
}

int um_indexer_grow_slots(struct um_indexer *ix)
{
    size_t grown = ix->n_slots ? ix->n_slots * 2 : 1024;
    int error = um_budget_take(&ix->tables.budget, grown * sizeof *ix->slots);
    if (error != 0)
        return error;
    uint32_t *slots = calloc(grown, sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    for (size_t old = 0; old < ix->n_slots; old++) {
        if (ix->slots[old] == 0)
            continue;
        size_t at = ix->tables.names[ix->slots[old] - 1].hash & (grown - 1);
        while (slots[at] != 0)
            at = (at + 1) & (grown - 1);
        slots[at] = ix->slots[old];
    }
    free(ix->slots);
    um_budget_give(&ix->tables.budget, ix->n_slots * sizeof *slots);
    ix->slots = slots;
    ix->n_slots = grown;
    return 0;
}

int um_indexer_new_name(struct um_indexer *ix, struct um_name name, uint32_t *number,
                        uint64_t header, struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    if (t->n_names >= ix->limits.max_entries)
        return um_refuse(fault, -E2BIG, header, "more than %llu names",
                         (unsigned long long)ix->limits.max_entries);
    int error = um_budget_take(&t->budget, UM_FINISH_NAME);
    if (error == 0)
        error = um_budget_reserve(&t->budget, (void **)&t->names, &t->names_capacity,
                                  t->n_names + 1, sizeof *t->names);
    if (error != 0)
        return error;
    *number = (uint32_t)t->n_names;
    t->names[t->n_names++] = name;
    return 0;
}

int um_indexer_new_inode(struct um_indexer *ix, const struct um_build_inode *inode,
                         uint32_t *number, uint64_t header, struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    if (t->n_inodes >= ix->limits.max_entries)
        return um_refuse(fault, -E2BIG, header, "more than %llu entries",
                         (unsigned long long)ix->limits.max_entries);
    int error = um_budget_take(&t->budget, UM_FINISH_INODE);
    if (error == 0)
        error = um_budget_reserve(&t->budget, (void **)&t->inodes, &t->inodes_capacity,
                                  t->n_inodes + 1, sizeof *t->inodes);
    if (error != 0)
        return error;
    *number = (uint32_t)t->n_inodes;
    t->inodes[t->n_inodes] = *inode;
    t->inodes[t->n_inodes++].final = UM_NONE;
    return 0;
}

/* The name `text` in `parent`, made (standing for nothing yet) where it is new. */
int um_indexer_intern_name(struct um_indexer *ix, uint32_t parent, struct um_slice text,
                           uint32_t *number, uint64_t header, struct um_fault *fault)
{
    uint32_t hash = hash_name(ix, parent, text);
    uint32_t *slot = find_slot(ix, parent, text, hash);
    if (*slot != 0) {
        *number = *slot - 1;
        return 0;
    }
    struct um_name name = {
        .parent = parent, .inode = UM_NONE, .hash = hash, .text_size = (uint16_t)text.size};
    int error = um_indexer_add_string(ix, text, &name.text, header, fault);
    if (error == 0)
        error = um_indexer_new_name(ix, name, number, header, fault);
    if (error != 0)
        return error;
    *slot = *number + 1;
    return ix->tables.n_names * 2 > ix->n_slots ? um_indexer_grow_slots(ix) : 0;
}

/* The inode that a name in a directory which is there stands for; UM_NONE where it is none. */
uint32_t um_tables_inode_of(const struct um_tables *t, uint32_t number)
{
    const struct um_name *name = &t->names[number];
    return name->born == t->names[name->parent].epoch ? name->inode : UM_NONE;
}

bool um_tables_is_directory(const struct um_tables *t, uint32_t number)
{
    uint32_t inode = um_tables_inode_of(t, number);
    return inode != UM_NONE && S_ISDIR(t->inodes[inode].mode);
}

/* Let the name stand for another inode; what was in it, if it was a directory, is lost. */
void um_tables_bind(struct um_tables *t, uint32_t number, uint32_t inode)
{
    struct um_name *name = &t->names[number];
    name->inode = inode;
    name->born = t->names[name->parent].epoch;
    name->epoch++;
}
