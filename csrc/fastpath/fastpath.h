/*
 * fastpath/fastpath.h - replies to FUSE requests that need no Python.
 *
 * Purpose: turn the bytes of a request into the bytes of its reply, with the results that
 * mounting/read_operations.py and mounting/write_operations.py would give, where tree and upper
 * suffice for that; tell the caller to forward every other request to them. There is no I/O on
 * /dev/fuse here: router/router.h does it.
 *
 * Ownership: borrows the tree, the upper and the descriptor of the setup. Owns the files and
 * listings that are open on behalf of the kernel, until um_fastpath_close.
 * Threads: every function but open and close may be called by any number of threads at once.
 * Errors: errno values go into the reply. A malformed request is answered with EIO.
 */
#ifndef UM_FASTPATH_H
#define UM_FASTPATH_H

#include "base/base.h"
#include "system/id_maps.h"
#include "tree/tree.h"
#include "upper/upper.h"

/* cffi: begin */
/* What the kernel may keep for good: this mount is the only one that changes anything. */
#define UM_FOREVER 1000000000u

struct um_fastpath; /* opaque */

struct um_fastpath_setup {
    struct um_tree *tree;
    struct um_upper *upper; /* NULL: the mount is read-only */
    int statfs_fd;          /* statfs reports its file system; -1: `bytes` and `inodes` */
    uint64_t bytes, inodes;
    bool has_acls;    /* POSIX ACLs can be read and set */
    bool obeys_acls;  /* the kernel has to check them */
    bool list_layers; /* listxattr includes the layer of a file */
    const char **layers; /* values of user.unionmount.layer, lowest first; copied */
    size_t n_layers;
    uint32_t max_open_files; /* files of the upper that are kept open */
    /* Seconds and nanoseconds for which the kernel may keep names and attributes; UM_FOREVER. */
    uint64_t keeps;
    uint32_t keeps_nsec;
    bool static_nlink; /* a directory has one link, however many directories are in it */
    bool no_xattrs; /* there are none to read or set */
    /* The kernel reads and writes files of the upper on the disk itself; `device` is /dev/fuse, borrowed. */
    bool passthrough;
    int device;
    bool io_uring; /* ask the kernel to use FUSE over io_uring; the caller then serves its queues */
    const struct um_id_maps
        *ids; /* owners as callers see them; NULL: as they are stored. Borrowed */
};

int um_fastpath_open(const struct um_fastpath_setup *setup, struct um_fastpath **out);
void um_fastpath_close(struct um_fastpath *fastpath);
/* Register a file of the upper's disk for passthrough and free it again, which shows whether the kernel can do
 * so. 0; -EPERM before the kernel's INIT was answered, or without the right; -EOPNOTSUPP where the kernel does not
 * offer passthrough; -ELOOP where the disk is stacked on others itself. */
int um_fastpath_try_passthrough(struct um_fastpath *fastpath, int fd);
/* cffi: end */

#define UM_FUSE_MAX_WRITE (1u << 20)
#define UM_FUSE_MAX_PAGES 256u
/* A reply of UM_FUSE_MAX_WRITE bytes and its header fit into a buffer of this size, and so do
 * requests. */
#define UM_FUSE_BUFFER (UM_FUSE_MAX_WRITE + 4096u)

enum um_answer_kind {
    UM_ANSWER_REPLY, /* `size` bytes of reply */
    UM_ANSWER_NONE, /* the request has no reply */
    UM_ANSWER_FORWARD, /* to be forwarded; nothing was done */
    UM_ANSWER_LATER, /* it would wait for a disk: call again with may_wait; nothing was done */
};

struct um_answer {
    enum um_answer_kind kind;
    size_t size;
    /* Nodes whose attributes the caller has to invalidate in the kernel before it writes the
     * reply; or 0. */
    uint64_t stale[2];
    uint32_t copy_ups; /* files whose data was copied up */
};

/* Answer a request. `request` is aligned for struct fuse_in_header and has at least that size;
 * `reply` has room for UM_FUSE_BUFFER bytes. */
struct um_answer um_fastpath_answer(struct um_fastpath *fastpath, const void *request, size_t size,
                                    void *reply, bool may_wait);
/* Answer a request that may wait, as long as the patience lasts: long work is done in steps, and
 * ends with EINTR where the patience is over between two of them. */
struct um_answer um_fastpath_answer_patiently(struct um_fastpath *fastpath, const void *request,
                                              size_t size, void *reply,
                                              const struct um_patience *patience);

/* Take back the lookups that a reply granted which the kernel did not accept. */
void um_fastpath_undo(struct um_fastpath *fastpath, const void *request, const void *reply,
                      size_t size);

/* Write the INIT request for pyfuse3, once the kernel's was answered; return its size. */
#define UM_SLOW_INIT_UNIQUE UINT64_MAX
#define UM_SLOW_INIT_ROOM 128u
size_t um_fastpath_slow_init(const struct um_fastpath *fastpath, void *request);

/* Return whether the kernel has agreed to use io_uring, once its INIT was answered. */
bool um_fastpath_uses_io_uring(const struct um_fastpath *fastpath);

uint32_t um_fastpath_open_files(struct um_fastpath *fastpath);

#endif
