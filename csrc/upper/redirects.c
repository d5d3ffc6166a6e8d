#include "upper/redirects.h"

#include <fcntl.h>

#include "system/directory_stream.h"
#include "system/open_beneath.h"
#include "upper/marks.h"
#include "upper/rule.h"

struct redirect {
    uint64_t lower; /* the directory that it continues */
    char *path;     /* in the upper, without leading slash */
};

/* All directories of the upper that have a redirect, found by one scan. */
struct um_upper_redirects {
    struct redirect *entries; /* once it is complete, sorted by `lower` */
    size_t n, capacity;
};

static void redirects_free(struct um_upper_redirects *redirects)
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

/* Open a directory of the upper for reading. A path that is too long for one call is walked in pieces.
 * The descriptor, or an errno. */
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

static int add_redirect(struct um_upper_redirects *redirects, const char *path)
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

/* Scan a directory of the upper: `name` in the directory `fd`, whose path is `above`. */
static int scan_directory(struct um_upper *upper, int fd, const char *above, const char *name,
                          struct stack *stack, struct um_upper_redirects *redirects)
{
    char redirect[PATH_MAX];
    struct um_upper_reached reached = {0};
    int error = um_upper_reach_name(upper, fd, um_slice_text(name), &reached);
    if (error != 0)
        return error;
    int64_t size = um_upper_mark_get_redirect(upper, &reached, redirect, sizeof redirect);
    /* A directory that something is mounted on, or whose marks are not believed, shows nothing: no
     * redirect in it does. */
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
                         struct um_upper_redirects *redirects)
{
    DIR *listing;
    struct dirent *entry;
    int more;
    int fd = open_path(upper, path);
    int error = fd < 0 ? fd : um_directory_stream(fd, &listing);
    if (error != 0)
        return error == -EXDEV ? 0
                               : error; /* something else is mounted there: no part of the upper */
    while (error == 0 && (more = um_directory_next(listing, &entry)) != 0) {
        int directory = more < 0 ? more : um_upper_entry_is_directory(upper, fd, entry);
        error = directory <= 0 ? directory
                               : scan_directory(upper, fd, path, entry->d_name, stack, redirects);
    }
    closedir(listing);
    return error;
}

static int scan_upper(struct um_upper *upper, struct um_upper_redirects *redirects)
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

int um_upper_enter_directory(struct um_upper *upper, struct um_upper_node *directory,
                             struct um_slice name, struct um_upper_node **out)
{
    struct um_upper_hit hit;
    int error = um_upper_find(upper, directory, name, &hit);
    if (error == 0 && !hit.directory)
        error = -ENOENT;
    if (error == 0)
        error = um_upper_node_add(upper, hit.attr.node, directory, name, true, hit.in_upper,
                                  hit.lower, out);
    um_upper_node_unpin(upper, directory);
    return error;
}

/* Find the node, pinned, of the directory at a path of the mount. */
static int walk(struct um_upper *upper, const char *path, struct um_upper_node **out)
{
    int error = 0;
    *out = upper->root;
    um_upper_node_pin(*out);
    while (error == 0 && *path != '\0') {
        size_t size = strcspn(path, "/");
        error = um_upper_enter_directory(upper, *out, um_slice_of(path, size), out);
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

/* Find the lower directory that each directory with a redirect continues, by the rule. */
static int resolve_redirects(struct um_upper *upper, struct um_upper_redirects *redirects)
{
    for (size_t i = 0; i < redirects->n; i++) {
        struct um_upper_node *node;
        int error = walk(upper, redirects->entries[i].path, &node);
        if (error != 0 && error != -ENOENT)
            return error;
        if (error == 0) {
            redirects->entries[i].lower = node->lower;
            um_upper_node_unpin(upper, node);
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
    struct um_upper_redirects *redirects = calloc(1, sizeof *redirects);
    if (redirects == NULL)
        return -ENOMEM;
    int error = scan_upper(upper, redirects);
    if (error == 0)
        error = resolve_redirects(upper, redirects);
    if (error != 0)
        redirects_free(redirects);
    else
        upper->redirects = redirects;
    return error;
}

int um_upper_find_redirected(struct um_upper *upper, uint64_t lower, struct um_upper_node **out)
{
    int error = need_redirects(upper);
    if (error != 0)
        return error;
    struct redirect key = {.lower = lower};
    const struct um_upper_redirects *redirects = upper->redirects;
    const struct redirect *found = redirects->n ? bsearch(&key, redirects->entries, redirects->n,
                                                          sizeof key, compare_redirects)
                                                : NULL;
    if (found == NULL)
        return -ENOENT;
    error = walk(upper, found->path, out);
    if (error == 0 && (*out)->lower != lower) {
        um_upper_node_unpin(upper, *out);
        return -ENOENT;
    }
    return error;
}
