/*
 * index/builder.h - the indexer, which turns the tar of a layer into its index file.
 *
 * Purpose: apply the rules for unusual layers (docs/explanation/layers.md) within one layer, and
 * write the result in the format of index/format.h. Facts that concern other layers are only
 * recorded: whiteouts, opaque marks and hard links into lower layers. The tree interprets them
 * (tree/tree.h).
 *
 * Memory: max_memory bounds the tables. In addition there is what the parser holds of one entry
 * (tar/tar.h), and some 4 MiB that do not depend on the layer.
 *
 * Ownership: an indexer owns its tar parser and its tables; the caller owns descriptors.
 * Threads: one indexer is used by one thread at a time.
 */
#ifndef UM_INDEX_BUILDER_H
#define UM_INDEX_BUILDER_H

#include "base/base.h"
#include "tar/tar.h"

/* This is the default of max_memory. An entry takes 150 to 250 bytes
 * (docs/reference/index-format.md), so it suffices for a layer of two million files, several times
 * the largest layers in use. */
#define UM_INDEXER_MEMORY (512u << 20)

/* cffi: begin */
#define UM_INDEXER_MARKS 8u /* names of marks that are kept for messages */

struct um_index_limits {
    uint64_t max_entries; /* names, including implied directories; 0: 16 Mi */
    uint64_t max_strings; /* bytes of names, targets and xattrs; 0: 4 GiB - 1 */
    uint64_t max_memory;  /* bytes of the tables; 0: UM_INDEXER_MEMORY */
};

struct um_indexer; /* opaque */

/* Make a new, empty indexer. 0, -ENOMEM, -ENOBUFS or the errno of getrandom(2). The caller owns
 * *out. */
int um_indexer_open(const struct um_index_limits *limits, struct um_indexer **out);

/* Keep the bytes of extended attributes in `fd` instead of in memory. `fd` is an empty file, open
 * for reading and writing, that nobody else uses. Call this before feeding anything. The
 * descriptor stays the caller's, and must stay open until the indexer is closed. */
void um_indexer_spool(struct um_indexer *indexer, int fd);

/* Take all names literally: the tar is a root file system by itself and no layer, so a name that
 * would be a whiteout is a file like others, and so is a device 0:0. Call this before feeding
 * anything. */
void um_indexer_take_literally(struct um_indexer *indexer);

/* Feed the next bytes of the layer's tar. 0 or a negative errno with `fault` filled; -ENOBUFS
 * where the tables would exceed max_memory. After an error only um_indexer_close may be called. */
int um_indexer_feed(struct um_indexer *indexer, const void *data, size_t size,
                    struct um_fault *fault);

/* Index the tar in [offset, offset + length) of `fd`, reading headers only. Each call reads at
 * most `budget` bytes, so that the caller can stop in between. 1: call again; 0: everything is
 * read; or a negative errno. Not to be mixed with um_indexer_feed. */
int um_indexer_scan(struct um_indexer *indexer, int fd, uint64_t offset, uint64_t length,
                    uint64_t budget, struct um_fault *fault);

/* Finish: check that the tar is complete (um_tar_finish), and write the index to `fd` from its
 * start. The caller makes the file durable and gives it its name. `layer_size` is the size of the
 * tar in bytes. */
int um_indexer_finish(struct um_indexer *indexer, uint64_t layer_size, int fd,
                      struct um_fault *fault);

/* Return the name, as spelled in the tar, of entry number `number` among those that have no place
 * in the layer because symlinks on their way form a loop: 1; 0 where there are no more. Borrowed
 * until the next call that feeds or finishes. */
int um_indexer_unresolved(const struct um_indexer *indexer, uint64_t number, const char **name,
                          size_t *size);

/* Return how many entries, taken literally, a layer could not hold because they would be marks. */
uint64_t um_indexer_marks(const struct um_indexer *indexer);

/* Return the name, as spelled in the tar, of number `number` of these: 1; 0 where it was not kept,
 * as only the first UM_INDEXER_MARKS are. Borrowed until the indexer is closed. */
int um_indexer_mark(const struct um_indexer *indexer, unsigned number, const char **name,
                    size_t *size);

/* Free the indexer, which may be NULL. */
void um_indexer_close(struct um_indexer *indexer);
/* cffi: end */

/* Add one entry. This is the callback of the parser, and public for tests and fuzzers. */
int um_indexer_add(struct um_indexer *indexer, const struct um_tar_entry *entry,
                   struct um_fault *fault);

#endif
