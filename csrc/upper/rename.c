#include <fcntl.h>

#include "system/open_beneath.h"
#include "upper/copy_up.h"
#include "upper/list.h"
#include "upper/lookup.h"
#include "upper/lower_path.h"
#include "upper/make.h"
#include "upper/publish.h"
#include "upper/redirects.h"
#include "upper/target.h"

/* Rename, as docs/explanation/upper.md describes it. Everything that can fail because of the arguments
 * is checked before anything changes. Marks are set before the move, which is one step on disk. */

struct move {
    struct um_upper *upper;
    struct um_upper_target from, to;
    uint32_t flags;
};

/* ---- may it be? ------------------------------------------------------------------------------ */

static bool is_within(const struct um_upper_node *node, uint64_t directory)
{
    for (; node != NULL; node = node->parent) {
        if (node->number == directory)
            return true;
    }
    return false;
}

static int check_loops(const struct move *move)
{
    bool exchange = move->flags & RENAME_EXCHANGE;
    if (move->from.hit.directory && is_within(move->to.directory, move->from.hit.attr.node))
        return -EINVAL;
    if (move->to.shown && move->to.hit.directory &&
        is_within(move->from.directory, move->to.hit.attr.node))
        return exchange ? -EINVAL : -ENOTEMPTY;
    return 0;
}

static bool is_same(const struct um_upper_target *a, const struct um_upper_target *b)
{
    return a->directory == b->directory && um_slice_equal(a->name, b->name);
}

/* Whether a directory needs a redirect at its new place, as it continues a lower one. (One whose mark is
 * not believed does not move at all: see `mark`.) */
static bool needs_redirect(const struct um_upper_target *target)
{
    return target->shown && target->hit.directory && target->hit.lower != 0 &&
           target->hit.lower != UM_UPPER_LOWER_REFUSED;
}

/* Refuse to move directories that need a redirect where none may be written. The caller of rename(2)
 * copies and removes instead, as between two disks. */
static int check_redirects(const struct move *move)
{
    bool exchange = move->flags & RENAME_EXCHANGE;
    if (um_upper_marks_may_lead(move->upper) && !(move->upper->flags & UM_UPPER_STAY))
        return 0;
    return needs_redirect(&move->from) || (exchange && needs_redirect(&move->to)) ? -EXDEV : 0;
}

/* Check the arguments: 0 go on; 1 there is nothing to do; or an errno. */
static int check(const struct move *move)
{
    const struct um_upper_target *from = &move->from, *to = &move->to;
    if (move->flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE) ||
        move->flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    if (!from->shown || ((move->flags & RENAME_EXCHANGE) && !to->shown))
        return -ENOENT;
    if ((move->flags & RENAME_NOREPLACE) && to->shown)
        return -EEXIST;
    if (is_same(from, to))
        return 1;
    if (to->shown && !from->hit.directory && from->hit.attr.node == to->hit.attr.node)
        return 1; /* two names of one file: rename(2) does nothing */
    int error = check_loops(move);
    if (error == 0)
        error = check_redirects(move);
    if (error != 0 || !to->shown || (move->flags & RENAME_EXCHANGE))
        return error;
    if (from->hit.directory != to->hit.directory)
        return from->hit.directory ? -ENOTDIR : -EISDIR;
    return 0;
}

/* ---- what moves is in the upper -------------------------------------------------------------- */

/* Get the node of the inode that a target shows, pinned. */
static int record_of(struct um_upper *upper, const struct um_upper_target *target,
                     struct um_upper_node **node)
{
    const struct um_upper_hit *hit = &target->hit;
    int error = um_upper_node_add(upper, hit->attr.node, target->directory, target->name,
                                  hit->directory, hit->in_upper, hit->lower, node);
    if (error == 0)
        um_upper_node_update(upper, *node, hit);
    return error;
}

/* Give a file of a group of hard links this name in the upper, where it has other names only. */
static int materialise(struct um_upper *upper, const struct um_upper_target *target,
                       const struct um_upper_node *node)
{
    struct um_upper_reached reached = {0};
    int error = um_upper_reach(upper, node, &reached);
    if (error == 0)
        error = um_upper_reached_link(&reached, target->fd, target->text);
    um_upper_reached_close(&reached);
    return error;
}

static int lift(struct um_upper *upper, struct um_upper_target *target, struct um_upper_node *node)
{
    int error = node->directory ? um_upper_copy_up_directory(upper, node)
                                : um_upper_node_copy_up(upper, node, UM_UPPER_NEED_NAME);
    if (error == 0)
        error = um_upper_target_reach(upper, target);
    if (error == 0 && !target->object && !node->directory) {
        error = materialise(upper, target, node);
        if (error == 0)
            error = um_upper_target_reach(upper, target);
    }
    return error == 0 && !target->object ? -ESTALE : error;
}

/* ---- marks ----------------------------------------------------------------------------------- */

/* Set the marks that let an inode be the same at its new place. */
static int mark(struct um_upper *upper, struct um_upper_node *node,
                const struct um_upper_target *place)
{
    char room[PATH_MAX];
    const char *path;
    struct um_upper_reached reached = {0};
    if (!node->directory)
        return um_upper_node_fix_data_path(upper, node);
    if (node->lower == UM_UPPER_LOWER_REFUSED)
        return -EIO; /* at its new place it would continue another directory */
    if (node->lower == 0 && !place->below_directory)
        return 0;
    int error = um_upper_reach(upper, node, &reached);
    if (error == 0 && node->lower == 0) {
        error = um_upper_mark_set_opaque(upper, &reached);
    } else if (error == 0) {
        int may_lead = um_upper_mark_may_lead_at(upper, &reached);
        error = may_lead > 0
                    ? um_upper_lower_directory_path(upper, node->lower, room, sizeof room, &path)
                : may_lead ? may_lead
                           : -EXDEV;
        if (error == 0)
            error = um_upper_mark_set_redirect(upper, &reached, path,
                                               (size_t)(room + sizeof room - path));
        if (error == 0)
            um_upper_redirects_changed(upper);
    }
    um_upper_reached_close(&reached);
    return error == -ENOSPC || error == -E2BIG ? -EXDEV : error;
}

/* Open an object to be synced. A symlink or a special file can't be opened; syncing its directory covers
 * it. */
static int open_to_sync(const struct um_upper_target *place, const struct um_upper_reached *reached)
{
    struct stat status;
    int error = um_upper_reached_stat(reached, &status);
    if (error != 0)
        return error;
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))
        return um_upper_reached_open(reached, O_RDONLY);
    return um_open_directory(place->fd, ".");
}

/* Sync an object that has a lower counterpart before its old name is hidden. Otherwise, after a power
 * cut, a file system that does not keep the order might have the whiteout and not the moved object,
 * which would be nowhere. New objects are for their owner to sync, as everywhere. */
static int secure(struct um_upper *upper, const struct um_upper_node *node,
                  const struct um_upper_target *place)
{
    struct um_upper_reached reached = {0};
    if (upper->ordered || upper->flags & UM_UPPER_VOLATILE || node->lower == 0)
        return 0;
    int error = um_upper_reach(upper, node, &reached);
    int fd = error ? error : open_to_sync(place, &reached);
    um_upper_reached_close(&reached);
    if (fd < 0)
        return fd;
    error = um_result(fsync(fd));
    close(fd);
    return error;
}

/* ---- the target that is replaced ------------------------------------------------------------- */

/* Make an empty directory with the attributes of the one that it is exchanged with. */
static int empty_like(struct um_upper *upper, const struct um_attr *attr, const char *name)
{
    struct um_upper_reached reached = {0};
    struct um_upper_new_object wanted = {attr->uid, attr->gid, attr->mode, 0, 0};
    int error = um_upper_make(upper, upper->work_fd, name, &wanted, NULL, false);
    if (error != 0)
        return error;
    error = um_upper_reach_name(upper, upper->work_fd, um_slice_text(name), &reached);
    if (error == 0)
        error = um_upper_mark_set_opaque(upper, &reached);
    if (error != 0)
        um_upper_remove_tree(upper->work_fd, name);
    return error;
}

static int check_replaced(struct um_upper *upper, struct um_upper_target *target)
{
    struct um_upper_node *node;
    int error = record_of(upper, target, &node);
    if (error != 0)
        return error;
    int empty = um_upper_is_empty(upper, node);
    um_upper_node_unpin(upper, node);
    return empty < 0 ? empty : empty ? 0 : -ENOTEMPTY;
}

/* ---- the step -------------------------------------------------------------------------------- */

static int rename_targets(const struct um_upper_target *from, const struct um_upper_target *to,
                          unsigned how)
{
    return um_result(renameat2(from->fd, from->text, to->fd, to->text, how));
}

/* Move on a file system that can't leave a whiteout behind in the same step. The steps that may fail for
 * want of room come before anything is replaced. */
static int move_then_hide(struct um_upper *upper, const struct um_upper_target *from,
                          const struct um_upper_target *to)
{
    char made[UM_UPPER_WORK_NAME];
    um_upper_work_name(upper, made);
    int error = um_upper_work_make_whiteout(upper, made);
    if (error != 0)
        return error;
    error = rename_targets(from, to, 0);
    if (error == 0 && renameat(upper->work_fd, made, from->fd, from->text) != 0) {
        error = -errno;
        rename_targets(to, from, 0);
    }
    if (error != 0)
        um_upper_remove_tree(upper->work_fd, made);
    return error;
}

/* Move, and leave a whiteout behind where the lower tree shows the old name. */
static int move_and_hide(struct um_upper *upper, const struct um_upper_target *from,
                         const struct um_upper_target *to)
{
    if (!from->below)
        return rename_targets(from, to, 0);
    int error = rename_targets(from, to, RENAME_WHITEOUT);
    bool unknown = error == -EINVAL || error == -EOPNOTSUPP || error == -ENOSYS;
    return unknown ? move_then_hide(upper, from, to) : error;
}

/* Exchange a directory with a whiteout. XFS counts that as a modification of the directory, so its times
 * are restored. */
static int trade_places(const struct um_upper *upper, const struct um_upper_target *from,
                        const struct um_upper_target *to)
{
    struct um_upper_reached before = {0}, after = {0};
    struct stat status;
    int error = um_upper_reach_name(upper, from->fd, from->name, &before);
    if (error == 0)
        error = um_upper_reach_name(upper, to->fd, to->name, &after);
    if (error == 0)
        error = um_upper_reached_stat(&before, &status);
    if (error == 0)
        error = rename_targets(from, to, RENAME_EXCHANGE);
    if (error == 0) {
        const struct timespec times[2] = {status.st_atim, status.st_mtim};
        um_upper_reached_set_times(&after, times);
    }
    return error;
}

static int step(const struct move *move)
{
    const struct um_upper_target *from = &move->from, *to = &move->to;
    if (move->flags & RENAME_EXCHANGE)
        return rename_targets(from, to, RENAME_EXCHANGE);
    if (!from->hit.directory || to->found != UM_UPPER_FOUND_WHITEOUT || !to->object)
        return move_and_hide(move->upper, from, to);
    int error = trade_places(move->upper, from, to);
    if (error == 0 && !from->below)
        unlinkat(from->fd, from->text, 0); /* where that fails, a whiteout of nothing stays */
    return error;
}

static int swap(struct um_upper *upper, const char *made, const struct um_upper_target *target)
{
    int result = renameat2(upper->work_fd, made, target->fd, target->text, RENAME_EXCHANGE);
    return um_result(result);
}

/* As step, where the directory that is replaced shows nothing but holds whiteouts. */
static int step_over_whiteouts(const struct move *move)
{
    struct um_upper *upper = move->upper;
    char made[UM_UPPER_WORK_NAME];
    um_upper_work_name(upper, made);
    int error = empty_like(upper, &move->to.hit.attr, made);
    if (error != 0)
        return error;
    error = swap(upper, made, &move->to);
    if (error == 0) {
        error = step(move);
        if (error != 0)
            swap(upper, made, &move->to);
    }
    um_upper_remove_tree(upper->work_fd, made);
    return error;
}

/* ---- afterwards ------------------------------------------------------------------------------ */

static void follow(struct um_upper *upper, struct um_upper_node *node,
                   const struct um_upper_target *from, const struct um_upper_target *to)
{
    bool there =
        node->parent == from->directory && um_slice_equal(um_upper_node_name(node), from->name);
    if (!there && node->parent != NULL)
        return; /* its place is at another of its names */
    /* Without memory the place becomes unknown, until the name is looked up again. */
    if (um_upper_node_move(upper, node, to->directory, to->name) != 0 && !node->directory)
        um_upper_forget_place(upper, node->number, from->directory, from->name);
}

static void count_directories(const struct move *move)
{
    bool exchange = move->flags & RENAME_EXCHANGE;
    int leaves = move->from.hit.directory;
    int comes = move->to.shown && move->to.hit.directory;
    um_upper_node_add_subdirectories(move->from.directory, (exchange ? comes : 0) - leaves);
    um_upper_node_add_subdirectories(move->to.directory, leaves - comes);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int exchange(struct move *move, struct um_upper_node *node, struct um_upper_node *other)
{
    struct um_upper *upper = move->upper;
    int error = lift(upper, &move->from, node);
    if (error == 0)
        error = lift(upper, &move->to, other);
    if (error == 0)
        error = mark(upper, node, &move->to);
    if (error == 0)
        error = mark(upper, other, &move->from);
    if (error == 0)
        error = secure(upper, node, &move->from);
    if (error == 0)
        error = secure(upper, other, &move->to);
    if (error == 0)
        error = step(move);
    if (error == 0) {
        follow(upper, node, &move->from, &move->to);
        follow(upper, other, &move->to, &move->from);
    }
    return error;
}

/* Get both nodes before anything is copied up: publishing a file with several names may copy up the
 * directory that it is exchanged with. */
static int exchange_with(struct move *move, struct um_upper_node *node)
{
    struct um_upper_node *other;
    int error = record_of(move->upper, &move->to, &other);
    if (error != 0)
        return error;
    error = exchange(move, node, other);
    um_upper_node_release(move->upper, other);
    return error;
}

static int replace(struct move *move, struct um_upper_node *node)
{
    struct um_upper *upper = move->upper;
    struct um_upper_removal removal = {0};
    int error = lift(upper, &move->from, node);
    if (error == 0)
        error = um_upper_target_reach(upper, &move->to);
    if (error == 0)
        error = mark(upper, node, &move->to);
    if (error == 0)
        error = secure(upper, node, &move->from);
    if (error == 0 && move->to.shown)
        error = um_upper_removal_begin(upper, &move->to, &removal);
    if (error == 0)
        error = step(move);
    if ((error == -ENOTEMPTY || error == -EEXIST) && move->to.found == UM_UPPER_FOUND_DIRECTORY)
        error = step_over_whiteouts(move);
    if (move->to.shown)
        um_upper_removal_end(upper, &move->to, &removal, error);
    if (error == 0)
        follow(upper, node, &move->from, &move->to);
    return error;
}

/* Whether what a target shows needs no copy-up. */
static bool is_lifted(const struct um_upper_target *target)
{
    return !target->shown || (target->hit.in_upper && target->hit.ino != 0);
}

static int rename_found(struct move *move)
{
    struct um_upper *upper = move->upper;
    struct um_upper_node *node;
    int error = check(move);
    if (error != 0)
        return error > 0 ? 0 : error;
    if (!is_lifted(&move->from) || !is_lifted(&move->to)) {
        um_upper_target_changed(&move->from);
        um_upper_target_changed(&move->to);
    }
    bool replaces_directory =
        move->to.shown && move->to.hit.directory && !(move->flags & RENAME_EXCHANGE);
    error = replaces_directory ? check_replaced(upper, &move->to) : 0;
    if (error == 0)
        error = record_of(upper, &move->from, &node);
    if (error != 0)
        return error;
    error = move->flags & RENAME_EXCHANGE ? exchange_with(move, node) : replace(move, node);
    if (error == 0) {
        count_directories(move);
        um_upper_shown_names_changed(upper);
        if (move->from.hit.directory || (move->to.shown && move->to.hit.directory))
            um_upper_redirects_changed(upper); /* redirects inside the directory moved with it */
    }
    um_upper_node_release(upper, node);
    return error;
}

int um_upper_rename(struct um_upper *upper, uint64_t from, const char *name, size_t name_size,
                    uint64_t to, const char *new_name, size_t new_name_size, uint32_t flags)
{
    struct move move = {.upper = upper, .flags = flags, .from.fd = -1, .to.fd = -1};
    pthread_rwlock_wrlock(&upper->lock);
    int error = um_upper_target_open(upper, from, name, name_size, &move.from);
    if (error == 0)
        error = um_upper_target_open(upper, to, new_name, new_name_size, &move.to);
    if (error == 0)
        error = rename_found(&move);
    um_upper_target_close(upper, &move.from);
    um_upper_target_close(upper, &move.to);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}
