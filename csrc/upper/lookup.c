#include "upper/lookup.h"

#include "upper/reach.h"
#include "upper/shown_names.h"

void um_upper_node_demote(struct um_upper *upper, struct um_upper_node *node)
{
    struct um_tree_entry entry;
    bool idle = !node->directory && !node->in_upper && !node->gone && node->opens == 0;
    if (!idle || node->parent == NULL || node->lookups == 0)
        return;
    struct um_slice name = um_upper_node_name(node);
    if (um_upper_find_lower(upper, node->parent, name, &entry) != 0)
        return;
    if (um_upper_known_add(upper, node->number, node->parent->number,
                           um_slice_of(entry.name, entry.name_size), node->lookups) == 0)
        node->lookups = 0; /* and so it is dropped */
}

void um_upper_node_release(struct um_upper *upper, struct um_upper_node *node)
{
    um_upper_node_demote(upper, node);
    um_upper_node_unpin(upper, node);
}

/* Load a file of which only the number is known, at any name that the mount shows. */
static int need_by_name(struct um_upper *upper, uint64_t number, struct um_upper_node **node)
{
    struct um_upper_shown_name *names;
    size_t n;
    int error = um_upper_shown_names(upper, number, &names, &n);
    if (error != 0)
        return error;
    struct um_slice name =
        n ? um_slice_of(names[0].name, names[0].name_size) : (struct um_slice){0};
    error =
        n ? um_upper_node_add(upper, number, names[0].directory, name, false, false, number, node)
          : -ESTALE;
    um_upper_shown_names_free(upper, &names, &n);
    return error;
}

int um_upper_node_load(struct um_upper *upper, uint64_t number, struct um_upper_node **node)
{
    *node = um_upper_node_find(upper, number);
    if (*node != NULL) {
        um_upper_node_pin(*node);
        return 0;
    }
    if (number >= upper->base)
        return -ESTALE;
    const struct um_upper_known *known = um_upper_known_find(upper, number);
    struct um_upper_node *parent = known ? um_upper_node_find(upper, known->parent) : NULL;
    if (parent == NULL)
        return need_by_name(upper, number, node);
    struct um_slice name = um_slice_of(known->name, known->name_size);
    return um_upper_node_add(upper, number, parent, name, false, false, number, node);
}

/* Whether a lower directory was found below itself. In an upper that was tampered with, a directory may
 * continue a lower one in which lies one of those above it: paths would never end. */
static bool is_loop(const struct um_upper_node *node, const struct um_upper_node *directory,
                    const struct um_upper_hit *hit)
{
    if (node == NULL || !node->in_upper || !hit->directory || hit->in_upper)
        return false;
    while (directory != NULL && directory != node)
        directory = directory->parent;
    return directory == node;
}

int um_upper_count_lookup(struct um_upper *upper, struct um_upper_node *directory,
                          struct um_slice name, const struct um_upper_hit *hit)
{
    struct um_upper_node *node = um_upper_node_find(upper, hit->attr.node);
    if (node == NULL && !hit->directory && !hit->in_upper)
        return um_upper_known_add(upper, hit->attr.node, directory->number, hit->name, 1);
    if (is_loop(node, directory, hit))
        return -EIO;
    int error = um_upper_node_add(upper, hit->attr.node, directory, name, hit->directory,
                                  hit->in_upper, hit->lower, &node);
    if (error != 0)
        return error;
    if (node->parent == NULL && node != upper->root && !node->gone)
        error = um_upper_node_move(upper, node, directory, name);
    um_upper_node_update(upper, node, hit);
    node->lookups += error == 0;
    um_upper_node_unpin(upper, node);
    return error;
}

/* Make a node of a file without a name, which owns `fd`. */
static int need_nameless(struct um_upper *upper, int fd, struct um_upper_node **node)
{
    const struct um_slice nowhere = {0};
    struct stat status;
    uint64_t number = 0;
    if (fstat(fd, &status) != 0)
        return -errno;
    int error = um_upper_number(upper, &status, &number);
    if (error == 0 && um_upper_node_find(upper, number) != NULL)
        error = -ESTALE;
    if (error == 0)
        error = um_upper_node_add(upper, number, NULL, nowhere, false, true, 0, node);
    if (error != 0)
        return error;
    (*node)->ino = status.st_ino;
    (*node)->fd = fd;
    (*node)->writable = (*node)->gone = (*node)->linkable = true;
    (*node)->capable = false;
    (*node)->regular = (*node)->incapable = true;
    return 0;
}

int um_upper_node_add_nameless(struct um_upper *upper, int fd, struct um_attr *attr)
{
    struct um_upper_node *node = NULL;
    int error = need_nameless(upper, fd, &node);
    if (error != 0) {
        close(fd);
        return error;
    }
    error = um_upper_node_attr(upper, node, attr);
    node->lookups = error == 0;
    um_upper_node_unpin(upper, node);
    return error;
}

int um_upper_find_counted(struct um_upper *upper, struct um_upper_node *directory,
                          struct um_slice name, struct um_upper_hit *hit)
{
    int error = um_upper_find(upper, directory, name, hit);
    return error || hit->in_upper ? error : um_upper_count_links(upper, &hit->attr);
}

int um_upper_hit_lower_counted(struct um_upper *upper, const struct um_tree_entry *entry,
                               struct um_upper_hit *hit)
{
    int error = um_upper_hit_lower(upper, entry, hit);
    return error || hit->in_upper ? error : um_upper_count_links(upper, &hit->attr);
}

int um_upper_node_attr_counted(struct um_upper *upper, struct um_upper_node *node,
                               struct um_attr *attr)
{
    int error = um_upper_node_attr(upper, node, attr);
    bool counted = node->in_upper || node->directory || node->gone;
    return error || counted ? error : um_upper_count_links(upper, attr);
}

static int find_directory(struct um_upper *upper, uint64_t number, struct um_upper_node **node)
{
    struct um_attr attr;
    *node = um_upper_node_find(upper, number);
    if (*node != NULL)
        return (*node)->directory ? 0 : -ENOTDIR;
    return number < upper->base && um_tree_getattr(upper->tree, number, &attr) == 0 &&
                   !S_ISDIR(attr.mode)
               ? -ENOTDIR
               : -ESTALE;
}

/* An entry of the lower tree, read without the lock, since that may wait for a disk. */
struct below {
    uint64_t directory; /* 0: the upper may have or hide the name */
    int error;
    struct um_tree_entry entry;
};

static void look_below(struct um_upper *upper, uint64_t number, struct um_slice name,
                       struct below *below)
{
    below->directory = 0;
    if (um_upper_check_sought(name) != 0)
        return;
    pthread_rwlock_rdlock(&upper->lock);
    below->directory = um_upper_node_only_lower(um_upper_node_find(upper, number));
    pthread_rwlock_unlock(&upper->lock);
    if (below->directory != 0)
        below->error = um_tree_find(upper->tree, below->directory, (const char *)name.data,
                                    name.size, &below->entry);
}

/* As um_upper_find_counted. The entry of the lower tree still holds if the directory is not in the
 * upper. */
static int find_again(struct um_upper *upper, struct um_upper_node *directory, struct um_slice name,
                      const struct below *below, struct um_upper_hit *hit)
{
    if (below->directory == 0 || um_upper_node_only_lower(directory) != below->directory)
        return um_upper_find_counted(upper, directory, name, hit);
    return below->error ? below->error : um_upper_hit_lower_counted(upper, &below->entry, hit);
}

int um_upper_lookup(struct um_upper *upper, uint64_t number, const char *name, size_t name_size,
                    struct um_attr *attr)
{
    struct um_slice text = um_slice_of(name, name_size);
    struct um_upper_node *directory;
    struct um_upper_hit hit;
    struct below below;
    look_below(upper, number, text, &below);
    pthread_rwlock_wrlock(&upper->lock);
    int error = find_directory(upper, number, &directory);
    if (error == 0)
        error = find_again(upper, directory, text, &below, &hit);
    if (error == 0)
        error = um_upper_count_lookup(upper, directory, text, &hit);
    if (error == 0)
        *attr = hit.attr;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_getattr(struct um_upper *upper, uint64_t number, struct um_attr *attr)
{
    int error = -ESTALE;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL)
        error = um_upper_node_attr_counted(upper, node, attr);
    pthread_rwlock_unlock(&upper->lock);
    if (node != NULL || number >= upper->base)
        return error;
    error = um_tree_getattr(upper->tree, number, attr);
    if (error != 0)
        return error;
    pthread_rwlock_wrlock(&upper->lock);
    node = um_upper_node_find(upper, number); /* there may be one by now */
    error =
        node ? um_upper_node_attr_counted(upper, node, attr) : um_upper_count_links(upper, attr);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_parent(struct um_upper *upper, uint64_t number, uint64_t *parent)
{
    struct um_upper_node *node;
    pthread_rwlock_rdlock(&upper->lock);
    int error = find_directory(upper, number, &node);
    if (error == 0)
        *parent = node->parent ? node->parent->number : node->number;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

uint64_t um_upper_forget(struct um_upper *upper, uint64_t number, uint64_t lookups)
{
    uint64_t left = 0;
    int last = -1;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    struct um_upper_known *known = node ? NULL : um_upper_known_find(upper, number);
    if (node != NULL) {
        node->lookups -= lookups < node->lookups ? lookups : node->lookups;
        left = node->lookups;
        last = um_upper_node_take_descriptor(upper, node);
        um_upper_node_drop_unused(upper, node);
    } else if (known != NULL && known->lookups > lookups) {
        known->lookups -= lookups;
        left = known->lookups;
    } else if (known != NULL) {
        um_upper_known_remove(upper, known);
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

int um_upper_origin(struct um_upper *upper, uint64_t number, uint64_t *origin)
{
    struct um_attr attr;
    int error = 0;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL)
        *origin = node->lower == UM_UPPER_LOWER_REFUSED ? 0 : node->lower;
    else if (number < upper->base && (error = um_tree_getattr(upper->tree, number, &attr)) == 0)
        *origin = number;
    else if (error == 0)
        error = -ESTALE;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

static int64_t read_link_above(struct um_upper *upper, const struct um_upper_node *node,
                               char *target, size_t size)
{
    char room[PATH_MAX];
    struct um_upper_reached reached = {0};
    int error = um_upper_reach(upper, node, &reached);
    if (error != 0)
        return error;
    ssize_t got = readlinkat(reached.fd, reached.name, room, sizeof room);
    int64_t result =
        got < 0 ? -errno : um_slice_copy_out(um_slice_of(room, (size_t)got), target, size);
    um_upper_reached_close(&reached);
    return result == -ENOENT && um_upper_reached_is_self(&reached) ? -EINVAL : result;
}

int64_t um_upper_readlink(struct um_upper *upper, uint64_t number, char *target, size_t size)
{
    int64_t result;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL && node->in_upper) {
        result = node->directory ? -EINVAL : read_link_above(upper, node, target, size);
    } else {
        const char *text;
        size_t length;
        result =
            number < upper->base ? um_tree_readlink(upper->tree, number, &text, &length) : -ESTALE;
        if (result == 0)
            result = um_slice_copy_out(um_slice_of(text, length), target, size);
    }
    pthread_rwlock_unlock(&upper->lock);
    return result;
}
