#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#include "harness.h"
#include "upper/upper.h"
#include "upper_machine.h"

/* Single cases that the random machine does not come to: uppers that others wrote or left in the
 * middle of something, steps that fail, names and paths of any length. */

struct world {
    struct stack stack;
    struct um_upper *upper;
    char path[256];
    int directory, above, work;
    unsigned flags;
    uint64_t metacopy_min;
};

#define FILE_SIZE 3 /* of the files that add_line makes */
#define LOWER "low"

static void mount_upper(struct world *w)
{
    const struct um_upper_setup setup = {w->stack.tree, w->above,        w->work,
                                         w->flags,      w->metacopy_min, 0};
    int error = um_upper_open(&setup, &w->upper);
    if (error == 0)
        error = um_upper_recover(w->upper);
    if (error != 0)
        abort();
}

static void remount(struct world *w)
{
    um_upper_close(w->upper);
    mount_upper(w);
}

/* Over the layers of the machine; files of LOWER in them. */
static void world_open(struct world *w, uint64_t metacopy_min)
{
    const char *base = getenv("UM_TEST_SCRATCH");
    *w = (struct world){.flags = UM_UPPER_VOLATILE, .metacopy_min = metacopy_min};
    w->flags |= geteuid() == 0 ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE;
    umask(0);
    snprintf(w->path, sizeof w->path, "%s/um-cases-XXXXXX", base ? base : "/tmp");
    if (mkdtemp(w->path) == NULL)
        abort();
    w->directory = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    w->above = machine_directory(w->directory, "upper");
    w->work = machine_directory(w->directory, "work");
    machine_layers(&w->stack);
    for (size_t i = 0; i < w->stack.n; i++) {
        if (pwrite(w->stack.layers[i].fd, LOWER, FILE_SIZE, 0) != FILE_SIZE)
            abort();
    }
    if (stack_open(&w->stack) != 0)
        abort();
    mount_upper(w);
}

static void world_close(struct world *w)
{
    CHECK_INT(machine_count_names(w->work), 0);
    um_upper_close(w->upper);
    stack_close(&w->stack);
    machine_remove(openat(w->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    close(w->above);
    close(w->work);
    close(w->directory);
    CHECK_INT(rmdir(w->path), 0);
}

/* Look a path up, as the kernel does; every step stays looked up. */
static int find(struct world *w, const char *path, struct um_attr *attr)
{
    int error = um_upper_getattr(w->upper, UM_ROOT_NODE, attr);
    while (error == 0 && *path != '\0') {
        size_t size = strcspn(path, "/");
        error = um_upper_lookup(w->upper, attr->node, path, size, attr);
        path += size + (path[size] == '/');
    }
    return error;
}

static uint64_t node_of(struct world *w, const char *path)
{
    struct um_attr attr;
    int error = find(w, path, &attr);
    if (error != 0)
        UM_TEST_FAIL("%s: %s", path, strerror(-error));
    return error ? 0 : attr.node;
}

static int open_file(struct world *w, uint64_t node, unsigned flags)
{
    int error = um_upper_open_file(w->upper, node, flags);
    if (error == -EAGAIN)
        error = um_upper_copy_up(w->upper, node, 0);
    else
        return error;
    return error ? error : um_upper_open_file(w->upper, node, flags);
}

static void check_content(struct world *w, const char *path, const char *expected)
{
    char got[64] = "";
    struct um_attr attr;
    REQUIRE(find(w, path, &attr) == 0);
    CHECK_INT(attr.size, strlen(expected));
    REQUIRE(open_file(w, attr.node, 0) == 0);
    CHECK_INT(um_upper_read(w->upper, attr.node, 0, got, sizeof got, 0), strlen(expected));
    CHECK_STR(got, expected);
    um_upper_release(w->upper, attr.node);
}

static void put_content(struct world *w, const char *path, const char *content)
{
    uint64_t node = node_of(w, path);
    size_t size = strlen(content);
    REQUIRE(open_file(w, node, UM_UPPER_OPEN_WRITE) == 0);
    CHECK_INT(um_upper_write(w->upper, node, 0, content, size), size);
    um_upper_release(w->upper, node);
}

static uint64_t make_file(struct world *w, const char *name)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr = {0};
    CHECK_INT(um_upper_mknod(w->upper, UM_ROOT_NODE, name, strlen(name), S_IFREG | 0644, 0, 0,
                             &maker, &attr),
              0);
    return attr.node;
}

static void put_file(int fd, const char *name)
{
    int made = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(made >= 0);
    close(made);
}

static int set_mode(struct world *w, const char *path, uint32_t mode)
{
    struct um_upper_changes set = {.which = UM_UPPER_SET_MODE, .mode = mode};
    struct um_attr attr;
    return um_upper_setattr(w->upper, node_of(w, path), &set, &attr);
}

static const char *mark_of(const struct world *w, const char *what, char name[64])
{
    snprintf(name, 64, "%s.overlay.%s", w->flags & UM_UPPER_TRUSTED ? "trusted" : "user", what);
    return name;
}

static bool has_mark(struct world *w, const char *path, const char *what)
{
    char name[64], value[512];
    int fd = openat(w->above, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool has = fd >= 0 && fgetxattr(fd, mark_of(w, what, name), value, sizeof value) >= 0;
    close(fd);
    return has;
}

/* ---- files without their data -------------------------------------------------------------------- */

static void set_many_xattrs(struct world *w, const char *path)
{
    for (unsigned i = 0; i < 30; i++) {
        char name[64];
        int size = snprintf(name, sizeof name, "user.a-name-that-needs-much-room-in-a-list.%u", i);
        CHECK_INT(um_upper_setxattr(w->upper, node_of(w, path), name, (size_t)size, "", 0, 0), 0);
    }
}

TEST(many_xattrs_make_no_metacopy)
{
    static const char *const paths[] = {"new", "dir/a"};
    struct world w;
    world_open(&w, UINT64_MAX);
    make_file(&w, "new");
    for (size_t i = 0; i < 2; i++) {
        put_content(&w, paths[i], "own");
        set_many_xattrs(&w, paths[i]);
    }
    remount(&w);
    for (size_t i = 0; i < 2; i++) {
        check_content(&w, paths[i], "own");
        put_content(&w, paths[i], "Own");
        check_content(&w, paths[i], "Own");
    }
    world_close(&w);
}

/* A daemon that was killed between emptying a file and taking its mark away. */
TEST(a_mark_on_an_empty_file_means_nothing_later_either)
{
    struct world w;
    world_open(&w, 1);
    CHECK_INT(set_mode(&w, "dir/a", 0600), 0);
    CHECK(has_mark(&w, "dir/a", "metacopy"));
    int fd = openat(w.above, "dir/a", O_WRONLY | O_CLOEXEC);
    CHECK_INT(ftruncate(fd, 0), 0);
    close(fd);
    remount(&w);
    check_content(&w, "dir/a", "");
    put_content(&w, "dir/a", "mine");
    remount(&w);
    check_content(&w, "dir/a", "mine");
    world_close(&w);
}

TEST(a_metacopy_keeps_its_data_wherever_it_goes)
{
    struct um_attr attr;
    struct world w;
    world_open(&w, 1);
    CHECK_INT(set_mode(&w, "hard", 0600), 0); /* of a group of names */
    CHECK_INT(um_upper_rename(w.upper, node_of(&w, "dir/sub"), "c", 1, UM_ROOT_NODE, "moved", 5, 0),
              0);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "a", 1, UM_ROOT_NODE, "z", 1, 0), 0);
    CHECK_INT(um_upper_link(w.upper, node_of(&w, "z/b/x"), UM_ROOT_NODE, "linked", 6, &attr), 0);
    for (int again = 0; again < 2; again++) {
        check_content(&w, "hard", LOWER);
        check_content(&w, "moved", LOWER);
        check_content(&w, "z/b/x", LOWER);
        check_content(&w, "linked", LOWER);
        remount(&w);
    }
    put_content(&w, "linked", "new");
    put_content(&w, "z/hard", "New");
    for (int again = 0; again < 2; again++) {
        check_content(&w, "z/b/x", "new");
        check_content(&w, "hard", "New");
        check_content(&w, "moved", LOWER);
        remount(&w);
    }
    world_close(&w);
}

/* The kernel's overlayfs names the data by nothing, where it has the same path, or by a name beside. */
static void put_metacopy(struct world *w, const char *path, const char *redirect)
{
    char name[64];
    put_file(w->above, path);
    int fd = openat(w->above, path, O_WRONLY | O_CLOEXEC);
    CHECK_INT(ftruncate(fd, FILE_SIZE), 0);
    CHECK_INT(fsetxattr(fd, mark_of(w, "metacopy", name), "", 0, 0), 0);
    if (redirect != NULL)
        CHECK_INT(fsetxattr(fd, mark_of(w, "redirect", name), redirect, strlen(redirect), 0), 0);
    close(fd);
}

TEST(a_metacopy_of_the_kernel_keeps_its_data_wherever_it_goes)
{
    struct um_attr attr;
    struct world w;
    world_open(&w, 1);
    CHECK_INT(mkdirat(w.above, "dir", 0755), 0);
    CHECK_INT(mkdirat(w.above, "sub", 0755), 0);
    put_metacopy(&w, "dir/a", NULL);
    put_metacopy(&w, "dir/other", "a");
    put_metacopy(&w, "sub/x", NULL);
    remount(&w);
    uint64_t dir = node_of(&w, "dir"), sub = node_of(&w, "sub"), root = UM_ROOT_NODE;
    check_content(&w, "dir/a", LOWER);
    check_content(&w, "dir/other", LOWER);
    CHECK_INT(um_upper_rename(w.upper, dir, "a", 1, root, "moved", 5, 0), 0);
    CHECK_INT(um_upper_link(w.upper, node_of(&w, "dir/other"), root, "linked", 6, &attr), 0);
    /* Nobody has looked this one up. */
    CHECK_INT(um_upper_rename(w.upper, sub, "x", 1, root, "x", 1, RENAME_EXCHANGE), 0);
    for (int again = 0; again < 2; again++) {
        check_content(&w, "moved", LOWER);
        check_content(&w, "linked", LOWER);
        check_content(&w, "dir/other", LOWER);
        check_content(&w, "x", LOWER);
        remount(&w);
    }
    world_close(&w);
}

/* ---- other lower layers than those that the upper was made for ------------------------------------ */

TEST(a_number_stays_while_it_is_used_whatever_the_layers_are)
{
    struct um_attr attr;
    struct world w;
    world_open(&w, UINT64_MAX);
    w.flags |= UM_UPPER_FOREIGN;
    remount(&w);
    uint64_t node = node_of(&w, "dir/a"), group = node_of(&w, "sub/hard");
    put_content(&w, "dir/a", "new");
    put_content(&w, "sub/x", "New");
    CHECK_INT(node_of(&w, "dir/a"), node);
    CHECK_INT(node_of(&w, "sub/x"), group);
    CHECK_INT(node_of(&w, "sub/hard"), group);
    remount(&w);
    CHECK_INT(find(&w, "dir/a", &attr), 0);
    CHECK(attr.node != node); /* it is not known to be a copy of anything */
    check_content(&w, "dir/a", "new");
    check_content(&w, "sub/hard", "New");
    world_close(&w);
}

TEST(a_copy_from_a_temporary_layer_has_its_number_once)
{
    static const char *const lines[] = {"f scaffold", NULL};
    struct um_attr attr;
    struct world w;
    world_open(&w, UINT64_MAX);
    um_upper_close(w.upper);
    um_tree_close(w.stack.tree);
    CHECK_INT(stack_add(&w.stack, lines), 0);
    w.stack.layers[w.stack.n - 1].flags = UM_TREE_LAYER_TEMPORARY;
    CHECK_INT(stack_open(&w.stack), 0);
    mount_upper(&w);
    uint64_t lasting = node_of(&w, "dir/a"), once = node_of(&w, "scaffold");
    put_content(&w, "dir/a", "new");
    put_content(&w, "scaffold", "New");
    CHECK_INT(node_of(&w, "dir/a"), lasting);
    CHECK_INT(node_of(&w, "scaffold"), once);
    remount(&w); /* the next scaffold may give the number to another file */
    CHECK_INT(node_of(&w, "dir/a"), lasting);
    CHECK_INT(find(&w, "scaffold", &attr), 0);
    CHECK(attr.node != once);
    check_content(&w, "scaffold", "New");
    world_close(&w);
}

/* ---- whiteouts by file ------------------------------------------------------------------------------ */

TEST(names_hidden_by_files_can_be_made_again)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr, parent;
    struct world w;
    world_open(&w, 1);
    CHECK_INT(find(&w, "a", &parent), 0);
    uint32_t links = parent.nlink;
    CHECK_INT(mkdirat(w.above, "a", 0755), 0);
    int fd = openat(w.above, "a", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put_file(fd, ".wh.b");
    put_file(fd, ".wh.hard");
    remount(&w);
    uint64_t a = node_of(&w, "a");
    CHECK_INT(find(&w, "a/b", &attr), -ENOENT);
    CHECK_INT(find(&w, "a/hard", &attr), -ENOENT);
    CHECK_INT(find(&w, "a", &parent), 0);
    CHECK_INT(parent.nlink, links - 1);
    CHECK_INT(um_upper_mkdir(w.upper, a, "b", 1, 0755, &maker, &attr), 0);
    CHECK_INT(um_upper_symlink(w.upper, a, "hard", 4, "t", 1, &maker, &attr), 0);
    for (int again = 0; again < 2; again++) {
        CHECK_INT(find(&w, "a", &parent), 0);
        CHECK_INT(parent.nlink, links);
        CHECK_INT(find(&w, "a/b/c", &attr), -ENOENT);
        CHECK_INT(find(&w, "a/hard", &attr), 0);
        remount(&w);
    }
    a = node_of(&w, "a");
    CHECK_INT(um_upper_rmdir(w.upper, a, "b", 1), 0);
    CHECK_INT(um_upper_rename(w.upper, a, "sub", 3, a, "b", 1, 0), 0);
    CHECK_INT(um_upper_unlink(w.upper, a, "hard", 4), 0);
    for (int again = 0; again < 2; again++) {
        CHECK_INT(find(&w, "a/b", &attr), 0);
        CHECK(S_ISREG(attr.mode));
        CHECK_INT(find(&w, "a/hard", &attr), -ENOENT);
        CHECK_INT(find(&w, "a/sub", &attr), -ENOENT);
        CHECK_INT(find(&w, "a", &parent), 0);
        CHECK_INT(parent.nlink, links - 1);
        remount(&w);
    }
    close(fd);
    world_close(&w);
}

/* ---- steps that fail ---------------------------------------------------------------------------------- */

static bool set_immutable(int fd, const char *path, bool immutable)
{
    int flags = 0;
    int file = openat(fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done = file >= 0 && ioctl(file, FS_IOC_GETFLAGS, &flags) == 0;
    flags = immutable ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
    done = done && ioctl(file, FS_IOC_SETFLAGS, &flags) == 0;
    close(file);
    return done;
}

/* The directory that should have been replaced shows nothing, and holds a whiteout. */
TEST(a_rename_that_fails_leaves_the_directory_that_it_should_replace)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr, before;
    struct um_upper_list *list;
    char value[8];
    struct world w;
    world_open(&w, UINT64_MAX);
    uint64_t sub = node_of(&w, "sub"), dir, moved;
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "from", 4, 0755, &maker, &attr), 0);
    moved = attr.node;
    CHECK_INT(um_upper_mkdir(w.upper, moved, "inner", 5, 0755, &maker, &attr), 0);
    dir = node_of(&w, "sub/dir");
    CHECK_INT(um_upper_setxattr(w.upper, dir, "user.kept", 9, "yes", 3, 0), 0);
    CHECK_INT(um_upper_unlink(w.upper, dir, "x", 1), 0);
    CHECK_INT(um_upper_getattr(w.upper, dir, &before), 0);
    CHECK_INT(um_upper_list_open(w.upper, dir, &list), 0);
    if (set_immutable(w.above, "from", true)) {
        CHECK_INT(um_upper_rename(w.upper, moved, "inner", 5, sub, "dir", 3, 0), -EPERM);
        CHECK_INT(um_upper_getattr(w.upper, dir, &attr), 0);
        CHECK_INT(attr.mtime, before.mtime);
        CHECK_INT(attr.mtime_nsec, before.mtime_nsec);
        CHECK_INT(um_upper_getxattr(w.upper, dir, "user.kept", 9, value, sizeof value), 3);
        CHECK_INT(node_of(&w, "sub/dir"), dir);
        CHECK_INT(um_upper_mkdir(w.upper, dir, "y", 1, 0755, &maker, &attr), 0);
        CHECK_INT(find(&w, "sub/dir/y", &attr), 0);
        CHECK_INT(um_upper_rmdir(w.upper, dir, "y", 1), 0);
        CHECK_INT(machine_count_names(w.work), 0);
        CHECK(set_immutable(w.above, "from", false));
    }
    CHECK_INT(um_upper_rename(w.upper, moved, "inner", 5, sub, "dir", 3, 0), 0);
    um_upper_list_close(list);
    CHECK_INT(find(&w, "sub/dir/x", &attr), -ENOENT);
    remount(&w);
    CHECK_INT(find(&w, "sub/dir", &attr), 0);
    CHECK_INT(find(&w, "sub/dir/x", &attr), -ENOENT);
    world_close(&w);
}

/* Somebody takes a directory away from the disk, and the mount the one above it. */
TEST(a_directory_that_was_torn_from_its_place_is_stale)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr;
    struct world w;
    world_open(&w, UINT64_MAX);
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "outer", 5, 0755, &maker, &attr), 0);
    CHECK_INT(um_upper_mkdir(w.upper, attr.node, "inner", 5, 0755, &maker, &attr), 0);
    CHECK_INT(unlinkat(w.above, "outer/inner", AT_REMOVEDIR), 0);
    CHECK_INT(um_upper_rmdir(w.upper, UM_ROOT_NODE, "outer", 5), 0);
    CHECK_INT(um_upper_lookup(w.upper, attr.node, "x", 1, &attr), -ESTALE);
    CHECK_INT(um_upper_mkdir(w.upper, attr.node, "x", 1, 0755, &maker, &attr), -ESTALE);
    world_close(&w);
}

static void exchange_on_disk(struct world *w, const char *a, const char *b)
{
    CHECK_INT(renameat2(w->above, a, w->above, b, RENAME_EXCHANGE), 0);
}

/* The kernel has asked who may change "mine"; on disk somebody exchanged it with "other". */
TEST(what_was_exchanged_on_disk_is_not_taken_for_what_was_found)
{
    struct um_upper_changes mode = {.which = UM_UPPER_SET_MODE, .mode = 0666},
                            empty = {.which = UM_UPPER_SET_SIZE};
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr, made = {0};
    struct stat before, after;
    char value[8];
    struct world w;
    world_open(&w, UINT64_MAX);
    w.flags |= UM_UPPER_OVERRIDE | UM_UPPER_OPEN;
    remount(&w);
    uint64_t mine = make_file(&w, "mine"), other = make_file(&w, "other");
    put_content(&w, "mine", "mine");
    put_content(&w, "other", "other");
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "my-dir", 6, 0755, &maker, &made), 0);
    uint64_t directory = made.node;
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "other-dir", 9, 0700, &maker, &made), 0);
    exchange_on_disk(&w, "mine", "other");
    exchange_on_disk(&w, "my-dir", "other-dir");
    CHECK_INT(fstatat(w.above, "mine", &before, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_INT(um_upper_setattr(w.upper, mine, &mode, &attr), -ESTALE);
    CHECK_INT(um_upper_setattr(w.upper, mine, &empty, &attr), -ESTALE);
    CHECK_INT(um_upper_setattr(w.upper, directory, &mode, &attr), -ESTALE);
    CHECK_INT(um_upper_getattr(w.upper, mine, &attr), -ESTALE);
    CHECK_INT(um_upper_setxattr(w.upper, mine, "user.x", 6, "x", 1, 0), -ESTALE);
    CHECK_INT(um_upper_getxattr(w.upper, mine, "user.x", 6, value, sizeof value), -ESTALE);
    CHECK_INT(um_upper_open_file(w.upper, mine, 0), -ESTALE);
    CHECK_INT(um_upper_link(w.upper, mine, UM_ROOT_NODE, "mine-2", 6, &attr), -ESTALE);
    CHECK_INT(um_upper_mkdir(w.upper, directory, "x", 1, 0755, &maker, &attr), -ESTALE);
    CHECK_INT(um_upper_lookup(w.upper, directory, "x", 1, &attr), -ESTALE);
    CHECK_INT(fstatat(w.above, "mine", &after, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_INT(after.st_mode, before.st_mode);
    CHECK_INT(after.st_size, 5);
    exchange_on_disk(&w, "mine", "other");
    exchange_on_disk(&w, "my-dir", "other-dir");
    CHECK_INT(um_upper_setattr(w.upper, mine, &mode, &attr), 0);
    CHECK_INT(um_upper_mkdir(w.upper, directory, "x", 1, 0755, &maker, &attr), 0);
    CHECK_INT(um_upper_getattr(w.upper, other, &attr), 0);
    world_close(&w);
}

/* A directory that continues a lower one has its number, whichever directory stands there on disk. */
TEST(nothing_more_is_done_in_a_directory_that_was_exchanged)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr;
    struct stat status;
    struct world w;
    world_open(&w, UINT64_MAX);
    w.flags |= UM_UPPER_OVERRIDE | UM_UPPER_OPEN;
    remount(&w);
    uint64_t directory = node_of(&w, "dir");
    CHECK_INT(um_upper_mkdir(w.upper, directory, "first", 5, 0755, &maker, &attr), 0);
    CHECK_INT(mkdirat(w.above, "new", 0755), 0);
    exchange_on_disk(&w, "dir", "new");
    CHECK_INT(node_of(&w, "dir"), directory);
    CHECK_INT(um_upper_mkdir(w.upper, directory, "second", 6, 0755, &maker, &attr), 0);
    CHECK_INT(fstatat(w.above, "dir/second", &status, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_INT(fstatat(w.above, "new/second", &status, AT_SYMLINK_NOFOLLOW), -1);
    world_close(&w);
}

TEST(nothing_leads_out_of_the_upper)
{
    struct um_attr attr;
    struct world w;
    world_open(&w, UINT64_MAX);
    CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, "..", 2, &attr), -ENOENT);
    CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, ".", 1, &attr), -ENOENT);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "..", 2, UM_ROOT_NODE, "y", 1, 0), -ENOENT);
    CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, "a/../..", 7, &attr), -EINVAL);
    world_close(&w);
}

/* ---- names and paths of any length ---------------------------------------------------------------------- */

TEST(names_of_255_bytes_can_be_made_and_removed)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr;
    char name[UM_NAME_MAX + 2], other[UM_NAME_MAX + 1];
    struct world w;
    world_open(&w, UINT64_MAX);
    for (size_t size = UM_NAME_MAX - 5; size <= UM_NAME_MAX; size++) {
        memset(name, 'n', sizeof name);
        memset(other, 'o', sizeof other);
        CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, name, size, 0755, &maker, &attr), 0);
        CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, name, size, UM_ROOT_NODE, other, size, 0),
                  0);
        CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, name, size, &attr), -ENOENT);
        CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, other, size, &attr), 0);
        CHECK_INT(um_upper_rmdir(w.upper, UM_ROOT_NODE, other, size), 0);
    }
    size_t size = UM_NAME_MAX + 1;
    CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, name, size, &attr), -ENAMETOOLONG);
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, name, size, 0755, &maker, &attr),
              -ENAMETOOLONG);
    CHECK_INT(um_upper_unlink(w.upper, UM_ROOT_NODE, name, size), -ENAMETOOLONG);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "b", 1, UM_ROOT_NODE, name, size, 0),
              -ENAMETOOLONG);
    world_close(&w);
}

#define DEPTH 300
#define LONG_NAME 200

static void long_name(unsigned depth, char name[LONG_NAME])
{
    memset(name, 'l', LONG_NAME);
    name[0] = (char)('a' + depth % 20);
}

TEST(paths_may_be_longer_than_the_kernel_takes_at_once)
{
    struct um_upper_maker maker = machine_maker();
    struct um_upper_list *list;
    struct um_tree_entry entry;
    struct um_attr attr;
    char name[LONG_NAME];
    static uint64_t nodes[DEPTH + 1];
    struct world w;
    world_open(&w, 1);
    /* All inside of a directory that continues a lower one, whose redirect is needed far below. */
    nodes[0] = node_of(&w, "dir");
    for (unsigned i = 0; i < DEPTH; i++) {
        long_name(i, name);
        CHECK_INT(um_upper_mkdir(w.upper, nodes[i], name, LONG_NAME, 0755, &maker, &attr), 0);
        nodes[i + 1] = attr.node;
    }
    uint64_t root = UM_ROOT_NODE, deep = nodes[DEPTH];
    CHECK_INT(um_upper_rename(w.upper, root, "a", 1, deep, "a", 1, 0), 0);
    CHECK_INT(um_upper_rename(w.upper, root, "b", 1, deep, "b", 1, 0), 0);
    CHECK_INT(um_upper_lookup(w.upper, deep, "a", 1, &attr), 0);
    uint64_t a = attr.node;
    CHECK_INT(um_upper_lookup(w.upper, a, "hard", 4, &attr), 0);
    CHECK_INT(attr.nlink, 4);
    CHECK_INT(open_file(&w, attr.node, UM_UPPER_OPEN_WRITE), 0);
    um_upper_release(w.upper, attr.node);
    CHECK_INT(um_upper_list_open(w.upper, deep, &list), 0);
    CHECK_INT(um_upper_list_next(list, 0, &entry, 1), 1);
    CHECK_INT(um_upper_list_next(list, entry.next, &entry, 1), 1);
    CHECK_INT(um_upper_list_next(list, entry.next, &entry, 1), 0);
    um_upper_list_close(list);
    CHECK_INT(um_upper_unlink(w.upper, deep, "b", 1), 0);
    CHECK_INT(um_upper_rename(w.upper, deep, "a", 1, root, "back", 4, 0), 0);
    CHECK_INT(find(&w, "back/b/c", &attr), 0);
    for (unsigned i = DEPTH; i-- > 0;) {
        long_name(i, name);
        CHECK_INT(um_upper_rmdir(w.upper, nodes[i], name, LONG_NAME), 0);
    }
    remount(&w);
    CHECK_INT(find(&w, "back/b/c", &attr), 0);
    CHECK_INT(find(&w, "a", &attr), -ENOENT);
    CHECK_INT(find(&w, "hard", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    world_close(&w);
}

/* ---- what is remembered of objects ------------------------------------------------------------------ */

/* Make a file with a umask, and compare what it shows. */
static void check_made(struct world *w, uint64_t directory, const char *name, uint32_t mode,
                       uint32_t gid)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr = {0}, again = {0};
    maker.umask = 027;
    CHECK_INT(um_upper_mknod(w->upper, directory, name, strlen(name), S_IFREG | 0666, 0, 0, &maker,
                             &attr),
              0);
    CHECK_INT(attr.mode & 07777, mode);
    CHECK_INT(attr.gid, gid);
    CHECK_INT(um_upper_lookup(w->upper, directory, name, strlen(name), &again), 0);
    CHECK(memcmp(&attr, &again, sizeof attr) == 0);
}

/* A default ACL of user::rwx, group::rwx, other::--x. */
static const uint8_t default_acl[] = {2,    0,   0, 0, 1,   0,   7,   0,   255, 255,
                                      255,  255, 4, 0, 7,   0,   255, 255, 255, 255,
                                      0x20, 0,   1, 0, 255, 255, 255, 255};

TEST(what_a_directory_gives_to_new_files_follows_its_changes)
{
    static const char acl[] = "system.posix_acl_default";
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr, directory;
    struct world w;
    world_open(&w, 0);
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "new", 3, 0755, &maker, &directory), 0);
    uint64_t node = directory.node;
    check_made(&w, node, "masked", 0640, maker.gid);
    CHECK_INT(
        um_upper_setxattr(w.upper, node, acl, strlen(acl), default_acl, sizeof default_acl, 0), 0);
    check_made(&w, node, "inherited", 0660, maker.gid);
    CHECK_INT(um_upper_removexattr(w.upper, node, acl, strlen(acl)), 0);
    check_made(&w, node, "masked again", 0640, maker.gid);
    struct um_upper_changes changes = {
        .which = UM_UPPER_SET_MODE | UM_UPPER_SET_GID, .mode = 02755, .gid = 4321};
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
    check_made(&w, node, "of the group", 0640, 4321);
    changes.mode = 0755;
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
    check_made(&w, node, "of the maker", 0640, maker.gid);
    world_close(&w);
}

TEST(a_new_file_has_the_capability_that_it_gets)
{
    static const char name[] = "security.capability";
    static const uint8_t capability[20] = {0, 0, 0, 2, 1};
    struct world w;
    world_open(&w, 0);
    uint64_t node = make_file(&w, "new");
    CHECK_INT(um_upper_getxattr(w.upper, node, name, strlen(name), NULL, 0), -ENODATA);
    CHECK_INT(
        um_upper_setxattr(w.upper, node, name, strlen(name), capability, sizeof capability, 0), 0);
    CHECK_INT(um_upper_getxattr(w.upper, node, name, strlen(name), NULL, 0), sizeof capability);
    put_content(&w, "new", "written"); /* which takes it away */
    CHECK_INT(um_upper_getxattr(w.upper, node, name, strlen(name), NULL, 0), -ENODATA);
    world_close(&w);
}

static unsigned open_descriptors(void)
{
    int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    unsigned n = machine_count_names(fd);
    close(fd);
    return n;
}

/* The descriptors of new files are kept for whoever writes first: of few files, and of whichever name. */
TEST(few_descriptors_of_new_files_are_kept)
{
    enum { FILES = 100 };
    char name[16];
    struct um_attr attr;
    struct world w;
    world_open(&w, 0);
    uint64_t kept = make_file(&w, "first"); /* this opens what stays open */
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "%u", i);
        make_file(&w, name);
    }
    CHECK(open_descriptors() < before + 10);
    put_content(&w, "first", "late");
    check_content(&w, "first", "late");
    kept = make_file(&w, "moved");
    make_file(&w, "other");
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "moved", 5, UM_ROOT_NODE, "there", 5, 0), 0);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "other", 5, UM_ROOT_NODE, "moved", 5, 0), 0);
    put_content(&w, "there", "mine");
    put_content(&w, "moved", "another's");
    check_content(&w, "there", "mine");
    check_content(&w, "moved", "another's");
    CHECK_INT(um_upper_lookup(w.upper, UM_ROOT_NODE, "there", 5, &attr), 0);
    CHECK_INT(attr.node, kept);
    kept = make_file(&w, "gone");
    CHECK_INT(um_upper_unlink(w.upper, UM_ROOT_NODE, "gone", 4), 0);
    CHECK_INT(um_upper_open_file(w.upper, kept, UM_UPPER_OPEN_WRITE), 0);
    CHECK_INT(um_upper_write(w.upper, kept, 0, "nameless", 8), 8);
    um_upper_release(w.upper, kept);
    um_upper_forget(w.upper, kept, 1);
    CHECK(open_descriptors() < before + 10);
    remount(&w);
    check_content(&w, "first", "late");
    check_content(&w, "there", "mine");
    check_content(&w, "moved", "another's");
    world_close(&w);
}

/* A name that is made is asked for only where the disk can't say. */
TEST(what_is_there_is_not_made)
{
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr;
    struct world w;
    world_open(&w, 0);
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "new", 3, 0755, &maker, &attr), 0);
    uint64_t node = attr.node;
    CHECK_INT(um_upper_symlink(w.upper, node, "link", 4, "/", 1, &maker, &attr), 0);
    CHECK_INT(um_upper_mknod(w.upper, node, "link", 4, S_IFREG | 0644, 0, 0, &maker, &attr),
              -EEXIST);
    CHECK_INT(um_upper_mkdir(w.upper, node, "link", 4, 0755, &maker, &attr), -EEXIST);
    CHECK_INT(um_upper_symlink(w.upper, node, "link", 4, "/", 1, &maker, &attr), -EEXIST);
    /* A whiteout that an earlier daemon left where nothing is to be hidden. */
    int directory = openat(w.above, "new", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_INT(mknodat(directory, "hidden", S_IFCHR, makedev(0, 0)), 0);
    close(directory);
    CHECK_INT(um_upper_mknod(w.upper, node, "hidden", 6, S_IFREG | 0644, 0, 0, &maker, &attr), 0);
    CHECK(S_ISREG(attr.mode));
    CHECK_INT(um_upper_lookup(w.upper, node, "hidden", 6, &attr), 0);
    CHECK(S_ISREG(attr.mode));
    CHECK_INT(um_upper_rmdir(w.upper, UM_ROOT_NODE, "new", 3), -ENOTEMPTY);
    CHECK_INT(um_upper_unlink(w.upper, node, "hidden", 6), 0);
    CHECK_INT(um_upper_unlink(w.upper, node, "link", 4), 0);
    CHECK_INT(um_upper_rmdir(w.upper, UM_ROOT_NODE, "new", 3), 0);
    world_close(&w);
}
