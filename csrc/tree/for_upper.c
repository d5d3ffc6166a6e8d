#include "tree/state.h"

/* The upper asks these questions of the tree that it is on. */

uint32_t um_tree_layers(const struct um_tree *tree)
{
    return tree->n_layers;
}

uint64_t um_tree_end(const struct um_tree *tree)
{
    return tree->end;
}

uint64_t um_tree_lasting_end(const struct um_tree *tree)
{
    return tree->lasting_end;
}

int um_tree_find(struct um_tree *tree, uint64_t node, const char *name, size_t name_size,
                 struct um_tree_entry *entry)
{
    struct um_directory *directory;
    struct um_hit hit;
    int error = um_tree_need_directory(tree, node, &directory);
    if (error != 0)
        return error;
    if (name_size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    *entry = (struct um_tree_entry){0};
    error = um_view_find(tree, &directory->view, um_slice_of(name, name_size), &hit);
    if (error == 0)
        error = um_tree_hit_attr(tree, directory, &hit, &entry->attr);
    if (error != 0)
        return error;
    entry->name = (const char *)hit.child.name.data;
    entry->name_size = (uint32_t)hit.child.name.size;
    return 0;
}

int um_tree_name(struct um_tree *tree, uint64_t node, uint64_t *parent, const char **name,
                 size_t *name_size)
{
    struct um_directory *directory;
    struct um_place place;
    struct um_child child = {.name = um_slice_of("", 0)};
    int error = um_tree_need_directory(tree, node, &directory);
    if (error == 0 && node != UM_ROOT_NODE) {
        struct um_part top = directory->view.parts[0];
        error = um_layer_place(&tree->layers[top.layer], top.inode, &place);
        if (error == 0)
            error = um_layer_dirent(&tree->layers[top.layer], place.dirent, &child);
    }
    if (error != 0)
        return error;
    *parent = directory->parent;
    *name = (const char *)child.name.data;
    *name_size = child.name.size;
    return 0;
}

int um_tree_names(struct um_tree *tree, uint64_t node, struct um_tree_name **names, size_t *n)
{
    struct um_part part;
    struct um_inode inode;
    if (um_tree_directory(tree, node) != NULL)
        return -EISDIR;
    int error = um_tree_part(tree, node, &part, &inode);
    if (error == 0 && tree->layers[part.layer].live != NULL)
        error = um_layer_inode(&tree->layers[part.layer], part.inode, &inode);
    return error ? error : um_tree_part_names(tree, part, &inode, names, n);
}
