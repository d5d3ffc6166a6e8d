/*
 * search/scan.h - reading a file in pieces, and searching each.
 *
 * Purpose: do what GNU grep does with a file. It reads pieces of 96 KiB, or more where a line is
 * longer. A file is binary from the piece on in which there is a NUL byte, or from its first one
 * if the file has holes. The pieces are as long as GNU's, so that the same lines are text.
 *
 * Ownership: a scanner owns its buffer.
 * Threads: a scanner is for one thread at a time.
 */
#ifndef UM_SEARCH_SCAN_H
#define UM_SEARCH_SCAN_H

#include "search/report.h"
#include "search/source.h"

struct um_scanner {
    uint8_t *room;
    size_t capacity;
};

/* A file to search, and what came of it. */
struct um_scanned {
    uint64_t node, size;
    bool has_holes;
    uint64_t selected;
    bool is_binary; /* a line was selected that is not shown */
    int error;      /* of reading */
};

/* Search a file for the report, which was begun. 0; -ENOMEM, -ECANCELED, -ENOBUFS. */
int um_scan(struct um_scanner *scanner, const struct um_search_source *source,
            struct um_report *report, struct um_scanned *file);
void um_scanner_close(struct um_scanner *scanner);

#endif
