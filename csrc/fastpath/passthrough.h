/*
 * fastpath/passthrough.h - files that the kernel reads and writes on the disk itself.
 *
 * Purpose: with `-o passthrough`, OPEN is answered with the file of the upper that backs an inode,
 * and READ and WRITE are not sent any more. The section "Passthrough" of
 * docs/explanation/router.md has the states of an inode, and why a lower layer is never written.
 *
 * Ownership: borrows the upper, its open files and the descriptor of /dev/fuse. Owns a backing ID
 * and a use of the open file for each inode that is passed through. The kernel frees the IDs that
 * are left when the connection ends, so closing needs no descriptor.
 * Threads: every function but open and close may be called by any thread. `lock` guards
 * everything; nothing is opened or closed under it.
 */
#ifndef UM_FASTPATH_PASSTHROUGH_H
#define UM_FASTPATH_PASSTHROUGH_H

#include <linux/fuse.h>

#include "fastpath/open_files.h"

/* From include/uapi/linux/fuse.h of Linux 6.9 (FUSE 7.40), which older headers lack. */
#define UM_FUSE_INIT_EXT (1u << 30)
#define UM_FUSE_DIRECT_IO_ALLOW_MMAP2 (1u << (36 - 32)) /* of flags2 */
#define UM_FUSE_PASSTHROUGH2 (1u << (37 - 32)) /* of flags2 */
#define UM_FOPEN_PASSTHROUGH (1u << 7)

struct um_passthrough;

/* Pass at most `capacity` inodes through at once. 0 or -ENOMEM. */
int um_passthrough_open(struct um_upper *upper, struct um_open_files *files, int device,
                        uint32_t capacity, struct um_passthrough **out);
void um_passthrough_close(struct um_passthrough *passthrough);

/* Count an open of a file, and fill in how it is to be read and written. True where attributes that
 * the kernel keeps are to be forgotten. -ENOMEM. */
int um_passthrough_begin(struct um_passthrough *passthrough, uint64_t node, bool write,
                         struct fuse_open_out *out);
/* Count the open that was given this `fh` down. */
void um_passthrough_end(struct um_passthrough *passthrough, uint64_t node, uint64_t fh);
void um_passthrough_forget(struct um_passthrough *passthrough, uint64_t node);

/* Return whether a file may change without a message: it is written through its backing file, or
 * through a mapping that has outlived the last open. NULL is allowed. */
bool um_passthrough_is_changing(struct um_passthrough *passthrough, uint64_t node);

/* Register a file of the upper and free it again: 0, or the reason why the kernel does not. */
int um_passthrough_try(struct um_passthrough *passthrough, int fd);

#endif
