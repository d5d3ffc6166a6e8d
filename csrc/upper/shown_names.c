#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

#include "upper/state.h"

#include "system/open_beneath.h"

/* The lower tree knows the names that a file has in the lower layers. The mount shows each of them
 * unless something in the upper hides it, or shows it elsewhere because a directory that it is in
 * was renamed. */

/* ---- directories that were renamed --------------------------------------------------------------- */

struct redirect {
    uint64_t lower; /* the directory that it continues */
    char *path;     /* in the upper, without leading slash */
};

/* All directories of the upper that have a redirect, found by one scan. */
struct um_redirects {
    struct redirect *entries; /* once it is complete, sorted by `lower` */
    size_t n, capacity;
};

static void redirects_free(struct um_redirects *redirects)
{
    if (redirects == NULL)
        return;
    for (size_t i = 0; i < redirects->n; i++)
        free(redirects->entries[i].path);
    free(redirects->entries);
    free(redirects);
}

/* Paths of directories of the upper that are still to be read. */
struct stack {
    char **paths;
    size_t n, capacity;
};

static int push_path(struct stack *stack, char *path)
{
    int error =
        um_reserve((void **)&stack->paths, &stack->capacity, stack->n + 1, sizeof *stack->paths);
    if (error == 0)
        stack->paths[stack->n++] = path;
    else
        free(path);
    return error;
}

static void stack_free(struct stack *stack)
{
    while (stack->n != 0)
        free(stack->paths[--stack->n]);
    free(stack->paths);
}

/* Open a directory of the upper for reading: the descriptor. A path that is too long for one call is
 * walked in pieces. */
static int open_path(const struct um_upper *upper, const char *path)
{
    int at = upper->upper_fd;
    int opened;
    size_t left = strlen(path);
    while (left >= PATH_MAX) {
        char piece[PATH_MAX];
        size_t size = PATH_MAX - 1;
        while (path[size] != '/')
            size--; /* names are shorter */
        memcpy(piece, path, size);
        piece[size] = '\0';
        opened = um_open_beneath(at, piece, O_PATH | O_DIRECTORY, 0);
        if (at != upper->upper_fd)
            close(at);
        if (opened < 0)
            return opened;
        at = opened;
        path += size + 1;
        left -= size + 1;
    }
    opened = um_open_directory(at, left ? path : ".");
    if (at != upper->upper_fd)
        close(at);
    return opened;
}

static char *join(const char *path, const char *name)
{
    char *joined;
    const char *slash = path[0] ? "/" : "";
    return asprintf(&joined, "%s%s%s", path, slash, name) < 0 ? NULL : joined;
}

static int add_redirect(struct um_redirects *redirects, const char *path)
{
    char *copy = strdup(path);
    int error = copy == NULL ? -ENOMEM
                             : um_reserve((void **)&redirects->entries, &redirects->capacity,
                                          redirects->n + 1, sizeof *redirects->entries);
    if (error == 0)
        redirects->entries[redirects->n++] = (struct redirect){.path = copy};
    else
        free(copy);
    return error;
}

/* Take in a directory of the upper: `name` in the directory `fd`, whose path is `above`. */
static int scan_directory(struct um_upper *upper, int fd, const char *above, const char *name,
                          struct stack *stack, struct um_redirects *redirects)
{
    char redirect[PATH_MAX];
    struct um_spot spot = {0};
    int error = um_spot_in(upper, fd, um_slice_of(name, strlen(name)), &spot);
    if (error != 0)
        return error;
    int64_t size = um_mark_get_redirect(upper, &spot, redirect, sizeof redirect);
    /* Nothing shows in what is mounted there, nor in what is refused: no redirect inside of it does. */
    if (size == -EXDEV || size == -EKEYREJECTED)
        return 0;
    char *path = size < 0 ? NULL : join(above, name);
    if (path == NULL)
        return size < 0 ? (int)size : -ENOMEM;
    if (size != 0)
        error = add_redirect(redirects, path);
    if (error != 0) {
        free(path);
        return error;
    }
    return push_path(stack, path);
}

static int scan_children(struct um_upper *upper, const char *path, struct stack *stack,
                         struct um_redirects *redirects)
{
    int fd = open_path(upper, path);
    if (fd < 0)
        return fd == -EXDEV ? 0 : fd; /* something else is mounted there: no part of the upper */
    DIR *stream = fdopendir(fd);
    if (stream == NULL) {
        int error = -errno;
        close(fd);
        return error;
    }
    int error = 0;
    struct dirent *entry;
    while (error == 0 && (errno = 0, entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        int directory = um_disk_is_directory(upper, fd, entry);
        error = directory <= 0 ? directory
                               : scan_directory(upper, fd, path, entry->d_name, stack, redirects);
    }
    if (error == 0)
        error = -errno;
    closedir(stream);
    return error;
}

static int scan_upper(struct um_upper *upper, struct um_redirects *redirects)
{
    struct stack stack = {0};
    int error = scan_children(upper, "", &stack, redirects);
    while (error == 0 && stack.n != 0) {
        um_autofree char *path = stack.paths[--stack.n];
        error = scan_children(upper, path, &stack, redirects);
    }
    stack_free(&stack);
    return error;
}

/* ---- reaching a directory of the mount ------------------------------------------------------------ */

/* The record of the directory `name` in a directory, which is unpinned; -ENOENT where the mount shows
 * none. */
static int step(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                struct um_record **out)
{
    struct um_upper_hit hit;
    int error = um_upper_find(upper, directory, name, &hit);
    if (error == 0 && !hit.directory)
        error = -ENOENT;
    if (error == 0)
        error = um_record_need(upper, hit.attr.node, directory, name, true, hit.in_upper, hit.lower,
                               out);
    um_record_unpin(upper, directory);
    return error;
}

/* The record of the directory that a path of the mount leads to. */
static int walk(struct um_upper *upper, const char *path, struct um_record **out)
{
    int error = 0;
    *out = upper->root;
    um_record_pin(*out);
    while (error == 0 && *path != '\0') {
        size_t size = strcspn(path, "/");
        error = step(upper, *out, um_slice_of(path, size), out);
        path += size + (path[size] == '/');
    }
    return error;
}

static int compare_redirects(const void *a, const void *b)
{
    uint64_t left = ((const struct redirect *)a)->lower,
             right = ((const struct redirect *)b)->lower;
    return (left > right) - (left < right);
}

/* Find out what each directory with a redirect continues, by the rule. */
static int resolve_redirects(struct um_upper *upper, struct um_redirects *redirects)
{
    for (size_t i = 0; i < redirects->n; i++) {
        struct um_record *record;
        int error = walk(upper, redirects->entries[i].path, &record);
        if (error != 0 && error != -ENOENT)
            return error;
        if (error == 0) {
            redirects->entries[i].lower = record->lower;
            um_record_unpin(upper, record);
        }
    }
    if (redirects->n != 0)
        qsort(redirects->entries, redirects->n, sizeof *redirects->entries, compare_redirects);
    return 0;
}

void um_upper_redirects_changed(struct um_upper *upper)
{
    redirects_free(upper->redirects);
    upper->redirects = NULL;
}

static int need_redirects(struct um_upper *upper)
{
    if (upper->redirects != NULL)
        return 0;
    struct um_redirects *redirects = calloc(1, sizeof *redirects);
    if (redirects == NULL)
        return -ENOMEM;
    int error = scan_upper(upper, redirects);
    upper->redirects = redirects; /* so that resolving can't ask for them again */
    if (error == 0)
        error = resolve_redirects(upper, redirects);
    if (error != 0)
        um_upper_redirects_changed(upper);
    return error;
}

/* The directory that continues `lower` because it was renamed. */
static int find_redirected(struct um_upper *upper, uint64_t lower, struct um_record **out)
{
    int error = need_redirects(upper);
    if (error != 0)
        return error;
    struct redirect key = {.lower = lower};
    const struct um_redirects *redirects = upper->redirects;
    const struct redirect *found = redirects->n ? bsearch(&key, redirects->entries, redirects->n,
                                                          sizeof key, compare_redirects)
                                                : NULL;
    if (found == NULL)
        return -ENOENT;
    error = walk(upper, found->path, out);
    if (error == 0 && (*out)->lower != lower) {
        um_record_unpin(upper, *out);
        return -ENOENT;
    }
    return error;
}

/* ---- which directory shows a lower directory ------------------------------------------------------- */

struct climb {
    uint64_t *nodes; /* of the lower tree, from the innermost outwards */
    size_t n, capacity;
};

/* The directories from `lower` outwards up to one that has a record: *shown, or NULL where that one
 * does not continue it any more. */
static int climb_to_record(struct um_upper *upper, uint64_t lower, struct climb *climb,
                           struct um_record **shown)
{
    struct um_record *record;
    while ((record = um_upper_record(upper, lower)) == NULL) {
        const char *name;
        size_t size;
        uint64_t parent;
        int error = um_tree_name(upper->tree, lower, &parent, &name, &size);
        if (error == 0)
            error = um_reserve((void **)&climb->nodes, &climb->capacity, climb->n + 1,
                               sizeof *climb->nodes);
        if (error != 0)
            return error;
        climb->nodes[climb->n++] = lower;
        lower = parent;
    }
    bool shows = record->directory && !record->gone && record->lower == lower;
    *shown = shows ? record : NULL;
    if (shows)
        um_record_pin(record);
    return 0;
}

/* The directory that shows `lower`, asked of *shown, which shows its parent, or is NULL. */
static int descend(struct um_upper *upper, uint64_t lower, struct um_record **shown)
{
    struct um_record *above = *shown, *inside;
    const char *name;
    size_t size;
    uint64_t parent;
    *shown = NULL;
    int error = um_tree_name(upper->tree, lower, &parent, &name, &size);
    if (error != 0 && above != NULL)
        um_record_unpin(upper, above);
    if (error == 0)
        error = above ? step(upper, above, um_slice_of(name, size), &inside) : -ENOENT;
    if (error == 0 && inside->lower == lower) {
        *shown = inside;
        return 0;
    }
    if (error == 0)
        um_record_unpin(upper, inside); /* something else stands there */
    if (error != 0 && error != -ENOENT)
        return error;
    error = find_redirected(upper, lower, shown);
    if (error != 0)
        *shown = NULL;
    return error == -ENOENT ? 0 : error;
}

int um_upper_shown(struct um_upper *upper, uint64_t lower_directory, struct um_record **out)
{
    struct climb climb = {0};
    struct um_record *shown = NULL;
    int error = climb_to_record(upper, lower_directory, &climb, &shown);
    while (error == 0 && climb.n != 0)
        error = descend(upper, climb.nodes[--climb.n], &shown);
    free(climb.nodes);
    if (error != 0)
        return error;
    if (shown == NULL)
        return -ENOENT;
    *out = shown;
    return 0;
}

/* ---- the names of a file ------------------------------------------------------------------------------ */

int um_upper_shows_lower(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                         uint64_t node)
{
    struct um_tree_entry entry;
    if (directory->gone)
        return 0;
    int error = um_upper_below(upper, directory, name, &entry);
    if (error != 0 || entry.attr.node != node)
        return error == -ENOENT ? 0 : error;
    if (!directory->in_upper)
        return 1;
    struct um_spot spot = {0};
    struct stat status;
    enum um_found found;
    struct um_fd_use use;
    error = um_disk_directory(upper, directory, &use);
    if (error != 0)
        return error;
    error = um_spot_in(upper, use.fd, name, &spot);
    if (error == 0)
        error = um_disk_classify(&spot, !directory->unmarked, &found, &status);
    um_fd_cache_release(upper->directories, &use);
    return error ? error : found == UM_FOUND_NOTHING;
}

/* Add a name of the lower tree where the mount shows it. */
static int add_shown(struct um_upper *upper, uint64_t node, const struct um_tree_name *name,
                     struct um_shown_name *names, size_t *n)
{
    struct um_record *directory;
    int error = um_upper_shown(upper, name->directory, &directory);
    if (error != 0)
        return error == -ENOENT ? 0 : error;
    int shows =
        um_upper_shows_lower(upper, directory, um_slice_of(name->name, name->name_size), node);
    if (shows <= 0) {
        um_record_unpin(upper, directory);
        return shows;
    }
    names[(*n)++] = (struct um_shown_name){directory, name->name, name->name_size};
    return 0;
}

int um_upper_shown_names(struct um_upper *upper, uint64_t node, struct um_shown_name **names,
                         size_t *n)
{
    um_autofree struct um_tree_name *below = NULL;
    size_t n_below = 0;
    *names = NULL;
    *n = 0;
    int error = um_tree_names(upper->tree, node, &below, &n_below);
    if (error != 0)
        return error;
    struct um_shown_name *shown = calloc(n_below + 1, sizeof *shown);
    if (shown == NULL)
        return -ENOMEM;
    for (size_t i = 0; error == 0 && i < n_below; i++)
        error = add_shown(upper, node, &below[i], shown, n);
    *names = shown;
    if (error != 0)
        um_upper_names_free(upper, names, n);
    return error;
}

void um_upper_names_free(struct um_upper *upper, struct um_shown_name **names, size_t *n)
{
    for (size_t i = 0; i < *n; i++) {
        um_record_unpin(upper, (*names)[i].directory);
    }
    free(*names);
    *names = NULL;
    *n = 0;
}

/* ---- link counts ---------------------------------------------------------------------------------------- */

#define COUNT_SLOTS 4096u /* a power of two */

struct um_link_count {
    uint64_t node; /* 0: empty */
    uint32_t count;
};

static int count_names(struct um_upper *upper, uint64_t node, uint32_t *count)
{
    struct um_shown_name *names;
    size_t n;
    int error = um_upper_shown_names(upper, node, &names, &n);
    if (error != 0)
        return error;
    *count = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    um_upper_names_free(upper, &names, &n);
    return 0;
}

int um_upper_count_links(struct um_upper *upper, struct um_attr *attr)
{
    if (attr->nlink <= 1 || S_ISDIR(attr->mode) || attr->node >= upper->base || !upper->may_hide)
        return 0;
    size_t slot = um_hash_node(attr->node) & (COUNT_SLOTS - 1);
    if (upper->link_counts != NULL && upper->link_counts[slot].node == attr->node) {
        attr->nlink = upper->link_counts[slot].count;
        return 0;
    }
    uint32_t count = 0;
    int error = count_names(upper, attr->node, &count);
    if (error != 0)
        return error;
    attr->nlink = count ? count : 1; /* somebody may hold a file that has no name any more */
    if (upper->link_counts == NULL)
        upper->link_counts = calloc(COUNT_SLOTS, sizeof *upper->link_counts);
    if (upper->link_counts != NULL)
        upper->link_counts[slot] = (struct um_link_count){attr->node, attr->nlink};
    return 0;
}

void um_upper_names_changed(struct um_upper *upper)
{
    upper->may_hide = true;
    free(upper->link_counts);
    upper->link_counts = NULL;
}

void um_upper_names_close(struct um_upper *upper)
{
    um_upper_names_changed(upper);
    um_upper_redirects_changed(upper);
}
