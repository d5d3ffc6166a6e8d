#include <poll.h>
#include <sys/socket.h>

#include "router/queues.h"

/* These requests are answered by pyfuse3. Each is entered into the table of those in flight before
 * it is sent, so that its reply can be written to the descriptor that it was read from. When
 * pyfuse3 stops answering, all of the table are answered with EIO, and nothing is added to it. */

/* ---- the table, under flight_lock ------------------------------------------------------------------- */

static int add(struct um_router *router, const struct um_in_flight *one)
{
    int error = -EIO;
    pthread_mutex_lock(&router->flight_lock);
    if (!router->orphaned && one->unique != 0)
        error = um_table_reserve(&router->flight, sizeof *one, 1);
    if (error == 0)
        *(struct um_in_flight *)um_table_add(&router->flight, sizeof *one, one->unique) = *one;
    pthread_mutex_unlock(&router->flight_lock);
    return error;
}

/* Take a request out of the table. True where it was there, so that no other thread answers it. */
static bool take(struct um_router *router, uint64_t unique, struct um_in_flight *one)
{
    pthread_mutex_lock(&router->flight_lock);
    struct um_in_flight *found = um_table_find(&router->flight, sizeof *found, unique);
    if (found != NULL) {
        *one = *found;
        um_table_remove(&router->flight, sizeof *found, found);
    }
    pthread_mutex_unlock(&router->flight_lock);
    return found != NULL;
}

/* ---- to pyfuse3 ------------------------------------------------------------------------------------------ */

static void answer_error(const struct um_in_flight *one, int error)
{
    if (one->entry != NULL) {
        um_entry_reply_error(one->entry, one->unique, error);
        return;
    }
    struct fuse_out_header out = {.len = sizeof out, .error = -error, .unique = one->unique};
    um_router_write(one->device, &out, sizeof out);
}

/* Write a reply of pyfuse3 to where its request came from: 0, or -EINVAL if it is malformed. */
static int write_reply(const struct um_in_flight *one, const void *message, size_t size)
{
    if (one->entry == NULL)
        return um_router_write(one->device, message, size);
    um_entry_reply(one->entry, message, size);
    return 0; /* it has an error instead of a malformed one */
}

static int send_slow(struct um_router *router, const void *message, size_t size, int flags)
{
    ssize_t sent;
    do {
        sent = send(router->slow, message, size, MSG_NOSIGNAL | flags);
    } while (sent < 0 && errno == EINTR);
    return um_result(sent);
}

/* Begin with pyfuse3: its INIT comes before the first request, so that its end of the socket is readable
 * only if there is a request. The lock keeps the requests of other workers behind it; the socket is empty,
 * so sending does not wait. A failure shows when the request itself is sent. */
static void introduce(struct um_router *router)
{
    _Alignas(8) uint8_t request[UM_SLOW_INIT_ROOM];
    pthread_mutex_lock(&router->flight_lock);
    if (!router->introduced) {
        router->introduced = true;
        send_slow(router, request, um_fastpath_slow_init(router->fastpath, request), 0);
    }
    pthread_mutex_unlock(&router->flight_lock);
}

bool um_router_forward(struct um_router *router, struct um_worker *worker, struct um_entry *entry,
                       size_t size, uint64_t begun, bool may_wait)
{
    const struct fuse_in_header *header = worker->request;
    struct um_in_flight one = {.unique = header->unique,
                               .begun = begun,
                               .opcode = header->opcode,
                               .device = worker->device,
                               .entry = entry};
    if (entry != NULL)
        um_entry_detach(worker, size);
    int error = add(router, &one);
    if (error == 0) {
        introduce(router);
        error = send_slow(router, worker->request, size, may_wait ? 0 : MSG_DONTWAIT);
        if (error == 0 || !take(router, one.unique, &one))
            return true; /* otherwise the thread that marked the router as orphaned answers it */
        if (error == -EAGAIN && !may_wait)
            return false;
    }
    um_router_count(&worker->counters.failed, 1);
    answer_error(&one, EIO);
    return true;
}

/* ---- from pyfuse3 ----------------------------------------------------------------------------------------- */

static void pass_on(struct um_router *router, size_t size)
{
    const struct fuse_out_header *out = router->reply;
    struct um_in_flight one;
    if (size < sizeof *out || out->len != size || out->unique == UM_SLOW_INIT_UNIQUE)
        return;
    if (out->unique == 0) {
        um_router_count(&router->counters.notifications, 1);
        um_router_write(router->device, router->reply, size);
        return;
    }
    if (!take(router, out->unique, &one))
        return;
    um_router_count_request(router->counters.forwarded, one.opcode);
    if (write_reply(&one, router->reply, size) == -EINVAL)
        answer_error(&one, EIO); /* the kernel found it malformed, and still waits */
    um_router_count_time(&router->counters, one.opcode, one.begun);
}

static void orphan(struct um_router *router)
{
    pthread_mutex_lock(&router->flight_lock);
    router->orphaned = true;
    for (const struct um_in_flight *one = NULL;
         (one = um_table_next(&router->flight, sizeof *one, one)) != NULL;) {
        answer_error(one, EIO);
        um_router_count(&router->counters.failed, 1);
    }
    um_table_clear(&router->flight, sizeof(struct um_in_flight));
    pthread_mutex_unlock(&router->flight_lock);
}

/* Wait for pyfuse3; false when the router stops. */
static bool wait_for_slow(struct um_router *router)
{
    struct pollfd fds[] = {{.fd = router->slow, .events = POLLIN},
                           {.fd = router->wake, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    return !atomic_load(&router->stopping);
}

void *um_router_replies(void *argument)
{
    struct um_router *router = argument;
    while (wait_for_slow(router)) {
        ssize_t got = recv(router->slow, router->reply, UM_FUSE_BUFFER, MSG_DONTWAIT);
        if (got > 0)
            pass_on(router, (size_t)got);
        else if (got == 0 || (errno != EINTR && errno != EAGAIN))
            break; /* pyfuse3 has closed its end */
    }
    orphan(router);
    return NULL;
}
