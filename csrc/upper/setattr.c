#include <fcntl.h>

#include "upper/capability.h"
#include "upper/copy_data_later.h"
#include "upper/copy_up.h"
#include "upper/lookup.h"
#include "upper/object.h"

#define SET_ATIME (UM_UPPER_SET_ATIME | UM_UPPER_SET_ATIME_NOW)
#define SET_MTIME (UM_UPPER_SET_MTIME | UM_UPPER_SET_MTIME_NOW)

/* Refuse changes that can't be made before any is. */
static int check_changes(struct um_upper *upper, struct um_upper_node *node,
                         const struct um_upper_changes *changes)
{
    const uint32_t second = 1000000000;
    struct um_attr attr;
    if (((changes->which & UM_UPPER_SET_ATIME) && changes->atime_nsec >= second) ||
        ((changes->which & UM_UPPER_SET_MTIME) && changes->mtime_nsec >= second))
        return -EINVAL;
    if (!(changes->which & UM_UPPER_SET_SIZE))
        return 0;
    if (node->directory)
        return -EISDIR;
    if (changes->size > INT64_MAX)
        return -EFBIG;
    int error = um_upper_node_attr(upper, node, &attr);
    if (error != 0)
        return error;
    return S_ISREG(attr.mode) ? 0 : -EINVAL;
}

static int resize(int fd, uint64_t size)
{
    int result;
    do {
        result = ftruncate(fd, (off_t)size);
    } while (result != 0 && errno == EINTR);
    return um_result(result);
}

/* ftruncate, not truncate: only that sets the times where the size stays, as O_TRUNC must. */
static int set_size(const struct um_upper_node *node, const struct um_upper_reached *reached,
                    uint64_t size)
{
    if (node->fd >= 0 && node->writable)
        return resize(node->fd, size);
    int fd = um_upper_reached_open(reached, O_WRONLY);
    if (fd < 0)
        return fd;
    int error = resize(fd, size);
    close(fd);
    return error;
}

static struct timespec time_to_set(uint32_t given, uint32_t now, int64_t seconds, uint32_t nsec)
{
    if (now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (given)
        return (struct timespec){.tv_sec = seconds, .tv_nsec = nsec};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_times(const struct um_upper_reached *reached, const struct um_upper_changes *changes)
{
    uint32_t which = changes->which;
    struct timespec times[2] = {
        time_to_set(which & UM_UPPER_SET_ATIME, which & UM_UPPER_SET_ATIME_NOW, changes->atime,
                    changes->atime_nsec),
        time_to_set(which & UM_UPPER_SET_MTIME, which & UM_UPPER_SET_MTIME_NOW, changes->mtime,
                    changes->mtime_nsec),
    };
    return um_upper_reached_set_times(reached, times);
}

/* In this order: a new size and owner clear bits of the mode and set the times. */
static int apply(struct um_upper *upper, const struct um_upper_node *node,
                 struct um_upper_reached *reached, const struct um_upper_changes *changes)
{
    uint32_t which = changes->which;
    int error = 0;
    if (which & UM_UPPER_SET_SIZE)
        error = set_size(node, reached, changes->size);
    if (error == 0 && (which & (UM_UPPER_SET_UID | UM_UPPER_SET_GID)))
        error = um_upper_object_chown(upper, reached,
                                      which & UM_UPPER_SET_UID ? changes->uid : UM_UPPER_KEEP,
                                      which & UM_UPPER_SET_GID ? changes->gid : UM_UPPER_KEEP);
    if (error == 0 && (which & UM_UPPER_SET_MODE))
        error = um_upper_object_chmod(upper, reached, changes->mode);
    if (error == 0 && (which & (SET_ATIME | SET_MTIME)))
        error = set_times(reached, changes);
    return error == -ENOENT ? -ESTALE : error;
}

static int change(struct um_upper *upper, struct um_upper_node *node,
                  const struct um_upper_changes *changes)
{
    struct um_upper_reached reached = {0};
    enum um_upper_need need = !(changes->which & UM_UPPER_SET_SIZE) ? UM_UPPER_NEED_NAME
                              : changes->size == 0                  ? UM_UPPER_NEED_EMPTY
                                                                    : UM_UPPER_NEED_DATA;
    int error = check_changes(upper, node, changes);
    if (error == 0 && node->data != 0 && um_upper_is_copying(upper, node->number))
        error = -EAGAIN;
    if (error == 0)
        error = um_upper_node_copy_up(upper, node, need);
    if (error == 0 && (changes->which & (UM_UPPER_SET_SIZE | UM_UPPER_SET_UID | UM_UPPER_SET_GID)))
        error = um_upper_node_drop_capability(upper, node);
    if (error == 0)
        error = um_upper_reach(upper, node, &reached);
    if (changes->which & (UM_UPPER_SET_UID | UM_UPPER_SET_GID | UM_UPPER_SET_MODE))
        node->heritage.known = false;
    if (error == 0)
        error = apply(upper, node, &reached, changes);
    if (error == 0 && reached.capable)
        node->capable = true;
    um_upper_reached_close(&reached);
    return error;
}

int um_upper_setattr(struct um_upper *upper, uint64_t number,
                     const struct um_upper_changes *changes, struct um_attr *attr)
{
    struct um_upper_node *node;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_node_load(upper, number, &node);
    if (error == 0) {
        if (changes->which != 0)
            error = change(upper, node, changes);
        if (error == 0)
            error = um_upper_node_attr_counted(upper, node, attr);
        um_upper_node_release(upper, node);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}
