#include <sys/eventfd.h>
#include <sys/mman.h>

#include "router/queues.h"

/* These are the entries of queues: their memory, their requests and replies, and who has them.
 *
 * The memory of an entry begins with a page for the head. A request is put together in front of its
 * payload, and a reply is built there: so the data of a WRITE or READ is not moved.
 *
 *      head ............. header argument | payload ...
 *                                  header | body ...         */

#define REQUEST_ROOM (sizeof(struct fuse_in_header) + UM_RING_ARGUMENT_ROOM)
#define ERROR_MAX 512 /* the kernel refuses errors from here on: they are its own */

/* ---- lists --------------------------------------------------------------------------------------- */

void um_entries_append(struct um_entries *list, struct um_entry *entry)
{
    entry->next = NULL;
    if (list->first == NULL)
        list->first = entry;
    else
        list->last->next = entry;
    list->last = entry;
}

struct um_entry *um_entries_pop(struct um_entries *list)
{
    struct um_entry *entry = list->first;
    if (entry != NULL)
        list->first = entry->next;
    return entry;
}

/* ---- memory -------------------------------------------------------------------------------------- */

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

struct um_entry *um_entry_make(struct um_queue *queue)
{
    struct um_entry *entry = calloc(1, sizeof *entry);
    size_t size = page_size() + queue->all->payload;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (entry == NULL || memory == MAP_FAILED) {
        if (memory != MAP_FAILED)
            munmap(memory, size);
        free(entry);
        return NULL;
    }
    entry->queue = queue;
    entry->head = memory;
    entry->payload = (uint8_t *)memory + page_size();
    entry->buffers[0] = (struct iovec){entry->head, sizeof *entry->head};
    entry->buffers[1] = (struct iovec){entry->payload, queue->all->payload};
    entry->sibling = queue->entries;
    queue->entries = entry;
    queue->n_entries++;
    return entry;
}

void um_entry_free(struct um_entry *entry)
{
    munmap(entry->head, page_size() + entry->queue->all->payload);
    free(entry);
}

int um_worker_make_room(struct um_worker *worker)
{
    worker->room = malloc(REQUEST_ROOM + UM_FUSE_BUFFER);
    return worker->room ? 0 : -ENOMEM;
}

/* ---- a request and its reply --------------------------------------------------------------------- */

/* Return the bytes of the argument, which are the rest of what the header says; -1 if that is
 * impossible. */
static ssize_t size_of_argument(const struct um_entry *entry, const struct fuse_in_header *header)
{
    uint64_t rest = sizeof *header + (uint64_t)entry->head->sizes.payload;
    if (entry->head->sizes.payload > entry->queue->all->payload || header->len < rest ||
        header->len > UM_FUSE_BUFFER || header->len - rest > UM_RING_ARGUMENT_ROOM ||
        (header->len - rest) % 8 != 0)
        return -1;
    return (ssize_t)(header->len - rest);
}

size_t um_entry_open(struct um_entry *entry, struct um_worker *worker)
{
    struct fuse_in_header header;
    memcpy(&header, entry->head->header, sizeof header);
    ssize_t argument = size_of_argument(entry, &header);
    if (argument < 0)
        return 0;
    size_t front = sizeof header + (size_t)argument;
    if (entry->head->sizes.payload != 0) {
        /* The reply is built elsewhere, as the request is read meanwhile. */
        worker->request = entry->payload - front;
        worker->reply = (uint8_t *)worker->room + REQUEST_ROOM;
    } else {
        worker->request = worker->room;
        worker->reply = entry->payload - sizeof(struct fuse_out_header);
    }
    memcpy(worker->request, &header, sizeof header);
    memcpy((uint8_t *)worker->request + sizeof header, entry->head->argument, (size_t)argument);
    return header.len;
}

void um_entry_detach(struct um_worker *worker, size_t size)
{
    uint8_t *room = (uint8_t *)worker->room + REQUEST_ROOM;
    if (worker->request == worker->room)
        return;
    memcpy(room, worker->request, size);
    worker->request = room;
}

int um_entry_fill(struct um_entry *entry, const void *message, size_t size)
{
    struct fuse_out_header out;
    if (size < sizeof out || size - sizeof out > entry->queue->all->payload)
        return -EINVAL;
    memcpy(&out, message, sizeof out);
    if (out.len != size || out.error > 0 || out.error <= -ERROR_MAX)
        return -EINVAL;
    const uint8_t *body = (const uint8_t *)message + sizeof out;
    if (body != entry->payload)
        memcpy(entry->payload, body, size - sizeof out);
    memcpy(entry->head->header, &out, sizeof out);
    entry->head->sizes.payload = (uint32_t)(size - sizeof out);
    return 0;
}

void um_entry_fill_error(struct um_entry *entry, uint64_t unique, int error)
{
    struct fuse_out_header out = {.len = sizeof out, .error = -error, .unique = unique};
    um_entry_fill(entry, &out, sizeof out);
}

void um_entry_answered(struct um_entry *entry, struct um_worker *worker,
                       const struct um_answer *answer)
{
    const struct fuse_in_header *header = worker->request;
    struct um_router *router = worker->router;
    if (answer->kind != UM_ANSWER_REPLY) {
        um_entry_fill_error(entry, header->unique,
                            0); /* a request without a reply has its entry back, too */
        return;
    }
    um_worker_count_data(worker, answer);
    for (int i = 0; i < 2; i++) {
        if (answer->stale[i] != 0) {
            um_router_count(&worker->counters.notifications, 1);
            um_router_notify(router->device, answer->stale[i]);
        }
    }
    if (um_entry_fill(entry, worker->reply, answer->size) != 0)
        um_entry_fill_error(entry, header->unique, EIO);
}

/* ---- who has it ---------------------------------------------------------------------------------- */

void um_taker_ring(struct um_taker *taker)
{
    uint64_t one = 1;
    if (write(taker->bell, &one, sizeof one) < 0)
        return; /* it has rung already */
}

/* Put an entry into the inbox of the queue's own taker, if that one would come to it at once, and
 * has no other. */
static bool put_into_own(struct um_entry *entry, bool answered)
{
    struct um_taker *own = entry->queue->own;
    if (own == NULL)
        return false;
    pthread_mutex_lock(&own->lock);
    bool put = !own->busy && own->held == 0;
    if (put) {
        entry->answered = answered;
        own->held++;
        um_entries_append(&own->inbox, entry);
    }
    pthread_mutex_unlock(&own->lock);
    if (put)
        um_taker_ring(own);
    return put;
}

bool um_entry_lend(struct um_entry *entry)
{
    return put_into_own(entry, false);
}

static void put_into_reserve(struct um_entry *entry)
{
    struct um_taker *reserve = entry->queue->reserve;
    entry->answered = true;
    pthread_mutex_lock(&reserve->lock);
    bool first = reserve->inbox.first == NULL;
    um_entries_append(&reserve->inbox, entry);
    pthread_mutex_unlock(&reserve->lock);
    if (first)
        um_taker_ring(reserve);
}

/* The kernel copies a reply in the thread that commits it. */
void um_entry_finish(struct um_entry *entry)
{
    if (entry->head->sizes.payload >= UM_BULK || !put_into_own(entry, true))
        put_into_reserve(entry);
}

int um_entry_reply(struct um_entry *entry, const void *message, size_t size)
{
    struct fuse_out_header out = {.unique = 0};
    int error = um_entry_fill(entry, message, size);
    if (error != 0 && size >= sizeof out) {
        memcpy(&out, message, sizeof out);
        um_entry_fill_error(entry, out.unique, EIO);
    }
    um_entry_finish(entry);
    return error;
}

void um_entry_reply_error(struct um_entry *entry, uint64_t unique, int error)
{
    um_entry_fill_error(entry, unique, error);
    um_entry_finish(entry);
}

void um_taker_gives(struct um_taker *taker)
{
    pthread_mutex_lock(&taker->lock);
    taker->held--;
    pthread_mutex_unlock(&taker->lock);
}

void um_taker_begins(struct um_taker *taker)
{
    pthread_mutex_lock(&taker->lock);
    taker->busy = true;
    pthread_mutex_unlock(&taker->lock);
}

struct um_entry *um_taker_next(struct um_taker *taker)
{
    pthread_mutex_lock(&taker->lock);
    struct um_entry *entry = um_entries_pop(&taker->inbox);
    taker->busy = entry != NULL;
    pthread_mutex_unlock(&taker->lock);
    return entry;
}

/* ---- all queues ---------------------------------------------------------------------------------- */

void um_queues_wake(struct um_router *router)
{
    struct um_queues *queues = router->queues;
    if (queues == NULL)
        return;
    for (uint32_t i = 0; i < queues->n_takers; i++)
        um_taker_ring(&queues->takers[i]);
    pthread_mutex_lock(&queues->lock);
    pthread_cond_broadcast(&queues->wanted);
    pthread_mutex_unlock(&queues->lock);
}

void um_queues_begin(struct um_router *router)
{
    if (router->queues == NULL)
        return;
    if (um_fastpath_uses_io_uring(router->fastpath))
        atomic_store(&router->queues->begun, true);
    else
        atomic_store(&router->refused, -EOPNOTSUPP);
    um_queues_wake(router);
}
