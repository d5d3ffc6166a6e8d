#include "uring/uring.h"

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define SUBMISSION 128u /* bytes, with IORING_SETUP_SQE128 */
#define COMMAND_AT 48u /* of the area for commands in a submission; it reaches to the end */
#define NEVER_FAILS \
    (IORING_SETUP_SQE128 | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP)

static uint32_t load(const uint32_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *at, uint32_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static void *map(int fd, size_t size, long offset)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    return memory == MAP_FAILED ? NULL : memory;
}

static int map_rings(struct um_uring *ring, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    if (!(p->features & IORING_FEAT_SINGLE_MMAP) || !(p->features & IORING_FEAT_NODROP))
        return -ENOSYS; /* kernels that are older than FUSE over io_uring */
    ring->rings_size = sq > cq ? sq : cq;
    ring->submissions_size = (size_t)p->sq_entries * SUBMISSION;
    ring->rings = map(ring->fd, ring->rings_size, IORING_OFF_SQ_RING);
    ring->submissions = map(ring->fd, ring->submissions_size, IORING_OFF_SQES);
    if (ring->rings == NULL || ring->submissions == NULL)
        return -ENOMEM;
    uint8_t *base = ring->rings;
    ring->sq_head = (void *)(base + p->sq_off.head);
    ring->sq_tail = (void *)(base + p->sq_off.tail);
    ring->cq_head = (void *)(base + p->cq_off.head);
    ring->cq_tail = (void *)(base + p->cq_off.tail);
    ring->completions = (const void *)(base + p->cq_off.cqes);
    ring->sq_size = p->sq_entries;
    ring->sq_mask = p->sq_entries - 1;
    ring->cq_mask = p->cq_entries - 1;
    uint32_t *array = (void *)(base + p->sq_off.array);
    for (uint32_t i = 0; i < p->sq_entries; i++)
        array[i] = i; /* the slot of a submission is its place in the ring */
    return 0;
}

int um_uring_open(struct um_uring *ring, uint32_t submissions, uint32_t completions)
{
    struct io_uring_params params = {.flags = NEVER_FAILS, .cq_entries = completions};
    *ring = (struct um_uring){.fd = -1};
    long fd = syscall(SYS_io_uring_setup, submissions, &params);
    if (fd < 0)
        return -errno;
    ring->fd = (int)fd; /* close-on-exec by itself */
    int error = map_rings(ring, &params);
    if (error != 0)
        um_uring_close(ring);
    return error;
}

void um_uring_close(struct um_uring *ring)
{
    if (ring->submissions != NULL)
        munmap(ring->submissions, ring->submissions_size);
    if (ring->rings != NULL)
        munmap(ring->rings, ring->rings_size);
    if (ring->fd >= 0)
        close(ring->fd);
    *ring = (struct um_uring){.fd = -1};
}

/* Return an empty submission; NULL if there is no room. The kernel sees it when it is told so. */
static struct io_uring_sqe *prepare(struct um_uring *ring, uint8_t opcode, int fd, uint64_t tag)
{
    uint32_t tail = *ring->sq_tail + ring->pending;
    if (tail - load(ring->sq_head) >= ring->sq_size)
        return NULL;
    struct io_uring_sqe *one = (void *)(ring->submissions + (tail & ring->sq_mask) * SUBMISSION);
    memset(one, 0, SUBMISSION);
    one->opcode = opcode;
    one->fd = fd;
    one->user_data = tag;
    ring->pending++;
    return one;
}

int um_uring_command(struct um_uring *ring, int fd, uint32_t command, const void *argument,
                     size_t size, const void *buffers, uint64_t tag)
{
    if (size > SUBMISSION - COMMAND_AT)
        return -EINVAL;
    struct io_uring_sqe *one = prepare(ring, IORING_OP_URING_CMD, fd, tag);
    if (one == NULL)
        return -EBUSY;
    one->cmd_op = command;
    if (buffers != NULL) {
        one->addr = (uint64_t)(uintptr_t)buffers;
        one->len = 2;
    }
    memcpy((uint8_t *)one + COMMAND_AT, argument, size);
    return 0;
}

int um_uring_read(struct um_uring *ring, int fd, void *to, uint32_t size, uint64_t tag)
{
    struct io_uring_sqe *one = prepare(ring, IORING_OP_READ, fd, tag);
    if (one == NULL)
        return -EBUSY;
    one->addr = (uint64_t)(uintptr_t)to;
    one->len = size;
    return 0;
}

int um_uring_enter(struct um_uring *ring, bool wait)
{
    if (!wait && ring->pending == 0)
        return 0;
    store(ring->sq_tail, *ring->sq_tail + ring->pending);
    ring->pending = 0;
    uint32_t waiting = *ring->sq_tail - load(ring->sq_head);
    long done = syscall(SYS_io_uring_enter, ring->fd, waiting, wait ? 1u : 0u,
                        wait ? IORING_ENTER_GETEVENTS : 0u, NULL, 0);
    /* EBUSY and EAGAIN: the kernel takes no submissions before results are collected, or lacks
     * memory for now; what it has not taken is submitted the next time. */
    if (done >= 0 || errno == EINTR || errno == EBUSY || errno == EAGAIN)
        return 0;
    return -errno;
}

bool um_uring_next(struct um_uring *ring, struct um_uring_result *out)
{
    uint32_t head = *ring->cq_head;
    if (head == load(ring->cq_tail))
        return false;
    const struct io_uring_cqe *one = &ring->completions[head & ring->cq_mask];
    *out = (struct um_uring_result){.tag = one->user_data, .result = one->res};
    store(ring->cq_head, head + 1);
    return true;
}

bool um_uring_has_next(const struct um_uring *ring)
{
    return *ring->cq_head != load(ring->cq_tail);
}

int um_uring_probe(void)
{
    struct um_uring ring;
    int error = um_uring_open(&ring, 1, 2);
    if (error == 0)
        um_uring_close(&ring);
    return error;
}
