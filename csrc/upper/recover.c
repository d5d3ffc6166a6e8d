#include <dirent.h>
#include <fcntl.h>

#include "marks/trust.h"
#include "system/directory_stream.h"
#include "system/open_beneath.h"
#include "upper/make.h"
#include "upper/marks.h"
#include "upper/object.h"
#include "upper/publish.h"

/* A daemon that is killed leaves temporaries in the work directory, which nobody has seen, and groups of
 * hard links in `index`, of which some names may be in the upper and others not. The kernel's overlayfs
 * and fuse-overlayfs leave a directory `work`. With index=on, the kernel has an `index` as well, with
 * groups of which it may have copied up one name only. The other names show what is in there, so it
 * stays, and so do all names that are not ours. */

/* The names of a directory, read before any is removed, so that readdir(3) misses none. */
struct names {
    char **texts;
    size_t n, capacity;
};

static void names_free(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->texts[i]);
    free(names->texts);
}

static int add_name(struct names *names, const char *text)
{
    char *copy = strdup(text);
    int error = copy == NULL ? -ENOMEM
                             : um_reserve((void **)&names->texts, &names->capacity, names->n + 1,
                                          sizeof *names->texts);
    if (error == 0)
        names->texts[names->n++] = copy;
    else
        free(copy);
    return error;
}

static int read_names(int fd, struct names *names)
{
    DIR *stream;
    struct dirent *entry;
    int more;
    int again = um_open_directory(fd, ".");
    int error = again < 0 ? again : um_directory_stream(again, &stream);
    if (error != 0)
        return error;
    while (error == 0 && (more = um_directory_next(stream, &entry)) != 0)
        error = more < 0 ? more : add_name(names, entry->d_name);
    closedir(stream);
    return error;
}

/* ---- groups of hard links -------------------------------------------------------------------- */

/* The number of the lower file that an entry of `index` is a copy of; 0 where the entry is not ours. */
static uint64_t entry_node(const char *name)
{
    uint64_t number = 0;
    if (name[0] == '0')
        return 0;
    for (; *name != '\0'; name++) {
        if (*name < '0' || *name > '9' || !um_mul64(number, 10, &number) ||
            !um_add64(number, (uint64_t)(*name - '0'), &number))
            return 0;
    }
    return number;
}

/* Whether an entry is a copy of the file that it is named after: 1, 0 or an errno. *nlink is its link
 * count. */
static int is_copy_of(struct um_upper *upper, struct um_upper_reached *reached, uint64_t number,
                      nlink_t *nlink)
{
    struct stat status;
    struct um_attr attr, lower;
    uint64_t origin = 0;
    bool ours;
    if (number >= upper->base || um_tree_getattr(upper->tree, number, &lower) != 0)
        return 0;
    int error = um_upper_reached_stat(reached, &status);
    if (error == 0)
        error = um_upper_object_attr(upper, reached, &status, &attr);
    if (error == 0)
        error =
            um_upper_mark_get_origin(upper, reached, &origin, &ours); /* everything in `index` is */
    if (error != 0)
        return error;
    *nlink = status.st_nlink;
    /* An ordinary user's symlinks and devices may be unable to say what they are copies of. */
    bool numbered = origin == number || (origin == 0 && !S_ISREG(lower.mode));
    return numbered && !S_ISDIR(lower.mode) && (attr.mode & S_IFMT) == (lower.mode & S_IFMT);
}

/* Make the names that still show the lower file links to its copy. */
static int link_rest(struct um_upper *upper, int fd, const char *entry, uint64_t number,
                     nlink_t nlink)
{
    struct um_upper_shown_name *names;
    size_t n, linked;
    int error = um_upper_shown_names(upper, number, &names, &n);
    if (error != 0)
        return error == -ESTALE || error == -EISDIR ? 0 : error;
    error = um_upper_link_names(upper, fd, entry, names, n, &linked);
    um_upper_shown_names_free(upper, &names, &n);
    /* A copy that has no name yet is not needed: nothing was written to it. */
    return error != 0 && nlink == 1 && linked == 0 ? 0 : error;
}

static int finish_group(struct um_upper *upper, int fd, const char *entry)
{
    struct um_upper_reached reached = {0};
    nlink_t nlink = 0;
    uint64_t number = entry_node(entry);
    if (number == 0)
        return 0;
    if (upper->flags & UM_UPPER_FOREIGN)
        return um_upper_remove_tree(fd, entry);
    int error = um_upper_reach_name(upper, fd, um_slice_text(entry), &reached);
    int ours = error == 0 ? is_copy_of(upper, &reached, number, &nlink) : 0;
    if (ours > 0)
        error = link_rest(upper, fd, entry, number, nlink);
    else if (ours < 0)
        error = ours;
    return error ? error : um_upper_remove_tree(fd, entry);
}

/* Whether an error means that a directory is somebody else's, and is left as it is. */
static bool is_closed(int error)
{
    return error == -EACCES || error == -EPERM;
}

static int finish_groups(struct um_upper *upper)
{
    struct names names = {0};
    struct stat status;
    int fd = um_open_directory(upper->work_fd, UM_UPPER_INDEX);
    if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP || is_closed(fd))
        return 0;
    if (fd < 0)
        return fd;
    int error = um_result(fstat(fd, &status));
    /* Its entries get the names of lower files, so another user's directory is left as it is. */
    if (error == 0 && !um_mark_is_trusted(status.st_uid, status.st_mode))
        error = -EPERM;
    if (error == 0)
        error = read_names(fd, &names);
    for (size_t i = 0; error == 0 && i < names.n; i++)
        error = finish_group(upper, fd, names.texts[i]);
    names_free(&names);
    close(fd);
    if (error == 0 && unlinkat(upper->work_fd, UM_UPPER_INDEX, AT_REMOVEDIR) != 0 &&
        errno != ENOTEMPTY && errno != EEXIST)
        error = -errno;
    return is_closed(error) ? 0 : error;
}

/* ---- everything else ------------------------------------------------------------------------- */

static int remove_temporaries(struct um_upper *upper)
{
    struct names names = {0};
    int error = read_names(upper->work_fd, &names);
    for (size_t i = 0; error == 0 && i < names.n; i++) {
        if (names.texts[i][0] == '#')
            error = um_upper_remove_tree(upper->work_fd, names.texts[i]);
        else if (strcmp(names.texts[i], "work") == 0)
            error = um_upper_remove_tree(upper->work_fd, names.texts[i]);
        if (names.texts[i][0] != '#' && is_closed(error))
            error = 0;
    }
    names_free(&names);
    return error;
}

/* Note whether new objects in the work directory inherit ACLs, which they must lose again. */
static int look_for_default_acl(struct um_upper *upper)
{
    struct um_upper_reached reached = {0};
    int error = um_upper_reach_name(upper, upper->work_fd, (struct um_slice){0}, &reached);
    int inherits = error ? error : um_upper_has_default_acl(&reached);
    upper->work_inherits = inherits > 0;
    return inherits < 0 ? inherits : 0;
}

int um_upper_recover(struct um_upper *upper)
{
    pthread_rwlock_wrlock(&upper->lock);
    int error = look_for_default_acl(upper);
    if (error == 0)
        error = finish_groups(upper);
    if (error == 0)
        error = remove_temporaries(upper);
    pthread_rwlock_unlock(&upper->lock);
    return error;
}
