/*
 * system/xattr_name.h - names of extended attributes, and lists of them.
 *
 * Threads: no state.
 */
#ifndef UM_XATTR_NAME_H
#define UM_XATTR_NAME_H

#include "base/base.h"

/* Return whether a name is a namespace alone ("user."). File systems of a disk refuse those before
 * they look: xattr_resolve_name() in fs/xattr.c of the kernel answers EINVAL. FUSE has one handler
 * for all names, so the kernel passes such names on. */
static inline bool um_xattr_is_nameless(struct um_slice name)
{
    return um_slice_equal(name, UM_SLICE_LITERAL("user.")) ||
           um_slice_equal(name, UM_SLICE_LITERAL("trusted.")) ||
           um_slice_equal(name, UM_SLICE_LITERAL("security."));
}

/* Append a name and its NUL to a list in the format of listxattr(2); *used counts the bytes of the
 * list. With a `size` of 0 they are only counted. -ERANGE where the name does not fit into `size`
 * bytes. */
static inline int um_xattr_list_append(struct um_slice name, char *names, size_t size, size_t *used)
{
    if (size != 0 && name.size + 1 > size - *used)
        return -ERANGE;
    if (size != 0) {
        memcpy(names + *used, name.data, name.size);
        names[*used + name.size] = '\0';
    }
    *used += name.size + 1;
    return 0;
}

#endif
