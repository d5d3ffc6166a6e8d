
#include "system/posix_acl.h"
#include "upper/state.h"

static bool is_name(const char *name, const char *wanted)
{
    return strcmp(name, wanted) == 0;
}

static int stat_shown(struct um_upper *upper, struct um_spot *spot, struct um_attr *attr)
{
    struct stat status;
    int error = um_spot_stat(spot, &status);
    return error ? error : um_disk_attr(upper, spot, &status, attr);
}

int64_t um_disk_getxattr(struct um_upper *upper, struct um_spot *spot, const char *name,
                         void *value, size_t size)
{
    struct um_attr attr;
    if (is_name(name, UM_CAPABILITY))
        return um_capability_get(upper, spot, value, size);
    int64_t got = um_spot_getxattr(spot, name, value, size);
    if (got <= 0 || size == 0 || !is_name(name, UM_ACL_ACCESS))
        return got;
    int error = stat_shown(upper, spot, &attr);
    if (error == 0)
        error = um_acl_chmod(value, (size_t)got, attr.mode);
    return error == -EINVAL ? -EIO : error ? error : got;
}

/* An access ACL that grants on disk what the disk is to grant, at no moment more or less. */
static int set_kept_acl(struct um_spot *spot, struct um_slice acl, uint32_t bits, int flags)
{
    um_autofree uint8_t *copy = malloc(acl.size);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, acl.data, acl.size);
    int error = um_acl_chmod(copy, acl.size, bits);
    return error ? error : um_spot_setxattr(spot, UM_ACL_ACCESS, copy, acl.size, flags);
}

/* The disk's mode follows the ACL, and nothing else says what it is. */
static int set_disk_acl(struct um_upper *upper, struct um_spot *spot, struct um_slice acl,
                        int flags)
{
    struct stat before;
    int error = um_spot_stat(spot, &before);
    if (error == 0)
        error = um_spot_setxattr(spot, UM_ACL_ACCESS, acl.data, acl.size, flags);
    return error ? error : um_disk_drop_claim(upper, spot, &before);
}

static int set_acl(struct um_upper *upper, struct um_spot *spot, struct um_slice acl, int flags)
{
    struct um_attr before;
    uint32_t bits, kept;
    if (um_acl_mode(acl, &bits) != 0) /* the kernel refuses it, and knows why */
        return um_spot_setxattr(spot, UM_ACL_ACCESS, acl.data, acl.size, flags);
    int error = stat_shown(upper, spot, &before);
    if (error != 0)
        return error;
    int apart = um_disk_keeps_apart(upper, spot, bits, &kept);
    if (apart <= 0)
        return apart ? apart : set_disk_acl(upper, spot, acl, flags);
    error = set_kept_acl(spot, acl, kept, flags);
    return error ? error : um_disk_chmod(upper, spot, (before.mode & 07000) | bits);
}

int um_disk_setxattr(struct um_upper *upper, struct um_spot *spot, const char *name,
                     const void *value, size_t size, int flags)
{
    const struct um_slice acl = um_slice_of(value, size);
    if (is_name(name, UM_ACL_ACCESS) && !um_acl_is_empty(acl))
        return set_acl(upper, spot, acl, flags);
    if (is_name(name, UM_CAPABILITY))
        return um_capability_set(upper, spot, value, size, flags);
    return um_spot_setxattr(spot, name, value, size, flags);
}

int um_disk_removexattr(struct um_upper *upper, struct um_spot *spot, const char *name)
{
    if (is_name(name, UM_CAPABILITY))
        return um_capability_remove(upper, spot);
    return um_spot_removexattr(spot, name);
}
