/*
 * search/source.h - what is searched: names and bytes of a tree, of layers, or of an upper.
 *
 * Ownership: a source is borrowed. Entries of an upper count as lookups, which um_source_forget
 * takes back.
 */
#ifndef UM_SEARCH_SOURCE_H
#define UM_SEARCH_SOURCE_H

#include "search/search.h"

/* An open directory. */
struct um_source_list {
    const struct um_search_source *source;
    uint64_t directory;
    struct um_upper_list *list; /* of an upper */
};

int um_source_list_open(const struct um_search_source *source, uint64_t directory,
                        struct um_source_list *list);
int um_source_list_next(struct um_source_list *list, uint64_t cookie, struct um_tree_entry *entries,
                        size_t capacity);
void um_source_list_close(struct um_source_list *list);
void um_source_forget(const struct um_search_source *source, uint64_t node);

/* Every success of um_source_open_file owes one um_source_release. */
int um_source_open_file(const struct um_search_source *source, uint64_t node);
int64_t um_source_read(const struct um_search_source *source, uint64_t node, uint64_t offset,
                       void *buffer, size_t size);
void um_source_release(const struct um_search_source *source, uint64_t node);

/* Return where a file is in its layer, for sorting; all are 0 where that is not known. */
void um_source_place(const struct um_search_source *source, uint64_t node, uint32_t *layer,
                     uint64_t *offset);

#endif
