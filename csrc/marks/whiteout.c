#include "marks/whiteout.h"

#include "marks/override_stat.h"

static const struct um_slice prefix = {(const uint8_t *)".wh.", 4};
static const struct um_slice leftover = {(const uint8_t *)".wh..wh.", 8};
static const struct um_slice link_store = {(const uint8_t *)".wh..wh.plnk", 12};
static const struct um_slice opaque = {(const uint8_t *)".wh..wh..opq", 12};

enum um_whiteout_kind um_whiteout_classify(struct um_slice component, struct um_slice *hidden)
{
    if (!um_slice_begins(component, prefix))
        return UM_NAME_PLAIN;
    if (um_slice_equal(component, opaque))
        return UM_NAME_OPAQUE;
    if (um_slice_begins(component, leftover))
        return UM_NAME_LEFTOVER;
    struct um_slice name = um_slice_of(component.data + prefix.size, component.size - prefix.size);
    if (name.size == 0 || um_slice_is_dots(name))
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

static const struct {
    struct um_slice text;
    unsigned namespaces; /* of UM_OVERLAY_…: where names that begin so are marks */
} mark_prefixes[] = {
    {{(const uint8_t *)"trusted.overlay.", 16}, UM_OVERLAY_TRUSTED},
    {{(const uint8_t *)"user.overlay.", 13}, UM_OVERLAY_USER | UM_OVERLAY_RAW_USER},
    {{(const uint8_t *)"user.fuseoverlayfs.", 19}, ~0u},
};

#define N_OVERLAY 2 /* the first two prefixes can be escaped */

/* This stands between a prefix and the rest of a name that users set. */
static const struct um_slice escape = {(const uint8_t *)"overlay.", 8};

/* Indexed by enum um_mark_kind. */
static const struct um_slice mark_names[] = {
    {(const uint8_t *)"opaque", 6},
    {(const uint8_t *)"redirect", 8},
    {(const uint8_t *)"metacopy", 8},
    {(const uint8_t *)"whiteout", 8},
};

static struct um_slice behind(struct um_slice text, size_t size)
{
    return um_slice_of(text.data + size, text.size - size);
}

/* Strip one of the first `n` prefixes off an xattr's name. False where it begins with none. */
static bool strip_prefix(struct um_slice xattr, unsigned namespaces, size_t n,
                         struct um_slice *name)
{
    for (size_t i = 0; i < n; i++) {
        if (mark_prefixes[i].namespaces & namespaces &&
            um_slice_begins(xattr, mark_prefixes[i].text)) {
            *name = behind(xattr, mark_prefixes[i].text.size);
            return true;
        }
    }
    return false;
}

bool um_whiteout_mark(struct um_slice xattr, unsigned namespaces, enum um_mark_kind *kind)
{
    struct um_slice name;
    if (!strip_prefix(xattr, namespaces, sizeof mark_prefixes / sizeof *mark_prefixes, &name))
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
    return !um_slice_begins(xattr, mark_prefixes[0].text);
}

bool um_whiteout_leads(enum um_mark_kind kind)
{
    return kind == UM_MARK_REDIRECT || kind == UM_MARK_METACOPY;
}

struct um_slice um_whiteout_opaque_xattr(void)
{
    return UM_SLICE_LITERAL("user.overlay.opaque");
}

/* ---- names of users --------------------------------------------------------------------------------------- */

static bool is_kept_back(struct um_slice xattr)
{
    return um_slice_begins(xattr, UM_SLICE_LITERAL("user.fuseoverlayfs.")) ||
           um_slice_begins(xattr, UM_SLICE_LITERAL("security.fuseoverlayfs.")) ||
           um_slice_equal(xattr, UM_SLICE_LITERAL(UM_OVERRIDE_XATTR));
}

/* Store a name unchanged. */
static int store_plain(struct um_slice name, char *stored)
{
    if (name.size >= UM_OVERLAY_ROOM)
        return -EOPNOTSUPP;
    memcpy(stored, name.data, name.size);
    stored[name.size] = '\0';
    return 0;
}

static bool is_raw(unsigned namespaces, struct um_slice name)
{
    return namespaces & UM_OVERLAY_RAW_USER && um_whiteout_is_user_mark(name);
}

int um_overlay_store(unsigned namespaces, const char *text, size_t size, char *stored)
{
    struct um_slice name = um_slice_of(text, size), rest;
    if (is_kept_back(name))
        return -EPERM;
    if (!strip_prefix(name, namespaces, N_OVERLAY, &rest))
        return store_plain(name, stored);
    if (is_raw(namespaces, name))
        return um_slice_begins(rest, escape) ? store_plain(name, stored) : -EPERM;
    if (rest.size == 0)
        return -EINVAL;
    if (size + escape.size >= UM_OVERLAY_ROOM)
        return -EOPNOTSUPP;
    size_t prefix_size = size - rest.size;
    memcpy(stored, text, prefix_size);
    memcpy(stored + prefix_size, escape.data, escape.size);
    memcpy(stored + prefix_size + escape.size, rest.data, rest.size);
    stored[size + escape.size] = '\0';
    return 0;
}

size_t um_overlay_show(unsigned namespaces, struct um_slice stored, char *shown)
{
    struct um_slice rest;
    if (is_kept_back(stored))
        return 0;
    size_t prefix_size = stored.size;
    size_t skipped = 0;
    if (strip_prefix(stored, namespaces, N_OVERLAY, &rest)) {
        if (!um_slice_begins(rest, escape) || rest.size == escape.size)
            return 0;
        prefix_size = stored.size - rest.size;
        skipped = is_raw(namespaces, stored) ? 0 : escape.size;
    }
    struct um_slice end = behind(stored, prefix_size + skipped);
    memmove(shown, stored.data, prefix_size);
    memmove(shown + prefix_size, end.data, end.size);
    return stored.size - skipped;
}

/* These marks of overlayfs do more than hide. */
static const struct um_slice leading_names[] = {
    {(const uint8_t *)"redirect", 8}, {(const uint8_t *)"metacopy", 8},
    {(const uint8_t *)"origin", 6},   {(const uint8_t *)"nlink", 5},
    {(const uint8_t *)"upper", 5},    {(const uint8_t *)"uuid", 4},
    {(const uint8_t *)"protattr", 8},
};

bool um_overlay_leads(struct um_slice shown)
{
    struct um_slice name;
    if (!strip_prefix(shown, UM_OVERLAY_BOTH, N_OVERLAY, &name))
        return false;
    for (size_t i = 0; i < sizeof leading_names / sizeof *leading_names; i++) {
        if (um_slice_equal(name, leading_names[i]))
            return true;
    }
    return um_slice_begins(name, UM_SLICE_LITERAL("unionmount."));
}
