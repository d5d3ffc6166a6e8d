/*
 * upper/object.h - owner, mode and type of an object of the upper, as the mount shows them.
 *
 * Purpose: what stat(2) shows is what the disk says, unless the xattr user.containers.override_stat says
 * otherwise and is believed; upper/object.c tells when what shows is *overridden*, that is, kept in that
 * xattr.
 * Threads: [-] for all.
 */
#ifndef UM_UPPER_OBJECT_H
#define UM_UPPER_OBJECT_H

#include "upper/reach.h"

struct um_override; /* marks/override_stat.h */

/* What stat shows of an object, whose stat on disk is *status: everything but `node`. For a directory, nlink
 * is what the disk says. */
int um_upper_object_attr(struct um_upper *upper, struct um_upper_reached *reached,
                         const struct stat *status, struct um_attr *attr);

/* Let an object show this owner (UM_UPPER_KEEP: the one that it has), or these permissions. -EPERM where an
 * object on disk has power that can't be taken from it; -EOPNOTSUPP the mode of a symlink. */
int um_upper_object_chown(struct um_upper *upper, struct um_upper_reached *reached, uint32_t uid,
                          uint32_t gid);
int um_upper_object_chmod(struct um_upper *upper, struct um_upper_reached *reached, uint32_t mode);

/* As um_upper_object_chown for a symlink, which can't have override_stat: where the daemon may not set the
 * owner, it stays the daemon's, and that is no error. */
int um_upper_object_chown_symlink(struct um_upper *upper, const struct um_upper_reached *reached,
                                  uint32_t uid, uint32_t gid);

/* Whether the mode that an object shows is overridden: 1, with *kept the permissions that it has on disk
 * while it shows `mode`, and an ACL's mask there, too; 0; or an errno. */
int um_upper_object_overridden_mode(struct um_upper *upper, struct um_upper_reached *reached,
                                    uint32_t mode, uint32_t *kept);

/* Remove an override_stat that was not believed before a change and would be now: whoever could write to the
 * object may have set it. `before` is the object's stat before the change. */
int um_upper_object_drop_claim(struct um_upper *upper, struct um_upper_reached *reached,
                               const struct stat *before);

/* Put what the disk, which is at *status, does not show into override_stat; with UM_UPPER_STAT all of it.
 * `had`: there is one, which is removed if it is not needed any more. */
int um_upper_object_set_override(const struct um_upper *upper, struct um_upper_reached *reached,
                                 const struct stat *status, const struct um_override *shown,
                                 bool had);

/* Whether an object whose stat on disk is *status needs an override_stat to show *shown. */
bool um_upper_object_needs_override(const struct um_upper *upper, const struct stat *status,
                                    const struct um_override *shown);

/* Whether all files and directories of this upper are overridden: UM_UPPER_OVERRIDE, UM_UPPER_STAT. */
bool um_upper_overrides(const struct um_upper *upper);

/* Whether objects of this type can have user. xattrs: files and directories. */
bool um_upper_takes_user_xattrs(uint32_t mode);

/* The permissions on disk of an object whose mode is overridden: the daemon always has access, and nobody
 * else may write, since whoever can also sets what shows. */
uint32_t um_upper_overridden_bits(uint32_t type, uint32_t mode);

#endif
