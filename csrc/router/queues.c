#include "router/queues.h"

#include <sched.h>
#include <sys/eventfd.h>

/* All memory, rings and threads are made before the kernel's INIT is answered: from then on the
 * kernel waits until each queue has an entry, and there is no way back to /dev/fuse alone. */

#define QUEUES_OF_RESERVE 16u /* that one thread serves */
#define OWN_SUBMISSIONS 8u
#define RESERVE_SUBMISSIONS 128u
#define RESERVE_COMPLETIONS 1024u

/* Record which processors this process may run on. */
static cpu_set_t *permitted(uint32_t n, size_t *size)
{
    cpu_set_t *set;
    n = n < 1024 ? 1024 : n; /* the kernel refuses a set that is smaller than its own */
    do {
        *size = CPU_ALLOC_SIZE(n);
        set = CPU_ALLOC(n);
        if (set != NULL && sched_getaffinity(0, *size, set) == 0)
            return set;
        CPU_FREE(set);
        n *= 2;
    } while (set != NULL && errno == EINVAL && n <= 65536);
    return NULL;
}

static int open_taker(struct um_queues *queues, int processor, struct um_queue *queue)
{
    struct um_taker *taker = &queues->takers[queues->n_takers];
    *taker = (struct um_taker){.worker = {.router = queues->router, .device = -1},
                               .ring = {.fd = -1},
                               .queue = queue,
                               .processor = processor,
                               .bell = eventfd(0, EFD_CLOEXEC)};
    pthread_mutex_init(&taker->lock, NULL);
    queues->n_takers++;
    if (taker->bell < 0)
        return -errno;
    int error = um_worker_make_room(&taker->worker);
    if (error == 0)
        error = queue ? um_uring_open(&taker->ring, OWN_SUBMISSIONS, 2 * OWN_SUBMISSIONS)
                      : um_uring_open(&taker->ring, RESERVE_SUBMISSIONS, RESERVE_COMPLETIONS);
    if (error == 0 && queue != NULL) {
        taker->held = 1;
        queue->own = taker;
        taker->first = um_entry_make(queue);
        if (taker->first == NULL)
            return -ENOMEM;
        taker->first->vital = true;
    }
    return error;
}

static int open_takers(struct um_queues *queues)
{
    size_t size = 0;
    cpu_set_t *set = permitted(queues->n, &size);
    uint32_t reserves = (queues->n + QUEUES_OF_RESERVE - 1) / QUEUES_OF_RESERVE;
    int error = set ? 0 : -ENOMEM;
    for (uint32_t i = 0; error == 0 && i < reserves; i++)
        error = open_taker(queues, -1, NULL);
    for (uint32_t i = 0; error == 0 && i < queues->n; i++) {
        queues->queues[i] = (struct um_queue){
            .all = queues, .id = (uint16_t)i, .reserve = &queues->takers[i % reserves]};
        if (CPU_ISSET_S(i, size, set))
            error = open_taker(queues, (int)i, &queues->queues[i]);
    }
    CPU_FREE(set);
    return error;
}

int um_queues_open(struct um_router *router, uint32_t n)
{
    struct um_queues *queues = calloc(1, sizeof *queues);
    if (queues == NULL)
        return -ENOMEM;
    size_t pages = (size_t)sysconf(_SC_PAGESIZE) * UM_FUSE_MAX_PAGES;
    router->queues = queues;
    queues->router = router;
    queues->n = n;
    queues->payload = pages > UM_FUSE_MAX_WRITE ? pages : UM_FUSE_MAX_WRITE;
    pthread_mutex_init(&queues->lock, NULL);
    pthread_cond_init(&queues->wanted, NULL);
    queues->queues = calloc(n, sizeof *queues->queues);
    queues->takers = calloc((size_t)n + n / QUEUES_OF_RESERVE + 1, sizeof *queues->takers);
    if (n > UM_QUEUES_MAX || queues->queues == NULL || queues->takers == NULL)
        return -ENOMEM;
    return open_takers(queues);
}

static int start_taker(struct um_taker *taker)
{
    int error = um_router_start_thread(&taker->worker.thread, um_taker_run, taker);
    taker->runs = error == 0;
    if (error == 0 || taker->queue == NULL)
        return error;
    taker->queue->own = NULL; /* the reserve serves the queue alone */
    return 0;
}

int um_queues_start(struct um_router *router)
{
    struct um_queues *queues = router->queues;
    int error = um_hands_add(queues);
    for (uint32_t i = 0; error == 0 && i < queues->n_takers; i++)
        error = start_taker(&queues->takers[i]);
    return error;
}

/* Hands are joined last, as takers add some. */
void um_queues_join(struct um_router *router)
{
    struct um_queues *queues = router->queues;
    for (uint32_t i = 0; i < queues->n_takers; i++) {
        if (queues->takers[i].runs)
            pthread_join(queues->takers[i].worker.thread, NULL);
        queues->takers[i].runs = false;
    }
    for (uint32_t i = 0; i < queues->n_hands; i++) {
        pthread_join(queues->hands[i]->thread, NULL);
        free(queues->hands[i]->room);
        free(queues->hands[i]);
    }
    for (uint32_t i = 0; i < queues->n_takers; i++)
        um_taker_flush(&queues->takers[i]);
    pthread_mutex_lock(&queues->lock);
    queues->n_hands = 0;
    pthread_mutex_unlock(&queues->lock);
}

static void close_taker(struct um_taker *taker)
{
    um_uring_close(&taker->ring);
    if (taker->bell >= 0)
        close(taker->bell);
    pthread_mutex_destroy(&taker->lock);
    free(taker->worker.room);
}

/* The rings are closed first: until then the kernel may write into the entries. */
void um_queues_close(struct um_router *router)
{
    struct um_queues *queues = router->queues;
    for (uint32_t i = 0; i < queues->n_takers; i++)
        close_taker(&queues->takers[i]);
    for (uint32_t i = 0; queues->queues != NULL && i < queues->n; i++) {
        struct um_entry *entry;
        while ((entry = queues->queues[i].entries) != NULL) {
            queues->queues[i].entries = entry->sibling;
            um_entry_free(entry);
        }
    }
    free(queues->takers);
    free(queues->queues);
    pthread_cond_destroy(&queues->wanted);
    pthread_mutex_destroy(&queues->lock);
    free(queues);
    router->queues = NULL;
}
