#include <dirent.h>
#include <sys/stat.h>

#include "tree/state.h"

int um_tree_hit_inode(struct um_tree *tree, const struct um_hit *hit, struct um_part *part,
                      struct um_inode *inode)
{
    const struct um_layer *layer = &tree->layers[hit->directory.layer];
    const struct um_cross_links *cross_links = NULL;
    struct um_child child = hit->child;
    int error = um_layer_resolve(layer, hit->directory.inode, &child);
    if (error != 0)
        return error;
    *part = (struct um_part){.layer = hit->directory.layer, .inode = child.inode};
    if (child.type != DT_UNKNOWN)
        return um_layer_child_inode(layer, hit->directory.inode, &child, inode);
    error = um_tree_cross_links(tree, &cross_links);
    if (error != 0)
        return error;
    const struct um_cross_link *link = um_cross_links_find(cross_links, *part);
    if (link == NULL)
        return -EBADMSG;
    if (!link->found)
        return -ENOENT;
    *part = link->target;
    return um_layer_inode(&tree->layers[part->layer], part->inode, inode);
}

uint32_t um_tree_layer_at(const uint64_t *firsts, uint32_t n_layers, uint64_t number)
{
    uint32_t low = 0, high = n_layers;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (firsts[middle] <= number)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int um_tree_locate(const struct um_tree *tree, uint64_t node, struct um_part *part)
{
    if (node < UM_ROOT_NODE || node >= tree->bases[tree->n_layers])
        return -ESTALE;
    uint32_t layer = um_tree_layer_at(tree->bases, tree->n_layers, node);
    part->layer = layer;
    return um_layer_seek(&tree->layers[layer], node - tree->bases[layer], &part->inode);
}

int um_tree_part(const struct um_tree *tree, uint64_t node, struct um_part *part,
                 struct um_inode *inode)
{
    int error = um_tree_locate(tree, node, part);
    if (error == 0)
        error = um_layer_peek(&tree->layers[part->layer], part->inode, inode);
    if (error != 0)
        return error;
    return S_ISDIR(inode->mode) || (inode->flags & UM_INODE_EXTERNAL) ? -ESTALE : 0;
}
