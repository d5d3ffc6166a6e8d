/*
 * upper/upper.h - the writable directory on top of a tree: what the mount shows, and every change to it.
 *
 * Purpose: an *upper* is one live directory (an overlayfs upper on disk, docs/explanation/upper.md) over the
 * immutable tree of the lower layers (tree/tree.h). These functions answer for both by the rule of the
 * tree, and change the upper. The lower layers are never written.
 *
 * Node numbers are those of tree/tree.h for everything that is, or was copied up from, a lower layer;
 * what was made in the upper has base + st_ino, where base lies above the numbers of the tree. So a
 * number survives copy-up, and another mount of the same layers and upper.
 *
 * Lookups are counted as the kernel counts them (FUSE_FORGET): every success of um_upper_lookup,
 * um_upper_create … um_upper_link, and every entry that um_upper_list_next returns counts one, and
 * the caller owes um_upper_forget for it. Until then the node can be named, also without a name.
 *
 * Copy-up. A change to a file of a lower layer copies it first. Where that means copying data the
 * verb returns -EAGAIN and has changed nothing: the caller calls um_upper_copy_up, which may take
 * long and is best called on another thread, and asks again. A large file of which only the name or
 * attributes change is copied without its data; that follows when somebody wants to write.
 *
 * Ownership: the upper borrows the tree and the two descriptors; both must outlive it.
 * Threads: every function but open, recover and close may be called by any number of threads. One
 * reader-writer lock (upper/state.h, `lock`) guards the records. Data is copied, read, written
 * and synced outside of it; changes of names happen on disk and in the records under it, together.
 * Errors: a negative errno; those of the upper's file system (-ENOSPC, -EDQUOT, -EIO …) unchanged.
 */
#ifndef UM_UPPER_H
#define UM_UPPER_H

#include "base/base.h"
#include "tree/tree.h"

/* cffi: begin */
#define UM_UPPER_TRUSTED 1u  /* marks are trusted.overlay. xattrs; without: user.overlay. */
#define UM_UPPER_OVERRIDE 2u /* owner, mode and devices in user.containers.override_stat */
#define UM_UPPER_VOLATILE 4u /* nothing is synced */
#define UM_UPPER_STRANGE 8u  /* the lowers are not those that recorded origins belong to */
#define UM_UPPER_PRIVATE \
    512u /* both descriptors are below one private directory (system/open_beneath.h) */
/* The directory itself keeps the owner and mode that it has on disk, and its ACL gives nobody more:
 * what the root of the mount shows is in override_stat. */
#define UM_UPPER_CLOSED_ROOT 16u
/* Others reach it. With UM_UPPER_OVERRIDE, which then holds for root's daemon, too. Marks that they could have
 * set are not believed, and what they may have exchanged is looked at again. */
#define UM_UPPER_OPEN 32u
#define UM_UPPER_LOOK 64u /* it is only looked into: marks of its owner's daemon are believed */
#define UM_UPPER_PLAIN 128u /* redirects and metacopies are neither followed nor written */
#define UM_UPPER_STAY 1024u /* no redirect is written: what would need one does not move (-EXDEV) */
#define UM_UPPER_ATIME 2048u /* who reads changes access times, as the disk's mount counts them */
#define UM_UPPER_CLOSED 256u /* nobody else reaches upper and work: user.overlay. marks are ours */
#define UM_UPPER_NO_ACLS 4096u /* default ACLs have no effect on what is made */
#define UM_METACOPY_MIN 131072u

struct um_upper; /* opaque */

struct um_upper_setup {
    struct um_tree *tree;
    int upper_fd; /* directories of one file system, opened for reading */
    int work_fd;
    uint32_t flags; /* UM_UPPER_… */
    /* Files from this size on are copied up without their data where only their names or attributes
     * change (overlayfs' metacopy); 0: UM_METACOPY_MIN. UINT64_MAX: none. */
    uint64_t metacopy_min;
    int shown_fd; /* whose path messages show; 0: that of upper_fd */
};

/* 0; -ENOMEM; -EXDEV (upper and work are on two file systems); an errno of the upper. */
int um_upper_open(const struct um_upper_setup *setup, struct um_upper **out);
void um_upper_close(struct um_upper *upper);

/* Finish or undo what an earlier daemon was doing when it was killed, and empty the work directory.
 * To be called once, before anything else. */
int um_upper_recover(struct um_upper *upper);

/* ---- finding ---- */

/* As um_tree_lookup and um_tree_getattr; `layer` is the number of layers for what is in the upper. */
int um_upper_lookup(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                    struct um_attr *attr);
int um_upper_getattr(struct um_upper *upper, uint64_t node, struct um_attr *attr);
int um_upper_parent(struct um_upper *upper, uint64_t directory, uint64_t *parent);
/* How many lookups are left. */
uint64_t um_upper_forget(struct um_upper *upper, uint64_t node, uint64_t lookups);

/* The node of the lower tree that a directory continues or that a file is a copy of; 0 for none. */
int um_upper_origin(struct um_upper *upper, uint64_t node, uint64_t *origin);

/* Whether a name leads to another number once the file is copied up: a symlink or special file of a
 * lower layer whose copy can't be marked with its origin. */
bool um_upper_renumbers(const struct um_upper *upper, const struct um_attr *attr);
bool um_upper_may_renumber(const struct um_upper *upper); /* whether there are such files */

struct um_upper_list; /* opaque: an open directory; for one thread at a time */

int um_upper_list_open(struct um_upper *upper, uint64_t directory, struct um_upper_list **out);
/* Entries from `cookie` on; 0 rereads the directory. Cookies are places: any number may be asked for, of
 * those that were given out or not. An entry that stands in the directory from the first call to the last
 * is returned exactly once, whatever else is done. `name` is borrowed until the next call that begins a
 * list: the first, or one with cookie 0. */
int um_upper_list_next(struct um_upper_list *list, uint64_t cookie, struct um_tree_entry *entries,
                       size_t capacity);
void um_upper_list_close(struct um_upper_list *list);
/* Let a listing be shared by all who read the directory, at once and whenever they began: cookies stay
 * valid when cookie 0 rereads it. What stays in the directory keeps its place; a new name takes the first
 * that is free. To be called before it is read. What is in lower layers only needs no list: its cookies
 * are valid in every other one. */
void um_upper_list_share(struct um_upper_list *list);
bool um_upper_list_is_needed(const struct um_upper_list *list);

/* The target's size; copied when it fits. -EINVAL; -ERANGE. */
int64_t um_upper_readlink(struct um_upper *upper, uint64_t node, char *target, size_t size);

/* ---- files ---- */

#define UM_OPEN_WRITE 1u
#define UM_OPEN_TRUNCATE 2u

/* Every success owes one um_upper_release. I/O is by node: who reads sees what others write. */
int um_upper_open_file(struct um_upper *upper, uint64_t node, uint32_t flags);
void um_upper_release(struct um_upper *upper, uint64_t node);
int64_t um_upper_read(struct um_upper *upper, uint64_t node, uint64_t offset, void *buffer,
                      size_t size, unsigned flags);
int64_t um_upper_write(struct um_upper *upper, uint64_t node, uint64_t offset, const void *data,
                       size_t size);
/* For um_upper_read: -EBADF where the file is in the upper, so that it is to be opened; what is in a
 * lower layer is read without. */
#define UM_READ_LOWER 2u
int um_upper_fsync(struct um_upper *upper, uint64_t node, bool data_only); /* a directory, too */
int um_upper_sync(struct um_upper *upper); /* the whole upper */

/* ---- attributes ---- */

#define UM_SET_MODE 1u
#define UM_SET_UID 2u
#define UM_SET_GID 4u
#define UM_SET_SIZE 8u
#define UM_SET_ATIME 16u
#define UM_SET_MTIME 32u
#define UM_SET_ATIME_NOW 64u
#define UM_SET_MTIME_NOW 128u

struct um_setattr {
    uint32_t which; /* UM_SET_… */
    uint32_t mode, uid, gid;
    uint64_t size;
    int64_t atime, mtime;
    uint32_t atime_nsec, mtime_nsec;
};

int um_upper_setattr(struct um_upper *upper, uint64_t node, const struct um_setattr *changes,
                     struct um_attr *attr);

/* As um_tree_getxattr and um_tree_listxattr, without the marks of the upper itself: what users call as those
 * are called is stored under another name (marks/whiteout.h). */
int64_t um_upper_getxattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                          void *value, size_t size);
int64_t um_upper_listxattr(struct um_upper *upper, uint64_t node, char *names, size_t size);
/* `flags` as setxattr(2). -EPERM for a name that nobody sets. */
int um_upper_setxattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                      const void *value, size_t size, int flags);
int um_upper_removexattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size);

/* ---- names ---- */

/* Who makes something: the owner that it gets. `umask` is applied where the directory has no
 * default ACL. `may_setgid`: a member of the group, or privileged (see inode_init_owner()). */
struct um_maker {
    uint32_t uid, gid, umask;
    bool may_setgid;
};

/* -EEXIST, -ENOENT (the directory was removed), -EINVAL (a name that a layer can't hold), … */
int um_upper_mknod(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, uint32_t major, uint32_t minor, const struct um_maker *maker,
                   struct um_attr *attr); /* a regular file, too; it is not opened */
int um_upper_mkdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, const struct um_maker *maker, struct um_attr *attr);
int um_upper_symlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                     const char *target, size_t target_size, const struct um_maker *maker,
                     struct um_attr *attr);
int um_upper_link(struct um_upper *upper, uint64_t node, uint64_t directory, const char *name,
                  size_t name_size, struct um_attr *attr);
int um_upper_unlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size);
int um_upper_rmdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size);
/* `flags` as renameat2(2): RENAME_NOREPLACE, RENAME_EXCHANGE. */
int um_upper_rename(struct um_upper *upper, uint64_t from, const char *name, size_t name_size,
                    uint64_t to, const char *new_name, size_t new_name_size, uint32_t flags);

/* Copy a file of a lower layer up with its data; 0 also where both are there already. Several calls
 * for one node at once copy it once. */
#define UM_COPY_UP_EMPTY 1u /* its data is about to be truncated */
#define UM_COPY_UP_ABSENT 2u /* what is in the upper without its data stays so */
int um_upper_copy_up(struct um_upper *upper, uint64_t node, uint32_t flags);
/* cffi: end */

/* ---- for the fast path (fastpath/fastpath.h) ---- */

/* Whether truncating a file would take long; and do that to an open file whose data is in the upper, for
 * others nothing. It takes as long as the disk takes to free what is there, and is done without the lock:
 * so um_upper_setattr with the same size, which then follows, is quick. */
bool um_upper_shrinks_long(struct um_upper *upper, uint64_t node, uint64_t size);
int um_upper_shrink(struct um_upper *upper, uint64_t node, uint64_t size);
/* Of open files. Where data, or a hole, begins at or behind `offset`; UM_SEEK_BELOW where the data of
 * the file is that of *lower in the tree. -ENXIO behind the end. */
#define UM_SEEK_BELOW INT64_MIN
int64_t um_upper_seek(struct um_upper *upper, uint64_t node, uint64_t offset, bool hole,
                      uint64_t *lower);
/* As fallocate(2), in pieces; the file was opened for writing. What the disk has no room for is -ENOSPC
 * before anything is done. After another error, or -EINTR as the patience was over, a part may have
 * been done, as on disks; the size changes with the last piece, where the file system can do so. */
int um_upper_allocate(struct um_upper *upper, uint64_t node, uint32_t mode, uint64_t offset,
                      uint64_t length, const struct um_patience *patience);
/* um_upper_copy_up for somebody whose patience may end: -EINTR, and nothing is left of the copy. Who
 * waits for another one's copy of the same file waits until that has ended. */
int um_upper_copy_up_patiently(struct um_upper *upper, uint64_t node, uint32_t flags,
                               const struct um_patience *patience);
/* What a node's attributes are those of, on disk, in the upper or below: a descriptor (O_PATH) that the
 * caller closes. -ENODATA where that is nothing: as um_tree_open_path. */
int um_upper_open_path(struct um_upper *upper, uint64_t node, int *fd);

/* A regular file without a name, as open(2) makes it with O_TMPFILE in a directory, which is copied up.
 * Nothing is left of it once it is forgotten, or the daemon killed; um_upper_link gives it a name. Counts
 * as a lookup. -EOPNOTSUPP where the upper's file system has no such files. */
int um_upper_tmpfile(struct um_upper *upper, uint64_t directory, uint32_t mode,
                     const struct um_maker *maker, struct um_attr *attr);
/* As copy_file_range(2); -EXDEV where the data of `from` is in a lower layer. */
int64_t um_upper_copy_range(struct um_upper *upper, uint64_t from, uint64_t from_offset,
                            uint64_t to, uint64_t to_offset, size_t size);

#endif
