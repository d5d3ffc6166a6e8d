/*
 * crash.c - ends a process at one chosen system call that changes a file system, or fails the call.
 *
 * Purpose: to be preloaded (LD_PRELOAD) into the daemon of a mount. While `armed` is set in the file
 * that FAULTS_CONTROL names, calls are counted; the one with the number `chosen` is not made, and
 * kills the process, or fails with `error`. The file is mapped, so tests arm it at any time.
 * Threads: any; one operation at a time is being tested, so the count needs no more than atomics.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

struct control {
    _Atomic uint32_t armed, count, chosen;
    int32_t error; /* 0: kill */
    char name[48]; /* of the call that was chosen */
};

static struct control *control;

__attribute__((constructor)) static void map_control(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    control = map == MAP_FAILED ? NULL : map;
    close(fd);
}

/* Whether this call is the one, and is to fail. */
static int fails(const char *name)
{
    if (control == NULL || !atomic_load(&control->armed))
        return 0;
    if (atomic_fetch_add(&control->count, 1) + 1 != atomic_load(&control->chosen))
        return 0;
    strncpy(control->name, name, sizeof control->name - 1);
    if (control->error == 0)
        kill(getpid(), SIGKILL);
    errno = control->error;
    return 1;
}

#define WRAP(type, name, parameters, arguments)        \
    type name parameters                               \
    {                                                  \
        static type(*real) parameters;                 \
        if (real == NULL)                              \
            *(void **)&real = dlsym(RTLD_NEXT, #name); \
        return fails(#name) ? -1 : real arguments;     \
    }

WRAP(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode))
WRAP(int, mknodat, (int fd, const char *path, mode_t mode, dev_t device), (fd, path, mode, device))
WRAP(int, symlinkat, (const char *target, int fd, const char *path), (target, fd, path))
WRAP(int, linkat, (int from, const char *path, int to, const char *name, int flags),
     (from, path, to, name, flags))
WRAP(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
WRAP(int, renameat, (int from, const char *path, int to, const char *name), (from, path, to, name))
WRAP(int, renameat2, (int from, const char *path, int to, const char *name, unsigned flags),
     (from, path, to, name, flags))
WRAP(int, setxattr, (const char *path, const char *name, const void *value, size_t size, int flags),
     (path, name, value, size, flags))
WRAP(int, lsetxattr,
     (const char *path, const char *name, const void *value, size_t size, int flags),
     (path, name, value, size, flags))
WRAP(int, fsetxattr, (int fd, const char *name, const void *value, size_t size, int flags),
     (fd, name, value, size, flags))
WRAP(int, removexattr, (const char *path, const char *name), (path, name))
WRAP(int, lremovexattr, (const char *path, const char *name), (path, name))
WRAP(int, fremovexattr, (int fd, const char *name), (fd, name))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size))
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t offset),
     (fd, data, size, offset))
WRAP(ssize_t, copy_file_range,
     (int from, off_t *at, int to, off_t *there, size_t size, unsigned flags),
     (from, at, to, there, size, flags))
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode))
WRAP(int, fchmodat, (int fd, const char *path, mode_t mode, int flags), (fd, path, mode, flags))
WRAP(int, fchownat, (int fd, const char *path, uid_t uid, gid_t gid, int flags),
     (fd, path, uid, gid, flags))
WRAP(int, utimensat, (int fd, const char *path, const struct timespec times[2], int flags),
     (fd, path, times, flags))
WRAP(int, futimens, (int fd, const struct timespec times[2]), (fd, times))
WRAP(int, fsync, (int fd), (fd))

/* Three that have more uses than changing a file system. */

/* What the core calls by number, as the C library has no function for it. */
static const char *name_of(long number, long *arguments)
{
    const struct open_how *how = (const struct open_how *)arguments[2];
    switch (number) {
    case SYS_openat2:
        return how->flags & O_CREAT ? "openat2" : NULL;
    case 452:
        return "fchmodat2";
    case 463:
        return "setxattrat";
    case 466:
        return "removexattrat";
    default:
        return NULL;
    }
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    const char *name = name_of(number, a);
    return name != NULL && fails(name) ? -1 : real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int openat(int fd, const char *path, int flags, ...)
{
    static int (*real)(int, const char *, int, ...);
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
    va_end(list);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "openat");
    return flags & O_CREAT && fails("openat") ? -1 : real(fd, path, flags, mode);
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    return request == FICLONE && fails("FICLONE") ? -1 : real(fd, request, argument);
}
