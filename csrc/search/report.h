/*
 * search/report.h - the output of a search, byte for byte that of GNU grep.
 *
 * Purpose: print selected lines, matches and context to memory, with names, numbers, separators and
 * colours. A report is about one file at a time.
 *
 * Ownership: a report owns its output, and borrows its setup and the name of the file.
 * Threads: a report is for one thread at a time.
 */
#ifndef UM_SEARCH_REPORT_H
#define UM_SEARCH_REPORT_H

#include "search/matcher.h"
#include "search/search.h"

struct um_report {
    const struct um_search_setup *setup;
    struct um_matcher *matcher;
    uint8_t eol;
    uint8_t *output;
    size_t size, capacity;
    size_t begin; /* of the output of this file */
    size_t limit; /* more is -ENOBUFS */
    int32_t (*write)(const char *, uint64_t); /* NULL: the output is kept */
    size_t leading; /* bytes of the separator at `begin` */
    struct um_slice name, prefix; /* of the file */
    /* The state of the file: */
    bool quiet;       /* nothing is printed any more */
    bool any_group;   /* something was printed, or would have been */
    bool bad_text;    /* a line is not shown, since it is not UTF-8 */
    uint64_t left;    /* lines that may still be selected */
    uint64_t pending; /* lines of context that follow */
    uint64_t width;   /* of numbers, with -T */
    uint64_t base;    /* the offset of `buffer` in the file */
    uint64_t lines;   /* before `counted` */
    const uint8_t *buffer;
    const uint8_t *counted;
    const uint8_t *printed; /* behind the last line that was printed; NULL: none in the buffer */
    int error;
};

int um_report_open(const struct um_search_setup *setup, struct um_matcher *matcher,
                   struct um_report *report);
void um_report_close(struct um_report *report);

/* Begin with a file of `size` bytes. */
void um_report_begin(struct um_report *report, struct um_slice prefix, struct um_slice name,
                     uint64_t size);

/* Print what is said once for a file, after it was searched. */
void um_report_end(struct um_report *report, uint64_t selected);

/* Print a selected line, or with -v the lines between two that match; context that is due goes
 * before. */
void um_report_text(struct um_report *report, struct um_slice lines);

/* Print context that is due, up to `end`. */
void um_report_pending(struct um_report *report, const uint8_t *end);

/* Count lines up to a place in the buffer. */
void um_report_count(struct um_report *report, const uint8_t *end);

/* Return whether bytes are not UTF-8. */
bool um_report_is_bad(struct um_slice text);

#endif
