/*
 * tar/number.h - numbers and times, as headers and pax records spell them.
 *
 * Threads: pure.
 */
#ifndef UM_TAR_NUMBER_H
#define UM_TAR_NUMBER_H

#include "base/base.h"

/* Octal or GNU base-256, as a header field has it. False: neither, or beyond 64 bits. */
bool um_tar_parse_number(const uint8_t *at, size_t size, int64_t *value);

static inline bool um_tar_is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

/* *number = *number * 10 + digit; false on overflow. */
static inline bool um_tar_add_digit(uint64_t *number, uint8_t digit)
{
    return um_mul64(*number, 10, number) && um_add64(*number, digit - (uint64_t)'0', number);
}

/* Decimal digits only, no sign, at most INT64_MAX. */
bool um_tar_parse_decimal(struct um_slice text, uint64_t *value);

/* "[-]seconds[.fraction]", rounded towards minus infinity to a nanosecond, as GNU tar does. */
bool um_tar_parse_time(struct um_slice text, int64_t *seconds, uint32_t *nsec);

#endif
