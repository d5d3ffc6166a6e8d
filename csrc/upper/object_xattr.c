#include "upper/object_xattr.h"

#include "system/capability.h"
#include "system/posix_acl.h"
#include "upper/capability.h"
#include "upper/object.h"

static bool is_name(const char *name, const char *wanted)
{
    return strcmp(name, wanted) == 0;
}

static int stat_shown(struct um_upper *upper, struct um_upper_reached *reached,
                      struct um_attr *attr)
{
    struct stat status;
    int error = um_upper_reached_stat(reached, &status);
    return error ? error : um_upper_object_attr(upper, reached, &status, attr);
}

int64_t um_upper_object_getxattr(struct um_upper *upper, struct um_upper_reached *reached,
                                 const char *name, void *value, size_t size)
{
    struct um_attr attr;
    if (is_name(name, UM_CAPABILITY))
        return um_upper_capability_get(upper, reached, value, size);
    int64_t got = um_upper_reached_getxattr(reached, name, value, size);
    if (got <= 0 || size == 0 || !is_name(name, UM_ACL_ACCESS))
        return got;
    int error = stat_shown(upper, reached, &attr);
    if (error == 0)
        error = um_acl_chmod(value, (size_t)got, attr.mode);
    return error == -EINVAL ? -EIO : error ? error : got;
}

/* Set an access ACL that grants the permissions on disk, `bits`, and at no moment more or less. */
static int set_kept_acl(struct um_upper_reached *reached, struct um_slice acl, uint32_t bits,
                        int flags)
{
    um_autofree uint8_t *copy = malloc(acl.size);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, acl.data, acl.size);
    int error = um_acl_chmod(copy, acl.size, bits);
    return error ? error : um_upper_reached_setxattr(reached, UM_ACL_ACCESS, copy, acl.size, flags);
}

/* Set an access ACL where the mode on disk is the one that shows, and follows the ACL. */
static int set_disk_acl(struct um_upper *upper, struct um_upper_reached *reached,
                        struct um_slice acl, int flags)
{
    struct stat before;
    int error = um_upper_reached_stat(reached, &before);
    if (error == 0)
        error = um_upper_reached_setxattr(reached, UM_ACL_ACCESS, acl.data, acl.size, flags);
    return error ? error : um_upper_object_drop_claim(upper, reached, &before);
}

static int set_acl(struct um_upper *upper, struct um_upper_reached *reached, struct um_slice acl,
                   int flags)
{
    struct um_attr before;
    uint32_t bits, kept;
    if (um_acl_mode(acl, &bits) != 0) /* the kernel refuses it, with the right error */
        return um_upper_reached_setxattr(reached, UM_ACL_ACCESS, acl.data, acl.size, flags);
    int error = stat_shown(upper, reached, &before);
    if (error != 0)
        return error;
    int overridden = um_upper_object_overridden_mode(upper, reached, bits, &kept);
    if (overridden <= 0)
        return overridden ? overridden : set_disk_acl(upper, reached, acl, flags);
    error = set_kept_acl(reached, acl, kept, flags);
    return error ? error : um_upper_object_chmod(upper, reached, (before.mode & 07000) | bits);
}

int um_upper_object_setxattr(struct um_upper *upper, struct um_upper_reached *reached,
                             const char *name, const void *value, size_t size, int flags)
{
    const struct um_slice acl = um_slice_of(value, size);
    if (is_name(name, UM_ACL_ACCESS) && !um_acl_is_empty(acl))
        return set_acl(upper, reached, acl, flags);
    if (is_name(name, UM_CAPABILITY))
        return um_upper_capability_set(upper, reached, value, size, flags);
    return um_upper_reached_setxattr(reached, name, value, size, flags);
}

int um_upper_object_removexattr(struct um_upper *upper, struct um_upper_reached *reached,
                                const char *name)
{
    if (is_name(name, UM_CAPABILITY))
        return um_upper_capability_remove(upper, reached);
    return um_upper_reached_removexattr(reached, name);
}
