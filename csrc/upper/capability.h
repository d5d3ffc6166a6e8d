/*
 * upper/capability.h - the capability of a file, wherever it is kept.
 *
 * Purpose: get, set and remove it as the xattr security.capability of the object, or as a mark with the same
 * bytes where nothing on disk may have power of its own (UM_UPPER_OVERRIDE).
 */
#ifndef UM_UPPER_CAPABILITY_H
#define UM_UPPER_CAPABILITY_H

#include "upper/reach.h"

/* [-] As um_upper_reached_getxattr, _setxattr and _removexattr for the name UM_CAPABILITY. Setting it makes
 * `capable` of *reached true; the caller stores that in the node. */
int64_t um_upper_capability_get(struct um_upper *upper, struct um_upper_reached *reached,
                                void *value, size_t size);
int um_upper_capability_set(struct um_upper *upper, struct um_upper_reached *reached,
                            const void *value, size_t size, int flags);
int um_upper_capability_remove(struct um_upper *upper, struct um_upper_reached *reached);

/* [w] Drop a capability that is kept in a mark, before the data or the owner of a file in the upper changes:
 * the disk drops a real one by itself. A directory keeps its capability, as on disk. */
int um_upper_node_drop_capability(struct um_upper *upper, struct um_upper_node *node);

#endif
