#include "layer.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/uio.h>

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
    int error = um_index_find(layer->index, directory, name, &number, &dirent);
    if (error == 0)
        to_child(&dirent, number, child);
    return error == -ENOTDIR ? -EBADMSG : error;
}

int um_layer_dirent(const struct um_layer *layer, uint32_t number, struct um_child *child)
{
    struct um_dirent dirent;
    int error = um_index_dirent(layer->index, number, &dirent);
    if (error == 0)
        to_child(&dirent, number, child);
    return error;
}

int um_layer_child(const struct um_layer *layer, const struct um_inode *directory, uint32_t number,
                   struct um_child *child)
{
    if (number >= directory->count)
        return -ENOENT;
    return um_layer_dirent(layer, directory->first + number, child);
}

int um_layer_inode(const struct um_layer *layer, uint32_t number, struct um_inode *inode)
{
    return um_index_inode(layer->index, number, inode);
}

int um_layer_child_inode(const struct um_layer *layer, uint32_t directory,
                         const struct um_child *child, struct um_inode *inode)
{
    int error = um_index_inode(layer->index, child->inode, inode);
    if (error != 0)
        return error;
    bool fits = IFTODT(inode->mode) == child->type &&
                (child->type != DT_UNKNOWN || (inode->flags & UM_INODE_EXTERNAL));
    if (S_ISDIR(inode->mode))
        fits = fits && inode->parent == directory && inode->own == child->dirent;
    return fits ? 0 : -EBADMSG;
}

/* ---- reading ----------------------------------------------------------------------------------- */

/* Bytes of the tar at `at`, which the index has checked to lie within it: all of them or an errno.
 * Without waiting it is -EAGAIN where the page cache holds only some. */
static int64_t read_tar(const struct um_layer *layer, uint64_t at, uint8_t *buffer, size_t size,
                        unsigned flags)
{
    size_t got = 0;
    int how = flags & UM_LAYER_NOWAIT ? RWF_NOWAIT : 0;
    while (got < size) {
        struct iovec piece = {.iov_base = buffer + got, .iov_len = size - got};
        ssize_t n = preadv2(layer->fd, &piece, 1, (off_t)(layer->offset + at + got), how);
        if (n > 0) {
            got += (size_t)n;
        } else if (n == 0) {
            return -EIO; /* the layer's file is shorter than it was */
        } else if (errno == EOPNOTSUPP && how != 0) {
            how = 0; /* this file system can't tell; its reads do not wait long */
        } else if (errno != EINTR) {
            return errno == EAGAIN ? -EAGAIN : -EIO;
        }
    }
    return (int64_t)got;
}

/* The first extent that ends behind `offset`; `inode->count` where there is none. */
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

/* Copy what the extent and [offset, offset + size) have in common. */
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
            return -EBADMSG; /* a builder sorts them; so a read takes no more of them than bytes */
        end = extent.logical + extent.length;
        int64_t n = read_overlap(layer, &extent, offset, buffer, size, flags);
        if (n < 0)
            return n;
    }
    return (int64_t)size;
}

int64_t um_layer_read(const struct um_layer *layer, const struct um_inode *inode, uint64_t offset,
                      void *buffer, size_t size, unsigned flags)
{
    if (offset >= inode->size || size == 0)
        return 0;
    if (size > inode->size - offset)
        size = (size_t)(inode->size - offset);
    if (inode->flags & UM_INODE_SPARSE)
        return read_sparse(layer, inode, offset, buffer, size, flags);
    return read_tar(layer, inode->stored + offset, buffer, size, flags);
}

int um_layer_stored_bytes(const struct um_layer *layer, const struct um_inode *inode,
                          uint64_t *bytes)
{
    *bytes = inode->size;
    if (!(inode->flags & UM_INODE_SPARSE))
        return 0;
    *bytes = 0;
    if (inode->count == 0)
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

/* ---- extended attributes ------------------------------------------------------------------------ */

/* Step through a set: 1 with *xattr, 0 at the end. `*next` is inode->xattr at first. */
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

int64_t um_layer_getxattr(const struct um_layer *layer, const struct um_inode *inode,
                          struct um_slice name, void *value, size_t size)
{
    struct um_index_xattr xattr;
    uint32_t next = inode->xattr;
    int more;
    while ((more = next_xattr(layer, &next, &xattr)) > 0) {
        if (!um_slice_equal(xattr.name, name))
            continue;
        if (size != 0 && xattr.value.size > size)
            return -ERANGE;
        if (size != 0 && xattr.value.size != 0)
            memcpy(value, xattr.value.data, xattr.value.size);
        return (int64_t)xattr.value.size;
    }
    return more < 0 ? more : -ENODATA;
}

int64_t um_layer_listxattr(const struct um_layer *layer, const struct um_inode *inode, char *names,
                           size_t size)
{
    struct um_index_xattr xattr;
    uint32_t next = inode->xattr;
    size_t used = 0;
    int more;
    while ((more = next_xattr(layer, &next, &xattr)) > 0) {
        size_t need = xattr.name.size + 1;
        if (size != 0 && need > size - used)
            return -ERANGE;
        if (size != 0) {
            memcpy(names + used, xattr.name.data, xattr.name.size);
            names[used + xattr.name.size] = '\0';
        }
        used += need;
    }
    return more < 0 ? more : (int64_t)used;
}
