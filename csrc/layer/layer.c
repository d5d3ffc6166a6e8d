#include "layer/layer.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "layer/live.h"
#include "marks/whiteout.h"
#include "system/read_at.h"
#include "system/xattr_name.h"

int um_layer_open(struct um_index *index, int fd, uint64_t offset, uint64_t length,
                  struct um_layer *layer)
{
    struct um_index_info info;
    um_index_get_info(index, &info);
    uint64_t end;
    if (!um_add64(offset, length, &end) || end > INT64_MAX || info.layer_size > length)
        return -EIO;
    *layer = (struct um_layer){.index = index, .fd = fd, .offset = offset, .length = length};
    return 0;
}

int um_layer_open_live(const struct um_live_setup *setup, struct um_layer *layer)
{
    *layer = (struct um_layer){.fd = setup->fd};
    return um_live_open(setup, &layer->live);
}

void um_layer_close(struct um_layer *layer)
{
    um_live_close(layer->live);
    layer->live = NULL;
}

/* ---- numbers ------------------------------------------------------------------------------------- */

uint64_t um_layer_span(const struct um_layer *layer)
{
    struct um_index_info info;
    if (layer->live != NULL)
        return UM_LIVE_SPAN;
    um_index_get_info(layer->index, &info);
    return info.inodes;
}

uint64_t um_layer_number(const struct um_layer *layer, uint32_t inode)
{
    return layer->live ? um_live_number(layer->live, inode) : inode;
}

int um_layer_seek(const struct um_layer *layer, uint64_t number, uint32_t *inode)
{
    if (layer->live != NULL)
        return um_live_seek(layer->live, number, inode);
    *inode = (uint32_t)number;
    return 0;
}

/* ---- names and inodes ---------------------------------------------------------------------------- */

static void to_child(const struct um_dirent *dirent, uint32_t number, struct um_child *child)
{
    *child = (struct um_child){
        .name = dirent->name, .dirent = number, .inode = dirent->inode, .type = dirent->type};
}

int um_layer_find(const struct um_layer *layer, uint32_t directory, struct um_slice name,
                  struct um_child *child)
{
    struct um_dirent dirent;
    uint32_t number;
    if (layer->live != NULL)
        return um_live_find(layer->live, directory, name, child);
    int error = um_index_find(layer->index, directory, name, &number, &dirent);
    if (error == 0)
        to_child(&dirent, number, child);
    return error == -ENOTDIR ? -EBADMSG : error;
}

int um_layer_dirent(const struct um_layer *layer, uint32_t number, struct um_child *child)
{
    struct um_dirent dirent;
    if (layer->live != NULL)
        return um_live_name(layer->live, number, child);
    int error = um_index_dirent(layer->index, number, &dirent);
    if (error == 0)
        to_child(&dirent, number, child);
    return error;
}

int um_layer_resolve(const struct um_layer *layer, uint32_t directory, struct um_child *child)
{
    if (layer->live == NULL || child->inode != UM_INDEX_NONE || child->type == DT_WHT)
        return 0;
    int error = um_live_find(layer->live, directory, child->name, child);
    return error == 0 && child->type == DT_WHT ? -ENOENT : error;
}

int um_layer_children(const struct um_layer *layer, uint32_t directory,
                      struct um_children *children)
{
    *children = (struct um_children){0};
    if (layer->live != NULL)
        return um_live_children(layer->live, directory, &children->names, &children->n);
    struct um_inode inode;
    int error = um_index_inode(layer->index, directory, &inode);
    if (error != 0)
        return error;
    children->first = inode.first;
    children->n = inode.count;
    return 0;
}

int um_layer_child(const struct um_layer *layer, const struct um_children *children,
                   uint32_t number, struct um_child *child)
{
    uint32_t dirent = children->names ? children->names[number] : children->first + number;
    return um_layer_dirent(layer, dirent, child);
}

int um_layer_inode(const struct um_layer *layer, uint32_t number, struct um_inode *inode)
{
    return layer->live ? um_live_inode(layer->live, number, inode)
                       : um_index_inode(layer->index, number, inode);
}

int um_layer_peek(const struct um_layer *layer, uint32_t number, struct um_inode *inode)
{
    if (layer->live == NULL)
        return um_index_inode(layer->index, number, inode);
    *inode = (struct um_inode){.mode = um_live_type(layer->live, number)};
    return inode->mode != 0 ? 0 : -ESTALE;
}

int um_layer_child_inode(const struct um_layer *layer, uint32_t directory,
                         const struct um_child *child, struct um_inode *inode)
{
    if (layer->live != NULL)
        return um_live_child_inode(layer->live, child, inode);
    int error = um_index_inode(layer->index, child->inode, inode);
    if (error != 0)
        return error;
    bool fits = IFTODT(inode->mode) == child->type &&
                (child->type != DT_UNKNOWN || (inode->flags & UM_INODE_EXTERNAL));
    if (S_ISDIR(inode->mode))
        fits = fits && inode->parent == directory && inode->own == child->dirent;
    return fits ? 0 : -EBADMSG;
}

int um_layer_flags(const struct um_layer *layer, uint32_t directory, uint32_t *flags)
{
    struct um_inode inode;
    if (layer->live != NULL)
        return um_live_flags(layer->live, directory, flags);
    int error = um_index_inode(layer->index, directory, &inode);
    *flags = error ? 0 : inode.flags;
    return error;
}

int um_layer_redirect(const struct um_layer *layer, uint32_t inode, struct um_slice *redirect,
                      bool *refused)
{
    *redirect = (struct um_slice){0};
    *refused = false;
    return layer->live ? um_live_redirect(layer->live, inode, redirect, refused) : 0;
}

int um_layer_has_data(const struct um_layer *layer, uint32_t inode)
{
    return layer->live ? um_live_has_data(layer->live, inode) : 1;
}

int um_layer_place(const struct um_layer *layer, uint32_t number, struct um_place *place)
{
    struct um_inode inode;
    if (layer->live != NULL)
        return um_live_place(layer->live, number, &place->directory, &place->dirent);
    int error = um_index_inode(layer->index, number, &inode);
    if (error == 0 && !S_ISDIR(inode.mode))
        error = -EBADMSG;
    if (error == 0)
        *place = (struct um_place){inode.parent, inode.own};
    return error;
}

int um_layer_redirects(const struct um_layer *layer, uint32_t **directories, size_t *n)
{
    *directories = NULL;
    *n = 0;
    return layer->live ? um_live_redirects(layer->live, directories, n) : 0;
}

int um_layer_target(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                    struct um_slice *target)
{
    if (layer->live != NULL)
        return um_live_target(layer->live, number, target);
    *target = inode->target;
    return 0;
}

/* ---- the names of an inode ---------------------------------------------------------------------- */

/* Return the names of an inode that has several: a table lists them. */
static int listed_names(const struct um_layer *layer, uint32_t number, uint32_t nlink,
                        struct um_place *places)
{
    uint32_t first;
    int error = um_index_links_from(layer->index, number, &first);
    for (uint32_t i = 0; error == 0 && i < nlink; i++) {
        struct um_index_link link;
        error = um_index_link(layer->index, first + i, &link);
        if (error == 0 && link.inode != number)
            error = -EBADMSG;
        if (error == 0)
            places[i] = (struct um_place){link.parent, link.dirent};
    }
    return error;
}

static int find_holder(const struct um_layer *layer, uint64_t n_inodes, struct um_place *place)
{
    for (uint32_t i = 0; i < n_inodes; i++) {
        struct um_inode inode;
        int error = um_index_inode(layer->index, i, &inode);
        if (error != 0)
            return error;
        if (S_ISDIR(inode.mode) && place->dirent >= inode.first &&
            place->dirent - inode.first < inode.count) {
            place->directory = i;
            return 0;
        }
    }
    return -EBADMSG;
}

/* Find the only name of an inode. The index leads only from names to inodes, so scan all names,
 * then all directories. */
static int search_name(const struct um_layer *layer, uint32_t number, struct um_place *place)
{
    struct um_index_info info;
    um_index_get_info(layer->index, &info);
    for (uint32_t i = 0; i < info.dirents; i++) {
        struct um_dirent dirent;
        int error = um_index_dirent(layer->index, i, &dirent);
        if (error != 0)
            return error;
        if (dirent.inode == number && dirent.type != DT_WHT) {
            place->dirent = i;
            return find_holder(layer, info.inodes, place);
        }
    }
    return -EBADMSG;
}

int um_layer_names(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                   struct um_place **places, size_t *n)
{
    struct um_index_info info;
    if (layer->live != NULL)
        return um_live_names(layer->live, number, inode->nlink, places, n);
    um_index_get_info(layer->index, &info);
    if (inode->nlink > info.links && inode->nlink > 1)
        return -EBADMSG;
    *n = inode->nlink > 1 ? inode->nlink : 1;
    um_autofree struct um_place *found = calloc(*n, sizeof *found);
    if (found == NULL)
        return -ENOMEM;
    int error = inode->nlink > 1 ? listed_names(layer, number, inode->nlink, found)
                                 : search_name(layer, number, found);
    if (error == 0)
        *places = um_steal(&found);
    return error;
}

/* ---- reading ----------------------------------------------------------------------------------- */

/* Read bytes of the tar at `at`, which the index has checked to lie within it: all of them, or an
 * errno. Without waiting it is -EAGAIN where the page cache has only some. */
static int64_t read_tar(const struct um_layer *layer, uint64_t at, uint8_t *buffer, size_t size,
                        unsigned flags)
{
    int64_t got = um_read_at(layer->fd, layer->offset + at, buffer, size, flags & UM_LAYER_NOWAIT);
    if (got == -EAGAIN)
        return got;
    return got == (int64_t)size ? got : -EIO; /* the layer's file is shorter than it was */
}

/* Find the first extent that ends after `offset`; `inode->count` where there is none. */
static int find_extent(const struct um_layer *layer, const struct um_inode *inode, uint64_t offset,
                       uint32_t *number)
{
    uint32_t low = 0, high = inode->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct um_index_extent extent;
        int error = um_index_extent(layer->index, inode->first + middle, &extent);
        if (error != 0)
            return error;
        if (extent.logical + extent.length <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    *number = low;
    return 0;
}

/* Copy the intersection of the extent and [offset, offset + size). */
static int64_t read_overlap(const struct um_layer *layer, const struct um_index_extent *extent,
                            uint64_t offset, uint8_t *buffer, size_t size, unsigned flags)
{
    uint64_t from = extent->logical > offset ? extent->logical : offset;
    uint64_t to = extent->logical + extent->length;
    if (to > offset + size)
        to = offset + size;
    if (from >= to)
        return 0;
    return read_tar(layer, extent->stored + (from - extent->logical), buffer + (from - offset),
                    (size_t)(to - from), flags);
}

static int64_t read_sparse(const struct um_layer *layer, const struct um_inode *inode,
                           uint64_t offset, uint8_t *buffer, size_t size, unsigned flags)
{
    uint32_t number;
    int error = find_extent(layer, inode, offset, &number);
    if (error != 0)
        return error;
    memset(buffer, 0, size);
    uint64_t end = 0;
    for (; number < inode->count; number++) {
        struct um_index_extent extent;
        error = um_index_extent(layer->index, inode->first + number, &extent);
        if (error != 0)
            return error;
        if (extent.logical >= offset + size)
            break;
        if (extent.logical < end)
            return -EBADMSG; /* builders sort them, and so a read never uses more of them than it has bytes */
        end = extent.logical + extent.length;
        int64_t n = read_overlap(layer, &extent, offset, buffer, size, flags);
        if (n < 0)
            return n;
    }
    return (int64_t)size;
}

int64_t um_layer_read(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                      uint64_t offset, void *buffer, size_t size, unsigned flags)
{
    if (layer->live != NULL)
        return um_live_read(layer->live, number, offset, buffer, size, flags);
    if (offset >= inode->size || size == 0)
        return 0;
    if (size > inode->size - offset)
        size = (size_t)(inode->size - offset);
    if (inode->flags & UM_INODE_SPARSE)
        return read_sparse(layer, inode, offset, buffer, size, flags);
    return read_tar(layer, inode->stored + offset, buffer, size, flags);
}

int um_layer_stored(const struct um_layer *layer, const struct um_inode *inode, uint64_t *bytes)
{
    *bytes = inode->flags & UM_INODE_SPARSE ? 0 : inode->size;
    if (!(inode->flags & UM_INODE_SPARSE) || inode->count == 0)
        return 0;
    struct um_index_extent first, last;
    int error = um_index_extent(layer->index, inode->first, &first);
    if (error == 0)
        error = um_index_extent(layer->index, inode->first + inode->count - 1, &last);
    if (error != 0)
        return error;
    /* Every sparse format stores its runs one after the other. */
    if (last.stored >= first.stored)
        *bytes = last.stored - first.stored + last.length;
    return 0;
}

int um_layer_blocks(const struct um_layer *layer, const struct um_inode *inode, uint64_t *blocks)
{
    uint64_t bytes;
    *blocks = inode->blocks;
    if (layer->live != NULL)
        return 0;
    int error = um_layer_stored(layer, inode, &bytes);
    if (error == 0)
        *blocks = bytes / 512 + (bytes % 512 != 0);
    return error;
}

/* ---- data, for copying --------------------------------------------------------------------------- */

int um_layer_open_path(const struct um_layer *layer, uint32_t number, int *fd)
{
    return layer->live ? um_live_open_path(layer->live, number, fd) : -ENODATA;
}

int um_layer_open_data(const struct um_layer *layer, uint32_t number, int *fd)
{
    if (layer->live != NULL)
        return um_live_open_data(layer->live, number, fd);
    *fd = fcntl(layer->fd, F_DUPFD_CLOEXEC, 0);
    return um_result(*fd);
}

static int next_run(const struct um_layer *layer, const struct um_inode *inode, uint64_t from,
                    struct um_index_extent *run)
{
    uint32_t number;
    int error = find_extent(layer, inode, from, &number);
    if (error != 0 || number == inode->count)
        return error;
    error = um_index_extent(layer->index, inode->first + number, run);
    return error ? error : 1;
}

/* Ask the file system of a live file; where it knows no holes, everything is data. */
static int next_live_data(int fd, uint64_t from, uint64_t *logical, uint64_t *length,
                          uint64_t *stored)
{
    if (from > INT64_MAX)
        return 0;
    off_t data = lseek(fd, (off_t)from, SEEK_DATA);
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (data < 0 || hole < 0)
        return errno == ENXIO ? 0 : -errno;
    *logical = *stored = (uint64_t)data;
    *length = (uint64_t)(hole - data);
    return hole > data;
}

int um_layer_next_data(const struct um_layer *layer, const struct um_inode *inode, int fd,
                       uint64_t from, uint64_t *logical, uint64_t *length, uint64_t *stored)
{
    if (layer->live != NULL)
        return next_live_data(fd, from, logical, length, stored);
    struct um_index_extent run = {.length = inode->size, .stored = inode->stored};
    if (from >= inode->size)
        return 0;
    if (inode->flags & UM_INODE_SPARSE) {
        int more = next_run(layer, inode, from, &run);
        if (more <= 0)
            return more;
    }
    uint64_t skip = from > run.logical ? from - run.logical : 0;
    *logical = run.logical + skip;
    *length = run.length - skip;
    *stored = layer->offset + run.stored + skip;
    return 1;
}

/* ---- extended attributes ------------------------------------------------------------------------ */

/* Step through a set of xattrs: 1 with *xattr, 0 at the end. `*next` is inode->xattr at first. */
static int next_xattr(const struct um_layer *layer, uint32_t *next, struct um_index_xattr *xattr)
{
    if (*next == 0)
        return 0;
    int error = um_index_xattr(layer->index, *next - 1, xattr);
    if (error != 0)
        return error;
    *next = xattr->last ? 0 : *next + 1;
    return 1;
}

int64_t um_layer_getxattr(const struct um_layer *layer, uint32_t number,
                          const struct um_inode *inode, unsigned namespaces, struct um_slice name,
                          void *value, size_t size)
{
    char stored[UM_OVERLAY_ROOM];
    struct um_index_xattr xattr;
    uint32_t next = inode->xattr;
    int more;
    if (layer->live != NULL)
        return um_live_getxattr(layer->live, number, name, value, size);
    int error = um_overlay_store(namespaces, (const char *)name.data, name.size, stored);
    if (error == -EPERM || (error == 0 && um_overlay_leads(name)))
        return -ENODATA;
    if (error != 0)
        return error;
    while ((more = next_xattr(layer, &next, &xattr)) > 0) {
        if (!um_slice_equal(xattr.name, um_slice_text(stored)))
            continue;
        return um_slice_copy_out(xattr.value, value, size);
    }
    return more < 0 ? more : -ENODATA;
}

int64_t um_layer_listxattr(const struct um_layer *layer, uint32_t number,
                           const struct um_inode *inode, unsigned namespaces, char *names,
                           size_t size)
{
    struct um_index_xattr xattr;
    uint32_t next = inode->xattr;
    size_t used = 0;
    int more;
    if (layer->live != NULL)
        return um_live_listxattr(layer->live, number, names, size);
    while ((more = next_xattr(layer, &next, &xattr)) > 0) {
        char shown[UM_OVERLAY_ROOM];
        /* A longer name cannot be asked for. */
        if (xattr.name.size >= sizeof shown)
            continue;
        size_t length = um_overlay_show(namespaces, xattr.name, shown);
        if (length == 0 || um_overlay_leads(um_slice_of(shown, length)))
            continue;
        int error = um_xattr_list_append(um_slice_of(shown, length), names, size, &used);
        if (error != 0)
            return error;
    }
    return more < 0 ? more : (int64_t)used;
}
