#include "xattr_at.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

/* Numbers and struct of linux/xattr.h, the same on all architectures, for headers that are older. */
#ifndef SYS_getxattrat
#define SYS_getxattrat 464
#endif
#ifndef SYS_listxattrat
#define SYS_listxattrat 465
#endif

struct arguments {
    _Alignas(8) uint64_t value;
    uint32_t size, flags;
};

/* A sandbox may say EPERM of calls that it does not know. */
static bool is_unknown(int error)
{
    return error == ENOSYS || error == EPERM;
}

static const char *path_of(int fd, const char *entry, char path[UM_XATTR_PATH])
{
    snprintf(path, UM_XATTR_PATH, "/proc/self/fd/%d/%s", fd, entry);
    return path;
}

int64_t um_xattr_get_at(int fd, const char *entry, const char *name, void *value, size_t size)
{
    char path[UM_XATTR_PATH];
    struct arguments arguments = {.value = (uint64_t)(uintptr_t)value, .size = (uint32_t)size};
    if (size > UINT32_MAX)
        return -E2BIG;
    long got =
        syscall(SYS_getxattrat, fd, entry, AT_SYMLINK_NOFOLLOW, name, &arguments, sizeof arguments);
    if (got < 0 && is_unknown(errno))
        got = lgetxattr(path_of(fd, entry, path), name, value, size);
    return got < 0 ? -errno : got;
}

int64_t um_xattr_list_at(int fd, const char *entry, char *names, size_t size)
{
    char path[UM_XATTR_PATH];
    long got = syscall(SYS_listxattrat, fd, entry, AT_SYMLINK_NOFOLLOW, names, size);
    if (got < 0 && is_unknown(errno))
        got = llistxattr(path_of(fd, entry, path), names, size);
    return got < 0 ? -errno : got;
}

static const char *path_of_self(int fd, char path[UM_XATTR_PATH])
{
    snprintf(path, UM_XATTR_PATH, "/proc/self/fd/%d", fd);
    return path;
}

int64_t um_xattr_get_of(int fd, const char *name, void *value, size_t size)
{
    char path[UM_XATTR_PATH];
    ssize_t got = getxattr(path_of_self(fd, path), name, value, size);
    return got < 0 ? -errno : got;
}

int64_t um_xattr_list_of(int fd, char *names, size_t size)
{
    char path[UM_XATTR_PATH];
    ssize_t got = listxattr(path_of_self(fd, path), names, size);
    return got < 0 ? -errno : got;
}
