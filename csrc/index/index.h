/*
 * index/index.h - a layer index: mapped or, where others can change it, copied.
 *
 * Purpose: hand out the records of an index as checked values. Opening verifies the header, every
 * section's place and the table of checksums: no work that depends on the entries but reading 8
 * bytes for each 4 KiB. The checksum of a block is verified once, when it is first touched; a record
 * is loaded once at each use, and its numbers are checked then: what the file becomes meanwhile does
 * not matter. What a function here returns can be used without further checks.
 *
 * An index that only this user and root can write to, on a local file system, is mapped. Any other
 * is copied into memory, block by block, at the first touch of each: neither a later write nor a
 * truncation reaches what was copied, and no page of it is ever a file's. A copy costs memory for what
 * was looked at, and at most UM_INDEX_COPY_MAX.
 *
 * Errors: -EBADMSG, the index is damaged (the caller rebuilds it: an index is derived data); of an
 * index that is copied also the errno of reading it, and -EBADMSG where it has become shorter.
 * Ownership: an index owns its mapping, not the descriptor it was opened from. Slices are borrowed
 * from the mapping and live as long as the index.
 * Threads: an open index may be used by any number of threads; the states of its blocks are
 * atomics, and verifying a block twice is harmless. Copying a block is done under a lock.
 */
#ifndef UM_INDEX_H
#define UM_INDEX_H

#include "base/base.h"

#define UM_INDEX_NONE UINT32_MAX

/* What one index that others can change may make a process hold: that of seven million files. */
#define UM_INDEX_COPY_MAX (512u << 20)

/* cffi: begin */
struct um_index; /* opaque */

struct um_index_info {
    uint64_t layer_size; /* bytes of the tar */
    uint64_t inodes, dirents, links, externals;
    uint64_t files, file_bytes, directories, whiteouts, opaques;
    uint64_t acls; /* xattrs that are POSIX ACLs, each set counted once */
    uint64_t unresolved; /* entries that have no place (um_indexer_unresolved) */
};

/* Map (or copy) and check the index in `fd`. 0; -EBADMSG damaged; -ESTALE another format version;
 * -EFBIG too large; or the errno of mmap, fstat or reading. The caller owns *out. */
int um_index_open(int fd, struct um_index **out, struct um_fault *fault);
void um_index_close(struct um_index *index);
void um_index_get_info(const struct um_index *index, struct um_index_info *info);

/* Bytes of memory that an index may come to hold because it is copied; 0 where it is mapped. */
uint64_t um_index_copied(const struct um_index *index);

/* Verify every block and record as it is in the file now, as `check` does; what was copied stays. 0,
 * -EBADMSG or, of an index that is copied, the errno of reading, with fault->offset in the index file. */
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
    /* Of a file of a live directory (layer/layer.h); an index has none of these: */
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

/* Let go of the pages of a large mapped index that are resident; they stay in the page cache, and
 * come back when they are touched. May be called at any time, by any thread. */
void um_index_trim(struct um_index *index);

int um_index_inode(struct um_index *index, uint32_t number, struct um_inode *inode);
int um_index_dirent(struct um_index *index, uint32_t number, struct um_dirent *dirent);

/* Binary search for `name` among the children of `directory` (a directory's record number).
 * 0 with *number and *dirent; -ENOENT; -ENOTDIR; -EBADMSG. */
int um_index_find(struct um_index *index, uint32_t directory, struct um_slice name,
                  uint32_t *number, struct um_dirent *dirent);

int um_index_extent(struct um_index *index, uint32_t number, struct um_index_extent *extent);
int um_index_xattr(struct um_index *index, uint32_t number, struct um_index_xattr *xattr);
int um_index_link(struct um_index *index, uint32_t number, struct um_index_link *link);
int um_index_external(struct um_index *index, uint32_t number, struct um_index_link *link);

/* The first record of `links` whose inode is >= `inode`; the number of records when none is. */
int um_index_links_from(struct um_index *index, uint32_t inode, uint32_t *number);

#endif
