#include "tree/state.h"

/* ---- reading ----------------------------------------------------------------------------------------- */

int64_t um_tree_read(struct um_tree *tree, uint64_t node, uint64_t offset, void *buffer,
                     size_t size, unsigned flags)
{
    struct um_part part;
    struct um_inode inode;
    int error = um_tree_file(tree, node, &part, &inode);
    if (error != 0)
        return error;
    unsigned how = flags & UM_READ_NOWAIT ? UM_LAYER_NOWAIT : 0;
    return um_layer_read(&tree->layers[part.layer], part.inode, &inode, offset, buffer, size, how);
}

int um_tree_extent(struct um_tree *tree, uint64_t node, uint32_t *layer, uint64_t *offset,
                   uint64_t *length)
{
    struct um_part part;
    struct um_inode inode;
    int error = um_tree_file(tree, node, &part, &inode);
    if (error != 0)
        return error;
    if (inode.flags & UM_INODE_SPARSE || tree->layers[part.layer].live != NULL)
        return -EINVAL;
    *layer = part.layer;
    *offset = inode.stored;
    *length = inode.size;
    return 0;
}

/* ---- copying ------------------------------------------------------------------------------------------- */

int um_tree_open_data(struct um_tree *tree, uint64_t node, int *fd)
{
    struct um_part part;
    struct um_inode inode;
    int error = um_tree_file(tree, node, &part, &inode);
    return error ? error : um_layer_open_data(&tree->layers[part.layer], part.inode, fd);
}

int um_tree_next_data(struct um_tree *tree, uint64_t node, int fd, uint64_t from, uint64_t *logical,
                      uint64_t *length, uint64_t *stored)
{
    struct um_part part;
    struct um_inode inode;
    int error = um_tree_file(tree, node, &part, &inode);
    return error ? error
                 : um_layer_next_data(&tree->layers[part.layer], &inode, fd, from, logical, length,
                                      stored);
}
