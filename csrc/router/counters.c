#include <time.h>

#include "router/queues.h"

void um_router_count(atomic_ullong *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

uint64_t um_router_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Return the bucket of a time. There are four for each doubling: bucket b begins at 2^(b/4) * (4 +
 * b%4) / 4, below 4 at b itself. */
static unsigned bucket_of(uint64_t nanoseconds)
{
    if (nanoseconds < 4)
        return (unsigned)nanoseconds;
    unsigned log = 63u - (unsigned)__builtin_clzll(nanoseconds);
    unsigned bucket = 4 * log + (unsigned)(nanoseconds >> (log - 2) & 3);
    return bucket < UM_TIMES ? bucket : UM_TIMES - 1;
}

static unsigned known(uint32_t opcode)
{
    return opcode < UM_OPCODES ? opcode : 0;
}

void um_router_count_request(atomic_ullong *by_opcode, uint32_t opcode)
{
    um_router_count(&by_opcode[known(opcode)], 1);
}

void um_router_count_time(struct um_counters *counters, uint32_t opcode, uint64_t begun)
{
    um_router_count(&counters->times[known(opcode)][bucket_of(um_router_now() - begun)], 1);
}

void um_worker_count_data(struct um_worker *worker, const struct um_answer *answer)
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

static uint64_t value(atomic_ullong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add(struct um_router_stats *stats, struct um_counters *counters)
{
    for (unsigned i = 0; i < UM_OPCODES; i++) {
        stats->fast[i] += value(&counters->fast[i]);
        stats->forwarded[i] += value(&counters->forwarded[i]);
        for (unsigned j = 0; j < UM_TIMES; j++)
            stats->times[i][j] += value(&counters->times[i][j]);
    }
    stats->bytes_read += value(&counters->bytes_read);
    stats->bytes_written += value(&counters->bytes_written);
    stats->copy_ups += value(&counters->copy_ups);
    stats->notifications += value(&counters->notifications);
    stats->waits += value(&counters->waits);
    stats->sleeps += value(&counters->sleeps);
    stats->calls += value(&counters->calls);
    stats->failed += value(&counters->failed);
}

static void add_queues(struct um_router_stats *stats, struct um_queues *queues)
{
    stats->queues = queues->n;
    stats->threads += queues->n_takers;
    for (uint32_t i = 0; i < queues->n_takers; i++)
        add(stats, &queues->takers[i].worker.counters);
    pthread_mutex_lock(&queues->lock);
    stats->threads += queues->n_hands;
    for (uint32_t i = 0; i < queues->n_hands; i++)
        add(stats, &queues->hands[i]->counters);
    pthread_mutex_unlock(&queues->lock);
}

void um_router_get_stats(struct um_router *router, struct um_router_stats *stats)
{
    *stats = (struct um_router_stats){0};
    add(stats, &router->counters);
    pthread_mutex_lock(&router->lock);
    stats->threads = router->n_workers;
    for (uint32_t i = 0; i < router->n_workers; i++)
        add(stats, &router->workers[i]->counters);
    pthread_mutex_unlock(&router->lock);
    if (router->queues != NULL)
        add_queues(stats, router->queues);
    pthread_mutex_lock(&router->flight_lock);
    stats->in_flight = (uint32_t)router->flight.n;
    pthread_mutex_unlock(&router->flight_lock);
    stats->held = um_fastpath_open_files(router->fastpath);
}

int um_router_refused(const struct um_router *router)
{
    return atomic_load(&router->refused);
}
