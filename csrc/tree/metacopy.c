#include <dirent.h>
#include <sys/stat.h>

#include "tree/state.h"

/* A file of a live directory may be a metacopy: it has its own attributes, and the file below has
 * its data, at the same path or where its redirect says. */

static bool find_place(const struct um_view *view, struct um_part part, uint32_t *place)
{
    for (*place = 0; *place < view->n; ++*place) {
        if (um_part_equal(view->parts[*place], part))
            return true;
    }
    return false;
}

/* Find a name in the layers below a part of a directory. */
static int find_beside(struct um_tree *tree, struct um_part directory, struct um_slice name,
                       struct um_hit *hit)
{
    struct um_directory *shown = NULL;
    uint32_t place;
    int error = um_tree_shown(tree, directory, &shown);
    if (error != 0)
        return error;
    if (shown == NULL || !find_place(&shown->view, directory, &place))
        return -ENOENT;
    struct um_view below = {.parts = shown->view.parts + place + 1,
                            .n = shown->view.n - place - 1,
                            .refused = shown->view.refused};
    return um_view_find(tree, &below, name, hit);
}

static int find_at(const struct um_tree *tree, uint32_t n_layers, struct um_slice path,
                   struct um_hit *hit)
{
    struct um_view views[2] = {0};
    const struct um_view *in;
    int error = um_view_open(tree, &views[0]);
    if (error == 0)
        error = um_view_open(tree, &views[1]);
    if (error == 0)
        error = um_view_resolve(tree, n_layers, path, views, &in, hit);
    um_view_close(&views[0]);
    um_view_close(&views[1]);
    return error;
}

/* Find the file below that a metacopy continues with. */
static int find_below(struct um_tree *tree, struct um_part *part, struct um_inode *inode)
{
    const struct um_layer *layer = &tree->layers[part->layer];
    struct um_slice redirect;
    struct um_place place;
    struct um_child child;
    struct um_hit hit;
    bool refused;
    int error = um_layer_redirect(layer, part->inode, &redirect, &refused);
    if (error == 0 && refused)
        error = -EIO;
    if (error == 0)
        error = um_layer_place(layer, part->inode, &place);
    if (error == 0)
        error = um_layer_dirent(layer, place.dirent, &child);
    if (error != 0)
        return error;
    if (redirect.size != 0 && redirect.data[0] == '/')
        error = find_at(tree, part->layer, um_slice_of(redirect.data + 1, redirect.size - 1), &hit);
    else
        error = find_beside(tree, (struct um_part){part->layer, place.directory},
                            redirect.size ? redirect : child.name, &hit);
    if (error == 0)
        error = hit.child.type == DT_DIR ? -ENOENT : um_tree_hit_inode(tree, &hit, part, inode);
    if (error == 0 && !S_ISREG(inode->mode))
        error = -ENOENT;
    return error;
}

/* Descend from a regular file to the one that has its data. */
static int find_data(struct um_tree *tree, struct um_part *part, struct um_inode *inode)
{
    for (;;) {
        uint32_t layer = part->layer;
        int own = um_layer_has_data(&tree->layers[layer], part->inode);
        if (own != 0)
            return own < 0 ? own : 0;
        int error = find_below(tree, part, inode);
        if (error == 0 && part->layer >= layer)
            error = -EIO;
        if (error != 0)
            return error == -ENOENT ? -EIO : error;
    }
}

int um_tree_file(struct um_tree *tree, uint64_t node, struct um_part *part, struct um_inode *inode)
{
    if (um_tree_directory(tree, node) != NULL)
        return -EISDIR;
    int error = um_tree_part(tree, node, part, inode);
    if (error != 0)
        return error;
    if (!S_ISREG(inode->mode))
        return -EINVAL;
    return tree->layers[part->layer].live ? find_data(tree, part, inode) : 0;
}

int um_tree_live_blocks(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                        uint64_t *blocks)
{
    struct um_inode data = *inode;
    /* With fewer blocks than its size needs, it is sparse or a metacopy. */
    if (S_ISREG(inode->mode) && inode->blocks < inode->size / 512 + (inode->size % 512 != 0)) {
        struct um_part metacopy = part;
        int error = find_data(tree, &part, &data);
        if (error == -EIO)
            data = *inode; /* it cannot be read, but it exists */
        else if (error != 0)
            return error;
        else if (!um_part_equal(part, metacopy))
            return um_layer_blocks(&tree->layers[part.layer], &data, blocks);
    }
    *blocks = data.blocks;
    return 0;
}
