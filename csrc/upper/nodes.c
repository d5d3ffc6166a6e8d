#include <fcntl.h>

#include "upper/state.h"

static struct um_record **find_bucket(const struct um_upper *upper, uint64_t node)
{
    struct um_record **slot = &upper->buckets[um_hash_node(node) & (upper->n_buckets - 1)];
    while (*slot != NULL && (*slot)->node != node)
        slot = &(*slot)->next;
    return slot;
}

struct um_record *um_upper_record(struct um_upper *upper, uint64_t node)
{
    return *find_bucket(upper, node);
}

int um_upper_grow_records(struct um_upper *upper)
{
    size_t n_old = upper->n_buckets;
    struct um_record **old = upper->buckets;
    size_t grown = n_old ? n_old * 2 : 256;
    struct um_record **buckets = calloc(grown, sizeof *buckets);
    if (buckets == NULL)
        return -ENOMEM;
    upper->buckets = buckets;
    upper->n_buckets = grown;
    for (size_t i = 0; i < n_old; i++) {
        while (old[i] != NULL) {
            struct um_record *record = old[i];
            old[i] = record->next;
            struct um_record **slot = find_bucket(upper, record->node);
            record->next = NULL;
            *slot = record;
        }
    }
    free(old);
    return 0;
}

void um_record_free(struct um_record *record)
{
    if (record->fd >= 0)
        close(record->fd);
    free(record->name);
    free(record);
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

static size_t known_home(const struct um_upper *upper, uint64_t node)
{
    return um_hash_node(node) & (upper->n_known_slots - 1);
}

static struct um_known *known_slot(const struct um_upper *upper, uint64_t node)
{
    for (size_t at = known_home(upper, node);; at = (at + 1) & (upper->n_known_slots - 1)) {
        struct um_known *slot = &upper->known[at];
        if (slot->node == 0 || slot->node == node)
            return slot;
    }
}

struct um_known *um_upper_find_known(const struct um_upper *upper, uint64_t node)
{
    if (upper->n_known == 0)
        return NULL;
    struct um_known *slot = known_slot(upper, node);
    return slot->node == node ? slot : NULL;
}

/* Let the table have `slots`, a power of two that its entries fit in. */
static int resize_known(struct um_upper *upper, size_t slots)
{
    struct um_known *known = calloc(slots, sizeof *known);
    if (known == NULL)
        return -ENOMEM;
    struct um_known *old = upper->known;
    size_t n_old = upper->n_known_slots;
    upper->known = known;
    upper->n_known_slots = slots;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].node != 0)
            *known_slot(upper, old[i].node) = old[i];
    }
    free(old);
    return 0;
}

/* Remove an entry; those behind it that probing would not reach any more move up. */
void um_upper_remove_known(struct um_upper *upper, struct um_known *entry)
{
    size_t mask = upper->n_known_slots - 1;
    size_t hole = (size_t)(entry - upper->known);
    for (size_t at = (hole + 1) & mask; upper->known[at].node != 0; at = (at + 1) & mask) {
        size_t home = known_home(upper, upper->known[at].node);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            upper->known[hole] = upper->known[at];
            hole = at;
        }
    }
    upper->known[hole] = (struct um_known){0};
    upper->n_known--;
    if (upper->n_known_slots > 1024 && upper->n_known < upper->n_known_slots / 8)
        resize_known(upper, upper->n_known_slots / 4); /* where it fails it stays large */
}

int um_upper_add_known(struct um_upper *upper, uint64_t node, uint64_t parent, struct um_slice name,
                       uint64_t lookups)
{
    struct um_known *entry = um_upper_find_known(upper, node);
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
        entry = known_slot(upper, node);
        *entry = (struct um_known){.node = node, .lookups = lookups};
        upper->n_known++;
    }
    entry->parent = parent;
    entry->name = (const char *)name.data;
    entry->name_size = (uint8_t)name.size;
    return 0;
}

static void attach(struct um_record *record, struct um_record *parent)
{
    record->parent = parent;
    if (parent != NULL)
        parent->children++;
}

int um_record_need(struct um_upper *upper, uint64_t node, struct um_record *parent,
                   struct um_slice name, bool directory, bool in_upper, uint64_t lower,
                   struct um_record **out)
{
    *out = um_upper_record(upper, node);
    if (*out != NULL) {
        um_record_pin(*out);
        return 0;
    }
    int error = 0;
    if (upper->n_records >= upper->n_buckets)
        error = um_upper_grow_records(upper);
    struct um_record *record = error ? NULL : calloc(1, sizeof *record);
    if (record == NULL)
        return -ENOMEM;
    record->fd = -1;
    error = copy_name(name, &record->name);
    if (error != 0) {
        um_record_free(record);
        return error;
    }
    record->node = node;
    record->name_size = name.size;
    record->directory = directory;
    record->in_upper = in_upper;
    record->capable = in_upper && !directory; /* until it is known */
    record->ours = !directory;
    record->lower = lower;
    attach(record, parent);
    struct um_known *known = um_upper_find_known(upper, node);
    if (known != NULL) {
        record->lookups = known->lookups;
        um_upper_remove_known(upper, known);
    }
    *find_bucket(upper, node) = record;
    upper->n_records++;
    um_record_pin(record);
    *out = record;
    return 0;
}

int um_record_move(struct um_upper *upper, struct um_record *record, struct um_record *parent,
                   struct um_slice name)
{
    char *copy;
    int error = copy_name(name, &copy);
    if (error != 0)
        return error;
    struct um_record *old = record->parent;
    free(record->name);
    record->name = copy;
    record->name_size = name.size;
    attach(record, parent);
    if (old != NULL) {
        old->children--;
        um_record_settle(upper, old);
    }
    return 0;
}

/* A record that has no place any more; what it is in is let go of. */
static void displace(struct um_upper *upper, struct um_record *record)
{
    struct um_record *parent = record->parent;
    record->parent = NULL;
    if (parent != NULL) {
        parent->children--;
        um_record_settle(upper, parent);
    }
}

static bool is_kept(const struct um_upper *upper, const struct um_record *record)
{
    return record == upper->root || record->lookups != 0 || record->opens != 0 ||
           record->children != 0 || record->pins != 0;
}

void um_record_settle(struct um_upper *upper, struct um_record *record)
{
    while (record != NULL && !is_kept(upper, record)) {
        struct um_record *parent = record->parent;
        *find_bucket(upper, record->node) = record->next;
        upper->n_records--;
        if (record->directory)
            um_fd_cache_drop(upper->directories, record->node);
        um_record_free(record);
        if (parent != NULL)
            parent->children--;
        record = parent;
    }
}

void um_record_unpin(struct um_upper *upper, struct um_record *record)
{
    record->pins--;
    um_record_settle(upper, record);
}

bool um_upper_is_known(struct um_upper *upper, uint64_t node)
{
    return um_upper_record(upper, node) != NULL || um_upper_find_known(upper, node) != NULL;
}

void um_record_lose(struct um_upper *upper, struct um_record *record)
{
    record->gone = true;
    displace(upper, record);
}

void um_upper_misplace(struct um_upper *upper, uint64_t node, const struct um_record *directory,
                       struct um_slice name)
{
    struct um_record *record = um_upper_record(upper, node);
    struct um_known *known = um_upper_find_known(upper, node);
    if (record != NULL && record->parent == directory &&
        um_slice_equal(um_slice_of(record->name, record->name_size), name))
        displace(upper, record);
    if (known != NULL && known->parent == directory->node &&
        um_slice_equal(um_slice_of(known->name, known->name_size), name))
        known->parent = 0;
}

void um_record_learn(struct um_upper *upper, struct um_record *record,
                     const struct um_upper_hit *hit)
{
    record->plain = hit->plain;
    if (hit->in_upper && hit->ino != 0 && hit->ino != record->ino) {
        if (record->directory) /* somebody exchanged it on disk: no more is done in the old one */
            um_fd_cache_drop(upper->directories, record->node);
        record->ino = hit->ino;
    }
    if (hit->directory) {
        record->nlink = hit->in_upper ? hit->attr.nlink : 0;
    } else if (hit->in_upper && hit->ino != 0) {
        record->data = hit->data;
        record->capable = hit->capable;
        record->ours = hit->ours;
    }
}

uint64_t um_record_only_below(const struct um_record *record)
{
    bool below = record != NULL && record->directory && !record->in_upper && !record->gone;
    return below ? record->lower : 0;
}

int um_record_last_hold(const struct um_record *record)
{
    return record->gone && record->fd >= 0 ? fcntl(record->fd, F_DUPFD_CLOEXEC, 3) : -1;
}
