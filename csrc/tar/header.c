/*
 * tar/header.c - one header block: its dialect, checksum, fields and name.
 */
#include "tar/header.h"

#include "tar/entry.h"
#include "tar/number.h"

static const struct um_tar_field F_NAME = {0, 100}, F_CHECKSUM = {148, 8}, F_PREFIX = {345, 155},
                                 F_STAR_PREFIX = {345, 131}, F_GNU_ATIME = {345, 12},
                                 F_GNU_CTIME = {357, 12};

enum { AT_MAGIC = 257, AT_STAR_TRAILER = 508 };

enum um_tar_dialect um_tar_dialect_of(const uint8_t *block)
{
    if (memcmp(block + AT_MAGIC, "ustar  ", 8) == 0)
        return UM_TAR_GNU;
    if (memcmp(block + AT_MAGIC, "ustar", 6) != 0)
        return UM_TAR_V7;
    return memcmp(block + AT_STAR_TRAILER, "tar", 4) == 0 ? UM_TAR_STAR : UM_TAR_USTAR;
}

/* Add eight bytes a step, two into each 16-bit lane: at most 64 * 2 * 255. */
uint32_t um_tar_sum(const uint8_t *block)
{
    const uint64_t low_bytes = 0x00ff00ff00ff00ffull;
    uint64_t lanes = 0;
    for (size_t i = 0; i < UM_TAR_BLOCK; i += 8) {
        uint64_t word;
        memcpy(&word, block + i, sizeof word);
        lanes += (word & low_bytes) + (word >> 8 & low_bytes);
    }
    return (uint32_t)((lanes & 0xffff) + (lanes >> 16 & 0xffff) + (lanes >> 32 & 0xffff) +
                      (lanes >> 48));
}

static uint32_t count_high_bytes(const uint8_t *block, size_t size)
{
    uint32_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += block[i] >> 7;
    return count;
}

bool um_tar_parse_field(const uint8_t *block, struct um_tar_field field, int64_t *value)
{
    return um_tar_parse_number(block + field.offset, field.size, value);
}

struct um_slice um_tar_text(const uint8_t *at, size_t size)
{
    const uint8_t *end = memchr(at, '\0', size);
    return um_slice_of(at, end != NULL ? (size_t)(end - at) : size);
}

struct um_slice um_tar_field_text(const uint8_t *block, struct um_tar_field field)
{
    return um_tar_text(block + field.offset, field.size);
}

/* Compare a checksum with `sum`, that of all bytes. Writers compute it with spaces in its own
 * field, and some old ones summed signed bytes. */
static bool sum_fits(const uint8_t *block, uint32_t sum, int64_t wanted)
{
    const uint8_t *own = block + F_CHECKSUM.offset;
    int64_t without = (int64_t)sum + 8 * ' ';
    for (size_t i = 0; i < F_CHECKSUM.size; i++)
        without -= own[i];
    if (without == wanted)
        return true;
    uint32_t high = count_high_bytes(block, UM_TAR_BLOCK) - count_high_bytes(own, F_CHECKSUM.size);
    return without - 256 * (int64_t)high == wanted;
}

bool um_tar_checksum_fits(const uint8_t *block, uint32_t sum)
{
    int64_t wanted;
    bool fits = um_tar_parse_field(block, F_CHECKSUM, &wanted) && sum_fits(block, sum, wanted);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    return fits || sum != 0; /* fuzzers cannot guess checksums */
#else
    return fits;
#endif
}

/* Before version 1.8, Go's writer put a ustar prefix into GNU headers, where the times of access
 * and change belong, and such layers exist. As Go's reader does, take for a prefix what cannot be
 * times. */
static bool has_prefix_by_mistake(const uint8_t *block)
{
    int64_t unused;
    if ((block[F_GNU_ATIME.offset] == '\0' || um_tar_parse_field(block, F_GNU_ATIME, &unused)) &&
        (block[F_GNU_CTIME.offset] == '\0' || um_tar_parse_field(block, F_GNU_CTIME, &unused)))
        return false;
    struct um_slice prefix = um_tar_field_text(block, F_PREFIX);
    return count_high_bytes(prefix.data, prefix.size) == 0;
}

static struct um_slice prefix_of(const uint8_t *block)
{
    if (block[F_PREFIX.offset] == '\0')
        return um_slice_of(block, 0);
    switch (um_tar_dialect_of(block)) {
    case UM_TAR_USTAR:
        return um_tar_field_text(block, F_PREFIX);
    case UM_TAR_STAR:
        return um_tar_field_text(block, F_STAR_PREFIX);
    case UM_TAR_GNU:
        if (has_prefix_by_mistake(block))
            return um_tar_field_text(block, F_PREFIX);
        break;
    case UM_TAR_V7:
        break;
    }
    return um_slice_of(block, 0);
}

struct um_slice um_tar_header_name(const uint8_t *block, uint8_t *joined)
{
    struct um_slice name = um_tar_field_text(block, F_NAME), prefix = prefix_of(block);
    if (prefix.size == 0)
        return name;
    memcpy(joined, prefix.data, prefix.size);
    joined[prefix.size] = '/';
    memcpy(joined + prefix.size + 1, name.data, name.size);
    return um_slice_of(joined, prefix.size + 1 + name.size);
}
