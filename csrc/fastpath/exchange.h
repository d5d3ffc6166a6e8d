/*
 * fastpath/exchange.h - declarations that the files of the fast path share.
 *
 * Each file uses those below it:
 *
 *   dispatch.c    the table of handlers; opening and closing
 *   init.c        the negotiation with the kernel, and its reasons
 *   names.c       names in the upper
 *   xattr.c       extended attributes
 *   write.c       data and attributes of files in the upper; copy-up
 *   ioctl.c       flags of files (lsattr)
 *   statx.c       birth times
 *   read.c        lookup, attributes, symlinks, data, statfs, forget
 *   node.c        nodes of the tree or the upper; forgetting them
 *   list.c        directories
 *   reply.c       names in requests, attributes and entries in replies
 *   passthrough.c files that the kernel reads and writes on the disk itself
 *   open_files.c  files of the upper that are kept open
 *
 * Ownership, threads: see fastpath/fastpath.h.
 */
#ifndef UM_FASTPATH_EXCHANGE_H
#define UM_FASTPATH_EXCHANGE_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/table.h"
#include "fastpath/fastpath.h"
#include "fastpath/open_files.h"
#include "fastpath/passthrough.h"

struct um_shared_list; /* fastpath/list.c */

struct um_shared_list_entry {
    uint64_t node; /* the key: a directory of the upper */
    struct um_shared_list *shared;
};

struct um_fastpath {
    struct um_tree *tree;
    struct um_upper *upper;
    int statfs_fd;
    uint64_t bytes, inodes;
    bool has_acls, obeys_acls, list_layers;
    struct um_id_maps ids;
    uint64_t keeps; /* as of the setup */
    uint32_t keeps_nsec;
    bool static_nlink, no_xattrs, io_uring;
    atomic_bool uses_io_uring; /* the kernel has agreed */
    char **layers;
    size_t n_layers;
    struct um_open_files *open_files; /* NULL without an upper */
    struct um_passthrough *passthrough; /* NULL without the option */
    atomic_bool no_passthrough; /* the kernel's INIT did not offer it */
    atomic_uint max_readahead; /* of the kernel's INIT */
    atomic_ullong incapable; /* the node that lost its capability last; 0: a SETATTR came since */

    pthread_mutex_t lists_lock;
    struct um_table lists; /* under lists_lock; of struct um_shared_list_entry */
};

/* A request that is being answered. */
struct um_exchange {
    struct um_fastpath *fastpath;
    const struct fuse_in_header *header;
    const uint8_t *body;
    size_t size; /* of the body */
    uint8_t *out; /* the reply's body; room for UM_FUSE_MAX_WRITE bytes, aligned */
    bool may_wait;
    const struct um_patience *patience; /* of a request that may wait; NULL: unlimited */
    uint64_t stale[2]; /* as of struct um_answer */
    uint32_t copy_ups;
};

/* A handler returns the size of the reply's body, a negative errno, or one of these: */
#define UM_FORWARD (-10001)
#define UM_LATER (-10002)
#define UM_SILENT (-10003)
typedef int64_t um_handler(struct um_exchange *x);

/* Return the fixed part of the body; NULL where the body is too short. */
#define UM_BODY(x, type) \
    ((x)->size >= sizeof(type) ? (const type *)(const void *)(x)->body : (const type *)NULL)

/* Take the string at offset `at` of the body; `at` moves behind its NUL. False where there is
 * none. */
bool um_exchange_take_name(const struct um_exchange *x, size_t *at, struct um_slice *name);

/* Return room in the reply's body for a struct, as zeros. */
void *um_reply_room(struct um_exchange *x, size_t size);

void um_reply_fill_attr(const struct um_fastpath *fastpath, struct fuse_attr *out,
                        const struct um_attr *attr);
void um_reply_fill_entry(const struct um_fastpath *fastpath, struct fuse_entry_out *out,
                         const struct um_attr *attr);
/* Reply with an entry, or with attributes. */
int64_t um_reply_entry(struct um_exchange *x, const struct um_attr *attr);
/* Return the link count to show. */
uint32_t um_reply_nlink(const struct um_fastpath *fastpath, const struct um_attr *attr);
int64_t um_reply_attr(struct um_exchange *x, const struct um_attr *attr);

/* Copy a file up into the upper, as um_upper_copy_up: 0, UM_LATER, or an errno. */
int64_t um_exchange_copy_up(struct um_exchange *x, uint64_t node, uint32_t flags);
#define UM_COPY_UPS \
    16 /* most copy-ups of one request: two suffice, unless the name changes meanwhile */

#define UM_BLOCK_SIZE 4096u /* for st_blksize */
/* The headers of older systems lack these opcodes. */
#define UM_FUSE_TMPFILE 51 /* FUSE_TMPFILE of 7.37 */
#define UM_FUSE_STATX 52 /* FUSE_STATX of 7.39 */

/* Return the attributes of a node of the tree or the upper. */
int um_fastpath_node_attr(struct um_fastpath *fastpath, uint64_t node, struct um_attr *attr);
/* Open its object on disk, as um_upper_open_path. */
int um_fastpath_node_open_path(struct um_fastpath *fastpath, uint64_t node, int *fd);
void um_fastpath_node_forget(struct um_fastpath *fastpath, uint64_t node, uint64_t lookups);

/* Count down an open that the kernel did not accept. */
void um_fastpath_undo_open(struct um_fastpath *fastpath, const struct fuse_in_header *header,
                           const uint8_t *body, size_t size);

/* Drop the list of a directory that the kernel has forgotten. */
void um_fastpath_drop_list(struct um_fastpath *fastpath, uint64_t node);
void um_fastpath_close_lists(struct um_fastpath *fastpath);

um_handler um_answer_init;
um_handler um_answer_lookup, um_answer_getattr, um_answer_readlink, um_answer_read,
    um_answer_statfs;
um_handler um_answer_forget, um_answer_batch_forget, um_answer_unsupported;
um_handler um_answer_open, um_answer_release;
um_handler um_answer_lseek, um_answer_ioctl, um_answer_statx;
um_handler um_answer_opendir, um_answer_releasedir, um_answer_readdir, um_answer_readdirplus;
um_handler um_answer_getxattr, um_answer_listxattr, um_answer_setxattr, um_answer_removexattr;
um_handler um_answer_write, um_answer_setattr, um_answer_fsync, um_answer_fallocate;
um_handler um_answer_copy_file_range, um_answer_syncfs;
um_handler um_answer_mknod, um_answer_mkdir, um_answer_symlink, um_answer_tmpfile, um_answer_link;
um_handler um_answer_unlink, um_answer_rmdir, um_answer_rename, um_answer_rename2;

#endif
