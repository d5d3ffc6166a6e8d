/*
 * tree/unstacked.h - the layers of a tree side by side, each by itself.
 *
 * Purpose: show an image as one directory for each layer, named 0 (the lowest), 1, …. Marks are
 * shown in the form that overlayfs uses, instead of being applied: a whiteout is a character
 * device 0:0 with the name that it hides, and a directory that hides everything below it has the
 * xattr user.overlay.opaque = y. A hard link into a lower layer is the file that it leads to. One
 * that leads nowhere hides its name, and is a whiteout. The top directory contains nothing else.
 *
 * Node numbers: 1 is the top. An inode of a layer has 1 + its number in the tree (tree/tree.h);
 * all names that layers have for a file have one number. Whiteouts have numbers above those. There
 * is no state for a node; opening is O(layers).
 *
 * Ownership: borrows the tree, whose layers are those of an image. Names and targets that are
 * returned are borrowed from the indexes or from this struct. Threads and errors: as the tree.
 */
#ifndef UM_UNSTACKED_H
#define UM_UNSTACKED_H

#include "base/base.h"
#include "tree/tree.h"

/* cffi: begin */
struct um_unstacked; /* opaque */

/* Open the layers of a tree. -EOPNOTSUPP where one is a live directory. */
int um_unstacked_open(struct um_tree *tree, struct um_unstacked **out);
void um_unstacked_close(struct um_unstacked *layers);

/* These do what the functions of the tree with the same names do. */
int um_unstacked_lookup(struct um_unstacked *layers, uint64_t directory, const char *name,
                        size_t name_size, struct um_attr *attr);
int um_unstacked_getattr(struct um_unstacked *layers, uint64_t node, struct um_attr *attr);
int um_unstacked_parent(struct um_unstacked *layers, uint64_t directory, uint64_t *parent);

/* Return what a layer says of a node: a sum of UM_UNSTACKED_…. */
#define UM_UNSTACKED_IMPLIED 1u  /* a directory that occurs only in paths of other entries */
#define UM_UNSTACKED_OPAQUE 2u /* a directory that hides everything below it */
#define UM_UNSTACKED_REPLACES 4u /* a directory beside a whiteout of its name, so a new one */
int um_unstacked_marks(struct um_unstacked *layers, uint64_t node, uint32_t *marks);

int um_unstacked_list(struct um_unstacked *layers, uint64_t directory, uint64_t cookie,
                      struct um_tree_entry *entries, size_t capacity);
int um_unstacked_readlink(struct um_unstacked *layers, uint64_t node, const char **target,
                          size_t *size);
int64_t um_unstacked_read(struct um_unstacked *layers, uint64_t node, uint64_t offset, void *buffer,
                          size_t size, unsigned flags);
int64_t um_unstacked_getxattr(struct um_unstacked *layers, uint64_t node, const char *name,
                              size_t name_size, void *value, size_t size);
int64_t um_unstacked_listxattr(struct um_unstacked *layers, uint64_t node, char *names,
                               size_t size);
/* cffi: end */

#endif
