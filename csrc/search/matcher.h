/*
 * search/matcher.h - the lines of a buffer that are selected, and the matches in a line.
 *
 * Purpose: three steps decide about a line. Where every match has a known literal, only lines with
 * it are looked at; the automaton leaves out most of the others; and where the automaton is not
 * exact, the regular expressions of the C library decide. They have the answers of GNU grep, which
 * uses them, too. What a match is with -w and -x is GNU's as well: a shorter match is tried at the
 * same place before the next place.
 *
 * Ownership: a matcher owns everything but the functions of its setup.
 * Threads: a matcher is for one thread at a time, and its opening for one at all.
 */
#ifndef UM_SEARCH_MATCHER_H
#define UM_SEARCH_MATCHER_H

#include "base/base.h"
#include "search/search.h"

struct um_matcher; /* opaque */

int um_matcher_open(const struct um_search_setup *setup, struct um_matcher **out,
                    struct um_fault *fault);
void um_matcher_close(struct um_matcher *matcher);

/* Make this thread's text UTF-8, and what it was before. */
void um_matcher_enter(struct um_matcher *matcher);
void um_matcher_leave(struct um_matcher *matcher);

/* Return whether the search shall end. Looked at between two calls of the C library, each of which may
 * take long, so that functions below may return -ECANCELED. */
bool um_matcher_is_canceled(const struct um_matcher *matcher);

/* Find the first line that matches. `buffer` begins a line and ends behind an end of line; *line
 * includes its own. 1, 0, or an errno. */
int um_matcher_line(struct um_matcher *matcher, struct um_slice buffer, struct um_slice *line);

/* Find the leftmost match, and of those the longest, in a line with its end, from `from` on. It may
 * be empty. 1, 0, or an errno. */
int um_matcher_match(struct um_matcher *matcher, struct um_slice line, size_t from,
                     struct um_slice *match);

#endif
