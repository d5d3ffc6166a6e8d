/* marks/trust.h - trust in marks that any writer of a file could set. */
#ifndef UM_MARK_TRUST_H
#define UM_MARK_TRUST_H

#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/* Return whether marks of a file are trusted; `uid` and `mode` are those on disk. Everybody who
 * may write to a file can set its xattrs below user., so they count only where the file belongs to
 * the daemon's user or root, and nobody else may write to it. */
static inline bool um_mark_is_trusted(uint32_t uid, uint32_t mode)
{
    return (uid == geteuid() || uid == 0) && (mode & 022) == 0;
}

#endif
