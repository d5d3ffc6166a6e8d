/* Listings that several readers share, files without names, what only the disk knows, and undone replies;
 * the mounted tests see the rest. */
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <sys/resource.h>

#include "fastpath/fastpath.h"

#include "harness.h"
#include "upper/state.h"
#include "upper_machine.h"

#define NAMES 200
#define ROOM 4096u
/* FUSE_TMPFILE and FUSE_STATX, which older headers lack. */
#define TMPFILE 51
#define STATX 52

struct world {
    struct machine machine;
    struct um_fastpath *fastpath;
    uint64_t directory; /* of the upper */
    char path[64];
    void *reply;
};

static const struct fuse_out_header *ask(struct world *w, uint32_t opcode, uint64_t node,
                                         const void *body, size_t size)
{
    static _Alignas(16) uint8_t request[1024];
    struct fuse_in_header *header = (void *)request;
    *header = (struct fuse_in_header){
        .len = (uint32_t)(sizeof *header + size), .opcode = opcode, .unique = 7, .nodeid = node};
    memcpy(header + 1, body, size);
    um_fastpath_answer(w->fastpath, request, header->len, w->reply, true);
    return w->reply;
}

static void make(struct world *w, const char *name)
{
    uint8_t body[sizeof(struct fuse_mknod_in) + 64];
    struct fuse_mknod_in in = {.mode = S_IFREG | 0644};
    memcpy(body, &in, sizeof in);
    strcpy((char *)body + sizeof in, name);
    CHECK_INT(ask(w, FUSE_MKNOD, w->directory, body, sizeof in + strlen(name) + 1)->error, 0);
}

static void unlink_name(struct world *w, const char *name)
{
    CHECK_INT(ask(w, FUSE_UNLINK, w->directory, name, strlen(name) + 1)->error, 0);
}

static void set_up(struct world *w)
{
    struct fuse_mkdir_in in = {.mode = 0755};
    uint8_t body[sizeof in + 4] = {0};
    *w = (struct world){.machine.flags = UM_UPPER_VOLATILE | UM_UPPER_OVERRIDE};
    snprintf(w->path, sizeof w->path, "/dev/shm/um-fastpath-XXXXXX");
    if (mkdtemp(w->path) == NULL)
        abort();
    machine_layers(&w->machine.stack);
    machine_open(&w->machine, open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct um_fastpath_setup setup = {.keeps = UM_FOREVER,
                                      .tree = w->machine.stack.tree,
                                      .upper = w->machine.upper,
                                      .statfs_fd = -1,
                                      .max_open_files = 4};
    if (um_fastpath_open(&setup, &w->fastpath) != 0)
        abort();
    w->reply = malloc(UM_FUSE_BUFFER);
    memcpy(body, &in, sizeof in);
    memcpy(body + sizeof in, "new", 4);
    const struct fuse_out_header *out = ask(w, FUSE_MKDIR, 1, body, sizeof body);
    CHECK_INT(out->error, 0);
    w->directory = ((const struct fuse_entry_out *)(const void *)(out + 1))->nodeid;
    char name[32];
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "stays%03d", i);
        make(w, name);
    }
}

static void tear_down(struct world *w)
{
    um_fastpath_close(w->fastpath);
    free(w->reply);
    machine_close(&w->machine);
    close(w->machine.directory);
    rmdir(w->path);
}

/* A reader of the directory: how often it saw each name that stays. */
struct reader {
    uint64_t offset;
    unsigned seen[NAMES], others;
};

/* One reply; false at the end. */
static bool read_on(struct world *w, struct reader *reader)
{
    struct fuse_read_in in = {.offset = reader->offset, .size = ROOM};
    const struct fuse_out_header *out = ask(w, FUSE_READDIRPLUS, w->directory, &in, sizeof in);
    const uint8_t *body = (const uint8_t *)(out + 1);
    size_t size = out->len - sizeof *out, at = 0;
    CHECK_INT(out->error, 0);
    while (at < size) {
        const struct fuse_direntplus *entry = (const void *)(body + at);
        int number;
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)entry->dirent.namelen, entry->dirent.name);
        if (sscanf(name, "stays%d", &number) == 1)
            reader->seen[number]++;
        else
            reader->others++;
        reader->offset = entry->dirent.off;
        at += FUSE_DIRENTPLUS_SIZE(entry);
    }
    return size != 0;
}

static void read_all(struct world *w, struct reader *reader)
{
    while (read_on(w, reader))
        ;
    unsigned wrong = 0;
    for (unsigned i = 0; i < NAMES; i++)
        wrong += reader->seen[i] != 1;
    CHECK_INT(wrong, 0);
}

static void churn(struct world *w, unsigned from, unsigned to)
{
    char name[32];
    for (unsigned i = from; i < to; i++) {
        struct reader other = {0};
        snprintf(name, sizeof name, "a%05u", i);
        make(w, name);
        if (i % 97 == 0)
            read_all(w, &other); /* which rereads the directory */
        unlink_name(w, name);
    }
}

TEST(every_reader_sees_what_stays_once)
{
    struct world w;
    struct reader first = {0}, second = {0}, last = {0};
    set_up(&w);
    CHECK(read_on(&w, &first));
    churn(&w, 0, 300);
    CHECK(read_on(&w, &second));
    churn(&w, 300, 600);
    read_all(&w, &second);
    read_all(&w, &first);
    read_all(&w, &last);
    CHECK_INT(last.others, 2); /* "." and ".." */
    tear_down(&w);
}

TEST(a_list_that_is_begun_anew_is_read_on)
{
    struct world w;
    char name[32];
    struct reader first = {0}, other = {0}, last = {0};
    set_up(&w);
    CHECK(read_on(&w, &first));
    for (unsigned i = 0; i < 6000; i++) {
        snprintf(name, sizeof name, "b%05u", i);
        make(&w, name);
    }
    read_all(&w, &other); /* now they are in the list */
    for (unsigned i = 0; i < 6000; i++) {
        snprintf(name, sizeof name, "b%05u", i);
        unlink_name(&w, name);
    }
    read_all(&w, &last); /* and here they are dropped */
    CHECK_INT(last.others, 2);
    read_all(&w, &first);
    tear_down(&w);
}

/* A file without a name in the directory; what the reply says of it. */
static const struct fuse_entry_out *make_nameless(struct world *w, uint32_t mode)
{
    struct fuse_create_in in = {.flags = O_TMPFILE | O_RDWR, .mode = S_IFREG | mode, .umask = 022};
    uint8_t body[sizeof in + 2] = {0};
    memcpy(body, &in, sizeof in);
    body[sizeof in] = '/';
    const struct fuse_out_header *out = ask(w, TMPFILE, w->directory, body, sizeof body);
    CHECK_INT(out->error, 0);
    CHECK_INT(out->len, sizeof *out + sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
    return (const void *)(out + 1);
}

static int name_it(struct world *w, uint64_t node, const char *name)
{
    struct fuse_link_in in = {.oldnodeid = node};
    uint8_t body[sizeof in + 32];
    memcpy(body, &in, sizeof in);
    strcpy((char *)body + sizeof in, name);
    return ask(w, FUSE_LINK, w->directory, body, sizeof in + strlen(name) + 1)->error;
}

static int unlink_it(struct world *w, const char *name)
{
    return ask(w, FUSE_UNLINK, w->directory, name, strlen(name) + 1)->error;
}

TEST(a_file_without_a_name_gets_one)
{
    struct world w;
    set_up(&w);
    const struct fuse_entry_out *entry = make_nameless(&w, 0666);
    uint64_t node = entry->nodeid;
    CHECK_INT(entry->attr.nlink, 0);
    CHECK_INT(entry->attr.mode, S_IFREG | 0644);
    struct {
        struct fuse_write_in in;
        char data[8];
    } write = {.in.size = 7, .data = "content"};
    CHECK_INT(ask(&w, FUSE_WRITE, node, &write, sizeof write.in + 7)->error, 0);
    CHECK_INT(name_it(&w, node, "named"), 0);
    CHECK_INT(name_it(&w, node, "named"), -EEXIST);
    CHECK_INT(name_it(&w, node, "again"), 0);
    CHECK_INT(unlink_it(&w, "named"), 0);
    CHECK_INT(unlink_it(&w, "again"), 0);
    CHECK_INT(name_it(&w, node, "never"), -ENOENT); /* it had a name */
    struct fuse_read_in in = {.size = 100};
    const struct fuse_out_header *out = ask(&w, FUSE_READ, node, &in, sizeof in);
    CHECK_INT(out->len, sizeof *out + 7);
    tear_down(&w);
}

TEST(a_file_without_a_name_is_gone_when_its_reply_is_refused)
{
    struct world w;
    struct um_attr attr;
    set_up(&w);
    uint64_t node = make_nameless(&w, 0600)->nodeid;
    CHECK_INT(um_upper_getattr(w.machine.upper, node, &attr), 0);
    struct fuse_in_header header = {.opcode = TMPFILE, .nodeid = w.directory};
    const struct fuse_out_header *out = w.reply;
    um_fastpath_undo(w.fastpath, &header, w.reply, out->len);
    CHECK_INT(um_upper_getattr(w.machine.upper, node, &attr), -ESTALE);
    CHECK_INT(um_upper_forget(w.machine.upper, node, 1), 0);
    tear_down(&w);
}

TEST(a_file_without_a_name_takes_the_descriptor_of_one_that_is_held)
{
    struct world w;
    struct fuse_write_in write = {0};
    int taken[1024];
    unsigned n = 0;
    set_up(&w);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t node = make_nameless(&w, 0600)->nodeid;
        char name[16];
        snprintf(name, sizeof name, "held%u", i);
        CHECK_INT(name_it(&w, node, name), 0);
        CHECK_INT(ask(&w, FUSE_WRITE, node, &write, sizeof write)->error, 0);
    }
    CHECK_INT(um_fastpath_open_files(w.fastpath), 4);
    struct rlimit before, little;
    getrlimit(RLIMIT_NOFILE, &before);
    little = (struct rlimit){.rlim_cur = 100, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &little);
    while (n < 1024 && (taken[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        n++;
    make_nameless(&w, 0600);
    CHECK_INT(um_fastpath_open_files(w.fastpath), 2);
    while (n != 0)
        close(taken[--n]);
    setrlimit(RLIMIT_NOFILE, &before);
    tear_down(&w);
}

TEST(a_file_without_a_name_needs_a_directory)
{
    struct world w;
    set_up(&w);
    struct fuse_create_in in = {.mode = S_IFREG | 0600};
    uint64_t file = make_nameless(&w, 0600)->nodeid;
    CHECK_INT(ask(&w, TMPFILE, file, &in, sizeof in)->error, -ENOTDIR);
    CHECK_INT(ask(&w, TMPFILE, 1u << 20, &in, sizeof in)->error, -ESTALE);
    CHECK_INT(ask(&w, TMPFILE, w.directory, &in, sizeof in - 1)->error, -EIO);
    tear_down(&w);
}

static const struct fuse_out_header *ask_flags(struct world *w, uint64_t node, uint32_t command,
                                               uint32_t size)
{
    struct fuse_ioctl_in in = {.cmd = command, .out_size = size};
    return ask(w, FUSE_IOCTL, node, &in, sizeof in);
}

TEST(flags_are_as_long_as_the_kernel_wants_them)
{
    struct world w;
    set_up(&w);
    uint64_t nodes[] = {1, w.directory, make_nameless(&w, 0600)->nodeid};
    for (unsigned i = 0; i < 3; i++) {
        const struct fuse_out_header *out = ask_flags(&w, nodes[i], FS_IOC_GETFLAGS, 4);
        bool known = out->error == 0; /* by the file system of the upper */
        CHECK(known || out->error == -ENOTTY);
        CHECK_INT(out->len, sizeof *out + (known ? sizeof(struct fuse_ioctl_out) + 4 : 0));
        out = ask_flags(&w, nodes[i], FS_IOC_FSGETXATTR, sizeof(struct fsxattr));
        CHECK_INT(out->len, sizeof *out + (known ? sizeof(struct fuse_ioctl_out) + 28 : 0));
        CHECK_INT(ask_flags(&w, nodes[i], FS_IOC_GETFLAGS, 8)->error, -ENOTTY);
        CHECK_INT(ask_flags(&w, nodes[i], FS_IOC_FSGETXATTR, 4)->error, -ENOTTY);
        CHECK_INT(ask_flags(&w, nodes[i], FS_IOC_SETFLAGS, 4)->error, -ENOTTY);
    }
    CHECK_INT(ask_flags(&w, 1u << 20, FS_IOC_GETFLAGS, 4)->error, -ESTALE);
    const struct fuse_ioctl_in cut = {.cmd = FS_IOC_GETFLAGS, .out_size = 4};
    CHECK_INT(ask(&w, FUSE_IOCTL, 1, &cut, sizeof cut - 1)->error, -EIO);
    tear_down(&w);
}

TEST(birth_times_are_those_of_the_disk)
{
    struct world w;
    set_up(&w);
    const uint8_t in[24] = {0};
    struct statx born = {0};
    uint32_t mask;
    int64_t seconds;
    const struct fuse_out_header *out = ask(&w, STATX, w.directory, in, sizeof in);
    CHECK_INT(out->len, sizeof *out + 288);
    memcpy(&mask, (const uint8_t *)(out + 1) + 32, sizeof mask);
    memcpy(&seconds, (const uint8_t *)(out + 1) + 32 + 80, sizeof seconds);
    CHECK_INT(statx(w.machine.directory, "upper/new", 0, STATX_BTIME, &born), 0);
    CHECK_INT(mask & STATX_BTIME, born.stx_mask & STATX_BTIME);
    CHECK_INT(mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    if (mask & STATX_BTIME)
        CHECK_INT(seconds, born.stx_btime.tv_sec);
    CHECK_INT(ask(&w, STATX, w.directory, in, sizeof in - 1)->error, -EIO);
    CHECK_INT(ask(&w, STATX, 1u << 20, in, sizeof in)->error, -ESTALE);
    tear_down(&w);
}

/* Patience that is over when it is asked for the last time. */
static bool ends(const void *context)
{
    unsigned *left = *(unsigned *const *)context;
    return *left == 0 || --*left == 0;
}

static struct um_answer allocate(struct world *w, uint64_t node, uint32_t mode, uint64_t length,
                                 unsigned *left)
{
    struct {
        struct fuse_in_header header;
        struct fuse_fallocate_in in;
    } request = {
        .header = {.len = sizeof request, .opcode = FUSE_FALLOCATE, .unique = 9, .nodeid = node},
        .in = {.length = length, .mode = mode}};
    const struct um_patience patience = {ends, &left};
    return um_fastpath_answer_patiently(w->fastpath, &request, sizeof request, w->reply, &patience);
}

#define PIECE (128ull << 20)

TEST(allocating_is_done_in_pieces)
{
    struct world w;
    struct um_attr attr;
    const struct fuse_out_header *out;
    set_up(&w);
    uint64_t node = make_nameless(&w, 0600)->nodeid;
    unsigned left = 2; /* pieces but one */
    struct um_answer answer = allocate(&w, node, 0, 3 * PIECE + 1, &left);
    out = w.reply;
    CHECK_INT(out->error, -EINTR);
    CHECK_INT(answer.stale[0], node);
    CHECK_INT(um_upper_getattr(w.machine.upper, node, &attr), 0);
    CHECK_INT(attr.blocks * 512, PIECE);
    CHECK_INT(attr.size, 0); /* it shows when all is done */
    left = 100;
    allocate(&w, node, 0, PIECE + 1, &left);
    CHECK_INT(out->error, 0);
    CHECK_INT(left, 99);
    CHECK_INT(um_upper_getattr(w.machine.upper, node, &attr), 0);
    CHECK_INT(attr.size, PIECE + 1);
    allocate(&w, node, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1ull << 60, &left);
    CHECK_INT(out->error, 0); /* as long as what is there */
    CHECK_INT(left, 99);
    CHECK_INT(um_upper_getattr(w.machine.upper, node, &attr), 0);
    CHECK_INT(attr.blocks, 0);
    tear_down(&w);
}

TEST(much_data_is_thrown_away_without_the_lock)
{
    struct world w;
    struct um_attr attr;
    set_up(&w);
    struct um_upper *upper = w.machine.upper;
    uint64_t node = make_nameless(&w, 0600)->nodeid;
    unsigned left = 100;
    allocate(&w, node, 0, PIECE, &left);
    struct {
        struct fuse_in_header header;
        struct fuse_setattr_in in;
    } request = {
        .header = {.len = sizeof request, .opcode = FUSE_SETATTR, .unique = 9, .nodeid = node},
        .in = {.valid = FATTR_SIZE, .size = 4096}};
    struct um_answer answer =
        um_fastpath_answer(w.fastpath, &request, sizeof request, w.reply, false);
    CHECK_INT(answer.kind, UM_ANSWER_LATER);
    CHECK_INT(um_upper_open_file(upper, node, UM_UPPER_OPEN_WRITE), 0);
    pthread_rwlock_rdlock(&upper->lock); /* who wants it for writing waits for ever */
    CHECK_INT(um_upper_shrink(upper, node, PIECE / 2), 0);
    pthread_rwlock_unlock(&upper->lock);
    um_upper_release(upper, node);
    CHECK_INT(um_upper_getattr(upper, node, &attr), 0);
    CHECK_INT(attr.size, PIECE / 2);
    um_fastpath_answer(w.fastpath, &request, sizeof request, w.reply, true);
    CHECK_INT(((const struct fuse_out_header *)w.reply)->error, 0);
    CHECK_INT(um_upper_getattr(upper, node, &attr), 0);
    CHECK_INT(attr.size, 4096);
    CHECK_INT(attr.blocks, 8);
    answer = um_fastpath_answer(w.fastpath, &request, sizeof request, w.reply, false);
    CHECK_INT(answer.kind, UM_ANSWER_REPLY); /* little is there */
    tear_down(&w);
}

TEST(what_no_disk_has_room_for_is_refused_at_once)
{
    struct world w;
    struct um_attr attr;
    const struct fuse_out_header *out;
    set_up(&w);
    uint64_t node = make_nameless(&w, 0600)->nodeid;
    unsigned left = 2;
    allocate(&w, node, 0, 1ull << 50, &left);
    out = w.reply;
    CHECK_INT(out->error, -ENOSPC);
    allocate(&w, node, FALLOC_FL_COLLAPSE_RANGE, 4096, &left);
    CHECK_INT(out->error, -EOPNOTSUPP);
    allocate(&w, node, 0, 0, &left);
    CHECK_INT(out->error, -EINVAL);
    CHECK_INT(left, 2);
    CHECK_INT(um_upper_getattr(w.machine.upper, node, &attr), 0);
    CHECK_INT(attr.blocks, 0);
    tear_down(&w);
}

TEST(a_reply_that_was_refused_counts_no_lookup)
{
    struct world w;
    set_up(&w);
    _Alignas(16) uint8_t request[64];
    struct fuse_in_header *header = (void *)request;
    *header = (struct fuse_in_header){
        .len = sizeof *header + 9, .opcode = FUSE_LOOKUP, .unique = 3, .nodeid = w.directory};
    memcpy(header + 1, "stays000", 9);
    struct um_answer answer = um_fastpath_answer(w.fastpath, request, header->len, w.reply, true);
    const struct fuse_entry_out *entry =
        (const void *)((const struct fuse_out_header *)w.reply + 1);
    uint64_t node = entry->nodeid;
    um_fastpath_undo(w.fastpath, request, w.reply, answer.size);
    CHECK_INT(um_upper_forget(w.machine.upper, node, 1), 0); /* the one of its making */
    tear_down(&w);
}
