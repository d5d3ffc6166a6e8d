/*
 * base/base.h - the error convention and the small helpers that every module of the core uses.
 *
 * Purpose: errors, ownership macros, slices, little-endian access, checked arithmetic and
 * patience.
 * Ownership: nothing here owns anything.
 * Threads: everything here is pure or works on memory of the caller.
 *
 * Error convention of the whole core: a function returns 0 or a negative errno. Damaged input is
 * -EBADMSG. Input beyond a limit is -EFBIG (sizes) or -E2BIG (counts), and -ENOBUFS where it would
 * need more memory than the caller allows. A function that reads untrusted input also fills a
 * struct um_fault of the caller, which says where the input is damaged.
 */
#ifndef UM_BASE_H
#define UM_BASE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* cffi: begin */
#define UM_FAULT_TEXT 200

/* This says where and why untrusted input was refused. */
struct um_fault {
    uint64_t offset;   /* bytes from the start of the input (tar or index) */
    char text[UM_FAULT_TEXT]; /* NUL-terminated; may quote input, control bytes replaced by '?' */
};
/* cffi: end */

/* A slice borrows a run of bytes, which is not NUL-terminated. */
struct um_slice {
    const uint8_t *data;
    size_t size;
};

static inline struct um_slice um_slice_of(const void *data, size_t size)
{
    return (struct um_slice){.data = (const uint8_t *)data, .size = size};
}

static inline bool um_slice_equal(struct um_slice a, struct um_slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Compare bytewise; a prefix comes first. Names in an index and in a listing have this order. */
static inline int um_slice_compare(struct um_slice a, struct um_slice b)
{
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    if (order != 0)
        return order;
    return (a.size > b.size) - (a.size < b.size);
}

#define UM_SLICE_LITERAL(text) um_slice_of(text, sizeof(text) - 1)

/* Borrow the bytes of a NUL-terminated string, without the NUL. */
static inline struct um_slice um_slice_text(const char *text)
{
    return um_slice_of(text, strlen(text));
}

static inline bool um_slice_begins(struct um_slice text, struct um_slice start)
{
    return text.size >= start.size &&
           (start.size == 0 || memcmp(text.data, start.data, start.size) == 0);
}

/* Return whether a name is "." or "..": every directory has both, and neither is an entry of its
 * own. */
static inline bool um_slice_is_dots(struct um_slice name)
{
    return um_slice_equal(name, UM_SLICE_LITERAL(".")) ||
           um_slice_equal(name, UM_SLICE_LITERAL(".."));
}

/* Copy bytes out as getxattr(2) does. Return their number; copy them only where `room` is not 0.
 * -ERANGE where they do not fit into `room` bytes. */
static inline int64_t um_slice_copy_out(struct um_slice from, void *buffer, size_t room)
{
    if (room != 0 && from.size > room)
        return -ERANGE;
    if (room != 0 && from.size != 0)
        memcpy(buffer, from.data, from.size);
    return (int64_t)from.size;
}

/* ---- ownership ------------------------------------------------------------------------- */

static inline void um_free_cleanup(void *slot)
{
    void *memory;
    memcpy(&memory, slot, sizeof memory);
    free(memory);
}

#define um_autofree __attribute__((cleanup(um_free_cleanup)))

/* Move the value out of an owning pointer, which becomes NULL. */
#define um_steal(slot)                    \
    __extension__({                       \
        __typeof__(*(slot)) t_ = *(slot); \
        *(slot) = NULL;                   \
        t_;                               \
    })

/* ---- system calls ------------------------------------------------------------------------ */

/* Convert the result of a system call to the core's convention: -errno for a negative one, else 0. */
static inline int um_result(long result)
{
    return result < 0 ? -errno : 0;
}

/* ---- little-endian access --------------------------------------------------------------- */

static inline uint16_t um_load16(const void *at)
{
    const uint8_t *b = (const uint8_t *)at;
    return (uint16_t)(b[0] | (uint16_t)b[1] << 8);
}

static inline uint32_t um_load32(const void *at)
{
    const uint8_t *b = (const uint8_t *)at;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t um_load64(const void *at)
{
    const uint8_t *b = (const uint8_t *)at;
    return (uint64_t)um_load32(b) | (uint64_t)um_load32(b + 4) << 32;
}

static inline void um_store16(void *at, uint16_t value)
{
    uint8_t *b = (uint8_t *)at;
    b[0] = (uint8_t)value;
    b[1] = (uint8_t)(value >> 8);
}

static inline void um_store32(void *at, uint32_t value)
{
    um_store16(at, (uint16_t)value);
    um_store16((uint8_t *)at + 2, (uint16_t)(value >> 16));
}

static inline void um_store64(void *at, uint64_t value)
{
    um_store32(at, (uint32_t)value);
    um_store32((uint8_t *)at + 4, (uint32_t)(value >> 32));
}

/* ---- checked arithmetic: false when the result does not fit -------------------------------- */

static inline bool um_add64(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline bool um_mul64(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

/* Return whether [offset, offset + length) lies within [0, size). */
static inline bool um_within(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

/* Spread a number over 64 bits, so that its low bits can choose a slot of a hash table. This is
 * for numbers that no attacker chooses; for others see base/keyed_hash.h. */
static inline uint64_t um_hash_number(uint64_t number)
{
    number *= 0x9e3779b97f4a7c15ull;
    return number ^ number >> 32;
}

/* Make room for `need` elements of `width` bytes. The array grows by doubling, so that appending
 * is amortised O(1). 0, or -ENOMEM with *array unchanged. */
static inline int um_reserve(void **array, size_t *capacity, size_t need, size_t width)
{
    if (need <= *capacity)
        return 0;
    size_t grown = *capacity ? *capacity : 16;
    while (grown < need) {
        if (grown > SIZE_MAX / 2)
            return -ENOMEM;
        grown *= 2;
    }
    if (grown > SIZE_MAX / width)
        return -ENOMEM;
    void *moved = realloc(*array, grown * width);
    if (moved == NULL)
        return -ENOMEM;
    *array = moved;
    *capacity = grown;
    return 0;
}

/* Fill `fault`, which may be NULL, and return `error`, so that refusing input is one statement. */
__attribute__((format(printf, 4, 5))) static inline int um_refuse(struct um_fault *fault, int error,
                                                                  uint64_t offset,
                                                                  const char *format, ...)
{
    if (fault == NULL)
        return error;
    fault->offset = offset;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->text, sizeof fault->text, format, arguments);
    va_end(arguments);
    for (char *c = fault->text; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    }
    return error;
}

/* ---- patience ------------------------------------------------------------------------------------- */

/* A long operation calls is_over between two steps, in its own thread. Where it returns true,
 * nobody waits for the result any more, and the operation ends with -EINTR. A NULL pointer to this
 * struct means that the operation is never given up. The context is borrowed. */
struct um_patience {
    bool (*is_over)(const void *context);
    const void *context;
};

static inline bool um_is_over(const struct um_patience *patience)
{
    return patience != NULL && patience->is_over(patience->context);
}

#endif
