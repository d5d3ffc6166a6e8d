#include <linux/magic.h>
#include <sys/random.h>
#include <sys/vfs.h>

#include "system/directory_stream.h"
#include "upper/marks.h"
#include "upper/redirects.h"
#include "upper/rule.h"
#include "upper/shown_names.h"

#define DIRECTORIES 64u /* descriptors of directories of the upper that are kept open */

#define ALIGNMENT ((uint64_t)1 << 32) /* so that numbers of the upper are easy to recognise */

/* 1 where a directory of the upper has any entry, 0 where it has none, or an errno. */
static int has_entries(const struct um_upper_reached *reached)
{
    DIR *stream;
    struct dirent *entry;
    int error = um_upper_reached_open_stream(NULL, reached, &stream);
    if (error != 0)
        return error;
    int result = um_directory_next(stream, &entry);
    closedir(stream);
    return result;
}

static int add_root(struct um_upper *upper)
{
    struct um_upper_reached reached = {0};
    int error = um_upper_node_add(upper, UM_ROOT_NODE, NULL, (struct um_slice){0}, true, true,
                                  UM_ROOT_NODE, &upper->root);
    if (error != 0)
        return error;
    error = um_upper_reach(upper, upper->root, &reached);
    int opaque = error ? error : um_upper_mark_is_opaque(upper, &reached, true);
    if (opaque > 0)
        upper->root->lower = 0;
    int any = opaque < 0 ? opaque : has_entries(&reached);
    upper->may_hide = any != 0;
    return any < 0 ? any : 0;
}

/* Where the origins on disk belong to other lowers, only origins that this session writes are believed:
 * they end with a number that nobody else knows. So a file keeps its number from copy-up to the end of
 * the session. The same holds for copies from temporary layers: in the next session their numbers may be
 * those of other files. */
static int set_session(struct um_upper *upper)
{
    uint64_t number;
    upper->lasting_end = (upper->flags & UM_UPPER_FOREIGN) ? 0 : um_tree_lasting_end(upper->tree);
    if (upper->lasting_end == um_tree_end(upper->tree))
        return 0;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
        return -errno;
    snprintf(upper->session, sizeof upper->session, " %016llx", (unsigned long long)number);
    return 0;
}

static int set_up(struct um_upper *upper, const struct um_upper_setup *setup)
{
    struct stat above, work;
    int error = set_session(upper);
    if (error == 0)
        error = um_fd_cache_open(DIRECTORIES, &upper->directories);
    if (error != 0)
        return error;
    if (fstat(setup->upper_fd, &above) != 0 || fstat(setup->work_fd, &work) != 0)
        return -errno;
    if (!S_ISDIR(above.st_mode) || !S_ISDIR(work.st_mode))
        return -ENOTDIR;
    if (above.st_dev != work.st_dev)
        return -EXDEV;
    uint64_t end = um_tree_end(upper->tree);
    if (!um_add64(end, ALIGNMENT - 1, &end))
        return -EOVERFLOW;
    upper->base = end & ~(ALIGNMENT - 1);
    upper->owner = setup->flags & UM_UPPER_LOOK ? above.st_uid : geteuid();
    upper->device = above.st_dev;
    upper->n_layers = um_tree_layers(upper->tree);
    return add_root(upper);
}

/* Whether all names are as they were at one moment after a power cut. ext4 and XFS write one journal;
 * btrfs has a log of its own for what is synced. A tmpfs does not survive. */
static bool is_ordered(int fd)
{
    struct statfs status;
    if (fstatfs(fd, &status) != 0)
        return false;
    return status.f_type == EXT4_SUPER_MAGIC || status.f_type == XFS_SUPER_MAGIC ||
           status.f_type == TMPFS_MAGIC;
}

int um_upper_open(const struct um_upper_setup *setup, struct um_upper **out)
{
    struct um_upper *upper = calloc(1, sizeof *upper);
    if (upper == NULL)
        return -ENOMEM;
    upper->tree = setup->tree;
    upper->upper_fd = setup->upper_fd;
    upper->work_fd = setup->work_fd;
    upper->shown_fd = setup->shown_fd ? setup->shown_fd : setup->upper_fd;
    upper->flags = setup->flags;
    upper->ordered = is_ordered(setup->upper_fd);
    upper->metacopy_min = setup->metacopy_min ? setup->metacopy_min : UM_UPPER_METACOPY_MIN;
    pthread_rwlock_init(&upper->lock, NULL);
    pthread_mutex_init(&upper->copying_lock, NULL);
    pthread_cond_init(&upper->copied, NULL);
    int error = set_up(upper, setup);
    if (error != 0) {
        um_upper_close(upper);
        return error;
    }
    *out = upper;
    return 0;
}

void um_upper_close(struct um_upper *upper)
{
    if (upper == NULL)
        return;
    um_upper_nodes_close(upper);
    um_upper_shown_names_changed(upper);
    um_upper_redirects_changed(upper);
    um_fd_cache_close(upper->directories);
    free(upper->copying);
    pthread_cond_destroy(&upper->copied);
    pthread_mutex_destroy(&upper->copying_lock);
    pthread_rwlock_destroy(&upper->lock);
    free(upper);
}
