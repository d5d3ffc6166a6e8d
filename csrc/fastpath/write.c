#include <fcntl.h>
#include <sys/param.h>

#include "fastpath/exchange.h"
#include "system/task_groups.h"

/* These handlers change data and attributes of files. A file of a lower layer is copied up first,
 * which may take long.
 *
 * Set-user-ID bits: with FUSE_HANDLE_KILLPRIV_V2 the file system has to remove them where a
 * process without CAP_FSETID writes, truncates or changes the owner, and flags of the request say
 * so. For fallocate and copy_file_range there is no flag, and everybody but root counts as such a
 * process. File capabilities need no care: the write to the upper's file removes them. */

#define COPY_MAX \
    (16u         \
     << 20) /* bytes of one copy_file_range: between two of them the caller can be interrupted */

/* ---- copy-up ------------------------------------------------------------------------------------------ */

int64_t um_exchange_copy_up(struct um_exchange *x, uint64_t node, uint32_t flags)
{
    if (!x->may_wait)
        return UM_LATER;
    int error = um_upper_copy_up_patiently(x->fastpath->upper, node, flags, x->patience);
    x->copy_ups += error == 0;
    return error;
}

/* Use a file of the upper for writing: 0, UM_LATER where it has to be copied up first, or an
 * errno. */
static int64_t use_for_writing(struct um_exchange *x, uint64_t node, struct um_open_file **file)
{
    for (int i = 0; i < UM_COPY_UPS; i++) {
        int64_t error = um_open_files_use(x->fastpath->open_files, node, true, file);
        if (error != -EAGAIN)
            return error;
        error = um_exchange_copy_up(x, node, 0);
        if (error != 0)
            return error;
    }
    return -EIO;
}

/* Change attributes, copying the file up first where necessary. */
static int64_t change(struct um_exchange *x, uint64_t node, const struct um_upper_changes *changes,
                      struct um_attr *attr)
{
    bool empty = (changes->which & UM_UPPER_SET_SIZE) && changes->size == 0;
    for (int i = 0; i < UM_COPY_UPS; i++) {
        int64_t error = um_upper_setattr(x->fastpath->upper, node, changes, attr);
        if (error != -EAGAIN)
            return error;
        error = um_exchange_copy_up(x, node, empty ? UM_UPPER_COPY_UP_EMPTY : 0);
        if (error != 0)
            return error;
    }
    return -EIO;
}

/* ---- set-user-ID bits ----------------------------------------------------------------------------------- */

/* Return whether a file may keep S_ISGID without group execution, which lets nobody act as the
 * group: yes if the process that writes belongs to the group, or is root. So it is on disks since
 * Linux 6.2. */
static bool keeps_setgid(const struct um_exchange *x, uint32_t gid)
{
    const struct fuse_in_header *header = x->header;
    uint32_t shown = um_id_shown(&x->fastpath->ids.groups, gid);
    return header->uid == 0 || header->gid == shown || um_task_is_in_group(header->pid, shown);
}

/* Return a mode without its privileges. */
static uint32_t without_privileges(const struct um_exchange *x, const struct um_attr *attr)
{
    uint32_t mode = attr->mode;
    if (!S_ISREG(mode))
        return mode;
    mode &= ~(uint32_t)S_ISUID;
    if ((mode & S_ISGID) && ((mode & S_IXGRP) || !keeps_setgid(x, attr->gid)))
        mode &= ~(uint32_t)S_ISGID;
    return mode;
}

/* Remove the privileges of a file in use that is about to be written. */
static int64_t kill_privileges(struct um_exchange *x, uint64_t node, struct um_open_file *file)
{
    struct um_attr attr;
    if (um_open_files_is_plain(x->fastpath->open_files, file))
        return 0;
    /* Set before the mode is read: a concurrent change calls um_open_files_suspect after it. */
    um_open_files_set_plain(x->fastpath->open_files, file);
    int error = um_upper_getattr(x->fastpath->upper, node, &attr);
    if (error != 0)
        return error;
    uint32_t left = without_privileges(x, &attr);
    if (left & S_ISGID)
        um_open_files_suspect(x->fastpath->open_files,
                              node); /* the next one to write may be of no such group */
    if (left == attr.mode)
        return 0;
    struct um_upper_changes changes = {.which = UM_UPPER_SET_MODE, .mode = left & 07777};
    int64_t result = change(x, node, &changes, &attr);
    if (result != 0)
        um_open_files_suspect(x->fastpath->open_files, node);
    else
        x->stale[0] = node; /* the kernel does not ask for the mode again by itself */
    return result;
}

/* ---- data ------------------------------------------------------------------------------------------------- */

static int64_t begin_writing(struct um_exchange *x, uint64_t node, bool kill,
                             struct um_open_file **file)
{
    int64_t error = use_for_writing(x, node, file);
    if (error != 0 || !kill)
        return error;
    error = kill_privileges(x, node, *file);
    if (error != 0)
        um_open_files_done(x->fastpath->open_files, *file);
    return error;
}

int64_t um_answer_write(struct um_exchange *x)
{
    const struct fuse_write_in *in = UM_BODY(x, struct fuse_write_in);
    struct um_open_file *file;
    uint64_t node = x->header->nodeid;
    if (x->fastpath->upper == NULL)
        return -EROFS;
    if (in == NULL || in->size > x->size - sizeof *in)
        return -EIO;
    int64_t error = begin_writing(x, node, in->write_flags & FUSE_WRITE_KILL_SUIDGID, &file);
    if (error != 0)
        return error;
    int64_t put = um_upper_write(x->fastpath->upper, node, in->offset, in + 1, in->size);
    um_open_files_done(x->fastpath->open_files, file);
    if (put < 0)
        return put;
    struct fuse_write_out *out = um_reply_room(x, sizeof *out);
    out->size = (uint32_t)put;
    return sizeof *out;
}

int64_t um_answer_fallocate(struct um_exchange *x)
{
    const struct fuse_fallocate_in *in = UM_BODY(x, struct fuse_fallocate_in);
    struct um_open_file *file;
    uint64_t node = x->header->nodeid;
    if (x->fastpath->upper == NULL)
        return -EROFS;
    if (in == NULL)
        return -EIO;
    if (!x->may_wait)
        return UM_LATER; /* it may write zeros */
    int64_t error = begin_writing(x, node, x->header->uid != 0, &file);
    if (error != 0)
        return error;
    error =
        um_upper_allocate(x->fastpath->upper, node, in->mode, in->offset, in->length, x->patience);
    um_open_files_done(x->fastpath->open_files, file);
    if (error != 0)
        x->stale[0] = node; /* it may be done in part, and the kernel does not ask */
    return error;
}

/* Copy from a lower layer through memory: the room of the reply is free until then. */
static int64_t copy_through(struct um_exchange *x, const struct fuse_copy_file_range_in *in,
                            size_t size)
{
    struct um_upper *upper = x->fastpath->upper;
    size_t done = 0;
    while (done < size) {
        if (um_is_over(x->patience))
            return done != 0 ? (int64_t)done : -EINTR;
        int64_t got = um_upper_read(upper, x->header->nodeid, in->off_in + done, x->out,
                                    MIN(size - done, UM_FUSE_MAX_WRITE), 0);
        int64_t put = got <= 0 ? got
                               : um_upper_write(upper, in->nodeid_out, in->off_out + done, x->out,
                                                (size_t)got);
        if (put <= 0)
            return done != 0 ? (int64_t)done : put;
        done += (size_t)put;
    }
    return (int64_t)done;
}

static int64_t copy_range(struct um_exchange *x, const struct fuse_copy_file_range_in *in)
{
    struct um_fastpath *fastpath = x->fastpath;
    struct um_open_file *source;
    size_t size = MIN(in->len, COPY_MAX);
    if (in->off_in > INT64_MAX - size || in->off_out > INT64_MAX - size)
        return -EOVERFLOW;
    int64_t copied = um_open_files_use(fastpath->open_files, x->header->nodeid, false, &source);
    if (copied != 0)
        return copied;
    copied = um_upper_copy_range(fastpath->upper, x->header->nodeid, in->off_in, in->nodeid_out,
                                 in->off_out, size);
    if (copied == -EXDEV)
        copied = copy_through(x, in, size);
    um_open_files_done(fastpath->open_files, source);
    return copied;
}

int64_t um_answer_copy_file_range(struct um_exchange *x)
{
    const struct fuse_copy_file_range_in *in = UM_BODY(x, struct fuse_copy_file_range_in);
    struct um_open_file *file;
    if (x->fastpath->upper == NULL)
        return -EROFS;
    if (in == NULL || in->flags != 0)
        return -EINVAL;
    if (!x->may_wait)
        return UM_LATER;
    int64_t error = begin_writing(x, in->nodeid_out, x->header->uid != 0, &file);
    if (error != 0)
        return error;
    int64_t copied = copy_range(x, in);
    um_open_files_done(x->fastpath->open_files, file);
    if (copied < 0)
        return copied;
    struct fuse_write_out *out = um_reply_room(x, sizeof *out);
    out->size = (uint32_t)copied;
    return sizeof *out;
}

/* ---- attributes ---------------------------------------------------------------------------------------------- */

static struct um_upper_changes wanted(const struct fuse_setattr_in *in)
{
    static const struct {
        uint32_t fuse, ours;
    } bits[] = {
        {FATTR_MODE, UM_UPPER_SET_MODE},
        {FATTR_UID, UM_UPPER_SET_UID},
        {FATTR_GID, UM_UPPER_SET_GID},
        {FATTR_SIZE, UM_UPPER_SET_SIZE},
        {FATTR_ATIME, UM_UPPER_SET_ATIME},
        {FATTR_MTIME, UM_UPPER_SET_MTIME},
        {FATTR_ATIME_NOW, UM_UPPER_SET_ATIME_NOW},
        {FATTR_MTIME_NOW, UM_UPPER_SET_MTIME_NOW},
    };
    struct um_upper_changes changes = {.mode = in->mode & 07777,
                                       .uid = in->uid,
                                       .gid = in->gid,
                                       .size = in->size,
                                       .atime = (int64_t)in->atime,
                                       .mtime = (int64_t)in->mtime,
                                       .atime_nsec = in->atimensec,
                                       .mtime_nsec = in->mtimensec};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        changes.which |= in->valid & bits[i].fuse ? bits[i].ours : 0;
    /* For "now" the request has both bits, and the time itself. */
    if (changes.which & UM_UPPER_SET_ATIME_NOW)
        changes.which &= ~UM_UPPER_SET_ATIME;
    if (changes.which & UM_UPPER_SET_MTIME_NOW)
        changes.which &= ~UM_UPPER_SET_MTIME;
    return changes;
}

/* Replace the new owner by its stored IDs; -EOVERFLOW where there are none. */
static int take_owner(const struct um_fastpath *fastpath, struct um_upper_changes *changes)
{
    changes->uid = um_id_stored_owner(&fastpath->ids.users, changes->uid);
    changes->gid = um_id_stored_owner(&fastpath->ids.groups, changes->gid);
    bool fits = (!(changes->which & UM_UPPER_SET_UID) || changes->uid != UM_ID_NONE) &&
                (!(changes->which & UM_UPPER_SET_GID) || changes->gid != UM_ID_NONE);
    return fits ? 0 : -EOVERFLOW;
}

#define NO_CHANGE (FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME)

/* Return whether a request is a chown(2) of -1 and -1, which removes the bits, too, and arrives as
 * a request that changes nothing. So does the request that the kernel sends before a write that
 * removes something, by anyone who may write. Then either the write itself says so, or it was
 * root's, or it is about the capability that has just been removed. No write follows for a file that is passed
 * through: there the request itself has to remove the bits. */
static bool is_chown_to_nobody(struct um_exchange *x, uint32_t owner)
{
    bool incapable = atomic_exchange(&x->fastpath->incapable, 0) == x->header->nodeid;
    bool owns = x->header->uid == owner ||
                um_passthrough_is_changing(x->fastpath->passthrough, x->header->nodeid);
    return x->header->uid == 0 ? !incapable : owns;
}

/* Remove the bits in the same step where there is a new owner, or a truncation by a process
 * without CAP_FSETID. */
static int add_lost_privileges(struct um_exchange *x, uint32_t valid,
                               struct um_upper_changes *changes)
{
    struct um_attr attr;
    bool lost = valid & (FATTR_UID | FATTR_GID | FATTR_KILL_SUIDGID);
    bool wants_nothing = !(valid & ~(uint32_t)NO_CHANGE);
    if ((!lost && !wants_nothing) || (valid & FATTR_MODE))
        return 0;
    int error = um_upper_getattr(x->fastpath->upper, x->header->nodeid, &attr);
    if (error != 0)
        return error;
    uint32_t left = without_privileges(x, &attr);
    if (left != attr.mode &&
        (lost || is_chown_to_nobody(x, um_id_shown(&x->fastpath->ids.users, attr.uid)))) {
        changes->which |= UM_UPPER_SET_MODE;
        changes->mode = left & 07777;
    }
    return 0;
}

/* Free data without the upper's lock where that takes long; the change itself follows. */
static int64_t shrink(struct um_exchange *x, const struct fuse_setattr_in *in)
{
    struct um_fastpath *fastpath = x->fastpath;
    struct um_open_file *file;
    uint64_t node = x->header->nodeid;
    if (!(in->valid & FATTR_SIZE) || !um_upper_shrinks_long(fastpath->upper, node, in->size))
        return 0;
    if (!x->may_wait)
        return UM_LATER;
    if (um_open_files_use(fastpath->open_files, node, true, &file) != 0)
        return 0; /* it has to be copied up, or cannot be opened: the change reports that */
    int error = um_upper_shrink(fastpath->upper, node, in->size);
    um_open_files_done(fastpath->open_files, file);
    return error;
}

int64_t um_answer_setattr(struct um_exchange *x)
{
    const struct fuse_setattr_in *in = UM_BODY(x, struct fuse_setattr_in);
    struct um_attr attr;
    if (x->fastpath->upper == NULL)
        return -EROFS;
    if (in == NULL)
        return -EIO;
    struct um_upper_changes changes = wanted(in);
    int error = take_owner(x->fastpath, &changes);
    if (error == 0)
        error = add_lost_privileges(x, in->valid, &changes);
    if (error != 0)
        return error;
    int64_t result = shrink(x, in);
    if (result == 0)
        result = change(x, x->header->nodeid, &changes, &attr);
    um_open_files_suspect(x->fastpath->open_files, x->header->nodeid);
    return result ? result : um_reply_attr(x, &attr);
}

/* ---- durability ----------------------------------------------------------------------------------------------- */

int64_t um_answer_fsync(struct um_exchange *x)
{
    const struct fuse_fsync_in *in = UM_BODY(x, struct fuse_fsync_in);
    if (x->fastpath->upper == NULL)
        return -ENOSYS; /* asked once */
    if (in == NULL)
        return -EIO;
    if (!x->may_wait)
        return UM_LATER;
    bool data_only = x->header->opcode == FUSE_FSYNC && (in->fsync_flags & FUSE_FSYNC_FDATASYNC);
    return um_upper_fsync(x->fastpath->upper, x->header->nodeid, data_only);
}

int64_t um_answer_syncfs(struct um_exchange *x)
{
    if (x->fastpath->upper == NULL)
        return 0;
    return x->may_wait ? um_upper_sync(x->fastpath->upper) : UM_LATER;
}
