/*
 * base/path_regex.h - regular expressions for whole paths, with the C library's matching.
 *
 * Purpose: the answers of find(1), which uses the same functions of the C library.
 * Ownership: the caller owns what um_path_regex_open returns.
 * Threads: opening sets a variable of the C library, so only one thread may open at a time; an
 * expression is for one thread.
 */
#ifndef UM_PATH_REGEX_H
#define UM_PATH_REGEX_H

#include "base/base.h"

/* cffi: begin */
struct um_path_regex; /* opaque */

/* Compile an expression in a syntax, named as -regextype of find(1) names it. -EINVAL with *message,
 * which is static: NULL where the syntax is not known, else what is wrong with the expression.
 * -ENOMEM. */
int um_path_regex_open(const char *syntax, const char *pattern, size_t size, int fold_case,
                       struct um_path_regex **out, const char **message);
void um_path_regex_close(struct um_path_regex *regex);

/* Return whether the expression matches a whole path. */
int um_path_regex_matches(struct um_path_regex *regex, const char *path, size_t size);
/* cffi: end */

#endif
