/*
 * search/automaton.h - a program of search/expression.h, run over many lines at the speed of a table.
 *
 * Purpose: find the first line in a buffer that the program accepts. States of a deterministic
 * automaton are made when they are first reached; where they would take too much memory, all are
 * forgotten.
 *
 * Ownership: an automaton borrows the expression, and owns its states.
 * Threads: an automaton is for one thread at a time.
 */
#ifndef UM_SEARCH_AUTOMATON_H
#define UM_SEARCH_AUTOMATON_H

#include "base/base.h"
#include "search/expression.h"

struct um_automaton; /* opaque */

int um_automaton_open(const struct um_expression *expression, uint8_t eol,
                      struct um_automaton **out);
void um_automaton_close(struct um_automaton *automaton);

/* Read lines from `at` on, which begins a line, up to `end`, which is behind an end of line. 1 with
 * *found, a place in the first line that is accepted or its end of line; 0; -ENOMEM. */
int um_automaton_scan(struct um_automaton *automaton, const uint8_t *at, const uint8_t *end,
                      const uint8_t **found);

#endif
