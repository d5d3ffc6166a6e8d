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
#ifndef UM_HELD_H
#define UM_HELD_H

#include "base/base.h"
#include "upper/upper.h"

struct um_held;
struct um_held_file; /* in use: not let go of until um_held_done */

/* At most `capacity` files that are not in use. 0 or -ENOMEM. */
int um_held_open(struct um_upper *upper, uint32_t capacity, struct um_held **out);
void um_held_close(struct um_held *held);

/* Use a file if it is held already: NULL where it is not. */
struct um_held_file *um_held_find(struct um_held *held, uint64_t node, bool write);

/* Use a file, opened if need be: 0 or the error of um_upper_open_file. */
int um_held_use(struct um_held *held, uint64_t node, bool write, struct um_held_file **out);
void um_held_done(struct um_held *held, struct um_held_file *file);

/* Whether it is known that a file in use has no set-user-ID or set-group-ID bit to lose; forgotten
 * by um_held_suspect, which is called before a mode changes. */
bool um_held_is_plain(struct um_held *held, struct um_held_file *file);
void um_held_set_plain(struct um_held *held, struct um_held_file *file);
void um_held_suspect(struct um_held *held, uint64_t node);

/* Let go of a file, which the kernel has forgotten. */
void um_held_drop(struct um_held *held, uint64_t node);

/* Let go of half of what is held and not in use: the process has no descriptors left. */
void um_held_shed(struct um_held *held);

uint32_t um_held_count(struct um_held *held);

#endif
