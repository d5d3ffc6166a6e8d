/*
 * router/state.h - declarations that the files of the router share.
 *
 * Each file uses those below it:
 *
 *   open.c       opening, starting, stopping
 *   queues.h     ... and its files: requests that come through io_uring
 *   worker.c     workers: they take requests and have them answered
 *   idle.c       how workers find requests, and what they do when there are none
 *   forward.c    requests that pyfuse3 answers, and its replies
 *   watchdog.c   a thread that wakes a worker when no thread takes requests
 *   pool.c       the set of workers: adding, parking and waking them; the end of all
 *   interrupt.c  requests whose client does not wait any more
 *   device.c     /dev/fuse: taking requests, writing replies and notifications
 *   counters.c   counters and the clock
 *
 * Ownership, threads: see router/router.h. The fields of a worker are used by its thread alone,
 * except for the counters, which are atomic, and `device`, which lives until the router is closed:
 * other threads write replies there to requests that were read from it.
 */
#ifndef UM_ROUTER_STATE_H
#define UM_ROUTER_STATE_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/table.h"
#include "router/router.h"

struct um_counters {
    atomic_ullong fast[UM_OPCODES], forwarded[UM_OPCODES];
    atomic_ullong times[UM_OPCODES][UM_TIMES];
    atomic_ullong bytes_read, bytes_written, copy_ups, notifications, waits, sleeps, calls, failed;
};

struct um_worker {
    struct um_router *router;
    pthread_t thread;
    int device; /* a clone of the router's, or a copy; not blocking */
    void *request, *reply; /* UM_FUSE_BUFFER bytes, or those of an entry (router/queues.h) */
    void *room; /* of a thread that answers the requests in entries; or NULL */
    uint64_t busy_since;   /* nanoseconds; 0: it has polled for a request since */
    atomic_ullong
        waiting; /* the unique number of the request for which it waits for a disk; or 0 */
    atomic_bool interrupted; /* the client of that request got a signal */
    struct um_counters counters;
};

#define UM_INTERRUPTS 32u /* interrupts that are remembered */

/* A request that was forwarded to pyfuse3. */
struct um_in_flight {
    uint64_t unique; /* the key: of the request */
    uint64_t begun; /* nanoseconds */
    uint32_t opcode;
    int device; /* where it was read, and its reply has to be written */
    struct um_entry *entry; /* of a queue, instead of a device; or NULL */
};

struct um_queues; /* router/queues.h */

struct um_router {
    struct um_fastpath *fastpath;
    int device;
    int wake; /* an eventfd, readable when the router stops */
    int guard; /* an epoll set: `wake`, `poke`, and `device` while the watchdog is on guard */
    int poke; /* an eventfd that wakes the dozing watchdog */
    int slow; /* the router's end of the socket; -1 after the stop */
    uint32_t threads, spin;
    atomic_bool stopping;
    atomic_uint active; /* workers that are neither parked nor waiting for a disk */

    atomic_uint begun; /* requests, modulo 2^32 */
    atomic_bool dozing; /* the watchdog sleeps until the next request */
    atomic_bool looking; /* a worker polls for requests: one is enough */
    uint32_t backoff,
        skip; /* of the polling worker: how often not to spin, and how many of these are left */

    atomic_ullong interrupts[UM_INTERRUPTS]; /* unique numbers of requests, the last ones */
    atomic_uint n_interrupts; /* modulo 2^32 */

    atomic_uint client; /* the thread that sent the last request */
    atomic_uint crowded; /* how many further requests count as those of several clients */

    atomic_int refused; /* as um_router_refused */
    struct um_queues *queues; /* NULL: all requests come through /dev/fuse */

    void *(*work)(void *worker); /* the function of a worker's thread */

    pthread_mutex_t lock;
    pthread_cond_t parked; /* signals that a parked worker is needed */
    struct um_worker *workers[UM_ROUTER_MAX_THREADS]; /* under lock; they stay */
    uint32_t n_workers, n_parked, n_wanted; /* under lock */

    pthread_t replies; /* the thread that reads `slow` */
    pthread_t watchdog;
    bool replies_run, watchdog_runs;
    void *reply; /* of that thread, UM_FUSE_BUFFER bytes */
    struct um_counters counters; /* of that thread */

    pthread_mutex_t flight_lock;
    struct um_table flight; /* under flight_lock; of struct um_in_flight */
    bool introduced; /* under flight_lock: pyfuse3 was sent its INIT */
    bool orphaned; /* pyfuse3 answers no more */
};

/* ---- router/device.c -------------------------------------------------------------------------- */

/* Take a request and return its size; 0 where there is none; or an errno that ends the router. */
ssize_t um_worker_take(struct um_worker *worker);
/* Write a reply or notification: 0, or an errno. */
int um_router_write(int device, const void *message, size_t size);
/* Invalidate the attributes of a node in the kernel. */
void um_router_notify(int device, uint64_t node);

/* ---- router/pool.c ---------------------------------------------------------------------------- */

/* Start a thread that blocks all signals, which are for Python's main thread. 0, or an errno. */
int um_router_start_thread(pthread_t *thread, void *(*work)(void *), void *argument);
/* Add a worker, which is active and runs router->work. -EAGAIN where there are enough. */
int um_router_add_worker(struct um_router *router);
void um_worker_free(struct um_worker *worker);
/* Wake a parked worker, or add one; it counts as active from now on. */
void um_worker_call(struct um_router *router);
/* Park: sleep until another worker is needed. The last active one does not sleep. */
void um_worker_park(struct um_router *router);
/* Make all threads end. */
void um_router_end(struct um_router *router);

/* ---- router/worker.c -------------------------------------------------------------------------- */

void *um_worker_run(void *worker); /* the thread */

/* ---- router/idle.c -------------------------------------------------------------------------- */

/* Return the size of the next request; 0: ask again; or an errno that ends the router. The worker
 * may park. */
ssize_t um_worker_next(struct um_worker *worker);
/* Record that the worker begins to answer its request, which it took at `now`. */
void um_worker_begins(struct um_worker *worker, uint64_t now);
/* Record that the worker begins, or ceases, to wait for a disk: meanwhile another one has to take
 * requests. */
void um_worker_lend(struct um_worker *worker);
void um_worker_come_back(struct um_router *router);

/* ---- router/watchdog.c --------------------------------------------------------------------------- */

int um_watchdog_open(struct um_router *router); /* after `wake` was made */
void um_watchdog_close(struct um_router *router);
void *um_watchdog_watch(void *router); /* the thread */
/* Record that a request begins. */
void um_watchdog_sees(struct um_router *router);
/* Arm the watchdog: it wakes a worker when the next request comes, or if there is one. False where
 * that fails. */
bool um_watchdog_arm(struct um_router *router);
void um_watchdog_disarm(struct um_router *router);

/* ---- router/forward.c -------------------------------------------------------------------------- */

/* Forward worker->request to pyfuse3; where that fails, answer EIO. It was read from the worker's
 * device, or is in an entry, which then belongs to the thread that answers. False, with nothing
 * done, if that would wait for pyfuse3 and `may_wait` is not set. */
bool um_router_forward(struct um_router *router, struct um_worker *worker, struct um_entry *entry,
                       size_t size, uint64_t begun, bool may_wait);
void *um_router_replies(void *router); /* the thread */

/* ---- router/interrupt.c ------------------------------------------------------------------------ */

/* Answer `worker->request`, which may wait for a disk, as long as its client waits for the reply. */
struct um_answer um_worker_answer_patiently(struct um_worker *worker, size_t size);
/* Handle a message INTERRUPT. */
void um_router_interrupt(struct um_router *router, const void *message, size_t size);

/* ---- router/counters.c ---------------------------------------------------------------------------- */

uint64_t um_router_now(void); /* nanoseconds */
void um_router_count(atomic_ullong *counter, uint64_t more);
/* Count the data in worker->request and its answer. */
void um_worker_count_data(struct um_worker *worker, const struct um_answer *answer);
/* Count a request. This happens before its reply is written, so that the receiver of the reply
 * finds it counted; the time that it took is counted afterwards. */
void um_router_count_request(atomic_ullong *by_opcode, uint32_t opcode);
void um_router_count_time(struct um_counters *counters, uint32_t opcode, uint64_t begun);

#endif
