/*
 * search/expression.h - expressions of grep as programs of an automaton on bytes.
 *
 * Purpose: translate expressions to a nondeterministic automaton that accepts every line that they
 * match. Where an expression cannot be followed exactly (back-references, word boundaries, classes
 * of characters that are not ASCII, invalid UTF-8), the automaton accepts more lines, and `exact`
 * is false. An expression that this module does not understand gives no program at all
 * (`everything`).
 *
 * Ownership: an expression owns its arrays until um_expression_close.
 * Threads: an expression that is open does not change.
 */
#ifndef UM_SEARCH_EXPRESSION_H
#define UM_SEARCH_EXPRESSION_H

#include "base/base.h"
#include "search/byte_set.h"

enum um_step_kind {
    UM_STEP_BYTE,  /* the byte `byte`, then `next` */
    UM_STEP_SET,   /* a byte of set number `set`, then `next` */
    UM_STEP_SPLIT, /* `next` or `other` */
    UM_STEP_BEGIN, /* at the beginning of a line, `next` */
    UM_STEP_END,   /* at the end of a line, `next` */
    UM_STEP_MATCH,
};

struct um_step {
    uint8_t kind, byte;
    uint32_t set;
    uint32_t next, other;
};

struct um_expression {
    struct um_step *steps;
    size_t n_steps, steps_capacity;
    struct um_byte_set *sets;
    size_t n_sets, sets_capacity;
    uint32_t first; /* where the program begins */
    bool everything; /* there is no program: any line may match */
    bool exact;      /* the program accepts no line that does not match */
    bool has_begin;  /* some step is UM_STEP_BEGIN */
    uint8_t *literal; /* every line that matches has these bytes; NULL: nothing is known */
    size_t literal_size;
    bool is_literal; /* a line that has the literal matches */
};

/* Translate patterns, one a line, of UM_SEARCH_BASIC, EXTENDED or FIXED syntax; `flags` are
 * UM_SEARCH_ICASE, LINES, WORDS, NUL_DATA. 0; -ENOMEM; -EINVAL with fault->text for what grep
 * refuses though the C library does not. */
int um_expression_open(struct um_slice patterns, uint32_t syntax, uint32_t flags,
                       struct um_expression *out, struct um_fault *fault);
void um_expression_close(struct um_expression *expression);

#endif
