/*
 * tree/summary.h - a summary of what each layer of an image did, and what remains of it.
 *
 * Purpose: count, in one pass over the names of all layers together, what um_tree_walk reports for
 * each layer, the bytes that no name of the image shows any more, and how often paths are stored.
 * The cost is O(names · log layers), however the names are distributed over the layers.
 *
 * Bytes are those that regular files occupy in their layer. A file with several names counts once,
 * with the first of its names: in the directory nearest to the root, then in the order of the
 * index.
 *
 * At the end, the paths of files can be listed, each with the bytes that every layer has there.
 *
 * Ownership: a summary borrows the tree, whose layers are those of an image. A listed path and its
 * versions belong to the summary, until its next call.
 * Threads: a summary is for one thread at a time.
 * Errors: as the tree; -EOPNOTSUPP where a layer is a live directory.
 */
#ifndef UM_SUMMARY_H
#define UM_SUMMARY_H

#include "base/base.h"
#include "tree/tree.h"

/* cffi: begin */
struct um_summary; /* opaque */

struct um_layer_summary {
    uint64_t added, changed, deleted; /* as um_tree_walk reports them */
    uint64_t bytes;                   /* of the regular files in the layer */
    uint64_t wasted;                  /* of these, those that the image does not show */
};

/* Sums over all paths that a regular file has in any layer. */
struct um_path_summary {
    uint64_t stored; /* bytes, of all layers that have the path */
    uint64_t least;  /* the smallest of them; 0 where a layer deletes it */
};

int um_summary_open(struct um_tree *tree, struct um_summary **out);
void um_summary_close(struct um_summary *summary);

/* Continue: 1 where there is more to do, 0 at the end, or an errno. */
int um_summary_step(struct um_summary *summary);

/* Return the result, at the end. `layers` has room for all layers of the tree. */
void um_summary_get(const struct um_summary *summary, struct um_layer_summary *layers,
                    struct um_path_summary *paths);

/* What one layer has at a path. */
struct um_path_version {
    uint32_t layer;
    uint32_t shown; /* 1 if the image shows the file, at this path or at another; 0 if wasted */
    uint64_t bytes; /* 0 for all names of a file but the first */
};

/* A path at which layers have regular files, the lowest layer first. */
struct um_path_versions {
    const char *path; /* without a leading slash */
    size_t path_size;
    const struct um_path_version *versions;
    size_t n;
    uint64_t shown, wasted; /* sums of bytes */
};

/* Bytes that a path needs to be listed; one of them is enough. */
struct um_path_floor {
    uint64_t shown, wasted;
    uint64_t repeated; /* of paths that several layers have: bytes of all of them */
};

/* List the next path that reaches a floor, after um_summary_step returned 0. The floors may rise
 * from call to call. Return 1 with *out; 2 where the caller may be interrupted and should call
 * again; 0 at the end; or an errno. */
int um_summary_list(struct um_summary *summary, const struct um_path_floor *floor,
                    struct um_path_versions *out);
/* cffi: end */

#endif
