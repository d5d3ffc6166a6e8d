#include <fcntl.h>
#include <linux/fs.h>

#include "upper/state.h"

/* Making and removing names. Every verb is: look at the name, copy its directory up, change the disk in
 * one step that a crash can't halve, then the records. */

/* ---- making -------------------------------------------------------------------------------------- */

/* Mode and group of a new object, as inode_init_owner() and mode_strip_sgid() of the kernel have it. */
static void apply_setgid(const struct um_attr *directory, const struct um_maker *maker,
                         struct um_owner *owner)
{
    const uint32_t executable = S_ISGID | S_IXGRP;
    if (!(directory->mode & S_ISGID))
        return;
    owner->gid = directory->gid;
    if (S_ISDIR(owner->mode))
        owner->mode |= S_ISGID;
    else if ((owner->mode & executable) == executable && !maker->may_setgid)
        owner->mode &= ~(uint32_t)S_ISGID;
}

static int find_owner(struct um_upper *upper, struct um_target *target,
                      const struct um_maker *maker, struct um_owner *owner)
{
    struct um_attr attr;
    struct um_spot spot = {0};
    int error = um_record_attr(upper, target->directory, &attr);
    if (error != 0)
        return error;
    apply_setgid(&attr, maker, owner);
    if (maker->umask == 0 || S_ISLNK(owner->mode))
        return 0;
    error = um_spot_in(upper, target->fd, (struct um_slice){0}, &spot);
    int inherits = error ? error : um_disk_has_default_acl(&spot);
    if (inherits == 0)
        owner->mode &= ~(maker->umask & 0777);
    return inherits < 0 ? inherits : 0;
}

/* Finish what was made in the work directory: a directory hides what is below its name. */
static int dress(struct um_upper *upper, struct um_target *target, const char *made,
                 const struct um_owner *owner)
{
    struct um_spot spot = {0}, directory = {0};
    int error = um_spot_in(upper, upper->work_fd, um_slice_of(made, strlen(made)), &spot);
    if (error == 0)
        error = um_spot_in(upper, target->fd, (struct um_slice){0}, &directory);
    int mode = error ? error : um_disk_inherit_acl(upper, &directory, &spot, owner->mode);
    if (mode < 0)
        return mode;
    if (S_ISDIR(owner->mode))
        error = um_mark_opaque(upper, &spot);
    return error;
}

/* Put what stands in the work directory in the place of a whiteout. */
static int replace_whiteout(struct um_upper *upper, struct um_target *target, const char *made,
                            bool directory)
{
    /* A directory can't be renamed over a device: they change places. */
    unsigned how = directory && target->object ? RENAME_EXCHANGE : 0;
    if (renameat2(upper->work_fd, made, target->fd, target->text, how) != 0)
        return -errno;
    if (how != 0)
        um_disk_remove(upper->work_fd, made); /* what stays is removed at the next mount */
    return 0;
}

static int make_over_whiteout(struct um_upper *upper, struct um_target *target,
                              const struct um_owner *owner, const char *link)
{
    char made[32];
    um_disk_temporary(upper, made);
    int error = um_disk_make(upper, upper->work_fd, made, owner, link, false);
    if (error != 0)
        return error;
    error = dress(upper, target, made, owner);
    if (error == 0)
        error = replace_whiteout(upper, target, made, S_ISDIR(owner->mode));
    if (error != 0)
        um_disk_remove(upper->work_fd, made);
    return error;
}

static int make_at(struct um_upper *upper, struct um_target *target, struct um_owner *owner,
                   const char *link, const struct um_maker *maker, struct um_attr *attr)
{
    if (target->shown)
        return -EEXIST;
    int error = um_target_reach(upper, target);
    if (error == 0)
        error = find_owner(upper, target, maker, owner);
    if (error != 0)
        return error;
    if (target->found == UM_FOUND_WHITEOUT || target->below_directory)
        error = make_over_whiteout(upper, target, owner, link);
    else
        error = um_disk_make(upper, target->fd, target->text, owner, link, true);
    if (error != 0)
        return error;
    if (S_ISDIR(owner->mode))
        um_record_add_links(target->directory, 1);
    return um_target_made(upper, target, attr);
}

static int make(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                struct um_owner *owner, const char *link, const struct um_maker *maker,
                struct um_attr *attr)
{
    struct um_target target;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_target_open(upper, directory, name, name_size, &target);
    if (error == 0)
        error = make_at(upper, &target, owner, link, maker, attr);
    um_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_mknod(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, uint32_t major, uint32_t minor, const struct um_maker *maker,
                   struct um_attr *attr)
{
    struct um_owner owner = {maker->uid, maker->gid, mode, 0, 0};
    if ((mode & S_IFMT) == 0)
        owner.mode |= S_IFREG;
    if (S_ISDIR(owner.mode) || S_ISLNK(owner.mode))
        return -EINVAL;
    if (S_ISCHR(owner.mode) || S_ISBLK(owner.mode)) {
        owner.major = major;
        owner.minor = minor;
    }
    return make(upper, directory, name, name_size, &owner, NULL, maker, attr);
}

int um_upper_mkdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, const struct um_maker *maker, struct um_attr *attr)
{
    struct um_owner owner = {maker->uid, maker->gid, (mode & 07777) | S_IFDIR, 0, 0};
    return make(upper, directory, name, name_size, &owner, NULL, maker, attr);
}

int um_upper_symlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                     const char *target, size_t target_size, const struct um_maker *maker,
                     struct um_attr *attr)
{
    struct um_owner owner = {maker->uid, maker->gid, 0777 | S_IFLNK, 0, 0};
    if (target_size == 0 || memchr(target, 0, target_size) != NULL)
        return -EINVAL;
    um_autofree char *text = malloc(target_size + 1);
    if (text == NULL)
        return -ENOMEM;
    memcpy(text, target, target_size);
    text[target_size] = '\0';
    return make(upper, directory, name, name_size, &owner, text, maker, attr);
}

static int make_nameless(struct um_upper *upper, struct um_target *target, struct um_owner *owner,
                         const struct um_maker *maker, struct um_attr *attr)
{
    int fd;
    int error = um_target_reach_directory(upper, target);
    if (error == 0)
        error = find_owner(upper, target, maker, owner);
    if (error == 0)
        error = um_disk_make_nameless(upper, target->fd, owner, &fd);
    return error ? error : um_upper_count_nameless(upper, fd, attr);
}

int um_upper_tmpfile(struct um_upper *upper, uint64_t directory, uint32_t mode,
                     const struct um_maker *maker, struct um_attr *attr)
{
    struct um_owner owner = {maker->uid, maker->gid, (mode & 07777) | S_IFREG, 0, 0};
    struct um_target target;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_target_open_directory(upper, directory, &target);
    if (error == 0)
        error = make_nameless(upper, &target, &owner, maker, attr);
    um_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* ---- links ----------------------------------------------------------------------------------------- */

static int link_to(struct um_upper *upper, struct um_target *target, struct um_spot *spot)
{
    char made[32];
    if (!target->object)
        return um_spot_link(spot, target->fd, target->text);
    um_disk_temporary(upper, made);
    int error = um_spot_link(spot, upper->work_fd, made);
    if (error == 0)
        error = replace_whiteout(upper, target, made, false);
    if (error != 0)
        um_disk_remove(upper->work_fd, made);
    return error;
}

static int link_record(struct um_upper *upper, struct um_record *record, struct um_target *target,
                       struct um_attr *attr)
{
    struct um_spot spot = {0};
    if (target->shown)
        return -EEXIST;
    if (record->directory)
        return -EPERM;
    if (record->gone && !record->linkable)
        return -ENOENT;
    int error = um_copy_up_now(upper, record, UM_NEED_NAME);
    if (error == 0)
        error = um_record_fix_data(upper, record);
    if (error == 0)
        error = um_target_reach(upper, target);
    if (error == 0)
        error = um_spot_of(upper, record, &spot);
    if (error == 0)
        error = link_to(upper, target, &spot);
    um_spot_close(&spot);
    if (error != 0)
        return error;
    record->gone = record->linkable = false;
    return um_target_made(upper, target, attr);
}

int um_upper_link(struct um_upper *upper, uint64_t node, uint64_t directory, const char *name,
                  size_t name_size, struct um_attr *attr)
{
    struct um_target target;
    struct um_record *record = NULL;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_target_open(upper, directory, name, name_size, &target);
    if (error == 0)
        error = um_upper_need(upper, node, &record);
    if (error == 0) {
        error = link_record(upper, record, &target, attr);
        um_record_shut(upper, record); /* a name leads to it now */
        um_record_unpin(upper, record);
    }
    um_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* ---- removing ---------------------------------------------------------------------------------------- */

/* Put a whiteout in the place of what stands there, which then is in the work directory, or nowhere. */
static int exchange_with_whiteout(struct um_upper *upper, struct um_target *target, bool directory)
{
    char made[32];
    um_disk_temporary(upper, made);
    int error = um_disk_whiteout_in_work(upper, made);
    if (error != 0)
        return error;
    unsigned how = directory ? RENAME_EXCHANGE : 0;
    error = renameat2(upper->work_fd, made, target->fd, target->text, how) == 0 ? 0 : -errno;
    if (error != 0 || directory)
        um_disk_remove(upper->work_fd, made);
    return error;
}

/* A directory that shows nothing may still hold whiteouts. */
static int remove_directory(struct um_upper *upper, struct um_target *target)
{
    char moved[32];
    if (unlinkat(target->fd, target->text, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -errno;
    um_disk_temporary(upper, moved);
    if (renameat(target->fd, target->text, upper->work_fd, moved) != 0)
        return -errno;
    um_disk_remove(upper->work_fd, moved);
    return 0;
}

static int remove_on_disk(struct um_upper *upper, struct um_target *target)
{
    bool directory = target->hit.directory;
    if (!target->object)
        return um_disk_whiteout(target->fd, target->text);
    if (target->below)
        return exchange_with_whiteout(upper, target, directory);
    if (directory)
        return remove_directory(upper, target);
    return unlinkat(target->fd, target->text, 0) == 0 ? 0 : -errno;
}

static int check_empty(struct um_upper *upper, struct um_target *target)
{
    struct um_record *record;
    int error = um_record_need(upper, target->hit.attr.node, target->directory, target->name, true,
                               target->hit.in_upper, target->hit.lower, &record);
    if (error != 0)
        return error;
    int empty = um_upper_is_empty(upper, record);
    um_record_unpin(upper, record);
    return empty < 0 ? empty : empty ? 0 : -ENOTEMPTY;
}

static int remove_target(struct um_upper *upper, struct um_target *target, bool directory)
{
    struct um_removal removal;
    if (!target->shown)
        return -ENOENT;
    if (target->hit.directory != directory)
        return directory ? -ENOTDIR : -EISDIR;
    int error = directory ? check_empty(upper, target) : 0;
    if (error == 0)
        error = um_target_reach(upper, target);
    if (error != 0)
        return error;
    error = um_removal_begin(upper, target, &removal);
    if (error == 0)
        error = remove_on_disk(upper, target);
    um_removal_end(upper, target, &removal, error);
    if (error == 0 && directory)
        um_record_add_links(target->directory, -1);
    return error;
}

static int remove_name(struct um_upper *upper, uint64_t directory, const char *name,
                       size_t name_size, bool is_directory)
{
    struct um_target target;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_target_open(upper, directory, name, name_size, &target);
    if (error == 0)
        error = remove_target(upper, &target, is_directory);
    um_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_unlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size)
{
    return remove_name(upper, directory, name, name_size, false);
}

int um_upper_rmdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size)
{
    return remove_name(upper, directory, name, name_size, true);
}
