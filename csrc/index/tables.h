/*
 * index/tables.h - a layer in memory while its index is built; private to index/.
 *
 * A *name* is a node of the layer's directory tree. An *inode* has one or more names. Both are
 * numbered in the order in which they came; index/writer.c gives them their final order. Memory is
 * proportional to the entries and counted (base/budget.h), including what index/writer.c will
 * need. The bytes of xattrs are in a spool.
 *
 * Ownership: struct um_indexer_tables owns its arrays. Threads: one at a time.
 */
#ifndef UM_INDEX_TABLES_H
#define UM_INDEX_TABLES_H

#include "base/base.h"
#include "base/budget.h"
#include "index/format.h"
#include "system/spool.h"

#define UM_NONE UINT32_MAX

#define UM_NAME_WHITED 1u  /* the layer has a whiteout of this name */
#define UM_NAME_OPAQUED 2u /* the directory of this name has an opaque mark */
#define UM_NAME_CARRIES 4u /* a whiteout or an opaque mark is somewhere in it */
#define UM_NAME_HIDDEN 8u  /* in the layer's link store: the target of links, never shown */

/* A name has its inode only as long as its directory is the same one: `born` is the epoch that the
 * directory had when the name was bound. A directory that is replaced, or created again, gets
 * another epoch, which drops all names in it at once. Marks (flags) stay, because they belong to
 * the name. */
struct um_indexer_name {
    uint32_t parent; /* name number, smaller than its own; the root's is 0, itself */
    uint32_t inode;  /* UM_NONE: the name was never bound */
    uint32_t epoch;  /* of the names in it */
    uint32_t born;
    uint32_t text; /* offset in strings */
    uint32_t hash;
    uint16_t text_size;
    uint16_t flags;
};

struct um_indexer_inode {
    uint16_t mode, flags;
    uint32_t uid, gid;
    uint32_t mtime_nsec;
    int64_t mtime;
    uint32_t xattr; /* as on disk */
    uint32_t final; /* number in the index; UM_NONE until it has one */
    uint64_t size;  /* file: bytes; symlink, external: bytes of the target */
    uint64_t data; /* file: offset in the tar; sparse: first extent and number; symlink, external:
                     * offset in strings; device: major and minor */
};

struct um_indexer_xattr {
    uint32_t at; /* of the name in the spool; the value follows it */
    uint32_t value_size;
    uint16_t name_size, last;
};

struct um_indexer_extent {
    uint64_t logical, length, stored;
};

/* Settling and writing allocate this much for each name and inode. It is taken from the budget
 * when these are created, so that a layer that is too large is refused early, not after all of it
 * was read. A name takes 4 numbers of struct order and a record of the links; sorting takes a
 * number and a record more. An inode takes 5 numbers of struct order, and one while links are
 * settled. */
#define UM_FINISH_NAME (4 * sizeof(uint32_t) + 2 * sizeof(struct um_index_disk_link) + 4)
#define UM_FINISH_INODE (6 * sizeof(uint32_t))

/* The place of a text in the strings. */
struct um_indexer_text {
    uint32_t at, size;
};

struct um_indexer_tables {
    struct um_budget budget;
    struct um_indexer_name *names;
    size_t n_names, names_capacity;
    struct um_indexer_inode *inodes;
    size_t n_inodes, inodes_capacity;
    struct um_indexer_xattr *xattrs;
    size_t n_xattrs, xattrs_capacity;
    struct um_indexer_extent *extents;
    size_t n_extents, extents_capacity;
    uint8_t *strings; /* of names, and targets of links */
    size_t n_strings, strings_capacity;
    struct um_spool values; /* names and values of xattrs, as the records have them */
    uint64_t n_acls; /* xattrs that are POSIX ACLs */
    struct um_indexer_text *unresolved; /* names of entries without a place */
    size_t n_unresolved, unresolved_capacity;
};

static inline struct um_slice um_indexer_text_of(const struct um_indexer_tables *tables,
                                                 const struct um_indexer_name *name)
{
    return um_slice_of(tables->strings + name->text, name->text_size);
}

static inline uint64_t um_indexer_pack(uint32_t low, uint32_t high)
{
    return (uint64_t)high << 32 | low;
}

/* Write the index of `tables` to `fd`, numbering them on the way, so it can be done only once. 0,
 * -ENOMEM, -EFBIG, -ENOBUFS or the errno of writing. */
int um_index_write(struct um_indexer_tables *tables, uint64_t layer_size, int fd);

#endif
