/*
 * upper/marks.h - marks: the xattrs and whiteouts that make a directory an upper of overlayfs' format.
 *
 * Purpose: read and write the marks of one object. They are written under the prefix of the upper's flags,
 * and read under that of fuse-overlayfs, too; the other one of overlayfs' two prefixes is the users', and
 * means nothing.
 *
 * Marks that lead elsewhere (redirect, metacopy, origin) are believed where nobody else can have set them:
 * below trusted., or on an object that only its owner, whom the upper trusts, can write to (marks/trust.h,
 * UM_UPPER_CLOSED, UM_UPPER_PLAIN). Where an object has such a mark and it is not believed, reading it is
 * -EKEYREJECTED.
 *
 * Threads: [-] for all, unless a comment says otherwise.
 */
#ifndef UM_UPPER_MARKS_H
#define UM_UPPER_MARKS_H

#include "upper/reach.h"

/* What a name of the upper is. */
enum um_upper_found {
    UM_UPPER_FOUND_NOTHING,
    UM_UPPER_FOUND_WHITEOUT,
    UM_UPPER_FOUND_FILE,
    UM_UPPER_FOUND_DIRECTORY,
};

/* See what stands at a name; *status is filled where an object does, and all zeros where none does: a whiteout
 * by a file `.wh.NAME` is no object. `marked`: there may be such a file. */
int um_upper_reached_classify(const struct um_upper_reached *reached, bool marked,
                              enum um_upper_found *found, struct stat *status);

/* What was seen at a name of the upper, by a verb that has held the lock [w] since. */
struct um_upper_seen {
    bool looked; /* someone did look */
    bool object; /* an object stands there */
    enum um_upper_found found;
};

/* The marks that an object may have, asked for in one call. Most objects have none. */
#define UM_UPPER_HAS_OPAQUE 1u
#define UM_UPPER_HAS_REDIRECT 2u
#define UM_UPPER_HAS_ORIGIN 4u
#define UM_UPPER_HAS_METACOPY 8u
#define UM_UPPER_HAS_OVERRIDE 16u /* override_stat, which is no mark of overlayfs */
#define UM_UPPER_HAS_CAPABILITY 32u
int um_upper_marks_of(struct um_upper *upper, struct um_upper_reached *reached, unsigned *marks);

/* Whether a directory hides what the lower layers have at its path: 1, 0 or an errno. `marked`: it may have
 * the xattr (um_upper_marks_of); without it a file in the directory may still say so. */
int um_upper_mark_is_opaque(struct um_upper *upper, struct um_upper_reached *reached, bool marked);
int um_upper_mark_set_opaque(struct um_upper *upper, struct um_upper_reached *reached);

/* The redirect: its size, 0 for none, or an errno. Not NUL-terminated. It is an absolute path in the lower
 * tree, or another name in the same directory. */
int64_t um_upper_mark_get_redirect(struct um_upper *upper, struct um_upper_reached *reached,
                                   char *path, size_t room);
int um_upper_mark_set_redirect(struct um_upper *upper, struct um_upper_reached *reached,
                               const char *path, size_t size);

/* The number of the lower file that an object is a copy of; *origin is 0 for none, and for one that may
 * belong to other lowers. *ours: nobody else can have set it. Setting it where the file system has no room
 * for it (symlinks of ordinary users) is no error. */
int um_upper_mark_get_origin(struct um_upper *upper, struct um_upper_reached *reached,
                             uint64_t *origin, bool *ours);
int um_upper_mark_set_origin(struct um_upper *upper, struct um_upper_reached *reached,
                             uint64_t origin);

/* Whether the data of a file is that of a lower file, the one of its redirect or else of its name: 1, 0 or an
 * errno. Dropping the mark drops that redirect, too. */
int um_upper_mark_is_metacopy(struct um_upper *upper, struct um_upper_reached *reached);
int um_upper_mark_set_metacopy(struct um_upper *upper, struct um_upper_reached *reached);
int um_upper_mark_drop_metacopy(struct um_upper *upper, int fd);

/* The capability of a file that is not its xattr security.capability: its size, or -ENODATA. */
int64_t um_upper_mark_get_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                     void *value, size_t size);
int um_upper_mark_set_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                 const void *value, size_t size);
int um_upper_mark_drop_capability(struct um_upper *upper, struct um_upper_reached *reached);
bool um_upper_mark_is_capability_name(const struct um_upper *upper, const char *xattr);

/* Whether marks that lead elsewhere may be written to new objects of this upper: they will stay believed, as
 * the upper is closed, or as nobody else can write to what an ordinary user's upper holds. */
bool um_upper_marks_may_lead(const struct um_upper *upper);
/* Whether they may be written to this object: 1, 0 or an errno. */
int um_upper_mark_may_lead_at(struct um_upper *upper, const struct um_upper_reached *reached);

/* [r] Write a message, once, that marks of a name in a directory are not believed. */
void um_upper_mark_report_refused(struct um_upper *upper, const struct um_upper_node *directory,
                                  struct um_slice name);

/* As um_upper_reached_getxattr, of the object that *status is of, and only as long as that is believed:
 * -ESTALE where another one stands there by now. For claims that count because of the object's owner. */
int64_t um_upper_getxattr_believed(struct um_upper *upper, const struct um_upper_reached *reached,
                                   const struct stat *status, const char *name, void *value,
                                   size_t size);

/* The name of override_stat in this upper. */
const char *um_upper_stat_xattr(const struct um_upper *upper);

/* Whether an xattr is not there, or can't be on such an object, by the error of asking for it. */
bool um_upper_mark_is_absent(int64_t error);

#endif
