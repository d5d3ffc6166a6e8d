#include "upper_private.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "open_beneath.h"
#include "override_stat.h"
#include "posix_acl.h"
#include "whiteout.h"

/* What an object of the upper shows is what stat says of it on disk, but for what the xattr
 * user.containers.override_stat says otherwise. It is believed in every upper, root's too: podman and
 * fuse-overlayfs write it, and so does this file, in two cases:
 *
 * - The daemon is an ordinary user (UM_UPPER_OVERRIDE). On disk everything is then the daemon's own,
 *   which can always read and write it, and carries no set-user-ID bit. Devices are empty files; so
 *   are FIFOs and sockets that belong to someone else, as only files and directories can have the
 *   xattr. For the same reason a symlink is always the daemon's.
 * - Somebody makes a character device 0:0. On disk that would be a whiteout.
 *
 * Where the disk alone shows what is wanted, there is no xattr. */

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

/* 1 where override_stat says it, 0 where the disk does, or an errno. A text that makes no sense, or
 * that the daemon may not read, says nothing. */
static int read_shown(struct um_spot *spot, const struct stat *status, struct um_override *shown)
{
    char text[UM_OVERRIDE_TEXT];
    struct um_override override;
    *shown = (struct um_override){.uid = status->st_uid,
                                  .gid = status->st_gid,
                                  .mode = status->st_mode & 07777,
                                  .type = status->st_mode & S_IFMT,
                                  .major = major(status->st_rdev),
                                  .minor = minor(status->st_rdev)};
    if (!has_room(status->st_mode) || spot->plain)
        return 0;
    int64_t size = um_spot_getxattr(spot, UM_OVERRIDE_XATTR, text, sizeof text);
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
    int found = read_shown(spot, status, &shown);
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

/* The permissions on disk of what an ordinary user keeps: never without access for the daemon. */
static uint32_t own_bits(uint32_t type, uint32_t mode)
{
    return (mode & 0777) | (S_ISDIR(type) ? 0700 : 0600);
}

static bool disk_shows(const struct stat *status, const struct um_override *shown)
{
    return status->st_uid == shown->uid && status->st_gid == shown->gid &&
           (status->st_mode & 07777) == shown->mode && (status->st_mode & S_IFMT) == shown->type;
}

/* Put into override_stat what the disk, which is at `status`, does not show. */
static int write_override(struct um_spot *spot, const struct stat *status,
                          const struct um_override *shown, bool had)
{
    char text[UM_OVERRIDE_TEXT];
    if (!disk_shows(status, shown)) {
        size_t size = um_override_format(shown, text);
        return um_spot_setxattr(spot, UM_OVERRIDE_XATTR, text, size, 0);
    }
    int error = had ? um_spot_removexattr(spot, UM_OVERRIDE_XATTR) : 0;
    return error == -ENODATA ? 0 : error;
}

/* Bring override_stat up to date, after the disk was changed as far as that was possible. */
static int update_override(struct um_upper *upper, struct um_spot *spot,
                           const struct um_override *shown, bool had)
{
    struct stat status;
    int error = um_spot_stat(spot, &status);
    if (error == 0 && is_override(upper)) {
        uint32_t bits = own_bits(status.st_mode, shown->mode);
        if ((status.st_mode & 07777) != bits)
            error = um_spot_chmod(spot, bits);
        status.st_mode = (status.st_mode & S_IFMT) | bits;
    }
    return error ? error : write_override(spot, &status, shown, had);
}

/* As chown(2) does it, also for root. */
static uint32_t without_set_id(uint32_t mode)
{
    mode &= ~(uint32_t)S_ISUID;
    return mode & S_IXGRP ? mode & ~(uint32_t)S_ISGID : mode;
}

/* As read_shown, to change it: something brought here from elsewhere may keep the daemon out. */
static int read_to_change(struct um_upper *upper, struct um_spot *spot, struct stat *status,
                          struct um_override *shown)
{
    int error = um_spot_stat(spot, status);
    uint32_t needed = own_bits(status->st_mode, 0);
    if (error == 0 && is_override(upper) && has_room(status->st_mode) &&
        (status->st_mode & needed) != needed)
        error = um_spot_chmod(spot, status->st_mode | needed);
    return error ? error : read_shown(spot, status, shown);
}

int um_disk_chown(struct um_upper *upper, struct um_spot *spot, uint32_t uid, uint32_t gid)
{
    struct stat status = {0};
    struct um_override shown;
    int had = read_to_change(upper, spot, &status, &shown);
    if (had < 0)
        return had;
    bool keep = is_override(upper) && (has_room(status.st_mode) || S_ISLNK(status.st_mode));
    /* Where the disk keeps its owner, this is for the change time. */
    int error = um_spot_chown(spot, keep ? KEEP : uid, keep ? KEEP : gid);
    if (error != 0 || !has_room(status.st_mode) || !(is_override(upper) || had))
        return error;
    shown.uid = uid == KEEP ? shown.uid : uid;
    shown.gid = gid == KEEP ? shown.gid : gid;
    if (!S_ISDIR(shown.type))
        shown.mode = without_set_id(shown.mode);
    return update_override(upper, spot, &shown, had);
}

int um_disk_chmod(struct um_upper *upper, struct um_spot *spot, uint32_t mode)
{
    struct stat status = {0};
    struct um_override shown;
    int had = read_to_change(upper, spot, &status, &shown);
    if (had < 0)
        return had;
    if (S_ISLNK(status.st_mode))
        return -EOPNOTSUPP;
    if (!has_room(status.st_mode) || !(is_override(upper) || had))
        return um_spot_chmod(spot, mode);
    shown.mode = mode & 07777;
    int error = um_spot_chmod(spot, is_override(upper) ? own_bits(status.st_mode, mode) : mode);
    return error ? error : update_override(upper, spot, &shown, had);
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

/* ---- making ----------------------------------------------------------------------------------------- */

/* As what a new object stands on disk. */
static uint32_t type_on_disk(const struct um_upper *upper, const struct um_owner *owner)
{
    uint32_t type = owner->mode & S_IFMT;
    if (S_ISCHR(type) && um_whiteout_is_device(owner->major, owner->minor))
        return S_IFREG;
    if (!is_override(upper) || S_ISDIR(type) || S_ISLNK(type))
        return type;
    bool own = owner->uid == geteuid() && owner->gid == getegid() && (owner->mode & 07000) == 0;
    return (S_ISFIFO(type) || S_ISSOCK(type)) && own ? type : S_IFREG;
}

/* Without the bits that let others act as the owner: who that is, is not settled yet. */
static int create(int fd, const char *name, uint32_t type, const struct um_owner *owner,
                  const char *target)
{
    uint32_t bits = owner->mode & 0777;
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
    return shows || is_override(upper) ? 0 : um_spot_chown(made, owner->uid, owner->gid);
}

/* The permissions that a new object shall show: those asked for, or what an inherited ACL left of
 * them. What else takes some away, the process's umask, is not to be seen. */
static int settle_mode(const struct um_upper *upper, int fd, struct um_spot *made,
                       const struct stat *status, uint32_t mode, bool inherit, uint32_t *settled)
{
    struct um_spot directory;
    *settled = mode & 07777;
    if (inherit && (status->st_mode & 0777) == (mode & 0777))
        return 0;
    int error = um_spot_in(upper, fd, (struct um_slice){0}, &directory);
    int has_acl = error ? error : um_disk_has_default_acl(&directory);
    if (has_acl <= 0)
        return has_acl;
    if (!inherit)
        return strip_acls(made, status->st_mode);
    *settled = (status->st_mode & 0777) | (mode & 07000);
    return 0;
}

/* Let what was created become what it shall show. */
static int finish(struct um_upper *upper, int fd, struct um_spot *made,
                  const struct um_owner *owner, bool inherit)
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
    error = settle_mode(upper, fd, made, &status, owner->mode, inherit, &shown.mode);
    bool keep = is_override(upper) && has_room(status.st_mode);
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
    int error = um_spot_in(upper, fd, um_slice_of(name, strlen(name)), &made);
    if (error == 0)
        error = create(fd, name, type, owner, target);
    if (error != 0)
        return error;
    error = finish(upper, fd, &made, owner, inherit);
    if (error != 0)
        unlinkat(fd, name, S_ISDIR(type) ? AT_REMOVEDIR : 0);
    return error;
}

int um_disk_make_nameless(struct um_upper *upper, int fd, const struct um_owner *owner, int *made)
{
    struct um_spot spot;
    *made = um_open_beneath(fd, ".", O_TMPFILE | O_RDWR, owner->mode & 0777);
    if (*made < 0)
        return *made;
    int error = um_spot_in(upper, *made, (struct um_slice){0}, &spot);
    if (error == 0)
        error = finish(upper, fd, &spot, owner, true);
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
    /* It is a file, but for one that somebody put there this moment: nothing waits for a FIFO. */
    int fd = um_spot_open(spot, O_WRONLY | O_NONBLOCK | O_NOCTTY);
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
    if (error == 0)
        error = um_spot_of(upper, record, &spot);
    if (error == 0)
        error = apply(upper, record, &spot, changes);
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
