/*
 * search/terms.h - expressions of grep as trees.
 *
 * Purpose: parse one expression of POSIX syntax, with the extensions of GNU, to terms. See
 * search/expression.h for what is done where an expression cannot be followed exactly.
 *
 * Ownership: the terms own their arrays until um_terms_close.
 */
#ifndef UM_SEARCH_TERMS_H
#define UM_SEARCH_TERMS_H

#include "base/base.h"
#include "search/byte_set.h"

#define UM_NO_TERM UINT32_MAX
#define UM_UNBOUNDED UINT32_MAX

enum um_term_kind {
    UM_TERM_BYTE,     /* one byte */
    UM_TERM_CHAR,     /* a byte of `set`, or with `wide` any character that is not ASCII */
    UM_TERM_SEQUENCE, /* its children, one after the other; none: the empty string */
    UM_TERM_CHOICE,   /* one of its children */
    UM_TERM_REPEAT,   /* its only child, `least` to `most` times */
    UM_TERM_BEGIN,
    UM_TERM_END,
};

struct um_term {
    uint8_t kind, byte;
    bool wide;
    uint32_t last;   /* the last child, or UM_NO_TERM */
    uint32_t before; /* the sibling before this one, or UM_NO_TERM */
    uint32_t least, most;
    struct um_byte_set set;
};

struct um_terms {
    struct um_term *terms;
    size_t n, capacity;
    uint32_t syntax; /* UM_SEARCH_… */
    bool fold, nul_data;
    bool exact;   /* false where the terms match more than the expression */
    bool unknown; /* the last expression could not be parsed */
};

/* Parse one expression, without a newline in it, and return its term. -ENOMEM; -EINVAL with
 * fault->text. Where terms->unknown is set, there is none. */
int um_terms_parse(struct um_terms *terms, struct um_slice text, uint32_t *term,
                   struct um_fault *fault);

/* Add a term of a kind; with the children from `last` on back. */
int um_terms_add(struct um_terms *terms, enum um_term_kind kind, uint32_t last, uint32_t *term);
void um_terms_close(struct um_terms *terms);

#endif
