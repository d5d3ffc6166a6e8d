/*
 * upper/upper.h - the writable directory on top of a tree: what the mount shows, and every change to it.
 *
 * Purpose: an *upper* is one live directory (an overlayfs upper on disk, docs/explanation/upper.md) over the
 * immutable tree of the lower layers (tree/tree.h). These functions answer for both by one rule, and change
 * the upper. The lower layers are never written.
 *
 * Node numbers are those of tree/tree.h for everything that is in a lower layer or was copied up from one.
 * New objects of the upper have base + st_ino, where base lies above the numbers of the tree. So a number
 * stays the same through copy-up, and at another mount of the same layers and upper.
 *
 * Lookups are counted as the kernel counts them (FUSE_FORGET): every success of um_upper_lookup, of a function
 * that makes a name or a file, and every entry that um_upper_list_next returns counts one, and the caller owes
 * um_upper_forget for it. Until then the number is valid, even if the file has no name any more.
 *
 * Copy-up. A change to a file of a lower layer copies it first. Where that means copying data, the verb
 * returns -EAGAIN and has changed nothing: the caller calls um_upper_copy_up, which may take long and is best
 * called on another thread, and tries again. A large file of which only the name or attributes change is
 * copied without its data, which follows when the file is opened for writing.
 *
 * Ownership: the upper borrows the tree and the two descriptors; both must outlive it.
 * Threads: every function but open, recover and close may be called by any number of threads. One
 * reader-writer lock (upper/state.h, `lock`) guards the nodes. Data is copied, read, written and synced
 * without it; changes of names are made on disk and in the nodes under it, together.
 * Errors: a negative errno; those of the upper's file system (-ENOSPC, -EDQUOT, -EIO …) unchanged.
 */
#ifndef UM_UPPER_H
#define UM_UPPER_H

#include "base/base.h"
#include "tree/scan.h"
#include "tree/tree.h"

/* cffi: begin */
/* What an upper is like: */
#define UM_UPPER_TRUSTED 1u  /* marks are trusted.overlay. xattrs; without: user.overlay. */
#define UM_UPPER_OVERRIDE 2u /* owner, mode and devices in override_stat */
#define UM_UPPER_VOLATILE 4u /* nothing is synced */
#define UM_UPPER_FOREIGN 8u  /* the origins on disk belong to other lowers */
/* The directory itself keeps the owner and mode that it has on disk, and its ACL gives nobody more: what the
 * root of the mount shows is in override_stat. */
#define UM_UPPER_CLOSED_ROOT 16u
/* Other users can reach it. UM_UPPER_OVERRIDE or UM_UPPER_STAT is set, too, also for root's daemon. Marks that others could
 * have set are not believed, and objects that they may have exchanged are checked before each use. */
#define UM_UPPER_OPEN 32u
#define UM_UPPER_LOOK 64u /* it is only read: the marks of its owner's daemon are believed */
#define UM_UPPER_PLAIN 128u /* redirects and metacopies are neither followed nor written */
/* No other user can reach the upper and work directories: marks below user.overlay. are the daemon's. */
#define UM_UPPER_CLOSED 256u
/* Both descriptors are below one private directory (system/open_beneath.h). */
#define UM_UPPER_PRIVATE 512u
/* No redirect is written: directories that need one do not move (-EXDEV). */
#define UM_UPPER_STAY 1024u
#define UM_UPPER_ATIME 2048u /* reads change access times, as the disk's mount is set to */
#define UM_UPPER_NO_ACLS 4096u /* new objects inherit no ACL */
/* Every file and directory has an override_stat and belongs to the daemon on disk, as fuse-overlayfs wants
 * it with xattr_permissions. Everything else is as without, if UM_UPPER_OVERRIDE is not set, too. */
#define UM_UPPER_STAT 8192u
/* The name of override_stat (marks/override_stat.h): user.fuseoverlayfs., or security.fuseoverlayfs., which
 * only privileged users set. */
#define UM_UPPER_STAT_FUSE 16384u
#define UM_UPPER_STAT_SECURITY 32768u
/* After a power cut, the upper's file system has no change of a name or an xattr without the data that it had
 * written before that change was made (upper/settle.h). */
#define UM_UPPER_KEEPS_ORDER 65536u

#define UM_UPPER_METACOPY_MIN 131072u

struct um_upper; /* opaque */

struct um_upper_setup {
    struct um_tree *tree;
    int upper_fd; /* directories of one file system, opened for reading */
    int work_fd;
    uint32_t flags; /* UM_UPPER_… */
    /* Files from this size on are copied up without their data where only their names or attributes
     * change (overlayfs' metacopy); 0: UM_UPPER_METACOPY_MIN. UINT64_MAX: none. */
    uint64_t metacopy_min;
    int shown_fd; /* the directory whose path messages show; 0: upper_fd */
};

/* 0; -ENOMEM; -EXDEV (upper and work are on two file systems); an errno of the upper. */
int um_upper_open(const struct um_upper_setup *setup, struct um_upper **out);
void um_upper_close(struct um_upper *upper);

/* Finish or undo changes that an earlier daemon had begun when it was killed, and empty the work directory.
 * To be called once, before anything else. */
int um_upper_recover(struct um_upper *upper);

/* ---- finding --------------------------------------------------------------------------------- */

/* As um_tree_lookup and um_tree_getattr; `layer` is the number of layers for objects of the upper. */
int um_upper_lookup(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                    struct um_attr *attr);
int um_upper_getattr(struct um_upper *upper, uint64_t node, struct um_attr *attr);
int um_upper_parent(struct um_upper *upper, uint64_t directory, uint64_t *parent);
/* Take back lookups. The number of those that are left. */
uint64_t um_upper_forget(struct um_upper *upper, uint64_t node, uint64_t lookups);

/* The node of the lower tree that a directory continues or that a file is a copy of; 0 for none. */
int um_upper_origin(struct um_upper *upper, uint64_t node, uint64_t *origin);

/* Whether a file gets another number when it is copied up: a symlink or special file of a lower layer, whose
 * copy can't be marked with its origin. */
bool um_upper_renumbers(const struct um_upper *upper, const struct um_attr *attr);
bool um_upper_may_renumber(const struct um_upper *upper); /* whether there may be such files */

struct um_upper_list; /* opaque: an open directory; for one thread at a time */

int um_upper_list_open(struct um_upper *upper, uint64_t directory, struct um_upper_list **out);
/* Entries from `cookie` on; 0 rereads the directory. Cookies are places: any number may be asked for, of
 * those that were given out or not. An entry that stands in the directory from the first call to the last
 * is returned exactly once, whatever else is done. `name` is borrowed until the next call that begins a
 * list: the first, or one with cookie 0. */
int um_upper_list_next(struct um_upper_list *list, uint64_t cookie, struct um_tree_entry *entries,
                       size_t capacity);
void um_upper_list_close(struct um_upper_list *list);
/* Let all readers of a directory share this list, whenever they began: cookies stay valid when cookie 0
 * rereads it. A name that stays in the directory keeps its place; a new one takes the first place that is
 * free. To be called before the list is read. A directory that is in lower layers only needs no list to be
 * kept (um_upper_list_is_needed): its cookies are valid in every other one. */
void um_upper_list_share(struct um_upper_list *list);
bool um_upper_list_is_needed(const struct um_upper_list *list);

/* Begin a search (tree/scan.h). Lookups of nodes that it finds are taken back when it leaves them: the caller
 * has to look up what it uses later. */
int um_upper_scan(struct um_upper *upper, const struct um_scan_setup *setup, struct um_scan **out);

/* The target of a symlink: its size; copied unless `size` is 0. -EINVAL no symlink; -ERANGE. */
int64_t um_upper_readlink(struct um_upper *upper, uint64_t node, char *target, size_t size);

/* ---- files ----------------------------------------------------------------------------------- */

#define UM_UPPER_OPEN_WRITE 1u
#define UM_UPPER_OPEN_TRUNCATE 2u

/* Every success owes one um_upper_release. I/O is by node: readers see what others write. */
int um_upper_open_file(struct um_upper *upper, uint64_t node, uint32_t flags);
void um_upper_release(struct um_upper *upper, uint64_t node);
int64_t um_upper_read(struct um_upper *upper, uint64_t node, uint64_t offset, void *buffer,
                      size_t size, unsigned flags);
int64_t um_upper_write(struct um_upper *upper, uint64_t node, uint64_t offset, const void *data,
                       size_t size);
/* For um_upper_read without opening: a file of a lower layer is read, one in the upper is -EBADF. */
#define UM_UPPER_READ_LOWER 2u
int um_upper_fsync(struct um_upper *upper, uint64_t node, bool data_only); /* a directory, too */
int um_upper_sync(struct um_upper *upper); /* the whole upper */

/* ---- attributes ------------------------------------------------------------------------------ */

#define UM_UPPER_SET_MODE 1u
#define UM_UPPER_SET_UID 2u
#define UM_UPPER_SET_GID 4u
#define UM_UPPER_SET_SIZE 8u
#define UM_UPPER_SET_ATIME 16u
#define UM_UPPER_SET_MTIME 32u
#define UM_UPPER_SET_ATIME_NOW 64u
#define UM_UPPER_SET_MTIME_NOW 128u

struct um_upper_changes {
    uint32_t which; /* UM_UPPER_SET_… */
    uint32_t mode, uid, gid;
    uint64_t size;
    int64_t atime, mtime;
    uint32_t atime_nsec, mtime_nsec;
};

int um_upper_setattr(struct um_upper *upper, uint64_t node, const struct um_upper_changes *changes,
                     struct um_attr *attr);

/* As um_tree_getxattr and um_tree_listxattr, without the marks of the upper itself: users' xattrs of such
 * names are stored under other names (marks/whiteout.h). */
int64_t um_upper_getxattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                          void *value, size_t size);
int64_t um_upper_listxattr(struct um_upper *upper, uint64_t node, char *names, size_t size);
/* `flags` as setxattr(2). -EPERM for a name that users can't set. */
int um_upper_setxattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                      const void *value, size_t size, int flags);
int um_upper_removexattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size);

/* ---- names ----------------------------------------------------------------------------------- */

/* The user who makes an object, which becomes its owner. `umask` applies where the directory has no default
 * ACL. `may_setgid`: the user belongs to the group, or is privileged (see inode_init_owner()). */
struct um_upper_maker {
    uint32_t uid, gid, umask;
    bool may_setgid;
};

/* -EEXIST, -ENOENT (the directory was removed), -EINVAL (a name that a layer can't hold), … */
int um_upper_mknod(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, uint32_t major, uint32_t minor,
                   const struct um_upper_maker *maker,
                   struct um_attr *attr); /* a regular file, too; it is not opened */
int um_upper_mkdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                   uint32_t mode, const struct um_upper_maker *maker, struct um_attr *attr);
int um_upper_symlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size,
                     const char *target, size_t target_size, const struct um_upper_maker *maker,
                     struct um_attr *attr);
int um_upper_link(struct um_upper *upper, uint64_t node, uint64_t directory, const char *name,
                  size_t name_size, struct um_attr *attr);
int um_upper_unlink(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size);
int um_upper_rmdir(struct um_upper *upper, uint64_t directory, const char *name, size_t name_size);
/* `flags` as renameat2(2): RENAME_NOREPLACE, RENAME_EXCHANGE. */
int um_upper_rename(struct um_upper *upper, uint64_t from, const char *name, size_t name_size,
                    uint64_t to, const char *new_name, size_t new_name_size, uint32_t flags);

/* Copy a file of a lower layer up with its data; 0 also where both are in the upper already. Concurrent calls
 * for one file copy it once. */
#define UM_UPPER_COPY_UP_EMPTY 1u /* its data is about to be truncated */
#define UM_UPPER_COPY_UP_ABSENT 2u /* a file that is in the upper without its data stays so */
int um_upper_copy_up(struct um_upper *upper, uint64_t node, uint32_t flags);
/* cffi: end */

/* ---- for the fast path (fastpath/fastpath.h) ------------------------------------------------- */

/* Whether truncating a file would take long. um_upper_shrink truncates an open file whose data is in the
 * upper, and does nothing to others. It takes as long as the disk takes to free the data, without the lock,
 * so that the um_upper_setattr that follows, with the same size, is quick. */
bool um_upper_shrinks_long(struct um_upper *upper, uint64_t node, uint64_t size);
int um_upper_shrink(struct um_upper *upper, uint64_t node, uint64_t size);
/* Where data, or a hole, of an open file begins at or behind `offset`; UM_UPPER_SEEK_BELOW where the data of
 * the file is that of *lower in the tree. -ENXIO behind the end. */
#define UM_UPPER_SEEK_BELOW INT64_MIN
int64_t um_upper_seek(struct um_upper *upper, uint64_t node, uint64_t offset, bool hole,
                      uint64_t *lower);
/* As fallocate(2), in pieces; the file was opened for writing. -ENOSPC where the disk has no room, before
 * anything is done. After another error, or -EINTR as the patience was over, a part may have been done, as on
 * disks; the size changes with the last piece, where the file system can do so. */
int um_upper_allocate(struct um_upper *upper, uint64_t node, uint32_t mode, uint64_t offset,
                      uint64_t length, const struct um_patience *patience);
/* As um_upper_copy_up, for a caller whose patience may end: then it is -EINTR, and nothing is left of the
 * copy. A call that waits for another one's copy of the same file waits until that has ended. */
int um_upper_copy_up_patiently(struct um_upper *upper, uint64_t node, uint32_t flags,
                               const struct um_patience *patience);
/* Open the object on disk whose attributes a node shows, in the upper or a live layer: a descriptor (O_PATH)
 * that the caller closes. -ENODATA where there is none, as of um_tree_open_path. */
int um_upper_open_path(struct um_upper *upper, uint64_t node, int *fd);

/* Return whether a file is in the upper with data of its own, and stays so. False for a directory, a file whose
 * data is in a lower layer, and one whose capability is in a mark, which a write has to remove. */
bool um_upper_has_data(struct um_upper *upper, uint64_t node);
/* Duplicate the descriptor of such a file, which is open for writing; the caller closes it. -ENODATA where the
 * file is none. */
int um_upper_backing(struct um_upper *upper, uint64_t node, int *fd);

/* Make a regular file without a name, as open(2) does with O_TMPFILE, in a directory, which is copied up.
 * Nothing is left of it once it is forgotten, or the daemon is killed; um_upper_link gives it a name. Counts
 * as a lookup. -EOPNOTSUPP where the upper's file system has no such files. */
int um_upper_tmpfile(struct um_upper *upper, uint64_t directory, uint32_t mode,
                     const struct um_upper_maker *maker, struct um_attr *attr);
/* As copy_file_range(2); -EXDEV where the data of `from` is in a lower layer. */
int64_t um_upper_copy_range(struct um_upper *upper, uint64_t from, uint64_t from_offset,
                            uint64_t to, uint64_t to_offset, size_t size);

#endif
