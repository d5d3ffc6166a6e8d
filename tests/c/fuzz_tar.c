/*
 * fuzz_tar.c - libFuzzer: whatever the bytes are, the parser keeps its promises.
 *
 * An input is a tar; its checksums do not count, because a fuzzer can't guess them (the build
 * defines FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION, as libFuzzer's manual has it). It is parsed
 * whole, in pieces, and with jumps; entries and errors must agree, and every entry must be what
 * tar.h says.
 */
#include "tar/tar.h"

static const struct um_tar_limits LIMITS = {.max_extended = 65536, .max_extents = 1000};

struct summary {
    uint64_t entries, hash;
    uint64_t floor; /* no entry begins before this */
    int error;
    struct um_fault fault;
};

static void promise(bool kept)
{
    if (!kept)
        abort();
}

static void add_number(struct summary *summary, uint64_t number)
{
    summary->hash = (summary->hash ^ number) * 0x100000001b3ull;
}

/* Reads every byte of the slice, so that ASAN sees a bad one. */
static void add_slice(struct summary *summary, struct um_slice slice)
{
    add_number(summary, slice.size);
    for (size_t i = 0; i < slice.size; i++)
        add_number(summary, slice.data[i]);
}

static void check_text(struct um_slice text)
{
    promise(text.size == 0 || memchr(text.data, '\0', text.size) == NULL);
}

static void check_extents(struct summary *summary, const struct um_tar_entry *entry)
{
    uint64_t end = 0, stored = entry->stored;
    promise(entry->n_extents <= LIMITS.max_extents);
    for (size_t i = 0; i < entry->n_extents; i++) {
        const struct um_tar_extent *run = &entry->extents[i];
        promise(run->length > 0 && run->logical >= end && run->stored == stored);
        promise(um_within(run->logical, run->length, entry->size));
        end = run->logical + run->length;
        stored += run->length;
        add_number(summary, run->logical);
        add_number(summary, run->length);
    }
    promise(stored == entry->stored + entry->stored_size);
}

static void check_xattrs(struct summary *summary, const struct um_tar_entry *entry)
{
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        promise(entry->xattrs[i].name.size != 0);
        check_text(entry->xattrs[i].name);
        add_slice(summary, entry->xattrs[i].name);
        add_slice(summary, entry->xattrs[i].value);
        for (size_t j = 0; j < i && j < 20; j++)
            promise(!um_slice_equal(entry->xattrs[i].name, entry->xattrs[j].name));
    }
}

static void check_numbers(struct summary *summary, const struct um_tar_entry *entry)
{
    promise(entry->type <= UM_TAR_FIFO && entry->mode <= 07777 && entry->mtime_nsec < 1000000000);
    promise(entry->type == UM_TAR_FILE || (entry->size == 0 && entry->stored_size == 0));
    promise(entry->sparse || entry->size == entry->stored_size);
    promise(entry->header >= summary->floor && entry->stored >= entry->header + UM_TAR_BLOCK);
    promise(entry->size <= INT64_MAX && entry->stored_size <= INT64_MAX - entry->stored);
    summary->floor = entry->stored + entry->stored_size;
    const uint64_t numbers[] = {entry->type,
                                entry->mode,
                                entry->uid,
                                entry->gid,
                                entry->major,
                                entry->minor,
                                (uint64_t)entry->mtime,
                                entry->mtime_nsec,
                                entry->size,
                                entry->stored,
                                entry->stored_size,
                                entry->header,
                                entry->sparse};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        add_number(summary, numbers[i]);
}

static int on_entry(void *context, const struct um_tar_entry *entry, struct um_fault *fault)
{
    struct summary *summary = context;
    (void)fault;
    summary->entries++;
    promise(entry->name.size != 0);
    check_text(entry->name);
    check_text(entry->link);
    add_slice(summary, entry->name);
    add_slice(summary, entry->link);
    check_numbers(summary, entry);
    if (entry->sparse)
        check_extents(summary, entry);
    else
        promise(entry->n_extents == 0);
    check_xattrs(summary, entry);
    return 0;
}

static int feed(struct um_tar *tar, const uint8_t *data, size_t size, size_t piece, bool skip,
                struct um_fault *fault)
{
    size_t at = 0;
    while (at < size) {
        uint64_t jump = skip ? um_tar_skippable(tar) : 0;
        jump = jump < size - at ? jump : size - at;
        um_tar_skip(tar, jump);
        at += jump;
        size_t count = size - at < piece ? size - at : piece;
        int error = um_tar_feed(tar, data + at, count, fault);
        at += count;
        if (error != 0)
            return error;
        promise(um_tar_position(tar) == at);
    }
    return um_tar_finish(tar, fault);
}

static struct summary parse(const uint8_t *data, size_t size, size_t piece, bool skip)
{
    struct summary summary = {0};
    struct um_tar *tar;
    if (um_tar_open(on_entry, &summary, &LIMITS, &tar) != 0)
        return summary;
    summary.error = feed(tar, data, size, piece, skip, &summary.fault);
    promise(summary.error <= 0);
    promise(summary.error == 0 || summary.fault.text[0] != '\0');
    um_tar_close(tar);
    return summary;
}

static void agree(const struct summary *a, const struct summary *b)
{
    promise(a->entries == b->entries && a->hash == b->hash && a->error == b->error);
    promise(a->fault.offset == b->fault.offset && strcmp(a->fault.text, b->fault.text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct summary whole = parse(data, size, size + 1, false);
    struct summary pieces = parse(data, size, 509, false);
    struct summary jumps = parse(data, size, 100, true);
    agree(&whole, &pieces);
    agree(&whole, &jumps);
    return 0;
}
