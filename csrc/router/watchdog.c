#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "router/state.h"

/* The watchdog is a thread that makes sure that some worker takes requests; it takes none itself.
 *
 * While all workers wait for a disk, and say so (um_worker_lend), it is armed: a request wakes it,
 * and it wakes a worker. A lone client sends nothing more while it waits for a reply itself, so it
 * costs two short system calls instead of waking a thread; and another client does not wait for
 * the disk of the first. /dev/fuse is in the epoll set only while the watchdog is armed: a
 * descriptor that stays in, even with no events, would wake the thread with every request.
 *
 * Other waits are not announced: a lookup in a live directory on a server that is gone, for
 * example. So while there are requests, the watchdog checks ten times a second. Where no request
 * began since the last check, and no worker looks for one, it wakes a worker. Where a worker
 * looks, the watchdog dozes until the next request. */

#define ROUND 100 /* milliseconds */

enum post { POST_WAKE, POST_DEVICE, POST_POKE };

static bool watch(struct um_router *router, int operation, int fd, uint32_t events, enum post post)
{
    struct epoll_event event = {.events = events, .data.u32 = post};
    return epoll_ctl(router->guard, operation, fd, &event) == 0;
}

bool um_watchdog_arm(struct um_router *router)
{
    uint32_t events = EPOLLIN | EPOLLONESHOT;
    if (watch(router, EPOLL_CTL_ADD, router->device, events, POST_DEVICE))
        return true;
    return errno == EEXIST && watch(router, EPOLL_CTL_MOD, router->device, events, POST_DEVICE);
}

void um_watchdog_disarm(struct um_router *router)
{
    epoll_ctl(router->guard, EPOLL_CTL_DEL, router->device, NULL); /* it may not be in the set */
}

void um_watchdog_sees(struct um_router *router)
{
    uint64_t one = 1;
    atomic_fetch_add(&router->begun, 1);
    if (atomic_load(&router->dozing) && atomic_exchange(&router->dozing, false) &&
        write(router->poke, &one, sizeof one) < 0)
        return; /* it is readable already */
}

int um_watchdog_open(struct um_router *router)
{
    router->poke = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    router->guard = router->poke < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (router->guard < 0)
        return -errno;
    bool set = watch(router, EPOLL_CTL_ADD, router->wake, EPOLLIN, POST_WAKE) &&
               watch(router, EPOLL_CTL_ADD, router->poke, EPOLLIN, POST_POKE);
    return set ? 0 : -errno;
}

void um_watchdog_close(struct um_router *router)
{
    if (router->guard >= 0)
        close(router->guard);
    if (router->poke >= 0)
        close(router->poke);
}

/* Return whether the watchdog may doze. Nothing began since the last check: either there are no
 * requests, or no worker takes them. A request that begins meanwhile is seen here, or sees that
 * the watchdog dozes. */
static bool may_doze(struct um_router *router, uint32_t seen)
{
    if (!atomic_load(&router->looking)) {
        um_worker_call(router);
        return false;
    }
    atomic_store(&router->dozing, true);
    return atomic_load(&router->begun) == seen;
}

static bool look_round(struct um_router *router, uint32_t *seen)
{
    uint32_t begun = atomic_load(&router->begun);
    bool quiet = begun == *seen;
    *seen = begun;
    return quiet && may_doze(router, begun);
}

static void heed(struct um_router *router, enum post post)
{
    uint64_t count;
    if (post == POST_DEVICE)
        um_worker_call(router);
    else if (post == POST_POKE && read(router->poke, &count, sizeof count) < 0)
        return; /* it was read before */
}

void *um_watchdog_watch(void *argument)
{
    struct um_router *router = argument;
    uint32_t seen = 0;
    bool dozes = false;
    while (!atomic_load(&router->stopping)) {
        struct epoll_event event;
        int n = epoll_wait(router->guard, &event, 1, dozes ? -1 : ROUND);
        if (atomic_load(&router->stopping))
            break;
        if (n == 0)
            dozes = look_round(router, &seen);
        else if (n == 1)
            heed(router, event.data.u32);
        dozes = dozes && atomic_load(&router->dozing);
    }
    return NULL;
}
