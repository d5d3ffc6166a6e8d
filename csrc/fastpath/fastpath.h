/*
 * fastpath/fastpath.h - bytes of a FUSE request -> bytes of its reply, or "forward".
 *
 * Purpose: answer what the tree and the upper can answer without Python, as
 * mounting/read_operations.py and mounting/write_operations.py would; everything else is left to them. There is no I/O on /dev/fuse here: router/router.h does
 * that.
 *
 * Ownership: borrows the tree, the upper and the descriptor of the setup; owns files and listings that
 * are open on behalf of the kernel, until um_fastpath_close.
 * Threads: every function but open and close may be called by any number of threads at once.
 * Errors: errno values go into the reply. A request that makes no sense is answered with EIO.
 */
#ifndef UM_FASTPATH_H
#define UM_FASTPATH_H

#include "base/base.h"
#include "tree/tree.h"
#include "upper/upper.h"

/* cffi: begin */
struct um_fastpath; /* opaque */

struct um_fastpath_setup {
    struct um_tree *tree;
    struct um_upper *upper; /* NULL: the mount is read-only */
    int statfs_fd;          /* what statfs tells of; -1: of `bytes` and `inodes` */
    uint64_t bytes, inodes;
    bool has_acls;    /* the kernel is to look at POSIX ACLs */
    bool list_layers; /* listxattr names the layer of a file, too */
    const char **layers; /* what user.unionmount.layer says, lowest first; copied */
    size_t n_layers;
    uint32_t max_open_files; /* files of the upper that are kept open */
};

int um_fastpath_open(const struct um_fastpath_setup *setup, struct um_fastpath **out);
void um_fastpath_close(struct um_fastpath *fastpath);
/* cffi: end */

#define UM_FUSE_MAX_WRITE (1u << 20)
#define UM_FUSE_MAX_PAGES 256u
/* A reply of UM_FUSE_MAX_WRITE bytes and its header fit. So do requests. */
#define UM_FUSE_BUFFER (UM_FUSE_MAX_WRITE + 4096u)

enum um_answer_kind {
    UM_ANSWER_REPLY,   /* `size` bytes of reply */
    UM_ANSWER_NONE,    /* the request has no reply */
    UM_ANSWER_FORWARD, /* not for us; nothing was done */
    UM_ANSWER_LATER,   /* it would wait for a disk: ask again with may_wait; nothing was done */
};

struct um_answer {
    enum um_answer_kind kind;
    size_t size;
    /* Nodes of whose attributes the kernel is to be told, before it has the reply, that they changed;
     * or 0. */
    uint64_t stale[2];
    uint32_t copy_ups; /* files whose data was copied up */
};

/* `request` is aligned for struct fuse_in_header and has at least that size; `reply` has room for
 * UM_FUSE_BUFFER bytes. */
struct um_answer um_fastpath_answer(struct um_fastpath *fastpath, const void *request, size_t size,
                                    void *reply, bool may_wait);
/* The same with may_wait, for somebody whose patience ends: what takes long is done in pieces, and is
 * EINTR when it has ended between two of them. */
struct um_answer um_fastpath_answer_patiently(struct um_fastpath *fastpath, const void *request,
                                              size_t size, void *reply,
                                              const struct um_patience *patience);

/* The kernel did not take a reply: take back lookups that it granted. */
void um_fastpath_undo(struct um_fastpath *fastpath, const void *request, const void *reply,
                      size_t size);

/* The INIT request for pyfuse3, once the kernel's was answered; its size. */
#define UM_SLOW_INIT_UNIQUE UINT64_MAX
#define UM_SLOW_INIT_ROOM 128u
size_t um_fastpath_slow_init(const struct um_fastpath *fastpath, void *request);

uint32_t um_fastpath_open_files(struct um_fastpath *fastpath);

#endif
