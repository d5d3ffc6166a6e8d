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

/* As the kernel encodes device numbers for user space, in 32 bits. */
static uint32_t encode_device(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

void um_reply_fill_attr(struct fuse_attr *out, const struct um_attr *attr)
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
        .nlink = attr->nlink,
        .uid = attr->uid,
        .gid = attr->gid,
        .rdev = encode_device(attr->major, attr->minor),
        .blksize = UM_BLOCK_SIZE,
    };
}

void um_reply_fill_entry(const struct um_fastpath *fastpath, struct fuse_entry_out *out,
                         const struct um_attr *attr)
{
    /* This mount is the only one that changes anything: what the kernel knows stays true. But a name
     * that will lead to another number is asked for each time, so that all names of the file agree. */
    bool renumbers = fastpath->upper != NULL && um_upper_renumbers(fastpath->upper, attr);
    *out = (struct fuse_entry_out){
        .nodeid = attr->node, .entry_valid = renumbers ? 0 : UM_FOREVER, .attr_valid = UM_FOREVER};
    um_reply_fill_attr(&out->attr, attr);
}

int64_t um_reply_entry(struct um_exchange *x, const struct um_attr *attr)
{
    um_reply_fill_entry(x->fastpath, um_reply_room(x, sizeof(struct fuse_entry_out)), attr);
    return sizeof(struct fuse_entry_out);
}

int64_t um_reply_attr(struct um_exchange *x, const struct um_attr *attr)
{
    struct fuse_attr_out *out = um_reply_room(x, sizeof *out);
    out->attr_valid = UM_FOREVER;
    um_reply_fill_attr(&out->attr, attr);
    return sizeof *out;
}
