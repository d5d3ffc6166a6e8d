/*
 * router/state.h - what the files of the router share.
 *
 * Each file uses those below it:
 *
 *   open.c       opening, starting, stopping
 *   worker.c     workers: they take requests and have them answered
 *   idle.c       how workers find requests, and what they do when there are none
 *   forward.c    requests that pyfuse3 answers, and what it says
 *   watchdog.c   a thread that calls a worker where nobody takes requests
 *   pool.c       the set of workers: adding one, parking, calling one; the end of all
 *   interrupt.c  requests whose client waits no more
 *   device.c     /dev/fuse: taking requests, writing replies and notifications
 *   counters.c   counters and the clock
 *
 * Ownership, threads: see router/router.h. A worker's own fields are used by its thread alone, but for the
 * counters, which are atomic, and `device`, which lives until the router is closed: replies to what
 * was read from it are written there by others, too.
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
    atomic_ullong bytes_read, bytes_written, copy_ups, notifications, waits, sleeps, failed;
};

struct um_worker {
    struct um_router *router;
    pthread_t thread;
    int device; /* a clone of the router's, or a copy; not blocking */
    void *request, *reply; /* UM_FUSE_BUFFER bytes */
    uint64_t busy_since;   /* nanoseconds; 0: it has looked for a request since */
    atomic_ullong waiting; /* the unique number of the request that it waits for a disk for; or 0 */
    atomic_bool interrupted; /* a signal came for who asked that */
    struct um_counters counters;
};

#define UM_INTERRUPTS 32u /* that are remembered */

/* A request that pyfuse3 has. */
struct um_in_flight {
    uint64_t unique; /* the key: of the request */
    uint64_t begun; /* nanoseconds */
    uint32_t opcode;
    int device; /* where it was read, and its reply goes */
};

struct um_router {
    struct um_fastpath *fastpath;
    int device;
    int wake; /* an eventfd, readable when the router stops */
    int guard; /* an epoll set: `wake`, `poke`, and `device` while the watchdog is on guard */
    int poke; /* an eventfd, written to where the watchdog dozes */
    int slow; /* our end of the socket; -1 after the stop */
    uint32_t threads, spin;
    atomic_bool stopping;
    atomic_uint active; /* workers that are neither parked nor waiting for a disk */

    atomic_uint begun; /* requests, modulo 2^32 */
    atomic_bool dozing; /* the watchdog sleeps until the next one */
    atomic_bool looking; /* a worker looks for requests: one is enough */
    uint32_t backoff, skip; /* of who looks: how often not to spin, and how often that is left */

    atomic_ullong interrupts[UM_INTERRUPTS]; /* unique numbers of requests, the last ones */
    atomic_uint n_interrupts; /* modulo 2^32 */

    atomic_uint client; /* the thread whose request was the last */
    atomic_uint crowded; /* how many more requests count as those of several clients */

    void *(*work)(void *worker); /* what the thread of a worker does */

    pthread_mutex_t lock;
    pthread_cond_t parked; /* a parked worker is wanted */
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

/* The size of a request; 0: there is none; or an errno that ends the router. */
ssize_t um_worker_take(struct um_worker *worker);
/* Write a reply or notification: 0, or an errno. */
int um_router_write(int device, const void *message, size_t size);
/* Tell the kernel that attributes of a node have changed. */
void um_router_notify(int device, uint64_t node);

/* ---- router/pool.c ---------------------------------------------------------------------------- */

/* Start a thread that takes no signals: those are for Python's main thread. 0, or an errno. */
int um_router_start_thread(pthread_t *thread, void *(*work)(void *), void *argument);
/* One more worker, which is active and runs router->work. -EAGAIN where there are enough. */
int um_router_add_worker(struct um_router *router);
void um_worker_free(struct um_worker *worker);
/* Let a parked worker come, or else a new one; it is active from now on. */
void um_worker_call(struct um_router *router);
/* Sleep until there is work for one more worker; the last active one does not sleep. */
void um_worker_park(struct um_router *router);
/* Let all threads end. */
void um_router_end(struct um_router *router);

/* ---- router/worker.c -------------------------------------------------------------------------- */

void *um_worker_run(void *worker); /* the thread */

/* ---- router/idle.c -------------------------------------------------------------------------- */

/* The size of the next request; 0: ask again; or an errno that ends the router. May park the worker. */
ssize_t um_worker_next(struct um_worker *worker);
/* The worker is about to answer its request, which it took at `now`. */
void um_worker_begins(struct um_worker *worker, uint64_t now);
/* The worker is going to wait for a disk: somebody else has to be there for requests. */
void um_worker_lend(struct um_worker *worker);
void um_worker_come_back(struct um_router *router);
/* ---- router/watchdog.c --------------------------------------------------------------------------- */

int um_watchdog_open(struct um_router *router); /* once `wake` is there */
void um_watchdog_close(struct um_router *router);
void *um_watchdog_watch(void *router); /* the thread */
/* A request begins. */
void um_watchdog_sees(struct um_router *router);
/* Have a worker called when the next request comes, or if there is one. False: it can't be. */
bool um_watchdog_arm(struct um_router *router);
void um_watchdog_disarm(struct um_router *router);

/* ---- router/forward.c -------------------------------------------------------------------------- */

/* Let pyfuse3 answer a request that was read from `device`; if it can't be asked, EIO is the answer. */
void um_router_forward(struct um_router *router, struct um_worker *worker, size_t size,
                       uint64_t begun);
void *um_router_replies(void *router); /* the thread */

/* ---- router/interrupt.c ------------------------------------------------------------------------ */

/* Answer `worker->request`, which may wait for a disk, as long as somebody waits for the answer. */
struct um_answer um_worker_answer_patiently(struct um_worker *worker, size_t size);
/* A message INTERRUPT. */
void um_router_interrupt(struct um_router *router, const void *message, size_t size);

/* ---- router/counters.c ---------------------------------------------------------------------------- */

uint64_t um_router_now(void); /* nanoseconds */
void um_router_count(atomic_ullong *counter, uint64_t more);
/* A request is counted before its reply is written, so that who has the reply finds it counted; the
 * time that it took is known afterwards. */
void um_router_count_request(atomic_ullong *by_opcode, uint32_t opcode);
void um_router_count_time(struct um_counters *counters, uint32_t opcode, uint64_t begun);

#endif
