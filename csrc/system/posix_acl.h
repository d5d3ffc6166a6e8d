/*
 * system/posix_acl.h - POSIX ACLs as the bytes of their xattrs.
 *
 * Purpose: do what the kernel does with an ACL when a file is created or its mode changes, for
 * files that the core creates elsewhere and moves to their place. The format is that of
 * include/uapi/linux/posix_acl_xattr.h: a version, then entries of tag, permissions and id, all
 * little-endian. The rules are those of fs/posix_acl.c and acl(5).
 * Ownership and threads: pure functions on bytes of the caller.
 * Errors: -EINVAL for bytes that are no ACL, or that lack an entry which every ACL has.
 */
#ifndef UM_POSIX_ACL_H
#define UM_POSIX_ACL_H

#include "base/base.h"

#define UM_ACL_ACCESS "system.posix_acl_access"
#define UM_ACL_DEFAULT "system.posix_acl_default"

/* Return whether an xattr of this name is an ACL, of either kind. */
bool um_acl_is_name(struct um_slice xattr);

/* Return whether an ACL has no entries: setting such an ACL removes it. */
bool um_acl_is_empty(struct um_slice acl);

/* Compute the permission bits (0777) that a file with this access ACL shows. */
int um_acl_mode(struct um_slice acl, uint32_t *bits);

/* Change an access ACL to grant the permission bits of `mode`, as chmod does. */
int um_acl_chmod(uint8_t *acl, size_t size, uint32_t mode);

/* Turn the default ACL of a directory into the access ACL of a file that is created in it with
 * `*mode`, which loses what the ACL does not grant. 1; 0 where `*mode` alone says as much, so that
 * the new file needs no access ACL; or an errno. */
int um_acl_inherit(uint8_t *acl, size_t size, uint32_t *mode);

/* Replace the ID of each entry that names a user or a group; `translate` returns 0 or an errno, which
 * ends it with the ACL partly translated. Bytes that are no ACL are left alone: 0. */
int um_acl_translate(uint8_t *acl, size_t size,
                     int (*translate)(void *context, bool group, uint32_t *id), void *context);

#endif
