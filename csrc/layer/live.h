/*
 * layer/live.h - a live directory as a layer.
 *
 * Purpose: answer for a directory of the host what an index answers for a tar (layer/layer.h). The
 * directory is read lazily: finding a name asks the disk for that one name, and a directory is
 * read when it is listed, without a stat of its children. This module reads whiteouts, opaque
 * marks and redirects, which
 * marks/whiteout.h spells; docs/explanation/layers.md, "Live directories".
 *
 * Inodes and names that were seen have small records, numbered from 0, that live as long as the
 * layer; inode 0 is the directory itself. An inode is identified by mount, device and st_ino, so
 * names of one file share it. Attributes of files are never cached, but read from the disk each
 * time.
 *
 * Nothing is opened for writing, and only regular files and directories are opened at all. Names
 * are reached from the layer's own descriptor by openat2(2) beneath it, through no symlink. Where
 * the descriptor is private (system/open_beneath.h), a mount point below it shows the directory
 * that it covers. Elsewhere it shows the attributes of the mounted root, and everything in it is
 * -EXDEV. The content is assumed not to change while it is a layer. Where it does, results are
 * -ESTALE (the object is gone, or another one is there), or those of an earlier moment.
 *
 * Ownership: the layer borrows its descriptor and the cache; names and targets that it returns
 * live as long as the layer.
 * Threads: every function but open and close may be called by any thread. `lock` guards the
 * records; there is no disk access under it.
 * Errors: a negative errno; those of the file system are passed on.
 */
#ifndef UM_LIVE_H
#define UM_LIVE_H

#include "base/base.h"
#include "index/index.h"
#include "layer/layer.h"
#include "system/fd_cache.h"

#define UM_LIVE_SPAN (1ull << 48) /* all file numbers are below */

/* Open a live directory. Its tag is the number of the layer. Layer 0 has nothing below it that its
 * marks could hide, so they are not read. -ENOTDIR. */
int um_live_open(const struct um_live_setup *setup, struct um_live **out);
void um_live_close(struct um_live *layer);

/* Find a name. 0; -ENOENT. A whiteout is found as DT_WHT. */
int um_live_find(struct um_live *layer, uint32_t directory, struct um_slice name,
                 struct um_child *child);

/* List the children of a directory, sorted, including whiteouts, as numbers of names. The first
 * call reads the directory. */
int um_live_children(struct um_live *layer, uint32_t directory, const uint32_t **names,
                     uint32_t *n);

/* Return a name by its number. child->inode is UM_INDEX_NONE where it was listed, but never found. */
int um_live_name(struct um_live *layer, uint32_t number, struct um_child *child);

/* Return the place of an inode other than 0: of a file with several names, the first that was
 * seen. */
int um_live_place(struct um_live *layer, uint32_t inode, uint32_t *parent, uint32_t *name);

/* Return the type (S_IF…) that an inode has on disk, without disk access. */
uint32_t um_live_type(struct um_live *layer, uint32_t inode);

/* Return what stat shows, with override_stat applied where it is trusted; for a directory
 * UM_INODE_OPAQUE and UM_INODE_REPLACES, too, but in the lowest layer no flags. `first`, `count`,
 * `stored`, `xattr` and `target` are 0. */
int um_live_inode(struct um_live *layer, uint32_t number, struct um_inode *inode);
/* Do the same for a child that was just found. */
int um_live_child_inode(struct um_live *layer, const struct um_child *child,
                        struct um_inode *inode);

/* Return the flags of a directory, which are read once. */
int um_live_flags(struct um_live *layer, uint32_t directory, uint32_t *flags);

/* Return where a directory or a file without data continues below: an absolute path or one name;
 * size 0 for no redirect; "/" where it is malformed, which leads nowhere. *refused: see
 * um_layer_redirect. */
int um_live_redirect(struct um_live *layer, uint32_t inode, struct um_slice *redirect,
                     bool *refused);

/* Return whether a file has its own data: 1; 0 for a metacopy, whose data is in a layer below;
 * -EIO for a metacopy that is not trusted. */
int um_live_has_data(struct um_live *layer, uint32_t inode);

int um_live_target(struct um_live *layer, uint32_t inode, struct um_slice *target);

/* Read bytes of a regular file; `flags` may have UM_LAYER_NOWAIT. */
int64_t um_live_read(struct um_live *layer, uint32_t inode, uint64_t offset, void *buffer,
                     size_t size, unsigned flags);
int um_live_open_data(struct um_live *layer, uint32_t inode, int *fd);

/* Open an inode of any type (O_PATH); the caller closes the descriptor. */
int um_live_open_path(struct um_live *layer, uint32_t inode, int *fd);

/* Get and list xattrs, without marks, as getxattr(2) and listxattr(2) do. */
int64_t um_live_getxattr(struct um_live *layer, uint32_t inode, struct um_slice name, void *value,
                         size_t size);
int64_t um_live_listxattr(struct um_live *layer, uint32_t inode, char *names, size_t size);

/* Return the file number, below UM_LIVE_SPAN: st_ino. An inode of another mount, or with a larger
 * st_ino, gets one from the top, in order of appearance. */
uint64_t um_live_number(struct um_live *layer, uint32_t inode);

/* Return the inode of a file number. One that was not seen yet is searched among all names of the
 * layer, which are read once for that. -ESTALE. */
int um_live_seek(struct um_live *layer, uint64_t number, uint32_t *inode);

/* Return all names of a file; *places is malloced. Where st_nlink (`nlink`) says that there are
 * several, all directories of the layer are read once. */
int um_live_names(struct um_live *layer, uint32_t inode, uint32_t nlink, struct um_place **places,
                  size_t *n);

/* Return all directories with a trusted redirect, parents before their children; *directories is
 * malloced. This reads all directories of the layer. */
int um_live_redirects(struct um_live *layer, uint32_t **directories, size_t *n);

#endif
