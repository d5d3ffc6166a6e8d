#include "upper/copy_up.h"

#include <fcntl.h>

#include "upper/copy_data_later.h"
#include "upper/lower_path.h"
#include "upper/marks.h"
#include "upper/publish.h"

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

static int copy_lower(struct um_upper *upper, struct um_upper_node *node, enum um_upper_need need)
{
    char room[UM_UPPER_REDIRECT_ROOM];
    struct um_attr attr;
    int error = um_tree_getattr(upper->tree, node->lower, &attr);
    if (error != 0)
        return error;
    bool has_data = S_ISREG(attr.mode) && attr.size != 0;
    if (!has_data || need == UM_UPPER_NEED_EMPTY)
        return copy_file(upper, node, &attr, NULL, true);
    const char *redirect = NULL;
    if (need == UM_UPPER_NEED_NAME && attr.size >= upper->metacopy_min && !node->gone &&
        um_upper_marks_may_lead(upper))
        redirect = um_upper_node_lower_path(upper, node, room);
    if (redirect == NULL)
        return -EAGAIN;
    error = copy_file(upper, node, &attr, redirect, false);
    /* The xattrs may fit without the path of the data. If it is the disk that is full, copying the data
     * fails, too. */
    return error == -ENOSPC || error == -E2BIG ? -EAGAIN : error;
}

/* Find the path in the lower tree of the data of a file; NULL where it is too long for a mark. */
static int data_path(struct um_upper *upper, uint64_t data, char room[UM_UPPER_REDIRECT_ROOM],
                     const char **path)
{
    um_autofree struct um_tree_name *names = NULL;
    size_t n = 0;
    int error = um_tree_names(upper->tree, data, &names, &n);
    if (error != 0 || n == 0)
        return -EIO; /* there is no such file; under another name it would show the data of another one */
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
        error = -EAGAIN; /* its data is copied */
    if (error == 0 && !fixed)
        error = path ? um_upper_mark_set_redirect(upper, &reached, path, strlen(path)) : -EAGAIN;
    um_upper_reached_close(&reached);
    return error == -ENOSPC || error == -E2BIG ? -EAGAIN : error;
}

/* Empty a metacopy instead of copying its data. */
static int give_up_data(struct um_upper *upper, struct um_upper_node *node)
{
    if (um_upper_is_copying(upper, node->number))
        return -EAGAIN; /* the data is being copied */
    int fd = um_upper_node_open(upper, node, O_WRONLY);
    if (fd < 0)
        return fd;
    /* The order matters: a crash in between leaves an empty file with the mark, which means no data. */
    int error = ftruncate(fd, 0) == 0 ? um_upper_mark_drop_metacopy(upper, fd) : -errno;
    close(fd);
    if (error == 0)
        node->data = 0;
    return error;
}

int um_upper_node_copy_up(struct um_upper *upper, struct um_upper_node *node,
                          enum um_upper_need need)
{
    if (node->directory)
        return um_upper_copy_up_directory(upper, node);
    if (!node->in_upper)
        return copy_lower(upper, node, need);
    if (node->data == 0)
        return 0;
    /* A mark that would not be written here may no longer be believed with another owner or mode. */
    if (need == UM_UPPER_NEED_NAME &&
        (um_upper_marks_may_lead(upper) || node->data == UM_UPPER_DATA_LOST))
        return 0;
    return need == UM_UPPER_NEED_EMPTY ? give_up_data(upper, node) : -EAGAIN;
}
