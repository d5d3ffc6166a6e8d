/*
 * router/queues.h - declarations of the files that take requests from FUSE over io_uring.
 *
 * The kernel has one queue for each possible processor, and puts a request into the queue of the
 * processor that its client runs on. An *entry* of a queue is a pair of buffers for one request
 * and its reply. It is *idle* while the kernel may put a request into it. Otherwise a thread of the
 * router has it, or it is in an inbox. docs/explanation/io-uring.md has the rules.
 *
 * A *taker* is a thread with a ring: it offers entries to the kernel, takes the requests in them, and
 * commits the replies. No other thread uses its ring. Others put entries into its inbox and ring
 * its bell. There are two kinds:
 *
 *   own       the taker of one queue, on the processor of that queue; it answers in place. While it
 *             does, which may take long, it offers no entry, so no request waits for it.
 *   reserve   the taker of the other entries of many queues; it answers nothing, and so never waits:
 *             it passes requests on to the own taker, if that one has no entry and nothing to do, or to
 *             the hands.
 *
 * *Hands* are threads that answer what may wait.
 *
 * Each file uses those below it: queues.c (starting and ending), takers.c (the threads), hands.c, entries.c.
 */
#ifndef UM_ROUTER_QUEUES_H
#define UM_ROUTER_QUEUES_H

#include <sys/uio.h>

#include "router/state.h"
#include "uring/protocol.h"
#include "uring/uring.h"

#define UM_QUEUES_MAX 4096u /* processors; the kernel's own limit is 8,192 */
#define UM_BULK \
    65536u /* bytes; as much data is better copied by another processor than the client's */

struct um_taker;

struct um_queue {
    struct um_queues *all;
    uint16_t id;
    struct um_taker *own; /* NULL: the queue has none */
    struct um_taker *reserve;
    /* Of the thread of the reserve: */
    uint32_t idle; /* entries that the reserve offers */
    uint32_t n_entries; /* all of the queue */
    struct um_entry *entries; /* the list of them, by `sibling` */
};

struct um_entry {
    struct um_queue *queue;
    struct um_entry *sibling;
    struct um_entry *next; /* in an inbox, or in front of the hands */
    struct um_ring_head *head;
    uint8_t *payload; /* of queue->all->payload bytes; there is room for a header in front of it */
    struct iovec buffers[2]; /* what the kernel is told of them, once */
    uint64_t begun; /* nanoseconds: when its request was taken */
    uint64_t commit_id;
    bool vital; /* the kernel uses no queue before it has this entry */
    bool answered; /* in an inbox: the reply is there; otherwise the request is */
};

/* A list of entries, in order. */
struct um_entries {
    struct um_entry *first, *last;
};

struct um_taker {
    struct um_worker worker;
    struct um_uring ring;
    struct um_queue *queue; /* of an own taker; NULL: a reserve */
    struct um_entry *first; /* that an own taker offers at the start */
    int processor; /* to run on; -1: any */
    int bell; /* an eventfd */
    uint64_t rung; /* what was read from it */
    bool runs; /* its thread was started */
    bool registered; /* its entries were offered for the first time */

    pthread_mutex_t lock;
    bool busy; /* under lock: it may be answering, so it takes nothing out of the inbox */
    uint32_t held; /* under lock: entries that it offers, has in its inbox or answers */
    struct um_entries inbox; /* under lock */
};

struct um_queues {
    struct um_router *router;
    uint32_t n;
    size_t payload; /* bytes of an entry's payload */
    struct um_queue *queues;
    uint32_t n_takers;
    struct um_taker *takers; /* the reserves, then the own ones */
    atomic_bool begun; /* the kernel has agreed to use the queues */
    atomic_uint grown; /* entries beyond those at the start */

    pthread_mutex_t lock; /* of the hands */
    pthread_cond_t wanted;
    struct um_entries waiting; /* under lock: for a hand */
    uint32_t n_waiting, n_hands, n_idle; /* under lock */
    struct um_worker *hands[UM_ROUTER_MAX_THREADS]; /* under lock; they stay */
};

/* ---- router/queues.c --------------------------------------------------------------------------- */

int um_queues_open(struct um_router *router, uint32_t n);
int um_queues_start(struct um_router *router);
/* Wait until all threads have ended, once the router is stopping. */
void um_queues_join(struct um_router *router);
void um_queues_close(struct um_router *router);

/* ---- router/takers.c --------------------------------------------------------------------------- */

void *um_taker_run(void *taker); /* the thread */
/* Commit the replies that came after the thread had ended. */
void um_taker_flush(struct um_taker *taker);

/* ---- router/hands.c ---------------------------------------------------------------------------- */

/* Have a hand answer the request of an entry. */
void um_hands_give(struct um_router *router, struct um_entry *entry);
/* Add a hand. */
int um_hands_add(struct um_queues *queues);

/* ---- router/entries.c -------------------------------------------------------------------------- */

void um_entries_append(struct um_entries *list, struct um_entry *entry);
struct um_entry *um_entries_pop(struct um_entries *list);

/* Make an entry of a queue; the thread of the reserve alone may. NULL if memory is short. */
struct um_entry *um_entry_make(struct um_queue *queue);
void um_entry_free(struct um_entry *entry);

/* Give a worker buffers for the requests of entries and their replies. */
int um_worker_make_room(struct um_worker *worker);
/* Let worker->request and worker->reply be those of an entry; return the size of the request, or 0 if it
 * is malformed. */
size_t um_entry_open(struct um_entry *entry, struct um_worker *worker);
/* Let worker->request be a copy, as the entry may have another request while this one is read. */
void um_entry_detach(struct um_worker *worker, size_t size);
/* Let the reply of the entry be a message: a header, and a body that may be in its place already.
 * -EINVAL if it is not a reply. */
int um_entry_fill(struct um_entry *entry, const void *message, size_t size);
/* Let the reply be an error, which may be 0. */
void um_entry_fill_error(struct um_entry *entry, uint64_t unique, int error);
/* Have the reply of an entry committed. */
void um_entry_finish(struct um_entry *entry);
/* Fill in a reply and have it committed; -EINVAL: it is EIO instead. */
int um_entry_reply(struct um_entry *entry, const void *message, size_t size);
void um_entry_reply_error(struct um_entry *entry, uint64_t unique, int error);
/* Count, notify and fill in what the fast path answered. */
void um_entry_answered(struct um_entry *entry, struct um_worker *worker,
                       const struct um_answer *answer);

/* Pass an entry whose request is not answered on to the queue's own taker; false if that one is
 * busy or has entries. */
bool um_entry_lend(struct um_entry *entry);
/* An own taker gives away one of the entries that it held. */
void um_taker_gives(struct um_taker *taker);
/* Take the next entry out of the inbox. NULL: it is empty, and the taker is not busy any more. */
struct um_entry *um_taker_next(struct um_taker *taker);
void um_taker_begins(struct um_taker *taker);
/* Wake a taker. */
void um_taker_ring(struct um_taker *taker);

/* The kernel's INIT was answered: offer the entries, or end if the kernel did not agree. */
void um_queues_begin(struct um_router *router);
/* Wake all threads, as the router is stopping. */
void um_queues_wake(struct um_router *router);

#endif
