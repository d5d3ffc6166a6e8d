#include <poll.h>

#include "router/state.h"

int um_router_write(int device, const void *message, size_t size)
{
    struct pollfd wait = {.fd = device, .events = POLLOUT};
    while (write(device, message, size) < 0) {
        if (errno == EAGAIN)
            poll(&wait, 1, -1); /* never happens with /dev/fuse */
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

void um_router_notify(int device, uint64_t node)
{
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out inode;
    } message = {
        .header = {.len = sizeof message, .error = FUSE_NOTIFY_INVAL_INODE},
        .inode = {.ino = node, .off = -1}, /* attributes alone */
    };
    um_router_write(device, &message, sizeof message); /* the kernel may have forgotten the node */
}

ssize_t um_worker_take(struct um_worker *worker)
{
    ssize_t got = read(worker->device, worker->request, UM_FUSE_BUFFER);
    if (got > 0)
        return got;
    if (got == 0)
        return -ENODEV;
    switch (errno) {
    case EAGAIN:
    case EINTR:
    case ENOENT: /* it was interrupted meanwhile */
        return 0;
    default: /* ENODEV: unmounted; ECONNABORTED */
        return -errno;
    }
}
