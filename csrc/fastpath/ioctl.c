#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "fastpath/exchange.h"
#include "system/open_beneath.h"

/* These are the two ioctls by which the kernel asks for the flags that lsattr(1) shows, which only
 * the disk knows. Files in an image layer have none. Nothing sets them: the kernel would not obey
 * immutable and append-only, because it checks its own inodes, and on disk they would prevent
 * copying, and removing a container.
 *
 * Every other ioctl is ENOTTY. Python, for example, asks of each file that it opens whether it is
 * a terminal. */

/* Open the object of an O_PATH descriptor for reading, for ioctls. */
static int reopen(int path_fd)
{
    struct stat status;
    if (fstat(path_fd, &status) != 0)
        return -errno;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        return -ENOTTY; /* opening a device may have effects */
    return um_open_again(path_fd, O_RDONLY | O_NONBLOCK);
}

/* Pass an ioctl on to the disk, which fills `out`; it is 0 before. */
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
            int flags; /* although the ioctl's number says long */
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
