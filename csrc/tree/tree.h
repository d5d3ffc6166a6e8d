/*
 * tree/tree.h - layers as one tree, with one rule for lookup and list.
 *
 * Purpose: stack layers and answer for the whole. The rule (docs/explanation/layers.md): search
 * from the top; the first layer that has the name decides; a whiteout hides it; a directory merges
 * with the directories of the same name below until an opaque one, or something that is no
 * directory.
 *
 * Node numbers. A 64-bit number identifies a node, and is also its st_ino. It is computed:
 * base(layer) + record, where base(layer) is 1 + the number of inode records of all layers below
 * it. The root is 1. A merged directory has the number of its lowest part. Therefore numbers are
 * the same at every mount of the same layers, they stay the same when a layer is put on top, and
 * looking a file up takes no memory. Directories that were looked up have a small record (their
 * merged parts) that lives as long as the tree; the number of directories in the image bounds its
 * memory.
 *
 * Ownership: the tree borrows indexes and descriptors, which the caller keeps open until
 * um_tree_close. Names and targets that it returns are borrowed from the indexes.
 * Threads: every function but open and close may be called by any number of threads at once. One
 * reader-writer lock (`lock` in tree/state.h) guards the directory records and the link counts;
 * there is no I/O on layer files under it.
 * Errors: a negative errno; -EBADMSG means that an index is damaged, -EIO that a layer file is
 * shorter than its index says.
 */
#ifndef UM_TREE_H
#define UM_TREE_H

#include "base/base.h"
#include "index/index.h"
#include "marks/whiteout.h"

/* cffi: begin */
#define UM_ROOT_NODE 1
#define UM_NAME_MAX 255
#define UM_READ_NOWAIT 1u /* -EAGAIN instead of waiting for the disk */

struct um_tree; /* opaque */

/* A layer of a new tree; everything in it is borrowed. Of an image layer: its index, and where its
 * tar begins in `fd`. Of a directory layer: `index` is NULL, `fd` is the directory (O_PATH
 * suffices), offset and length are 0. */
struct um_tree_layer {
    struct um_index *index;
    int fd;
    uint64_t offset;
    uint64_t length; /* bytes of the tar available at offset */
    uint32_t flags; /* UM_TREE_LAYER_… */
    int shown_fd; /* of a directory layer: messages show its path; 0: that of `fd` */
    uint32_t believes; /* of a directory layer: UM_BELIEVE_… (marks/whiteout.h) */
    /* Of a directory layer: directories that it never shows, by st_dev and st_ino, such as the
     * upper that is somewhere in it. Inode 0: none. */
    uint64_t hidden_devices[UM_HIDDEN_MAX], hidden_inodes[UM_HIDDEN_MAX];
};

#define UM_TREE_LAYER_PRIVATE 1u /* of a directory: nobody can mount anything below `fd` */
/* Of an image layer: it belongs to one mount, and the next one may have another in its place. Layers
 * above it are such, too. */
#define UM_TREE_LAYER_TEMPORARY 2u
/* Of a directory: another program may remove all of it. Then a name that is not found is -ESTALE,
 * so that the layers below do not show what the directory had replaced. */
#define UM_TREE_LAYER_REMOVABLE 4u

struct um_attr {
    uint64_t node; /* also st_ino */
    uint32_t mode; /* type and permissions */
    uint32_t nlink;
    uint32_t uid, gid;
    uint32_t major, minor;
    uint64_t size;
    uint64_t blocks; /* of 512 bytes */
    int64_t mtime;
    uint32_t mtime_nsec;
    uint32_t layer; /* 0 is the lowest; the layer that the shown metadata comes from */
    int64_t atime, ctime; /* of a file in a tar: its mtime */
    uint32_t atime_nsec, ctime_nsec;
};

struct um_tree_entry {
    const char *name; /* borrowed, not NUL-terminated */
    uint32_t name_size;
    uint32_t reserved;
    uint64_t next; /* cookie of the entry after this one */
    struct um_attr attr;
};

/* Stack layers; `layers[0]` is the lowest. 0 layers give an empty root. O(layers). 0, -ENOMEM,
 * -E2BIG (more than 4,096 layers), -EIO (a layer file shorter than its index says). The caller
 * owns *out. */
int um_tree_open(const struct um_tree_layer *layers, size_t n_layers, struct um_tree **out);
void um_tree_close(struct um_tree *tree);

/* Look a name up. 0; -ENOENT; -ENOTDIR; -ENAMETOOLONG (over 255 bytes); -ESTALE (no such node). */
int um_tree_lookup(struct um_tree *tree, uint64_t directory, const char *name, size_t name_size,
                   struct um_attr *attr);
int um_tree_getattr(struct um_tree *tree, uint64_t node, struct um_attr *attr);

/* Return the parent of a directory; the root is its own. -ENOTDIR, -ESTALE. */
int um_tree_parent(struct um_tree *tree, uint64_t directory, uint64_t *parent);

/* Return the topmost layer that has a part of a directory: those above do not change it or
 * anything in it. -ENOTDIR, -ESTALE. */
int um_tree_top(struct um_tree *tree, uint64_t directory, uint32_t *layer);

/* List a directory from `cookie` (0: the first entry) on, sorted bytewise, without "." and "..".
 * Return the number of entries written, 0 at the end, or a negative errno. Cookies are positions,
 * 1, 2, 3 …, and stay valid as long as the tree. */
int um_tree_list(struct um_tree *tree, uint64_t directory, uint64_t cookie,
                 struct um_tree_entry *entries, size_t capacity);

/* Read a symlink; *target is borrowed and not NUL-terminated. -EINVAL where the node is no
 * symlink. */
int um_tree_readlink(struct um_tree *tree, uint64_t node, const char **target, size_t *size);

/* Read bytes of a file and return their number, which is less than `size` only at the end of the
 * file. -EISDIR, -EINVAL (no file), -EAGAIN (UM_READ_NOWAIT), -EIO. */
int64_t um_tree_read(struct um_tree *tree, uint64_t node, uint64_t offset, void *buffer,
                     size_t size, unsigned flags);

/* Find the bytes of a file in its layer: the layer's number, the offset in its tar and the length.
 * -EINVAL where they are not one run (sparse, or no file). */
int um_tree_extent(struct um_tree *tree, uint64_t node, uint32_t *layer, uint64_t *offset,
                   uint64_t *length);

/* Get an xattr: return its size, and copy the value when `size` is not 0. -ENODATA; -ERANGE where
 * it does not fit. */
int64_t um_tree_getxattr(struct um_tree *tree, uint64_t node, const char *name, size_t name_size,
                         void *value, size_t size);
/* List all xattr names, each NUL-terminated, as listxattr(2): return the total size, and copy when
 * `size` is not 0. */
int64_t um_tree_listxattr(struct um_tree *tree, uint64_t node, char *names, size_t size);

/* A walk reports what layer `layer` does to the layers below it: its own names, depth first and
 * sorted, and the names that its whiteouts and opaque directories hide. `change` is 'A' added, 'C'
 * changed (the name exists below), 'D' deleted (once for a whole directory). Whiteouts of nothing
 * and implied directories are not reported. */
struct um_tree_walk; /* opaque */
int um_tree_walk_open(struct um_tree *tree, uint32_t layer, struct um_tree_walk **out);
/* Return the next change: 1 with *path (borrowed until the next call, no leading slash), 0 at the
 * end, or an errno. */
int um_tree_walk_next(struct um_tree_walk *walk, const char **path, size_t *path_size, char *change,
                      uint32_t *mode, uint64_t *size);
void um_tree_walk_close(struct um_tree_walk *walk);

/* Return the next hard link of `layer` whose target is in no layer, and which is therefore absent
 * from the tree. *cursor is 0 at first, and advances with every call. 1 with name and target
 * (without leading slash; free them with um_free), 0 at the end, or an errno. */
int um_tree_broken_link(struct um_tree *tree, uint32_t layer, uint64_t *cursor, char **name,
                        size_t *name_size, char **target, size_t *target_size);
void um_free(void *memory);
/* cffi: end */

/* ---- for the upper (upper/upper.h), which stands on a tree ---- */

/* Return the number above all nodes that the tree may show. */
uint64_t um_tree_end(const struct um_tree *tree);

/* Return the number from which on nodes are those of temporary layers; um_tree_end() if there are none. */
uint64_t um_tree_lasting_end(const struct um_tree *tree);

uint32_t um_tree_layers(const struct um_tree *tree);

/* Return whether some layer is a live directory. */
bool um_tree_is_live(const struct um_tree *tree);

/* Open the object on disk that has a node's attributes (O_PATH); the caller closes the descriptor.
 * -ENODATA where there is none, because the node is in an image layer, or is a directory that no
 * layer has. */
int um_tree_open_path(struct um_tree *tree, uint64_t node, int *fd);

/* Look a name up, as um_tree_lookup; entry->name lives as long as the tree, entry->next is not
 * set. */
int um_tree_find(struct um_tree *tree, uint64_t directory, const char *name, size_t name_size,
                 struct um_tree_entry *entry);

/* Return the name of a directory in its parent; empty for the root. *name lives as long as the
 * tree. -ESTALE, -ENOTDIR. */
int um_tree_name(struct um_tree *tree, uint64_t directory, uint64_t *parent, const char **name,
                 size_t *name_size);

/* A visible name of a file; `directory` is the node of the directory that has it. */
struct um_tree_name {
    uint64_t directory;
    const char *name; /* lives as long as the tree */
    size_t name_size;
};

/* Return all visible names of a file, in no order; *names is malloced. The cost depends on the
 * layer: at worst the size of its index, or of its directories. -ESTALE; -EISDIR. */
int um_tree_names(struct um_tree *tree, uint64_t node, struct um_tree_name **names, size_t *n);

/* Open the data of a regular file for copying; the caller closes the descriptor. */
int um_tree_open_data(struct um_tree *tree, uint64_t node, int *fd);

/* Find the first run of data of a regular file at or after `from`: its place in the file
 * (*logical), its length, and its place in the descriptor of um_tree_open_data (*stored). 1, 0
 * where only a hole follows, or an errno. */
int um_tree_next_data(struct um_tree *tree, uint64_t node, int fd, uint64_t from, uint64_t *logical,
                      uint64_t *length, uint64_t *stored);

#endif
