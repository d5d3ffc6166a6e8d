/*
 * index/index.h - a layer index that is open: mapped, or copied where others can change it.
 *
 * Purpose: return the records of an index as checked values. Opening verifies the header, the
 * place of every section and the table of checksums; its only work that grows with the layer is
 * reading 8 bytes for each 4 KiB. The checksum of a block is verified at its first use. A record
 * is loaded once for each use, and its numbers are checked then, so concurrent changes of the file
 * do no harm. Results of the functions here can be used without further checks.
 *
 * An index that only this user and root can write to, on a local file system, is mapped. Any other
 * is copied into memory, block by block at the first use of each: neither a later write nor a
 * truncation affects what was copied, and no page is shared with the file. A copy takes memory for
 * the blocks that were used, at most UM_INDEX_COPY_MAX.
 *
 * Errors: -EBADMSG where the index is damaged (the caller rebuilds it: an index is derived data).
 * An index that is copied also has the errors of reading, and -EBADMSG where the file has become
 * shorter.
 * Ownership: an index owns its mapping, not the descriptor it was opened from. Slices are borrowed
 * from the mapping and live as long as the index.
 * Threads: any number of threads may use an open index. The states of its blocks are atomics, and
 * verifying a block twice is harmless. Copying a block happens under a lock.
 */
#ifndef UM_INDEX_H
#define UM_INDEX_H

#include "base/base.h"

#define UM_INDEX_NONE UINT32_MAX

/* This is the most memory that the copy of one index may take: that of seven million files. */
#define UM_INDEX_COPY_MAX (512u << 20)

/* cffi: begin */
struct um_index; /* opaque */

struct um_index_info {
    uint64_t layer_size; /* bytes of the tar */
    uint64_t inodes, dirents, links, externals;
    uint64_t files, file_bytes, directories, whiteouts, opaques;
    uint64_t acls; /* xattrs that are POSIX ACLs, each set counted once */
    uint64_t unresolved; /* entries without a place (um_indexer_unresolved) */
};

/* Map or copy the index in `fd` and check it. 0; -EBADMSG damaged; -ESTALE another format version;
 * -EFBIG too large; or the errno of mmap, fstat or reading. The caller owns *out. */
int um_index_open(int fd, struct um_index **out, struct um_fault *fault);
void um_index_close(struct um_index *index);
void um_index_get_info(const struct um_index *index, struct um_index_info *info);

/* Return how much memory an index may come to take because it is copied; 0 where it is mapped. */
uint64_t um_index_copied(const struct um_index *index);

/* Verify every block and record of the file as it is now, for `check`; blocks that were copied
 * stay. 0, -EBADMSG or, for an index that is copied, the errno of reading, with fault->offset in
 * the index file. */
int um_index_verify(struct um_index *index, struct um_fault *fault);
/* cffi: end */

struct um_inode {
    uint32_t mode;  /* type and permissions */
    uint32_t flags; /* UM_INODE_… of index/format.h */
    uint32_t uid, gid, nlink;
    int64_t mtime;
    uint32_t mtime_nsec;
    uint32_t xattr;
    uint64_t size;     /* bytes, of a file or a symlink */
    uint64_t stored;   /* file: offset in the tar */
    uint32_t first, count; /* directory: children; sparse file: extents */
    uint32_t parent, own; /* directory: parent inode and own dirent (UM_INDEX_NONE for the root) */
    uint32_t major, minor;
    struct um_slice target; /* symlink; external link: normalised path without leading slash */
    /* Only files of a live directory (layer/layer.h) have these, not an index: */
    int64_t atime, ctime;
    uint32_t atime_nsec, ctime_nsec;
    uint64_t blocks;
};

struct um_dirent {
    struct um_slice name;
    uint32_t inode;
    uint8_t type; /* DT_…; DT_WHT whiteout; DT_UNKNOWN external link */
};

struct um_index_link {
    uint32_t inode, dirent, parent;
};

struct um_index_extent {
    uint64_t logical, length, stored;
};

struct um_index_xattr {
    struct um_slice name, value;
    bool last;
};

/* Release the resident pages of a large mapped index. They stay in the page cache, and come back
 * when they are used. Any thread may call this at any time. */
void um_index_trim(struct um_index *index);

int um_index_inode(struct um_index *index, uint32_t number, struct um_inode *inode);
int um_index_dirent(struct um_index *index, uint32_t number, struct um_dirent *dirent);

/* Search the children of `directory`, a record number, for `name` (a binary search). 0 with
 * *number and *dirent; -ENOENT; -ENOTDIR; -EBADMSG. */
int um_index_find(struct um_index *index, uint32_t directory, struct um_slice name,
                  uint32_t *number, struct um_dirent *dirent);

int um_index_extent(struct um_index *index, uint32_t number, struct um_index_extent *extent);
int um_index_xattr(struct um_index *index, uint32_t number, struct um_index_xattr *xattr);
int um_index_link(struct um_index *index, uint32_t number, struct um_index_link *link);
int um_index_external(struct um_index *index, uint32_t number, struct um_index_link *link);

/* Find the first record of `links` whose inode is >= `inode`, or the number of records where there
 * is none. */
int um_index_links_from(struct um_index *index, uint32_t inode, uint32_t *number);

#endif
