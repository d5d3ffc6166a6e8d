#include "marks/override_stat.h"

#include <inttypes.h>
#include <sys/stat.h>

struct named_type {
    struct um_slice name;
    uint32_t type;
};

static const struct named_type types[] = {
    {{(const uint8_t *)"file", 4}, S_IFREG},    {{(const uint8_t *)"dir", 3}, S_IFDIR},
    {{(const uint8_t *)"symlink", 7}, S_IFLNK}, {{(const uint8_t *)"pipe", 4}, S_IFIFO},
    {{(const uint8_t *)"socket", 6}, S_IFSOCK}, {{(const uint8_t *)"block", 5}, S_IFBLK},
    {{(const uint8_t *)"char", 4}, S_IFCHR},
};

static bool is_device(uint32_t type)
{
    return type == S_IFBLK || type == S_IFCHR;
}

/* ---- parsing ----------------------------------------------------------------------------------- */

/* Cut off the part before the next `mark`; *text becomes the rest. False where there is no mark. */
static bool cut(struct um_slice *text, char mark, struct um_slice *part)
{
    const uint8_t *at = text->size ? memchr(text->data, mark, text->size) : NULL;
    if (at == NULL)
        return false;
    *part = um_slice_of(text->data, (size_t)(at - text->data));
    *text = um_slice_of(at + 1, text->size - part->size - 1);
    return true;
}

/* Parse a number of nothing but digits of `base` (at most 10), not above `most`. */
static bool parse_number(struct um_slice digits, unsigned base, uint32_t most, uint32_t *number)
{
    uint64_t value = 0;
    if (digits.size == 0)
        return false;
    for (size_t i = 0; i < digits.size; i++) {
        unsigned digit = (unsigned)digits.data[i] - '0';
        if (digit >= base)
            return false;
        value = value * base + digit;
        if (value > most)
            return false;
    }
    *number = (uint32_t)value;
    return true;
}

/* Parse an id. fuse-overlayfs before 1.14 writes "-1" for the half of an owner that chown(2) leaves as it is;
 * which one that was is lost, and it belongs to nobody. */
static bool parse_id(struct um_slice text, uint32_t *id)
{
    if (um_slice_equal(text, UM_SLICE_LITERAL("-1"))) {
        *id = UM_OVERRIDE_NOBODY;
        return true;
    }
    return parse_number(text, 10, UM_OVERRIDE_NOBODY, id);
}

static bool find_type(struct um_slice name, uint32_t *type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (um_slice_equal(types[i].name, name)) {
            *type = types[i].type;
            return true;
        }
    }
    return false;
}

static bool parse_type(struct um_slice text, struct um_override *override)
{
    struct um_slice name, major;
    if (!cut(&text, '-', &name))
        return find_type(text, &override->type) && !is_device(override->type);
    return find_type(name, &override->type) && is_device(override->type) &&
           cut(&text, '-', &major) && parse_number(major, 10, UINT32_MAX, &override->major) &&
           parse_number(text, 10, UINT32_MAX, &override->minor);
}

int um_override_parse(struct um_slice text, struct um_override *override)
{
    struct um_override parsed = {0};
    struct um_slice uid, gid, mode;
    if (!cut(&text, ':', &uid) || !cut(&text, ':', &gid))
        return -EINVAL;
    bool typed = cut(&text, ':', &mode);
    if (!typed)
        mode = text;
    if (!parse_id(uid, &parsed.uid) || !parse_id(gid, &parsed.gid) ||
        !parse_number(mode, 8, 0177777, &parsed.mode) || (typed && !parse_type(text, &parsed)))
        return -EINVAL;
    parsed.mode &= 07777;
    *override = parsed;
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------- */

size_t um_override_format(const struct um_override *override, char text[UM_OVERRIDE_TEXT])
{
    int size = snprintf(text, UM_OVERRIDE_TEXT, "%" PRIu32 ":%" PRIu32 ":%04" PRIo32, override->uid,
                        override->gid, override->mode & 07777);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (types[i].type == override->type)
            size += snprintf(text + size, UM_OVERRIDE_TEXT - (size_t)size, ":%s",
                             (const char *)types[i].name.data);
    }
    if (is_device(override->type))
        size += snprintf(text + size, UM_OVERRIDE_TEXT - (size_t)size, "-%" PRIu32 "-%" PRIu32,
                         override->major, override->minor);
    return (size_t)size;
}

uint32_t um_override_mode(const struct um_override *override, uint32_t mode)
{
    uint32_t type = mode & S_IFMT;
    bool special =
        is_device(override->type) || override->type == S_IFIFO || override->type == S_IFSOCK;
    if (type == S_IFREG && special)
        type = override->type;
    return type | (override->mode & 07777);
}
