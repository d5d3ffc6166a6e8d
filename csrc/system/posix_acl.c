#include "system/posix_acl.h"

#define VERSION 2
#define HEADER_SIZE 4
#define ENTRY_SIZE 8

enum { USER_OBJ = 0x01, USER = 0x02, GROUP_OBJ = 0x04, GROUP = 0x08, MASK = 0x10, OTHER = 0x20 };

/* This says where the three classes of a mode stand in an ACL. */
struct classes {
    size_t user, group,
        other; /* offsets of their permissions; group is the mask, if there is one */
    bool named;                /* it says more than a mode can */
};

bool um_acl_is_name(struct um_slice xattr)
{
    return um_slice_equal(xattr, UM_SLICE_LITERAL(UM_ACL_ACCESS)) ||
           um_slice_equal(xattr, UM_SLICE_LITERAL(UM_ACL_DEFAULT));
}

bool um_acl_is_empty(struct um_slice acl)
{
    return acl.size <= HEADER_SIZE;
}

static int find_classes(struct um_slice acl, struct classes *classes)
{
    size_t owning_group = 0, mask = 0;
    *classes = (struct classes){0};
    if (acl.size < HEADER_SIZE || (acl.size - HEADER_SIZE) % ENTRY_SIZE != 0 ||
        um_load32(acl.data) != VERSION)
        return -EINVAL;
    for (size_t at = HEADER_SIZE; at < acl.size; at += ENTRY_SIZE) {
        size_t permissions = at + 2;
        switch (um_load16(acl.data + at)) {
        case USER_OBJ:
            classes->user = permissions;
            break;
        case GROUP_OBJ:
            owning_group = permissions;
            break;
        case OTHER:
            classes->other = permissions;
            break;
        case MASK:
            mask = permissions;
            break;
        case USER:
        case GROUP:
            classes->named = true;
            break;
        default:
            return -EINVAL;
        }
    }
    classes->named = classes->named || mask != 0;
    classes->group = mask != 0 ? mask : owning_group;
    bool whole = classes->user != 0 && owning_group != 0 && classes->other != 0;
    return whole ? 0 : -EINVAL;
}

static uint32_t permissions_at(struct um_slice acl, size_t at)
{
    return um_load16(acl.data + at) & 7u;
}

static uint32_t bits_of(struct um_slice acl, const struct classes *classes)
{
    return permissions_at(acl, classes->user) << 6 | permissions_at(acl, classes->group) << 3 |
           permissions_at(acl, classes->other);
}

static void grant(uint8_t *acl, const struct classes *classes, uint32_t mode)
{
    um_store16(acl + classes->user, (uint16_t)(mode >> 6 & 7));
    um_store16(acl + classes->group, (uint16_t)(mode >> 3 & 7));
    um_store16(acl + classes->other, (uint16_t)(mode & 7));
}

int um_acl_mode(struct um_slice acl, uint32_t *bits)
{
    struct classes classes;
    int error = find_classes(acl, &classes);
    if (error == 0)
        *bits = bits_of(acl, &classes);
    return error;
}

int um_acl_chmod(uint8_t *acl, size_t size, uint32_t mode)
{
    struct classes classes;
    int error = find_classes(um_slice_of(acl, size), &classes);
    if (error == 0)
        grant(acl, &classes, mode);
    return error;
}

int um_acl_inherit(uint8_t *acl, size_t size, uint32_t *mode)
{
    struct classes classes;
    int error = find_classes(um_slice_of(acl, size), &classes);
    if (error != 0)
        return error;
    uint32_t bits = *mode & bits_of(um_slice_of(acl, size), &classes);
    grant(acl, &classes, bits);
    *mode = (*mode & ~0777u) | bits;
    return classes.named;
}

int um_acl_translate(uint8_t *acl, size_t size,
                     int (*translate)(void *context, bool group, uint32_t *id), void *context)
{
    if (size < HEADER_SIZE || (size - HEADER_SIZE) % ENTRY_SIZE != 0 || um_load32(acl) != VERSION)
        return 0;
    for (size_t at = HEADER_SIZE; at < size; at += ENTRY_SIZE) {
        uint16_t tag = um_load16(acl + at);
        if (tag != USER && tag != GROUP)
            continue;
        uint32_t id = um_load32(acl + at + 4);
        int error = translate(context, tag == GROUP, &id);
        if (error != 0)
            return error;
        um_store32(acl + at + 4, id);
    }
    return 0;
}
