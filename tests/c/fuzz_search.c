/*
 * fuzz_search.c - libFuzzer: whatever the expression and the lines are, grep's matcher keeps its
 * promises; and the expressions for paths of find read nothing that they must not.
 *
 * An input is a byte for the syntax, one for the flags and one for the size of the expression, then
 * the expression and the lines. Both are short, and of an expression that would cost the C library
 * much time or memory, the bytes are searched as a fixed string.
 */
#include "base/path_regex.h"
#include "search_lines.h"

#define HEAD 3u
#define MOST_PATTERN 40u
#define MOST_COSTLY 2u
#define MOST_REPEATED 5u
#define MOST_LINES 300u
#define FLAGS (UM_SEARCH_ICASE | UM_SEARCH_WORDS | UM_SEARCH_LINES | UM_SEARCH_NUL_DATA)

static void promise(bool kept)
{
    if (!kept)
        abort();
}

/* Return whether the C library needs little for an expression: each + doubles what it repeats, and
 * digits may be numbers of repetitions, or back-references. Where alternatives are repeated by two of
 * these, of which several are empty, its time is exponential, and so it is in the number of repetitions
 * that are repeated. */
static bool is_cheap(struct um_slice pattern)
{
    unsigned plus = 0, repeated = 0, digits = 0;
    bool several = false;
    for (size_t i = 0; i < pattern.size; i++) {
        plus += pattern.data[i] == '+';
        repeated += pattern.data[i] == '*' || pattern.data[i] == '+' || pattern.data[i] == '?';
        digits += pattern.data[i] >= '0' && pattern.data[i] <= '9';
        several |= pattern.data[i] == '|' || pattern.data[i] == '\n';
    }
    if (repeated > MOST_REPEATED)
        return false;
    return several ? plus <= 1 && digits == 0 : plus + digits <= MOST_COSTLY;
}

static void match_lines(struct um_slice pattern, struct um_slice lines, uint32_t syntax,
                        uint32_t flags)
{
    struct um_search_setup setup = {.patterns = (const char *)pattern.data,
                                    .patterns_size = pattern.size,
                                    .syntax = syntax,
                                    .flags = flags};
    struct um_matcher *matcher = NULL;
    struct re_pattern_buffer compiled = {0};
    struct um_fault fault;
    int error = um_matcher_open(&setup, &matcher, &fault);
    promise(error == 0 || error == -EINVAL || error == -ENOMEM);
    if (error != 0)
        return;
    um_matcher_enter(matcher);
    bool is_same = syntax == UM_SEARCH_BASIC && !(flags & ~UM_SEARCH_ICASE) &&
                   memchr(pattern.data, '\n', pattern.size) == NULL;
    re_set_syntax(RE_SYNTAX_GREP | (flags & UM_SEARCH_ICASE ? RE_ICASE : 0));
    if (is_same)
        promise(re_compile_pattern((const char *)pattern.data, pattern.size, &compiled) == NULL);
    uint8_t eol = flags & UM_SEARCH_NUL_DATA ? 0 : '\n';
    promise(check_lines(matcher, lines, eol, is_same ? &compiled : NULL));
    regfree(&compiled);
    um_matcher_leave(matcher);
    um_matcher_close(matcher);
}

static void match_path(struct um_slice pattern, struct um_slice path, const char *syntax, bool fold)
{
    struct um_path_regex *regex = NULL;
    const char *message;
    int error = um_path_regex_open(syntax, (const char *)pattern.data, pattern.size, fold, &regex,
                                   &message);
    promise(error == 0 || error == -ENOMEM || (error == -EINVAL && message != NULL));
    if (error != 0)
        return;
    um_path_regex_matches(regex, (const char *)path.data, path.size);
    um_path_regex_close(regex);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const paths[] = {"findutils-default", "posix-extended", "posix-awk", "ed"};
    if (size < HEAD)
        return 0;
    uint32_t syntax = data[0] % 7u, flags = data[1] & FLAGS;
    size_t n = data[2] % (MOST_PATTERN + 1);
    size -= HEAD;
    n = n < size ? n : size;
    size_t rest = size - n < MOST_LINES ? size - n : MOST_LINES;
    /* Both are copies of their own, so that ASAN sees what is read behind them. */
    uint8_t *pattern = malloc(n ? n : 1), *lines = malloc(rest + 1);
    promise(pattern != NULL && lines != NULL);
    memcpy(pattern, data + HEAD, n);
    memcpy(lines, data + HEAD + n, rest);
    lines[rest] = flags & UM_SEARCH_NUL_DATA ? 0 : '\n';
    struct um_slice expression = um_slice_of(pattern, n);
    if (!is_cheap(expression))
        syntax = UM_SEARCH_FIXED;
    if (syntax <= UM_SEARCH_FIXED)
        match_lines(expression, um_slice_of(lines, rest + 1), syntax, flags);
    else
        match_path(expression, um_slice_of(lines, rest), paths[syntax - 3],
                   flags & UM_SEARCH_ICASE);
    free(pattern);
    free(lines);
    return 0;
}
