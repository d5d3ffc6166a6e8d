#include <dirent.h>

#include "tree/state.h"

/* These functions find the visible names of an inode, and their number, the link count. The index
 * has those of the layer by itself; these functions add what other layers do to them: hide a name,
 * or link to an inode of a layer below. Counts of inodes with several names are computed once, and
 * kept. */

/* ---- where a name of a layer stands ---------------------------------------------------------- */

struct chain {
    uint32_t *numbers; /* innermost directory first */
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

/* Collect the dirents of a directory and of the directories that it is in. Parents have smaller
 * numbers, as
 * index/index.c has checked, so this ends. */
static int climb(const struct um_layer *layer, uint32_t directory, struct chain *chain)
{
    chain->n = 0;
    while (directory != 0) {
        struct um_place place;
        int error = um_layer_place(layer, directory, &place);
        if (error == 0)
            error = push_number(chain, place.dirent);
        if (error != 0)
            return error;
        directory = place.directory;
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

int um_tree_layer_path(const struct um_layer *layer, uint32_t directory, uint32_t dirent,
                       char **path, size_t *size)
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

/* ---- what the tree shows ---------------------------------------------------------------------- */

static bool has_part(const struct um_view *view, struct um_part part)
{
    for (uint32_t i = 0; i < view->n; i++) {
        if (um_part_equal(view->parts[i], part))
            return true;
    }
    return false;
}

/* Return whether a directory of a layer cannot be reached through the tree either: a live
 * directory may not be readable, be gone, or be a mount point. */
static bool is_unreachable(const struct um_layer *layer, int error)
{
    bool is_closed = error == -EACCES || error == -EPERM || error == -ESTALE || error == -ELOOP ||
                     error == -EXDEV;
    return error == -ENOENT || (layer->live != NULL && is_closed);
}

/* Return the record of the merged directory that `part` belongs to, looked up in that of the
 * directory above; NULL where the tree does not show the part. */
static int find_shown_in(struct um_tree *tree, const struct um_directory *above,
                         struct um_part part, struct um_directory **shown)
{
    const struct um_layer *layer = &tree->layers[part.layer];
    struct um_place place;
    struct um_child child;
    struct um_hit hit;
    *shown = NULL;
    if (above->view.refused)
        return 0; /* it cannot be reached */
    int error = um_layer_place(layer, part.inode, &place);
    if (error == 0)
        error = um_layer_dirent(layer, place.dirent, &child);
    if (error == 0)
        error = um_view_find(tree, &above->view, child.name, &hit);
    if (error == 0 && hit.child.type == DT_DIR)
        error = um_tree_enter(tree, above, &hit, shown);
    if (*shown != NULL && !has_part(&(*shown)->view, part))
        *shown = NULL;
    return is_unreachable(layer, error) ? 0 : error;
}

/* Collect the directories from `part` outwards, up to one of which it is known whether it is
 * shown. */
static int climb_to_known(struct um_tree *tree, struct um_part part, struct chain *chain,
                          struct um_directory **shown)
{
    while (part.inode != 0) {
        uint64_t known = um_tree_kept(tree, um_tree_node(tree, part));
        if (known != 0) {
            *shown = known == UM_HIDDEN ? NULL : um_tree_directory(tree, known);
            return 0;
        }
        struct um_place place;
        int error = um_layer_place(&tree->layers[part.layer], part.inode, &place);
        if (error == 0)
            error = push_number(chain, part.inode);
        if (error != 0)
            return error;
        part.inode = place.directory;
    }
    *shown = um_tree_directory(tree, UM_ROOT_NODE);
    if (!has_part(&(*shown)->view, part))
        *shown = NULL;
    return 0;
}

/* Return the record of the merged directory that `part` belongs to; NULL where something above
 * hides it. Results are kept, so that every directory is entered once, however many names are in
 * it. But while an unknown redirect (`!final`) may still lead to it, NULL is not kept. */
static int find_shown(struct um_tree *tree, struct um_part part, bool final,
                      struct um_directory **shown)
{
    struct chain chain = {0};
    int error = climb_to_known(tree, part, &chain, shown);
    while (error == 0 && chain.n != 0 && (*shown != NULL || final)) {
        part.inode = chain.numbers[--chain.n];
        if (*shown != NULL)
            error = find_shown_in(tree, *shown, part, shown);
        if (error == 0 && (*shown != NULL || final))
            error =
                um_tree_keep(tree, um_tree_node(tree, part), *shown ? (*shown)->node : UM_HIDDEN);
    }
    free(chain.numbers);
    return error;
}

/* ---- redirects: directories that are shown elsewhere ------------------------------------------- */

/* Enter every directory of a layer that has a redirect. With its record, all its parts are known
 * to be shown. Redirects of the layers above are known. */
static int enter_redirected(struct um_tree *tree, uint32_t layer)
{
    um_autofree uint32_t *directories = NULL;
    struct um_directory *shown;
    size_t n;
    int error = um_layer_redirects(&tree->layers[layer], &directories, &n);
    for (size_t i = 0; error == 0 && i < n; i++)
        error = find_shown(tree, (struct um_part){layer, directories[i]}, true, &shown);
    return error;
}

static int find_redirects(struct um_tree *tree)
{
    int error = 0;
    pthread_mutex_lock(&tree->redirect_lock);
    if (!atomic_load(&tree->redirects_known)) {
        for (uint32_t layer = tree->n_layers; error == 0 && layer-- > 1;)
            error = enter_redirected(tree, layer);
        atomic_store(&tree->redirects_known, error == 0);
    }
    pthread_mutex_unlock(&tree->redirect_lock);
    return error;
}

static bool may_be_redirected(const struct um_tree *tree, struct um_part part)
{
    if (tree->n_live == 0 || part.inode == 0)
        return false;
    for (uint32_t layer = part.layer + 1; layer < tree->n_layers; layer++) {
        if (tree->layers[layer].live != NULL)
            return true;
    }
    return false;
}

int um_tree_shown(struct um_tree *tree, struct um_part part, struct um_directory **shown)
{
    bool final = !may_be_redirected(tree, part) || atomic_load(&tree->redirects_known);
    int error = find_shown(tree, part, final, shown);
    if (error != 0 || *shown != NULL || final)
        return error;
    error = find_redirects(tree);
    return error ? error : find_shown(tree, part, true, shown);
}

/* ---- visible names --------------------------------------------------------------------------------- */

/* Names of an inode that the tree shows: their number and, with `keep`, the names themselves. */
struct names {
    struct um_part part; /* of the inode */
    bool keep;
    uint32_t n;
    struct um_tree_name *all;
    size_t capacity;
};

static int take_name(struct names *names, const struct um_directory *shown, struct um_slice name)
{
    if (names->keep) {
        int error =
            um_reserve((void **)&names->all, &names->capacity, names->n + 1, sizeof *names->all);
        if (error != 0)
            return error;
        names->all[names->n] = (struct um_tree_name){
            .directory = shown->node, .name = (const char *)name.data, .name_size = name.size};
    }
    names->n++;
    return 0;
}

/* Add a name of a part of a directory, unless another part hides it. */
static int take_shown(struct um_tree *tree, const struct um_directory *shown,
                      struct um_part directory, const struct um_child *child, struct names *names)
{
    const struct um_layer *layer = &tree->layers[directory.layer];
    struct um_hit hit;
    if (shown->view.refused)
        return 0;
    int error = um_view_find(tree, &shown->view, child->name, &hit);
    if (error != 0)
        return is_unreachable(layer, error) ? 0 : error;
    if (!um_part_equal(hit.directory, directory) || hit.child.dirent != child->dirent)
        return 0;
    if (layer->live != NULL && hit.child.inode != names->part.inode)
        return 0; /* another file is mounted on it */
    return take_name(names, shown, child->name);
}

/* Add the name of this dirent of `directory`, wherever the tree shows it. */
static int take_visible(struct um_tree *tree, struct um_part directory, uint32_t dirent,
                        struct names *names)
{
    const struct um_layer *layer = &tree->layers[directory.layer];
    struct um_directory *shown = NULL;
    struct um_child child;
    if (tree->n_layers == 1 && layer->live == NULL && !names->keep)
        return take_name(names, NULL, (struct um_slice){0});
    int error = um_tree_shown(tree, directory, &shown);
    if (error != 0 || shown == NULL)
        return error;
    error = um_layer_dirent(layer, dirent, &child);
    if (error == 0)
        error = take_shown(tree, shown, directory, &child, names);
    const struct um_share *share = atomic_load(&shown->shares);
    for (; error == 0 && share != NULL; share = share->next) {
        if (has_part(&share->directory->view, directory))
            error = take_shown(tree, share->directory, directory, &child, names);
    }
    return error;
}

/* ---- names and their number -------------------------------------------------------------------- */

/* Add the names of an inode in its own layer. */
static int take_own(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                    struct names *names)
{
    um_autofree struct um_place *places = NULL;
    size_t n;
    int error = um_layer_names(&tree->layers[part.layer], part.inode, inode, &places, &n);
    for (size_t i = 0; error == 0 && i < n; i++)
        error = take_visible(tree, (struct um_part){part.layer, places[i].directory},
                             places[i].dirent, names);
    return error;
}

/* Add the names that layers above give to the inode: the links to it, from number `at` on. */
static int take_cross_links(struct um_tree *tree, const struct um_cross_links *cross_links,
                            size_t at, struct names *names)
{
    struct um_part target = cross_links->by_target[at]->target;
    for (; at < cross_links->n_found && um_part_equal(cross_links->by_target[at]->target, target);
         at++) {
        const struct um_cross_link *link = cross_links->by_target[at];
        int error = take_visible(tree, link->directory, link->dirent, names);
        if (error != 0)
            return error;
    }
    return 0;
}

/* Find links of layers above to the inode: `*cross_links` is NULL where there is none, else `*at`
 * is the first. */
static int find_cross_links(struct um_tree *tree, struct um_part part,
                            const struct um_cross_links **cross_links, size_t *at)
{
    *cross_links = NULL;
    *at = 0;
    if (!tree->has_externals)
        return 0;
    int error = um_tree_cross_links(tree, cross_links);
    if (error != 0)
        return error;
    *at = um_cross_links_to(*cross_links, part);
    if (*at == (*cross_links)->n_found ||
        !um_part_equal((*cross_links)->by_target[*at]->target, part))
        *cross_links = NULL;
    return 0;
}

static int take_names(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                      const struct um_cross_links *cross_links, size_t at, struct names *names)
{
    int error = 0;
    if (inode->nlink > 1 || cross_links == NULL)
        error = take_own(tree, part, inode, names);
    else /* its only name in its layer is the one by which the link found it */
        error = take_visible(tree, cross_links->by_target[at]->target_directory,
                             cross_links->by_target[at]->target_dirent, names);
    return error == 0 && cross_links != NULL ? take_cross_links(tree, cross_links, at, names)
                                             : error;
}

int um_tree_count_links(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                        uint32_t *count)
{
    const struct um_cross_links *cross_links = NULL;
    struct names names = {.part = part};
    size_t at;
    if (tree->n_layers == 1 && tree->layers[0].live != NULL) {
        *count =
            inode->nlink; /* no layer hides a name, and the disk need not be searched for them */
        return 0;
    }
    *count = 1;
    int error = find_cross_links(tree, part, &cross_links, &at);
    bool shared = atomic_load_explicit(&tree->has_shares, memory_order_relaxed);
    if (error != 0 || (inode->nlink <= 1 && cross_links == NULL && !shared))
        return error;
    uint64_t node = um_tree_node(tree, part);
    *count = shared ? 0 : (uint32_t)um_tree_kept(tree, node); /* looking up may add names */
    if (*count != 0)
        return 0;
    error = take_names(tree, part, inode, cross_links, at, &names);
    /* A process may still have a number of which the tree shows no name. */
    *count = names.n != 0 ? names.n : 1;
    return error || shared ? error : um_tree_keep(tree, node, *count);
}

int um_tree_part_names(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                       struct um_tree_name **all, size_t *n)
{
    const struct um_cross_links *cross_links = NULL;
    struct names names = {.part = part, .keep = true};
    size_t at;
    int error = find_cross_links(tree, part, &cross_links, &at);
    if (error == 0)
        error = take_names(tree, part, inode, cross_links, at, &names);
    if (error != 0) {
        free(names.all);
        return error;
    }
    *all = names.all;
    *n = names.n;
    return 0;
}

/* ---- directories --------------------------------------------------------------------------------------- */

/* Apply the parts above the lowest one to its number of visible subdirectories. Their names are
 * merged first, so that each is looked up in the lowest part only, however many parts there are. */
static int apply_upper_parts(const struct um_tree *tree, const struct um_view *view, int64_t *count)
{
    struct um_view upper = {.parts = view->parts, .n = view->n - 1};
    struct um_view lowest = {.parts = view->parts + upper.n, .n = 1};
    um_autofree struct um_merged *merged = NULL;
    int error = um_view_merge(tree, &upper, true, &merged);
    for (uint32_t i = 0; error == 0 && i < merged->n; i++) {
        struct um_hit hit, below;
        error = um_view_merged_hit(tree, &upper, &merged->names[i], &hit);
        if (error != 0)
            break;
        int found = um_view_find(tree, &lowest, hit.child.name, &below);
        if (found != 0 && found != -ENOENT)
            return found;
        *count += (hit.child.type == DT_DIR) - (found == 0 && below.child.type == DT_DIR);
    }
    return error;
}

/* Count the subdirectories among the names of a view, by the types in the listing. Where a part
 * may not be listed, or is a mount point, the count is 1, as for a directory whose file system
 * does not count them. */
static int count_listed(const struct um_tree *tree, const struct um_view *view, int64_t *count)
{
    um_autofree struct um_merged *merged = NULL;
    int error = view->refused ? -EACCES : um_view_merge(tree, view, false, &merged);
    *count = 2;
    for (uint32_t i = 0; error == 0 && i < merged->n; i++) {
        struct um_hit hit;
        error = um_view_merged_hit(tree, view, &merged->names[i], &hit);
        if (error == 0)
            *count += hit.child.type == DT_DIR;
    }
    if (error != -EACCES && error != -EPERM && error != -EXDEV)
        return error;
    *count = 1;
    return 0;
}

/* Count the subdirectories of a directory of one layer: its link count says them. The file system
 * of a live directory may not count them, and say 1. */
static int count_lowest(const struct um_tree *tree, const struct um_view *view, int64_t *count)
{
    struct um_part lowest = view->parts[view->n - 1];
    struct um_inode inode;
    int error = um_layer_inode(&tree->layers[lowest.layer], lowest.inode, &inode);
    *count = error ? 0 : inode.nlink;
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
    int error = 0;
    bool live = view->n != 0 && tree->layers[view->parts[view->n - 1].layer].live != NULL;
    if (live && view->n > 1)
        error = count_listed(tree, view, &count);
    else if (view->n != 0)
        error = count_lowest(tree, view, &count);
    if (error == 0 && !live && view->n > 1)
        error = apply_upper_parts(tree, view, &count);
    if (error != 0)
        return error;
    int64_t least = live ? 1 : 2;
    *nlink = count < least ? (uint32_t)least : (uint32_t)count;
    atomic_store_explicit(&directory->nlink, *nlink, memory_order_relaxed);
    return 0;
}
