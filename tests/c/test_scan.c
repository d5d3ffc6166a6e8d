#include <sys/stat.h>

#include "base/match.h"
#include "harness.h"
#include "layers.h"
#include "tree/scan.h"
#include "upper/upper.h"
#include "upper_machine.h"

/* Searches: the order, the program of tests, leaving, and what an upper counts. */

#define LINES(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }
#define TEXT_MAX (1 << 20)
#define SKIP UM_SCAN_SKIP
#define KEEP UM_SCAN_KEEP
#define MANY 5000

static char found[TEXT_MAX];

static void append(const char *text, size_t size)
{
    size_t used = strlen(found);
    if (used + size + 1 >= sizeof found)
        abort();
    if (size != 0)
        memcpy(found + used, text, size);
    found[used + size] = '\0';
}

/* Collect the paths of records, each followed by a space, and what was printed. */
static int collect(struct um_scan *scan)
{
    struct um_scan_batch batch;
    int more;
    found[0] = '\0';
    while ((more = um_scan_next(scan, &batch)) > 0) {
        append(batch.text, batch.text_size);
        for (size_t i = 0; i < batch.n_records; i++) {
            const struct um_scan_record *record = &batch.records[i];
            append(batch.paths + record->path, record->path_size);
            append(record->error ? "! " : " ", record->error ? 2 : 1);
        }
    }
    return more;
}

static struct um_scan_setup setup_of(const struct um_scan_test *tests, uint32_t n)
{
    return (struct um_scan_setup){.tests = tests,
                                  .n_tests = n,
                                  .most = UINT32_MAX,
                                  .start = UM_ROOT_NODE,
                                  .shown = "/",
                                  .shown_size = 1};
}

static const char *scan_with(struct um_tree *tree, const struct um_scan_setup *setup)
{
    struct um_scan *scan = NULL;
    int error = um_scan_tree(tree, setup, &scan);
    if (error == 0)
        error = collect(scan);
    um_scan_close(scan);
    return error ? "(error)" : found;
}

static const char *scan(struct um_tree *tree, const struct um_scan_test *tests, uint32_t n)
{
    const struct um_scan_setup setup = setup_of(tests, n);
    return scan_with(tree, &setup);
}

static int open_small(struct stack *stack)
{
    int error = stack_add(stack, LINES("f a.c", "d d", "f d/x.c", "d d/e", "f d/e/y", "s l -> d"));
    return error ? error : stack_open(stack);
}

TEST(a_program_of_no_tests_keeps_everything_in_order)
{
    struct stack stack = {0};
    CHECK_INT(open_small(&stack), 0);
    CHECK_STR(scan(stack.tree, NULL, 0), "/ /a.c /d /d/e /d/e/y /d/x.c /l ");
    struct um_scan_setup setup = setup_of(NULL, 0);
    setup.flags = UM_SCAN_POST_ORDER;
    CHECK_STR(scan_with(stack.tree, &setup), "/a.c /d/e/y /d/e /d/x.c /d /l / ");
    setup.least = 2;
    CHECK_STR(scan_with(stack.tree, &setup), "/d/e/y /d/e /d/x.c ");
    setup.least = 1;
    setup.most = 1;
    CHECK_STR(scan_with(stack.tree, &setup), "/a.c /d /l ");
    setup.least = 3;
    CHECK_STR(scan_with(stack.tree, &setup), "");
    stack_close(&stack);
}

TEST(the_start_is_any_file_under_any_name)
{
    struct stack stack = {0};
    struct um_attr attr;
    CHECK_INT(open_small(&stack), 0);
    struct um_scan_setup setup = setup_of(NULL, 0);
    CHECK_INT(stack_stat(&stack, "d", &attr), 0);
    setup.start = attr.node;
    setup.shown = "/some//where/";
    setup.shown_size = strlen(setup.shown);
    CHECK_STR(scan_with(stack.tree, &setup),
              "/some//where/ /some//where/e /some//where/e/y /some//where/x.c ");
    const struct um_scan_test tests[] = {
        {.what = UM_SCAN_NAME, .pattern = "where", .yes = KEEP, .no = SKIP}};
    setup.tests = tests;
    setup.n_tests = 1;
    CHECK_STR(scan_with(stack.tree, &setup), "/some//where/ ");
    CHECK_INT(stack_stat(&stack, "a.c", &attr), 0);
    setup.start = attr.node;
    setup.n_tests = 0;
    CHECK_STR(scan_with(stack.tree, &setup), "/some//where/ ");
    stack_close(&stack);
}

TEST(tests_go_on_where_they_say)
{
    struct stack stack = {0};
    CHECK_INT(open_small(&stack), 0);
    const struct um_scan_test both[] = {
        {.what = UM_SCAN_NAME, .pattern = "*.c", .yes = 1, .no = 2},
        {.what = UM_SCAN_PRINT, .low = '+', .yes = SKIP, .no = SKIP},
        {.what = UM_SCAN_TYPE, .low = 1u << (S_IFDIR >> 12), .yes = 3, .no = SKIP},
        {.what = UM_SCAN_PRINT, .low = '\n', .yes = 4, .no = 4},
        {.what = UM_SCAN_PATH, .pattern = "*[/]d", .yes = KEEP, .no = SKIP},
    };
    CHECK_STR(scan(stack.tree, both, 5), "/\n/a.c+/d\n/d/e\n/d/x.c+/d ");
    stack_close(&stack);
}

/* The names in `text` that one test of names keeps. */
static const char *names_like(struct um_tree *tree, uint32_t what, const char *pattern)
{
    const struct um_scan_test test = {.what = what, .pattern = pattern, .yes = KEEP, .no = SKIP};
    return scan(tree, &test, 1);
}

TEST(patterns_match_as_fnmatch_does)
{
    struct stack stack = {0};
    const char *const names[] = {"a", "aa", "aaa", "ab", "aba", "b", "ba", "bab", "*", "A"};
    const char *const patterns[] = {"",    "*",   "**",  "a",    "a*",  "*a", "*a*", "ab",
                                    "ab*", "*ab", "*b*", "*ab*", "a*b", "?",  "\\*", "[a]*"};
    CHECK_INT(stack_add(&stack, LINES("f a", "f aa", "f aaa", "f ab", "f aba", "f b", "f ba",
                                      "f bab", "f *", "f A")),
              0);
    CHECK_INT(stack_open(&stack), 0);
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        names_like(stack.tree, UM_SCAN_NAME, patterns[i]);
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            char whole[16];
            snprintf(whole, sizeof whole, "/%s ", names[k]);
            bool is_found = strstr(found, whole) != NULL;
            if (is_found != um_match(patterns[i], names[k], 0))
                UM_TEST_FAIL("'%s' and '%s'", patterns[i], names[k]);
        }
    }
    CHECK_STR(names_like(stack.tree, UM_SCAN_INAME, "a"), "/A /a ");
    CHECK_STR(names_like(stack.tree, UM_SCAN_IPATH, "/A*"), "/A /a /aa /aaa /ab /aba ");
    CHECK_STR(names_like(stack.tree, UM_SCAN_NAME, "/"), "/ ");
    stack_close(&stack);
}

TEST(expressions_match_whole_paths)
{
    struct stack stack = {0};
    const char *message;
    struct um_scan_test test = {.what = UM_SCAN_REGEX, .yes = KEEP, .no = SKIP};
    CHECK_INT(open_small(&stack), 0);
    CHECK_INT(um_path_regex_open("egrep", "/d/.|/L", 7, 1, &test.regex, &message), 0);
    CHECK_STR(scan(stack.tree, &test, 1), "/d/e /l ");
    um_path_regex_close(test.regex);
    CHECK_INT(um_path_regex_open("none", "a", 1, 0, &test.regex, &message), -EINVAL);
    CHECK(message == NULL);
    CHECK_INT(um_path_regex_open("egrep", "(", 1, 0, &test.regex, &message), -EINVAL);
    CHECK_STR(message, "Unmatched ( or \\(");
    um_path_regex_close(NULL);
    stack_close(&stack);
}

static const char *only(struct um_tree *tree, struct um_scan_test test)
{
    test.yes = KEEP;
    test.no = SKIP;
    return scan(tree, &test, 1);
}

TEST(attributes_are_compared)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f f", "d d", "d e", "f e/x", "h g -> f", "c c", "s l -> f")),
              0);
    CHECK_INT(stack_open(&stack), 0);
    struct um_tree *tree = stack.tree;
    const uint64_t all = UINT64_MAX;
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_SIZE, .low = 3, .high = 3}),
              "/e/x /f /g ");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_SIZE, .low = 4, .high = 1}), "");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_LINKS, .low = 2, .high = 2}),
              "/d /e /f /g ");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_UID, .low = 1, .high = all}), "");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_NODE, .low = 1, .high = 1}), "/ ");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_EMPTY}), "/d ");
    CHECK_STR(
        only(tree, (struct um_scan_test){.what = UM_SCAN_TYPE,
                                         .low = 1u << (S_IFCHR >> 12) | 1u << (S_IFLNK >> 12)}),
        "/c /l ");
    CHECK_STR(
        only(tree, (struct um_scan_test){.what = UM_SCAN_PERM_ALL, .low = 0644, .high = 01000}),
        "/c /e/x /f /g /l ");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_PERM_ANY, .low = 01000}),
              "/ /d /e ");
    CHECK_STR(only(tree, (struct um_scan_test){.what = UM_SCAN_MTIME, .since = 1, .until = 9}), "");
    CHECK_STR(
        only(tree,
             (struct um_scan_test){.what = UM_SCAN_CTIME, .since = INT64_MIN, .until = INT64_MAX}),
        "/ /c /d /e /e/x /f /g /l ");
    stack_close(&stack);
}

TEST(programs_that_could_run_forever_are_refused)
{
    struct stack stack = {0};
    struct um_scan *opened = NULL;
    CHECK_INT(open_small(&stack), 0);
    const struct um_scan_test bad[] = {
        {.what = UM_SCAN_EMPTY, .yes = 0, .no = SKIP},
        {.what = UM_SCAN_EMPTY, .yes = SKIP, .no = 1},
        {.what = UM_SCAN_TESTS, .yes = SKIP, .no = SKIP},
        {.what = UM_SCAN_NAME, .yes = SKIP, .no = SKIP},
        {.what = UM_SCAN_REGEX, .yes = SKIP, .no = SKIP},
        {.what = UINT32_MAX, .yes = SKIP, .no = SKIP},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const struct um_scan_setup setup = setup_of(&bad[i], 1);
        CHECK_INT(um_scan_tree(stack.tree, &setup, &opened), -EINVAL);
    }
    struct um_scan_setup setup = setup_of(NULL, 0);
    setup.shown_size = 0;
    CHECK_INT(um_scan_tree(stack.tree, &setup, &opened), -EINVAL);
    setup = setup_of(bad, UM_SCAN_TESTS_MAX + 1);
    CHECK_INT(um_scan_tree(stack.tree, &setup, &opened), -EINVAL);
    setup = setup_of(NULL, 0);
    setup.shown = "a\0b";
    setup.shown_size = 3;
    CHECK_INT(um_scan_tree(stack.tree, &setup, &opened), -EINVAL);
    setup = setup_of(NULL, 0);
    setup.start = 1 << 20;
    CHECK_INT(um_scan_tree(stack.tree, &setup, &opened), -ESTALE);
    CHECK(opened == NULL);
    stack_close(&stack);
}

/* ---- leaving ------------------------------------------------------------------------------------ */

TEST(pruned_directories_are_not_entered)
{
    struct stack stack = {0};
    CHECK_INT(open_small(&stack), 0);
    const struct um_scan_test tests[] = {
        {.what = UM_SCAN_NAME, .pattern = "d", .yes = 1, .no = 2},
        {.what = UM_SCAN_PRUNE, .yes = 2, .no = 2},
        {.what = UM_SCAN_PRINT, .low = ' ', .yes = SKIP, .no = SKIP},
    };
    CHECK_STR(scan(stack.tree, tests, 3), "/ /a.c /d /l ");
    struct um_scan_setup setup = setup_of(tests, 3);
    setup.flags = UM_SCAN_POST_ORDER;
    CHECK_STR(scan_with(stack.tree, &setup), "/a.c /d/e/y /d/e /d/x.c /d /l / ");
    stack_close(&stack);
}

/* A layer with so many files in /many that a piece ends among them. */
static int open_many(struct stack *stack)
{
    static char lines[MANY + 3][24];
    static const char *pointers[MANY + 4];
    for (int i = 0; i < MANY; i++)
        snprintf(lines[i], sizeof lines[i], "f many/%04d", i);
    snprintf(lines[MANY], sizeof lines[MANY], "f after");
    snprintf(lines[MANY + 1], sizeof lines[MANY + 1], "d next");
    snprintf(lines[MANY + 2], sizeof lines[MANY + 2], "f next/x");
    for (int i = 0; i < MANY + 3; i++)
        pointers[i] = lines[i];
    pointers[MANY + 3] = NULL;
    int error = stack_add(stack, pointers);
    return error ? error : stack_open(stack);
}

TEST(a_directory_can_be_left_between_pieces)
{
    struct stack stack = {0};
    struct um_scan *opened = NULL;
    struct um_scan_batch batch;
    struct um_attr attr;
    CHECK_INT(open_many(&stack), 0);
    CHECK_INT(stack_stat(&stack, "many", &attr), 0);
    const struct um_scan_setup setup = setup_of(NULL, 0);
    REQUIRE(um_scan_tree(stack.tree, &setup, &opened) == 0);
    CHECK_INT(um_scan_next(opened, &batch), 1);
    CHECK(batch.n_records < MANY);
    um_scan_leave(opened, 1, attr.node + 1); /* another directory: nothing happens */
    um_scan_leave(opened, 7, attr.node);
    um_scan_leave(opened, 1, attr.node);
    CHECK_INT(collect(opened), 0);
    CHECK_STR(found, "/next /next/x ");
    um_scan_leave(opened, 0, UM_ROOT_NODE); /* after the end */
    um_scan_close(opened);

    REQUIRE(um_scan_tree(stack.tree, &setup, &opened) == 0);
    CHECK_INT(um_scan_next(opened, &batch), 1);
    um_scan_leave(opened, 0, UM_ROOT_NODE);
    CHECK_INT(um_scan_next(opened, &batch), 0);
    um_scan_close(opened);

    REQUIRE(um_scan_tree(stack.tree, &setup, &opened) == 0);
    CHECK_INT(um_scan_next(opened, &batch), 1);
    um_scan_close(opened); /* in the middle */
    stack_close(&stack);
}

/* ---- layers, failures, uppers ------------------------------------------------------------------- */

TEST(layers_by_themselves)
{
    struct stack stack = {0};
    struct um_unstacked *layers = NULL;
    struct um_scan *opened = NULL;
    CHECK_INT(stack_add(&stack, LINES("f a", "d d", "f d/x")), 0);
    CHECK_INT(stack_add(&stack, LINES("f .wh.a", "f d/y")), 0);
    CHECK_INT(stack_open(&stack), 0);
    REQUIRE(um_unstacked_open(stack.tree, &layers) == 0);
    const struct um_scan_setup setup = setup_of(NULL, 0);
    CHECK_INT(um_scan_unstacked(layers, &setup, &opened), 0);
    CHECK_INT(collect(opened), 0);
    CHECK_STR(found, "/ /0 /0/a /0/d /0/d/x /1 /1/a /1/d /1/d/y ");
    um_scan_close(opened);
    um_unstacked_close(layers);
    stack_close(&stack);
}

/* A source with directories 1 (of 2, 3 and the file 9), 2 (which fails) and 3 (which fails in the
 * middle). It counts what was listed and not forgotten. */
struct broken {
    int owed, lists;
};

static int broken_getattr(void *owner, uint64_t node, struct um_attr *attr)
{
    (void)owner;
    *attr = (struct um_attr){.node = node, .mode = node < 9 ? S_IFDIR : S_IFREG};
    return 0;
}

static int broken_begin(void *owner, uint64_t directory, void **list)
{
    struct broken *broken = (struct broken *)owner;
    *list = broken;
    if (directory == 2)
        return -EACCES;
    broken->lists++;
    return 0;
}

static int broken_next(void *owner, void *list, uint64_t directory, uint64_t cookie,
                       struct um_tree_entry *entries, size_t capacity)
{
    static const uint64_t inside[] = {2, 3, 9};
    struct broken *broken = (struct broken *)owner;
    (void)list;
    if (directory == 3 && cookie != 0)
        return -EIO;
    int n = 0;
    for (; cookie < (directory == 1 ? 3 : 1) && (size_t)n < capacity; cookie++, n++) {
        uint64_t node = directory == 1 ? inside[cookie] : 10;
        static char names[4] = "bcdx";
        entries[n] = (struct um_tree_entry){
            .name = &names[directory == 1 ? cookie : 3], .name_size = 1, .next = cookie + 1};
        broken_getattr(owner, node, &entries[n].attr);
        broken->owed++;
    }
    return n;
}

static void broken_end(void *list)
{
    ((struct broken *)list)->lists--;
}

static void broken_forget(void *owner, uint64_t node)
{
    (void)node;
    ((struct broken *)owner)->owed--;
}

static const char *scan_broken(const struct um_scan_test *tests, uint32_t n, uint32_t flags)
{
    struct broken broken = {0};
    const struct um_scan_source source = {.owner = &broken,
                                          .getattr = broken_getattr,
                                          .begin = broken_begin,
                                          .next = broken_next,
                                          .end = broken_end,
                                          .forget = broken_forget};
    struct um_scan_setup setup = setup_of(tests, n);
    struct um_scan *opened = NULL;
    setup.flags = flags;
    if (um_scan_open(&source, &setup, &opened) != 0)
        return "(error)";
    CHECK_INT(collect(opened), 0);
    um_scan_close(opened);
    CHECK_INT(broken.owed, 0);
    CHECK_INT(broken.lists, 0);
    return found;
}

TEST(a_directory_that_cannot_be_read_is_a_record)
{
    const struct um_scan_test print = {.what = UM_SCAN_PRINT, .low = ' ', .yes = SKIP, .no = SKIP};
    const struct um_scan_test empty[] = {
        {.what = UM_SCAN_EMPTY, .yes = KEEP, .no = SKIP},
    };
    CHECK_STR(scan_broken(NULL, 0, 0), "/ /b /b! /c /c/x /c! /d ");
    CHECK_STR(scan_broken(NULL, 0, UM_SCAN_POST_ORDER), "/b! /b /c/x /c! /c /d / ");
    CHECK_STR(scan_broken(&print, 1, 0), "/ /b /b! /c /c/x /c! /d ");
    CHECK_STR(scan_broken(empty, 1, 0), "/b! /b! /c/x /c! /d ");
}

TEST(an_upper_gets_all_lookups_back)
{
    struct stack stack = {0};
    struct um_scan *opened = NULL;
    struct um_scan_batch batch;
    struct um_upper *upper = NULL;
    struct um_attr attr;
    char path[] = "/tmp/um-scan-XXXXXX";
    REQUIRE(mkdtemp(path) != NULL);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int above = machine_directory(directory, "upper"), work = machine_directory(directory, "work");
    CHECK_INT(open_many(&stack), 0);
    const struct um_upper_setup made = {
        .tree = stack.tree, .upper_fd = above, .work_fd = work, .flags = UM_UPPER_VOLATILE};
    REQUIRE(um_upper_open(&made, &upper) == 0 && um_upper_recover(upper) == 0);
    const struct um_upper_maker maker = {0};
    CHECK_INT(um_upper_mkdir(upper, UM_ROOT_NODE, "own", 3, 0700, &maker, &attr), 0);
    uint64_t own = attr.node;
    CHECK_INT(um_upper_mknod(upper, own, "f", 1, S_IFREG | 0600, 0, 0, &maker, &attr), 0);
    CHECK_INT(um_upper_forget(upper, attr.node, 1), 0);
    const struct um_scan_setup setup = setup_of(NULL, 0);
    REQUIRE(um_upper_scan(upper, &setup, &opened) == 0);
    CHECK_INT(um_scan_next(opened, &batch), 1);
    struct um_attr kept;
    CHECK_INT(um_upper_getattr(upper, batch.records[batch.n_records - 1].attr.node, &kept), 0);
    CHECK_INT(collect(opened), 0);
    CHECK(strstr(found, "/own /own/f ") != NULL);
    um_scan_close(opened);
    CHECK_INT(um_upper_forget(upper, own, 1), 0); /* the one of mkdir was the last */
    REQUIRE(um_upper_scan(upper, &setup, &opened) == 0);
    CHECK_INT(um_scan_next(opened, &batch), 1);
    um_scan_close(opened); /* in the middle */
    um_upper_close(upper);
    stack_close(&stack);
    machine_remove(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    close(above);
    close(work);
    close(directory);
    CHECK_INT(rmdir(path), 0);
}
