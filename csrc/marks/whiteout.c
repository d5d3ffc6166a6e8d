#include "marks/whiteout.h"

#include "marks/override_stat.h"

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

const char *um_whiteout_prefix(void)
{
    return (const char *)prefix.data;
}

const char *um_whiteout_opaque(void)
{
    return (const char *)opaque.data;
}

bool um_whiteout_spell(struct um_slice name, char text[256])
{
    if (name.size + prefix.size > 255)
        return false;
    memcpy(text, prefix.data, prefix.size);
    memcpy(text + prefix.size, name.data, name.size);
    text[prefix.size + name.size] = '\0';
    return true;
}

/* ---- xattrs ------------------------------------------------------------------------------------ */

static const struct um_slice mark_prefixes[] = {
    {(const uint8_t *)"trusted.overlay.", 16},
    {(const uint8_t *)"user.overlay.", 13},
    {(const uint8_t *)"user.fuseoverlayfs.", 19},
};

/* Indexed by enum um_mark_kind. */
static const struct um_slice mark_names[] = {
    {(const uint8_t *)"opaque", 6},
    {(const uint8_t *)"redirect", 8},
    {(const uint8_t *)"metacopy", 8},
    {(const uint8_t *)"whiteout", 8},
};

/* The part of an xattr's name behind one of the prefixes. */
static bool strip_prefix(struct um_slice xattr, struct um_slice *name)
{
    for (size_t i = 0; i < sizeof mark_prefixes / sizeof *mark_prefixes; i++) {
        size_t size = mark_prefixes[i].size;
        if (begins_with(xattr, mark_prefixes[i])) {
            *name = um_slice_of(xattr.data + size, xattr.size - size);
            return true;
        }
    }
    return false;
}

bool um_whiteout_mark(struct um_slice xattr, enum um_mark_kind *kind)
{
    struct um_slice name;
    if (!strip_prefix(xattr, &name))
        return false;
    for (size_t i = 0; i < sizeof mark_names / sizeof *mark_names; i++) {
        if (um_slice_equal(name, mark_names[i])) {
            *kind = (enum um_mark_kind)i;
            return true;
        }
    }
    return false;
}

bool um_whiteout_is_user_mark(struct um_slice xattr)
{
    return !begins_with(xattr, mark_prefixes[0]);
}

bool um_whiteout_leads(enum um_mark_kind kind)
{
    return kind == UM_MARK_REDIRECT || kind == UM_MARK_METACOPY;
}

struct um_slice um_whiteout_opaque_xattr(void)
{
    return UM_SLICE_LITERAL("user.overlay.opaque");
}

bool um_whiteout_is_private(struct um_slice xattr)
{
    struct um_slice name;
    return strip_prefix(xattr, &name) ||
           um_slice_equal(xattr, UM_SLICE_LITERAL(UM_OVERRIDE_XATTR)) ||
           begins_with(xattr, UM_SLICE_LITERAL("security.fuseoverlayfs."));
}
