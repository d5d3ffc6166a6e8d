/*
 * upper/target.h - a name in a directory of the mount that is about to be changed.
 *
 * Purpose: what create, link, remove and rename have in common. A target is opened (what does the mount show
 * there?), reached (its directory is copied up; what stands there on disk?), and closed. A removal keeps the
 * inode whose name goes usable without it.
 * Ownership: the name is borrowed until the target is closed. A target is closed in any case, also after an
 * error.
 */
#ifndef UM_UPPER_TARGET_H
#define UM_UPPER_TARGET_H

#include "upper/rule.h"

struct um_upper_target {
    struct um_upper_node *directory;
    struct um_slice name;
    char text[UM_NAME_MAX + 1]; /* the name, NUL-terminated */
    bool shown;                 /* the mount shows something there: */
    struct um_upper_hit hit;
    bool below, below_directory; /* the lower tree shows something there; a directory */
    bool looked; /* `hit.seen` is what stands there on disk still */
    /* Once it is reached: */
    int fd;               /* of the directory in the upper, O_PATH; -1 before */
    struct um_fd_use use; /* the use of that descriptor */
    enum um_upper_found found;
    bool pinned; /* `directory` is */
    bool object; /* something stands there on disk; a whiteout by a file `.wh.NAME` does not */
};

/* [w] Open a name. Not finding it is no error. -ESTALE, -ENOTDIR; -ENOENT the directory was removed; -EINVAL
 * a name that no layer can hold; -ENAMETOOLONG. */
int um_upper_target_open(struct um_upper *upper, uint64_t directory, const char *name,
                         size_t name_size, struct um_upper_target *target);
/* [w] The same in two steps: open a name without looking what the mount shows there, and look. */
int um_upper_target_open_unseen(struct um_upper *upper, uint64_t directory, const char *name,
                                size_t name_size, struct um_upper_target *target);
int um_upper_target_look(struct um_upper *upper, struct um_upper_target *target);
/* [w] Whether the disk alone decides if an object may be made at a target that was not looked at: the directory
 * is in the upper, the lower tree shows nothing there, and nobody else reaches the upper. Then making an object
 * succeeds just where the upper has none and no whiteout. (A file `.wh.NAME` would hide nothing.) */
bool um_upper_target_is_upper_only(struct um_upper *upper, const struct um_upper_target *target);
/* [w] Open a directory alone, for a file that has no name. Errors as above. */
int um_upper_target_open_directory(struct um_upper *upper, uint64_t directory,
                                   struct um_upper_target *target);

/* [w] Reach a target: copy its directory up and look at what stands there on disk. That was seen already when
 * the target was opened, if the directory was in the upper: then it is not asked again, unless others reach
 * the upper. To be called again when it changed. The second fills `fd` only. */
int um_upper_target_reach(struct um_upper *upper, struct um_upper_target *target);
int um_upper_target_reach_directory(struct um_upper *upper, struct um_upper_target *target);
/* Say that something was copied up since the target was opened, which may have got names in its directory. */
void um_upper_target_changed(struct um_upper_target *target);

void um_upper_target_close(struct um_upper *upper, struct um_upper_target *target);

/* [w] Count a lookup of what was made at a target; *attr is what it shows. `fresh` is what is known of it already;
 * NULL: nothing. */
int um_upper_target_made(struct um_upper *upper, struct um_upper_target *target,
                         const struct um_upper_fresh *fresh, struct um_attr *attr);

/* ---- removing -------------------------------------------------------------------------------- */

/* The inode whose name is removed. */
struct um_upper_removal {
    struct um_upper_node *node; /* NULL: the kernel does not know it */
    bool last;                  /* it was its last name */
    bool anchored;              /* its descriptor was opened for the removal */
};

/* [w] Keep the inode of a target that is shown reachable without its name, where the kernel knows it. */
int um_upper_removal_begin(struct um_upper *upper, const struct um_upper_target *target,
                           struct um_upper_removal *removal);
/* [w] The name has been removed, or, with an error, it has not. */
void um_upper_removal_end(struct um_upper *upper, const struct um_upper_target *target,
                          struct um_upper_removal *removal, int error);

#endif
