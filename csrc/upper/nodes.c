#include "upper/nodes.h"

/* In the table of nodes, which themselves do not move. */
struct um_upper_node_entry {
    uint64_t number; /* 0: empty */
    struct um_upper_node *node;
};

struct um_upper_node *um_upper_node_find(struct um_upper *upper, uint64_t number)
{
    const struct um_upper_node_entry *entry = um_table_find(&upper->nodes, sizeof *entry, number);
    return entry ? entry->node : NULL;
}

static void node_free(struct um_upper_node *node)
{
    if (node->fd >= 0)
        close(node->fd);
    free(node->name);
    free(node);
}

static int copy_name(struct um_slice name, char **out)
{
    *out = malloc(name.size + 1);
    if (*out == NULL)
        return -ENOMEM;
    if (name.size != 0)
        memcpy(*out, name.data, name.size);
    (*out)[name.size] = '\0';
    return 0;
}

struct um_upper_known *um_upper_known_find(const struct um_upper *upper, uint64_t number)
{
    return um_table_find(&upper->known, sizeof(struct um_upper_known), number);
}

void um_upper_known_remove(struct um_upper *upper, struct um_upper_known *entry)
{
    um_table_remove(&upper->known, sizeof *entry, entry);
}

int um_upper_known_add(struct um_upper *upper, uint64_t number, uint64_t parent,
                       struct um_slice name, uint64_t lookups)
{
    struct um_upper_known *entry;
    int error = um_table_reserve(&upper->known, sizeof *entry, 1);
    if (error != 0)
        return error;
    entry = um_table_add(&upper->known, sizeof *entry, number);
    entry->lookups += lookups;
    if (entry->parent != 0)
        return 0;
    entry->parent = parent;
    entry->name = (const char *)name.data;
    entry->name_size = (uint8_t)name.size;
    return 0;
}

static void attach(struct um_upper_node *node, struct um_upper_node *parent)
{
    node->parent = parent;
    if (parent != NULL)
        parent->children++;
}

int um_upper_node_add(struct um_upper *upper, uint64_t number, struct um_upper_node *parent,
                      struct um_slice name, bool directory, bool in_upper, uint64_t lower,
                      struct um_upper_node **out)
{
    *out = um_upper_node_find(upper, number);
    if (*out != NULL) {
        um_upper_node_pin(*out);
        return 0;
    }
    struct um_upper_node_entry *entry;
    int error = um_table_reserve(&upper->nodes, sizeof *entry, 1);
    struct um_upper_node *node = error ? NULL : calloc(1, sizeof *node);
    if (node == NULL)
        return -ENOMEM;
    node->fd = -1;
    error = copy_name(name, &node->name);
    if (error != 0) {
        node_free(node);
        return error;
    }
    node->number = number;
    node->name_size = name.size;
    node->directory = directory;
    node->in_upper = in_upper;
    node->capable = in_upper; /* until it is known */
    node->ours = !directory;
    node->lower = lower;
    attach(node, parent);
    struct um_upper_known *known = um_upper_known_find(upper, number);
    if (known != NULL) {
        node->lookups = known->lookups;
        um_upper_known_remove(upper, known);
    }
    entry = um_table_add(&upper->nodes, sizeof *entry, number);
    entry->node = node;
    um_upper_node_pin(node);
    *out = node;
    return 0;
}

int um_upper_node_move(struct um_upper *upper, struct um_upper_node *node,
                       struct um_upper_node *parent, struct um_slice name)
{
    char *copy;
    int error = copy_name(name, &copy);
    if (error != 0)
        return error;
    struct um_upper_node *old = node->parent;
    free(node->name);
    node->name = copy;
    node->name_size = name.size;
    attach(node, parent);
    if (old != NULL) {
        old->children--;
        um_upper_node_drop_unused(upper, old);
    }
    return 0;
}

/* Take a node out of its place, and let its parent go. */
static void displace(struct um_upper *upper, struct um_upper_node *node)
{
    struct um_upper_node *parent = node->parent;
    node->parent = NULL;
    if (parent != NULL) {
        parent->children--;
        um_upper_node_drop_unused(upper, parent);
    }
}

static bool is_kept(const struct um_upper *upper, const struct um_upper_node *node)
{
    return node == upper->root || node->lookups != 0 || node->opens != 0 || node->children != 0 ||
           node->pins != 0;
}

static void remove_entry(struct um_upper *upper, uint64_t number)
{
    struct um_upper_node_entry *entry = um_table_find(&upper->nodes, sizeof *entry, number);
    um_table_remove(&upper->nodes, sizeof *entry, entry);
}

void um_upper_node_drop_unused(struct um_upper *upper, struct um_upper_node *node)
{
    while (node != NULL && !is_kept(upper, node)) {
        struct um_upper_node *parent = node->parent;
        remove_entry(upper, node->number);
        if (node->directory)
            um_fd_cache_drop(upper->directories, node->number);
        node_free(node);
        if (parent != NULL)
            parent->children--;
        node = parent;
    }
}

void um_upper_node_unpin(struct um_upper *upper, struct um_upper_node *node)
{
    node->pins--;
    um_upper_node_drop_unused(upper, node);
}

bool um_upper_is_known(struct um_upper *upper, uint64_t number)
{
    return um_upper_node_find(upper, number) != NULL || um_upper_known_find(upper, number) != NULL;
}

void um_upper_node_lose_name(struct um_upper *upper, struct um_upper_node *node)
{
    node->gone = true;
    displace(upper, node);
}

void um_upper_forget_place(struct um_upper *upper, uint64_t number,
                           const struct um_upper_node *directory, struct um_slice name)
{
    struct um_upper_node *node = um_upper_node_find(upper, number);
    struct um_upper_known *known = um_upper_known_find(upper, number);
    if (node != NULL && node->parent == directory && um_slice_equal(um_upper_node_name(node), name))
        displace(upper, node);
    if (known != NULL && known->parent == directory->number &&
        um_slice_equal(um_slice_of(known->name, known->name_size), name))
        known->parent = 0;
}

uint64_t um_upper_node_only_lower(const struct um_upper_node *node)
{
    bool below = node != NULL && node->directory && !node->in_upper && !node->gone;
    return below ? node->lower : 0;
}

int um_upper_node_take_descriptor(const struct um_upper *upper, struct um_upper_node *node)
{
    int fd = node->fd;
    if (!node->gone || is_kept(upper, node))
        return -1;
    node->fd = -1;
    return fd;
}

void um_upper_node_add_subdirectories(struct um_upper_node *directory, int change)
{
    if (directory->nlink > 1) /* 0: not counted yet, 1: not known */
        directory->nlink = (uint32_t)((int64_t)directory->nlink + change);
}

void um_upper_nodes_close(struct um_upper *upper)
{
    const struct um_upper_node_entry *entry = NULL;
    while ((entry = um_table_next(&upper->nodes, sizeof *entry, entry)) != NULL)
        node_free(entry->node);
    um_table_clear(&upper->nodes, sizeof *entry);
    um_table_clear(&upper->known, sizeof(struct um_upper_known));
}
