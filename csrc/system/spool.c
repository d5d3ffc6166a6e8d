#include "system/spool.h"

#include "system/read_at.h"
#include "system/write_at.h"

#define PIECE 4096u

static int write_out(struct um_spool *spool)
{
    int error = um_write_at(spool->fd, spool->written, spool->bytes, spool->n);
    if (error != 0)
        return error;
    spool->written += spool->n;
    spool->n = 0;
    return 0;
}

int um_spool_append(struct um_spool *spool, struct um_budget *budget, struct um_slice bytes)
{
    int error = 0;
    if (spool->fd >= 0 && bytes.size > UM_SPOOL_MEMORY - spool->n)
        error = write_out(spool);
    if (error == 0)
        error = um_budget_reserve(budget, (void **)&spool->bytes, &spool->capacity,
                                  spool->n + bytes.size, 1);
    if (error != 0)
        return error;
    if (bytes.size != 0)
        memcpy(spool->bytes + spool->n, bytes.data, bytes.size);
    spool->n += bytes.size;
    return 0;
}

int um_spool_read(const struct um_spool *spool, uint64_t offset, void *buffer, size_t size)
{
    uint8_t *at = buffer;
    if (!um_within(offset, size, um_spool_size(spool)))
        return -EINVAL;
    if (offset < spool->written) {
        uint64_t there = spool->written - offset;
        size_t piece = there < size ? (size_t)there : size;
        int error = um_read_all_at(spool->fd, offset, at, piece, -EIO);
        if (error != 0)
            return error;
        at += piece;
        offset += piece;
        size -= piece;
    }
    if (size != 0)
        memcpy(at, spool->bytes + (offset - spool->written), size);
    return 0;
}

int um_spool_equal(const struct um_spool *spool, uint64_t offset, struct um_slice bytes)
{
    uint8_t piece[PIECE];
    for (size_t at = 0; at < bytes.size;) {
        size_t size = bytes.size - at < PIECE ? bytes.size - at : PIECE;
        int error = um_spool_read(spool, offset + at, piece, size);
        if (error != 0)
            return error;
        if (memcmp(piece, bytes.data + at, size) != 0)
            return 0;
        at += size;
    }
    return 1;
}

void um_spool_free(struct um_spool *spool)
{
    free(spool->bytes);
    spool->bytes = NULL;
    spool->n = spool->capacity = 0;
}
