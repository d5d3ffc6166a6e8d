#include <dirent.h>
#include <sys/stat.h>

#include "tree_private.h"

/* Link counts are of visible names. In a layer by itself they stand in the index; what other
 * layers do to them (hide a name, link to an inode of a layer below) is counted here, once for
 * each inode that has several names, and kept. */

/* ---- where a name of a layer stands ---------------------------------------------------------- */

struct chain {
    uint32_t *dirents; /* from the innermost directory outwards */
    size_t n, capacity;
};

/* The dirents of a directory and of the directories that it is in. Parents have smaller numbers
 * (index.c has checked it), so this ends. */
static int climb(const struct um_layer *layer, uint32_t directory, struct chain *chain)
{
    chain->n = 0;
    while (directory != 0) {
        struct um_inode inode;
        int error = um_layer_inode(layer, directory, &inode);
        if (error == 0 && !S_ISDIR(inode.mode))
            error = -EBADMSG;
        if (error == 0)
            error = um_reserve((void **)&chain->dirents, &chain->capacity, chain->n + 1,
                               sizeof *chain->dirents);
        if (error != 0)
            return error;
        chain->dirents[chain->n++] = inode.own;
        directory = inode.parent;
    }
    return 0;
}

static int append_name(const struct um_layer *layer, uint32_t dirent, char **path, size_t *size,
                       size_t *capacity)
{
    struct um_child child;
    int error = um_layer_dirent(layer, dirent, &child);
    if (error == 0)
        error = um_reserve((void **)path, capacity, *size + child.name.size + 1, 1);
    if (error != 0)
        return error;
    if (*size != 0)
        (*path)[(*size)++] = '/';
    memcpy(*path + *size, child.name.data, child.name.size);
    *size += child.name.size;
    return 0;
}

int um_layer_path(const struct um_layer *layer, uint32_t directory, uint32_t dirent, char **path,
                  size_t *size)
{
    struct chain chain = {0};
    size_t capacity = 0;
    *path = NULL;
    *size = 0;
    int error = climb(layer, directory, &chain);
    while (error == 0 && chain.n != 0)
        error = append_name(layer, chain.dirents[--chain.n], path, size, &capacity);
    if (error == 0)
        error = append_name(layer, dirent, path, size, &capacity);
    free(chain.dirents);
    if (error != 0) {
        free(*path);
        *path = NULL;
    }
    return error;
}

static bool has_part(const struct um_view *view, struct um_part part)
{
    for (uint32_t i = 0; i < view->n; i++) {
        if (um_same_part(view->parts[i], part))
            return true;
    }
    return false;
}

/* Descend from the root along the chain as long as the tree shows its directories. -ENOENT where
 * something hides one. */
static int descend(const struct um_tree *tree, uint32_t layer, struct chain *chain,
                   struct um_view *view, struct um_view *inside)
{
    int error = um_view_root(tree, tree->n_layers, view);
    while (error == 0 && chain->n != 0) {
        struct um_child child;
        struct um_hit hit;
        error = um_layer_dirent(&tree->layers[layer], chain->dirents[--chain->n], &child);
        if (error == 0)
            error = um_view_find(tree, view, child.name, &hit);
        if (error == 0 && hit.child.type != DT_DIR)
            error = -ENOENT;
        if (error == 0)
            error = um_view_enter(tree, view, &hit, inside);
        if (error == 0 && !has_part(inside, (struct um_part){layer, child.inode}))
            error = -ENOENT;
        struct um_view outer = *view;
        *view = *inside;
        *inside = outer;
    }
    return error;
}

/* 1 where the tree shows this dirent of `directory`, 0 where something above hides it. */
static int is_visible(const struct um_tree *tree, struct um_part directory, uint32_t dirent)
{
    if (tree->n_layers == 1)
        return 1;
    struct um_view view = {0}, inside = {0};
    struct chain chain = {0};
    struct um_child child;
    struct um_hit hit;
    int error = um_view_open(tree, &view);
    if (error == 0)
        error = um_view_open(tree, &inside);
    if (error == 0)
        error = climb(&tree->layers[directory.layer], directory.inode, &chain);
    if (error == 0)
        error = descend(tree, directory.layer, &chain, &view, &inside);
    if (error == 0 && !has_part(&view, directory))
        error = -ENOENT;
    if (error == 0)
        error = um_layer_dirent(&tree->layers[directory.layer], dirent, &child);
    if (error == 0)
        error = um_view_find(tree, &view, child.name, &hit);
    bool same = error == 0 && um_same_part(hit.directory, directory) && hit.child.dirent == dirent;
    um_view_close(&view);
    um_view_close(&inside);
    free(chain.dirents);
    return error == 0 ? same : error == -ENOENT ? 0 : error;
}

/* ---- links into lower layers -------------------------------------------------------------------- */

static int compare_parts(struct um_part a, struct um_part b)
{
    if (a.layer != b.layer)
        return a.layer < b.layer ? -1 : 1;
    return (a.inode > b.inode) - (a.inode < b.inode);
}

static int compare_outer(const void *a, const void *b)
{
    return compare_parts(((const struct um_outer_link *)a)->target,
                         ((const struct um_outer_link *)b)->target);
}

/* Follow one external record; 1 with *out, 0 where it leads nowhere. */
static int follow_external(const struct um_tree *tree, uint32_t layer, uint32_t number,
                           struct um_outer_link *out)
{
    struct um_index_link link;
    struct um_inode inode;
    struct um_hit hit = {0}, found;
    int error = um_index_external(tree->layers[layer].index, number, &link);
    if (error == 0)
        error = um_layer_dirent(&tree->layers[layer], link.dirent, &hit.child);
    if (error == 0 && hit.child.type != DT_UNKNOWN)
        error = -EBADMSG;
    hit.directory = (struct um_part){layer, link.parent};
    if (error == 0)
        error = um_hit_inode(tree, &hit, &out->target, &inode, &found);
    if (error != 0)
        return error == -ENOENT ? 0 : error;
    out->directory = hit.directory;
    out->dirent = link.dirent;
    out->target_directory = found.directory;
    out->target_dirent = found.child.dirent;
    return 1;
}

static int collect_outer(const struct um_tree *tree, struct um_outer_links *outer)
{
    for (uint32_t layer = 0; layer < tree->n_layers; layer++) {
        struct um_index_info info;
        um_index_get_info(tree->layers[layer].index, &info);
        for (uint32_t i = 0; i < info.externals; i++) {
            int found = follow_external(tree, layer, i, &outer->links[outer->n]);
            if (found < 0)
                return found;
            outer->n += (size_t)found;
        }
    }
    qsort(outer->links, outer->n, sizeof outer->links[0], compare_outer);
    return 0;
}

static int need_outer(struct um_tree *tree, const struct um_outer_links **out)
{
    struct um_outer_links *outer = atomic_load(&tree->outer);
    if (outer == NULL) {
        uint64_t total = 0;
        for (uint32_t layer = 0; layer < tree->n_layers; layer++) {
            struct um_index_info info;
            um_index_get_info(tree->layers[layer].index, &info);
            total += info.externals;
        }
        struct um_outer_links *made =
            calloc(1, sizeof *made + (size_t)total * sizeof made->links[0]);
        int error = made == NULL ? -ENOMEM : collect_outer(tree, made);
        if (error != 0) {
            free(made);
            return error;
        }
        if (atomic_compare_exchange_strong(&tree->outer, &outer, made))
            outer = made;
        else
            free(made);
    }
    *out = outer;
    return 0;
}

static const struct um_outer_link *first_outer(const struct um_outer_links *outer,
                                               struct um_part target)
{
    size_t low = 0, high = outer->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_parts(outer->links[middle].target, target) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < outer->n && um_same_part(outer->links[low].target, target);
    return found ? &outer->links[low] : NULL;
}

/* ---- counting --------------------------------------------------------------------------------------- */

static int add_visible(const struct um_tree *tree, struct um_part directory, uint32_t dirent,
                       uint32_t *count)
{
    int visible = is_visible(tree, directory, dirent);
    if (visible > 0)
        ++*count;
    return visible < 0 ? visible : 0;
}

/* The names of an inode in its own layer. */
static int count_own(const struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                     uint32_t *count)
{
    struct um_index *index = tree->layers[part.layer].index;
    struct um_index_link link = {0};
    uint32_t number;
    int error = um_index_links_from(index, part.inode, &number);
    for (uint32_t i = 0; error == 0 && i < inode->nlink; i++) {
        error = um_index_link(index, number + i, &link);
        if (error == 0 && link.inode != part.inode)
            error = -EBADMSG;
        if (error == 0)
            error =
                add_visible(tree, (struct um_part){part.layer, link.parent}, link.dirent, count);
    }
    return error;
}

static int count_outer(const struct um_tree *tree, const struct um_outer_links *outer,
                       const struct um_outer_link *link, uint32_t *count)
{
    struct um_part target = link->target;
    for (; link < outer->links + outer->n && um_same_part(link->target, target); link++) {
        int error = add_visible(tree, link->directory, link->dirent, count);
        if (error != 0)
            return error;
    }
    return 0;
}

static int count_names(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                       const struct um_outer_links *outer, const struct um_outer_link *link,
                       uint32_t *count)
{
    int error = 0;
    *count = 0;
    if (inode->nlink > 1)
        error = count_own(tree, part, inode, count);
    else
        error = add_visible(tree, link->target_directory, link->target_dirent, count);
    if (error == 0 && link != NULL)
        error = count_outer(tree, outer, link, count);
    return error;
}

static struct um_link_count *find_count(const struct um_tree *tree, uint64_t node)
{
    size_t mask = tree->n_count_slots - 1;
    for (size_t at = um_hash_node(node) & mask;; at = (at + 1) & mask) {
        struct um_link_count *slot = &tree->counts[at];
        if (slot->node == 0 || slot->node == node)
            return slot;
    }
}

static int grow_counts(struct um_tree *tree)
{
    size_t n_old = tree->n_count_slots;
    struct um_link_count *old = tree->counts;
    size_t grown = n_old ? n_old * 2 : 64;
    struct um_link_count *counts = calloc(grown, sizeof *counts);
    if (counts == NULL)
        return -ENOMEM;
    tree->counts = counts;
    tree->n_count_slots = grown;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].node != 0)
            *find_count(tree, old[i].node) = old[i];
    }
    free(old);
    return 0;
}

static uint32_t kept_count(struct um_tree *tree, uint64_t node)
{
    pthread_rwlock_rdlock(&tree->lock);
    uint32_t count = tree->counts ? find_count(tree, node)->count : 0;
    pthread_rwlock_unlock(&tree->lock);
    return count;
}

static int keep_count(struct um_tree *tree, uint64_t node, uint32_t count)
{
    int error = 0;
    pthread_rwlock_wrlock(&tree->lock);
    if ((tree->n_counts + 1) * 2 > tree->n_count_slots)
        error = grow_counts(tree);
    if (error == 0) {
        struct um_link_count *slot = find_count(tree, node);
        tree->n_counts += slot->node == 0;
        *slot = (struct um_link_count){.node = node, .count = count};
    }
    pthread_rwlock_unlock(&tree->lock);
    return error;
}

int um_tree_count_links(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                        uint32_t *count)
{
    const struct um_outer_links *outer = NULL;
    const struct um_outer_link *link = NULL;
    *count = 1;
    if (tree->has_externals) {
        int error = need_outer(tree, &outer);
        if (error != 0)
            return error;
        link = first_outer(outer, part);
    }
    if (inode->nlink <= 1 && link == NULL)
        return 0;
    uint64_t node = um_tree_node(tree, part);
    *count = kept_count(tree, node);
    if (*count != 0)
        return 0;
    int error = count_names(tree, part, inode, outer, link, count);
    if (*count == 0)
        *count = 1; /* somebody still holds a number that the tree shows under no name */
    return error ? error : keep_count(tree, node, *count);
}

/* ---- directories --------------------------------------------------------------------------------------- */

/* What the parts above the lowest do to its number of visible subdirectories. Their names are
 * merged first, so that each is looked up in the lowest part only, however many parts there are. */
static int apply_upper_parts(const struct um_tree *tree, const struct um_view *view, int64_t *count)
{
    struct um_view upper = {.parts = view->parts, .n = view->n - 1};
    struct um_view lowest = {.parts = view->parts + upper.n, .n = 1};
    um_autofree struct um_merged *merged = NULL;
    int error = um_view_merge(tree, &upper, true, &merged);
    for (uint32_t i = 0; error == 0 && i < merged->n; i++) {
        struct um_hit hit, below;
        error = um_merged_hit(tree, &upper, &merged->names[i], &hit);
        if (error != 0)
            break;
        int found = um_view_find(tree, &lowest, hit.child.name, &below);
        if (found != 0 && found != -ENOENT)
            return found;
        *count += (hit.child.type == DT_DIR) - (found == 0 && below.child.type == DT_DIR);
    }
    return error;
}

int um_tree_count_subdirectories(struct um_tree *tree, struct um_directory *directory,
                                 uint32_t *nlink)
{
    const struct um_view *view = &directory->view;
    *nlink = atomic_load_explicit(&directory->nlink, memory_order_relaxed);
    if (*nlink != 0)
        return 0;
    int64_t count = 2;
    if (view->n != 0) {
        struct um_part lowest = view->parts[view->n - 1];
        struct um_inode inode;
        int error = um_layer_inode(&tree->layers[lowest.layer], lowest.inode, &inode);
        if (error != 0)
            return error;
        count = inode.nlink;
    }
    if (view->n > 1) {
        int error = apply_upper_parts(tree, view, &count);
        if (error != 0)
            return error;
    }
    *nlink = count < 2 ? 2 : (uint32_t)count;
    atomic_store_explicit(&directory->nlink, *nlink, memory_order_relaxed);
    return 0;
}
