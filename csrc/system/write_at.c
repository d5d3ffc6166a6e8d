#include "system/write_at.h"

int um_write_at(int fd, uint64_t offset, const void *data, size_t size)
{
    const uint8_t *from = data;
    while (size != 0) {
        ssize_t n = pwrite(fd, from, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        from += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}
