#include "upper/reach.h"

#include <fcntl.h>

#include "marks/trust.h"
#include "system/directory_stream.h"
#include "system/open_beneath.h"
#include "system/xattr_at.h"

/* Every name below is reached from a descriptor that the upper owns, one component at a time or by
 * um_open_beneath. So neither names in an image nor changes of the upper on disk lead out of it. */

/* ---- directories ----------------------------------------------------------------------------- */

/* Write the names from below `top` to `node` in front of `*end`, as many as fit, and return the first
 * directory that did not fit (or `top`). */
static const struct um_upper_node *write_path(const struct um_upper_node *node,
                                              const struct um_upper_node *top, char *room,
                                              char **end)
{
    while (node != top && (size_t)(*end - room) > node->name_size) {
        *end -= node->name_size;
        memcpy(*end, node->name, node->name_size);
        *--*end = '/';
        node = node->parent;
    }
    return node;
}

/* Walk from `at` to `directory`, which is below `reached`, in pieces that fit into one call. */
static int walk_beneath(int top, const struct um_upper_node *reached,
                        const struct um_upper_node *directory, int *fd)
{
    int at = top;
    int error = 0;
    while (error == 0 && reached != directory) {
        char room[PATH_MAX];
        char *path = room + sizeof room - 1;
        const struct um_upper_node *next = directory;
        const struct um_upper_node *missing;
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

static int open_directory(struct um_upper *upper, const struct um_upper_node *directory, int *fd)
{
    for (const struct um_upper_node *at = directory; at != upper->root; at = at->parent) {
        if (at == NULL)
            return -ESTALE; /* the directory above was emptied on disk by somebody else, and removed */
    }
    int error = walk_beneath(upper->upper_fd, upper->root, directory, fd);
    if ((error == -EMFILE || error == -ENFILE) && um_fd_cache_shed(upper->directories))
        error = walk_beneath(upper->upper_fd, upper->root, directory, fd);
    return error == -ENOENT || error == -ENOTDIR ? -ESTALE : error;
}

/* In an upper that others reach, they can exchange the object under a name, while the kernel checks
 * permissions by what it was told of the first one. So another object is neither asked nor changed. An
 * inode number may have been used again: a file that was the daemon's has to be believed still. */
static int check_same(const struct um_upper *upper, const struct um_upper_node *node, int fd)
{
    struct stat status;
    if (!(upper->flags & UM_UPPER_OPEN))
        return 0;
    if (fstat(fd, &status) != 0)
        return -errno;
    if (node->ino != 0 && (status.st_ino != node->ino || status.st_dev != upper->device))
        return -ESTALE;
    bool doubtful = S_ISREG(status.st_mode) && node->ours;
    return doubtful && !um_upper_believes(upper, &status) ? -ESTALE : 0;
}

int um_upper_reach_directory(struct um_upper *upper, const struct um_upper_node *directory,
                             struct um_fd_use *use)
{
    int fd;
    *use = (struct um_fd_use){.fd = directory->fd, .entry = UM_FD_BORROWED};
    if (directory == upper->root)
        use->fd = upper->upper_fd;
    if (use->fd >= 0 || um_fd_cache_get(upper->directories, directory->number, use))
        return 0;
    int error = open_directory(upper, directory, &fd);
    if (error != 0)
        return error;
    error = check_same(upper, directory, fd);
    if (error == 0)
        um_fd_cache_put(upper->directories, directory->number, fd, use);
    else
        close(fd);
    return error;
}

/* ---- reached objects ------------------------------------------------------------------------- */

int um_upper_reach_name(const struct um_upper *upper, int fd, struct um_slice name,
                        struct um_upper_reached *reached)
{
    if (name.size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    reached->fd = fd;
    reached->cache = NULL;
    reached->plain = reached->capable = false;
    reached->exposed = !(upper->flags & UM_UPPER_PRIVATE);
    if (name.size != 0)
        memcpy(reached->name, name.data, name.size);
    reached->name[name.size] = '\0';
    return 0;
}

/* In an upper that others reach, hold the object itself by a descriptor, if it is the node's. */
static int hold(struct um_upper *upper, const struct um_upper_node *node,
                struct um_upper_reached *reached)
{
    if (!(upper->flags & UM_UPPER_OPEN) || um_upper_reached_is_self(reached))
        return 0;
    int fd = um_upper_reached_open(reached, O_PATH);
    int error = fd < 0 ? fd : check_same(upper, node, fd);
    um_upper_reached_close(reached);
    if (error == 0) {
        reached->fd = fd;
        reached->name[0] = '\0';
        reached->cache = upper->directories;
        reached->use = (struct um_fd_use){.fd = fd, .entry = UM_FD_OWN};
    } else if (fd >= 0) {
        close(fd);
    }
    return error == -ENOENT ? -ESTALE : error;
}

int um_upper_reach(struct um_upper *upper, const struct um_upper_node *node,
                   struct um_upper_reached *reached)
{
    struct um_slice name = {0};
    struct um_fd_use use = {.fd = node->fd, .entry = UM_FD_BORROWED};
    int error = 0;
    if (node == upper->root) {
        use.fd = upper->upper_fd;
    } else if (node->fd < 0) {
        if (node->parent == NULL || !node->in_upper)
            return -ESTALE;
        name = um_upper_node_name(node);
        error = um_upper_reach_directory(upper, node->parent, &use);
    }
    if (error == 0)
        error = um_upper_reach_name(upper, use.fd, name, reached);
    if (error != 0)
        return error;
    reached->cache = upper->directories;
    reached->use = use;
    reached->plain = node->plain;
    reached->capable = node->capable;
    return hold(upper, node, reached);
}

void um_upper_reached_close(struct um_upper_reached *reached)
{
    if (reached->cache != NULL)
        um_fd_cache_release(reached->cache, &reached->use);
    reached->cache = NULL;
}

bool um_upper_reached_is_self(const struct um_upper_reached *reached)
{
    return reached->name[0] == '\0';
}

static int take(const struct um_upper_reached *reached, struct um_grip *grip)
{
    return um_grip_take(reached->fd, reached->name, reached->exposed, grip);
}

static int flags_at(const struct um_grip *grip)
{
    return AT_SYMLINK_NOFOLLOW | (grip->name[0] == '\0' ? AT_EMPTY_PATH : 0);
}

int um_upper_reached_stat(const struct um_upper_reached *reached, struct stat *status)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    error = um_result(fstatat(grip.fd, grip.name, status, flags_at(&grip)));
    um_grip_release(&grip);
    return error;
}

int64_t um_upper_reached_getxattr(const struct um_upper_reached *reached, const char *name,
                                  void *value, size_t size)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    int64_t got = um_xattr_get_at(grip.fd, grip.name, name, value, size);
    um_grip_release(&grip);
    return got;
}

int64_t um_upper_reached_listxattr(const struct um_upper_reached *reached, char *names, size_t size)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    int64_t got = um_xattr_list_at(grip.fd, grip.name, names, size);
    um_grip_release(&grip);
    return got;
}

int um_upper_reached_setxattr(const struct um_upper_reached *reached, const char *name,
                              const void *value, size_t size, int flags)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    error = um_xattr_set_at(grip.fd, grip.name, name, value, size, flags);
    um_grip_release(&grip);
    return error;
}

int um_upper_reached_removexattr(const struct um_upper_reached *reached, const char *name)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    error = um_xattr_remove_at(grip.fd, grip.name, name);
    um_grip_release(&grip);
    return error;
}

/* Since Linux 6.6; the number is the same on all architectures. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

/* fchmod(2) refuses a descriptor of O_PATH. */
static int chmod_self(int fd, uint32_t mode)
{
    char path[UM_FD_PATH];
    int result = fchmod(fd, mode);
    if (result != 0 && errno == EBADF)
        result = chmod(um_fd_path(fd, path), mode);
    return um_result(result);
}

/* For kernels that can't change the mode of a name without following a symlink. */
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
    /* A sandbox may refuse system calls that it does not know with EPERM. */
    return errno == ENOSYS || errno == EPERM ? chmod_opened(grip, mode) : -errno;
}

int um_upper_reached_chmod(const struct um_upper_reached *reached, uint32_t mode)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    error = chmod_at(&grip, mode & 07777);
    um_grip_release(&grip);
    return error;
}

int um_upper_reached_chown(const struct um_upper_reached *reached, uint32_t uid, uint32_t gid)
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    error = um_result(fchownat(grip.fd, grip.name, uid, gid, flags_at(&grip)));
    um_grip_release(&grip);
    return error;
}

static int times_of_self(int fd, const struct timespec times[2])
{
    char path[UM_FD_PATH];
    int result = futimens(fd, times);
    if (result != 0 && errno == EBADF)
        result = utimensat(fd, um_fd_path(fd, path), times, 0);
    return um_result(result);
}

int um_upper_reached_set_times(const struct um_upper_reached *reached,
                               const struct timespec times[2])
{
    struct um_grip grip;
    int error = take(reached, &grip);
    if (error != 0)
        return error;
    if (grip.name[0] == '\0')
        error = times_of_self(grip.fd, times);
    else
        error = um_result(utimensat(grip.fd, grip.name, times, AT_SYMLINK_NOFOLLOW));
    um_grip_release(&grip);
    return error;
}

/* Close anything but files and directories: others may have put a FIFO in the place of a file. */
static int refuse_special(int fd)
{
    struct stat status;
    int error = um_result(fstat(fd, &status));
    if (error == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        error = -ESTALE;
    if (error != 0)
        close(fd);
    return error ? error : fd;
}

static int open_spot(const struct um_upper_reached *reached, int flags)
{
    return um_upper_reached_is_self(reached)
               ? um_open_again(reached->fd, flags)
               : um_open_beneath(reached->fd, reached->name, flags | O_NOFOLLOW, 0);
}

int um_upper_reached_open(const struct um_upper_reached *reached, int flags)
{
    return um_upper_reached_open_for_user(NULL, reached, flags);
}

int um_upper_node_open(struct um_upper *upper, const struct um_upper_node *node, int flags)
{
    struct um_upper_reached reached = {0};
    int error = um_upper_reach(upper, node, &reached);
    int fd = error ? error : um_upper_reached_open(&reached, flags);
    um_upper_reached_close(&reached);
    return fd;
}

int um_upper_reached_open_for_user(const struct um_upper *upper,
                                   const struct um_upper_reached *reached, int flags)
{
    if (flags & O_PATH)
        return open_spot(reached, flags);
    int quiet = upper == NULL ? O_NOATIME : um_upper_noatime(upper);
    if ((flags & O_ACCMODE) == O_WRONLY)
        quiet = 0;
    flags |= O_NONBLOCK | O_NOCTTY; /* nothing waits for the other end of a FIFO */
    int fd = open_spot(reached, flags | quiet);
    if (fd == -EPERM && quiet) /* it is somebody else's */
        fd = open_spot(reached, flags);
    return fd >= 0 ? refuse_special(fd) : fd;
}

int um_upper_reached_open_stream(const struct um_upper *reader,
                                 const struct um_upper_reached *reached, DIR **stream)
{
    int fd = um_upper_reached_open_for_user(reader, reached, O_RDONLY | O_DIRECTORY);
    return fd < 0 ? fd : um_directory_stream(fd, stream);
}

int um_upper_reached_link(const struct um_upper_reached *reached, int fd, const char *name)
{
    if (um_upper_reached_is_self(reached))
        return um_link_descriptor(reached->fd, fd, name);
    return um_result(linkat(reached->fd, reached->name, fd, name, 0));
}

/* ---- what stands there ----------------------------------------------------------------------- */

int um_upper_has_entry(int fd, const char *name, bool exposed)
{
    struct um_upper_reached reached = {.fd = fd, .exposed = exposed};
    struct stat status;
    snprintf(reached.name, sizeof reached.name, "%s", name);
    int error = um_upper_reached_stat(&reached, &status);
    return error == -ENOENT ? 0 : error ? error : 1;
}

int um_upper_entry_is_directory(const struct um_upper *upper, int fd, const struct dirent *entry)
{
    struct um_upper_reached reached;
    struct stat status;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    int error = um_upper_reach_name(upper, fd, um_slice_text(entry->d_name), &reached);
    if (error == 0)
        error = um_upper_reached_stat(&reached, &status);
    if (error == -EXDEV)
        return 0; /* what is mounted there is no part of the upper */
    return error ? error : S_ISDIR(status.st_mode);
}

/* ---- marks ----------------------------------------------------------------------------------- */

bool um_upper_trusts_owner(const struct um_upper *upper, uint32_t uid, uint32_t mode)
{
    return um_mark_is_trusted(uid, mode) || (uid == upper->owner && (mode & 022) == 0);
}

/* Files in an ordinary user's upper may have the modes that earlier versions gave them on disk, and those
 * with UM_UPPER_STAT the modes that fuse-overlayfs did. The upper is closed, so nobody else could use these. */
bool um_upper_believes(const struct um_upper *upper, const struct stat *status)
{
    bool kept = upper->flags & (UM_UPPER_OVERRIDE | UM_UPPER_STAT);
    bool closed = kept && !(upper->flags & UM_UPPER_OPEN);
    return um_upper_trusts_owner(upper, status->st_uid, closed ? 0 : status->st_mode);
}

bool um_upper_believes_stat(const struct um_upper *upper, const struct stat *status)
{
    if (upper->flags & UM_UPPER_STAT_SECURITY)
        return um_upper_trusts_owner(upper, status->st_uid, 0);
    return um_upper_believes(upper, status);
}

/* ---- making and removing --------------------------------------------------------------------- */

int um_upper_noatime(const struct um_upper *upper)
{
    return upper->flags & UM_UPPER_ATIME ? 0 : O_NOATIME;
}
