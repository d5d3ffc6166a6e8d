/*
 * Requests of any kind to the fast path, over a small tree: alone, or with an upper on it. Input: a byte
 * that says which, then requests: opcode, node, length of the body, the body. Whatever is asked, a reply
 * must be one that the kernel takes, and nothing may crash, leak or hang; what takes long is to ask whether
 * somebody still waits.
 */
#include "fastpath/fastpath.h"
#include "upper_machine.h"

#include <linux/fs.h>
#include <linux/fuse.h>

#define INPUT_MAX 6000
#define BODY_MAX 600

static uint8_t *reply;

static void check_reply(const struct fuse_in_header *header, const struct um_answer *answer)
{
    const struct fuse_out_header *out = (const void *)reply;
    if (answer->kind != UM_ANSWER_REPLY)
        return;
    if (answer->size < sizeof *out || answer->size > UM_FUSE_BUFFER || out->len != answer->size ||
        out->unique != header->unique || out->error > 0 || out->error < -4095)
        abort();
    if (out->error != 0 && answer->size != sizeof *out)
        abort();
}

/* Nodes that replies named: those of the upper have numbers that nobody guesses. */
static uint64_t nodes[64];
static unsigned n_nodes;

static void learn(uint32_t opcode, const struct um_answer *answer)
{
    const struct fuse_entry_out *entry = (const void *)(reply + sizeof(struct fuse_out_header));
    bool names_one = opcode == FUSE_LOOKUP || opcode == FUSE_MKNOD || opcode == FUSE_MKDIR ||
                     opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opcode == 51; /* TMPFILE */
    if (names_one && answer->kind == UM_ANSWER_REPLY &&
        answer->size >= sizeof(struct fuse_out_header) + sizeof *entry && entry->nodeid != 0)
        nodes[n_nodes++ % 64] = entry->nodeid;
}

static uint64_t node_of(uint8_t byte)
{
    return byte < 128 || n_nodes == 0 ? byte : nodes[byte % (n_nodes < 64 ? n_nodes : 64)];
}

/* The two ioctls that are known: their numbers are not guessed. */
static void ask_for_flags(struct fuse_ioctl_in *in, bool extended)
{
    in->cmd = extended ? FS_IOC_FSGETXATTR : FS_IOC_GETFLAGS;
    in->out_size = extended ? sizeof(struct fsxattr) : sizeof(int);
}

/* Who asks waits for one piece of what takes long: 128 MiB that are allocated, say. */
static bool is_over(const void *context)
{
    bool *asked = *(bool *const *)context;
    bool before = *asked;
    *asked = true;
    return before;
}

/* One request; how many bytes of the input it took. */
static size_t ask(struct um_fastpath *fastpath, const uint8_t *data, size_t size, uint64_t unique)
{
    static _Alignas(16) uint8_t request[sizeof(struct fuse_in_header) + BODY_MAX];
    struct fuse_in_header *header = (void *)request;
    size_t length = (size_t)(data[2] | (data[3] & 1) << 8);
    length = length < size - 4 ? length : size - 4;
    *header = (struct fuse_in_header){
        .len = (uint32_t)(sizeof *header + length + (data[3] == 0xff)), /* now and then a lie */
        .opcode = data[0] % 56,
        .unique = unique,
        .nodeid = node_of(data[1]),
        .uid = data[3] & 2 ? 1000 : 0,
    };
    memcpy(header + 1, data + 4, length);
    if (header->opcode == FUSE_IOCTL && data[3] & 8 && length >= sizeof(struct fuse_ioctl_in))
        ask_for_flags((void *)(header + 1), data[3] & 16);
    if (header->opcode == FUSE_LINK && data[3] & 8 && length >= sizeof(struct fuse_link_in))
        ((struct fuse_link_in *)(void *)(header + 1))->oldnodeid = node_of(data[4]);
    size_t whole = sizeof *header + length;
    struct um_answer answer = um_fastpath_answer(fastpath, request, whole, reply, false);
    if (answer.kind == UM_ANSWER_LATER) {
        bool asked = false, *state = &asked;
        const struct um_patience patience = {is_over, &state};
        answer = um_fastpath_answer_patiently(fastpath, request, whole, reply, &patience);
        if (answer.kind == UM_ANSWER_LATER)
            abort();
    }
    check_reply(header, &answer);
    learn(header->opcode, &answer);
    if (answer.kind == UM_ANSWER_REPLY && data[3] & 4)
        um_fastpath_undo(fastpath, request, reply, answer.size);
    return 4 + length;
}

static void ask_all(struct machine *machine, bool writable, const uint8_t *data, size_t size)
{
    const char *layers[] = {"sha256:below", "sha256:above", "upper"};
    struct um_fastpath_setup setup = {.keeps = UM_FOREVER,
                                      .tree = machine->stack.tree,
                                      .upper = writable ? machine->upper : NULL,
                                      .statfs_fd = data[0] & 4 ? machine->above : -1,
                                      .bytes = 12345,
                                      .inodes = 10,
                                      .has_acls = data,
                                      .obeys_acls = data[0] & 8,
                                      .list_layers = data[0] & 16,
                                      .layers = layers,
                                      .n_layers = 3,
                                      .max_open_files = 4};
    struct um_fastpath *fastpath;
    if (um_fastpath_open(&setup, &fastpath) != 0)
        abort();
    size_t at = 1;
    n_nodes = 0;
    for (uint64_t unique = 2; size - at >= 4; unique += 2)
        at += ask(fastpath, data + at, size - at, unique);
    um_fastpath_close(fastpath);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine machine;
    char path[256];
    const char *base = getenv("UM_TEST_SCRATCH");
    if (size < 5 || size > INPUT_MAX)
        return -1;
    if (reply == NULL)
        reply = malloc(UM_FUSE_BUFFER);
    snprintf(path, sizeof path, "%s/um-fuzz-XXXXXX", base ? base : "/dev/shm");
    if (mkdtemp(path) == NULL)
        abort();
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool plain = geteuid() == 0 && !(data[0] & 2);
    machine = (struct machine){.flags = UM_UPPER_VOLATILE |
                                        (plain ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE)};
    machine_layers(&machine.stack);
    machine_open(&machine, fd);
    ask_all(&machine, data[0] & 1, data, size);
    machine_close(&machine);
    close(fd);
    rmdir(path);
    return 0;
}
