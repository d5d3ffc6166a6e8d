#include "upper/target.h"

#include <fcntl.h>

#include "marks/whiteout.h"
#include "upper/lookup.h"
#include "upper/publish.h"

/* ---- a name that is about to be changed ------------------------------------------------------ */

static int check_name(struct um_slice name)
{
    struct um_slice hidden;
    if (name.size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    if (name.size == 0 || memchr(name.data, '/', name.size) || memchr(name.data, 0, name.size))
        return -EINVAL;
    return um_whiteout_classify(name, &hidden) == UM_NAME_PLAIN ? 0 : -EINVAL;
}

int um_upper_target_look(struct um_upper *upper, struct um_upper_target *target)
{
    struct um_tree_entry below;
    int error = um_upper_find_counted(upper, target->directory, target->name, &target->hit);
    if (error != 0 && error != -ENOENT)
        return error;
    target->shown = error == 0;
    target->looked = target->hit.seen.looked && !(upper->flags & UM_UPPER_OPEN);
    error = um_upper_find_lower(upper, target->directory, target->name, &below);
    if (error != 0 && error != -ENOENT)
        return error;
    target->below = error == 0;
    target->below_directory = target->below && S_ISDIR(below.attr.mode);
    return 0;
}

int um_upper_target_open_directory(struct um_upper *upper, uint64_t directory,
                                   struct um_upper_target *target)
{
    *target = (struct um_upper_target){.fd = -1};
    target->directory = um_upper_node_find(upper, directory);
    if (target->directory == NULL)
        return -ESTALE;
    if (!target->directory->directory)
        return -ENOTDIR;
    if (target->directory->gone)
        return -ENOENT;
    um_upper_node_pin(target->directory);
    target->pinned = true;
    return 0;
}

int um_upper_target_open_unseen(struct um_upper *upper, uint64_t directory, const char *name,
                                size_t name_size, struct um_upper_target *target)
{
    int error = um_upper_target_open_directory(upper, directory, target);
    target->name = um_slice_of(name, name_size);
    if (error == 0)
        error = check_name(target->name);
    if (error != 0)
        return error;
    memcpy(target->text, name, name_size);
    return 0;
}

int um_upper_target_open(struct um_upper *upper, uint64_t directory, const char *name,
                         size_t name_size, struct um_upper_target *target)
{
    int error = um_upper_target_open_unseen(upper, directory, name, name_size, target);
    return error ? error : um_upper_target_look(upper, target);
}

bool um_upper_target_is_upper_only(struct um_upper *upper, const struct um_upper_target *target)
{
    return target->directory->in_upper && !(upper->flags & UM_UPPER_OPEN) &&
           um_upper_find_lower(upper, target->directory, target->name, NULL) == -ENOENT;
}

int um_upper_target_reach_directory(struct um_upper *upper, struct um_upper_target *target)
{
    if (target->fd >= 0)
        return 0;
    int error = um_upper_copy_up_directory(upper, target->directory);
    if (error == 0)
        error = um_upper_reach_directory(upper, target->directory, &target->use);
    if (error == 0)
        target->fd = target->use.fd;
    return error;
}

void um_upper_target_changed(struct um_upper_target *target)
{
    target->looked = false;
}

int um_upper_target_reach(struct um_upper *upper, struct um_upper_target *target)
{
    struct um_upper_reached reached = {0};
    struct stat status;
    struct um_upper_seen seen = target->hit.seen;
    int error = um_upper_target_reach_directory(upper, target);
    if (error == 0 && !target->looked) {
        error = um_upper_reach_name(upper, target->fd, target->name, &reached);
        if (error == 0)
            error = um_upper_reached_classify(&reached, !target->directory->unmarked, &seen.found,
                                              &status);
        seen.object = error == 0 && status.st_mode != 0;
    }
    target->looked = false; /* whoever asks again has changed it */
    if (error != 0)
        return error;
    target->found = seen.found;
    target->object = seen.object;
    return 0;
}

void um_upper_target_close(struct um_upper *upper, struct um_upper_target *target)
{
    if (target->fd >= 0)
        um_fd_cache_release(upper->directories, &target->use);
    target->fd = -1;
    if (target->pinned)
        um_upper_node_unpin(upper, target->directory);
    target->pinned = false;
}

int um_upper_target_made(struct um_upper *upper, struct um_upper_target *target,
                         const struct um_upper_fresh *fresh, struct um_attr *attr)
{
    int error = fresh != NULL && fresh->complete
                    ? um_upper_hit_fresh(upper, fresh, &target->hit)
                    : um_upper_find_counted(upper, target->directory, target->name, &target->hit);
    if (error == 0)
        error = um_upper_count_lookup(upper, target->directory, target->name, &target->hit);
    if (error == 0)
        *attr = target->hit.attr;
    if (error == 0 && target->hit.directory)
        um_upper_node_find(upper, target->hit.attr.node)->unmarked = true;
    return error;
}

/* ---- what a node lives on as ----------------------------------------------------------------- */

/* Open a node's object, so that it can be used without a name. */
static int anchor(struct um_upper *upper, struct um_upper_node *node, bool regular)
{
    struct um_upper_reached reached = {0};
    int error = um_upper_reach(upper, node, &reached);
    if (error != 0)
        return error;
    int fd = regular ? um_upper_reached_open_for_user(upper, &reached, O_RDWR) : -EACCES;
    node->writable = fd >= 0;
    if (fd < 0 && regular)
        fd = um_upper_reached_open_for_user(upper, &reached, O_RDONLY);
    if (fd < 0)
        fd = um_upper_reached_open(&reached, O_PATH);
    um_upper_reached_close(&reached);
    if (fd < 0)
        return fd;
    node->fd = fd;
    return 0;
}

/* Whether the object on disk is a regular file. override_stat may say that it is a device. */
static bool is_regular_on_disk(struct um_upper *upper, struct um_upper_node *node)
{
    struct um_upper_reached reached = {0};
    struct stat status;
    if (node->regular && !(upper->flags & UM_UPPER_OPEN))
        return true;
    bool regular = um_upper_reach(upper, node, &reached) == 0 &&
                   um_upper_reached_stat(&reached, &status) == 0 && S_ISREG(status.st_mode);
    um_upper_reached_close(&reached);
    return regular;
}

int um_upper_removal_begin(struct um_upper *upper, const struct um_upper_target *target,
                           struct um_upper_removal *removal)
{
    uint64_t number = target->hit.attr.node;
    *removal =
        (struct um_upper_removal){.last = target->hit.directory || target->hit.attr.nlink <= 1};
    if (!um_upper_is_known(upper, number))
        return 0;
    struct um_upper_node *node = um_upper_node_find(upper, number);
    if (node == NULL && !removal->last)
        return 0; /* only its place changes */
    if (node == NULL) {
        int error = um_upper_node_load(upper, number, &node);
        if (error != 0)
            return error;
    } else {
        um_upper_node_pin(node);
    }
    removal->node = node;
    if (!node->in_upper || node->fd >= 0 ||
        !(removal->last || um_upper_node_is_at(node, target->directory, target->name)))
        return 0;
    removal->anchored = true;
    return anchor(upper, node, !node->directory && is_regular_on_disk(upper, node));
}

void um_upper_removal_end(struct um_upper *upper, const struct um_upper_target *target,
                          struct um_upper_removal *removal, int error)
{
    struct um_upper_node *node = removal->node;
    if (error == 0 && target->hit.directory)
        um_fd_cache_drop(upper->directories, target->hit.attr.node);
    if (error != 0) {
        if (node != NULL && removal->anchored && node->fd >= 0) {
            close(node->fd);
            node->fd = -1;
            node->writable = false;
        }
        if (node != NULL)
            um_upper_node_demote(upper, node);
    } else if (node != NULL && removal->last) {
        um_upper_node_lose_name(upper, node);
    } else {
        um_upper_forget_place(upper, target->hit.attr.node, target->directory, target->name);
    }
    if (error == 0)
        um_upper_shown_names_changed(upper);
    if (node != NULL)
        um_upper_node_unpin(upper, node);
}
