/*
 * layer.h - one layer, as the tree sees it.
 *
 * Purpose: the door between the tree and what a layer is made of. An image layer is an index and
 * the byte range of a tar. (A live directory will be the second kind; the tree then does not
 * change.) A layer's inodes are named by 32-bit numbers; 0 is its root directory.
 *
 * Ownership: the index and the descriptor are borrowed; slices live as long as the index.
 * Threads: a layer is immutable, every function may be called by any thread.
 */
#ifndef UM_LAYER_H
#define UM_LAYER_H

#include "base.h"
#include "index.h"
#include "index_format.h"

#define UM_LAYER_NOWAIT 1u

struct um_layer {
    struct um_index *index;
    int fd;
    uint64_t offset, length; /* of the tar in fd */
};

/* A name in a directory of a layer. */
struct um_child {
    struct um_slice name;
    uint32_t dirent; /* its place in the layer, a stable cookie */
    uint32_t inode;
    uint8_t type; /* DT_…; DT_WHT whiteout; DT_UNKNOWN external hard link */
};

/* -EIO where the file is shorter than the index says. */
int um_layer_open(struct um_index *index, int fd, uint64_t offset, uint64_t length,
                  struct um_layer *layer);

/* 0, -ENOENT or -EBADMSG. */
int um_layer_find(const struct um_layer *layer, uint32_t directory, struct um_slice name,
                  struct um_child *child);

/* The `number`-th child; 0, -ENOENT past the last, or -EBADMSG. */
int um_layer_child(const struct um_layer *layer, const struct um_inode *directory, uint32_t number,
                   struct um_child *child);

/* The name of a dirent wherever it stands. */
int um_layer_dirent(const struct um_layer *layer, uint32_t dirent, struct um_child *child);

int um_layer_inode(const struct um_layer *layer, uint32_t number, struct um_inode *inode);

/* The inode of a child, held against its dirent: a directory has exactly one name. */
int um_layer_child_inode(const struct um_layer *layer, uint32_t directory,
                         const struct um_child *child, struct um_inode *inode);

/* Bytes of a regular file as um_tree_read. */
int64_t um_layer_read(const struct um_layer *layer, const struct um_inode *inode, uint64_t offset,
                      void *buffer, size_t size, unsigned flags);

/* Bytes that a file occupies in the layer: its size unless it is sparse. */
int um_layer_stored_bytes(const struct um_layer *layer, const struct um_inode *inode,
                          uint64_t *bytes);

int64_t um_layer_getxattr(const struct um_layer *layer, const struct um_inode *inode,
                          struct um_slice name, void *value, size_t size);
int64_t um_layer_listxattr(const struct um_layer *layer, const struct um_inode *inode, char *names,
                           size_t size);

#endif
