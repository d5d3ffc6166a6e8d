#include <fcntl.h>

#include "upper/state.h"

static struct um_upper_node **find_bucket(const struct um_upper *upper, uint64_t number)
{
    struct um_upper_node **slot = &upper->buckets[um_hash_node(number) & (upper->n_buckets - 1)];
    while (*slot != NULL && (*slot)->number != number)
        slot = &(*slot)->next;
    return slot;
}

struct um_upper_node *um_upper_node_find(struct um_upper *upper, uint64_t number)
{
    return *find_bucket(upper, number);
}

int um_upper_grow_nodes(struct um_upper *upper)
{
    size_t n_old = upper->n_buckets;
    struct um_upper_node **old = upper->buckets;
    size_t grown = n_old ? n_old * 2 : 256;
    struct um_upper_node **buckets = calloc(grown, sizeof *buckets);
    if (buckets == NULL)
        return -ENOMEM;
    upper->buckets = buckets;
    upper->n_buckets = grown;
    for (size_t i = 0; i < n_old; i++) {
        while (old[i] != NULL) {
            struct um_upper_node *node = old[i];
            old[i] = node->next;
            struct um_upper_node **slot = find_bucket(upper, node->number);
            node->next = NULL;
            *slot = node;
        }
    }
    free(old);
    return 0;
}

void um_upper_node_free(struct um_upper_node *node)
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

static size_t known_home(const struct um_upper *upper, uint64_t number)
{
    return um_hash_node(number) & (upper->n_known_slots - 1);
}

static struct um_upper_known *known_slot(const struct um_upper *upper, uint64_t number)
{
    for (size_t at = known_home(upper, number);; at = (at + 1) & (upper->n_known_slots - 1)) {
        struct um_upper_known *slot = &upper->known[at];
        if (slot->number == 0 || slot->number == number)
            return slot;
    }
}

struct um_upper_known *um_upper_known_find(const struct um_upper *upper, uint64_t number)
{
    if (upper->n_known == 0)
        return NULL;
    struct um_upper_known *slot = known_slot(upper, number);
    return slot->number == number ? slot : NULL;
}

/* Let the table have `slots`, a power of two that its entries fit in. */
static int resize_known(struct um_upper *upper, size_t slots)
{
    struct um_upper_known *known = calloc(slots, sizeof *known);
    if (known == NULL)
        return -ENOMEM;
    struct um_upper_known *old = upper->known;
    size_t n_old = upper->n_known_slots;
    upper->known = known;
    upper->n_known_slots = slots;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].number != 0)
            *known_slot(upper, old[i].number) = old[i];
    }
    free(old);
    return 0;
}

/* Remove an entry; those behind it that probing would not reach any more move up. */
void um_upper_known_remove(struct um_upper *upper, struct um_upper_known *entry)
{
    size_t mask = upper->n_known_slots - 1;
    size_t hole = (size_t)(entry - upper->known);
    for (size_t at = (hole + 1) & mask; upper->known[at].number != 0; at = (at + 1) & mask) {
        size_t home = known_home(upper, upper->known[at].number);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            upper->known[hole] = upper->known[at];
            hole = at;
        }
    }
    upper->known[hole] = (struct um_upper_known){0};
    upper->n_known--;
    if (upper->n_known_slots > 1024 && upper->n_known < upper->n_known_slots / 8)
        resize_known(upper, upper->n_known_slots / 4); /* where it fails it stays large */
}

int um_upper_known_add(struct um_upper *upper, uint64_t number, uint64_t parent,
                       struct um_slice name, uint64_t lookups)
{
    struct um_upper_known *entry = um_upper_known_find(upper, number);
    if (entry != NULL) {
        entry->lookups += lookups;
        if (entry->parent != 0)
            return 0;
    } else {
        if ((upper->n_known + 1) * 4 > upper->n_known_slots * 3) {
            int error = resize_known(upper, upper->n_known_slots ? upper->n_known_slots * 2 : 64);
            if (error != 0)
                return error;
        }
        entry = known_slot(upper, number);
        *entry = (struct um_upper_known){.number = number, .lookups = lookups};
        upper->n_known++;
    }
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
    int error = 0;
    if (upper->n_records >= upper->n_buckets)
        error = um_upper_grow_nodes(upper);
    struct um_upper_node *node = error ? NULL : calloc(1, sizeof *node);
    if (node == NULL)
        return -ENOMEM;
    node->fd = -1;
    error = copy_name(name, &node->name);
    if (error != 0) {
        um_upper_node_free(node);
        return error;
    }
    node->number = number;
    node->name_size = name.size;
    node->directory = directory;
    node->in_upper = in_upper;
    node->capable = in_upper && !directory; /* until it is known */
    node->ours = !directory;
    node->lower = lower;
    attach(node, parent);
    struct um_upper_known *known = um_upper_known_find(upper, number);
    if (known != NULL) {
        node->lookups = known->lookups;
        um_upper_known_remove(upper, known);
    }
    *find_bucket(upper, number) = node;
    upper->n_records++;
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

/* A node that has no place any more; what it is in is let go of. */
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

void um_upper_node_drop_unused(struct um_upper *upper, struct um_upper_node *node)
{
    while (node != NULL && !is_kept(upper, node)) {
        struct um_upper_node *parent = node->parent;
        *find_bucket(upper, node->number) = node->next;
        upper->n_records--;
        if (node->directory)
            um_fd_cache_drop(upper->directories, node->number);
        um_upper_node_free(node);
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
    if (node != NULL && node->parent == directory &&
        um_slice_equal(um_slice_of(node->name, node->name_size), name))
        displace(upper, node);
    if (known != NULL && known->parent == directory->number &&
        um_slice_equal(um_slice_of(known->name, known->name_size), name))
        known->parent = 0;
}

void um_upper_node_update(struct um_upper *upper, struct um_upper_node *node,
                          const struct um_upper_hit *hit)
{
    node->plain = hit->plain;
    if (hit->in_upper && hit->ino != 0 && hit->ino != node->ino) {
        if (node->directory) /* somebody exchanged it on disk: no more is done in the old one */
            um_fd_cache_drop(upper->directories, node->number);
        node->ino = hit->ino;
    }
    if (hit->directory) {
        node->nlink = hit->in_upper ? hit->attr.nlink : 0;
    } else if (hit->in_upper && hit->ino != 0) {
        node->data = hit->data;
        node->capable = hit->capable;
        node->ours = hit->ours;
    }
}

uint64_t um_upper_node_only_lower(const struct um_upper_node *node)
{
    bool below = node != NULL && node->directory && !node->in_upper && !node->gone;
    return below ? node->lower : 0;
}

int um_upper_node_last_descriptor(const struct um_upper_node *node)
{
    return node->gone && node->fd >= 0 ? fcntl(node->fd, F_DUPFD_CLOEXEC, 3) : -1;
}
