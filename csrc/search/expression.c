#include "search/expression.h"

#include "search/search.h"
#include "search/terms.h"

#define MAX_STEPS 200000u
#define MAX_COPIES 20u /* of a repeated term; more are taken as any number of them */
#define MAX_DEPTH 600u

/* The state of translating terms to steps, from the end of a line to its beginning. */
struct writer {
    struct um_expression *expression;
    const struct um_terms *terms;
    uint32_t sets[4]; /* of the bytes of characters that are not ASCII; see wide_sets */
    bool has_sets;
    uint32_t depth;
    int error; /* -E2BIG: the program would be too large */
};

static uint32_t step(struct writer *writer, enum um_step_kind kind, uint32_t next)
{
    struct um_expression *expression = writer->expression;
    if (writer->error == 0 && expression->n_steps >= MAX_STEPS)
        writer->error = -E2BIG;
    if (writer->error == 0)
        writer->error = um_reserve((void **)&expression->steps, &expression->steps_capacity,
                                   expression->n_steps + 1, sizeof *expression->steps);
    if (writer->error != 0)
        return 0;
    expression->steps[expression->n_steps] = (struct um_step){.kind = (uint8_t)kind, .next = next};
    return (uint32_t)expression->n_steps++;
}

static uint32_t add_set(struct writer *writer, const struct um_byte_set *set)
{
    struct um_expression *expression = writer->expression;
    if (writer->error == 0)
        writer->error = um_reserve((void **)&expression->sets, &expression->sets_capacity,
                                   expression->n_sets + 1, sizeof *expression->sets);
    if (writer->error != 0)
        return 0;
    expression->sets[expression->n_sets] = *set;
    return (uint32_t)expression->n_sets++;
}

static uint32_t set_step(struct writer *writer, uint32_t set, uint32_t next)
{
    uint32_t made = step(writer, UM_STEP_SET, next);
    if (writer->error == 0)
        writer->expression->steps[made].set = set;
    return made;
}

static uint32_t split(struct writer *writer, uint32_t next, uint32_t other)
{
    uint32_t made = step(writer, UM_STEP_SPLIT, next);
    if (writer->error == 0)
        writer->expression->steps[made].other = other;
    return made;
}

static struct um_byte_set range_set(unsigned first, unsigned last)
{
    struct um_byte_set set = {{0}};
    for (unsigned c = first; c <= last; c++)
        set.bits[c / 64] |= 1ull << c % 64;
    return set;
}

/* Make the sets of bytes that characters consist of: the first of two, three and four bytes, and
 * all others. As in grep, encodings of no character are among them. */
static void wide_sets(struct writer *writer)
{
    static const uint8_t bounds[4][2] = {{0xc2, 0xdf}, {0xe0, 0xef}, {0xf0, 0xf7}, {0x80, 0xbf}};
    for (int i = 0; !writer->has_sets && i < 4; i++) {
        struct um_byte_set set = range_set(bounds[i][0], bounds[i][1]);
        writer->sets[i] = add_set(writer, &set);
    }
    writer->has_sets = true;
}

/* Write a character that is not ASCII. */
static uint32_t write_wide(struct writer *writer, uint32_t next)
{
    wide_sets(writer);
    uint32_t one = set_step(writer, writer->sets[3], next);
    uint32_t two = set_step(writer, writer->sets[3], one);
    uint32_t three = set_step(writer, writer->sets[3], two);
    uint32_t of_two = set_step(writer, writer->sets[0], one);
    uint32_t of_three = set_step(writer, writer->sets[1], two);
    uint32_t of_four = set_step(writer, writer->sets[2], three);
    return split(writer, of_two, split(writer, of_three, of_four));
}

static uint32_t write_term(struct writer *writer, uint32_t term, uint32_t next);

static uint32_t write_choice(struct writer *writer, uint32_t last, uint32_t next)
{
    uint32_t first = write_term(writer, last, next);
    for (uint32_t at = writer->terms->terms[last].before; at != UM_NO_TERM && writer->error == 0;
         at = writer->terms->terms[at].before)
        first = split(writer, write_term(writer, at, next), first);
    return first;
}

static uint32_t write_repeat(struct writer *writer, const struct um_term *term, uint32_t next)
{
    uint32_t least = term->least, most = term->most, first = next;
    if (least > MAX_COPIES || (most != UM_UNBOUNDED && most > MAX_COPIES)) {
        writer->expression->exact = false;
        least = least < MAX_COPIES ? least : MAX_COPIES;
        most = UM_UNBOUNDED;
    }
    if (most == UM_UNBOUNDED) {
        first = split(writer, next, next);
        uint32_t inside = write_term(writer, term->last, first);
        if (writer->error == 0)
            writer->expression->steps[first].next = inside;
    }
    for (uint32_t i = least; most != UM_UNBOUNDED && i < most && writer->error == 0; i++)
        first = split(writer, write_term(writer, term->last, first), next);
    for (uint32_t i = 0; i < least && writer->error == 0; i++)
        first = write_term(writer, term->last, first);
    return first;
}

static uint32_t write_char(struct writer *writer, const struct um_term *term, uint32_t next)
{
    struct um_byte_set set = term->set;
    uint8_t eol = writer->terms->nul_data ? 0 : '\n';
    set.bits[0] &= ~(1ull << eol);
    uint32_t first = set_step(writer, add_set(writer, &set), next);
    return term->wide ? split(writer, first, write_wide(writer, next)) : first;
}

/* Write a term that is followed by the step `next`, and return its first step. */
static uint32_t write_term(struct writer *writer, uint32_t number, uint32_t next)
{
    const struct um_term *term = &writer->terms->terms[number];
    uint32_t first = next;
    if (writer->error == 0 && ++writer->depth > MAX_DEPTH)
        writer->error = -E2BIG;
    if (writer->error != 0)
        return 0;
    switch ((enum um_term_kind)term->kind) {
    case UM_TERM_BYTE:
        first = step(writer, UM_STEP_BYTE, next);
        if (writer->error == 0)
            writer->expression->steps[first].byte = term->byte;
        break;
    case UM_TERM_CHAR:
        first = write_char(writer, term, next);
        break;
    case UM_TERM_SEQUENCE:
        for (uint32_t at = term->last; at != UM_NO_TERM && writer->error == 0;
             at = writer->terms->terms[at].before)
            first = write_term(writer, at, first);
        break;
    case UM_TERM_CHOICE:
        first = write_choice(writer, term->last, next);
        break;
    case UM_TERM_REPEAT:
        first = write_repeat(writer, term, next);
        break;
    case UM_TERM_BEGIN:
        writer->expression->has_begin = true;
        first = step(writer, UM_STEP_BEGIN, next);
        break;
    case UM_TERM_END:
        first = step(writer, UM_STEP_END, next);
        break;
    }
    writer->depth--;
    return first;
}

/* ---- required bytes ------------------------------------------------------------------------------ */

struct run {
    uint8_t *bytes;
    size_t size, capacity;
};

/* The longest run of bytes that every match has. */
struct literal {
    const struct um_terms *terms;
    struct run now, best;
    bool whole; /* nothing but bytes so far */
    uint32_t depth;
    int error;
};

static void end_run(struct literal *literal)
{
    if (literal->now.size > literal->best.size) {
        struct run run = literal->best;
        literal->best = literal->now;
        literal->now = run;
    }
    literal->now.size = 0;
}

static void take_term(struct literal *literal, uint32_t number);

/* Take the children of a sequence, the first one first. */
static void take_sequence(struct literal *literal, uint32_t last)
{
    size_t n = 0, capacity = 0;
    um_autofree uint32_t *children = NULL;
    for (uint32_t at = last; at != UM_NO_TERM; at = literal->terms->terms[at].before) {
        if (literal->error == 0)
            literal->error = um_reserve((void **)&children, &capacity, n + 1, sizeof *children);
        if (literal->error != 0)
            return;
        children[n++] = at;
    }
    while (n-- != 0)
        take_term(literal, children[n]);
}

static void take_term(struct literal *literal, uint32_t number)
{
    const struct um_term *term = &literal->terms->terms[number];
    if (++literal->depth < MAX_DEPTH && term->kind == UM_TERM_BYTE && literal->error == 0) {
        literal->error = um_reserve((void **)&literal->now.bytes, &literal->now.capacity,
                                    literal->now.size + 1, 1);
        if (literal->error == 0)
            literal->now.bytes[literal->now.size++] = term->byte;
    } else if (literal->depth < MAX_DEPTH && term->kind == UM_TERM_SEQUENCE) {
        take_sequence(literal, term->last);
    } else {
        literal->whole = false;
        end_run(literal);
        if (literal->depth < MAX_DEPTH && term->kind == UM_TERM_REPEAT && term->least > 0)
            take_term(literal, term->last);
        end_run(literal);
    }
    literal->depth--;
}

static int find_literal(const struct um_terms *terms, uint32_t term, struct um_expression *out)
{
    struct literal literal = {.terms = terms, .whole = true};
    take_term(&literal, term);
    end_run(&literal);
    free(literal.now.bytes);
    if (literal.error != 0 || literal.best.size == 0) {
        free(literal.best.bytes);
        return literal.error;
    }
    out->literal = literal.best.bytes;
    out->literal_size = literal.best.size;
    out->is_literal = literal.whole && out->exact;
    return 0;
}

/* ---- all ------------------------------------------------------------------------------------------ */

/* Parse all patterns to one term; *n is their number. */
static int parse_all(struct um_slice patterns, struct um_terms *terms, uint32_t *term, size_t *n,
                     struct um_fault *fault)
{
    const uint8_t *at = patterns.data, *end = patterns.data + patterns.size;
    uint32_t last = UM_NO_TERM, one = UM_NO_TERM;
    bool unknown = false;
    for (*n = 0; at <= end; (*n)++) {
        const uint8_t *newline = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        const uint8_t *stop = newline ? newline : end;
        int error = um_terms_parse(terms, um_slice_of(at, (size_t)(stop - at)), &one, fault);
        if (error != 0)
            return error;
        unknown |= terms->unknown;
        if (!unknown) {
            terms->terms[one].before = last;
            last = one;
        }
        at = stop + 1;
    }
    terms->unknown = unknown;
    *term = one;
    return unknown || *n == 1 ? 0 : um_terms_add(terms, UM_TERM_CHOICE, last, term);
}

static int write_all(struct um_terms *terms, uint32_t term, uint32_t flags,
                     struct um_expression *out)
{
    struct writer writer = {.expression = out, .terms = terms};
    uint32_t match = step(&writer, UM_STEP_MATCH, 0);
    uint32_t next = flags & UM_SEARCH_LINES ? step(&writer, UM_STEP_END, match) : match;
    uint32_t first = write_term(&writer, term, next);
    if (flags & UM_SEARCH_LINES) {
        first = step(&writer, UM_STEP_BEGIN, first);
        out->has_begin = true;
    }
    out->first = first;
    return writer.error;
}

int um_expression_open(struct um_slice patterns, uint32_t syntax, uint32_t flags,
                       struct um_expression *out, struct um_fault *fault)
{
    struct um_terms terms = {.syntax = syntax,
                             .fold = flags & UM_SEARCH_ICASE,
                             .nul_data = flags & UM_SEARCH_NUL_DATA,
                             .exact = true};
    uint32_t term;
    size_t n;
    *out = (struct um_expression){0};
    int error = parse_all(patterns, &terms, &term, &n, fault);
    if (error == 0 && !terms.unknown) {
        out->exact = terms.exact && !(flags & UM_SEARCH_WORDS);
        error = write_all(&terms, term, flags, out);
        if (error == 0 && n == 1)
            error = find_literal(&terms, term, out);
        out->is_literal &= !(flags & UM_SEARCH_LINES);
    }
    if (error == -E2BIG || terms.unknown) { /* never an error: the C library decides */
        um_expression_close(out);
        out->everything = true;
        error = error == -E2BIG ? 0 : error;
    }
    um_terms_close(&terms);
    if (error != 0)
        um_expression_close(out);
    return error;
}

void um_expression_close(struct um_expression *expression)
{
    free(expression->steps);
    free(expression->sets);
    free(expression->literal);
    *expression = (struct um_expression){0};
}
