#include "system/id_maps.h"

#include "system/capability.h"
#include "system/posix_acl.h"

static uint32_t show(const struct um_id_map *map, uint32_t stored)
{
    if (map->n_ranges == 0)
        return stored;
    for (size_t i = 0; i < map->n_ranges; i++) {
        const struct um_id_range *range = &map->ranges[i];
        if (stored >= range->stored && stored - range->stored < range->count)
            return range->shown + (stored - range->stored);
    }
    return UM_ID_UNMAPPED;
}

uint32_t um_id_shown(const struct um_id_map *map, uint32_t stored)
{
    return map->squashed >= 0 ? (uint32_t)map->squashed : show(map, stored);
}

uint32_t um_id_stored(const struct um_id_map *map, uint32_t shown)
{
    if (map->n_ranges == 0)
        return shown;
    for (size_t i = 0; i < map->n_ranges; i++) {
        const struct um_id_range *range = &map->ranges[i];
        if (shown >= range->shown && shown - range->shown < range->count)
            return range->stored + (shown - range->shown);
    }
    return UM_ID_NONE;
}

uint32_t um_id_stored_owner(const struct um_id_map *map, uint32_t shown)
{
    uint32_t stored = um_id_stored(map, shown);
    bool has_root = stored == UM_ID_NONE && show(map, 0) != UM_ID_UNMAPPED;
    return shown == 0 && has_root ? 0 : stored;
}

/* ---- xattrs ------------------------------------------------------------------------------------ */

struct direction {
    const struct um_id_maps *maps;
    bool stores;
};

static int translate(void *context, bool group, uint32_t *id)
{
    const struct direction *direction = context;
    const struct um_id_map *map = group ? &direction->maps->groups : &direction->maps->users;
    *id = direction->stores ? um_id_stored(map, *id) : show(map, *id);
    return *id == UM_ID_NONE ? -EINVAL : 0;
}

/* The bytes of a capability (struct vfs_ns_cap_data): a revision with flags, the sets, and since revision 3
 * the root of a user namespace. Without one it is that of the file system. */
#define REVISION_MASK 0xFF000000u
#define REVISION_2 0x02000000u
#define REVISION_3 0x03000000u
#define SIZE_2 20
#define SIZE_3 (SIZE_2 + UM_ID_XATTR_GROWTH)

static bool is_capability(const uint8_t *value, size_t size)
{
    uint32_t revision = size >= SIZE_2 ? um_load32(value) & REVISION_MASK : 0;
    return (revision == REVISION_2 && size == SIZE_2) || (revision == REVISION_3 && size == SIZE_3);
}

/* Give a capability another root; 0 is the one that revision 2 has. */
static size_t set_root(uint8_t *value, uint32_t root)
{
    uint32_t flags = um_load32(value) & ~REVISION_MASK;
    um_store32(value, flags | (root ? REVISION_3 : REVISION_2));
    if (root == 0)
        return SIZE_2;
    um_store32(value + SIZE_2, root);
    return SIZE_3;
}

/* A capability that root sets whose ID no range has is the stored root's, like a file that it creates. */
static int64_t translate_capability(const struct direction *direction, uint8_t *value, size_t size)
{
    const struct um_id_map *map = &direction->maps->users;
    if (map->n_ranges == 0 || !is_capability(value, size))
        return (int64_t)size;
    uint32_t root = size == SIZE_3 ? um_load32(value + SIZE_2) : 0;
    root = direction->stores ? um_id_stored_owner(map, root) : show(map, root);
    return root == UM_ID_NONE ? -EINVAL : (int64_t)set_root(value, root);
}

static bool is_capability_name(struct um_slice name)
{
    return um_slice_equal(name, UM_SLICE_LITERAL(UM_CAPABILITY));
}

bool um_id_is_in_xattr(const struct um_id_maps *maps, struct um_slice name)
{
    return (maps->users.n_ranges != 0 || maps->groups.n_ranges != 0) &&
           (um_acl_is_name(name) || is_capability_name(name));
}

static int64_t translate_xattr(struct direction *direction, struct um_slice name, uint8_t *value,
                               size_t size)
{
    if (is_capability_name(name))
        return translate_capability(direction, value, size);
    int error = um_acl_is_name(name) ? um_acl_translate(value, size, translate, direction) : 0;
    return error ? error : (int64_t)size;
}

int64_t um_id_show_xattr(const struct um_id_maps *maps, const char *name, size_t name_size,
                         uint8_t *value, size_t size)
{
    struct direction direction = {maps, false};
    return translate_xattr(&direction, um_slice_of(name, name_size), value, size);
}

int64_t um_id_store_xattr(const struct um_id_maps *maps, const char *name, size_t name_size,
                          uint8_t *value, size_t size)
{
    struct direction direction = {maps, true};
    return translate_xattr(&direction, um_slice_of(name, name_size), value, size);
}
