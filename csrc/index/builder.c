#include "index/builder.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/keyed_hash.h"
#include "index/tables.h"
#include "marks/whiteout.h"
#include "system/read_at.h"

#define DEFAULT_MAX_ENTRIES (16ull << 20)
#define DEFAULT_MAX_STRINGS 0xffffffffull
#define MAX_COMPONENT 255u
#define MAX_PATH_BYTES 65535u
#define MAX_TARGET 4095u
#define MAX_LINKS 40u /* symlinks on the way to one name; as the kernel follows (MAXSYMLINKS) */
#define MAX_FOLLOWED 16384u /* bytes of their targets together: so they cost no more than a name */
#define MAX_XATTR_NAME 255u
#define MAX_XATTR_VALUE 65536u
#define MAX_XATTR_LIST 65536u /* bytes that listxattr(2) can return */
#define WINDOW_MAX (256u << 10)
#define WINDOW_AFTER_JUMP (16u << 10)
#define FAR_JUMP (64u << 10)

/* A set of xattrs that was seen. */
struct set {
    uint32_t first; /* its first record + 1; 0 is empty */
    uint32_t hash;
};

/* A path split and clamped; the array grows as needed and is used again for the next path. */
struct path {
    struct um_slice *parts;
    size_t n, capacity;
};

/* Where a path leads through symlinks; used again for the next one. */
struct way {
    struct path pending; /* the parts to come, the next one last */
    struct path walked;
    uint32_t *
        directories; /* the directory before each part of `walked`, or UM_NONE: not in this layer */
    size_t capacity;
    uint32_t at; /* the directory behind them */
    unsigned links; /* followed so far */
    size_t used; /* of: */
    uint8_t *targets; /* of the links: MAX_FOLLOWED bytes */
};

struct um_indexer {
    struct um_tables tables;
    struct um_index_limits limits;
    struct um_tar *tar;
    struct um_hash_key key; /* of the two tables that follow */
    uint32_t *slots; /* open-addressed: name number + 1 by (parent, text); 0 is empty */
    size_t n_slots;
    struct set *sets; /* open-addressed, by content */
    size_t n_sets, sets_capacity;
    struct path path, target;
    struct way way;
    unsigned n_followed; /* how many paths led through symlinks */
    uint8_t *window; /* of um_indexer_scan */
    uint64_t scanned; /* bytes of the tar that scan has passed on or jumped over */
    uint32_t window_size;
};

static const struct um_build_inode implied = {.mode = S_IFDIR | 0755, .flags = UM_INODE_IMPLIED};

/* ---- tables ------------------------------------------------------------------------------- */

static int check_strings(const struct um_indexer *ix, size_t more, uint64_t header,
                         struct um_fault *fault)
{
    uint64_t have = ix->tables.n_strings + um_spool_size(&ix->tables.values);
    if (um_within(have, more, ix->limits.max_strings))
        return 0;
    return um_refuse(fault, -EFBIG, header, "names and attributes exceed %llu bytes",
                     (unsigned long long)ix->limits.max_strings);
}

static int add_string(struct um_indexer *ix, struct um_slice text, uint32_t *offset,
                      uint64_t header, struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    int error = check_strings(ix, text.size, header, fault);
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

static uint32_t find_name(const struct um_indexer *ix, uint32_t parent, struct um_slice text)
{
    return *find_slot(ix, parent, text, hash_name(ix, parent, text)) - 1; /* 0 - 1 is UM_NONE */
}

static int grow_slots(struct um_indexer *ix)
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

static int new_name(struct um_indexer *ix, struct um_name name, uint32_t *number, uint64_t header,
                    struct um_fault *fault)
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

static int new_inode(struct um_indexer *ix, const struct um_build_inode *inode, uint32_t *number,
                     uint64_t header, struct um_fault *fault)
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
static int intern_name(struct um_indexer *ix, uint32_t parent, struct um_slice text,
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
    int error = add_string(ix, text, &name.text, header, fault);
    if (error == 0)
        error = new_name(ix, name, number, header, fault);
    if (error != 0)
        return error;
    *slot = *number + 1;
    return ix->tables.n_names * 2 > ix->n_slots ? grow_slots(ix) : 0;
}

/* The inode that a name in a directory which is there stands for; UM_NONE where it is none. */
static uint32_t inode_of(const struct um_tables *t, uint32_t number)
{
    const struct um_name *name = &t->names[number];
    return name->born == t->names[name->parent].epoch ? name->inode : UM_NONE;
}

static bool names_directory(const struct um_tables *t, uint32_t number)
{
    uint32_t inode = inode_of(t, number);
    return inode != UM_NONE && S_ISDIR(t->inodes[inode].mode);
}

/* Let the name stand for another inode; what was in it, if it was a directory, is lost. */
static void bind_name(struct um_tables *t, uint32_t number, uint32_t inode)
{
    struct um_name *name = &t->names[number];
    name->inode = inode;
    name->born = t->names[name->parent].epoch;
    name->epoch++;
}

/* ---- paths -------------------------------------------------------------------------------- */

static int push_part(struct path *path, struct um_slice part)
{
    int error =
        um_reserve((void **)&path->parts, &path->capacity, path->n + 1, sizeof *path->parts);
    if (error == 0)
        path->parts[path->n++] = part;
    return error;
}

/* Rule 1 of docs/explanation/layers.md: split, drop "" and ".", let ".." drop what is before it. */
static int split_path(struct um_slice text, struct path *path)
{
    path->n = 0;
    const uint8_t *at = text.data, *end = text.data + text.size;
    while (at < end) {
        const uint8_t *slash = memchr(at, '/', (size_t)(end - at));
        const uint8_t *stop = slash ? slash : end;
        struct um_slice part = um_slice_of(at, (size_t)(stop - at));
        at = slash ? slash + 1 : end;
        if (part.size == 0 || um_slice_equal(part, UM_SLICE_LITERAL(".")))
            continue;
        if (um_slice_equal(part, UM_SLICE_LITERAL(".."))) {
            path->n -= path->n != 0;
            continue;
        }
        int error = push_part(path, part);
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- symlinks on the way ---------------------------------------------------------------------- */

/* The symlink of this layer that a name in the directory `at` is now; UM_NONE where it is none. */
static uint32_t symlink_at(const struct um_tables *t, uint32_t at, uint32_t name)
{
    if (at == UM_NONE || name == UM_NONE || !names_directory(t, at))
        return UM_NONE;
    uint32_t inode = inode_of(t, name);
    return inode != UM_NONE && S_ISLNK(t->inodes[inode].mode) ? inode : UM_NONE;
}

/* Whether the way to the first `n` parts leads through a symlink: mostly not. */
static bool leads_through_link(const struct um_indexer *ix, const struct path *path, size_t n)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n && names_directory(&ix->tables, at); i++) {
        uint32_t name = find_name(ix, at, path->parts[i]);
        if (symlink_at(&ix->tables, at, name) != UM_NONE)
            return true;
        if (name == UM_NONE)
            return false;
        at = name;
    }
    return false;
}

/* Put the parts of a target, which may climb, in front of what is pending (the next one is last). */
static int push_target(struct path *pending, struct um_slice target)
{
    const uint8_t *start = target.data, *end = target.data + target.size;
    while (end > start) {
        const uint8_t *slash = memrchr(start, '/', (size_t)(end - start));
        const uint8_t *first = slash ? slash + 1 : start;
        struct um_slice part = um_slice_of(first, (size_t)(end - first));
        end = slash ? slash : start;
        if (part.size == 0 || um_slice_equal(part, UM_SLICE_LITERAL(".")))
            continue;
        int error = push_part(pending, part);
        if (error != 0)
            return error;
    }
    return 0;
}

/* Go on with the target of a symlink. Its text is copied: the strings move when names are added. */
static int follow_link(struct um_indexer *ix, uint32_t inode)
{
    const struct um_build_inode *link = &ix->tables.inodes[inode];
    struct way *way = &ix->way;
    if (way->links == MAX_LINKS || link->size > MAX_FOLLOWED - way->used)
        return -ELOOP;
    uint8_t *text = way->targets + way->used;
    memcpy(text, ix->tables.strings + link->data, link->size);
    way->used += link->size;
    way->links++;
    if (text[0] == '/') {
        way->at = 0;
        way->walked.n = 0;
    }
    return push_target(&way->pending, um_slice_of(text, link->size));
}

static int push_walked(struct way *way, struct um_slice part)
{
    int error = um_reserve((void **)&way->directories, &way->capacity, way->walked.n + 1,
                           sizeof *way->directories);
    if (error != 0)
        return error;
    way->directories[way->walked.n] = way->at;
    return push_part(&way->walked, part);
}

/* Take the next of the pending parts. */
static int take_part(struct um_indexer *ix)
{
    struct way *way = &ix->way;
    struct um_slice part = way->pending.parts[--way->pending.n];
    if (um_slice_equal(part, UM_SLICE_LITERAL(".."))) {
        if (way->walked.n != 0)
            way->at = way->directories[--way->walked.n];
        return 0;
    }
    uint32_t name = way->at == UM_NONE ? UM_NONE : find_name(ix, way->at, part);
    uint32_t link = symlink_at(&ix->tables, way->at, name);
    if (link != UM_NONE)
        return follow_link(ix, link);
    int error = push_walked(way, part);
    way->at = name != UM_NONE && names_directory(&ix->tables, name) ? name : UM_NONE;
    return error;
}

/* -ELOOP where a way that symlinks lead has parts that no name may have. */
static int check_walked(const struct path *walked)
{
    size_t bytes = 0;
    for (size_t i = 0; i < walked->n; i++) {
        struct um_slice hidden;
        bytes += walked->parts[i].size + 1;
        if (walked->parts[i].size > MAX_COMPONENT || bytes > MAX_PATH_BYTES ||
            um_whiteout_classify(walked->parts[i], &hidden) != UM_NAME_PLAIN)
            return -ELOOP;
    }
    return 0;
}

static int begin_way(struct way *way, const struct path *path)
{
    int error = 0;
    way->pending.n = way->walked.n = way->used = 0;
    way->links = way->at = 0;
    if (way->targets == NULL && (way->targets = malloc(MAX_FOLLOWED)) == NULL)
        return -ENOMEM;
    for (size_t i = path->n; i > 0 && error == 0; i--)
        error = push_part(&way->pending, path->parts[i - 1]);
    return error;
}

/* Rule 6: let the first `n` parts of a path be those of the directory to which they lead, through
 * symlinks of this layer as they stand now. -ELOOP where they lead in a circle, or to what can't be. */
static int follow_links(struct um_indexer *ix, struct path *path, size_t n)
{
    struct way *way = &ix->way;
    if (n == 0 || !leads_through_link(ix, path, n))
        return 0;
    int error = begin_way(way, path);
    while (error == 0 && way->pending.n > path->n - n)
        error = take_part(ix);
    if (error == 0)
        error = check_walked(&way->walked);
    while (error == 0 && way->pending.n != 0)
        error = push_part(&way->walked, way->pending.parts[--way->pending.n]);
    if (error != 0)
        return error;
    ix->n_followed++;
    struct path old = *path;
    *path = way->walked;
    way->walked = old;
    return 0;
}

/* ---- directories on the way --------------------------------------------------------------------- */

/* Descend to the directory of the first `n` parts, making implied directories on the way. */
static int enter(struct um_indexer *ix, const struct path *path, size_t n, uint32_t *directory,
                 uint64_t header, struct um_fault *fault)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int error = intern_name(ix, at, path->parts[i], &at, header, fault);
        if (error != 0)
            return error;
        if (names_directory(&ix->tables, at))
            continue;
        uint32_t inode;
        error = new_inode(ix, &implied, &inode, header, fault);
        if (error != 0)
            return error;
        bind_name(&ix->tables, at, inode);
    }
    *directory = at;
    return 0;
}

/* As enter, but only name the directories: a mark makes none of what is none (finish_names). */
static int enter_marked(struct um_indexer *ix, const struct path *path, size_t n,
                        uint32_t *directory, uint64_t header, struct um_fault *fault)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int error = intern_name(ix, at, path->parts[i], &at, header, fault);
        if (error != 0)
            return error;
        ix->tables.names[at].flags |= UM_NAME_CARRIES;
    }
    *directory = at;
    return 0;
}

/* The inode that a hard link's target names in this layer now. UM_NONE where there is none;
 * *directory says that there is a directory. */
static uint32_t resolve_here(const struct um_indexer *ix, const struct path *path, bool *directory)
{
    uint32_t at = 0;
    *directory = path->n == 0;
    for (size_t i = 0; i < path->n; i++) {
        if (i != 0 && !names_directory(&ix->tables, at))
            return UM_NONE;
        at = find_name(ix, at, path->parts[i]);
        if (at == UM_NONE)
            return UM_NONE;
    }
    *directory = names_directory(&ix->tables, at);
    return *directory ? UM_NONE : inode_of(&ix->tables, at);
}

/* What the parts of a path mean together: the kind of the last one, or LEFTOVER where one before
 * it is a whiteout of any kind, because then the entry is not shown. */
static int classify_path(const struct path *path, enum um_whiteout_kind *kind,
                         struct um_slice *hidden, uint64_t header, struct um_fault *fault)
{
    bool below_whiteout = false;
    *kind = UM_NAME_PLAIN;
    for (size_t i = 0; i < path->n; i++) {
        below_whiteout |= *kind != UM_NAME_PLAIN;
        *hidden = path->parts[i];
        *kind = um_whiteout_classify(path->parts[i], hidden);
        if (*kind == UM_NAME_BROKEN)
            return um_refuse(fault, -EBADMSG, header, "a whiteout that names nothing: \"%.*s\"",
                             (int)path->parts[i].size, (const char *)path->parts[i].data);
        if (hidden->size > MAX_COMPONENT && *kind != UM_NAME_LEFTOVER)
            return um_refuse(fault, -EBADMSG, header, "a name of %zu bytes (at most 255)",
                             hidden->size);
    }
    if (below_whiteout)
        *kind = UM_NAME_LEFTOVER;
    return 0;
}

/* ---- extended attributes ------------------------------------------------------------------ */

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
    return hash;
}

/* 1 where the set that begins with record `first` is the entry's, 0 where not, or an errno. */
static int same_set(const struct um_tables *t, size_t first, const struct um_tar_entry *entry)
{
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        const struct um_build_xattr *have = &t->xattrs[first + i];
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

/* The names under which the kernel keeps POSIX ACLs: include/uapi/linux/xattr.h. */
static bool is_acl(struct um_slice name)
{
    return um_slice_equal(name, UM_SLICE_LITERAL("system.posix_acl_access")) ||
           um_slice_equal(name, UM_SLICE_LITERAL("system.posix_acl_default"));
}

static int append_set(struct um_indexer *ix, const struct um_tar_entry *entry,
                      struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    if (t->n_xattrs + entry->n_xattrs >= UM_NONE)
        return um_refuse(fault, -E2BIG, entry->header, "too many xattrs");
    size_t list = 0;
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        const struct um_tar_xattr *xattr = &entry->xattrs[i];
        struct um_build_xattr record = {.at = (uint32_t)um_spool_size(&t->values),
                                        .value_size = (uint32_t)xattr->value.size,
                                        .name_size = (uint16_t)xattr->name.size,
                                        .last = i + 1 == entry->n_xattrs};
        int error = check_xattr(xattr, entry->header, fault);
        list += xattr->name.size + 1;
        if (error == 0 && list > MAX_XATTR_LIST)
            error = um_refuse(fault, -EBADMSG, entry->header,
                              "xattr names of more than 65536 bytes together");
        if (error == 0)
            error = check_strings(ix, xattr->name.size + xattr->value.size, entry->header, fault);
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
        t->n_acls += is_acl(xattr->name);
    }
    return 0;
}

static int grow_sets(struct um_indexer *ix)
{
    /* Sets are few; hashing them again would need their entries, so the table starts large and
     * beyond it a set is simply not shared any more. */
    ix->sets_capacity = 1u << 16;
    int error = um_budget_take(&ix->tables.budget, ix->sets_capacity * sizeof *ix->sets);
    if (error != 0)
        return error;
    ix->sets = calloc(ix->sets_capacity, sizeof *ix->sets);
    return ix->sets == NULL ? -ENOMEM : 0;
}

/* The set of the entry's xattrs, shared with earlier entries that have the same. */
static int intern_set(struct um_indexer *ix, const struct um_tar_entry *entry, uint32_t *set,
                      struct um_fault *fault)
{
    *set = 0;
    if (entry->n_xattrs == 0)
        return 0;
    int error = ix->sets == NULL ? grow_sets(ix) : 0;
    if (error != 0)
        return error;
    size_t mask = ix->sets_capacity - 1;
    uint32_t hash = (uint32_t)hash_set(ix, entry);
    size_t at = hash & mask;
    for (; ix->sets[at].first != 0; at = (at + 1) & mask) {
        if (ix->sets[at].hash != hash)
            continue;
        int same = same_set(&ix->tables, ix->sets[at].first - 1, entry);
        if (same > 0)
            *set = ix->sets[at].first;
        if (same != 0)
            return same < 0 ? same : 0;
    }
    *set = (uint32_t)ix->tables.n_xattrs + 1;
    error = append_set(ix, entry, fault);
    if (error == 0 && ix->n_sets < ix->sets_capacity / 2) {
        ix->sets[at] = (struct set){*set, hash};
        ix->n_sets++;
    }
    return error;
}

/* ---- entries ------------------------------------------------------------------------------ */

static int add_extents(struct um_indexer *ix, const struct um_tar_entry *entry,
                       struct um_build_inode *inode, struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    uint64_t total = (uint64_t)t->n_extents + entry->n_extents;
    if (total >= UM_NONE || total > ix->limits.max_entries)
        return um_refuse(fault, -E2BIG, entry->header, "too many runs of sparse files");
    int error = um_budget_reserve(&t->budget, (void **)&t->extents, &t->extents_capacity,
                                  (size_t)total, sizeof *t->extents);
    if (error != 0)
        return error;
    inode->flags |= UM_INODE_SPARSE;
    inode->data = um_pack((uint32_t)t->n_extents, (uint32_t)entry->n_extents);
    for (size_t i = 0; i < entry->n_extents; i++) {
        const struct um_tar_extent *run = &entry->extents[i];
        t->extents[t->n_extents++] =
            (struct um_build_extent){run->logical, run->length, run->stored};
    }
    return 0;
}

static int add_target(struct um_indexer *ix, const struct um_tar_entry *entry,
                      struct um_build_inode *inode, struct um_fault *fault)
{
    if (entry->link.size == 0 || entry->link.size > MAX_TARGET)
        return um_refuse(fault, -EBADMSG, entry->header, "a symlink target of %zu bytes",
                         entry->link.size);
    uint32_t offset = 0;
    int error = add_string(ix, entry->link, &offset, entry->header, fault);
    inode->size = entry->link.size;
    inode->data = offset;
    return error;
}

static uint16_t type_bits(enum um_tar_type type)
{
    switch (type) {
    case UM_TAR_DIRECTORY:
        return S_IFDIR;
    case UM_TAR_SYMLINK:
        return S_IFLNK;
    case UM_TAR_CHARACTER:
        return S_IFCHR;
    case UM_TAR_BLOCK_DEVICE:
        return S_IFBLK;
    case UM_TAR_FIFO:
        return S_IFIFO;
    case UM_TAR_FILE:
    case UM_TAR_HARDLINK:
        break;
    }
    return S_IFREG;
}

static int describe(struct um_indexer *ix, const struct um_tar_entry *entry,
                    struct um_build_inode *inode, struct um_fault *fault)
{
    *inode = (struct um_build_inode){
        .mode = (uint16_t)(type_bits(entry->type) | (entry->mode & 07777)),
        .uid = entry->uid,
        .gid = entry->gid,
        .mtime = entry->mtime,
        .mtime_nsec = entry->mtime_nsec,
    };
    int error = intern_set(ix, entry, &inode->xattr, fault);
    if (error != 0)
        return error;
    switch (inode->mode & S_IFMT) {
    case S_IFREG:
        inode->size = entry->size;
        inode->data = entry->stored;
        return entry->sparse ? add_extents(ix, entry, inode, fault) : 0;
    case S_IFLNK:
        return add_target(ix, entry, inode, fault);
    case S_IFCHR:
    case S_IFBLK:
        inode->data = um_pack(entry->major, entry->minor);
        return 0;
    default:
        return 0;
    }
}

/* A directory entry over a directory changes its metadata and keeps its children. */
static int add_directory(struct um_indexer *ix, uint32_t name, const struct um_tar_entry *entry,
                         struct um_fault *fault)
{
    struct um_build_inode inode;
    int error = describe(ix, entry, &inode, fault);
    if (error != 0)
        return error;
    if (names_directory(&ix->tables, name)) {
        inode.final = UM_NONE;
        ix->tables.inodes[ix->tables.names[name].inode] = inode;
        return 0;
    }
    uint32_t number;
    error = new_inode(ix, &inode, &number, entry->header, fault);
    if (error == 0)
        bind_name(&ix->tables, name, number);
    return error;
}

static int join_target(struct um_indexer *ix, struct um_build_inode *inode, uint64_t header,
                       struct um_fault *fault)
{
    uint32_t first = (uint32_t)ix->tables.n_strings;
    for (size_t i = 0; i < ix->target.n; i++) {
        uint32_t ignored;
        int error = i ? add_string(ix, UM_SLICE_LITERAL("/"), &ignored, header, fault) : 0;
        if (error == 0)
            error = add_string(ix, ix->target.parts[i], &ignored, header, fault);
        if (error != 0)
            return error;
    }
    inode->data = first;
    inode->size = ix->tables.n_strings - first;
    return 0;
}

/* The inode that the target of a hard link, split, means in this layer now, through symlinks on its way:
 * UM_NONE, with *nowhere where it is a directory, or where the way leads nowhere. */
static int find_target(struct um_indexer *ix, uint32_t *inode, bool *nowhere)
{
    *inode = UM_NONE;
    *nowhere = false;
    int error = ix->target.n ? follow_links(ix, &ix->target, ix->target.n - 1) : 0;
    if (error == 0)
        *inode = resolve_here(ix, &ix->target, nowhere);
    if (error == -ELOOP)
        *nowhere = true;
    return error == -ELOOP ? 0 : error;
}

/* The inode of a hard link: the target's, or an external one that is settled at the end. */
static int link_inode(struct um_indexer *ix, const struct um_tar_entry *entry, uint32_t *inode,
                      struct um_fault *fault)
{
    if (entry->link.size > MAX_PATH_BYTES)
        return um_refuse(fault, -EBADMSG, entry->header, "a link target of %zu bytes",
                         entry->link.size);
    int error = split_path(entry->link, &ix->target);
    if (error != 0)
        return error;
    bool nowhere;
    error = find_target(ix, inode, &nowhere);
    if (error != 0 || *inode != UM_NONE)
        return error;
    /* It is kept as it was written: at the end, symlinks that come later count, too. */
    struct um_build_inode external = {.flags = UM_INODE_EXTERNAL};
    error = split_path(entry->link, &ix->target);
    if (error == 0)
        error = join_target(ix, &external, entry->header, fault);
    return error ? error : new_inode(ix, &external, inode, entry->header, fault);
}

static int add_plain(struct um_indexer *ix, uint32_t name, const struct um_tar_entry *entry,
                     struct um_fault *fault)
{
    uint32_t number;
    int error;
    if (entry->type == UM_TAR_HARDLINK) {
        error = link_inode(ix, entry, &number, fault);
    } else {
        struct um_build_inode inode;
        error = describe(ix, entry, &inode, fault);
        if (error == 0)
            error = new_inode(ix, &inode, &number, entry->header, fault);
    }
    if (error == 0)
        bind_name(&ix->tables, name, number);
    return error;
}

/* A whiteout of `hidden`, or the opaque mark of the directory where it is NULL. */
static int add_mark(struct um_indexer *ix, const struct um_slice *hidden, uint64_t header,
                    struct um_fault *fault)
{
    uint32_t name;
    int error = enter_marked(ix, &ix->path, ix->path.n - 1, &name, header, fault);
    if (error == 0 && hidden != NULL)
        error = intern_name(ix, name, *hidden, &name, header, fault);
    if (error == 0)
        ix->tables.names[name].flags |= hidden ? UM_NAME_WHITED : UM_NAME_OPAQUED;
    return error;
}

/* Give the entry its name, making the directories on the way. */
static int add_entry(struct um_indexer *ix, const struct um_tar_entry *entry, struct um_slice name,
                     uint16_t flags, struct um_fault *fault)
{
    uint32_t number;
    int error = enter(ix, &ix->path, ix->path.n - 1, &number, entry->header, fault);
    if (error == 0)
        error = intern_name(ix, number, name, &number, entry->header, fault);
    if (error != 0)
        return error;
    ix->tables.names[number].flags |= flags;
    return entry->type == UM_TAR_DIRECTORY ? add_directory(ix, number, entry, fault)
                                           : add_plain(ix, number, entry, fault);
}

/* A file in the link store: links of this layer may lead to it, but it is not shown. The store is a
 * name of the root that no one else can have, so hiding each file in it hides nothing else. */
static int add_stored(struct um_indexer *ix, const struct um_tar_entry *entry,
                      struct um_fault *fault)
{
    struct path *path = &ix->path;
    if (path->n != 2 || !um_whiteout_is_link_store(path->parts[0]) ||
        entry->type == UM_TAR_DIRECTORY || path->parts[1].size > MAX_COMPONENT)
        return 0;
    uint32_t store;
    int error = intern_name(ix, 0, path->parts[0], &store, entry->header, fault);
    if (error != 0)
        return error;
    ix->tables.names[store].flags |= UM_NAME_HIDDEN;
    return add_entry(ix, entry, path->parts[1], UM_NAME_HIDDEN, fault);
}

/* An entry whose path leads in a circle, or to what no name can be, has no place: it is left out. */
static int add_unresolved(struct um_indexer *ix, const struct um_tar_entry *entry,
                          struct um_fault *fault)
{
    struct um_tables *t = &ix->tables;
    if (t->n_unresolved >= ix->limits.max_entries)
        return um_refuse(fault, -E2BIG, entry->header, "too many names without a place");
    int error = um_budget_reserve(&t->budget, (void **)&t->unresolved, &t->unresolved_capacity,
                                  t->n_unresolved + 1, sizeof *t->unresolved);
    struct um_text text = {.size = (uint32_t)entry->name.size};
    if (error == 0)
        error = add_string(ix, entry->name, &text.at, entry->header, fault);
    if (error == 0)
        t->unresolved[t->n_unresolved++] = text;
    return error;
}

/* Apply an entry whose path is not the root. */
static int add_named(struct um_indexer *ix, const struct um_tar_entry *entry,
                     struct um_fault *fault)
{
    enum um_whiteout_kind kind;
    struct um_slice name;
    int error = classify_path(&ix->path, &kind, &name, entry->header, fault);
    if (error != 0)
        return error;
    if (kind == UM_NAME_LEFTOVER)
        return add_stored(ix, entry, fault);
    error = follow_links(ix, &ix->path, ix->path.n - 1);
    if (error != 0)
        return error == -ELOOP ? add_unresolved(ix, entry, fault) : error;
    bool device =
        entry->type == UM_TAR_CHARACTER && um_whiteout_is_device(entry->major, entry->minor);
    if (kind == UM_NAME_OPAQUE)
        return add_mark(ix, NULL, entry->header, fault);
    if (kind == UM_NAME_WHITEOUT || device)
        return add_mark(ix, &name, entry->header, fault);
    return add_entry(ix, entry, name, 0, fault);
}

static int add(struct um_indexer *ix, const struct um_tar_entry *entry, struct um_fault *fault)
{
    if (entry->name.size > MAX_PATH_BYTES)
        return um_refuse(fault, -EBADMSG, entry->header, "a name of %zu bytes", entry->name.size);
    int error = split_path(entry->name, &ix->path);
    if (error != 0)
        return error;
    if (ix->path.n != 0)
        return add_named(ix, entry, fault);
    return entry->type == UM_TAR_DIRECTORY ? add_directory(ix, 0, entry, fault) : 0;
}

static int refuse_memory(const struct um_indexer *ix, uint64_t header, struct um_fault *fault)
{
    return um_refuse(fault, -ENOBUFS, header, "its index would need more than %llu bytes of memory",
                     (unsigned long long)ix->tables.budget.limit);
}

int um_indexer_add(struct um_indexer *ix, const struct um_tar_entry *entry, struct um_fault *fault)
{
    int error = add(ix, entry, fault);
    return error == -ENOBUFS ? refuse_memory(ix, entry->header, fault) : error;
}

static int on_entry(void *context, const struct um_tar_entry *entry, struct um_fault *fault)
{
    return um_indexer_add((struct um_indexer *)context, entry, fault);
}

/* ---- hard links that were not settled when they came ---------------------------------------- */

/* Follow external inodes from `inode` to what they stand for at the end of the layer. `chain`
 * collects the inodes passed, so that each is settled once. */
struct chain {
    uint32_t *inodes;
    size_t n, capacity;
};

/* What an external inode's target means at the end. Where this layer has nothing there, the layers below
 * are asked for where its own symlinks lead. */
static int step(struct um_indexer *ix, uint32_t inode, uint32_t *next, bool *nowhere)
{
    struct um_build_inode *from = &ix->tables.inodes[inode];
    um_autofree uint8_t *text = malloc(from->size + 1); /* the strings move when some are added */
    if (text == NULL)
        return -ENOMEM;
    memcpy(text, ix->tables.strings + from->data, from->size);
    int error = split_path(um_slice_of(text, from->size), &ix->target);
    unsigned before = ix->n_followed;
    if (error == 0)
        error = find_target(ix, next, nowhere);
    if (error == 0 && *next == UM_NONE && ix->n_followed != before)
        error = join_target(ix, from, 0, NULL);
    return error;
}

/* The chain has come back to `at`. Every link of the circle looks below for its own target; those
 * that led to it mean what `at` means, and stay in the chain. */
static uint32_t close_circle(struct chain *chain, uint32_t at, uint32_t *settled)
{
    uint32_t inode;
    do {
        inode = chain->inodes[--chain->n];
        settled[inode] = inode;
    } while (inode != at);
    return at;
}

/* `settled[i]`: what external inode i stands for: itself where it stays external. UM_NONE while
 * it is not known, UM_NONE - 1 while its chain is being followed. */
static int settle(struct um_indexer *ix, uint32_t start, uint32_t *settled, struct chain *chain)
{
    const uint32_t following = UM_NONE - 1;
    uint32_t at = start, end = UM_NONE;
    chain->n = 0;
    while (end == UM_NONE) {
        if (!(ix->tables.inodes[at].flags & UM_INODE_EXTERNAL))
            end = at;
        else if (settled[at] == following)
            end = close_circle(chain, at, settled);
        else if (settled[at] != UM_NONE)
            end = settled[at];
        if (end != UM_NONE)
            break;
        uint32_t next = UM_NONE;
        bool nowhere = false;
        int error = um_budget_reserve(&ix->tables.budget, (void **)&chain->inodes, &chain->capacity,
                                      chain->n + 1, sizeof *chain->inodes);
        if (error == 0)
            error = step(ix, at, &next, &nowhere);
        if (error != 0)
            return error;
        chain->inodes[chain->n++] = at;
        settled[at] = following;
        if (nowhere)
            ix->tables.inodes[at].flags |= UM_INODE_DANGLING;
        if (next == UM_NONE)
            end = at;
        at = next;
    }
    for (size_t i = 0; i < chain->n; i++)
        settled[chain->inodes[i]] = end;
    return 0;
}

static int settle_links(struct um_indexer *ix)
{
    struct um_tables *t = &ix->tables;
    bool any = false;
    for (size_t i = 0; i < t->n_inodes && !any; i++)
        any = t->inodes[i].flags & UM_INODE_EXTERNAL;
    if (!any)
        return 0;
    um_autofree uint32_t *settled = malloc(t->n_inodes * sizeof *settled);
    if (settled == NULL)
        return -ENOMEM;
    memset(settled, 0xff, t->n_inodes * sizeof *settled);
    struct chain chain = {0};
    int error = 0;
    for (uint32_t i = 0; i < t->n_names && error == 0; i++) {
        uint32_t inode = t->names[i].inode;
        if (inode == UM_NONE || !(t->inodes[inode].flags & UM_INODE_EXTERNAL))
            continue;
        if (settled[inode] == UM_NONE)
            error = settle(ix, inode, settled, &chain);
        if (error == 0)
            t->names[i].inode = settled[inode];
    }
    free(chain.inodes);
    um_budget_give(&t->budget, chain.capacity * sizeof *chain.inodes);
    return error;
}

/* ---- what the names come to at the end --------------------------------------------------------- */

/* Let every name stand for what it stands for at the end, or for nothing. A directory that is named
 * only because marks stand in it is implied, unless something else has its name. Names come after
 * their directories, so one pass does it. */
static int finish_names(struct um_indexer *ix)
{
    struct um_tables *t = &ix->tables;
    for (uint32_t i = 1; i < t->n_names; i++) {
        if (!names_directory(t, t->names[i].parent)) {
            t->names[i].inode = UM_NONE;
            t->names[i].flags = 0;
            continue;
        }
        t->names[i].inode = inode_of(t, i);
        if (t->names[i].inode == UM_NONE && (t->names[i].flags & UM_NAME_CARRIES)) {
            uint32_t inode;
            int error = new_inode(ix, &implied, &inode, 0, NULL);
            if (error != 0)
                return error;
            bind_name(t, i, inode);
        }
    }
    return 0;
}

/* ---- the public face ------------------------------------------------------------------------ */

static int add_root(struct um_indexer *ix)
{
    uint32_t inode, name;
    int error = new_inode(ix, &implied, &inode, 0, NULL);
    return error ? error : new_name(ix, (struct um_name){.inode = inode}, &name, 0, NULL);
}

int um_indexer_open(const struct um_index_limits *limits, struct um_indexer **out)
{
    struct um_indexer *ix = calloc(1, sizeof *ix);
    if (ix == NULL)
        return -ENOMEM;
    if (limits != NULL)
        ix->limits = *limits;
    if (ix->limits.max_entries == 0)
        ix->limits.max_entries = DEFAULT_MAX_ENTRIES;
    if (ix->limits.max_entries > UM_NONE - 2)
        ix->limits.max_entries = UM_NONE - 2;
    if (ix->limits.max_strings == 0 || ix->limits.max_strings > DEFAULT_MAX_STRINGS)
        ix->limits.max_strings = DEFAULT_MAX_STRINGS;
    if (ix->limits.max_memory == 0)
        ix->limits.max_memory = UM_INDEXER_MEMORY;
    ix->tables.budget.limit = ix->limits.max_memory;
    ix->tables.values.fd = -1;
    int error = um_hash_key_make(&ix->key);
    if (error == 0)
        error = grow_slots(ix);
    if (error == 0)
        error = add_root(ix);
    if (error == 0)
        error = um_tar_open(on_entry, ix, NULL, &ix->tar);
    if (error != 0) {
        um_indexer_close(ix);
        return error;
    }
    *out = ix;
    return 0;
}

void um_indexer_spool(struct um_indexer *ix, int fd)
{
    ix->tables.values.fd = fd;
}

int um_indexer_feed(struct um_indexer *ix, const void *data, size_t size, struct um_fault *fault)
{
    return um_tar_feed(ix->tar, data, size, fault);
}

/* Jump over what the parser does not want to see. True for a far jump: large files follow one
 * another, and reading a large window for one header would be waste. */
static bool jump(struct um_indexer *ix, uint64_t length)
{
    uint64_t skip = um_tar_skippable(ix->tar);
    if (skip > length - ix->scanned)
        skip = length - ix->scanned;
    um_tar_skip(ix->tar, skip);
    ix->scanned += skip;
    return skip >= FAR_JUMP;
}

/* Pass one window on; payload that lies within it is jumped over in memory. */
static int scan_window(struct um_indexer *ix, size_t size, struct um_fault *fault)
{
    size_t at = 0;
    while (at < size) {
        uint64_t skip = um_tar_skippable(ix->tar);
        if (skip >= size - at)
            break; /* the rest of the window and perhaps more: jump() does it */
        if (skip != 0) {
            um_tar_skip(ix->tar, skip);
            at += (size_t)skip;
        }
        /* Up to the next payload; a block at a time, because what may be skipped is known only
         * once a header has been read. */
        size_t piece = size - at < UM_TAR_BLOCK ? size - at : UM_TAR_BLOCK;
        int error = um_tar_feed(ix->tar, ix->window + at, piece, fault);
        if (error != 0)
            return error;
        at += piece;
    }
    ix->scanned += at;
    return 0;
}

int um_indexer_scan(struct um_indexer *ix, int fd, uint64_t offset, uint64_t length,
                    uint64_t budget, struct um_fault *fault)
{
    uint64_t end;
    if (!um_add64(offset, length, &end) || end > INT64_MAX)
        return um_refuse(fault, -EBADMSG, 0, "the layer lies beyond any file");
    if (ix->window == NULL && (ix->window = malloc(WINDOW_MAX)) == NULL)
        return -ENOMEM;
    uint64_t used = 0;
    while (ix->scanned < length) {
        bool far = jump(ix, length);
        if (ix->scanned == length)
            break;
        if (used >= budget)
            return 1;
        ix->window_size = far || ix->window_size == 0    ? WINDOW_AFTER_JUMP
                          : ix->window_size < WINDOW_MAX ? ix->window_size * 2
                                                         : WINDOW_MAX;
        uint64_t left = length - ix->scanned;
        size_t want = left < ix->window_size ? (size_t)left : ix->window_size;
        int64_t got = um_read_at(fd, offset + ix->scanned, ix->window, want, false);
        if (got < 0)
            return um_refuse(fault, (int)got, ix->scanned, "reading failed");
        if ((uint64_t)got < want)
            return um_refuse(fault, -EBADMSG, ix->scanned + (uint64_t)got,
                             "the file ends within the layer");
        used += want;
        int error = scan_window(ix, want, fault);
        if (error != 0)
            return error;
    }
    return 0;
}

/* Let go of what only adding needs. */
static void free_lookups(struct um_indexer *ix)
{
    um_budget_give(&ix->tables.budget, ix->n_slots * sizeof *ix->slots);
    um_budget_give(&ix->tables.budget, ix->sets_capacity * sizeof *ix->sets);
    free(um_steal(&ix->slots));
    free(um_steal(&ix->sets));
    free(um_steal(&ix->window));
    um_tar_close(um_steal(&ix->tar));
    ix->n_slots = ix->sets_capacity = 0;
}

int um_indexer_finish(struct um_indexer *ix, uint64_t layer_size, int fd, struct um_fault *fault)
{
    int error = um_tar_finish(ix->tar, fault);
    if (error != 0)
        return error;
    if (um_tar_position(ix->tar) > layer_size)
        return um_refuse(fault, -EBADMSG, layer_size, "the tar is longer than its layer");
    error = finish_names(ix);
    if (error == 0)
        error = settle_links(ix);
    if (error == -ENOBUFS)
        return refuse_memory(ix, layer_size, fault);
    if (error != 0)
        return um_refuse(fault, error, layer_size, "settling names and links: %s",
                         strerror(-error));
    free_lookups(ix);
    error = um_index_write(&ix->tables, layer_size, fd);
    if (error == -ENOBUFS)
        return refuse_memory(ix, layer_size, fault);
    return error == 0 ? 0 : um_refuse(fault, error, 0, "writing the index: %s", strerror(-error));
}

int um_indexer_unresolved(const struct um_indexer *ix, uint64_t number, const char **name,
                          size_t *size)
{
    if (number >= ix->tables.n_unresolved)
        return 0;
    const struct um_text *text = &ix->tables.unresolved[number];
    *name = (const char *)ix->tables.strings + text->at;
    *size = text->size;
    return 1;
}

void um_indexer_close(struct um_indexer *ix)
{
    if (ix == NULL)
        return;
    um_tar_close(ix->tar);
    free(ix->tables.names);
    free(ix->tables.inodes);
    free(ix->tables.xattrs);
    free(ix->tables.extents);
    free(ix->tables.strings);
    um_spool_free(&ix->tables.values);
    free(ix->slots);
    free(ix->sets);
    free(ix->path.parts);
    free(ix->target.parts);
    free(ix->way.pending.parts);
    free(ix->way.walked.parts);
    free(ix->way.directories);
    free(ix->way.targets);
    free(ix->tables.unresolved);
    free(ix->window);
    free(ix);
}
