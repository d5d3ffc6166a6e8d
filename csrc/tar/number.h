/*
 * tar/number.h - numbers and times, as headers and pax records spell them.
 *
 * Threads: pure.
 */
#ifndef UM_TAR_NUMBER_H
#define UM_TAR_NUMBER_H

#include "base/base.h"

/* Parse a number in octal or GNU base-256, the forms of a header field. False where it is neither,
 * or needs more than 64 bits. */
bool um_tar_parse_number(const uint8_t *at, size_t size, int64_t *value);

static inline bool um_tar_is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

/* Compute *number = *number * 10 + digit; false on overflow. */
static inline bool um_tar_add_digit(uint64_t *number, uint8_t digit)
{
    return um_mul64(*number, 10, number) && um_add64(*number, digit - (uint64_t)'0', number);
}

/* Parse decimal digits without a sign, at most INT64_MAX. */
bool um_tar_parse_decimal(struct um_slice text, uint64_t *value);

/* Parse "[-]seconds[.fraction]", rounding towards minus infinity to a nanosecond, as GNU tar does. */
bool um_tar_parse_time(struct um_slice text, int64_t *seconds, uint32_t *nsec);

#endif
