#include "upper/file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/statvfs.h>

#include "system/read_at.h"
#include "upper/capability.h"
#include "upper/copy_up.h"
#include "upper/lookup.h"

/* Open files. I/O is by node: a lower file that was opened before it was copied up reads from the upper
 * afterwards. All opens of a file in the upper share the descriptor of its node, which is opened for
 * writing where that is possible, whatever was asked for, so that it need not change. */

/* ---- opening --------------------------------------------------------------------------------- */

/* [w] Open the descriptor of a node, for writing if that is wanted. */
static int need_descriptor(struct um_upper *upper, struct um_upper_node *node, bool write)
{
    struct um_upper_reached reached = {0};
    if (node->fd >= 0 && (node->writable || !write))
        return 0;
    int error = um_upper_reach(upper, node, &reached);
    if (error != 0)
        return error;
    int fd = um_upper_reached_open_for_user(upper, &reached, O_RDWR);
    bool writable = fd >= 0;
    if (fd < 0 && !write)
        fd = um_upper_reached_open_for_user(upper, &reached, O_RDONLY);
    um_upper_reached_close(&reached);
    if (fd < 0)
        return fd == -ENOENT ? -ESTALE : fd;
    if (node->fd >= 0) {
        /* Another thread may be reading from it: replace it in one step. */
        error = dup3(fd, node->fd, O_CLOEXEC) < 0 ? -errno : 0;
        close(fd);
        if (error != 0)
            return error;
    } else {
        node->fd = fd;
    }
    node->writable = writable;
    return 0;
}

static int open_above(struct um_upper *upper, struct um_upper_node *node, uint32_t flags)
{
    int error = need_descriptor(upper, node, flags != 0);
    if (error == 0 && (flags & UM_UPPER_OPEN_TRUNCATE))
        error = um_upper_node_drop_capability(upper, node);
    if (error == 0 && (flags & UM_UPPER_OPEN_TRUNCATE) && ftruncate(node->fd, 0) != 0)
        error = -errno;
    return error;
}

/* The kernel opens other types than files by itself. The type of an object in the upper stays, where nobody can
 * put another one in its place. */
static int check_type(struct um_upper *upper, struct um_upper_node *node)
{
    struct um_attr attr;
    if (node->directory)
        return -EISDIR;
    if (node->in_upper && node->regular && !(upper->flags & UM_UPPER_OPEN))
        return 0;
    int error = um_upper_node_attr(upper, node, &attr);
    return error == 0 && !S_ISREG(attr.mode) ? -EINVAL : error;
}

static int open_record(struct um_upper *upper, struct um_upper_node *node, uint32_t flags)
{
    int error = check_type(upper, node);
    if (error == 0 && flags != 0)
        error = um_upper_node_copy_up(
            upper, node, flags & UM_UPPER_OPEN_TRUNCATE ? UM_UPPER_NEED_EMPTY : UM_UPPER_NEED_DATA);
    if (error == 0 && node->in_upper)
        error = open_above(upper, node, flags);
    if (error == 0) {
        node->opens++;
        node->kept = false;
    }
    return error;
}

void um_upper_node_close_unused(struct um_upper *upper, struct um_upper_node *node)
{
    if (node->opens == 0 && node->fd >= 0 && !node->gone && node->parent != NULL) {
        close(node->fd);
        node->fd = -1;
        node->writable = false;
        node->kept = false;
    }
    um_upper_node_demote(upper, node);
}

void um_upper_node_keep(struct um_upper *upper, struct um_upper_node *node, int fd)
{
    uint64_t *place = &upper->kept[upper->next_kept++ % UM_UPPER_KEPT];
    struct um_upper_node *old = um_upper_node_find(upper, *place);
    if (old != NULL && old->kept) {
        old->kept = false;
        um_upper_node_close_unused(upper, old);
    }
    if (node->fd >= 0)
        close(node->fd);
    node->fd = fd;
    node->writable = node->kept = true;
    *place = node->number;
}

int um_upper_open_file(struct um_upper *upper, uint64_t number, uint32_t flags)
{
    struct um_upper_node *node;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_node_load(upper, number, &node);
    if (error == 0) {
        error = open_record(upper, node, flags);
        if (error != 0)
            um_upper_node_close_unused(upper, node);
        um_upper_node_unpin(upper, node);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

void um_upper_release(struct um_upper *upper, uint64_t number)
{
    int last = -1;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL && !node->directory && node->opens != 0) {
        if (--node->opens == 0)
            last = um_upper_node_take_descriptor(upper, node);
        um_upper_node_close_unused(upper, node);
        um_upper_node_drop_unused(upper, node);
    }
    pthread_rwlock_unlock(&upper->lock);
    if (last >= 0)
        close(last);
}

/* ---- reading and writing --------------------------------------------------------------------- */

/* The place of a node's data when it is read or written. */
struct source {
    int fd;        /* of the upper; -1: `lower` of the tree */
    bool writable, capable;
    uint64_t lower;
};

static int find_source(struct um_upper *upper, uint64_t number, struct source *source)
{
    int error = 0;
    *source = (struct source){.fd = -1, .lower = number};
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL && node->directory)
        error = -EISDIR;
    else if (node != NULL && node->data == UM_UPPER_DATA_LOST)
        error = -EIO;
    else if (node != NULL && node->data != 0)
        source->lower = node->data;
    else if (node != NULL && node->in_upper && (node->opens == 0 || node->fd < 0))
        error = -EBADF; /* I/O is for open files: their descriptors stay open meanwhile */
    else if (node != NULL && node->in_upper)
        *source =
            (struct source){.fd = node->fd, .writable = node->writable, .capable = node->capable};
    else if (node == NULL && number >= upper->base)
        error = -ESTALE;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int64_t um_upper_read(struct um_upper *upper, uint64_t number, uint64_t offset, void *buffer,
                      size_t size, unsigned flags)
{
    struct source source;
    int error = find_source(upper, number, &source);
    if (error == 0 && source.fd >= 0 && (flags & UM_UPPER_READ_LOWER))
        error = -EBADF; /* the file may not be open, and its descriptor may be closed at any time */
    if (error != 0)
        return error;
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return -EINVAL;
    if (source.lower == UM_UPPER_DATA_NONE)
        return 0;
    if (source.fd < 0)
        return um_tree_read(upper->tree, source.lower, offset, buffer, size,
                            flags & UM_READ_NOWAIT);
    return um_read_at(source.fd, offset, buffer, size, flags & UM_READ_NOWAIT);
}

/* Find the descriptor that a file is written through, and drop the file's capability. */
static int find_target(struct um_upper *upper, uint64_t number, struct source *target)
{
    int error = find_source(upper, number, target);
    if (error == 0 && (target->fd < 0 || !target->writable))
        error = -EBADF;
    if (error != 0 || !target->capable)
        return error;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    error = node ? um_upper_node_drop_capability(upper, node) : -ESTALE;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int64_t um_upper_write(struct um_upper *upper, uint64_t number, uint64_t offset, const void *data,
                       size_t size)
{
    struct source source;
    int error = find_target(upper, number, &source);
    if (error != 0)
        return error;
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return -EFBIG;
    size_t put = 0;
    while (put < size) {
        ssize_t n =
            pwrite(source.fd, (const uint8_t *)data + put, size - put, (off_t)(offset + put));
        if (n > 0)
            put += (size_t)n;
        else if (n < 0 && errno != EINTR)
            return put ? (int64_t)put : -errno; /* after a part the next call tells */
        else if (n == 0)
            break;
    }
    return (int64_t)put;
}

#define LARGE ((uint64_t)64 << 20) /* bytes; memory of that size is freed in 10 ms */

bool um_upper_shrinks_long(struct um_upper *upper, uint64_t number, uint64_t size)
{
    struct um_attr attr;
    return um_upper_getattr(upper, number, &attr) == 0 && S_ISREG(attr.mode) && size < attr.size &&
           attr.blocks > (size + LARGE) / 512;
}

int um_upper_shrink(struct um_upper *upper, uint64_t number, uint64_t size)
{
    struct source source;
    struct stat status;
    int error = find_source(upper, number, &source);
    if (error != 0 || source.fd < 0 || !source.writable || fstat(source.fd, &status) != 0)
        return error;
    bool smaller = S_ISREG(status.st_mode) && size < (uint64_t)status.st_size;
    return smaller && ftruncate(source.fd, (off_t)size) != 0 ? -errno : 0;
}

/* ---- what else can be done with data --------------------------------------------------------- */

int64_t um_upper_seek(struct um_upper *upper, uint64_t number, uint64_t offset, bool hole,
                      uint64_t *lower)
{
    struct source source;
    int error = find_source(upper, number, &source);
    if (error != 0)
        return error;
    *lower = source.lower;
    if (offset > INT64_MAX || (source.fd < 0 && source.lower == UM_UPPER_DATA_NONE))
        return -ENXIO;
    if (source.fd < 0)
        return UM_UPPER_SEEK_BELOW;
    off_t found = lseek(source.fd, (off_t)offset, hole ? SEEK_HOLE : SEEK_DATA);
    return found < 0 ? -errno : found;
}

/* Whether the disk may have room for `length` bytes of a file. The space that the file has already
 * counts as if all of it were in the range, so nothing that would fit is refused. A file system that
 * does not tell its size has room for everything. */
static int check_room(int fd, uint64_t length)
{
    struct statvfs disk;
    struct stat status;
    uint64_t room;
    if (fstatvfs(fd, &disk) != 0 || fstat(fd, &status) != 0)
        return -errno;
    if (disk.f_blocks == 0 || __builtin_mul_overflow(disk.f_bfree, disk.f_frsize, &room) ||
        __builtin_add_overflow(room, (uint64_t)status.st_blocks * 512, &room))
        return 0;
    return length > room ? -ENOSPC : 0;
}

/* Whether a file may be so large: lseek(2) accepts such positions only. The position itself is not used. */
static int check_limit(int fd, uint64_t end)
{
    return lseek(fd, (off_t)end, SEEK_SET) < 0 && errno == EINVAL ? -EFBIG : 0;
}

#define PIECE \
    ((uint64_t)128 << 20) /* as large as an extent of ext4; memory of that size takes 30 ms */

static int allocate_piece(int fd, uint32_t mode, uint64_t offset, uint64_t length,
                          const struct um_patience *patience)
{
    while (fallocate(fd, (int)mode, (off_t)offset, (off_t)length) != 0) {
        if (errno != EINTR || um_is_over(patience))
            return -errno;
    }
    return 0;
}

/* Allocate in pieces. All but the last leave the size as it is, so that a failure does not show. */
static int allocate(int fd, uint32_t mode, uint64_t offset, uint64_t length,
                    const struct um_patience *patience)
{
    uint32_t before_last = mode | FALLOC_FL_KEEP_SIZE;
    uint64_t done = 0;
    while (length - done > PIECE) {
        int error = um_is_over(patience)
                        ? -EINTR
                        : allocate_piece(fd, before_last, offset + done, PIECE, patience);
        if (error == -EOPNOTSUPP && before_last != mode)
            before_last = mode; /* NFS, say: the size grows with each piece */
        else if (error != 0)
            return error;
        else
            done += PIECE;
    }
    return allocate_piece(fd, mode, offset + done, length - done, patience);
}

#define ALLOCATE_MODES (uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)

int um_upper_allocate(struct um_upper *upper, uint64_t number, uint32_t mode, uint64_t offset,
                      uint64_t length, const struct um_patience *patience)
{
    struct source source;
    int error = find_target(upper, number, &source);
    if (error != 0)
        return error;
    if (mode & ~ALLOCATE_MODES)
        return -EOPNOTSUPP; /* as of the kernel's FUSE */
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        return -EFBIG;
    if (mode & FALLOC_FL_PUNCH_HOLE) /* takes time for the data that is there, not for the range */
        return allocate_piece(source.fd, mode, offset, length, patience);
    error = check_limit(source.fd, offset + length);
    if (error == 0)
        error = check_room(source.fd, length);
    return error ? error : allocate(source.fd, mode, offset, length, patience);
}

int64_t um_upper_copy_range(struct um_upper *upper, uint64_t from, uint64_t from_offset,
                            uint64_t to, uint64_t to_offset, size_t size)
{
    struct source source, target;
    int error = find_source(upper, from, &source);
    if (error == 0)
        error = find_target(upper, to, &target);
    if (error != 0)
        return error;
    if (source.fd < 0)
        return -EXDEV;
    if (from_offset > INT64_MAX - size || to_offset > INT64_MAX - size)
        return -EFBIG;
    off_t in = (off_t)from_offset, out = (off_t)to_offset;
    ssize_t copied = copy_file_range(source.fd, &in, target.fd, &out, size, 0);
    return copied < 0 ? -errno : copied;
}

/* ---- files that the kernel reads and writes itself ------------------------------------------- */

static bool has_data(const struct um_upper_node *node)
{
    return node != NULL && !node->directory && node->in_upper && node->data == 0 && !node->capable;
}

bool um_upper_has_data(struct um_upper *upper, uint64_t number)
{
    pthread_rwlock_rdlock(&upper->lock);
    bool result = has_data(um_upper_node_find(upper, number));
    pthread_rwlock_unlock(&upper->lock);
    return result;
}

int um_upper_backing(struct um_upper *upper, uint64_t number, int *fd)
{
    int error = -ENODATA;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    if (has_data(node) && node->opens != 0 && node->fd >= 0 && node->writable) {
        *fd = fcntl(node->fd, F_DUPFD_CLOEXEC, 3);
        error = *fd < 0 ? -errno : 0;
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* ---- what only the disk knows ---------------------------------------------------------------- */

int um_upper_open_path(struct um_upper *upper, uint64_t number, int *fd)
{
    int error;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL && node->in_upper)
        error = (*fd = um_upper_node_open(upper, node, O_PATH)) < 0 ? *fd : 0;
    else if (node != NULL || number < upper->base)
        error = um_tree_open_path(upper->tree, node ? node->lower : number, fd);
    else
        error = -ESTALE;
    pthread_rwlock_unlock(&upper->lock);
    return error == -ENOENT ? -ESTALE : error;
}

/* ---- durability ------------------------------------------------------------------------------ */

/* The way a node is made durable. */
struct durable {
    int fd;
    bool whole; /* fdatasync is not enough */
    bool settles; /* from then on it is */
};

/* After a copy-up, fdatasync makes the data durable, but not the rename, or the change of the mark,
 * without which nobody would see it: the disk does not count these as data, while users of the mount had
 * the file all the time. A file may have been copied up shortly before its node was made, so the first
 * sync is always an fsync. */
static void plan_sync(const struct um_upper_node *node, bool data_only, struct durable *durable)
{
    durable->whole = !data_only || !node->synced;
    durable->settles = durable->whole && !node->synced && node->data == 0;
}

/* Open a node's object for syncing: 0; 1 where nothing has to be synced; or an errno. */
static int open_for_sync(struct um_upper *upper, uint64_t number, bool data_only,
                         struct durable *durable)
{
    int error = 1;
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL && node->in_upper)
        plan_sync(node, data_only, durable);
    if (node != NULL && node->in_upper && node->fd >= 0 && !node->directory) {
        /* Errors of writing back are reported to the descriptor that wrote. */
        durable->fd = fcntl(node->fd, F_DUPFD_CLOEXEC, 3);
        error = durable->fd < 0 ? -errno : 0;
    } else if (node != NULL && node->in_upper) {
        durable->fd = um_upper_node_open(upper, node, O_RDONLY);
        error = durable->fd < 0 ? durable->fd : 0;
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

static void mark_synced(struct um_upper *upper, uint64_t number)
{
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node != NULL)
        node->synced = true;
    pthread_rwlock_unlock(&upper->lock);
}

int um_upper_fsync(struct um_upper *upper, uint64_t number, bool data_only)
{
    struct durable durable = {.fd = -1};
    if (upper->flags & UM_UPPER_VOLATILE)
        return 0;
    int error = open_for_sync(upper, number, data_only, &durable);
    if (error != 0)
        return error > 0 ? 0 : error;
    if ((durable.whole ? fsync(durable.fd) : fdatasync(durable.fd)) != 0)
        error = -errno;
    close(durable.fd);
    if (error == 0 && durable.settles)
        mark_synced(upper, number);
    return error;
}

int um_upper_sync(struct um_upper *upper)
{
    if (upper->flags & UM_UPPER_VOLATILE)
        return 0;
    return um_result(syncfs(upper->upper_fd));
}
