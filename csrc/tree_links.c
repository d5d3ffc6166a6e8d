#include <dirent.h>
#include <sys/stat.h>

#include "tree_private.h"

/* Link counts are of visible names. In a layer by itself they stand in the index; what other
 * layers do to them (hide a name, link to an inode of a layer below) is counted here, once for
 * each inode that has several names, and kept. */

/* ---- where a name of a layer stands ---------------------------------------------------------- */

struct chain {
    uint32_t *numbers; /* from the innermost directory outwards */
    size_t n, capacity;
};

static int push_number(struct chain *chain, uint32_t number)
{
    int error = um_reserve((void **)&chain->numbers, &chain->capacity, chain->n + 1,
                           sizeof *chain->numbers);
    if (error == 0)
        chain->numbers[chain->n++] = number;
    return error;
}

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
            error = push_number(chain, inode.own);
        if (error != 0)
            return error;
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
        error = append_name(layer, chain.numbers[--chain.n], path, size, &capacity);
    if (error == 0)
        error = append_name(layer, dirent, path, size, &capacity);
    free(chain.numbers);
    if (error != 0) {
        free(*path);
        *path = NULL;
    }
    return error;
}

/* ---- what was found out and is kept ----------------------------------------------------------- */

#define HIDDEN UINT64_MAX

static struct um_kept *find_kept(const struct um_tree *tree, uint64_t node)
{
    size_t mask = tree->n_kept_slots - 1;
    for (size_t at = um_hash_node(node) & mask;; at = (at + 1) & mask) {
        struct um_kept *slot = &tree->kept[at];
        if (slot->node == 0 || slot->node == node)
            return slot;
    }
}

static int grow_kept(struct um_tree *tree)
{
    size_t n_old = tree->n_kept_slots;
    struct um_kept *old = tree->kept;
    size_t grown = n_old ? n_old * 2 : 64;
    struct um_kept *kept = calloc(grown, sizeof *kept);
    if (kept == NULL)
        return -ENOMEM;
    tree->kept = kept;
    tree->n_kept_slots = grown;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].node != 0)
            *find_kept(tree, old[i].node) = old[i];
    }
    free(old);
    return 0;
}

/* What was kept under a number; 0 for nothing. */
static uint64_t kept_value(struct um_tree *tree, uint64_t node)
{
    pthread_rwlock_rdlock(&tree->lock);
    uint64_t value = tree->kept ? find_kept(tree, node)->value : 0;
    pthread_rwlock_unlock(&tree->lock);
    return value;
}

static int keep_value(struct um_tree *tree, uint64_t node, uint64_t value)
{
    int error = 0;
    pthread_rwlock_wrlock(&tree->lock);
    if ((tree->n_kept + 1) * 2 > tree->n_kept_slots)
        error = grow_kept(tree);
    if (error == 0) {
        struct um_kept *slot = find_kept(tree, node);
        tree->n_kept += slot->node == 0;
        *slot = (struct um_kept){.node = node, .value = value};
    }
    pthread_rwlock_unlock(&tree->lock);
    return error;
}

/* ---- what the tree shows ---------------------------------------------------------------------- */

static bool has_part(const struct um_view *view, struct um_part part)
{
    for (uint32_t i = 0; i < view->n; i++) {
        if (um_same_part(view->parts[i], part))
            return true;
    }
    return false;
}

/* The record of the merged directory that `part` belongs to, asked of that of the directory above;
 * NULL where the tree does not show the part. */
static int find_shown_in(struct um_tree *tree, const struct um_directory *above,
                         struct um_part part, struct um_directory **shown)
{
    const struct um_layer *layer = &tree->layers[part.layer];
    struct um_inode inode;
    struct um_child child;
    struct um_hit hit;
    *shown = NULL;
    int error = um_layer_inode(layer, part.inode, &inode);
    if (error == 0)
        error = um_layer_dirent(layer, inode.own, &child);
    if (error == 0)
        error = um_view_find(tree, &above->view, child.name, &hit);
    if (error == 0 && hit.child.type == DT_DIR)
        error = um_tree_enter(tree, above, &hit, shown);
    if (*shown != NULL && !has_part(&(*shown)->view, part))
        *shown = NULL;
    return error == -ENOENT ? 0 : error;
}

/* The directories from `part` outwards up to one of which it is known already whether it is shown. */
static int climb_to_known(struct um_tree *tree, struct um_part part, struct chain *chain,
                          struct um_directory **shown)
{
    while (part.inode != 0) {
        uint64_t known = kept_value(tree, um_tree_node(tree, part));
        if (known != 0) {
            *shown = known == HIDDEN ? NULL : um_tree_directory(tree, known);
            return 0;
        }
        struct um_inode inode;
        int error = um_layer_inode(&tree->layers[part.layer], part.inode, &inode);
        if (error == 0 && !S_ISDIR(inode.mode))
            error = -EBADMSG;
        if (error == 0)
            error = push_number(chain, part.inode);
        if (error != 0)
            return error;
        part.inode = inode.parent;
    }
    *shown = um_tree_directory(tree, UM_ROOT_NODE);
    if (!has_part(&(*shown)->view, part))
        *shown = NULL;
    return 0;
}

/* The record of the merged directory that `part` belongs to; NULL where something above hides it.
 * The answers are kept, so that every directory is entered once, however many names are in it. */
static int find_shown(struct um_tree *tree, struct um_part part, struct um_directory **shown)
{
    struct chain chain = {0};
    int error = climb_to_known(tree, part, &chain, shown);
    while (error == 0 && chain.n != 0) {
        part.inode = chain.numbers[--chain.n];
        if (*shown != NULL)
            error = find_shown_in(tree, *shown, part, shown);
        if (error == 0)
            error = keep_value(tree, um_tree_node(tree, part), *shown ? (*shown)->node : HIDDEN);
    }
    free(chain.numbers);
    return error;
}

/* 1 where the tree shows this dirent of `directory`, 0 where something above hides it. */
static int is_visible(struct um_tree *tree, struct um_part directory, uint32_t dirent)
{
    struct um_directory *shown = NULL;
    struct um_child child;
    struct um_hit hit;
    if (tree->n_layers == 1)
        return 1;
    int error = find_shown(tree, directory, &shown);
    if (error != 0 || shown == NULL)
        return error;
    error = um_layer_dirent(&tree->layers[directory.layer], dirent, &child);
    if (error == 0)
        error = um_view_find(tree, &shown->view, child.name, &hit);
    if (error != 0)
        return error == -ENOENT ? 0 : error;
    return um_same_part(hit.directory, directory) && hit.child.dirent == dirent;
}

/* ---- counting --------------------------------------------------------------------------------------- */

static int add_visible(struct um_tree *tree, struct um_part directory, uint32_t dirent,
                       uint32_t *count)
{
    int visible = is_visible(tree, directory, dirent);
    if (visible > 0)
        ++*count;
    return visible < 0 ? visible : 0;
}

/* The names of an inode in its own layer. */
static int count_own(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
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

/* The names that layers above give to the inode: the links to it from number `at` on. */
static int count_outer(struct um_tree *tree, const struct um_outer_links *outer, size_t at,
                       uint32_t *count)
{
    struct um_part target = outer->by_target[at]->target;
    for (; at < outer->n_found && um_same_part(outer->by_target[at]->target, target); at++) {
        const struct um_outer_link *link = outer->by_target[at];
        int error = add_visible(tree, link->directory, link->dirent, count);
        if (error != 0)
            return error;
    }
    return 0;
}

/* `outer` is NULL where no layer above links to the inode, else `at` is the first such link. */
static int count_names(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                       const struct um_outer_links *outer, size_t at, uint32_t *count)
{
    int error = 0;
    *count = 0;
    if (inode->nlink > 1)
        error = count_own(tree, part, inode, count);
    else
        error = add_visible(tree, outer->by_target[at]->target_directory,
                            outer->by_target[at]->target_dirent, count);
    return error == 0 && outer != NULL ? count_outer(tree, outer, at, count) : error;
}

int um_tree_count_links(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                        uint32_t *count)
{
    const struct um_outer_links *outer = NULL;
    size_t at = 0;
    *count = 1;
    if (tree->has_externals) {
        int error = um_tree_outer(tree, &outer);
        if (error != 0)
            return error;
        at = um_outer_to(outer, part);
        if (at == outer->n_found || !um_same_part(outer->by_target[at]->target, part))
            outer = NULL;
    }
    if (inode->nlink <= 1 && outer == NULL)
        return 0;
    uint64_t node = um_tree_node(tree, part);
    *count = (uint32_t)kept_value(tree, node);
    if (*count != 0)
        return 0;
    int error = count_names(tree, part, inode, outer, at, count);
    if (*count == 0)
        *count = 1; /* somebody still holds a number that the tree shows under no name */
    return error ? error : keep_value(tree, node, *count);
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
