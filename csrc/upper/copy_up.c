#include "upper/state.h"

int um_upper_node_copy_up(struct um_upper *upper, struct um_upper_node *node,
                          enum um_upper_need need)
{
    return node->directory ? um_upper_copy_up_directory(upper, node)
                           : um_upper_copy_up_now(upper, node, need);
}

void um_upper_node_release(struct um_upper *upper, struct um_upper_node *node)
{
    um_upper_node_demote(upper, node);
    um_upper_node_unpin(upper, node);
}
