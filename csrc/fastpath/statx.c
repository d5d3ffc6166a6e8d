#include <fcntl.h>
#include <sys/sysmacros.h>

#include "fastpath/exchange.h"

/* The kernel sends STATX instead of GETATTR for programs that ask for a birth time, once for each
 * file (it caches whether there is one); stat(2) and ls(1) do not. Files on disk, in the upper or
 * a live directory, have birth times; those of an image have none. Where there are only those,
 * STATX is refused once, and not sent any more. */

/* 7.39 adds these to the header. */
struct statx_in {
    uint32_t getattr_flags, reserved;
    uint64_t fh;
    uint32_t flags, mask;
};

struct statx_time {
    int64_t seconds;
    uint32_t nsec;
    int32_t reserved;
};

struct statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec, flags;
    uint64_t spare[2];
    struct {
        uint32_t mask, blksize;
        uint64_t attributes;
        uint32_t nlink, uid, gid;
        uint16_t mode, spare;
        uint64_t ino, size, blocks, attributes_mask;
        struct statx_time atime, btime, ctime, mtime;
        uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
        uint64_t spare_end[14];
    } stat;
};
_Static_assert(sizeof(struct statx_in) == 24, "as the kernel has it");
_Static_assert(sizeof(struct statx_out) == 288, "as the kernel has it");

static void fill(const struct um_fastpath *fastpath, struct statx_out *out,
                 const struct um_attr *attr)
{
    bool changing = um_passthrough_is_changing(fastpath->passthrough, attr->node);
    out->attr_valid = changing ? 0 : fastpath->keeps;
    out->attr_valid_nsec = changing ? 0 : fastpath->keeps_nsec;
    out->stat.mask = STATX_BASIC_STATS;
    out->stat.blksize = UM_BLOCK_SIZE;
    out->stat.nlink = um_reply_nlink(fastpath, attr);
    out->stat.uid = um_id_shown(&fastpath->ids.users, attr->uid);
    out->stat.gid = um_id_shown(&fastpath->ids.groups, attr->gid);
    out->stat.mode = (uint16_t)attr->mode;
    out->stat.ino = attr->node;
    out->stat.size = attr->size;
    out->stat.blocks = attr->blocks;
    out->stat.atime = (struct statx_time){attr->atime, attr->atime_nsec, 0};
    out->stat.ctime = (struct statx_time){attr->ctime, attr->ctime_nsec, 0};
    out->stat.mtime = (struct statx_time){attr->mtime, attr->mtime_nsec, 0};
    out->stat.rdev_major = attr->major;
    out->stat.rdev_minor = attr->minor;
}

/* Add the birth time, where the disk has it. */
static int add_birth(struct um_exchange *x, struct statx_out *out)
{
    struct statx found;
    int fd;
    int error = um_fastpath_node_open_path(x->fastpath, x->header->nodeid, &fd);
    if (error != 0)
        return error == -ENODATA ? 0 : error;
    error = um_result(statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &found));
    close(fd);
    if (error == 0 && found.stx_mask & STATX_BTIME) {
        out->stat.mask |= STATX_BTIME;
        out->stat.btime = (struct statx_time){found.stx_btime.tv_sec, found.stx_btime.tv_nsec, 0};
    }
    return error;
}

int64_t um_answer_statx(struct um_exchange *x)
{
    struct um_fastpath *fastpath = x->fastpath;
    struct um_attr attr;
    if (fastpath->upper == NULL && !um_tree_is_live(fastpath->tree))
        return -ENOSYS;
    if (x->size < sizeof(struct statx_in))
        return -EIO;
    int error = um_fastpath_node_attr(fastpath, x->header->nodeid, &attr);
    if (error != 0)
        return error;
    struct statx_out *out = um_reply_room(x, sizeof *out);
    fill(fastpath, out, &attr);
    error = add_birth(x, out);
    return error ? error : (int64_t)sizeof *out;
}
