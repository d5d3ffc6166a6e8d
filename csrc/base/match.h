/*
 * base/match.h - file name patterns, with the C library's matching.
 *
 * Ownership and threads: pure functions.
 */
#ifndef UM_MATCH_H
#define UM_MATCH_H

/* cffi: begin */
/* Return whether `name` matches `pattern` as find(1) matches: by fnmatch(3) without flags, so that
 * '*' also matches slashes and leading dots. Both are NUL-terminated. */
int um_match(const char *pattern, const char *name, int fold_case);
/* cffi: end */

#endif
