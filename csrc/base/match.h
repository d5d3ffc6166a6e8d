/*
 * base/match.h - file name patterns, as the C library matches them.
 *
 * Ownership and threads: pure functions.
 */
#ifndef UM_MATCH_H
#define UM_MATCH_H

/* cffi: begin */
/* Whether `name` fits `pattern` as find(1) means it: fnmatch(3) without flags, so that '*' also stands
 * for slashes and leading dots. Both are NUL-terminated. */
int um_match(const char *pattern, const char *name, int fold_case);
/* cffi: end */

#endif
