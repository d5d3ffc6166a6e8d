#include "upper/settle.h"

#include <fcntl.h>

/* With all three flags the kernel writes every page of the file and waits for it (since Linux 5.2; the core
 * needs 5.6). It flushes nothing: that is done by the journal before it records the change that follows. */
#define WAIT_FOR_DATA \
    (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)

int um_upper_settle(const struct um_upper *upper, int fd, bool written)
{
    if (upper->flags & UM_UPPER_VOLATILE)
        return 0;
    if (!(upper->flags & UM_UPPER_KEEPS_ORDER))
        return um_result(fsync(fd));
    return written ? um_result(sync_file_range(fd, 0, 0, WAIT_FOR_DATA)) : 0;
}
