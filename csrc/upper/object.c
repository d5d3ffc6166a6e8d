#include "upper/object.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "marks/override_stat.h"
#include "system/capability.h"
#include "upper/marks.h"

/* What an object of the upper shows is its stat(2) on disk, unless the xattr override_stat says otherwise.
 * podman and fuse-overlayfs write that xattr, and so does this file, for objects that are *overridden*:
 *
 * - All of them, in an upper with UM_UPPER_OVERRIDE: the daemon is an ordinary user, or nothing that it
 *   makes may have power on disk. Then the daemon owns all objects and can always read and write them,
 *   nobody else can write them, and they have no set-user-ID bits. Devices are empty files; so are FIFOs
 *   and sockets of other owners, as only files and directories can have the xattr. For the same reason the
 *   symlinks of an ordinary user's daemon always belong to it.
 * - All files and directories, in an upper with UM_UPPER_STAT. The disk is as above but for devices,
 *   FIFOs, sockets and capabilities, which are real.
 * - A character device 0:0, which would be a whiteout on disk.
 * - The root, where its directory on disk stays closed (UM_UPPER_CLOSED_ROOT).
 * - Objects that have the xattr already.
 *
 * There is no xattr where the disk alone shows what is wanted, but for UM_UPPER_STAT: fuse-overlayfs does
 * not find a file without. Whoever may write to a file may set the xattr, so it is believed only where the
 * disk says that nobody else may, or where its name is one below security. */

bool um_upper_overrides(const struct um_upper *upper)
{
    return (upper->flags & (UM_UPPER_OVERRIDE | UM_UPPER_STAT)) != 0;
}

bool um_upper_takes_user_xattrs(uint32_t mode)
{
    return S_ISREG(mode) || S_ISDIR(mode);
}

/* ---- what shows ------------------------------------------------------------------------------ */

/* Read what an object shows: 1 where override_stat says it, 0 where the disk does, or an errno. An
 * override_stat that can't be parsed, is not believed, or may not be read by the daemon counts as none. */
static int read_shown(struct um_upper *upper, struct um_upper_reached *reached,
                      const struct stat *status, struct um_override *shown)
{
    char text[UM_OVERRIDE_TEXT];
    struct um_override override;
    *shown = (struct um_override){.uid = status->st_uid,
                                  .gid = status->st_gid,
                                  .mode = status->st_mode & 07777,
                                  .type = status->st_mode & S_IFMT,
                                  .major = major(status->st_rdev),
                                  .minor = minor(status->st_rdev)};
    if (!um_upper_takes_user_xattrs(status->st_mode) || reached->plain ||
        !um_upper_believes_stat(upper, status))
        return 0;
    int64_t size = um_upper_getxattr_believed(upper, reached, status, um_upper_stat_xattr(upper),
                                              text, sizeof text);
    if (size == -ENODATA || size == -EOPNOTSUPP || size == -EACCES || size == -ERANGE)
        return 0;
    if (size < 0)
        return (int)size;
    if (um_override_parse(um_slice_of(text, (size_t)size), &override) != 0)
        return 0;
    uint32_t mode = um_override_mode(&override, status->st_mode);
    *shown = override;
    shown->mode = mode & 07777;
    shown->type = mode & S_IFMT;
    return 1;
}

static bool is_device(uint32_t mode)
{
    return S_ISCHR(mode) || S_ISBLK(mode);
}

int um_upper_object_attr(struct um_upper *upper, struct um_upper_reached *reached,
                         const struct stat *status, struct um_attr *attr)
{
    struct um_override shown;
    int found = read_shown(upper, reached, status, &shown);
    if (found < 0)
        return found;
    bool stands_for_special = shown.type != (status->st_mode & S_IFMT);
    attr->mode = shown.type | shown.mode;
    attr->nlink = (uint32_t)status->st_nlink;
    attr->uid = shown.uid;
    attr->gid = shown.gid;
    attr->major = is_device(shown.type) ? shown.major : 0;
    attr->minor = is_device(shown.type) ? shown.minor : 0;
    attr->size = stands_for_special ? 0 : (uint64_t)status->st_size;
    attr->blocks = stands_for_special ? 0 : (uint64_t)status->st_blocks;
    attr->layer = upper->n_layers;
    attr->atime = status->st_atim.tv_sec;
    attr->mtime = status->st_mtim.tv_sec;
    attr->ctime = status->st_ctim.tv_sec;
    attr->atime_nsec = (uint32_t)status->st_atim.tv_nsec;
    attr->mtime_nsec = (uint32_t)status->st_mtim.tv_nsec;
    attr->ctime_nsec = (uint32_t)status->st_ctim.tv_nsec;
    return 0;
}

/* ---- letting it show ------------------------------------------------------------------------- */

uint32_t um_upper_overridden_bits(uint32_t type, uint32_t mode)
{
    return (mode & 0755) | (S_ISDIR(type) ? 0700 : 0600);
}

static bool is_closed_root(const struct um_upper *upper, const struct um_upper_reached *reached)
{
    return (upper->flags & UM_UPPER_CLOSED_ROOT) && reached->fd == upper->upper_fd &&
           um_upper_reached_is_self(reached);
}

/* The permissions on disk, where they are *status now, of an object that shows `mode`. */
static uint32_t kept_bits(const struct um_upper *upper, const struct um_upper_reached *reached,
                          const struct stat *status, uint32_t mode)
{
    if (is_closed_root(upper, reached))
        return (status->st_mode & 07777) | (um_upper_overrides(upper) ? 0700 : 0);
    return um_upper_overridden_bits(status->st_mode, mode);
}

/* The permissions that an ACL may grant: its mask gives named users no more than everybody has already. */
static uint32_t closed_acl_bits(uint32_t mode)
{
    return (mode & 0707) | (mode & mode << 3 & 070);
}

static bool disk_shows(const struct stat *status, const struct um_override *shown)
{
    return status->st_uid == shown->uid && status->st_gid == shown->gid &&
           (status->st_mode & 07777) == shown->mode && (status->st_mode & S_IFMT) == shown->type;
}

static int put_override(const struct um_upper *upper, const struct um_upper_reached *reached,
                        const struct um_override *shown)
{
    char text[UM_OVERRIDE_TEXT];
    size_t size = um_override_format(shown, text);
    return um_upper_reached_setxattr(reached, um_upper_stat_xattr(upper), text, size, 0);
}

static int remove_override(const struct um_upper *upper, const struct um_upper_reached *reached)
{
    return um_upper_reached_removexattr(reached, um_upper_stat_xattr(upper));
}

bool um_upper_object_needs_override(const struct um_upper *upper, const struct stat *status,
                                    const struct um_override *shown)
{
    bool always = (upper->flags & UM_UPPER_STAT) && um_upper_takes_user_xattrs(status->st_mode);
    return always || !disk_shows(status, shown);
}

int um_upper_object_set_override(const struct um_upper *upper, struct um_upper_reached *reached,
                                 const struct stat *status, const struct um_override *shown,
                                 bool had)
{
    if (um_upper_object_needs_override(upper, status, shown))
        return put_override(upper, reached, shown);
    int error = had ? remove_override(upper, reached) : 0;
    return error == -ENODATA ? 0 : error;
}

/* Update override_stat after the disk was changed as far as that was possible. */
static int update_override(struct um_upper *upper, struct um_upper_reached *reached,
                           const struct um_override *shown, bool had)
{
    struct stat status;
    int error = um_upper_reached_stat(reached, &status);
    if (error != 0)
        return error;
    uint32_t bits = kept_bits(upper, reached, &status, shown->mode);
    if ((status.st_mode & 07777) != bits)
        error = um_upper_reached_chmod(reached, bits);
    status.st_mode = (status.st_mode & S_IFMT) | bits;
    if (error == 0 && !um_upper_believes_stat(upper, &status))
        error = -EPERM; /* somebody else's directory: the claim would not be believed */
    if (error != 0)
        return error;
    /* The root's override_stat is complete, so that closing the directory on disk changes nothing that
     * it shows. */
    return is_closed_root(upper, reached)
               ? put_override(upper, reached, shown)
               : um_upper_object_set_override(upper, reached, &status, shown, had);
}

/* Clear the bits that chown(2) clears, also for root. */
static uint32_t without_set_id(uint32_t mode)
{
    mode &= ~(uint32_t)S_ISUID;
    return mode & S_IXGRP ? mode & ~(uint32_t)S_ISGID : mode;
}

/* An object that is about to be changed. */
struct shown_change {
    struct stat status;
    struct um_override shown;
    bool had;   /* it has an override_stat */
    bool overridden; /* what shows is kept in override_stat */
};

/* As read_shown, before a change. Objects that were copied here by other programs may keep the daemon
 * out. */
static int begin_change(struct um_upper *upper, struct um_upper_reached *reached,
                        struct shown_change *change)
{
    struct stat *status = &change->status;
    int error = um_upper_reached_stat(reached, status);
    if (error != 0)
        return error;
    bool room = um_upper_takes_user_xattrs(status->st_mode);
    uint32_t needed = um_upper_overridden_bits(status->st_mode, 0);
    if (um_upper_overrides(upper) && room && (status->st_mode & needed) != needed)
        error = um_upper_reached_chmod(reached, status->st_mode | needed);
    int had = error ? error : read_shown(upper, reached, status, &change->shown);
    if (had < 0)
        return had;
    change->had = had;
    change->overridden =
        room && (um_upper_overrides(upper) || had || is_closed_root(upper, reached));
    return 0;
}

/* Make the daemon the owner of a file or directory. `keep`: a capability stays, in a mark where it must have
 * no power on disk (UM_UPPER_OVERRIDE). */
static int own(struct um_upper *upper, struct um_upper_reached *reached, bool keep)
{
    char value[64];
    int64_t size =
        keep ? um_upper_reached_getxattr(reached, UM_CAPABILITY, value, sizeof value) : -ENODATA;
    bool marked = size >= 0 && (upper->flags & UM_UPPER_OVERRIDE);
    int error = marked ? um_upper_mark_set_capability(upper, reached, value, (size_t)size) : 0;
    reached->capable = reached->capable || marked;
    if (error == 0)
        error = um_upper_reached_chown(reached, geteuid(), getegid());
    if (error == 0 && size >= 0 && !marked)
        error = um_upper_reached_setxattr(reached, UM_CAPABILITY, value, (size_t)size, 0);
    return error;
}

/* In an upper that others reach, hold the object by a descriptor, so that all steps of a change are made
 * on one object. To be ended with let_go in any case. */
static int hold(const struct um_upper *upper, const struct um_upper_reached *reached,
                struct um_upper_reached *held)
{
    *held = *reached;
    held->cache = NULL;
    if (!(upper->flags & UM_UPPER_OPEN) || um_upper_reached_is_self(reached))
        return 0;
    int fd = um_upper_reached_open(reached, O_PATH);
    if (fd < 0)
        return fd;
    held->fd = fd;
    held->name[0] = '\0';
    return 0;
}

static void let_go(struct um_upper_reached *reached, const struct um_upper_reached *held)
{
    reached->capable = held->capable;
    if (held->fd != reached->fd)
        close(held->fd);
}

/* Write override_stat again once the daemon owns the object: up to then its earlier owner could change
 * the mark and the mode. */
static int settle_claim(const struct um_upper *upper, struct um_upper_reached *reached,
                        const struct shown_change *change)
{
    int error = um_upper_reached_chmod(reached, change->status.st_mode & 0755);
    if (error == 0)
        error = put_override(upper, reached, &change->shown);
    if (error != 0)
        remove_override(upper, reached);
    return error;
}

/* Take an object that an earlier mount gave away on disk back, before what it shows is overridden. The
 * order matters: a mark on somebody else's file is not believed, and the chown that makes it the
 * daemon's clears set-user-ID bits and the capability. `given`: the user of the mount asked for a chown,
 * which clears them as well. */
static int take_over(struct um_upper *upper, struct um_upper_reached *reached,
                     struct shown_change *change, bool given)
{
    struct stat *status = &change->status;
    if (!change->overridden || !um_upper_overrides(upper) || is_closed_root(upper, reached) ||
        status->st_uid == geteuid())
        return 0;
    int error = put_override(upper, reached, &change->shown);
    if (error == 0 && (status->st_mode & 022))
        error = um_upper_reached_chmod(reached, status->st_mode & ~022u);
    if (error == 0)
        error = own(upper, reached, S_ISREG(status->st_mode) && !given);
    if (error == 0)
        error = settle_claim(upper, reached, change);
    change->had = true;
    return error;
}

/* A device on disk has the power that its owner and mode give it, and can't have an override_stat. */
static bool is_forbidden(const struct um_upper *upper, const struct stat *status)
{
    return (upper->flags & UM_UPPER_OVERRIDE) && is_device(status->st_mode);
}

int um_upper_object_drop_claim(struct um_upper *upper, struct um_upper_reached *reached,
                               const struct stat *before)
{
    struct stat after;
    if (!um_upper_takes_user_xattrs(before->st_mode) || um_upper_believes_stat(upper, before))
        return 0;
    int error = um_upper_reached_stat(reached, &after);
    if (error != 0 || !um_upper_believes_stat(upper, &after))
        return error;
    error = remove_override(upper, reached);
    return error == -ENODATA || error == -EOPNOTSUPP ? 0 : error;
}

/* chown(2) to the same owner sets the change time, as a change of what shows does. */
static int touch_change_time(const struct um_upper_reached *reached)
{
    return um_upper_reached_chown(reached, UM_UPPER_KEEP, UM_UPPER_KEEP);
}

int um_upper_object_chown_symlink(struct um_upper *upper, const struct um_upper_reached *reached,
                                  uint32_t uid, uint32_t gid)
{
    int error = um_upper_reached_chown(reached, uid, gid);
    if (error == -EPERM && (upper->flags & UM_UPPER_OVERRIDE))
        error = touch_change_time(reached);
    return error;
}

static int change_owner(struct um_upper *upper, struct um_upper_reached *reached, uint32_t uid,
                        uint32_t gid)
{
    struct shown_change change;
    int error = begin_change(upper, reached, &change);
    if (error != 0)
        return error;
    if (is_forbidden(upper, &change.status))
        return -EPERM;
    if (S_ISLNK(change.status.st_mode))
        return um_upper_object_chown_symlink(upper, reached, uid, gid);
    if (!change.overridden) {
        error = um_upper_reached_chown(reached, uid, gid);
        return error ? error : um_upper_object_drop_claim(upper, reached, &change.status);
    }
    error = take_over(upper, reached, &change, true);
    if (error == 0)
        error = touch_change_time(reached);
    if (error != 0)
        return error;
    struct um_override shown = change.shown;
    shown.uid = uid == UM_UPPER_KEEP ? shown.uid : uid;
    shown.gid = gid == UM_UPPER_KEEP ? shown.gid : gid;
    if (!S_ISDIR(shown.type))
        shown.mode = without_set_id(shown.mode);
    return update_override(upper, reached, &shown, change.had);
}

int um_upper_object_chown(struct um_upper *upper, struct um_upper_reached *reached, uint32_t uid,
                          uint32_t gid)
{
    struct um_upper_reached held;
    int error = hold(upper, reached, &held);
    if (error == 0)
        error = change_owner(upper, &held, uid, gid);
    let_go(reached, &held);
    return error;
}

static int change_mode(struct um_upper *upper, struct um_upper_reached *reached, uint32_t mode)
{
    struct shown_change change;
    int error = begin_change(upper, reached, &change);
    if (error != 0)
        return error;
    if (S_ISLNK(change.status.st_mode))
        return -EOPNOTSUPP;
    if (is_forbidden(upper, &change.status))
        return -EPERM;
    if (!change.overridden) {
        error = um_upper_reached_chmod(reached, mode);
        return error ? error : um_upper_object_drop_claim(upper, reached, &change.status);
    }
    error = take_over(upper, reached, &change, false);
    change.shown.mode = mode & 07777;
    if (error == 0)
        error = um_upper_reached_chmod(reached, kept_bits(upper, reached, &change.status, mode));
    return error ? error : update_override(upper, reached, &change.shown, change.had);
}

int um_upper_object_chmod(struct um_upper *upper, struct um_upper_reached *reached, uint32_t mode)
{
    struct um_upper_reached held;
    int error = hold(upper, reached, &held);
    if (error == 0)
        error = change_mode(upper, &held, mode);
    let_go(reached, &held);
    return error;
}

int um_upper_object_overridden_mode(struct um_upper *upper, struct um_upper_reached *reached,
                                    uint32_t mode, uint32_t *kept)
{
    struct shown_change change;
    int error = begin_change(upper, reached, &change);
    if (error != 0 || !change.overridden)
        return error;
    *kept = is_closed_root(upper, reached) ? closed_acl_bits(change.status.st_mode)
                                           : um_upper_overridden_bits(change.status.st_mode, mode);
    return 1;
}
