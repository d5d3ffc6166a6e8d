#include "upper/lower_path.h"

#include "upper/rule.h"

int um_upper_lower_directory_path(struct um_upper *upper, uint64_t number, char *room, size_t size,
                                  const char **path)
{
    char *at = room + size;
    while (number != UM_ROOT_NODE) {
        const char *name;
        size_t name_size;
        int error = um_tree_name(upper->tree, number, &number, &name, &name_size);
        if (error != 0)
            return error;
        if ((size_t)(at - room) <= name_size)
            return -EXDEV; /* too long for the mark: rename(2)'s caller copies and removes instead */
        at -= name_size;
        memcpy(at, name, name_size);
        *--at = '/';
    }
    *path = at;
    return 0;
}

const char *um_upper_lower_file_path(struct um_upper *upper, uint64_t directory,
                                     struct um_slice name, char room[UM_UPPER_REDIRECT_ROOM])
{
    const char *above;
    size_t size = UM_UPPER_REDIRECT_ROOM - name.size - 2;
    if (um_upper_lower_directory_path(upper, directory, room, size, &above) != 0)
        return NULL;
    room[size] = '/';
    memcpy(room + size + 1, name.data, name.size);
    room[size + 1 + name.size] = '\0';
    return above;
}

const char *um_upper_node_lower_path(struct um_upper *upper, const struct um_upper_node *node,
                                     char room[UM_UPPER_REDIRECT_ROOM])
{
    struct um_tree_entry entry;
    if (node->parent == NULL)
        return NULL;
    struct um_slice name = um_upper_node_name(node);
    if (um_upper_find_lower(upper, node->parent, name, &entry) != 0 ||
        entry.attr.node != node->lower)
        return NULL;
    return um_upper_lower_file_path(upper, node->parent->lower, name, room);
}
