#include "upper/shown_names.h"

#include "upper/marks.h"
#include "upper/redirects.h"
#include "upper/rule.h"

/* ---- which directory shows a lower directory ------------------------------------------------- */

struct climb {
    uint64_t *nodes; /* of the lower tree, from the innermost outwards */
    size_t n, capacity;
};

/* Collect the directories from `lower` outwards up to one that has a node. That is *shown, pinned, or
 * NULL where it does not continue its lower directory any more. */
static int climb_to_record(struct um_upper *upper, uint64_t lower, struct climb *climb,
                           struct um_upper_node **shown)
{
    struct um_upper_node *node;
    while ((node = um_upper_node_find(upper, lower)) == NULL) {
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
    bool shows = node->directory && !node->gone && node->lower == lower;
    *shown = shows ? node : NULL;
    if (shows)
        um_upper_node_pin(node);
    return 0;
}

/* Go from *shown, the directory that shows the parent of `lower` (or NULL), to the one that shows
 * `lower`. */
static int descend(struct um_upper *upper, uint64_t lower, struct um_upper_node **shown)
{
    struct um_upper_node *above = *shown, *inside;
    const char *name;
    size_t size;
    uint64_t parent;
    *shown = NULL;
    int error = um_tree_name(upper->tree, lower, &parent, &name, &size);
    if (error != 0 && above != NULL)
        um_upper_node_unpin(upper, above);
    if (error == 0)
        error = above ? um_upper_enter_directory(upper, above, um_slice_of(name, size), &inside)
                      : -ENOENT;
    if (error == 0 && inside->lower == lower) {
        *shown = inside;
        return 0;
    }
    if (error == 0)
        um_upper_node_unpin(upper, inside); /* something else stands there */
    if (error != 0 && error != -ENOENT)
        return error;
    error = um_upper_find_redirected(upper, lower, shown);
    if (error != 0)
        *shown = NULL;
    return error == -ENOENT ? 0 : error;
}

int um_upper_shown_directory(struct um_upper *upper, uint64_t lower_directory,
                             struct um_upper_node **out)
{
    struct climb climb = {0};
    struct um_upper_node *shown = NULL;
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

/* ---- the names of a file --------------------------------------------------------------------- */

int um_upper_shows_lower(struct um_upper *upper, struct um_upper_node *directory,
                         struct um_slice name, uint64_t number)
{
    struct um_tree_entry entry;
    if (directory->gone)
        return 0;
    int error = um_upper_find_lower(upper, directory, name, &entry);
    if (error != 0 || entry.attr.node != number)
        return error == -ENOENT ? 0 : error;
    if (!directory->in_upper)
        return 1;
    struct um_upper_reached reached = {0};
    struct stat status;
    enum um_upper_found found;
    struct um_fd_use use;
    error = um_upper_reach_directory(upper, directory, &use);
    if (error != 0)
        return error;
    error = um_upper_reach_name(upper, use.fd, name, &reached);
    if (error == 0)
        error = um_upper_reached_classify(&reached, !directory->unmarked, &found, &status);
    um_fd_cache_release(upper->directories, &use);
    return error ? error : found == UM_UPPER_FOUND_NOTHING;
}

/* Add a name of the lower tree where the mount shows it. */
static int add_shown(struct um_upper *upper, uint64_t number, const struct um_tree_name *name,
                     struct um_upper_shown_name *names, size_t *n)
{
    struct um_upper_node *directory;
    int error = um_upper_shown_directory(upper, name->directory, &directory);
    if (error != 0)
        return error == -ENOENT ? 0 : error;
    int shows =
        um_upper_shows_lower(upper, directory, um_slice_of(name->name, name->name_size), number);
    if (shows <= 0) {
        um_upper_node_unpin(upper, directory);
        return shows;
    }
    names[(*n)++] = (struct um_upper_shown_name){directory, name->name, name->name_size};
    return 0;
}

int um_upper_shown_names(struct um_upper *upper, uint64_t number,
                         struct um_upper_shown_name **names, size_t *n)
{
    um_autofree struct um_tree_name *below = NULL;
    size_t n_below = 0;
    *names = NULL;
    *n = 0;
    int error = um_tree_names(upper->tree, number, &below, &n_below);
    if (error != 0)
        return error;
    struct um_upper_shown_name *shown = calloc(n_below + 1, sizeof *shown);
    if (shown == NULL)
        return -ENOMEM;
    for (size_t i = 0; error == 0 && i < n_below; i++)
        error = add_shown(upper, number, &below[i], shown, n);
    *names = shown;
    if (error != 0)
        um_upper_shown_names_free(upper, names, n);
    return error;
}

void um_upper_shown_names_free(struct um_upper *upper, struct um_upper_shown_name **names,
                               size_t *n)
{
    for (size_t i = 0; i < *n; i++) {
        um_upper_node_unpin(upper, (*names)[i].directory);
    }
    free(*names);
    *names = NULL;
    *n = 0;
}

/* ---- link counts ----------------------------------------------------------------------------- */

#define COUNT_SLOTS 4096u /* a power of two */

struct um_upper_link_count {
    uint64_t number; /* 0: empty */
    uint32_t count;
};

static int count_names(struct um_upper *upper, uint64_t number, uint32_t *count)
{
    struct um_upper_shown_name *names;
    size_t n;
    int error = um_upper_shown_names(upper, number, &names, &n);
    if (error != 0)
        return error;
    *count = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    um_upper_shown_names_free(upper, &names, &n);
    return 0;
}

int um_upper_count_links(struct um_upper *upper, struct um_attr *attr)
{
    if (attr->nlink <= 1 || S_ISDIR(attr->mode) || attr->node >= upper->base || !upper->may_hide)
        return 0;
    size_t slot = um_hash_number(attr->node) & (COUNT_SLOTS - 1);
    if (upper->link_counts != NULL && upper->link_counts[slot].number == attr->node) {
        attr->nlink = upper->link_counts[slot].count;
        return 0;
    }
    uint32_t count = 0;
    int error = count_names(upper, attr->node, &count);
    if (error != 0)
        return error;
    attr->nlink = count ? count : 1; /* an open file may have no name any more */
    if (upper->link_counts == NULL)
        upper->link_counts = calloc(COUNT_SLOTS, sizeof *upper->link_counts);
    if (upper->link_counts != NULL)
        upper->link_counts[slot] = (struct um_upper_link_count){attr->node, attr->nlink};
    return 0;
}

void um_upper_shown_names_changed(struct um_upper *upper)
{
    upper->may_hide = true;
    free(upper->link_counts);
    upper->link_counts = NULL;
}
