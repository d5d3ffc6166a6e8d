/*
 * index/builder.h - tar entries of one layer -> its index file.
 *
 * Purpose: apply the rules for what an unusual layer means (docs/explanation/layers.md) within one layer, and
 * write the result in the format of index/format.h. What depends on other layers is only recorded
 * (whiteouts, opaque marks, hard links into lower layers); tree/tree.c decides it.
 *
 * Memory: the tables are bounded by max_memory. On top of it come what the parser holds of one entry
 * (tar/tar.h) and some 4 MiB that do not depend on the layer.
 *
 * Ownership: an indexer owns its tar parser and its tables; descriptors are the caller's.
 * Threads: one indexer is used by one thread at a time.
 */
#ifndef UM_INDEX_BUILDER_H
#define UM_INDEX_BUILDER_H

#include "base/base.h"
#include "tar/tar.h"

/* Unless a caller says otherwise. An entry takes 150 to 250 bytes (docs/reference/index-format.md), so this is good
 * for a layer of two million files, several times the largest that are in use. */
#define UM_INDEXER_MEMORY (512u << 20)

/* cffi: begin */
struct um_index_limits {
    uint64_t max_entries; /* names, implied directories included; 0: 16 Mi */
    uint64_t max_strings; /* bytes of names, targets and xattrs; 0: 4 GiB - 1 */
    uint64_t max_memory;  /* bytes of the tables; 0: UM_INDEXER_MEMORY */
};

struct um_indexer; /* opaque */

/* A new, empty indexer. 0, -ENOMEM, -ENOBUFS or the errno of getrandom(2). The caller owns *out. */
int um_indexer_open(const struct um_index_limits *limits, struct um_indexer **out);

/* Keep the bytes of extended attributes in `fd`, an empty file open for reading and writing that is
 * nobody else's, instead of in memory. To be called before anything is fed; the descriptor stays the
 * caller's, and open until the indexer is closed. */
void um_indexer_spool(struct um_indexer *indexer, int fd);

/* Feed the next bytes of the layer's tar. 0 or a negative errno with `fault` filled, -ENOBUFS where the
 * tables would be larger than max_memory; after an error only um_indexer_close is accepted. */
int um_indexer_feed(struct um_indexer *indexer, const void *data, size_t size,
                    struct um_fault *fault);

/* Index the tar in [offset, offset + length) of `fd`, reading headers only. Reads at most
 * `budget` bytes, so that a caller can stop in between. 1: call again; 0: all read; or a negative
 * errno. Not to be mixed with um_indexer_feed. */
int um_indexer_scan(struct um_indexer *indexer, int fd, uint64_t offset, uint64_t length,
                    uint64_t budget, struct um_fault *fault);

/* The tar is complete (`um_tar_finish` is asked): write the index to `fd` from its start. The
 * caller makes it durable and gives it its name. `layer_size` is the size of the tar in bytes. */
int um_indexer_finish(struct um_indexer *indexer, uint64_t layer_size, int fd,
                      struct um_fault *fault);

/* The name, as its tar has it, of entry number `number` of those that have no place in the layer, because
 * symlinks on their way lead in a circle: 1; 0 where there are no more. Borrowed until the next call that
 * feeds or finishes. */
int um_indexer_unresolved(const struct um_indexer *indexer, uint64_t number, const char **name,
                          size_t *size);

/* Frees the indexer; NULL is fine. */
void um_indexer_close(struct um_indexer *indexer);
/* cffi: end */

/* Add one entry; the callback of the parser, public for the tests and fuzzers. */
int um_indexer_add(struct um_indexer *indexer, const struct um_tar_entry *entry,
                   struct um_fault *fault);

#endif
