#include <sys/stat.h>

#include "index/tables.h"

#include "index/indexer.h"

const struct um_indexer_inode um_indexer_implied_directory = {.mode = S_IFDIR | 0755,
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
    struct um_indexer_tables *t = &ix->tables;
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

/* Return the place of the name in the table, or the empty one where it belongs. */
static size_t find_place(const struct um_indexer *ix, uint32_t parent, struct um_slice text,
                         uint32_t hash)
{
    size_t at = um_numbers_home(&ix->by_text, hash);
    for (uint32_t number; (number = um_numbers_at(&ix->by_text, at)) != UM_NUMBERS_NONE;
         at = um_numbers_behind(&ix->by_text, at)) {
        const struct um_indexer_name *name = &ix->tables.names[number];
        if (name->hash == hash && name->parent == parent &&
            um_slice_equal(um_indexer_text_of(&ix->tables, name), text))
            break;
    }
    return at;
}

uint32_t um_indexer_find_name(const struct um_indexer *ix, uint32_t parent, struct um_slice text)
{
    uint32_t hash = hash_name(ix, parent, text);
    return um_numbers_at(&ix->by_text, find_place(ix, parent, text, hash));
}

/* Enter the last name, whose place is `at`, into the table, and reserve room for another one. */
static int keep_place(struct um_indexer *ix, size_t at)
{
    const struct um_indexer_tables *t = &ix->tables;
    um_numbers_put(&ix->by_text, at, (uint32_t)t->n_names - 1);
    int grown = um_numbers_reserve(&ix->by_text, 1);
    for (uint32_t i = 1; grown > 0 && i < t->n_names; i++)
        um_numbers_add(&ix->by_text, t->names[i].hash, i);
    return grown < 0 ? grown : 0;
}

int um_indexer_new_name(struct um_indexer *ix, struct um_indexer_name name, uint32_t *number,
                        uint64_t header, struct um_fault *fault)
{
    struct um_indexer_tables *t = &ix->tables;
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

int um_indexer_new_inode(struct um_indexer *ix, const struct um_indexer_inode *inode,
                         uint32_t *number, uint64_t header, struct um_fault *fault)
{
    struct um_indexer_tables *t = &ix->tables;
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

/* Return the name `text` in `parent`, creating it (with no inode yet) where it is new. */
int um_indexer_intern_name(struct um_indexer *ix, uint32_t parent, struct um_slice text,
                           uint32_t *number, uint64_t header, struct um_fault *fault)
{
    uint32_t hash = hash_name(ix, parent, text);
    size_t at = find_place(ix, parent, text, hash);
    *number = um_numbers_at(&ix->by_text, at);
    if (*number != UM_NUMBERS_NONE)
        return 0;
    struct um_indexer_name name = {
        .parent = parent, .inode = UM_NONE, .hash = hash, .text_size = (uint16_t)text.size};
    int error = um_indexer_add_string(ix, text, &name.text, header, fault);
    if (error == 0)
        error = um_indexer_new_name(ix, name, number, header, fault);
    return error ? error : keep_place(ix, at);
}

/* Return the inode of a name in a directory that exists; UM_NONE where it has none. */
uint32_t um_indexer_inode_of(const struct um_indexer_tables *t, uint32_t number)
{
    const struct um_indexer_name *name = &t->names[number];
    return name->born == t->names[name->parent].epoch ? name->inode : UM_NONE;
}

bool um_indexer_is_directory(const struct um_indexer_tables *t, uint32_t number)
{
    uint32_t inode = um_indexer_inode_of(t, number);
    return inode != UM_NONE && S_ISDIR(t->inodes[inode].mode);
}

/* Bind the name to another inode. If it was a directory, its content is lost. */
void um_indexer_bind(struct um_indexer_tables *t, uint32_t number, uint32_t inode)
{
    struct um_indexer_name *name = &t->names[number];
    name->inode = inode;
    name->born = t->names[name->parent].epoch;
    name->epoch++;
}
