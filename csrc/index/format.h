/*
 * index/format.h - the format of a layer index on disk.
 *
 * Purpose: define the byte layout that index/builder.c writes and index/index.c reads; nothing
 * else knows it. All numbers are little-endian. docs/reference/index-format.md explains the
 * choices.
 *
 *     header | inodes | dirents | links | externals | extents | xattrs | strings | sums
 *
 * Every section begins on a block of 4 KiB. A block of a table holds as many whole records as fit,
 * and zeros after them, so no record crosses a block boundary. The header has block 0 to itself.
 * `sums` holds one 64-bit checksum for every block between header and sums, in order; the header
 * holds the checksum of `sums` and one of itself. Opening an index reads header and sums; a block
 * is verified at its first use.
 *
 * Inodes are numbered breadth first: record 0 is the root directory, a directory's number is
 * smaller than those of the directories in it, and the children of a directory are contiguous in
 * `dirents`, sorted bytewise. Therefore no file, however damaged, can make a directory contain
 * itself.
 */
#ifndef UM_INDEX_FORMAT_H
#define UM_INDEX_FORMAT_H

#include "base/base.h"

#define UM_INDEX_MAGIC 0x3158444e494d5555ull /* "UUMINDX1" */
#define UM_INDEX_VERSION 2u
#define UM_INDEX_BLOCK 4096u

/* No index is larger than this, which bounds its checksums and block states to 36 MiB. */
#define UM_INDEX_MAX (16ull << 30)

enum um_index_section {
    UM_SECTION_INODES,
    UM_SECTION_DIRENTS,
    UM_SECTION_LINKS,     /* names of inodes that have several, sorted by inode */
    UM_SECTION_EXTERNALS, /* names that are hard links into lower layers, sorted by inode */
    UM_SECTION_EXTENTS,
    UM_SECTION_XATTRS,
    UM_SECTION_STRINGS,
    UM_SECTION_SUMS,
    UM_SECTION_COUNT,
};

struct um_index_disk_section {
    uint8_t offset[8]; /* bytes from the start of the file, a multiple of the block size */
    uint8_t count[8];  /* records; bytes for strings */
};

struct um_index_disk_header {
    uint8_t magic[8];
    uint8_t version[4];
    uint8_t block[4];
    uint8_t file_size[8];
    uint8_t layer_size[8]; /* bytes of the tar that the index describes */
    uint8_t files[8];      /* statistics of what the layer holds */
    uint8_t file_bytes[8];
    uint8_t directories[8];
    uint8_t whiteouts[8];
    uint8_t opaques[8];
    uint8_t acls[8]; /* xattrs that are POSIX ACLs */
    uint8_t unresolved[8]; /* entries that have no place, because symlinks lead in a circle */
    struct um_index_disk_section sections[UM_SECTION_COUNT];
    uint8_t sums_checksum[8];
    uint8_t checksum[8]; /* of all bytes of the header before this field */
};
_Static_assert(sizeof(struct um_index_disk_header) == 88 + 8 * 16 + 16, "header layout");

#define UM_INODE_IMPLIED 0x0001u  /* a directory that occurs only in paths of other entries */
#define UM_INODE_OPAQUE 0x0002u   /* hides all children of the same directory below */
#define UM_INODE_REPLACES 0x0004u /* the same layer has a whiteout of its name */
#define UM_INODE_SPARSE 0x0008u   /* data is a run of extents */
#define UM_INODE_EXTERNAL 0x0010u /* a hard link to a name of the layers below; type bits are 0 */
#define UM_INODE_DANGLING \
    0x0020u /* with EXTERNAL: its own layer has a directory of that name, so the link leads nowhere, whatever is below */

/*              data                               size
 * file         offset of the payload in the tar   bytes
 * sparse file  first extent, number (32+32 bits)  bytes
 * directory    first child, number (32+32 bits)   parent inode, own dirent (32+32 bits)
 * symlink      offset in strings                  bytes
 * device       major, minor (32+32 bits)          0
 * external     offset in strings of the target    bytes
 */
struct um_index_disk_inode {
    uint8_t mode[2]; /* type and permissions */
    uint8_t flags[2]; /* UM_INODE_… */
    uint8_t uid[4];
    uint8_t gid[4];
    uint8_t nlink[4]; /* names in this layer; of a directory 2 + its subdirectories here */
    uint8_t mtime[8];
    uint8_t mtime_nsec[4];
    uint8_t xattr[4]; /* 0, or 1 + the first record of its set */
    uint8_t size[8];
    uint8_t data[8];
};
_Static_assert(sizeof(struct um_index_disk_inode) == 48, "inode layout");

struct um_index_disk_dirent {
    uint8_t name[4]; /* offset in strings */
    uint8_t inode[4]; /* 0 for a whiteout */
    uint8_t name_size[2];
    uint8_t type; /* DT_… of readdir(3); DT_WHT a whiteout; DT_UNKNOWN an external link */
    uint8_t zero;
};
_Static_assert(sizeof(struct um_index_disk_dirent) == 12, "dirent layout");

struct um_index_disk_link {
    uint8_t inode[4];
    uint8_t dirent[4];
    uint8_t parent[4]; /* inode of the directory that holds the dirent */
};
_Static_assert(sizeof(struct um_index_disk_link) == 12, "link layout");

struct um_index_disk_extent {
    uint8_t logical[8];
    uint8_t length[8];
    uint8_t stored[8]; /* offset in the tar */
};
_Static_assert(sizeof(struct um_index_disk_extent) == 24, "extent layout");

struct um_index_disk_xattr {
    uint8_t name[4]; /* offset in strings */
    uint8_t value[4];
    uint8_t value_size[4];
    uint8_t name_size[2];
    uint8_t last[2]; /* 1 on the last record of a set, else 0 */
};
_Static_assert(sizeof(struct um_index_disk_xattr) == 16, "xattr layout");

/* Compute the checksum of `size` bytes. It detects accidents (a flipped bit, a lost page), but no
 * attacker who writes the file: against that, every record is validated as well. */
uint64_t um_index_checksum(const void *data, size_t size);

/* Return the size of a record of a section: 1 for strings, 8 for sums. */
size_t um_index_record_size(enum um_index_section section);

/* Return how many whole records fit into a block. */
static inline uint64_t um_index_per_block(size_t record_size)
{
    return UM_INDEX_BLOCK / record_size;
}

/* Return how many blocks `count` records need. */
static inline uint64_t um_index_blocks(uint64_t count, size_t record_size)
{
    uint64_t per_block = um_index_per_block(record_size);
    return count / per_block + (count % per_block != 0);
}

#endif
