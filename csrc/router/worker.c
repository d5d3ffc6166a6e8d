#include "router/state.h"
/* Each worker has its own descriptor (FUSE_DEV_IOC_CLONE), so that replies do not wait for each
 * other's locks; where it cannot be cloned, it is a duplicate. */

/* ---- a request ------------------------------------------------------------------------------------------ */

static void count_data(struct um_worker *worker, const struct um_answer *answer)
{
    const struct fuse_in_header *header = worker->request;
    const struct fuse_out_header *out = worker->reply;
    if (header->opcode == FUSE_READ && out->error == 0)
        um_router_count(&worker->counters.bytes_read, answer->size - sizeof *out);
    if (header->opcode == FUSE_WRITE && out->error == 0)
        um_router_count(&worker->counters.bytes_written,
                        ((const struct fuse_write_out *)(const void *)(out + 1))->size);
    if (answer->copy_ups != 0)
        um_router_count(&worker->counters.copy_ups, answer->copy_ups);
}

static void reply(struct um_worker *worker, const struct um_answer *answer)
{
    struct um_router *router = worker->router;
    count_data(worker, answer);
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
        um_router_forward(router, worker, size, begun);
    } else {
        um_router_count_request(worker->counters.fast, header->opcode);
        if (answer.kind == UM_ANSWER_REPLY)
            reply(worker, &answer);
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
