/*
 * upper/copy_data_later.h - copy-up that takes long, for the other files of the upper.
 *
 * um_upper_copy_up copies data without the lock. Meanwhile the number of the file is among those that are
 * being copied.
 */
#ifndef UM_UPPER_COPY_DATA_LATER_H
#define UM_UPPER_COPY_DATA_LATER_H

#include "upper/state.h"

/* [-] Whether some thread is copying a file up. While the data of a file in the upper is fetched, nothing
 * else may change that: the caller returns -EAGAIN, and um_upper_copy_up waits. */
bool um_upper_is_copying(struct um_upper *upper, uint64_t number);

#endif
