#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "fastpath/exchange.h"
#include "system/open_beneath.h"

/* The kernel asks by two ioctls for what lsattr(1) shows: flags that only the disk knows. What is in an
 * image layer has none. Nothing sets them: the kernel would not go by immutable and append-only, since
 * the inodes that it checks are its own, and on disk they would stop copying, and removing a container.
 *
 * Everything else, such as whether a file is a terminal, which Python asks of each that it opens, is
 * ENOTTY. */

/* A descriptor that was opened with O_PATH, opened for reading: for ioctls. */
static int reopen(int path_fd)
{
    struct stat status;
    if (fstat(path_fd, &status) != 0)
        return -errno;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        return -ENOTTY; /* opening a device does something */
    return um_open_again(path_fd, O_RDONLY | O_NONBLOCK);
}

/* Have the disk answer an ioctl that fills `out`, which is 0 before. */
static int ask_disk(struct um_exchange *x, unsigned long command, void *out)
{
    int path_fd;
    int error = um_fastpath_node_open_path(x->fastpath, x->header->nodeid, &path_fd);
    if (error != 0)
        return error == -ENODATA ? 0 : error;
    int fd = reopen(path_fd);
    close(path_fd);
    if (fd < 0)
        return fd;
    error = um_result(ioctl(fd, command, out));
    close(fd);
    return error;
}

int64_t um_answer_ioctl(struct um_exchange *x)
{
    const struct fuse_ioctl_in *in = UM_BODY(x, struct fuse_ioctl_in);
    struct {
        struct fuse_ioctl_out head;
        union {
            int flags; /* although the number of the ioctl says long */
            struct fsxattr attributes;
        } value;
    } *out = um_reply_room(x, sizeof *out);
    size_t size;
    if (in == NULL)
        return -EIO;
    if (in->cmd == FS_IOC_GETFLAGS)
        size = sizeof out->value.flags;
    else if (in->cmd == FS_IOC_FSGETXATTR)
        size = sizeof out->value.attributes;
    else
        return -ENOTTY;
    if (in->out_size != size)
        return -ENOTTY;
    int error = ask_disk(x, in->cmd, &out->value);
    return error ? error : (int64_t)(sizeof out->head + size);
}
