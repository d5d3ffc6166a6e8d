/*
 * index/indexer.h - what the files that make an index share. Each file uses those below it:
 *
 *   builder.c      entries of a tar; opening and finishing
 *   hard_links.c   links to names that come later, or never
 *   xattr_sets.c   extended attributes, each set once
 *   layer_path.c   paths: rules 1 to 8 of docs/explanation/layers.md
 *   tables.c       names and inodes in memory (index/tables.h)
 *   writer.c       the index on disk
 *
 * Ownership, threads: see index/builder.h. `header` is the offset of an entry's header in the tar, for
 * errors.
 */
#ifndef UM_INDEX_INDEXER_H
#define UM_INDEX_INDEXER_H

#include "base/keyed_hash.h"
#include "base/table.h"
#include "index/builder.h"
#include "index/tables.h"
#include "marks/whiteout.h"

#define MAX_COMPONENT 255u
#define MAX_PATH_BYTES 65535u

/* A set of xattrs that was seen. */
struct um_indexer_xattr_set {
    uint64_t hash;  /* the key: of its names and values */
    uint32_t first; /* its first record + 1 */
};

/* A path split and clamped; the array grows as needed and is used again for the next path. */
struct um_index_path {
    struct um_slice *parts;
    size_t n, capacity;
};

/* Where a path leads through symlinks; used again for the next one. */
struct um_index_way {
    struct um_index_path pending; /* the parts to come, the next one last */
    struct um_index_path walked;
    uint32_t *
        directories; /* the directory before each part of `walked`, or UM_NONE: not in this layer */
    size_t capacity;
    uint32_t at; /* the directory behind them */
    unsigned links; /* followed so far */
    size_t used; /* of: */
    uint8_t *targets; /* of the links: MAX_FOLLOWED bytes */
};

struct um_indexer {
    struct um_indexer_tables tables;
    struct um_index_limits limits;
    struct um_tar *tar;
    struct um_hash_key key; /* of the two tables that follow */
    struct um_numbers by_text; /* names, but for the root's, by parent and text */
    struct um_table sets; /* of struct um_indexer_xattr_set */
    struct um_index_path path, target;
    struct um_index_way way;
    unsigned n_followed; /* how many paths led through symlinks */
    uint8_t *window; /* of um_indexer_scan */
    uint64_t scanned; /* bytes of the tar that scan has passed on or jumped over */
    uint32_t window_size;
};

/* A directory that no entry of the layer is. */
extern const struct um_indexer_inode um_indexer_implied_directory;

/* ---- index/tables.c ---------------------------------------------------------------- */

/* Whether `more` bytes fit among the strings: 0, or -EFBIG. */
int um_indexer_check_strings(const struct um_indexer *ix, size_t more, uint64_t header,
                             struct um_fault *fault);
/* Keep a text among the strings: 0 with its *offset, -EFBIG, -ENOBUFS. */
int um_indexer_add_string(struct um_indexer *ix, struct um_slice text, uint32_t *offset,
                          uint64_t header, struct um_fault *fault);
/* The number of the name `text` in `parent`; UM_NONE where there is none. */
uint32_t um_indexer_find_name(const struct um_indexer *ix, uint32_t parent, struct um_slice text);
/* A new record: 0 with its *number, -E2BIG, -ENOBUFS. */
int um_indexer_new_name(struct um_indexer *ix, struct um_indexer_name name, uint32_t *number,
                        uint64_t header, struct um_fault *fault);
int um_indexer_new_inode(struct um_indexer *ix, const struct um_indexer_inode *inode,
                         uint32_t *number, uint64_t header, struct um_fault *fault);
/* The name `text` in `parent`, made (standing for nothing yet) where it is new. */
int um_indexer_intern_name(struct um_indexer *ix, uint32_t parent, struct um_slice text,
                           uint32_t *number, uint64_t header, struct um_fault *fault);
/* The inode that a name in a directory which is there stands for; UM_NONE where it is none. */
uint32_t um_indexer_inode_of(const struct um_indexer_tables *t, uint32_t number);
/* Whether the name stands for a directory. */
bool um_indexer_is_directory(const struct um_indexer_tables *t, uint32_t number);
/* Let the name stand for another inode; what was in it, if it was a directory, is lost. */
void um_indexer_bind(struct um_indexer_tables *t, uint32_t number, uint32_t inode);

/* ---- index/layer_path.c ------------------------------------------------------------ */

/* Rule 1 of docs/explanation/layers.md: split, drop "" and ".", let ".." drop what is before it. */
int um_index_path_split(struct um_slice text, struct um_index_path *path);
/* Rule 6: let the first `n` parts of a path be those of the directory to which they lead, through
 * symlinks of this layer as they stand now. -ELOOP where they lead in a circle, or to what can't be. */
int um_indexer_follow_links(struct um_indexer *ix, struct um_index_path *path, size_t n);
/* Descend to the directory of the first `n` parts, making implied directories on the way. */
int um_indexer_enter(struct um_indexer *ix, const struct um_index_path *path, size_t n,
                     uint32_t *directory, uint64_t header, struct um_fault *fault);
/* As enter, but only name the directories: a mark makes none of what is none (finish_names). */
int um_indexer_enter_marked(struct um_indexer *ix, const struct um_index_path *path, size_t n,
                            uint32_t *directory, uint64_t header, struct um_fault *fault);
/* The inode that a hard link's target names in this layer now. UM_NONE where there is none;
 * *directory says that there is a directory. */
uint32_t um_indexer_resolve(const struct um_indexer *ix, const struct um_index_path *path,
                            bool *directory);
/* What the parts of a path mean together: the kind of the last one, or LEFTOVER where one before
 * it is a whiteout of any kind, because then the entry is not shown. */
int um_index_path_classify(const struct um_index_path *path, enum um_whiteout_kind *kind,
                           struct um_slice *hidden, uint64_t header, struct um_fault *fault);

/* ---- index/xattr_sets.c ------------------------------------------------------------ */

/* The set of the entry's xattrs, shared with earlier entries that have the same. */
int um_indexer_intern_xattrs(struct um_indexer *ix, const struct um_tar_entry *entry, uint32_t *set,
                             struct um_fault *fault);

/* ---- index/hard_links.c ------------------------------------------------------------ */

/* Keep the target of a link, as its parts joined, among the strings, for `inode`. */
int um_indexer_join_target(struct um_indexer *ix, struct um_indexer_inode *inode, uint64_t header,
                           struct um_fault *fault);
/* The inode that the target of a hard link, split, means in this layer now, through symlinks on its way:
 * UM_NONE, with *nowhere where it is a directory, or where the way leads nowhere. */
int um_indexer_find_target(struct um_indexer *ix, uint32_t *inode, bool *nowhere);
/* At the end: let links to names that came later, or changed, stand for what these are now. */
int um_indexer_settle_links(struct um_indexer *ix);

#endif
