/*
 * layer/live.h - a live directory as a layer.
 *
 * Purpose: answer for a directory of the host what an index answers for a tar (layer/layer.h). The
 * directory is read lazily: finding a name asks the disk for that one name; a directory is read when
 * it is listed, and none of its children is asked for its attributes then. Whiteouts, opaque marks
 * and redirects are read here (spelled in marks/whiteout.h); docs/explanation/layers.md, "Live directories".
 *
 * Inodes and names that were seen have small records, numbered from 0, that live as long as the
 * layer; inode 0 is the directory itself. An inode is known by mount, device and st_ino, so that
 * names of one file share it. What is known of a file on disk is not kept but asked for.
 *
 * Nothing is opened for writing; what is no regular file and no directory is not opened at all.
 * Names are reached from the layer's own descriptor by openat2(2) beneath it, through no symlink. A
 * mount point below it shows the directory that it covers where the descriptor is private
 * (system/open_beneath.h); elsewhere it shows the attributes of what is mounted there, and what is in it is
 * -EXDEV.
 * The content is assumed not to change while it is a layer; where it does, answers are -ESTALE (what
 * was there is not any more, or is something else) or those of an earlier moment.
 *
 * Ownership: the layer borrows its descriptor and the cache; names and targets that are handed out
 * live as long as the layer.
 * Threads: every function but open and close may be called by any thread. `lock` guards the records;
 * nothing is asked of the disk under it.
 * Errors: a negative errno; those of the file system are passed on.
 */
#ifndef UM_LIVE_H
#define UM_LIVE_H

#include "base/base.h"
#include "index/index.h"
#include "layer/layer.h"
#include "system/fd_cache.h"

#define UM_LIVE_SPAN (1ull << 48) /* file numbers are below */

/* The tag is the number of the layer, and below number 0 there is nothing that its marks could hide, so
 * they are not asked for. -ENOTDIR. */
int um_live_open(const struct um_live_setup *setup, struct um_live **out);
void um_live_close(struct um_live *layer);

/* 0; -ENOENT. A whiteout is found as DT_WHT. */
int um_live_find(struct um_live *layer, uint32_t directory, struct um_slice name,
                 struct um_child *child);

/* The children of a directory, sorted, whiteouts among them, as numbers of names. The directory is
 * read at the first call. */
int um_live_children(struct um_live *layer, uint32_t directory, const uint32_t **names,
                     uint32_t *n);

/* A name by its number. child->inode is UM_INDEX_NONE where it was listed, but never found. */
int um_live_name(struct um_live *layer, uint32_t number, struct um_child *child);

/* Where an inode, not inode 0, stands: of a file with several names, under the first that was seen. */
int um_live_place(struct um_live *layer, uint32_t inode, uint32_t *parent, uint32_t *name);

/* The type (S_IF…) that an inode has on disk, without asking the disk. */
uint32_t um_live_type(struct um_live *layer, uint32_t inode);

/* What stat shows, override_stat applied where it is believed; of a directory, UM_INODE_OPAQUE and
 * UM_INODE_REPLACES, too. `first`, `count`, `stored`, `xattr` and `target` are 0. The flags are 0 in the
 * lowest layer. */
int um_live_inode(struct um_live *layer, uint32_t number, struct um_inode *inode);
/* The same of a child that was just found. */
int um_live_child_inode(struct um_live *layer, const struct um_child *child,
                        struct um_inode *inode);

/* Flags of a directory, read once. */
int um_live_flags(struct um_live *layer, uint32_t directory, uint32_t *flags);

/* Where a directory or a file without data goes on below: an absolute path or one name; size 0 for no
 * redirect; "/" where it is malformed, which leads nowhere. *refused: see um_layer_redirect. */
int um_live_redirect(struct um_live *layer, uint32_t inode, struct um_slice *redirect,
                     bool *refused);

/* 1; 0 where a file is a metacopy: its data stands in a layer below; -EIO: one that is not believed. */
int um_live_has_data(struct um_live *layer, uint32_t inode);

int um_live_target(struct um_live *layer, uint32_t inode, struct um_slice *target);

/* Bytes of a regular file; UM_LAYER_NOWAIT. */
int64_t um_live_read(struct um_live *layer, uint32_t inode, uint64_t offset, void *buffer,
                     size_t size, unsigned flags);
int um_live_open_data(struct um_live *layer, uint32_t inode, int *fd);

/* A descriptor (O_PATH) of an inode, whatever it is, to be closed by the caller. */
int um_live_open_path(struct um_live *layer, uint32_t inode, int *fd);

/* Without the private ones; as getxattr(2) and listxattr(2). */
int64_t um_live_getxattr(struct um_live *layer, uint32_t inode, struct um_slice name, void *value,
                         size_t size);
int64_t um_live_listxattr(struct um_live *layer, uint32_t inode, char *names, size_t size);

/* The file number, below UM_LIVE_SPAN: st_ino; of what stands on another mount or has a larger
 * st_ino, one from the top, in order of appearance. */
uint64_t um_live_number(struct um_live *layer, uint32_t inode);

/* The inode of a file number. One that was not seen yet is searched for among all names of the layer,
 * which are read for that once. -ESTALE. */
int um_live_seek(struct um_live *layer, uint64_t number, uint32_t *inode);

/* All names of a file; *places is malloced. All directories of the layer are read for that once, where
 * st_nlink (`nlink`) says that there are several. */
int um_live_names(struct um_live *layer, uint32_t inode, uint32_t nlink, struct um_place **places,
                  size_t *n);

/* All directories with a redirect that is believed, parents before what is in them; *directories is
 * malloced. Asks all directories of the layer. */
int um_live_redirects(struct um_live *layer, uint32_t **directories, size_t *n);

#endif
