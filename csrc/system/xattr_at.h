/*
 * system/xattr_at.h - extended attributes of a name in a directory, by the directory's descriptor.
 *
 * Purpose: use getxattrat(2) and its siblings of Linux 6.13 where the kernel has them. Elsewhere
 * the name is opened with O_PATH first, which takes twice as long. Symlinks are not followed.
 * `entry` "" is the object of the descriptor itself, which may be one of O_PATH; "." is a
 * directory. A name may lead over a mount point: a caller that must not cross one takes a grip
 * first (system/open_beneath.h).
 * Threads: no state.
 */
#ifndef UM_XATTR_AT_H
#define UM_XATTR_AT_H

#include "base/base.h"

/* These do what lgetxattr(2), llistxattr(2), lsetxattr(2) and lremovexattr(2) do; an error is a
 * negative errno. */
int64_t um_xattr_get_at(int fd, const char *entry, const char *name, void *value, size_t size);
int64_t um_xattr_list_at(int fd, const char *entry, char *names, size_t size);
int um_xattr_set_at(int fd, const char *entry, const char *name, const void *value, size_t size,
                    int flags);
int um_xattr_remove_at(int fd, const char *entry, const char *name);

#endif
