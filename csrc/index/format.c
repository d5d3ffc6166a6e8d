#include "index/format.h"

/* Four independent lanes of multiply and rotate, so that the multiplications overlap; every word
 * of the input changes the result, whatever its place. */

static inline uint64_t rotate(uint64_t value, int by)
{
    return value << by | value >> (64 - by);
}

static inline uint64_t mix(uint64_t lane, uint64_t word)
{
    return rotate(lane ^ (word * 0x9e3779b97f4a7c15ull), 29) * 0xbf58476d1ce4e5b9ull + word;
}

uint64_t um_index_checksum(const void *data, size_t size)
{
    const uint8_t *at = (const uint8_t *)data;
    uint64_t lanes[4] = {0x243f6a8885a308d3ull, 0x13198a2e03707344ull, 0xa4093822299f31d0ull,
                         0x082efa98ec4e6c89ull};
    size_t left = size;
    for (; left >= 32; left -= 32, at += 32) {
        for (int lane = 0; lane < 4; lane++)
            lanes[lane] = mix(lanes[lane], um_load64(at + 8 * lane));
    }
    uint8_t rest[32] = {0};
    if (left != 0)
        memcpy(rest, at, left);
    for (int lane = 0; lane < 4; lane++)
        lanes[lane] = mix(lanes[lane], um_load64(rest + 8 * lane));
    uint64_t sum = size;
    for (int lane = 0; lane < 4; lane++)
        sum = mix(sum, lanes[lane]);
    return sum ^ sum >> 32;
}

size_t um_index_record_size(enum um_index_section section)
{
    switch (section) {
    case UM_SECTION_INODES:
        return sizeof(struct um_index_disk_inode);
    case UM_SECTION_DIRENTS:
        return sizeof(struct um_index_disk_dirent);
    case UM_SECTION_LINKS:
    case UM_SECTION_EXTERNALS:
        return sizeof(struct um_index_disk_link);
    case UM_SECTION_EXTENTS:
        return sizeof(struct um_index_disk_extent);
    case UM_SECTION_XATTRS:
        return sizeof(struct um_index_disk_xattr);
    case UM_SECTION_SUMS:
        return sizeof(uint64_t);
    case UM_SECTION_STRINGS:
    case UM_SECTION_COUNT:
        break;
    }
    return 1;
}
