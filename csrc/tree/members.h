/*
 * tree/members.h - the plain files of a directory as members of a tar, many in one call.
 *
 * Purpose: export a tree without a call for each file. A file is plain if it is a regular file or a
 * symlink of an image layer, has one name and no xattrs, is stored in one run, and tar/write.h has a
 * header for it. Plain files become members in a buffer of the caller, with their data. All other
 * files, directories among them, are left to the caller, and so is every error: a file that cannot be
 * read is not plain, and the caller meets the error when it reads it.
 *
 * Data that follow each other in a layer are read in one call. When a layer is first read somewhere,
 * the kernel is told to read a larger part of it ahead.
 *
 * Ownership: borrows the tree, which must stay open until the last call but um_members_close.
 * Threads: one at a time.
 */
#ifndef UM_MEMBERS_H
#define UM_MEMBERS_H

#include "base/base.h"
#include "tree/tree.h"

/* cffi: begin */
struct um_members; /* opaque */

/* 0 or -ENOMEM. The caller owns *out. */
int um_members_open(struct um_tree *tree, struct um_members **out);
void um_members_close(struct um_members *members);

/* Have the kernel read the part of a layer ahead in which `offset` is, an offset in the tar; once for
 * each part. */
void um_members_read_ahead(struct um_members *members, uint32_t layer, uint64_t offset);

/* What follows the members that were added. */
#define UM_MEMBERS_OTHER 0 /* a file that is not plain, or the end of the directory */
#define UM_MEMBERS_FULL 1  /* a member that needs more room */

/* Add the plain files of `directory` from the entry *cookie on to `buffer`, after the *used bytes in
 * it. Their names begin with `prefix`. *cookie becomes that of the first entry that was not added.
 * Return UM_MEMBERS_…; nothing fails. */
int um_members_add(struct um_members *members, uint64_t directory, const char *prefix,
                   size_t prefix_size, uint64_t *cookie, void *buffer, size_t size, size_t *used);
/* cffi: end */

#endif
