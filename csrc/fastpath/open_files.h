/*
 * fastpath/open_files.h - files of an upper that are kept open.
 *
 * Purpose: the kernel opens and closes files without a message (docs/explanation/router.md), while
 * upper/upper.h reads and writes open files only. A file that is read or written is opened here
 * once. It stays open until it is the least recently used one and another needs its room, or until
 * the kernel forgets it.
 *
 * Ownership: borrows the upper; owes it one um_upper_release for each file that is open.
 * Threads: every function but open and close may be called by any thread. `lock` guards
 * everything; nothing is opened or released under it.
 */
#ifndef UM_OPEN_FILES_H
#define UM_OPEN_FILES_H

#include "base/base.h"
#include "upper/upper.h"

struct um_open_files;
struct um_open_file; /* in use: it stays open until um_open_files_done */

/* Keep at most `capacity` files open that are not in use. 0 or -ENOMEM. */
int um_open_files_open(struct um_upper *upper, uint32_t capacity, struct um_open_files **out);
void um_open_files_close(struct um_open_files *files);

/* Use a file if it is open already: NULL where it is not. */
struct um_open_file *um_open_files_find(struct um_open_files *files, uint64_t node, bool write);

/* Use a file, opening it where necessary: 0 or the error of um_upper_open_file. */
int um_open_files_use(struct um_open_files *files, uint64_t node, bool write,
                      struct um_open_file **out);
void um_open_files_done(struct um_open_files *files, struct um_open_file *file);

/* Return whether a file in use is known to have no set-user-ID or set-group-ID bit to lose.
 * um_open_files_suspect, which is called before a mode changes, forgets that. */
bool um_open_files_is_plain(struct um_open_files *files, struct um_open_file *file);
void um_open_files_set_plain(struct um_open_files *files, struct um_open_file *file);
void um_open_files_suspect(struct um_open_files *files, uint64_t node);

/* Close a file that the kernel has forgotten. */
void um_open_files_drop(struct um_open_files *files, uint64_t node);

/* Close half of the unused files, because the process has no descriptors left. */
void um_open_files_shed(struct um_open_files *files);

uint32_t um_open_files_count(struct um_open_files *files);

#endif
