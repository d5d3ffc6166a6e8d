#include "whiteout.h"

static const struct um_slice prefix = {(const uint8_t *)".wh.", 4};
static const struct um_slice leftover = {(const uint8_t *)".wh..wh.", 8};
static const struct um_slice link_store = {(const uint8_t *)".wh..wh.plnk", 12};
static const struct um_slice opaque = {(const uint8_t *)".wh..wh..opq", 12};

static bool begins_with(struct um_slice text, struct um_slice start)
{
    return text.size >= start.size && memcmp(text.data, start.data, start.size) == 0;
}

static bool is_dots(struct um_slice name)
{
    return um_slice_equal(name, UM_SLICE_LITERAL(".")) ||
           um_slice_equal(name, UM_SLICE_LITERAL(".."));
}

enum um_whiteout_kind um_whiteout_classify(struct um_slice component, struct um_slice *hidden)
{
    if (!begins_with(component, prefix))
        return UM_NAME_PLAIN;
    if (um_slice_equal(component, opaque))
        return UM_NAME_OPAQUE;
    if (begins_with(component, leftover))
        return UM_NAME_LEFTOVER;
    struct um_slice name = um_slice_of(component.data + prefix.size, component.size - prefix.size);
    if (name.size == 0 || is_dots(name))
        return UM_NAME_BROKEN;
    *hidden = name;
    return UM_NAME_WHITEOUT;
}

bool um_whiteout_is_link_store(struct um_slice component)
{
    return um_slice_equal(component, link_store);
}

bool um_whiteout_is_device(uint32_t major, uint32_t minor)
{
    return major == 0 && minor == 0;
}
