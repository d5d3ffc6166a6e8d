#include <fcntl.h>

#include "marks/whiteout.h"
#include "upper/state.h"

/* ---- a name that is about to be changed ------------------------------------------------------------ */

static int check_name(struct um_slice name)
{
    struct um_slice hidden;
    if (name.size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    if (name.size == 0 || memchr(name.data, '/', name.size) || memchr(name.data, 0, name.size))
        return -EINVAL;
    return um_whiteout_classify(name, &hidden) == UM_NAME_PLAIN ? 0 : -EINVAL;
}

static int look(struct um_upper *upper, struct um_target *target)
{
    struct um_tree_entry below;
    int error = um_upper_look(upper, target->directory, target->name, &target->hit);
    if (error != 0 && error != -ENOENT)
        return error;
    target->shown = error == 0;
    error = um_upper_below(upper, target->directory, target->name, &below);
    if (error != 0 && error != -ENOENT)
        return error;
    target->below = error == 0;
    target->below_directory = target->below && S_ISDIR(below.attr.mode);
    return 0;
}

int um_target_open_directory(struct um_upper *upper, uint64_t directory, struct um_target *target)
{
    *target = (struct um_target){.fd = -1};
    target->directory = um_upper_record(upper, directory);
    if (target->directory == NULL)
        return -ESTALE;
    if (!target->directory->directory)
        return -ENOTDIR;
    if (target->directory->gone)
        return -ENOENT;
    um_record_pin(target->directory);
    target->pinned = true;
    return 0;
}

int um_target_open(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   struct um_target *target)
{
    int error = um_target_open_directory(upper, directory, target);
    target->name = um_slice_of(name, name_size);
    if (error == 0)
        error = check_name(target->name);
    if (error != 0)
        return error;
    memcpy(target->text, name, name_size);
    return look(upper, target);
}

int um_target_reach_directory(struct um_upper *upper, struct um_target *target)
{
    if (target->fd >= 0)
        return 0;
    int error = um_copy_up_directory(upper, target->directory);
    if (error == 0)
        error = um_disk_directory(upper, target->directory, &target->use);
    if (error == 0)
        target->fd = target->use.fd;
    return error;
}

int um_target_reach(struct um_upper *upper, struct um_target *target)
{
    struct um_spot spot = {0};
    struct stat status;
    int error = um_target_reach_directory(upper, target);
    if (error == 0)
        error = um_spot_in(upper, target->fd, target->name, &spot);
    if (error == 0)
        error = um_disk_classify(&spot, !target->directory->unmarked, &target->found, &status);
    if (error == 0)
        target->object = target->found != UM_FOUND_NOTHING && um_spot_stat(&spot, &status) == 0;
    return error;
}

void um_target_close(struct um_upper *upper, struct um_target *target)
{
    if (target->fd >= 0)
        um_fd_cache_release(upper->directories, &target->use);
    target->fd = -1;
    if (target->pinned)
        um_record_unpin(upper, target->directory);
    target->pinned = false;
}

int um_target_made(struct um_upper *upper, struct um_target *target, struct um_attr *attr)
{
    int error = um_upper_look(upper, target->directory, target->name, &target->hit);
    if (error == 0)
        error = um_upper_count(upper, target->directory, target->name, &target->hit);
    if (error == 0)
        *attr = target->hit.attr;
    if (error == 0 && target->hit.directory)
        um_upper_record(upper, target->hit.attr.node)->unmarked = true;
    return error;
}

void um_record_add_links(struct um_record *directory, int change)
{
    if (directory->nlink > 1) /* 0: not counted yet, 1: not known */
        directory->nlink = (uint32_t)((int64_t)directory->nlink + change);
}

/* ---- what a node lives on as ---------------------------------------------------------------------------- */

/* Open what a record stands for, so that it can be used without a name. */
static int anchor(struct um_upper *upper, struct um_record *record, bool regular)
{
    struct um_spot spot = {0};
    int error = um_spot_of(upper, record, &spot);
    if (error != 0)
        return error;
    int fd = regular ? um_spot_open_counted(upper, &spot, O_RDWR) : -EACCES;
    record->writable = fd >= 0;
    if (fd < 0 && regular)
        fd = um_spot_open_counted(upper, &spot, O_RDONLY);
    if (fd < 0)
        fd = um_spot_open(&spot, O_PATH);
    um_spot_close(&spot);
    if (fd < 0)
        return fd;
    record->fd = fd;
    return 0;
}

static bool is_place(const struct um_record *record, const struct um_target *target)
{
    return record->parent == target->directory &&
           um_slice_equal(um_slice_of(record->name, record->name_size), target->name);
}

/* The mode of what is on disk: override_stat may say that a regular file is a device. */
static bool is_regular_on_disk(struct um_upper *upper, struct um_record *record)
{
    struct um_spot spot = {0};
    struct stat status;
    bool regular = um_spot_of(upper, record, &spot) == 0 && um_spot_stat(&spot, &status) == 0 &&
                   S_ISREG(status.st_mode);
    um_spot_close(&spot);
    return regular;
}

int um_removal_begin(struct um_upper *upper, const struct um_target *target,
                     struct um_removal *removal)
{
    uint64_t node = target->hit.attr.node;
    *removal = (struct um_removal){.last = target->hit.directory || target->hit.attr.nlink <= 1};
    if (!um_upper_is_known(upper, node))
        return 0;
    struct um_record *record = um_upper_record(upper, node);
    if (record == NULL && !removal->last)
        return 0; /* only its place changes */
    if (record == NULL) {
        int error = um_upper_need(upper, node, &record);
        if (error != 0)
            return error;
    } else {
        um_record_pin(record);
    }
    removal->record = record;
    if (!record->in_upper || record->fd >= 0 || !(removal->last || is_place(record, target)))
        return 0;
    removal->anchored = true;
    return anchor(upper, record, !record->directory && is_regular_on_disk(upper, record));
}

void um_removal_end(struct um_upper *upper, const struct um_target *target,
                    struct um_removal *removal, int error)
{
    struct um_record *record = removal->record;
    if (error == 0 && target->hit.directory)
        um_fd_cache_drop(upper->directories, target->hit.attr.node);
    if (error != 0) {
        if (record != NULL && removal->anchored && record->fd >= 0) {
            close(record->fd);
            record->fd = -1;
            record->writable = false;
        }
        if (record != NULL)
            um_record_demote(upper, record);
    } else if (record != NULL && removal->last) {
        um_record_lose(upper, record);
    } else {
        um_upper_misplace(upper, target->hit.attr.node, target->directory, target->name);
    }
    if (error == 0)
        um_upper_names_changed(upper);
    if (record != NULL)
        um_record_unpin(upper, record);
}
