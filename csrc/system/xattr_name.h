/*
 * system/xattr_name.h - which names of extended attributes name nothing.
 *
 * Purpose: what file systems of a disk refuse before they look: a namespace without a name in it
 * ("user."). Source: xattr_resolve_name() in fs/xattr.c of the kernel, which answers EINVAL. FUSE
 * has one handler for all names, so the kernel passes such names on.
 * Threads: no state.
 */
#ifndef UM_XATTR_NAME_H
#define UM_XATTR_NAME_H

#include "base/base.h"

static inline bool um_xattr_is_nameless(const char *name, size_t size)
{
    static const char *const namespaces[] = {"user.", "trusted.", "security."};
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++)
        if (size == strlen(namespaces[i]) && memcmp(name, namespaces[i], size) == 0)
            return true;
    return false;
}

#endif
