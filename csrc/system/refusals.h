/*
 * system/refusals.h - telling of marks that are not followed.
 *
 * Purpose: say once in the daemon's log (standard error) why the content of a file or directory can't
 * be read, where a redirect or metacopy is not believed. A user of a mount could cause any number of such
 * lines. So only ten are written in five seconds, and one that says that more are left out.
 * Threads: any; `struct um_refusals` is only changed atomically. It begins as zeros.
 */
#ifndef UM_REFUSALS_H
#define UM_REFUSALS_H

#include <stdatomic.h>

#include "base/base.h"

struct um_refusals {
    atomic_llong since; /* the second in which the lines were first counted */
    atomic_uint lines;  /* since then */
};

/* Tell that a mark of `path` (from the root of a layer, without a slash in front) is not followed. `fd` is
 * the layer's directory, of which the line has the name; `kind` says what it is ("lower", "upper"). */
void um_refusal_tell(struct um_refusals *refusals, const char *kind, int fd, struct um_slice path);

#endif
