#include <fcntl.h>
#include <sys/xattr.h>

#include "upper/copy_data.h"
#include "upper/state.h"

static int copy_file(struct um_upper *upper, struct um_upper_node *node, const struct um_attr *attr,
                     const char *redirect, bool empty)
{
    struct um_upper_copy copy = {0};
    int error = um_upper_copy_make(upper, node->lower, attr, redirect, empty, &copy);
    if (error != 0)
        return error;
    error = um_upper_copy_publish(upper, node, &copy);
    um_upper_copy_discard(upper, &copy);
    return error;
}

static int copy_record(struct um_upper *upper, struct um_upper_node *node, enum um_upper_need need)
{
    char room[UM_REDIRECT_ROOM];
    struct um_attr attr;
    int error = um_tree_getattr(upper->tree, node->lower, &attr);
    if (error != 0)
        return error;
    bool has_data = S_ISREG(attr.mode) && attr.size != 0;
    if (!has_data || need == UM_NEED_EMPTY)
        return copy_file(upper, node, &attr, NULL, true);
    const char *redirect = NULL;
    if (need == UM_NEED_NAME && attr.size >= upper->metacopy_min && !node->gone &&
        um_upper_marks_may_lead(upper))
        redirect = um_upper_node_lower_path(upper, node, room);
    if (redirect == NULL)
        return -EAGAIN;
    error = copy_file(upper, node, &attr, redirect, false);
    /* The xattrs may have room without the path of the data; if it is the disk that is full, the
     * copy of the data finds out. */
    return error == -ENOSPC || error == -E2BIG ? -EAGAIN : error;
}

/* The path in the lower tree of the data of a file; NULL where it is too long for a mark. */
static int data_path(struct um_upper *upper, uint64_t data, char room[UM_REDIRECT_ROOM],
                     const char **path)
{
    um_autofree struct um_tree_name *names = NULL;
    size_t n = 0;
    int error = um_tree_names(upper->tree, data, &names, &n);
    if (error != 0 || n == 0)
        return -EIO; /* there is no such file: at another name it would get the data of another one */
    *path = um_upper_lower_file_path(upper, names[0].directory,
                                     um_slice_of(names[0].name, names[0].name_size), room);
    return 0;
}

int um_upper_node_fix_data_path(struct um_upper *upper, struct um_upper_node *node)
{
    char room[PATH_MAX];
    const char *path;
    struct um_upper_reached reached = {0};
    if (node->data == 0)
        return 0;
    int error = um_upper_reach(upper, node, &reached);
    int64_t size = error ? error : um_upper_mark_get_redirect(upper, &reached, room, sizeof room);
    if (size == -EKEYREJECTED)
        size = -EIO;
    bool fixed = size > 0 && room[0] == '/';
    error = size < 0 ? (int)size : 0;
    if (error == 0 && !fixed)
        error = data_path(upper, node->data, room, &path);
    if (error == 0 && !fixed && !um_upper_marks_may_lead(upper))
        error = -EAGAIN; /* it gets its data */
    if (error == 0 && !fixed)
        error = path ? um_upper_mark_set_redirect(upper, &reached, path, strlen(path)) : -EAGAIN;
    um_upper_reached_close(&reached);
    return error == -ENOSPC || error == -E2BIG ? -EAGAIN : error;
}

/* Throw the data away instead of copying it. */
static int give_up_data(struct um_upper *upper, struct um_upper_node *node)
{
    struct um_upper_reached reached = {0};
    if (um_upper_is_copying(upper, node->number))
        return -EAGAIN; /* the data is on its way */
    int error = um_upper_reach(upper, node, &reached);
    int fd = error ? error : um_upper_reached_open(&reached, O_WRONLY);
    um_upper_reached_close(&reached);
    if (fd < 0)
        return fd;
    /* In this order: an empty file with the mark is one without data. */
    error = ftruncate(fd, 0) == 0 ? um_upper_mark_drop_metacopy(upper, fd) : -errno;
    close(fd);
    if (error == 0)
        node->data = 0;
    return error;
}

int um_upper_copy_up_now(struct um_upper *upper, struct um_upper_node *node,
                         enum um_upper_need need)
{
    if (node->directory)
        return um_upper_copy_up_directory(upper, node);
    if (!node->in_upper)
        return copy_record(upper, node, need);
    if (node->data == 0)
        return 0;
    /* With another owner or mode, a mark that would not be written here may not be believed any more. */
    if (need == UM_NEED_NAME && (um_upper_marks_may_lead(upper) || node->data == UM_DATA_LOST))
        return 0;
    return need == UM_NEED_EMPTY ? give_up_data(upper, node) : -EAGAIN;
}

static size_t find_copying(const struct um_upper *upper, uint64_t number)
{
    size_t i = 0;
    while (i < upper->n_copying && upper->copying[i] != number)
        i++;
    return i;
}

/* Wait until nobody else copies the node, and be the one who does. */
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

/* What has to be done to a file in the upper that lacks its data. */
struct completion {
    int fd;
    uint64_t data; /* the lower node that has it */
    struct stat status;
    char capability[64]; /* writing takes it away */
    ssize_t capability_size;
    const struct um_patience *patience;
};

static int begin_completion(struct um_upper *upper, uint64_t number, struct completion *completion)
{
    struct um_upper_reached reached = {0};
    pthread_rwlock_rdlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    int error = 0;
    if (node != NULL && node->data == UM_DATA_LOST) {
        error = -EIO;
    } else if (node != NULL && node->data != 0) {
        completion->data = node->data;
        error = um_upper_reach(upper, node, &reached);
        if (error == 0) {
            completion->fd = um_upper_reached_open(&reached, O_RDWR);
            error = completion->fd < 0 ? completion->fd : 0;
        }
        um_upper_reached_close(&reached);
    }
    pthread_rwlock_unlock(&upper->lock);
    if (error != 0 || completion->fd < 0)
        return error;
    completion->capability_size = fgetxattr(completion->fd, UM_CAPABILITY, completion->capability,
                                            sizeof completion->capability);
    return fstat(completion->fd, &completion->status) == 0 ? 0 : -errno;
}

/* Put back what writing the data has changed. */
static int restore(const struct completion *completion)
{
    const struct timespec times[2] = {completion->status.st_atim, completion->status.st_mtim};
    if (completion->capability_size > 0 &&
        fsetxattr(completion->fd, UM_CAPABILITY, completion->capability,
                  (size_t)completion->capability_size, 0) != 0)
        return -errno;
    return futimens(completion->fd, times) == 0 ? 0 : -errno;
}

/* The data could not be fetched: it shall take no room, and the file look as it did. */
static void undo_completion(const struct completion *completion)
{
    int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (completion->status.st_size != 0)
        (void)fallocate(completion->fd, how, 0, completion->status.st_size); /* or it stays */
    restore(completion);
}

/* Fetch the data, and make it durable before the mark goes. */
static int fetch(struct um_upper *upper, const struct completion *completion)
{
    int error =
        um_upper_copy_data(upper->tree, completion->data, (uint64_t)completion->status.st_size,
                           completion->fd, completion->patience);
    if (error == 0)
        error = restore(completion);
    if (error == 0 && !(upper->flags & UM_UPPER_VOLATILE) && fsync(completion->fd) != 0)
        error = -errno;
    if (error != 0)
        undo_completion(completion);
    return error;
}

/* The data is there: from now on it is the file's own. */
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

/* Fetch the data of a file that was copied up without. Nobody writes to it before it is there. */
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

/* Publish a copy, unless somebody was faster. */
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
        error = um_upper_copy_make(upper, number, &attr, NULL, flags & UM_COPY_UP_EMPTY, &copy);
    else if (error == 0 && !(flags & (UM_COPY_UP_EMPTY | UM_COPY_UP_ABSENT)))
        error = complete(upper, number, patience);
    if (needed > 0 && error == 0) {
        error = publish_node(upper, number, &copy);
        um_upper_copy_discard(upper, &copy);
    }
    end_copying(upper, number);
    return error;
}
