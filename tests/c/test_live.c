#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "exercise.h"
#include "harness.h"
#include "layer/live.h"
#include "system/open_beneath.h"

/* ---- making directories -------------------------------------------------------------------------- */

/* A scratch directory; the working directory while a test runs. */
struct scratch {
    char path[64];
    int before; /* the working directory to come back to */
};

static void run(const char *script)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-ec", script, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        UM_TEST_FAIL("script failed: %s", script);
}

static bool scratch_open(struct scratch *scratch, const char *script)
{
    snprintf(scratch->path, sizeof scratch->path, "/tmp/test_live.XXXXXX");
    scratch->before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scratch->before < 0 || mkdtemp(scratch->path) == NULL || chdir(scratch->path) != 0)
        return false;
    run(script);
    return true;
}

static void scratch_close(struct scratch *scratch)
{
    char script[128];
    if (fchdir(scratch->before) != 0)
        abort();
    close(scratch->before);
    snprintf(script, sizeof script, "rm -rf %s", scratch->path);
    run(script);
}

static void add_live(struct stack *stack, const char *path)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        UM_TEST_FAIL("%s: %s", path, strerror(errno));
    stack_add_directory(stack, fd);
}

static void set_xattr(const char *path, const char *name, const char *value)
{
    if (lsetxattr(path, name, value, strlen(value), 0) != 0)
        UM_TEST_FAIL("%s of %s: %s", name, path, strerror(errno));
}

static void make_whiteout(const char *path)
{
    if (mknod(path, S_IFCHR, makedev(0, 0)) != 0)
        UM_TEST_FAIL("whiteout %s: %s", path, strerror(errno));
}

/* ---- asking ------------------------------------------------------------------------------------------ */

static const char *list(struct stack *stack, const char *path)
{
    static char text[8192];
    struct um_attr attr;
    struct um_tree_entry entry;
    uint64_t cookie = 0;
    size_t used = 0;
    text[0] = '\0';
    if (stack_stat(stack, path, &attr) != 0)
        return "(none)";
    int more;
    while ((more = um_tree_list(stack->tree, attr.node, cookie, &entry, 1)) == 1) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.*s", used ? "," : "",
                                 (int)entry.name_size, entry.name);
        cookie = entry.next;
    }
    return more < 0 ? "(error)" : text;
}

static const char *content(struct stack *stack, const char *path)
{
    static char text[4096];
    struct um_attr attr;
    if (stack_stat(stack, path, &attr) != 0)
        return "(none)";
    int64_t size = um_tree_read(stack->tree, attr.node, 0, text, sizeof text - 1, 0);
    if (size < 0)
        snprintf(text, sizeof text, "(error %" PRId64 ")", size);
    else
        text[size] = '\0';
    return text;
}

static struct um_attr stat_of(struct stack *stack, const char *path)
{
    struct um_attr attr = {0};
    int error = stack_stat(stack, path, &attr);
    if (error != 0)
        UM_TEST_FAIL("%s: %s", path, strerror(-error));
    return attr;
}

static int stat_error(struct stack *stack, const char *path)
{
    struct um_attr attr;
    return stack_stat(stack, path, &attr);
}

/* Lookup and list agree about everything, and so do names and link counts. */
static void check_all(struct stack *stack)
{
    unsigned left = EXERCISE_ENTRIES;
    exercise_directory(stack->tree, UM_ROOT_NODE, &left, true);
}

/* ---- one directory --------------------------------------------------------------------------------- */

TEST(attributes_are_those_on_disk)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct stat status;
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d/e; printf hello >l/d/f; chmod 4711 l/d/f;"
                                   "ln -s target l/s; mkfifo l/p; truncate -s 1M l/big;"
                                   "touch -d @-5.25 l/d/f; touch -a -d @7.5 l/d/f; mkdir l/d/g"));
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    static const char *const paths[] = {"", "d", "d/e", "d/f", "s", "p", "big"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char path[64];
        snprintf(path, sizeof path, "l/%s", paths[i]);
        REQUIRE(lstat(path, &status) == 0);
        struct um_attr attr = stat_of(&stack, paths[i]);
        CHECK_INT(attr.mode, status.st_mode);
        CHECK_INT(attr.uid, status.st_uid);
        CHECK_INT(attr.gid, status.st_gid);
        CHECK_INT(attr.nlink, status.st_nlink);
        CHECK_INT(attr.size, status.st_size);
        CHECK_INT(attr.blocks, status.st_blocks);
        CHECK_INT(attr.mtime, status.st_mtim.tv_sec);
        CHECK_INT(attr.mtime_nsec, status.st_mtim.tv_nsec);
        CHECK_INT(attr.atime, status.st_atim.tv_sec);
        CHECK_INT(attr.atime_nsec, status.st_atim.tv_nsec);
        CHECK_INT(attr.ctime, status.st_ctim.tv_sec);
        CHECK_INT(attr.ctime_nsec, status.st_ctim.tv_nsec);
        if (i != 0)
            CHECK_INT(attr.node, 1 + status.st_ino);
    }
    CHECK_INT(stat_of(&stack, "").node, 1);
    CHECK_STR(list(&stack, ""), "big,d,p,s");
    CHECK_STR(list(&stack, "d"), "e,f,g");
    CHECK_STR(content(&stack, "d/f"), "hello");
    CHECK_INT(stat_error(&stack, "no"), -ENOENT);
    CHECK_INT(stat_error(&stack, "d/f/x"), -ENOTDIR);
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(files_are_read_linked_and_seeked)
{
    struct scratch scratch;
    struct stack stack = {0};
    char buffer[64];
    const char *target;
    size_t size;
    uint64_t logical, length, stored;
    uint32_t layer;
    int fd;
    REQUIRE(scratch_open(&scratch,
                         "mkdir l; printf 0123456789 >l/f; ln -s 'to/where' l/s; mkdir l/d;"
                         "truncate -s 300000 l/holes;"
                         "printf x | dd of=l/holes bs=1 seek=200000 conv=notrunc status=none"));
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    uint64_t file = stat_of(&stack, "f").node, link = stat_of(&stack, "s").node;
    CHECK_INT(um_tree_read(stack.tree, file, 4, buffer, sizeof buffer, 0), 6);
    CHECK(memcmp(buffer, "456789", 6) == 0);
    CHECK_INT(um_tree_read(stack.tree, file, 10, buffer, sizeof buffer, 0), 0);
    CHECK_INT(um_tree_read(stack.tree, file, UINT64_MAX, buffer, sizeof buffer, 0), 0);
    CHECK_INT(um_tree_read(stack.tree, link, 0, buffer, sizeof buffer, 0), -EINVAL);
    CHECK_INT(um_tree_read(stack.tree, stat_of(&stack, "d").node, 0, buffer, 1, 0), -EISDIR);
    CHECK_INT(um_tree_extent(stack.tree, file, &layer, &logical, &length), -EINVAL);
    CHECK_INT(um_tree_readlink(stack.tree, link, &target, &size), 0);
    CHECK_BYTES(target, size, "to/where");
    CHECK_INT(um_tree_readlink(stack.tree, link, &target, &size), 0);
    CHECK_BYTES(target, size, "to/where");
    CHECK_INT(um_tree_readlink(stack.tree, file, &target, &size), -EINVAL);
    uint64_t holes = stat_of(&stack, "holes").node;
    CHECK_INT(um_tree_open_data(stack.tree, holes, &fd), 0);
    CHECK_INT(um_tree_next_data(stack.tree, holes, fd, 0, &logical, &length, &stored), 1);
    CHECK(logical <= 200000 && logical + length > 200000 && stored == logical);
    CHECK_INT(
        um_tree_next_data(stack.tree, holes, fd, logical + length, &logical, &length, &stored), 0);
    CHECK_INT(um_tree_next_data(stack.tree, holes, fd, 300000, &logical, &length, &stored), 0);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(a_path_may_be_longer_than_the_kernel_takes)
{
    struct scratch scratch;
    struct stack stack = {0};
    char path[6000] = "", name[251];
    memset(name, 'n', 250);
    name[250] = '\0';
    REQUIRE(scratch_open(&scratch, "mkdir l"));
    int fd = open("l", O_PATH | O_DIRECTORY);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(mkdirat(fd, name, 0755), 0);
        int next = openat(fd, name, O_PATH | O_DIRECTORY);
        close(fd);
        fd = next;
        strcat(path, name);
        strcat(path, "/");
    }
    int file = openat(fd, "file", O_CREAT | O_WRONLY, 0644);
    CHECK_INT(write(file, "deep", 4), 4);
    close(file);
    close(fd);
    strcat(path, "file");
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(content(&stack, path), "deep");
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(strange_names_find_nothing)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct um_attr attr;
    char name[257];
    memset(name, 'x', sizeof name);
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d; touch l/d/f l/.wh.hidden l/hidden 'l/.wh.' "
                                   "l/.wh..wh.aufs l/.whx; ln -s d l/s"));
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(um_tree_lookup(stack.tree, 1, "", 0, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, ".", 1, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, "..", 2, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, "d/f", 3, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, "d\0f", 3, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, ".wh.hidden", 10, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, name, 255, &attr), -ENOENT);
    CHECK_INT(um_tree_lookup(stack.tree, 1, name, 256, &attr), -ENAMETOOLONG);
    CHECK_INT(stat_error(&stack, "s/f"), -ENOTDIR);
    CHECK_INT(um_tree_getattr(stack.tree, 5, &attr), -ESTALE);
    CHECK_INT(um_tree_getattr(stack.tree, um_tree_end(stack.tree) - 1, &attr), -ESTALE);
    CHECK_INT(um_tree_getattr(stack.tree, um_tree_end(stack.tree), &attr), -ESTALE);
    CHECK_STR(list(&stack, ""), ".whx,d,hidden,s");
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(no_directory_no_layer)
{
    struct scratch scratch;
    struct um_tree *tree = NULL;
    REQUIRE(scratch_open(&scratch, "touch f"));
    struct um_tree_layer layer = {.fd = open("f", O_PATH | O_CLOEXEC)};
    CHECK_INT(um_tree_open(&layer, 1, &tree), -ENOTDIR);
    close(layer.fd);
    layer.fd = -1;
    CHECK_INT(um_tree_open(&layer, 1, &tree), -EBADF);
    scratch_close(&scratch);
}

/* ---- marks -------------------------------------------------------------------------------------------- */

TEST(whiteouts_hide_in_every_spelling)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch,
                         "mkdir -p l/d1 l/d2 l/d3 l/d4 l/x l/r u/d1 u/d2 u/d3 u/d4 u/x u/r;"
                         "touch l/a l/b l/c l/d1/o l/d2/o l/d3/o l/d4/o l/x/w l/x/y l/r/o;"
                         "touch u/.wh.b u/d1/.wh..wh..opq u/d1/n u/d2/n u/d3/n u/d4/n u/x/w u/c;"
                         "touch u/.wh.c u/.wh.r u/r/n u/.wh.nothing"));
    make_whiteout("u/a");
    set_xattr("u/d2", "user.overlay.opaque", "y");
    set_xattr("u/d3", "user.fuseoverlayfs.opaque", "y");
    set_xattr("u/x", "user.overlay.opaque", "x");
    set_xattr("u/x/w", "user.overlay.whiteout", "");
    if (geteuid() == 0)
        set_xattr("u/d4", "trusted.overlay.opaque", "y");
    else
        set_xattr("u/d4", "user.overlay.opaque", "y");
    add_live(&stack, "l");
    add_live(&stack, "u");
    for (int round = 0; round < 2; round++) {
        CHECK_INT(stack_open(&stack), 0);
        if (round == 1) { /* found before they are listed, too */
            CHECK_INT(stat_error(&stack, "a"), -ENOENT);
            CHECK_INT(stat_error(&stack, "b"), -ENOENT);
            CHECK_INT(stat_error(&stack, "x/w"), -ENOENT);
            CHECK_INT(stat_error(&stack, "r/o"), -ENOENT);
            CHECK_INT(stat_error(&stack, "d1/.wh..wh..opq"), -ENOENT);
        }
        CHECK_STR(list(&stack, ""), "c,d1,d2,d3,d4,r,x");
        for (const char *const *path = (const char *const[]){"d1", "d2", "d3", "d4", "r", NULL};
             *path != NULL; path++)
            CHECK_STR(list(&stack, *path), "n");
        CHECK_STR(list(&stack, "x"), "y");
        CHECK_INT(stat_of(&stack, "c").layer, 1);
        check_all(&stack);
        um_tree_close(stack.tree);
        stack.tree = NULL;
    }
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(a_mark_alone_means_nothing_elsewhere)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d u/d; touch l/d/o u/d/w u/f; printf x >u/d/full"));
    set_xattr("u/d/w", "user.overlay.whiteout", ""); /* its directory is not marked */
    set_xattr("u/f", "user.overlay.opaque", "y");
    set_xattr("u/d", "user.overlay.opaque", "no");
    add_live(&stack, "l");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "full,o,w");
    CHECK_STR(list(&stack, ""), "d,f");
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(users_see_no_marks)
{
    struct scratch scratch;
    struct stack stack = {0};
    char names[256], value[8];
    REQUIRE(scratch_open(&scratch, "mkdir l; touch l/f; ln -s f l/s"));
    set_xattr("l/f", "user.overlay.origin", "1");
    set_xattr("l/f", "user.fuseoverlayfs.x", "1");
    set_xattr("l/f", "user.containers.override_stat", "1:2:640");
    set_xattr("l/f", "user.plain", "value");
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    uint64_t node = stat_of(&stack, "f").node;
    CHECK_INT(um_tree_listxattr(stack.tree, node, names, sizeof names), 11);
    CHECK_STR(names, "user.plain");
    CHECK_INT(um_tree_listxattr(stack.tree, node, NULL, 0), 11);
    CHECK_INT(um_tree_listxattr(stack.tree, node, names, 10), -ERANGE);
    CHECK_INT(um_tree_getxattr(stack.tree, node, "user.plain", 10, value, sizeof value), 5);
    CHECK_INT(um_tree_getxattr(stack.tree, node, "user.plain", 10, value, 4), -ERANGE);
    CHECK_INT(um_tree_getxattr(stack.tree, node, "user.plain", 10, NULL, 0), 5);
    CHECK_INT(um_tree_getxattr(stack.tree, node, "user.overlay.origin", 19, value, 8), -ENODATA);
    CHECK_INT(um_tree_getxattr(stack.tree, node, "user.none", 9, value, 8), -ENODATA);
    CHECK_INT(um_tree_getxattr(stack.tree, stat_of(&stack, "s").node, "user.plain", 10, value, 8),
              -ENODATA); /* a symlink is not followed */
    CHECK_INT(um_tree_getxattr(stack.tree, 1, "user.plain", 10, value, 8), -ENODATA);
    stack_close(&stack);
    scratch_close(&scratch);
}

static void check_names(struct stack *stack, const char *wanted, size_t size)
{
    char names[256], value[8];
    uint64_t node = stat_of(stack, "f").node;
    CHECK_INT(um_tree_listxattr(stack->tree, node, names, sizeof names), (int64_t)size);
    for (size_t at = 0; at < size; at += strlen(wanted + at) + 1) {
        size_t length = strlen(wanted + at);
        CHECK(memmem(names, size, wanted + at, length + 1) != NULL);
        CHECK_INT(um_tree_getxattr(stack->tree, node, wanted + at, length, value, 8), 1);
    }
}

TEST(escaped_names_are_users)
{
    static const char both[] = "user.overlay.opaque\0user.overlay.overlay.x";
    static const char as_is[] = "user.overlay.y\0user.overlay.overlay.opaque\0"
                                "user.overlay.overlay.overlay.x";
    struct scratch scratch;
    for (int trusted = 0; trusted < 2; trusted++) {
        struct stack stack = {0};
        REQUIRE(scratch_open(&scratch, "mkdir -p l/d u/d; touch l/d/below u/f"));
        set_xattr("u/f", "user.overlay.y", "1");
        set_xattr("u/f", "user.overlay.overlay.opaque", "1");
        set_xattr("u/f", "user.overlay.overlay.overlay.x", "1");
        set_xattr("u/d", "user.overlay.overlay.opaque", "y");
        add_live(&stack, "l");
        add_live(&stack, "u");
        stack.layers[1].believes |= trusted ? UM_BELIEVE_NO_USER : 0;
        CHECK_INT(stack_open(&stack), 0);
        check_names(&stack, trusted ? as_is : both, trusted ? sizeof as_is : sizeof both);
        CHECK(stat_of(&stack, "d/below").node != 0); /* it hides nothing */
        stack_close(&stack);
        scratch_close(&scratch);
    }
}

TEST(marks_of_another_prefix_hide_nothing)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d u/d; touch l/d/below"));
    set_xattr("u/d", "user.overlay.opaque", "y");
    add_live(&stack, "l");
    add_live(&stack, "u");
    stack.layers[1].believes |= UM_BELIEVE_NO_USER;
    CHECK_INT(stack_open(&stack), 0);
    CHECK(stat_of(&stack, "d/below").node != 0);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(override_stat_shows)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d; touch l/f l/dev l/wh l/bad; printf xx >l/pipe;"
                                   "chmod 600 l/bad"));
    set_xattr("l/f", "user.containers.override_stat", "11:12:4755:file");
    set_xattr("l/d", "user.containers.override_stat", "13:14:1777:dir");
    set_xattr("l/dev", "user.containers.override_stat", "0:6:0660:block-8-1");
    set_xattr("l/wh", "user.containers.override_stat", "0:0:0:char-0-0");
    set_xattr("l/pipe", "user.containers.override_stat", "0:0:0600:pipe");
    set_xattr("l/bad", "user.containers.override_stat", "0:0:rwx");
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    struct um_attr attr = stat_of(&stack, "f");
    CHECK(attr.uid == 11 && attr.gid == 12 && attr.mode == (S_IFREG | 04755));
    attr = stat_of(&stack, "d");
    CHECK(attr.uid == 13 && attr.gid == 14 && attr.mode == (S_IFDIR | 01777));
    attr = stat_of(&stack, "dev");
    CHECK(attr.mode == (S_IFBLK | 0660) && attr.major == 8 && attr.minor == 1);
    attr = stat_of(&stack, "wh"); /* a device of a container, no whiteout */
    CHECK(attr.mode == S_IFCHR && attr.major == 0 && attr.minor == 0);
    attr = stat_of(&stack, "pipe");
    CHECK(attr.mode == (S_IFIFO | 0600) && attr.size == 0);
    CHECK_INT(stat_of(&stack, "bad").mode, S_IFREG | 0600);
    CHECK_STR(list(&stack, ""), "bad,d,dev,f,pipe,wh");
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(redirects_lead_below)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch,
                         "mkdir -p l/old/sub l/a/b m/new/own u/newer u/a/c u/broken u/dots u/up;"
                         "touch l/old/f l/old/sub/g m/new/n u/newer/t l/a/b/deep u/broken/own;"
                         "ln l/old/f l/old/sub/also"));
    make_whiteout("m/old");
    make_whiteout("u/new");
    make_whiteout("u/a/b");
    set_xattr("m/new", "user.overlay.redirect", "old");         /* beside it */
    set_xattr("u/newer", "user.overlay.redirect", "/new");      /* goes on with what goes on */
    set_xattr("u/a/c", "user.overlay.redirect", "/a/b");
    set_xattr("u/broken", "user.overlay.redirect", "/a//b");
    set_xattr("u/dots", "user.overlay.redirect", "/a/../a/b");
    set_xattr("u/up", "user.overlay.redirect", "/none/at/all");
    add_live(&stack, "l");
    add_live(&stack, "m");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "a,broken,dots,newer,up");
    CHECK_STR(list(&stack, "newer"), "f,n,own,sub,t");
    CHECK_STR(list(&stack, "newer/sub"), "also,g");
    CHECK_STR(list(&stack, "a"), "c");
    CHECK_STR(list(&stack, "a/c"), "deep");
    CHECK_STR(list(&stack, "broken"), "own");
    CHECK_STR(list(&stack, "dots"), "");
    CHECK_STR(list(&stack, "up"), "");
    struct stat status;
    REQUIRE(lstat("l/old", &status) == 0);
    CHECK_INT(stat_of(&stack, "newer").node, 1 + status.st_ino);
    CHECK_INT(stat_of(&stack, "newer").nlink, 4);
    CHECK_INT(stat_of(&stack, "newer/f").nlink, 2);
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

/* The names of a file in a directory that is shown elsewhere are found, though nobody looked it up. */
TEST(names_in_moved_directories_count)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "mkdir -p l/old/sub m/x/new u; touch l/f l/other;"
                                   "ln l/f l/old/sub/g; ln l/f l/old/gone; ln l/other l/out"));
    make_whiteout("m/old");
    set_xattr("m/x/new", "user.overlay.redirect", "/old");
    make_whiteout("m/x/new/gone");
    make_whiteout("u/out");
    add_live(&stack, "l");
    add_live(&stack, "m");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stat_of(&stack, "f").nlink, 2);
    CHECK_INT(stat_of(&stack, "other").nlink, 1);
    CHECK_INT(stat_of(&stack, "x/new/sub/g").node, stat_of(&stack, "f").node);
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(directories_that_share_a_part_have_numbers_of_their_own)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d/e u/d u/x u/d/loop; touch l/d/f"));
    set_xattr("u/x", "user.overlay.redirect", "/d"); /* without a whiteout of d */
    set_xattr("u/d/loop", "user.overlay.redirect", "/d");
    add_live(&stack, "l");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "e,f,loop");
    CHECK_STR(list(&stack, "x"), "e,f");
    CHECK_STR(list(&stack, "d/loop"), "e,f");
    CHECK(stat_of(&stack, "d").node != stat_of(&stack, "x").node);
    CHECK(stat_of(&stack, "d").node != stat_of(&stack, "d/loop").node);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(metacopies_have_the_data_below)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch,
                         "mkdir -p l/d u/d; printf data >l/d/f; printf moved >l/d/g;"
                         "printf far >l/h; truncate -s 4 u/d/f; truncate -s 5 u/d/new;"
                         "truncate -s 3 u/d/far; truncate -s 9 u/d/lost; chmod 600 u/d/f"));
    static const char *const files[] = {"u/d/f", "u/d/new", "u/d/far", "u/d/lost"};
    for (size_t i = 0; i < 4; i++)
        set_xattr(files[i], "user.overlay.metacopy", "");
    set_xattr("u/d/new", "user.overlay.redirect", "g");
    set_xattr("u/d/far", "user.overlay.redirect", "/h");
    make_whiteout("u/d/g");
    add_live(&stack, "l");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(content(&stack, "d/f"), "data");
    CHECK_STR(content(&stack, "d/f"), "data");
    CHECK_STR(content(&stack, "d/new"), "moved");
    CHECK_STR(content(&stack, "d/far"), "far");
    CHECK_STR(content(&stack, "d/lost"), "(error -5)");
    CHECK_INT(stat_of(&stack, "d/f").mode, S_IFREG | 0600);
    CHECK_INT(stat_of(&stack, "d/f").layer, 1);
    stack_close(&stack);
    CHECK_INT(stack_add(&stack, (const char *const[]){"f d/f", NULL}), 0);
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    char buffer[8];
    uint64_t logical, length, stored;
    int fd = -1;
    uint64_t node = stat_of(&stack, "d/f").node;
    CHECK_INT(um_tree_read(stack.tree, node, 0, buffer, sizeof buffer, 0), 3);
    CHECK_INT(um_tree_open_data(stack.tree, node, &fd), 0);
    CHECK_INT(um_tree_next_data(stack.tree, node, fd, 0, &logical, &length, &stored), 1);
    CHECK_INT(length, 3);
    close(fd);
    stack_close(&stack);
    scratch_close(&scratch);
}

/* ---- whose marks count ----------------------------------------------------------------------------------- */

/* What marks below a prefix lead to in a layer that believes this much, on objects of this owner and with
 * write permission (or none) for others. */
static void check_leads(uint32_t believes, const char *prefix, uid_t owner, bool writable,
                        bool followed)
{
    struct scratch scratch;
    struct stack stack = {0};
    char redirect[64], metacopy[64];
    REQUIRE(scratch_open(&scratch, "umask 022; mkdir -p l/private u/d u/e;"
                                   "printf secret >l/secret; touch l/private/in u/d/own u/plain;"
                                   "ln u/plain u/d/link; truncate -s 6 u/f"));
    snprintf(redirect, sizeof redirect, "%sredirect", prefix);
    snprintf(metacopy, sizeof metacopy, "%smetacopy", prefix);
    set_xattr("u/d", redirect, "/private");
    set_xattr("u/f", redirect, "/secret");
    set_xattr("u/f", metacopy, "");
    static const char *const marked[] = {"u/d", "u/f"};
    for (size_t i = 0; i < 2; i++) {
        CHECK_INT(chown(marked[i], owner, owner), 0);
        CHECK_INT(chmod(marked[i], writable ? 0777 : 0755), 0);
    }
    add_live(&stack, "l");
    add_live(&stack, "u");
    stack.layers[1].believes = believes;
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), followed ? "in,link,own" : "(error)");
    CHECK_STR(content(&stack, "f"), followed ? "secret" : "(error -5)");
    struct um_attr attr;
    CHECK_INT(stack_stat(&stack, "d/own", &attr), followed ? 0 : -EIO);
    CHECK_INT(stack_stat(&stack, "d/none", &attr), followed ? -ENOENT : -EIO);
    /* All else is as it is. */
    CHECK_INT(stat_of(&stack, "d").uid, owner);
    CHECK_INT(stat_of(&stack, "f").size, 6);
    CHECK_STR(list(&stack, ""), "d,e,f,plain,private,secret");
    CHECK_INT(stat_of(&stack, "plain").nlink, followed ? 2 : 1);
    CHECK_STR(list(&stack, "e"), "");
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(marks_that_lead_elsewhere_are_their_writers)
{
    static const char *const user[] = {"user.overlay.", "user.fuseoverlayfs."};
    uid_t me = geteuid();
    for (size_t i = 0; i < 2; i++) {
        check_leads(UM_BELIEVE_OWN, user[i], me, false, true);
        check_leads(UM_BELIEVE_OWN, user[i], me, true, false);
        check_leads(UM_BELIEVE_OWN | UM_BELIEVE_CLOSED, user[i], me, true, true);
        check_leads(UM_BELIEVE_TRUSTED, user[i], me, false, false);
        check_leads(UM_BELIEVE_STAT | UM_BELIEVE_ANY_STAT | UM_BELIEVE_CLOSED, user[i], me, false,
                    false);
        if (me == 0) {
            check_leads(UM_BELIEVE_OWN, user[i], 65534, false, false);
            check_leads(UM_BELIEVE_OWN | UM_BELIEVE_CLOSED, user[i], 65534, false, false);
        }
    }
    if (me == 0) {
        check_leads(UM_BELIEVE_TRUSTED, "trusted.overlay.", 65534, true, true);
        check_leads(UM_BELIEVE_OWN, "trusted.overlay.", 0, false, false);
    }
}

TEST(of_two_marks_the_one_that_is_believed_counts)
{
    struct scratch scratch;
    struct stack stack = {0};
    if (geteuid() != 0)
        return;
    REQUIRE(scratch_open(&scratch, "mkdir -p l/a l/b u/d u/e; touch l/a/of-a l/b/of-b"));
    set_xattr("u/d", "trusted.overlay.redirect", "/a");
    set_xattr("u/d", "user.overlay.redirect", "/b");
    set_xattr("u/e", "user.overlay.redirect", "/b"); /* of an opaque one it says nothing */
    set_xattr("u/e", "user.overlay.opaque", "y");
    set_xattr("l/a", "user.overlay.redirect", "/b"); /* nothing is below */
    add_live(&stack, "l");
    add_live(&stack, "u");
    stack.layers[0].believes = stack.layers[1].believes = UM_BELIEVE_TRUSTED;
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "of-a");
    CHECK_STR(list(&stack, "e"), "");
    CHECK_STR(list(&stack, "a"), "of-a");
    stack_close(&stack);
    scratch_close(&scratch);
}

/* Whoever owns a file may take a mark away and set it again between any two questions. */
TEST(data_stands_below_where_the_marks_that_are_kept_say_so)
{
    struct scratch scratch;
    struct um_live_setup setup = {.tag = 1, .believes = UM_BELIEVE_TRUSTED};
    struct um_refusals refusals = {0};
    struct um_live *layer;
    struct um_child child;
    struct um_slice redirect;
    bool refused;
    REQUIRE(scratch_open(&scratch, "mkdir u; truncate -s 6 u/f u/g"));
    setup.fd = setup.shown_fd = open("u", O_PATH | O_DIRECTORY | O_CLOEXEC);
    setup.refusals = &refusals;
    CHECK_INT(um_fd_cache_open(8, &setup.cache), 0);
    CHECK_INT(um_live_open(&setup, &layer), 0);
    CHECK_INT(um_live_find(layer, 0, text_slice("f"), &child), 0);
    CHECK_INT(um_live_redirect(layer, child.inode, &redirect, &refused), 0);
    CHECK(!refused);
    set_xattr("u/f", "user.overlay.metacopy", "");
    CHECK_INT(um_live_has_data(layer, child.inode), 1);
    set_xattr("u/g", "user.overlay.metacopy", "");
    CHECK_INT(um_live_find(layer, 0, text_slice("g"), &child), 0);
    CHECK_INT(um_live_has_data(layer, child.inode), -EIO);
    um_live_close(layer);
    um_fd_cache_close(setup.cache);
    close(setup.fd);
    scratch_close(&scratch);
}

static void check_override(uint32_t believes, uid_t owner, mode_t mode, bool believed)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "touch f"));
    set_xattr("f", "user.containers.override_stat", "11:12:4755");
    CHECK_INT(chown("f", owner, owner), 0);
    CHECK_INT(chmod("f", mode), 0);
    add_live(&stack, ".");
    stack.layers[0].believes = believes;
    CHECK_INT(stack_open(&stack), 0);
    struct um_attr attr = stat_of(&stack, "f");
    CHECK_INT(attr.uid, believed ? 11 : owner);
    CHECK_INT(attr.mode, S_IFREG | (believed ? 04755 : mode));
    CHECK_INT(um_tree_getattr(stack.tree, attr.node, &attr), 0);
    CHECK_INT(attr.uid, believed ? 11 : owner);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(override_stat_is_its_writers)
{
    uid_t me = geteuid();
    check_override(UM_BELIEVE_STAT, me, 0644, true);
    check_override(UM_BELIEVE_STAT, me, 0664, false);
    check_override(UM_BELIEVE_STAT, me, 0646, false);
    check_override(UM_BELIEVE_STAT | UM_BELIEVE_CLOSED, me, 0666, true);
    check_override(UM_BELIEVE_ANY_STAT, me, 0666, true);
    check_override(UM_BELIEVE_TRUSTED | UM_BELIEVE_OWN | UM_BELIEVE_CLOSED, me, 0644, false);
    if (me != 0)
        return;
    check_override(UM_BELIEVE_STAT | UM_BELIEVE_CLOSED, 65534, 0644, false);
    check_override(UM_BELIEVE_ANY_STAT, 65534, 0644, true);
}

/* Somebody who exchanges two files all the time, as the owner of a directory can. */
static void *exchange_names(void *stop)
{
    while (!atomic_load((atomic_bool *)stop))
        renameat2(AT_FDCWD, "roots", AT_FDCWD, "theirs", RENAME_EXCHANGE);
    return NULL;
}

TEST(a_mark_is_that_of_the_object_whose_owner_was_asked)
{
    struct scratch scratch;
    struct stack stack = {0};
    pthread_t other;
    atomic_bool stop = false;
    unsigned seen = 0;
    if (geteuid() != 0)
        return;
    REQUIRE(scratch_open(&scratch, "touch roots theirs; chmod 644 roots theirs"));
    set_xattr("theirs", "user.containers.override_stat", "0:0:4755");
    CHECK_INT(chown("theirs", 65534, 65534), 0);
    add_live(&stack, ".");
    CHECK_INT(stack_open(&stack), 0);
    uint64_t node = stat_of(&stack, "roots").node;
    REQUIRE(pthread_create(&other, NULL, exchange_names, &stop) == 0);
    for (unsigned i = 0; i < 400000; i++) {
        struct um_attr attr;
        int error = um_tree_getattr(stack.tree, node, &attr);
        if (error != 0) {
            CHECK_INT(error, -ESTALE);
            continue;
        }
        seen++;
        if (attr.mode != (S_IFREG | 0644))
            UM_TEST_FAIL("root's file shows another one's mode %o", attr.mode);
    }
    atomic_store(&stop, true);
    pthread_join(other, NULL);
    CHECK(seen != 0);
    stack_close(&stack);
    scratch_close(&scratch);
}

/* ---- numbers and names --------------------------------------------------------------------------------- */

TEST(numbers_are_known_before_they_are_seen)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct um_attr attr;
    struct stat status;
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d/e; printf x >l/d/e/f; ln l/d/e/f l/d/g"));
    REQUIRE(lstat("l/d/e/f", &status) == 0);
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(um_tree_getattr(stack.tree, 1 + status.st_ino, &attr), 0);
    CHECK_INT(attr.size, 1);
    CHECK_INT(attr.nlink, 2);
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(links_outside_do_not_count_where_a_layer_may_hide_names)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch, "mkdir -p l/d o t; touch l/a l/b; ln l/a o/out; ln l/b l/d/c;"
                                   "ln l/b o/out2"));
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stat_of(&stack, "a").nlink, 2);
    CHECK_INT(stat_of(&stack, "b").nlink, 3);
    stack_close(&stack);
    add_live(&stack, "l");
    add_live(&stack, "t");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(stat_of(&stack, "a").nlink, 1);
    CHECK_INT(stat_of(&stack, "b").nlink, 2);
    CHECK_INT(stat_of(&stack, "d/c").node, stat_of(&stack, "b").node);
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(images_and_directories_mix)
{
    struct scratch scratch;
    struct stack stack = {0};
    REQUIRE(scratch_open(&scratch,
                         "mkdir -p m/d m/e/sub m/l t; printf mid >m/d/live; ln m/d/live m/x;"
                         "touch m/d/.wh.gone m/l/a; ln m/l/a m/l/b; mkdir -p t/d"));
    set_xattr("t/d", "user.overlay.redirect", "/e");
    CHECK_INT(stack_add(&stack, (const char *const[]){"f d/gone", "f d/kept", "h d/link -> d/kept",
                                                      "d e/sub/deep", "f top", NULL}),
              0);
    add_live(&stack, "m");
    CHECK_INT(
        stack_add(&stack, (const char *const[]){"h hard -> d/live", "f l/.wh.b", "d e/up", NULL}),
        0);
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "d,e,hard,l,top,x");
    CHECK_STR(list(&stack, "d"), "kept,link,live");
    CHECK_STR(list(&stack, "e"), "sub,up");
    CHECK_INT(stat_of(&stack, "e").nlink, 4);
    CHECK_INT(stat_of(&stack, "e/sub").nlink, 3);
    CHECK_INT(stat_of(&stack, "d/live").nlink, 3); /* d/live, x, and hard of the layer above */
    CHECK_INT(stat_of(&stack, "hard").node, stat_of(&stack, "x").node);
    CHECK_INT(stat_of(&stack, "l/a").nlink, 1);
    CHECK_STR(content(&stack, "hard"), "mid");
    check_all(&stack);
    um_tree_close(stack.tree);
    add_live(&stack, "t");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, "d"), "sub,up");
    check_all(&stack);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(what_a_directory_changes_is_told)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct um_tree_walk *walk;
    char text[512] = "", change;
    const char *path;
    size_t size, used = 0;
    uint32_t mode;
    uint64_t bytes, cursor = 0;
    char *unused;
    REQUIRE(
        scratch_open(&scratch, "mkdir -p u/d u/o; touch u/d/new u/d/.wh.old u/o/.wh..wh..opq u/f"));
    CHECK_INT(stack_add(&stack, (const char *const[]){"f d/old", "f o/x", "f f", NULL}), 0);
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_INT(um_tree_walk_open(stack.tree, 1, &walk), 0);
    while (um_tree_walk_next(walk, &path, &size, &change, &mode, &bytes) == 1)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%c%.*s ", change, (int)size, path);
    um_tree_walk_close(walk);
    CHECK_STR(text, "Cd Ad/new Dd/old Cf Co Do/x ");
    CHECK_INT(um_tree_broken_link(stack.tree, 1, &cursor, &unused, &size, &unused, &size), 0);
    stack_close(&stack);
    scratch_close(&scratch);
}

/* ---- with and without privileges ----------------------------------------------------------------------- */

/* Run checks in a child, so that what it does to itself ends with it. */
static void in_child(void (*check)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        um_test_failed_checks = 0;
        check();
        fflush(NULL);
        _exit(um_test_failed_checks != 0);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
}

static void mount_inside(void)
{
    REQUIRE(unshare(CLONE_NEWNS) == 0);
    REQUIRE(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    REQUIRE(mount("tmpfs", "l/m", "tmpfs", 0, NULL) == 0);
    run("mkdir l/m/d; printf other >l/m/d/f; setfattr -n user.a -v b l/m/d/f");
    REQUIRE(mount("l/d", "l/b", NULL, MS_BIND, NULL) == 0);
    REQUIRE(mount("l", "l/self", NULL, MS_BIND, NULL) == 0);
    REQUIRE(mount("l/one", "l/two", NULL, MS_BIND, NULL) == 0);
}

/* Where others can mount: a mount point is seen, and what is in it is not asked for. */
static void check_mounts(void)
{
    struct stack stack = {0};
    struct um_attr attr;
    uint8_t byte;
    mount_inside();
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "b,d,m,one,pair,self,two");
    CHECK_STR(list(&stack, "d"), "f,g");
    const char *const directories[] = {"b", "m", "self"};
    for (size_t i = 0; i < 3; i++) {
        uint64_t node = stat_of(&stack, directories[i]).node;
        CHECK_STR(list(&stack, directories[i]), "(error)");
        CHECK_INT(um_tree_lookup(stack.tree, node, "f", 1, &attr), -EXDEV);
        CHECK_INT(um_tree_listxattr(stack.tree, node, NULL, 0), 0);
        CHECK_INT(um_tree_getxattr(stack.tree, node, "user.a", 6, NULL, 0), -ENODATA);
    }
    CHECK(stat_of(&stack, "b").node != stat_of(&stack, "d").node);
    CHECK(stat_of(&stack, "self").node != 1);
    CHECK_INT(um_tree_read(stack.tree, stat_of(&stack, "two").node, 0, &byte, 1, 0), -EXDEV);
    CHECK_STR(content(&stack, "pair"), "2"); /* the same file as the one that is covered */
    CHECK_INT(stat_of(&stack, "pair").nlink, 2);
    stack_close(&stack);
}

/* Mount points in one layer keep nobody from what the stack shows beside them. */
static void check_mounts_in_stacks(void)
{
    static const char *const stacks[][2] = {{"l", "u"}, {"u", "l"}};
    mount_inside();
    for (size_t i = 0; i < 2; i++) {
        struct stack stack = {0};
        struct um_attr attr;
        add_live(&stack, stacks[i][0]);
        add_live(&stack, stacks[i][1]);
        CHECK_INT(stack_open(&stack), 0);
        CHECK_STR(list(&stack, ""), "b,d,m,one,pair,self,two");
        CHECK_STR(list(&stack, "d"), "f,g,h");
        CHECK_STR(list(&stack, "m"), "(error)");
        CHECK_STR(list(&stack, "b"), "(error)");
        CHECK_INT(stat_of(&stack, "m").nlink, 1);
        uint64_t node = stat_of(&stack, "m").node;
        CHECK_INT(um_tree_lookup(stack.tree, node, "f", 1, &attr), -EXDEV);
        CHECK_INT(stat_of(&stack, "d/f").nlink, 2);
        CHECK_STR(content(&stack, "pair"), "2");
        CHECK_INT(stat_of(&stack, "pair").nlink, 1); /* the other name is covered */
        stack_close(&stack);
    }
}

/* Where nobody can: what it covers is seen. */
static void check_private_mounts(void)
{
    struct stack stack = {0};
    mount_inside();
    int fd = open("l", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int private_fd = um_private_directory(fd, UM_PRIVATE_READ_ONLY);
    REQUIRE(private_fd >= 0);
    CHECK_INT(um_open_beneath(private_fd, "new", O_WRONLY | O_CREAT, 0600), -EROFS);
    REQUIRE(mount("tmpfs", "l/d", "tmpfs", 0, NULL) == 0); /* does not get to the private one */
    stack_add_directory(&stack, private_fd);
    stack.layers[0].flags = UM_TREE_LAYER_PRIVATE;
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "b,d,m,one,pair,self,two");
    CHECK_STR(list(&stack, "b"), "");
    CHECK_STR(list(&stack, "m"), "");
    CHECK_STR(list(&stack, "self"), "");
    CHECK_STR(list(&stack, "d"), "f,g");
    CHECK_STR(content(&stack, "two"), "2");
    CHECK_INT(stat_of(&stack, "two").node, stat_of(&stack, "pair").node);
    check_all(&stack);
    stack_close(&stack);
    close(private_fd);
    close(fd);
}

TEST(mount_points_are_not_crossed)
{
    struct scratch scratch;
    if (geteuid() != 0) {
        printf("no mounts without root; ");
        return;
    }
    REQUIRE(scratch_open(&scratch, "mkdir -p l/m l/d l/b l/self; printf 1 >l/one; printf 2 >l/two;"
                                   "ln l/two l/pair; printf f >l/d/f; ln l/d/f l/d/g;"
                                   "mkdir -p u/m u/d; touch u/d/h"));
    in_child(check_mounts);
    in_child(check_mounts_in_stacks);
    in_child(check_private_mounts);
    scratch_close(&scratch);
}

static void check_closed(void)
{
    struct stack stack = {0};
    struct um_attr attr;
    struct um_tree_entry entries[4];
    REQUIRE(setresgid(65534, 65534, 65534) == 0);
    REQUIRE(setresuid(65534, 65534, 65534) == 0);
    add_live(&stack, "l");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    CHECK_STR(list(&stack, ""), "closed,dark,merged,open,secret");
    CHECK_INT(stat_of(&stack, "closed").mode, S_IFDIR | 0700);
    CHECK_INT(um_tree_list(stack.tree, stat_of(&stack, "closed").node, 0, entries, 4), -EACCES);
    CHECK_INT(um_tree_lookup(stack.tree, stat_of(&stack, "closed").node, "x", 1, &attr), -EACCES);
    CHECK_STR(list(&stack, "dark"), "(error)"); /* it may be listed, not searched */
    CHECK_INT(stat_of(&stack, "merged").nlink, 1);
    CHECK_STR(content(&stack, "secret"), "(error -13)");
    CHECK_STR(content(&stack, "open"), "x");
    CHECK_INT(stat_of(&stack, "open").nlink, 1); /* the other name is where nobody sees it */
    stack_close(&stack);
}

TEST(what_is_forbidden_stays_so)
{
    struct scratch scratch;
    if (geteuid() != 0) {
        printf("no other user without root; ");
        return;
    }
    REQUIRE(scratch_open(&scratch,
                         "chmod 755 .; mkdir -p l/closed l/dark l/merged u/merged;"
                         "touch l/closed/x l/dark/x; printf x >l/open; ln l/open l/closed/y;"
                         "printf x >l/secret; chmod 600 l/secret; chmod 700 l/closed l/merged;"
                         "chmod 744 l/dark"));
    in_child(check_closed);
    scratch_close(&scratch);
}

/* ---- change, and many askers ------------------------------------------------------------------------------ */

/* Put a file in the place of l/f that has its number on disk: false where the file system gives it to none. */
static bool take_number_over(void)
{
    struct stat old, made = {0};
    char name[32];
    CHECK_INT(stat("l/f", &old), 0);
    CHECK_INT(unlink("l/f"), 0);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "l/%d", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0755);
        CHECK_INT(write(fd, "evil", 4), 4);
        CHECK_INT(fstat(fd, &made), 0);
        close(fd);
        if (made.st_ino == old.st_ino)
            return rename(name, "l/f") == 0;
    }
    return false;
}

TEST(what_has_the_number_of_a_removed_file_is_another_file)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct um_attr attr;
    char byte;
    REQUIRE(scratch_open(&scratch, "mkdir l; printf root >l/f"));
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    uint64_t node = stat_of(&stack, "f").node;
    if (take_number_over()) {
        /* The kernel may keep for long what it was told of the first one, owner and mode. */
        CHECK_INT(um_tree_getattr(stack.tree, node, &attr), -ESTALE);
        CHECK_INT(um_tree_read(stack.tree, node, 0, &byte, 1, 0), -ESTALE);
        CHECK_INT(rename("l/f", "l/new"), 0);
        CHECK_STR(content(&stack, "new"), "evil");
        CHECK(stat_of(&stack, "new").node != node);
        CHECK_INT(um_tree_read(stack.tree, node, 0, &byte, 1, 0), -ESTALE);
    } else {
        fprintf(stderr, "not run, as numbers are not used again here: %s\n", __func__);
    }
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(change_is_an_error_not_a_crash)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct um_attr attr;
    struct um_tree_entry entries[8];
    char byte;
    REQUIRE(scratch_open(&scratch,
                         "mkdir -p l/d/e l/m; printf x >l/f; printf x >l/d/e/g; ln -s t l/s;"
                         "printf x >l/h; touch l/m/1 l/m/2"));
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    uint64_t file = stat_of(&stack, "f").node, deep = stat_of(&stack, "d/e/g").node;
    uint64_t directory = stat_of(&stack, "d").node, link = stat_of(&stack, "s").node;
    uint64_t type = stat_of(&stack, "h").node, many = stat_of(&stack, "m").node;
    CHECK_STR(list(&stack, "m"), "1,2");
    run("rm l/f l/s l/h l/m/1; mv l/d l/moved; mkfifo l/h; mkdir l/f");
    CHECK_INT(um_tree_getattr(stack.tree, file, &attr), -ESTALE);
    CHECK_INT(um_tree_read(stack.tree, file, 0, &byte, 1, 0), -ESTALE);
    const char *target;
    size_t size;
    CHECK_INT(um_tree_readlink(stack.tree, link, &target, &size), -ESTALE);
    CHECK_INT(um_tree_getattr(stack.tree, type, &attr), -ESTALE);
    CHECK_INT(um_tree_read(stack.tree, type, 0, &byte, 1, 0), -ESTALE);
    CHECK(um_tree_list(stack.tree, many, 0, entries, 8) <= 1);
    /* Descriptors that are open may still reach what was moved, or not. */
    um_tree_getattr(stack.tree, deep, &attr);
    um_tree_list(stack.tree, directory, 0, entries, 8);
    um_tree_lookup(stack.tree, directory, "e", 1, &attr);
    um_tree_lookup(stack.tree, 1, "moved", 5, &attr);
    list(&stack, "");
    stack_close(&stack);
    scratch_close(&scratch);
}

static void *ask_everything(void *context)
{
    struct stack *stack = (struct stack *)context;
    for (int round = 0; round < 3; round++)
        check_all(stack);
    return NULL;
}

TEST(many_threads_may_ask_at_once)
{
    struct scratch scratch;
    struct stack stack = {0};
    pthread_t threads[4];
    REQUIRE(scratch_open(&scratch,
                         "mkdir -p l u/moved; for i in 1 2 3 4 5; do mkdir -p l/$i/x u/$i/y;"
                         "touch l/$i/f u/$i/g; ln l/$i/f l/$i/x/f; done; mkdir -p l/was/in;"
                         "ln l/1/f l/was/in/f"));
    set_xattr("u/moved", "user.overlay.redirect", "/was");
    make_whiteout("u/was");
    add_live(&stack, "l");
    add_live(&stack, "u");
    CHECK_INT(stack_open(&stack), 0);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, ask_everything, &stack) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(stat_of(&stack, "1/f").nlink, 3);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(few_descriptors_suffice)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct rlimit before, few;
    char path[32], text[16];
    REQUIRE(scratch_open(&scratch,
                         "mkdir l; for i in $(seq 300); do mkdir l/$i; printf $i >l/$i/f; done"));
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    few = before;
    few.rlim_cur = 30;
    add_live(&stack, "l");
    CHECK_INT(stack_open(&stack), 0);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    for (int i = 1; i <= 300; i++) {
        snprintf(path, sizeof path, "%d/f", i);
        snprintf(text, sizeof text, "%d", i);
        CHECK_STR(content(&stack, path), text);
    }
    check_all(&stack);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    stack_close(&stack);
    scratch_close(&scratch);
}

TEST(without_descriptors_nobody_is_told_what_override_stat_replaces)
{
    struct scratch scratch;
    struct stack stack = {0};
    struct rlimit before, none;
    REQUIRE(scratch_open(&scratch, "mkdir l; touch l/f; chmod 644 l/f"));
    set_xattr("l/f", "user.containers.override_stat", "11:12:600");
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = before;
    none.rlim_cur = 0;
    add_live(&stack, "l");
    stack.layers[0].flags =
        UM_TREE_LAYER_PRIVATE; /* there names are looked at without opening them */
    CHECK_INT(stack_open(&stack), 0);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHECK_INT(stat_error(&stack, "f"), -EMFILE);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK_INT(stat_of(&stack, "f").uid, 11);
    CHECK_INT(stat_of(&stack, "f").mode, S_IFREG | 0600);
    stack_close(&stack);
    scratch_close(&scratch);
}

/* ---- whatever marks say ------------------------------------------------------------------------------ */

static uint32_t pick(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

static void random_path(uint64_t *state, uint32_t layer, char path[64])
{
    int size = snprintf(path, 64, "%u", layer);
    for (uint32_t n = 1 + pick(state, 3); n != 0; n--)
        size += snprintf(path + size, 64 - (size_t)size, "/%c", 'a' + (char)pick(state, 3));
}

/* Make something of few names; many attempts fail, and that is fine. */
static void make_something(uint64_t *state, uint32_t layer)
{
    static const char *const redirects[] = {"/a", "b", "/a/b", "/c/a", "/", "/a//b", "..", "c/b"};
    static const char *const opaques[] = {"y", "x", ""};
    char path[64], other[80];
    random_path(state, layer, path);
    random_path(state, layer, other);
    const char *redirect = redirects[pick(state, 8)], *opaque = opaques[pick(state, 3)];
    switch (pick(state, 10)) {
    case 0:
    case 1:
    case 2:
        mkdir(path, 0755);
        break;
    case 3:
        close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        break;
    case 4:
        if (link(path, other) != 0)
            return;
        break;
    case 5:
        mknod(path, S_IFCHR, makedev(0, 0));
        break;
    case 6:
        snprintf(other, sizeof other, "%.*s.wh.%s", (int)strlen(path) - 1, path,
                 path + strlen(path) - 1);
        close(open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        break;
    case 7:
    case 8:
        lsetxattr(path, "user.overlay.redirect", redirect, strlen(redirect), 0);
        break;
    default:
        lsetxattr(path, "user.overlay.opaque", opaque, strlen(opaque), 0);
        lsetxattr(path, "user.overlay.whiteout", "", 0, 0);
        lsetxattr(path, "user.overlay.metacopy", "", 0, 0);
    }
}

static void check_random(uint64_t seed)
{
    struct stack stack = {0};
    uint64_t state = seed;
    char name[16];
    for (uint32_t layer = 0; layer < 4; layer++) {
        snprintf(name, sizeof name, "%u", layer);
        CHECK_INT(mkdir(name, 0755), 0);
        for (int i = 0; i < 25; i++)
            make_something(&state, layer);
        add_live(&stack, name);
    }
    CHECK_INT(stack_open(&stack), 0);
    unsigned left =
        EXERCISE_ENTRIES; /* lets all directories be known that redirects lead to twice */
    exercise_directory(stack.tree, UM_ROOT_NODE, &left, false);
    check_all(&stack);
    for (uint32_t layer = 0; layer < 4; layer++)
        exercise_changes(stack.tree, layer, &(struct um_layer_summary){0});
    stack_close(&stack);
}

TEST(no_marks_break_anything)
{
    const char *first = getenv("DIRLAYER_SEED"), *seeds = getenv("DIRLAYER_SEEDS");
    uint64_t seed = first ? strtoull(first, NULL, 10) : 1;
    uint64_t end = seed + (seeds ? strtoull(seeds, NULL, 10) : 60);
    for (; seed < end; seed++) {
        struct scratch scratch;
        REQUIRE(scratch_open(&scratch, ":"));
        fprintf(stderr, "%s", seeds ? "." : "");
        check_random(seed);
        scratch_close(&scratch);
    }
}

TEST(a_layer_that_was_removed_lacks_no_name)
{
    struct scratch scratch;
    for (unsigned removable = 0; removable < 2; removable++) {
        REQUIRE(scratch_open(&scratch, "mkdir lower; printf old >lower/f"));
        struct stack stack = {0};
        add_live(&stack, "lower");
        stack.layers[0].flags = removable ? UM_TREE_LAYER_REMOVABLE : 0;
        CHECK_INT(stack_open(&stack), 0);
        CHECK_INT(stat_error(&stack, "other"), -ENOENT);
        REQUIRE(unlink("lower/f") == 0 && rmdir("lower") == 0);
        CHECK_INT(stat_error(&stack, "f"), removable ? -ESTALE : -ENOENT);
        stack_close(&stack);
        scratch_close(&scratch);
    }
}
