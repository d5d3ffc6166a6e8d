/*
 * upper/object_xattr.h - the xattrs of an object of the upper, with ACLs and capabilities as the mount
 * shows them.
 *
 * Purpose: as um_upper_reached_getxattr, _setxattr and _removexattr. An access ACL agrees with the mode that
 * shows, and takes no access from the daemon; a capability is where it is kept (upper/capability.h). Names
 * are those on disk, and marks are read and set as anything else.
 * Threads: [-] for all.
 */
#ifndef UM_UPPER_OBJECT_XATTR_H
#define UM_UPPER_OBJECT_XATTR_H

#include "upper/reach.h"

int64_t um_upper_object_getxattr(struct um_upper *upper, struct um_upper_reached *reached,
                                 const char *name, void *value, size_t size);
int um_upper_object_setxattr(struct um_upper *upper, struct um_upper_reached *reached,
                             const char *name, const void *value, size_t size, int flags);
int um_upper_object_removexattr(struct um_upper *upper, struct um_upper_reached *reached,
                                const char *name);

#endif
