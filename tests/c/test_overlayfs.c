/*
 * Live directories against the kernel's overlayfs: random changes through a writable overlayfs make
 * layers with whiteouts, opaque directories, redirects and metacopies; then the tree must show of
 * them what a read-only overlayfs shows. Needs root; all mounts are in a mount namespace that goes
 * with its process.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "exercise.h"
#include "harness.h"

#define LAYERS 4
#define SEEDS 40
#define CHANGES 40

static uint32_t pick(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

/* ---- random changes ---------------------------------------------------------------------------------- */

/* A path of one to three names, of few, below `root`. */
static void random_path(uint64_t *state, const char *root, char path[PATH_MAX])
{
    int size = snprintf(path, PATH_MAX, "%s", root);
    for (uint32_t n = 1 + pick(state, 3); n != 0; n--)
        size += snprintf(path + size, PATH_MAX - (size_t)size, "/%c", 'a' + (char)pick(state, 5));
}

static void remove_all(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        char inside[PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name) < PATH_MAX &&
            unlink(inside) != 0)
            remove_all(inside);
    }
    if (directory != NULL)
        closedir(directory);
    rmdir(path);
}

static void write_file(uint64_t *state, const char *path)
{
    char data[6000];
    int fd = open(path, O_CREAT | O_WRONLY | O_NOFOLLOW | O_NONBLOCK, 0644);
    size_t size = pick(state, sizeof data);
    memset(data, 'a' + (int)pick(state, 26), size);
    if (fd < 0)
        return;
    if (pwrite(fd, data, size, pick(state, 3) * 10000) < 0)
        UM_TEST_FAIL("%s: %s", path, strerror(errno));
    close(fd);
}

static void set_something(uint64_t *state, const char *path)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {pick(state, 100000), 7}};
    char name[] = "user.a";
    name[5] = (char)('a' + pick(state, 3));
    switch (pick(state, 5)) {
    case 0:
        fchmodat(AT_FDCWD, path, 0700 + pick(state, 64), AT_SYMLINK_NOFOLLOW);
        break;
    case 1:
        if (lchown(path, pick(state, 3), pick(state, 3)) != 0)
            return;
        break;
    case 2:
        utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
        break;
    case 3:
        lsetxattr(path, name, "value", pick(state, 6), 0);
        break;
    default:
        lremovexattr(path, name);
    }
}

/* One change; most may fail. */
static void change(uint64_t *state, const char *root)
{
    char path[PATH_MAX], other[PATH_MAX];
    random_path(state, root, path);
    random_path(state, root, other);
    switch (pick(state, 14)) {
    case 0:
    case 1:
    case 2:
        mkdir(path, 0755);
        break;
    case 3:
    case 4:
        write_file(state, path);
        break;
    case 5:
        unlink(path);
        break;
    case 6:
        remove_all(path);
        break;
    case 7:
    case 8:
        rename(path, other);
        break;
    case 9:
        if (link(path, other) != 0)
            return;
        break;
    case 10:
        if (symlink("some/where", path) != 0)
            return;
        break;
    case 11:
        mknod(path, pick(state, 2) ? S_IFIFO | 0600 : S_IFCHR | 0600, makedev(1, 3));
        break;
    default:
        set_something(state, path);
    }
}

/* ---- comparing ------------------------------------------------------------------------------------------ */

/* Names that lead to a file, counted while the tree is walked. */
struct seen {
    uint64_t node;
    uint32_t nlink, names;
};

struct compare {
    struct stack *stack;
    struct seen seen[4096];
    size_t n;
};

static void see(struct compare *compare, const struct um_attr *attr)
{
    size_t at = 0;
    while (at < compare->n && compare->seen[at].node != attr->node)
        at++;
    if (at == compare->n)
        compare->seen[compare->n++] = (struct seen){attr->node, attr->nlink, 0};
    compare->seen[at].names++;
    CHECK_INT(attr->nlink, compare->seen[at].nlink);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All xattrs as text: name=value, sorted. */
static void join_xattrs(char **names, size_t n, char *text)
{
    qsort(names, n, sizeof *names, compare_names);
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        strcat(text, names[i]);
        strcat(text, ",");
        free(names[i]);
    }
}

static void compare_xattrs(struct um_tree *tree, uint64_t node, const char *path)
{
    char list[1024], value[64], ours[2048], kernels[2048], *names[32];
    size_t n = 0;
    ssize_t size = llistxattr(path, list, sizeof list);
    for (ssize_t at = 0; at < size && n < 32; at += (ssize_t)strlen(list + at) + 1) {
        ssize_t got = lgetxattr(path, list + at, value, sizeof value);
        if (asprintf(&names[n++], "%s=%.*s", list + at, (int)got, value) < 0)
            abort();
    }
    join_xattrs(names, n, kernels);
    size = (ssize_t)um_tree_listxattr(tree, node, list, sizeof list);
    n = 0;
    for (ssize_t at = 0; at < size && n < 32; at += (ssize_t)strlen(list + at) + 1) {
        int64_t got =
            um_tree_getxattr(tree, node, list + at, strlen(list + at), value, sizeof value);
        if (asprintf(&names[n++], "%s=%.*s", list + at, (int)got, value) < 0)
            abort();
    }
    join_xattrs(names, n, ours);
    CHECK_STR(ours, kernels);
}

static void compare_content(struct um_tree *tree, uint64_t node, const char *path, int64_t size)
{
    char ours[40000], kernels[40000];
    int fd = open(path, O_RDONLY | O_NOFOLLOW);
    ssize_t got = pread(fd, kernels, sizeof kernels, 0);
    int64_t our_size = um_tree_read(tree, node, 0, ours, sizeof ours, 0);
    close(fd);
    CHECK_INT(our_size, got);
    CHECK_INT(our_size, size);
    CHECK(our_size < 0 || memcmp(ours, kernels, (size_t)our_size) == 0);
}

static void compare_file(struct compare *compare, const char *path, const struct um_attr *attr)
{
    struct um_tree *tree = compare->stack->tree;
    struct stat status;
    char text[256];
    const char *target;
    size_t size;
    REQUIRE(lstat(path, &status) == 0);
    CHECK_INT(attr->mode, status.st_mode);
    CHECK_INT(attr->uid, status.st_uid);
    CHECK_INT(attr->gid, status.st_gid);
    CHECK_INT(attr->mtime, status.st_mtim.tv_sec);
    CHECK_INT(attr->mtime_nsec, status.st_mtim.tv_nsec);
    CHECK_INT(makedev(attr->major, attr->minor), status.st_rdev);
    compare_xattrs(tree, attr->node, path);
    if (S_ISDIR(status.st_mode))
        return;
    see(compare, attr);
    CHECK_INT(attr->size, status.st_size);
    CHECK_INT(attr->blocks, status.st_blocks);
    if (S_ISREG(status.st_mode))
        compare_content(tree, attr->node, path, status.st_size);
    if (S_ISLNK(status.st_mode)) {
        ssize_t got = readlink(path, text, sizeof text);
        CHECK_INT(um_tree_readlink(tree, attr->node, &target, &size), 0);
        CHECK_INT(size, got);
        CHECK(memcmp(target, text, size) == 0);
    }
}

static void compare_directory(struct compare *compare, const char *path, const struct um_attr *attr)
{
    struct dirent **names;
    struct um_tree_entry entry;
    uint64_t cookie = 0;
    uint32_t subdirectories = 0;
    int n = scandir(path, &names, NULL, NULL), left = n - 2; /* without . and .. */
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    int more;
    while ((more = um_tree_list(compare->stack->tree, attr->node, cookie, &entry, 1)) == 1) {
        char inside[PATH_MAX];
        unsigned before = um_test_failed_checks;
        snprintf(inside, sizeof inside, "%s/%.*s", path, (int)entry.name_size, entry.name);
        compare_file(compare, inside, &entry.attr);
        if (um_test_failed_checks != before)
            fprintf(stderr, "  at %s\n", inside);
        subdirectories += S_ISDIR(entry.attr.mode);
        if (S_ISDIR(entry.attr.mode))
            compare_directory(compare, inside, &entry.attr);
        cookie = entry.next;
        left--;
    }
    CHECK_INT(more, 0);
    CHECK_INT(left, 0);
    CHECK_INT(attr->nlink, 2 + subdirectories);
}

/* ---- layers ------------------------------------------------------------------------------------------------ */

/* "lowerdir=3:2:1:0" of the lowest `n` layers. */
static int lower_option(int n, char *option)
{
    int size = sprintf(option, "lowerdir=");
    while (n-- > 0)
        size += sprintf(option + size, "%d%s", n, n ? ":" : "");
    return size;
}

static bool mount_overlay(const char *option)
{
    if (mount("overlay", "merged", "overlay", 0, option) == 0)
        return true;
    UM_TEST_FAIL("overlayfs %s: %s", option, strerror(errno));
    return false;
}

/* Change what the lower layers show, through an overlayfs whose upper becomes layer `number`. */
static void make_layer(uint64_t *state, int number, bool user)
{
    char option[256], name[16];
    sprintf(name, "%d", number);
    CHECK_INT(mkdir(name, 0755), 0);
    if (number != 0) {
        int size = lower_option(number, option);
        sprintf(name, "w%d", number);
        CHECK_INT(mkdir(name, 0755), 0);
        sprintf(option + size, ",upperdir=%d,workdir=w%d,%s", number, number,
                user ? "userxattr" : "redirect_dir=on,metacopy=on");
        if (!mount_overlay(option))
            return;
    }
    for (int i = 0; i < CHANGES; i++)
        change(state, number ? "merged" : "0");
    if (number != 0)
        CHECK_INT(umount("merged"), 0);
}

static void compare_layers(int n, bool user)
{
    struct stack stack = {0};
    static struct compare compare;
    char option[256], name[16];
    unsigned left = EXERCISE_ENTRIES;
    int size = lower_option(n, option);
    strcpy(option + size, user ? ",userxattr" : ",redirect_dir=on,metacopy=on");
    for (int i = 0; i < n; i++) {
        sprintf(name, "%d", i);
        stack_add_directory(&stack, open(name, O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
    REQUIRE(stack_open(&stack) == 0);
    REQUIRE(mount_overlay(option));
    struct um_attr root;
    CHECK_INT(um_tree_getattr(stack.tree, UM_ROOT_NODE, &root), 0);
    compare = (struct compare){.stack = &stack};
    compare_directory(&compare, "merged", &root);
    for (size_t i = 0; i < compare.n; i++)
        CHECK_INT(compare.seen[i].names, compare.seen[i].nlink);
    CHECK_INT(umount("merged"), 0);
    exercise_directory(stack.tree, UM_ROOT_NODE, &left, true);
    stack_close(&stack);
}

static void compare_seed(uint64_t seed)
{
    uint64_t state = seed;
    char name[16];
    bool user = seed % 4 == 0;
    unsigned before = um_test_failed_checks;
    for (int i = 0; i < LAYERS; i++) {
        make_layer(&state, i, user);
        if (i != 0)
            compare_layers(i + 1, user);
    }
    if (um_test_failed_checks != before)
        fprintf(stderr, "  seed %" PRIu64 "\n", seed);
    for (int i = 0; i < LAYERS; i++) {
        sprintf(name, "%d", i);
        remove_all(name);
        sprintf(name, "w%d", i);
        remove_all(name);
    }
}

static int compare_seeds(void)
{
    const char *first = getenv("OVERLAYFS_SEED"), *seeds = getenv("OVERLAYFS_SEEDS");
    uint64_t seed = first ? strtoull(first, NULL, 10) : 1;
    uint64_t end = seed + (seeds ? strtoull(seeds, NULL, 10) : SEEDS);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", "/tmp", "tmpfs", 0, "size=256m") != 0 || chdir("/tmp") != 0 ||
        mkdir("merged", 0755) != 0) {
        UM_TEST_FAIL("no namespace: %s", strerror(errno));
        return 1;
    }
    umask(0);
    for (; seed < end && um_test_failed_checks == 0; seed++)
        compare_seed(seed);
    return um_test_failed_checks != 0;
}

TEST(the_tree_shows_what_overlayfs_shows)
{
    if (geteuid() != 0) {
        printf("not compared with overlayfs: that needs root; ");
        return;
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        exit(compare_seeds());
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
}
