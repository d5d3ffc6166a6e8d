/*
 * upper/make.h - new objects of the upper.
 *
 * Purpose: make an object on disk that shows a given owner, mode, type and device, as far as the upper's
 * flags allow that on disk, and in override_stat otherwise. At no moment has it more power than it shall have
 * in the end.
 * Threads: [-] for all.
 */
#ifndef UM_UPPER_MAKE_H
#define UM_UPPER_MAKE_H

#include "upper/reach.h"

/* Owner, group, mode (with type) and device that a new object shall show. */
struct um_upper_new_object {
    uint32_t uid, gid, mode, major, minor;
};

/* Make an object at (fd, name): a directory, device, FIFO, socket, symlink (to `target`) or empty file.
 * S_ISGID of the directory was applied by the caller. With `inherit`, the default ACL of the directory `fd`
 * applies; without, the object shows the mode as given. Nothing is left behind on failure. -EEXIST. */
int um_upper_make(struct um_upper *upper, int fd, const char *name,
                  const struct um_upper_new_object *wanted, const char *target, bool inherit);

/* What is known of an object that was just made at a name in the upper. */
struct um_upper_fresh {
    struct stat status;
    /* *status is on disk still, and says all: a new object has no marks, no override_stat (none was needed)
     * and no capability. The xattrs that a new object may have on a disk, an inherited ACL and the label of a
     * security module, show in *status or mean nothing here. */
    bool complete;
    int fd; /* of a regular file, for reading and writing; the caller's. -1: it was not opened */
};

/* As um_upper_make with `inherit`, and say what is known of the object afterwards. `no_acl`: the directory has
 * no default ACL. */
int um_upper_make_fresh(struct um_upper *upper, int fd, const char *name,
                        const struct um_upper_new_object *wanted, const char *target, bool no_acl,
                        struct um_upper_fresh *fresh);

/* Make an empty file without a name in the directory `fd`, whose default ACL applies. *made is open for
 * reading and writing, and belongs to the caller. -EOPNOTSUPP where the file system has no such files. */
int um_upper_make_nameless(struct um_upper *upper, int fd, const struct um_upper_new_object *wanted,
                           int *made);

/* 1 where a directory has a default ACL, 0, or an errno. */
int um_upper_has_default_acl(struct um_upper_reached *directory);

/* Give an object that was made elsewhere, with `mode`, the ACLs that it would have inherited from the default
 * ACL of `directory`, as __posix_acl_create() of the kernel does. The mode that it shows then, type included,
 * or an errno. */
int um_upper_inherit_acl(struct um_upper *upper, struct um_upper_reached *directory,
                         struct um_upper_reached *made, uint32_t mode);

#endif
