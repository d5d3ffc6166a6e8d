/*
 * marks/override_stat.h - the text of override_stat, and the xattrs that hold it.
 *
 * Purpose: an ordinary user cannot change the owner of a file or create a device. This xattr keeps
 * the owner, mode and type that a file is to show. The format is that of containers/storage
 * (pkg/idtools, FormatContainersOverrideXattrDevice), which podman and buildah use:
 *
 *     uid:gid:mode[:type]    numbers decimal, mode octal
 *     type = dir | file | symlink | pipe | socket | block-MAJOR-MINOR | char-MAJOR-MINOR
 *
 * fuse-overlayfs writes no type; it sets the type bits of the mode instead. It has names of its own for
 * the xattr: one below user. (before 1.14), and with xattr_permissions=1 one below security., which only
 * privileged users can set.
 * Ownership and threads: pure functions.
 */
#ifndef UM_OVERRIDE_STAT_H
#define UM_OVERRIDE_STAT_H

#include "base/base.h"

#define UM_OVERRIDE_XATTR "user.containers.override_stat"
#define UM_OVERRIDE_FUSE_XATTR "user.fuseoverlayfs.override_stat"
#define UM_OVERRIDE_SECURITY_XATTR "security.fuseoverlayfs.override_stat"
#define UM_OVERRIDE_NOBODY 4294967294u /* the owner where an id is "-1" */
#define UM_OVERRIDE_TEXT 80 /* room for any value, with a NUL */

struct um_override {
    uint32_t uid, gid;
    uint32_t mode; /* permission bits, 07777 */
    uint32_t type; /* S_IF…, or 0 where the text names none */
    uint32_t major, minor; /* of a device */
};

/* Parse a text strictly: numbers have no sign and nothing around them, ids are below 2^32 - 1
 * (which means "none") or -1, the mode is at most 0177777 and the type is known. 0, or -EINVAL with
 * *override unchanged. */
int um_override_parse(struct um_slice text, struct um_override *override);

/* Format a value and return the size of the text, which also gets a NUL. The type is omitted where
 * `type` is 0. */
size_t um_override_format(const struct um_override *override, char text[UM_OVERRIDE_TEXT]);

/* Return the mode to show, type and permissions, for an object whose mode on disk is `mode`. A
 * regular file, which an ordinary user can create, may stand for a device, a pipe or a socket. No
 * other change of type is accepted. */
uint32_t um_override_mode(const struct um_override *override, uint32_t mode);

#endif
