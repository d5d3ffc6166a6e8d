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
    um_open_files_drop(fastpath->open_files, node);
    um_fastpath_drop_list(fastpath, node);
}
