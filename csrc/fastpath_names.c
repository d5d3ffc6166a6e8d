#include <linux/fs.h>

#include "fastpath_private.h"

/* Names: made, removed and moved in the upper, as writing.py does it. What needs data to be copied up
 * first, and what needs to know who is in a group, is left to it. */

/* The rest of what a request to make something has: a name behind `at` bytes. */
static int64_t begin(const struct um_exchange *x, size_t at, struct um_slice *name)
{
    if (x->fastpath->upper == NULL)
        return UM_FORWARD;
    return um_take_name(x, &at, name) ? 0 : -EIO;
}

static struct um_maker maker_of(const struct um_exchange *x, uint32_t umask)
{
    return (struct um_maker){
        .uid = x->header->uid, .gid = x->header->gid, .umask = umask & 07777, .may_setgid = true};
}

static int64_t made(struct um_exchange *x, int error, const struct um_attr *attr)
{
    if (error == -EAGAIN)
        return UM_FORWARD;
    return error ? error : um_reply_entry(x, attr);
}

int64_t um_answer_mknod(struct um_exchange *x)
{
    const struct fuse_mknod_in *in = UM_BODY(x, struct fuse_mknod_in);
    struct um_slice name;
    struct um_attr attr;
    int64_t error = in ? begin(x, sizeof *in, &name) : -EIO;
    if (error != 0)
        return error;
    /* Kernels before 6.0 leave it to us whether the bit may stay. */
    if (in->mode & S_ISGID)
        return UM_FORWARD;
    struct um_maker maker = maker_of(x, in->umask);
    uint32_t major = in->rdev >> 8 & 0xfff, minor = (in->rdev & 0xff) | (in->rdev >> 12 & 0xfff00);
    return made(x,
                um_upper_mknod(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                               name.size, in->mode, major, minor, &maker, &attr),
                &attr);
}

int64_t um_answer_mkdir(struct um_exchange *x)
{
    const struct fuse_mkdir_in *in = UM_BODY(x, struct fuse_mkdir_in);
    struct um_slice name;
    struct um_attr attr;
    int64_t error = in ? begin(x, sizeof *in, &name) : -EIO;
    if (error != 0)
        return error;
    struct um_maker maker = maker_of(x, in->umask);
    return made(x,
                um_upper_mkdir(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                               name.size, in->mode & 07777, &maker, &attr),
                &attr);
}

int64_t um_answer_symlink(struct um_exchange *x)
{
    struct um_slice name, target;
    struct um_attr attr;
    int64_t error = begin(x, 0, &name);
    if (error != 0)
        return error;
    size_t at = name.size + 1;
    if (!um_take_name(x, &at, &target))
        return -EIO;
    struct um_maker maker = maker_of(x, 0);
    return made(x,
                um_upper_symlink(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                                 name.size, (const char *)target.data, target.size, &maker, &attr),
                &attr);
}

/* Every file without a name costs a descriptor, as every file that is held. */
static int make_nameless(struct um_exchange *x, const struct fuse_create_in *in,
                         struct um_attr *attr)
{
    struct um_fastpath *fastpath = x->fastpath;
    struct um_maker maker = maker_of(x, in->umask);
    int error = um_upper_tmpfile(fastpath->upper, x->header->nodeid, in->mode, &maker, attr);
    if (error != -EMFILE && error != -ENFILE)
        return error;
    um_held_shed(fastpath->held);
    return um_upper_tmpfile(fastpath->upper, x->header->nodeid, in->mode, &maker, attr);
}

/* The name of the request says nothing. Who may have S_ISGID is settled: kernels that ask this are 6.2
 * or newer. */
int64_t um_answer_tmpfile(struct um_exchange *x)
{
    const struct fuse_create_in *in = UM_BODY(x, struct fuse_create_in);
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } *out;
    struct um_attr attr;
    if (x->fastpath->upper == NULL)
        return -EROFS;
    if (in == NULL)
        return -EIO;
    int error = make_nameless(x, in, &attr);
    if (error != 0)
        return error == -EOPNOTSUPP ? -ENOSYS : error; /* so it is asked once, and told the same */
    out = um_reply_room(x, sizeof *out);
    um_fill_entry(x->fastpath, &out->entry, &attr);
    out->open.open_flags = FOPEN_KEEP_CACHE; /* as the kernel's own opening has it */
    return sizeof *out;
}

int64_t um_answer_link(struct um_exchange *x)
{
    const struct fuse_link_in *in = UM_BODY(x, struct fuse_link_in);
    struct um_slice name;
    struct um_attr attr;
    int64_t error = in ? begin(x, sizeof *in, &name) : -EIO;
    if (error != 0)
        return error;
    return made(x,
                um_upper_link(x->fastpath->upper, in->oldnodeid, x->header->nodeid,
                              (const char *)name.data, name.size, &attr),
                &attr);
}

static int64_t removed(int error)
{
    return error == -EAGAIN ? UM_FORWARD : error;
}

int64_t um_answer_unlink(struct um_exchange *x)
{
    struct um_slice name;
    int64_t error = begin(x, 0, &name);
    return error ? error
                 : removed(um_upper_unlink(x->fastpath->upper, x->header->nodeid,
                                           (const char *)name.data, name.size));
}

int64_t um_answer_rmdir(struct um_exchange *x)
{
    struct um_slice name;
    int64_t error = begin(x, 0, &name);
    return error ? error
                 : removed(um_upper_rmdir(x->fastpath->upper, x->header->nodeid,
                                          (const char *)name.data, name.size));
}

static int64_t rename_to(struct um_exchange *x, size_t at, uint64_t directory, uint32_t flags)
{
    struct um_slice name, new_name;
    int64_t error = begin(x, at, &name);
    if (error != 0)
        return error;
    at += name.size + 1;
    if (!um_take_name(x, &at, &new_name))
        return -EIO;
    return removed(um_upper_rename(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                                   name.size, directory, (const char *)new_name.data, new_name.size,
                                   flags));
}

int64_t um_answer_rename(struct um_exchange *x)
{
    const struct fuse_rename_in *in = UM_BODY(x, struct fuse_rename_in);
    return in ? rename_to(x, sizeof *in, in->newdir, 0) : -EIO;
}

int64_t um_answer_rename2(struct um_exchange *x)
{
    const struct fuse_rename2_in *in = UM_BODY(x, struct fuse_rename2_in);
    return in ? rename_to(x, sizeof *in, in->newdir, in->flags) : -EIO;
}
