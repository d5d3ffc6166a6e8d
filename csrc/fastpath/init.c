#include <sys/param.h>

#include "fastpath/exchange.h"

/* INIT, to both sides. With the kernel the newest protocol that both know is spoken. pyfuse3's libfuse
 * is told 7.13: below 7.14 it does not splice, which a socket can't do, and the structs of all requests
 * that are forwarded are those of 7.13 still. */

#define KERNEL_MINOR_MIN 23u /* struct fuse_init_out as it is now */
#define SLOW_MINOR 13u

/* Requests that the kernel makes ahead of anybody who waits (read-ahead, asynchronous I/O): more than
 * these wait in the kernel. The default of 12 starves eight readers with read-ahead. */
#define MAX_BACKGROUND 64u
#define CONGESTION 48u

static uint32_t wanted_flags(const struct um_fastpath *fastpath)
{
    uint32_t flags = 0;
    flags |= FUSE_ASYNC_READ;     /* several reads of read-ahead at once */
    flags |= FUSE_BIG_WRITES;     /* more than a page in one write */
    flags |= FUSE_ASYNC_DIO;      /* O_DIRECT in parallel */
    flags |= FUSE_DO_READDIRPLUS; /* and never plain: a walk then needs no lookups */
    flags |= FUSE_PARALLEL_DIROPS; /* the tree locks for itself */
    flags |= FUSE_MAX_PAGES;      /* 1 MiB in one request */
    flags |= FUSE_CACHE_SYMLINKS; /* targets never change */
    /* Pages stay until we say so: data changes through this mount alone. Without it every change of
     * size that a reply tells drops them. */
    flags |= fastpath->keeps == UM_FOREVER ? FUSE_EXPLICIT_INVAL_DATA : FUSE_AUTO_INVAL_DATA;
    /* The kernel checks ACLs, and asks for them; with none in the tree it is spared that, since it
     * asks for the root's at every walk through it. */
    flags |= fastpath->obeys_acls ? FUSE_POSIX_ACL : 0;
    /* Without it, every write asks for security.capability first. */
    flags |= fastpath->upper ? FUSE_HANDLE_KILLPRIV_V2 : 0;
    /* Not FUSE_ATOMIC_O_TRUNC: where opening sends no message, the truncation would be lost; so it
     * comes as a SETATTR. Not FUSE_WRITEBACK_CACHE: sizes and times then are the kernel's, and
     * copy-up, hard links and st_blocks would not see them. Not FUSE_AUTO_INVAL_DATA, unless what the
     * kernel knows is to expire: it asks for attributes before reads. Not FUSE_EXPORT_SUPPORT: "." and ".." are not looked up. Not the
     * splice flags: a reply is built in memory. Not FUSE_SETXATTR_EXT: it changes a struct that
     * libfuse reads. Not locks: the kernel's own are enough for one machine. */
    return flags;
}

int64_t um_answer_init(struct um_exchange *x)
{
    /* The kernel's struct grows; what it had in 7.6 is all that is needed. */
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
    out->max_background = MAX_BACKGROUND;
    out->congestion_threshold = CONGESTION;
    out->max_write = UM_FUSE_MAX_WRITE;
    out->time_gran = 1;
    out->max_pages = UM_FUSE_MAX_PAGES;
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
