#include "upper/capability.h"

#include "system/capability.h"
#include "upper/marks.h"

/* The capability of a file is its xattr security.capability on disk, as everywhere, unless nothing on
 * disk may have power of its own (UM_UPPER_OVERRIDE). Then a mark, which means nothing to the kernel,
 * has its bytes. The mark is shown, listed and copied in place of the xattr in all uppers, since one
 * that was open once may be closed now. The kernel drops a real capability when the file is written,
 * truncated or given to another owner; a mark has to be dropped here. A node knows whether there may be
 * one, so nearly all files cost nothing. */

int64_t um_upper_capability_get(struct um_upper *upper, struct um_upper_reached *reached,
                                void *value, size_t size)
{
    int64_t got =
        reached->capable ? um_upper_mark_get_capability(upper, reached, value, size) : -ENODATA;
    return got == -ENODATA ? um_upper_reached_getxattr(reached, UM_CAPABILITY, value, size) : got;
}

int um_upper_capability_set(struct um_upper *upper, struct um_upper_reached *reached,
                            const void *value, size_t size, int flags)
{
    if (!(upper->flags & UM_UPPER_OVERRIDE)) {
        int error = um_upper_reached_setxattr(reached, UM_CAPABILITY, value, size, flags);
        return error != 0 || !reached->capable ? error
                                               : um_upper_mark_drop_capability(upper, reached);
    }
    /* The caller has compared `flags` with the xattr that shows. */
    int error = um_upper_mark_set_capability(upper, reached, value, size);
    if (error != 0)
        return error;
    reached->capable = true;
    error = um_upper_reached_removexattr(reached, UM_CAPABILITY);
    return um_upper_mark_is_absent(error) ? 0 : error;
}

int um_upper_capability_remove(struct um_upper *upper, struct um_upper_reached *reached)
{
    bool marked = reached->capable;
    int error = marked ? um_upper_mark_drop_capability(upper, reached) : 0;
    if (error != 0)
        return error;
    error = um_upper_reached_removexattr(reached, UM_CAPABILITY);
    return marked && um_upper_mark_is_absent(error) ? 0 : error;
}

int um_upper_node_drop_capability(struct um_upper *upper, struct um_upper_node *node)
{
    struct um_upper_reached reached = {0};
    if (!node->capable || !node->in_upper || node->directory)
        return 0;
    int error = um_upper_reach(upper, node, &reached);
    if (error == 0)
        error = um_upper_mark_drop_capability(upper, &reached);
    um_upper_reached_close(&reached);
    if (error == 0)
        node->capable = false;
    return error;
}
