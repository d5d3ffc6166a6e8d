/*
 * layer/layer.h - one layer, as the tree sees it.
 *
 * Purpose: the door between the tree and what a layer is made of. An image layer is an index and
 * the byte range of a tar; the other kind is a live directory (layer/live.h). A layer's inodes are named
 * by 32-bit numbers, 0 is its root directory; and so are its names (*dirents*). In an index they are
 * the numbers of records; in a live directory they are given to what was seen.
 *
 * Ownership: the index and the descriptor are borrowed; slices live as long as the index or, of a
 * live directory, as the layer.
 * Threads: every function but open and close may be called by any thread.
 */
#ifndef UM_LAYER_H
#define UM_LAYER_H

#include "base/base.h"
#include "index/format.h"
#include "index/index.h"
#include "system/fd_cache.h"
#include "system/refusals.h"

#define UM_LAYER_NOWAIT 1u

struct um_live;

struct um_layer {
    struct um_index *index;   /* of an image layer, else NULL */
    struct um_live *live; /* of a live directory, else NULL; owned */
    int fd;
    uint64_t offset, length; /* of the tar in fd */
};

/* A name in a directory of a layer. */
struct um_child {
    struct um_slice name;
    uint32_t dirent; /* its place in the layer, a stable cookie */
    uint32_t inode;  /* of a listed name of a live directory UM_INDEX_NONE: um_layer_resolve */
    uint8_t type;    /* DT_…; DT_WHT whiteout; DT_UNKNOWN external hard link */
    bool asked;          /* of a live directory: finding it has shown what stat says */
    struct um_inode now; /* where it has; without override_stat */
};

/* The names of a directory. */
struct um_children {
    uint32_t n;
    uint32_t first;        /* of an image layer: its dirents are contiguous */
    const uint32_t *names; /* of a live directory */
};

/* -EIO where the file is shorter than the index says. */
int um_layer_open(struct um_index *index, int fd, uint64_t offset, uint64_t length,
                  struct um_layer *layer);

/* A live directory that is to be opened as a layer. */
struct um_live_setup {
    int fd;       /* the directory, O_PATH suffices */
    int shown_fd; /* whose path messages show: that of a private one leads nowhere */
    uint32_t tag; /* layers that share the cache have different ones */
    uint32_t
        believes; /* UM_BELIEVE_… (marks/whiteout.h): which marks that show more than the disk does */
    bool is_private; /* nobody can mount anything below `fd` (system/open_beneath.h) */
    const uint64_t *hidden_devices, *hidden_inodes; /* UM_HIDDEN_MAX of each, or NULL; copied */
    struct um_fd_cache *cache; /* borrowed */
    struct um_refusals *refusals; /* borrowed */
};

/* A live directory. -ENOTDIR. */
int um_layer_open_live(const struct um_live_setup *setup, struct um_layer *layer);
void um_layer_close(struct um_layer *layer);

/* How many file numbers (um_layer_number) there are: all are below. */
uint64_t um_layer_span(const struct um_layer *layer);
uint64_t um_layer_number(const struct um_layer *layer, uint32_t inode);
/* -ESTALE where no inode has the number. */
int um_layer_seek(const struct um_layer *layer, uint64_t number, uint32_t *inode);

/* 0, -ENOENT or -EBADMSG. */
int um_layer_find(const struct um_layer *layer, uint32_t directory, struct um_slice name,
                  struct um_child *child);

/* All children of a directory, sorted. */
int um_layer_children(const struct um_layer *layer, uint32_t directory,
                      struct um_children *children);
int um_layer_child(const struct um_layer *layer, const struct um_children *children,
                   uint32_t number, struct um_child *child);

/* The name of a dirent wherever it stands. */
int um_layer_dirent(const struct um_layer *layer, uint32_t dirent, struct um_child *child);

/* Let a child of `directory` have its inode. -ENOENT where it is gone. */
int um_layer_resolve(const struct um_layer *layer, uint32_t directory, struct um_child *child);

int um_layer_inode(const struct um_layer *layer, uint32_t number, struct um_inode *inode);

/* What is known without asking the disk: of a live directory the type only. */
int um_layer_peek(const struct um_layer *layer, uint32_t number, struct um_inode *inode);

/* The inode of a child, held against its dirent: a directory has exactly one name. */
int um_layer_child_inode(const struct um_layer *layer, uint32_t directory,
                         const struct um_child *child, struct um_inode *inode);

/* The UM_INODE_… flags of a directory. */
int um_layer_flags(const struct um_layer *layer, uint32_t directory, uint32_t *flags);

/* Where a directory, or a file without data of its own, goes on in the layers below: an absolute path
 * or a name beside it; size 0 where it goes on under its own name. *refused: a mark of it is not
 * believed, so that nobody knows. */
int um_layer_redirect(const struct um_layer *layer, uint32_t inode, struct um_slice *redirect,
                      bool *refused);

/* 1; 0 where the data of a regular file stands in a layer below; -EIO where a mark says so that is not
 * believed. */
int um_layer_has_data(const struct um_layer *layer, uint32_t inode);

/* Where a name stands in its layer. */
struct um_place {
    uint32_t directory, dirent;
};

/* Where a directory, not the root, stands; of a live directory also a file, under the first of its
 * names that was seen. */
int um_layer_place(const struct um_layer *layer, uint32_t inode, struct um_place *place);

/* All names that the layer has for an inode that is no directory; *places is malloced. The only name
 * of an inode is searched for in the whole index. */
int um_layer_names(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                   struct um_place **places, size_t *n);

/* All directories with a redirect, outer ones first; *directories is malloced. */
int um_layer_redirects(const struct um_layer *layer, uint32_t **directories, size_t *n);

/* Where a symlink points to. */
int um_layer_target(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                    struct um_slice *target);

/* A descriptor (O_PATH) of an inode of a live directory, to be closed by the caller. -ENODATA: what is in
 * an image layer is nothing on disk. */
int um_layer_open_path(const struct um_layer *layer, uint32_t number, int *fd);

/* A descriptor for the data of a regular file, to be closed by the caller. */
int um_layer_open_data(const struct um_layer *layer, uint32_t number, int *fd);

/* The first run of data at or behind `from`, as um_tree_next_data. */
int um_layer_next_data(const struct um_layer *layer, const struct um_inode *inode, int fd,
                       uint64_t from, uint64_t *logical, uint64_t *length, uint64_t *stored);

/* Bytes of a regular file as um_tree_read. */
int64_t um_layer_read(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                      uint64_t offset, void *buffer, size_t size, unsigned flags);

/* Bytes that a file of an image layer occupies in it: its size, or what is no hole of it. */
int um_layer_stored(const struct um_layer *layer, const struct um_inode *inode, uint64_t *bytes);

/* Blocks of 512 bytes that a file occupies in the layer: as its size says unless it is sparse. */
int um_layer_blocks(const struct um_layer *layer, const struct um_inode *inode, uint64_t *blocks);

/* By the names that users of a mount see, where of an image those of `namespaces` (UM_OVERLAY_…) are marks;
 * a live directory knows its own. Without marks: in an image they mean nothing, and must not come to mean
 * something in what is made of it. `inode` is what um_layer_peek says, or more. */
int64_t um_layer_getxattr(const struct um_layer *layer, uint32_t number,
                          const struct um_inode *inode, unsigned namespaces, struct um_slice name,
                          void *value, size_t size);
int64_t um_layer_listxattr(const struct um_layer *layer, uint32_t number,
                           const struct um_inode *inode, unsigned namespaces, char *names,
                           size_t size);

#endif
