#include "upper/copy_data_later.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include "system/capability.h"
#include "upper/copy_data.h"
#include "upper/lookup.h"
#include "upper/marks.h"
#include "upper/publish.h"
#include "upper/settle.h"

static size_t find_copying(const struct um_upper *upper, uint64_t number)
{
    size_t i = 0;
    while (i < upper->n_copying && upper->copying[i] != number)
        i++;
    return i;
}

/* Wait until no other thread copies the file, and begin. */
static int begin_copying(struct um_upper *upper, uint64_t number)
{
    pthread_mutex_lock(&upper->copying_lock);
    while (find_copying(upper, number) != upper->n_copying)
        pthread_cond_wait(&upper->copied, &upper->copying_lock);
    int error = um_reserve((void **)&upper->copying, &upper->copying_capacity, upper->n_copying + 1,
                           sizeof *upper->copying);
    if (error == 0)
        upper->copying[upper->n_copying++] = number;
    pthread_mutex_unlock(&upper->copying_lock);
    return error;
}

static void end_copying(struct um_upper *upper, uint64_t number)
{
    pthread_mutex_lock(&upper->copying_lock);
    upper->copying[find_copying(upper, number)] = upper->copying[upper->n_copying - 1];
    upper->n_copying--;
    pthread_cond_broadcast(&upper->copied);
    pthread_mutex_unlock(&upper->copying_lock);
}

bool um_upper_is_copying(struct um_upper *upper, uint64_t number)
{
    pthread_mutex_lock(&upper->copying_lock);
    bool copying = find_copying(upper, number) != upper->n_copying;
    pthread_mutex_unlock(&upper->copying_lock);
    return copying;
}

/* The completion of a file in the upper whose data is still below. */
struct completion {
    int fd;
    uint64_t data; /* the lower file that has it */
    struct stat status;
    char capability[64]; /* writing drops it */
    ssize_t capability_size;
    const struct um_patience *patience;
};

static int begin_completion(struct um_upper *upper, uint64_t number, struct completion *completion)
{
    pthread_rwlock_rdlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    int error = 0;
    if (node != NULL && node->data == UM_UPPER_DATA_LOST) {
        error = -EIO;
    } else if (node != NULL && node->data != 0) {
        completion->data = node->data;
        completion->fd = um_upper_node_open(upper, node, O_RDWR);
        error = completion->fd < 0 ? completion->fd : 0;
    }
    pthread_rwlock_unlock(&upper->lock);
    if (error != 0 || completion->fd < 0)
        return error;
    completion->capability_size = fgetxattr(completion->fd, UM_CAPABILITY, completion->capability,
                                            sizeof completion->capability);
    return um_result(fstat(completion->fd, &completion->status));
}

/* Restore what writing the data has changed. */
static int restore(const struct completion *completion)
{
    const struct timespec times[2] = {completion->status.st_atim, completion->status.st_mtim};
    if (completion->capability_size > 0 &&
        fsetxattr(completion->fd, UM_CAPABILITY, completion->capability,
                  (size_t)completion->capability_size, 0) != 0)
        return -errno;
    return um_result(futimens(completion->fd, times));
}

/* Free the room of data that could not be fetched completely, and restore the file. */
static void undo_completion(const struct completion *completion)
{
    int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (completion->status.st_size != 0)
        (void)fallocate(completion->fd, how, 0, completion->status.st_size); /* or it stays taken */
    restore(completion);
}

/* Copy the data, and make sure that it stays before the mark is dropped. */
static int fetch(struct um_upper *upper, const struct completion *completion)
{
    struct um_upper_data_copy data = {.tree = upper->tree,
                                      .unshared = &upper->unshared,
                                      .patience = completion->patience,
                                      .waits = !(upper->flags & UM_UPPER_VOLATILE)};
    int error = um_upper_copy_data(&data, completion->data, (uint64_t)completion->status.st_size,
                                   completion->fd);
    if (error == 0)
        error = restore(completion);
    if (error == 0)
        error = um_upper_settle(upper, completion->fd, data.written);
    if (error != 0)
        undo_completion(completion);
    return error;
}

/* Drop the mark: from now on the data is the file's own. */
static int end_completion(struct um_upper *upper, uint64_t number,
                          const struct completion *completion)
{
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    int error = um_upper_mark_drop_metacopy(upper, completion->fd);
    if (error == 0 && node != NULL)
        node->data = 0;
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* Complete a file that was copied up without its data. It is not written to before that. */
static int complete(struct um_upper *upper, uint64_t number, const struct um_patience *patience)
{
    struct completion completion = {.fd = -1, .patience = patience};
    int error = begin_completion(upper, number, &completion);
    if (error == 0 && completion.fd >= 0)
        error = fetch(upper, &completion);
    if (error == 0 && completion.fd >= 0)
        error = end_completion(upper, number, &completion);
    if (completion.fd >= 0)
        close(completion.fd);
    return error;
}

/* 1 where the file is in the lower layers only, as *attr says; 0 where it is in the upper. */
static int is_to_be_copied(struct um_upper *upper, uint64_t number, struct um_attr *attr)
{
    pthread_rwlock_rdlock(&upper->lock);
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    bool directory = node != NULL && node->directory;
    bool in_upper = node != NULL && node->in_upper;
    pthread_rwlock_unlock(&upper->lock);
    if (directory)
        return -EISDIR;
    if (in_upper)
        return 0;
    if (number >= upper->base)
        return -ESTALE;
    int error = um_tree_getattr(upper->tree, number, attr);
    if (error == 0 && S_ISDIR(attr->mode))
        error = -EISDIR;
    return error ? error : 1;
}

/* Publish a copy, unless another thread was faster. */
static int publish_node(struct um_upper *upper, uint64_t number, struct um_upper_copy *copy)
{
    struct um_upper_node *node;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_node_load(upper, number, &node);
    if (error == 0) {
        if (!node->in_upper)
            error = um_upper_copy_publish(upper, node, copy);
        um_upper_node_unpin(upper, node);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_copy_up(struct um_upper *upper, uint64_t number, uint32_t flags)
{
    return um_upper_copy_up_patiently(upper, number, flags, NULL);
}

int um_upper_copy_up_patiently(struct um_upper *upper, uint64_t number, uint32_t flags,
                               const struct um_patience *patience)
{
    struct um_attr attr;
    struct um_upper_copy copy = {.patience = patience};
    int error = begin_copying(upper, number);
    if (error != 0)
        return error;
    int needed = is_to_be_copied(upper, number, &attr);
    error = needed < 0 ? needed : 0;
    if (needed > 0)
        error =
            um_upper_copy_make(upper, number, &attr, NULL, flags & UM_UPPER_COPY_UP_EMPTY, &copy);
    else if (error == 0 && !(flags & (UM_UPPER_COPY_UP_EMPTY | UM_UPPER_COPY_UP_ABSENT)))
        error = complete(upper, number, patience);
    if (needed > 0 && error == 0) {
        error = publish_node(upper, number, &copy);
        um_upper_copy_discard(upper, &copy);
    }
    end_copying(upper, number);
    return error;
}
