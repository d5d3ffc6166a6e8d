/* The router between a kernel and a pyfuse3 that are played here, each at the end of a socket. To be run
 * under TSAN as well. */
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "router/router.h"

#include "harness.h"
#include "upper_machine.h"

#define PATIENCE 20000 /* milliseconds until what should come has not */
#define UNKNOWN 60 /* an opcode of no meaning */
#define FIRST 61 /* another one */

struct world {
    struct machine machine;
    struct um_fastpath *fastpath;
    struct um_router *router;
    int kernel, slow;
    char path[64];
};

struct message {
    struct fuse_in_header header;
    uint8_t body[4096];
};

struct answer {
    struct fuse_out_header header;
    _Alignas(8) uint8_t body[8192];
    ssize_t size;
};

static void set_up(struct world *w, uint32_t threads)
{
    int ends[2];
    *w = (struct world){.machine.flags = UM_UPPER_VOLATILE | UM_UPPER_OVERRIDE};
    snprintf(w->path, sizeof w->path, "/dev/shm/um-router-XXXXXX");
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
        .fastpath = w->fastpath, .device = ends[1], .threads = threads, .spin = 20000};
    w->kernel = ends[0];
    if (um_router_open(&setup, &w->router, &w->slow) != 0 || um_router_start(w->router) != 0)
        abort();
}

static void tear_down(struct world *w)
{
    if (w->slow >= 0)
        close(w->slow);
    um_router_close(w->router);
    um_fastpath_close(w->fastpath);
    close(w->kernel);
    machine_close(&w->machine);
    close(w->machine.directory);
    rmdir(w->path);
}

static void ask_as(int kernel, uint32_t client, uint64_t unique, uint32_t opcode, uint64_t node,
                   const void *body, size_t size)
{
    struct message message = {.header = {.len = (uint32_t)(sizeof message.header + size),
                                         .opcode = opcode,
                                         .unique = unique,
                                         .nodeid = node,
                                         .pid = client}};
    memcpy(message.body, body, size);
    if (send(kernel, &message, message.header.len, MSG_NOSIGNAL) < 0)
        abort();
}

static void ask(int kernel, uint64_t unique, uint32_t opcode, uint64_t node, const void *body,
                size_t size)
{
    ask_as(kernel, 0, unique, opcode, node, body, size);
}

/* What comes; size 0 at the end, -1 where nothing came in time. */
static ssize_t receive(int fd, void *buffer, size_t room)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    return poll(&wait, 1, PATIENCE) == 1 ? recv(fd, buffer, room, 0) : -1;
}

static void receive_answer(int fd, struct answer *answer)
{
    _Alignas(8) uint8_t room[sizeof answer->header + sizeof answer->body];
    *answer = (struct answer){.size = receive(fd, room, sizeof room)};
    if (answer->size >= (ssize_t)sizeof answer->header) {
        memcpy(&answer->header, room, sizeof answer->header);
        memcpy(answer->body, room + sizeof answer->header,
               (size_t)answer->size - sizeof answer->header);
    }
}

static void init(struct world *w, struct answer *answer)
{
    struct fuse_init_in in = {
        .major = 7, .minor = 45, .max_readahead = 131072, .flags = UINT32_MAX};
    ask(w->kernel, 2, FUSE_INIT, 0, &in, sizeof in);
    receive_answer(w->kernel, answer);
}

/* The first request for pyfuse3, which an INIT precedes, and its reply. */
static void meet(struct world *w, struct message *slow_init)
{
    struct message first;
    struct answer answer;
    struct fuse_out_header reply = {.len = sizeof reply, .error = -ENOSYS, .unique = 3};
    ask(w->kernel, reply.unique, FIRST, 1, "", 0);
    if (receive(w->slow, slow_init, sizeof *slow_init) <= 0 ||
        receive(w->slow, &first, sizeof first) != sizeof first.header ||
        first.header.unique != reply.unique || send(w->slow, &reply, sizeof reply, 0) < 0)
        abort();
    receive_answer(w->kernel, &answer);
    if (answer.header.unique != reply.unique)
        abort();
}

static void begin(struct world *w, struct answer *answer, struct message *slow_init)
{
    init(w, answer);
    meet(w, slow_init);
}

static bool is_readable(int fd)
{
    struct pollfd now = {.fd = fd, .events = POLLIN};
    return poll(&now, 1, 0) == 1;
}

TEST(nothing_comes_for_pyfuse3_before_its_first_request)
{
    struct world w;
    struct answer answer;
    struct message slow;
    set_up(&w, 2);
    init(&w, &answer);
    ask(w.kernel, 4, FUSE_STATFS, 1, "", 0);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 4);
    CHECK(!is_readable(w.slow));
    meet(&w, &slow);
    CHECK_INT(slow.header.opcode, FUSE_INIT);
    CHECK(!is_readable(w.slow));
    tear_down(&w);
}

TEST(init_is_negotiated_with_both_sides)
{
    struct world w;
    struct answer answer;
    struct message slow;
    set_up(&w, 2);
    begin(&w, &answer, &slow);
    const struct fuse_init_out *out = (const void *)answer.body;
    CHECK_INT(answer.header.unique, 2);
    CHECK_INT(out->minor, FUSE_KERNEL_MINOR_VERSION);
    CHECK_INT(out->max_write, 1 << 20);
    CHECK_INT(out->flags & (FUSE_ATOMIC_O_TRUNC | FUSE_WRITEBACK_CACHE | FUSE_SPLICE_READ), 0);
    CHECK((out->flags & FUSE_HANDLE_KILLPRIV_V2) != 0);
    const struct fuse_init_in *in = (const void *)slow.body;
    CHECK_INT(slow.header.opcode, FUSE_INIT);
    CHECK_INT(in->minor, 13);
    struct fuse_out_header dropped = {.len = sizeof dropped, .unique = slow.header.unique};
    CHECK_INT(send(w.slow, &dropped, sizeof dropped, 0), sizeof dropped);
    ask(w.kernel, 4, FUSE_STATFS, 1, "", 0);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 4); /* not the reply to that INIT */
    tear_down(&w);
}

TEST(what_is_not_known_is_forwarded_and_its_reply_brought_back)
{
    struct world w;
    struct answer answer;
    struct message seen;
    set_up(&w, 2);
    begin(&w, &answer, &seen);
    ask(w.kernel, 10, UNKNOWN, 5, "body", 5);
    CHECK_INT(receive(w.slow, &seen, sizeof seen), sizeof seen.header + 5);
    CHECK_INT(seen.header.opcode, UNKNOWN);
    CHECK_INT(seen.header.unique, 10);
    CHECK(memcmp(seen.body, "body", 5) == 0);
    struct fuse_out_header notice = {.len = sizeof notice, .error = 3};
    struct fuse_out_header reply = {.len = sizeof reply, .error = -ENOSYS, .unique = 10};
    CHECK_INT(send(w.slow, &notice, sizeof notice, 0), sizeof notice);
    CHECK_INT(send(w.slow, &reply, sizeof reply, 0), sizeof reply);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 0);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 10);
    CHECK_INT(answer.header.error, -ENOSYS);
    CHECK_INT(send(w.slow, &reply, sizeof reply, 0), sizeof reply); /* once more: dropped */
    ask(w.kernel, 12, FUSE_GETATTR, 1, "", 0);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 12);
    tear_down(&w);
}

TEST(without_pyfuse3_what_would_be_forwarded_is_an_error)
{
    struct world w;
    struct answer answer;
    struct message seen;
    set_up(&w, 1);
    begin(&w, &answer, &seen);
    ask(w.kernel, 10, UNKNOWN, 5, "", 0);
    CHECK_INT(receive(w.slow, &seen, sizeof seen), sizeof seen.header);
    close(w.slow);
    w.slow = -1;
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 10);
    CHECK_INT(answer.header.error, -EIO);
    ask(w.kernel, 12, UNKNOWN, 5, "", 0);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.unique, 12);
    CHECK_INT(answer.header.error, -EIO);
    ask(w.kernel, 14, FUSE_GETATTR, 1, "", 0);
    receive_answer(w.kernel, &answer);
    CHECK_INT(answer.header.error, 0);
    tear_down(&w);
}

/* Threads that have gone to sleep so far, once they are more than `before`, or after a while. */
static uint64_t sleeps_after(struct world *w, uint64_t before)
{
    struct um_router_stats stats;
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += 5000000;
    do {
        um_router_get_stats(w->router, &stats);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (stats.sleeps <= before &&
             (now.tv_sec - end.tv_sec) * 1000000000 + now.tv_nsec < end.tv_nsec);
    return stats.sleeps;
}

/* One that is still starting may take a request, too, and then it sleeps for no one: so it is at most
 * one for each request. */
TEST(a_request_wakes_one_thread)
{
    struct world w;
    struct answer answer;
    struct message slow;
    set_up(&w, 4);
    begin(&w, &answer, &slow);
    uint64_t first = sleeps_after(&w, 1), slept = first;
    for (uint64_t i = 0; i < 50; i++) {
        ask(w.kernel, 4 + 2 * i, FUSE_STATFS, 1, "", 0);
        receive_answer(w.kernel, &answer);
        CHECK_INT(answer.header.unique, 4 + 2 * i);
        slept = sleeps_after(&w, slept);
        CHECK(slept <= first + i + 2);
    }
    CHECK(slept > 25);
    tear_down(&w);
}

/* What a client sends that makes and removes a file, and what the kernel sends by itself in between. */
static void make_and_remove(struct world *w, uint64_t unique, uint32_t client)
{
    struct {
        struct fuse_mknod_in in;
        char name[4];
    } make = {.in.mode = S_IFREG | 0644, .name = "new"};
    const struct fuse_forget_in forget = {.nlookup = 1};
    struct answer answer;
    ask_as(w->kernel, client, unique, FUSE_MKNOD, UM_ROOT_NODE, &make, sizeof make);
    receive_answer(w->kernel, &answer);
    CHECK_INT(answer.header.error, 0);
    const struct fuse_entry_out *made = (const void *)answer.body;
    uint64_t node = made->nodeid;
    ask_as(w->kernel, client, unique + 2, FUSE_UNLINK, UM_ROOT_NODE, "new", 4);
    receive_answer(w->kernel, &answer);
    CHECK_INT(answer.header.error, 0);
    ask_as(w->kernel, 0, unique + 4, FUSE_FORGET, node, &forget, sizeof forget);
}

/* Several clients keep several threads awake, but the kernel's forgetting is no client. */
TEST(forgetting_wakes_nobody)
{
    struct world w;
    struct answer answer;
    struct message slow;
    struct um_router_stats before, after;
    const unsigned rounds = 50;
    set_up(&w, 4);
    begin(&w, &answer, &slow);
    for (unsigned i = 0; i < rounds; i++) /* until the router knows that there is only one client */
        make_and_remove(&w, 100 + 10 * i, 7);
    um_router_get_stats(w.router, &before);
    for (unsigned i = 0; i < rounds; i++)
        make_and_remove(&w, 1000 + 10 * i, 7);
    um_router_get_stats(w.router, &after);
    CHECK_INT(after.fast[FUSE_UNLINK] - before.fast[FUSE_UNLINK], rounds);
    CHECK_INT(after.calls - before.calls, 0);
    for (unsigned i = 0; i < rounds; i++)
        make_and_remove(&w, 2000 + 10 * i, 7 + i % 2);
    um_router_get_stats(w.router, &after);
    CHECK(after.calls > before.calls); /* two clients do */
    tear_down(&w);
}

TEST(the_end_of_the_connection_is_told)
{
    struct world w;
    struct answer answer;
    struct message seen;
    set_up(&w, 3);
    begin(&w, &answer, &seen);
    shutdown(w.kernel, SHUT_WR);
    struct pollfd ended = {.fd = um_router_ended(w.router), .events = POLLIN};
    CHECK_INT(poll(&ended, 1, PATIENCE), 1);
    tear_down(&w);
}

#define REQUESTS 3000

/* Answers what is forwarded, until the socket ends. */
static void *play_pyfuse3(void *argument)
{
    struct world *w = argument;
    struct message seen;
    while (recv(w->slow, &seen, sizeof seen, 0) > 0) {
        struct fuse_out_header reply = {
            .len = sizeof reply, .error = -ENOSYS, .unique = seen.header.unique};
        if (send(w->slow, &reply, sizeof reply, MSG_NOSIGNAL) < 0)
            break;
    }
    return NULL;
}

/* Sends requests of many kinds, some of which wait for the disk, in no order. */
static void *play_clients(void *argument)
{
    struct world *w = argument;
    struct fuse_mknod_in mknod = {.mode = S_IFREG | 0644};
    struct fuse_fsync_in fsync = {0};
    for (uint64_t i = 0; i < REQUESTS; i++) {
        uint8_t body[64];
        uint64_t unique = 100 + 2 * i;
        switch (i % 6) {
        case 0:
            memcpy(body, &mknod, sizeof mknod);
            snprintf((char *)body + sizeof mknod, 16, "n%u", (unsigned)(i % 50));
            ask(w->kernel, unique, FUSE_MKNOD, 1, body, sizeof mknod + 4);
            break;
        case 1:
            ask(w->kernel, unique, FUSE_LOOKUP, 1, "a", 2);
            break;
        case 2:
            ask(w->kernel, unique, FUSE_FSYNCDIR, 1, &fsync, sizeof fsync);
            break;
        case 3:
            ask(w->kernel, unique, UNKNOWN, 1, "", 0);
            break;
        case 4:
            snprintf((char *)body, sizeof body, "n%u", (unsigned)(i % 50));
            ask(w->kernel, unique, FUSE_UNLINK, 1, body, strlen((char *)body) + 1);
            break;
        default:
            ask(w->kernel, unique, FUSE_GETATTR, 1, "", 0);
        }
    }
    return NULL;
}

static void check_all_answered(uint32_t threads)
{
    struct world w;
    struct answer answer;
    struct message seen;
    pthread_t pyfuse3, clients;
    static uint8_t answered[REQUESTS];
    struct um_router_stats *stats = malloc(sizeof *stats);
    memset(answered, 0, sizeof answered);
    set_up(&w, threads);
    begin(&w, &answer, &seen);
    pthread_create(&pyfuse3, NULL, play_pyfuse3, &w);
    pthread_create(&clients, NULL, play_clients, &w);
    unsigned wrong = 0;
    for (unsigned i = 0; i < REQUESTS; i++) {
        receive_answer(w.kernel, &answer);
        uint64_t number = (answer.header.unique - 100) / 2;
        if (answer.size <= 0 || number >= REQUESTS || answered[number]++ != 0)
            wrong++;
    }
    CHECK_INT(wrong, 0);
    pthread_join(clients, NULL);
    um_router_get_stats(w.router, stats);
    CHECK_INT(stats->forwarded[UNKNOWN], REQUESTS / 6);
    CHECK_INT(stats->fast[FUSE_LOOKUP], REQUESTS / 6);
    CHECK_INT(stats->in_flight, 0);
    shutdown(w.slow, SHUT_RDWR);
    pthread_join(pyfuse3, NULL);
    free(stats);
    tear_down(&w);
}

TEST(every_request_is_answered_once_by_one_thread)
{
    check_all_answered(1);
}

TEST(every_request_is_answered_once_by_many_threads)
{
    check_all_answered(4);
}
