/*
 * harness.h - the smallest test harness that says what failed.
 *
 * Purpose: one test program is one test_*.c that includes this file once and defines its tests:
 *
 *     TEST(empty_archive_has_no_entries)
 *     {
 *         CHECK_INT(count_entries(""), 0);
 *     }
 *
 * A CHECK that fails prints file, line and values, and the test goes on; a REQUIRE leaves the test
 * (or the void helper that it stands in). The harness brings main: it runs all tests in the order
 * of the file, or those whose names contain argv[1], and ends with "N passed, N failed". The exit
 * status is 1 when a test failed or none ran.
 * Ownership: nothing. Threads: only the thread that runs the test makes checks.
 */
#ifndef UM_TEST_HARNESS_H
#define UM_TEST_HARNESS_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct um_test {
    const char *name;
    void (*run)(void);
    struct um_test *next;
};

/* State of the one test program; a harness may have some. */
static struct um_test *um_test_first;
static struct um_test **um_test_last = &um_test_first;
static unsigned um_test_failed_checks;

#define TEST(title)                                                          \
    static void test_##title(void);                                          \
    __attribute__((constructor)) static void register_##title(void)          \
    {                                                                        \
        static struct um_test entry = {.name = #title, .run = test_##title}; \
        *um_test_last = &entry;                                              \
        um_test_last = &entry.next;                                          \
    }                                                                        \
    static void test_##title(void)

#define UM_TEST_FAIL(...)                               \
    do {                                                \
        um_test_failed_checks++;                        \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__);                   \
        fputc('\n', stderr);                            \
    } while (0)

/* CHECK(condition) */
#define CHECK(condition)                            \
    do {                                            \
        if (!(condition))                           \
            UM_TEST_FAIL("failed: %s", #condition); \
    } while (0)

/* As CHECK, but leaves the function. */
#define REQUIRE(condition)                          \
    do {                                            \
        if (!(condition)) {                         \
            UM_TEST_FAIL("failed: %s", #condition); \
            return;                                 \
        }                                           \
    } while (0)

/* Integers of any width that fits int64_t. */
#define CHECK_INT(actual, expected)                                                            \
    do {                                                                                       \
        int64_t actual_ = (int64_t)(actual), expected_ = (int64_t)(expected);                  \
        if (actual_ != expected_)                                                              \
            UM_TEST_FAIL("%s is %" PRId64 ", expected %" PRId64, #actual, actual_, expected_); \
    } while (0)

/* NUL-terminated strings. */
#define CHECK_STR(actual, expected)                                                     \
    do {                                                                                \
        const char *actual_ = (actual), *expected_ = (expected);                        \
        if (strcmp(actual_, expected_) != 0)                                            \
            UM_TEST_FAIL("%s is \"%s\", expected \"%s\"", #actual, actual_, expected_); \
    } while (0)

/* A text that holds `part`; for messages. */
#define CHECK_CONTAINS(actual, part)                                             \
    do {                                                                         \
        const char *actual_ = (actual), *part_ = (part);                         \
        if (strstr(actual_, part_) == NULL)                                      \
            UM_TEST_FAIL("%s is \"%s\", lacks \"%s\"", #actual, actual_, part_); \
    } while (0)

/* Bytes: pointer and size against a string literal (its final NUL does not count). */
#define CHECK_BYTES(data, size, literal)                                                     \
    do {                                                                                     \
        const void *data_ = (data);                                                          \
        size_t size_ = (size), expected_ = sizeof(literal) - 1;                              \
        if (size_ != expected_ || (size_ != 0 && memcmp(data_, literal, size_) != 0))        \
            UM_TEST_FAIL("%s is \"%.*s\" (%zu bytes), expected %s", #data,                   \
                         (int)(size_ < 200 ? size_ : 200), size_ ? (const char *)data_ : "", \
                         size_, #literal);                                                   \
    } while (0)

/* The same for a struct um_slice. */
#define CHECK_SLICE(slice, literal) CHECK_BYTES((slice).data, (slice).size, literal)

static bool um_test_run(const struct um_test *test)
{
    unsigned before = um_test_failed_checks;
    test->run();
    bool good = um_test_failed_checks == before;
    if (!good)
        fprintf(stderr, "FAILED %s\n", test->name);
    return good;
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;
    for (const struct um_test *test = um_test_first; test != NULL; test = test->next) {
        if (argc > 1 && strstr(test->name, argv[1]) == NULL)
            continue;
        if (um_test_run(test))
            passed++;
        else
            failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0 || passed == 0;
}

#endif
