#include "system/read_at.h"

int64_t um_read_at(int fd, uint64_t offset, void *buffer, size_t size, bool nowait)
{
    size_t got = 0;
    while (got < size) {
        struct iovec piece = {.iov_base = (uint8_t *)buffer + got, .iov_len = size - got};
        ssize_t n = preadv2(fd, &piece, 1, (off_t)(offset + got), nowait ? RWF_NOWAIT : 0);
        if (n > 0)
            got += (size_t)n;
        else if (n == 0)
            break;
        else if (errno == EOPNOTSUPP && nowait)
            return -EAGAIN;
        else if (errno != EINTR)
            return -errno;
    }
    return (int64_t)got;
}

int um_read_all_at(int fd, uint64_t offset, void *buffer, size_t size, int missing)
{
    int64_t got = um_read_at(fd, offset, buffer, size, false);
    if (got < 0)
        return (int)got;
    return (size_t)got == size ? 0 : missing;
}

int um_read_vector_at(int fd, uint64_t offset, struct iovec *buffers, size_t n)
{
    while (n != 0) {
        ssize_t got = preadv(fd, buffers, (int)n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return -EIO;
        offset += (uint64_t)got;
        size_t done = (size_t)got;
        for (; n != 0 && done >= buffers->iov_len; n--)
            done -= buffers++->iov_len;
        if (n != 0) {
            buffers->iov_base = (uint8_t *)buffers->iov_base + done;
            buffers->iov_len -= done;
        }
    }
    return 0;
}
