/*
 * system/open_beneath.h - the only place where the core opens a path.
 *
 * Purpose: somebody else may change the directories of the core at any moment: a name becomes a
 * symlink, a FIFO or a mount point. Therefore everything is opened by openat2(2) beneath a
 * descriptor that the core has, through no symlink and over no mount point. Something that was
 * opened with O_PATH and checked may be opened again by its descriptor. No other system call gets
 * a path of two components, because the kernel would follow a symlink at the first one.
 *
 * A mount point below a directory of the core may be the file system that the core itself serves.
 * Any question about it would then wait for the core itself, for ever. A *private* directory is on
 * a mount of its own, on which nobody else can mount anything: each name there is the directory's
 * own entry, even where it is a mount point for everybody else. overlayfs does the same. Elsewhere
 * a mount point is -EXDEV.
 *
 * Source: open_tree(2), mount_setattr(2), openat2(2); clone_private_mount() in fs/overlayfs.
 * Ownership: the caller owns the descriptors that are returned; they are close-on-exec.
 * Threads: no state.
 */
#ifndef UM_OPEN_BENEATH_H
#define UM_OPEN_BENEATH_H

#include <sys/types.h>

#include "base/base.h"

#define UM_FD_PATH 32 /* room for "/proc/self/fd/N" */

/* Open `path` below `directory`; `flags` and `mode` as open(2), O_CLOEXEC is added. With O_PATH |
 * O_NOFOLLOW a symlink at the end is opened itself, else it is -ELOOP, as one on the way is. -EXDEV: a
 * mount point, or a path that leads out; -EBUSY: another process prevents opening it without waiting. */
int um_open_beneath(int directory, const char *path, int flags, mode_t mode);

/* A grip is what a system call gets that takes a descriptor and a name: a name in a directory, or
 * "" for the object of the descriptor itself. */
struct um_grip {
    int fd;
    const char *name; /* borrowed */
    bool own;         /* closed by um_grip_release */
};

/* Take hold of a name in a directory ("" is the directory itself). An `exposed` name may be a
 * mount point: it is opened first (O_PATH), so that no question reaches the file system that is
 * mounted there. Errors as above. */
int um_grip_take(int directory, const char *name, bool exposed, struct um_grip *grip);
void um_grip_release(struct um_grip *grip);

/* Open the object of a descriptor, which may be one of O_PATH, once more with other flags. */
int um_open_again(int fd, int flags);

/* Write a path that leads to the object of a descriptor, for system calls that take no descriptor
 * of O_PATH. The call has to follow it: its last component is a magic link. */
const char *um_fd_path(int fd, char path[UM_FD_PATH]);

/* Write the path that the kernel shows for a descriptor, for messages. Return its size, 0 where it
 * has none. It is not NUL-terminated. */
size_t um_fd_name(int fd, char *path, size_t room);

/* Give the object of a descriptor a name, as linkat(2) does. */
int um_link_descriptor(int fd, int directory, const char *name);

/* Open /proc/PID/status of a task in this PID namespace. -ENOENT. */
int um_open_task_status(uint32_t task);

/* cffi: begin */
#define UM_PRIVATE_READ_ONLY 1u
#define UM_PRIVATE_NOATIME 2u /* without it access times are kept by the rules of relatime */
#define UM_PRIVATE_NODIRATIME 4u
/* Make a private descriptor (O_PATH) of the directory `fd`, without the mounts below it; `how` is
 * a sum of UM_PRIVATE_…. In a user namespace the mode of access times may be locked, and stays
 * that of the original. -EPERM, -EINVAL …: this user, or this kernel, cannot have one. */
int um_private_directory(int fd, unsigned how);
/* Open a directory below one for reading and return the descriptor. `path` has no "..". Reading
 * changes no access time (O_NOATIME), unless the directory belongs to another user. */
int um_open_directory(int directory, const char *path);

#define UM_WITHIN_IN_ROOT 1u /* symlinks are followed, and lead nowhere out of `directory` */
/* Open `path` in the directory of a user, for copies into it: mount points are crossed, since they
 * are the user's own. A symlink on the way is -ELOOP, as one at the end, which O_PATH | O_NOFOLLOW
 * opens itself. With UM_WITHIN_IN_ROOT `path` is resolved as if `directory` were the root
 * directory. Nothing is made. -EXDEV: a path that leads out; -EBUSY as above. */
int um_open_within(int directory, const char *path, int flags, unsigned how);
/* cffi: end */

#endif
