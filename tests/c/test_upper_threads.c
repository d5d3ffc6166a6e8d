#include <pthread.h>

#include "harness.h"
#include "upper_machine.h"

/* Threads that change one upper at once, each at random, in the same few directories. What comes of it
 * nobody can say; that nothing breaks, and that lookup and list agree in the end, can be seen. To be
 * run under TSAN as well, where races show. */

#define THREADS 4
#define STEPS 1500

#define ABANDON(what)                  \
    do {                               \
        fprintf(stderr, "%s\n", what); \
        abort();                       \
    } while (0)

static struct machine shared;

struct worker {
    pthread_t thread;
    uint64_t random;
    unsigned done;
};

static unsigned roll(struct worker *worker, unsigned n)
{
    worker->random = worker->random * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(worker->random >> 40) % n;
}

static const char *const names[] = {"a", "b", "c", "dir", "sub", "hard", "x", "link"};

/* A directory of the mount, looked up; the caller forgets it (the root needs none). */
static uint64_t pick_directory(struct worker *worker)
{
    struct um_attr attr;
    uint64_t node = UM_ROOT_NODE;
    for (unsigned depth = roll(worker, 3); depth != 0; depth--) {
        const char *name = names[roll(worker, 8)];
        if (um_upper_lookup(shared.upper, node, name, strlen(name), &attr) != 0)
            break;
        if (!S_ISDIR(attr.mode)) {
            um_upper_forget(shared.upper, attr.node, 1);
            break;
        }
        if (node != UM_ROOT_NODE)
            um_upper_forget(shared.upper, node, 1);
        node = attr.node;
    }
    return node;
}

static void let_go(uint64_t node)
{
    if (node != UM_ROOT_NODE)
        um_upper_forget(shared.upper, node, 1);
}

static void list_it(uint64_t directory)
{
    struct um_upper_list *list;
    struct um_tree_entry entries[8];
    uint64_t cookie = 0;
    int n;
    if (um_upper_list_open(shared.upper, directory, &list) != 0)
        return;
    while ((n = um_upper_list_next(list, cookie, entries, 8)) > 0) {
        for (int i = 0; i < n; i++)
            um_upper_forget(shared.upper, entries[i].attr.node, 1);
        cookie = entries[n - 1].next;
    }
    um_upper_list_close(list);
}

static void use_file(struct worker *worker, uint64_t directory, const char *name)
{
    struct um_attr attr;
    char bytes[64] = "data";
    if (um_upper_lookup(shared.upper, directory, name, strlen(name), &attr) != 0)
        return;
    static const unsigned ways[] = {0, UM_UPPER_OPEN_WRITE, UM_UPPER_OPEN_WRITE,
                                    UM_UPPER_OPEN_WRITE | UM_UPPER_OPEN_TRUNCATE};
    unsigned flags = ways[roll(worker, 4)];
    unsigned empty = flags & UM_UPPER_OPEN_TRUNCATE ? UM_UPPER_COPY_UP_EMPTY : 0;
    int error = um_upper_open_file(shared.upper, attr.node, flags);
    /* Somebody may copy the name up meanwhile, without its data. */
    for (unsigned tries = 0; error == -EAGAIN; tries++) {
        if (tries == 4)
            ABANDON("opening still asks for copy-up");
        if (um_upper_copy_up(shared.upper, attr.node, empty) != 0)
            break;
        error = um_upper_open_file(shared.upper, attr.node, flags);
    }
    if (error == 0) {
        if (flags != 0)
            um_upper_write(shared.upper, attr.node, roll(worker, 100), bytes, sizeof bytes);
        um_upper_read(shared.upper, attr.node, 0, bytes, sizeof bytes, 0);
        um_upper_getattr(shared.upper, attr.node, &attr);
        um_upper_release(shared.upper, attr.node);
    }
    uint64_t node = attr.node;
    struct um_upper_changes set = {.which = UM_UPPER_SET_MODE, .mode = 0600 | roll(worker, 64)};
    if (roll(worker, 4) == 0)
        set.which = UM_UPPER_SET_SIZE;
    um_upper_setattr(shared.upper, node, &set, &attr);
    um_upper_forget(shared.upper, node, 1);
}

/* Xattrs, and the data of a file of which only the attributes were changed; it may be forgotten while
 * it is copied. */
static void change_file(struct worker *worker, uint64_t directory, const char *name)
{
    struct um_attr attr;
    char value[16];
    if (um_upper_lookup(shared.upper, directory, name, strlen(name), &attr) != 0)
        return;
    if (roll(worker, 2))
        um_upper_setxattr(shared.upper, attr.node, "user.a", 6, "value", 5, 0);
    else
        um_upper_removexattr(shared.upper, attr.node, "user.a", 6);
    um_upper_getxattr(shared.upper, attr.node, "user.a", 6, value, sizeof value);
    bool early = roll(worker, 2);
    if (early)
        um_upper_forget(shared.upper, attr.node, 1);
    um_upper_copy_up(shared.upper, attr.node, 0);
    if (!early)
        um_upper_forget(shared.upper, attr.node, 1);
}

static void made(int error, const struct um_attr *attr)
{
    if (error == 0)
        um_upper_forget(shared.upper, attr->node, 1);
}

static void link_it(struct worker *worker, uint64_t directory, const char *name, const char *other)
{
    struct um_attr attr, linked;
    if (um_upper_lookup(shared.upper, directory, name, strlen(name), &attr) != 0)
        return;
    uint64_t to = pick_directory(worker);
    made(um_upper_link(shared.upper, attr.node, to, other, strlen(other), &linked), &linked);
    let_go(to);
    um_upper_forget(shared.upper, attr.node, 1);
}

/* A file without a name, which may get one or two. */
static void use_nameless(struct worker *worker, uint64_t directory, const char *name)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr, linked;
    int fd;
    int error = um_upper_tmpfile(shared.upper, directory, 0644, &maker, &attr);
    if (error != 0) /* it was removed; or the disk has none */
        return;
    if (um_upper_open_file(shared.upper, attr.node, UM_UPPER_OPEN_WRITE) != 0)
        ABANDON("a file without a name can't be opened");
    um_upper_write(shared.upper, attr.node, 0, name, strlen(name));
    bool early = roll(worker, 2);
    if (early)
        um_upper_release(shared.upper, attr.node);
    for (unsigned i = roll(worker, 3); i != 0; i--) {
        uint64_t to = pick_directory(worker);
        made(um_upper_link(shared.upper, attr.node, to, name, strlen(name), &linked), &linked);
        let_go(to);
    }
    if (!early)
        um_upper_release(shared.upper, attr.node);
    if (um_upper_open_path(shared.upper, attr.node, &fd) == 0)
        close(fd);
    um_upper_forget(shared.upper, attr.node, 1);
}

static void step(struct worker *worker)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr;
    const char *name = names[roll(worker, 8)], *other = names[roll(worker, 8)];
    size_t size = strlen(name);
    uint64_t directory = pick_directory(worker);
    switch (roll(worker, 14)) {
    case 0:
        made(um_upper_mkdir(shared.upper, directory, name, size, 0755, &maker, &attr), &attr);
        break;
    case 1:
        made(um_upper_mknod(shared.upper, directory, name, size, S_IFREG | 0644, 0, 0, &maker,
                            &attr),
             &attr);
        break;
    case 2:
        um_upper_unlink(shared.upper, directory, name, size);
        break;
    case 3:
        um_upper_rmdir(shared.upper, directory, name, size);
        break;
    case 4:
    case 5: {
        uint64_t to = pick_directory(worker);
        um_upper_rename(shared.upper, directory, name, size, to, other, strlen(other),
                        roll(worker, 4) ? 0 : RENAME_EXCHANGE);
        let_go(to);
        break;
    }
    case 6:
        list_it(directory);
        break;
    case 7:
        link_it(worker, directory, name, other);
        break;
    case 8:
        use_nameless(worker, directory, name);
        break;
    case 9:
    case 10:
        change_file(worker, directory, name);
        break;
    default:
        use_file(worker, directory, name);
    }
    let_go(directory);
    worker->done++;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (unsigned i = 0; i < STEPS; i++)
        step(worker);
    return NULL;
}

/* Lookup and list agree about a directory and all below; how many names. */
static unsigned check_directory(uint64_t directory)
{
    struct um_upper_list *list;
    struct um_tree_entry entry;
    struct um_attr attr;
    uint64_t cookie = 0;
    unsigned n = 0;
    CHECK_INT(um_upper_list_open(shared.upper, directory, &list), 0);
    while (um_upper_list_next(list, cookie, &entry, 1) == 1) {
        CHECK_INT(um_upper_lookup(shared.upper, directory, entry.name, entry.name_size, &attr), 0);
        CHECK_INT(attr.node, entry.attr.node);
        CHECK_INT(attr.nlink, entry.attr.nlink);
        n += 1 + (S_ISDIR(attr.mode) ? check_directory(attr.node) : 0);
        um_upper_forget(shared.upper, attr.node, 2);
        cookie = entry.next;
    }
    um_upper_list_close(list);
    return n;
}

TEST(threads_may_change_an_upper_at_once)
{
    struct worker workers[THREADS] = {0};
    char path[256];
    const char *base = getenv("UM_TEST_SCRATCH");
    snprintf(path, sizeof path, "%s/um-threads-XXXXXX", base ? base : "/tmp");
    REQUIRE(mkdtemp(path) != NULL);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    shared = (struct machine){.flags = UM_UPPER_VOLATILE, .metacopy_min = 1};
    shared.flags |= geteuid() == 0 ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE;
    machine_layers(&shared.stack);
    machine_open(&shared, fd);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].random = i + 1;
        CHECK_INT(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        CHECK_INT(workers[i].done, STEPS);
    }
    unsigned names_now = check_directory(UM_ROOT_NODE);
    um_upper_close(shared.upper);
    machine_open_upper(&shared);
    CHECK_INT(check_directory(UM_ROOT_NODE), names_now);
    CHECK_INT(machine_count_names(shared.work), 0);
    machine_close(&shared);
    close(fd);
    rmdir(path);
}
