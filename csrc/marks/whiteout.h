/*
 * marks/whiteout.h - the only place that spells whiteouts, and the other marks that layers bear.
 *
 * Purpose: say what a path component of a layer means, and which xattrs of a live directory are
 * marks. Source: OCI image-spec, layer.md, "Whiteouts"; the AUFS branch format for `.wh..wh.`
 * leftovers; Documentation/filesystems/overlayfs.rst for the xattrs.
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

/* What `component` (one path component, not empty) means; for UM_NAME_WHITEOUT *hidden becomes the
 * name that it hides (borrowed from component). */
enum um_whiteout_kind um_whiteout_classify(struct um_slice component, struct um_slice *hidden);

/* True for the name of the directory in the image root where AUFS kept files with several names, so
 * that hard links could lead to them (`.wh..wh.plnk`). It is a leftover, but what is in it is needed
 * as the target of links; Docker does the same (pkg/archive/diff.go, UnpackLayer). */
bool um_whiteout_is_link_store(struct um_slice component);

/* True for the device number that overlayfs and its kin use as a whiteout (0:0). */
bool um_whiteout_is_device(uint32_t major, uint32_t minor);

/* cffi: begin */
/* For writing a layer: what stands before the name that a whiteout hides, and the name that makes its
 * directory opaque. NUL-terminated, static. */
const char *um_whiteout_prefix(void);
const char *um_whiteout_opaque(void);
/* cffi: end */

/* ---- live directories ---- */

/* cffi: begin */
/* Whose marks in a live directory are believed that do more than hide something (docs/explanation/layers.md, "Whose
 * marks count"): redirects and metacopies, and override_stat. A sum; those that hide are in any case. */
#define UM_HIDDEN_MAX 2 /* directories that a live one shows nothing of (tree/tree.h) */
#define UM_BELIEVE_TRUSTED 1u /* redirects and metacopies below trusted. */
#define UM_BELIEVE_OWN 2u /* ... below user., of objects that are the daemon's or root's alone */
#define UM_BELIEVE_STAT 4u /* override_stat of such objects */
#define UM_BELIEVE_ANY_STAT 8u /* override_stat of all */
#define UM_BELIEVE_CLOSED \
    16u /* nobody else reaches the directory: who may write there does not matter */
/* It was written as an upper whose marks are below trusted.: what is below user.overlay. are users' xattrs. */
#define UM_BELIEVE_NO_USER 32u
/* cffi: end */

/* The file that hides `name`: false where its own name would be longer than a name may be. */
bool um_whiteout_spell(struct um_slice name, char text[256]);

enum um_mark_kind {
    UM_MARK_OPAQUE, /* of a directory. "y": hides what is below; "x": may hold marked whiteouts */
    UM_MARK_REDIRECT, /* where in the layers below it goes on: an absolute path, or a name beside it */
    UM_MARK_METACOPY, /* of a file: its data is that of the file below */
    UM_MARK_WHITEOUT, /* of an empty file in a directory marked "x": a whiteout */
};

/* What an xattr means as a mark, whichever of the prefixes of `namespaces` and user.fuseoverlayfs. it
 * begins with; false for all others. */
bool um_whiteout_mark(struct um_slice xattr, unsigned namespaces, enum um_mark_kind *kind);

/* True for a mark that every writer of the file can set: it does not begin with trusted. */
bool um_whiteout_is_user_mark(struct um_slice xattr);

/* True for a mark that leads to other objects, whose content shows instead; the others only hide. */
bool um_whiteout_leads(enum um_mark_kind kind);

/* The mark of an opaque directory that every user may see; its value is "y". */
struct um_slice um_whiteout_opaque_xattr(void);

/* ---- xattrs that users name as marks are named ----
 *
 * What users of a mount call trusted.overlay.NAME is stored as trusted.overlay.overlay.NAME where the names
 * below trusted.overlay. are marks, and so for user.overlay. (xattrs.c of the kernel's overlayfs). So an
 * overlay can be made of what is in another one. */

/* cffi: begin */
#define UM_OVERLAY_TRUSTED 1u /* names below trusted.overlay. are marks */
#define UM_OVERLAY_USER 2u /* names below user.overlay. are */
#define UM_OVERLAY_BOTH 3u
#define UM_OVERLAY_RAW_USER 4u /* those below user.overlay. are shown as they are stored */
#define UM_OVERLAY_ROOM 256u /* of the name of an xattr, with NUL */

/* Under which name an xattr is stored that users call `name`: NUL-terminated in `stored`, which has UM_OVERLAY_ROOM
 * bytes. -EPERM for one that
 * no user sees or sets: below user.fuseoverlayfs. and security.fuseoverlayfs. (root's, of fuse-overlayfs),
 * and user.containers.override_stat. As the kernel, -EINVAL for a prefix alone, and -EOPNOTSUPP for what
 * gets too long. */
int um_overlay_store(unsigned namespaces, const char *name, size_t size, char *stored);
/* cffi: end */

/* The size of the name that users see of what is stored as `stored`, without NUL; written to `shown`, which
 * may be where `stored` is or before it. 0 where they see none: a mark, or one of the names above. */
size_t um_overlay_show(unsigned namespaces, struct um_slice stored, char *shown);

/* Whether an overlay of a mount that shows an xattr of this name would take it for a mark that does more than
 * hide something: one that leads elsewhere, or says which file an object is. Users of the mount may set
 * such a name; an image has none. */
bool um_overlay_leads(struct um_slice shown);

#endif
