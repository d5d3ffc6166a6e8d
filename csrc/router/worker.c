#include "router/queues.h"
/* Each worker has its own descriptor (FUSE_DEV_IOC_CLONE), so that replies do not wait for each
 * other's locks; where it cannot be cloned, it is a duplicate. */

/* ---- a request ------------------------------------------------------------------------------------------ */

static void reply(struct um_worker *worker, const struct um_answer *answer)
{
    struct um_router *router = worker->router;
    um_worker_count_data(worker, answer);
    for (int i = 0; i < 2; i++) {
        if (answer->stale[i] != 0) {
            um_router_count(&worker->counters.notifications, 1);
            um_router_notify(worker->device, answer->stale[i]);
        }
    }
    int error = um_router_write(worker->device, worker->reply, answer->size);
    if (error != 0)
        um_fastpath_undo(router->fastpath, worker->request, worker->reply, answer->size);
}

/* After the reply to INIT, offer the queues to the kernel; where it has not agreed, end. */
static void begin(struct um_router *router)
{
    um_queues_begin(router);
    if (um_router_refused(router) != 0)
        um_router_end(router);
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
        um_router_count(&worker->counters.waits, 1);
        um_worker_lend(worker);
        answer = um_worker_answer_patiently(worker, size);
        um_worker_come_back(router);
    }
    if (answer.kind == UM_ANSWER_FORWARD) {
        um_router_forward(router, worker, NULL, size, begun, true);
    } else {
        um_router_count_request(worker->counters.fast, header->opcode);
        if (answer.kind == UM_ANSWER_REPLY)
            reply(worker, &answer);
        if (header->opcode == FUSE_INIT)
            begin(router);
        um_router_count_time(&worker->counters, header->opcode, begun);
    }
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

void *um_worker_run(void *argument)
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
