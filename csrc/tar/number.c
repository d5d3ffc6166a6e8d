/*
 * tar/number.c - numbers and times, as headers and pax records spell them.
 */
#include "tar/number.h"

static bool blank(const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (at[i] != ' ' && at[i] != '\0')
            return false;
    }
    return true;
}

/* Parse octal: spaces, digits, then spaces; a NUL ends it. A blank field is 0. There are at most
 * 12 digits, so it cannot overflow. */
static bool parse_octal(const uint8_t *at, size_t size, int64_t *value)
{
    size_t i = 0;
    while (i < size && at[i] == ' ')
        i++;
    size_t first = i;
    uint64_t number = 0;
    for (; i < size && (at[i] & 0xf8) == '0'; i++)
        number = number << 3 | (at[i] & 7);
    *value = (int64_t)number;
    if (i == first)
        return blank(at + i, size - i);
    while (i < size && at[i] == ' ')
        i++;
    return i == size || at[i] == '\0';
}

/* Parse GNU base-256: big-endian two's complement, marked by its topmost bit. */
static bool parse_base256(const uint8_t *at, size_t size, int64_t *value)
{
    uint8_t flip = at[0] & 0x40 ? 0xff : 0;
    uint64_t number = (at[0] ^ flip) & 0x7f;
    for (size_t i = 1; i < size; i++) {
        if (number >> 55 != 0)
            return false;
        number = number << 8 | (uint8_t)(at[i] ^ flip);
    }
    *value = flip ? ~(int64_t)number : (int64_t)number;
    return true;
}

bool um_tar_parse_number(const uint8_t *at, size_t size, int64_t *value)
{
    return at[0] & 0x80 ? parse_base256(at, size, value) : parse_octal(at, size, value);
}

bool um_tar_parse_decimal(struct um_slice text, uint64_t *value)
{
    uint64_t number = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (!um_tar_is_digit(text.data[i]) || !um_tar_add_digit(&number, text.data[i]))
            return false;
    }
    *value = number;
    return text.size != 0 && number <= INT64_MAX;
}

/* Parse nine digits of a fraction; *more says whether a digit other than 0 was cut off. */
static bool parse_fraction(struct um_slice text, uint32_t *nsec, bool *more)
{
    uint32_t number = 0;
    for (size_t i = 0; i < 9; i++) {
        uint8_t digit = i < text.size ? text.data[i] : '0';
        if (!um_tar_is_digit(digit))
            return false;
        number = number * 10 + (digit - '0');
    }
    *more = false;
    for (size_t i = 9; i < text.size; i++) {
        if (!um_tar_is_digit(text.data[i]))
            return false;
        *more |= text.data[i] != '0';
    }
    *nsec = number;
    return true;
}

bool um_tar_parse_time(struct um_slice text, int64_t *seconds, uint32_t *nsec)
{
    bool negative = text.size != 0 && text.data[0] == '-', more = false;
    if (negative)
        text = um_slice_of(text.data + 1, text.size - 1);
    const uint8_t *dot = text.size != 0 ? memchr(text.data, '.', text.size) : NULL;
    size_t whole_size = dot != NULL ? (size_t)(dot - text.data) : text.size;
    uint64_t whole;
    *nsec = 0;
    if (!um_tar_parse_decimal(um_slice_of(text.data, whole_size), &whole))
        return false;
    if (dot != NULL &&
        !parse_fraction(um_slice_of(dot + 1, text.size - whole_size - 1), nsec, &more))
        return false;
    *seconds = negative ? -(int64_t)whole : (int64_t)whole;
    if (!negative || (*nsec == 0 && !more))
        return true;
    /* -(whole + f) = -(whole + 1) + (1 - f); digits that were cut off make it smaller still. */
    *nsec = 1000000000u - *nsec - more;
    *seconds -= 1;
    return true;
}
