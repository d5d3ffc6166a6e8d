#include "layer/live.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

#include "layer/live_state.h"
#include "marks/override_stat.h"
#include "marks/trust.h"
#include "marks/whiteout.h"
#include "system/capability.h"
#include "system/read_at.h"
#include "system/xattr_at.h"
#include "system/xattr_name.h"

/* ---- opening -------------------------------------------------------------------------------------------- */

int um_live_open(const struct um_live_setup *setup, struct um_live **out)
{
    struct um_live *layer = calloc(1, sizeof *layer);
    if (layer == NULL)
        return -ENOMEM;
    layer->fd = setup->fd;
    layer->shown_fd = setup->shown_fd;
    layer->tag = setup->tag;
    layer->is_private = setup->is_private;
    layer->is_removable = setup->is_removable;
    layer->believes = setup->believes;
    for (size_t i = 0; setup->hidden_inodes != NULL && i < UM_HIDDEN_MAX; i++) {
        layer->hidden_devices[i] = setup->hidden_devices[i];
        layer->hidden_inodes[i] = setup->hidden_inodes[i];
    }
    layer->cache = setup->cache;
    layer->refusals = setup->refusals;
    pthread_rwlock_init(&layer->lock, NULL);
    pthread_mutex_init(&layer->scan_lock, NULL);
    int error = um_live_table_open(layer);
    if (error != 0) {
        um_live_close(layer);
        return error;
    }
    *out = layer;
    return 0;
}

void um_live_close(struct um_live *layer)
{
    if (layer == NULL)
        return;
    um_live_table_close(layer);
    free(atomic_load(&layer->links));
    free(atomic_load(&layer->files));
    pthread_rwlock_destroy(&layer->lock);
    pthread_mutex_destroy(&layer->scan_lock);
    free(layer);
}

/* ---- what is known of a directory --------------------------------------------------------------------------- */

static int look_for(struct um_live *layer, uint32_t number, const char *name)
{
    struct um_live_reach reach;
    struct statx status;
    int error = um_live_reach(layer, number, um_slice_text(name), &reach);
    if (error != 0)
        return error;
    error = um_live_reach_statx(&reach, &status);
    um_live_leave(layer, &reach);
    return error;
}

/* Return whether the directory `number` has an entry of this name: 1, or 0 where it has none, or
 * where that cannot be known, as in a mount point: there nobody sees what the mark would affect
 * either. */
static int has_entry(struct um_live *layer, uint32_t number, const char *name)
{
    int error = look_for(layer, number, name);
    if (error == -ENOENT || error == -ENAMETOOLONG || error == -EACCES || error == -EXDEV)
        return 0;
    return error ? error : 1;
}

/* Return whether a whiteout file of this name is in the directory, and has something to hide. */
static int has_whiteout(struct um_live *layer, uint32_t directory, struct um_slice name)
{
    char text[256];
    return layer->tag != 0 && um_whiteout_spell(name, text) ? has_entry(layer, directory, text) : 0;
}

/* Return whether a redirect is an absolute path without empty components, or one name. */
static bool valid_redirect(struct um_slice path)
{
    if (path.size == 0 || memchr(path.data, '\0', path.size) != NULL)
        return false;
    if (path.data[0] != '/')
        return memchr(path.data, '/', path.size) == NULL && path.size <= 255;
    for (size_t i = 1; i < path.size; i++) {
        if (path.data[i] == '/' && path.data[i - 1] == '/')
            return false;
    }
    return path.size > 1 && path.data[path.size - 1] != '/';
}

/* Take over a redirect. A malformed one leads nowhere, as "/" does, which contains no name. */
static int take_redirect(const struct um_live_marks *marks, struct um_live_more *more)
{
    struct um_slice path = um_slice_of(marks->redirect, marks->redirect_size);
    if (marks->redirect == NULL)
        return 0;
    if (!valid_redirect(path))
        path = UM_SLICE_LITERAL("/");
    uint8_t *kept = malloc(path.size);
    if (kept == NULL)
        return -ENOMEM;
    memcpy(kept, path.data, path.size);
    more->redirect = um_slice_of(kept, path.size);
    return 0;
}

/* Read the marks on the directory itself, in it and beside it. */
static int read_flags(struct um_live *layer, uint32_t number, const struct um_live_inode *inode,
                      struct um_live_more *more)
{
    struct um_live_name name;
    if (layer->tag == 0)
        return 0;
    int opaque = has_entry(layer, number, um_whiteout_opaque());
    if (opaque < 0)
        return opaque;
    if (opaque)
        more->flags |= UM_INODE_OPAQUE;
    if (number == 0 || !um_live_get_name(layer, inode->name, &name))
        return 0;
    int replaces = has_whiteout(layer, name.directory, um_slice_of(name.text, name.size));
    if (replaces > 0)
        more->flags |= UM_INODE_REPLACES;
    return replaces < 0 ? replaces : 0;
}

/* Return whether a directory shows something of the layers below. */
static bool goes_on(const struct um_live *layer, const struct um_live_more *more)
{
    return layer->tag != 0 && !(more->flags & (UM_INODE_OPAQUE | UM_INODE_REPLACES));
}

/* Return whether a mark that is not trusted says that a file has its data elsewhere. */
static bool lacks_data(const struct um_live_marks *marks)
{
    return marks->doubtful_metacopy || (marks->metacopy && marks->doubtful_redirect);
}

static int read_more(struct um_live *layer, uint32_t number, struct um_live_more *more)
{
    struct um_live_inode inode;
    struct um_live_reach reach;
    struct um_live_marks marks;
    int error = um_live_reach_inode(layer, number, &inode, &reach);
    if (error != 0)
        return error;
    error = um_live_read_marks(layer, &inode, &reach, &marks);
    um_live_leave(layer, &reach);
    if (error != 0)
        return error;
    more->flags = marks.opaque ? UM_INODE_OPAQUE : 0;
    more->marks_whiteouts = marks.marks_whiteouts;
    more->metacopy = marks.metacopy;
    error = take_redirect(&marks, more);
    free(marks.redirect);
    if (error == 0 && inode.type == DT_DIR)
        error = read_flags(layer, number, &inode, more);
    more->refused =
        inode.type == DT_DIR ? goes_on(layer, more) && marks.doubtful_redirect : lacks_data(&marks);
    if (error == 0 && more->refused)
        um_live_tell_refused(layer, number);
    return error;
}

int um_live_more(struct um_live *layer, uint32_t number, const struct um_live_more **out)
{
    struct um_live_inode inode;
    if (!um_live_get_inode(layer, number, &inode))
        return -ESTALE;
    *out = inode.more;
    if (*out != NULL)
        return 0;
    struct um_live_more *more = calloc(1, sizeof *more);
    if (more == NULL)
        return -ENOMEM;
    int error = read_more(layer, number, more);
    if (error != 0) {
        um_live_more_free(more);
        return error;
    }
    *out = um_live_set_more(layer, number, more);
    return 0;
}

int um_live_flags(struct um_live *layer, uint32_t directory, uint32_t *flags)
{
    const struct um_live_more *more = NULL;
    int error = um_live_more(layer, directory, &more);
    *flags = error ? 0 : more->flags;
    return error;
}

int um_live_redirect(struct um_live *layer, uint32_t inode, struct um_slice *redirect,
                     bool *refused)
{
    const struct um_live_more *more = NULL;
    int error = um_live_more(layer, inode, &more);
    if (error != 0)
        return error;
    *redirect = more->redirect;
    *refused = more->refused;
    return 0;
}

int um_live_has_data(struct um_live *layer, uint32_t number)
{
    struct um_live_inode inode;
    struct um_live_reach reach;
    struct um_live_marks marks;
    const struct um_live_more *more = NULL;
    if (!um_live_get_inode(layer, number, &inode))
        return -ESTALE;
    if (inode.own_data)
        return 1;
    int error = um_live_reach_inode(layer, number, &inode, &reach);
    if (error != 0)
        return error;
    error = um_live_read_marks(layer, &inode, &reach, &marks);
    um_live_leave(layer, &reach);
    if (error != 0)
        return error;
    free(marks.redirect);
    if (!marks.metacopy &&
        !marks.doubtful_metacopy) { /* as for nearly all files; then nothing else has to be kept */
        um_live_set_own_data(layer, number);
        return 1;
    }
    /* The marks may have changed since; the reading that is kept decides. */
    error = um_live_more(layer, number, &more);
    if (error == 0 && more->refused)
        error = -EIO;
    return error ? error : !more->metacopy;
}

/* ---- finding -------------------------------------------------------------------------------------------------- */

/* Return whether the disk may be asked for a name: others would lead elsewhere, or are marks. */
static bool is_findable(struct um_slice name)
{
    struct um_slice hidden;
    return name.size != 0 && name.size <= 255 && memchr(name.data, '/', name.size) == NULL &&
           memchr(name.data, '\0', name.size) == NULL && !um_slice_is_dots(name) &&
           um_whiteout_classify(name, &hidden) == UM_NAME_PLAIN;
}

static int found_whiteout(struct um_slice name, struct um_child *child)
{
    *child = (struct um_child){
        .name = name, .dirent = UM_INDEX_NONE, .inode = UM_INDEX_NONE, .type = DT_WHT};
    return 0;
}

static void fill_inode(const struct statx *status, struct um_inode *inode)
{
    *inode = (struct um_inode){
        .mode = status->stx_mode,
        .uid = status->stx_uid,
        .gid = status->stx_gid,
        .nlink = status->stx_nlink,
        .mtime = status->stx_mtime.tv_sec,
        .mtime_nsec = status->stx_mtime.tv_nsec,
        .size = status->stx_size,
        .major = status->stx_rdev_major,
        .minor = status->stx_rdev_minor,
        .atime = status->stx_atime.tv_sec,
        .atime_nsec = status->stx_atime.tv_nsec,
        .ctime = status->stx_ctime.tv_sec,
        .ctime_nsec = status->stx_ctime.tv_nsec,
        .blocks = status->stx_blocks,
    };
}

/* Take over the stat of a name. */
static int found(struct um_live *layer, uint32_t directory, struct um_slice name,
                 struct um_live_reach *reach, const struct statx *status, struct um_child *child)
{
    bool marked = false;
    if (S_ISREG(status->stx_mode) && status->stx_size == 0) {
        const struct um_live_more *more = NULL;
        int error = um_live_more(layer, directory, &more);
        if (error != 0)
            return error;
        marked = more->marks_whiteouts;
    }
    int hides = um_live_is_whiteout(layer, reach, status, marked);
    if (hides != 0)
        return hides < 0 ? hides : found_whiteout(name, child);
    int error = um_live_add(layer, directory, name, status, child);
    child->asked = error == 0;
    if (error == 0)
        fill_inode(status, &child->now);
    return error;
}

/* Return whether the whole layer was removed, so that a missing name says nothing. */
static bool is_removed(const struct um_live *layer)
{
    struct stat status;
    return layer->is_removable && fstat(layer->fd, &status) == 0 && status.st_nlink == 0;
}

static int find_on_disk(struct um_live *layer, uint32_t directory, struct um_slice name,
                        struct um_child *child)
{
    struct um_live_reach reach;
    struct statx status;
    int error = um_live_reach(layer, directory, name, &reach);
    if (error != 0)
        return error;
    error = um_live_reach_statx(&reach, &status);
    if (error == 0)
        error = found(layer, directory, name, &reach, &status, child);
    um_live_leave(layer, &reach);
    if (error != -ENOENT && error != -ENAMETOOLONG)
        return error;
    int hidden = has_whiteout(layer, directory, name);
    if (hidden != 0)
        return hidden > 0 ? found_whiteout(name, child) : hidden;
    return is_removed(layer) ? -ESTALE : -ENOENT;
}

static void to_child(uint32_t number, const struct um_live_name *name, struct um_child *child)
{
    *child = (struct um_child){.name = um_slice_of(name->text, name->size),
                               .dirent = number,
                               .inode = name->inode,
                               .type = name->type};
}

int um_live_find(struct um_live *layer, uint32_t directory, struct um_slice text,
                 struct um_child *child)
{
    uint32_t number;
    struct um_live_name name;
    if (!is_findable(text))
        return -ENOENT;
    if (um_live_find_name(layer, directory, text, &number, &name) &&
        (name.inode != UM_INDEX_NONE || name.type == DT_WHT)) {
        to_child(number, &name, child);
        return 0;
    }
    return find_on_disk(layer, directory, text, child);
}

int um_live_name(struct um_live *layer, uint32_t number, struct um_child *child)
{
    struct um_live_name name;
    if (!um_live_get_name(layer, number, &name))
        return -ESTALE;
    to_child(number, &name, child);
    return 0;
}

int um_live_place(struct um_live *layer, uint32_t number, uint32_t *parent, uint32_t *own)
{
    struct um_live_inode inode;
    struct um_live_name name;
    if (!um_live_get_inode(layer, number, &inode) || !um_live_get_name(layer, inode.name, &name))
        return -ESTALE;
    *parent = name.directory;
    *own = inode.name;
    return 0;
}

/* ---- attributes ------------------------------------------------------------------------------------------------ */

/* Return whether an error only says that resources are short: it is unknown whether the object has
 * the xattr. */
static bool is_shortage(int64_t error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOMEM;
}

static const char *override_xattr(const struct um_live *layer)
{
    if (layer->believes & UM_BELIEVE_STAT_SECURITY)
        return UM_OVERRIDE_SECURITY_XATTR;
    return layer->believes & UM_BELIEVE_STAT_FUSE ? UM_OVERRIDE_FUSE_XATTR : UM_OVERRIDE_XATTR;
}

/* Return whether override_stat is trusted on an object of this owner and mode. */
static bool believes_override(const struct um_live *layer, const struct statx *status)
{
    if (layer->believes & UM_BELIEVE_STAT_SECURITY)
        return um_mark_is_trusted(status->stx_uid, 0);
    return um_live_believes(layer, status);
}

/* Read the text of override_stat where it is trusted; -ENODATA where there is none. Other errors
 * are reported, because owner and mode on disk may permit more than override_stat does. */
static int64_t read_override(struct um_live *layer, const struct um_live_inode *known,
                             const struct um_live_reach *reach, char text[UM_OVERRIDE_TEXT])
{
    struct statx status;
    if (!(layer->believes & (UM_BELIEVE_STAT | UM_BELIEVE_ANY_STAT)))
        return -ENODATA;
    const char *name = override_xattr(layer);
    int64_t size = um_live_reach_getxattr(reach, name, text, UM_OVERRIDE_TEXT);
    if (size < 0)
        return is_shortage(size) ? size : -ENODATA;
    if (layer->believes & UM_BELIEVE_ANY_STAT)
        return size;
    /* Read it again from the pinned object: somebody may replace it by one of another owner
     * meanwhile. */
    int fd = um_live_pin(layer, known, reach, &status);
    if (fd < 0)
        return fd;
    size = believes_override(layer, &status) ? um_xattr_get_at(fd, "", name, text, UM_OVERRIDE_TEXT)
                                             : -ENODATA;
    close(fd);
    return size == -ERANGE ? -ENODATA : size; /* it became too long, so it is malformed */
}

/* Apply override_stat. Only regular files and directories can have one. */
static int override(struct um_live *layer, const struct um_live_inode *known,
                    const struct um_live_reach *reach, struct um_inode *inode)
{
    char text[UM_OVERRIDE_TEXT];
    struct um_override wanted;
    if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode))
        return 0;
    int64_t size = read_override(layer, known, reach, text);
    if (size < 0)
        return size == -ENODATA ? 0 : (int)size;
    if (um_override_parse(um_slice_of(text, (size_t)size), &wanted) != 0)
        return 0;
    uint32_t mode = um_override_mode(&wanted, inode->mode);
    inode->uid = wanted.uid;
    inode->gid = wanted.gid;
    if ((mode & S_IFMT) != (inode->mode & S_IFMT)) { /* an empty file stands for something else */
        inode->size = inode->blocks = 0;
        inode->major = wanted.major;
        inode->minor = wanted.minor;
    }
    inode->mode = mode;
    return 0;
}

static int read_inode(struct um_live *layer, uint32_t number, struct um_live_inode *known,
                      struct um_inode *inode)
{
    struct um_live_reach reach;
    struct statx status;
    int error = um_live_reach_inode(layer, number, known, &reach);
    if (error != 0)
        return error;
    error = um_live_reach_statx(&reach, &status);
    if (error == 0 && !um_live_is_inode(layer, known, &status))
        error = -ESTALE;
    if (error == 0) {
        fill_inode(&status, inode);
        error = override(layer, known, &reach, inode);
    }
    um_live_leave(layer, &reach);
    return error == -ENOENT ? -ESTALE : error;
}

/* Add the flags of a directory, which stat does not return. */
static int add_place(struct um_live *layer, uint32_t number, const struct um_live_inode *known,
                     struct um_inode *inode)
{
    struct um_live_name name = {0};
    if (known->type != DT_DIR)
        return 0;
    inode->own = known->name;
    if (number != 0 && um_live_get_name(layer, known->name, &name))
        inode->parent = name.directory;
    return um_live_flags(layer, number, &inode->flags);
}

int um_live_inode(struct um_live *layer, uint32_t number, struct um_inode *inode)
{
    struct um_live_inode known;
    int error = read_inode(layer, number, &known, inode);
    return error ? error : add_place(layer, number, &known, inode);
}

int um_live_child_inode(struct um_live *layer, const struct um_child *child, struct um_inode *inode)
{
    struct um_live_inode known;
    struct um_live_reach reach;
    if (!child->asked)
        return um_live_inode(layer, child->inode, inode);
    int error = um_live_reach_inode(layer, child->inode, &known, &reach);
    if (error != 0)
        return error;
    *inode = child->now;
    error = override(layer, &known, &reach, inode);
    um_live_leave(layer, &reach);
    return error ? error : add_place(layer, child->inode, &known, inode);
}

int um_live_target(struct um_live *layer, uint32_t number, struct um_slice *target)
{
    struct um_live_inode inode;
    struct um_live_reach reach;
    char text[PATH_MAX];
    if (!um_live_get_inode(layer, number, &inode) || inode.type != DT_LNK)
        return -ESTALE;
    if (inode.more == NULL) {
        int error = um_live_reach_inode(layer, number, &inode, &reach);
        if (error != 0)
            return error;
        ssize_t size = readlinkat(reach.use.fd, reach.name, text, sizeof text);
        error = size < 0 ? (errno == EINVAL || errno == ENOENT ? -ESTALE : -errno) : 0;
        um_live_leave(layer, &reach);
        struct um_live_more *more = error ? NULL : calloc(1, sizeof *more);
        uint8_t *kept = error ? NULL : malloc((size_t)size + 1);
        if (more == NULL || kept == NULL) {
            free(more);
            free(kept);
            return error ? error : -ENOMEM;
        }
        memcpy(kept, text, (size_t)size);
        more->target = um_slice_of(kept, (size_t)size);
        inode.more = um_live_set_more(layer, number, more);
    }
    *target = inode.more->target;
    return 0;
}

/* ---- data --------------------------------------------------------------------------------------------------------- */

int64_t um_live_read(struct um_live *layer, uint32_t inode, uint64_t offset, void *buffer,
                     size_t size, unsigned flags)
{
    struct um_fd_use use;
    if (offset > INT64_MAX || size == 0)
        return 0;
    if (size > INT64_MAX - offset)
        size = (size_t)(INT64_MAX - offset);
    int error = um_live_use_file(layer, inode, &use);
    if (error != 0)
        return error;
    int64_t got = um_read_at(use.fd, offset, buffer, size, flags & UM_LAYER_NOWAIT);
    um_fd_cache_release(layer->cache, &use);
    return got;
}

int um_live_open_data(struct um_live *layer, uint32_t inode, int *fd)
{
    *fd = um_live_open_file(layer, inode);
    return *fd < 0 ? *fd : 0;
}

int um_live_open_path(struct um_live *layer, uint32_t inode, int *fd)
{
    *fd = um_live_open_any(layer, inode);
    return *fd < 0 ? *fd : 0;
}

/* ---- xattrs -------------------------------------------------------------------------------------------------------- */

int64_t um_live_getxattr(struct um_live *layer, uint32_t number, struct um_slice name, void *value,
                         size_t size)
{
    char text[UM_OVERLAY_ROOM];
    struct um_live_inode inode;
    struct um_live_reach reach;
    if (name.size == 0 || name.size >= sizeof text)
        return -ENODATA;
    int error =
        um_overlay_store(um_live_namespaces(layer), (const char *)name.data, name.size, text);
    if (error != 0)
        return error == -EPERM ? -ENODATA : error;
    error = um_live_reach_inode(layer, number, &inode, &reach);
    if (error != 0)
        return error;
    int64_t got = um_live_reach_getxattr(&reach, text, value, size);
    /* The layer may be an upper of root's that others could reach. The mark below user. does not
     * count: anybody may have set it. */
    if (got == -ENODATA && strcmp(text, UM_CAPABILITY) == 0)
        got = um_live_reach_getxattr(&reach, UM_CAPABILITY_TRUSTED, value, size);
    um_live_leave(layer, &reach);
    return got;
}

static bool has_name(const char *all, int64_t all_size, const char *name)
{
    for (int64_t at = 0; at < all_size; at += (int64_t)strlen(all + at) + 1) {
        if (strcmp(all + at, name) == 0)
            return true;
    }
    return false;
}

/* Write the name under which users see an xattr and return its size; 0 where they see none. */
static size_t shown_name(unsigned namespaces, const char *name, const char *all, int64_t all_size,
                         char shown[UM_OVERLAY_ROOM])
{
    struct um_slice stored = um_slice_text(name);
    if (stored.size >= UM_OVERLAY_ROOM) /* no file system has such a name */
        return 0;
    if (strcmp(name, UM_CAPABILITY_TRUSTED) != 0)
        return um_overlay_show(namespaces, stored, shown);
    if (has_name(all, all_size, UM_CAPABILITY))
        return 0;
    memcpy(shown, UM_CAPABILITY, sizeof UM_CAPABILITY - 1);
    return sizeof UM_CAPABILITY - 1;
}

/* Collect the names that users may see, and return their size. */
static int64_t filter_names(unsigned namespaces, const char *all, int64_t all_size, char *names,
                            size_t size)
{
    char shown[UM_OVERLAY_ROOM];
    size_t used = 0;
    for (int64_t at = 0; at < all_size; at += (int64_t)strlen(all + at) + 1) {
        size_t length = shown_name(namespaces, all + at, all, all_size, shown);
        if (length == 0)
            continue;
        int error = um_xattr_list_append(um_slice_of(shown, length), names, size, &used);
        if (error != 0)
            return error;
    }
    return (int64_t)used;
}

int64_t um_live_listxattr(struct um_live *layer, uint32_t number, char *names, size_t size)
{
    struct um_live_inode inode;
    struct um_live_reach reach;
    um_autofree char *all = NULL;
    int error = um_live_reach_inode(layer, number, &inode, &reach);
    if (error != 0)
        return error;
    int64_t all_size = um_live_reach_listxattr(&reach, &all);
    um_live_leave(layer, &reach);
    if (all_size < 0)
        return all_size;
    return filter_names(um_live_namespaces(layer), all, all_size, names, size);
}
