#include <fcntl.h>
#include <linux/fs.h>

#include "system/id_maps.h"
#include "upper/copy_up.h"
#include "upper/file.h"
#include "upper/list.h"
#include "upper/lookup.h"
#include "upper/make.h"
#include "upper/target.h"
#include "upper/work.h"

/* Making and removing names. Every verb finds the name, copies its directory up, changes the disk in one
 * atomic step, and then the nodes. */

/* ---- making ---------------------------------------------------------------------------------- */

/* Set mode and group of a new object as inode_init_owner() and mode_strip_sgid() of the kernel do. */
static void apply_setgid(const struct um_upper_heritage *directory,
                         const struct um_upper_maker *maker, struct um_upper_new_object *wanted)
{
    const uint32_t executable = S_ISGID | S_IXGRP;
    if (!directory->setgid)
        return;
    wanted->gid = directory->gid;
    if (S_ISDIR(wanted->mode))
        wanted->mode |= S_ISGID;
    else if ((wanted->mode & executable) == executable && !maker->may_setgid)
        wanted->mode &= ~(uint32_t)S_ISGID;
}

/* Find out what new objects get from a directory. The ACL is asked for where it is needed. */
static int find_heritage(struct um_upper *upper, const struct um_upper_target *target,
                         bool need_acl, struct um_attr *attr, bool *acl)
{
    struct um_upper_reached reached = {0};
    *acl = false;
    int error = um_upper_node_attr(upper, target->directory, attr);
    if (error != 0 || !need_acl || upper->flags & UM_UPPER_NO_ACLS)
        return error;
    error = um_upper_reach_name(upper, target->fd, (struct um_slice){0}, &reached);
    int inherits = error ? error : um_upper_has_default_acl(&reached);
    *acl = inherits > 0;
    return inherits < 0 ? inherits : 0;
}

/* As find_heritage, from memory where nobody else can have changed it. */
static int learn_heritage(struct um_upper *upper, const struct um_upper_target *target,
                          bool need_acl, struct um_upper_heritage *heritage)
{
    struct um_attr attr;
    bool remembered = !(upper->flags & UM_UPPER_OPEN);
    *heritage = target->directory->heritage;
    if (heritage->known)
        return 0;
    int error = find_heritage(upper, target, remembered || need_acl, &attr, &heritage->acl);
    if (error != 0)
        return error;
    heritage->setgid = attr.mode & S_ISGID;
    heritage->gid = attr.gid;
    heritage->known = remembered;
    target->directory->heritage = *heritage;
    return 0;
}

static int find_owner(struct um_upper *upper, struct um_upper_target *target,
                      const struct um_upper_maker *maker, struct um_upper_new_object *wanted)
{
    struct um_upper_heritage heritage;
    bool masked = maker->umask != 0 && !S_ISLNK(wanted->mode);
    int error = learn_heritage(upper, target, masked, &heritage);
    if (error != 0)
        return error;
    apply_setgid(&heritage, maker, wanted);
    if (wanted->uid == UM_ID_NONE || wanted->gid == UM_ID_NONE)
        return -EOVERFLOW;
    if (masked && !heritage.acl)
        wanted->mode &= ~(maker->umask & 0777);
    return 0;
}

/* Finish an object that was made in the work directory. A directory hides what is below its name. */
static int dress(struct um_upper *upper, struct um_upper_target *target, const char *made,
                 const struct um_upper_new_object *wanted)
{
    struct um_upper_reached reached = {0}, directory = {0};
    int error = um_upper_reach_name(upper, upper->work_fd, um_slice_text(made), &reached);
    if (error == 0)
        error = um_upper_reach_name(upper, target->fd, (struct um_slice){0}, &directory);
    int mode = error ? error : um_upper_inherit_acl(upper, &directory, &reached, wanted->mode);
    if (mode < 0)
        return mode;
    if (S_ISDIR(wanted->mode))
        error = um_upper_mark_set_opaque(upper, &reached);
    return error;
}

/* Move an object from the work directory to the place of a whiteout. */
static int replace_whiteout(struct um_upper *upper, struct um_upper_target *target,
                            const char *made, bool directory)
{
    /* A directory can't be renamed over a device: they change places. */
    unsigned how = directory && target->object ? RENAME_EXCHANGE : 0;
    if (renameat2(upper->work_fd, made, target->fd, target->text, how) != 0)
        return -errno;
    if (how != 0)
        um_upper_remove_tree(upper->work_fd, made); /* or the next mount does */
    return 0;
}

static int make_over_whiteout(struct um_upper *upper, struct um_upper_target *target,
                              const struct um_upper_new_object *wanted, const char *link)
{
    char made[UM_UPPER_WORK_NAME];
    um_upper_work_name(upper, made);
    int error = um_upper_make(upper, upper->work_fd, made, wanted, link, false);
    if (error != 0)
        return error;
    error = dress(upper, target, made, wanted);
    if (error == 0)
        error = replace_whiteout(upper, target, made, S_ISDIR(wanted->mode));
    if (error != 0)
        um_upper_remove_tree(upper->work_fd, made);
    return error;
}

/* Let the nodes follow what was made on disk. */
static int made(struct um_upper *upper, struct um_upper_target *target, bool directory,
                const struct um_upper_fresh *fresh, struct um_attr *attr)
{
    if (directory)
        um_upper_node_add_subdirectories(target->directory, 1);
    int error = um_upper_target_made(upper, target, fresh, attr);
    if (error == 0 && fresh->fd >= 0)
        um_upper_node_keep(upper, um_upper_node_find(upper, attr->node), fresh->fd);
    else if (fresh->fd >= 0)
        close(fresh->fd);
    return error;
}

static bool has_no_acl(const struct um_upper_node *directory)
{
    return directory->heritage.known && !directory->heritage.acl;
}

/* Make an object at a name without asking first whether there is one: the disk says that, too, and the kernel's
 * FUSE has just looked the name up. -EEXIST where something stands there, and also where it has to be looked at
 * for another reason. */
static int make_unseen(struct um_upper *upper, struct um_upper_target *target,
                       struct um_upper_new_object wanted, const char *link,
                       const struct um_upper_maker *maker, struct um_attr *attr)
{
    struct um_upper_fresh fresh = {.fd = -1};
    if (!um_upper_target_is_upper_only(upper, target) ||
        um_upper_target_reach_directory(upper, target) != 0 ||
        find_owner(upper, target, maker, &wanted) != 0)
        return -EEXIST;
    int error = um_upper_make_fresh(upper, target->fd, target->text, &wanted, link,
                                    has_no_acl(target->directory), &fresh);
    return error ? error : made(upper, target, S_ISDIR(wanted.mode), &fresh, attr);
}

static int make_at(struct um_upper *upper, struct um_upper_target *target,
                   struct um_upper_new_object *wanted, const char *link,
                   const struct um_upper_maker *maker, struct um_attr *attr)
{
    struct um_upper_fresh fresh = {.fd = -1};
    if (target->shown)
        return -EEXIST;
    int error = um_upper_target_reach(upper, target);
    if (error == 0)
        error = find_owner(upper, target, maker, wanted);
    if (error != 0)
        return error;
    if (target->found == UM_UPPER_FOUND_WHITEOUT || target->below_directory)
        error = make_over_whiteout(upper, target, wanted, link);
    else
        error = um_upper_make_fresh(upper, target->fd, target->text, wanted, link,
                                    has_no_acl(target->directory), &fresh);
    return error ? error : made(upper, target, S_ISDIR(wanted->mode), &fresh, attr);
}

static int make(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                struct um_upper_new_object *wanted, const char *link,
                const struct um_upper_maker *maker, struct um_attr *attr)
{
    struct um_upper_target target;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_target_open_unseen(upper, directory, name, name_size, &target);
    if (error == 0)
        error = make_unseen(upper, &target, *wanted, link, maker, attr);
    if (error == -EEXIST) {
        error = um_upper_target_look(upper, &target);
        if (error == 0)
            error = make_at(upper, &target, wanted, link, maker, attr);
    }
    um_upper_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_mknod(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, uint32_t major, uint32_t minor,
                   const struct um_upper_maker *maker, struct um_attr *attr)
{
    struct um_upper_new_object wanted = {maker->uid, maker->gid, mode, 0, 0};
    if ((mode & S_IFMT) == 0)
        wanted.mode |= S_IFREG;
    if (S_ISDIR(wanted.mode) || S_ISLNK(wanted.mode))
        return -EINVAL;
    if (S_ISCHR(wanted.mode) || S_ISBLK(wanted.mode)) {
        wanted.major = major;
        wanted.minor = minor;
    }
    return make(upper, directory, name, name_size, &wanted, NULL, maker, attr);
}

int um_upper_mkdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, const struct um_upper_maker *maker, struct um_attr *attr)
{
    struct um_upper_new_object wanted = {maker->uid, maker->gid, (mode & 07777) | S_IFDIR, 0, 0};
    return make(upper, directory, name, name_size, &wanted, NULL, maker, attr);
}

int um_upper_symlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                     const char *target, size_t target_size, const struct um_upper_maker *maker,
                     struct um_attr *attr)
{
    struct um_upper_new_object wanted = {maker->uid, maker->gid, 0777 | S_IFLNK, 0, 0};
    if (target_size == 0 || memchr(target, 0, target_size) != NULL)
        return -EINVAL;
    um_autofree char *text = malloc(target_size + 1);
    if (text == NULL)
        return -ENOMEM;
    memcpy(text, target, target_size);
    text[target_size] = '\0';
    return make(upper, directory, name, name_size, &wanted, text, maker, attr);
}

static int make_nameless(struct um_upper *upper, struct um_upper_target *target,
                         struct um_upper_new_object *wanted, const struct um_upper_maker *maker,
                         struct um_attr *attr)
{
    int fd;
    int error = um_upper_target_reach_directory(upper, target);
    if (error == 0)
        error = find_owner(upper, target, maker, wanted);
    if (error == 0)
        error = um_upper_make_nameless(upper, target->fd, wanted, &fd);
    return error ? error : um_upper_node_add_nameless(upper, fd, attr);
}

int um_upper_tmpfile(struct um_upper *upper, uint64_t directory, uint32_t mode,
                     const struct um_upper_maker *maker, struct um_attr *attr)
{
    struct um_upper_new_object wanted = {maker->uid, maker->gid, (mode & 07777) | S_IFREG, 0, 0};
    struct um_upper_target target;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_target_open_directory(upper, directory, &target);
    if (error == 0)
        error = make_nameless(upper, &target, &wanted, maker, attr);
    um_upper_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* ---- links ----------------------------------------------------------------------------------- */

static int link_to(struct um_upper *upper, struct um_upper_target *target,
                   struct um_upper_reached *reached)
{
    char made[UM_UPPER_WORK_NAME];
    if (!target->object)
        return um_upper_reached_link(reached, target->fd, target->text);
    um_upper_work_name(upper, made);
    int error = um_upper_reached_link(reached, upper->work_fd, made);
    if (error == 0)
        error = replace_whiteout(upper, target, made, false);
    if (error != 0)
        um_upper_remove_tree(upper->work_fd, made);
    return error;
}

static int link_record(struct um_upper *upper, struct um_upper_node *node,
                       struct um_upper_target *target, struct um_attr *attr)
{
    struct um_upper_reached reached = {0};
    if (target->shown)
        return -EEXIST;
    if (node->directory)
        return -EPERM;
    if (node->gone && !node->linkable)
        return -ENOENT;
    if (!node->in_upper)
        um_upper_target_changed(target);
    int error = um_upper_node_copy_up(upper, node, UM_UPPER_NEED_NAME);
    if (error == 0)
        error = um_upper_node_fix_data_path(upper, node);
    if (error == 0)
        error = um_upper_target_reach(upper, target);
    if (error == 0)
        error = um_upper_reach(upper, node, &reached);
    if (error == 0)
        error = link_to(upper, target, &reached);
    um_upper_reached_close(&reached);
    if (error != 0)
        return error;
    node->gone = node->linkable = false;
    return um_upper_target_made(upper, target, NULL, attr);
}

int um_upper_link(struct um_upper *upper, uint64_t number, uint64_t directory, const char *name,
                  size_t name_size, struct um_attr *attr)
{
    struct um_upper_target target;
    struct um_upper_node *node = NULL;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_target_open(upper, directory, name, name_size, &target);
    if (error == 0)
        error = um_upper_node_load(upper, number, &node);
    if (error == 0) {
        error = link_record(upper, node, &target, attr);
        um_upper_node_close_unused(upper, node); /* its name leads to it now */
        um_upper_node_unpin(upper, node);
    }
    um_upper_target_close(upper, &target);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

/* ---- removing -------------------------------------------------------------------------------- */

/* Put a whiteout in the place of an object, and remove that. */
static int exchange_with_whiteout(struct um_upper *upper, struct um_upper_target *target,
                                  bool directory)
{
    char made[UM_UPPER_WORK_NAME];
    um_upper_work_name(upper, made);
    int error = um_upper_work_make_whiteout(upper, made);
    if (error != 0)
        return error;
    unsigned how = directory ? RENAME_EXCHANGE : 0;
    error = um_result(renameat2(upper->work_fd, made, target->fd, target->text, how));
    if (error != 0 || directory)
        um_upper_remove_tree(upper->work_fd, made);
    return error;
}

static int check_empty(struct um_upper *upper, struct um_upper_target *target)
{
    struct um_upper_node *node;
    int error = um_upper_node_add(upper, target->hit.attr.node, target->directory, target->name,
                                  true, target->hit.in_upper, target->hit.lower, &node);
    if (error != 0)
        return error;
    int empty = um_upper_is_empty(upper, node);
    um_upper_node_unpin(upper, node);
    return empty < 0 ? empty : empty ? 0 : -ENOTEMPTY;
}

/* Remove a directory that shows nothing. It may still hold whiteouts, which the disk does not tell from other
 * entries. */
static int remove_directory(struct um_upper *upper, struct um_upper_target *target)
{
    char moved[UM_UPPER_WORK_NAME];
    if (unlinkat(target->fd, target->text, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -errno;
    int error = check_empty(upper, target);
    if (error != 0)
        return error;
    um_upper_work_name(upper, moved);
    if (renameat(target->fd, target->text, upper->work_fd, moved) != 0)
        return -errno;
    um_upper_remove_tree(upper->work_fd, moved);
    return 0;
}

static int remove_on_disk(struct um_upper *upper, struct um_upper_target *target)
{
    bool directory = target->hit.directory;
    if (!target->object)
        return um_upper_make_whiteout(target->fd, target->text);
    if (target->below)
        return exchange_with_whiteout(upper, target, directory);
    if (directory)
        return remove_directory(upper, target);
    return um_result(unlinkat(target->fd, target->text, 0));
}

/* Whether removing a directory tells whether it shows anything: all that it has is on disk. */
static bool is_upper_only(const struct um_upper_target *target)
{
    return target->hit.in_upper && target->hit.lower == 0 && !target->below;
}

static int remove_target(struct um_upper *upper, struct um_upper_target *target, bool directory)
{
    struct um_upper_removal removal;
    if (!target->shown)
        return -ENOENT;
    if (target->hit.directory != directory)
        return directory ? -ENOTDIR : -EISDIR;
    int error = directory && !is_upper_only(target) ? check_empty(upper, target) : 0;
    if (error == 0)
        error = um_upper_target_reach(upper, target);
    if (error != 0)
        return error;
    error = um_upper_removal_begin(upper, target, &removal);
    if (error == 0)
        error = remove_on_disk(upper, target);
    um_upper_removal_end(upper, target, &removal, error);
    if (error == 0 && directory)
        um_upper_node_add_subdirectories(target->directory, -1);
    return error;
}

static int remove_name(struct um_upper *upper, uint64_t directory, const char *name,
                       size_t name_size, bool is_directory)
{
    struct um_upper_target target;
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_target_open(upper, directory, name, name_size, &target);
    if (error == 0)
        error = remove_target(upper, &target, is_directory);
    um_upper_target_close(upper, &target);
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
