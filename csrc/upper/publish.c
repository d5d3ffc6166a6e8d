#include "upper/publish.h"

#include <fcntl.h>

#include "marks/trust.h"
#include "system/open_beneath.h"

/* A directory in which copies appear. Nothing changes for users of the mount, so neither do its times. */
struct place {
    int fd;
    struct um_fd_use use;
    bool timed;
    struct timespec times[2];
};

static int place_open(struct um_upper *upper, const struct um_upper_node *directory,
                      struct place *place)
{
    struct stat status;
    int error = um_upper_reach_directory(upper, directory, &place->use);
    if (error != 0)
        return error;
    place->fd = place->use.fd;
    place->timed = fstat(place->fd, &status) == 0;
    if (place->timed) {
        place->times[0] = status.st_atim;
        place->times[1] = status.st_mtim;
    }
    return 0;
}

static void place_close(struct um_upper *upper, struct place *place)
{
    struct um_upper_reached reached = {0};
    if (place->timed && um_upper_reach_name(upper, place->fd, (struct um_slice){0}, &reached) == 0)
        um_upper_reached_set_times(&reached, place->times);
    um_fd_cache_release(upper->directories, &place->use);
}

/* The error of a name that was free when the lower tree's entry was found: another program writes to the
 * upper. */
static int occupied(int error)
{
    bool taken = error == EEXIST || error == ENOTEMPTY || error == ENOTDIR || error == EISDIR;
    return taken ? -EIO : -error;
}

/* Move what stands at (fd, entry) to a name that is free. */
static int move_in(int fd, const char *entry, const struct place *place, const char *name)
{
    int result = renameat2(fd, entry, place->fd, name, RENAME_NOREPLACE);
    if (result != 0 && (errno == EINVAL || errno == ENOSYS))
        result = renameat(fd, entry, place->fd, name);
    return result == 0 ? 0 : occupied(errno);
}

static void terminate(struct um_slice name, char text[UM_NAME_MAX + 1])
{
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
}

static struct um_slice name_of(const struct um_upper_shown_name *name)
{
    return um_slice_of(name->name, name->name_size);
}

/* Move what stands at (fd, entry) into the upper. */
static int publish_at(struct um_upper *upper, int fd, const char *entry,
                      const struct um_upper_node *directory, struct um_slice name)
{
    struct place place;
    char text[UM_NAME_MAX + 1];
    int error = place_open(upper, directory, &place);
    if (error != 0)
        return error;
    terminate(name, text);
    error = move_in(fd, entry, &place, text);
    place_close(upper, &place);
    return error;
}

static int publish_copy(struct um_upper *upper, struct um_upper_copy *copy,
                        const struct um_upper_node *directory, struct um_slice name)
{
    int error = publish_at(upper, upper->work_fd, copy->name, directory, name);
    if (error == 0)
        copy->name[0] = '\0';
    return error;
}

/* Give what stands at (fd, entry) another name in the upper; where entry is NULL, remove that name. */
static int link_name(struct um_upper *upper, int fd, const char *entry,
                     const struct um_upper_shown_name *name)
{
    struct place place;
    char text[UM_NAME_MAX + 1];
    int error = place_open(upper, name->directory, &place);
    if (error != 0)
        return error;
    terminate(name_of(name), text);
    int result = entry ? linkat(fd, entry, place.fd, text, 0) : unlinkat(place.fd, text, 0);
    if (result != 0)
        error = occupied(errno);
    place_close(upper, &place);
    return error;
}

/* Remove the first *linked names, from the last one on. Where that fails, *linked is the number that is
 * left. */
static void unlink_names(struct um_upper *upper, const struct um_upper_shown_name *names,
                         size_t *linked)
{
    while (*linked != 0 && link_name(upper, -1, NULL, &names[*linked - 1]) == 0)
        --*linked;
}

int um_upper_link_names(struct um_upper *upper, int fd, const char *entry,
                        const struct um_upper_shown_name *names, size_t n, size_t *linked)
{
    int error = 0;
    *linked = 0;
    for (size_t i = 0; error == 0 && i < n; i++)
        error = um_upper_copy_up_directory(upper, names[i].directory);
    while (error == 0 && *linked < n) {
        error = link_name(upper, fd, entry, &names[*linked]);
        *linked += error == 0;
    }
    /* All or none: otherwise some names would be another file than the rest. */
    if (error != 0)
        unlink_names(upper, names, linked);
    return error;
}

static int open_index(struct um_upper *upper)
{
    struct stat status;
    bool made = mkdirat(upper->work_fd, UM_UPPER_INDEX, 0700) == 0;
    if (!made && errno != EEXIST)
        return -errno;
    int disinherited =
        made ? um_upper_work_strip_acls(upper, upper->work_fd, UM_UPPER_INDEX, S_IFDIR) : 0;
    if (disinherited != 0)
        return disinherited;
    int fd = um_open_beneath(upper->work_fd, UM_UPPER_INDEX, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    int error = um_result(fstat(fd, &status));
    /* Its entries get the names of lower files, so nobody else may make some. */
    if (error == 0 && !um_mark_is_trusted(status.st_uid, status.st_mode))
        error = -EIO;
    if (error != 0)
        close(fd);
    return error ? error : fd;
}

/* As um_upper_link_names, but the last name is what stands at (fd, entry) itself. */
static int link_and_move(struct um_upper *upper, int fd, const char *entry,
                         const struct um_upper_shown_name *names, size_t n, size_t *linked)
{
    const struct um_upper_shown_name *last = &names[n - 1];
    *linked = 0;
    int error = um_upper_copy_up_directory(upper, last->directory);
    if (error == 0)
        error = um_upper_link_names(upper, fd, entry, names, n - 1, linked);
    if (error != 0)
        return error;
    error = publish_at(upper, fd, entry, last->directory, name_of(last));
    if (error != 0)
        unlink_names(upper, names, linked);
    return error;
}

/* Make every name of a group a link to the copy. If that is interrupted, the next mount finds the entry
 * in `index` and completes the group. The last step moves that entry to the last name, so that no link
 * count includes an entry that could not be removed. */
static int publish_group(struct um_upper *upper, uint64_t number, struct um_upper_copy *copy,
                         const struct um_upper_shown_name *names, size_t n)
{
    char entry[32];
    size_t linked = 0;
    int fd = open_index(upper);
    if (fd < 0)
        return fd;
    snprintf(entry, sizeof entry, "%llu", (unsigned long long)number);
    int error = um_result(renameat(upper->work_fd, copy->name, fd, entry));
    if (error == 0) {
        copy->name[0] = '\0';
        error = link_and_move(upper, fd, entry, names, n, &linked);
        if (error != 0 && linked == 0)
            unlinkat(fd, entry, 0);
        else
            error = 0; /* names that could not be removed again are left to the next mount */
    }
    close(fd);
    unlinkat(upper->work_fd, UM_UPPER_INDEX, AT_REMOVEDIR);
    return error;
}

/* Find the only name that a file has in the lower tree, if the mount shows it: 0; 1 where all names have
 * to be looked for; or an errno. */
static int find_own_name(struct um_upper *upper, const struct um_upper_node *node,
                         struct um_upper_shown_name **names, size_t *n)
{
    struct um_attr attr;
    struct um_slice name = um_upper_node_name(node);
    int error = um_tree_getattr(upper->tree, node->lower, &attr);
    if (error != 0)
        return error;
    if (node->parent == NULL || attr.nlink > 1)
        return 1;
    int shows = um_upper_shows_lower(upper, node->parent, name, node->lower);
    if (shows <= 0)
        return shows < 0 ? shows : 1;
    *names = malloc(sizeof **names);
    if (*names == NULL)
        return -ENOMEM;
    um_upper_node_pin(node->parent); /* as um_upper_shown_names does */
    (*names)[(*n)++] = (struct um_upper_shown_name){node->parent, node->name, node->name_size};
    return 0;
}

static bool is_place_of(const struct um_upper_shown_name *name, const struct um_upper_node *node)
{
    return name->directory == node->parent &&
           um_slice_equal(name_of(name), um_upper_node_name(node));
}

/* Find the names that the copy of a file shall have, the place of the node first. */
static int find_names(struct um_upper *upper, const struct um_upper_node *node,
                      struct um_upper_shown_name **names, size_t *n)
{
    *names = NULL;
    *n = 0;
    if (node->gone)
        return 0;
    int error = find_own_name(upper, node, names, n);
    if (error <= 0)
        return error;
    error = um_upper_shown_names(upper, node->lower, names, n);
    for (size_t i = 1; i < *n; i++) {
        if (is_place_of(&(*names)[i], node)) {
            struct um_upper_shown_name first = (*names)[0];
            (*names)[0] = (*names)[i];
            (*names)[i] = first;
        }
    }
    return error;
}

static int publish_named(struct um_upper *upper, struct um_upper_node *node,
                         struct um_upper_copy *copy, const struct um_upper_shown_name *names,
                         size_t n)
{
    int error = 0;
    if (!is_place_of(&names[0], node))
        error = um_upper_node_move(upper, node, names[0].directory, name_of(&names[0]));
    if (error == 0)
        error = um_upper_copy_up_directory(upper, names[0].directory);
    if (error != 0)
        return error;
    return n == 1 ? publish_copy(upper, copy, names[0].directory, name_of(&names[0]))
                  : publish_group(upper, node->lower, copy, names, n);
}

/* Publish the copy of a node that has no name any more: it has none, either. */
static int publish_nameless(struct um_upper *upper, struct um_upper_node *node,
                            struct um_upper_copy *copy)
{
    int fd = copy->fd;
    if (fd < 0)
        fd = um_open_beneath(upper->work_fd, copy->name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    copy->fd = fd;
    if (unlinkat(upper->work_fd, copy->name, copy->directory ? AT_REMOVEDIR : 0) != 0)
        return -errno;
    copy->name[0] = '\0';
    node->gone = true;
    return 0;
}

/* Note that a node is in the upper now. */
static void adopt(struct um_upper_node *node, struct um_upper_copy *copy)
{
    node->in_upper = true;
    node->unmarked = node->directory;
    node->ino = copy->ino;
    node->data = copy->data;
    node->capable = copy->capable;
    if (node->fd < 0 && copy->fd >= 0 && (node->gone || node->opens != 0)) {
        node->fd = copy->fd;
        node->writable = (fcntl(copy->fd, F_GETFL) & O_ACCMODE) == O_RDWR;
        copy->fd = -1;
    }
}

int um_upper_copy_publish(struct um_upper *upper, struct um_upper_node *node,
                          struct um_upper_copy *copy)
{
    struct um_upper_shown_name *names;
    size_t n;
    int error = find_names(upper, node, &names, &n);
    if (error == 0)
        error = n != 0 ? publish_named(upper, node, copy, names, n)
                       : publish_nameless(upper, node, copy);
    if (error == 0)
        adopt(node, copy);
    um_upper_shown_names_free(upper, &names, &n);
    return error;
}

static int copy_directory(struct um_upper *upper, struct um_upper_node *directory)
{
    struct um_attr attr;
    struct um_upper_copy copy = {0};
    int error = um_tree_getattr(upper->tree, directory->lower, &attr);
    if (error == 0)
        error = um_upper_copy_make(upper, directory->lower, &attr, NULL, false, &copy);
    if (error != 0)
        return error;
    if (directory->gone)
        error = publish_nameless(upper, directory, &copy);
    else
        error = publish_copy(upper, &copy, directory->parent, um_upper_node_name(directory));
    if (error == 0)
        adopt(directory, &copy);
    um_upper_copy_discard(upper, &copy);
    return error;
}

int um_upper_copy_up_directory(struct um_upper *upper, struct um_upper_node *directory)
{
    um_autofree struct um_upper_node **missing = NULL; /* the innermost first */
    size_t n = 0, capacity = 0;
    if (directory->gone && !directory->in_upper)
        return copy_directory(upper, directory);
    for (struct um_upper_node *at = directory; !at->in_upper; at = at->parent) {
        if (at->gone || at->parent == NULL)
            return -ESTALE;
        int error = um_reserve((void **)&missing, &capacity, n + 1, sizeof *missing);
        if (error != 0)
            return error;
        missing[n++] = at;
    }
    int error = 0;
    while (error == 0 && n != 0)
        error = copy_directory(upper, missing[--n]);
    return error;
}
