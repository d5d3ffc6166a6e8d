#include "upper/copy_data.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "system/write_at.h"

struct copy {
    int from, to;
    dev_t device;   /* of `from` */
    bool clones;    /* sharing blocks works, as far as is known */
    bool in_kernel; /* copy_file_range works, as far as is known */
    uint8_t *buffer;
    size_t buffer_size;
    struct um_upper_data_copy *request;
};

/* A piece of a file that is still to be copied. */
struct run {
    off_t from, to;
    uint64_t length;
};

static void advance(struct run *run, uint64_t n)
{
    run->from += (off_t)n;
    run->to += (off_t)n;
    run->length -= n;
}

/* ---- sharing blocks -------------------------------------------------------------------------- */

#define BLOCK 4096u /* the smallest block of a file system that can share some */

static bool is_unshared(struct um_upper_unshared *unshared, dev_t device)
{
    bool found = false;
    for (size_t i = 0; !found && i < UM_UPPER_UNSHARED; i++)
        found = atomic_load_explicit(&unshared->devices[i], memory_order_relaxed) == device;
    return found;
}

/* Several threads may note one device; it is only forgotten sooner then. */
static void note_unshared(struct um_upper_unshared *unshared, dev_t device)
{
    unsigned at = atomic_fetch_add_explicit(&unshared->next, 1, memory_order_relaxed);
    atomic_store_explicit(&unshared->devices[at % UM_UPPER_UNSHARED], device, memory_order_relaxed);
}

static bool clone_range(const struct copy *copy, const struct run *run, uint64_t length)
{
    struct file_clone_range range = {.src_fd = copy->from,
                                     .src_offset = (uint64_t)run->from,
                                     .src_length = length,
                                     .dest_offset = (uint64_t)run->to};
    return ioctl(copy->to, FICLONERANGE, &range) == 0;
}

/* Give up sharing blocks in this copy, and for the two devices where they are what does not allow it. */
static void stop_cloning(struct copy *copy, int error)
{
    copy->clones = false;
    if (error == EXDEV || error == EOPNOTSUPP || error == ENOTTY || error == ENOSYS)
        note_unshared(copy->request->unshared, copy->device);
}

/* Share the blocks that can be shared. A part of a block can be shared only at the end of both files.
 * The rest is left to be copied. */
static void clone_run(struct copy *copy, struct run *run)
{
    uint64_t whole = run->length & ~(uint64_t)(BLOCK - 1);
    if (!copy->clones || run->from % BLOCK != 0 || run->to % BLOCK != 0)
        return;
    if (clone_range(copy, run, run->length))
        advance(run, run->length);
    else if (errno == EINVAL && whole != 0 && clone_range(copy, run, whole))
        advance(run, whole);
    else if (errno != EINVAL)
        stop_cloning(copy, errno);
}

/* ---- copying --------------------------------------------------------------------------------- */

#define KERNEL_PIECE ((uint64_t)16 << 20)
#define BUFFER_PIECE ((uint64_t)256 << 10)
#define SMALL ((uint64_t)64 << 10) /* up to this size, one read and one write cost least */

/* These errors come from the disk, whatever way is used; all others mean that the kernel can't copy
 * here. */
static bool is_final(int error)
{
    return error == ENOSPC || error == EDQUOT || error == EIO || error == EFBIG;
}

/* Copy in the kernel as long as it does so; the rest is left. */
static int copy_in_kernel(struct copy *copy, struct run *run)
{
    while (copy->in_kernel && run->length != 0) {
        if (um_is_over(copy->request->patience))
            return -EINTR;
        size_t piece = run->length < KERNEL_PIECE ? run->length : KERNEL_PIECE;
        off_t from = run->from, to = run->to;
        ssize_t n = copy_file_range(copy->from, &from, copy->to, &to, piece, 0);
        if (n > 0)
            advance(run, (uint64_t)n);
        else if (n < 0 && errno == EINTR)
            continue;
        else if (n < 0 && is_final(errno))
            return -errno;
        else
            copy->in_kernel = false; /* some file systems return 0 for files that they can't copy */
    }
    return 0;
}

static int copy_by_buffer(struct copy *copy, struct run *run)
{
    if (copy->buffer == NULL && (copy->buffer = malloc(copy->buffer_size)) == NULL)
        return -ENOMEM;
    while (run->length != 0) {
        if (um_is_over(copy->request->patience))
            return -EINTR;
        size_t piece = run->length < copy->buffer_size ? run->length : copy->buffer_size;
        ssize_t n = pread(copy->from, copy->buffer, piece, run->from);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        int error = um_write_at(copy->to, (uint64_t)run->to, copy->buffer, (size_t)n);
        if (error != 0)
            return error;
        advance(run, (uint64_t)n);
    }
    return 0;
}

static int copy_run(struct copy *copy, struct run *run)
{
    clone_run(copy, run);
    copy->request->written |= run->length != 0;
    int error = copy_in_kernel(copy, run);
    if (error == 0 && run->length != 0)
        error = copy_by_buffer(copy, run);
    return error;
}

static int copy_runs(struct copy *copy, uint64_t node, uint64_t size)
{
    uint64_t at = 0;
    int more;
    while (at < size) {
        uint64_t logical, length, stored;
        more = um_tree_next_data(copy->request->tree, node, copy->from, at, &logical, &length,
                                 &stored);
        if (more < 0)
            return more;
        if (more == 0) /* a hole at the end */
            return um_result(ftruncate(copy->to, (off_t)size));
        if (logical < at || length == 0 || !um_within(logical, length, size) ||
            !um_within(stored, length, INT64_MAX))
            return -EIO;
        struct run run = {.from = (off_t)stored, .to = (off_t)logical, .length = length};
        int error = copy_run(copy, &run);
        if (error != 0)
            return error;
        at = logical + length;
    }
    return 0;
}

static int copy_between(struct copy *copy, uint64_t node, uint64_t size)
{
    struct stat status;
    if (fstat(copy->from, &status) != 0)
        return -errno;
    copy->device = status.st_dev;
    copy->clones = (size > SMALL || copy->request->waits) &&
                   !is_unshared(copy->request->unshared, status.st_dev);
    return copy_runs(copy, node, size);
}

int um_upper_copy_data(struct um_upper_data_copy *request, uint64_t node, uint64_t size, int to)
{
    request->written = false;
    if (size == 0)
        return 0;
    if (size > INT64_MAX)
        return -EFBIG;
    bool small = size <= SMALL;
    struct copy copy = {.to = to,
                        .in_kernel = !small,
                        .buffer_size = small ? size : BUFFER_PIECE,
                        .request = request};
    int error = um_tree_open_data(request->tree, node, &copy.from);
    if (error != 0)
        return error;
    error = copy_between(&copy, node, size);
    free(copy.buffer);
    close(copy.from);
    return error;
}
