/*
 * upper/settle.h - waiting until a power cut can't show a file without its data.
 *
 * Purpose: a copy of a lower file gets its name, and a metacopy loses its mark, only after its data is there
 * to stay: for users the data of a lower file was always on the disk. docs/explanation/upper.md, "What a
 * copy-up waits for", gives the reasons and the guarantee of each file system.
 * Source: sync_file_range(2); ext4_end_bio() in fs/ext4/page-io.c and xfs_end_ioend() in fs/xfs/xfs_aops.c end
 * the writing of a page after they have recorded where it is; ovl_copy_up_file() in fs/overlayfs/copy_up.c.
 * Ownership: borrows the descriptor.
 * Threads: [-] for all; may take long.
 */
#ifndef UM_UPPER_SETTLE_H
#define UM_UPPER_SETTLE_H

#include "upper/state.h"

/* Wait for the data that was given to the file `fd`, so that no power cut keeps a change of a name or mark that
 * is made from now on, and loses the data. With `written` false, the file got no bytes, but blocks that it
 * shares with another file, or a size alone. Nothing is waited for with UM_UPPER_VOLATILE. 0, or the errno of
 * the disk: then the file must not be shown. */
int um_upper_settle(const struct um_upper *upper, int fd, bool written);

#endif
