/*
 * layer/layer.h - one layer, of either kind, as the tree sees it.
 *
 * Purpose: hide from the tree what a layer is made of. An image layer is an index and the byte
 * range of a tar; the other kind is a live directory (layer/live.h). 32-bit numbers identify the
 * inodes of a layer, of which 0 is its root directory, and its names (*dirents*). In an index they
 * are record numbers; in a live directory inodes and names get them when they are first seen.
 *
 * Ownership: the index and the descriptor are borrowed. Slices live as long as the index or, of a
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
    uint32_t
        inode; /* UM_INDEX_NONE for a listed name of a live directory: um_layer_resolve finds it */
    uint8_t type; /* DT_…; DT_WHT whiteout; DT_UNKNOWN external hard link */
    bool asked; /* of a live directory: it was found by a stat, whose result is: */
    struct um_inode now; /* valid where `asked`; without override_stat */
};

/* The names of a directory. */
struct um_children {
    uint32_t n;
    uint32_t first; /* of an image layer: its dirents are contiguous */
    const uint32_t *names; /* of a live directory */
};

/* Open an image layer. -EIO where the file is shorter than the index says. */
int um_layer_open(struct um_index *index, int fd, uint64_t offset, uint64_t length,
                  struct um_layer *layer);

/* The live directory to open as a layer. */
struct um_live_setup {
    int fd; /* the directory, O_PATH suffices */
    int shown_fd; /* messages show its path, as that of a private directory leads nowhere */
    uint32_t tag; /* unique among the layers that share the cache */
    uint32_t believes; /* UM_BELIEVE_… (marks/whiteout.h): trusted marks */
    bool is_private; /* nobody can mount anything below `fd` (system/open_beneath.h) */
    bool is_removable; /* another program may remove the whole directory: then names are -ESTALE */
    const uint64_t *hidden_devices, *hidden_inodes; /* UM_HIDDEN_MAX of each, or NULL; copied */
    struct um_fd_cache *cache; /* borrowed */
    struct um_refusals *refusals; /* borrowed */
};

/* Open a live directory. -ENOTDIR. */
int um_layer_open_live(const struct um_live_setup *setup, struct um_layer *layer);
void um_layer_close(struct um_layer *layer);

/* Return the number above all file numbers (um_layer_number). */
uint64_t um_layer_span(const struct um_layer *layer);
uint64_t um_layer_number(const struct um_layer *layer, uint32_t inode);
/* Find the inode of a file number. -ESTALE where no inode has it. */
int um_layer_seek(const struct um_layer *layer, uint64_t number, uint32_t *inode);

/* Find a name in a directory. 0, -ENOENT or -EBADMSG. */
int um_layer_find(const struct um_layer *layer, uint32_t directory, struct um_slice name,
                  struct um_child *child);

/* List all children of a directory, sorted. */
int um_layer_children(const struct um_layer *layer, uint32_t directory,
                      struct um_children *children);
int um_layer_child(const struct um_layer *layer, const struct um_children *children,
                   uint32_t number, struct um_child *child);

/* Return a dirent, whatever directory it is in. */
int um_layer_dirent(const struct um_layer *layer, uint32_t dirent, struct um_child *child);

/* Find the inode of a listed child of `directory`. -ENOENT where it is gone. */
int um_layer_resolve(const struct um_layer *layer, uint32_t directory, struct um_child *child);

int um_layer_inode(const struct um_layer *layer, uint32_t number, struct um_inode *inode);

/* Return what is known of an inode without disk access: of a live directory only its type. */
int um_layer_peek(const struct um_layer *layer, uint32_t number, struct um_inode *inode);

/* Return the inode of a child, checked against its dirent: a directory has exactly one name. */
int um_layer_child_inode(const struct um_layer *layer, uint32_t directory,
                         const struct um_child *child, struct um_inode *inode);

/* Return the UM_INODE_… flags of a directory. */
int um_layer_flags(const struct um_layer *layer, uint32_t directory, uint32_t *flags);

/* Return where a directory, or a file without data of its own, continues in the layers below: an
 * absolute path, or a name beside it; size 0 where it continues under its own name. *refused: a
 * mark of it is not trusted, so this is unknown. */
int um_layer_redirect(const struct um_layer *layer, uint32_t inode, struct um_slice *redirect,
                      bool *refused);

/* Return whether a regular file has its own data: 1; 0 where a layer below has it; -EIO where a
 * mark says so that is not trusted. */
int um_layer_has_data(const struct um_layer *layer, uint32_t inode);

/* The place of a name in its layer. */
struct um_place {
    uint32_t directory, dirent;
};

/* Return the place of a directory other than the root. In a live directory this works for files,
 * too, and returns the first of their names that was seen. */
int um_layer_place(const struct um_layer *layer, uint32_t inode, struct um_place *place);

/* Return all names that the layer has for an inode that is no directory; *places is malloced. The
 * only name of an inode is found by searching the whole index. */
int um_layer_names(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                   struct um_place **places, size_t *n);

/* Return all directories with a redirect, outer ones first; *directories is malloced. */
int um_layer_redirects(const struct um_layer *layer, uint32_t **directories, size_t *n);

/* Return the target of a symlink. */
int um_layer_target(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                    struct um_slice *target);

/* Open an inode of a live directory (O_PATH); the caller closes the descriptor. -ENODATA in an
 * image layer, whose inodes are nothing on disk. */
int um_layer_open_path(const struct um_layer *layer, uint32_t number, int *fd);

/* Open the data of a regular file; the caller closes the descriptor. */
int um_layer_open_data(const struct um_layer *layer, uint32_t number, int *fd);

/* Find the first run of data at or after `from`, as um_tree_next_data does. */
int um_layer_next_data(const struct um_layer *layer, const struct um_inode *inode, int fd,
                       uint64_t from, uint64_t *logical, uint64_t *length, uint64_t *stored);

/* Read bytes of a regular file, as um_tree_read does. */
int64_t um_layer_read(const struct um_layer *layer, uint32_t number, const struct um_inode *inode,
                      uint64_t offset, void *buffer, size_t size, unsigned flags);

/* Return how many bytes a file of an image layer occupies in it: its size, less its holes. */
int um_layer_stored(const struct um_layer *layer, const struct um_inode *inode, uint64_t *bytes);

/* Return how many blocks of 512 bytes a file occupies in the layer: its size says so unless it is
 * sparse. */
int um_layer_blocks(const struct um_layer *layer, const struct um_inode *inode, uint64_t *blocks);

/* Get and list xattrs by the names that users of a mount see. Of an image, names that are marks in
 * one of `namespaces` (UM_OVERLAY_…) are left out: they have no meaning there, and must not get
 * one in a copy of it. A live directory knows its own namespaces. `inode` is the result of
 * um_layer_peek, or more. */
int64_t um_layer_getxattr(const struct um_layer *layer, uint32_t number,
                          const struct um_inode *inode, unsigned namespaces, struct um_slice name,
                          void *value, size_t size);
int64_t um_layer_listxattr(const struct um_layer *layer, uint32_t number,
                           const struct um_inode *inode, unsigned namespaces, char *names,
                           size_t size);

#endif
