#include "upper/state.h"

/* The capability of a file is the xattr security.capability on disk, as everywhere, but where nothing
 * on disk is to have power of its own, or can (UM_UPPER_OVERRIDE): there a mark has its bytes, which says
 * nothing to the kernel. It is shown, listed and copied in place of the other, in all uppers: one that
 * was open once may be closed now.
 *
 * A real one goes where the file is written to, truncated or given away; one in a mark has to be taken
 * away. A record knows whether there may be one, so files without, nearly all, cost nothing. */

static bool is_absent(int64_t error)
{
    return error == -ENODATA || error == -EOPNOTSUPP || error == -EPERM;
}

int64_t um_capability_get(struct um_upper *upper, struct um_spot *spot, void *value, size_t size)
{
    int64_t got = spot->capable ? um_mark_get_capability(upper, spot, value, size) : -ENODATA;
    return got == -ENODATA ? um_spot_getxattr(spot, UM_CAPABILITY, value, size) : got;
}

int um_capability_set(struct um_upper *upper, struct um_spot *spot, const void *value, size_t size,
                      int flags)
{
    if (!(upper->flags & UM_UPPER_OVERRIDE)) {
        int error = um_spot_setxattr(spot, UM_CAPABILITY, value, size, flags);
        return error != 0 || !spot->capable ? error : um_mark_drop_capability(upper, spot);
    }
    /* `flags` ask for what shows, which the caller has looked at. */
    int error = um_mark_capability(upper, spot, value, size);
    if (error != 0)
        return error;
    spot->capable = true;
    error = um_spot_removexattr(spot, UM_CAPABILITY);
    return is_absent(error) ? 0 : error;
}

int um_capability_remove(struct um_upper *upper, struct um_spot *spot)
{
    bool marked = spot->capable;
    int error = marked ? um_mark_drop_capability(upper, spot) : 0;
    if (error != 0)
        return error;
    error = um_spot_removexattr(spot, UM_CAPABILITY);
    return marked && is_absent(error) ? 0 : error;
}

int um_record_lose_capability(struct um_upper *upper, struct um_record *record)
{
    struct um_spot spot = {0};
    if (!record->capable || !record->in_upper)
        return 0;
    int error = um_spot_of(upper, record, &spot);
    if (error == 0)
        error = um_mark_drop_capability(upper, &spot);
    um_spot_close(&spot);
    if (error == 0)
        record->capable = false;
    return error;
}
