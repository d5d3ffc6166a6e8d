#include "upper/state.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "marks/override_stat.h"
#include "marks/whiteout.h"
#include "system/open_beneath.h"
#include "system/posix_acl.h"

/* What an object of the upper shows is what stat says of it on disk, but for what the xattr
 * user.containers.override_stat says otherwise. podman and fuse-overlayfs write it, and so does this
 * file, for what is *kept apart*:
 *
 * - Everything (UM_UPPER_OVERRIDE), where the daemon is an ordinary user, or where what it makes must have
 *   no power on disk. There all is the daemon's own, which can always read and write it, nobody else can
 *   write it, and it carries no set-user-ID bit. Devices are empty files; so are FIFOs and sockets that
 *   belong to someone else, as only files and directories can have the xattr. For the same reason a
 *   symlink of an ordinary user's is always the daemon's.
 * - A character device 0:0. On disk that would be a whiteout.
 * - The root, where its directory on disk is to stay as closed as it is (UM_UPPER_CLOSED_ROOT).
 * - What came so from elsewhere: it stays so.
 *
 * Where the disk alone shows what is wanted, there is no xattr. Whoever may write to a file may set the
 * xattr, so it is believed where the disk says that nobody else may. */

#define KEEP UINT32_MAX

static int failed(void)
{
    return -errno;
}

static bool is_override(const struct um_upper *upper)
{
    return (upper->flags & UM_UPPER_OVERRIDE) != 0;
}

/* user.* xattrs are for files and directories. */
static bool has_room(uint32_t mode)
{
    return S_ISREG(mode) || S_ISDIR(mode);
}

/* ---- what shows ---------------------------------------------------------------------------------- */

/* 1 where override_stat says it, 0 where the disk does, or an errno. A text that makes no sense, that is
 * not believed, or that the daemon may not read, says nothing. */
static int read_shown(struct um_upper *upper, struct um_spot *spot, const struct stat *status,
                      struct um_override *shown)
{
    char text[UM_OVERRIDE_TEXT];
    struct um_override override;
    *shown = (struct um_override){.uid = status->st_uid,
                                  .gid = status->st_gid,
                                  .mode = status->st_mode & 07777,
                                  .type = status->st_mode & S_IFMT,
                                  .major = major(status->st_rdev),
                                  .minor = minor(status->st_rdev)};
    if (!has_room(status->st_mode) || spot->plain || !um_disk_believes(upper, status))
        return 0;
    int64_t size = um_spot_getxattr_of(upper, spot, status, UM_OVERRIDE_XATTR, text, sizeof text);
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

int um_disk_attr(struct um_upper *upper, struct um_spot *spot, const struct stat *status,
                 struct um_attr *attr)
{
    struct um_override shown;
    int found = read_shown(upper, spot, status, &shown);
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

/* ---- letting it show ------------------------------------------------------------------------------- */

/* The permissions on disk of what is kept apart: never without access for the daemon, nor such that
 * others could write, and so say what it shows. */
static uint32_t own_bits(uint32_t type, uint32_t mode)
{
    return (mode & 0755) | (S_ISDIR(type) ? 0700 : 0600);
}

static bool is_closed_root(const struct um_upper *upper, const struct um_spot *spot)
{
    return (upper->flags & UM_UPPER_CLOSED_ROOT) && spot->fd == upper->upper_fd &&
           um_spot_is_self(spot);
}

/* The permissions on disk, now `status`, of what shows `mode`. */
static uint32_t kept_bits(const struct um_upper *upper, const struct um_spot *spot,
                          const struct stat *status, uint32_t mode)
{
    if (is_closed_root(upper, spot))
        return (status->st_mode & 07777) | (is_override(upper) ? 0700 : 0);
    return own_bits(status->st_mode, mode);
}

/* An ACL's mask lets in whom it names: no more than everybody who is in already. */
static uint32_t closed_acl_bits(uint32_t mode)
{
    return (mode & 0707) | (mode & mode << 3 & 070);
}

static bool disk_shows(const struct stat *status, const struct um_override *shown)
{
    return status->st_uid == shown->uid && status->st_gid == shown->gid &&
           (status->st_mode & 07777) == shown->mode && (status->st_mode & S_IFMT) == shown->type;
}

static int put_override(struct um_spot *spot, const struct um_override *shown)
{
    char text[UM_OVERRIDE_TEXT];
    size_t size = um_override_format(shown, text);
    return um_spot_setxattr(spot, UM_OVERRIDE_XATTR, text, size, 0);
}

/* Put into override_stat what the disk, which is at `status`, does not show. */
static int write_override(struct um_spot *spot, const struct stat *status,
                          const struct um_override *shown, bool had)
{
    if (!disk_shows(status, shown))
        return put_override(spot, shown);
    int error = had ? um_spot_removexattr(spot, UM_OVERRIDE_XATTR) : 0;
    return error == -ENODATA ? 0 : error;
}

/* Bring override_stat up to date, after the disk was changed as far as that was possible. */
static int update_override(struct um_upper *upper, struct um_spot *spot,
                           const struct um_override *shown, bool had)
{
    struct stat status;
    int error = um_spot_stat(spot, &status);
    if (error != 0)
        return error;
    uint32_t bits = kept_bits(upper, spot, &status, shown->mode);
    if ((status.st_mode & 07777) != bits)
        error = um_spot_chmod(spot, bits);
    status.st_mode = (status.st_mode & S_IFMT) | bits;
    if (error == 0 && !um_disk_believes(upper, &status))
        error = -EPERM; /* a directory that is somebody else's: nobody would believe it */
    if (error != 0)
        return error;
    /* The root's says all, so that whoever closes the directory changes nothing of what it shows. */
    return is_closed_root(upper, spot) ? put_override(spot, shown)
                                       : write_override(spot, &status, shown, had);
}

/* As chown(2) does it, also for root. */
static uint32_t without_set_id(uint32_t mode)
{
    mode &= ~(uint32_t)S_ISUID;
    return mode & S_IXGRP ? mode & ~(uint32_t)S_ISGID : mode;
}

/* What is known of an object that is about to be changed. */
struct change {
    struct stat status;
    struct um_override shown;
    bool had;   /* override_stat says it */
    bool apart; /* what shows is kept apart from what is on disk */
};

/* As read_shown, to change it: something brought here from elsewhere may keep the daemon out. */
static int begin_change(struct um_upper *upper, struct um_spot *spot, struct change *change)
{
    struct stat *status = &change->status;
    int error = um_spot_stat(spot, status);
    if (error != 0)
        return error;
    bool room = has_room(status->st_mode);
    uint32_t needed = own_bits(status->st_mode, 0);
    if (is_override(upper) && room && (status->st_mode & needed) != needed)
        error = um_spot_chmod(spot, status->st_mode | needed);
    int had = error ? error : read_shown(upper, spot, status, &change->shown);
    if (had < 0)
        return had;
    change->had = had;
    change->apart = room && (is_override(upper) || had || is_closed_root(upper, spot));
    return 0;
}

/* The capability of a file that the daemon is about to own, put where it stays. */
static int keep_capability(struct um_upper *upper, struct um_spot *spot)
{
    char value[64];
    int64_t size = um_spot_getxattr(spot, UM_CAPABILITY, value, sizeof value);
    if (size < 0)
        return 0; /* none, or none that means anything */
    int error = um_mark_capability(upper, spot, value, (size_t)size);
    spot->capable = true;
    return error;
}

/* Where others may exchange what stands under a name, hold on to what stands there: all steps of a change
 * are made on one object. To be let go of in any case. */
static int hold(const struct um_upper *upper, const struct um_spot *spot, struct um_spot *held)
{
    *held = *spot;
    held->cache = NULL;
    if (!(upper->flags & UM_UPPER_OPEN) || um_spot_is_self(spot))
        return 0;
    int fd = um_spot_open(spot, O_PATH);
    if (fd < 0)
        return fd;
    held->fd = fd;
    held->name[0] = '\0';
    return 0;
}

static void let_go(struct um_spot *spot, const struct um_spot *held)
{
    spot->capable = held->capable;
    if (held->fd != spot->fd)
        close(held->fd);
}

/* Say again what an object shows that is the daemon's since this moment: who owned it before could write the
 * mark, and the mode, up to then. */
static int settle_claim(struct um_spot *spot, const struct change *change)
{
    int error = um_spot_chmod(spot, change->status.st_mode & 0755);
    if (error == 0)
        error = put_override(spot, &change->shown);
    if (error != 0)
        um_spot_removexattr(spot, UM_OVERRIDE_XATTR);
    return error;
}

/* Let the daemon own what an earlier mount gave away on disk, before what it shows is kept apart. In this
 * order: a mark on somebody else's file is not believed, and the step that makes it so takes the
 * set-user-ID bits and the capability away. `given`: so does what the user of the mount asked for, chown. */
static int take_over(struct um_upper *upper, struct um_spot *spot, struct change *change,
                     bool given)
{
    struct stat *status = &change->status;
    if (!change->apart || !is_override(upper) || is_closed_root(upper, spot) ||
        status->st_uid == geteuid())
        return 0;
    int error = put_override(spot, &change->shown);
    if (error == 0 && (status->st_mode & 022))
        error = um_spot_chmod(spot, status->st_mode & ~022u);
    if (error == 0 && S_ISREG(status->st_mode) && !given)
        error = keep_capability(upper, spot);
    if (error == 0)
        error = um_spot_chown(spot, geteuid(), getegid());
    if (error == 0)
        error = settle_claim(spot, change);
    change->had = true;
    return error;
}

/* A device on disk has the power that its owner and mode give it, and can't be kept apart. */
static bool is_forbidden(const struct um_upper *upper, const struct stat *status)
{
    return is_override(upper) && is_device(status->st_mode);
}

int um_disk_drop_claim(struct um_upper *upper, struct um_spot *spot, const struct stat *before)
{
    struct stat after;
    if (!has_room(before->st_mode) || um_disk_believes(upper, before))
        return 0;
    int error = um_spot_stat(spot, &after);
    if (error != 0 || !um_disk_believes(upper, &after))
        return error;
    error = um_spot_removexattr(spot, UM_OVERRIDE_XATTR);
    return error == -ENODATA || error == -EOPNOTSUPP ? 0 : error;
}

/* The owner of a symlink where the daemon may set it; an ordinary user's is the daemon's. */
static int chown_symlink(struct um_upper *upper, const struct um_spot *spot, uint32_t uid,
                         uint32_t gid)
{
    int error = um_spot_chown(spot, uid, gid);
    if (error == -EPERM && is_override(upper))
        error = um_spot_chown(spot, KEEP, KEEP); /* for the change time */
    return error;
}

static int change_owner(struct um_upper *upper, struct um_spot *spot, uint32_t uid, uint32_t gid)
{
    struct change change;
    int error = begin_change(upper, spot, &change);
    if (error != 0)
        return error;
    if (is_forbidden(upper, &change.status))
        return -EPERM;
    if (S_ISLNK(change.status.st_mode))
        return chown_symlink(upper, spot, uid, gid);
    if (!change.apart) {
        error = um_spot_chown(spot, uid, gid);
        return error ? error : um_disk_drop_claim(upper, spot, &change.status);
    }
    error = take_over(upper, spot, &change, true);
    if (error == 0)
        error = um_spot_chown(spot, KEEP, KEEP); /* for the change time */
    if (error != 0)
        return error;
    struct um_override shown = change.shown;
    shown.uid = uid == KEEP ? shown.uid : uid;
    shown.gid = gid == KEEP ? shown.gid : gid;
    if (!S_ISDIR(shown.type))
        shown.mode = without_set_id(shown.mode);
    return update_override(upper, spot, &shown, change.had);
}

int um_disk_chown(struct um_upper *upper, struct um_spot *spot, uint32_t uid, uint32_t gid)
{
    struct um_spot held;
    int error = hold(upper, spot, &held);
    if (error == 0)
        error = change_owner(upper, &held, uid, gid);
    let_go(spot, &held);
    return error;
}

static int change_mode(struct um_upper *upper, struct um_spot *spot, uint32_t mode)
{
    struct change change;
    int error = begin_change(upper, spot, &change);
    if (error != 0)
        return error;
    if (S_ISLNK(change.status.st_mode))
        return -EOPNOTSUPP;
    if (is_forbidden(upper, &change.status))
        return -EPERM;
    if (!change.apart) {
        error = um_spot_chmod(spot, mode);
        return error ? error : um_disk_drop_claim(upper, spot, &change.status);
    }
    error = take_over(upper, spot, &change, false);
    change.shown.mode = mode & 07777;
    if (error == 0)
        error = um_spot_chmod(spot, kept_bits(upper, spot, &change.status, mode));
    return error ? error : update_override(upper, spot, &change.shown, change.had);
}

int um_disk_chmod(struct um_upper *upper, struct um_spot *spot, uint32_t mode)
{
    struct um_spot held;
    int error = hold(upper, spot, &held);
    if (error == 0)
        error = change_mode(upper, &held, mode);
    let_go(spot, &held);
    return error;
}

int um_disk_keeps_apart(struct um_upper *upper, struct um_spot *spot, uint32_t mode, uint32_t *kept)
{
    struct change change;
    int error = begin_change(upper, spot, &change);
    if (error != 0 || !change.apart)
        return error;
    *kept = is_closed_root(upper, spot) ? closed_acl_bits(change.status.st_mode)
                                        : own_bits(change.status.st_mode, mode);
    return 1;
}

/* ---- ACLs ------------------------------------------------------------------------------------------ */

int um_disk_has_default_acl(struct um_spot *directory)
{
    int64_t size = um_spot_getxattr(directory, UM_ACL_DEFAULT, NULL, 0);
    if (size == -ENODATA || size == -EOPNOTSUPP)
        return 0;
    return size < 0 ? (int)size : 1;
}

/* The default ACL of a directory, malloced; *size is 0 where it has none. */
static int read_default_acl(struct um_spot *directory, uint8_t **acl, size_t *size)
{
    int64_t got;
    *size = 0;
    do {
        free(um_steal(acl));
        got = um_spot_getxattr(directory, UM_ACL_DEFAULT, NULL, 0);
        if (got <= 0)
            break;
        *acl = malloc((size_t)got);
        if (*acl == NULL)
            return -ENOMEM;
        got = um_spot_getxattr(directory, UM_ACL_DEFAULT, *acl, (size_t)got);
    } while (got == -ERANGE); /* somebody made it longer meanwhile */
    if (got == -ENODATA || got == -EOPNOTSUPP)
        return 0;
    if (got < 0)
        return (int)got;
    *size = (size_t)got;
    return 0;
}

int um_disk_inherit_acl(struct um_upper *upper, struct um_spot *directory, struct um_spot *made,
                        uint32_t mode)
{
    um_autofree uint8_t *acl = NULL;
    size_t size;
    if (S_ISLNK(mode))
        return (int)mode;
    int error = read_default_acl(directory, &acl, &size);
    if (error != 0 || size == 0)
        return error ? error : (int)mode;
    if (S_ISDIR(mode))
        error = um_spot_setxattr(made, UM_ACL_DEFAULT, acl, size, 0);
    if (error != 0)
        return error;
    int needed = um_acl_inherit(acl, size, &mode);
    if (needed < 0)
        return -EIO; /* the kernel accepts no such ACL */
    if (needed)
        error = um_disk_setxattr(upper, made, UM_ACL_ACCESS, acl, size, 0);
    if (error == 0)
        error = um_disk_chmod(upper, made, mode);
    return error ? error : (int)mode;
}

/* Take away what a new object got from the default ACL of the directory that it was made in. */
static int strip_acls(struct um_spot *made, uint32_t type)
{
    int error = um_spot_removexattr(made, UM_ACL_ACCESS);
    if ((error == 0 || error == -ENODATA) && S_ISDIR(type))
        error = um_spot_removexattr(made, UM_ACL_DEFAULT);
    return error == -ENODATA ? 0 : error;
}

int um_disk_disinherit(struct um_upper *upper, int fd, const char *name, uint32_t type)
{
    struct um_spot made;
    if (!upper->work_inherits)
        return 0;
    int error = um_spot_in(upper, fd, um_slice_of(name, strlen(name)), &made);
    return error ? error : strip_acls(&made, type);
}

/* ---- making ----------------------------------------------------------------------------------------- */

/* As what a new object stands on disk. */
static uint32_t type_on_disk(const struct um_upper *upper, const struct um_owner *owner)
{
    uint32_t type = owner->mode & S_IFMT;
    if (S_ISCHR(type) && um_whiteout_is_device(owner->major, owner->minor))
        return S_IFREG;
    if (!is_override(upper) || S_ISDIR(type) || S_ISLNK(type))
        return type;
    bool own = !(upper->flags & UM_UPPER_OPEN) && owner->uid == geteuid() &&
               owner->gid == getegid() && (owner->mode & 07000) == 0;
    return (S_ISFIFO(type) || S_ISSOCK(type)) && own ? type : S_IFREG;
}

/* Whether what a new object shows is kept apart: its type on disk is `type`. */
static bool makes_apart(const struct um_upper *upper, uint32_t type, const struct um_owner *owner)
{
    return has_room(type) && (is_override(upper) || type != (owner->mode & S_IFMT));
}

/* The permissions that a new object is created with: at no moment more than it is to have on disk, and
 * without the bits that let others act as the owner, as who that is, is not settled yet. */
static uint32_t first_bits(const struct um_upper *upper, uint32_t type,
                           const struct um_owner *owner)
{
    return makes_apart(upper, type, owner) ? own_bits(type, owner->mode) : owner->mode & 0777;
}

static int create(int fd, const char *name, uint32_t type, uint32_t bits,
                  const struct um_owner *owner, const char *target)
{
    switch (type) {
    case S_IFDIR:
        return mkdirat(fd, name, bits) == 0 ? 0 : failed();
    case S_IFLNK:
        return symlinkat(target, fd, name) == 0 ? 0 : failed();
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
        return mknodat(fd, name, type | bits, 0) == 0 ? 0 : failed();
    case S_IFCHR:
    case S_IFBLK:
        return mknodat(fd, name, type | bits, makedev(owner->major, owner->minor)) == 0 ? 0
                                                                                        : failed();
    default:
        return -EINVAL;
    }
}

static int finish_symlink(struct um_upper *upper, struct um_spot *made, const struct stat *status,
                          const struct um_owner *owner)
{
    bool shows = status->st_uid == owner->uid && status->st_gid == owner->gid;
    return shows ? 0 : chown_symlink(upper, made, owner->uid, owner->gid);
}

/* The permissions that a new object, created with `bits`, shall show: those asked for, or what an
 * inherited ACL left of them. What else takes some away, the process's umask, is not to be seen. */
static int settle_mode(const struct um_upper *upper, int fd, struct um_spot *made,
                       const struct stat *status, uint32_t mode, uint32_t bits, bool inherit,
                       uint32_t *settled)
{
    struct um_spot directory;
    um_autofree uint8_t *acl = NULL;
    size_t size;
    *settled = mode & 07777;
    if (inherit && (status->st_mode & 0777) == bits && bits == (mode & 0777))
        return 0;
    int error = um_spot_in(upper, fd, (struct um_slice){0}, &directory);
    if (error == 0)
        error = read_default_acl(&directory, &acl, &size);
    if (error != 0 || size == 0)
        return error;
    if (!inherit)
        return strip_acls(made, status->st_mode);
    /* The ACL that it has on disk names the same; what it grants goes by the mode. */
    return um_acl_inherit(acl, size, settled) < 0 ? -EIO : 0;
}

/* Let what was created become what it shall show. */
static int finish(struct um_upper *upper, int fd, struct um_spot *made,
                  const struct um_owner *owner, uint32_t created, bool inherit)
{
    struct stat status;
    struct um_override shown = {.uid = owner->uid,
                                .gid = owner->gid,
                                .type = owner->mode & S_IFMT,
                                .major = owner->major,
                                .minor = owner->minor};
    int error = um_spot_stat(made, &status);
    if (error != 0)
        return error;
    if (S_ISLNK(status.st_mode))
        return finish_symlink(upper, made, &status, owner);
    error = settle_mode(upper, fd, made, &status, owner->mode, created, inherit, &shown.mode);
    bool keep = makes_apart(upper, status.st_mode & S_IFMT, owner);
    if (error == 0 && !keep && (status.st_uid != shown.uid || status.st_gid != shown.gid)) {
        error = um_spot_chown(made, shown.uid, shown.gid);
        status.st_uid = shown.uid;
        status.st_gid = shown.gid;
    }
    uint32_t bits = keep ? own_bits(status.st_mode, shown.mode) : shown.mode;
    if (error == 0 && (status.st_mode & 07777) != bits)
        error = um_spot_chmod(made, bits);
    status.st_mode = (status.st_mode & S_IFMT) | bits;
    return error ? error : write_override(made, &status, &shown, false);
}

int um_disk_make(struct um_upper *upper, int fd, const char *name, const struct um_owner *owner,
                 const char *target, bool inherit)
{
    struct um_spot made;
    uint32_t type = type_on_disk(upper, owner);
    uint32_t bits = first_bits(upper, type, owner);
    int error = um_spot_in(upper, fd, um_slice_of(name, strlen(name)), &made);
    if (error == 0)
        error = create(fd, name, type, bits, owner, target);
    if (error != 0)
        return error;
    error = finish(upper, fd, &made, owner, bits, inherit);
    if (error != 0)
        unlinkat(fd, name, S_ISDIR(type) ? AT_REMOVEDIR : 0);
    return error;
}

int um_disk_make_nameless(struct um_upper *upper, int fd, const struct um_owner *owner, int *made)
{
    struct um_spot spot;
    uint32_t bits = first_bits(upper, S_IFREG, owner);
    *made = um_open_beneath(fd, ".", O_TMPFILE | O_RDWR | um_disk_quiet(upper), bits);
    if (*made < 0)
        return *made;
    int error = um_spot_in(upper, *made, (struct um_slice){0}, &spot);
    if (error == 0)
        error = finish(upper, fd, &spot, owner, bits, true);
    if (error != 0)
        close(*made);
    return error;
}

/* ---- setattr ------------------------------------------------------------------------------------------ */

int um_record_raise(struct um_upper *upper, struct um_record *record, enum um_need need)
{
    return record->directory ? um_copy_up_directory(upper, record)
                             : um_copy_up_now(upper, record, need);
}

void um_record_rest(struct um_upper *upper, struct um_record *record)
{
    um_record_demote(upper, record);
    um_record_unpin(upper, record);
}

#define SET_ATIME (UM_SET_ATIME | UM_SET_ATIME_NOW)
#define SET_MTIME (UM_SET_MTIME | UM_SET_MTIME_NOW)

/* Refuse what can't be done before anything is. */
static int check_changes(struct um_upper *upper, struct um_record *record,
                         const struct um_setattr *changes)
{
    const uint32_t second = 1000000000;
    struct um_attr attr;
    if (((changes->which & UM_SET_ATIME) && changes->atime_nsec >= second) ||
        ((changes->which & UM_SET_MTIME) && changes->mtime_nsec >= second))
        return -EINVAL;
    if (!(changes->which & UM_SET_SIZE))
        return 0;
    if (record->directory)
        return -EISDIR;
    if (changes->size > INT64_MAX)
        return -EFBIG;
    int error = um_record_attr(upper, record, &attr);
    if (error != 0)
        return error;
    return S_ISREG(attr.mode) ? 0 : -EINVAL;
}

static int resize(int fd, uint64_t size)
{
    int result;
    do {
        result = ftruncate(fd, (off_t)size);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : failed();
}

/* ftruncate, not truncate: only that sets the times where the size stays, as O_TRUNC must. */
static int set_size(const struct um_record *record, const struct um_spot *spot, uint64_t size)
{
    if (record->fd >= 0 && record->writable)
        return resize(record->fd, size);
    int fd = um_spot_open(spot, O_WRONLY);
    if (fd < 0)
        return fd;
    int error = resize(fd, size);
    close(fd);
    return error;
}

static struct timespec time_to_set(uint32_t given, uint32_t now, int64_t seconds, uint32_t nsec)
{
    if (now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (given)
        return (struct timespec){.tv_sec = seconds, .tv_nsec = nsec};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_times(const struct um_spot *spot, const struct um_setattr *changes)
{
    uint32_t which = changes->which;
    struct timespec times[2] = {
        time_to_set(which & UM_SET_ATIME, which & UM_SET_ATIME_NOW, changes->atime,
                    changes->atime_nsec),
        time_to_set(which & UM_SET_MTIME, which & UM_SET_MTIME_NOW, changes->mtime,
                    changes->mtime_nsec),
    };
    return um_spot_times(spot, times);
}

/* In this order: a new size and owner clear bits of the mode and set the times. */
static int apply(struct um_upper *upper, const struct um_record *record, struct um_spot *spot,
                 const struct um_setattr *changes)
{
    uint32_t which = changes->which;
    int error = 0;
    if (which & UM_SET_SIZE)
        error = set_size(record, spot, changes->size);
    if (error == 0 && (which & (UM_SET_UID | UM_SET_GID)))
        error = um_disk_chown(upper, spot, which & UM_SET_UID ? changes->uid : KEEP,
                              which & UM_SET_GID ? changes->gid : KEEP);
    if (error == 0 && (which & UM_SET_MODE))
        error = um_disk_chmod(upper, spot, changes->mode);
    if (error == 0 && (which & (SET_ATIME | SET_MTIME)))
        error = set_times(spot, changes);
    return error == -ENOENT ? -ESTALE : error;
}

static int change(struct um_upper *upper, struct um_record *record,
                  const struct um_setattr *changes)
{
    struct um_spot spot = {0};
    enum um_need need = !(changes->which & UM_SET_SIZE) ? UM_NEED_NAME
                        : changes->size == 0            ? UM_NEED_EMPTY
                                                        : UM_NEED_DATA;
    int error = check_changes(upper, record, changes);
    if (error == 0 && record->data != 0 && um_upper_is_copying(upper, record->node))
        error = -EAGAIN;
    if (error == 0)
        error = um_record_raise(upper, record, need);
    if (error == 0 && (changes->which & (UM_SET_SIZE | UM_SET_UID | UM_SET_GID)))
        error = um_record_lose_capability(upper, record);
    if (error == 0)
        error = um_spot_of(upper, record, &spot);
    if (error == 0)
        error = apply(upper, record, &spot, changes);
    if (error == 0 && spot.capable)
        record->capable = true;
    um_spot_close(&spot);
    return error;
}

int um_upper_setattr(struct um_upper *upper, uint64_t node, const struct um_setattr *changes,
                     struct um_attr *attr)
{
    struct um_record *record;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_need(upper, node, &record);
    if (error == 0) {
        if (changes->which != 0)
            error = change(upper, record, changes);
        if (error == 0)
            error = um_record_attr(upper, record, attr);
        um_record_rest(upper, record);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}
