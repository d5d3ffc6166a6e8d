/*
 * system/refusals.h - log lines about marks that are not followed.
 *
 * Purpose: say in the daemon's log (standard error) why the content of a file or directory cannot
 * be read where a redirect or metacopy is not trusted. A user of a mount could cause any number of
 * such lines, so at most ten are written in five seconds, and then one that says that more are
 * omitted.
 * Threads: any; `struct um_refusals` changes atomically. It begins as zeros.
 */
#ifndef UM_REFUSALS_H
#define UM_REFUSALS_H

#include <stdatomic.h>

#include "base/base.h"

struct um_refusals {
    atomic_llong since; /* the second in which the lines were first counted */
    atomic_uint lines;  /* since then */
};

/* Log that a mark of `path` (from the root of a layer, without a leading slash) is not followed.
 * `fd` is the layer's directory, whose name the line shows; `kind` is "lower" or "upper". */
void um_refusal_tell(struct um_refusals *refusals, const char *kind, int fd, struct um_slice path);

#endif
