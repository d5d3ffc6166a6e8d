#include "fastpath/exchange.h"

/* Directories are opened without a message, so a cookie is all the state of a reader. Cookies of
 * directories of lower layers are the tree's, and stay valid. For a directory that is in the upper
 * there is one list that all its readers share (upper/upper.h), until the kernel forgets the
 * directory. */

#define DOTS 2u /* cookies of "." and ".." are 1 and 2; those of other names are shifted by 2 */
#define BATCH 64u

struct um_shared_list {
    uint64_t node;
    uint32_t uses; /* under lists_lock, as the next */
    bool dropped;
    pthread_mutex_t lock; /* one thread lists at a time */
    struct um_upper_list *list; /* under lock; NULL: not opened yet */
};

/* ---- shared lists ------------------------------------------------------------------------------------ */

static void free_list(struct um_shared_list *shared)
{
    um_upper_list_close(shared->list);
    pthread_mutex_destroy(&shared->lock);
    free(shared);
}

/* Return the list of a directory, making it where there is none; lists_lock is held. */
static int need_list(struct um_fastpath *fastpath, uint64_t node, struct um_shared_list **out)
{
    struct um_shared_list_entry *entry = um_table_find(&fastpath->lists, sizeof *entry, node);
    if (entry != NULL) {
        *out = entry->shared;
        return 0;
    }
    if (node == 0)
        return -ESTALE; /* 0 is no node, and no key of the table */
    int error = um_table_reserve(&fastpath->lists, sizeof *entry, 1);
    if (error != 0)
        return error;
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return -ENOMEM;
    (*out)->node = node;
    pthread_mutex_init(&(*out)->lock, NULL);
    entry = um_table_add(&fastpath->lists, sizeof *entry, node);
    entry->shared = *out;
    return 0;
}

/* Take a list out of the table; lists_lock is held. */
static void take_out(struct um_fastpath *fastpath, const struct um_shared_list *shared)
{
    um_table_remove(
        &fastpath->lists, sizeof(struct um_shared_list_entry),
        um_table_find(&fastpath->lists, sizeof(struct um_shared_list_entry), shared->node));
}

static void end_list(struct um_fastpath *fastpath, struct um_shared_list *shared)
{
    bool needed = shared->list != NULL && um_upper_list_is_needed(shared->list);
    pthread_mutex_unlock(&shared->lock);
    pthread_mutex_lock(&fastpath->lists_lock);
    bool last = --shared->uses == 0 && (!needed || shared->dropped);
    if (last)
        take_out(fastpath, shared);
    pthread_mutex_unlock(&fastpath->lists_lock);
    if (last)
        free_list(shared);
}

/* Return the list of a directory, locked. */
static int begin_list(struct um_fastpath *fastpath, uint64_t node, struct um_shared_list **out)
{
    pthread_mutex_lock(&fastpath->lists_lock);
    struct um_shared_list *shared = NULL;
    int error = need_list(fastpath, node, &shared);
    if (error == 0)
        shared->uses++;
    pthread_mutex_unlock(&fastpath->lists_lock);
    if (error != 0)
        return error;
    pthread_mutex_lock(&shared->lock);
    if (shared->list == NULL) {
        error = um_upper_list_open(fastpath->upper, node, &shared->list);
        if (error == 0)
            um_upper_list_share(shared->list);
    }
    if (error != 0)
        end_list(fastpath, shared);
    *out = shared;
    return error;
}

void um_fastpath_drop_list(struct um_fastpath *fastpath, uint64_t node)
{
    pthread_mutex_lock(&fastpath->lists_lock);
    const struct um_shared_list_entry *entry = um_table_find(&fastpath->lists, sizeof *entry, node);
    struct um_shared_list *shared = entry ? entry->shared : NULL;
    if (shared != NULL && shared->uses != 0) {
        shared->dropped = true;
        shared = NULL;
    } else if (shared != NULL) {
        take_out(fastpath, shared);
    }
    pthread_mutex_unlock(&fastpath->lists_lock);
    if (shared != NULL)
        free_list(shared);
}

void um_fastpath_close_lists(struct um_fastpath *fastpath)
{
    for (const struct um_shared_list_entry *entry = NULL;
         (entry = um_table_next(&fastpath->lists, sizeof *entry, entry)) != NULL;)
        free_list(entry->shared);
    um_table_clear(&fastpath->lists, sizeof(struct um_shared_list_entry));
}

/* ---- the reply ----------------------------------------------------------------------------------------- */

struct listing {
    struct um_exchange *x;
    struct um_shared_list *shared; /* NULL: of the tree */
    uint64_t directory;
    size_t room, used;
    bool plus;
};

/* Add a name; false where it does not fit. The kernel uses only number and type of "." and "..". */
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
        um_reply_fill_entry(l->x->fastpath, (struct fuse_entry_out *)(void *)at, attr);
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
    return error ? l->directory : parent; /* a removed directory may have no parent */
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
    return l->shared ? um_upper_list_next(l->shared->list, cookie, entries, capacity)
                     : um_tree_list(l->x->fastpath->tree, l->directory, cookie, entries, capacity);
}

/* Take back the lookups of entries that the kernel gets not at all, or without their nodes: it
 * will not forget them. */
static void give_back(const struct listing *l, const struct um_tree_entry *entries, int from, int n)
{
    for (int i = from; l->shared != NULL && i < n; i++)
        um_upper_forget(l->x->fastpath->upper, entries[i].attr.node, 1);
}

/* Guess how many entries fit. */
static size_t batch_for(const struct listing *l)
{
    size_t fit = (l->room - l->used) / (l->plus ? 152 : 32);
    return fit < 1 ? 1 : fit < BATCH ? fit : BATCH;
}

/* Add some entries: 2 where there may be more, 1 where the reply is full, 0 at the end, or an
 * errno. */
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
    int error = begin_list(x->fastpath, l.directory, &l.shared);
    if (error != 0)
        return error;
    int64_t size = list(&l, in->offset);
    end_list(x->fastpath, l.shared);
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

/* Refuse OPENDIR, unless numbers may change: the kernel caches the content of directories that are
 * opened without a message, and must not cache numbers of files that change. */
int64_t um_answer_opendir(struct um_exchange *x)
{
    const struct um_upper *upper = x->fastpath->upper;
    if (upper == NULL || !um_upper_may_renumber(upper))
        return -ENOSYS; /* once: then it opens directories by itself */
    um_reply_room(x, sizeof(struct fuse_open_out));
    return sizeof(struct fuse_open_out);
}

int64_t um_answer_releasedir(struct um_exchange *x)
{
    (void)x;
    return 0; /* nothing was opened */
}
