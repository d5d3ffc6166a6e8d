/*
 * tar/sparse.h - maps of sparse files.
 *
 * Ownership: said at the struct. Threads: everything works on memory of the caller.
 */
#ifndef UM_TAR_SPARSE_H
#define UM_TAR_SPARSE_H

#include "tar/entry.h"

/* These are the runs of the sparse file that comes next. The struct owns its extents. */
struct um_tar_runs {
    struct um_tar_extent *extents;
    size_t count, capacity;
    uint64_t limit;
    struct { /* a 1.0 map that is being read */
        uint64_t number, announced,
            seen; /* the number being read; runs that are announced; numbers read so far */
        bool digits;
    } map;
};

/* Add one run. -E2BIG beyond the limit; `offset` is for the fault. */
int um_tar_add_run(struct um_tar_runs *runs, uint64_t logical, uint64_t length,
                   struct um_fault *fault, uint64_t offset);

/* Add the runs in an old GNU header, or in a block that follows it; `offset` is that of the block. */
int um_tar_add_header_runs(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                           uint64_t offset);
int um_tar_add_block_runs(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                          uint64_t offset);

/* Add the runs of a GNU.sparse.map: "offset,length,offset,length,…". */
int um_tar_add_map_text(struct um_tar_runs *runs, struct um_slice text, struct um_fault *fault,
                        uint64_t offset);

/* Read one block of a 1.0 map, beginning with the first. 1: there is more; 0: the map is complete. */
int um_tar_read_map_block(struct um_tar_runs *runs, const uint8_t *block, struct um_fault *fault,
                          uint64_t offset);

/* Check the runs against the sizes of the entry, and give them to it, each with its place in the
 * stream. */
int um_tar_place_runs(struct um_tar_runs *runs, struct um_tar_entry *entry, struct um_fault *fault);

static inline void um_tar_runs_clear(struct um_tar_runs *runs)
{
    runs->count = 0;
    memset(&runs->map, 0, sizeof runs->map);
}

#endif
