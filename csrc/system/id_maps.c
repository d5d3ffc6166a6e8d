#include "system/id_maps.h"

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

int um_id_show_acl(const struct um_id_maps *maps, uint8_t *acl, size_t size)
{
    struct direction direction = {maps, false};
    return um_acl_translate(acl, size, translate, &direction);
}

int um_id_store_acl(const struct um_id_maps *maps, uint8_t *acl, size_t size)
{
    struct direction direction = {maps, true};
    return um_acl_translate(acl, size, translate, &direction);
}
