#include <pthread.h>
#include <sys/stat.h>

#include "harness.h"
#include "layers.h"

#define LINES(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

/* All names of a directory, joined by commas. */
static const char *list(struct stack *stack, const char *path)
{
    static char text[4096];
    struct um_attr attr;
    struct um_tree_entry entry;
    uint64_t cookie = 0;
    size_t used = 0;
    text[0] = '\0';
    if (stack_stat(stack, path, &attr) != 0)
        return "(none)";
    while (um_tree_list(stack->tree, attr.node, cookie, &entry, 1) == 1) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.*s", used ? "," : "",
                                 (int)entry.name_size, entry.name);
        cookie = entry.next;
    }
    return text;
}

static int stat_error(struct stack *stack, const char *path)
{
    struct um_attr attr;
    return stack_stat(stack, path, &attr);
}

TEST(no_layers_give_an_empty_root)
{
    struct stack stack = {0};
    struct um_attr attr;
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stack_stat(&stack, "", &attr), 0);
    CHECK_INT(attr.node, 1);
    CHECK_INT(attr.mode, S_IFDIR | 0755);
    CHECK_INT(attr.nlink, 2);
    CHECK_STR(list(&stack, ""), "");
    CHECK_INT(stat_error(&stack, "x"), -ENOENT);
    stack_close(&stack);
}

TEST(a_whiteout_hides_wherever_it_stands)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f a", "f b", "d d", "f d/x")), 0);
    CHECK_INT(stack_add(&stack, LINES("f a", "f .wh.a", "f .wh.b", "f d/y", "f .wh.d")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "a,d");
    CHECK_STR(list(&stack, "d"), "y");
    CHECK_INT(stat_error(&stack, "b"), -ENOENT);
    CHECK_INT(stat_error(&stack, "d/x"), -ENOENT);
    stack_close(&stack);
}

TEST(an_opaque_mark_hides_children_only)
{
    struct stack stack = {0};
    struct um_attr attr;
    CHECK_INT(stack_add(&stack, LINES("d d", "f d/x")), 0);
    CHECK_INT(stack_add(&stack, LINES("f d/y", "f d/.wh..wh..opq")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "y");
    CHECK_INT(stack_stat(&stack, "d", &attr), 0);
    CHECK_INT(attr.layer, 0); /* its metadata still is that of the layer below */
    stack_close(&stack);
}

TEST(a_directory_merges_down_to_what_is_none)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f d/lowest")), 0);
    CHECK_INT(stack_add(&stack, LINES("s d -> elsewhere")), 0);
    CHECK_INT(stack_add(&stack, LINES("f d/middle")), 0);
    CHECK_INT(stack_add(&stack, LINES("f d/top")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "middle,top");
    stack_close(&stack);
}

TEST(link_counts_are_of_visible_names)
{
    struct stack stack = {0};
    struct um_attr a, b;
    CHECK_INT(stack_add(&stack, LINES("f a", "h b -> a", "h d/c -> a", "d d/e", "d d/f")), 0);
    CHECK_INT(stack_add(&stack, LINES("f .wh.b", "h g -> d/c", "w d/e")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stack_stat(&stack, "a", &a), 0);
    CHECK_INT(stack_stat(&stack, "g", &b), 0);
    CHECK_INT(a.node, b.node);
    CHECK_INT(a.nlink, 3);
    CHECK_INT(stack_stat(&stack, "d", &a), 0);
    CHECK_INT(a.nlink, 3);
    stack_close(&stack);
}

TEST(a_link_to_nowhere_is_absent_and_reported)
{
    struct stack stack = {0};
    uint64_t cursor = 0;
    char *name, *target;
    size_t name_size, target_size;
    CHECK_INT(stack_add(&stack, LINES("f was", "d dir")), 0);
    CHECK_INT(stack_add(&stack, LINES("h was -> no/where", "h up -> ../../dir", "h r -> /")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "dir");
    CHECK_INT(um_tree_broken_link(stack.tree, 1, &cursor, &name, &name_size, &target, &target_size),
              1);
    CHECK_BYTES(name, name_size, "r");
    CHECK_BYTES(target, target_size, "");
    um_free(name);
    um_free(target);
    stack_close(&stack);
}

TEST(links_may_come_before_their_target_and_in_circles)
{
    struct stack stack = {0};
    struct um_attr a, b;
    CHECK_INT(stack_add(&stack, LINES("f x", "f y")), 0);
    CHECK_INT(
        stack_add(&stack, LINES("h a -> b", "h b -> c", "f c", "h x -> y", "h y -> x", "h z -> z")),
        0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "a,b,c,x,y");
    CHECK_INT(stack_stat(&stack, "a", &a), 0);
    CHECK_INT(stack_stat(&stack, "c", &b), 0);
    CHECK_INT(a.node, b.node);
    CHECK_INT(a.nlink, 3);
    stack_close(&stack);
}

TEST(names_are_clamped_to_the_root)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f /../../etc/passwd", "f a/../b", "d ..", "f ./c//d")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "b,c,etc");
    CHECK_STR(list(&stack, "c"), "d");
    stack_close(&stack);
}

TEST(broken_whiteouts_and_long_names_refuse_the_layer)
{
    struct stack stack = {0};
    char name[300] = "f ";
    memset(name + 2, 'n', 256);
    CHECK_INT(stack_add(&stack, LINES("f .wh.")), -EBADMSG);
    CHECK_INT(stack_add(&stack, LINES("f d/.wh..")), -EBADMSG);
    CHECK_INT(stack_add(&stack, LINES("f .wh...")), -EBADMSG);
    CHECK_INT(stack_add(&stack, LINES(name)), -EBADMSG);
    memcpy(name + 2, ".wh.", 4); /* 256 bytes, but what it hides has 252 */
    CHECK_INT(stack_add(&stack, LINES(name)), 0);
    stack_close(&stack);
}

TEST(leftovers_are_not_shown)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("d .wh..wh.plnk", "f .wh..wh.plnk/1.2", "f .wh..wh.aufs",
                                      "f .wh.gone/child", "f seen")),
              0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "seen");
    stack_close(&stack);
}

TEST(links_may_lead_into_the_link_store)
{
    struct stack stack = {0};
    struct um_attr attr;
    CHECK_INT(stack_add(&stack, LINES("h late -> .wh..wh.plnk/1.2", "f .wh..wh.plnk/1.2",
                                      "h x -> .wh..wh.plnk/1.2", "d .wh..wh.plnk/d")),
              0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "late,x");
    CHECK_INT(stack_stat(&stack, "x", &attr), 0);
    CHECK_INT(attr.nlink, 2);
    stack_close(&stack);
}

TEST(a_file_over_a_directory_loses_its_children)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f d/x", "f d", "d d", "f d/y")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "y");
    stack_close(&stack);
}

TEST(wrong_questions_get_the_right_errno)
{
    struct stack stack = {0};
    struct um_attr attr;
    struct um_tree_entry entry;
    const char *target;
    size_t size;
    char byte;
    CHECK_INT(stack_add(&stack, LINES("f a", "d d", "s s -> a")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stat_error(&stack, "a/b"), -ENOTDIR);
    CHECK_INT(stack_stat(&stack, "d", &attr), 0);
    CHECK_INT(um_tree_read(stack.tree, attr.node, 0, &byte, 1, 0), -EISDIR);
    CHECK_INT(um_tree_readlink(stack.tree, attr.node, &target, &size), -EINVAL);
    CHECK_INT(stack_stat(&stack, "a", &attr), 0);
    CHECK_INT(um_tree_list(stack.tree, attr.node, 0, &entry, 1), -ENOTDIR);
    CHECK_INT(um_tree_getattr(stack.tree, 999, &attr), -ESTALE);
    CHECK_INT(um_tree_getattr(stack.tree, 0, &attr), -ESTALE);
    CHECK_INT(um_tree_list(stack.tree, UINT64_MAX, 0, &entry, 1), -ESTALE);
    CHECK_INT(um_tree_getxattr(stack.tree, 1, "user.x", 6, NULL, 0), -ENODATA);
    stack_close(&stack);
}

TEST(a_layer_file_that_shrinks_is_an_io_error)
{
    struct stack stack = {0};
    struct um_attr attr;
    char byte;
    CHECK_INT(stack_add(&stack, LINES("f a")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stack_stat(&stack, "a", &attr), 0);
    CHECK_INT(um_tree_read(stack.tree, attr.node, 0, &byte, 1, 0), 1);
    CHECK_INT(ftruncate(stack.layers[0].fd, 0), 0);
    CHECK_INT(um_tree_read(stack.tree, attr.node, 0, &byte, 1, 0), -EIO);
    stack_close(&stack);
    CHECK_INT(stack_add(&stack, LINES("f a")), 0);
    stack.layers[0].length = LAYER_BYTES - 1;
    CHECK_INT(stack_open(&stack), -EIO);
    stack_close(&stack);
}

TEST(changes_name_what_an_opaque_directory_hides)
{
    struct stack stack = {0};
    struct um_tree_walk *walk;
    const char *path;
    size_t path_size, used = 0;
    char change, text[200] = "";
    uint32_t mode;
    uint64_t size;
    CHECK_INT(stack_add(&stack, LINES("f d/x", "f d/y", "d d/sub", "f d/sub/z", "f e")), 0);
    CHECK_INT(stack_add(&stack,
                        LINES("d d", "f d/.wh..wh..opq", "f d/y", "f .wh.e", "f .wh.no", "f n/o")),
              0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(um_tree_walk_open(stack.tree, 1, &walk), 0);
    while (um_tree_walk_next(walk, &path, &path_size, &change, &mode, &size) == 1)
        used += (size_t)snprintf(text + used, sizeof text - used, "%c%.*s ", change, (int)path_size,
                                 path);
    um_tree_walk_close(walk);
    CHECK_STR(text, "Cd Dd/sub Dd/x Cd/y De An An/o ");
    stack_close(&stack);
}

static void *walk_everything(void *context)
{
    struct stack *stack = (struct stack *)context;
    static const char *const paths[] = {"d/a", "d/b", "d/c/x", "d/c/y", "h1", "h2"};
    struct um_tree_entry entries[16];
    struct um_attr attr;
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
            stack_stat(stack, paths[i], &attr);
        if (stack_stat(stack, "d", &attr) == 0)
            um_tree_list(stack->tree, attr.node, 0, entries, 16);
    }
    return NULL;
}

TEST(many_threads_may_ask_at_once)
{
    struct stack stack = {0};
    pthread_t threads[4];
    CHECK_INT(stack_add(&stack, LINES("f d/a", "f d/c/x", "f h1", "h h2 -> h1")), 0);
    CHECK_INT(stack_add(&stack, LINES("f d/b", "f d/c/y", "h h3 -> h2", "f .wh.h1")), 0);
    CHECK_INT(stack_open(&stack), 0);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, walk_everything, &stack) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_STR(list(&stack, "d"), "a,b,c");
    CHECK_STR(list(&stack, "d/c"), "x,y");
    stack_close(&stack);
}

TEST(subdirectories_are_counted_where_layers_add_hide_and_bring_back)
{
    struct stack stack = {0};
    struct um_attr attr;
    CHECK_INT(stack_add(&stack, LINES("d d/a", "d d/b", "d d/c", "f d/f")), 0);
    CHECK_INT(stack_add(&stack, LINES("f d/.wh.a", "f d/b", "d d/f", "d d/new")), 0);
    CHECK_INT(stack_add(&stack, LINES("d d/a", "f d/.wh.new", "d d/c", "f d/.wh.none")), 0);
    CHECK_INT(stack_add(&stack, LINES("f d/.wh.c", "h d/f -> nowhere")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "a,b");
    CHECK_INT(stack_stat(&stack, "d", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    stack_close(&stack);
}

TEST(too_many_layers_are_refused)
{
    static const struct um_tree_layer layers[4097];
    struct um_tree *tree = NULL;
    CHECK_INT(um_tree_open(layers, 4097, &tree), -E2BIG);
    CHECK(tree == NULL);
}

static uint32_t nlink_of(struct stack *stack, const char *path)
{
    struct um_attr attr;
    return stack_stat(stack, path, &attr) == 0 ? attr.nlink : 0;
}

TEST(links_may_lead_to_links_of_lower_layers)
{
    struct stack stack = {0};
    struct um_attr file, link;
    CHECK_INT(stack_add(&stack, LINES("f d/e/f", "f d.e/g", "d d/e/dir")), 0);
    CHECK_INT(stack_add(&stack, LINES("h 1 -> d/e/f", "h lost -> d/e/none", "h dir -> d/e/dir")),
              0);
    CHECK_INT(stack_add(&stack, LINES("h 2 -> 1", "h 1 -> d/e/f", "h lost2 -> lost")), 0);
    CHECK_INT(stack_add(&stack, LINES("h 3 -> 2", "h g -> d.e/g", "h d/h -> d/e/f",
                                      "h x -> d/e/f/y", "h y -> d/none/f", "h z -> d")),
              0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "1,2,3,d,d.e,g");
    CHECK_INT(stack_stat(&stack, "d/e/f", &file), 0);
    CHECK_INT(file.nlink, 5);
    for (const char *const *path = LINES("1", "2", "3", "d/h"); *path != NULL; path++) {
        CHECK_INT(stack_stat(&stack, *path, &link), 0);
        CHECK(memcmp(&file, &link, sizeof file) == 0);
    }
    CHECK_INT(nlink_of(&stack, "g"), 2);
    stack_close(&stack);
}

TEST(names_in_hidden_directories_do_not_count)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f a", "h d/e/1 -> a", "h d/e/2 -> a", "h d/3 -> a")), 0);
    CHECK_INT(stack_add(&stack, LINES("h d/e/4 -> a", "h o/5 -> a", "h p/q/6 -> a")), 0);
    CHECK_INT(stack_add(&stack, LINES("f .wh.o", "d o", "f d/.wh..wh..opq", "f p", "f d/e/2")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "e");
    CHECK_STR(list(&stack, "d/e"), "2");
    CHECK_INT(nlink_of(&stack, "a"), 1);
    stack_close(&stack);
    CHECK_INT(stack_add(&stack, LINES("f a", "h d/e/1 -> a", "h d/e/2 -> a", "h d/3 -> a")), 0);
    CHECK_INT(stack_add(&stack, LINES("h d/e/4 -> a", "h o/5 -> a", "h p/q/6 -> a")), 0);
    CHECK_INT(stack_add(&stack, LINES("f .wh.o", "f d/e/2")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(nlink_of(&stack, "a"), 5); /* a, d/e/1, d/3, d/e/4, p/q/6 */
    stack_close(&stack);
}

TEST(runs_that_are_not_in_order_are_not_read)
{
    static const struct um_tar_extent runs[] = {{0, 10, 0}, {5, 10, 0}};
    struct um_tar_entry entry = {
        .name = text_slice("a"), .size = 20, .sparse = true, .extents = runs, .n_extents = 2};
    struct stack stack = {0};
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    struct um_attr attr;
    char buffer[20];
    int fd = make_memfd(0);
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    CHECK_INT(um_indexer_add(indexer, &entry, &fault), 0); /* the parser refuses such a map */
    CHECK_INT(um_indexer_finish(indexer, LAYER_BYTES, fd, &fault), 0);
    um_indexer_close(indexer);
    CHECK_INT(stack_push(&stack, fd, &fault), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stack_stat(&stack, "a", &attr), 0);
    CHECK_INT(um_tree_read(stack.tree, attr.node, 0, buffer, sizeof buffer, 0), -EBADMSG);
    CHECK_INT(um_tree_read(stack.tree, attr.node, 0, buffer, 4, 0), 4);
    stack_close(&stack);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp((const char *)a, (const char *)b);
}

/* The names of a file, as DIRECTORY/NAME with the directory's own name, sorted, joined by commas. */
static const char *names_of(struct stack *stack, const char *path)
{
    static char text[1024];
    char lines[16][64];
    struct um_attr attr;
    struct um_tree_name *names = NULL;
    size_t n = 0, used = 0;
    text[0] = '\0';
    if (stack_stat(stack, path, &attr) != 0 ||
        um_tree_names(stack->tree, attr.node, &names, &n) != 0 || n > 16)
        return "(none)";
    for (size_t i = 0; i < n; i++) {
        uint64_t parent;
        const char *name;
        size_t size;
        if (um_tree_name(stack->tree, names[i].directory, &parent, &name, &size) != 0)
            return "(lost)";
        snprintf(lines[i], sizeof lines[i], "%.*s/%.*s", (int)size, name, (int)names[i].name_size,
                 names[i].name);
    }
    um_free(names);
    qsort(lines, n, sizeof lines[0], compare_texts);
    for (size_t i = 0; i < n; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "", lines[i]);
    return text;
}

TEST(a_file_knows_its_visible_names)
{
    struct stack stack = {0};
    CHECK_INT(stack_add(&stack, LINES("f a", "h b -> a", "h d/c -> a", "f d/only", "f e/gone")), 0);
    CHECK_INT(stack_add(&stack, LINES("f .wh.b", "h g -> d/c", "h d/h -> e/gone", "f e/new")), 0);
    CHECK_INT(stack_add(&stack, LINES("f e/.wh..wh..opq", "f own")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(names_of(&stack, "a"), "/a,/g,d/c");
    CHECK_STR(names_of(&stack, "d/only"), "d/only");
    CHECK_STR(names_of(&stack, "d/h"), "d/h");
    CHECK_STR(names_of(&stack, "own"), "/own");
    CHECK_STR(names_of(&stack, "d"), "(none)");
    stack_close(&stack);
    CHECK_INT(stack_add(&stack, LINES("f a", "h d/b -> a", "f d/c")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(names_of(&stack, "a"), "/a,d/b");
    CHECK_STR(names_of(&stack, "d/c"), "d/c");
    stack_close(&stack);
}

TEST(what_the_upper_asks_has_an_answer)
{
    struct stack stack = {0};
    struct um_attr attr;
    struct um_tree_entry entry;
    struct um_tree_name *names;
    uint64_t parent;
    const char *name;
    size_t size;
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(um_tree_end(stack.tree), 2);
    CHECK_INT(um_tree_name(stack.tree, 1, &parent, &name, &size), 0);
    stack_close(&stack);
    CHECK_INT(stack_add(&stack, LINES("f d/e/f")), 0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stack_stat(&stack, "d/e", &attr), 0);
    CHECK_INT(um_tree_find(stack.tree, attr.node, "f", 1, &entry), 0);
    CHECK_BYTES(entry.name, entry.name_size, "f");
    CHECK(entry.attr.node < um_tree_end(stack.tree));
    CHECK_INT(um_tree_find(stack.tree, attr.node, "g", 1, &entry), -ENOENT);
    CHECK_INT(um_tree_find(stack.tree, 99, "g", 1, &entry), -ESTALE);
    CHECK_INT(um_tree_find(stack.tree, attr.node, name, 256, &entry), -ENAMETOOLONG);
    CHECK_INT(um_tree_name(stack.tree, attr.node, &parent, &name, &size), 0);
    CHECK_BYTES(name, size, "e");
    CHECK_INT(um_tree_name(stack.tree, parent, &parent, &name, &size), 0);
    CHECK_BYTES(name, size, "d");
    CHECK_INT(parent, 1);
    CHECK_INT(um_tree_name(stack.tree, parent, &parent, &name, &size), 0);
    CHECK_BYTES(name, size, "");
    CHECK_INT(um_tree_names(stack.tree, 1, &names, &size), -EISDIR);
    CHECK_INT(um_tree_names(stack.tree, 99, &names, &size), -ESTALE);
    CHECK_INT(stack_stat(&stack, "d/e/f", &attr), 0);
    CHECK_INT(um_tree_find(stack.tree, attr.node, "g", 1, &entry), -ENOTDIR);
    CHECK_INT(um_tree_name(stack.tree, attr.node, &parent, &name, &size), -ENOTDIR);
    stack_close(&stack);
}

TEST(the_data_of_a_file_is_a_list_of_runs)
{
    static const struct um_tar_extent runs[] = {{10, 5, 0}, {20, 5, 5}};
    struct um_tar_entry entry = {
        .name = text_slice("a"), .size = 40, .sparse = true, .extents = runs, .n_extents = 2};
    struct um_tar_entry plain = {.name = text_slice("b"), .size = 7, .stored = 512};
    struct stack stack = {0};
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    struct um_attr attr;
    uint64_t logical = 0, length = 0, stored = 0;
    int fd = make_memfd(0), data;
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    CHECK_INT(um_indexer_add(indexer, &entry, &fault), 0);
    CHECK_INT(um_indexer_add(indexer, &plain, &fault), 0);
    CHECK_INT(um_indexer_finish(indexer, LAYER_BYTES - 100, fd, &fault), 0);
    um_indexer_close(indexer);
    CHECK_INT(stack_push(&stack, fd, &fault), 0);
    stack.layers[0].offset = 100;
    stack.layers[0].length -= 100;
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stack_stat(&stack, "a", &attr), 0);
    CHECK_INT(um_tree_next_data(stack.tree, attr.node, -1, 0, &logical, &length, &stored), 1);
    CHECK(logical == 10 && length == 5 && stored == 100);
    CHECK_INT(um_tree_next_data(stack.tree, attr.node, -1, 12, &logical, &length, &stored), 1);
    CHECK(logical == 12 && length == 3 && stored == 102);
    CHECK_INT(um_tree_next_data(stack.tree, attr.node, -1, 15, &logical, &length, &stored), 1);
    CHECK(logical == 20 && length == 5 && stored == 105);
    CHECK_INT(um_tree_next_data(stack.tree, attr.node, -1, 25, &logical, &length, &stored), 0);
    CHECK_INT(stack_stat(&stack, "b", &attr), 0);
    CHECK_INT(um_tree_next_data(stack.tree, attr.node, -1, 3, &logical, &length, &stored), 1);
    CHECK(logical == 3 && length == 4 && stored == 100 + 512 + 3);
    CHECK_INT(um_tree_next_data(stack.tree, attr.node, -1, 7, &logical, &length, &stored), 0);
    CHECK_INT(um_tree_open_data(stack.tree, attr.node, &data), 0);
    CHECK(data >= 0 && data != stack.layers[0].fd);
    close(data);
    CHECK_INT(um_tree_open_data(stack.tree, 1, &data), -EISDIR);
    CHECK_INT(um_tree_next_data(stack.tree, 1, -1, 0, &logical, &length, &stored), -EISDIR);
    stack_close(&stack);
}
