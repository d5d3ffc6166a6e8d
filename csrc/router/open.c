#include "router/router.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "router/queues.h"

#define SOCKET_BUFFER (1 << 20) /* the system may permit less */

static int make_socket(struct um_router *router, int *slow)
{
    int ends[2], size = SOCKET_BUFFER;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return -errno;
    for (int i = 0; i < 2; i++)
        setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    router->slow = ends[0];
    *slow = ends[1];
    return 0;
}

static int set_up(struct um_router *router, int *slow)
{
    int flags = fcntl(router->device, F_GETFL);
    if (flags < 0 || fcntl(router->device, F_SETFL, flags | O_NONBLOCK) != 0)
        return -errno;
    router->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (router->wake < 0)
        return -errno;
    int error = um_watchdog_open(router);
    if (error != 0)
        return error;
    router->reply = malloc(UM_FUSE_BUFFER);
    return router->reply ? make_socket(router, slow) : -ENOMEM;
}

int um_router_open(const struct um_router_setup *setup, struct um_router **out, int *slow)
{
    struct um_router *router = calloc(1, sizeof *router);
    if (router == NULL) {
        close(setup->device);
        return -ENOMEM;
    }
    router->fastpath = setup->fastpath;
    router->device = setup->device;
    /* With queues, only FORGET and INTERRUPT come through /dev/fuse: nobody waits for them. */
    router->threads = setup->threads < 1 || setup->queues != 0 ? 1 : setup->threads;
    router->spin = setup->queues != 0 ? 0 : setup->spin;
    router->work = um_worker_run;
    router->wake = router->guard = router->poke = router->slow = -1;
    pthread_mutex_init(&router->lock, NULL);
    pthread_mutex_init(&router->flight_lock, NULL);
    pthread_cond_init(&router->parked, NULL);
    int error = set_up(router, slow);
    if (error == 0 && setup->queues != 0)
        error = um_queues_open(router, setup->queues);
    if (error != 0 && router->slow >= 0)
        close(*slow);
    if (error != 0) {
        um_router_close(router);
        return error;
    }
    *out = router;
    return 0;
}

int um_router_start(struct um_router *router)
{
    int error = um_router_start_thread(&router->replies, um_router_replies, router);
    router->replies_run = error == 0;
    if (error == 0) {
        error = um_router_start_thread(&router->watchdog, um_watchdog_watch, router);
        router->watchdog_runs = error == 0;
    }
    if (error == 0 && router->queues != NULL)
        error = um_queues_start(router);
    for (uint32_t i = 0; error == 0 && i < router->threads; i++)
        error = um_router_add_worker(router);
    if (error != 0)
        um_router_stop(router);
    return error;
}

int um_router_ended(const struct um_router *router)
{
    return router->wake;
}

void um_router_stop(struct um_router *router)
{
    um_router_end(router);
    if (router->watchdog_runs)
        pthread_join(router->watchdog, NULL);
    /* No workers are added any more. */
    for (uint32_t i = 0; i < router->n_workers; i++)
        pthread_join(router->workers[i]->thread, NULL);
    if (router->replies_run)
        pthread_join(router->replies, NULL);
    if (router->queues != NULL)
        um_queues_join(router);
    for (uint32_t i = 0; i < router->n_workers; i++)
        um_worker_free(router->workers[i]);
    pthread_mutex_lock(&router->lock);
    router->n_workers = 0;
    pthread_mutex_unlock(&router->lock);
    router->replies_run = router->watchdog_runs = false;
}

void um_router_close(struct um_router *router)
{
    if (router == NULL)
        return;
    if (router->wake >= 0 && router->slow >= 0)
        um_router_stop(router);
    if (router->queues != NULL)
        um_queues_close(router);
    close(router->device);
    um_watchdog_close(router);
    if (router->wake >= 0)
        close(router->wake);
    if (router->slow >= 0)
        close(router->slow);
    free(router->reply);
    um_table_clear(&router->flight, sizeof(struct um_in_flight));
    pthread_cond_destroy(&router->parked);
    pthread_mutex_destroy(&router->flight_lock);
    pthread_mutex_destroy(&router->lock);
    free(router);
}
