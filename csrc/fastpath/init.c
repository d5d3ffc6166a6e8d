#include <sys/param.h>

#include "fastpath/exchange.h"
#include "uring/protocol.h"

/* This answers the kernel's INIT and writes the one for pyfuse3. The kernel gets the newest
 * protocol that both know. For pyfuse3's libfuse it is 7.13: below 7.14 libfuse does not splice,
 * which a socket cannot do, and the structs of all forwarded requests are still those of 7.13. */

#define KERNEL_MINOR_MIN 23u /* the first with the present struct fuse_init_out */
#define SLOW_MINOR 13u

/* At most this many background requests (read-ahead, asynchronous I/O) are sent at once; further
 * ones wait in the kernel. The default of 12 starves eight readers with read-ahead. */
#define MAX_BACKGROUND 64u
#define CONGESTION 48u

static uint32_t wanted_flags(const struct um_fastpath *fastpath)
{
    uint32_t flags = 0;
    flags |= FUSE_ASYNC_READ;     /* several reads of read-ahead at once */
    flags |= FUSE_BIG_WRITES;     /* more than a page in one write */
    flags |= FUSE_ASYNC_DIO;      /* O_DIRECT in parallel */
    flags |= FUSE_DO_READDIRPLUS; /* always, so that a walk needs no lookups */
    flags |= FUSE_PARALLEL_DIROPS; /* the tree locks for itself */
    flags |= FUSE_MAX_PAGES;      /* 1 MiB in one request */
    flags |= FUSE_CACHE_SYMLINKS; /* targets never change */
    /* Pages stay until this program invalidates them: data changes through this mount alone.
     * Without the flag every reply with another size drops them. */
    flags |= fastpath->keeps == UM_FOREVER ? FUSE_EXPLICIT_INVAL_DATA : FUSE_AUTO_INVAL_DATA;
    /* The kernel checks ACLs, and asks for them. Where the tree has none it need not ask: it would
     * ask for the root's at every walk through it. */
    flags |= fastpath->obeys_acls ? FUSE_POSIX_ACL : 0;
    /* Without it, every write asks for security.capability first. */
    flags |= fastpath->upper ? FUSE_HANDLE_KILLPRIV_V2 : 0;
    /* Flags that are not set: FUSE_ATOMIC_O_TRUNC, because opening sends no message, and the
     * truncation would be lost; so it comes as a SETATTR. FUSE_WRITEBACK_CACHE, because sizes and
     * times would then be the kernel's, and copy-up, hard links and st_blocks would not see them.
     * FUSE_AUTO_INVAL_DATA, unless the kernel's knowledge expires, because it asks for attributes
     * before reads. FUSE_EXPORT_SUPPORT,
     * because "." and ".." are not looked up. The splice flags, because a reply is built in
     * memory. FUSE_SETXATTR_EXT, because it changes a struct that libfuse reads. Locks, because
     * the kernel's own suffice for one machine. */
    return flags;
}

/* Passthrough needs both extended flags: FUSE_DIRECT_IO_ALLOW_MMAP, because files that cannot be passed
 * through any more are opened with direct I/O, and mapped even so. */
static void accept_passthrough(struct um_fastpath *fastpath, const struct um_exchange *x,
                               struct fuse_init_out *out)
{
    const struct fuse_init_in *in = (const void *)x->body;
    bool extended = (in->flags & UM_FUSE_INIT_EXT) &&
                    x->size >= offsetof(struct fuse_init_in, flags2) + sizeof in->flags2;
    if (fastpath->passthrough == NULL)
        return;
    if (!extended || !(in->flags2 & UM_FUSE_PASSTHROUGH2)) {
        atomic_store(&fastpath->no_passthrough, true);
        return;
    }
    out->flags |= UM_FUSE_INIT_EXT;
    out->flags2 |= in->flags2 & (UM_FUSE_PASSTHROUGH2 | UM_FUSE_DIRECT_IO_ALLOW_MMAP2);
    /* This is max_stack_depth in Linux 6.9: the disk is stacked on nothing, so that an overlayfs can
     * be stacked on the mount. */
    out->unused[0] = 1;
}

/* Agree to FUSE over io_uring if both sides want it. From then on the kernel holds all other
 * requests back until each of its queues has an entry. */
static void agree_to_io_uring(struct um_exchange *x, const struct fuse_init_in *in,
                              struct fuse_init_out *out)
{
    if (!x->fastpath->io_uring || x->size < sizeof *in || !(in->flags & UM_FUSE_INIT_EXT) ||
        !(in->flags2 & UM_FUSE_OVER_IO_URING2))
        return;
    out->flags |= UM_FUSE_INIT_EXT;
    out->flags2 |= UM_FUSE_OVER_IO_URING2;
    atomic_store(&x->fastpath->uses_io_uring, true);
}

int64_t um_answer_init(struct um_exchange *x)
{
    /* The kernel's struct grows with versions; the part of 7.6 is all that is needed. */
    if (x->size < offsetof(struct fuse_init_in, flags2))
        return -EIO;
    const struct fuse_init_in *in = (const void *)x->body;
    struct fuse_init_out *out = um_reply_room(x, sizeof *out);
    out->major = FUSE_KERNEL_VERSION;
    out->minor = MIN(in->minor, FUSE_KERNEL_MINOR_VERSION);
    if (in->major > FUSE_KERNEL_VERSION)
        return sizeof *out; /* it asks again, with our version */
    if (in->major < FUSE_KERNEL_VERSION || in->minor < KERNEL_MINOR_MIN)
        return -EPROTO;
    out->max_readahead = in->max_readahead;
    out->flags = in->flags & wanted_flags(x->fastpath);
    accept_passthrough(x->fastpath, x, out);
    out->max_background = MAX_BACKGROUND;
    out->congestion_threshold = CONGESTION;
    out->max_write = UM_FUSE_MAX_WRITE;
    out->time_gran = 1;
    out->max_pages = UM_FUSE_MAX_PAGES;
    agree_to_io_uring(x, in, out);
    atomic_store(&x->fastpath->max_readahead, in->max_readahead);
    return sizeof *out;
}

size_t um_fastpath_slow_init(const struct um_fastpath *fastpath, void *request)
{
    struct fuse_in_header *header = request;
    struct fuse_init_in *in = (void *)(header + 1);
    size_t size = sizeof *header + offsetof(struct fuse_init_in, flags2);
    *header = (struct fuse_in_header){
        .len = (uint32_t)size, .opcode = FUSE_INIT, .unique = UM_SLOW_INIT_UNIQUE};
    in->major = FUSE_KERNEL_VERSION;
    in->minor = SLOW_MINOR;
    in->max_readahead = atomic_load(&fastpath->max_readahead);
    in->flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_POSIX_ACL;
    return size;
}
