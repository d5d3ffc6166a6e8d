#include <sched.h>

#include "router/queues.h"

/* These are the threads that use rings. See router/queues.h for the two kinds. */

#define IDLE 2u /* entries that a reserve offers for each queue, at least */
#define ENTRIES_MAX 64u /* of one queue */
#define GROWN_MAX 256u /* of all queues, beyond those at the start */

/* ---- submitting ---------------------------------------------------------------------------------- */

static void submit(struct um_taker *taker, bool wait)
{
    if (um_uring_enter(&taker->ring, wait) != 0)
        um_router_end(taker->worker.router); /* the ring is of no use any more */
}

static void command(struct um_taker *taker, struct um_entry *entry, enum um_ring_command command)
{
    bool is_new = command == UM_RING_REGISTER;
    struct um_ring_argument argument = {.commit_id = is_new ? 0 : entry->commit_id,
                                        .queue = entry->queue->id};
    int error;
    while ((error = um_uring_command(&taker->ring, taker->worker.router->device, command, &argument,
                                     sizeof argument, is_new ? entry->buffers : NULL,
                                     (uintptr_t)entry)) == -EBUSY &&
           !atomic_load(&taker->worker.router->stopping))
        submit(taker, false);
}

static void listen(struct um_taker *taker)
{
    while (um_uring_read(&taker->ring, taker->bell, &taker->rung, sizeof taker->rung, 0) ==
               -EBUSY &&
           !atomic_load(&taker->worker.router->stopping))
        submit(taker, false);
}

/* End, as the kernel uses no queue before each has an entry, and has agreed to use no other way. */
static void refuse(struct um_router *router, int error)
{
    int none = 0;
    atomic_compare_exchange_strong(&router->refused, &none, error);
    um_router_end(router);
}

/* ---- entries that are offered -------------------------------------------------------------------- */

static void commit(struct um_taker *taker, struct um_entry *entry)
{
    if (taker->queue == NULL)
        entry->queue->idle++;
    command(taker, entry, UM_RING_COMMIT);
}

/* Offer one more entry, made by a reserve. */
static bool offer(struct um_taker *taker, struct um_queue *queue, bool vital)
{
    struct um_entry *entry = um_entry_make(queue);
    if (entry == NULL)
        return false;
    entry->vital = vital;
    queue->idle++;
    command(taker, entry, UM_RING_REGISTER);
    return true;
}

/* Keep entries on offer, as the others are with requests that may wait for long. */
static void top_up(struct um_taker *taker, struct um_queue *queue)
{
    atomic_uint *grown = &queue->all->grown;
    if (queue->idle >= IDLE || queue->n_entries >= ENTRIES_MAX)
        return;
    if (atomic_fetch_add(grown, 1) >= GROWN_MAX || !offer(taker, queue, false))
        atomic_fetch_sub(grown, 1);
}

/* Offer the first entries. The own taker's was made before. */
static void register_first(struct um_taker *taker)
{
    struct um_queues *queues = taker->worker.router->queues;
    taker->registered = true;
    if (taker->queue != NULL) {
        command(taker, taker->first, UM_RING_REGISTER);
        return;
    }
    for (uint32_t i = 0; i < queues->n; i++) {
        struct um_queue *queue = &queues->queues[i];
        while (queue->reserve == taker && queue->idle < IDLE) {
            if (!offer(taker, queue, true)) {
                refuse(taker->worker.router, -ENOMEM);
                return;
            }
        }
    }
}

/* ---- requests ------------------------------------------------------------------------------------ */

static void give_to_hands(struct um_taker *taker, struct um_entry *entry)
{
    um_taker_gives(taker);
    um_hands_give(taker->worker.router, entry);
}

/* Return whether the reply has so much data that the client's processor should not copy all of it. */
static bool is_bulk(const struct fuse_in_header *header, size_t size)
{
    const struct fuse_read_in *in = (const void *)(header + 1);
    return header->opcode == FUSE_READ && size >= sizeof *header + sizeof *in &&
           in->size >= UM_BULK;
}

/* Answer a request in an own taker. */
static void answer(struct um_taker *taker, struct um_entry *entry)
{
    struct um_worker *worker = &taker->worker;
    struct um_router *router = worker->router;
    size_t size = um_entry_open(entry, worker);
    const struct fuse_in_header *header = worker->request;
    if (is_bulk(header, size)) {
        give_to_hands(taker, entry);
        return;
    }
    uint64_t begun = entry->begun;
    uint32_t opcode = header->opcode;
    struct um_answer answer =
        um_fastpath_answer(router->fastpath, worker->request, size, worker->reply, false);
    switch (answer.kind) {
    case UM_ANSWER_LATER:
        um_router_count(&worker->counters.waits, 1);
        give_to_hands(taker, entry);
        return;
    case UM_ANSWER_FORWARD:
        um_taker_gives(taker);
        if (!um_router_forward(router, worker, entry, size, begun, false))
            um_hands_give(router, entry);
        return;
    case UM_ANSWER_NONE:
    case UM_ANSWER_REPLY:
        um_router_count_request(worker->counters.fast, opcode);
        um_entry_answered(entry, worker, &answer);
        commit(taker, entry);
        um_router_count_time(&worker->counters, opcode, begun);
    }
}

/* Take the request that has come in an entry. */
static void take(struct um_taker *taker, struct um_entry *entry)
{
    struct um_router *router = taker->worker.router;
    struct um_queue *queue = entry->queue;
    bool is_own = taker->queue != NULL;
    entry->commit_id = entry->head->sizes.commit_id;
    entry->begun = um_router_now();
    if (!is_own)
        queue->idle--;
    if (um_entry_open(entry, &taker->worker) == 0) {
        struct fuse_in_header header;
        memcpy(&header, entry->head->header, sizeof header);
        um_entry_fill_error(entry, header.unique, EIO);
        commit(taker, entry);
        return;
    }
    if (is_own) {
        answer(taker, entry);
        return;
    }
    top_up(taker, queue);
    const struct fuse_in_header *header = taker->worker.request;
    if (is_bulk(header, header->len) || !um_entry_lend(entry))
        um_hands_give(router, entry);
}

/* ---- results ------------------------------------------------------------------------------------- */

/* Handle the result of an entry that brings no request. */
static void lose(struct um_taker *taker, struct um_entry *entry, int error)
{
    struct um_router *router = taker->worker.router;
    if (error == -EAGAIN || error == -EINTR) {
        /* The kernel has not taken the command; it may not have seen the reply to its INIT. */
        command(taker, entry, entry->commit_id == 0 ? UM_RING_REGISTER : UM_RING_COMMIT);
        return;
    }
    if (taker->queue != NULL)
        um_taker_gives(taker);
    else
        entry->queue->idle--;
    bool is_end =
        error == -ENOTCONN || error == -ECONNABORTED || error == -ENODEV || error == -ECANCELED;
    if (!is_end && entry->commit_id == 0 && entry->vital)
        refuse(router, error);
    else if (!is_end)
        um_router_count(&taker->worker.counters.failed, 1);
}

static void handle(struct um_taker *taker, const struct um_uring_result *result)
{
    struct um_entry *entry = (void *)(uintptr_t)result->tag;
    if (entry == NULL)
        listen(taker); /* the bell has rung */
    else if (result->result == 0)
        take(taker, entry);
    else
        lose(taker, entry, result->result);
}

/* Do what there is to do. A reply is submitted before the next request is answered, which may take long. */
static void work(struct um_taker *taker)
{
    struct um_uring_result result;
    struct um_entry *entry;
    um_taker_begins(taker);
    do {
        while (um_uring_next(&taker->ring, &result)) {
            handle(taker, &result);
            if (taker->queue != NULL && taker->ring.pending != 0 && um_uring_has_next(&taker->ring))
                submit(taker, false);
        }
        entry = um_taker_next(taker);
        if (entry != NULL && entry->answered) {
            commit(taker, entry);
        } else if (entry != NULL) {
            submit(taker, false);
            answer(taker, entry);
        }
    } while (entry != NULL);
}

static void pin(const struct um_taker *taker)
{
    cpu_set_t *set = CPU_ALLOC((size_t)taker->processor + 1);
    size_t size = CPU_ALLOC_SIZE((size_t)taker->processor + 1);
    if (set == NULL)
        return;
    CPU_ZERO_S(size, set);
    CPU_SET_S((size_t)taker->processor, size, set);
    sched_setaffinity(0, size, set); /* where a cpuset forbids it, the thread runs elsewhere */
    CPU_FREE(set);
}

void *um_taker_run(void *argument)
{
    struct um_taker *taker = argument;
    struct um_router *router = taker->worker.router;
    if (taker->processor >= 0)
        pin(taker);
    listen(taker);
    while (!atomic_load(&router->stopping)) {
        if (!taker->registered && atomic_load(&router->queues->begun))
            register_first(taker);
        um_router_count(&taker->worker.counters.sleeps, 1);
        submit(taker, true);
        work(taker);
    }
    return NULL;
}

void um_taker_flush(struct um_taker *taker)
{
    struct um_entry *entry;
    while ((entry = um_taker_next(taker)) != NULL) {
        if (entry->answered)
            commit(taker, entry);
    }
    submit(taker, false);
}
