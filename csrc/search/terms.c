#include "search/terms.h"

#include <ctype.h>

#include "search/search.h"

#define MAX_NESTING 250
#define MAX_REPEAT 32767 /* of the C library */

/* The state of parsing one expression. `failed` is set where it cannot be followed. */
struct reader {
    struct um_terms *terms;
    const uint8_t *at, *end;
    struct um_fault *fault;
    int error;
    bool failed;
    bool extended;
    uint32_t nesting;
};

static const uint8_t folds_outside[] = "iIkKsS"; /* letters that are cases of others than ASCII's */

/* ---- terms --------------------------------------------------------------------------------------- */

int um_terms_add(struct um_terms *terms, enum um_term_kind kind, uint32_t last, uint32_t *term)
{
    if (terms->n >= UM_NO_TERM - 1)
        return -E2BIG;
    int error =
        um_reserve((void **)&terms->terms, &terms->capacity, terms->n + 1, sizeof *terms->terms);
    if (error != 0)
        return error;
    *term = (uint32_t)terms->n;
    terms->terms[terms->n++] =
        (struct um_term){.kind = (uint8_t)kind, .last = last, .before = UM_NO_TERM};
    return 0;
}

void um_terms_close(struct um_terms *terms)
{
    free(terms->terms);
    *terms = (struct um_terms){0};
}

static uint32_t add(struct reader *reader, enum um_term_kind kind, uint32_t last)
{
    uint32_t term = 0;
    int error = um_terms_add(reader->terms, kind, last, &term);
    if (error != 0) {
        reader->error = error;
        reader->failed = true;
        return UM_NO_TERM;
    }
    return term;
}

static uint32_t give_up(struct reader *reader)
{
    reader->failed = true;
    return UM_NO_TERM;
}

/* Put a term behind the last child of a list, and return the new last child. */
static uint32_t append(struct reader *reader, uint32_t last, uint32_t term)
{
    if (!reader->failed)
        reader->terms->terms[term].before = last;
    return term;
}

static uint32_t add_byte(struct reader *reader, uint8_t byte)
{
    uint32_t term = add(reader, UM_TERM_BYTE, UM_NO_TERM);
    if (!reader->failed)
        reader->terms->terms[term].byte = byte;
    return term;
}

static void put(struct um_byte_set *set, uint8_t byte)
{
    set->bits[byte / 64] |= 1ull << byte % 64;
}

static uint32_t add_char(struct reader *reader, const struct um_byte_set *set, bool wide)
{
    uint32_t term = add(reader, UM_TERM_CHAR, UM_NO_TERM);
    if (!reader->failed) {
        reader->terms->terms[term].set = *set;
        reader->terms->terms[term].wide = wide;
    }
    return term;
}

static uint32_t add_repeat(struct reader *reader, uint32_t child, uint32_t least, uint32_t most)
{
    uint32_t term = add(reader, UM_TERM_REPEAT, child);
    if (!reader->failed) {
        reader->terms->terms[child].before = UM_NO_TERM;
        reader->terms->terms[term].least = least;
        reader->terms->terms[term].most = most;
    }
    return term;
}

/* Any character, as the full stop has it. */
static uint32_t add_any(struct reader *reader)
{
    struct um_byte_set ascii = {{UINT64_MAX, UINT64_MAX, 0, 0}};
    return add_char(reader, &ascii, true);
}

/* Any bytes: what a back-reference stands for is not known. */
static uint32_t add_anything(struct reader *reader)
{
    struct um_byte_set all = {{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
    reader->terms->exact = false;
    uint32_t term = add_char(reader, &all, false);
    return reader->failed ? term : add_repeat(reader, term, 0, UM_UNBOUNDED);
}

/* ---- characters ---------------------------------------------------------------------------------- */

/* Return the length of the character at a byte that is not ASCII; 0 where it is not UTF-8. */
static size_t character_size(const uint8_t *at, const uint8_t *end)
{
    size_t size = *at >= 0xc2 && *at <= 0xdf ? 2 : (*at & 0xf0) == 0xe0 ? 3 : 0;
    if (*at >= 0xf0 && *at <= 0xf4)
        size = 4;
    if (size == 0 || (size_t)(end - at) < size)
        return 0;
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    return size;
}

/* Put the other cases of the letters into a set; return whether some are not ASCII. */
static bool fold_set(struct um_byte_set *set)
{
    bool outside = false;
    for (uint8_t c = 'a'; c <= 'z'; c++) {
        uint8_t upper = (uint8_t)(c - 'a' + 'A');
        if (!um_byte_set_has(set, c) && !um_byte_set_has(set, upper))
            continue;
        put(set, c);
        put(set, upper);
        outside |= memchr(folds_outside, c, sizeof folds_outside - 1) != NULL;
    }
    return outside;
}

/* Parse a character that stands for itself. */
static uint32_t read_character(struct reader *reader)
{
    uint8_t byte = *reader->at;
    struct um_byte_set set = {{0}};
    if (byte < 0x80) {
        reader->at++;
        if (!reader->terms->fold || !isalpha(byte))
            return add_byte(reader, byte);
        put(&set, byte);
        bool outside = fold_set(&set);
        reader->terms->exact &= !outside;
        return add_char(reader, &set, outside);
    }
    size_t size = character_size(reader->at, reader->end);
    if (size == 0)
        return give_up(reader);
    if (reader->terms->fold) {
        reader->at += size;
        reader->terms->exact = false;
        for (size_t i = 0; i < sizeof folds_outside - 1; i++)
            put(&set, folds_outside[i]);
        return add_char(reader, &set, true);
    }
    uint32_t last = UM_NO_TERM;
    while (size-- != 0 && !reader->failed)
        last = append(reader, last, add_byte(reader, *reader->at++));
    return reader->failed ? last : add(reader, UM_TERM_SEQUENCE, last);
}

/* ---- brackets ------------------------------------------------------------------------------------ */

struct bracket {
    struct um_byte_set set;
    bool wide; /* characters that are not ASCII may be members */
    bool vague; /* which ones is not known */
    bool plain; /* only single characters so far */
};

static const struct {
    const char *name;
    int (*is_member)(int);
    bool ascii; /* no other characters are members */
} classes[] = {
    {"alpha", isalpha, false}, {"digit", isdigit, true},  {"alnum", isalnum, false},
    {"upper", isupper, false}, {"lower", islower, false}, {"space", isspace, false},
    {"blank", isblank, false}, {"punct", ispunct, false}, {"print", isprint, false},
    {"graph", isgraph, false}, {"cntrl", iscntrl, false}, {"xdigit", isxdigit, true},
};

static void add_class(struct bracket *bracket, size_t number)
{
    for (int c = 0; c < 0x80; c++) {
        if (classes[number].is_member(c))
            put(&bracket->set, (uint8_t)c);
    }
    if (!classes[number].ascii)
        bracket->wide = bracket->vague = true;
}

/* Parse [:name:], [=x=] or [.x.], behind the bracket that opens it. */
static void read_class(struct reader *reader, struct bracket *bracket)
{
    uint8_t kind = *reader->at++;
    const uint8_t *name = reader->at;
    while (reader->end - reader->at >= 2 && !(reader->at[0] == kind && reader->at[1] == ']'))
        reader->at++;
    if (reader->end - reader->at < 2) {
        give_up(reader);
        return;
    }
    struct um_slice found = um_slice_of(name, (size_t)(reader->at - name));
    reader->at += 2;
    bracket->plain = false;
    if (kind != ':') {
        bracket->set = (struct um_byte_set){{UINT64_MAX, UINT64_MAX, 0, 0}};
        bracket->wide = bracket->vague = true;
        return;
    }
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (um_slice_equal(found, um_slice_text(classes[i].name))) {
            add_class(bracket, i);
            return;
        }
    }
    give_up(reader);
}

/* Parse one character of a bracket, and return its byte; 0x80 for any that is not ASCII. */
static uint8_t read_member(struct reader *reader)
{
    size_t size = *reader->at < 0x80 ? 1 : character_size(reader->at, reader->end);
    uint8_t byte = *reader->at < 0x80 ? *reader->at : 0x80;
    if (size == 0) {
        give_up(reader);
        return 0;
    }
    reader->at += size;
    return byte;
}

static void read_range(struct reader *reader, struct bracket *bracket)
{
    uint8_t first = read_member(reader), last = first;
    bool is_range = !reader->failed && reader->end - reader->at >= 2 && reader->at[0] == '-' &&
                    reader->at[1] != ']';
    if (is_range && reader->end - reader->at >= 3 && reader->at[1] == '[' &&
        (reader->at[2] == '.' || reader->at[2] == '=' || reader->at[2] == ':')) {
        give_up(reader);
        return;
    }
    if (is_range) {
        reader->at++;
        bracket->plain = false;
        last = read_member(reader);
    }
    if (first == 0x80 || last == 0x80)
        bracket->wide = bracket->vague = true;
    for (unsigned c = first; c <= last && c < 0x80; c++)
        put(&bracket->set, (uint8_t)c);
}

/* Refuse [:space:], as grep does: it was meant to be [[:space:]]. */
static void check_colons(struct reader *reader, const uint8_t *content, const uint8_t *end)
{
    if (end - content < 3 || *content != ':' || end[-1] != ':')
        return;
    bool other = false;
    for (const uint8_t *at = content; at < end; at++)
        other |= *at != ':';
    if (!other)
        return;
    reader->error = um_refuse(reader->fault, -EINVAL, 0,
                              "character class syntax is [[:space:]], not [:space:]");
    reader->failed = true;
}

static uint32_t finish_bracket(struct reader *reader, struct bracket *bracket, bool negated)
{
    struct um_byte_set ascii = {{UINT64_MAX, UINT64_MAX, 0, 0}};
    if (reader->terms->fold && fold_set(&bracket->set))
        bracket->wide = bracket->vague = true;
    if (reader->terms->fold && bracket->wide) { /* other letters may be cases of these */
        bracket->vague = true;
        for (size_t i = 0; !negated && i < sizeof folds_outside - 1; i++)
            put(&bracket->set, folds_outside[i]);
    }
    reader->terms->exact &= !bracket->vague;
    if (!negated)
        return add_char(reader, &bracket->set, bracket->wide);
    for (int i = 0; i < 2; i++)
        ascii.bits[i] &= ~bracket->set.bits[i];
    if (bracket->vague && reader->terms->fold) {
        for (size_t i = 0; i < sizeof folds_outside - 1; i++)
            put(&ascii, folds_outside[i]);
    }
    return add_char(reader, &ascii, true);
}

/* Parse a bracket, behind the character that opens it. */
static uint32_t read_bracket(struct reader *reader)
{
    struct bracket bracket = {.plain = true};
    bool negated = reader->at < reader->end && *reader->at == '^', any = false;
    reader->at += negated;
    const uint8_t *content = reader->at;
    while (!reader->failed) {
        if (reader->at == reader->end)
            return give_up(reader);
        if (*reader->at == ']' && reader->at != content)
            break;
        bool is_class = reader->end - reader->at >= 2 && *reader->at == '[' &&
                        memchr(":=.", reader->at[1], 3) != NULL;
        if (is_class) {
            any |= reader->at[1] != ':';
            reader->at++;
            read_class(reader, &bracket);
        } else {
            read_range(reader, &bracket);
        }
    }
    if (!reader->failed && bracket.plain)
        check_colons(reader, content, reader->at);
    if (reader->failed)
        return UM_NO_TERM;
    reader->at++;
    if (any) { /* a class of characters that are equal, or one with a name */
        reader->terms->exact = false;
        return add_any(reader);
    }
    return finish_bracket(reader, &bracket, negated);
}

/* ---- atoms --------------------------------------------------------------------------------------- */

static uint32_t read_choice(struct reader *reader);

static uint32_t read_group(struct reader *reader)
{
    if (++reader->nesting > MAX_NESTING)
        return give_up(reader);
    uint32_t inside = read_choice(reader);
    size_t size = reader->extended ? 1 : 2;
    if (reader->failed || (size_t)(reader->end - reader->at) < size)
        return give_up(reader);
    reader->at += size;
    reader->nesting--;
    return inside;
}

/* Parse a class that a letter stands for: \w \W \s \S. */
static uint32_t read_letter_class(struct reader *reader, uint8_t letter)
{
    struct um_byte_set set = {{0}};
    bool words = letter == 'w' || letter == 'W', negated = letter == 'W' || letter == 'S';
    for (int c = 0; c < 0x80; c++) {
        bool member = words ? isalnum(c) || c == '_' : isspace(c);
        if (member != negated)
            put(&set, (uint8_t)c);
    }
    reader->terms->exact = false;
    return add_char(reader, &set, true);
}

/* Parse what follows a backslash that is no operator. */
static uint32_t read_escape(struct reader *reader, bool *anchor)
{
    uint8_t letter = *reader->at;
    if (letter >= '1' && letter <= '9') {
        reader->at++;
        return add_anything(reader);
    }
    if (memchr("wWsS", letter, 4) != NULL) {
        reader->at++;
        return read_letter_class(reader, letter);
    }
    if (memchr("bB<>`'", letter, 6) != NULL) {
        reader->at++;
        reader->terms->exact = false;
        *anchor = true;
        return add(reader, UM_TERM_SEQUENCE, UM_NO_TERM);
    }
    return read_character(reader);
}

/* Return whether an operator of one or two characters is next: in basic syntax behind a
 * backslash. */
static bool is_operator(const struct reader *reader, char name)
{
    size_t left = (size_t)(reader->end - reader->at);
    if (reader->extended)
        return left >= 1 && *reader->at == (uint8_t)name;
    return left >= 2 && reader->at[0] == '\\' && reader->at[1] == (uint8_t)name;
}

static bool ends_branch(const struct reader *reader)
{
    return reader->at == reader->end || is_operator(reader, '|') ||
           (reader->nesting != 0 && is_operator(reader, ')'));
}

/* Parse ^ or $ where it may be an anchor or stand for itself. */
static uint32_t read_anchor(struct reader *reader, bool begins, bool *anchor)
{
    uint8_t byte = *reader->at++;
    bool is_anchor = reader->extended || (byte == '^' ? begins : ends_branch(reader));
    if (is_anchor) {
        *anchor = true;
        return add(reader, byte == '^' ? UM_TERM_BEGIN : UM_TERM_END, UM_NO_TERM);
    }
    reader->terms->exact = false;
    uint32_t term = add_byte(reader, byte);
    return reader->failed ? term : add_repeat(reader, term, 0, 1);
}

static bool read_interval(struct reader *reader, uint32_t *least, uint32_t *most);

/* Return whether an operator that repeats is next. In extended syntax, a brace that begins no
 * interval stands for itself. */
static bool is_repeat(struct reader *reader)
{
    uint32_t least, most;
    const uint8_t *at = reader->at;
    if (at == reader->end)
        return false;
    if (*at == '*' || is_operator(reader, '+') || is_operator(reader, '?'))
        return true;
    if (!is_operator(reader, '{'))
        return false;
    reader->at++;
    bool is_interval = !reader->extended || read_interval(reader, &least, &most);
    reader->at = at;
    return is_interval;
}

/* Parse an atom; `begins` where it begins a branch, `first` also where only anchors are before it.
 * *anchor is set where no operator may follow. */
static uint32_t read_atom(struct reader *reader, bool first, bool begins, bool *anchor)
{
    uint8_t byte = *reader->at;
    if (is_operator(reader, '(')) {
        reader->at += reader->extended ? 1 : 2;
        return read_group(reader);
    }
    if (is_repeat(reader)) {
        if (!first) /* only behind an anchor of extended syntax, which takes it */
            return give_up(reader);
        if (reader->extended) /* it repeats the empty string */
            return add(reader, UM_TERM_SEQUENCE, UM_NO_TERM);
        reader->at += byte == '\\'; /* it stands for itself */
        return read_character(reader);
    }
    if (!reader->extended && (is_operator(reader, ')') || is_operator(reader, '}')))
        return give_up(reader);
    if (byte == '^' || byte == '$')
        return read_anchor(reader, begins, anchor);
    if (byte == '[' || byte == '.') {
        reader->at++;
        return byte == '[' ? read_bracket(reader) : add_any(reader);
    }
    if (byte != '\\')
        return read_character(reader);
    if (++reader->at == reader->end)
        return give_up(reader);
    return read_escape(reader, anchor);
}

/* ---- repetition ---------------------------------------------------------------------------------- */

static bool read_number(struct reader *reader, uint32_t *number)
{
    const uint8_t *start = reader->at;
    for (*number = 0; reader->at < reader->end && isdigit(*reader->at); reader->at++) {
        *number = *number * 10 + (uint32_t)(*reader->at - '0');
        if (*number > MAX_REPEAT)
            return false;
    }
    return reader->at != start;
}

/* Parse {n}, {n,}, {n,m} or {,m}, behind the brace that opens it. */
static bool read_interval(struct reader *reader, uint32_t *least, uint32_t *most)
{
    bool has_least = read_number(reader, least);
    *most = *least;
    if (reader->at < reader->end && *reader->at == ',') {
        reader->at++;
        if (!read_number(reader, most))
            *most = UM_UNBOUNDED;
    } else if (!has_least) {
        return false;
    }
    bool closed = is_operator(reader, '}');
    reader->at += closed ? (reader->extended ? 1 : 2) : 0;
    return closed && *least <= *most && *least <= MAX_REPEAT;
}

/* Parse the operators behind an atom. */
static uint32_t read_repeats(struct reader *reader, uint32_t term)
{
    while (!reader->failed && is_repeat(reader)) {
        uint32_t least = 0, most = UM_UNBOUNDED;
        if (*reader->at == '*') {
            reader->at++;
        } else if (is_operator(reader, '+') || is_operator(reader, '?')) {
            bool plus = is_operator(reader, '+');
            reader->at += reader->extended ? 1 : 2;
            least = plus;
            most = plus ? UM_UNBOUNDED : 1;
        } else {
            reader->at += reader->extended ? 1 : 2;
            if (!read_interval(reader, &least, &most))
                return give_up(reader);
        }
        term = add_repeat(reader, term, least, most);
    }
    return term;
}

static uint32_t read_branch(struct reader *reader)
{
    uint32_t last = UM_NO_TERM;
    bool first = true;
    while (!reader->failed && !ends_branch(reader)) {
        bool anchor = false;
        uint32_t term = read_atom(reader, first, last == UM_NO_TERM, &anchor);
        if (!reader->failed && (!anchor || reader->extended))
            term = read_repeats(reader, term);
        last = append(reader, last, term);
        first = anchor && first; /* in basic syntax an asterisk behind anchors stands for itself */
    }
    return reader->failed ? UM_NO_TERM : add(reader, UM_TERM_SEQUENCE, last);
}

static uint32_t read_choice(struct reader *reader)
{
    uint32_t last = read_branch(reader);
    bool single = true;
    while (!reader->failed && is_operator(reader, '|')) {
        reader->at += reader->extended ? 1 : 2;
        last = append(reader, last, read_branch(reader));
        single = false;
    }
    if (reader->failed || single)
        return last;
    return add(reader, UM_TERM_CHOICE, last);
}

/* A fixed string. */
static uint32_t read_string(struct reader *reader)
{
    uint32_t last = UM_NO_TERM;
    while (!reader->failed && reader->at < reader->end)
        last = append(reader, last, read_character(reader));
    return reader->failed ? UM_NO_TERM : add(reader, UM_TERM_SEQUENCE, last);
}

int um_terms_parse(struct um_terms *terms, struct um_slice text, uint32_t *term,
                   struct um_fault *fault)
{
    struct reader reader = {.terms = terms,
                            .at = text.data,
                            .end = text.data + text.size,
                            .fault = fault,
                            .extended = terms->syntax == UM_SEARCH_EXTENDED};
    *term = terms->syntax == UM_SEARCH_FIXED ? read_string(&reader) : read_choice(&reader);
    if (!reader.failed && reader.at != reader.end)
        reader.failed = true;
    terms->unknown = reader.failed;
    return reader.error;
}
