/*
 * xattr_at.h - reading extended attributes of a name in a directory, by the directory's descriptor.
 *
 * Purpose: getxattrat(2) and listxattrat(2) of Linux 6.13, where the kernel has them; else the same
 * through a path below /proc/self/fd, which takes twice as long. The last component is not followed.
 * The descriptor may be one that was opened with O_PATH; "." is the directory itself.
 * Threads: no state.
 */
#ifndef UM_XATTR_AT_H
#define UM_XATTR_AT_H

#include "base.h"

#define UM_XATTR_PATH 320 /* "/proc/self/fd/N/" and a name of 255 bytes */

/* As lgetxattr(2) and llistxattr(2), but for errors: a negative errno. */
int64_t um_xattr_get_at(int fd, const char *entry, const char *name, void *value, size_t size);
int64_t um_xattr_list_at(int fd, const char *entry, char *names, size_t size);

/* The same of what a descriptor, also one that was opened with O_PATH, is itself. */
int64_t um_xattr_get_of(int fd, const char *name, void *value, size_t size);
int64_t um_xattr_list_of(int fd, char *names, size_t size);

#endif
