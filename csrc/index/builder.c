#include "index/builder.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "index/indexer.h"
#include "system/read_at.h"

#define FAR_JUMP (64u << 10)
#define WINDOW_AFTER_JUMP (16u << 10)
#define WINDOW_MAX (256u << 10)
#define MAX_TARGET 4095u
#define FIRST_NAMES 512u /* a new table has room for these */
#define DEFAULT_MAX_STRINGS 0xffffffffull
#define DEFAULT_MAX_ENTRIES (16ull << 20)

/* ---- entries ------------------------------------------------------------------------------ */

static int add_extents(struct um_indexer *ix, const struct um_tar_entry *entry,
                       struct um_indexer_inode *inode, struct um_fault *fault)
{
    struct um_indexer_tables *t = &ix->tables;
    uint64_t total = (uint64_t)t->n_extents + entry->n_extents;
    if (total >= UM_NONE || total > ix->limits.max_entries)
        return um_refuse(fault, -E2BIG, entry->header, "too many runs of sparse files");
    int error = um_budget_reserve(&t->budget, (void **)&t->extents, &t->extents_capacity,
                                  (size_t)total, sizeof *t->extents);
    if (error != 0)
        return error;
    inode->flags |= UM_INODE_SPARSE;
    inode->data = um_indexer_pack((uint32_t)t->n_extents, (uint32_t)entry->n_extents);
    for (size_t i = 0; i < entry->n_extents; i++) {
        const struct um_tar_extent *run = &entry->extents[i];
        t->extents[t->n_extents++] =
            (struct um_indexer_extent){run->logical, run->length, run->stored};
    }
    return 0;
}

static int add_target(struct um_indexer *ix, const struct um_tar_entry *entry,
                      struct um_indexer_inode *inode, struct um_fault *fault)
{
    if (entry->link.size == 0 || entry->link.size > MAX_TARGET)
        return um_refuse(fault, -EBADMSG, entry->header, "a symlink target of %zu bytes",
                         entry->link.size);
    uint32_t offset = 0;
    int error = um_indexer_add_string(ix, entry->link, &offset, entry->header, fault);
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
                    struct um_indexer_inode *inode, struct um_fault *fault)
{
    *inode = (struct um_indexer_inode){
        .mode = (uint16_t)(type_bits(entry->type) | (entry->mode & 07777)),
        .uid = entry->uid,
        .gid = entry->gid,
        .mtime = entry->mtime,
        .mtime_nsec = entry->mtime_nsec,
    };
    int error = um_indexer_intern_xattrs(ix, entry, &inode->xattr, fault);
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
        inode->data = um_indexer_pack(entry->major, entry->minor);
        return 0;
    default:
        return 0;
    }
}

/* Add a directory. Over another one it changes the metadata and keeps the children. */
static int add_directory(struct um_indexer *ix, uint32_t name, const struct um_tar_entry *entry,
                         struct um_fault *fault)
{
    struct um_indexer_inode inode;
    int error = describe(ix, entry, &inode, fault);
    if (error != 0)
        return error;
    if (um_indexer_is_directory(&ix->tables, name)) {
        inode.final = UM_NONE;
        ix->tables.inodes[ix->tables.names[name].inode] = inode;
        return 0;
    }
    uint32_t number;
    error = um_indexer_new_inode(ix, &inode, &number, entry->header, fault);
    if (error == 0)
        um_indexer_bind(&ix->tables, name, number);
    return error;
}

/* Return the inode of a hard link: its target's, or an external one that is settled at the end. */
static int link_inode(struct um_indexer *ix, const struct um_tar_entry *entry, uint32_t *inode,
                      struct um_fault *fault)
{
    if (entry->link.size > MAX_PATH_BYTES)
        return um_refuse(fault, -EBADMSG, entry->header, "a link target of %zu bytes",
                         entry->link.size);
    int error = um_index_path_split(entry->link, &ix->target);
    if (error != 0)
        return error;
    bool nowhere;
    error = um_indexer_find_target(ix, inode, &nowhere);
    if (error != 0 || *inode != UM_NONE)
        return error;
    /* Keep the target as written: at the end, symlinks that come later count, too. */
    struct um_indexer_inode external = {.flags = UM_INODE_EXTERNAL};
    error = um_index_path_split(entry->link, &ix->target);
    if (error == 0)
        error = um_indexer_join_target(ix, &external, entry->header, fault);
    return error ? error : um_indexer_new_inode(ix, &external, inode, entry->header, fault);
}

static int add_plain(struct um_indexer *ix, uint32_t name, const struct um_tar_entry *entry,
                     struct um_fault *fault)
{
    uint32_t number;
    int error;
    if (entry->type == UM_TAR_HARDLINK) {
        error = link_inode(ix, entry, &number, fault);
    } else {
        struct um_indexer_inode inode;
        error = describe(ix, entry, &inode, fault);
        if (error == 0)
            error = um_indexer_new_inode(ix, &inode, &number, entry->header, fault);
    }
    if (error == 0)
        um_indexer_bind(&ix->tables, name, number);
    return error;
}

/* Add a whiteout of `hidden`, or the opaque mark of the directory where `hidden` is NULL. */
static int add_mark(struct um_indexer *ix, const struct um_slice *hidden, uint64_t header,
                    struct um_fault *fault)
{
    uint32_t name;
    int error = um_indexer_enter_marked(ix, &ix->path, ix->path.n - 1, &name, header, fault);
    if (error == 0 && hidden != NULL)
        error = um_indexer_intern_name(ix, name, *hidden, &name, header, fault);
    if (error == 0)
        ix->tables.names[name].flags |= hidden ? UM_NAME_WHITED : UM_NAME_OPAQUED;
    return error;
}

/* Give the entry its name, creating the directories on the way. */
static int add_entry(struct um_indexer *ix, const struct um_tar_entry *entry, struct um_slice name,
                     uint16_t flags, struct um_fault *fault)
{
    uint32_t number;
    int error = um_indexer_enter(ix, &ix->path, ix->path.n - 1, &number, entry->header, fault);
    if (error == 0)
        error = um_indexer_intern_name(ix, number, name, &number, entry->header, fault);
    if (error != 0)
        return error;
    ix->tables.names[number].flags |= flags;
    return entry->type == UM_TAR_DIRECTORY ? add_directory(ix, number, entry, fault)
                                           : add_plain(ix, number, entry, fault);
}

/* Add a file of the link store: links of this layer may lead to it, but it is not shown. The store
 * is a name of the root that nothing else can have, so hiding each file in it hides nothing else. */
static int add_stored(struct um_indexer *ix, const struct um_tar_entry *entry,
                      struct um_fault *fault)
{
    struct um_index_path *path = &ix->path;
    if (path->n != 2 || !um_whiteout_is_link_store(path->parts[0]) ||
        entry->type == UM_TAR_DIRECTORY || path->parts[1].size > MAX_COMPONENT)
        return 0;
    uint32_t store;
    int error = um_indexer_intern_name(ix, 0, path->parts[0], &store, entry->header, fault);
    if (error != 0)
        return error;
    ix->tables.names[store].flags |= UM_NAME_HIDDEN;
    return add_entry(ix, entry, path->parts[1], UM_NAME_HIDDEN, fault);
}

/* Leave out an entry that has no place, because its path is a loop, or leads to an impossible
 * name. */
static int add_unresolved(struct um_indexer *ix, const struct um_tar_entry *entry,
                          struct um_fault *fault)
{
    struct um_indexer_tables *t = &ix->tables;
    if (t->n_unresolved >= ix->limits.max_entries)
        return um_refuse(fault, -E2BIG, entry->header, "too many names without a place");
    int error = um_budget_reserve(&t->budget, (void **)&t->unresolved, &t->unresolved_capacity,
                                  t->n_unresolved + 1, sizeof *t->unresolved);
    struct um_indexer_text text = {.size = (uint32_t)entry->name.size};
    if (error == 0)
        error = um_indexer_add_string(ix, entry->name, &text.at, entry->header, fault);
    if (error == 0)
        t->unresolved[t->n_unresolved++] = text;
    return error;
}

static bool is_whiteout_device(const struct um_tar_entry *entry)
{
    return entry->type == UM_TAR_CHARACTER && um_whiteout_is_device(entry->major, entry->minor);
}

/* Note an entry that is taken literally. */
static int note_mark(struct um_indexer *ix, struct um_slice name)
{
    uint64_t number = ix->n_marks++;
    if (number >= UM_INDEXER_MARKS)
        return 0;
    struct um_indexer_mark *mark = &ix->marks[number];
    mark->name = malloc(name.size + 1);
    if (mark->name == NULL)
        return -ENOMEM;
    memcpy(mark->name, name.data, name.size);
    mark->size = name.size;
    return 0;
}

/* Apply an entry whose path is not the root, and whose names are no marks. */
static int add_literal(struct um_indexer *ix, const struct um_tar_entry *entry,
                       struct um_fault *fault)
{
    bool marked;
    int error = um_index_path_check(&ix->path, &marked, entry->header, fault);
    if (error == 0 && (marked || is_whiteout_device(entry)))
        error = note_mark(ix, entry->name);
    if (error == 0)
        error = um_indexer_follow_links(ix, &ix->path, ix->path.n - 1);
    if (error != 0)
        return error == -ELOOP ? add_unresolved(ix, entry, fault) : error;
    return add_entry(ix, entry, ix->path.parts[ix->path.n - 1], 0, fault);
}

/* Apply an entry whose path is not the root. */
static int add_named(struct um_indexer *ix, const struct um_tar_entry *entry,
                     struct um_fault *fault)
{
    enum um_whiteout_kind kind;
    struct um_slice name;
    int error = um_index_path_classify(&ix->path, &kind, &name, entry->header, fault);
    if (error != 0)
        return error;
    if (kind == UM_NAME_LEFTOVER)
        return add_stored(ix, entry, fault);
    error = um_indexer_follow_links(ix, &ix->path, ix->path.n - 1);
    if (error != 0)
        return error == -ELOOP ? add_unresolved(ix, entry, fault) : error;
    bool device = is_whiteout_device(entry);
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
    int error = um_index_path_split(entry->name, &ix->path);
    if (error != 0)
        return error;
    if (ix->path.n != 0)
        return ix->literal ? add_literal(ix, entry, fault) : add_named(ix, entry, fault);
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

/* ---- what the names come to at the end --------------------------------------------------------- */

/* Decide for every name what it means at the end, if anything. A directory that is named only
 * because marks are in it is implied, unless something else has its name. Names come after their
 * directories, so one pass suffices. */
static int finish_names(struct um_indexer *ix)
{
    struct um_indexer_tables *t = &ix->tables;
    for (uint32_t i = 1; i < t->n_names; i++) {
        if (!um_indexer_is_directory(t, t->names[i].parent)) {
            t->names[i].inode = UM_NONE;
            t->names[i].flags = 0;
            continue;
        }
        t->names[i].inode = um_indexer_inode_of(t, i);
        if (t->names[i].inode == UM_NONE && (t->names[i].flags & UM_NAME_CARRIES)) {
            uint32_t inode;
            int error = um_indexer_new_inode(ix, &um_indexer_implied_directory, &inode, 0, NULL);
            if (error != 0)
                return error;
            um_indexer_bind(t, i, inode);
        }
    }
    return 0;
}

/* ---- the public face ------------------------------------------------------------------------ */

static int add_root(struct um_indexer *ix)
{
    uint32_t inode, name;
    int error = um_indexer_new_inode(ix, &um_indexer_implied_directory, &inode, 0, NULL);
    return error
               ? error
               : um_indexer_new_name(ix, (struct um_indexer_name){.inode = inode}, &name, 0, NULL);
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
    ix->by_text.budget = ix->sets.budget = &ix->tables.budget;
    int error = um_hash_key_make(&ix->key);
    if (error == 0) {
        int grown = um_numbers_reserve(&ix->by_text, FIRST_NAMES);
        error = grown < 0 ? grown : 0;
    }
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

void um_indexer_take_literally(struct um_indexer *ix)
{
    ix->literal = true;
}

int um_indexer_feed(struct um_indexer *ix, const void *data, size_t size, struct um_fault *fault)
{
    return um_tar_feed(ix->tar, data, size, fault);
}

/* Jump over bytes that the parser skips. True for a far jump: large files tend to be adjacent, and
 * reading a large window for one header would be a waste. */
static bool jump(struct um_indexer *ix, uint64_t length)
{
    uint64_t skip = um_tar_skippable(ix->tar);
    if (skip > length - ix->scanned)
        skip = length - ix->scanned;
    um_tar_skip(ix->tar, skip);
    ix->scanned += skip;
    return skip >= FAR_JUMP;
}

/* Feed one window to the parser; payload within the window is skipped in memory. */
static int scan_window(struct um_indexer *ix, size_t size, struct um_fault *fault)
{
    size_t at = 0;
    while (at < size) {
        uint64_t skip = um_tar_skippable(ix->tar);
        if (skip >= size - at)
            break; /* the rest of the window, and perhaps more: see jump() */
        if (skip != 0) {
            um_tar_skip(ix->tar, skip);
            at += (size_t)skip;
        }
        /* Go up to the next payload, one block at a time: how much may be skipped is known only
         * after a header was read. */
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

/* Free what only adding needs. */
static void free_lookups(struct um_indexer *ix)
{
    um_numbers_clear(&ix->by_text);
    um_table_clear(&ix->sets, sizeof(struct um_indexer_xattr_set));
    free(um_steal(&ix->window));
    um_tar_close(um_steal(&ix->tar));
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
        error = um_indexer_settle_links(ix);
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
    const struct um_indexer_text *text = &ix->tables.unresolved[number];
    *name = (const char *)ix->tables.strings + text->at;
    *size = text->size;
    return 1;
}

uint64_t um_indexer_marks(const struct um_indexer *ix)
{
    return ix->n_marks;
}

int um_indexer_mark(const struct um_indexer *ix, unsigned number, const char **name, size_t *size)
{
    if (number >= UM_INDEXER_MARKS || ix->marks[number].name == NULL)
        return 0;
    *name = ix->marks[number].name;
    *size = ix->marks[number].size;
    return 1;
}

void um_indexer_close(struct um_indexer *ix)
{
    if (ix == NULL)
        return;
    for (unsigned i = 0; i < UM_INDEXER_MARKS; i++)
        free(ix->marks[i].name);
    um_tar_close(ix->tar);
    free(ix->tables.names);
    free(ix->tables.inodes);
    free(ix->tables.xattrs);
    free(ix->tables.extents);
    free(ix->tables.strings);
    um_spool_free(&ix->tables.values);
    um_numbers_clear(&ix->by_text);
    um_table_clear(&ix->sets, sizeof(struct um_indexer_xattr_set));
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
