#include "upper/upper.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/random.h>
#include <sys/vfs.h>

#include "marks/whiteout.h"
#include "upper/state.h"

#define DIRECTORIES 64u /* descriptors that are kept of directories of the upper */

/* ---- records ------------------------------------------------------------------------------------- */

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

static int grow_buckets(struct um_upper *upper)
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

static void record_free(struct um_record *record)
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

/* ---- known nodes ----------------------------------------------------------------------------------- */

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

static struct um_known *find_known(const struct um_upper *upper, uint64_t node)
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
static void remove_known(struct um_upper *upper, struct um_known *entry)
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

static int add_known(struct um_upper *upper, uint64_t node, uint64_t parent, struct um_slice name,
                     uint64_t lookups)
{
    struct um_known *entry = find_known(upper, node);
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

/* ---- the life of a record ---------------------------------------------------------------------------- */

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
        error = grow_buckets(upper);
    struct um_record *record = error ? NULL : calloc(1, sizeof *record);
    if (record == NULL)
        return -ENOMEM;
    record->fd = -1;
    error = copy_name(name, &record->name);
    if (error != 0) {
        record_free(record);
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
    struct um_known *known = find_known(upper, node);
    if (known != NULL) {
        record->lookups = known->lookups;
        remove_known(upper, known);
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
        record_free(record);
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

void um_record_demote(struct um_upper *upper, struct um_record *record)
{
    struct um_tree_entry entry;
    bool idle = !record->directory && !record->in_upper && !record->gone && record->opens == 0;
    if (!idle || record->parent == NULL || record->lookups == 0)
        return;
    struct um_slice name = um_slice_of(record->name, record->name_size);
    if (um_upper_below(upper, record->parent, name, &entry) != 0)
        return;
    if (add_known(upper, record->node, record->parent->node,
                  um_slice_of(entry.name, entry.name_size), record->lookups) == 0)
        record->lookups = 0; /* and so it is dropped */
}

/* A record of a file of which only the number is known: through any name that the mount shows. */
static int need_by_name(struct um_upper *upper, uint64_t node, struct um_record **record)
{
    struct um_shown_name *names;
    size_t n;
    int error = um_upper_shown_names(upper, node, &names, &n);
    if (error != 0)
        return error;
    struct um_slice name =
        n ? um_slice_of(names[0].name, names[0].name_size) : (struct um_slice){0};
    error = n ? um_record_need(upper, node, names[0].directory, name, false, false, node, record)
              : -ESTALE;
    um_upper_names_free(upper, &names, &n);
    return error;
}

int um_upper_need(struct um_upper *upper, uint64_t node, struct um_record **record)
{
    *record = um_upper_record(upper, node);
    if (*record != NULL) {
        um_record_pin(*record);
        return 0;
    }
    if (node >= upper->base)
        return -ESTALE;
    const struct um_known *known = find_known(upper, node);
    struct um_record *parent = known ? um_upper_record(upper, known->parent) : NULL;
    if (parent == NULL)
        return need_by_name(upper, node, record);
    struct um_slice name = um_slice_of(known->name, known->name_size);
    return um_record_need(upper, node, parent, name, false, false, node, record);
}

bool um_upper_is_known(struct um_upper *upper, uint64_t node)
{
    return um_upper_record(upper, node) != NULL || find_known(upper, node) != NULL;
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
    struct um_known *known = find_known(upper, node);
    if (record != NULL && record->parent == directory &&
        um_slice_equal(um_slice_of(record->name, record->name_size), name))
        displace(upper, record);
    if (known != NULL && known->parent == directory->node &&
        um_slice_equal(um_slice_of(known->name, known->name_size), name))
        known->parent = 0;
}

/* ---- the rule ---------------------------------------------------------------------------------------- */

int um_upper_below(struct um_upper *upper, const struct um_record *directory, struct um_slice name,
                   struct um_tree_entry *entry)
{
    struct um_tree_entry unused;
    if (directory->lower == 0)
        return -ENOENT;
    if (directory->lower == UM_LOWER_REFUSED)
        return -EIO;
    return um_tree_find(upper->tree, directory->lower, (const char *)name.data, name.size,
                        entry ? entry : &unused);
}

/* The directory that an absolute path leads to in the lower tree; 0 where there is none. */
static int follow_path(struct um_upper *upper, struct um_slice path, uint64_t *lower)
{
    uint64_t node = UM_ROOT_NODE;
    size_t at = 0;
    *lower = 0;
    while (at < path.size) {
        const uint8_t *slash = memchr(path.data + at, '/', path.size - at);
        size_t end = slash ? (size_t)(slash - path.data) : path.size;
        if (end != at) {
            struct um_tree_entry entry;
            int error =
                um_tree_find(upper->tree, node, (const char *)path.data + at, end - at, &entry);
            if (error != 0 || !S_ISDIR(entry.attr.mode))
                return error == -ENOENT || error == -ENOTDIR ? 0 : error;
            node = entry.attr.node;
        }
        at = end + 1;
    }
    *lower = node;
    return 0;
}

/* The lower directory of a name beside; 0 where there is none. */
static int follow_name(struct um_upper *upper, const struct um_record *directory,
                       struct um_slice name, uint64_t *lower)
{
    struct um_tree_entry entry;
    int error = um_upper_below(upper, directory, name, &entry);
    *lower = error == 0 && S_ISDIR(entry.attr.mode) ? entry.attr.node : 0;
    return error == -ENOENT ? 0 : error;
}

/* What the directory that has these marks goes on with, which is not opaque. */
static int follow_marks(struct um_upper *upper, const struct um_record *directory,
                        struct um_slice name, struct um_spot *spot, unsigned marks, uint64_t *lower)
{
    char path[PATH_MAX];
    int64_t size = 0;
    if (marks & UM_HAS_REDIRECT)
        size = um_mark_get_redirect(upper, spot, path, sizeof path);
    if (size == -EKEYREJECTED)
        um_mark_tell_refused(upper, directory, name);
    if (size < 0)
        return (int)size;
    if (size == 0)
        return follow_name(upper, directory, name, lower);
    if (path[0] == '/')
        return follow_path(upper, um_slice_of(path, (size_t)size), lower);
    return follow_name(upper, directory, um_slice_of(path, (size_t)size), lower);
}

/* What a directory of the upper continues; 0 for nothing. */
static int find_lower(struct um_upper *upper, const struct um_record *directory,
                      struct um_slice name, struct um_spot *spot, uint64_t *lower)
{
    *lower = 0;
    unsigned marks;
    int error = um_marks_of(upper, spot, &marks);
    spot->plain = error == 0 && !(marks & UM_HAS_OVERRIDE);
    int opaque = error ? error : um_mark_is_opaque(upper, spot, marks & UM_HAS_OPAQUE);
    if (opaque != 0)
        return opaque < 0 ? opaque : 0;
    error = follow_marks(upper, directory, name, spot, marks, lower);
    if (error != -EKEYREJECTED && error != -EIO)
        return error;
    *lower = UM_LOWER_REFUSED; /* the directory is there; what is in it is not known */
    return 0;
}

static int upper_node(const struct um_upper *upper, const struct stat *status, uint64_t *node)
{
    if (status->st_dev != upper->device)
        return -EXDEV;
    return um_add64(upper->base, status->st_ino, node) ? 0 : -EOVERFLOW;
}

/* Whether a file of the upper may have the number that it says it has. What somebody else may have said
 * (not `ours`) is true of what was copied up since the mount. */
static bool is_believed(struct um_upper *upper, uint64_t origin, bool ours,
                        const struct stat *status, const struct um_attr *attr)
{
    struct um_attr lower;
    if (origin == 0 || origin >= upper->base)
        return false;
    if (um_tree_getattr(upper->tree, origin, &lower) != 0 || S_ISDIR(lower.mode) ||
        (lower.mode & S_IFMT) != (attr->mode & S_IFMT))
        return false;
    const struct um_record *record = um_upper_record(upper, origin);
    if (!ours && (record == NULL || !record->in_upper || record->ino != status->st_ino))
        return false;
    return record == NULL || !record->in_upper || record->ino == 0 || record->ino == status->st_ino;
}

/* Split a path at its last slash; what is before it may be empty. */
static struct um_slice last_name(struct um_slice path, struct um_slice *above)
{
    size_t at = path.size;
    while (at != 0 && path.data[at - 1] != '/')
        at--;
    *above = um_slice_of(path.data, at);
    return um_slice_of(path.data + at, path.size - at);
}

/* The lower file whose data a file of the upper has; 0 where there is none. */
static int find_data(struct um_upper *upper, const struct um_record *directory,
                     struct um_slice name, struct um_spot *spot, uint64_t *data)
{
    char path[PATH_MAX];
    struct um_tree_entry entry;
    struct um_slice above = {0};
    *data = 0;
    int64_t size = um_mark_get_redirect(upper, spot, path, sizeof path);
    if (size < 0)
        return (int)size;
    uint64_t lower = directory->lower;
    if (size != 0)
        name = last_name(um_slice_of(path, (size_t)size), &above);
    int error = above.size != 0 ? follow_path(upper, above, &lower) : 0;
    if (error == 0)
        error = lower ? um_tree_find(upper->tree, lower, (const char *)name.data, name.size, &entry)
                      : -ENOENT;
    if (error == 0 && S_ISREG(entry.attr.mode))
        *data = entry.attr.node;
    return error == -ENOENT ? 0 : error;
}

/* A file whose data is still below. */
static int metacopy_hit(struct um_upper *upper, const struct um_record *directory,
                        struct um_slice name, struct um_spot *spot, struct um_upper_hit *hit)
{
    struct um_attr below;
    int error = um_mark_is_metacopy(upper, spot);
    if (error == 0)
        return 0;
    if (error > 0)
        error = hit->lower ? 0 : find_data(upper, directory, name, spot, &hit->data);
    if (error == 0 && hit->lower != 0)
        hit->data = hit->lower;
    if (error == -EKEYREJECTED)
        um_mark_tell_refused(upper, directory, name);
    if (error == -EKEYREJECTED || error == -EIO)
        error = 0; /* the file is there; its data is not known */
    if (error == 0 && hit->data != 0)
        error = um_tree_getattr(upper->tree, hit->data, &below);
    if (error == 0 && hit->data != 0)
        hit->attr.blocks = below.blocks;
    if (hit->data == 0)
        hit->data = UM_DATA_LOST;
    return error;
}

static int file_hit(struct um_upper *upper, const struct um_record *directory, struct um_slice name,
                    struct um_spot *spot, const struct stat *status, struct um_upper_hit *hit)
{
    uint64_t origin = 0;
    unsigned marks;
    bool ours = false;
    int error = um_marks_of(upper, spot, &marks);
    spot->plain = error == 0 && !(marks & UM_HAS_OVERRIDE);
    if (error == 0)
        error = um_disk_attr(upper, spot, status, &hit->attr);
    if (error == 0 && (marks & UM_HAS_ORIGIN))
        error = um_mark_get_origin(upper, spot, &origin, &ours);
    if (error == 0)
        error = upper_node(upper, status, &hit->attr.node);
    if (error != 0)
        return error;
    hit->ino = status->st_ino;
    hit->capable = marks & UM_HAS_CAPABILITY;
    hit->ours = um_disk_believes(upper, status);
    hit->plain = spot->plain && !(upper->flags & UM_UPPER_OVERRIDE);
    if (is_believed(upper, origin, ours, status, &hit->attr))
        hit->lower = hit->attr.node = origin;
    if (!(marks & UM_HAS_METACOPY) || !S_ISREG(hit->attr.mode))
        return 0;
    if (status->st_size != 0)
        return metacopy_hit(upper, directory, name, spot, hit);
    /* Its data was being given up when the daemon ended. The mark would speak of whatever is written
     * next: it goes when the file is opened for that. */
    hit->data = UM_DATA_NONE;
    return 0;
}

static bool is_at(const struct um_record *record, const struct um_record *directory,
                  struct um_slice name)
{
    return record->parent == directory &&
           um_slice_equal(um_slice_of(record->name, record->name_size), name);
}

/* ---- link counts of directories --------------------------------------------------------------------- */

static bool is_there(const struct um_upper *upper, int fd, struct um_slice name)
{
    struct um_spot spot;
    struct stat status;
    return um_spot_in(upper, fd, name, &spot) == 0 && um_spot_stat(&spot, &status) == 0;
}

/* What the names of the upper do to the number of subdirectories of the directory `lower`. */
static int count_changes(struct um_upper *upper, DIR *stream, uint64_t lower, int64_t *count)
{
    struct dirent *entry;
    while ((errno = 0, entry = readdir(stream)) != NULL) {
        struct um_slice name = um_slice_of(entry->d_name, strlen(entry->d_name));
        struct um_slice hidden;
        if (entry->d_name[0] == '.' && (name.size == 1 || (name.size == 2 && name.data[1] == '.')))
            continue;
        int directory = 0;
        switch (um_whiteout_classify(name, &hidden)) {
        case UM_NAME_PLAIN:
            directory = um_disk_is_directory(upper, dirfd(stream), entry);
            break;
        case UM_NAME_WHITEOUT:
            name = hidden;
            if (is_there(upper, dirfd(stream), name))
                continue; /* it was made again, and counts itself */
            break;
        default:
            continue;
        }
        if (directory < 0)
            return directory;
        struct um_tree_entry below;
        int error =
            lower ? um_tree_find(upper->tree, lower, (const char *)name.data, name.size, &below)
                  : -ENOENT;
        if (error != 0 && error != -ENOENT)
            return error;
        *count += directory - (error == 0 && S_ISDIR(below.attr.mode));
    }
    return -errno;
}

/* The link count of a directory of the upper that continues `lower` (0: nothing). */
static int directory_links(struct um_upper *upper, const struct um_spot *spot,
                           const struct stat *status, uint64_t lower, uint32_t *nlink)
{
    struct um_attr below = {.nlink = 2};
    *nlink = (uint32_t)status->st_nlink;
    if (lower == UM_LOWER_REFUSED)
        lower = 0;
    if (lower == 0 && status->st_nlink >= 2)
        return 0; /* btrfs, and ext4 where there are very many, say 1 */
    int error = lower ? um_tree_getattr(upper->tree, lower, &below) : 0;
    if (error != 0)
        return error;
    if (below.nlink < 2) {
        *nlink = 1; /* what is not known of the lower directory is not of both */
        return 0;
    }
    DIR *stream;
    error = um_spot_list(NULL, spot, &stream);
    if (error != 0)
        return error;
    int64_t count = below.nlink;
    error = count_changes(upper, stream, lower, &count);
    closedir(stream);
    *nlink = count < 2 ? 2 : (uint32_t)count;
    return error;
}

static int directory_hit(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                         struct um_spot *spot, const struct stat *status, struct um_upper_hit *hit)
{
    hit->directory = true;
    int error = find_lower(upper, directory, name, spot, &hit->lower);
    if (error == 0)
        error = um_disk_attr(upper, spot, status, &hit->attr);
    if (error == 0)
        error = upper_node(upper, status, &hit->attr.node);
    if (error != 0)
        return error;
    hit->ino = status->st_ino;
    hit->plain = spot->plain && !(upper->flags & UM_UPPER_OVERRIDE);
    bool continues = hit->lower != 0 && hit->lower != UM_LOWER_REFUSED;
    struct um_record *record = continues ? um_upper_record(upper, hit->lower) : NULL;
    /* Two directories of an upper may claim to continue one, in an upper that was tampered with. */
    if (continues && (record == NULL || is_at(record, directory, name)))
        hit->attr.node = hit->lower;
    record = um_upper_record(upper, hit->attr.node);
    if (record != NULL && record->nlink != 0) {
        hit->attr.nlink = record->nlink;
        return 0;
    }
    return directory_links(upper, spot, status, hit->lower, &hit->attr.nlink);
}

/* 0; -ENOENT hidden; 1 the upper says nothing. */
static int find_above(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                      struct um_upper_hit *hit)
{
    struct um_spot spot = {0};
    struct stat status;
    enum um_found found;
    struct um_fd_use use;
    int error = um_disk_directory(upper, directory, &use);
    if (error != 0)
        return error;
    error = um_spot_in(upper, use.fd, name, &spot);
    if (error == 0)
        error = um_disk_classify(&spot, !directory->unmarked, &found, &status);
    hit->in_upper = true;
    if (error == 0 && found == UM_FOUND_FILE)
        error = file_hit(upper, directory, name, &spot, &status, hit);
    else if (error == 0 && found == UM_FOUND_DIRECTORY)
        error = directory_hit(upper, directory, name, &spot, &status, hit);
    else if (error == 0)
        error = found == UM_FOUND_NOTHING ? 1 : -ENOENT;
    um_fd_cache_release(upper->directories, &use);
    return error;
}

int um_upper_hit_below(struct um_upper *upper, const struct um_tree_entry *entry,
                       struct um_upper_hit *hit)
{
    *hit = (struct um_upper_hit){.attr = entry->attr,
                                 .directory = S_ISDIR(entry->attr.mode),
                                 .lower = entry->attr.node,
                                 .name = um_slice_of(entry->name, entry->name_size)};
    if (hit->directory)
        return 0;
    /* Another name of the file may be in the upper already, if linking this one failed. */
    struct um_record *record = um_upper_record(upper, entry->attr.node);
    if (record != NULL && record->in_upper) {
        hit->in_upper = true;
        return um_record_attr(upper, record, &hit->attr);
    }
    return um_upper_count_links(upper, &hit->attr);
}

static int find_below(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                      struct um_upper_hit *hit)
{
    struct um_tree_entry entry;
    int error = um_upper_below(upper, directory, name, &entry);
    return error ? error : um_upper_hit_below(upper, &entry, hit);
}

static bool is_dots(struct um_slice name)
{
    return um_slice_equal(name, UM_SLICE_LITERAL(".")) ||
           um_slice_equal(name, UM_SLICE_LITERAL(".."));
}

/* 0 where there may be such a name. */
static int check_sought(struct um_slice name)
{
    struct um_slice hidden;
    if (name.size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    if (name.size == 0 || memchr(name.data, '/', name.size) || memchr(name.data, 0, name.size))
        return -EINVAL;
    if (is_dots(name) || um_whiteout_classify(name, &hidden) != UM_NAME_PLAIN)
        return -ENOENT;
    return 0;
}

int um_upper_find(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                  struct um_upper_hit *hit)
{
    *hit = (struct um_upper_hit){0};
    int error = check_sought(name);
    if (error == 0 && directory->gone)
        error = -ENOENT;
    if (error == 0 && directory->lower == UM_LOWER_REFUSED)
        error = -EIO;
    if (error != 0)
        return error;
    if (directory->in_upper) {
        error = find_above(upper, directory, name, hit);
        if (error <= 0)
            return error;
    }
    return find_below(upper, directory, name, hit);
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

int um_upper_count(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                   const struct um_upper_hit *hit)
{
    struct um_record *record = um_upper_record(upper, hit->attr.node);
    if (record == NULL && !hit->directory && !hit->in_upper)
        return add_known(upper, hit->attr.node, directory->node, hit->name, 1);
    int error = um_record_need(upper, hit->attr.node, directory, name, hit->directory,
                               hit->in_upper, hit->lower, &record);
    if (error != 0)
        return error;
    if (record->parent == NULL && record != upper->root && !record->gone)
        error = um_record_move(upper, record, directory, name);
    um_record_learn(upper, record, hit);
    record->lookups += error == 0;
    um_record_unpin(upper, record);
    return error;
}

/* A record of what has no name; `fd` becomes its own. */
static int need_nameless(struct um_upper *upper, int fd, struct um_record **record)
{
    const struct um_slice nowhere = {0};
    struct stat status;
    uint64_t node = 0;
    if (fstat(fd, &status) != 0)
        return -errno;
    int error = upper_node(upper, &status, &node);
    if (error == 0 && um_upper_record(upper, node) != NULL)
        error = -ESTALE;
    if (error == 0)
        error = um_record_need(upper, node, NULL, nowhere, false, true, 0, record);
    if (error != 0)
        return error;
    (*record)->ino = status.st_ino;
    (*record)->fd = fd;
    (*record)->writable = (*record)->gone = (*record)->linkable = true;
    (*record)->capable = false;
    return 0;
}

int um_upper_count_nameless(struct um_upper *upper, int fd, struct um_attr *attr)
{
    struct um_record *record = NULL;
    int error = need_nameless(upper, fd, &record);
    if (error != 0) {
        close(fd);
        return error;
    }
    error = um_record_attr(upper, record, attr);
    record->lookups = error == 0;
    um_record_unpin(upper, record);
    return error;
}

/* ---- attributes ---------------------------------------------------------------------------------------- */

static int disk_attr(struct um_upper *upper, struct um_record *record, struct um_attr *attr)
{
    struct um_spot spot = {0};
    struct stat status;
    int error = um_spot_of(upper, record, &spot);
    if (error == 0)
        error = um_spot_stat(&spot, &status);
    if (error == 0)
        error = um_disk_attr(upper, &spot, &status, attr);
    if (error == 0 && record->directory && record->nlink == 0)
        error = directory_links(upper, &spot, &status, record->lower, &record->nlink);
    if (error == 0 && record->directory)
        attr->nlink = record->nlink;
    struct um_attr below;
    if (error == 0 && record->data != 0 && um_tree_getattr(upper->tree, record->data, &below) == 0)
        attr->blocks = below.blocks;
    um_spot_close(&spot);
    return error == -ENOENT ? -ESTALE : error;
}

int um_record_attr(struct um_upper *upper, struct um_record *record, struct um_attr *attr)
{
    int error = record->in_upper ? disk_attr(upper, record, attr)
                                 : um_tree_getattr(upper->tree, record->lower, attr);
    if (error == 0 && !record->in_upper && !record->directory && !record->gone)
        error = um_upper_count_links(upper, attr);
    attr->node = record->node;
    if (record->gone)
        attr->nlink = 0;
    return error;
}

/* ---- the public face -------------------------------------------------------------------------------------- */

static int find_directory(struct um_upper *upper, uint64_t node, struct um_record **record)
{
    struct um_attr attr;
    *record = um_upper_record(upper, node);
    if (*record != NULL)
        return (*record)->directory ? 0 : -ENOTDIR;
    return node < upper->base && um_tree_getattr(upper->tree, node, &attr) == 0 &&
                   !S_ISDIR(attr.mode)
               ? -ENOTDIR
               : -ESTALE;
}

uint64_t um_record_only_below(const struct um_record *record)
{
    bool below = record != NULL && record->directory && !record->in_upper && !record->gone;
    return below ? record->lower : 0;
}

/* What the lower tree alone says, asked for without the lock: it may wait for a disk. */
struct below {
    uint64_t directory; /* 0: it is not the tree alone that says it */
    int error;
    struct um_tree_entry entry;
};

static void look_below(struct um_upper *upper, uint64_t node, struct um_slice name,
                       struct below *below)
{
    below->directory = 0;
    if (check_sought(name) != 0)
        return;
    pthread_rwlock_rdlock(&upper->lock);
    below->directory = um_record_only_below(um_upper_record(upper, node));
    pthread_rwlock_unlock(&upper->lock);
    if (below->directory != 0)
        below->error = um_tree_find(upper->tree, below->directory, (const char *)name.data,
                                    name.size, &below->entry);
}

/* As um_upper_find. What was found below holds while the directory is not in the upper. */
static int find_again(struct um_upper *upper, struct um_record *directory, struct um_slice name,
                      const struct below *below, struct um_upper_hit *hit)
{
    if (below->directory == 0 || um_record_only_below(directory) != below->directory)
        return um_upper_find(upper, directory, name, hit);
    return below->error ? below->error : um_upper_hit_below(upper, &below->entry, hit);
}

int um_upper_lookup(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                    struct um_attr *attr)
{
    struct um_slice text = um_slice_of(name, name_size);
    struct um_record *directory;
    struct um_upper_hit hit;
    struct below below;
    look_below(upper, node, text, &below);
    pthread_rwlock_wrlock(&upper->lock);
    int error = find_directory(upper, node, &directory);
    if (error == 0)
        error = find_again(upper, directory, text, &below, &hit);
    if (error == 0)
        error = um_upper_count(upper, directory, text, &hit);
    if (error == 0)
        *attr = hit.attr;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_getattr(struct um_upper *upper, uint64_t node, struct um_attr *attr)
{
    int error = -ESTALE;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    if (record != NULL)
        error = um_record_attr(upper, record, attr);
    pthread_rwlock_unlock(&upper->lock);
    if (record != NULL || node >= upper->base)
        return error;
    error = um_tree_getattr(upper->tree, node, attr);
    if (error != 0)
        return error;
    pthread_rwlock_wrlock(&upper->lock);
    record = um_upper_record(upper, node); /* there may be one by now */
    error = record ? um_record_attr(upper, record, attr) : um_upper_count_links(upper, attr);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_parent(struct um_upper *upper, uint64_t node, uint64_t *parent)
{
    struct um_record *record;
    pthread_rwlock_rdlock(&upper->lock);
    int error = find_directory(upper, node, &record);
    if (error == 0)
        *parent = record->parent ? record->parent->node : record->node;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_record_last_hold(const struct um_record *record)
{
    return record->gone && record->fd >= 0 ? fcntl(record->fd, F_DUPFD_CLOEXEC, 3) : -1;
}

uint64_t um_upper_forget(struct um_upper *upper, uint64_t node, uint64_t lookups)
{
    uint64_t left = 0;
    int last = -1;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    struct um_known *known = record ? NULL : find_known(upper, node);
    if (record != NULL) {
        record->lookups -= lookups < record->lookups ? lookups : record->lookups;
        left = record->lookups;
        if (left == 0)
            last = um_record_last_hold(record);
        um_record_settle(upper, record);
    } else if (known != NULL && known->lookups > lookups) {
        known->lookups -= lookups;
        left = known->lookups;
    } else if (known != NULL) {
        remove_known(upper, known);
    }
    pthread_rwlock_unlock(&upper->lock);
    if (last >= 0)
        close(last);
    return left;
}

bool um_upper_may_renumber(const struct um_upper *upper)
{
    return !(upper->flags & UM_UPPER_TRUSTED);
}

bool um_upper_renumbers(const struct um_upper *upper, const struct um_attr *attr)
{
    bool markable = S_ISREG(attr->mode) || S_ISDIR(attr->mode);
    return um_upper_may_renumber(upper) && !markable && attr->node < upper->base;
}

int um_upper_origin(struct um_upper *upper, uint64_t node, uint64_t *origin)
{
    struct um_attr attr;
    int error = 0;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_record *record = um_upper_record(upper, node);
    if (record != NULL)
        *origin = record->lower == UM_LOWER_REFUSED ? 0 : record->lower;
    else if (node < upper->base && (error = um_tree_getattr(upper->tree, node, &attr)) == 0)
        *origin = node;
    else if (error == 0)
        error = -ESTALE;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

static int copy_target(const char *target, size_t size, char *out, size_t room)
{
    if (room != 0 && size > room)
        return -ERANGE;
    if (room != 0 && size != 0)
        memcpy(out, target, size);
    return (int)size;
}

static int64_t read_link_above(struct um_upper *upper, const struct um_record *record, char *target,
                               size_t size)
{
    char room[PATH_MAX];
    struct um_spot spot = {0};
    int error = um_spot_of(upper, record, &spot);
    if (error != 0)
        return error;
    ssize_t got = readlinkat(spot.fd, spot.name, room, sizeof room);
    int64_t result = got < 0 ? -errno : copy_target(room, (size_t)got, target, size);
    um_spot_close(&spot);
    return result == -ENOENT && um_spot_is_self(&spot) ? -EINVAL : result;
}

int64_t um_upper_readlink(struct um_upper *upper, uint64_t node, char *target, size_t size)
{
    int64_t result;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_record *record = um_upper_record(upper, node);
    if (record != NULL && record->in_upper) {
        result = record->directory ? -EINVAL : read_link_above(upper, record, target, size);
    } else {
        const char *text;
        size_t length;
        result = node < upper->base ? um_tree_readlink(upper->tree, node, &text, &length) : -ESTALE;
        if (result == 0)
            result = copy_target(text, length, target, size);
    }
    pthread_rwlock_unlock(&upper->lock);
    return result;
}

/* ---- opening ------------------------------------------------------------------------------------------------- */

#define ALIGNMENT ((uint64_t)1 << 32) /* so that numbers of the upper are easy to tell */

/* 1 where a directory of the upper has any entry, 0 where it has none. */
static int has_entries(const struct um_spot *spot)
{
    DIR *stream;
    int error = um_spot_list(NULL, spot, &stream);
    if (error != 0)
        return error;
    struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(stream);
    } while (entry != NULL && is_dots(um_slice_of(entry->d_name, strlen(entry->d_name))));
    int result = entry ? 1 : -errno;
    closedir(stream);
    return result;
}

static int add_root(struct um_upper *upper)
{
    struct um_spot spot = {0};
    int error = grow_buckets(upper);
    if (error == 0)
        error = um_record_need(upper, UM_ROOT_NODE, NULL, (struct um_slice){0}, true, true,
                               UM_ROOT_NODE, &upper->root);
    if (error != 0)
        return error;
    error = um_spot_of(upper, upper->root, &spot);
    int opaque = error ? error : um_mark_is_opaque(upper, &spot, true);
    if (opaque > 0)
        upper->root->lower = 0;
    int any = opaque < 0 ? opaque : has_entries(&spot);
    upper->may_hide = any != 0;
    return any < 0 ? any : 0;
}

/* Where the lowers are not those of the origins on disk, only those are believed that this session
 * writes: they end with a number that nobody else knows. So a file keeps its number from copy-up to
 * the end of the session. */
static int set_session(struct um_upper *upper)
{
    uint64_t number;
    if (!(upper->flags & UM_UPPER_STRANGE))
        return 0;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
        return -errno;
    snprintf(upper->session, sizeof upper->session, " %016llx", (unsigned long long)number);
    return 0;
}

static int set_up(struct um_upper *upper, const struct um_upper_setup *setup)
{
    struct stat above, work;
    int error = set_session(upper);
    if (error == 0)
        error = um_fd_cache_open(DIRECTORIES, &upper->directories);
    if (error != 0)
        return error;
    if (fstat(setup->upper_fd, &above) != 0 || fstat(setup->work_fd, &work) != 0)
        return -errno;
    if (!S_ISDIR(above.st_mode) || !S_ISDIR(work.st_mode))
        return -ENOTDIR;
    if (above.st_dev != work.st_dev)
        return -EXDEV;
    uint64_t end = um_tree_end(upper->tree);
    if (!um_add64(end, ALIGNMENT - 1, &end))
        return -EOVERFLOW;
    upper->base = end & ~(ALIGNMENT - 1);
    upper->owner = setup->flags & UM_UPPER_LOOK ? above.st_uid : geteuid();
    upper->device = above.st_dev;
    upper->n_layers = um_tree_layers(upper->tree);
    return add_root(upper);
}

/* Whether a power cut leaves the names as they were at one moment. ext4 and XFS write one journal; btrfs
 * keeps what is synced apart, and then knows of that alone. A tmpfs is gone. */
static bool is_ordered(int fd)
{
    struct statfs status;
    if (fstatfs(fd, &status) != 0)
        return false;
    return status.f_type == EXT4_SUPER_MAGIC || status.f_type == XFS_SUPER_MAGIC ||
           status.f_type == TMPFS_MAGIC;
}

int um_upper_open(const struct um_upper_setup *setup, struct um_upper **out)
{
    struct um_upper *upper = calloc(1, sizeof *upper);
    if (upper == NULL)
        return -ENOMEM;
    upper->tree = setup->tree;
    upper->upper_fd = setup->upper_fd;
    upper->work_fd = setup->work_fd;
    upper->shown_fd = setup->shown_fd ? setup->shown_fd : setup->upper_fd;
    upper->flags = setup->flags;
    upper->ordered = is_ordered(setup->upper_fd);
    upper->metacopy_min = setup->metacopy_min ? setup->metacopy_min : UM_METACOPY_MIN;
    pthread_rwlock_init(&upper->lock, NULL);
    pthread_mutex_init(&upper->copying_lock, NULL);
    pthread_cond_init(&upper->copied, NULL);
    int error = set_up(upper, setup);
    if (error != 0) {
        um_upper_close(upper);
        return error;
    }
    *out = upper;
    return 0;
}

void um_upper_close(struct um_upper *upper)
{
    if (upper == NULL)
        return;
    for (size_t i = 0; i < upper->n_buckets; i++) {
        while (upper->buckets[i] != NULL) {
            struct um_record *record = upper->buckets[i];
            upper->buckets[i] = record->next;
            record_free(record);
        }
    }
    um_upper_names_close(upper);
    um_fd_cache_close(upper->directories);
    free(upper->buckets);
    free(upper->known);
    free(upper->copying);
    pthread_cond_destroy(&upper->copied);
    pthread_mutex_destroy(&upper->copying_lock);
    pthread_rwlock_destroy(&upper->lock);
    free(upper);
}
