#include "upper/work.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "system/directory_stream.h"
#include "system/open_beneath.h"
#include "system/posix_acl.h"

#define MAX_DEPTH 64 /* of removed trees: directories that hold whiteouts, and temporaries */

int um_upper_strip_acls(struct um_upper_reached *made, uint32_t type)
{
    int error = um_upper_reached_removexattr(made, UM_ACL_ACCESS);
    if ((error == 0 || error == -ENODATA) && S_ISDIR(type))
        error = um_upper_reached_removexattr(made, UM_ACL_DEFAULT);
    return error == -ENODATA ? 0 : error;
}

int um_upper_work_strip_acls(struct um_upper *upper, int fd, const char *name, uint32_t type)
{
    struct um_upper_reached made;
    if (!upper->work_inherits)
        return 0;
    int error = um_upper_reach_name(upper, fd, um_slice_text(name), &made);
    return error ? error : um_upper_strip_acls(&made, type);
}

void um_upper_work_name(struct um_upper *upper, char name[UM_UPPER_WORK_NAME])
{
    unsigned long long number = atomic_fetch_add(&upper->temporaries, 1);
    snprintf(name, UM_UPPER_WORK_NAME, "#%llx", number);
}

int um_upper_work_make_whiteout(struct um_upper *upper, const char *name)
{
    int error = um_upper_make_whiteout(upper->work_fd, name);
    if (error != 0)
        return error;
    error = um_upper_work_strip_acls(upper, upper->work_fd, name, S_IFCHR);
    if (error != 0)
        unlinkat(upper->work_fd, name, 0);
    return error;
}

int um_upper_make_whiteout(int fd, const char *name)
{
    return um_result(mknodat(fd, name, S_IFCHR, makedev(0, 0)));
}

static int remove_at(int fd, const char *name, int depth);

static int empty_directory(int fd, const char *name, int depth)
{
    DIR *stream;
    struct dirent *entry;
    int more;
    int inner = um_open_beneath(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    int error = inner < 0 ? inner : um_directory_stream(inner, &stream);
    if (error != 0) /* -EXDEV: what is mounted there is not the upper's */
        return error;
    while (error == 0 && (more = um_directory_next(stream, &entry)) != 0)
        error = more < 0 ? more : remove_at(dirfd(stream), entry->d_name, depth + 1);
    closedir(stream);
    return error;
}

static int remove_at(int fd, const char *name, int depth)
{
    if (unlinkat(fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    if (unlinkat(fd, name, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -errno;
    if (depth > MAX_DEPTH)
        return -ELOOP;
    int error = empty_directory(fd, name, depth);
    if (error != 0)
        return error;
    return um_result(unlinkat(fd, name, AT_REMOVEDIR));
}

int um_upper_remove_tree(int fd, const char *name)
{
    return remove_at(fd, name, 0);
}
