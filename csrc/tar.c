/*
 * tar.c - see tar.h.
 *
 * The parser is a machine that eats blocks of 512 bytes. A block that lies whole in the fed bytes
 * is looked at in place, others are put together in `stage`; payload and padding are counted, not
 * looked at. So every split of the input gives the same entries.
 *
 * Where writers or readers of tar disagree, this parser sides with Go's archive/tar, because that
 * is what the engines read and write layers with; such places say so. They are:
 *  - Links, devices, FIFOs and directories have no payload, whatever their size field says (GNU tar
 *    and libarchive skip the size of a directory; Python's tarfile does as Go does). The size of
 *    '0' and '7' with a trailing slash, and of 'D', is skipped.
 *  - A GNU long name beats a pax path; GNU.sparse.name beats both. Of two 'x' headers before one
 *    entry, the last counts alone.
 *  - A lone zero block with anything but a zero block behind it is an error.
 * One place differs: Go ignores global headers; here they count, as POSIX wants it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* qsort_r */
#endif

#include "tar.h"

#include <inttypes.h>

/* ---- the header block ---- */

struct field {
    uint16_t offset, size;
};

static const struct field F_NAME = {0, 100}, F_MODE = {100, 8}, F_UID = {108, 8}, F_GID = {116, 8},
                          F_SIZE = {124, 12}, F_MTIME = {136, 12}, F_CHECKSUM = {148, 8},
                          F_LINK = {157, 100}, F_MAJOR = {329, 8}, F_MINOR = {337, 8},
                          F_PREFIX = {345, 155}, F_STAR_PREFIX = {345, 131},
                          F_GNU_ATIME = {345, 12}, F_GNU_CTIME = {357, 12},
                          F_GNU_REALSIZE = {483, 12};

enum {
    AT_TYPE = 156,
    AT_MAGIC = 257,
    AT_STAR_TRAILER = 508,
    AT_SPARSE = 386, /* old GNU: 4 runs in the header, then whether blocks of 21 follow */
    AT_SPARSE_MORE = 482,
    AT_BLOCK_MORE = 504,
    RUNS_IN_HEADER = 4,
    RUNS_IN_BLOCK = 21,
    RUN_SIZE = 24, /* offset and length of 12 bytes each */
};

enum dialect { V7, USTAR, GNU, STAR };

static enum dialect dialect_of(const uint8_t *block)
{
    if (memcmp(block + AT_MAGIC, "ustar  ", 8) == 0)
        return GNU;
    if (memcmp(block + AT_MAGIC, "ustar", 6) != 0)
        return V7;
    return memcmp(block + AT_STAR_TRAILER, "tar", 4) == 0 ? STAR : USTAR;
}

/* The sum of all 512 bytes; two bytes a step in each 16-bit lane, 64 * 2 * 255 at most. */
static uint32_t sum_block(const uint8_t *block)
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

static bool blank(const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (at[i] != ' ' && at[i] != '\0')
            return false;
    }
    return true;
}

/* Octal: spaces, digits, then spaces, and a NUL ends it. A blank field is 0. At most 12 digits:
 * no overflow. */
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

/* GNU base-256: big-endian two's complement, the topmost bit set as a mark. */
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

static bool parse_number(const uint8_t *at, size_t size, int64_t *value)
{
    return at[0] & 0x80 ? parse_base256(at, size, value) : parse_octal(at, size, value);
}

static bool parse_field(const uint8_t *block, struct field field, int64_t *value)
{
    return parse_number(block + field.offset, field.size, value);
}

/* A text field ends at its first NUL, or fills its place. */
static struct um_slice text_of(const uint8_t *at, size_t size)
{
    const uint8_t *end = memchr(at, '\0', size);
    return um_slice_of(at, end != NULL ? (size_t)(end - at) : size);
}

static struct um_slice field_text(const uint8_t *block, struct field field)
{
    return text_of(block + field.offset, field.size);
}

static bool has_nul(struct um_slice text)
{
    return text.size != 0 && memchr(text.data, '\0', text.size) != NULL;
}

/* ---- numbers of pax records ---- */

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static bool add_digit(uint64_t *number, uint8_t digit)
{
    return um_mul64(*number, 10, number) && um_add64(*number, digit - (uint64_t)'0', number);
}

/* Decimal digits only, no sign, at most INT64_MAX. */
static bool parse_decimal(struct um_slice text, uint64_t *value)
{
    uint64_t number = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (!is_digit(text.data[i]) || !add_digit(&number, text.data[i]))
            return false;
    }
    *value = number;
    return text.size != 0 && number <= INT64_MAX;
}

/* Nine digits of a fraction; *more says whether a digit other than 0 was cut off. */
static bool parse_fraction(struct um_slice text, uint32_t *nsec, bool *more)
{
    uint32_t number = 0;
    for (size_t i = 0; i < 9; i++) {
        uint8_t digit = i < text.size ? text.data[i] : '0';
        if (!is_digit(digit))
            return false;
        number = number * 10 + (digit - '0');
    }
    *more = false;
    for (size_t i = 9; i < text.size; i++) {
        if (!is_digit(text.data[i]))
            return false;
        *more |= text.data[i] != '0';
    }
    *nsec = number;
    return true;
}

/* "[-]seconds[.fraction]", rounded towards minus infinity to a nanosecond, as GNU tar does. */
static bool parse_time(struct um_slice text, int64_t *seconds, uint32_t *nsec)
{
    bool negative = text.size != 0 && text.data[0] == '-', more = false;
    if (negative)
        text = um_slice_of(text.data + 1, text.size - 1);
    const uint8_t *dot = text.size != 0 ? memchr(text.data, '.', text.size) : NULL;
    size_t whole_size = dot != NULL ? (size_t)(dot - text.data) : text.size;
    uint64_t whole;
    *nsec = 0;
    if (!parse_decimal(um_slice_of(text.data, whole_size), &whole))
        return false;
    if (dot != NULL &&
        !parse_fraction(um_slice_of(dot + 1, text.size - whole_size - 1), nsec, &more))
        return false;
    *seconds = negative ? -(int64_t)whole : (int64_t)whole;
    if (!negative || (*nsec == 0 && !more))
        return true;
    /* -(whole + f) = -(whole + 1) + (1 - f); what was cut off makes it smaller still. */
    *nsec = 1000000000u - *nsec - more;
    if (*nsec < 1000000000u)
        *seconds -= 1;
    return true;
}

/* ---- what pax headers say ---- */

enum pax_key {
    K_PATH,
    K_LINKPATH,
    K_SIZE,
    K_UID,
    K_GID,
    K_MTIME,
    K_SPARSE_NAME, /* the first of the keys that only a local header may have */
    K_SPARSE_SIZE,
    K_SPARSE_REALSIZE,
    K_SPARSE_MAJOR,
    K_SPARSE_MINOR,
    K_SPARSE_NUMBLOCKS,
    K_SPARSE_OFFSET,
    K_SPARSE_NUMBYTES,
    K_SPARSE_MAP,
    K_COUNT,
};

enum value_kind { TEXT, NUMBER, TIME, RUN_OFFSET, RUN_LENGTH, RUN_MAP };

struct key_rule {
    const char *name;
    uint8_t size;
    uint8_t kind;
};

#define KEY(text, kind) {text, sizeof(text) - 1, kind}
static const struct key_rule KEYS[K_COUNT] = {
    [K_PATH] = KEY("path", TEXT),
    [K_LINKPATH] = KEY("linkpath", TEXT),
    [K_SIZE] = KEY("size", NUMBER),
    [K_UID] = KEY("uid", NUMBER),
    [K_GID] = KEY("gid", NUMBER),
    [K_MTIME] = KEY("mtime", TIME),
    [K_SPARSE_NAME] = KEY("GNU.sparse.name", TEXT),
    [K_SPARSE_SIZE] = KEY("GNU.sparse.size", NUMBER),
    [K_SPARSE_REALSIZE] = KEY("GNU.sparse.realsize", NUMBER),
    [K_SPARSE_MAJOR] = KEY("GNU.sparse.major", NUMBER),
    [K_SPARSE_MINOR] = KEY("GNU.sparse.minor", NUMBER),
    [K_SPARSE_NUMBLOCKS] = KEY("GNU.sparse.numblocks", NUMBER),
    [K_SPARSE_OFFSET] = KEY("GNU.sparse.offset", RUN_OFFSET),
    [K_SPARSE_NUMBYTES] = KEY("GNU.sparse.numbytes", RUN_LENGTH),
    [K_SPARSE_MAP] = KEY("GNU.sparse.map", RUN_MAP),
};

#define BIT(key) (1u << (key))
#define SPARSE_KEYS (BIT(K_COUNT) - BIT(K_SPARSE_NAME))

static const struct um_slice SCHILY = {(const uint8_t *)"SCHILY.xattr.", 13};
static const struct um_slice LIBARCHIVE = {(const uint8_t *)"LIBARCHIVE.xattr.", 17};

/* What may be kept of global headers. It comes with every later entry of 512 bytes, so it is kept
 * small: an archive of N bytes must not cost much more than N steps. */
enum { GLOBAL_BYTES = 16384, GLOBAL_XATTRS = 64 };

struct bytes {
    uint8_t *data;
    size_t size, capacity;
};

struct pax_value {
    struct um_slice text;
    uint64_t number; /* of K_MTIME an int64_t */
    uint32_t nsec;
};

/* The sum of one or more pax headers. Slices are borrowed from `raw`, or, in what overlay() makes,
 * from the two that it was made of. */
struct pax {
    struct bytes raw;
    uint32_t present; /* keys that have a value */
    uint32_t deleted; /* keys whose value in headers before is deleted by an empty one */
    struct pax_value values[K_COUNT];
    struct um_tar_xattr *xattrs;
    size_t n_xattrs, xattrs_capacity;
};

enum state {
    AT_HEADER,
    AFTER_ZERO_BLOCK,
    IN_EXTENDED,      /* the payload of 'x', 'g', 'L' or 'K' */
    IN_SPARSE_BLOCKS, /* old GNU: blocks of runs between header and payload */
    IN_SPARSE_MAP,    /* pax 1.0: the map at the start of the payload */
    AT_END,
};

struct um_tar {
    um_tar_entry_fn on_entry;
    void *context;
    struct um_tar_limits limits;

    enum state state;
    int error;         /* of the call that failed; every later call repeats it */
    uint64_t position; /* bytes fed and skipped; within on_block: the end of that block */
    uint64_t skip;     /* payload and padding before the next block */
    uint32_t padding;  /* how many of them, at the end, are padding */

    char extended_type; /* IN_EXTENDED: which header, */
    uint64_t extended_left;
    uint64_t extended_at;  /* where its payload begins, */
    struct bytes *extended; /* and where its bytes go */

    uint64_t first_header; /* of the entry that is being put together, or NO_HEADER */
    struct pax local, global, incoming, merged;
    struct bytes long_name, long_link;

    struct um_tar_entry entry; /* waits for its sparse map, in the two states for that */
    uint64_t payload;          /* its bytes in the stream that are not consumed yet */
    struct um_tar_extent *extents;
    size_t n_extents, extents_capacity;
    bool half_run; /* a GNU.sparse.offset waits for its numbytes */

    struct {
        uint64_t number, count, seen; /* the number being read; runs announced; numbers read */
        bool digits;
    } map;

    uint32_t *order; /* scratch of unique_xattrs */
    size_t order_capacity;

    uint32_t staged;
    uint8_t stage[UM_TAR_BLOCK];
    uint8_t held[UM_TAR_BLOCK]; /* the header block of `entry` while it waits */
    uint8_t joined[256];        /* prefix/name */
};

#define NO_HEADER UINT64_MAX

static int append_bytes(struct bytes *bytes, const void *data, size_t size)
{
    int error = um_reserve((void **)&bytes->data, &bytes->capacity, bytes->size + size, 1);
    if (error == 0 && size != 0) {
        memcpy(bytes->data + bytes->size, data, size);
        bytes->size += size;
    }
    return error;
}

static void clear_pax(struct pax *pax)
{
    pax->raw.size = 0;
    pax->present = 0;
    pax->deleted = 0;
    pax->n_xattrs = 0;
}

static void free_pax(struct pax *pax)
{
    free(pax->raw.data);
    free(pax->xattrs);
}

static bool is_empty(const struct pax *pax)
{
    return pax->present == 0 && pax->n_xattrs == 0;
}

static int append_xattr(struct pax *pax, struct um_slice name, struct um_slice value)
{
    int error = um_reserve((void **)&pax->xattrs, &pax->xattrs_capacity, pax->n_xattrs + 1,
                           sizeof *pax->xattrs);
    if (error == 0)
        pax->xattrs[pax->n_xattrs++] = (struct um_tar_xattr){.name = name, .value = value};
    return error;
}

static int append_xattrs(struct pax *pax, const struct pax *from)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < from->n_xattrs; i++)
        error = append_xattr(pax, from->xattrs[i].name, from->xattrs[i].value);
    return error;
}

/* `out` becomes `over`, with what `under` has and `over` neither has nor deletes. */
static int overlay(const struct pax *over, const struct pax *under, struct pax *out)
{
    uint32_t inherited = under->present & ~(over->present | over->deleted);
    clear_pax(out);
    memcpy(out->values, over->values, sizeof out->values);
    for (unsigned key = 0; key < K_COUNT; key++) {
        if (inherited & BIT(key))
            out->values[key] = under->values[key];
    }
    out->present = over->present | inherited;
    int error = append_xattrs(out, under);
    return error != 0 ? error : append_xattrs(out, over);
}

/* ---- xattrs ---- */

static int compare_xattrs(const void *a, const void *b, void *xattrs)
{
    uint32_t left, right;
    memcpy(&left, a, sizeof left);
    memcpy(&right, b, sizeof right);
    const struct um_tar_xattr *all = xattrs;
    int order = um_slice_compare(all[left].name, all[right].name);
    return order != 0 ? order : (left > right) - (left < right);
}

/* Keep the last of each name, in archive order. Sorting keeps a header of a million names cheap;
 * a name is never empty, so an empty one can mark what goes. */
static int unique_xattrs(struct um_tar *tar, struct pax *pax)
{
    size_t count = pax->n_xattrs, kept = 0;
    if (count < 2)
        return 0;
    int error = um_reserve((void **)&tar->order, &tar->order_capacity, count, sizeof *tar->order);
    if (error != 0)
        return error;
    for (size_t i = 0; i < count; i++)
        tar->order[i] = (uint32_t)i;
    qsort_r(tar->order, count, sizeof *tar->order, compare_xattrs, pax->xattrs);
    for (size_t i = 1; i < count; i++) {
        struct um_tar_xattr *former = &pax->xattrs[tar->order[i - 1]];
        if (um_slice_equal(former->name, pax->xattrs[tar->order[i]].name))
            former->name.size = 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (pax->xattrs[i].name.size != 0)
            pax->xattrs[kept++] = pax->xattrs[i];
    }
    pax->n_xattrs = kept;
    return 0;
}

static int hex_digit(uint8_t byte)
{
    if (is_digit(byte))
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* %XX becomes a byte, in place; a '%' without two hex digits stays, as libarchive has it. */
static size_t decode_percent(uint8_t *at, size_t size)
{
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        bool coded = at[i] == '%' && size - i > 2;
        int high = coded ? hex_digit(at[i + 1]) : -1, low = coded ? hex_digit(at[i + 2]) : -1;
        if (high >= 0 && low >= 0) {
            at[out++] = (uint8_t)(high << 4 | low);
            i += 2;
        } else {
            at[out++] = at[i];
        }
    }
    return out;
}

static int base64_digit(uint8_t byte)
{
    if (byte >= 'A' && byte <= 'Z')
        return byte - 'A';
    if (byte >= 'a' && byte <= 'z')
        return byte - 'a' + 26;
    if (is_digit(byte))
        return byte - '0' + 52;
    return byte == '+' ? 62 : byte == '/' ? 63 : -1;
}

/* Base64 in place, with its padding or, as libarchive writes it, without. */
static bool decode_base64(uint8_t *at, size_t size, size_t *decoded)
{
    while (size != 0 && at[size - 1] == '=')
        size--;
    uint32_t bits = 0;
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        int digit = base64_digit(at[i]);
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0)
            at[out++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    *decoded = out;
    return size % 4 != 1;
}

/* ---- sparse files ---- */

static int add_run(struct um_tar *tar, uint64_t logical, uint64_t length, struct um_fault *fault,
                   uint64_t offset)
{
    if (tar->n_extents >= tar->limits.max_extents)
        return um_refuse(fault, -E2BIG, offset, "sparse file of more than %" PRIu64 " runs",
                         tar->limits.max_extents);
    int error = um_reserve((void **)&tar->extents, &tar->extents_capacity, tar->n_extents + 1,
                           sizeof *tar->extents);
    if (error == 0)
        tar->extents[tar->n_extents++] =
            (struct um_tar_extent){.logical = logical, .length = length};
    return error;
}

/* Runs in the order of the archive -> extents with their place in the stream, without empty ones.
 * Empty runs must be in order, too: GNU tar marks a hole at the end with one. */
static int place_runs(struct um_tar *tar, struct um_tar_entry *entry, struct um_fault *fault)
{
    uint64_t end = 0, total = 0;
    size_t kept = 0;
    for (size_t i = 0; i < tar->n_extents; i++) {
        struct um_tar_extent run = tar->extents[i];
        if (run.logical < end || !um_within(run.logical, run.length, entry->size))
            return um_refuse(fault, -EBADMSG, entry->header,
                             "sparse run %zu (%" PRIu64 " bytes at %" PRIu64
                             ") overlaps or lies beyond the size %" PRIu64,
                             i, run.length, run.logical, entry->size);
        run.stored = entry->stored + total;
        end = run.logical + run.length;
        total += run.length; /* disjoint within size: no overflow */
        if (run.length != 0)
            tar->extents[kept++] = run;
    }
    if (total != entry->stored_size)
        return um_refuse(fault, -EBADMSG, entry->header,
                         "sparse runs hold %" PRIu64 " bytes, %" PRIu64 " are stored", total,
                         entry->stored_size);
    entry->extents = tar->extents;
    entry->n_extents = tar->n_extents = kept;
    return 0;
}

/* Runs of an old GNU header or block; a run without an offset ends them. */
static int add_gnu_runs(struct um_tar *tar, const uint8_t *block, size_t at, size_t count,
                        struct um_fault *fault)
{
    for (size_t i = 0; i < count; i++, at += RUN_SIZE) {
        int64_t logical, length;
        uint64_t offset = tar->position - UM_TAR_BLOCK + at;
        if (block[at] == '\0')
            return 0;
        if (!parse_number(block + at, 12, &logical) ||
            !parse_number(block + at + 12, 12, &length) || logical < 0 || length < 0)
            return um_refuse(fault, -EBADMSG, offset, "sparse run is not a pair of numbers");
        int error = add_run(tar, (uint64_t)logical, (uint64_t)length, fault, offset);
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- pax records ---- */

/* One record of the header that is being read. */
struct record {
    struct um_tar *tar;
    struct pax *pax;
    struct um_slice key, value;
    uint64_t offset; /* of the record in the stream */
    struct um_fault *fault;
};

static int shown(struct um_slice text)
{
    return (int)(text.size < 64 ? text.size : 64);
}

static int bad_value(const struct record *record)
{
    return um_refuse(record->fault, -EBADMSG, record->offset,
                     "bad value of pax record '%.*s': '%.*s'", shown(record->key),
                     (const char *)record->key.data, shown(record->value),
                     (const char *)record->value.data);
}

/* The bytes of a slice that was cut from pax->raw, for decoding in place. */
static uint8_t *own_bytes(struct pax *pax, struct um_slice slice)
{
    return pax->raw.data + (slice.data - pax->raw.data);
}

static struct um_slice after(struct um_slice text, size_t prefix)
{
    return um_slice_of(text.data + prefix, text.size - prefix);
}

static bool starts_with(struct um_slice text, struct um_slice prefix)
{
    return text.size >= prefix.size && memcmp(text.data, prefix.data, prefix.size) == 0;
}

static int add_xattr(const struct record *record, struct um_slice name, struct um_slice value)
{
    if (name.size == 0 || has_nul(name))
        return um_refuse(record->fault, -EBADMSG, record->offset, "xattr without a proper name");
    return append_xattr(record->pax, name, value);
}

static int add_libarchive_xattr(const struct record *record)
{
    struct um_slice name = after(record->key, LIBARCHIVE.size);
    size_t size;
    if (!decode_base64(own_bytes(record->pax, record->value), record->value.size, &size))
        return bad_value(record);
    name.size = decode_percent(own_bytes(record->pax, name), name.size);
    return add_xattr(record, name, um_slice_of(record->value.data, size));
}

/* GNU.sparse.map: "offset,length,offset,length,…". */
static int add_map(const struct record *record)
{
    const uint8_t *at = record->value.data, *end = at + record->value.size;
    uint64_t numbers[2];
    for (unsigned i = 0;; i ^= 1) {
        const uint8_t *comma = memchr(at, ',', (size_t)(end - at));
        const uint8_t *stop = comma != NULL ? comma : end;
        if (!parse_decimal(um_slice_of(at, (size_t)(stop - at)), &numbers[i]))
            return bad_value(record);
        if (i == 1) {
            int error = add_run(record->tar, numbers[0], numbers[1], record->fault, record->offset);
            if (error != 0)
                return error;
        }
        if (comma == NULL)
            return i == 1 ? 0 : bad_value(record);
        at = comma + 1;
    }
}

/* The two halves of a run, in this order, are records of their own in version 0.0. */
static int add_half_run(const struct record *record, bool is_length)
{
    struct um_tar *tar = record->tar;
    uint64_t number;
    if (tar->half_run != is_length || !parse_decimal(record->value, &number))
        return bad_value(record);
    tar->half_run = !is_length;
    struct pax_value *offset = &record->pax->values[K_SPARSE_OFFSET];
    if (is_length)
        return add_run(tar, offset->number, number, record->fault, record->offset);
    offset->number = number;
    return 0;
}

static int set_value(const struct record *record, unsigned key)
{
    struct pax_value *value = &record->pax->values[key];
    int64_t seconds;
    value->text = record->value;
    switch (KEYS[key].kind) {
    case TEXT:
        return has_nul(record->value) ? bad_value(record) : 0;
    case NUMBER:
        return parse_decimal(record->value, &value->number) ? 0 : bad_value(record);
    case TIME:
        if (!parse_time(record->value, &seconds, &value->nsec))
            return bad_value(record);
        value->number = (uint64_t)seconds;
        return 0;
    case RUN_OFFSET:
        return add_half_run(record, false);
    case RUN_LENGTH:
        return add_half_run(record, true);
    default:
        return record->pax->present & BIT(K_SPARSE_MAP) ? bad_value(record) : add_map(record);
    }
}

/* An empty value deletes the key: that of this header so far, and of global ones. */
static int take_key(const struct record *record, unsigned key)
{
    struct pax *pax = record->pax;
    if ((SPARSE_KEYS & BIT(key)) && pax == &record->tar->incoming)
        return um_refuse(record->fault, -EBADMSG, record->offset,
                         "global header describes a sparse file");
    if (record->value.size == 0) {
        pax->present &= ~BIT(key);
        pax->deleted |= BIT(key);
        return 0;
    }
    int error = set_value(record, key);
    pax->present |= BIT(key);
    return error;
}

/* Keys that are not known say nothing here (comment, hdrcharset, uname, atime, …). */
static int take_record(const struct record *record)
{
    /* The key of a SCHILY record is taken literally, as Go does; an empty value is a value. */
    if (starts_with(record->key, SCHILY))
        return add_xattr(record, after(record->key, SCHILY.size), record->value);
    if (starts_with(record->key, LIBARCHIVE))
        return add_libarchive_xattr(record);
    for (unsigned key = 0; key < K_COUNT; key++) {
        if (record->key.size == KEYS[key].size &&
            memcmp(record->key.data, KEYS[key].name, record->key.size) == 0)
            return take_key(record, key);
    }
    return 0;
}

/* Cut "LENGTH KEY=VALUE\n" from the start of `text`; false where it is not of that form. */
static bool cut_record(struct um_slice *text, struct record *record)
{
    const uint8_t *at = text->data;
    uint64_t length = 0;
    size_t i = 0;
    for (; i < text->size && is_digit(at[i]); i++) {
        if (!add_digit(&length, at[i]))
            return false;
    }
    if (i == 0 || i == text->size || at[i] != ' ' || length > text->size || length < i + 4)
        return false;
    struct um_slice body = um_slice_of(at + i + 1, (size_t)length - i - 2);
    const uint8_t *equals = memchr(body.data, '=', body.size);
    if (at[length - 1] != '\n' || equals == NULL || equals == body.data)
        return false;
    record->key = um_slice_of(body.data, (size_t)(equals - body.data));
    record->value = after(body, record->key.size + 1);
    *text = after(*text, (size_t)length);
    return true;
}

static int parse_pax(struct um_tar *tar, struct pax *pax, struct um_fault *fault)
{
    struct um_slice text = um_slice_of(pax->raw.data, pax->raw.size);
    struct record record = {.tar = tar, .pax = pax, .fault = fault};
    int error = 0;
    while (error == 0 && text.size != 0) {
        record.offset = tar->extended_at + (pax->raw.size - text.size);
        if (!cut_record(&text, &record))
            return um_refuse(fault, -EBADMSG, record.offset, "malformed pax record");
        error = take_record(&record);
    }
    if (error == 0 && pax == &tar->local && tar->half_run)
        return um_refuse(fault, -EBADMSG, record.offset, "sparse offset without a length");
    return error;
}

static size_t pax_bytes(const struct pax *pax)
{
    size_t total = 0;
    for (unsigned key = 0; key < K_COUNT; key++)
        total += pax->present & BIT(key) ? pax->values[key].text.size : 0;
    for (size_t i = 0; i < pax->n_xattrs; i++)
        total += pax->xattrs[i].name.size + pax->xattrs[i].value.size;
    return total;
}

/* Copy what *slice names into `raw`, which has room. */
static void keep_slice(struct bytes *raw, struct um_slice *slice)
{
    uint8_t *copy = raw->data + raw->size;
    if (slice->size != 0)
        memcpy(copy, slice->data, slice->size);
    raw->size += slice->size;
    *slice = um_slice_of(copy, slice->size);
}

static int own_slices(struct pax *pax)
{
    int error = um_reserve((void **)&pax->raw.data, &pax->raw.capacity, pax_bytes(pax) + 1, 1);
    if (error != 0)
        return error;
    for (unsigned key = 0; key < K_COUNT; key++) {
        if (pax->present & BIT(key))
            keep_slice(&pax->raw, &pax->values[key].text);
    }
    for (size_t i = 0; i < pax->n_xattrs; i++) {
        keep_slice(&pax->raw, &pax->xattrs[i].name);
        keep_slice(&pax->raw, &pax->xattrs[i].value);
    }
    return 0;
}

/* Lay the global header that was just read over what earlier ones said. */
static int take_global(struct um_tar *tar, struct um_fault *fault)
{
    int error = parse_pax(tar, &tar->incoming, fault);
    if (error == 0)
        error = overlay(&tar->incoming, &tar->global, &tar->merged);
    if (error == 0)
        error = unique_xattrs(tar, &tar->merged);
    if (error != 0)
        return error;
    if (tar->merged.n_xattrs > GLOBAL_XATTRS)
        return um_refuse(fault, -E2BIG, tar->extended_at, "more than %d xattrs in global headers",
                         GLOBAL_XATTRS);
    if (pax_bytes(&tar->merged) > GLOBAL_BYTES)
        return um_refuse(fault, -EFBIG, tar->extended_at, "global headers hold more than %d bytes",
                         GLOBAL_BYTES);
    error = own_slices(&tar->merged);
    struct pax former = tar->global;
    tar->global = tar->merged;
    tar->merged = former;
    clear_pax(&tar->merged);
    return error;
}

/* ---- extended headers ---- */

static void forget_runs(struct um_tar *tar)
{
    tar->n_extents = 0;
    tar->half_run = false;
}

/* An entry is complete: what was said for it alone is forgotten. */
static void end_entry(struct um_tar *tar)
{
    clear_pax(&tar->local);
    forget_runs(tar);
    tar->long_name.size = tar->long_link.size = 0;
    tar->first_header = NO_HEADER;
    tar->state = AT_HEADER;
}

static void cut_at_nul(struct bytes *text)
{
    if (text->size != 0)
        text->size = text_of(text->data, text->size).size;
}

static int end_extended(struct um_tar *tar, struct um_fault *fault)
{
    tar->state = AT_HEADER;
    switch (tar->extended_type) {
    case 'x':
    case 'X':
        return parse_pax(tar, &tar->local, fault);
    case 'g':
        return take_global(tar, fault);
    default:
        cut_at_nul(tar->extended);
        return 0;
    }
}

/* Where the payload of an extended header goes; the last of a kind counts alone. */
static struct bytes *empty_target(struct um_tar *tar, char type)
{
    switch (type) {
    case 'L':
        tar->long_name.size = 0;
        return &tar->long_name;
    case 'K':
        tar->long_link.size = 0;
        return &tar->long_link;
    case 'g':
        clear_pax(&tar->incoming);
        return &tar->incoming.raw;
    default:
        clear_pax(&tar->local);
        forget_runs(tar);
        return &tar->local.raw;
    }
}

static int bad_field(const struct um_tar *tar, struct field field, struct um_fault *fault)
{
    return um_refuse(fault, -EBADMSG, tar->position - UM_TAR_BLOCK + field.offset,
                     "header field at %u is not a number in range", field.offset);
}

/* The size field, of which the archive says how far it may go. */
static int read_size(const struct um_tar *tar, const uint8_t *block, uint64_t *size,
                     struct um_fault *fault)
{
    int64_t value;
    if (!parse_field(block, F_SIZE, &value) || value < 0)
        return bad_field(tar, F_SIZE, fault);
    *size = (uint64_t)value;
    return 0;
}

static int on_extended_header(struct um_tar *tar, const uint8_t *block, char type,
                              struct um_fault *fault)
{
    uint64_t size = 0;
    int error = read_size(tar, block, &size, fault);
    if (error != 0)
        return error;
    uint64_t here = tar->position - UM_TAR_BLOCK;
    if (size > tar->limits.max_extended)
        return um_refuse(fault, -EFBIG, here,
                         "extended header of %" PRIu64 " bytes, at most %" PRIu64 " are allowed",
                         size, tar->limits.max_extended);
    if (type != 'g' && tar->first_header == NO_HEADER)
        tar->first_header = here;
    tar->extended = empty_target(tar, type);
    tar->extended_type = type;
    tar->extended_left = size;
    tar->extended_at = tar->position;
    tar->state = IN_EXTENDED;
    return size == 0 ? end_extended(tar, fault) : 0;
}

static int on_extended_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    size_t size = tar->extended_left < UM_TAR_BLOCK ? (size_t)tar->extended_left : UM_TAR_BLOCK;
    int error = append_bytes(tar->extended, block, size);
    tar->extended_left -= size;
    return error != 0 || tar->extended_left != 0 ? error : end_extended(tar, fault);
}

/* ---- entries ---- */

static int skip_payload(struct um_tar *tar, struct um_fault *fault)
{
    uint64_t padding = -tar->payload & (UM_TAR_BLOCK - 1), end;
    if (!um_add64(tar->position, tar->payload + padding, &end) || end > INT64_MAX)
        return um_refuse(fault, -EBADMSG, tar->position, "payload of %" PRIu64 " bytes has no end",
                         tar->payload);
    tar->skip = tar->payload + padding;
    tar->padding = (uint32_t)padding;
    return 0;
}

static int deliver(struct um_tar *tar, struct um_fault *fault)
{
    struct um_tar_entry *entry = &tar->entry;
    entry->stored = tar->position;
    if (entry->type == UM_TAR_FILE)
        entry->stored_size = tar->payload;
    int error = entry->sparse ? place_runs(tar, entry, fault) : 0;
    if (error == 0)
        error = skip_payload(tar, fault);
    if (error == 0)
        error = tar->on_entry(tar->context, entry, fault);
    end_entry(tar);
    return error;
}

/* Before Go 1.8 its writer put a ustar prefix into GNU headers, where the times of access and
 * change belong; such layers exist. Go's reader takes for a prefix what can't be times. */
static bool has_prefix_by_mistake(const uint8_t *block)
{
    int64_t unused;
    if ((block[F_GNU_ATIME.offset] == '\0' || parse_field(block, F_GNU_ATIME, &unused)) &&
        (block[F_GNU_CTIME.offset] == '\0' || parse_field(block, F_GNU_CTIME, &unused)))
        return false;
    struct um_slice prefix = field_text(block, F_PREFIX);
    return count_high_bytes(prefix.data, prefix.size) == 0;
}

static struct um_slice prefix_of(const uint8_t *block)
{
    if (block[F_PREFIX.offset] == '\0')
        return um_slice_of(block, 0);
    switch (dialect_of(block)) {
    case USTAR:
        return field_text(block, F_PREFIX);
    case STAR:
        return field_text(block, F_STAR_PREFIX);
    case GNU:
        if (has_prefix_by_mistake(block))
            return field_text(block, F_PREFIX);
        break;
    case V7:
        break;
    }
    return um_slice_of(block, 0);
}

static struct um_slice header_name(struct um_tar *tar, const uint8_t *block)
{
    struct um_slice name = field_text(block, F_NAME), prefix = prefix_of(block);
    if (prefix.size == 0)
        return name;
    memcpy(tar->joined, prefix.data, prefix.size);
    tar->joined[prefix.size] = '/';
    memcpy(tar->joined + prefix.size + 1, name.data, name.size);
    return um_slice_of(tar->joined, prefix.size + 1 + name.size);
}

static struct um_slice name_of(struct um_tar *tar, const uint8_t *block, const struct pax *pax)
{
    if (pax->present & BIT(K_SPARSE_NAME))
        return pax->values[K_SPARSE_NAME].text;
    if (tar->long_name.size != 0)
        return um_slice_of(tar->long_name.data, tar->long_name.size);
    if (pax->present & BIT(K_PATH))
        return pax->values[K_PATH].text;
    return header_name(tar, block);
}

static struct um_slice link_of(const struct um_tar *tar, const uint8_t *block,
                               const struct pax *pax)
{
    if (tar->long_link.size != 0)
        return um_slice_of(tar->long_link.data, tar->long_link.size);
    if (pax->present & BIT(K_LINKPATH))
        return pax->values[K_LINKPATH].text;
    return field_text(block, F_LINK);
}

/* The types that an entry can have; 'D' is the directory of a GNU incremental archive. */
static enum um_tar_type type_of(char flag, struct um_slice name)
{
    switch (flag) {
    case '1':
        return UM_TAR_HARDLINK;
    case '2':
        return UM_TAR_SYMLINK;
    case '3':
        return UM_TAR_CHARACTER;
    case '4':
        return UM_TAR_BLOCK_DEVICE;
    case '5':
    case 'D':
        return UM_TAR_DIRECTORY;
    case '6':
        return UM_TAR_FIFO;
    case '\0':
    case '0':
    case '7':
        return name.data[name.size - 1] == '/' ? UM_TAR_DIRECTORY : UM_TAR_FILE;
    default:
        return UM_TAR_FILE;
    }
}

/* As Go has it; see the top of this file. */
static bool has_payload(char flag, enum um_tar_type type)
{
    return type == UM_TAR_FILE || flag == '0' || flag == '7' || flag == 'D';
}

/* A number that pax may override. */
static int read_number(const struct um_tar *tar, const uint8_t *block, const struct pax *pax,
                       unsigned key, struct field field, uint64_t limit, uint64_t *number,
                       struct um_fault *fault)
{
    int64_t value;
    if (pax->present & BIT(key))
        value = (int64_t)pax->values[key].number;
    else if (!parse_field(block, field, &value))
        return bad_field(tar, field, fault);
    if (value < 0 || (uint64_t)value > limit)
        return bad_field(tar, field, fault);
    *number = (uint64_t)value;
    return 0;
}

static int read_device(const struct um_tar *tar, const uint8_t *block, struct um_tar_entry *entry,
                       struct um_fault *fault)
{
    int64_t major, minor;
    if (dialect_of(block) == V7)
        return um_refuse(fault, -EBADMSG, tar->position - UM_TAR_BLOCK,
                         "device in a V7 header, which can't hold its numbers");
    if (!parse_field(block, F_MAJOR, &major) || major < 0 || major > UINT32_MAX)
        return bad_field(tar, F_MAJOR, fault);
    if (!parse_field(block, F_MINOR, &minor) || minor < 0 || minor > UINT32_MAX)
        return bad_field(tar, F_MINOR, fault);
    entry->major = (uint32_t)major;
    entry->minor = (uint32_t)minor;
    return 0;
}

static int read_owner(const struct um_tar *tar, const uint8_t *block, const struct pax *pax,
                      struct um_tar_entry *entry, struct um_fault *fault)
{
    uint64_t uid = 0, gid = 0;
    int error = read_number(tar, block, pax, K_UID, F_UID, UINT32_MAX, &uid, fault);
    if (error == 0)
        error = read_number(tar, block, pax, K_GID, F_GID, UINT32_MAX, &gid, fault);
    entry->uid = (uint32_t)uid;
    entry->gid = (uint32_t)gid;
    return error;
}

static int read_metadata(const struct um_tar *tar, const uint8_t *block, const struct pax *pax,
                         struct um_tar_entry *entry, struct um_fault *fault)
{
    int64_t mode;
    if (!parse_field(block, F_MODE, &mode) || mode < 0)
        return bad_field(tar, F_MODE, fault);
    entry->mode = (uint32_t)mode & 07777;
    if (pax->present & BIT(K_MTIME)) {
        entry->mtime = (int64_t)pax->values[K_MTIME].number;
        entry->mtime_nsec = pax->values[K_MTIME].nsec;
    } else if (!parse_field(block, F_MTIME, &entry->mtime)) {
        return bad_field(tar, F_MTIME, fault);
    }
    if (entry->type == UM_TAR_CHARACTER || entry->type == UM_TAR_BLOCK_DEVICE) {
        int error = read_device(tar, block, entry, fault);
        if (error != 0)
            return error;
    }
    return read_owner(tar, block, pax, entry, fault);
}

/* The pax headers that count for the next entry, put together. */
static int collect_pax(struct um_tar *tar, struct pax **pax)
{
    *pax = &tar->local;
    if (!is_empty(&tar->global)) {
        *pax = &tar->merged;
        int error = overlay(&tar->local, &tar->global, &tar->merged);
        if (error != 0)
            return error;
    }
    return unique_xattrs(tar, *pax);
}

/* ---- entries that are sparse ---- */

static int bad_sparse(const struct um_tar *tar, const char *why, struct um_fault *fault)
{
    return um_refuse(fault, -EBADMSG, tar->entry.header, "sparse file: %s", why);
}

/* *in_payload says where the map is; versions 0.0 and 0.1 need not name themselves. */
static int sparse_version(const struct um_tar *tar, const struct pax *pax, bool *in_payload,
                          struct um_fault *fault)
{
    const uint32_t named = BIT(K_SPARSE_MAJOR) | BIT(K_SPARSE_MINOR);
    *in_payload = false;
    if ((pax->present & named) == 0)
        return 0;
    uint64_t major = pax->values[K_SPARSE_MAJOR].number, minor = pax->values[K_SPARSE_MINOR].number;
    *in_payload = major == 1;
    if ((pax->present & named) != named || major > 1 || minor > 1 || (major == 1 && minor != 0))
        return bad_sparse(tar, "unknown version", fault);
    return 0;
}

static int on_pax_sparse(struct um_tar *tar, const struct pax *pax, struct um_fault *fault)
{
    bool in_payload;
    int error = sparse_version(tar, pax, &in_payload, fault);
    if (error != 0)
        return error;
    if (pax->present & BIT(K_SPARSE_SIZE))
        tar->entry.size = pax->values[K_SPARSE_SIZE].number;
    else if (pax->present & BIT(K_SPARSE_REALSIZE))
        tar->entry.size = pax->values[K_SPARSE_REALSIZE].number;
    else
        return bad_sparse(tar, "no size", fault);
    if (!in_payload) {
        if ((pax->present & BIT(K_SPARSE_NUMBLOCKS)) &&
            pax->values[K_SPARSE_NUMBLOCKS].number != tar->n_extents)
            return bad_sparse(tar, "other number of runs than announced", fault);
        return deliver(tar, fault);
    }
    if (tar->n_extents != 0)
        return bad_sparse(tar, "two maps", fault);
    memset(&tar->map, 0, sizeof tar->map);
    tar->state = IN_SPARSE_MAP;
    return 0;
}

static int on_gnu_sparse(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    int64_t size;
    if (dialect_of(block) != GNU)
        return bad_sparse(tar, "type 'S' in a header that is not GNU's", fault);
    if (!parse_field(block, F_GNU_REALSIZE, &size) || size < 0)
        return bad_field(tar, F_GNU_REALSIZE, fault);
    tar->entry.size = (uint64_t)size;
    int error = add_gnu_runs(tar, block, AT_SPARSE, RUNS_IN_HEADER, fault);
    if (error != 0)
        return error;
    if (block[AT_SPARSE_MORE] == 0)
        return deliver(tar, fault);
    tar->state = IN_SPARSE_BLOCKS;
    return 0;
}

static int on_sparse_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    int error = add_gnu_runs(tar, block, 0, RUNS_IN_BLOCK, fault);
    return error != 0 || block[AT_BLOCK_MORE] != 0 ? error : deliver(tar, fault);
}

/* One number of a 1.0 map is complete: the count, or an offset, or a length. */
static int on_map_number(struct um_tar *tar, uint64_t offset, struct um_fault *fault)
{
    uint64_t number = tar->map.number, seen = tar->map.seen++;
    tar->map.number = 0;
    tar->map.digits = false;
    if (seen == 0) {
        tar->map.count = number;
        if (number > tar->limits.max_extents)
            return um_refuse(fault, -E2BIG, offset, "sparse file of more than %" PRIu64 " runs",
                             tar->limits.max_extents);
        return 0;
    }
    if (seen % 2 != 0)
        return add_run(tar, number, 0, fault, offset);
    tar->extents[tar->n_extents - 1].length = number;
    return 0;
}

static int on_map_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    uint64_t start = tar->position - UM_TAR_BLOCK;
    if (tar->payload < UM_TAR_BLOCK)
        return um_refuse(fault, -EBADMSG, start, "sparse map is longer than its file");
    tar->payload -= UM_TAR_BLOCK;
    for (size_t i = 0; i < UM_TAR_BLOCK; i++) {
        if (is_digit(block[i]) && add_digit(&tar->map.number, block[i])) {
            tar->map.digits = true;
            continue;
        }
        if (block[i] != '\n' || !tar->map.digits)
            return um_refuse(fault, -EBADMSG, start + i, "sparse map is not a list of numbers");
        int error = on_map_number(tar, start + i, fault);
        if (error != 0)
            return error;
        if (tar->map.seen == 1 + 2 * tar->map.count)
            return deliver(tar, fault);
    }
    return 0;
}

/* ---- blocks ---- */

/* Fill tar->entry from a header block and the pax headers before it. */
static int read_entry(struct um_tar *tar, const uint8_t *block, const struct pax *pax,
                      struct um_fault *fault)
{
    char flag = (char)block[AT_TYPE];
    struct um_tar_entry *entry = &tar->entry;
    memset(entry, 0, sizeof *entry);
    entry->header =
        tar->first_header != NO_HEADER ? tar->first_header : tar->position - UM_TAR_BLOCK;
    entry->name = name_of(tar, block, pax);
    if (entry->name.size == 0)
        return um_refuse(fault, -EBADMSG, entry->header, "entry without a name");
    entry->type = type_of(flag, entry->name);
    if (entry->type == UM_TAR_SYMLINK || entry->type == UM_TAR_HARDLINK)
        entry->link = link_of(tar, block, pax);
    entry->xattrs = pax->xattrs;
    entry->n_xattrs = pax->n_xattrs;
    tar->payload = 0;
    if (has_payload(flag, entry->type)) {
        int error = read_number(tar, block, pax, K_SIZE, F_SIZE, INT64_MAX, &tar->payload, fault);
        if (error != 0)
            return error;
    }
    if (entry->type == UM_TAR_FILE)
        entry->size = tar->payload;
    return read_metadata(tar, block, pax, entry, fault);
}

static int on_entry_header(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    struct pax *pax;
    int error = collect_pax(tar, &pax);
    if (error != 0)
        return error;
    bool pax_sparse = (pax->present & SPARSE_KEYS) != 0, gnu_sparse = block[AT_TYPE] == 'S';
    if (pax_sparse || gnu_sparse) /* the entry may have to wait longer than the block is there */
        block = memcpy(tar->held, block, UM_TAR_BLOCK);
    error = read_entry(tar, block, pax, fault);
    if (error != 0)
        return error;
    if (!pax_sparse && !gnu_sparse)
        return deliver(tar, fault);
    tar->entry.sparse = true;
    if (tar->entry.type != UM_TAR_FILE || (pax_sparse && gnu_sparse))
        return bad_sparse(tar, "not a file, or described twice", fault);
    return gnu_sparse ? on_gnu_sparse(tar, block, fault) : on_pax_sparse(tar, pax, fault);
}

/* A volume label names the archive; it is no entry. */
static int on_label(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    int error = read_size(tar, block, &tar->payload, fault);
    end_entry(tar);
    return error != 0 ? error : skip_payload(tar, fault);
}

/* `sum` is that of all bytes; the checksum is made with spaces in its own field. Some old writers
 * summed signed bytes. */
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

static bool checksum_fits(const uint8_t *block, uint32_t sum)
{
    int64_t wanted;
    bool fits = parse_field(block, F_CHECKSUM, &wanted) && sum_fits(block, sum, wanted);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    return fits || sum != 0; /* a fuzzer can't guess it */
#else
    return fits;
#endif
}

static int on_header(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    uint64_t here = tar->position - UM_TAR_BLOCK;
    char type = (char)block[AT_TYPE];
    switch (type) {
    case 'x':
    case 'X': /* Solaris */
    case 'g':
    case 'L':
    case 'K':
        return on_extended_header(tar, block, type, fault);
    case 'V':
        return on_label(tar, block, fault);
    case 'M':
        return um_refuse(fault, -EBADMSG, here, "part of a multi-volume archive");
    case 'N':
        return um_refuse(fault, -EBADMSG, here, "obsolete GNU list of long names ('N')");
    default:
        return on_entry_header(tar, block, fault);
    }
}

static int on_zero_block(struct um_tar *tar, struct um_fault *fault)
{
    if (tar->first_header != NO_HEADER)
        return um_refuse(fault, -EBADMSG, tar->first_header,
                         "archive ends after an extended header");
    tar->state = tar->state == AFTER_ZERO_BLOCK ? AT_END : AFTER_ZERO_BLOCK;
    return 0;
}

static int on_header_or_end(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    uint32_t sum = sum_block(block);
    if (sum == 0)
        return on_zero_block(tar, fault);
    if (tar->state == AFTER_ZERO_BLOCK)
        return um_refuse(fault, -EBADMSG, tar->position - UM_TAR_BLOCK,
                         "data after a lone zero block");
    if (!checksum_fits(block, sum))
        return um_refuse(fault, -EBADMSG, tar->position - UM_TAR_BLOCK,
                         "header checksum does not fit");
    return on_header(tar, block, fault);
}

static int on_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    switch (tar->state) {
    case IN_EXTENDED:
        return on_extended_block(tar, block, fault);
    case IN_SPARSE_BLOCKS:
        return on_sparse_block(tar, block, fault);
    case IN_SPARSE_MAP:
        return on_map_block(tar, block, fault);
    default:
        return on_header_or_end(tar, block, fault);
    }
}

/* ---- the public face ---- */

int um_tar_open(um_tar_entry_fn on_entry, void *context, const struct um_tar_limits *limits,
                struct um_tar **out)
{
    struct um_tar *tar = calloc(1, sizeof *tar);
    if (tar == NULL)
        return -ENOMEM;
    tar->on_entry = on_entry;
    tar->context = context;
    if (limits != NULL)
        tar->limits = *limits;
    if (tar->limits.max_extended == 0)
        tar->limits.max_extended = 16u << 20;
    if (tar->limits.max_extents == 0)
        tar->limits.max_extents = 1u << 20;
    tar->first_header = NO_HEADER;
    *out = tar;
    return 0;
}

/* Take bytes that need not be looked at. */
static size_t pass(struct um_tar *tar, size_t size)
{
    uint64_t skippable = um_tar_skippable(tar);
    size_t count = size < skippable ? size : (size_t)skippable;
    um_tar_skip(tar, count);
    return count;
}

/* Put a block together from pieces; NULL while it is not complete. */
static const uint8_t *stage(struct um_tar *tar, const uint8_t *data, size_t size, size_t *used)
{
    size_t room = UM_TAR_BLOCK - tar->staged;
    *used = size < room ? size : room;
    memcpy(tar->stage + tar->staged, data, *used);
    tar->staged = (tar->staged + (uint32_t)*used) % UM_TAR_BLOCK;
    return tar->staged == 0 ? tar->stage : NULL;
}

static int eat(struct um_tar *tar, const uint8_t *data, size_t size, size_t *used,
               struct um_fault *fault)
{
    if (um_tar_skippable(tar) != 0) {
        *used = pass(tar, size);
        return 0;
    }
    const uint8_t *block = data;
    if (tar->staged == 0 && size >= UM_TAR_BLOCK)
        *used = UM_TAR_BLOCK;
    else
        block = stage(tar, data, size, used);
    tar->position += *used;
    return block != NULL ? on_block(tar, block, fault) : 0;
}

int um_tar_feed(struct um_tar *tar, const void *data, size_t size, struct um_fault *fault)
{
    const uint8_t *at = data;
    while (size != 0 && tar->error == 0) {
        size_t used = 0;
        tar->error = eat(tar, at, size, &used, fault);
        at += used;
        size -= used;
    }
    return tar->error;
}

uint64_t um_tar_skippable(const struct um_tar *tar)
{
    return tar->state == AT_END ? UINT64_MAX : tar->skip;
}

void um_tar_skip(struct um_tar *tar, uint64_t size)
{
    if (tar->state != AT_END)
        tar->skip -= size;
    if (!um_add64(tar->position, size, &tar->position))
        tar->position = UINT64_MAX;
}

uint64_t um_tar_position(const struct um_tar *tar)
{
    return tar->position;
}

int um_tar_finish(struct um_tar *tar, struct um_fault *fault)
{
    if (tar->error != 0 || tar->state == AT_END)
        return tar->error;
    if (tar->staged != 0 || tar->state == IN_EXTENDED || tar->state == IN_SPARSE_BLOCKS ||
        tar->state == IN_SPARSE_MAP || tar->first_header != NO_HEADER)
        tar->error = um_refuse(fault, -EBADMSG, tar->position, "archive ends within a header");
    else if (tar->skip > tar->padding)
        tar->error = um_refuse(fault, -EBADMSG, tar->position,
                               "archive ends within a file: %" PRIu64 " bytes are missing",
                               tar->skip - tar->padding);
    return tar->error;
}

void um_tar_close(struct um_tar *tar)
{
    if (tar == NULL)
        return;
    free_pax(&tar->local);
    free_pax(&tar->global);
    free_pax(&tar->incoming);
    free_pax(&tar->merged);
    free(tar->long_name.data);
    free(tar->long_link.data);
    free(tar->extents);
    free(tar->order);
    free(tar);
}
