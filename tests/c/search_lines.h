/*
 * search_lines.h - check what a matcher says about all lines of a buffer.
 *
 * Purpose: test_search.c and fuzz_search.c make expressions and lines in different ways, and check
 * the answers here. A line or match must lie inside of what was searched, and no line may be left
 * out in which the C library finds the expression.
 */
#ifndef UM_TEST_SEARCH_LINES_H
#define UM_TEST_SEARCH_LINES_H

#include <regex.h>
#include <stdio.h>

#include "search/matcher.h"

/* Leave the function with false, and say what was wrong. */
#define PROMISED(condition)                                                           \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not kept: %s\n", __FILE__, __LINE__, #condition); \
            return false;                                                             \
        }                                                                             \
    } while (0)

/* Return whether the C library finds an expression in a line without its end. */
static inline bool library_finds(struct re_pattern_buffer *compiled, struct um_slice line)
{
    int size = (int)line.size - 1;
    return re_search(compiled, (const char *)line.data, size, 0, size, NULL) >= 0;
}

/* Return whether the C library finds nothing in lines that a matcher left out. */
static inline bool check_skipped(struct re_pattern_buffer *compiled, uint8_t eol, const uint8_t *at,
                                 const uint8_t *end)
{
    while (at < end) {
        const uint8_t *last = memchr(at, eol, (size_t)(end - at));
        PROMISED(last != NULL);
        PROMISED(!library_finds(compiled, um_slice_of(at, (size_t)(last + 1 - at))));
        at = last + 1;
    }
    return true;
}

/* Return whether the matches in a line lie in it, one behind the other. */
static inline bool check_matches(struct um_matcher *matcher, struct um_slice line)
{
    struct um_slice match;
    for (size_t from = 0; from < line.size; from++) {
        if (um_matcher_match(matcher, line, from, &match) != 1)
            break;
        PROMISED(match.data >= line.data + from);
        PROMISED(match.data + match.size <= line.data + line.size);
        from = (size_t)(match.data - line.data) + match.size;
    }
    return true;
}

/* Check all lines of a buffer, which end with `eol`. `compiled` is the expression for the C library,
 * or NULL where it may have other answers. */
static inline bool check_lines(struct um_matcher *matcher, struct um_slice buffer, uint8_t eol,
                               struct re_pattern_buffer *compiled)
{
    const uint8_t *at = buffer.data, *end = at + buffer.size;
    while (at < end) {
        struct um_slice line = {0};
        int found = um_matcher_line(matcher, um_slice_of(at, (size_t)(end - at)), &line);
        const uint8_t *next = found == 1 ? line.data : end;
        PROMISED(found >= 0);
        PROMISED(next >= at && next <= end);
        if (compiled != NULL && !check_skipped(compiled, eol, at, next))
            return false;
        if (found == 0)
            break;
        PROMISED(line.size > 0 && line.size <= (size_t)(end - line.data));
        PROMISED(line.data[line.size - 1] == eol);
        if (!check_matches(matcher, line))
            return false;
        at = line.data + line.size;
    }
    return true;
}

#endif
