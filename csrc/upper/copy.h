/*
 * upper/copy.h - a file or directory of the lower tree -> a copy in the work directory.
 *
 * Purpose: a copy is made where nobody sees it, and is complete, with owner, xattrs, mode, times, origin and
 * synced data, before it is published (upper/publish.h).
 * Ownership: the caller owns the copy until it is published, and ends it with um_upper_copy_discard in any
 * case.
 * Threads: [-] for all; may take long.
 */
#ifndef UM_UPPER_COPY_H
#define UM_UPPER_COPY_H

#include "upper/work.h"

struct um_upper_copy {
    char name[UM_UPPER_WORK_NAME]; /* in the work directory; empty once it stands there no more */
    bool directory;
    uint64_t data; /* the number of the lower file whose data it has; 0 where that is its own */
    int fd;        /* of a regular file, for reading and writing; else -1 */
    uint64_t ino;  /* in the upper's file system */
    bool capable;  /* as of a node */
    const struct um_patience *patience; /* for copying data; set before the copy is made */
};

/* Copy `lower`, whose attributes are *attr. With `redirect`, the path of the lower file, the data is not
 * copied (a metacopy); with `empty` it is left out. Nothing is left behind on failure. -EINTR where the
 * patience is over. */
int um_upper_copy_make(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                       const char *redirect, bool empty, struct um_upper_copy *copy);

/* Remove a copy that was not published, and close its descriptor. */
void um_upper_copy_discard(struct um_upper *upper, struct um_upper_copy *copy);

#endif
