/*
 * system/id_maps.h - owners as they are stored, and as a mount shows them.
 *
 * Purpose: translate user and group IDs at the edge of a mount, as an idmapped mount of the kernel
 * (mount_setattr(2)) and fuse-overlayfs' uidmapping, gidmapping and squash_to_… do. Behind that edge
 * every ID is a stored one.
 *
 *   shown(id)   a stored ID, as stat(2) reports it: the squashed ID if there is one, else that of the
 *               range; UM_ID_UNMAPPED where no range has it
 *   stored(id)  an ID of a caller, as it is stored; nothing is squashed on this way
 *
 * UM_ID_UNMAPPED belongs to nobody. In a user namespace that does not map it, stat(2) shows the overflow
 * ID and the kernel lets nobody write, as with an ID that an idmapped mount lacks; showing the overflow
 * ID itself (65534) would make the user of that ID the owner of every such file.
 * Ownership: the ranges are borrowed. Threads: pure functions.
 * Errors: UM_ID_NONE where an ID of a caller can't be stored; -EINVAL for one in an xattr, as in the kernel.
 */
#ifndef UM_ID_MAPS_H
#define UM_ID_MAPS_H

#include "base/base.h"

/* cffi: begin */
#define UM_ID_UNMAPPED 4294967294u
#define UM_ID_NONE 4294967295u /* (uid_t)-1 */

/* `count` IDs from `stored` on are shown from `shown` on. */
struct um_id_range {
    uint32_t stored, shown, count;
};

struct um_id_map {
    const struct um_id_range *ranges; /* none overlap, and none has (uid_t)-1 */
    size_t n_ranges;                  /* 0: IDs are shown as they are stored */
    int64_t squashed;                 /* shown in the place of every ID; -1: none */
};

struct um_id_maps {
    struct um_id_map users, groups;
};

uint32_t um_id_shown(const struct um_id_map *map, uint32_t stored);
uint32_t um_id_stored(const struct um_id_map *map, uint32_t shown);
/* The same for the owner of a new file, and for the owner that chown(2) names. If no range shows root, but
 * one has the stored root, the latter is meant: an engine that prepares a container from outside makes
 * files as root, and gives the mounted directory to root. */
uint32_t um_id_stored_owner(const struct um_id_map *map, uint32_t shown);

/* Translate the users and groups in the value of an xattr, in place, and return its new size, which may be
 * UM_ID_XATTR_GROWTH more: those that an ACL names, and the root of the user namespace in which a capability
 * counts. Other xattrs have none. IDs that are shown are not squashed. */
#define UM_ID_XATTR_GROWTH 4
int64_t um_id_show_xattr(const struct um_id_maps *maps, const char *name, size_t name_size,
                         uint8_t *value, size_t size);
int64_t um_id_store_xattr(const struct um_id_maps *maps, const char *name, size_t name_size,
                          uint8_t *value, size_t size);
/* cffi: end */

/* Whether values of this xattr change on the way. */
bool um_id_is_in_xattr(const struct um_id_maps *maps, struct um_slice name);

#endif
