/* marks/trust.h - whether a mark that any writer of a file could set is believed. */
#ifndef UM_MARK_TRUST_H
#define UM_MARK_TRUST_H

#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/* `uid` and `mode` are those on disk. Extended attributes below user. can be set by everybody who may write
 * to a file: they are the daemon's (or root's) word only where the file is theirs and theirs alone. */
static inline bool um_mark_is_trusted(uint32_t uid, uint32_t mode)
{
    return (uid == geteuid() || uid == 0) && (mode & 022) == 0;
}

#endif
