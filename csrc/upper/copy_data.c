#include "upper/copy_data.h"

#include <linux/fs.h>
#include <sys/ioctl.h>

#include "system/write_at.h"

struct copy {
    int from, to;
    bool clones;    /* sharing blocks works, as far as is known */
    bool in_kernel; /* copy_file_range works, as far as is known */
    uint8_t *buffer;
    const struct um_patience *patience;
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

static bool clone_range(const struct copy *copy, const struct run *run, uint64_t length)
{
    struct file_clone_range range = {.src_fd = copy->from,
                                     .src_offset = (uint64_t)run->from,
                                     .src_length = length,
                                     .dest_offset = (uint64_t)run->to};
    return ioctl(copy->to, FICLONERANGE, &range) == 0;
}

/* Share the blocks that can be shared. A part of a block can be shared only at the end of both files.
 * The rest is left to be copied. */
static void clone_run(struct copy *copy, struct run *run)
{
    uint64_t whole = run->length & ~(uint64_t)(BLOCK - 1);
    if (!copy->clones || run->from % BLOCK != 0 || run->to % BLOCK != 0 || whole == 0)
        return;
    if (clone_range(copy, run, run->length))
        advance(run, run->length);
    else if (errno == EINVAL && clone_range(copy, run, whole))
        advance(run, whole);
    else if (errno != EINVAL)
        copy->clones = false;
}

/* ---- copying --------------------------------------------------------------------------------- */

#define KERNEL_PIECE ((uint64_t)16 << 20)
#define BUFFER_PIECE ((uint64_t)256 << 10)

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
        if (um_is_over(copy->patience))
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
    if (copy->buffer == NULL && (copy->buffer = malloc(BUFFER_PIECE)) == NULL)
        return -ENOMEM;
    while (run->length != 0) {
        if (um_is_over(copy->patience))
            return -EINTR;
        size_t piece = run->length < BUFFER_PIECE ? run->length : BUFFER_PIECE;
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
    int error = copy_in_kernel(copy, run);
    if (error == 0 && run->length != 0)
        error = copy_by_buffer(copy, run);
    return error;
}

static int copy_runs(struct um_tree *tree, uint64_t node, uint64_t size, struct copy *copy)
{
    uint64_t at = 0;
    while (at < size) {
        uint64_t logical, length, stored;
        int more = um_tree_next_data(tree, node, copy->from, at, &logical, &length, &stored);
        if (more <= 0)
            return more;
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

int um_upper_copy_data(struct um_tree *tree, uint64_t node, uint64_t size, int to,
                       const struct um_patience *patience)
{
    if (size == 0)
        return 0;
    if (size > INT64_MAX)
        return -EFBIG;
    if (ftruncate(to, (off_t)size) != 0)
        return -errno;
    struct copy copy = {.to = to, .clones = true, .in_kernel = true, .patience = patience};
    int error = um_tree_open_data(tree, node, &copy.from);
    if (error != 0)
        return error;
    error = copy_runs(tree, node, size, &copy);
    free(copy.buffer);
    close(copy.from);
    return error;
}
