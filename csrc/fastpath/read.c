#include <fcntl.h>
#include <sys/statvfs.h>

#include "fastpath/exchange.h"

/* These handlers change nothing, and answer as ReadingOperations of mounting/read_operations.py. */

int64_t um_answer_unsupported(struct um_exchange *x)
{
    (void)x;
    return -ENOSYS;
}

/* ENOSYS means opens without messages: the kernel asks once, and then opens files by itself. With
 * passthrough every open is a message, because the answer says where the file is. */
int64_t um_answer_open(struct um_exchange *x)
{
    const struct fuse_open_in *in = UM_BODY(x, struct fuse_open_in);
    if (x->fastpath->passthrough == NULL)
        return -ENOSYS;
    if (in == NULL)
        return -EIO;
    bool write = (in->flags & O_ACCMODE) != O_RDONLY;
    struct fuse_open_out *out = um_reply_room(x, sizeof *out);
    int result = um_passthrough_begin(x->fastpath->passthrough, x->header->nodeid, write, out);
    if (result < 0)
        return result;
    if (result > 0)
        x->stale[0] = x->header->nodeid;
    return sizeof *out;
}

/* Without passthrough, only files that TMPFILE opened before any OPEN was refused are released. */
int64_t um_answer_release(struct um_exchange *x)
{
    const struct fuse_release_in *in = UM_BODY(x, struct fuse_release_in);
    if (x->fastpath->passthrough != NULL && in != NULL)
        um_passthrough_end(x->fastpath->passthrough, x->header->nodeid, in->fh);
    return 0;
}

int64_t um_answer_lookup(struct um_exchange *x)
{
    struct um_fastpath *fastpath = x->fastpath;
    uint64_t directory = x->header->nodeid;
    struct um_slice name;
    struct um_attr attr;
    size_t at = 0;
    if (!um_exchange_take_name(x, &at, &name))
        return -EIO;
    const char *text = (const char *)name.data;
    int error = fastpath->upper
                    ? um_upper_lookup(fastpath->upper, directory, text, name.size, &attr)
                    : um_tree_lookup(fastpath->tree, directory, text, name.size, &attr);
    if (error == 0)
        return um_reply_entry(x, &attr);
    if (error != -ENOENT)
        return error;
    /* The kernel does not cache an error, but a name that leads to no node. */
    struct fuse_entry_out *out = um_reply_room(x, sizeof *out);
    out->entry_valid = fastpath->keeps;
    out->entry_valid_nsec = fastpath->keeps_nsec;
    return sizeof *out;
}

int64_t um_answer_forget(struct um_exchange *x)
{
    const struct fuse_forget_in *in = UM_BODY(x, struct fuse_forget_in);
    if (in != NULL)
        um_fastpath_node_forget(x->fastpath, x->header->nodeid, in->nlookup);
    return UM_SILENT;
}

int64_t um_answer_batch_forget(struct um_exchange *x)
{
    const struct fuse_batch_forget_in *in = UM_BODY(x, struct fuse_batch_forget_in);
    if (in == NULL || x->fastpath->upper == NULL)
        return UM_SILENT;
    const struct fuse_forget_one *one = (const void *)(in + 1);
    size_t n = (x->size - sizeof *in) / sizeof *one;
    for (size_t i = 0; i < n && i < in->count; i++)
        um_fastpath_node_forget(x->fastpath, one[i].nodeid, one[i].nlookup);
    return UM_SILENT;
}

int64_t um_answer_getattr(struct um_exchange *x)
{
    struct um_attr attr;
    int error = um_fastpath_node_attr(x->fastpath, x->header->nodeid, &attr);
    return error ? error : um_reply_attr(x, &attr);
}

int64_t um_answer_readlink(struct um_exchange *x)
{
    const char *target;
    size_t size;
    if (x->fastpath->upper != NULL) {
        int64_t got = um_upper_readlink(x->fastpath->upper, x->header->nodeid, (char *)x->out,
                                        UM_FUSE_MAX_WRITE);
        return got;
    }
    int error = um_tree_readlink(x->fastpath->tree, x->header->nodeid, &target, &size);
    if (error != 0)
        return error;
    if (size > UM_FUSE_MAX_WRITE)
        return -ENAMETOOLONG;
    memcpy(x->out, target, size);
    return (int64_t)size;
}

/* ---- data --------------------------------------------------------------------------------------------- */

/* Read a file that is in the upper, which has to be open. One in a lower layer is read without
 * opening. */
static int64_t read_upper(struct um_exchange *x, uint64_t offset, size_t size, unsigned flags)
{
    struct um_fastpath *fastpath = x->fastpath;
    uint64_t node = x->header->nodeid;
    struct um_open_file *file = um_open_files_find(fastpath->open_files, node, false);
    if (file == NULL) {
        int64_t got =
            um_upper_read(fastpath->upper, node, offset, x->out, size, flags | UM_UPPER_READ_LOWER);
        if (got != -EBADF)
            return got;
        int error = um_open_files_use(fastpath->open_files, node, false, &file);
        if (error != 0)
            return error;
    }
    int64_t got = um_upper_read(fastpath->upper, node, offset, x->out, size, flags);
    um_open_files_done(fastpath->open_files, file);
    return got;
}

int64_t um_answer_read(struct um_exchange *x)
{
    const struct fuse_read_in *in = UM_BODY(x, struct fuse_read_in);
    if (in == NULL || in->size > UM_FUSE_MAX_WRITE)
        return -EIO;
    unsigned flags = x->may_wait ? 0 : UM_READ_NOWAIT;
    int64_t got = x->fastpath->upper ? read_upper(x, in->offset, in->size, flags)
                                     : um_tree_read(x->fastpath->tree, x->header->nodeid,
                                                    in->offset, x->out, in->size, flags);
    return got == -EAGAIN && !x->may_wait ? UM_LATER : got;
}

/* Find the next data or hole of a file whose data is in a lower layer. */
static int64_t seek_lower(struct um_tree *tree, uint64_t node, uint64_t from, bool hole)
{
    struct um_attr attr;
    uint64_t begin = 0, length = 0, stored;
    int fd;
    int error = um_tree_getattr(tree, node, &attr);
    if (error == 0 && from >= attr.size)
        error = -ENXIO;
    if (error == 0)
        error = um_tree_open_data(tree, node, &fd);
    if (error != 0)
        return error;
    uint64_t at = from;
    int more;
    while ((more = um_tree_next_data(tree, node, fd, at, &begin, &length, &stored)) == 1 && hole &&
           begin <= at)
        at = begin + length; /* adjacent runs are one */
    close(fd);
    if (more < 0)
        return more;
    if (hole)
        return (int64_t)(at < attr.size ? at : attr.size);
    if (more == 0)
        return -ENXIO;
    return (int64_t)(begin > from ? begin : from);
}

static int64_t seek(struct um_exchange *x, const struct fuse_lseek_in *in)
{
    struct um_fastpath *fastpath = x->fastpath;
    uint64_t node = x->header->nodeid, lower = node;
    bool hole = in->whence == SEEK_HOLE;
    if (fastpath->upper != NULL) {
        struct um_open_file *file;
        int error = um_open_files_use(fastpath->open_files, node, false, &file);
        if (error != 0)
            return error;
        int64_t found = um_upper_seek(fastpath->upper, node, in->offset, hole, &lower);
        um_open_files_done(fastpath->open_files, file);
        if (found != UM_UPPER_SEEK_BELOW)
            return found;
    }
    return seek_lower(fastpath->tree, lower, in->offset, hole);
}

int64_t um_answer_lseek(struct um_exchange *x)
{
    const struct fuse_lseek_in *in = UM_BODY(x, struct fuse_lseek_in);
    if (in == NULL || (in->whence != SEEK_DATA && in->whence != SEEK_HOLE))
        return -EINVAL;
    if (in->offset > INT64_MAX)
        return -ENXIO;
    int64_t found = seek(x, in);
    if (found < 0)
        return found;
    struct fuse_lseek_out *out = um_reply_room(x, sizeof *out);
    out->offset = (uint64_t)found;
    return sizeof *out;
}

/* ---- the file system as a whole ------------------------------------------------------------------------ */

#define BLOCK 4096u

static int fill_statfs(const struct um_fastpath *fastpath, struct fuse_kstatfs *st)
{
    struct statvfs found;
    st->namelen = UM_NAME_MAX;
    if (fastpath->statfs_fd < 0) {
        st->bsize = st->frsize = BLOCK;
        st->blocks = fastpath->bytes / BLOCK + (fastpath->bytes % BLOCK != 0);
        st->files = fastpath->inodes;
        return 0;
    }
    if (fstatvfs(fastpath->statfs_fd, &found) != 0)
        return -errno;
    st->bsize = (uint32_t)found.f_bsize;
    st->frsize = (uint32_t)found.f_frsize;
    st->blocks = found.f_blocks;
    st->bfree = found.f_bfree;
    st->bavail = found.f_bavail;
    st->files = found.f_files;
    st->ffree = found.f_ffree;
    return 0;
}

int64_t um_answer_statfs(struct um_exchange *x)
{
    struct fuse_statfs_out *out = um_reply_room(x, sizeof *out);
    int error = fill_statfs(x->fastpath, &out->st);
    return error ? error : (int64_t)sizeof *out;
}
