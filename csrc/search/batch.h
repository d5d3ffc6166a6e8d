/*
 * search/batch.h - files that are searched together.
 *
 * Ownership: a batch owns names, output and, of an upper, the lookups of its files.
 */
#ifndef UM_SEARCH_BATCH_H
#define UM_SEARCH_BATCH_H

#include "search/search.h"

struct um_search_file {
    uint64_t node, size;
    uint64_t place; /* in the layer */
    uint32_t layer;
    bool has_holes, counts; /* a lookup is owed */
    size_t name, name_size; /* in `names` */
    size_t output, output_size, leading;
    uint32_t flags; /* UM_SEARCH_SELECTED, … */
    int32_t error;
};

struct um_search_batch {
    struct um_search_source source;
    struct um_search_file *files;
    size_t n, capacity;
    uint64_t bytes; /* of all files */
    uint8_t *names;
    size_t names_size, names_capacity;
    uint8_t *prefix;
    size_t prefix_size;
    uint8_t *output; /* of all files, in the order in which they were searched */
    uint8_t *merged; /* what the last event has */
    size_t merged_capacity;
    size_t next; /* the file of the next event */
    bool records;
};

/* Make an empty batch, whose files have `prefix` before their names. */
int um_batch_open(const struct um_search_source *source, struct um_slice prefix,
                  struct um_search_batch **out);

/* Add a file. */
int um_batch_add(struct um_search_batch *batch, const struct um_attr *attr, struct um_slice name,
                 bool counts);

/* Add a directory that could not be read: its event has the error. */
int um_batch_add_failure(struct um_search_batch *batch, struct um_slice name, int failure);

bool um_batch_is_full(const struct um_search_batch *batch);

static inline struct um_slice um_batch_name(const struct um_search_batch *batch,
                                            const struct um_search_file *file)
{
    return um_slice_of(batch->names + file->name, file->name_size);
}

#endif
