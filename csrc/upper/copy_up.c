#include <fcntl.h>
#include <limits.h>
#include <sys/xattr.h>

#include "marks/trust.h"
#include "system/open_beneath.h"
#include "upper/copy_data.h"
#include "upper/state.h"

/* A copy is made in the work directory, where nobody sees it, and complete before it is published:
 * by a rename, by links, or, where the file has no name any more, by a descriptor. */

struct copy {
    char name[32]; /* in the work directory; empty once it stands there no more */
    bool directory;
    uint64_t data; /* the lower node whose data it has, 0 where that is its own */
    int fd;       /* of a regular file, for reading and writing; else -1 */
    uint64_t ino; /* what the upper's file system calls it */
    bool capable; /* as of a record */
    const struct um_patience *patience; /* set before it is made; of the copying of data */
};

static void discard(struct um_upper *upper, struct copy *copy)
{
    if (copy->fd >= 0)
        close(copy->fd);
    copy->fd = -1;
    if (copy->name[0] != '\0')
        unlinkat(upper->work_fd, copy->name, copy->directory ? AT_REMOVEDIR : 0);
    copy->name[0] = '\0';
}

/* ---- extended attributes --------------------------------------------------------------------------- */

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* What the kernel lets nobody have on a file of this type. */
static bool is_left_out(const char *name, uint32_t mode)
{
    if (begins_with(name, "user."))
        return !S_ISREG(mode) && !S_ISDIR(mode);
    if (strcmp(name, "system.posix_acl_default") == 0)
        return !S_ISDIR(mode);
    return strcmp(name, "system.posix_acl_access") == 0 && S_ISLNK(mode);
}

/* Whether a copy may do without an attribute that could not be set. */
static bool is_dispensable(const struct um_upper *upper, const char *name, int error)
{
    bool ordinary = !(upper->flags & UM_UPPER_TRUSTED) || (upper->flags & UM_UPPER_OVERRIDE);
    if (error == -EOPNOTSUPP)
        return begins_with(name, "security.");
    return error == -EPERM && ordinary &&
           (begins_with(name, "security.") || begins_with(name, "trusted."));
}

static int copy_xattr(struct um_upper *upper, uint64_t lower, uint32_t mode, const char *name,
                      struct um_spot *spot)
{
    char stored[UM_OVERLAY_ROOM];
    size_t name_size = strlen(name);
    if (is_left_out(name, mode) ||
        um_overlay_store(um_upper_namespace(upper), name, name_size, stored) != 0)
        return 0; /* what gets too long when it is escaped goes, as in the kernel's overlayfs */
    int64_t size = um_tree_getxattr(upper->tree, lower, name, name_size, NULL, 0);
    if (size < 0)
        return size == -ENODATA ? 0 : (int)size;
    um_autofree void *value = malloc((size_t)size + 1);
    if (value == NULL)
        return -ENOMEM;
    if (size != 0)
        size = um_tree_getxattr(upper->tree, lower, name, name_size, value, (size_t)size);
    if (size < 0)
        return (int)size;
    int error = um_disk_setxattr(upper, spot, stored, value, (size_t)size, 0);
    return is_dispensable(upper, name, error) ? 0 : error;
}

static int copy_xattrs(struct um_upper *upper, uint64_t lower, uint32_t mode, struct um_spot *spot)
{
    int64_t size = um_tree_listxattr(upper->tree, lower, NULL, 0);
    if (size <= 0)
        return size == -EOPNOTSUPP ? 0 : (int)size;
    um_autofree char *names = malloc((size_t)size);
    if (names == NULL)
        return -ENOMEM;
    size = um_tree_listxattr(upper->tree, lower, names, (size_t)size);
    int error = size < 0 ? (int)size : 0;
    for (int64_t at = 0; error == 0 && at < size; at += (int64_t)strlen(names + at) + 1)
        error = copy_xattr(upper, lower, mode, names + at, spot);
    return error;
}

/* ---- making a copy ------------------------------------------------------------------------------------- */

static int make_file(struct um_upper *upper, struct copy *copy)
{
    int flags = O_RDWR | O_CREAT | O_EXCL | um_disk_quiet(upper);
    int fd = um_open_beneath(upper->work_fd, copy->name, flags, 0600);
    if (fd < 0)
        return fd;
    int error = um_disk_disinherit(upper, upper->work_fd, copy->name, S_IFREG);
    if (error != 0) {
        close(fd);
        unlinkat(upper->work_fd, copy->name, 0);
        return error;
    }
    copy->fd = fd;
    return 0;
}

/* Everything but a regular file. */
static int make_special(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                        struct copy *copy)
{
    const struct um_owner owner = {attr->uid, attr->gid, attr->mode, attr->major, attr->minor};
    um_autofree char *target = NULL;
    if (S_ISLNK(attr->mode)) {
        const char *text;
        size_t size;
        int error = um_tree_readlink(upper->tree, lower, &text, &size);
        if (error != 0)
            return error;
        target = strndup(text, size);
        if (target == NULL)
            return -ENOMEM;
    }
    return um_disk_make(upper, upper->work_fd, copy->name, &owner, target, false);
}

/* Owner before xattrs: chown drops capabilities. Mode last: chown and an ACL change it, and while a
 * file is written to it must not be set-user-ID. */
static int copy_metadata(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                         bool emptied, struct um_spot *spot)
{
    struct timespec times[2] = {{attr->atime, attr->atime_nsec}, {attr->mtime, attr->mtime_nsec}};
    int error = 0;
    if (emptied) /* a crash must not leave other data with the time of the old */
        times[1].tv_nsec = UTIME_NOW;
    if (S_ISREG(attr->mode))
        error = um_disk_chown(upper, spot, attr->uid, attr->gid);
    if (error == 0)
        error = copy_xattrs(upper, lower, attr->mode, spot);
    if (error == 0 && !S_ISDIR(attr->mode))
        error = um_mark_origin(upper, spot, lower);
    if (error == 0)
        error = um_spot_times(spot, times);
    if (error == 0 && !S_ISLNK(attr->mode))
        error = um_disk_chmod(upper, spot, attr->mode & 07777);
    return error;
}

/* Make a copy without data look like one that has it, and say where the data is. */
static int refer(struct um_upper *upper, const struct um_attr *attr, const char *redirect,
                 struct um_spot *spot, struct copy *copy)
{
    if (ftruncate(copy->fd, (off_t)attr->size) != 0)
        return -errno;
    int error = um_mark_redirect(upper, spot, redirect, strlen(redirect));
    return error ? error : um_mark_metacopy(upper, spot);
}

/* With `redirect`, the path of the lower file, the data is not copied. */
static int fill(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                const char *redirect, bool empty, struct copy *copy)
{
    struct um_spot spot = {0};
    struct stat status;
    uint64_t size = S_ISREG(attr->mode) && redirect == NULL ? attr->size : 0;
    bool emptied = empty && size != 0;
    if (empty)
        size = 0;
    int error = um_copy_data(upper->tree, lower, size, copy->fd, copy->patience);
    if (error == 0)
        error =
            um_spot_in(upper, upper->work_fd, um_slice_of(copy->name, strlen(copy->name)), &spot);
    if (error == 0 && redirect != NULL)
        error = refer(upper, attr, redirect, &spot, copy);
    if (error == 0)
        error = copy_metadata(upper, lower, attr, emptied, &spot);
    if (error == 0)
        error = um_spot_stat(&spot, &status);
    if (error != 0)
        return error;
    copy->ino = status.st_ino;
    copy->capable = spot.capable;
    /* btrfs may lose the size of a file that nobody synced, and keep its name: a copy without data
     * would be an empty file. */
    bool fragile = size != 0 || (redirect != NULL && !upper->ordered);
    if (fragile && !(upper->flags & UM_UPPER_VOLATILE) && fsync(copy->fd) != 0)
        return -errno;
    return 0;
}

/* Copy a node of the lower tree into the work directory. */
static int make_copy(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                     const char *redirect, bool empty, struct copy *copy)
{
    *copy = (struct copy){.fd = -1,
                          .directory = S_ISDIR(attr->mode),
                          .data = redirect != NULL ? lower : 0,
                          .patience = copy->patience};
    um_disk_temporary(upper, copy->name);
    int error =
        S_ISREG(attr->mode) ? make_file(upper, copy) : make_special(upper, lower, attr, copy);
    if (error != 0) {
        copy->name[0] = '\0';
        return error == -EEXIST ? -EIO : error; /* somebody else writes there */
    }
    error = fill(upper, lower, attr, redirect, empty, copy);
    if (error != 0)
        discard(upper, copy);
    return error;
}

/* ---- publishing ------------------------------------------------------------------------------------------ */

/* A directory in which copies appear. To its users nothing changes, so its times don't. */
struct place {
    int fd;
    struct um_fd_use use;
    bool timed;
    struct timespec times[2];
};

static int place_open(struct um_upper *upper, const struct um_record *directory,
                      struct place *place)
{
    struct stat status;
    int error = um_disk_directory(upper, directory, &place->use);
    if (error != 0)
        return error;
    place->fd = place->use.fd;
    place->timed = fstat(place->fd, &status) == 0;
    if (place->timed) {
        place->times[0] = status.st_atim;
        place->times[1] = status.st_mtim;
    }
    return 0;
}

static void place_close(struct um_upper *upper, struct place *place)
{
    struct um_spot spot = {0};
    if (place->timed && um_spot_in(upper, place->fd, (struct um_slice){0}, &spot) == 0)
        um_spot_times(&spot, place->times);
    um_fd_cache_release(upper->directories, &place->use);
}

/* Nothing of the upper stands where the lower tree shows: unless somebody else writes there. */
static int occupied(int error)
{
    bool taken = error == EEXIST || error == ENOTEMPTY || error == ENOTDIR || error == EISDIR;
    return taken ? -EIO : -error;
}

/* Move what stands at (fd, entry). */
static int move_in(int fd, const char *entry, const struct place *place, const char *name)
{
    int result = renameat2(fd, entry, place->fd, name, RENAME_NOREPLACE);
    if (result != 0 && (errno == EINVAL || errno == ENOSYS))
        result = renameat(fd, entry, place->fd, name);
    return result == 0 ? 0 : occupied(errno);
}

static void terminate(struct um_slice name, char text[UM_NAME_MAX + 1])
{
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
}

static struct um_slice name_of(const struct um_shown_name *name)
{
    return um_slice_of(name->name, name->name_size);
}

/* Move what stands at (fd, entry) into the upper. */
static int publish_at(struct um_upper *upper, int fd, const char *entry,
                      const struct um_record *directory, struct um_slice name)
{
    struct place place;
    char text[UM_NAME_MAX + 1];
    int error = place_open(upper, directory, &place);
    if (error != 0)
        return error;
    terminate(name, text);
    error = move_in(fd, entry, &place, text);
    place_close(upper, &place);
    return error;
}

static int publish_copy(struct um_upper *upper, struct copy *copy,
                        const struct um_record *directory, struct um_slice name)
{
    int error = publish_at(upper, upper->work_fd, copy->name, directory, name);
    if (error == 0)
        copy->name[0] = '\0';
    return error;
}

/* ---- hard links ------------------------------------------------------------------------------------------- */

/* Give what stands at (fd, entry) another name in the upper; where entry is NULL, remove that name. */
static int link_name(struct um_upper *upper, int fd, const char *entry,
                     const struct um_shown_name *name)
{
    struct place place;
    char text[UM_NAME_MAX + 1];
    int error = place_open(upper, name->directory, &place);
    if (error != 0)
        return error;
    terminate(name_of(name), text);
    int result = entry ? linkat(fd, entry, place.fd, text, 0) : unlinkat(place.fd, text, 0);
    if (result != 0)
        error = occupied(errno);
    place_close(upper, &place);
    return error;
}

/* Remove the first *linked names, from the last one on; where that fails, *linked says how many are left. */
static void unlink_names(struct um_upper *upper, const struct um_shown_name *names, size_t *linked)
{
    while (*linked != 0 && link_name(upper, -1, NULL, &names[*linked - 1]) == 0)
        --*linked;
}

int um_group_link(struct um_upper *upper, int fd, const char *entry,
                  const struct um_shown_name *names, size_t n, size_t *linked)
{
    int error = 0;
    *linked = 0;
    for (size_t i = 0; error == 0 && i < n; i++)
        error = um_copy_up_directory(upper, names[i].directory);
    while (error == 0 && *linked < n) {
        error = link_name(upper, fd, entry, &names[*linked]);
        *linked += error == 0;
    }
    /* All or none: a part of the names would be another file than the rest. */
    if (error != 0)
        unlink_names(upper, names, linked);
    return error;
}

static int open_index(struct um_upper *upper)
{
    struct stat status;
    bool made = mkdirat(upper->work_fd, UM_INDEX, 0700) == 0;
    if (!made && errno != EEXIST)
        return -errno;
    int disinherited = made ? um_disk_disinherit(upper, upper->work_fd, UM_INDEX, S_IFDIR) : 0;
    if (disinherited != 0)
        return disinherited;
    int fd = um_open_beneath(upper->work_fd, UM_INDEX, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    int error = fstat(fd, &status) == 0 ? 0 : -errno;
    /* What stands there gets the names of lower files: nobody else may put it there. */
    if (error == 0 && !um_mark_is_trusted(status.st_uid, status.st_mode))
        error = -EIO;
    if (error != 0)
        close(fd);
    return error ? error : fd;
}

/* As um_group_link, but the last name is what stands at (fd, entry) itself. */
static int link_and_move(struct um_upper *upper, int fd, const char *entry,
                         const struct um_shown_name *names, size_t n, size_t *linked)
{
    const struct um_shown_name *last = &names[n - 1];
    *linked = 0;
    int error = um_copy_up_directory(upper, last->directory);
    if (error == 0)
        error = um_group_link(upper, fd, entry, names, n - 1, linked);
    if (error != 0)
        return error;
    error = publish_at(upper, fd, entry, last->directory, name_of(last));
    if (error != 0)
        unlink_names(upper, names, linked);
    return error;
}

/* Let every name of a group be a link to the copy. If that is interrupted, `index` tells whoever
 * mounts next. The last step moves the entry of `index` to the last name, so that no link count
 * includes an entry that could not be removed. */
static int publish_group(struct um_upper *upper, uint64_t node, struct copy *copy,
                         const struct um_shown_name *names, size_t n)
{
    char entry[32];
    size_t linked = 0;
    int fd = open_index(upper);
    if (fd < 0)
        return fd;
    snprintf(entry, sizeof entry, "%llu", (unsigned long long)node);
    int error = renameat(upper->work_fd, copy->name, fd, entry) == 0 ? 0 : -errno;
    if (error == 0) {
        copy->name[0] = '\0';
        error = link_and_move(upper, fd, entry, names, n, &linked);
        if (error != 0 && linked == 0)
            unlinkat(fd, entry, 0);
        else
            error = 0; /* the names that could not be taken back are left to the next mount */
    }
    close(fd);
    unlinkat(upper->work_fd, UM_INDEX, AT_REMOVEDIR);
    return error;
}

/* ---- who gets the copy --------------------------------------------------------------------------------------- */

/* The only name that a file has in the lower tree, where it is still shown; 0, or 1 where it has to be
 * looked for. */
static int find_own_name(struct um_upper *upper, const struct um_record *record,
                         struct um_shown_name **names, size_t *n)
{
    struct um_attr attr;
    struct um_slice name = um_slice_of(record->name, record->name_size);
    int error = um_tree_getattr(upper->tree, record->lower, &attr);
    if (error != 0)
        return error;
    if (record->parent == NULL || attr.nlink > 1)
        return 1;
    int shows = um_upper_shows_lower(upper, record->parent, name, record->lower);
    if (shows <= 0)
        return shows < 0 ? shows : 1;
    *names = malloc(sizeof **names);
    if (*names == NULL)
        return -ENOMEM;
    um_record_pin(record->parent); /* as um_upper_shown_names does */
    (*names)[(*n)++] = (struct um_shown_name){record->parent, record->name, record->name_size};
    return 0;
}

static bool is_place_of(const struct um_shown_name *name, const struct um_record *record)
{
    return name->directory == record->parent &&
           um_slice_equal(name_of(name), um_slice_of(record->name, record->name_size));
}

/* The names that the copy of a file shall have, that of the record first. */
static int find_names(struct um_upper *upper, const struct um_record *record,
                      struct um_shown_name **names, size_t *n)
{
    *names = NULL;
    *n = 0;
    if (record->gone)
        return 0;
    int error = find_own_name(upper, record, names, n);
    if (error <= 0)
        return error;
    error = um_upper_shown_names(upper, record->lower, names, n);
    for (size_t i = 1; i < *n; i++) {
        if (is_place_of(&(*names)[i], record)) {
            struct um_shown_name first = (*names)[0];
            (*names)[0] = (*names)[i];
            (*names)[i] = first;
        }
    }
    return error;
}

static int publish_named(struct um_upper *upper, struct um_record *record, struct copy *copy,
                         const struct um_shown_name *names, size_t n)
{
    int error = 0;
    if (!is_place_of(&names[0], record))
        error = um_record_move(upper, record, names[0].directory, name_of(&names[0]));
    if (error == 0)
        error = um_copy_up_directory(upper, names[0].directory);
    if (error != 0)
        return error;
    return n == 1 ? publish_copy(upper, copy, names[0].directory, name_of(&names[0]))
                  : publish_group(upper, record->lower, copy, names, n);
}

/* The copy of something that has no name any more has none either. */
static int publish_nameless(struct um_upper *upper, struct um_record *record, struct copy *copy)
{
    int fd = copy->fd;
    if (fd < 0)
        fd = um_open_beneath(upper->work_fd, copy->name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    copy->fd = fd;
    if (unlinkat(upper->work_fd, copy->name, copy->directory ? AT_REMOVEDIR : 0) != 0)
        return -errno;
    copy->name[0] = '\0';
    record->gone = true;
    return 0;
}

/* What the record stands for is in the upper now. */
static void adopt(struct um_record *record, struct copy *copy)
{
    record->in_upper = true;
    record->unmarked = record->directory;
    record->ino = copy->ino;
    record->data = copy->data;
    record->capable = copy->capable;
    if (record->fd < 0 && copy->fd >= 0 && (record->gone || record->opens != 0)) {
        record->fd = copy->fd;
        record->writable = (fcntl(copy->fd, F_GETFL) & O_ACCMODE) == O_RDWR;
        copy->fd = -1;
    }
}

static int publish(struct um_upper *upper, struct um_record *record, struct copy *copy)
{
    struct um_shown_name *names;
    size_t n;
    int error = find_names(upper, record, &names, &n);
    if (error == 0)
        error = n != 0 ? publish_named(upper, record, copy, names, n)
                       : publish_nameless(upper, record, copy);
    if (error == 0)
        adopt(record, copy);
    um_upper_names_free(upper, &names, &n);
    return error;
}

/* ---- directories --------------------------------------------------------------------------------------------- */

static int copy_directory(struct um_upper *upper, struct um_record *directory)
{
    struct um_attr attr;
    struct copy copy = {0};
    int error = um_tree_getattr(upper->tree, directory->lower, &attr);
    if (error == 0)
        error = make_copy(upper, directory->lower, &attr, NULL, false, &copy);
    if (error != 0)
        return error;
    if (directory->gone)
        error = publish_nameless(upper, directory, &copy);
    else
        error = publish_copy(upper, &copy, directory->parent,
                             um_slice_of(directory->name, directory->name_size));
    if (error == 0)
        adopt(directory, &copy);
    discard(upper, &copy);
    return error;
}

int um_copy_up_directory(struct um_upper *upper, struct um_record *directory)
{
    um_autofree struct um_record **missing = NULL; /* the innermost first */
    size_t n = 0, capacity = 0;
    if (directory->gone && !directory->in_upper)
        return copy_directory(upper, directory);
    for (struct um_record *at = directory; !at->in_upper; at = at->parent) {
        if (at->gone || at->parent == NULL)
            return -ESTALE;
        int error = um_reserve((void **)&missing, &capacity, n + 1, sizeof *missing);
        if (error != 0)
            return error;
        missing[n++] = at;
    }
    int error = 0;
    while (error == 0 && n != 0)
        error = copy_directory(upper, missing[--n]);
    return error;
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

#define REDIRECT_ROOM 1024u /* every file system has room for an xattr of that size */

/* The path of `name` in a directory of the lower tree; NULL where it is too long for a mark. */
static const char *lower_path(struct um_upper *upper, uint64_t directory, struct um_slice name,
                              char room[REDIRECT_ROOM])
{
    const char *above;
    size_t size = REDIRECT_ROOM - name.size - 2;
    if (um_lower_path(upper, directory, room, size, &above) != 0)
        return NULL;
    room[size] = '/';
    memcpy(room + size + 1, name.data, name.size);
    room[size + 1 + name.size] = '\0';
    return above;
}

/* The path of a file in the lower tree, where its record leads to it; NULL where it does not, or where
 * the path is too long for a mark. */
static const char *lower_file_path(struct um_upper *upper, const struct um_record *record,
                                   char room[REDIRECT_ROOM])
{
    struct um_tree_entry entry;
    if (record->parent == NULL)
        return NULL;
    struct um_slice name = um_slice_of(record->name, record->name_size);
    if (um_upper_below(upper, record->parent, name, &entry) != 0 ||
        entry.attr.node != record->lower)
        return NULL;
    return lower_path(upper, record->parent->lower, name, room);
}

static int copy_file(struct um_upper *upper, struct um_record *record, const struct um_attr *attr,
                     const char *redirect, bool empty)
{
    struct copy copy = {0};
    int error = make_copy(upper, record->lower, attr, redirect, empty, &copy);
    if (error != 0)
        return error;
    error = publish(upper, record, &copy);
    discard(upper, &copy);
    return error;
}

static int copy_record(struct um_upper *upper, struct um_record *record, enum um_need need)
{
    char room[REDIRECT_ROOM];
    struct um_attr attr;
    int error = um_tree_getattr(upper->tree, record->lower, &attr);
    if (error != 0)
        return error;
    bool has_data = S_ISREG(attr.mode) && attr.size != 0;
    if (!has_data || need == UM_NEED_EMPTY)
        return copy_file(upper, record, &attr, NULL, true);
    const char *redirect = NULL;
    if (need == UM_NEED_NAME && attr.size >= upper->metacopy_min && !record->gone &&
        um_marks_may_lead(upper))
        redirect = lower_file_path(upper, record, room);
    if (redirect == NULL)
        return -EAGAIN;
    error = copy_file(upper, record, &attr, redirect, false);
    /* The xattrs may have room without the path of the data; if it is the disk that is full, the
     * copy of the data finds out. */
    return error == -ENOSPC || error == -E2BIG ? -EAGAIN : error;
}

/* ---- files whose data is still below --------------------------------------------------------------------------- */

/* The path in the lower tree of the data of a file; NULL where it is too long for a mark. */
static int data_path(struct um_upper *upper, uint64_t data, char room[REDIRECT_ROOM],
                     const char **path)
{
    um_autofree struct um_tree_name *names = NULL;
    size_t n = 0;
    int error = um_tree_names(upper->tree, data, &names, &n);
    if (error != 0 || n == 0)
        return -EIO; /* there is no such file: at another name it would get the data of another one */
    *path =
        lower_path(upper, names[0].directory, um_slice_of(names[0].name, names[0].name_size), room);
    return 0;
}

int um_record_fix_data(struct um_upper *upper, struct um_record *record)
{
    char room[PATH_MAX];
    const char *path;
    struct um_spot spot = {0};
    if (record->data == 0)
        return 0;
    int error = um_spot_of(upper, record, &spot);
    int64_t size = error ? error : um_mark_get_redirect(upper, &spot, room, sizeof room);
    if (size == -EKEYREJECTED)
        size = -EIO;
    bool fixed = size > 0 && room[0] == '/';
    error = size < 0 ? (int)size : 0;
    if (error == 0 && !fixed)
        error = data_path(upper, record->data, room, &path);
    if (error == 0 && !fixed && !um_marks_may_lead(upper))
        error = -EAGAIN; /* it gets its data */
    if (error == 0 && !fixed)
        error = path ? um_mark_redirect(upper, &spot, path, strlen(path)) : -EAGAIN;
    um_spot_close(&spot);
    return error == -ENOSPC || error == -E2BIG ? -EAGAIN : error;
}

/* Throw the data away instead of copying it. */
static int give_up_data(struct um_upper *upper, struct um_record *record)
{
    struct um_spot spot = {0};
    if (um_upper_is_copying(upper, record->node))
        return -EAGAIN; /* the data is on its way */
    int error = um_spot_of(upper, record, &spot);
    int fd = error ? error : um_spot_open(&spot, O_WRONLY);
    um_spot_close(&spot);
    if (fd < 0)
        return fd;
    /* In this order: an empty file with the mark is one without data. */
    error = ftruncate(fd, 0) == 0 ? um_mark_drop_metacopy(upper, fd) : -errno;
    close(fd);
    if (error == 0)
        record->data = 0;
    return error;
}

int um_copy_up_now(struct um_upper *upper, struct um_record *record, enum um_need need)
{
    if (record->directory)
        return um_copy_up_directory(upper, record);
    if (!record->in_upper)
        return copy_record(upper, record, need);
    if (record->data == 0)
        return 0;
    /* With another owner or mode, a mark that would not be written here may not be believed any more. */
    if (need == UM_NEED_NAME && (um_marks_may_lead(upper) || record->data == UM_DATA_LOST))
        return 0;
    return need == UM_NEED_EMPTY ? give_up_data(upper, record) : -EAGAIN;
}

/* ---- files with data, without the lock --------------------------------------------------------------------------- */

static size_t find_copying(const struct um_upper *upper, uint64_t node)
{
    size_t i = 0;
    while (i < upper->n_copying && upper->copying[i] != node)
        i++;
    return i;
}

/* Wait until nobody else copies the node, and be the one who does. */
static int begin_copying(struct um_upper *upper, uint64_t node)
{
    pthread_mutex_lock(&upper->copying_lock);
    while (find_copying(upper, node) != upper->n_copying)
        pthread_cond_wait(&upper->copied, &upper->copying_lock);
    int error = um_reserve((void **)&upper->copying, &upper->copying_capacity, upper->n_copying + 1,
                           sizeof *upper->copying);
    if (error == 0)
        upper->copying[upper->n_copying++] = node;
    pthread_mutex_unlock(&upper->copying_lock);
    return error;
}

static void end_copying(struct um_upper *upper, uint64_t node)
{
    pthread_mutex_lock(&upper->copying_lock);
    upper->copying[find_copying(upper, node)] = upper->copying[upper->n_copying - 1];
    upper->n_copying--;
    pthread_cond_broadcast(&upper->copied);
    pthread_mutex_unlock(&upper->copying_lock);
}

bool um_upper_is_copying(struct um_upper *upper, uint64_t node)
{
    pthread_mutex_lock(&upper->copying_lock);
    bool copying = find_copying(upper, node) != upper->n_copying;
    pthread_mutex_unlock(&upper->copying_lock);
    return copying;
}

/* What has to be done to a file in the upper that lacks its data. */
struct completion {
    int fd;
    uint64_t data; /* the lower node that has it */
    struct stat status;
    char capability[64]; /* writing takes it away */
    ssize_t capability_size;
    const struct um_patience *patience;
};

static int begin_completion(struct um_upper *upper, uint64_t node, struct completion *completion)
{
    struct um_spot spot = {0};
    pthread_rwlock_rdlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    int error = 0;
    if (record != NULL && record->data == UM_DATA_LOST) {
        error = -EIO;
    } else if (record != NULL && record->data != 0) {
        completion->data = record->data;
        error = um_spot_of(upper, record, &spot);
        if (error == 0) {
            completion->fd = um_spot_open(&spot, O_RDWR);
            error = completion->fd < 0 ? completion->fd : 0;
        }
        um_spot_close(&spot);
    }
    pthread_rwlock_unlock(&upper->lock);
    if (error != 0 || completion->fd < 0)
        return error;
    completion->capability_size = fgetxattr(completion->fd, UM_CAPABILITY, completion->capability,
                                            sizeof completion->capability);
    return fstat(completion->fd, &completion->status) == 0 ? 0 : -errno;
}

/* Put back what writing the data has changed. */
static int restore(const struct completion *completion)
{
    const struct timespec times[2] = {completion->status.st_atim, completion->status.st_mtim};
    if (completion->capability_size > 0 &&
        fsetxattr(completion->fd, UM_CAPABILITY, completion->capability,
                  (size_t)completion->capability_size, 0) != 0)
        return -errno;
    return futimens(completion->fd, times) == 0 ? 0 : -errno;
}

/* The data could not be fetched: it shall take no room, and the file look as it did. */
static void undo_completion(const struct completion *completion)
{
    int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (completion->status.st_size != 0)
        (void)fallocate(completion->fd, how, 0, completion->status.st_size); /* or it stays */
    restore(completion);
}

/* Fetch the data, and make it durable before the mark goes. */
static int fetch(struct um_upper *upper, const struct completion *completion)
{
    int error = um_copy_data(upper->tree, completion->data, (uint64_t)completion->status.st_size,
                             completion->fd, completion->patience);
    if (error == 0)
        error = restore(completion);
    if (error == 0 && !(upper->flags & UM_UPPER_VOLATILE) && fsync(completion->fd) != 0)
        error = -errno;
    if (error != 0)
        undo_completion(completion);
    return error;
}

/* The data is there: from now on it is the file's own. */
static int end_completion(struct um_upper *upper, uint64_t node,
                          const struct completion *completion)
{
    pthread_rwlock_wrlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    int error = um_mark_drop_metacopy(upper, completion->fd);
    if (error == 0 && record != NULL)
        record->data = 0;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* Fetch the data of a file that was copied up without. Nobody writes to it before it is there. */
static int complete(struct um_upper *upper, uint64_t node, const struct um_patience *patience)
{
    struct completion completion = {.fd = -1, .patience = patience};
    int error = begin_completion(upper, node, &completion);
    if (error == 0 && completion.fd >= 0)
        error = fetch(upper, &completion);
    if (error == 0 && completion.fd >= 0)
        error = end_completion(upper, node, &completion);
    if (completion.fd >= 0)
        close(completion.fd);
    return error;
}

/* 1 where the file is in the lower layers only, as *attr says; 0 where it is in the upper. */
static int is_to_be_copied(struct um_upper *upper, uint64_t node, struct um_attr *attr)
{
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_record *record = um_upper_record(upper, node);
    bool directory = record != NULL && record->directory;
    bool in_upper = record != NULL && record->in_upper;
    pthread_rwlock_unlock(&upper->lock);
    if (directory)
        return -EISDIR;
    if (in_upper)
        return 0;
    if (node >= upper->base)
        return -ESTALE;
    int error = um_tree_getattr(upper->tree, node, attr);
    if (error == 0 && S_ISDIR(attr->mode))
        error = -EISDIR;
    return error ? error : 1;
}

/* Publish a copy, unless somebody was faster. */
static int publish_node(struct um_upper *upper, uint64_t node, struct copy *copy)
{
    struct um_record *record;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_need(upper, node, &record);
    if (error == 0) {
        if (!record->in_upper)
            error = publish(upper, record, copy);
        um_record_unpin(upper, record);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_copy_up(struct um_upper *upper, uint64_t node, uint32_t flags)
{
    return um_upper_copy_up_patiently(upper, node, flags, NULL);
}

int um_upper_copy_up_patiently(struct um_upper *upper, uint64_t node, uint32_t flags,
                               const struct um_patience *patience)
{
    struct um_attr attr;
    struct copy copy = {.patience = patience};
    int error = begin_copying(upper, node);
    if (error != 0)
        return error;
    int needed = is_to_be_copied(upper, node, &attr);
    error = needed < 0 ? needed : 0;
    if (needed > 0)
        error = make_copy(upper, node, &attr, NULL, flags & UM_COPY_UP_EMPTY, &copy);
    else if (error == 0 && !(flags & (UM_COPY_UP_EMPTY | UM_COPY_UP_ABSENT)))
        error = complete(upper, node, patience);
    if (needed > 0 && error == 0) {
        error = publish_node(upper, node, &copy);
        discard(upper, &copy);
    }
    end_copying(upper, node);
    return error;
}
