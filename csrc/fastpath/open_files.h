/*
 * fastpath/open_files.h - files of an upper that are kept open, because nobody says when they are opened and closed.
 *
 * Purpose: the kernel opens and closes files without a message (docs/explanation/router.md), and upper/upper.h reads and
 * writes open files only. What is read or written is opened here, once, and stays open until a less
 * recently used file has to make room or the kernel forgets it.
 *
 * Ownership: borrows the upper; owns one um_upper_release for each file that it holds.
 * Threads: every function but open and close may be called by any thread. `lock` guards all; nothing
 * is opened or released under it.
 */
#ifndef UM_OPEN_FILES_H
#define UM_OPEN_FILES_H

#include "base/base.h"
#include "upper/upper.h"

struct um_open_files;
struct um_open_file; /* in use: not let go of until um_open_files_done */

/* At most `capacity` files that are not in use. 0 or -ENOMEM. */
int um_open_files_open(struct um_upper *upper, uint32_t capacity, struct um_open_files **out);
void um_open_files_close(struct um_open_files *files);

/* Use a file if it is held already: NULL where it is not. */
struct um_open_file *um_open_files_find(struct um_open_files *files, uint64_t node, bool write);

/* Use a file, opened if need be: 0 or the error of um_upper_open_file. */
int um_open_files_use(struct um_open_files *files, uint64_t node, bool write,
                      struct um_open_file **out);
void um_open_files_done(struct um_open_files *files, struct um_open_file *file);

/* Whether it is known that a file in use has no set-user-ID or set-group-ID bit to lose; forgotten
 * by um_open_files_suspect, which is called before a mode changes. */
bool um_open_files_is_plain(struct um_open_files *files, struct um_open_file *file);
void um_open_files_set_plain(struct um_open_files *files, struct um_open_file *file);
void um_open_files_suspect(struct um_open_files *files, uint64_t node);

/* Let go of a file, which the kernel has forgotten. */
void um_open_files_drop(struct um_open_files *files, uint64_t node);

/* Let go of half of what is held and not in use: the process has no descriptors left. */
void um_open_files_shed(struct um_open_files *files);

uint32_t um_open_files_count(struct um_open_files *files);

#endif
