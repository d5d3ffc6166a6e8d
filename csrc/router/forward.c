#include <poll.h>
#include <sys/socket.h>

#include "router/state.h"

/* Requests that pyfuse3 answers. Each is in the table of those in flight before it is sent, so that its
 * reply finds where it is to be written: to the descriptor that it was read from. When pyfuse3 answers
 * no more, all of the table are answered with EIO, and nothing is added to it. */

/* ---- the table, under flight_lock ------------------------------------------------------------------- */

static size_t home_of(const struct um_router *router, uint64_t unique)
{
    uint64_t hash = unique * 0x9e3779b97f4a7c15ull;
    return (hash >> 32) & (router->n_slots - 1);
}

static struct um_in_flight *find_slot(struct um_router *router, uint64_t unique)
{
    size_t at = home_of(router, unique);
    while (router->flight[at].unique != 0 && router->flight[at].unique != unique)
        at = (at + 1) & (router->n_slots - 1);
    return &router->flight[at];
}

static int grow(struct um_router *router)
{
    struct um_in_flight *old = router->flight;
    size_t n_old = router->n_slots;
    size_t slots = n_old ? n_old * 2 : 64;
    struct um_in_flight *flight = calloc(slots, sizeof *flight);
    if (flight == NULL)
        return -ENOMEM;
    router->flight = flight;
    router->n_slots = slots;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].unique != 0)
            *find_slot(router, old[i].unique) = old[i];
    }
    free(old);
    return 0;
}

/* Remove an entry; those behind it that probing would not reach any more move up. */
static void remove_slot(struct um_router *router, struct um_in_flight *slot)
{
    size_t mask = router->n_slots - 1;
    size_t hole = (size_t)(slot - router->flight);
    for (size_t at = (hole + 1) & mask; router->flight[at].unique != 0; at = (at + 1) & mask) {
        size_t home = home_of(router, router->flight[at].unique);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            router->flight[hole] = router->flight[at];
            hole = at;
        }
    }
    router->flight[hole] = (struct um_in_flight){0};
    router->n_flight--;
}

static int add(struct um_router *router, const struct um_in_flight *one)
{
    int error = 0;
    pthread_mutex_lock(&router->flight_lock);
    if (router->orphaned)
        error = -EIO;
    else if ((router->n_flight + 1) * 2 > router->n_slots)
        error = grow(router);
    if (error == 0) {
        *find_slot(router, one->unique) = *one;
        router->n_flight++;
    }
    pthread_mutex_unlock(&router->flight_lock);
    return error;
}

/* True where it was in the table, and no one else will answer it. */
static bool take(struct um_router *router, uint64_t unique, struct um_in_flight *one)
{
    pthread_mutex_lock(&router->flight_lock);
    struct um_in_flight *slot =
        router->n_slots != 0 && unique != 0 ? find_slot(router, unique) : NULL;
    bool found = slot != NULL && slot->unique != 0;
    if (found) {
        *one = *slot;
        remove_slot(router, slot);
    }
    pthread_mutex_unlock(&router->flight_lock);
    return found;
}

/* ---- to pyfuse3 ------------------------------------------------------------------------------------------ */

static void answer_error(const struct um_in_flight *one, int error)
{
    struct fuse_out_header out = {.len = sizeof out, .error = -error, .unique = one->unique};
    um_router_write(one->device, &out, sizeof out);
}

static int send_slow(struct um_router *router, const void *message, size_t size)
{
    ssize_t sent;
    do {
        sent = send(router->slow, message, size, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return um_result(sent);
}

void um_router_forward(struct um_router *router, struct um_worker *worker, size_t size,
                       uint64_t begun)
{
    const struct fuse_in_header *header = worker->request;
    struct um_in_flight one = {.unique = header->unique,
                               .begun = begun,
                               .opcode = header->opcode,
                               .device = worker->device};
    int error = add(router, &one);
    if (error == 0) {
        error = send_slow(router, worker->request, size);
        if (error == 0 || !take(router, one.unique, &one))
            return; /* who marks the router as orphaned answers it */
    }
    um_count(&worker->counters.failed, 1);
    answer_error(&one, EIO);
}

void um_router_forward_init(struct um_router *router)
{
    _Alignas(8) uint8_t request[UM_SLOW_INIT_ROOM];
    size_t size = um_fastpath_slow_init(router->fastpath, request);
    send_slow(router, request, size); /* where it fails, so does everything that is forwarded */
}

/* ---- from pyfuse3 ----------------------------------------------------------------------------------------- */

static void pass_on(struct um_router *router, size_t size)
{
    const struct fuse_out_header *out = router->reply;
    struct um_in_flight one;
    if (size < sizeof *out || out->len != size || out->unique == UM_SLOW_INIT_UNIQUE)
        return;
    if (out->unique == 0) {
        um_count(&router->counters.notifications, 1);
        um_router_write(router->device, router->reply, size);
        return;
    }
    if (!take(router, out->unique, &one))
        return;
    um_count_request(router->counters.forwarded, one.opcode);
    if (um_router_write(one.device, router->reply, size) == -EINVAL)
        answer_error(&one, EIO); /* the kernel found it malformed, and still waits */
    um_count_time(&router->counters, one.opcode, one.begun);
}

static void orphan(struct um_router *router)
{
    pthread_mutex_lock(&router->flight_lock);
    router->orphaned = true;
    for (size_t i = 0; i < router->n_slots; i++) {
        if (router->flight[i].unique != 0) {
            answer_error(&router->flight[i], EIO);
            um_count(&router->counters.failed, 1);
        }
        router->flight[i] = (struct um_in_flight){0};
    }
    router->n_flight = 0;
    pthread_mutex_unlock(&router->flight_lock);
}

/* Wait for pyfuse3: false when the router stops. */
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
