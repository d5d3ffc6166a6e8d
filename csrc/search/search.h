/*
 * search/search.h - lines of files that match expressions, found and printed as GNU grep does.
 *
 * Purpose: search the regular files of a tree, of its layers side by side, or of an upper. A walk
 * fills batches of files; searchers, one for each thread, search a batch at a time, in the order
 * in which the files are in their layers; the results of a batch are then taken in the order of
 * the walk. So the output does not depend on the number of threads.
 *
 * A line is selected in three steps (search/matcher.h): a required literal, an automaton that
 * accepts at least what the expression matches, and the regular expressions of the C library,
 * which are those of GNU grep. Text is UTF-8, whatever the locale of the process is.
 *
 * Ownership: a walk, and batches that it filled, borrow the source; a searcher borrows nothing but
 * the cancellation flag and the functions of its setup.
 * Threads: a searcher, a walk and a batch are for one thread at a time. um_searcher_open must not
 * run in two threads at once, because the C library has one syntax for all. The flag `*cancel` may
 * be set by any thread.
 * Errors: a negative errno; -ECANCELED where the flag was set.
 */
#ifndef UM_SEARCH_H
#define UM_SEARCH_H

#include "base/base.h"
#include "tree/tree.h"
#include "tree/unstacked.h"
#include "upper/upper.h"

/* cffi: begin */
#define UM_SEARCH_BASIC 0u    /* the syntax of grep -G */
#define UM_SEARCH_EXTENDED 1u /* of grep -E */
#define UM_SEARCH_FIXED 2u    /* of grep -F */
#define UM_SEARCH_FOREIGN 3u  /* `find` of the setup knows it */

#define UM_SEARCH_ICASE 1u            /* -i */
#define UM_SEARCH_WORDS 2u            /* -w */
#define UM_SEARCH_LINES 4u            /* -x */
#define UM_SEARCH_INVERT 8u           /* -v */
#define UM_SEARCH_NUL_DATA 16u        /* -z */
#define UM_SEARCH_TEXT 32u            /* -a */
#define UM_SEARCH_SKIP_BINARY 64u     /* -I */
#define UM_SEARCH_LINE_NUMBER 128u    /* -n */
#define UM_SEARCH_BYTE_OFFSET 256u    /* -b */
#define UM_SEARCH_FILENAME 512u       /* -H */
#define UM_SEARCH_NUL_NAME 1024u      /* -Z */
#define UM_SEARCH_ONLY_MATCHING 2048u /* -o */
#define UM_SEARCH_COUNT 4096u         /* -c */
#define UM_SEARCH_LIST 8192u          /* -l */
#define UM_SEARCH_LIST_OTHERS 16384u  /* -L */
#define UM_SEARCH_QUIET 32768u        /* -q */
#define UM_SEARCH_TAB 65536u          /* -T */
#define UM_SEARCH_COLOR 131072u
#define UM_SEARCH_REVERSE 262144u /* rv of GREP_COLORS */
#define UM_SEARCH_NO_ERASE 524288u /* ne of GREP_COLORS */
#define UM_SEARCH_ESCAPE 1048576u /* names are for a terminal */
#define UM_SEARCH_RECORDS 2097152u /* struct um_search_record instead of text */

/* The colours of GREP_COLORS, in this order. */
#define UM_SEARCH_COLORS 8
#define UM_SEARCH_MS 0
#define UM_SEARCH_MC 1
#define UM_SEARCH_FN 2
#define UM_SEARCH_LN 3
#define UM_SEARCH_BN 4
#define UM_SEARCH_SE 5
#define UM_SEARCH_SL 6
#define UM_SEARCH_CX 7

struct um_search_setup {
    const char *patterns; /* one a line, without the last newline */
    size_t patterns_size;
    uint32_t syntax;
    uint32_t flags;
    uint64_t max_count;     /* -m */
    int64_t before, after;  /* -B, -A; -1: no context */
    const char *separator;  /* of groups; NULL: none */
    const char *colors[UM_SEARCH_COLORS]; /* parameters of SGR */
    const int32_t *cancel;  /* a search ends where this becomes something else than 0 */
    /* Of UM_SEARCH_FOREIGN. With from < 0 find the first line that matches, else the leftmost match
     * at `from` or behind it in a buffer of one line. 1 with its place, 0, or an errno. */
    int32_t (*find)(const char *buffer, uint64_t size, int64_t from, uint64_t *start,
                    uint64_t *length);
};

struct um_searcher; /* opaque */

/* Compile the expressions. -EINVAL with fault->text where one is wrong; -ENOMEM. */
int um_searcher_open(const struct um_search_setup *setup, struct um_searcher **out,
                     struct um_fault *fault);
void um_searcher_close(struct um_searcher *searcher);

/* What is searched: one of these. */
struct um_search_source {
    struct um_tree *tree;
    struct um_unstacked *layers;
    struct um_upper *upper;
};

/* Where a walk begins, and which names it leaves out, as --include and --exclude say. */
struct um_search_start {
    struct um_attr attr;
    const char *path; /* as it is printed, without the prefix */
    size_t path_size;
    const char *prefix; /* printed before each path */
    size_t prefix_size;
    const char *const *files; /* patterns of files, each with 'i' (include) or 'e' before it */
    size_t n_files;
    const char *const *directories; /* patterns of directories that are left out */
    size_t n_directories;
};

struct um_search_walk; /* opaque */
struct um_search_batch; /* opaque */

int um_search_walk_open(const struct um_search_source *source, const struct um_search_start *start,
                        struct um_search_walk **out);
void um_search_walk_close(struct um_search_walk *walk);

/* Collect the next files: 1, 0 at the end, or an errno. The caller owns *out. */
int um_search_walk_next(struct um_search_walk *walk, struct um_search_batch **out);
void um_search_batch_close(struct um_search_batch *batch);

/* Search the files of a batch. 0, -ENOMEM, -ECANCELED; errors of a file are in its event. */
int um_searcher_run(struct um_searcher *searcher, struct um_search_batch *batch);

#define UM_SEARCH_SELECTED 1u /* a line was selected */
#define UM_SEARCH_BINARY 2u /* a line of a binary file was selected, and is not shown */
#define UM_SEARCH_GROUPS 4u /* separators of groups are needed from here on */
#define UM_SEARCH_LARGE 8u /* the output is too large: um_searcher_stream has it */
#define UM_SEARCH_FAILED 16u /* `error` says why, and `path` of which file */

/* What was found in a file, or in several between which nothing is to be said. All pointers are
 * borrowed until the next call. */
struct um_search_event {
    const char *output;
    size_t output_size;
    size_t
        leading; /* bytes of a separator before the rest, for when something was printed before */
    const char *path;
    size_t path_size;
    uint32_t flags; /* UM_SEARCH_SELECTED, … */
    int32_t error;
    uint64_t file; /* its number in the batch */
};

/* Return the next event: 1, 0 at the end, or an errno. */
int um_search_batch_next(struct um_search_batch *batch, struct um_search_event *event);

/* Search one file of a batch again and hand its output to `write`, piece by piece; what `write`
 * returns other than 0 ends the search. `any_group`: a separator goes before the first group. The
 * event has no output. */
int um_searcher_stream(struct um_searcher *searcher, struct um_search_batch *batch, uint64_t file,
                       bool any_group, int32_t (*write)(const char *data, uint64_t size),
                       struct um_search_event *event);

#define UM_SEARCH_RECORD_TEXT 0u /* a line, or with -o a match; `size` bytes follow */
#define UM_SEARCH_RECORD_COUNT 1u /* `line` is the number of selected lines of the file */
#define UM_SEARCH_RECORD_FILE 2u /* the file is listed */

/* The output with UM_SEARCH_RECORDS. */
struct um_search_record {
    uint64_t line;
    uint64_t offset;
    uint64_t size;
    uint32_t selected; /* else context */
    uint32_t kind; /* UM_SEARCH_RECORD_… */
};
/* cffi: end */

#endif
