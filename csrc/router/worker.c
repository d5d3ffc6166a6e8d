#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "router/state.h"

/* Workers. Each has a descriptor of its own (FUSE_DEV_IOC_CLONE), so that replies do not wait for one
 * another's locks; where it can't be cloned, it is a copy. */

/* ---- writing ---------------------------------------------------------------------------------------- */

int um_router_write(int device, const void *message, size_t size)
{
    struct pollfd wait = {.fd = device, .events = POLLOUT};
    while (write(device, message, size) < 0) {
        if (errno == EAGAIN)
            poll(&wait, 1, -1); /* never of /dev/fuse */
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

void um_router_notify(struct um_router *router, int device, uint64_t node)
{
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out inode;
    } message = {
        .header = {.len = sizeof message, .error = FUSE_NOTIFY_INVAL_INODE},
        .inode = {.ino = node, .off = -1}, /* attributes alone */
    };
    (void)router;
    um_router_write(device, &message, sizeof message); /* it may have forgotten the node */
}

/* ---- a request ------------------------------------------------------------------------------------------ */

static void count_data(struct um_worker *worker, const struct um_answer *answer)
{
    const struct fuse_in_header *header = worker->request;
    const struct fuse_out_header *out = worker->reply;
    if (header->opcode == FUSE_READ && out->error == 0)
        um_count(&worker->counters.bytes_read, answer->size - sizeof *out);
    if (header->opcode == FUSE_WRITE && out->error == 0)
        um_count(&worker->counters.bytes_written,
                 ((const struct fuse_write_out *)(const void *)(out + 1))->size);
    if (answer->copy_ups != 0)
        um_count(&worker->counters.copy_ups, answer->copy_ups);
}

static void reply(struct um_worker *worker, const struct um_answer *answer)
{
    struct um_router *router = worker->router;
    const struct fuse_in_header *header = worker->request;
    count_data(worker, answer);
    for (int i = 0; i < 2; i++) {
        if (answer->stale[i] != 0) {
            um_count(&worker->counters.notifications, 1);
            um_router_notify(router, worker->device, answer->stale[i]);
        }
    }
    int error = um_router_write(worker->device, worker->reply, answer->size);
    if (error != 0)
        um_fastpath_undo(router->fastpath, worker->request, worker->reply, answer->size);
    if (error == 0 && header->opcode == FUSE_INIT)
        um_router_forward_init(router);
}

static void handle(struct um_worker *worker, size_t size)
{
    struct um_router *router = worker->router;
    const struct fuse_in_header *header = worker->request;
    uint64_t begun = um_router_now();
    struct um_answer answer = {.kind = UM_ANSWER_NONE};
    if (size < sizeof *header)
        return;
    um_worker_begins(worker, begun);
    if (header->opcode == FUSE_INTERRUPT)
        um_router_interrupt(router, worker->request, size);
    else
        answer = um_fastpath_answer(router->fastpath, worker->request, size, worker->reply, false);
    if (answer.kind == UM_ANSWER_LATER) {
        um_count(&worker->counters.waits, 1);
        um_worker_lend(worker);
        answer = um_worker_answer_patiently(worker, size);
        um_worker_come_back(router);
    }
    if (answer.kind == UM_ANSWER_FORWARD) {
        um_router_forward(router, worker, size, begun);
    } else {
        um_count_request(worker->counters.fast, header->opcode);
        if (answer.kind == UM_ANSWER_REPLY)
            reply(worker, &answer);
        um_count_time(&worker->counters, header->opcode, begun);
    }
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

ssize_t um_worker_take(struct um_worker *worker)
{
    ssize_t got = read(worker->device, worker->request, UM_FUSE_BUFFER);
    if (got > 0)
        return got;
    if (got == 0)
        return -ENODEV;
    switch (errno) {
    case EAGAIN:
    case EINTR:
    case ENOENT: /* it was taken back in between */
        return 0;
    default: /* ENODEV: unmounted; ECONNABORTED */
        return -errno;
    }
}

static void *run(void *argument)
{
    struct um_worker *worker = argument;
    struct um_router *router = worker->router;
    while (!atomic_load(&router->stopping)) {
        ssize_t got = um_worker_next(worker);
        if (got < 0)
            break;
        if (got > 0)
            handle(worker, (size_t)got);
    }
    um_router_end(router);
    return NULL;
}

/* ---- the life of a worker --------------------------------------------------------------------------------------- */

static int clone_device(const struct um_router *router, int *device)
{
    uint32_t original = (uint32_t)router->device;
    *device = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (*device >= 0 && ioctl(*device, FUSE_DEV_IOC_CLONE, &original) == 0)
        return 0;
    if (*device >= 0)
        close(*device);
    *device = fcntl(router->device, F_DUPFD_CLOEXEC, 3);
    return *device < 0 ? -errno : 0;
}

void um_worker_free(struct um_worker *worker)
{
    if (worker->device >= 0)
        close(worker->device);
    free(worker->request);
    free(worker->reply);
    free(worker);
}

static int make_worker(struct um_router *router, struct um_worker **out)
{
    struct um_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return -ENOMEM;
    worker->router = router;
    worker->device = -1;
    worker->request = malloc(UM_FUSE_BUFFER);
    worker->reply = malloc(UM_FUSE_BUFFER);
    int error = worker->request && worker->reply ? clone_device(router, &worker->device) : -ENOMEM;
    if (error != 0) {
        um_worker_free(worker);
        return error;
    }
    *out = worker;
    return 0;
}

/* Signals are for Python's main thread. */
static int start_thread(struct um_worker *worker)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&worker->thread, NULL, run, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

int um_router_add_worker(struct um_router *router)
{
    struct um_worker *worker;
    int error = make_worker(router, &worker);
    if (error != 0)
        return error;
    pthread_mutex_lock(&router->lock);
    if (router->n_workers == UM_ROUTER_MAX_THREADS || atomic_load(&router->stopping)) {
        error = -EAGAIN;
    } else {
        atomic_fetch_add(&router->active, 1);
        error = start_thread(worker);
        if (error == 0)
            router->workers[router->n_workers++] = worker;
        else
            atomic_fetch_sub(&router->active, 1);
    }
    pthread_mutex_unlock(&router->lock);
    if (error != 0)
        um_worker_free(worker);
    return error;
}
