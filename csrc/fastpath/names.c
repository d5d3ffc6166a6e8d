#include <linux/fs.h>

#include "fastpath/exchange.h"

/* These handlers create, remove and move names in the upper, as mounting/write_operations.py does.
 * Requests that depend on the groups of a user are forwarded. */

/* Begin a request that creates something: take its name, which is behind `at` bytes. */
static int64_t begin(const struct um_exchange *x, size_t at, struct um_slice *name)
{
    if (x->fastpath->upper == NULL)
        return UM_FORWARD;
    return um_exchange_take_name(x, &at, name) ? 0 : -EIO;
}

static struct um_upper_maker maker_of(const struct um_exchange *x, uint32_t umask)
{
    const struct um_id_maps *ids = &x->fastpath->ids;
    return (struct um_upper_maker){.uid = um_id_stored_owner(&ids->users, x->header->uid),
                                   .gid = um_id_stored_owner(&ids->groups, x->header->gid),
                                   .umask = umask & 07777,
                                   .may_setgid = true};
}

static int64_t made(struct um_exchange *x, int error, const struct um_attr *attr)
{
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
    /* Kernels before 6.0 leave the decision whether the bit may stay to the file system. */
    if (in->mode & S_ISGID)
        return UM_FORWARD;
    struct um_upper_maker maker = maker_of(x, in->umask);
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
    struct um_upper_maker maker = maker_of(x, in->umask);
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
    if (!um_exchange_take_name(x, &at, &target))
        return -EIO;
    struct um_upper_maker maker = maker_of(x, 0);
    return made(x,
                um_upper_symlink(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                                 name.size, (const char *)target.data, target.size, &maker, &attr),
                &attr);
}

/* Create a file without a name. Each takes a descriptor, as open files do. */
static int make_nameless(struct um_exchange *x, const struct fuse_create_in *in,
                         struct um_attr *attr)
{
    struct um_fastpath *fastpath = x->fastpath;
    struct um_upper_maker maker = maker_of(x, in->umask);
    int error = um_upper_tmpfile(fastpath->upper, x->header->nodeid, in->mode, &maker, attr);
    if (error != -EMFILE && error != -ENFILE)
        return error;
    um_open_files_shed(fastpath->open_files);
    return um_upper_tmpfile(fastpath->upper, x->header->nodeid, in->mode, &maker, attr);
}

/* Create a file for O_TMPFILE. The name in the request has no meaning. S_ISGID is decided already,
 * because only kernels from 6.2 on send this. */
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
        return error == -EOPNOTSUPP ? -ENOSYS
                                    : error; /* so the kernel asks once, and reports the same */
    out = um_reply_room(x, sizeof *out);
    um_reply_fill_entry(x->fastpath, &out->entry, &attr);
    out->open.open_flags = FOPEN_KEEP_CACHE; /* as for files that the kernel opens itself */
    if (x->fastpath->passthrough != NULL) {
        error = um_passthrough_begin(x->fastpath->passthrough, attr.node, true, &out->open);
        /* It begins to change with this open. */
        out->entry.attr_valid = out->entry.attr_valid_nsec = 0;
    }
    if (error < 0)
        um_fastpath_node_forget(x->fastpath, attr.node, 1);
    return error < 0 ? error : (int64_t)sizeof *out;
}

int64_t um_answer_link(struct um_exchange *x)
{
    const struct fuse_link_in *in = UM_BODY(x, struct fuse_link_in);
    struct um_slice name;
    struct um_attr attr;
    int64_t error = in ? begin(x, sizeof *in, &name) : -EIO;
    if (error != 0)
        return error;
    for (int i = 0; i < UM_COPY_UPS; i++) {
        error = um_upper_link(x->fastpath->upper, in->oldnodeid, x->header->nodeid,
                              (const char *)name.data, name.size, &attr);
        if (error != -EAGAIN)
            return error ? error : um_reply_entry(x, &attr);
        error = um_exchange_copy_up(x, in->oldnodeid, 0);
        if (error != 0)
            return error;
    }
    return -EIO;
}

int64_t um_answer_unlink(struct um_exchange *x)
{
    struct um_slice name;
    int64_t error = begin(x, 0, &name);
    return error ? error
                 : um_upper_unlink(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                                   name.size);
}

int64_t um_answer_rmdir(struct um_exchange *x)
{
    struct um_slice name;
    int64_t error = begin(x, 0, &name);
    return error ? error
                 : um_upper_rmdir(x->fastpath->upper, x->header->nodeid, (const char *)name.data,
                                  name.size);
}

struct place {
    uint64_t directory;
    struct um_slice name;
};

/* Copy up the file at a place. */
static int64_t lift(struct um_exchange *x, const struct place *place, uint32_t flags,
                    uint64_t *stale)
{
    struct um_upper *upper = x->fastpath->upper;
    struct um_attr attr;
    int64_t error = um_upper_lookup(upper, place->directory, (const char *)place->name.data,
                                    place->name.size, &attr);
    if (error != 0)
        return error;
    if (!S_ISDIR(attr.mode)) {
        error = um_exchange_copy_up(x, attr.node, flags);
        *stale = attr.node;
    }
    um_fastpath_node_forget(x->fastpath, attr.node, 1);
    return error;
}

/* Copy up the files of a rename. Its error does not say which of the two is meant: begin with
 * those that are not in the upper. */
static int64_t lift_moved(struct um_exchange *x, const struct place places[2], bool exchange,
                          bool first)
{
    int64_t error =
        lift(x, &places[0], exchange && first ? UM_UPPER_COPY_UP_ABSENT : 0, &x->stale[0]);
    if (error == 0 && exchange)
        error = lift(x, &places[1], first ? UM_UPPER_COPY_UP_ABSENT : 0, &x->stale[1]);
    return error;
}

static int64_t move(struct um_exchange *x, const struct place places[2], uint32_t flags)
{
    const struct place *from = &places[0], *to = &places[1];
    for (int i = 0; i < UM_COPY_UPS; i++) {
        int64_t error = um_upper_rename(
            x->fastpath->upper, from->directory, (const char *)from->name.data, from->name.size,
            to->directory, (const char *)to->name.data, to->name.size, flags);
        if (error != -EAGAIN)
            return error;
        if (!x->may_wait)
            return UM_LATER;
        error = lift_moved(x, places, flags & RENAME_EXCHANGE, i == 0);
        if (error != 0)
            return error;
    }
    return -EIO;
}

static int64_t rename_to(struct um_exchange *x, size_t at, uint64_t directory, uint32_t flags)
{
    struct place places[2] = {{.directory = x->header->nodeid}, {.directory = directory}};
    int64_t error = begin(x, at, &places[0].name);
    if (error != 0)
        return error;
    at += places[0].name.size + 1;
    return um_exchange_take_name(x, &at, &places[1].name) ? move(x, places, flags) : -EIO;
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
