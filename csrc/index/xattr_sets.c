#include "index/indexer.h"
#include "system/posix_acl.h"

#define MAX_XATTR_LIST 65536u /* bytes that listxattr(2) can return */
#define MAX_XATTR_VALUE 65536u
#define MAX_XATTR_NAME 255u
/* At most this many sets are shared by later entries. Layers have few; where one has more, the
 * further sets are stored once for each entry. */
#define MOST_SETS 32768u

static int check_xattr(const struct um_tar_xattr *xattr, uint64_t header, struct um_fault *fault)
{
    if (xattr->name.size == 0 || xattr->name.size > MAX_XATTR_NAME)
        return um_refuse(fault, -EBADMSG, header, "an xattr name of %zu bytes", xattr->name.size);
    if (memchr(xattr->name.data, 0, xattr->name.size) != NULL)
        return um_refuse(fault, -EBADMSG, header, "an xattr name with a NUL byte");
    if (xattr->value.size > MAX_XATTR_VALUE)
        return um_refuse(fault, -EBADMSG, header, "an xattr value of %zu bytes (at most 65536)",
                         xattr->value.size);
    return 0;
}

static uint64_t hash_set(const struct um_indexer *ix, const struct um_tar_entry *entry)
{
    uint64_t hash = entry->n_xattrs;
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        hash = um_hash_keyed(&ix->key, hash, entry->xattrs[i].name);
        hash = um_hash_keyed(&ix->key, hash, entry->xattrs[i].value);
    }
    return hash != 0 ? hash : 1;
}

/* Compare the set that begins with record `first` with the entry's: 1 where they are equal, 0
 * where not, or an errno. */
static int same_set(const struct um_indexer_tables *t, size_t first,
                    const struct um_tar_entry *entry)
{
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        const struct um_indexer_xattr *have = &t->xattrs[first + i];
        const struct um_tar_xattr *xattr = &entry->xattrs[i];
        if (have->name_size != xattr->name.size || have->value_size != xattr->value.size ||
            have->last != (i + 1 == entry->n_xattrs))
            return 0;
        int same = um_spool_equal(&t->values, have->at, xattr->name);
        if (same == 1)
            same = um_spool_equal(&t->values, (uint64_t)have->at + have->name_size, xattr->value);
        if (same != 1)
            return same;
    }
    return 1;
}

/* Append the entry's xattrs as a new set. */
static int append_set(struct um_indexer *ix, const struct um_tar_entry *entry,
                      struct um_fault *fault)
{
    struct um_indexer_tables *t = &ix->tables;
    if (t->n_xattrs + entry->n_xattrs >= UM_NONE)
        return um_refuse(fault, -E2BIG, entry->header, "too many xattrs");
    size_t list = 0;
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        const struct um_tar_xattr *xattr = &entry->xattrs[i];
        struct um_indexer_xattr record = {.at = (uint32_t)um_spool_size(&t->values),
                                          .value_size = (uint32_t)xattr->value.size,
                                          .name_size = (uint16_t)xattr->name.size,
                                          .last = i + 1 == entry->n_xattrs};
        int error = check_xattr(xattr, entry->header, fault);
        list += xattr->name.size + 1;
        if (error == 0 && list > MAX_XATTR_LIST)
            error = um_refuse(fault, -EBADMSG, entry->header,
                              "xattr names of more than 65536 bytes together");
        if (error == 0)
            error = um_indexer_check_strings(ix, xattr->name.size + xattr->value.size,
                                             entry->header, fault);
        if (error == 0)
            error = um_spool_append(&t->values, &t->budget, xattr->name);
        if (error == 0)
            error = um_spool_append(&t->values, &t->budget, xattr->value);
        if (error == 0)
            error = um_budget_reserve(&t->budget, (void **)&t->xattrs, &t->xattrs_capacity,
                                      t->n_xattrs + 1, sizeof *t->xattrs);
        if (error != 0)
            return error;
        t->xattrs[t->n_xattrs++] = record;
        t->n_acls += um_acl_is_name(xattr->name);
    }
    return 0;
}

static int keep_set(struct um_indexer *ix, uint64_t hash, uint32_t first)
{
    int error = um_table_reserve(&ix->sets, sizeof(struct um_indexer_xattr_set), 1);
    if (error != 0)
        return error;
    struct um_indexer_xattr_set *set = um_table_add(&ix->sets, sizeof *set, hash);
    set->first = first;
    return 0;
}

/* Return the set of the entry's xattrs, shared with earlier entries that have the same. */
int um_indexer_intern_xattrs(struct um_indexer *ix, const struct um_tar_entry *entry, uint32_t *set,
                             struct um_fault *fault)
{
    *set = 0;
    if (entry->n_xattrs == 0)
        return 0;
    uint64_t hash = hash_set(ix, entry);
    const struct um_indexer_xattr_set *known = um_table_find(&ix->sets, sizeof *known, hash);
    int same = known != NULL ? same_set(&ix->tables, known->first - 1, entry) : 0;
    if (same > 0)
        *set = known->first;
    if (same != 0)
        return same < 0 ? same : 0;
    *set = (uint32_t)ix->tables.n_xattrs + 1;
    int error = append_set(ix, entry, fault);
    if (error == 0 && known == NULL && ix->sets.n < MOST_SETS)
        error = keep_set(ix, hash, *set);
    return error;
}
