/*
 * tar/sparse.c - maps of sparse files: old GNU, and pax 0.0, 0.1 and 1.0.
 */
#include "tar/sparse.h"

#include <inttypes.h>

#include "tar/number.h"

enum {
    AT_RUNS = 386, /* in an old GNU header; in the blocks that may follow they stand first */
    RUNS_IN_HEADER = 4,
    RUNS_IN_BLOCK = 21,
    RUN_SIZE = 24, /* offset and length of 12 bytes each */
};

int um_tar_add_run(struct um_tar_runs *runs, uint64_t logical, uint64_t length,
                   struct um_fault *fault, uint64_t offset)
{
    if (runs->count >= runs->limit)
        return um_refuse(fault, -E2BIG, offset, "sparse file of more than %" PRIu64 " runs",
                         runs->limit);
    int error = um_reserve((void **)&runs->extents, &runs->capacity, runs->count + 1,
                           sizeof *runs->extents);
    if (error == 0)
        runs->extents[runs->count++] = (struct um_tar_extent){.logical = logical, .length = length};
    return error;
}

/* Turn runs, in the order of the archive, into extents with their place in the stream. Empty runs
 * are dropped, but must be in order, too: GNU tar marks a hole at the end with one. */
int um_tar_place_runs(struct um_tar_runs *runs, struct um_tar_entry *entry, struct um_fault *fault)
{
    uint64_t end = 0, total = 0;
    size_t kept = 0;
    for (size_t i = 0; i < runs->count; i++) {
        struct um_tar_extent run = runs->extents[i];
        if (run.logical < end || !um_within(run.logical, run.length, entry->size))
            return um_refuse(fault, -EBADMSG, entry->header,
                             "sparse run %zu (%" PRIu64 " bytes at %" PRIu64
                             ") overlaps or lies beyond the size %" PRIu64,
                             i, run.length, run.logical, entry->size);
        run.stored = entry->stored + total;
        end = run.logical + run.length;
        total += run.length; /* they are disjoint and within the size: no overflow */
        if (run.length != 0)
            runs->extents[kept++] = run;
    }
    if (total != entry->stored_size)
        return um_refuse(fault, -EBADMSG, entry->header,
                         "sparse runs hold %" PRIu64 " bytes, %" PRIu64 " are stored", total,
                         entry->stored_size);
    entry->extents = runs->extents;
    entry->n_extents = runs->count = kept;
    return 0;
}

/* Add runs up to one without an offset. */
static int add_gnu_runs(struct um_tar_runs *runs, const uint8_t *at, size_t count,
                        struct um_fault *fault, uint64_t offset)
{
    for (size_t i = 0; i < count; i++, at += RUN_SIZE, offset += RUN_SIZE) {
        int64_t logical, length;
        if (at[0] == '\0')
            return 0;
        if (!um_tar_parse_number(at, 12, &logical) || !um_tar_parse_number(at + 12, 12, &length) ||
            logical < 0 || length < 0)
            return um_refuse(fault, -EBADMSG, offset, "sparse run is not a pair of numbers");
        int error = um_tar_add_run(runs, (uint64_t)logical, (uint64_t)length, fault, offset);
        if (error != 0)
            return error;
    }
    return 0;
}

int um_tar_add_header_runs(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                           uint64_t offset)
{
    return add_gnu_runs(runs, block + AT_RUNS, RUNS_IN_HEADER, fault, offset + AT_RUNS);
}

int um_tar_add_block_runs(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                          uint64_t offset)
{
    return add_gnu_runs(runs, block, RUNS_IN_BLOCK, fault, offset);
}

static int bad_map_text(struct um_slice text, struct um_fault *fault, uint64_t offset)
{
    return um_refuse(fault, -EBADMSG, offset, "bad value of GNU.sparse.map: '%.*s'",
                     (int)(text.size < 64 ? text.size : 64), (const char *)text.data);
}

int um_tar_add_map_text(struct um_tar_runs *runs, struct um_slice text, struct um_fault *fault,
                        uint64_t offset)
{
    const uint8_t *at = text.data, *end = at + text.size;
    uint64_t numbers[2];
    for (unsigned i = 0;; i ^= 1) {
        const uint8_t *comma = memchr(at, ',', (size_t)(end - at));
        const uint8_t *stop = comma != NULL ? comma : end;
        if (!um_tar_parse_decimal(um_slice_of(at, (size_t)(stop - at)), &numbers[i]))
            return bad_map_text(text, fault, offset);
        int error = i == 1 ? um_tar_add_run(runs, numbers[0], numbers[1], fault, offset) : 0;
        if (error != 0)
            return error;
        if (comma == NULL)
            return i == 1 ? 0 : bad_map_text(text, fault, offset);
        at = comma + 1;
    }
}

/* Take over one number of a 1.0 map: the count, or an offset, or a length. */
static int on_map_number(struct um_tar_runs *runs, struct um_fault *fault, uint64_t offset)
{
    uint64_t number = runs->map.number, seen = runs->map.seen++;
    runs->map.number = 0;
    runs->map.digits = false;
    if (seen == 0) {
        runs->map.announced = number;
        if (number > runs->limit)
            return um_refuse(fault, -E2BIG, offset, "sparse file of more than %" PRIu64 " runs",
                             runs->limit);
        return 0;
    }
    if (seen % 2 != 0)
        return um_tar_add_run(runs, number, 0, fault, offset);
    runs->extents[runs->count - 1].length = number;
    return 0;
}

int um_tar_read_map_block(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                          uint64_t offset)
{
    for (size_t i = 0; i < UM_TAR_BLOCK; i++) {
        if (um_tar_is_digit(block[i]) && um_tar_add_digit(&runs->map.number, block[i])) {
            runs->map.digits = true;
            continue;
        }
        if (block[i] != '\n' || !runs->map.digits)
            return um_refuse(fault, -EBADMSG, offset + i, "sparse map is not a list of numbers");
        int error = on_map_number(runs, fault, offset + i);
        if (error != 0)
            return error;
        if (runs->map.seen == 1 + 2 * runs->map.announced)
            return 0;
    }
    return 1;
}
