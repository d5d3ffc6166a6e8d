#include <dirent.h>

#include "tree/state.h"

/* These are the hard links into lower layers. All links of an image are followed at once, when the
 * first is asked for. The lowest layer comes first, so that a link to a link finds that one
 * settled. The links of a layer are followed in the order of their targets, so that every
 * directory on the way is entered once, however many links lead through it. */

/* ---- where a target leads ---------------------------------------------------------------------- */

/* A directory on the way to targets, as the layers below the links show it. */
struct level {
    size_t size; /* of its path, including the slash after it */
    struct um_view view;
};

/* The directories on the way to the last target, outermost first. Owns the levels. */
struct descent {
    const struct um_tree *tree;
    struct level *levels;
    size_t n, capacity;
    struct um_slice path; /* the levels are prefixes of it; borrowed from an index */
};

static void leave(struct descent *descent)
{
    um_view_close(&descent->levels[--descent->n].view);
}

static void descent_close(struct descent *descent)
{
    while (descent->n != 0)
        leave(descent);
    free(descent->levels);
}

/* Add an empty level for the directory whose path has `size` bytes. */
static int add_level(struct descent *descent, size_t size, struct um_view **view)
{
    int error = um_reserve((void **)&descent->levels, &descent->capacity, descent->n + 1,
                           sizeof *descent->levels);
    if (error != 0)
        return error;
    struct level *level = &descent->levels[descent->n];
    error = um_view_open(descent->tree, &level->view);
    if (error != 0)
        return error;
    level->size = size;
    descent->n++;
    *view = &level->view;
    return 0;
}

static int begin_layer(struct descent *descent, uint32_t n_layers)
{
    struct um_view *view;
    while (descent->n != 0)
        leave(descent);
    int error = add_level(descent, 0, &view);
    return error ? error : um_view_root(descent->tree, n_layers, view);
}

static int enter(struct descent *descent, const struct um_hit *hit, size_t size)
{
    struct um_view *inside;
    int error = add_level(descent, size, &inside);
    if (error != 0)
        return error;
    struct um_view *outside = &descent->levels[descent->n - 2].view;
    error = um_view_enter(descent->tree, outside, hit, inside);
    if (error == 0)
        um_view_shrink(inside);
    return error;
}

static bool leads_through(const struct descent *descent, struct um_slice target)
{
    size_t size = descent->levels[descent->n - 1].size;
    return size <= target.size && (size == 0 || memcmp(descent->path.data, target.data, size) == 0);
}

/* Find a normalised path (names separated by slashes), without following symlinks. */
static int resolve(struct descent *descent, struct um_slice target, struct um_hit *hit)
{
    while (!leads_through(descent, target))
        leave(descent);
    size_t at = descent->levels[descent->n - 1].size;
    descent->path = target;
    for (;;) {
        const uint8_t *from = target.data + at, *slash = NULL;
        size_t left = target.size - at;
        if (left != 0)
            slash = memchr(from, '/', left);
        size_t size = slash ? (size_t)(slash - from) : left;
        const struct um_view *view = &descent->levels[descent->n - 1].view;
        int error = um_view_find(descent->tree, view, um_slice_of(from, size), hit);
        if (error != 0 || slash == NULL)
            return error;
        if (hit->child.type != DT_DIR)
            return -ENOENT;
        at += size + 1;
        error = enter(descent, hit, at);
        if (error != 0)
            return error;
    }
}

/* ---- all links of an image --------------------------------------------------------------------- */

/* A link whose target has not been followed yet. */
struct pending {
    struct um_slice target; /* borrowed from the index */
    struct um_cross_link *link;
};

static int compare_parts(struct um_part a, struct um_part b)
{
    if (a.layer != b.layer)
        return a.layer < b.layer ? -1 : 1;
    return (a.inode > b.inode) - (a.inode < b.inode);
}

static int compare_targets(const void *a, const void *b)
{
    return um_slice_compare(((const struct pending *)a)->target,
                            ((const struct pending *)b)->target);
}

static int compare_ends(const void *a, const void *b)
{
    return compare_parts((*(struct um_cross_link *const *)a)->target,
                         (*(struct um_cross_link *const *)b)->target);
}

/* Read one external record: 1 with its target, 0 where its layer says that it leads nowhere. */
static int read_link(const struct um_tree *tree, uint32_t layer, uint32_t number,
                     struct um_cross_link *link, struct um_slice *target)
{
    const struct um_layer *in = &tree->layers[layer];
    struct um_index_link record;
    struct um_inode inode;
    struct um_child child;
    int error = um_index_external(in->index, number, &record);
    if (error == 0)
        error = um_layer_dirent(in, record.dirent, &child);
    if (error == 0)
        error = um_layer_child_inode(in, record.parent, &child, &inode);
    if (error == 0 && !(inode.flags & UM_INODE_EXTERNAL))
        error = -EBADMSG;
    if (error != 0)
        return error;
    *link = (struct um_cross_link){
        .link = {layer, child.inode}, .directory = {layer, record.parent}, .dirent = record.dirent};
    *target = inode.target;
    return inode.flags & UM_INODE_DANGLING ? 0 : 1;
}

/* Set a link's target to the hit, which is in a layer below the link's. */
static int settle(const struct um_tree *tree, const struct um_cross_links *links,
                  const struct um_hit *hit, struct um_cross_link *link)
{
    struct um_part part = {hit->directory.layer, hit->child.inode};
    struct um_inode inode;
    if (hit->child.type == DT_DIR)
        return 0;
    if (hit->child.type == DT_UNKNOWN) {
        const struct um_cross_link *next = um_cross_links_find(links, part);
        if (next == NULL)
            return -EBADMSG;
        link->found = next->found;
        link->target = next->target;
        link->target_directory = next->target_directory;
        link->target_dirent = next->target_dirent;
        return 0;
    }
    link->found = true;
    link->target = part;
    link->target_directory = hit->directory;
    link->target_dirent = hit->child.dirent;
    return um_layer_child_inode(&tree->layers[part.layer], hit->directory.inode, &hit->child,
                                &inode);
}

/* Follow the links of one layer. `links` has those of all layers below it. */
static int follow_layer(struct descent *descent, uint32_t layer, struct um_cross_links *links)
{
    struct um_index_info info;
    if (descent->tree->layers[layer].index == NULL)
        return 0; /* a live directory has no such links */
    um_index_get_info(descent->tree->layers[layer].index, &info);
    um_autofree struct pending *pending = malloc((info.externals + 1) * sizeof *pending);
    if (pending == NULL)
        return -ENOMEM;
    size_t n = 0;
    for (uint32_t i = 0; i < info.externals; i++) {
        struct um_cross_link *link = &links->links[links->n + i];
        int more = read_link(descent->tree, layer, i, link, &pending[n].target);
        if (more < 0)
            return more;
        pending[n].link = link;
        n += (size_t)more;
    }
    qsort(pending, n, sizeof *pending, compare_targets);
    int error = n != 0 ? begin_layer(descent, layer) : 0;
    for (size_t i = 0; error == 0 && i < n; i++) {
        struct um_hit hit;
        error = resolve(descent, pending[i].target, &hit);
        if (error == 0)
            error = settle(descent->tree, links, &hit, pending[i].link);
        else if (error == -ENOENT)
            error = 0;
    }
    links->n += info.externals;
    return error;
}

static void sort_by_target(struct um_cross_links *links)
{
    for (size_t i = 0; i < links->n; i++) {
        if (links->links[i].found)
            links->by_target[links->n_found++] = &links->links[i];
    }
    qsort(links->by_target, links->n_found, sizeof *links->by_target, compare_ends);
}

void um_cross_links_free(struct um_cross_links *links)
{
    if (links != NULL)
        free(links->by_target);
    free(links);
}

static int collect(const struct um_tree *tree, struct um_cross_links **out)
{
    uint64_t total = 0;
    for (uint32_t layer = 0; layer < tree->n_layers; layer++) {
        struct um_index_info info = {0};
        if (tree->layers[layer].index != NULL)
            um_index_get_info(tree->layers[layer].index, &info);
        total += info.externals;
    }
    struct um_cross_links *links = calloc(1, sizeof *links + total * sizeof links->links[0]);
    if (links == NULL)
        return -ENOMEM;
    struct descent descent = {.tree = tree};
    links->by_target = malloc((total + 1) * sizeof *links->by_target);
    int error = links->by_target == NULL ? -ENOMEM : 0;
    for (uint32_t layer = 0; error == 0 && layer < tree->n_layers; layer++)
        error = follow_layer(&descent, layer, links);
    descent_close(&descent);
    if (error != 0) {
        um_cross_links_free(links);
        return error;
    }
    sort_by_target(links);
    *out = links;
    return 0;
}

int um_tree_cross_links(struct um_tree *tree, const struct um_cross_links **out)
{
    struct um_cross_links *links = atomic_load(&tree->cross_links);
    if (links == NULL) {
        struct um_cross_links *made;
        int error = collect(tree, &made);
        if (error != 0)
            return error;
        if (atomic_compare_exchange_strong(&tree->cross_links, &links, made))
            links = made;
        else
            um_cross_links_free(made);
    }
    *out = links;
    return 0;
}

const struct um_cross_link *um_cross_links_find(const struct um_cross_links *links,
                                                struct um_part link)
{
    size_t low = 0, high = links->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_parts(links->links[middle].link, link) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < links->n && um_part_equal(links->links[low].link, link);
    return found ? &links->links[low] : NULL;
}

size_t um_cross_links_to(const struct um_cross_links *links, struct um_part target)
{
    size_t low = 0, high = links->n_found;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_parts(links->by_target[middle]->target, target) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
