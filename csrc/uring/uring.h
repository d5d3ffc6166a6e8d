/*
 * uring/uring.h - an instance of io_uring, by system calls alone.
 *
 * Purpose: submit commands on the descriptor of /dev/fuse, and reads of an eventfd; collect what
 * they return. Submissions have 128 bytes, which FUSE over io_uring requires. Nothing here knows
 * what a request is: router/ does.
 *
 * Ownership: um_uring_open owns the ring and its memory until um_uring_close.
 * Threads: a ring belongs to one thread, which is the one that opened it or has taken it over.
 * Errors: 0 or a negative errno.
 * Source: io_uring_setup(2), io_uring_enter(2).
 */
#ifndef UM_URING_H
#define UM_URING_H

#include "base/base.h"

struct io_uring_cqe;

struct um_uring {
    int fd; /* -1: it is not open */
    uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
    uint32_t sq_mask, sq_size, cq_mask;
    uint8_t *submissions; /* of 128 bytes */
    const struct io_uring_cqe *completions;
    void *rings;
    size_t rings_size, submissions_size;
    uint32_t pending; /* submissions that the kernel was not told of */
};

/* What a submission returned. */
struct um_uring_result {
    uint64_t tag; /* of the submission */
    int32_t result;
};

/* Open a ring for `submissions` at once and `completions` that nobody has collected yet.
 * -EPERM: the system forbids io_uring to this process; -ENOSYS: the kernel has none. */
int um_uring_open(struct um_uring *ring, uint32_t submissions, uint32_t completions);
void um_uring_close(struct um_uring *ring);

/* Prepare a command on a file: `argument` goes into the submission; `buffers` is an array of two
 * struct iovec that has to live until the command is submitted, or NULL. -EBUSY if there is no room: submit first. */
int um_uring_command(struct um_uring *ring, int fd, uint32_t command, const void *argument,
                     size_t size, const void *buffers, uint64_t tag);
/* Prepare a read of a file. -EBUSY as above. */
int um_uring_read(struct um_uring *ring, int fd, void *to, uint32_t size, uint64_t tag);

/* Submit what was prepared. With `wait`, sleep until there is a result. 0, or an errno; -EINTR is none. */
int um_uring_enter(struct um_uring *ring, bool wait);
/* Take the next result; false where there is none. */
bool um_uring_next(struct um_uring *ring, struct um_uring_result *out);

bool um_uring_has_next(const struct um_uring *ring);

/* cffi: begin */
/* Return 0 if this process can open a ring, or the errno that um_uring_open would return. */
int um_uring_probe(void);
/* cffi: end */

#endif
