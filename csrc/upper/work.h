/*
 * upper/work.h - the work directory: names in it, whiteouts, and removing.
 *
 * Purpose: what is not to be seen half made is made in the work directory under a name that begins with '#',
 * and moved from there. What is left of it is removed at the next mount (upper/recover.c).
 * Threads: [-] for all.
 */
#ifndef UM_UPPER_WORK_H
#define UM_UPPER_WORK_H

#include "upper/reach.h"

#define UM_UPPER_WORK_NAME 32 /* bytes, NUL included */

/* The directory in the work directory with groups of hard links that are being copied up: upper/publish.c. */
#define UM_UPPER_INDEX "index"

/* Choose the next name in the work directory. */
void um_upper_work_name(struct um_upper *upper, char name[UM_UPPER_WORK_NAME]);

/* Make a whiteout at (fd, name); -EEXIST. The second makes one in the work directory, without an inherited
 * ACL. */
int um_upper_make_whiteout(int fd, const char *name);
int um_upper_work_make_whiteout(struct um_upper *upper, const char *name);

/* Remove what stands at (fd, name), a directory with all that it holds, but for what is mounted in it
 * (-EXDEV). It is no error if nothing stands there. -ELOOP where it is too deep. */
int um_upper_remove_tree(int fd, const char *name);

/* Remove the ACLs that an object of this type inherited when it was made. The second does so for what was
 * just made in the work directory, whose default ACL is the user's business and stays. */
int um_upper_strip_acls(struct um_upper_reached *made, uint32_t type);
int um_upper_work_strip_acls(struct um_upper *upper, int fd, const char *name, uint32_t type);

#endif
