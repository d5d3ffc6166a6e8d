/*
 * tar/pax.c - pax records: keys, xattrs, and how headers add up.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* qsort_r */
#endif

#include "tar/pax.h"

#include "tar/number.h"

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

static const struct um_slice SCHILY = {(const uint8_t *)"SCHILY.xattr.", 13};
static const struct um_slice LIBARCHIVE = {(const uint8_t *)"LIBARCHIVE.xattr.", 17};

/* These are the limits of global headers. They accompany every later entry of 512 bytes, and may
 * have to be stored for each of them. So an archive of N bytes must cost neither many more than N
 * steps nor many more than N bytes of memory. */
enum { GLOBAL_BYTES = 1024, GLOBAL_XATTRS = 16 };

/* This is the limit of one header. listxattr(2) has room for 65,536 bytes of names, so no file has
 * half as many xattrs. A record of 20 bytes takes 32 in memory, twice over where a global header
 * comes with it. */
#define MAX_XATTRS 65536u

int um_tar_append(struct um_tar_bytes *bytes, const void *data, size_t size)
{
    int error = um_reserve((void **)&bytes->data, &bytes->capacity, bytes->size + size, 1);
    if (error == 0 && size != 0) {
        memcpy(bytes->data + bytes->size, data, size);
        bytes->size += size;
    }
    return error;
}

void um_tar_pax_clear(struct um_tar_pax *pax)
{
    pax->raw.size = 0;
    pax->present = 0;
    pax->deleted = 0;
    pax->n_xattrs = 0;
}

void um_tar_pax_free(struct um_tar_pax *pax)
{
    free(pax->raw.data);
    free(pax->xattrs);
    free(pax->order);
}

static int append_xattr(struct um_tar_pax *pax, struct um_slice name, struct um_slice value)
{
    int error = um_reserve((void **)&pax->xattrs, &pax->xattrs_capacity, pax->n_xattrs + 1,
                           sizeof *pax->xattrs);
    if (error == 0)
        pax->xattrs[pax->n_xattrs++] = (struct um_tar_xattr){.name = name, .value = value};
    return error;
}

static int append_xattrs(struct um_tar_pax *pax, const struct um_tar_pax *from)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < from->n_xattrs; i++)
        error = append_xattr(pax, from->xattrs[i].name, from->xattrs[i].value);
    return error;
}

int um_tar_pax_overlay(const struct um_tar_pax *over, const struct um_tar_pax *under,
                       struct um_tar_pax *out)
{
    uint32_t inherited = under->present & ~(over->present | over->deleted);
    um_tar_pax_clear(out);
    memcpy(out->values, over->values, sizeof out->values);
    for (unsigned key = 0; key < K_COUNT; key++) {
        if (inherited & UM_TAR_BIT(key))
            out->values[key] = under->values[key];
    }
    out->present = over->present | inherited;
    int error = append_xattrs(out, under);
    return error != 0 ? error : append_xattrs(out, over);
}

static int compare_xattrs(const void *a, const void *b, void *xattrs)
{
    uint32_t left, right;
    memcpy(&left, a, sizeof left);
    memcpy(&right, b, sizeof right);
    const struct um_tar_xattr *all = xattrs;
    int order = um_slice_compare(all[left].name, all[right].name);
    return order != 0 ? order : (left > right) - (left < right);
}

/* Sort, so that a header of a million names stays cheap. No name is empty, so an empty one can
 * mark what goes. */
int um_tar_pax_unique(struct um_tar_pax *pax)
{
    size_t count = pax->n_xattrs, kept = 0;
    if (count < 2)
        return 0;
    int error = um_reserve((void **)&pax->order, &pax->order_capacity, count, sizeof *pax->order);
    if (error != 0)
        return error;
    for (size_t i = 0; i < count; i++)
        pax->order[i] = (uint32_t)i;
    qsort_r(pax->order, count, sizeof *pax->order, compare_xattrs, pax->xattrs);
    for (size_t i = 1; i < count; i++) {
        struct um_tar_xattr *former = &pax->xattrs[pax->order[i - 1]];
        if (um_slice_equal(former->name, pax->xattrs[pax->order[i]].name))
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
    if (um_tar_is_digit(byte))
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* Decode %XX in place; a '%' without two hex digits stays, as in libarchive. */
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
    if (um_tar_is_digit(byte))
        return byte - '0' + 52;
    return byte == '+' ? 62 : byte == '/' ? 63 : -1;
}

/* Decode base64 in place, with its padding or, as libarchive writes it, without. */
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

static bool has_nul(struct um_slice text)
{
    return text.size != 0 && memchr(text.data, '\0', text.size) != NULL;
}

/* A record of the header that is being read. */
struct record {
    struct um_tar_pax *pax;
    struct um_tar_runs *runs; /* NULL in a global header */
    struct um_slice key, value;
    uint64_t offset; /* of the record in the stream */
    bool half_run;   /* a GNU.sparse.offset, run_offset, waits for its numbytes */
    uint64_t run_offset;
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

/* Return the writable bytes of a slice that was cut from pax->raw, for decoding in place. */
static uint8_t *own_bytes(struct um_tar_pax *pax, struct um_slice slice)
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
    if (record->pax->n_xattrs == MAX_XATTRS)
        return um_refuse(record->fault, -E2BIG, record->offset, "more than %u xattrs in one header",
                         MAX_XATTRS);
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

/* Add half a run: in version 0.0 offset and length, in this order, are records of their own. */
static int add_half_run(struct record *record, bool is_length)
{
    uint64_t number;
    if (record->half_run != is_length || !um_tar_parse_decimal(record->value, &number))
        return bad_value(record);
    record->half_run = !is_length;
    if (is_length)
        return um_tar_add_run(record->runs, record->run_offset, number, record->fault,
                              record->offset);
    record->run_offset = number;
    return 0;
}

/* Add a map. A second one is refused, because it would be appended to the first. */
static int add_map(struct record *record)
{
    if (um_tar_pax_has(record->pax, K_SPARSE_MAP))
        return bad_value(record);
    return um_tar_add_map_text(record->runs, record->value, record->fault, record->offset);
}

static int set_value(struct record *record, unsigned key)
{
    struct um_tar_value *value = &record->pax->values[key];
    int64_t seconds;
    value->text = record->value;
    switch (KEYS[key].kind) {
    case TEXT:
        return has_nul(record->value) ? bad_value(record) : 0;
    case NUMBER:
        return um_tar_parse_decimal(record->value, &value->number) ? 0 : bad_value(record);
    case TIME:
        if (!um_tar_parse_time(record->value, &seconds, &value->nsec))
            return bad_value(record);
        value->number = (uint64_t)seconds;
        return 0;
    case RUN_OFFSET:
        return add_half_run(record, false);
    case RUN_LENGTH:
        return add_half_run(record, true);
    default:
        return add_map(record);
    }
}

/* Set a key. An empty value deletes it, in this header so far and in global ones. */
static int take_key(struct record *record, unsigned key)
{
    struct um_tar_pax *pax = record->pax;
    if ((UM_TAR_SPARSE_KEYS & UM_TAR_BIT(key)) && record->runs == NULL)
        return um_refuse(record->fault, -EBADMSG, record->offset,
                         "global header describes a sparse file");
    if (record->value.size == 0) {
        pax->present &= ~UM_TAR_BIT(key);
        pax->deleted |= UM_TAR_BIT(key);
        return 0;
    }
    int error = set_value(record, key);
    pax->present |= UM_TAR_BIT(key);
    return error;
}

/* Take over a record. Unknown keys are ignored (comment, hdrcharset, uname, atime, …). */
static int take_record(struct record *record)
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
    for (; i < text->size && um_tar_is_digit(at[i]); i++) {
        if (!um_tar_add_digit(&length, at[i]))
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

int um_tar_pax_parse(struct um_tar_pax *pax, struct um_tar_runs *runs, uint64_t offset,
                     struct um_fault *fault)
{
    struct um_slice text = um_slice_of(pax->raw.data, pax->raw.size);
    struct record record = {.pax = pax, .runs = runs, .fault = fault};
    int error = 0;
    while (error == 0 && text.size != 0) {
        record.offset = offset + (pax->raw.size - text.size);
        if (!cut_record(&text, &record))
            return um_refuse(fault, -EBADMSG, record.offset, "malformed pax record");
        error = take_record(&record);
    }
    if (error == 0 && record.half_run)
        return um_refuse(fault, -EBADMSG, record.offset, "sparse offset without a length");
    return error;
}

static size_t pax_bytes(const struct um_tar_pax *pax)
{
    size_t total = 0;
    for (unsigned key = 0; key < K_COUNT; key++)
        total += um_tar_pax_has(pax, key) ? pax->values[key].text.size : 0;
    for (size_t i = 0; i < pax->n_xattrs; i++)
        total += pax->xattrs[i].name.size + pax->xattrs[i].value.size;
    return total;
}

/* Copy the bytes of *slice into `raw`, which has room, and let the slice point there. */
static void keep_slice(struct um_tar_bytes *raw, struct um_slice *slice)
{
    uint8_t *copy = raw->data + raw->size;
    if (slice->size != 0)
        memcpy(copy, slice->data, slice->size);
    raw->size += slice->size;
    *slice = um_slice_of(copy, slice->size);
}

static int own_slices(struct um_tar_pax *pax)
{
    int error = um_reserve((void **)&pax->raw.data, &pax->raw.capacity, pax_bytes(pax) + 1, 1);
    if (error != 0)
        return error;
    for (unsigned key = 0; key < K_COUNT; key++) {
        if (um_tar_pax_has(pax, key))
            keep_slice(&pax->raw, &pax->values[key].text);
    }
    for (size_t i = 0; i < pax->n_xattrs; i++) {
        keep_slice(&pax->raw, &pax->xattrs[i].name);
        keep_slice(&pax->raw, &pax->xattrs[i].value);
    }
    return 0;
}

int um_tar_pax_add_global(struct um_tar_pax *global, const struct um_tar_pax *incoming,
                          struct um_tar_pax *scratch, uint64_t offset, struct um_fault *fault)
{
    int error = um_tar_pax_overlay(incoming, global, scratch);
    if (error == 0)
        error = um_tar_pax_unique(scratch);
    if (error != 0)
        return error;
    if (scratch->n_xattrs > GLOBAL_XATTRS)
        return um_refuse(fault, -E2BIG, offset, "more than %d xattrs in global headers",
                         GLOBAL_XATTRS);
    if (pax_bytes(scratch) > GLOBAL_BYTES)
        return um_refuse(fault, -EFBIG, offset, "global headers hold more than %d bytes",
                         GLOBAL_BYTES);
    error = own_slices(scratch);
    struct um_tar_pax former = *global;
    *global = *scratch;
    *scratch = former;
    um_tar_pax_clear(scratch);
    return error;
}
