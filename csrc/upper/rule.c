#include "upper/rule.h"

#include "system/directory_stream.h"
#include "upper/object.h"

int um_upper_find_lower(struct um_upper *upper, const struct um_upper_node *directory,
                        struct um_slice name, struct um_tree_entry *entry)
{
    struct um_tree_entry unused;
    if (directory->lower == 0)
        return -ENOENT;
    if (directory->lower == UM_UPPER_LOWER_REFUSED)
        return -EIO;
    return um_tree_find(upper->tree, directory->lower, (const char *)name.data, name.size,
                        entry ? entry : &unused);
}

/* Find the directory of an absolute path in the lower tree; 0 where there is none. */
static int follow_path(struct um_upper *upper, struct um_slice path, uint64_t *lower)
{
    uint64_t number = UM_ROOT_NODE;
    size_t at = 0;
    *lower = 0;
    while (at < path.size) {
        const uint8_t *slash = memchr(path.data + at, '/', path.size - at);
        size_t end = slash ? (size_t)(slash - path.data) : path.size;
        if (end != at) {
            struct um_tree_entry entry;
            int error =
                um_tree_find(upper->tree, number, (const char *)path.data + at, end - at, &entry);
            if (error != 0 || !S_ISDIR(entry.attr.mode))
                return error == -ENOENT || error == -ENOTDIR ? 0 : error;
            number = entry.attr.node;
        }
        at = end + 1;
    }
    *lower = number;
    return 0;
}

/* Find the lower directory of a name in the same directory; 0 where there is none. */
static int follow_name(struct um_upper *upper, const struct um_upper_node *directory,
                       struct um_slice name, uint64_t *lower)
{
    struct um_tree_entry entry;
    int error = um_upper_find_lower(upper, directory, name, &entry);
    *lower = error == 0 && S_ISDIR(entry.attr.mode) ? entry.attr.node : 0;
    return error == -ENOENT ? 0 : error;
}

/* Find the lower directory that a directory with these marks, which is not opaque, continues. */
static int follow_marks(struct um_upper *upper, const struct um_upper_node *directory,
                        struct um_slice name, struct um_upper_reached *reached, unsigned marks,
                        uint64_t *lower)
{
    char path[PATH_MAX];
    int64_t size = 0;
    if (marks & UM_UPPER_HAS_REDIRECT)
        size = um_upper_mark_get_redirect(upper, reached, path, sizeof path);
    if (size == -EKEYREJECTED)
        um_upper_mark_report_refused(upper, directory, name);
    if (size < 0)
        return (int)size;
    if (size == 0)
        return follow_name(upper, directory, name, lower);
    if (path[0] == '/')
        return follow_path(upper, um_slice_of(path, (size_t)size), lower);
    return follow_name(upper, directory, um_slice_of(path, (size_t)size), lower);
}

/* Find the lower directory that a directory of the upper continues; 0 for none. */
static int find_continued(struct um_upper *upper, const struct um_upper_node *directory,
                          struct um_slice name, struct um_upper_reached *reached, uint64_t *lower)
{
    *lower = 0;
    unsigned marks;
    int error = um_upper_marks_of(upper, reached, &marks);
    reached->plain = error == 0 && !(marks & UM_UPPER_HAS_OVERRIDE);
    reached->capable = error == 0 && (marks & UM_UPPER_HAS_CAPABILITY);
    int opaque =
        error ? error : um_upper_mark_is_opaque(upper, reached, marks & UM_UPPER_HAS_OPAQUE);
    if (opaque != 0)
        return opaque < 0 ? opaque : 0;
    error = follow_marks(upper, directory, name, reached, marks, lower);
    if (error != -EKEYREJECTED && error != -EIO)
        return error;
    *lower = UM_UPPER_LOWER_REFUSED; /* the directory is there; its entries are not known */
    return 0;
}

int um_upper_number(const struct um_upper *upper, const struct stat *status, uint64_t *number)
{
    if (status->st_dev != upper->device)
        return -EXDEV;
    return um_add64(upper->base, status->st_ino, number) ? 0 : -EOVERFLOW;
}

/* Whether a file of the upper may have the number of its origin. An origin that somebody else may have
 * set (not `ours`) is believed of files that were copied up since the mount. */
static bool is_believed(struct um_upper *upper, uint64_t origin, bool ours,
                        const struct stat *status, const struct um_attr *attr)
{
    struct um_attr lower;
    if (origin == 0 || origin >= upper->base)
        return false;
    if (um_tree_getattr(upper->tree, origin, &lower) != 0 || S_ISDIR(lower.mode) ||
        (lower.mode & S_IFMT) != (attr->mode & S_IFMT))
        return false;
    const struct um_upper_node *node = um_upper_node_find(upper, origin);
    if (!ours && (node == NULL || !node->in_upper || node->ino != status->st_ino))
        return false;
    return node == NULL || !node->in_upper || node->ino == 0 || node->ino == status->st_ino;
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
static int find_data(struct um_upper *upper, const struct um_upper_node *directory,
                     struct um_slice name, struct um_upper_reached *reached, uint64_t *data)
{
    char path[PATH_MAX];
    struct um_tree_entry entry;
    struct um_slice above = {0};
    *data = 0;
    int64_t size = um_upper_mark_get_redirect(upper, reached, path, sizeof path);
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

/* Find the lower file that has the data of a metacopy, and take its blocks. */
static int metacopy_hit(struct um_upper *upper, const struct um_upper_node *directory,
                        struct um_slice name, struct um_upper_reached *reached,
                        struct um_upper_hit *hit)
{
    struct um_attr below;
    int error = um_upper_mark_is_metacopy(upper, reached);
    if (error == 0)
        return 0;
    if (error > 0)
        error = hit->lower ? 0 : find_data(upper, directory, name, reached, &hit->data);
    if (error == 0 && hit->lower != 0)
        hit->data = hit->lower;
    if (error == -EKEYREJECTED)
        um_upper_mark_report_refused(upper, directory, name);
    if (error == -EKEYREJECTED || error == -EIO)
        error = 0; /* the file is there; its data is not */
    if (error == 0 && hit->data != 0)
        error = um_tree_getattr(upper->tree, hit->data, &below);
    if (error == 0 && hit->data != 0)
        hit->attr.blocks = below.blocks;
    if (hit->data == 0)
        hit->data = UM_UPPER_DATA_LOST;
    return error;
}

int um_upper_hit_fresh(struct um_upper *upper, const struct um_upper_fresh *fresh,
                       struct um_upper_hit *hit)
{
    const struct stat *status = &fresh->status;
    struct um_upper_reached unasked = {.fd = -1, .plain = true};
    *hit = (struct um_upper_hit){.directory = S_ISDIR(status->st_mode),
                                 .in_upper = true,
                                 .ino = status->st_ino,
                                 .plain = !um_upper_overrides(upper),
                                 .ours = um_upper_believes(upper, status),
                                 .incapable = S_ISREG(status->st_mode)};
    int error = um_upper_object_attr(upper, &unasked, status, &hit->attr);
    if (error == 0)
        error = um_upper_number(upper, status, &hit->attr.node);
    if (hit->directory && hit->attr.nlink < 2)
        hit->attr.nlink = 2; /* btrfs says 1 */
    return error;
}

/* The node of an object that is no copy, continues nothing and has no xattr that means something here, as far
 * as it was looked at before: then its stat is all that is to be asked. NULL: it has to be looked at. Nobody else
 * reaches the upper, and the daemon's own changes of marks are in the node. The number of an inode is not used
 * again while the node of a removed file keeps its descriptor. */
static struct um_upper_node *known_node(struct um_upper *upper, const struct stat *status)
{
    uint64_t number;
    if (upper->flags & UM_UPPER_OPEN || um_upper_number(upper, status, &number) != 0)
        return NULL;
    struct um_upper_node *node = um_upper_node_find(upper, number);
    bool known = node != NULL && node->in_upper && !node->gone && node->plain && node->lower == 0 &&
                 node->data == 0 && node->ino == status->st_ino &&
                 node->directory == S_ISDIR(status->st_mode) &&
                 (!node->directory || node->nlink != 0);
    return known ? node : NULL;
}

static int known_hit(struct um_upper *upper, const struct um_upper_node *node,
                     const struct stat *status, struct um_upper_hit *hit)
{
    const struct um_upper_fresh seen = {.status = *status};
    int error = um_upper_hit_fresh(upper, &seen, hit);
    hit->capable = node->capable;
    hit->incapable = node->incapable;
    if (node->directory && error == 0)
        hit->attr.nlink = node->nlink;
    return error;
}

static int file_hit(struct um_upper *upper, const struct um_upper_node *directory,
                    struct um_slice name, struct um_upper_reached *reached,
                    const struct stat *status, struct um_upper_hit *hit)
{
    uint64_t origin = 0;
    unsigned marks;
    bool ours = false;
    int error = um_upper_marks_of(upper, reached, &marks);
    reached->plain = error == 0 && !(marks & UM_UPPER_HAS_OVERRIDE);
    if (error == 0)
        error = um_upper_object_attr(upper, reached, status, &hit->attr);
    if (error == 0 && (marks & UM_UPPER_HAS_ORIGIN))
        error = um_upper_mark_get_origin(upper, reached, &origin, &ours);
    if (error == 0)
        error = um_upper_number(upper, status, &hit->attr.node);
    if (error != 0)
        return error;
    hit->ino = status->st_ino;
    hit->capable = marks & UM_UPPER_HAS_CAPABILITY;
    hit->ours = um_upper_believes(upper, status);
    hit->plain = reached->plain && !um_upper_overrides(upper);
    if (is_believed(upper, origin, ours, status, &hit->attr))
        hit->lower = hit->attr.node = origin;
    if (!(marks & UM_UPPER_HAS_METACOPY) || !S_ISREG(hit->attr.mode))
        return 0;
    if (status->st_size != 0)
        return metacopy_hit(upper, directory, name, reached, hit);
    /* Its data was being thrown away when the daemon ended. The mark is dropped when the file is opened
     * for writing; before, it would hold for whatever is written. */
    hit->data = UM_UPPER_DATA_NONE;
    return 0;
}

static bool is_there(const struct um_upper *upper, int fd, struct um_slice name)
{
    struct um_upper_reached reached;
    struct stat status;
    return um_upper_reach_name(upper, fd, name, &reached) == 0 &&
           um_upper_reached_stat(&reached, &status) == 0;
}

/* Add the change that an entry of the upper makes to the number of subdirectories of `lower` (0: none). */
static int count_entry(struct um_upper *upper, int fd, const struct dirent *entry, uint64_t lower,
                       int64_t *count)
{
    struct um_slice name = um_slice_text(entry->d_name);
    struct um_slice hidden;
    struct um_tree_entry below;
    int directory = 0;
    switch (um_whiteout_classify(name, &hidden)) {
    case UM_NAME_PLAIN:
        directory = um_upper_entry_is_directory(upper, fd, entry);
        break;
    case UM_NAME_WHITEOUT:
        name = hidden;
        if (is_there(upper, fd, name))
            return 0; /* it was made again, and has an entry that counts */
        break;
    default:
        return 0;
    }
    if (directory < 0)
        return directory;
    int error = lower ? um_tree_find(upper->tree, lower, (const char *)name.data, name.size, &below)
                      : -ENOENT;
    if (error != 0 && error != -ENOENT)
        return error;
    *count += directory - (error == 0 && S_ISDIR(below.attr.mode));
    return 0;
}

static int count_entries(struct um_upper *upper, const struct um_upper_reached *reached,
                         uint64_t lower, int64_t *count)
{
    DIR *stream;
    struct dirent *entry;
    int more;
    int error = um_upper_reached_open_stream(NULL, reached, &stream);
    if (error != 0)
        return error;
    while (error == 0 && (more = um_directory_next(stream, &entry)) != 0)
        error = more < 0 ? more : count_entry(upper, dirfd(stream), entry, lower, count);
    closedir(stream);
    return error;
}

/* The link count of a directory of the upper that continues `lower` (0: nothing). */
static int directory_links(struct um_upper *upper, const struct um_upper_reached *reached,
                           const struct stat *status, uint64_t lower, uint32_t *nlink)
{
    struct um_attr below = {.nlink = 2};
    *nlink = (uint32_t)status->st_nlink;
    if (lower == UM_UPPER_LOWER_REFUSED)
        lower = 0;
    if (lower == 0 && status->st_nlink >= 2)
        return 0; /* btrfs, and ext4 where there are very many, say 1 */
    int error = lower ? um_tree_getattr(upper->tree, lower, &below) : 0;
    if (error != 0)
        return error;
    if (below.nlink < 2) {
        *nlink = 1; /* the lower directory's count is not known, so the merged one is not, either */
        return 0;
    }
    int64_t count = below.nlink;
    error = count_entries(upper, reached, lower, &count);
    *nlink = count < 2 ? 2 : (uint32_t)count;
    return error;
}

static int directory_hit(struct um_upper *upper, struct um_upper_node *directory,
                         struct um_slice name, struct um_upper_reached *reached,
                         const struct stat *status, struct um_upper_hit *hit)
{
    hit->directory = true;
    int error = find_continued(upper, directory, name, reached, &hit->lower);
    if (error == 0)
        error = um_upper_object_attr(upper, reached, status, &hit->attr);
    if (error == 0)
        error = um_upper_number(upper, status, &hit->attr.node);
    if (error != 0)
        return error;
    hit->ino = status->st_ino;
    hit->capable = reached->capable;
    hit->plain = reached->plain && !um_upper_overrides(upper);
    bool continues = hit->lower != 0 && hit->lower != UM_UPPER_LOWER_REFUSED;
    struct um_upper_node *node = continues ? um_upper_node_find(upper, hit->lower) : NULL;
    /* In an upper that was tampered with, two directories may claim to continue one. */
    if (continues && (node == NULL || um_upper_node_is_at(node, directory, name)))
        hit->attr.node = hit->lower;
    node = um_upper_node_find(upper, hit->attr.node);
    if (node != NULL && node->nlink != 0) {
        hit->attr.nlink = node->nlink;
        return 0;
    }
    return directory_links(upper, reached, status, hit->lower, &hit->attr.nlink);
}

/* Find a name in the upper: 0; -ENOENT it is hidden; 1 the upper has nothing there. */
static int find_above(struct um_upper *upper, struct um_upper_node *directory, struct um_slice name,
                      struct um_upper_hit *hit)
{
    struct um_upper_reached reached = {0};
    struct stat status;
    enum um_upper_found found = UM_UPPER_FOUND_NOTHING;
    struct um_fd_use use;
    int error = um_upper_reach_directory(upper, directory, &use);
    if (error != 0)
        return error;
    error = um_upper_reach_name(upper, use.fd, name, &reached);
    if (error == 0)
        error = um_upper_reached_classify(&reached, !directory->unmarked, &found, &status);
    hit->in_upper = true;
    const struct um_upper_seen seen = {error == 0, error == 0 && status.st_mode != 0, found};
    bool object = error == 0 && (found == UM_UPPER_FOUND_FILE || found == UM_UPPER_FOUND_DIRECTORY);
    const struct um_upper_node *known = object ? known_node(upper, &status) : NULL;
    if (known != NULL)
        error = known_hit(upper, known, &status, hit);
    else if (error == 0 && found == UM_UPPER_FOUND_FILE)
        error = file_hit(upper, directory, name, &reached, &status, hit);
    else if (error == 0 && found == UM_UPPER_FOUND_DIRECTORY)
        error = directory_hit(upper, directory, name, &reached, &status, hit);
    else if (error == 0)
        error = found == UM_UPPER_FOUND_NOTHING ? 1 : -ENOENT;
    hit->seen = seen;
    um_fd_cache_release(upper->directories, &use);
    return error;
}

int um_upper_hit_lower(struct um_upper *upper, const struct um_tree_entry *entry,
                       struct um_upper_hit *hit)
{
    *hit = (struct um_upper_hit){.attr = entry->attr,
                                 .directory = S_ISDIR(entry->attr.mode),
                                 .lower = entry->attr.node,
                                 .name = um_slice_of(entry->name, entry->name_size)};
    if (hit->directory)
        return 0;
    /* Another name of the file may be in the upper already, if linking this one failed. */
    struct um_upper_node *node = um_upper_node_find(upper, entry->attr.node);
    if (node != NULL && node->in_upper) {
        hit->in_upper = true;
        return um_upper_node_attr(upper, node, &hit->attr);
    }
    return 0;
}

static int find_below(struct um_upper *upper, struct um_upper_node *directory, struct um_slice name,
                      struct um_upper_hit *hit)
{
    struct um_tree_entry entry;
    const struct um_upper_seen seen = hit->seen;
    int error = um_upper_find_lower(upper, directory, name, &entry);
    if (error == 0)
        error = um_upper_hit_lower(upper, &entry, hit);
    hit->seen = seen;
    return error;
}

int um_upper_check_sought(struct um_slice name)
{
    struct um_slice hidden;
    if (name.size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    if (name.size == 0 || memchr(name.data, '/', name.size) || memchr(name.data, 0, name.size))
        return -EINVAL;
    if (um_slice_is_dots(name) || um_whiteout_classify(name, &hidden) != UM_NAME_PLAIN)
        return -ENOENT;
    return 0;
}

int um_upper_find(struct um_upper *upper, struct um_upper_node *directory, struct um_slice name,
                  struct um_upper_hit *hit)
{
    *hit = (struct um_upper_hit){0};
    int error = um_upper_check_sought(name);
    if (error == 0 && directory->gone)
        error = -ENOENT;
    if (error == 0 && directory->lower == UM_UPPER_LOWER_REFUSED)
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

static int disk_attr(struct um_upper *upper, struct um_upper_node *node, struct um_attr *attr)
{
    struct um_upper_reached reached = {0};
    struct stat status;
    int error = um_upper_reach(upper, node, &reached);
    if (error == 0)
        error = um_upper_reached_stat(&reached, &status);
    if (error == 0)
        error = um_upper_object_attr(upper, &reached, &status, attr);
    if (error == 0 && node->directory && node->nlink == 0)
        error = directory_links(upper, &reached, &status, node->lower, &node->nlink);
    if (error == 0 && node->directory)
        attr->nlink = node->nlink;
    struct um_attr below;
    if (error == 0 && node->data != 0 && um_tree_getattr(upper->tree, node->data, &below) == 0)
        attr->blocks = below.blocks;
    um_upper_reached_close(&reached);
    return error == -ENOENT ? -ESTALE : error;
}

int um_upper_node_attr(struct um_upper *upper, struct um_upper_node *node, struct um_attr *attr)
{
    int error = node->in_upper ? disk_attr(upper, node, attr)
                               : um_tree_getattr(upper->tree, node->lower, attr);
    attr->node = node->number;
    if (node->gone)
        attr->nlink = 0;
    return error;
}

void um_upper_node_update(struct um_upper *upper, struct um_upper_node *node,
                          const struct um_upper_hit *hit)
{
    node->plain = hit->plain;
    if (hit->in_upper && hit->ino != 0 && hit->ino != node->ino) {
        if (node->directory) /* it was exchanged on disk: the descriptor of the old one is not used any more */
            um_fd_cache_drop(upper->directories, node->number);
        node->ino = hit->ino;
        node->incapable = false;
        node->heritage.known = false;
    }
    bool seen = hit->in_upper && hit->ino != 0; /* the object itself was looked at */
    if (seen)
        node->capable = hit->capable;
    if (seen && hit->incapable)
        node->incapable = true;
    if (hit->directory) {
        node->nlink = hit->in_upper ? hit->attr.nlink : 0;
    } else if (seen) {
        node->data = hit->data;
        node->regular = S_ISREG(hit->attr.mode);
        node->ours = hit->ours;
    }
}
