#include <poll.h>

#include "router/state.h"

/* This is how workers find requests. One worker at a time *looks*: it spins for a while, then
 * sleeps in poll. No other thread waits for /dev/fuse, so a request wakes at most one thread, and
 * none where one is awake. A worker that finds no request while another one looks parks. It is
 * woken when requests have been waiting, or when all others wait for a disk. Therefore a slow
 * disk, or a long copy-up, never stops the mount. */

#define WASTED 100000u /* nanoseconds; spinning would have caught a request that comes so soon */
#define BACKOFF_MAX 255u
#define HELP_AFTER 30000u /* nanoseconds: about the time to wake a thread */
#define CROWDED 64u /* requests after one that came from another client than the one before */
#define SMALL_READ 65536u /* bytes; read-ahead asks for more */

/* ---- who is active ----------------------------------------------------------------------------------- */

static uint32_t size_of_read(const struct fuse_in_header *header)
{
    const struct fuse_read_in *in = (const void *)(header + 1);
    bool whole = header->opcode == FUSE_READ && header->len >= sizeof *header + sizeof *in;
    return whole ? in->size : 0;
}

/* Return whether more requests are probably coming: from other clients, or because the kernel
 * reads ahead. */
static bool is_company_likely(const struct um_worker *worker)
{
    return atomic_load(&worker->router->crowded) != 0 || size_of_read(worker->request) > SMALL_READ;
}

/* The last active worker arms the watchdog when it leaves, and the first that comes back disarms
 * it. Until then it counts as active, so there is always an active worker or an armed watchdog. */
void um_worker_lend(struct um_worker *worker)
{
    struct um_router *router = worker->router;
    if (atomic_fetch_sub(&router->active, 1) != 1)
        return;
    if (is_company_likely(worker) || !um_watchdog_arm(router))
        um_worker_call(router);
}

void um_worker_come_back(struct um_router *router)
{
    if (atomic_fetch_add(&router->active, 1) == 0)
        um_watchdog_disarm(router);
}

/* ---- looking ---------------------------------------------------------------------------------------------- */

static void relax(void)
{
    for (int i = 0; i < 32; i++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

/* Poll for a while: usually the next request comes at once, and waking up takes longer than
 * answering. */
static ssize_t spin(struct um_worker *worker)
{
    struct um_router *router = worker->router;
    ssize_t got = 0;
    uint64_t end = um_router_now() + router->spin;
    do {
        relax();
        got = um_worker_take(worker);
    } while (got == 0 && um_router_now() < end && !atomic_load(&router->stopping));
    return got;
}

static ssize_t sleep_until_work(struct um_worker *worker)
{
    struct pollfd wait[] = {{.fd = worker->device, .events = POLLIN},
                            {.fd = worker->router->wake, .events = POLLIN}};
    um_router_count(&worker->counters.sleeps, 1);
    poll(wait, 2, -1);
    return atomic_load(&worker->router->stopping) ? 0 : um_worker_take(worker);
}

static bool is_spinning_worth_it(struct um_router *router)
{
    if (router->spin == 0)
        return false;
    router->skip -= router->skip != 0;
    return router->skip == 0;
}

/* Spin, then sleep. A worker that shares a processor with the client keeps the client from running
 * while it spins. The scheduler decides that, and it shows in requests that come as soon as
 * spinning ends. */
static ssize_t spin_then_sleep(struct um_worker *worker)
{
    struct um_router *router = worker->router;
    bool spins = is_spinning_worth_it(router);
    ssize_t got = spins ? spin(worker) : 0;
    if (got != 0) {
        router->backoff = 0;
        return got;
    }
    uint64_t asleep = um_router_now();
    got = sleep_until_work(worker);
    uint64_t slept = um_router_now() - asleep;
    if (spins && slept < WASTED)
        router->skip = router->backoff =
            router->backoff < BACKOFF_MAX ? 2 * router->backoff + 1 : BACKOFF_MAX;
    return got;
}

ssize_t um_worker_next(struct um_worker *worker)
{
    struct um_router *router = worker->router;
    ssize_t got = um_worker_take(worker);
    if (got != 0)
        return got;
    worker->busy_since = 0;
    if (atomic_exchange(&router->looking, true)) {
        um_worker_park(router);
        return 0;
    }
    got = spin_then_sleep(worker);
    atomic_store(&router->looking, false);
    return got;
}

/* ---- help ------------------------------------------------------------------------------------------------- */

/* Return whether answering takes microseconds. */
static bool is_quick(const struct fuse_in_header *header)
{
    switch (header->opcode) {
    case FUSE_LOOKUP:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_STATFS:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        return true;
    default:
        return header->opcode == FUSE_READ && size_of_read(header) <= SMALL_READ;
    }
}

/* Return whether nobody waits for a request, and it names no client: the kernel forgets inodes when it likes,
 * often between two requests of one client. */
static bool is_forgetting(const struct fuse_in_header *header)
{
    return header->opcode == FUSE_FORGET || header->opcode == FUSE_BATCH_FORGET;
}

/* Return whether requests come from several clients at once; a lone one waits for each reply. */
static bool is_crowded(struct um_router *router, uint32_t client)
{
    bool same = atomic_exchange(&router->client, client) == client;
    uint32_t crowded = atomic_load(&router->crowded);
    if (!same)
        crowded = CROWDED;
    else if (crowded != 0)
        crowded--;
    atomic_store(&router->crowded, crowded);
    return crowded != 0;
}

/* Return whether the next request may have to wait: this one takes long, or requests have been
 * waiting for a while. That happens with several clients, or where the kernel reads ahead. */
static bool is_help_wanted(struct um_worker *worker, uint64_t now)
{
    const struct fuse_in_header *header = worker->request;
    if (is_forgetting(header))
        return false;
    bool late = now - worker->busy_since > HELP_AFTER;
    if (is_crowded(worker->router, header->pid))
        return late || !is_quick(header);
    return late && size_of_read(header) > SMALL_READ;
}

void um_worker_begins(struct um_worker *worker, uint64_t now)
{
    struct um_router *router = worker->router;
    um_watchdog_sees(router);
    if (worker->busy_since == 0)
        worker->busy_since = now;
    if (is_help_wanted(worker, now) && !atomic_load(&router->looking) &&
        atomic_load(&router->active) < router->threads) {
        worker->busy_since = now;
        um_router_count(&worker->counters.calls, 1);
        um_worker_call(router);
    }
}
