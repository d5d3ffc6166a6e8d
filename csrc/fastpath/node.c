#include "fastpath/exchange.h"

int um_fastpath_node_attr(struct um_fastpath *fastpath, uint64_t node, struct um_attr *attr)
{
    return fastpath->upper ? um_upper_getattr(fastpath->upper, node, attr)
                           : um_tree_getattr(fastpath->tree, node, attr);
}

int um_fastpath_node_open_path(struct um_fastpath *fastpath, uint64_t node, int *fd)
{
    return fastpath->upper ? um_upper_open_path(fastpath->upper, node, fd)
                           : um_tree_open_path(fastpath->tree, node, fd);
}

/* Count lookups down. The tree counts none, so a read-only mount has nothing to forget. */
void um_fastpath_node_forget(struct um_fastpath *fastpath, uint64_t node, uint64_t lookups)
{
    if (fastpath->upper == NULL)
        return;
    if (um_upper_forget(fastpath->upper, node, lookups) != 0)
        return;
    um_passthrough_forget(fastpath->passthrough, node);
    um_open_files_drop(fastpath->open_files, node);
    um_fastpath_drop_list(fastpath, node);
}

void um_fastpath_undo_open(struct um_fastpath *fastpath, const struct fuse_in_header *header,
                           const uint8_t *body, size_t size)
{
    uint64_t node = header->nodeid;
    if (fastpath->passthrough == NULL)
        return;
    if (header->opcode == UM_FUSE_TMPFILE && size >= sizeof(struct fuse_entry_out)) {
        node = ((const struct fuse_entry_out *)(const void *)body)->nodeid;
        body += sizeof(struct fuse_entry_out);
        size -= sizeof(struct fuse_entry_out);
    } else if (header->opcode != FUSE_OPEN) {
        return;
    }
    if (size >= sizeof(struct fuse_open_out))
        um_passthrough_end(fastpath->passthrough, node,
                           ((const struct fuse_open_out *)(const void *)body)->fh);
}
