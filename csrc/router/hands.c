#include "router/queues.h"

/* Hands answer the requests that may wait for a disk, for a lower directory or for Python. They are
 * threads that are made when they are needed, and stay. */

static struct um_entry *next(struct um_queues *queues)
{
    struct um_router *router = queues->router;
    struct um_entry *entry = NULL;
    pthread_mutex_lock(&queues->lock);
    while (!atomic_load(&router->stopping) && (entry = um_entries_pop(&queues->waiting)) == NULL) {
        queues->n_idle++;
        pthread_cond_wait(&queues->wanted, &queues->lock);
        queues->n_idle--;
    }
    queues->n_waiting -= entry != NULL;
    pthread_mutex_unlock(&queues->lock);
    return entry;
}

static void answer(struct um_worker *worker, struct um_entry *entry)
{
    struct um_router *router = worker->router;
    size_t size = um_entry_open(entry, worker); /* the taker has found it well-formed */
    const struct fuse_in_header *header = worker->request;
    struct um_answer answer = um_worker_answer_patiently(worker, size);
    uint32_t opcode = header->opcode;
    uint64_t begun = entry->begun;
    if (answer.kind == UM_ANSWER_FORWARD) {
        um_router_forward(router, worker, entry, size, begun, true);
        return;
    }
    um_router_count_request(worker->counters.fast, opcode);
    um_entry_answered(entry, worker, &answer);
    um_entry_finish(entry);
    um_router_count_time(&worker->counters, opcode, begun);
}

static void *run(void *argument)
{
    struct um_worker *worker = argument;
    struct um_entry *entry;
    while ((entry = next(worker->router->queues)) != NULL)
        answer(worker, entry);
    return NULL;
}

/* Add a hand, under the lock. */
static int add(struct um_queues *queues)
{
    struct um_worker *worker = queues->n_hands < UM_ROUTER_MAX_THREADS ? calloc(1, sizeof *worker)
                                                                       : (struct um_worker *)NULL;
    if (worker == NULL)
        return -EAGAIN;
    worker->router = queues->router;
    worker->device = -1;
    int error = um_worker_make_room(worker);
    if (error == 0)
        error = um_router_start_thread(&worker->thread, run, worker);
    if (error != 0) {
        free(worker->room);
        free(worker);
        return error;
    }
    queues->hands[queues->n_hands++] = worker;
    return 0;
}

int um_hands_add(struct um_queues *queues)
{
    pthread_mutex_lock(&queues->lock);
    int error = add(queues);
    pthread_mutex_unlock(&queues->lock);
    return error;
}

void um_hands_give(struct um_router *router, struct um_entry *entry)
{
    struct um_queues *queues = router->queues;
    pthread_mutex_lock(&queues->lock);
    um_entries_append(&queues->waiting, entry);
    queues->n_waiting++;
    pthread_cond_signal(&queues->wanted);
    if (queues->n_idle < queues->n_waiting)
        add(queues); /* where that fails, the next hand that is free takes it */
    pthread_mutex_unlock(&queues->lock);
}
