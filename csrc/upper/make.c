#include <fcntl.h>
#include <sys/sysmacros.h>

#include "marks/override_stat.h"
#include "system/open_beneath.h"
#include "system/posix_acl.h"
#include "upper/state.h"

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

/* As what a new object stands on disk. */
static uint32_t type_on_disk(const struct um_upper *upper, const struct um_owner *owner)
{
    uint32_t type = owner->mode & S_IFMT;
    if (S_ISCHR(type) && um_whiteout_is_device(owner->major, owner->minor))
        return S_IFREG;
    if (!um_upper_overrides(upper) || S_ISDIR(type) || S_ISLNK(type))
        return type;
    bool own = !(upper->flags & UM_UPPER_OPEN) && owner->uid == geteuid() &&
               owner->gid == getegid() && (owner->mode & 07000) == 0;
    return (S_ISFIFO(type) || S_ISSOCK(type)) && own ? type : S_IFREG;
}

/* Whether what a new object shows is kept apart: its type on disk is `type`. */
static bool makes_apart(const struct um_upper *upper, uint32_t type, const struct um_owner *owner)
{
    return um_upper_has_room(type) && (um_upper_overrides(upper) || type != (owner->mode & S_IFMT));
}

/* The permissions that a new object is created with: at no moment more than it is to have on disk, and
 * without the bits that let others act as the owner, as who that is, is not settled yet. */
static uint32_t first_bits(const struct um_upper *upper, uint32_t type,
                           const struct um_owner *owner)
{
    return makes_apart(upper, type, owner) ? um_upper_own_bits(type, owner->mode)
                                           : owner->mode & 0777;
}

static int create(int fd, const char *name, uint32_t type, uint32_t bits,
                  const struct um_owner *owner, const char *target)
{
    switch (type) {
    case S_IFDIR:
        return mkdirat(fd, name, bits) == 0 ? 0 : um_failed();
    case S_IFLNK:
        return symlinkat(target, fd, name) == 0 ? 0 : um_failed();
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
        return mknodat(fd, name, type | bits, 0) == 0 ? 0 : um_failed();
    case S_IFCHR:
    case S_IFBLK:
        return mknodat(fd, name, type | bits, makedev(owner->major, owner->minor)) == 0
                   ? 0
                   : um_failed();
    default:
        return -EINVAL;
    }
}

static int finish_symlink(struct um_upper *upper, struct um_spot *made, const struct stat *status,
                          const struct um_owner *owner)
{
    bool shows = status->st_uid == owner->uid && status->st_gid == owner->gid;
    return shows ? 0 : um_disk_chown_symlink(upper, made, owner->uid, owner->gid);
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
        return um_disk_strip_acls(made, status->st_mode);
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
    uint32_t bits = keep ? um_upper_own_bits(status.st_mode, shown.mode) : shown.mode;
    if (error == 0 && (status.st_mode & 07777) != bits)
        error = um_spot_chmod(made, bits);
    status.st_mode = (status.st_mode & S_IFMT) | bits;
    return error ? error : um_disk_write_override(made, &status, &shown, false);
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
