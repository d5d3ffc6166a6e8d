#include <poll.h>

#include "router/state.h"

/* How workers find requests. One at a time *looks*: it spins for a while, then sleeps in poll. Nobody
 * else waits for /dev/fuse, so a request wakes one thread at most, and none where one is awake. A worker
 * that finds no request while another one looks parks. It is woken when requests have been waiting, or
 * when all others wait for a disk: so a slow disk, or a long copy-up, never stops the mount. */

#define WASTED 100000u /* nanoseconds; a request that comes so soon could have been waited for */
#define BACKOFF_MAX 255u
#define HELP_AFTER 30000u /* nanoseconds: about what it takes to wake somebody */
#define CROWDED 64u       /* requests, since one came from another client than the one before */
#define SMALL_READ 65536u /* bytes; what is read ahead is more */

/* ---- who is active ----------------------------------------------------------------------------------- */

static uint32_t size_of_read(const struct fuse_in_header *header)
{
    const struct fuse_read_in *in = (const void *)(header + 1);
    bool whole = header->opcode == FUSE_READ && header->len >= sizeof *header + sizeof *in;
    return whole ? in->size : 0;
}

/* Whether more requests are on the way: of other clients, or since the kernel reads ahead. */
static bool is_company_likely(const struct um_worker *worker)
{
    return atomic_load(&worker->router->crowded) != 0 || size_of_read(worker->request) > SMALL_READ;
}

/* Who was the last to leave arms the watchdog, and who is the first to come back disarms it. The latter
 * is active until then, so the watchdog is never off guard while nobody is. */
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

/* Most often the next request comes at once, and waking up takes longer than answering. */
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

/* Who shares a processor with the client keeps it from running by spinning. The scheduler decides
 * that, and it shows in requests that come as soon as spinning ends. */
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

/* Whether an answer takes microseconds. */
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

/* Whether requests come from several clients at once; a lone one waits for each answer. */
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

/* Whether the next request may not be seen for long: this one takes long, or requests have been
 * waiting for a while. That happens where there are several clients, or where the kernel reads ahead. */
static bool is_help_wanted(struct um_worker *worker, uint64_t now)
{
    const struct fuse_in_header *header = worker->request;
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
        um_worker_call(router);
    }
}
