#include "search/matcher.h"

#include <limits.h>
#include <locale.h>
#include <regex.h>
#include <wchar.h>
#include <wctype.h>

#include "search/automaton.h"
#include "search/expression.h"

/* Bytes of a line that the C library may look at: it needs up to 25 times the memory. */
#define LONGEST (256u << 20)

struct compiled {
    struct re_pattern_buffer buffer;
    struct re_registers registers;
    bool is_open;
};

struct um_matcher {
    uint32_t syntax, flags;
    uint8_t eol;
    locale_t utf8, before;
    struct um_expression expression;
    struct um_automaton *automaton; /* NULL: any line may match */
    struct compiled *compiled; /* each pattern with a back-reference, then the others together */
    size_t n_compiled, capacity;
    struct compiled lines; /* with -x, the others together, for whole lines */
    int32_t (*find)(const char *, uint64_t, int64_t, uint64_t *, uint64_t *);
    const int32_t *cancel; /* NULL: nothing cancels */
};

/* ---- text ------------------------------------------------------------------------------------------ */

struct text {
    char *bytes;
    size_t size, capacity;
};

static int put(struct text *text, const void *bytes, size_t size)
{
    int error = um_reserve((void **)&text->bytes, &text->capacity, text->size + size + 1, 1);
    if (error == 0 && size != 0)
        memcpy(text->bytes + text->size, bytes, size);
    text->size += error == 0 ? size : 0;
    return error;
}

static int put_text(struct text *text, const char *bytes)
{
    return put(text, bytes, strlen(bytes));
}

/* Write fixed strings as basic expressions. */
static int put_escaped(struct text *text, struct um_slice fixed)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < fixed.size; i++) {
        if (memchr("$*.[\\^", fixed.data[i], 6) != NULL)
            error = put_text(text, "\\");
        if (error == 0)
            error = put(text, &fixed.data[i], 1);
    }
    return error;
}

/* ---- compiling ------------------------------------------------------------------------------------- */

static int compile(struct um_matcher *matcher, const char *bytes, size_t size,
                   struct compiled *compiled, struct um_fault *fault)
{
    bool fold = matcher->flags & UM_SEARCH_ICASE;
    *compiled = (struct compiled){.is_open = true};
    compiled->buffer.fastmap =
        fold ? NULL : malloc(UCHAR_MAX + 1); /* with -i it is wrong in glibc */
    re_set_syntax((matcher->syntax == UM_SEARCH_EXTENDED ? RE_SYNTAX_EGREP : RE_SYNTAX_GREP) |
                  (fold ? RE_ICASE : 0));
    const char *message = re_compile_pattern(bytes, size, &compiled->buffer);
    if (message != NULL)
        return um_refuse(fault, -EINVAL, 0, "%s", message);
    compiled->buffer.newline_anchor = matcher->eol == '\n';
    return 0;
}

static void close_compiled(struct compiled *compiled)
{
    if (!compiled->is_open)
        return;
    regfree(&compiled->buffer);
    free(compiled->registers.start);
    free(compiled->registers.end);
    compiled->is_open = false;
}

static bool has_reference(struct um_slice pattern)
{
    for (size_t i = 0; i + 1 < pattern.size; i++) {
        if (pattern.data[i] == '\\') {
            i++;
            if (pattern.data[i] >= '1' && pattern.data[i] <= '9')
                return true;
        }
    }
    return false;
}

static int add_compiled(struct um_matcher *matcher, const char *bytes, size_t size,
                        struct um_fault *fault)
{
    int error = um_reserve((void **)&matcher->compiled, &matcher->capacity, matcher->n_compiled + 1,
                           sizeof *matcher->compiled);
    if (error != 0)
        return error;
    return compile(matcher, bytes, size, &matcher->compiled[matcher->n_compiled++], fault);
}

/* Compile the patterns without back-references so that only whole lines match. */
static int compile_lines(struct um_matcher *matcher, const struct text *plain,
                         struct um_fault *fault)
{
    bool extended = matcher->syntax == UM_SEARCH_EXTENDED;
    struct text text = {0};
    if (!(matcher->flags & UM_SEARCH_LINES))
        return 0;
    int error = put_text(&text, extended ? "^(" : "^\\(");
    if (error == 0)
        error = put(&text, plain->bytes, plain->size);
    if (error == 0)
        error = put_text(&text, extended ? ")$" : "\\)$");
    if (error == 0)
        error = compile(matcher, text.bytes, text.size, &matcher->lines, fault);
    free(text.bytes);
    return error;
}

/* Check one pattern, and compile it or put it to the others. */
static int take_pattern(struct um_matcher *matcher, struct um_slice pattern, struct text *plain,
                        bool *any, struct um_fault *fault)
{
    struct compiled checked = {0};
    int error = 0;
    if (matcher->syntax != UM_SEARCH_FIXED && has_reference(pattern))
        return add_compiled(matcher, (const char *)pattern.data, pattern.size, fault);
    if (*any)
        error = put_text(plain, "\n");
    *any = true;
    if (error == 0 && matcher->syntax == UM_SEARCH_FIXED)
        return put_escaped(plain, pattern);
    if (error == 0)
        error = compile(matcher, (const char *)pattern.data, pattern.size, &checked, fault);
    close_compiled(&checked);
    return error ? error : put(plain, pattern.data, pattern.size);
}

static int compile_all(struct um_matcher *matcher, struct um_slice patterns, struct um_fault *fault)
{
    const uint8_t *at = patterns.data, *end = patterns.data + patterns.size;
    struct text plain = {0};
    bool any = false;
    int error = put(&plain, "", 0);
    while (error == 0 && at <= end) {
        const uint8_t *newline = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        const uint8_t *stop = newline ? newline : end;
        error = take_pattern(matcher, um_slice_of(at, (size_t)(stop - at)), &plain, &any, fault);
        at = stop + 1;
    }
    if (error == 0 && any)
        error = compile_lines(matcher, &plain, fault);
    if (error == 0 && any)
        error = add_compiled(matcher, plain.bytes, plain.size, fault);
    free(plain.bytes);
    return error;
}

/* ---- opening ------------------------------------------------------------------------------------- */

static int open_expression(struct um_matcher *matcher, const struct um_search_setup *setup,
                           struct um_fault *fault)
{
    struct um_slice patterns = um_slice_of(setup->patterns, setup->patterns_size);
    um_matcher_enter(matcher);
    int error = compile_all(matcher, patterns, fault);
    if (error == 0)
        error =
            um_expression_open(patterns, setup->syntax, setup->flags, &matcher->expression, fault);
    um_matcher_leave(matcher);
    if (error == 0 && !matcher->expression.everything)
        error = um_automaton_open(&matcher->expression, matcher->eol, &matcher->automaton);
    return error;
}

int um_matcher_open(const struct um_search_setup *setup, struct um_matcher **out,
                    struct um_fault *fault)
{
    struct um_matcher *matcher = calloc(1, sizeof *matcher);
    int error = 0;
    if (matcher == NULL)
        return -ENOMEM;
    matcher->syntax = setup->syntax;
    matcher->flags = setup->flags;
    matcher->eol = setup->flags & UM_SEARCH_NUL_DATA ? 0 : '\n';
    matcher->find = setup->find;
    matcher->cancel = setup->cancel;
    matcher->utf8 = newlocale(LC_CTYPE_MASK | LC_COLLATE_MASK, "C.UTF-8", (locale_t)0);
    if (matcher->utf8 == (locale_t)0)
        error = um_refuse(fault, -EINVAL, 0, "the locale C.UTF-8 is missing");
    if (error == 0 && setup->syntax != UM_SEARCH_FOREIGN)
        error = open_expression(matcher, setup, fault);
    if (error != 0) {
        um_matcher_close(matcher);
        return error;
    }
    *out = matcher;
    return 0;
}

void um_matcher_close(struct um_matcher *matcher)
{
    if (matcher == NULL)
        return;
    um_automaton_close(matcher->automaton);
    um_expression_close(&matcher->expression);
    for (size_t i = 0; i < matcher->n_compiled; i++)
        close_compiled(&matcher->compiled[i]);
    close_compiled(&matcher->lines);
    free(matcher->compiled);
    if (matcher->utf8 != (locale_t)0)
        freelocale(matcher->utf8);
    free(matcher);
}

void um_matcher_enter(struct um_matcher *matcher)
{
    if (matcher->utf8 != (locale_t)0)
        matcher->before = uselocale(matcher->utf8);
}

void um_matcher_leave(struct um_matcher *matcher)
{
    if (matcher->utf8 != (locale_t)0)
        uselocale(matcher->before);
}

bool um_matcher_is_canceled(const struct um_matcher *matcher)
{
    return matcher->cancel != NULL && __atomic_load_n(matcher->cancel, __ATOMIC_RELAXED) != 0;
}

/* ---- words --------------------------------------------------------------------------------------- */

static bool is_word_at(const uint8_t *at, const uint8_t *end)
{
    wchar_t wide = 0;
    mbstate_t state = {0};
    if (at >= end)
        return false;
    if (*at < 0x80)
        return iswalnum(*at) || *at == '_';
    size_t size = mbrtowc(&wide, (const char *)at, (size_t)(end - at), &state);
    return size != (size_t)-1 && size != (size_t)-2 && iswalnum((wint_t)wide);
}

/* Look at the character that contains the byte before a place, which may be in the middle of it. */
static bool is_word_before(const uint8_t *start, const uint8_t *at, const uint8_t *end)
{
    mbstate_t state = {0};
    if (at == start)
        return false;
    const uint8_t *last = at - 1, *first = last;
    for (int i = 0; i < 3 && first > start && (*first & 0xc0) == 0x80; i++)
        first--;
    size_t size = mbrlen((const char *)first, (size_t)(end - first), &state);
    bool covers = size <= 4 && first + size > last;
    return is_word_at(covers ? first : last, end);
}

/* ---- the regular expressions of the C library ----------------------------------------------------- */

/* A line without its end, and a match in it. */
struct place {
    const uint8_t *start, *end;
    size_t at, size;
};

/* Search from `from` on. 1, 0 or an errno. */
static int look(struct compiled *compiled, struct place *place, size_t from)
{
    size_t size = (size_t)(place->end - place->start);
    if (size > LONGEST)
        return -EFBIG;
    compiled->buffer.not_eol = 0;
    int found = re_search(&compiled->buffer, (const char *)place->start, (int)size, (int)from,
                          (int)(size - from), &compiled->registers);
    if (found < -1)
        return -ENOMEM;
    if (found < 0)
        return 0;
    place->at = (size_t)found;
    place->size = (size_t)(compiled->registers.end[0] - found);
    return 1;
}

/* Match at the same place again, but shorter. 1, 0 or an errno. As in GNU grep, nothing is shorter
 * where the search began later in the line than the match is long. */
static int look_shorter(struct compiled *compiled, struct place *place, size_t from,
                        bool may_be_empty)
{
    if (place->size == 0 || place->size - 1 < from)
        return 0;
    size_t most = place->at + place->size - 1 - from;
    compiled->buffer.not_eol = 1;
    int size = re_match(&compiled->buffer, (const char *)place->start, (int)most, (int)place->at,
                        &compiled->registers);
    if (size < -1)
        return -ENOMEM;
    place->size = size > 0 ? (size_t)size : 0;
    return size > 0 || (size == 0 && may_be_empty);
}

/* Find the next match from `from` on that is between words. A shorter one may be empty if it is of
 * fixed strings. */
static int look_for_words(const struct um_matcher *matcher, struct compiled *compiled,
                          struct place *place, size_t from)
{
    bool may_be_empty = matcher->syntax == UM_SEARCH_FIXED;
    int found = look(compiled, place, from);
    while (found == 1) {
        if (um_matcher_is_canceled(matcher))
            return -ECANCELED;
        const uint8_t *at = place->start + place->at;
        if (!is_word_at(at + place->size, place->end) &&
            !is_word_before(place->start, at, place->end))
            return 1;
        size_t was = place->at;
        found = look_shorter(compiled, place, from, may_be_empty);
        if (found == 0 && at == place->end)
            return 0;
        if (found == 0)
            found = look(compiled, place, was + 1);
    }
    return found;
}

/* Return whether a line matches by one compiled pattern. */
static int matches_line(const struct um_matcher *matcher, struct compiled *compiled,
                        struct um_slice line)
{
    struct place place = {.start = line.data, .end = line.data + line.size - 1};
    if (matcher->flags & UM_SEARCH_LINES) {
        int found = look(compiled, &place, 0);
        return found == 1 ? place.at == 0 && place.size == line.size - 1 : found;
    }
    if (matcher->flags & UM_SEARCH_WORDS)
        return look_for_words(matcher, compiled, &place, 0);
    return look(compiled, &place, 0);
}

/* Let the C library decide about a line. */
static int confirm(struct um_matcher *matcher, struct um_slice line)
{
    struct place place = {.start = line.data, .end = line.data + line.size - 1};
    size_t n = matcher->n_compiled;
    int found = 0;
    if (matcher->lines.is_open) {
        found = look(&matcher->lines, &place, 0);
        n--; /* these are the patterns of the last one */
    }
    for (size_t i = 0; found == 0 && i < n; i++) {
        bool canceled = um_matcher_is_canceled(matcher);
        found = canceled ? -ECANCELED : matches_line(matcher, &matcher->compiled[i], line);
    }
    return found;
}

/* ---- lines --------------------------------------------------------------------------------------- */

/* Return the line with a byte; `start` begins a line before it. */
static struct um_slice line_around(const struct um_matcher *matcher, const uint8_t *start,
                                   const uint8_t *at, const uint8_t *end)
{
    const uint8_t *before = NULL;
    if (at != start)
        before = memrchr(start, matcher->eol, (size_t)(at - start));
    const uint8_t *first = before ? before + 1 : start;
    const uint8_t *last = memchr(at, matcher->eol, (size_t)(end - at));
    return um_slice_of(first, (size_t)((last ? last + 1 : end) - first));
}

/* Find the next line that may match, from `at` on. *sure: it does. */
static int next_candidate(struct um_matcher *matcher, const uint8_t *at, const uint8_t *end,
                          struct um_slice *line, bool *sure)
{
    const struct um_expression *expression = &matcher->expression;
    const uint8_t *found = at;
    *sure = false;
    while (expression->literal != NULL) {
        found = memmem(at, (size_t)(end - at), expression->literal, expression->literal_size);
        if (found == NULL)
            return 0;
        *line = line_around(matcher, at, found, end);
        *sure = expression->is_literal;
        if (*sure || matcher->automaton == NULL)
            return 1;
        at = line->data + line->size;
        int accepted = um_automaton_scan(matcher->automaton, line->data, at, &found);
        if (accepted != 0) {
            *sure = expression->exact;
            return accepted;
        }
    }
    if (matcher->automaton != NULL) {
        int accepted = um_automaton_scan(matcher->automaton, at, end, &found);
        if (accepted != 1)
            return accepted;
        *sure = expression->exact;
    }
    *line = line_around(matcher, at, found, end);
    return 1;
}

/* Ask the function that knows the patterns. */
static int ask(const struct um_matcher *matcher, struct um_slice buffer, int64_t from,
               struct um_slice *found)
{
    uint64_t start = 0, length = 0;
    int answer = matcher->find((const char *)buffer.data, buffer.size, from, &start, &length);
    if (answer != 1)
        return answer;
    if (!um_within(start, length, buffer.size))
        return -EINVAL;
    *found = um_slice_of(buffer.data + start, (size_t)length);
    return 1;
}

int um_matcher_line(struct um_matcher *matcher, struct um_slice buffer, struct um_slice *line)
{
    const uint8_t *at = buffer.data, *end = buffer.data + buffer.size;
    bool sure;
    if (matcher->syntax == UM_SEARCH_FOREIGN)
        return ask(matcher, buffer, -1, line);
    while (at < end) {
        int found = next_candidate(matcher, at, end, line, &sure);
        if (found == 1 && !sure)
            found = confirm(matcher, *line);
        else if (found != 1 || sure)
            return found;
        if (found != 0)
            return found;
        at = line->data + line->size;
    }
    return 0;
}

int um_matcher_match(struct um_matcher *matcher, struct um_slice line, size_t from,
                     struct um_slice *match)
{
    bool words = matcher->flags & UM_SEARCH_WORDS, lines = matcher->flags & UM_SEARCH_LINES;
    size_t best_at = SIZE_MAX, best_size = 0;
    if (matcher->syntax == UM_SEARCH_FOREIGN)
        return ask(matcher, line, (int64_t)from, match);
    for (size_t i = 0; i < matcher->n_compiled; i++) {
        struct place place = {.start = line.data, .end = line.data + line.size - 1};
        int found = words && !lines ? look_for_words(matcher, &matcher->compiled[i], &place, from)
                                    : look(&matcher->compiled[i], &place, from);
        if (found < 0)
            return found;
        if (found == 0 || (words && lines && place.size != line.size - 1 - from))
            continue;
        if (words && lines &&
            matcher->syntax != UM_SEARCH_FIXED) { /* as in GNU grep, with the end of the line */
            place.at = from;
            place.size = line.size - from;
        }
        if (place.at < best_at || (place.at == best_at && place.size > best_size)) {
            best_at = place.at;
            best_size = place.size;
        }
    }
    *match = um_slice_of(line.data + (best_at == SIZE_MAX ? 0 : best_at), best_size);
    return best_at != SIZE_MAX;
}
