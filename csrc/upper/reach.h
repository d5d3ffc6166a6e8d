/*
 * upper/reach.h - objects of the upper on disk: how they are reached, and the system calls on them.
 *
 * Purpose: an object is *reached* as a descriptor of its directory and one name, or as a descriptor of the
 * object itself. Everything else in this folder asks the disk through these functions, so that neither an
 * image's names nor whoever changes the upper on disk meanwhile can lead out of it: paths are walked beneath
 * a descriptor that the upper owns, symlinks are not followed, and what is mounted on a name is not asked
 * (-EXDEV).
 *
 * Ownership: struct um_upper_reached borrows its descriptor, or uses one of struct um_upper's `directories`;
 * um_upper_reached_close ends that use, and does nothing to one of all zeros.
 * Errors: those of the system calls; -ESTALE where, in an upper that others reach (UM_UPPER_OPEN), another
 * object stands there by now.
 */
#ifndef UM_UPPER_REACH_H
#define UM_UPPER_REACH_H

#include <dirent.h>

#include "upper/nodes.h"

/* An object on disk: `name` in the directory `fd`, or, with the name "", what `fd` itself is. */
struct um_upper_reached {
    int fd;
    struct um_fd_cache *cache; /* the cache that `use` is of; NULL: the descriptor is borrowed */
    struct um_fd_use use;
    bool plain, capable; /* as of a node */
    bool exposed; /* the name may be a mount point (system/open_beneath.h) */
    char name[UM_NAME_MAX + 1]; /* NUL-terminated */
};

/* ---- reaching -------------------------------------------------------------------------------- */

/* [r] Reach a node's object, which is `in_upper`. -ESTALE also where the node has neither a place nor a
 * descriptor. */
int um_upper_reach(struct um_upper *upper, const struct um_upper_node *node,
                   struct um_upper_reached *reached);

/* [-] Reach `name` in the directory `fd`, which is borrowed. -ENAMETOOLONG. */
int um_upper_reach_name(const struct um_upper *upper, int fd, struct um_slice name,
                        struct um_upper_reached *reached);

/* [r] A descriptor (O_PATH) of a directory, which is `in_upper`; the caller releases it to `directories`. */
int um_upper_reach_directory(struct um_upper *upper, const struct um_upper_node *directory,
                             struct um_fd_use *use);

void um_upper_reached_close(struct um_upper_reached *reached);

/* Whether the descriptor is the object itself. */
bool um_upper_reached_is_self(const struct um_upper_reached *reached);

/* ---- system calls: [-] all of them ----------------------------------------------------------- */

int um_upper_reached_stat(const struct um_upper_reached *reached, struct stat *status);
int64_t um_upper_reached_getxattr(const struct um_upper_reached *reached, const char *name,
                                  void *value, size_t size);
int64_t um_upper_reached_listxattr(const struct um_upper_reached *reached, char *names,
                                   size_t size);
int um_upper_reached_setxattr(const struct um_upper_reached *reached, const char *name,
                              const void *value, size_t size, int flags);
int um_upper_reached_removexattr(const struct um_upper_reached *reached, const char *name);
int um_upper_reached_chmod(const struct um_upper_reached *reached, uint32_t mode);
#define UM_UPPER_KEEP UINT32_MAX /* an owner or group that is not changed */
int um_upper_reached_chown(const struct um_upper_reached *reached, uint32_t uid, uint32_t gid);
int um_upper_reached_set_times(const struct um_upper_reached *reached,
                               const struct timespec times[2]);

/* As linkat(2): give the object a name in the directory `fd`. */
int um_upper_reached_link(const struct um_upper_reached *reached, int fd, const char *name);

/* A descriptor of the object, or an errno. Without O_PATH only files and directories are opened (others are
 * -ESTALE), and nothing is waited for. What the daemon reads for itself changes no access time, unless the
 * file is another user's. */
int um_upper_reached_open(const struct um_upper_reached *reached, int flags);
/* [r] The same of a node's object. */
int um_upper_node_open(struct um_upper *upper, const struct um_upper_node *node, int flags);
/* As um_upper_reached_open for data that users of the mount read: with UM_UPPER_ATIME that changes the access time. */
int um_upper_reached_open_for_user(const struct um_upper *upper,
                                   const struct um_upper_reached *reached, int flags);
/* O_NOATIME where reads by users shall not change access times, else 0. */
int um_upper_noatime(const struct um_upper *upper);

/* A stream of the directory, which the caller closes. `reader` is the upper where a user of the mount reads
 * (as um_upper_reached_open_for_user), else NULL. */
int um_upper_reached_open_stream(const struct um_upper *reader,
                                 const struct um_upper_reached *reached, DIR **stream);

/* ---- questions ------------------------------------------------------------------------------- */

/* [-] 1 where an entry that readdir(3) returned, of the directory `fd`, is a directory; 0; or an errno. What
 * is mounted on it is no directory of the upper. */
int um_upper_entry_is_directory(const struct um_upper *upper, int fd, const struct dirent *entry);

/* [-] 1 where the directory `fd` has an entry of this name, 0, or an errno. `exposed`: as of a reached
 * object. */
int um_upper_has_entry(int fd, const char *name, bool exposed);

/* [-] Whether a mark below user. on an object of this owner and mode was set by the daemon, root, or the
 * upper's owner: nobody else may write to it. */
bool um_upper_trusts_owner(const struct um_upper *upper, uint32_t uid, uint32_t mode);

/* [-] Whether a capability's mark below user. is believed of an object (docs/explanation/upper.md, "Whose
 * word counts"). */
bool um_upper_believes(const struct um_upper *upper, const struct stat *status);
/* [-] Whether override_stat is. The permissions do not matter to one below security. */
bool um_upper_believes_stat(const struct um_upper *upper, const struct stat *status);

#endif
