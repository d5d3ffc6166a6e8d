#include <sys/stat.h>

#include "index/indexer.h"

#define MAX_FOLLOWED 16384u /* bytes of all targets together: so links cost no more than a name */
#define MAX_LINKS 40u /* symlinks on the way to one name, as in the kernel (MAXSYMLINKS) */

static int push_part(struct um_index_path *path, struct um_slice part)
{
    int error =
        um_reserve((void **)&path->parts, &path->capacity, path->n + 1, sizeof *path->parts);
    if (error == 0)
        path->parts[path->n++] = part;
    return error;
}

/* Split a path by rule 1 of docs/explanation/layers.md: drop "" and ".", and let ".." drop the
 * part before it. */
int um_index_path_split(struct um_slice text, struct um_index_path *path)
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

/* Return the symlink of this layer that a name in the directory `at` is now; UM_NONE where it is
 * none. */
static uint32_t symlink_at(const struct um_indexer_tables *t, uint32_t at, uint32_t name)
{
    if (at == UM_NONE || name == UM_NONE || !um_indexer_is_directory(t, at))
        return UM_NONE;
    uint32_t inode = um_indexer_inode_of(t, name);
    return inode != UM_NONE && S_ISLNK(t->inodes[inode].mode) ? inode : UM_NONE;
}

/* Return whether the way to the first `n` parts leads through a symlink; mostly it does not. */
static bool leads_through_link(const struct um_indexer *ix, const struct um_index_path *path,
                               size_t n)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n && um_indexer_is_directory(&ix->tables, at); i++) {
        uint32_t name = um_indexer_find_name(ix, at, path->parts[i]);
        if (symlink_at(&ix->tables, at, name) != UM_NONE)
            return true;
        if (name == UM_NONE)
            return false;
        at = name;
    }
    return false;
}

/* Put the parts of a target, including "..", before the pending ones (the next one is last). */
static int push_target(struct um_index_path *pending, struct um_slice target)
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

/* Continue with the target of a symlink. Its text is copied, because the strings move when names
 * are added. */
static int follow_link(struct um_indexer *ix, uint32_t inode)
{
    const struct um_indexer_inode *link = &ix->tables.inodes[inode];
    struct um_index_way *way = &ix->way;
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

static int push_walked(struct um_index_way *way, struct um_slice part)
{
    int error = um_reserve((void **)&way->directories, &way->capacity, way->walked.n + 1,
                           sizeof *way->directories);
    if (error != 0)
        return error;
    way->directories[way->walked.n] = way->at;
    return push_part(&way->walked, part);
}

/* Take the next pending part. */
static int take_part(struct um_indexer *ix)
{
    struct um_index_way *way = &ix->way;
    struct um_slice part = way->pending.parts[--way->pending.n];
    if (um_slice_equal(part, UM_SLICE_LITERAL(".."))) {
        if (way->walked.n != 0)
            way->at = way->directories[--way->walked.n];
        return 0;
    }
    uint32_t name = way->at == UM_NONE ? UM_NONE : um_indexer_find_name(ix, way->at, part);
    uint32_t link = symlink_at(&ix->tables, way->at, name);
    if (link != UM_NONE)
        return follow_link(ix, link);
    int error = push_walked(way, part);
    way->at = name != UM_NONE && um_indexer_is_directory(&ix->tables, name) ? name : UM_NONE;
    return error;
}

/* Check a path that symlinks led to: -ELOOP where a part is an impossible name. */
static int check_walked(const struct um_index_path *walked, bool literal)
{
    size_t bytes = 0;
    for (size_t i = 0; i < walked->n; i++) {
        struct um_slice hidden;
        bytes += walked->parts[i].size + 1;
        if (walked->parts[i].size > MAX_COMPONENT || bytes > MAX_PATH_BYTES)
            return -ELOOP;
        if (!literal && um_whiteout_classify(walked->parts[i], &hidden) != UM_NAME_PLAIN)
            return -ELOOP;
    }
    return 0;
}

static int begin_way(struct um_index_way *way, const struct um_index_path *path)
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

/* Apply rule 6: replace the first `n` parts of a path by those of the directory that they lead to,
 * through symlinks of this layer as they are now. -ELOOP where they form a loop, or lead to an
 * impossible name. */
int um_indexer_follow_links(struct um_indexer *ix, struct um_index_path *path, size_t n)
{
    struct um_index_way *way = &ix->way;
    if (n == 0 || !leads_through_link(ix, path, n))
        return 0;
    int error = begin_way(way, path);
    while (error == 0 && way->pending.n > path->n - n)
        error = take_part(ix);
    if (error == 0)
        error = check_walked(&way->walked, ix->literal);
    while (error == 0 && way->pending.n != 0)
        error = push_part(&way->walked, way->pending.parts[--way->pending.n]);
    if (error != 0)
        return error;
    ix->n_followed++;
    struct um_index_path old = *path;
    *path = way->walked;
    way->walked = old;
    return 0;
}

/* Descend to the directory of the first `n` parts, creating implied directories on the way. */
int um_indexer_enter(struct um_indexer *ix, const struct um_index_path *path, size_t n,
                     uint32_t *directory, uint64_t header, struct um_fault *fault)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int error = um_indexer_intern_name(ix, at, path->parts[i], &at, header, fault);
        if (error != 0)
            return error;
        if (um_indexer_is_directory(&ix->tables, at))
            continue;
        uint32_t inode;
        error = um_indexer_new_inode(ix, &um_indexer_implied_directory, &inode, header, fault);
        if (error != 0)
            return error;
        um_indexer_bind(&ix->tables, at, inode);
    }
    *directory = at;
    return 0;
}

/* Do the same, but only create names: a mark does not create the directory that it is in
 * (finish_names). */
int um_indexer_enter_marked(struct um_indexer *ix, const struct um_index_path *path, size_t n,
                            uint32_t *directory, uint64_t header, struct um_fault *fault)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int error = um_indexer_intern_name(ix, at, path->parts[i], &at, header, fault);
        if (error != 0)
            return error;
        ix->tables.names[at].flags |= UM_NAME_CARRIES;
    }
    *directory = at;
    return 0;
}

/* Return the inode that the target of a hard link has in this layer now, UM_NONE where there is
 * none; *directory says that it is a directory. */
uint32_t um_indexer_resolve(const struct um_indexer *ix, const struct um_index_path *path,
                            bool *directory)
{
    uint32_t at = 0;
    *directory = path->n == 0;
    for (size_t i = 0; i < path->n; i++) {
        if (i != 0 && !um_indexer_is_directory(&ix->tables, at))
            return UM_NONE;
        at = um_indexer_find_name(ix, at, path->parts[i]);
        if (at == UM_NONE)
            return UM_NONE;
    }
    *directory = um_indexer_is_directory(&ix->tables, at);
    return *directory ? UM_NONE : um_indexer_inode_of(&ix->tables, at);
}

/* Classify a path: the kind of its last part, or LEFTOVER where an earlier part is a whiteout of
 * any kind, because the entry is not shown then. */
int um_index_path_classify(const struct um_index_path *path, enum um_whiteout_kind *kind,
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

int um_index_path_check(const struct um_index_path *path, bool *marked, uint64_t header,
                        struct um_fault *fault)
{
    *marked = false;
    for (size_t i = 0; i < path->n; i++) {
        struct um_slice hidden;
        if (path->parts[i].size > MAX_COMPONENT)
            return um_refuse(fault, -EBADMSG, header, "a name of %zu bytes (at most 255)",
                             path->parts[i].size);
        *marked |= um_whiteout_classify(path->parts[i], &hidden) != UM_NAME_PLAIN;
    }
    return 0;
}
