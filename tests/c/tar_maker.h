/*
 * tar_maker.h - make tar archives, also impossible ones, block by block.
 *
 * Purpose: give tests of the parser archives that no tool would write. Every function adds to the
 * end of a struct maker; make_header leaves a block whose fields can be changed before `seal`
 * writes its checksum (the maker does so when the next thing is added).
 * Ownership: the maker owns its bytes; free them with maker_free. Out of memory ends the test.
 */
#ifndef UM_TAR_MAKER_H
#define UM_TAR_MAKER_H

#include "base/base.h"

#include <assert.h>
#include <inttypes.h>

struct maker {
    uint8_t *data;
    size_t size, capacity;
    bool open; /* the last 512 bytes are a header without a checksum */
    size_t header;
};

static inline void seal(struct maker *maker)
{
    if (!maker->open)
        return;
    uint8_t *block = maker->data + maker->header;
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += block[i];
    snprintf((char *)block + 148, 8, "%06o", sum);
    maker->open = false;
}

static inline void add_bytes(struct maker *maker, const void *data, size_t size)
{
    seal(maker);
    int error = um_reserve((void **)&maker->data, &maker->capacity, maker->size + size, 1);
    assert(error == 0);
    (void)error;
    if (size != 0)
        memcpy(maker->data + maker->size, data, size);
    maker->size += size;
}

static inline void add_zeros(struct maker *maker, size_t size)
{
    static const uint8_t zeros[512];
    for (; size > 0; size -= size < 512 ? size : 512)
        add_bytes(maker, zeros, size < 512 ? size : 512);
}

static inline void add_padding(struct maker *maker)
{
    add_zeros(maker, -maker->size & 511);
}

/* Payload with its padding. */
static inline void add_payload(struct maker *maker, const void *data, size_t size)
{
    add_bytes(maker, data, size);
    add_padding(maker);
}

static inline void add_end(struct maker *maker)
{
    add_zeros(maker, 1024);
}

/* Write `text` at `offset` of the header that is open. */
static inline void set_bytes(struct maker *maker, size_t offset, const void *data, size_t size)
{
    assert(maker->open && offset + size <= 512);
    memcpy(maker->data + maker->header + offset, data, size);
}

static inline void set_text(struct maker *maker, size_t offset, const char *text)
{
    set_bytes(maker, offset, text, strlen(text));
}

static inline void set_octal(struct maker *maker, size_t offset, size_t size, uint64_t number)
{
    char text[16];
    snprintf(text, sizeof text, "%0*" PRIo64, (int)size - 1, number);
    set_bytes(maker, offset, text, size);
}

/* A ustar header of mode 0644, all numbers 0; `size` is only what the header says. */
static inline void add_header(struct maker *maker, const char *name, char type, uint64_t size)
{
    add_zeros(maker, 512);
    maker->header = maker->size - 512;
    maker->open = true;
    set_text(maker, 0, name);
    set_octal(maker, 100, 8, 0644);
    set_octal(maker, 124, 12, size);
    set_bytes(maker, 156, &type, 1);
    set_bytes(maker, 257,
              "ustar\0"
              "00",
              8);
}

static inline void set_gnu(struct maker *maker)
{
    set_bytes(maker, 257, "ustar  ", 8);
}

static inline void set_v7(struct maker *maker)
{
    set_bytes(maker, 257, "\0\0\0\0\0\0\0", 8);
}

/* "LENGTH KEY=VALUE\n", to be put into a header by add_extended. */
static inline void record_bytes(struct maker *records, const char *key, const void *value,
                                size_t value_size)
{
    size_t body = 1 + strlen(key) + 1 + value_size + 1, length = body + 1;
    char digits[24];
    while ((size_t)snprintf(digits, sizeof digits, "%zu", length) + body != length)
        length = (size_t)snprintf(digits, sizeof digits, "%zu", length) + body;
    add_bytes(records, digits, strlen(digits));
    add_bytes(records, " ", 1);
    add_bytes(records, key, strlen(key));
    add_bytes(records, "=", 1);
    add_bytes(records, value, value_size);
    add_bytes(records, "\n", 1);
}

static inline void record(struct maker *records, const char *key, const char *value)
{
    record_bytes(records, key, value, strlen(value));
}

static inline void maker_free(struct maker *maker)
{
    free(maker->data);
    memset(maker, 0, sizeof *maker);
}

/* A header of `type` ('x', 'g', 'L', 'K') and its payload. */
static inline void add_extended(struct maker *maker, char type, const void *data, size_t size)
{
    add_header(maker, "././@Extended", type, size);
    add_payload(maker, data, size);
}

/* The same for records, which are used up. */
static inline void add_records(struct maker *maker, char type, struct maker *records)
{
    add_extended(maker, type, records->data, records->size);
    maker_free(records);
}

/* An extended header of one record. */
static inline void add_record(struct maker *maker, char type, const char *key, const char *value)
{
    struct maker records = {0};
    record(&records, key, value);
    add_records(maker, type, &records);
}

#endif
