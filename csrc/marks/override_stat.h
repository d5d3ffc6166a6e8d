/*
 * marks/override_stat.h - the text of user.containers.override_stat.
 *
 * Purpose: an ordinary user can't give files away and can't make devices; the owner, mode and type
 * that a file is to show are then kept in this xattr. The format is that of containers/storage
 * (pkg/idtools, FormatContainersOverrideXattrDevice), which podman and buildah use:
 *
 *     uid:gid:mode[:type]    numbers decimal, mode octal
 *     type = dir | file | symlink | pipe | socket | block-MAJOR-MINOR | char-MAJOR-MINOR
 *
 * fuse-overlayfs writes it without a type, and with the bits of the type in the mode.
 * Ownership and threads: pure functions.
 */
#ifndef UM_OVERRIDE_STAT_H
#define UM_OVERRIDE_STAT_H

#include "base/base.h"

#define UM_OVERRIDE_XATTR "user.containers.override_stat"
#define UM_OVERRIDE_TEXT 80 /* room for any value, with a NUL */

struct um_override {
    uint32_t uid, gid;
    uint32_t mode; /* permission bits, 07777 */
    uint32_t type; /* S_IF…, or 0 where the text names none */
    uint32_t major, minor; /* of a device */
};

/* 0, or -EINVAL with *override unchanged: numbers without sign and without anything around them, ids
 * below 2^32 - 1 (which means "none"), a mode of at most 0177777, a type that is known. */
int um_override_parse(struct um_slice text, struct um_override *override);

/* The size of the text, which is NUL-terminated beyond it. Without a type where `type` is 0. */
size_t um_override_format(const struct um_override *override, char text[UM_OVERRIDE_TEXT]);

/* The mode to show, type and permissions, for an object whose mode on disk is `mode`. A regular file
 * (what an ordinary user can make) may stand for a device, a pipe or a socket; no other change of
 * type is believed. */
uint32_t um_override_mode(const struct um_override *override, uint32_t mode);

#endif
