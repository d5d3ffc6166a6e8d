
#include "upper/state.h"

void um_record_demote(struct um_upper *upper, struct um_record *record)
{
    struct um_tree_entry entry;
    bool idle = !record->directory && !record->in_upper && !record->gone && record->opens == 0;
    if (!idle || record->parent == NULL || record->lookups == 0)
        return;
    struct um_slice name = um_slice_of(record->name, record->name_size);
    if (um_upper_below(upper, record->parent, name, &entry) != 0)
        return;
    if (um_upper_add_known(upper, record->node, record->parent->node,
                           um_slice_of(entry.name, entry.name_size), record->lookups) == 0)
        record->lookups = 0; /* and so it is dropped */
}

/* A record of a file of which only the number is known: through any name that the mount shows. */
static int need_by_name(struct um_upper *upper, uint64_t node, struct um_record **record)
{
    struct um_shown_name *names;
    size_t n;
    int error = um_upper_shown_names(upper, node, &names, &n);
    if (error != 0)
        return error;
    struct um_slice name =
        n ? um_slice_of(names[0].name, names[0].name_size) : (struct um_slice){0};
    error = n ? um_record_need(upper, node, names[0].directory, name, false, false, node, record)
              : -ESTALE;
    um_upper_names_free(upper, &names, &n);
    return error;
}

int um_upper_need(struct um_upper *upper, uint64_t node, struct um_record **record)
{
    *record = um_upper_record(upper, node);
    if (*record != NULL) {
        um_record_pin(*record);
        return 0;
    }
    if (node >= upper->base)
        return -ESTALE;
    const struct um_known *known = um_upper_find_known(upper, node);
    struct um_record *parent = known ? um_upper_record(upper, known->parent) : NULL;
    if (parent == NULL)
        return need_by_name(upper, node, record);
    struct um_slice name = um_slice_of(known->name, known->name_size);
    return um_record_need(upper, node, parent, name, false, false, node, record);
}

int um_upper_count(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                   const struct um_upper_hit *hit)
{
    struct um_record *record = um_upper_record(upper, hit->attr.node);
    if (record == NULL && !hit->directory && !hit->in_upper)
        return um_upper_add_known(upper, hit->attr.node, directory->node, hit->name, 1);
    int error = um_record_need(upper, hit->attr.node, directory, name, hit->directory,
                               hit->in_upper, hit->lower, &record);
    if (error != 0)
        return error;
    if (record->parent == NULL && record != upper->root && !record->gone)
        error = um_record_move(upper, record, directory, name);
    um_record_learn(upper, record, hit);
    record->lookups += error == 0;
    um_record_unpin(upper, record);
    return error;
}

/* A record of what has no name; `fd` becomes its own. */
static int need_nameless(struct um_upper *upper, int fd, struct um_record **record)
{
    const struct um_slice nowhere = {0};
    struct stat status;
    uint64_t node = 0;
    if (fstat(fd, &status) != 0)
        return -errno;
    int error = um_upper_node(upper, &status, &node);
    if (error == 0 && um_upper_record(upper, node) != NULL)
        error = -ESTALE;
    if (error == 0)
        error = um_record_need(upper, node, NULL, nowhere, false, true, 0, record);
    if (error != 0)
        return error;
    (*record)->ino = status.st_ino;
    (*record)->fd = fd;
    (*record)->writable = (*record)->gone = (*record)->linkable = true;
    (*record)->capable = false;
    return 0;
}

int um_upper_count_nameless(struct um_upper *upper, int fd, struct um_attr *attr)
{
    struct um_record *record = NULL;
    int error = need_nameless(upper, fd, &record);
    if (error != 0) {
        close(fd);
        return error;
    }
    error = um_record_attr(upper, record, attr);
    record->lookups = error == 0;
    um_record_unpin(upper, record);
    return error;
}

int um_upper_look(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                  struct um_upper_hit *hit)
{
    int error = um_upper_find(upper, directory, name, hit);
    return error || hit->in_upper ? error : um_upper_count_links(upper, &hit->attr);
}

int um_upper_look_below(struct um_upper *upper, const struct um_tree_entry *entry,
                        struct um_upper_hit *hit)
{
    int error = um_upper_hit_below(upper, entry, hit);
    return error || hit->in_upper ? error : um_upper_count_links(upper, &hit->attr);
}

int um_record_shown_attr(struct um_upper *upper, struct um_record *record, struct um_attr *attr)
{
    int error = um_record_attr(upper, record, attr);
    bool counted = record->in_upper || record->directory || record->gone;
    return error || counted ? error : um_upper_count_links(upper, attr);
}

static int find_directory(struct um_upper *upper, uint64_t node, struct um_record **record)
{
    struct um_attr attr;
    *record = um_upper_record(upper, node);
    if (*record != NULL)
        return (*record)->directory ? 0 : -ENOTDIR;
    return node < upper->base && um_tree_getattr(upper->tree, node, &attr) == 0 &&
                   !S_ISDIR(attr.mode)
               ? -ENOTDIR
               : -ESTALE;
}

/* What the lower tree alone says, asked for without the lock: it may wait for a disk. */
struct below {
    uint64_t directory; /* 0: it is not the tree alone that says it */
    int error;
    struct um_tree_entry entry;
};

static void look_below(struct um_upper *upper, uint64_t node, struct um_slice name,
                       struct below *below)
{
    below->directory = 0;
    if (um_upper_check_sought(name) != 0)
        return;
    pthread_rwlock_rdlock(&upper->lock);
    below->directory = um_record_only_below(um_upper_record(upper, node));
    pthread_rwlock_unlock(&upper->lock);
    if (below->directory != 0)
        below->error = um_tree_find(upper->tree, below->directory, (const char *)name.data,
                                    name.size, &below->entry);
}

/* As um_upper_look. What was found below holds while the directory is not in the upper. */
static int find_again(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                      const struct below *below, struct um_upper_hit *hit)
{
    if (below->directory == 0 || um_record_only_below(directory) != below->directory)
        return um_upper_look(upper, directory, name, hit);
    return below->error ? below->error : um_upper_look_below(upper, &below->entry, hit);
}

int um_upper_lookup(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                    struct um_attr *attr)
{
    struct um_slice text = um_slice_of(name, name_size);
    struct um_record *directory;
    struct um_upper_hit hit;
    struct below below;
    look_below(upper, node, text, &below);
    pthread_rwlock_wrlock(&upper->lock);
    int error = find_directory(upper, node, &directory);
    if (error == 0)
        error = find_again(upper, directory, text, &below, &hit);
    if (error == 0)
        error = um_upper_count(upper, directory, text, &hit);
    if (error == 0)
        *attr = hit.attr;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_getattr(struct um_upper *upper, uint64_t node, struct um_attr *attr)
{
    int error = -ESTALE;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    if (record != NULL)
        error = um_record_shown_attr(upper, record, attr);
    pthread_rwlock_unlock(&upper->lock);
    if (record != NULL || node >= upper->base)
        return error;
    error = um_tree_getattr(upper->tree, node, attr);
    if (error != 0)
        return error;
    pthread_rwlock_wrlock(&upper->lock);
    record = um_upper_record(upper, node); /* there may be one by now */
    error = record ? um_record_shown_attr(upper, record, attr) : um_upper_count_links(upper, attr);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_parent(struct um_upper *upper, uint64_t node, uint64_t *parent)
{
    struct um_record *record;
    pthread_rwlock_rdlock(&upper->lock);
    int error = find_directory(upper, node, &record);
    if (error == 0)
        *parent = record->parent ? record->parent->node : record->node;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

uint64_t um_upper_forget(struct um_upper *upper, uint64_t node, uint64_t lookups)
{
    uint64_t left = 0;
    int last = -1;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    struct um_known *known = record ? NULL : um_upper_find_known(upper, node);
    if (record != NULL) {
        record->lookups -= lookups < record->lookups ? lookups : record->lookups;
        left = record->lookups;
        if (left == 0)
            last = um_record_last_hold(record);
        um_record_settle(upper, record);
    } else if (known != NULL && known->lookups > lookups) {
        known->lookups -= lookups;
        left = known->lookups;
    } else if (known != NULL) {
        um_upper_remove_known(upper, known);
    }
    pthread_rwlock_unlock(&upper->lock);
    if (last >= 0)
        close(last);
    return left;
}

bool um_upper_may_renumber(const struct um_upper *upper)
{
    return !(upper->flags & UM_UPPER_TRUSTED);
}

bool um_upper_renumbers(const struct um_upper *upper, const struct um_attr *attr)
{
    bool markable = S_ISREG(attr->mode) || S_ISDIR(attr->mode);
    return um_upper_may_renumber(upper) && !markable && attr->node < upper->base;
}

int um_upper_origin(struct um_upper *upper, uint64_t node, uint64_t *origin)
{
    struct um_attr attr;
    int error = 0;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_record *record = um_upper_record(upper, node);
    if (record != NULL)
        *origin = record->lower == UM_LOWER_REFUSED ? 0 : record->lower;
    else if (node < upper->base && (error = um_tree_getattr(upper->tree, node, &attr)) == 0)
        *origin = node;
    else if (error == 0)
        error = -ESTALE;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

static int copy_target(const char *target, size_t size, char *out, size_t room)
{
    if (room != 0 && size > room)
        return -ERANGE;
    if (room != 0 && size != 0)
        memcpy(out, target, size);
    return (int)size;
}

static int64_t read_link_above(struct um_upper *upper, const struct um_record *record, char *target,
                               size_t size)
{
    char room[PATH_MAX];
    struct um_spot spot = {0};
    int error = um_spot_of(upper, record, &spot);
    if (error != 0)
        return error;
    ssize_t got = readlinkat(spot.fd, spot.name, room, sizeof room);
    int64_t result = got < 0 ? -errno : copy_target(room, (size_t)got, target, size);
    um_spot_close(&spot);
    return result == -ENOENT && um_spot_is_self(&spot) ? -EINVAL : result;
}

int64_t um_upper_readlink(struct um_upper *upper, uint64_t node, char *target, size_t size)
{
    int64_t result;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_record *record = um_upper_record(upper, node);
    if (record != NULL && record->in_upper) {
        result = record->directory ? -EINVAL : read_link_above(upper, record, target, size);
    } else {
        const char *text;
        size_t length;
        result = node < upper->base ? um_tree_readlink(upper->tree, node, &text, &length) : -ESTALE;
        if (result == 0)
            result = copy_target(text, length, target, size);
    }
    pthread_rwlock_unlock(&upper->lock);
    return result;
}
