#include "system/open_beneath.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

/* linux/mount.h has these since 5.12; the numbers are the same on all architectures. */
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x1
#endif
#ifndef MOUNT_ATTR_NOATIME
#define MOUNT_ATTR_NOATIME 0x10
#endif
#ifndef MOUNT_ATTR_NODIRATIME
#define MOUNT_ATTR_NODIRATIME 0x80
#endif
#ifndef MOUNT_ATTR__ATIME
#define MOUNT_ATTR__ATIME 0x70
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define PROPAGATION_PRIVATE \
    (1ull << 18) /* MS_PRIVATE of sys/mount.h, which linux/mount.h excludes */

#define RETRIES 64 /* of a walk that concurrent renames disturb */

static int open_as(int directory, const char *path, struct open_how how)
{
    for (int tries = 0;;) {
        long fd = syscall(SYS_openat2, directory, path, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        if (++tries == RETRIES) /* a lease, with O_NONBLOCK; -EAGAIN means something else above */
            return -EBUSY;
    }
}

int um_open_beneath(int directory, const char *path, int flags, mode_t mode)
{
    const struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    return open_as(directory, path, how);
}

int um_open_within(int directory, const char *path, int flags, unsigned how)
{
    const uint64_t strict = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const struct open_how opened = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .resolve = RESOLVE_NO_MAGICLINKS | (how & UM_WITHIN_IN_ROOT ? RESOLVE_IN_ROOT : strict),
    };
    return open_as(directory, path, opened);
}

int um_grip_take(int directory, const char *name, bool exposed, struct um_grip *grip)
{
    *grip = (struct um_grip){.fd = directory, .name = name};
    if (!exposed || name[0] == '\0')
        return 0;
    int fd = um_open_beneath(directory, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    *grip = (struct um_grip){.fd = fd, .name = "", .own = true};
    return 0;
}

void um_grip_release(struct um_grip *grip)
{
    if (grip->own)
        close(grip->fd);
}

const char *um_fd_path(int fd, char path[UM_FD_PATH])
{
    snprintf(path, UM_FD_PATH, "/proc/self/fd/%d", fd);
    return path;
}

size_t um_fd_name(int fd, char *path, size_t room)
{
    char link[UM_FD_PATH];
    ssize_t size = readlink(um_fd_path(fd, link), path, room);
    return size < 0 ? 0 : (size_t)size;
}

int um_open_again(int fd, int flags)
{
    char path[UM_FD_PATH];
    int opened;
    do {
        opened = open(um_fd_path(fd, path), flags | O_CLOEXEC);
    } while (opened < 0 && errno == EINTR);
    if (opened < 0)
        return errno == EAGAIN ? -EBUSY : -errno;
    return opened;
}

int um_link_descriptor(int fd, int directory, const char *name)
{
    char path[UM_FD_PATH];
    int result = linkat(AT_FDCWD, um_fd_path(fd, path), directory, name, AT_SYMLINK_FOLLOW);
    return um_result(result);
}

int um_open_task_status(uint32_t task)
{
    char path[UM_FD_PATH];
    snprintf(path, sizeof path, "/proc/%u/status", (unsigned)task);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int set_attributes(int mount, const struct mount_attr *how)
{
    long result = syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, how, sizeof *how);
    return um_result(result);
}

static int make_private(int mount, unsigned how)
{
    const struct mount_attr rest = {
        .attr_set = how & UM_PRIVATE_READ_ONLY ? MOUNT_ATTR_RDONLY : 0,
        .propagation = PROPAGATION_PRIVATE, /* later mounts on the original do not appear here */
    };
    struct mount_attr all = rest;
    all.attr_set |= how & UM_PRIVATE_NOATIME ? MOUNT_ATTR_NOATIME : 0;
    all.attr_set |= how & UM_PRIVATE_NODIRATIME ? MOUNT_ATTR_NODIRATIME : 0;
    all.attr_clr = MOUNT_ATTR__ATIME; /* relatime unless another mode is set */
    all.attr_clr |= how & UM_PRIVATE_NODIRATIME ? 0 : MOUNT_ATTR_NODIRATIME;
    int error = set_attributes(mount, &all);
    /* In a user namespace the mode of access times may be locked. */
    return error == -EPERM ? set_attributes(mount, &rest) : error;
}

int um_private_directory(int fd, unsigned how)
{
    unsigned flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH;
    long cloned = syscall(SYS_open_tree, fd, "", flags);
    if (cloned < 0)
        return -errno;
    int error = make_private((int)cloned, how);
    if (error != 0)
        close((int)cloned);
    return error ? error : (int)cloned;
}

int um_open_directory(int directory, const char *path)
{
    const int flags = O_RDONLY | O_DIRECTORY;
    int fd = um_open_beneath(directory, path, flags | O_NOATIME, 0);
    return fd == -EPERM ? um_open_beneath(directory, path, flags, 0) : fd;
}
