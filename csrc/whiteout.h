/*
 * whiteout.h - the only place that spells whiteouts.
 *
 * Purpose: say what a path component of an image layer means. Source: OCI image-spec, layer.md,
 * "Whiteouts"; the AUFS branch format for `.wh..wh.` leftovers.
 * Ownership and threads: pure functions.
 */
#ifndef UM_WHITEOUT_H
#define UM_WHITEOUT_H

#include "base.h"

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

#endif
