/*
 * tar/entry.h - the block of a tar, and an entry as the parser reports it.
 *
 * Ownership: all slices and pointers of an entry are borrowed (tar/tar.h).
 */
#ifndef UM_TAR_ENTRY_H
#define UM_TAR_ENTRY_H

#include "base/base.h"

#define UM_TAR_BLOCK 512u

enum um_tar_type {
    UM_TAR_FILE, /* types '0', NUL, '7', 'S' and pax sparse; unknown types too (POSIX says so) */
    UM_TAR_DIRECTORY, /* '5', GNU 'D'; and NUL with a trailing slash in the name */
    UM_TAR_SYMLINK,
    UM_TAR_HARDLINK,
    UM_TAR_CHARACTER,
    UM_TAR_BLOCK_DEVICE,
    UM_TAR_FIFO,
};

struct um_tar_xattr {
    struct um_slice name;  /* "user.comment": the key without its SCHILY./LIBARCHIVE. prefix; not
                            * empty, has no NUL */
    struct um_slice value; /* arbitrary bytes, may be none (LIBARCHIVE's base64 is decoded) */
};

/* An extent is one run of stored bytes of a sparse file; the bytes between extents read as zeros. */
struct um_tar_extent {
    uint64_t logical; /* offset in the file */
    uint64_t length;  /* bytes, > 0 */
    uint64_t stored;  /* offset in the tar stream */
};

struct um_tar_entry {
    enum um_tar_type type;
    struct um_slice name; /* as spelled, trailing slashes included; not empty, has no NUL */
    struct um_slice link; /* target of a symlink or hard link; has no NUL */
    uint32_t mode;        /* permission bits 07777 */
    uint32_t uid, gid;
    uint32_t major, minor; /* devices only */
    int64_t mtime;         /* seconds since 1970, may be negative */
    uint32_t mtime_nsec;   /* 0…999999999, counted forward from mtime */
    uint64_t size;         /* logical size of a file in bytes; 0 for all other types */
    uint64_t stored;       /* offset of the payload in the tar stream */
    uint64_t stored_size;  /* bytes of payload; equals size unless sparse */
    bool sparse;
    const struct um_tar_extent *extents; /* of a sparse file: ascending, disjoint, within size */
    size_t n_extents;
    const struct um_tar_xattr *xattrs; /* in archive order; a later one of a name wins (the parser
                                        * reports each name once) */
    size_t n_xattrs;
    uint64_t header; /* offset of the first header block that belongs to the entry; global headers
                      * and volume labels belong to none */
};

#endif
