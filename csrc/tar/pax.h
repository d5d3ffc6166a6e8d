/*
 * tar/pax.h - the records of pax headers.
 *
 * Ownership: said at each struct. Threads: everything works on memory of the caller.
 */
#ifndef UM_TAR_PAX_H
#define UM_TAR_PAX_H

#include "tar/sparse.h"

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

/* These bytes are owned. */
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

/* This holds what pax headers say. It owns `raw`, `xattrs` and `order`. Slices are borrowed from
 * `raw` or, in the result of um_tar_pax_overlay, from the `raw` of its two sources. */
struct um_tar_pax {
    struct um_tar_bytes raw; /* the payload of the header */
    uint32_t present;        /* keys that have a value */
    uint32_t deleted; /* keys for which an empty value deletes that of earlier headers */
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
 * `runs`. NULL means that the header is global, and must have no map. */
int um_tar_pax_parse(struct um_tar_pax *pax, struct um_tar_runs *runs, uint64_t offset,
                     struct um_fault *fault);

/* Make `out` from `over`, and from those of `under` that `over` neither has nor deletes. */
int um_tar_pax_overlay(const struct um_tar_pax *over, const struct um_tar_pax *under,
                       struct um_tar_pax *out);

/* Keep the last xattr of each name, in archive order. */
int um_tar_pax_unique(struct um_tar_pax *pax);

/* Overlay the global headers so far (`global`) with `incoming`, using `scratch`. -E2BIG or -EFBIG
 * where the result is more than should accompany every entry. */
int um_tar_pax_add_global(struct um_tar_pax *global, const struct um_tar_pax *incoming,
                          struct um_tar_pax *scratch, uint64_t offset, struct um_fault *fault);

#endif
