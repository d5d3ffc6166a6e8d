#include "fastpath/exchange.h"

bool um_exchange_take_name(const struct um_exchange *x, size_t *at, struct um_slice *name)
{
    if (*at >= x->size)
        return false;
    const uint8_t *end = memchr(x->body + *at, 0, x->size - *at);
    if (end == NULL)
        return false;
    *name = um_slice_of(x->body + *at, (size_t)(end - (x->body + *at)));
    *at += name->size + 1;
    return true;
}

void *um_reply_room(struct um_exchange *x, size_t size)
{
    memset(x->out, 0, size);
    return x->out;
}

/* Encode a device number as the kernel does for user space, in 32 bits. */
static uint32_t encode_device(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

uint32_t um_reply_nlink(const struct um_fastpath *fastpath, const struct um_attr *attr)
{
    return fastpath->static_nlink && S_ISDIR(attr->mode) ? 1 : attr->nlink;
}

void um_reply_fill_attr(const struct um_fastpath *fastpath, struct fuse_attr *out,
                        const struct um_attr *attr)
{
    *out = (struct fuse_attr){
        .ino = attr->node,
        .size = attr->size,
        .blocks = attr->blocks,
        .atime = (uint64_t)attr->atime,
        .mtime = (uint64_t)attr->mtime,
        .ctime = (uint64_t)attr->ctime,
        .atimensec = attr->atime_nsec,
        .mtimensec = attr->mtime_nsec,
        .ctimensec = attr->ctime_nsec,
        .mode = attr->mode,
        .nlink = um_reply_nlink(fastpath, attr),
        .uid = um_id_shown(&fastpath->ids.users, attr->uid),
        .gid = um_id_shown(&fastpath->ids.groups, attr->gid),
        .rdev = encode_device(attr->major, attr->minor),
        .blksize = UM_BLOCK_SIZE,
    };
}

void um_reply_fill_entry(const struct um_fastpath *fastpath, struct fuse_entry_out *out,
                         const struct um_attr *attr)
{
    /* Only this mount changes anything, so what the kernel caches stays true. But a name whose
     * number will change is asked for each time, so that all names of the file agree. */
    bool renumbers = fastpath->upper != NULL && um_upper_renumbers(fastpath->upper, attr);
    bool changing = um_passthrough_is_changing(fastpath->passthrough, attr->node);
    *out = (struct fuse_entry_out){.nodeid = attr->node,
                                   .entry_valid = renumbers ? 0 : fastpath->keeps,
                                   .entry_valid_nsec = renumbers ? 0 : fastpath->keeps_nsec,
                                   .attr_valid = changing ? 0 : fastpath->keeps,
                                   .attr_valid_nsec = changing ? 0 : fastpath->keeps_nsec};
    um_reply_fill_attr(fastpath, &out->attr, attr);
}

int64_t um_reply_entry(struct um_exchange *x, const struct um_attr *attr)
{
    um_reply_fill_entry(x->fastpath, um_reply_room(x, sizeof(struct fuse_entry_out)), attr);
    return sizeof(struct fuse_entry_out);
}

int64_t um_reply_attr(struct um_exchange *x, const struct um_attr *attr)
{
    struct fuse_attr_out *out = um_reply_room(x, sizeof *out);
    bool changing = um_passthrough_is_changing(x->fastpath->passthrough, attr->node);
    out->attr_valid = changing ? 0 : x->fastpath->keeps;
    out->attr_valid_nsec = changing ? 0 : x->fastpath->keeps_nsec;
    um_reply_fill_attr(x->fastpath, &out->attr, attr);
    return sizeof *out;
}
