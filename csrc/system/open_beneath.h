/*
 * system/open_beneath.h - the only way in which the core opens what has a name.
 *
 * Purpose: directories that the core works in may be changed by somebody else at any moment: a name
 * becomes a symlink, a FIFO, a mount point. So nothing is opened but by openat2(2) beneath a descriptor
 * that the core has, through no symlink and over no mount point; what was opened with O_PATH and looked
 * at may be opened again by its descriptor. No path of two components is handed to any other system
 * call, because the kernel would follow a symlink at the first.
 *
 * A mount point below a directory of the core's could be the file system that the core itself serves:
 * asking it for anything would wait for oneself. A *private* directory is on a mount of its own, on
 * which nobody else can mount anything: there each name is what the directory holds, also where it is
 * a mount point for everybody else, as overlayfs has it. Elsewhere a mount point is -EXDEV.
 *
 * Source: open_tree(2), mount_setattr(2), openat2(2); clone_private_mount() in fs/overlayfs.
 * Ownership: descriptors that are returned are the caller's, and closed on exec.
 * Threads: no state.
 */
#ifndef UM_OPEN_BENEATH_H
#define UM_OPEN_BENEATH_H

#include <sys/types.h>

#include "base/base.h"

#define UM_FD_PATH 32 /* room for "/proc/self/fd/N" */

/* Open `path` below `directory`; `flags` and `mode` as open(2), O_CLOEXEC is added. With O_PATH |
 * O_NOFOLLOW a symlink at the end is opened itself, else it is -ELOOP, as one on the way is. -EXDEV: a
 * mount point, or a path that leads out; -EBUSY: somebody kept it from being opened without waiting. */
int um_open_beneath(int directory, const char *path, int flags, mode_t mode);

/* What a system call is made on that takes a descriptor and a name: a name in a directory, or "" for what the
 * descriptor itself stands for. */
struct um_grip {
    int fd;
    const char *name; /* borrowed */
    bool own;         /* closed by um_grip_release */
};

/* Take hold of a name in a directory ("": of the directory). Where it is `exposed`, it may be a mount point:
 * it is opened (O_PATH) first, so that nothing is asked of what is mounted there. Errors as above. */
int um_grip_take(int directory, const char *name, bool exposed, struct um_grip *grip);
void um_grip_release(struct um_grip *grip);

/* Open what a descriptor (O_PATH, too) stands for once more, for something else. */
int um_open_again(int fd, int flags);

/* A path that leads to what a descriptor stands for, whatever that is, for system calls that take no
 * descriptor of O_PATH. It has to be followed: the last component is a magic link. */
const char *um_fd_path(int fd, char path[UM_FD_PATH]);

/* The path that the kernel shows for what a descriptor stands for, for messages: its size, 0 where it has
 * none. Not NUL-terminated. */
size_t um_fd_name(int fd, char *path, size_t room);

/* As linkat(2): give what a descriptor stands for a name. */
int um_link_descriptor(int fd, int directory, const char *name);

/* What the kernel says of a task of this PID namespace (/proc/PID/status). -ENOENT. */
int um_open_task_status(uint32_t task);

/* cffi: begin */
#define UM_PRIVATE_READ_ONLY 1u
#define UM_PRIVATE_NOATIME 2u /* without it access times are kept by the rules of relatime */
#define UM_PRIVATE_NODIRATIME 4u
/* A private descriptor (O_PATH) of the directory `fd`, without what is mounted below it, as `how` says
 * (UM_PRIVATE_…). In a user namespace, whose mounts may have that locked, the mode of access times is that of
 * the original. -EPERM, -EINVAL …: not to be had by this user, or on this kernel. */
int um_private_directory(int fd, unsigned how);
/* Open a directory below one for reading: the descriptor. `path` has no "..". Reading it changes no access
 * time, unless the directory is another user's (O_NOATIME). */
int um_open_directory(int directory, const char *path);
/* cffi: end */

#endif
