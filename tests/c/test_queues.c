/* How the threads that serve queues of FUSE over io_uring hand entries to each other. The kernel, the
 * takers and pyfuse3 are played here, so that this runs where FUSE over io_uring is switched off. To
 * be run under TSAN as well. */
#include <poll.h>
#include <sys/socket.h>

#include "router/queues.h"

#include "harness.h"
#include "upper_machine.h"

#define QUEUES 2
#define ENTRIES 6 /* of each queue */
#define REQUESTS 4000 /* of each queue */
#define UNKNOWN 60 /* an opcode that is forwarded */

struct world {
    struct machine machine;
    struct um_fastpath *fastpath;
    struct um_router *router;
    int kernel, slow;
    char path[64];
    pthread_mutex_t lock;
    struct um_entries idle[QUEUES]; /* under lock */
    uint8_t answered[QUEUES][REQUESTS]; /* under lock: how often */
    unsigned wrong; /* under lock */
    atomic_uint left; /* requests that are not answered yet */
    struct um_queue *queues;
};

struct player {
    struct world *w;
    struct um_taker *taker;
    unsigned queue;
};

/* False where the system forbids io_uring. */
static bool set_up(struct world *w)
{
    int ends[2];
    *w = (struct world){.machine.flags = UM_UPPER_VOLATILE | UM_UPPER_OVERRIDE};
    if (um_uring_probe() != 0) {
        puts("not run: io_uring is forbidden here");
        return false;
    }
    snprintf(w->path, sizeof w->path, "/dev/shm/um-queues-XXXXXX");
    if (mkdtemp(w->path) == NULL ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    machine_layers(&w->machine.stack);
    machine_open(&w->machine, open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const char *layers[] = {"below", "above", "upper"};
    struct um_fastpath_setup fast = {.keeps = UM_FOREVER,
                                     .tree = w->machine.stack.tree,
                                     .upper = w->machine.upper,
                                     .statfs_fd = w->machine.above,
                                     .layers = layers,
                                     .n_layers = 3,
                                     .max_open_files = 4};
    if (um_fastpath_open(&fast, &w->fastpath) != 0)
        abort();
    struct um_router_setup setup = {
        .fastpath = w->fastpath, .device = ends[1], .threads = 1, .queues = QUEUES};
    w->kernel = ends[0];
    if (um_router_open(&setup, &w->router, &w->slow) != 0)
        abort();
    pthread_mutex_init(&w->lock, NULL);
    w->queues = w->router->queues->queues;
    return true;
}

static void tear_down(struct world *w)
{
    close(w->slow);
    um_router_close(w->router);
    um_fastpath_close(w->fastpath);
    close(w->kernel);
    machine_close(&w->machine);
    close(w->machine.directory);
    rmdir(w->path);
    pthread_mutex_destroy(&w->lock);
}

/* Put a request into an entry, as the kernel does. */
static void put(struct um_entry *entry, uint64_t unique, uint32_t opcode, const void *argument,
                uint32_t size, const char *payload)
{
    uint32_t rest = payload ? (uint32_t)strlen(payload) + 1 : 0;
    struct fuse_in_header header = {.len = (uint32_t)sizeof header + size + rest,
                                    .opcode = opcode,
                                    .unique = unique,
                                    .nodeid = FUSE_ROOT_ID};
    memcpy(entry->head->header, &header, sizeof header);
    if (size != 0)
        memcpy(entry->head->argument, argument, size);
    if (rest != 0)
        memcpy(entry->payload, payload, rest);
    entry->head->sizes = (struct um_ring_sizes){.commit_id = unique, .payload = rest};
    entry->commit_id = unique;
    entry->begun = um_router_now();
}

static void put_number(struct um_entry *entry, uint64_t unique, unsigned number)
{
    const struct fuse_fsync_in fsync = {0};
    switch (number % 4) {
    case 0:
        put(entry, unique, FUSE_GETATTR, &(struct fuse_getattr_in){0},
            sizeof(struct fuse_getattr_in), NULL);
        break;
    case 1:
        put(entry, unique, FUSE_LOOKUP, NULL, 0, "no such name");
        break;
    case 2:
        put(entry, unique, FUSE_FSYNCDIR, &fsync, sizeof fsync, NULL);
        break;
    default:
        put(entry, unique, UNKNOWN, NULL, 0, "body");
    }
}

/* Check what would be committed, and offer the entry again. */
static void commit(struct world *w, struct um_entry *entry)
{
    struct fuse_out_header out;
    memcpy(&out, entry->head->header, sizeof out);
    unsigned queue = entry->queue->id, number = (unsigned)(out.unique / QUEUES) - 1;
    int expected = number % 4 == 3 ? -ENOSYS : 0;
    pthread_mutex_lock(&w->lock);
    if (out.unique != entry->commit_id || out.unique % QUEUES != queue || number >= REQUESTS ||
        out.error != expected || w->answered[queue][number]++ != 0)
        w->wrong++;
    um_entries_append(&w->idle[queue], entry);
    pthread_mutex_unlock(&w->lock);
    atomic_fetch_sub(&w->left, 1);
}

/* A taker; an own one answers the requests that it is lent. */
static void *play_taker(void *argument)
{
    struct player *player = argument;
    struct um_taker *taker = player->taker;
    struct um_router *router = player->w->router;
    struct pollfd bell = {.fd = taker->bell, .events = POLLIN};
    struct um_entry *entry;
    uint64_t rung;
    while (atomic_load(&player->w->left) != 0) {
        if (poll(&bell, 1, 1) == 1 && read(taker->bell, &rung, sizeof rung) < 0)
            abort();
        um_taker_begins(taker);
        while ((entry = um_taker_next(taker)) != NULL) {
            if (taker->queue != NULL)
                um_taker_gives(taker); /* it offers nothing, so that it is always lent some */
            if (entry->answered) {
                commit(player->w, entry);
                continue;
            }
            struct um_worker *worker = &taker->worker;
            size_t size = um_entry_open(entry, worker);
            struct um_answer answer =
                um_fastpath_answer(router->fastpath, worker->request, size, worker->reply, false);
            if (answer.kind == UM_ANSWER_LATER) {
                um_hands_give(router, entry);
            } else if (answer.kind == UM_ANSWER_FORWARD) {
                if (!um_router_forward(router, worker, entry, size, entry->begun, false))
                    um_hands_give(router, entry);
            } else {
                um_entry_answered(entry, worker, &answer);
                commit(player->w, entry);
            }
        }
    }
    return NULL;
}

/* The kernel, and the reserve as far as it passes requests on. */
static void *play_kernel(void *argument)
{
    struct player *player = argument;
    struct world *w = player->w;
    for (unsigned i = 0; i < REQUESTS;) {
        pthread_mutex_lock(&w->lock);
        struct um_entry *entry = um_entries_pop(&w->idle[player->queue]);
        pthread_mutex_unlock(&w->lock);
        if (entry == NULL) {
            sched_yield();
            continue;
        }
        put_number(entry, (uint64_t)(i + 1) * QUEUES + player->queue, i);
        i++;
        if (!um_entry_lend(entry))
            um_hands_give(w->router, entry);
    }
    return NULL;
}

static void *play_pyfuse3(void *argument)
{
    struct world *w = argument;
    _Alignas(8) uint8_t seen[4096];
    while (recv(w->slow, seen, sizeof seen, 0) > 0) {
        const struct fuse_in_header *header = (const void *)seen;
        struct fuse_out_header reply = {
            .len = sizeof reply, .error = -ENOSYS, .unique = header->unique};
        if (header->opcode == UNKNOWN && send(w->slow, &reply, sizeof reply, MSG_NOSIGNAL) < 0)
            break;
    }
    return NULL;
}

TEST(every_request_of_a_queue_is_answered_once)
{
    static struct world w;
    if (!set_up(&w))
        return;
    struct um_queues *all = w.router->queues;
    struct player takers[2 * QUEUES + 1], kernels[QUEUES];
    pthread_t threads[2 * QUEUES + 1], sources[QUEUES], pyfuse3;
    unsigned n = 0;
    atomic_store(&w.left, QUEUES * REQUESTS);
    for (unsigned i = 0; i < QUEUES; i++) {
        if (w.queues[i].own != NULL)
            w.queues[i].own->held = 0;
        for (unsigned j = 0; j < ENTRIES; j++) {
            struct um_entry *entry = um_entry_make(&w.queues[i]);
            if (entry == NULL)
                abort();
            um_entries_append(&w.idle[i], entry);
        }
    }
    if (um_hands_add(all) != 0 ||
        um_router_start_thread(&w.router->replies, um_router_replies, w.router) != 0)
        abort();
    w.router->replies_run = true;
    pthread_create(&pyfuse3, NULL, play_pyfuse3, &w);
    for (uint32_t i = 0; i < all->n_takers; i++) {
        takers[n] = (struct player){.w = &w, .taker = &all->takers[i]};
        pthread_create(&threads[n], NULL, play_taker, &takers[n]);
        n++;
    }
    for (unsigned i = 0; i < QUEUES; i++) {
        kernels[i] = (struct player){.w = &w, .queue = i};
        pthread_create(&sources[i], NULL, play_kernel, &kernels[i]);
    }
    for (unsigned i = 0; i < QUEUES; i++)
        pthread_join(sources[i], NULL);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(w.wrong, 0);
    shutdown(w.slow, SHUT_RDWR);
    pthread_join(pyfuse3, NULL);
    tear_down(&w);
}

TEST(a_request_whose_sizes_do_not_fit_is_none)
{
    static struct world w;
    if (!set_up(&w))
        return;
    struct um_worker worker = {.router = w.router, .device = -1};
    struct um_entry *entry = um_entry_make(&w.queues[0]);
    if (entry == NULL || um_worker_make_room(&worker) != 0)
        abort();
    put(entry, 2, FUSE_LOOKUP, NULL, 0, "name");
    CHECK_INT(um_entry_open(entry, &worker), sizeof(struct fuse_in_header) + 5);
    CHECK(memcmp((uint8_t *)worker.request + sizeof(struct fuse_in_header), "name", 5) == 0);
    struct um_ring_sizes good = entry->head->sizes;
    entry->head->sizes.payload = UINT32_MAX;
    CHECK_INT(um_entry_open(entry, &worker), 0);
    entry->head->sizes.payload = (uint32_t)w.router->queues->payload + 1;
    CHECK_INT(um_entry_open(entry, &worker), 0);
    entry->head->sizes.payload = 6; /* more than the header says */
    CHECK_INT(um_entry_open(entry, &worker), 0);
    entry->head->sizes.payload = 4; /* the rest is no struct */
    CHECK_INT(um_entry_open(entry, &worker), 0);
    entry->head->sizes = good;
    uint32_t length = (uint32_t)sizeof(struct fuse_in_header) + UM_RING_ARGUMENT_ROOM + 8 + 5;
    memcpy(entry->head->header, &length, sizeof length);
    CHECK_INT(um_entry_open(entry, &worker), 0);
    free(worker.room);
    tear_down(&w);
}

TEST(a_reply_that_is_none_becomes_an_error)
{
    static struct world w;
    if (!set_up(&w))
        return;
    struct um_entry *entry = um_entry_make(&w.queues[0]);
    struct fuse_out_header good = {.len = sizeof good, .error = -ENOENT, .unique = 6}, bad = good;
    CHECK_INT(um_entry_fill(entry, &good, sizeof good), 0);
    CHECK_INT(um_entry_fill(entry, &good, sizeof good - 1), -EINVAL);
    bad.len++;
    CHECK_INT(um_entry_fill(entry, &bad, sizeof bad), -EINVAL);
    bad = good;
    bad.error = 1;
    CHECK_INT(um_entry_fill(entry, &bad, sizeof bad), -EINVAL);
    bad.error = -512;
    CHECK_INT(um_entry_fill(entry, &bad, sizeof bad), -EINVAL);
    struct um_taker *own = w.queues[0].own;
    if (own != NULL)
        own->held = 0;
    CHECK_INT(um_entry_reply(entry, &bad, sizeof bad), -EINVAL);
    struct um_entry *back = um_taker_next(own ? own : w.queues[0].reserve);
    CHECK(back == entry);
    memcpy(&good, entry->head->header, sizeof good);
    CHECK_INT(good.error, -EIO);
    CHECK_INT(good.unique, 6);
    tear_down(&w);
}
