/*
 * index/indexer.h - declarations that the files of the indexer share. Each uses those below it:
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

/* A set of xattrs that occurred in the layer. */
struct um_indexer_xattr_set {
    uint64_t hash;  /* the key: of its names and values */
    uint32_t first; /* its first record + 1 */
};

/* A path, split and clamped; the array grows as needed, and is reused for the next path. */
struct um_index_path {
    struct um_slice *parts;
    size_t n, capacity;
};

/* The state of following a path through symlinks; reused for the next one. */
struct um_index_way {
    struct um_index_path pending; /* the parts to come, the next one last */
    struct um_index_path walked;
    uint32_t *
        directories; /* the directory before each part of `walked`, or UM_NONE where it is not in this layer */
    size_t capacity;
    uint32_t at; /* the directory after them */
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
    bool literal; /* no name is a mark */
    uint64_t n_marks; /* names that would be marks */
    struct um_indexer_mark {
        char *name; /* malloced */
        size_t size;
    } marks[UM_INDEXER_MARKS];
    uint8_t *window; /* of um_indexer_scan */
    uint64_t scanned; /* bytes of the tar that scan has passed on or jumped over */
    uint32_t window_size;
};

/* A directory that has no entry in the layer. */
extern const struct um_indexer_inode um_indexer_implied_directory;

/* ---- index/tables.c ---------------------------------------------------------------- */

/* Check that `more` bytes fit into the strings: 0, or -EFBIG. */
int um_indexer_check_strings(const struct um_indexer *ix, size_t more, uint64_t header,
                             struct um_fault *fault);
/* Append a text to the strings: 0 with its *offset, -EFBIG, -ENOBUFS. */
int um_indexer_add_string(struct um_indexer *ix, struct um_slice text, uint32_t *offset,
                          uint64_t header, struct um_fault *fault);
/* Return the number of the name `text` in `parent`; UM_NONE where there is none. */
uint32_t um_indexer_find_name(const struct um_indexer *ix, uint32_t parent, struct um_slice text);
/* Append a record: 0 with its *number, -E2BIG, -ENOBUFS. */
int um_indexer_new_name(struct um_indexer *ix, struct um_indexer_name name, uint32_t *number,
                        uint64_t header, struct um_fault *fault);
int um_indexer_new_inode(struct um_indexer *ix, const struct um_indexer_inode *inode,
                         uint32_t *number, uint64_t header, struct um_fault *fault);
/* Return the name `text` in `parent`, creating it (with no inode yet) where it is new. */
int um_indexer_intern_name(struct um_indexer *ix, uint32_t parent, struct um_slice text,
                           uint32_t *number, uint64_t header, struct um_fault *fault);
/* Return the inode of a name in a directory that exists; UM_NONE where it has none. */
uint32_t um_indexer_inode_of(const struct um_indexer_tables *t, uint32_t number);
/* Return whether the name is a directory. */
bool um_indexer_is_directory(const struct um_indexer_tables *t, uint32_t number);
/* Bind the name to another inode. If it was a directory, its content is lost. */
void um_indexer_bind(struct um_indexer_tables *t, uint32_t number, uint32_t inode);

/* ---- index/layer_path.c ------------------------------------------------------------ */

/* Split a path by rule 1 of docs/explanation/layers.md: drop "" and ".", and let ".." drop the
 * part before it. */
int um_index_path_split(struct um_slice text, struct um_index_path *path);
/* Apply rule 6: replace the first `n` parts of a path by those of the directory that they lead to,
 * through symlinks of this layer as they are now. -ELOOP where they form a loop, or lead to an
 * impossible name. */
int um_indexer_follow_links(struct um_indexer *ix, struct um_index_path *path, size_t n);
/* Descend to the directory of the first `n` parts, creating implied directories on the way. */
int um_indexer_enter(struct um_indexer *ix, const struct um_index_path *path, size_t n,
                     uint32_t *directory, uint64_t header, struct um_fault *fault);
/* Do the same, but only create names: a mark does not create the directory that it is in
 * (finish_names). */
int um_indexer_enter_marked(struct um_indexer *ix, const struct um_index_path *path, size_t n,
                            uint32_t *directory, uint64_t header, struct um_fault *fault);
/* Return the inode that the target of a hard link has in this layer now, UM_NONE where there is
 * none; *directory says that it is a directory. */
uint32_t um_indexer_resolve(const struct um_indexer *ix, const struct um_index_path *path,
                            bool *directory);
/* Classify a path: the kind of its last part, or LEFTOVER where an earlier part is a whiteout of
 * any kind, because the entry is not shown then. */
int um_index_path_classify(const struct um_index_path *path, enum um_whiteout_kind *kind,
                           struct um_slice *hidden, uint64_t header, struct um_fault *fault);
/* Check a path whose names are taken literally; *marked says that one would be a mark. */
int um_index_path_check(const struct um_index_path *path, bool *marked, uint64_t header,
                        struct um_fault *fault);

/* ---- index/xattr_sets.c ------------------------------------------------------------ */

/* Return the set of the entry's xattrs, shared with earlier entries that have the same. */
int um_indexer_intern_xattrs(struct um_indexer *ix, const struct um_tar_entry *entry, uint32_t *set,
                             struct um_fault *fault);

/* ---- index/hard_links.c ------------------------------------------------------------ */

/* Append the target of a link, its parts joined, to the strings, for `inode`. */
int um_indexer_join_target(struct um_indexer *ix, struct um_indexer_inode *inode, uint64_t header,
                           struct um_fault *fault);
/* Return the inode that the split target of a hard link has in this layer now, through symlinks on
 * its way: UM_NONE, with *nowhere where it is a directory, or where the path leads nowhere. */
int um_indexer_find_target(struct um_indexer *ix, uint32_t *inode, bool *nowhere);
/* Settle links at the end: those to names that came later, or changed, get the inode that the name
 * has now. */
int um_indexer_settle_links(struct um_indexer *ix);

#endif
