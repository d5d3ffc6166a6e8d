/*
 * router/router.h - the threads between the kernel and pyfuse3.
 *
 * Purpose: own /dev/fuse and read requests. Answer those that the fast path can answer; forward
 * every other one unchanged to pyfuse3 through a socket, and pass on its replies and
 * notifications. The router never takes the GIL. docs/explanation/router.md has the rules.
 *
 * Ownership: borrows the fast path, which is closed after the router; takes over the descriptor of
 * /dev/fuse. The other end of the socket belongs to the caller.
 * Threads: open, start, stop and close are for one thread; um_router_get_stats for any.
 * Errors: 0 or a negative errno.
 */
#ifndef UM_ROUTER_H
#define UM_ROUTER_H

#include "base/base.h"
#include "fastpath/fastpath.h"

/* cffi: begin */
#define UM_OPCODES 64
#define UM_TIMES 128 /* of a histogram: four for each doubling of the nanoseconds */
#define UM_ROUTER_MAX_THREADS 32

struct um_router; /* opaque */

struct um_router_setup {
    struct um_fastpath *fastpath;
    int device;        /* /dev/fuse, connected to a mount; taken over, also on failure */
    uint32_t threads;  /* that answer at the same time; those that wait for a disk do not count */
    uint32_t spin; /* nanoseconds for which a thread polls for the next request before it sleeps */
    uint32_t
        queues; /* of FUSE over io_uring, one for each possible processor; 0: /dev/fuse alone */
};

/* Open a router; with queues, -ENOMEM if there is no memory for them, and the errors of um_uring_open.
 * *slow is the end of the socket for pyfuse3, readable only if there is a request for it. */
int um_router_open(const struct um_router_setup *setup, struct um_router **out, int *slow);
/* Start answering. */
int um_router_start(struct um_router *router);
/* Stop answering, and return when no thread runs any more. close calls this, too. */
void um_router_stop(struct um_router *router);
void um_router_close(struct um_router *router);
/* Return a descriptor of the router that becomes readable when it has stopped: the mount is gone. */
int um_router_ended(const struct um_router *router);
/* Return 0, or the errno for which the kernel did not accept the queues: the router has ended then. */
int um_router_refused(const struct um_router *router);

/* Counters since the start, by opcode; opcodes from UM_OPCODES on count as 0. */
struct um_router_stats {
    uint64_t fast[UM_OPCODES]; /* answered here */
    uint64_t forwarded[UM_OPCODES]; /* answered by pyfuse3 */
    uint64_t times[UM_OPCODES][UM_TIMES]; /* from reading a request to having replied */
    uint64_t bytes_read, bytes_written; /* of data, in replies and requests */
    uint64_t copy_ups; /* by the fast path */
    uint64_t notifications; /* to the kernel */
    uint64_t waits; /* requests that had to wait for a disk */
    uint64_t sleeps; /* how often a thread went to sleep for want of work */
    uint64_t calls; /* how often a thread woke or started another one to help it */
    uint64_t failed; /* forwarded requests that did not reach pyfuse3 */
    uint32_t in_flight; /* forwarded, and not answered yet */
    uint32_t threads; /* that were started */
    uint32_t queues; /* of FUSE over io_uring; 0: requests come through /dev/fuse */
    uint32_t held; /* files of the upper that are kept open */
};
void um_router_get_stats(struct um_router *router, struct um_router_stats *stats);
/* cffi: end */

#endif
