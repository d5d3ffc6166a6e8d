#include "fastpath_private.h"

/* Directories. Of a read-only mount a directory's cookies are the tree's and stay valid, so that opening
 * one is no message. Of a writable mount an open directory is a listing that settled what it lists
 * (upper.h), and has a handle. */

#define DOTS 2u /* cookies of "." and ".." are 1 and 2; those of other names are shifted by 2 */
#define BATCH 64u

struct um_open_list {
    pthread_mutex_t lock; /* a listing is for one thread at a time */
    struct um_upper_list *list;
};

/* ---- handles ---------------------------------------------------------------------------------------- */

static int add_list(struct um_fastpath *fastpath, struct um_open_list *opened, uint64_t *handle)
{
    int error = 0;
    size_t at = 0;
    pthread_mutex_lock(&fastpath->lists_lock);
    while (at < fastpath->n_lists && fastpath->lists[at] != NULL)
        at++;
    if (at == fastpath->n_lists) {
        error = um_reserve((void **)&fastpath->lists, &fastpath->lists_capacity, at + 1,
                           sizeof(struct um_open_list *));
        fastpath->n_lists += error == 0;
    }
    if (error == 0)
        fastpath->lists[at] = opened;
    pthread_mutex_unlock(&fastpath->lists_lock);
    *handle = at + 1;
    return error;
}

static void free_list(struct um_open_list *opened)
{
    um_upper_list_close(opened->list);
    pthread_mutex_destroy(&opened->lock);
    free(opened);
}

/* The kernel closes a directory when nobody reads it any more. */
static struct um_open_list *find_list(struct um_fastpath *fastpath, uint64_t handle, bool remove)
{
    struct um_open_list *opened = NULL;
    pthread_mutex_lock(&fastpath->lists_lock);
    if (handle != 0 && handle <= fastpath->n_lists) {
        opened = fastpath->lists[handle - 1];
        if (remove)
            fastpath->lists[handle - 1] = NULL;
    }
    pthread_mutex_unlock(&fastpath->lists_lock);
    return opened;
}

void um_lists_close(struct um_fastpath *fastpath)
{
    for (size_t i = 0; i < fastpath->n_lists; i++) {
        if (fastpath->lists[i] != NULL)
            free_list(fastpath->lists[i]);
    }
    free(fastpath->lists);
}

int64_t um_answer_opendir(struct um_exchange *x)
{
    uint64_t handle;
    if (x->fastpath->upper == NULL)
        return -ENOSYS;
    struct um_open_list *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return -ENOMEM;
    int error = um_upper_list_open(x->fastpath->upper, x->header->nodeid, &opened->list);
    if (error != 0) {
        free(opened);
        return error;
    }
    pthread_mutex_init(&opened->lock, NULL);
    error = add_list(x->fastpath, opened, &handle);
    if (error != 0) {
        free_list(opened);
        return error;
    }
    struct fuse_open_out *out = um_reply_room(x, sizeof *out);
    out->fh = handle;
    /* The kernel keeps the listing, and drops it when a request changes the directory. */
    out->open_flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    return sizeof *out;
}

int64_t um_answer_releasedir(struct um_exchange *x)
{
    const struct fuse_release_in *in = UM_BODY(x, struct fuse_release_in);
    if (x->fastpath->upper == NULL)
        return -ENOSYS;
    struct um_open_list *opened = in ? find_list(x->fastpath, in->fh, true) : NULL;
    if (opened == NULL)
        return -EBADF;
    free_list(opened);
    return 0;
}

/* ---- the reply ----------------------------------------------------------------------------------------- */

struct listing {
    struct um_exchange *x;
    struct um_open_list *opened; /* NULL: of the tree */
    uint64_t directory;
    size_t room, used;
    bool plus;
};

/* Add a name; false where it does not fit. Of "." and ".." the kernel takes number and type only. */
static bool add_entry(struct listing *l, struct um_slice name, uint64_t next,
                      const struct um_attr *attr, bool dots)
{
    size_t head = l->plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    size_t size = FUSE_DIRENT_ALIGN(head + name.size);
    if (size > l->room - l->used)
        return false;
    uint8_t *at = l->x->out + l->used;
    memset(at, 0, size);
    struct fuse_dirent dirent = {.ino = attr->node,
                                 .off = next,
                                 .namelen = (uint32_t)name.size,
                                 .type = (attr->mode & S_IFMT) >> 12};
    if (l->plus && !dots)
        um_fill_entry((struct fuse_entry_out *)(void *)at, attr);
    memcpy(at + head - FUSE_NAME_OFFSET, &dirent, FUSE_NAME_OFFSET);
    memcpy(at + head, name.data, name.size);
    l->used += size;
    return true;
}

static uint64_t parent_of(const struct listing *l)
{
    struct um_fastpath *fastpath = l->x->fastpath;
    uint64_t parent;
    int error = fastpath->upper ? um_upper_parent(fastpath->upper, l->directory, &parent)
                                : um_tree_parent(fastpath->tree, l->directory, &parent);
    return error ? l->directory : parent; /* of a removed directory nobody can tell */
}

static bool add_dots(struct listing *l, uint64_t cookie)
{
    struct um_attr attr = {.node = l->directory, .mode = S_IFDIR};
    if (cookie < 1 && !add_entry(l, UM_SLICE_LITERAL("."), 1, &attr, true))
        return false;
    attr.node = cookie < DOTS ? parent_of(l) : 0;
    return cookie >= DOTS || add_entry(l, UM_SLICE_LITERAL(".."), DOTS, &attr, true);
}

static int next_entries(const struct listing *l, uint64_t cookie, struct um_tree_entry *entries,
                        size_t capacity)
{
    return l->opened ? um_upper_list_next(l->opened->list, cookie, entries, capacity)
                     : um_tree_list(l->x->fastpath->tree, l->directory, cookie, entries, capacity);
}

/* Entries that the kernel does not get, or not with their nodes: it will not forget them. */
static void give_back(const struct listing *l, const struct um_tree_entry *entries, int from, int n)
{
    for (int i = from; l->opened != NULL && i < n; i++)
        um_upper_forget(l->x->fastpath->upper, entries[i].attr.node, 1);
}

/* How many are asked for at once: no more than fit, as a guess. */
static size_t batch_for(const struct listing *l)
{
    size_t fit = (l->room - l->used) / (l->plus ? 152 : 32);
    return fit < 1 ? 1 : fit < BATCH ? fit : BATCH;
}

/* 1 where the reply is full, 0 at the end, or an errno. */
static int add_batch(struct listing *l, uint64_t *cookie)
{
    struct um_tree_entry entries[BATCH];
    int n = next_entries(l, *cookie, entries, batch_for(l));
    if (n <= 0)
        return n;
    int i = 0;
    while (i < n && add_entry(l, um_slice_of(entries[i].name, entries[i].name_size),
                              entries[i].next + DOTS, &entries[i].attr, false))
        *cookie = entries[i++].next;
    give_back(l, entries, l->plus ? i : 0, n);
    return i < n ? 1 : 2;
}

static int64_t list(struct listing *l, uint64_t offset)
{
    if (!add_dots(l, offset))
        return (int64_t)l->used;
    uint64_t cookie = offset > DOTS ? offset - DOTS : 0;
    int more;
    while ((more = add_batch(l, &cookie)) == 2)
        ;
    return more < 0 && l->used == 0 ? more : (int64_t)l->used;
}

static int64_t answer(struct um_exchange *x, bool plus)
{
    const struct fuse_read_in *in = UM_BODY(x, struct fuse_read_in);
    if (in == NULL)
        return -EIO;
    struct listing l = {
        .x = x,
        .directory = x->header->nodeid,
        .room = in->size < UM_FUSE_MAX_WRITE ? in->size : UM_FUSE_MAX_WRITE,
        .plus = plus,
    };
    if (x->fastpath->upper == NULL)
        return list(&l, in->offset);
    l.opened = find_list(x->fastpath, in->fh, false);
    if (l.opened == NULL)
        return -EBADF;
    pthread_mutex_lock(&l.opened->lock);
    int64_t size = list(&l, in->offset);
    pthread_mutex_unlock(&l.opened->lock);
    return size;
}

int64_t um_answer_readdir(struct um_exchange *x)
{
    return answer(x, false);
}

int64_t um_answer_readdirplus(struct um_exchange *x)
{
    return answer(x, true);
}
