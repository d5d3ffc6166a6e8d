#include "upper/state.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "marks/override_stat.h"
#include "marks/trust.h"
#include "marks/whiteout.h"
#include "system/open_beneath.h"
#include "system/xattr_at.h"

/* Every name below is reached from a descriptor that the upper owns, one component at a time or by
 * um_open_beneath: neither what an image holds nor who changes the upper on disk meanwhile can lead out
 * of it. */

static int failed(void)
{
    return -errno;
}

/* ---- directories ------------------------------------------------------------------------------- */

/* Write the names from below `top` to `record` in front of `*end`, as many as there is room for, and
 * return the first directory that did not fit (or `top`). */
static const struct um_record *write_path(const struct um_record *record,
                                          const struct um_record *top, char *room, char **end)
{
    while (record != top && (size_t)(*end - room) > record->name_size) {
        *end -= record->name_size;
        memcpy(*end, record->name, record->name_size);
        *--*end = '/';
        record = record->parent;
    }
    return record;
}

/* Walk from `at` to `directory`, which is below `reached`, in pieces that fit into one call. */
static int walk_beneath(int top, const struct um_record *reached, const struct um_record *directory,
                        int *fd)
{
    int at = top;
    int error = 0;
    while (error == 0 && reached != directory) {
        char room[PATH_MAX];
        char *path = room + sizeof room - 1;
        const struct um_record *next = directory;
        const struct um_record *missing;
        *path = '\0';
        /* A path that is too long is walked from its outermost piece on. */
        while ((missing = write_path(next, reached, room, &path)) != reached) {
            next = missing;
            path = room + sizeof room - 1;
            *path = '\0';
        }
        int inner = um_open_beneath(at, path + 1, O_PATH | O_DIRECTORY, 0);
        error = inner < 0 ? inner : 0;
        if (at != top)
            close(at);
        at = inner;
        reached = next;
    }
    *fd = at;
    return error;
}

static int open_directory(struct um_upper *upper, const struct um_record *directory, int *fd)
{
    for (const struct um_record *at = directory; at != upper->root; at = at->parent) {
        if (at == NULL)
            return -ESTALE; /* somebody emptied the directory above on disk, and it was removed */
    }
    int error = walk_beneath(upper->upper_fd, upper->root, directory, fd);
    if ((error == -EMFILE || error == -ENFILE) && um_fd_cache_shed(upper->directories))
        error = walk_beneath(upper->upper_fd, upper->root, directory, fd);
    return error == -ENOENT || error == -ENOTDIR ? -ESTALE : error;
}

/* Where others can exchange what stands under a name, the kernel goes on to check permissions by what it was told
 * of the object that stood there. So nothing is asked of another object, or done to it: not even where it has
 * got the number of one that was the daemon's, which only a file can pretend to be. */
static int check_same(const struct um_upper *upper, const struct um_record *record, int fd)
{
    struct stat status;
    if (!(upper->flags & UM_UPPER_OPEN))
        return 0;
    if (fstat(fd, &status) != 0)
        return failed();
    if (record->ino != 0 && (status.st_ino != record->ino || status.st_dev != upper->device))
        return -ESTALE;
    bool doubtful = S_ISREG(status.st_mode) && record->ours;
    return doubtful && !um_disk_believes(upper, &status) ? -ESTALE : 0;
}

int um_disk_directory(struct um_upper *upper, const struct um_record *directory,
                      struct um_fd_use *use)
{
    int fd;
    *use = (struct um_fd_use){.fd = directory->fd, .entry = UM_FD_BORROWED};
    if (directory == upper->root)
        use->fd = upper->upper_fd;
    if (use->fd >= 0 || um_fd_cache_get(upper->directories, directory->node, use))
        return 0;
    int error = open_directory(upper, directory, &fd);
    if (error != 0)
        return error;
    error = check_same(upper, directory, fd);
    if (error == 0)
        um_fd_cache_put(upper->directories, directory->node, fd, use);
    else
        close(fd);
    return error;
}

/* ---- spots --------------------------------------------------------------------------------------- */

int um_spot_in(const struct um_upper *upper, int fd, struct um_slice name, struct um_spot *spot)
{
    if (name.size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    spot->fd = fd;
    spot->cache = NULL;
    spot->plain = spot->capable = false;
    spot->exposed = !(upper->flags & UM_UPPER_PRIVATE);
    if (name.size != 0)
        memcpy(spot->name, name.data, name.size);
    spot->name[name.size] = '\0';
    return 0;
}

/* Where others can exchange what stands under a name, let a spot be the object itself, if it is the record's. */
static int hold(struct um_upper *upper, const struct um_record *record, struct um_spot *spot)
{
    if (!(upper->flags & UM_UPPER_OPEN) || um_spot_is_self(spot))
        return 0;
    int fd = um_spot_open(spot, O_PATH);
    int error = fd < 0 ? fd : check_same(upper, record, fd);
    um_spot_close(spot);
    if (error == 0) {
        spot->fd = fd;
        spot->name[0] = '\0';
        spot->cache = upper->directories;
        spot->use = (struct um_fd_use){.fd = fd, .entry = UM_FD_OWN};
    } else if (fd >= 0) {
        close(fd);
    }
    return error == -ENOENT ? -ESTALE : error;
}

int um_spot_of(struct um_upper *upper, const struct um_record *record, struct um_spot *spot)
{
    struct um_slice name = {0};
    struct um_fd_use use = {.fd = record->fd, .entry = UM_FD_BORROWED};
    int error = 0;
    if (record == upper->root) {
        use.fd = upper->upper_fd;
    } else if (record->fd < 0) {
        if (record->parent == NULL || !record->in_upper)
            return -ESTALE;
        name = um_slice_of(record->name, record->name_size);
        error = um_disk_directory(upper, record->parent, &use);
    }
    if (error == 0)
        error = um_spot_in(upper, use.fd, name, spot);
    if (error != 0)
        return error;
    spot->cache = upper->directories;
    spot->use = use;
    spot->plain = record->plain;
    spot->capable = record->capable;
    return hold(upper, record, spot);
}

void um_spot_close(struct um_spot *spot)
{
    if (spot->cache != NULL)
        um_fd_cache_release(spot->cache, &spot->use);
    spot->cache = NULL;
}

bool um_spot_is_self(const struct um_spot *spot)
{
    return spot->name[0] == '\0';
}

static int take(const struct um_spot *spot, struct um_grip *grip)
{
    return um_grip_take(spot->fd, spot->name, spot->exposed, grip);
}

static int flags_at(const struct um_grip *grip)
{
    return AT_SYMLINK_NOFOLLOW | (grip->name[0] == '\0' ? AT_EMPTY_PATH : 0);
}

int um_spot_stat(const struct um_spot *spot, struct stat *status)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    error = fstatat(grip.fd, grip.name, status, flags_at(&grip)) == 0 ? 0 : failed();
    um_grip_release(&grip);
    return error;
}

int64_t um_spot_getxattr(const struct um_spot *spot, const char *name, void *value, size_t size)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    int64_t got = um_xattr_get_at(grip.fd, grip.name, name, value, size);
    um_grip_release(&grip);
    return got;
}

int64_t um_spot_listxattr(const struct um_spot *spot, char *names, size_t size)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    int64_t got = um_xattr_list_at(grip.fd, grip.name, names, size);
    um_grip_release(&grip);
    return got;
}

int um_spot_setxattr(const struct um_spot *spot, const char *name, const void *value, size_t size,
                     int flags)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    error = um_xattr_set_at(grip.fd, grip.name, name, value, size, flags);
    um_grip_release(&grip);
    return error;
}

int um_spot_removexattr(const struct um_spot *spot, const char *name)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    error = um_xattr_remove_at(grip.fd, grip.name, name);
    um_grip_release(&grip);
    return error;
}

/* Of linux 6.6; the same on all architectures. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

/* A descriptor of O_PATH takes no chmod by itself. */
static int chmod_self(int fd, uint32_t mode)
{
    char path[UM_FD_PATH];
    int result = fchmod(fd, mode);
    if (result != 0 && errno == EBADF)
        result = chmod(um_fd_path(fd, path), mode);
    return result == 0 ? 0 : failed();
}

/* Where the kernel can't change the mode of a name without following a symlink. */
static int chmod_opened(const struct um_grip *grip, uint32_t mode)
{
    int fd = um_open_beneath(grip->fd, grip->name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    int error = chmod_self(fd, mode);
    close(fd);
    return error;
}

static int chmod_at(const struct um_grip *grip, uint32_t mode)
{
    if (grip->name[0] == '\0')
        return chmod_self(grip->fd, mode);
    if (syscall(SYS_fchmodat2, grip->fd, grip->name, mode, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    /* A sandbox may say EPERM of calls that it does not know. */
    return errno == ENOSYS || errno == EPERM ? chmod_opened(grip, mode) : failed();
}

int um_spot_chmod(const struct um_spot *spot, uint32_t mode)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    error = chmod_at(&grip, mode & 07777);
    um_grip_release(&grip);
    return error;
}

int um_spot_chown(const struct um_spot *spot, uint32_t uid, uint32_t gid)
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    error = fchownat(grip.fd, grip.name, uid, gid, flags_at(&grip)) == 0 ? 0 : failed();
    um_grip_release(&grip);
    return error;
}

static int times_of_self(int fd, const struct timespec times[2])
{
    char path[UM_FD_PATH];
    int result = futimens(fd, times);
    if (result != 0 && errno == EBADF)
        result = utimensat(fd, um_fd_path(fd, path), times, 0);
    return result == 0 ? 0 : failed();
}

int um_spot_times(const struct um_spot *spot, const struct timespec times[2])
{
    struct um_grip grip;
    int error = take(spot, &grip);
    if (error != 0)
        return error;
    if (grip.name[0] == '\0')
        error = times_of_self(grip.fd, times);
    else
        error = utimensat(grip.fd, grip.name, times, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : failed();
    um_grip_release(&grip);
    return error;
}

/* What others put in the place of a file, such as a FIFO, is not for reading or writing. */
static int refuse_special(int fd)
{
    struct stat status;
    int error = fstat(fd, &status) == 0 ? 0 : failed();
    if (error == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        error = -ESTALE;
    if (error != 0)
        close(fd);
    return error ? error : fd;
}

static int open_spot(const struct um_spot *spot, int flags)
{
    return um_spot_is_self(spot) ? um_open_again(spot->fd, flags)
                                 : um_open_beneath(spot->fd, spot->name, flags | O_NOFOLLOW, 0);
}

int um_spot_open(const struct um_spot *spot, int flags)
{
    return um_spot_open_counted(NULL, spot, flags);
}

int um_spot_open_counted(const struct um_upper *upper, const struct um_spot *spot, int flags)
{
    if (flags & O_PATH)
        return open_spot(spot, flags);
    int quiet = upper == NULL ? O_NOATIME : um_disk_quiet(upper);
    if ((flags & O_ACCMODE) == O_WRONLY)
        quiet = 0;
    flags |= O_NONBLOCK | O_NOCTTY; /* nothing waits for the other end of a FIFO */
    int fd = open_spot(spot, flags | quiet);
    if (fd == -EPERM && quiet) /* it is somebody else's */
        fd = open_spot(spot, flags);
    return fd >= 0 ? refuse_special(fd) : fd;
}

int um_spot_list(const struct um_upper *reader, const struct um_spot *spot, DIR **stream)
{
    int fd = um_spot_open_counted(reader, spot, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    *stream = fdopendir(fd);
    if (*stream != NULL)
        return 0;
    int error = -errno;
    close(fd);
    return error;
}

int um_spot_link(const struct um_spot *spot, int fd, const char *name)
{
    if (um_spot_is_self(spot))
        return um_link_descriptor(spot->fd, fd, name);
    return linkat(spot->fd, spot->name, fd, name, 0) == 0 ? 0 : failed();
}

/* ---- what stands there --------------------------------------------------------------------------- */

static bool is_whiteout_device(const struct stat *status)
{
    return S_ISCHR(status->st_mode) &&
           um_whiteout_is_device(major(status->st_rdev), minor(status->st_rdev));
}

/* Whether something of this name stands in a directory; `like` is another spot of the upper. */
static int has_entry(const struct um_spot *like, int fd, const char *name)
{
    struct um_spot spot = {.fd = fd, .exposed = like->exposed};
    struct stat status;
    snprintf(spot.name, sizeof spot.name, "%s", name);
    int error = um_spot_stat(&spot, &status);
    return error == -ENOENT ? 0 : error ? error : 1;
}

/* Whether a file `.wh.NAME` stands beside where NAME would be. */
static int has_whiteout_file(const struct um_spot *spot)
{
    char name[UM_NAME_MAX + 1];
    if (!um_whiteout_spell(um_slice_of(spot->name, strlen(spot->name)), name))
        return 0;
    return has_entry(spot, spot->fd, name);
}

int um_disk_classify(const struct um_spot *spot, bool marked, enum um_found *found,
                     struct stat *status)
{
    int error = um_spot_stat(spot, status);
    if (error == -ENOENT) {
        int hidden = marked ? has_whiteout_file(spot) : 0;
        *found = hidden > 0 ? UM_FOUND_WHITEOUT : UM_FOUND_NOTHING;
        return hidden < 0 ? hidden : 0;
    }
    if (error != 0)
        return error;
    *found = is_whiteout_device(status) ? UM_FOUND_WHITEOUT
             : S_ISDIR(status->st_mode) ? UM_FOUND_DIRECTORY
                                        : UM_FOUND_FILE;
    return 0;
}

int um_disk_is_directory(const struct um_upper *upper, int fd, const struct dirent *entry)
{
    struct um_spot spot;
    struct stat status;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    int error = um_spot_in(upper, fd, um_slice_of(entry->d_name, strlen(entry->d_name)), &spot);
    if (error == 0)
        error = um_spot_stat(&spot, &status);
    if (error == -EXDEV)
        return 0; /* what is mounted there is no part of the upper */
    return error ? error : S_ISDIR(status.st_mode);
}

/* ---- marks ----------------------------------------------------------------------------------------- */

#define TRUSTED "trusted.overlay."
#define USER "user.overlay."
#define FUSE_OVERLAYFS "user.fuseoverlayfs."
#define MARK_MAX 64

/* The prefixes of marks: first the upper's own. */
#define N_PREFIXES 2

static const char *prefix_of(const struct um_upper *upper, size_t i)
{
    if (i != 0)
        return FUSE_OVERLAYFS;
    return upper->flags & UM_UPPER_TRUSTED ? TRUSTED : USER;
}

static const char *own_mark(const struct um_upper *upper, const char *what, char name[MARK_MAX])
{
    snprintf(name, MARK_MAX, "%s%s", prefix_of(upper, 0), what);
    return name;
}

static bool is_absent(int64_t error)
{
    return error == -ENODATA || error == -EOPNOTSUPP || error == -EPERM;
}

/* The mark `what`: its size, 0 where it is not there. */
static int64_t read_mark(struct um_upper *upper, struct um_spot *spot, const char *what,
                         char *value, size_t room)
{
    for (size_t i = 0; i < N_PREFIXES; i++) {
        char name[MARK_MAX];
        snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), what);
        int64_t size = um_spot_getxattr(spot, name, value, room);
        if (size > 0 || (size < 0 && !is_absent(size)))
            return size;
    }
    return 0;
}

/* Whether the directory at a spot holds the file that makes it opaque. */
static int has_opaque_file(const struct um_spot *spot)
{
    if (um_spot_is_self(spot))
        return has_entry(spot, spot->fd, um_whiteout_opaque());
    int fd = um_open_beneath(spot->fd, spot->name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0) /* something else stands there by now */
        return fd == -ENOTDIR || fd == -ELOOP ? -ESTALE : fd;
    int found = has_entry(spot, fd, um_whiteout_opaque());
    close(fd);
    return found;
}

int um_mark_is_opaque(struct um_upper *upper, struct um_spot *spot, bool marked)
{
    char value[8];
    int64_t size = marked ? read_mark(upper, spot, "opaque", value, sizeof value) : 0;
    if (size < 0 && size != -ERANGE)
        return (int)size;
    if (size == 1 && value[0] == 'y')
        return 1;
    return has_opaque_file(spot);
}

int um_mark_opaque(struct um_upper *upper, struct um_spot *spot)
{
    char name[MARK_MAX];
    return um_spot_setxattr(spot, own_mark(upper, "opaque", name), "y", 1, 0);
}

bool um_marks_may_lead(const struct um_upper *upper)
{
    if (upper->flags & UM_UPPER_PLAIN)
        return false;
    return upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_CLOSED | UM_UPPER_OVERRIDE);
}

/* Whether a mark below user. on an object of this owner and mode is the daemon's word, root's, or that of the
 * upper's owner. */
static bool is_trusted(const struct um_upper *upper, uint32_t uid, uint32_t mode)
{
    return um_mark_is_trusted(uid, mode) || (uid == upper->owner && (mode & 022) == 0);
}

/* An ordinary user's upper may hold files with the modes that earlier versions gave them on disk: closed
 * as it is, nobody else gets there. */
bool um_disk_believes(const struct um_upper *upper, const struct stat *status)
{
    bool closed = (upper->flags & UM_UPPER_OVERRIDE) && !(upper->flags & UM_UPPER_OPEN);
    return is_trusted(upper, status->st_uid, closed ? 0 : status->st_mode);
}

/* Hold on to the object that a spot is, so that nobody can put another one in its place before its marks are
 * read. 1 where marks below user. are the daemon's own, or root's; 0, or an errno. Closed in any case. */
static int pin(const struct um_upper *upper, const struct um_spot *spot, struct um_spot *pinned)
{
    struct stat status;
    *pinned = (struct um_spot){.fd = um_spot_open(spot, O_PATH)};
    if (pinned->fd < 0)
        return pinned->fd;
    if (fstat(pinned->fd, &status) != 0)
        return failed();
    return is_trusted(upper, status.st_uid, status.st_mode);
}

static void unpin(struct um_spot *pinned)
{
    if (pinned->fd >= 0)
        close(pinned->fd);
}

int um_mark_may_lead(struct um_upper *upper, const struct um_spot *spot)
{
    struct um_spot pinned;
    if (!um_marks_may_lead(upper) || upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_CLOSED))
        return um_marks_may_lead(upper);
    int ours = pin(upper, spot, &pinned);
    unpin(&pinned);
    return ours;
}

/* A mark that leads elsewhere: 1 with *size, 0 where it is not there, or an errno.
 * -EKEYREJECTED as in upper/state.h. `ours`: those below user. are believed. */
static int find_claim(struct um_upper *upper, struct um_spot *spot, const char *what, bool ours,
                      char *value, size_t room, int64_t *size)
{
    bool doubtful = false;
    for (size_t i = 0; i < N_PREFIXES; i++) {
        char name[MARK_MAX];
        snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), what);
        *size = um_spot_getxattr(spot, name, value, room);
        if (is_absent(*size))
            continue;
        if (*size < 0 && *size != -ERANGE)
            return (int)*size;
        if (i == 0 && upper->flags & UM_UPPER_TRUSTED ? !(upper->flags & UM_UPPER_PLAIN) : ours)
            return 1;
        doubtful = true;
    }
    return doubtful ? -EKEYREJECTED : 0;
}

static int read_claim(struct um_upper *upper, struct um_spot *spot, const char *what, char *value,
                      size_t room, int64_t *size)
{
    struct um_spot pinned;
    if (upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_PLAIN) && !(upper->flags & UM_UPPER_LOOK))
        return find_claim(upper, spot, what, false, value, room, size);
    if (upper->flags & UM_UPPER_CLOSED)
        return find_claim(upper, spot, what, true, value, room, size);
    int ours = pin(upper, spot, &pinned);
    int found = ours < 0 ? ours : find_claim(upper, &pinned, what, ours != 0, value, room, size);
    unpin(&pinned);
    return found;
}

int64_t um_mark_get_redirect(struct um_upper *upper, struct um_spot *spot, char *path, size_t room)
{
    int64_t size = 0;
    int found = read_claim(upper, spot, "redirect", path, room, &size);
    if (found <= 0)
        return found;
    return size == -ERANGE ? -EIO : size;
}

int um_mark_is_metacopy(struct um_upper *upper, struct um_spot *spot)
{
    char value[8]; /* it says nothing more */
    int64_t size;
    return read_claim(upper, spot, "metacopy", value, sizeof value, &size);
}

void um_mark_tell_refused(struct um_upper *upper, const struct um_record *directory,
                          struct um_slice name)
{
    char room[PATH_MAX];
    char *path = room + sizeof room - name.size;
    memcpy(path, name.data, name.size);
    for (; directory != upper->root && directory != NULL; directory = directory->parent) {
        if ((size_t)(path - room) <= directory->name_size)
            break; /* it is cut off where it begins */
        *--path = '/';
        path -= directory->name_size;
        memcpy(path, directory->name, directory->name_size);
    }
    um_refusal_tell(&upper->refusals, "upper", upper->shown_fd,
                    um_slice_of(path, (size_t)(room + sizeof room - path)));
}

int um_mark_redirect(struct um_upper *upper, struct um_spot *spot, const char *path, size_t size)
{
    char name[MARK_MAX];
    return um_spot_setxattr(spot, own_mark(upper, "redirect", name), path, size, 0);
}

#define ORIGIN_TEXT (24 + UM_SESSION_ROOM)

static int64_t read_origin(struct um_upper *upper, struct um_spot *spot, char text[ORIGIN_TEXT],
                           bool *ours)
{
    char name[MARK_MAX];
    struct um_spot pinned;
    own_mark(upper, "unionmount.origin", name);
    *ours = true;
    if (upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_CLOSED))
        return um_spot_getxattr(spot, name, text, ORIGIN_TEXT);
    int error = pin(upper, spot, &pinned);
    *ours = error > 0;
    int64_t size = error < 0 ? error : um_spot_getxattr(&pinned, name, text, ORIGIN_TEXT);
    unpin(&pinned);
    return size;
}

int um_mark_get_origin(struct um_upper *upper, struct um_spot *spot, uint64_t *origin, bool *ours)
{
    char text[ORIGIN_TEXT];
    int64_t size = read_origin(upper, spot, text, ours);
    *origin = 0;
    if (is_absent(size) || size == -ERANGE)
        return 0;
    if (size < 0)
        return (int)size;
    int64_t suffix = (int64_t)strlen(upper->session);
    if (size <= suffix || memcmp(text + size - suffix, upper->session, (size_t)suffix) != 0)
        return 0; /* of another session */
    uint64_t number = 0;
    for (int64_t i = 0; i < size - suffix; i++) {
        if (text[i] < '0' || text[i] > '9' || !um_mul64(number, 10, &number) ||
            !um_add64(number, (uint64_t)(text[i] - '0'), &number))
            return 0; /* not ours */
    }
    *origin = number;
    return 0;
}

int um_mark_origin(struct um_upper *upper, struct um_spot *spot, uint64_t origin)
{
    char name[MARK_MAX], text[ORIGIN_TEXT];
    int size = snprintf(text, sizeof text, "%llu%s", (unsigned long long)origin, upper->session);
    int error =
        um_spot_setxattr(spot, own_mark(upper, "unionmount.origin", name), text, (size_t)size, 0);
    /* user.* on a symlink or a device: see docs/explanation/upper.md */
    return is_absent(error) ? 0 : error;
}

static const struct {
    const char *name; /* without a prefix */
    unsigned bit;
} marks_known[] = {{"opaque", UM_HAS_OPAQUE},
                   {"redirect", UM_HAS_REDIRECT},
                   {"unionmount.origin", UM_HAS_ORIGIN},
                   {"metacopy", UM_HAS_METACOPY},
                   {UM_CAPABILITY_MARK, UM_HAS_CAPABILITY}};

#define N_MARKS (sizeof marks_known / sizeof *marks_known)

/* What the mark of this name says, without a prefix; 0 for one that is not asked for. */
static unsigned mark_bit(const char *name)
{
    for (size_t i = 0; i < N_MARKS; i++) {
        if (strcmp(name, marks_known[i].name) == 0)
            return marks_known[i].bit;
    }
    return 0;
}

/* Ask for each mark, where the list of names is too long. */
static int ask_for_marks(const struct um_upper *upper, struct um_spot *spot, unsigned *marks)
{
    *marks |= UM_HAS_OVERRIDE; /* it may */
    for (size_t mark = 0; mark < N_MARKS; mark++) {
        for (size_t i = 0; i < N_PREFIXES; i++) {
            char name[MARK_MAX];
            snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), marks_known[mark].name);
            int64_t size = um_spot_getxattr(spot, name, NULL, 0);
            if (size >= 0)
                *marks |= marks_known[mark].bit;
            else if (!is_absent(size))
                return (int)size;
        }
    }
    return 0;
}

int um_marks_of(struct um_upper *upper, struct um_spot *spot, unsigned *marks)
{
    char names[1024];
    *marks = 0;
    int64_t size = um_spot_listxattr(spot, names, sizeof names);
    if (size == -ERANGE || size == -E2BIG)
        return ask_for_marks(upper, spot, marks);
    if (size < 0)
        return size == -EOPNOTSUPP ? 0 : (int)size;
    for (int64_t at = 0; at < size; at += (int64_t)strlen(names + at) + 1) {
        if (strcmp(names + at, UM_OVERRIDE_XATTR) == 0)
            *marks |= UM_HAS_OVERRIDE;
        for (size_t i = 0; i < N_PREFIXES; i++) {
            const char *prefix = prefix_of(upper, i);
            size_t length = strlen(prefix);
            if (strncmp(names + at, prefix, length) == 0)
                *marks |= mark_bit(names + at + length);
        }
    }
    return 0;
}

int um_mark_metacopy(struct um_upper *upper, struct um_spot *spot)
{
    char name[MARK_MAX];
    return um_spot_setxattr(spot, own_mark(upper, "metacopy", name), "", 0, 0);
}

/* One below user. may be anybody's claim. */
int64_t um_spot_getxattr_of(struct um_upper *upper, const struct um_spot *spot,
                            const struct stat *status, const char *name, void *value, size_t size)
{
    struct um_spot pinned;
    struct stat now;
    int64_t got = um_spot_getxattr(spot, name, value, size);
    if (got < 0 || um_spot_is_self(spot) || upper->flags & UM_UPPER_CLOSED)
        return got;
    int error = pin(upper, spot, &pinned);
    if (error >= 0)
        error = um_spot_stat(&pinned, &now);
    /* The number of what was removed may be another one's by now: what it is counts, too. */
    if (error == 0 && (now.st_ino != status->st_ino || now.st_dev != status->st_dev ||
                       !um_disk_believes(upper, &now)))
        error = -ESTALE;
    got = error < 0 ? error : um_spot_getxattr(&pinned, name, value, size);
    unpin(&pinned);
    return got;
}

static int64_t get_user_capability(struct um_upper *upper, struct um_spot *spot, void *value,
                                   size_t size)
{
    struct stat status;
    int error = um_spot_stat(spot, &status);
    if (error != 0)
        return error;
    if (!um_disk_believes(upper, &status))
        return -ENODATA;
    int64_t got = um_spot_getxattr_of(upper, spot, &status, UM_CAPABILITY_USER, value, size);
    return is_absent(got) ? -ENODATA : got;
}

int64_t um_mark_get_capability(struct um_upper *upper, struct um_spot *spot, void *value,
                               size_t size)
{
    if (upper->flags & UM_UPPER_TRUSTED) {
        int64_t got = um_spot_getxattr(spot, UM_CAPABILITY_TRUSTED, value, size);
        return is_absent(got) ? -ENODATA : got;
    }
    return get_user_capability(upper, spot, value, size);
}

int um_mark_capability(struct um_upper *upper, struct um_spot *spot, const void *value, size_t size)
{
    char name[MARK_MAX];
    return um_spot_setxattr(spot, own_mark(upper, UM_CAPABILITY_MARK, name), value, size, 0);
}

int um_mark_drop_capability(struct um_upper *upper, struct um_spot *spot)
{
    char name[MARK_MAX];
    int error = um_spot_removexattr(spot, own_mark(upper, UM_CAPABILITY_MARK, name));
    return is_absent(error) ? 0 : error;
}

bool um_mark_is_capability(const struct um_upper *upper, const char *xattr)
{
    char name[MARK_MAX];
    return strcmp(xattr, own_mark(upper, UM_CAPABILITY_MARK, name)) == 0;
}

int um_mark_drop_metacopy(struct um_upper *upper, int fd)
{
    static const char *const marks[] = {"metacopy", "redirect"};
    for (size_t mark = 0; mark < 2; mark++) {
        for (size_t i = 0; i < N_PREFIXES; i++) {
            char name[MARK_MAX];
            snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), marks[mark]);
            if (fremovexattr(fd, name) != 0 && !is_absent(-errno))
                return failed();
        }
    }
    return 0;
}

/* ---- making and removing ----------------------------------------------------------------------------- */

void um_disk_temporary(struct um_upper *upper, char name[32])
{
    unsigned long long number = atomic_fetch_add(&upper->temporaries, 1);
    snprintf(name, 32, "#%llx", number);
}

int um_disk_quiet(const struct um_upper *upper)
{
    return upper->flags & UM_UPPER_ATIME ? 0 : O_NOATIME;
}

int um_disk_whiteout_in_work(struct um_upper *upper, const char *name)
{
    int error = um_disk_whiteout(upper->work_fd, name);
    if (error != 0)
        return error;
    error = um_disk_disinherit(upper, upper->work_fd, name, S_IFCHR);
    if (error != 0)
        unlinkat(upper->work_fd, name, 0);
    return error;
}

int um_disk_whiteout(int fd, const char *name)
{
    return mknodat(fd, name, S_IFCHR, makedev(0, 0)) == 0 ? 0 : failed();
}

#define MAX_DEPTH 64 /* of what is removed: directories that hold whiteouts, and temporaries */

static int remove_at(int fd, const char *name, int depth);

static int empty_directory(int fd, const char *name, int depth)
{
    int inner = um_open_beneath(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (inner < 0) /* -EXDEV: what is mounted there is not the upper's */
        return inner;
    DIR *stream = fdopendir(inner);
    if (stream == NULL) {
        int error = failed();
        close(inner);
        return error;
    }
    int error = 0;
    struct dirent *entry;
    while (error == 0 && (errno = 0, entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            error = remove_at(dirfd(stream), entry->d_name, depth + 1);
    }
    if (error == 0 && errno != 0)
        error = failed();
    closedir(stream);
    return error;
}

static int remove_at(int fd, const char *name, int depth)
{
    if (unlinkat(fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return failed();
    if (unlinkat(fd, name, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return failed();
    if (depth > MAX_DEPTH)
        return -ELOOP;
    int error = empty_directory(fd, name, depth);
    if (error != 0)
        return error;
    return unlinkat(fd, name, AT_REMOVEDIR) == 0 ? 0 : failed();
}

int um_disk_remove(int fd, const char *name)
{
    return remove_at(fd, name, 0);
}
