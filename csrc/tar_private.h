/*
 * tar_private.h - the parts of the tar parser; private to tar*.c.
 *
 * tar_number.c reads numbers and times, tar_header.c one header block, tar_pax.c the records of
 * pax headers, tar_sparse.c the maps of sparse files; tar.c is the machine that uses them.
 *
 * Ownership: said at each struct. Threads: everything works on memory of the caller.
 */
#ifndef UM_TAR_PRIVATE_H
#define UM_TAR_PRIVATE_H

#include "tar.h"

/* ---- tar_number.c ---- */

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

/* ---- tar_header.c ---- */

enum um_tar_dialect { UM_TAR_V7, UM_TAR_USTAR, UM_TAR_GNU, UM_TAR_STAR };

struct um_tar_field {
    uint16_t offset, size;
};

static const struct um_tar_field F_MODE = {100, 8}, F_UID = {108, 8}, F_GID = {116, 8},
                                 F_SIZE = {124, 12}, F_MTIME = {136, 12}, F_LINK = {157, 100},
                                 F_MAJOR = {329, 8}, F_MINOR = {337, 8}, F_GNU_REALSIZE = {483, 12};

enum { AT_TYPE = 156, AT_SPARSE_MORE = 482, AT_BLOCK_MORE = 504, UM_TAR_LONGEST_NAME = 256 };

/* The sum of all bytes; 0 means that all are zero. */
uint32_t um_tar_sum(const uint8_t *block);

/* Whether the checksum in the block goes with the sum of its bytes. */
bool um_tar_checksum_fits(const uint8_t *block, uint32_t sum);

enum um_tar_dialect um_tar_dialect_of(const uint8_t *block);

bool um_tar_parse_field(const uint8_t *block, struct um_tar_field field, int64_t *value);

/* Text up to its first NUL, or all of it. */
struct um_slice um_tar_text(const uint8_t *at, size_t size);
struct um_slice um_tar_field_text(const uint8_t *block, struct um_tar_field field);

/* The name with its prefix; borrowed from the block or, where it had to be joined, from `joined`,
 * which has UM_TAR_LONGEST_NAME bytes. */
struct um_slice um_tar_header_name(const uint8_t *block, uint8_t *joined);

/* ---- tar_sparse.c ---- */

/* The runs of the sparse file that comes next. Owns its extents. */
struct um_tar_runs {
    struct um_tar_extent *extents;
    size_t count, capacity;
    uint64_t limit;
    struct { /* a 1.0 map that is being read */
        uint64_t number, announced, seen; /* the number in work; runs to come; numbers read */
        bool digits;
    } map;
};

/* -E2BIG beyond the limit; `offset` is for the fault. */
int um_tar_add_run(struct um_tar_runs *runs, uint64_t logical, uint64_t length,
                   struct um_fault *fault, uint64_t offset);

/* The runs in an old GNU header, or in a block that follows it; `offset` is that of the block. */
int um_tar_add_header_runs(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                           uint64_t offset);
int um_tar_add_block_runs(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                          uint64_t offset);

/* The text of a GNU.sparse.map: "offset,length,offset,length,…". */
int um_tar_add_map_text(struct um_tar_runs *runs, struct um_slice text, struct um_fault *fault,
                        uint64_t offset);

/* One block of a 1.0 map, from the first on. 1: there is more; 0: the map is complete. */
int um_tar_read_map_block(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                          uint64_t offset);

/* Check the runs against the sizes of the entry and give them to it, each with its place in the
 * stream. */
int um_tar_place_runs(struct um_tar_runs *runs, struct um_tar_entry *entry, struct um_fault *fault);

static inline void um_tar_runs_clear(struct um_tar_runs *runs)
{
    runs->count = 0;
    memset(&runs->map, 0, sizeof runs->map);
}

/* ---- tar_pax.c ---- */

enum um_tar_key {
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

#define UM_TAR_BIT(key) (1u << (key))
#define UM_TAR_SPARSE_KEYS (UM_TAR_BIT(K_COUNT) - UM_TAR_BIT(K_SPARSE_NAME))

/* Bytes that are owned. */
struct um_tar_bytes {
    uint8_t *data;
    size_t size, capacity;
};

int um_tar_append(struct um_tar_bytes *bytes, const void *data, size_t size);

struct um_tar_value {
    struct um_slice text;
    uint64_t number; /* of K_MTIME an int64_t */
    uint32_t nsec;
};

/* What pax headers say. Owns `raw`, `xattrs` and `order`; slices are borrowed from `raw` or, in
 * what um_tar_pax_overlay makes, from those of the two that it was made of. */
struct um_tar_pax {
    struct um_tar_bytes raw; /* the payload of the header */
    uint32_t present;        /* keys that have a value */
    uint32_t deleted; /* keys whose value in headers before is deleted by an empty one */
    struct um_tar_value values[K_COUNT];
    struct um_tar_xattr *xattrs;
    size_t n_xattrs, xattrs_capacity;
    uint32_t *order; /* scratch of um_tar_pax_unique */
    size_t order_capacity;
};

static inline bool um_tar_pax_has(const struct um_tar_pax *pax, unsigned key)
{
    return (pax->present & UM_TAR_BIT(key)) != 0;
}

static inline bool um_tar_pax_is_empty(const struct um_tar_pax *pax)
{
    return pax->present == 0 && pax->n_xattrs == 0;
}

void um_tar_pax_clear(struct um_tar_pax *pax);
void um_tar_pax_free(struct um_tar_pax *pax);

/* Read the records in pax->raw, which begin at `offset` of the stream. A sparse map goes to
 * `runs`; NULL: the header is global and must have none. */
int um_tar_pax_parse(struct um_tar_pax *pax, struct um_tar_runs *runs, uint64_t offset,
                     struct um_fault *fault);

/* `out` becomes `over`, with what `under` has and `over` neither has nor deletes. */
int um_tar_pax_overlay(const struct um_tar_pax *over, const struct um_tar_pax *under,
                       struct um_tar_pax *out);

/* Keep the last xattr of each name, in archive order. */
int um_tar_pax_unique(struct um_tar_pax *pax);

/* Lay the global header `incoming` over what earlier ones left in `global`; `scratch` is used.
 * -E2BIG or -EFBIG where that is more than should come with every entry. */
int um_tar_pax_add_global(struct um_tar_pax *global, const struct um_tar_pax *incoming,
                          struct um_tar_pax *scratch, uint64_t offset, struct um_fault *fault);

#endif
