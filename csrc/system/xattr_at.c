#include "system/xattr_at.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "system/open_beneath.h"

/* These are the numbers and the struct of linux/xattr.h, the same on all architectures, for older
 * headers. */
#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#endif
#ifndef SYS_getxattrat
#define SYS_getxattrat 464
#endif
#ifndef SYS_listxattrat
#define SYS_listxattrat 465
#endif
#ifndef SYS_removexattrat
#define SYS_removexattrat 466
#endif

struct arguments {
    _Alignas(8) uint64_t value;
    uint32_t size, flags;
};

/* One question or change, for whichever call the kernel has. */
struct request {
    enum { GET, LIST, SET, REMOVE } verb;
    const char *name;
    void *value; /* SET only reads it */
    size_t size;
    int flags;
};

static long call_at(const struct request *request, int fd, const char *entry)
{
    struct arguments arguments = {.value = (uint64_t)(uintptr_t)request->value,
                                  .size = (uint32_t)request->size,
                                  .flags = (uint32_t)request->flags};
    const int how = AT_SYMLINK_NOFOLLOW;
    switch (request->verb) {
    case GET:
        return syscall(SYS_getxattrat, fd, entry, how, request->name, &arguments, sizeof arguments);
    case LIST:
        return syscall(SYS_listxattrat, fd, entry, how, request->value, request->size);
    case SET:
        return syscall(SYS_setxattrat, fd, entry, how, request->name, &arguments, sizeof arguments);
    default:
        return syscall(SYS_removexattrat, fd, entry, how, request->name);
    }
}

static long call_by_descriptor(const struct request *request, int fd)
{
    switch (request->verb) {
    case GET:
        return fgetxattr(fd, request->name, request->value, request->size);
    case LIST:
        return flistxattr(fd, request->value, request->size);
    case SET:
        return fsetxattr(fd, request->name, request->value, request->size, request->flags);
    default:
        return fremovexattr(fd, request->name);
    }
}

static long call_by_path(const struct request *request, const char *path)
{
    switch (request->verb) {
    case GET:
        return getxattr(path, request->name, request->value, request->size);
    case LIST:
        return listxattr(path, request->value, request->size);
    case SET:
        return setxattr(path, request->name, request->value, request->size, request->flags);
    default:
        return removexattr(path, request->name);
    }
}

/* The calls on descriptors fail for one of O_PATH; a path to it works. */
static int64_t ask_self(const struct request *request, int fd)
{
    char path[UM_FD_PATH];
    long got = call_by_descriptor(request, fd);
    if (got < 0 && errno == EBADF)
        got = call_by_path(request, um_fd_path(fd, path));
    return got < 0 ? -errno : got;
}

/* Open the name first, on a kernel without the calls above. */
static int64_t ask_opened(const struct request *request, int fd, const char *entry)
{
    char path[UM_FD_PATH];
    int opened = um_open_beneath(fd, entry, O_PATH | O_NOFOLLOW, 0);
    if (opened < 0)
        return opened;
    long got = call_by_path(request, um_fd_path(opened, path));
    int64_t result = got < 0 ? -errno : got;
    close(opened);
    return result;
}

static int64_t ask(const struct request *request, int fd, const char *entry)
{
    if (request->size > UINT32_MAX)
        return -E2BIG;
    if (entry[0] == '\0')
        return ask_self(request, fd);
    long got = call_at(request, fd, entry);
    /* A sandbox may answer EPERM to calls that it does not know. */
    if (got < 0 && (errno == ENOSYS || errno == EPERM))
        return ask_opened(request, fd, entry);
    return got < 0 ? -errno : got;
}

int64_t um_xattr_get_at(int fd, const char *entry, const char *name, void *value, size_t size)
{
    const struct request request = {.verb = GET, .name = name, .value = value, .size = size};
    return ask(&request, fd, entry);
}

int64_t um_xattr_list_at(int fd, const char *entry, char *names, size_t size)
{
    const struct request request = {.verb = LIST, .value = names, .size = size};
    return ask(&request, fd, entry);
}

int um_xattr_set_at(int fd, const char *entry, const char *name, const void *value, size_t size,
                    int flags)
{
    struct request request = {.verb = SET, .name = name, .size = size, .flags = flags};
    memcpy(&request.value, &value, sizeof value); /* drops const: the calls only read it */
    return (int)ask(&request, fd, entry);
}

int um_xattr_remove_at(int fd, const char *entry, const char *name)
{
    const struct request request = {.verb = REMOVE, .name = name};
    return (int)ask(&request, fd, entry);
}
