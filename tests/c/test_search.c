/* Expressions from random bytes, and lines from random bytes: nothing is read or written that must
 * not be, and no line is left out that the C library says matches. The answers themselves are
 * compared with GNU grep in tests/cli/test_grep.py and test_grep_patterns.py. */
#include "harness.h"
#include "search_lines.h"

#define ROUNDS 4000u

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static const char *const pieces[] = {
    "a",         "b",       "k",   "S",   "_",   "1",   "\xc3\xa9", "\xc3\x89", "\xff",
    "\xe2\x84",  ".",       "*",   "\\(", "\\)", "\\|", "\\{2\\}",  "\\{,3\\}", "\\+",
    "\\?",       "^",       "$",   "[a",  "[^",  "]",   "-",        "[:",       ":]",
    "[:alpha:]", "[[=a=]]", "\\1", "\\w", "\\W", "\\b", "\\<",      "(",        ")",
    "|",         "{1,2}",   "+",   "?",   "{",   "\\",  " ",        "\n",
};

static size_t random_text(uint64_t *state, char *text, size_t most)
{
    size_t size = 0, n = next_random(state) % 8;
    for (size_t i = 0; i < n; i++) {
        const char *piece = pieces[next_random(state) % (sizeof pieces / sizeof *pieces)];
        if (size + strlen(piece) > most)
            break;
        memcpy(text + size, piece, strlen(piece));
        size += strlen(piece);
    }
    return size;
}

static size_t random_lines(uint64_t *state, char *text, size_t most)
{
    static const char letters[] = "abkS_1 \xc3\xa9\xc3\x89\xff.*{}()\n\n";
    size_t size = next_random(state) % most;
    for (size_t i = 0; i < size; i++)
        text[i] = letters[next_random(state) % (sizeof letters - 1)];
    text[size] = '\n';
    return size + 1;
}

static void try_expression(uint64_t *state, uint32_t syntax, uint32_t flags)
{
    char pattern[64], lines[400];
    struct um_search_setup setup = {.patterns = pattern, .syntax = syntax, .flags = flags};
    struct re_pattern_buffer compiled = {0};
    struct um_matcher *matcher = NULL;
    struct um_fault fault;
    setup.patterns_size = random_text(state, pattern, sizeof pattern);
    int error = um_matcher_open(&setup, &matcher, &fault);
    CHECK(error == 0 || error == -EINVAL);
    if (error != 0)
        return;
    um_matcher_enter(matcher);
    bool is_same = syntax == UM_SEARCH_BASIC && !(flags & (UM_SEARCH_WORDS | UM_SEARCH_LINES)) &&
                   memchr(pattern, '\n', setup.patterns_size) == NULL;
    re_set_syntax(RE_SYNTAX_GREP | (flags & UM_SEARCH_ICASE ? RE_ICASE : 0));
    if (is_same)
        CHECK(re_compile_pattern(pattern, setup.patterns_size, &compiled) == NULL);
    for (int i = 0; i < 3; i++) {
        size_t size = random_lines(state, lines, sizeof lines - 1);
        struct um_slice buffer = um_slice_of(lines, size);
        CHECK(check_lines(matcher, buffer, '\n', is_same ? &compiled : NULL));
    }
    regfree(&compiled);
    um_matcher_leave(matcher);
    um_matcher_close(matcher);
}

TEST(basic_expressions)
{
    uint64_t state = 0x9e3779b97f4a7c15ull;
    for (unsigned i = 0; i < ROUNDS; i++)
        try_expression(&state, UM_SEARCH_BASIC, i % 4 == 0 ? UM_SEARCH_ICASE : 0);
}

TEST(extended_expressions)
{
    uint64_t state = 0x2545f4914f6cdd1dull;
    for (unsigned i = 0; i < ROUNDS; i++)
        try_expression(&state, UM_SEARCH_EXTENDED, (uint32_t)(next_random(&state) % 8));
}

TEST(fixed_strings)
{
    uint64_t state = 0x94d049bb133111ebull;
    for (unsigned i = 0; i < ROUNDS; i++)
        try_expression(&state, UM_SEARCH_FIXED, (uint32_t)(next_random(&state) % 8));
}

/* A thousand states and more: the automaton forgets them, and goes on. */
TEST(many_states)
{
    static const char pattern[] = "[ab]*a[ab]\\{14\\}\\(x\\|y\\)";
    static char lines[200000];
    struct um_search_setup setup = {.patterns = pattern, .patterns_size = strlen(pattern)};
    struct um_matcher *matcher = NULL;
    struct um_slice line;
    struct um_fault fault;
    uint64_t state = 7;
    for (size_t i = 0; i < sizeof lines; i++)
        lines[i] = i % 100 == 99 ? '\n' : "ab"[next_random(&state) % 2];
    memcpy(lines + 150050, "abbbbbbbbbbbbbbx", 16);
    REQUIRE(um_matcher_open(&setup, &matcher, &fault) == 0);
    um_matcher_enter(matcher);
    REQUIRE(um_matcher_line(matcher, um_slice_of(lines, sizeof lines), &line) == 1);
    CHECK_INT(line.data - (const uint8_t *)lines, 150000);
    um_matcher_leave(matcher);
    um_matcher_close(matcher);
}
