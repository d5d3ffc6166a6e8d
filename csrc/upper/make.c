#include "upper/make.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "marks/override_stat.h"
#include "system/open_beneath.h"
#include "system/posix_acl.h"
#include "upper/object.h"
#include "upper/object_xattr.h"
#include "upper/work.h"

static bool obeys_acls(const struct um_upper *upper)
{
    return !(upper->flags & UM_UPPER_NO_ACLS);
}

int um_upper_has_default_acl(struct um_upper_reached *directory)
{
    int64_t size = um_upper_reached_getxattr(directory, UM_ACL_DEFAULT, NULL, 0);
    if (size == -ENODATA || size == -EOPNOTSUPP)
        return 0;
    return size < 0 ? (int)size : 1;
}

/* Read the default ACL of a directory, malloced; *size is 0 where it has none. */
static int read_default_acl(struct um_upper_reached *directory, uint8_t **acl, size_t *size)
{
    int64_t got;
    *size = 0;
    do {
        free(um_steal(acl));
        got = um_upper_reached_getxattr(directory, UM_ACL_DEFAULT, NULL, 0);
        if (got <= 0)
            break;
        *acl = malloc((size_t)got);
        if (*acl == NULL)
            return -ENOMEM;
        got = um_upper_reached_getxattr(directory, UM_ACL_DEFAULT, *acl, (size_t)got);
    } while (got == -ERANGE); /* it became longer meanwhile */
    if (got == -ENODATA || got == -EOPNOTSUPP)
        return 0;
    if (got < 0)
        return (int)got;
    *size = (size_t)got;
    return 0;
}

int um_upper_inherit_acl(struct um_upper *upper, struct um_upper_reached *directory,
                         struct um_upper_reached *made, uint32_t mode)
{
    um_autofree uint8_t *acl = NULL;
    size_t size;
    if (S_ISLNK(mode) || !obeys_acls(upper))
        return (int)mode;
    int error = read_default_acl(directory, &acl, &size);
    if (error != 0 || size == 0)
        return error ? error : (int)mode;
    if (S_ISDIR(mode))
        error = um_upper_reached_setxattr(made, UM_ACL_DEFAULT, acl, size, 0);
    if (error != 0)
        return error;
    int needed = um_acl_inherit(acl, size, &mode);
    if (needed < 0)
        return -EIO; /* the kernel accepts no such ACL */
    if (needed)
        error = um_upper_object_setxattr(upper, made, UM_ACL_ACCESS, acl, size, 0);
    if (error == 0)
        error = um_upper_object_chmod(upper, made, mode);
    return error ? error : (int)mode;
}

/* The type that a new object has on disk. */
static uint32_t type_on_disk(const struct um_upper *upper, const struct um_upper_new_object *wanted)
{
    uint32_t type = wanted->mode & S_IFMT;
    if (S_ISCHR(type) && um_whiteout_is_device(wanted->major, wanted->minor))
        return S_IFREG;
    if (!(upper->flags & UM_UPPER_OVERRIDE) || S_ISDIR(type) || S_ISLNK(type))
        return type;
    bool own = !(upper->flags & UM_UPPER_OPEN) && wanted->uid == geteuid() &&
               wanted->gid == getegid() && (wanted->mode & 07000) == 0;
    return (S_ISFIFO(type) || S_ISSOCK(type)) && own ? type : S_IFREG;
}

/* Whether what a new object shows is overridden; its type on disk is `type`. */
static bool makes_overridden(const struct um_upper *upper, uint32_t type,
                             const struct um_upper_new_object *wanted)
{
    return um_upper_takes_user_xattrs(type) &&
           (um_upper_overrides(upper) || type != (wanted->mode & S_IFMT));
}

/* The permissions that a new object is created with: no more than it shall have on disk, and no set-ID
 * bits, as its owner is not set yet. */
static uint32_t first_bits(const struct um_upper *upper, uint32_t type,
                           const struct um_upper_new_object *wanted)
{
    return makes_overridden(upper, type, wanted) ? um_upper_overridden_bits(type, wanted->mode)
                                                 : wanted->mode & 0777;
}

/* Create a file and open it: *opened stays -1 where it can't be opened. */
static int create_file(const struct um_upper *upper, int fd, const char *name, uint32_t bits,
                       int *opened)
{
    const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int got = um_open_beneath(fd, name, flags | um_upper_noatime(upper), bits);
    if (got >= 0) {
        *opened = got;
        return 0;
    }
    if (got != -EPERM && got != -EMFILE && got != -ENFILE)
        return got;
    /* Where the disk gives new files to somebody else, O_NOATIME is refused when the file is there. */
    if (got == -EPERM)
        unlinkat(fd, name, 0);
    return um_result(mknodat(fd, name, S_IFREG | bits, 0));
}

static int create(int fd, const char *name, uint32_t type, uint32_t bits,
                  const struct um_upper_new_object *wanted, const char *target)
{
    switch (type) {
    case S_IFDIR:
        return um_result(mkdirat(fd, name, bits));
    case S_IFLNK:
        return um_result(symlinkat(target, fd, name));
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
        return um_result(mknodat(fd, name, type | bits, 0));
    case S_IFCHR:
    case S_IFBLK:
        return um_result(mknodat(fd, name, type | bits, makedev(wanted->major, wanted->minor)));
    default:
        return -EINVAL;
    }
}

/* How an object is made, and what comes of it. */
struct making {
    int fd; /* the directory whose default ACL applies to it, if any does */
    const struct um_upper_new_object *wanted;
    uint32_t bits;     /* the permissions that it was created with */
    bool inherit;      /* a default ACL has an effect */
    bool no_acl;       /* there is none */
    struct stat status; /* on disk, as it was created, but for owner and mode */
    bool touched;      /* it was changed since */
    bool overridden;   /* it has an override_stat */
    bool restat;       /* `status` is wanted afterwards */
    bool open;         /* a file is to be opened */
    int opened;        /* its descriptor, or -1 */
};

static int finish_symlink(struct um_upper *upper, struct um_upper_reached *made,
                          struct making *making)
{
    const struct um_upper_new_object *wanted = making->wanted;
    making->touched = making->status.st_uid != wanted->uid || making->status.st_gid != wanted->gid;
    return making->touched ? um_upper_object_chown_symlink(upper, made, wanted->uid, wanted->gid)
                           : 0;
}

/* Find the permissions that a new object shall show: those asked for, or what an inherited ACL left of them.
 * The umask of this process has no effect. */
static int settle_mode(const struct um_upper *upper, struct um_upper_reached *made,
                       const struct making *making, uint32_t *settled)
{
    struct um_upper_reached directory;
    um_autofree uint8_t *acl = NULL;
    size_t size;
    uint32_t mode = making->wanted->mode;
    *settled = mode & 07777;
    if (making->no_acl || (making->inherit && (making->status.st_mode & 0777) == making->bits &&
                           making->bits == (mode & 0777)))
        return 0;
    int error = um_upper_reach_name(upper, making->fd, (struct um_slice){0}, &directory);
    if (error == 0)
        error = read_default_acl(&directory, &acl, &size);
    if (error != 0 || size == 0)
        return error;
    if (!making->inherit)
        return um_upper_strip_acls(made, making->status.st_mode);
    /* The ACL on disk has the same entries; what it grants follows the mode. */
    return um_acl_inherit(acl, size, settled) < 0 ? -EIO : 0;
}

/* Give a new object its owner and mode on disk. */
static int settle_disk(struct um_upper_reached *made, struct making *making, bool chown,
                       const struct um_override *shown, uint32_t bits)
{
    struct stat *status = &making->status;
    int error = 0;
    if (chown && (status->st_uid != shown->uid || status->st_gid != shown->gid)) {
        making->touched = true;
        error = um_upper_reached_chown(made, shown->uid, shown->gid);
        status->st_uid = shown->uid;
        status->st_gid = shown->gid;
    }
    if (error == 0 && (status->st_mode & 07777) != bits) {
        making->touched = true;
        error = um_upper_reached_chmod(made, bits);
    }
    status->st_mode = (status->st_mode & S_IFMT) | bits;
    return error;
}

/* Give a new object its owner and mode, on disk or in override_stat. */
static int finish(struct um_upper *upper, struct um_upper_reached *made, struct making *making)
{
    const struct um_upper_new_object *wanted = making->wanted;
    struct stat *status = &making->status;
    struct um_override shown = {.uid = wanted->uid,
                                .gid = wanted->gid,
                                .type = wanted->mode & S_IFMT,
                                .major = wanted->major,
                                .minor = wanted->minor};
    int error = um_upper_reached_stat(made, status);
    if (error != 0)
        return error;
    if (S_ISLNK(status->st_mode))
        return finish_symlink(upper, made, making);
    error = settle_mode(upper, made, making, &shown.mode);
    if (error != 0)
        return error;
    bool keep = makes_overridden(upper, status->st_mode & S_IFMT, wanted);
    uint32_t bits = keep ? um_upper_overridden_bits(status->st_mode, shown.mode) : shown.mode;
    error = settle_disk(made, making, !keep, &shown, bits);
    if (error != 0)
        return error;
    making->overridden = um_upper_object_needs_override(upper, status, &shown);
    return um_upper_object_set_override(upper, made, status, &shown, false);
}

static int make(struct um_upper *upper, const char *name, const char *target, struct making *making)
{
    struct um_upper_reached made;
    uint32_t type = type_on_disk(upper, making->wanted);
    making->bits = first_bits(upper, type, making->wanted);
    making->inherit = making->inherit && obeys_acls(upper);
    int error = um_upper_reach_name(upper, making->fd, um_slice_text(name), &made);
    if (error == 0 && type == S_IFREG && making->open)
        error = create_file(upper, making->fd, name, making->bits, &making->opened);
    else if (error == 0)
        error = create(making->fd, name, type, making->bits, making->wanted, target);
    if (error != 0)
        return error;
    if (making->opened >= 0)
        um_upper_reach_name(upper, making->opened, (struct um_slice){0}, &made);
    error = finish(upper, &made, making);
    if (error == 0 && making->restat && making->touched && !making->overridden)
        error = um_upper_reached_stat(&made, &making->status);
    if (error != 0) {
        unlinkat(making->fd, name, S_ISDIR(type) ? AT_REMOVEDIR : 0);
        if (making->opened >= 0)
            close(making->opened);
        making->opened = -1;
    }
    return error;
}

int um_upper_make(struct um_upper *upper, int fd, const char *name,
                  const struct um_upper_new_object *wanted, const char *target, bool inherit)
{
    struct making making = {.fd = fd, .opened = -1, .wanted = wanted, .inherit = inherit};
    return make(upper, name, target, &making);
}

int um_upper_make_fresh(struct um_upper *upper, int fd, const char *name,
                        const struct um_upper_new_object *wanted, const char *target, bool no_acl,
                        struct um_upper_fresh *fresh)
{
    bool private = !(upper->flags & UM_UPPER_OPEN);
    struct making making = {.fd = fd,
                            .wanted = wanted,
                            .inherit = true,
                            .no_acl = no_acl,
                            .restat = private,
                            .open = private && S_ISREG(wanted->mode),
                            .opened = -1};
    int error = make(upper, name, target, &making);
    fresh->status = making.status;
    fresh->complete = error == 0 && private && !making.overridden;
    fresh->fd = making.opened;
    return error;
}

int um_upper_make_nameless(struct um_upper *upper, int fd, const struct um_upper_new_object *wanted,
                           int *made)
{
    struct um_upper_reached reached;
    struct making making = {.fd = fd,
                            .opened = -1,
                            .wanted = wanted,
                            .bits = first_bits(upper, S_IFREG, wanted),
                            .inherit = obeys_acls(upper)};
    *made = um_open_beneath(fd, ".", O_TMPFILE | O_RDWR | um_upper_noatime(upper), making.bits);
    if (*made < 0)
        return *made;
    int error = um_upper_reach_name(upper, *made, (struct um_slice){0}, &reached);
    if (error == 0)
        error = finish(upper, &reached, &making);
    if (error != 0)
        close(*made);
    return error;
}
