/*
 * marks/whiteout.h - the only place that spells whiteouts and the other marks of layers.
 *
 * Purpose: say what a path component of a layer means, and which xattrs of a live directory are
 * marks.
 * Source: OCI image-spec, layer.md, "Whiteouts"; the AUFS branch format for `.wh..wh.` leftovers;
 * Documentation/filesystems/overlayfs.rst for the xattrs.
 * Ownership and threads: pure functions.
 */
#ifndef UM_WHITEOUT_H
#define UM_WHITEOUT_H

#include "base/base.h"

enum um_whiteout_kind {
    UM_NAME_PLAIN,    /* an ordinary name */
    UM_NAME_WHITEOUT, /* `.wh.NAME`: hides NAME of the layers below */
    UM_NAME_OPAQUE,   /* `.wh..wh..opq`: hides all children of its directory below */
    UM_NAME_LEFTOVER, /* `.wh..wh.…` otherwise: AUFS housekeeping, never shown */
    UM_NAME_BROKEN,   /* bare `.wh.`, or a whiteout of "." or "..": names nothing */
};

/* Classify a path component, which is not empty. For UM_NAME_WHITEOUT, *hidden becomes the name
 * that it hides, borrowed from the component. */
enum um_whiteout_kind um_whiteout_classify(struct um_slice component, struct um_slice *hidden);

/* Return whether this is the name of the directory in the image root where AUFS kept files with
 * several names, so that hard links could lead to them (`.wh..wh.plnk`). It is a leftover, but
 * links need its files as targets; Docker treats it so, too (pkg/archive/diff.go, UnpackLayer). */
bool um_whiteout_is_link_store(struct um_slice component);

/* Return whether a device number is the one that overlayfs and its relatives use for whiteouts
 * (0:0). */
bool um_whiteout_is_device(uint32_t major, uint32_t minor);

/* cffi: begin */
/* These are for writing a layer: the prefix of a whiteout's name, and the name of an opaque mark.
 * NUL-terminated, static. */
const char *um_whiteout_prefix(void);
const char *um_whiteout_opaque(void);
/* cffi: end */

/* ---- live directories ---- */

/* cffi: begin */
/* These flags say which marks of a live directory are trusted that do more than hide something
 * (docs/explanation/layers.md, "Whose marks count"): redirects, metacopies and override_stat.
 * Marks that only hide always count. */
#define UM_HIDDEN_MAX 2 /* directories that a live one never shows (tree/tree.h) */
#define UM_BELIEVE_TRUSTED 1u /* redirects and metacopies below trusted. */
#define UM_BELIEVE_OWN \
    2u /* ... below user., of objects that only the daemon's user or root can write */
#define UM_BELIEVE_STAT 4u /* override_stat of such objects */
#define UM_BELIEVE_ANY_STAT 8u /* override_stat of all */
#define UM_BELIEVE_CLOSED \
    16u /* nobody else reaches the directory, so the permissions inside do not matter */
/* The directory was an upper with marks below trusted.: names below user.overlay. are ordinary
 * xattrs of users. */
#define UM_BELIEVE_NO_USER 32u
/* override_stat has another name in this directory (marks/override_stat.h): user.fuseoverlayfs., or
 * security.fuseoverlayfs. Permissions do not matter for the second, which only privileged users set. */
#define UM_BELIEVE_STAT_FUSE 64u
#define UM_BELIEVE_STAT_SECURITY 128u
/* cffi: end */

/* Write the name of the whiteout that hides `name`. False where it would be longer than a name may
 * be. */
bool um_whiteout_spell(struct um_slice name, char text[256]);

enum um_mark_kind {
    UM_MARK_OPAQUE, /* of a directory. "y": hides everything below it; "x": its files may be marked whiteouts */
    UM_MARK_REDIRECT, /* where it continues in the layers below: an absolute path, or a name beside it */
    UM_MARK_METACOPY, /* of a file: the file below has its data */
    UM_MARK_WHITEOUT, /* of an empty file in a directory marked "x": a whiteout */
};

/* Return which mark an xattr is: its name begins with one of the prefixes of `namespaces` or with
 * user.fuseoverlayfs. False where it is none. */
bool um_whiteout_mark(struct um_slice xattr, unsigned namespaces, enum um_mark_kind *kind);

/* Return whether every writer of the file can set this mark: its name does not begin with trusted. */
bool um_whiteout_is_user_mark(struct um_slice xattr);

/* Return whether a mark leads to other objects, whose content shows instead. The others only hide. */
bool um_whiteout_leads(enum um_mark_kind kind);

/* Return the xattr of an opaque directory that every user can read; its value is "y". */
struct um_slice um_whiteout_opaque_xattr(void);

/* ---- xattrs of users with names of marks ----
 *
 * Where names below trusted.overlay. are marks, an xattr that users call trusted.overlay.NAME is
 * stored as trusted.overlay.overlay.NAME, and the same holds for user.overlay. (xattrs.c of the
 * kernel's overlayfs). Therefore an overlay can be stacked on files of another one. */

/* cffi: begin */
#define UM_OVERLAY_TRUSTED 1u /* names below trusted.overlay. are marks */
#define UM_OVERLAY_USER 2u /* names below user.overlay. are */
#define UM_OVERLAY_BOTH 3u
#define UM_OVERLAY_RAW_USER 4u /* those below user.overlay. are shown as they are stored */
#define UM_OVERLAY_ROOM 256u /* of the name of an xattr, with NUL */

/* Write the name under which an xattr is stored that users call `name`, NUL-terminated into
 * `stored` of UM_OVERLAY_ROOM bytes. -EPERM for names that users neither see nor set: below
 * user.fuseoverlayfs. and security.fuseoverlayfs. (root's, of fuse-overlayfs), and
 * user.containers.override_stat. As in the kernel, -EINVAL for a prefix alone, and -EOPNOTSUPP for
 * a name that becomes too long. */
int um_overlay_store(unsigned namespaces, const char *name, size_t size, char *stored);
/* cffi: end */

/* Write the name that users see of an xattr that is stored as `stored`, and return its size,
 * without NUL. `shown` may be where `stored` is, or before it. 0 where users see no name: it is a
 * mark, or one of the names above. */
size_t um_overlay_show(unsigned namespaces, struct um_slice stored, char *shown);

/* Return whether an overlay on top of a mount would take an xattr of this name for a mark that
 * does more than hide something: one that leads elsewhere, or that identifies a file. Users of the
 * mount may set such names; an image has none. */
bool um_overlay_leads(struct um_slice shown);

#endif
