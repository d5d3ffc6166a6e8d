#include <fcntl.h>
#include <limits.h>
#include <sys/sysmacros.h>

#include "layer/live_state.h"
#include "marks/trust.h"
#include "marks/whiteout.h"
#include "system/open_beneath.h"
#include "system/xattr_at.h"

#define LIST_ROOM 512      /* bytes of xattr names: more than nearly all files have */
#define LIST_MOST 65536    /* the kernel's limit */
#define REDIRECT_MOST 4096 /* as a path */

/* Turn the error of a call on an object that was there before into -ESTALE where it is gone. */
static int gone(int error)
{
    bool is_gone = error == ENOENT || error == ENOTDIR || error == ELOOP || error == ENXIO;
    return is_gone ? -ESTALE : -error;
}

/* ---- opening --------------------------------------------------------------------------------------- */

/* After a call that failed for lack of a descriptor, close some. True where the call can be
 * repeated. */
static bool made_room(struct um_live *layer, int error)
{
    return (error == EMFILE || error == ENFILE) && um_fd_cache_shed(layer->cache);
}

static int open_beneath(struct um_live *layer, int from, const char *path, int flags)
{
    int fd;
    do {
        fd = um_open_beneath(from, path, flags, 0);
    } while (fd < 0 && made_room(layer, -fd));
    return fd < 0 ? gone(-fd) : fd;
}

/* Open the object of an O_PATH descriptor for reading, without changing its access time where that
 * is permitted. */
static int open_for_reading(struct um_live *layer, int seen, int flags)
{
    int fd;
    flags |= O_RDONLY | O_NOATIME;
    for (;;) {
        fd = um_open_again(seen, flags);
        if (fd == -EPERM && flags & O_NOATIME)
            flags &= ~O_NOATIME; /* it belongs to another user */
        else if (fd >= 0 || !made_room(layer, -fd))
            break;
    }
    return fd < 0 ? gone(-fd) : fd;
}

/* ---- the way to a directory -------------------------------------------------------------------------- */

/* The names on the way to a directory, innermost first. */
struct way {
    struct um_slice *names;
    size_t n, capacity;
};

static int find_way(struct um_live *layer, uint32_t directory, struct way *way)
{
    while (directory != 0) {
        struct um_live_inode inode;
        struct um_live_name name;
        if (!um_live_get_inode(layer, directory, &inode) ||
            !um_live_get_name(layer, inode.name, &name))
            return -ESTALE;
        int error =
            um_reserve((void **)&way->names, &way->capacity, way->n + 1, sizeof *way->names);
        if (error != 0)
            return error;
        way->names[way->n++] = um_slice_of(name.text, name.size);
        directory = name.directory;
    }
    return 0;
}

/* Move as many names from the way into a path as fit, outermost first. */
static void take_step(struct way *way, char path[PATH_MAX])
{
    size_t used = 0;
    while (way->n != 0 && used + way->names[way->n - 1].size + 2 <= PATH_MAX) {
        struct um_slice name = way->names[--way->n];
        if (used != 0)
            path[used++] = '/';
        memcpy(path + used, name.data, name.size);
        used += name.size;
    }
    path[used] = '\0';
}

static int follow_way(struct um_live *layer, struct way *way)
{
    char path[PATH_MAX];
    int fd = layer->fd;
    while (way->n != 0) {
        take_step(way, path);
        int next = open_beneath(layer, fd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW);
        if (fd != layer->fd)
            close(fd);
        if (next < 0)
            return next;
        fd = next;
    }
    return fd;
}

/* Open a directory other than the root: the descriptor, or an errno. */
static int open_directory(struct um_live *layer, uint32_t number)
{
    struct way way = {0};
    struct um_live_inode inode;
    struct statx status;
    int error = find_way(layer, number, &way);
    int fd = error ? error : follow_way(layer, &way);
    free(way.names);
    if (fd < 0)
        return fd;
    struct um_live_reach reach = {.use = {.fd = fd, .entry = UM_FD_BORROWED}};
    error = um_live_reach_statx(&reach, &status);
    if (error == 0 && um_live_get_inode(layer, number, &inode) &&
        um_live_is_inode(layer, &inode, &status))
        return fd;
    close(fd);
    return error ? error : -ESTALE;
}

/* Use the cached descriptor of a directory, or of a file that is read; open it where there is
 * none. */
static int use_kept(struct um_live *layer, uint32_t number, bool file, struct um_fd_use *use)
{
    uint64_t key = (uint64_t)(layer->tag + 1) << 33 | (uint64_t)number << 1 | file;
    if (um_fd_cache_get(layer->cache, key, use))
        return 0;
    int fd = file ? um_live_open_file(layer, number) : open_directory(layer, number);
    if (fd < 0)
        return fd;
    um_fd_cache_put(layer->cache, key, fd, use);
    return 0;
}

static int use_directory(struct um_live *layer, uint32_t number, struct um_fd_use *use)
{
    if (number != 0)
        return use_kept(layer, number, false, use);
    *use = (struct um_fd_use){.fd = layer->fd, .entry = UM_FD_BORROWED};
    return 0;
}

int um_live_use_file(struct um_live *layer, uint32_t number, struct um_fd_use *use)
{
    return use_kept(layer, number, true, use);
}

/* ---- reaching ------------------------------------------------------------------------------------------ */

int um_live_reach(struct um_live *layer, uint32_t directory, struct um_slice text,
                  struct um_live_reach *reach)
{
    if (text.size >= sizeof reach->name)
        return -ENAMETOOLONG;
    if (text.size != 0)
        memcpy(reach->name, text.data, text.size);
    reach->name[text.size] = '\0';
    reach->exposed = layer->is_private ? NULL : layer;
    return use_directory(layer, directory, &reach->use);
}

int um_live_reach_inode(struct um_live *layer, uint32_t number, struct um_live_inode *inode,
                        struct um_live_reach *reach)
{
    struct um_live_name name = {0};
    if (!um_live_get_inode(layer, number, inode))
        return -ESTALE;
    if (number != 0 && !um_live_get_name(layer, inode->name, &name))
        return -ESTALE;
    return um_live_reach(layer, name.directory, um_slice_of(name.text, name.size), reach);
}

void um_live_leave(struct um_live *layer, struct um_live_reach *reach)
{
    um_fd_cache_release(layer->cache, &reach->use);
}

static int take(const struct um_live_reach *reach, struct um_grip *grip)
{
    int error;
    do {
        error = um_grip_take(reach->use.fd, reach->name, reach->exposed != NULL, grip);
    } while (error != 0 && reach->exposed != NULL && made_room(reach->exposed, -error));
    return error;
}

static int stat_at(int fd, const char *name, int flags, struct statx *status)
{
    flags |= AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
    return um_result(statx(fd, name, flags, UM_LIVE_STATX, status));
}

int um_live_reach_statx(const struct um_live_reach *reach, struct statx *status)
{
    struct um_grip grip;
    int error = take(reach, &grip);
    /* The kernel answers this for a mount point from its own cache, without asking the server of
     * the mount. */
    if (error == -EXDEV)
        return stat_at(reach->use.fd, reach->name, AT_STATX_DONT_SYNC, status);
    if (error != 0)
        return error;
    error = stat_at(grip.fd, grip.name, 0, status);
    um_grip_release(&grip);
    return error;
}

int um_live_open_directory(struct um_live *layer, uint32_t number)
{
    struct um_live_reach reach;
    int fd = um_live_reach(layer, number, (struct um_slice){0}, &reach);
    if (fd != 0)
        return fd;
    fd = open_for_reading(layer, reach.use.fd, O_DIRECTORY);
    um_live_leave(layer, &reach);
    return fd;
}

/* Check that an O_PATH descriptor still is the inode: 0, or an errno. */
static int check_seen(struct um_live *layer, const struct um_live_inode *inode, int seen,
                      struct statx *status)
{
    struct um_live_reach reach = {.use = {.fd = seen, .entry = UM_FD_BORROWED}};
    int error = um_live_reach_statx(&reach, status);
    return error == 0 && !um_live_is_inode(layer, inode, status) ? -ESTALE : error;
}

int um_live_pin(struct um_live *layer, const struct um_live_inode *inode,
                const struct um_live_reach *reach, struct statx *status)
{
    const char *name = reach->name[0] ? reach->name : ".";
    int fd = open_beneath(layer, reach->use.fd, name, O_PATH | O_NOFOLLOW);
    if (fd < 0)
        return fd;
    int error = check_seen(layer, inode, fd, status);
    if (error != 0)
        close(fd);
    return error ? error : fd;
}

/* Open an inode of any type (O_PATH). */
static int open_inode(struct um_live *layer, uint32_t number, struct statx *status)
{
    struct um_live_reach reach;
    struct um_live_inode inode;
    int fd = um_live_reach_inode(layer, number, &inode, &reach);
    if (fd != 0)
        return fd;
    fd = um_live_pin(layer, &inode, &reach, status);
    um_live_leave(layer, &reach);
    return fd;
}

int um_live_open_any(struct um_live *layer, uint32_t number)
{
    struct statx status;
    return open_inode(layer, number, &status);
}

/* Open a regular file for reading. It was opened with O_PATH and checked before, so it is no
 * device or FIFO, even if one has its name by now. */
int um_live_open_file(struct um_live *layer, uint32_t number)
{
    struct statx status;
    int seen = open_inode(layer, number, &status);
    if (seen < 0)
        return seen;
    int fd = S_ISREG(status.stx_mode) ? open_for_reading(layer, seen, 0) : -ESTALE;
    close(seen);
    return fd;
}

/* ---- xattrs ------------------------------------------------------------------------------------------------ */

/* Return the directory itself as a name in it, because its O_PATH descriptor has no xattrs. */
static const char *entry_of(const struct um_grip *grip)
{
    return grip->name[0] == '\0' && !grip->own ? "." : grip->name;
}

/* The object whose xattrs are read: the pinned descriptor, or, where that is -1, what was reached. */
struct subject {
    const struct um_live_reach *reach;
    int pinned;
};

static int64_t ask_value(struct subject of, const char *name, void *value, size_t size)
{
    if (of.pinned >= 0)
        return um_xattr_get_at(of.pinned, "", name, value, size);
    struct um_grip grip;
    int error = take(of.reach, &grip);
    if (error != 0)
        return error;
    int64_t got = um_xattr_get_at(grip.fd, entry_of(&grip), name, value, size);
    um_grip_release(&grip);
    return got;
}

static int64_t get_xattr(struct subject of, const char *name, void *value, size_t size)
{
    int64_t got = ask_value(of, name, value, size);
    if (got >= 0)
        return got;
    return got == -EOPNOTSUPP || got == -EXDEV ? -ENODATA : gone((int)-got);
}

int64_t um_live_reach_getxattr(const struct um_live_reach *reach, const char *name, void *value,
                               size_t size)
{
    return get_xattr((struct subject){reach, -1}, name, value, size);
}

static int64_t ask_names(struct subject of, char *names, size_t size)
{
    if (of.pinned >= 0)
        return um_xattr_list_at(of.pinned, "", names, size);
    struct um_grip grip;
    int error = take(of.reach, &grip);
    if (error != 0)
        return error;
    int64_t got = um_xattr_list_at(grip.fd, entry_of(&grip), names, size);
    um_grip_release(&grip);
    return got;
}

static int64_t list_xattrs(struct subject of, char **names)
{
    char few[LIST_ROOM];
    *names = NULL;
    int64_t size = ask_names(of, few, sizeof few);
    if (size == 0 || size == -EOPNOTSUPP || size == -EXDEV)
        return 0;
    if (size < 0 && size != -ERANGE)
        return gone((int)-size);
    char *all = malloc(size > 0 ? (size_t)size : LIST_MOST);
    if (all == NULL)
        return -ENOMEM;
    if (size > 0)
        memcpy(all, few, (size_t)size);
    else
        size = ask_names(of, all, LIST_MOST);
    if (size <= 0) {
        int error = size < 0 ? gone((int)-size) : 0;
        free(all);
        return error;
    }
    *names = all;
    return size;
}

int64_t um_live_reach_listxattr(const struct um_live_reach *reach, char **names)
{
    return list_xattrs((struct subject){reach, -1}, names);
}

/* ---- marks ------------------------------------------------------------------------------------------------- */

static int read_redirect(struct subject of, const char *name, struct um_live_marks *marks)
{
    char path[REDIRECT_MOST];
    int64_t size = get_xattr(of, name, path, sizeof path);
    if (size == -ERANGE) { /* longer than any path, so as malformed as this one */
        path[0] = '/';
        size = 1;
    }
    if (size == -ENODATA || size == -EACCES || size == -EPERM)
        return 0;
    if (size <= 0 || marks->redirect != NULL)
        return (int)size < 0 ? (int)size : 0;
    marks->redirect = malloc((size_t)size);
    if (marks->redirect == NULL)
        return -ENOMEM;
    memcpy(marks->redirect, path, (size_t)size);
    marks->redirect_size = (size_t)size;
    return 0;
}

static int read_mark(struct subject of, const char *name, enum um_mark_kind kind,
                     struct um_live_marks *marks)
{
    char value;
    switch (kind) {
    case UM_MARK_REDIRECT:
        return read_redirect(of, name, marks);
    case UM_MARK_METACOPY:
        marks->metacopy = true;
        return 0;
    case UM_MARK_WHITEOUT:
        marks->whiteout = true;
        return 0;
    case UM_MARK_OPAQUE:
        if (get_xattr(of, name, &value, 1) == 1) {
            marks->opaque |= value == 'y';
            marks->marks_whiteouts |= value == 'x';
        }
        return 0;
    }
    return 0;
}

bool um_live_believes(const struct um_live *layer, const struct statx *status)
{
    uint32_t mode = layer->believes & UM_BELIEVE_CLOSED ? 0 : status->stx_mode;
    return um_mark_is_trusted(status->stx_uid, mode);
}

static void doubt(enum um_mark_kind kind, struct um_live_marks *marks)
{
    marks->doubtful_redirect |= kind == UM_MARK_REDIRECT;
    marks->doubtful_metacopy |= kind == UM_MARK_METACOPY;
}

/* Read the marks among these names: those that only hide, and those that lead elsewhere where the
 * ones below trusted., or with `user` below user., are trusted. An untrusted mark does not matter
 * where a trusted one says the same. */
static int read_listed(const struct um_live *layer, struct subject of, const char *names,
                       int64_t size, bool user, struct um_live_marks *marks)
{
    bool trusted = layer->believes & UM_BELIEVE_TRUSTED;
    int error = 0;
    for (int64_t at = 0; error == 0 && at < size; at += (int64_t)strlen(names + at) + 1) {
        struct um_slice name = um_slice_text(names + at);
        enum um_mark_kind kind;
        if (!um_whiteout_mark(name, um_live_namespaces(layer), &kind))
            continue;
        if (um_whiteout_leads(kind) && !(um_whiteout_is_user_mark(name) ? user : trusted))
            doubt(kind, marks);
        else
            error = read_mark(of, names + at, kind, marks);
    }
    marks->doubtful_redirect &= marks->redirect == NULL;
    marks->doubtful_metacopy &= !marks->metacopy;
    return error;
}

/* Return whether there is a mark that leads elsewhere, and that the owner of the object may have
 * set. */
static bool has_claims(const struct um_live *layer, const char *names, int64_t size)
{
    for (int64_t at = 0; at < size; at += (int64_t)strlen(names + at) + 1) {
        struct um_slice name = um_slice_text(names + at);
        enum um_mark_kind kind;
        if (um_whiteout_is_user_mark(name) &&
            um_whiteout_mark(name, um_live_namespaces(layer), &kind) && um_whiteout_leads(kind))
            return true;
    }
    return false;
}

/* Read the marks of an object whose owner decides whether they are trusted. Owner and marks are
 * read from one descriptor, because another object may have its name by then. */
static int read_claims(struct um_live *layer, const struct um_live_inode *inode,
                       const struct um_live_reach *reach, struct um_live_marks *marks)
{
    um_autofree char *names = NULL;
    struct statx status;
    struct subject of = {reach, um_live_pin(layer, inode, reach, &status)};
    if (of.pinned == -EXDEV) /* marks in a mounted file system do not count */
        return 0;
    if (of.pinned < 0)
        return of.pinned;
    int64_t size = list_xattrs(of, &names);
    int error = size < 0
                    ? (int)size
                    : read_listed(layer, of, names, size, um_live_believes(layer, &status), marks);
    close(of.pinned);
    return error;
}

int um_live_read_marks(struct um_live *layer, const struct um_live_inode *inode,
                       const struct um_live_reach *reach, struct um_live_marks *marks)
{
    um_autofree char *names = NULL;
    *marks = (struct um_live_marks){0};
    int64_t size = um_live_reach_listxattr(reach, &names);
    int error = size < 0 ? (int)size : 0;
    bool ask_owner =
        inode != NULL && layer->believes & UM_BELIEVE_OWN && has_claims(layer, names, size);
    if (error == 0 && ask_owner)
        error = read_claims(layer, inode, reach, marks);
    else if (error == 0)
        error = read_listed(layer, (struct subject){reach, -1}, names, size, false, marks);
    if (error != 0) {
        free(marks->redirect);
        marks->redirect = NULL;
    }
    return error;
}

void um_live_tell_refused(struct um_live *layer, uint32_t number)
{
    char path[PATH_MAX];
    struct way way = {0};
    path[0] = '\0';
    if (find_way(layer, number, &way) == 0)
        take_step(&way, path);
    free(way.names);
    um_refusal_tell(layer->refusals, "lower", layer->shown_fd, um_slice_text(path));
}

bool um_live_may_be_hidden(const struct um_live *layer, uint64_t ino)
{
    bool may_be = false;
    for (size_t i = 0; i < UM_HIDDEN_MAX; i++)
        may_be |= layer->hidden_inodes[i] != 0 && layer->hidden_inodes[i] == ino;
    return may_be;
}

/* Return whether an object must not be shown. Like a whiteout, it also hides what is below it. */
static bool is_hidden(const struct um_live *layer, const struct statx *status)
{
    const dev_t device = makedev(status->stx_dev_major, status->stx_dev_minor);
    for (size_t i = 0; i < UM_HIDDEN_MAX; i++) {
        if (layer->hidden_inodes[i] != 0 && layer->hidden_inodes[i] == status->stx_ino &&
            layer->hidden_devices[i] == device)
            return true;
    }
    return false;
}

int um_live_is_whiteout(struct um_live *layer, const struct um_live_reach *reach,
                        const struct statx *status, bool marked)
{
    if (S_ISDIR(status->stx_mode))
        return is_hidden(layer, status);
    if (S_ISCHR(status->stx_mode))
        return um_whiteout_is_device(status->stx_rdev_major, status->stx_rdev_minor);
    if (!marked || !S_ISREG(status->stx_mode) || status->stx_size != 0)
        return 0;
    struct um_live_marks marks;
    int error = um_live_read_marks(layer, NULL, reach, &marks);
    if (error != 0)
        return error;
    free(marks.redirect);
    return marks.whiteout;
}
