#include "upper/copy.h"

#include <fcntl.h>

#include "system/open_beneath.h"
#include "upper/copy_data.h"
#include "upper/make.h"
#include "upper/marks.h"
#include "upper/object.h"
#include "upper/object_xattr.h"
#include "upper/settle.h"

void um_upper_copy_discard(struct um_upper *upper, struct um_upper_copy *copy)
{
    if (copy->fd >= 0)
        close(copy->fd);
    copy->fd = -1;
    if (copy->name[0] != '\0')
        unlinkat(upper->work_fd, copy->name, copy->directory ? AT_REMOVEDIR : 0);
    copy->name[0] = '\0';
}

/* Whether the kernel allows no such xattr on files of this type. */
static bool is_left_out(const char *name, uint32_t mode)
{
    if (um_slice_begins(um_slice_text(name), UM_SLICE_LITERAL("user.")))
        return !S_ISREG(mode) && !S_ISDIR(mode);
    if (strcmp(name, "system.posix_acl_default") == 0)
        return !S_ISDIR(mode);
    return strcmp(name, "system.posix_acl_access") == 0 && S_ISLNK(mode);
}

/* Whether a copy may lack an xattr that could not be set. */
static bool is_dispensable(const struct um_upper *upper, const char *name, int error)
{
    bool ordinary = !(upper->flags & UM_UPPER_TRUSTED) || (upper->flags & UM_UPPER_OVERRIDE);
    if (error == -EOPNOTSUPP)
        return um_slice_begins(um_slice_text(name), UM_SLICE_LITERAL("security."));
    return error == -EPERM && ordinary &&
           (um_slice_begins(um_slice_text(name), UM_SLICE_LITERAL("security.")) ||
            um_slice_begins(um_slice_text(name), UM_SLICE_LITERAL("trusted.")));
}

static int copy_xattr(struct um_upper *upper, uint64_t lower, uint32_t mode, const char *name,
                      struct um_upper_reached *reached)
{
    char stored[UM_OVERLAY_ROOM];
    size_t name_size = strlen(name);
    if (is_left_out(name, mode) ||
        um_overlay_store(um_upper_namespace(upper), name, name_size, stored) != 0)
        return 0; /* a name that gets too long when it is escaped is left out, as by the kernel's overlayfs */
    int64_t size = um_tree_getxattr(upper->tree, lower, name, name_size, NULL, 0);
    if (size < 0)
        return size == -ENODATA ? 0 : (int)size;
    um_autofree void *value = malloc((size_t)size + 1);
    if (value == NULL)
        return -ENOMEM;
    if (size != 0)
        size = um_tree_getxattr(upper->tree, lower, name, name_size, value, (size_t)size);
    if (size < 0)
        return (int)size;
    int error = um_upper_object_setxattr(upper, reached, stored, value, (size_t)size, 0);
    return is_dispensable(upper, name, error) ? 0 : error;
}

static int copy_xattrs(struct um_upper *upper, uint64_t lower, uint32_t mode,
                       struct um_upper_reached *reached)
{
    int64_t size = um_tree_listxattr(upper->tree, lower, NULL, 0);
    if (size <= 0)
        return size == -EOPNOTSUPP ? 0 : (int)size;
    um_autofree char *names = malloc((size_t)size);
    if (names == NULL)
        return -ENOMEM;
    size = um_tree_listxattr(upper->tree, lower, names, (size_t)size);
    int error = size < 0 ? (int)size : 0;
    for (int64_t at = 0; error == 0 && at < size; at += (int64_t)strlen(names + at) + 1)
        error = copy_xattr(upper, lower, mode, names + at, reached);
    return error;
}

static int make_file(struct um_upper *upper, struct um_upper_copy *copy)
{
    int flags = O_RDWR | O_CREAT | O_EXCL | um_upper_noatime(upper);
    int fd = um_open_beneath(upper->work_fd, copy->name, flags, 0600);
    if (fd < 0)
        return fd;
    int error = um_upper_work_strip_acls(upper, upper->work_fd, copy->name, S_IFREG);
    if (error != 0) {
        close(fd);
        unlinkat(upper->work_fd, copy->name, 0);
        return error;
    }
    copy->fd = fd;
    return 0;
}

/* Everything but a regular file. */
static int make_special(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                        struct um_upper_copy *copy)
{
    const struct um_upper_new_object wanted = {attr->uid, attr->gid, attr->mode, attr->major,
                                               attr->minor};
    um_autofree char *target = NULL;
    if (S_ISLNK(attr->mode)) {
        const char *text;
        size_t size;
        int error = um_tree_readlink(upper->tree, lower, &text, &size);
        if (error != 0)
            return error;
        target = strndup(text, size);
        if (target == NULL)
            return -ENOMEM;
    }
    return um_upper_make(upper, upper->work_fd, copy->name, &wanted, target, false);
}

/* Owner before xattrs, as chown drops capabilities. Mode last, as chown and an ACL change it, and a file
 * that is being written must not be set-user-ID. */
static int copy_metadata(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                         bool emptied, struct um_upper_reached *reached)
{
    struct timespec times[2] = {{attr->atime, attr->atime_nsec}, {attr->mtime, attr->mtime_nsec}};
    int error = 0;
    if (emptied) /* after a crash, other data must not have the old data's time */
        times[1].tv_nsec = UTIME_NOW;
    if (S_ISREG(attr->mode))
        error = um_upper_object_chown(upper, reached, attr->uid, attr->gid);
    if (error == 0)
        error = copy_xattrs(upper, lower, attr->mode, reached);
    if (error == 0 && !S_ISDIR(attr->mode))
        error = um_upper_mark_set_origin(upper, reached, lower);
    if (error == 0)
        error = um_upper_reached_set_times(reached, times);
    if (error == 0 && !S_ISLNK(attr->mode))
        error = um_upper_object_chmod(upper, reached, attr->mode & 07777);
    return error;
}

/* Make a metacopy of an empty copy: give it the size, and the marks that say where the data is. */
static int refer(struct um_upper *upper, const struct um_attr *attr, const char *redirect,
                 struct um_upper_reached *reached, struct um_upper_copy *copy)
{
    if (ftruncate(copy->fd, (off_t)attr->size) != 0)
        return -errno;
    int error = um_upper_mark_set_redirect(upper, reached, redirect, strlen(redirect));
    return error ? error : um_upper_mark_set_metacopy(upper, reached);
}

/* Fill a copy with data and metadata. */
static int fill(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                const char *redirect, bool empty, struct um_upper_copy *copy)
{
    struct um_upper_reached reached = {0};
    struct stat status;
    uint64_t size = S_ISREG(attr->mode) && redirect == NULL ? attr->size : 0;
    bool emptied = empty && size != 0;
    if (empty)
        size = 0;
    struct um_upper_data_copy data = {.tree = upper->tree,
                                      .unshared = &upper->unshared,
                                      .patience = copy->patience,
                                      .waits = !(upper->flags & UM_UPPER_VOLATILE)};
    int error = um_upper_copy_data(&data, lower, size, copy->fd);
    if (error == 0)
        error = um_upper_reach_name(upper, upper->work_fd, um_slice_text(copy->name), &reached);
    if (error == 0 && redirect != NULL)
        error = refer(upper, attr, redirect, &reached, copy);
    if (error == 0)
        error = copy_metadata(upper, lower, attr, emptied, &reached);
    if (error == 0)
        error = um_upper_reached_stat(&reached, &status);
    if (error != 0)
        return error;
    copy->ino = status.st_ino;
    copy->capable = reached.capable;
    /* btrfs may lose the size of a file that nobody synced, and keep its name: a metacopy would be an
     * empty file. */
    bool fragile = size != 0 || (redirect != NULL && !upper->ordered);
    return fragile ? um_upper_settle(upper, copy->fd, data.written) : 0;
}

int um_upper_copy_make(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                       const char *redirect, bool empty, struct um_upper_copy *copy)
{
    *copy = (struct um_upper_copy){.fd = -1,
                                   .directory = S_ISDIR(attr->mode),
                                   .data = redirect != NULL ? lower : 0,
                                   .patience = copy->patience};
    um_upper_work_name(upper, copy->name);
    int error =
        S_ISREG(attr->mode) ? make_file(upper, copy) : make_special(upper, lower, attr, copy);
    if (error != 0) {
        copy->name[0] = '\0';
        return error == -EEXIST ? -EIO : error; /* another program writes to the work directory */
    }
    error = fill(upper, lower, attr, redirect, empty, copy);
    if (error != 0)
        um_upper_copy_discard(upper, copy);
    return error;
}
