/*
 * tree/scan.h - searching a directory and everything below it, as find(1) does.
 *
 * Purpose: walk in the order of a listing, depth first, and run a small program of tests on every
 * file. A caller of a million files thus makes some hundred calls instead of a million. Each test
 * names the one to go on with when it is true, and when it is false; only tests further on can be
 * named, so a program always ends. What it ends with decides: nothing, or to keep the file, which
 * means that its record is returned to the caller for tests that are not known here.
 *
 * Ownership: borrows the tree, and the patterns and expressions of the tests, until um_scan_close. What
 * um_scan_next returns is borrowed until the next call.
 * Threads: a scan is for one thread at a time. Errors: as the tree.
 */
#ifndef UM_SCAN_H
#define UM_SCAN_H

#include "base/base.h"
#include "base/path_regex.h"
#include "tree/tree.h"
#include "tree/unstacked.h"

/* cffi: begin */
struct um_scan; /* opaque */

/* Tests, by what they look at. */
#define UM_SCAN_TYPE 0u     /* low: a bit for each file type, bit (mode >> 12) */
#define UM_SCAN_PERM_IS 1u  /* the permissions are those of `low`; of a directory, of `high` */
#define UM_SCAN_PERM_ALL 2u /* all these permissions are set */
#define UM_SCAN_PERM_ANY 3u /* one of them is set, or none was named */
#define UM_SCAN_SIZE 4u     /* size … inode number: low <= value <= high */
#define UM_SCAN_UID 5u
#define UM_SCAN_GID 6u
#define UM_SCAN_LINKS 7u
#define UM_SCAN_NODE 8u
#define UM_SCAN_MTIME 9u /* times: since <= value <= until */
#define UM_SCAN_ATIME 10u
#define UM_SCAN_CTIME 11u
#define UM_SCAN_NAME 12u  /* um_match of the last component with `pattern` */
#define UM_SCAN_INAME 13u /* the same whatever the case of letters */
#define UM_SCAN_PATH 14u  /* um_match of the path */
#define UM_SCAN_IPATH 15u
#define UM_SCAN_EMPTY 16u /* a regular file without data, or a directory without names */
#define UM_SCAN_REGEX 17u /* `regex` matches the whole path */
/* Actions, which are always true. */
#define UM_SCAN_PRINT 18u /* append the path, and the byte `low` */
#define UM_SCAN_PRUNE 19u /* do not enter this directory; nothing in post-order */
#define UM_SCAN_TESTS 20u

/* Where a program ends. */
#define UM_SCAN_SKIP 0xfffffffeu
#define UM_SCAN_KEEP 0xffffffffu

#define UM_SCAN_TESTS_MAX 65536u

struct um_scan_test {
    uint32_t what;
    uint32_t yes, no; /* the number of a later test, UM_SCAN_SKIP or UM_SCAN_KEEP */
    uint32_t since_nsec, until_nsec;
    int64_t since, until;
    uint64_t low, high;
    const char *pattern; /* NUL-terminated, borrowed */
    struct um_path_regex *regex; /* borrowed */
};

#define UM_SCAN_POST_ORDER 1u /* a directory comes after its contents */

struct um_scan_setup {
    const struct um_scan_test *tests; /* of none, everything is kept */
    uint32_t n_tests;
    uint32_t flags;       /* UM_SCAN_POST_ORDER */
    uint32_t least, most; /* depths; the start has 0 */
    uint64_t start;       /* a node of any type */
    const char *shown;    /* the path of the start as it is printed */
    size_t shown_size;
};

struct um_scan_record {
    struct um_attr attr;
    uint32_t depth;
    int32_t error;      /* not 0: the directory could not be read on */
    uint64_t path;   /* where the path is in `paths` */
    uint32_t path_size;
    uint32_t name_size; /* of the last component, where the path ends; 0 of the start */
};

/* One piece of the result. */
struct um_scan_batch {
    const struct um_scan_record *records;
    size_t n_records;
    const char *paths; /* of records */
    const char *text;  /* what the program printed */
    size_t text_size;
};

/* Begin a scan. -EINVAL (a program that is not valid, a start without a path), -ESTALE, -ENOMEM. */
int um_scan_tree(struct um_tree *tree, const struct um_scan_setup *setup, struct um_scan **out);
int um_scan_unstacked(struct um_unstacked *layers, const struct um_scan_setup *setup,
                      struct um_scan **out);
void um_scan_close(struct um_scan *scan);

/* Return the next piece: 1, 0 at the end, or an errno. A piece may be empty. A directory that cannot
 * be read is a record with an error, and ends the piece. Nodes of records are valid until the next
 * call. */
int um_scan_next(struct um_scan *scan, struct um_scan_batch *batch);

/* Leave the directory `node` at this depth, if the scan is still in it. */
void um_scan_leave(struct um_scan *scan, uint32_t depth, uint64_t node);
/* cffi: end */

/* ---- for the upper, which lists in its own way ---- */

/* How a scan lists. `begin` and `end` frame the reading of a directory; `forget` gives back a node
 * that a list has returned. */
struct um_scan_source {
    void *owner;
    int (*getattr)(void *owner, uint64_t node, struct um_attr *attr);
    int (*begin)(void *owner, uint64_t directory, void **list);
    int (*next)(void *owner, void *list, uint64_t directory, uint64_t cookie,
                struct um_tree_entry *entries, size_t capacity);
    void (*end)(void *list);
    void (*forget)(void *owner, uint64_t node);
};

int um_scan_open(const struct um_scan_source *source, const struct um_scan_setup *setup,
                 struct um_scan **out);

#endif
