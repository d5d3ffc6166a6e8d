#include <dirent.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "harness.h"
#include "layers.h"
#include "upper/nodes.h"
#include "upper/publish.h"
#include "upper/settle.h"
#include "upper/shown_names.h"
#include "upper/work.h"

/* Copy-up from image layers, and what is found by who mounts after a crash. As root the upper keeps
 * owners and devices itself; as an ordinary user the same tests go through override_stat. */

#define BIG 300000u

/* user::rwx user:1234:r-x group::r-x mask::r-x other::--- */
#define ACL                                                              \
    "\2\0\0\0"                                                           \
    "\1\0\7\0\377\377\377\377\2\0\5\0\322\4\0\0\4\0\5\0\377\377\377\377" \
    "\20\0\5\0\377\377\377\377\40\0\0\0\377\377\377\377"
/* VFS_CAP_REVISION_2, effective, CAP_NET_RAW */
#define CAPABILITY "\1\0\0\2\0\40\0\0\0\0\0\0\0\0\0\0\0\0\0\0"

#define XATTR(name, value) \
    {{(const uint8_t *)(name), sizeof(name) - 1}, {(const uint8_t *)(value), sizeof(value) - 1}}

/* ---- what is waited for -------------------------------------------------------------------------- */

/* This program's own names for the calls that wait for a disk: they count, and do the same. */
static atomic_uint whole_syncs, data_waits;
static atomic_uint data_flags; /* of all sync_file_range calls */

int fsync(int fd)
{
    atomic_fetch_add(&whole_syncs, 1);
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    atomic_fetch_add(&whole_syncs, 1);
    return (int)syscall(SYS_fdatasync, fd);
}

int syncfs(int fd)
{
    atomic_fetch_add(&whole_syncs, 1);
    return (int)syscall(SYS_syncfs, fd);
}

int sync_file_range(int fd, off64_t offset, off64_t size, unsigned flags)
{
    atomic_fetch_add(&data_waits, 1);
    atomic_fetch_or(&data_flags, ~flags);
    return (int)syscall(SYS_sync_file_range, fd, offset, size, flags);
}

/* ---- the layers ---------------------------------------------------------------------------------- */

static const struct um_tar_xattr directory_xattrs[] = {
    XATTR("system.posix_acl_access", ACL),
    XATTR("system.posix_acl_default", ACL),
    XATTR("user.comment", "a directory"),
};
static const struct um_tar_xattr file_xattrs[] = {
    XATTR("user.empty", ""),
    XATTR("user.comment", "a file"),
    XATTR("security.capability", CAPABILITY),
};
/* Marks in an image are attributes that nobody sees: in the upper they would mean something. */
static const struct um_tar_xattr evil_xattrs[] = {
    XATTR("user.overlay.redirect", "/dir"),
    XATTR("trusted.overlay.opaque", "y"),
    XATTR("user.containers.override_stat", "0:0:04777"),
    XATTR("user.kept", "yes"),
    XATTR("user.overlay.overlay.opaque", "y"),
    XATTR("user.overlay.overlay.overlay.redirect", "/dir"),
};
static const struct um_tar_extent extents[] = {{100000, 5000, 4096}, {300000, 8192, 16384}};

#define XATTRS(array) .xattrs = (array), .n_xattrs = sizeof(array) / sizeof *(array)

static const struct um_tar_entry entries[] = {
    {.type = UM_TAR_DIRECTORY,
     .mode = 02750,
     .uid = 10,
     .gid = 20,
     .mtime = 1000,
     .mtime_nsec = 123456789,
     .name = {(const uint8_t *)"dir", 3},
     XATTRS(directory_xattrs)},
    {.type = UM_TAR_DIRECTORY,
     .mode = 0555,
     .mtime = 1001,
     .name = {(const uint8_t *)"dir/deep", 8}},
    {.type = UM_TAR_FILE,
     .mode = 04755,
     .uid = 1000,
     .gid = 1001,
     .mtime = 2000,
     .mtime_nsec = 987654321,
     .size = BIG,
     .stored = 1536,
     .stored_size = BIG,
     .name = {(const uint8_t *)"dir/deep/data", 13},
     XATTRS(file_xattrs)},
    {.type = UM_TAR_FILE,
     .mode = 0444,
     .mtime = -5,
     .mtime_nsec = 1,
     .size = 600000,
     .stored = 4096,
     .stored_size = 13192,
     .sparse = true,
     .extents = extents,
     .n_extents = 2,
     .name = {(const uint8_t *)"dir/sparse", 10}},
    {.type = UM_TAR_FILE,
     .mode = 0600,
     .mtime = 7,
     .size = 100000,
     .stored = 8192,
     .stored_size = 100000,
     .name = {(const uint8_t *)"aligned", 7},
     XATTRS(evil_xattrs)},
    {.type = UM_TAR_FILE,
     .mode = 0640,
     .gid = 7,
     .mtime = 3000,
     .size = 5000,
     .stored = 512,
     .stored_size = 5000,
     .name = {(const uint8_t *)"one", 3}},
    {.type = UM_TAR_HARDLINK,
     .name = {(const uint8_t *)"two", 3},
     .link = {(const uint8_t *)"one", 3}},
    {.type = UM_TAR_HARDLINK,
     .name = {(const uint8_t *)"dir/three", 9},
     .link = {(const uint8_t *)"one", 3}},
    {.type = UM_TAR_SYMLINK,
     .mode = 0777,
     .mtime = 4000,
     .mtime_nsec = 5,
     .name = {(const uint8_t *)"link", 4},
     .link = {(const uint8_t *)"nowhere/at/all", 14}},
    {.type = UM_TAR_FIFO, .mode = 0620, .gid = 5, .mtime = 5, .name = {(const uint8_t *)"fifo", 4}},
    {.type = UM_TAR_CHARACTER,
     .mode = 0666,
     .mtime = 6,
     .major = 1,
     .minor = 3,
     .name = {(const uint8_t *)"device", 6}},
    {.type = UM_TAR_FILE,
     .mode = 02711,
     .uid = 3,
     .gid = 4,
     .mtime = 8,
     .name = {(const uint8_t *)"empty", 5}},
    {.type = UM_TAR_DIRECTORY, .mode = 0755, .mtime = 9, .name = {(const uint8_t *)"bare", 4}},
};

static const char *const paths[] = {"dir",  "dir/deep", "dir/deep/data", "dir/sparse", "aligned",
                                    "one",  "two",      "dir/three",     "top/four",   "link",
                                    "fifo", "device",   "empty",         "bare"};
#define N_PATHS (sizeof paths / sizeof *paths)

static const char *const top_layer[] = {"d top", "h top/four -> one", NULL};

static int add_layer(struct stack *stack)
{
    struct um_fault fault = {0};
    struct um_indexer *indexer;
    int fd = make_memfd(0);
    int error = um_indexer_open(NULL, &indexer);
    for (size_t i = 0; error == 0 && i < sizeof entries / sizeof *entries; i++)
        error = um_indexer_add(indexer, &entries[i], &fault);
    if (error == 0)
        error = um_indexer_finish(indexer, LAYER_BYTES, fd, &fault);
    um_indexer_close(indexer);
    if (error == 0)
        error = stack_push(stack, fd, &fault);
    return error;
}

static void write_payload(int fd)
{
    static uint8_t bytes[LAYER_BYTES];
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof bytes; i++) {
        state = state * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(state >> 24) | 1; /* never 0, as a hole is */
    }
    if (pwrite(fd, bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        abort();
}

/* ---- a mount --------------------------------------------------------------------------------------- */

struct world {
    struct stack stack;
    struct um_upper *upper;
    char path[256];
    int directory, above, work;
    unsigned flags;
    uint64_t metacopy_min;
};

static bool is_root(void)
{
    return geteuid() == 0;
}

static int mount_upper(struct world *w)
{
    const struct um_upper_setup setup = {w->stack.tree, w->above,        w->work,
                                         w->flags,      w->metacopy_min, 0};
    int error = um_upper_open(&setup, &w->upper);
    if (error == 0)
        error = um_upper_recover(w->upper);
    return error;
}

static int make_directory(int fd, const char *name)
{
    mkdirat(fd, name, 0755);
    return openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The tree alone, with an upper and a work directory below `path`. The data of its layer is on the same
 * file system, or in memory. */
static void world_open_at(struct world *w, const char *path, bool in_memory)
{
    *w = (struct world){.flags = is_root() ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE,
                        .metacopy_min = UINT64_MAX};
    snprintf(w->path, sizeof w->path, "%s", path);
    w->directory = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    w->above = make_directory(w->directory, "upper");
    w->work = make_directory(w->directory, "work");
    if (add_layer(&w->stack) != 0 || stack_add(&w->stack, top_layer) != 0)
        abort();
    int fd = in_memory ? -1 : openat(w->directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) {
        close(w->stack.layers[0].fd);
        w->stack.layers[0].fd = fd;
    }
    write_payload(w->stack.layers[0].fd);
    if (stack_open(&w->stack) != 0)
        abort();
    if (mount_upper(w) != 0)
        abort();
}

static void make_scratch(char *path, size_t size)
{
    const char *base = getenv("UM_TEST_SCRATCH");
    snprintf(path, size, "%s/um-copyup-XXXXXX", base ? base : "/tmp");
    if (mkdtemp(path) == NULL)
        abort();
}

static void world_open(struct world *w)
{
    char path[256];
    make_scratch(path, sizeof path);
    world_open_at(w, path, false);
}

static void remount(struct world *w, unsigned flags)
{
    um_upper_close(w->upper);
    w->upper = NULL;
    w->flags |= flags;
    CHECK_INT(mount_upper(w), 0);
}

static void world_release(struct world *w)
{
    um_upper_close(w->upper);
    stack_close(&w->stack);
    close(w->above);
    close(w->work);
    close(w->directory);
}

static void world_close(struct world *w)
{
    um_upper_remove_tree(w->directory, "upper");
    um_upper_remove_tree(w->directory, "work");
    world_release(w);
    CHECK_INT(rmdir(w->path), 0);
}

static int find(struct world *w, const char *path, struct um_attr *attr)
{
    int error = 0;
    *attr = (struct um_attr){.node = UM_ROOT_NODE};
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

static int raise_directory(struct world *w, uint64_t node)
{
    pthread_rwlock_wrlock(&w->upper->lock);
    struct um_upper_node *record = um_upper_node_find(w->upper, node);
    int error = record ? um_upper_copy_up_directory(w->upper, record) : -ESTALE;
    pthread_rwlock_unlock(&w->upper->lock);
    return error;
}

static int copy_up(struct world *w, const char *path)
{
    struct um_attr attr;
    int error = find(w, path, &attr);
    if (error != 0)
        return error;
    return S_ISDIR(attr.mode) ? raise_directory(w, attr.node)
                              : um_upper_copy_up(w->upper, attr.node, 0);
}

static size_t count_entries(int fd)
{
    int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fdopendir(again);
    size_t n = 0;
    while (readdir(stream) != NULL)
        n++;
    closedir(stream);
    return n - 2;
}

static bool on_disk(struct world *w, const char *path, struct stat *status)
{
    return fstatat(w->above, path, status, AT_SYMLINK_NOFOLLOW) == 0;
}

static void check_attr(const char *path, const struct um_attr *now, const struct um_attr *before)
{
    unsigned failed = um_test_failed_checks;
    /* An ordinary user's symlink can't say what it is a copy of, nor whose it is. */
    bool tells = is_root() || !S_ISLNK(now->mode);
    CHECK(!tells || now->node == before->node);
    CHECK_INT(now->mode, before->mode);
    CHECK_INT(now->nlink, before->nlink);
    CHECK_INT(now->mtime, before->mtime);
    CHECK_INT(now->mtime_nsec, before->mtime_nsec);
    CHECK_INT(now->major, before->major);
    CHECK_INT(now->minor, before->minor);
    if (tells) {
        CHECK_INT(now->uid, before->uid);
        CHECK_INT(now->gid, before->gid);
    }
    if (!S_ISDIR(now->mode))
        CHECK_INT(now->size, before->size);
    if (failed != um_test_failed_checks)
        fprintf(stderr, "  of %s\n", path);
}

/* The file in the mount has the bytes that the lower file has. */
static void check_data_of(struct world *w, const char *path, const char *below)
{
    static uint8_t here[LAYER_BYTES], there[LAYER_BYTES];
    struct um_attr attr, lower;
    REQUIRE(find(w, path, &attr) == 0 && stack_stat(&w->stack, below, &lower) == 0);
    REQUIRE(um_upper_open_file(w->upper, attr.node, 0) == 0);
    int64_t n = um_upper_read(w->upper, attr.node, 0, here, sizeof here, 0);
    int64_t expected = um_tree_read(w->stack.tree, lower.node, 0, there, sizeof there, 0);
    CHECK_INT(n, expected);
    CHECK(n < 0 || memcmp(here, there, (size_t)n) == 0);
    um_upper_release(w->upper, attr.node);
}

static void check_data(struct world *w, const char *path)
{
    check_data_of(w, path, path);
}

static bool has_xattr(struct world *w, const char *path, const char *name, const void *value,
                      size_t size)
{
    char got[256];
    struct um_attr attr;
    if (find(w, path, &attr) != 0)
        return false;
    int64_t n = um_upper_getxattr(w->upper, attr.node, name, strlen(name), got, sizeof got);
    return n == (int64_t)size && memcmp(got, value, size) == 0;
}

#define HAS_XATTR(w, path, name, value) has_xattr(w, path, name, value, sizeof(value) - 1)

static void check_xattrs(struct world *w)
{
    CHECK(HAS_XATTR(w, "dir", "system.posix_acl_access", ACL));
    CHECK(HAS_XATTR(w, "dir", "system.posix_acl_default", ACL));
    CHECK(HAS_XATTR(w, "dir", "user.comment", "a directory"));
    CHECK(HAS_XATTR(w, "dir/deep/data", "user.comment", "a file"));
    CHECK(HAS_XATTR(w, "dir/deep/data", "user.empty", ""));
    CHECK(HAS_XATTR(w, "aligned", "user.kept", "yes"));
    CHECK(!is_root() || HAS_XATTR(w, "dir/deep/data", "security.capability", CAPABILITY));
}

/* ---- what a copy is ------------------------------------------------------------------------------------ */

TEST(a_copy_is_what_it_was_copied_from)
{
    struct world w;
    struct um_attr before[N_PATHS], root, now;
    world_open(&w);
    CHECK_INT(um_upper_getattr(w.upper, UM_ROOT_NODE, &root), 0);
    for (size_t i = 0; i < N_PATHS; i++)
        CHECK_INT(find(&w, paths[i], &before[i]), 0);
    for (size_t i = N_PATHS; i-- > 0;) {
        struct stat status;
        CHECK_INT(copy_up(&w, paths[i]), 0);
        CHECK(on_disk(&w, paths[i], &status));
        CHECK_INT(um_upper_getattr(w.upper, before[i].node, &now), 0);
        check_attr(paths[i], &now, &before[i]);
        if (!S_ISDIR(now.mode)) /* counting its links reads it */
            CHECK_INT(now.atime, before[i].atime);
        CHECK_INT(count_entries(w.work), 0);
    }
    check_xattrs(&w);
    for (int again = 0; again < 2; again++) {
        for (size_t i = 0; i < N_PATHS; i++) {
            CHECK_INT(find(&w, paths[i], &now), 0);
            check_attr(paths[i], &now, &before[i]);
            CHECK_INT(now.layer, 2);
            if (S_ISREG(now.mode))
                check_data(&w, paths[i]);
        }
        CHECK_INT(um_upper_getattr(w.upper, UM_ROOT_NODE, &now), 0);
        check_attr("the root", &now, &root);
        remount(&w, 0);
    }
    check_xattrs(&w);
    world_close(&w);
}

TEST(marks_of_an_image_do_not_get_into_the_upper)
{
    struct world w;
    char value[64];
    world_open(&w);
    CHECK_INT(copy_up(&w, "aligned"), 0);
    int fd = openat(w.above, "aligned", O_RDONLY | O_CLOEXEC);
    CHECK(fgetxattr(fd, "user.overlay.redirect", value, sizeof value) < 0);
    CHECK(fgetxattr(fd, "trusted.overlay.opaque", value, sizeof value) < 0);
    bool as_is = w.flags & UM_UPPER_TRUSTED;
    CHECK_INT(fgetxattr(fd, "user.overlay.opaque", value, sizeof value), as_is ? 1 : -1);
    CHECK_INT(fgetxattr(fd, "user.overlay.overlay.opaque", value, sizeof value), as_is ? -1 : 1);
    CHECK(!is_root() || fgetxattr(fd, "user.containers.override_stat", value, sizeof value) < 0);
    close(fd);
    world_close(&w);
}

TEST(holes_stay_holes)
{
    struct world w;
    struct stat status;
    world_open(&w);
    CHECK_INT(copy_up(&w, "dir/sparse"), 0);
    int fd = openat(w.above, "dir/sparse", O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0 && fstat(fd, &status) == 0);
    CHECK_INT(status.st_size, 600000);
    CHECK_INT(lseek(fd, 0, SEEK_DATA), 100000 / 4096 * 4096);
    CHECK_INT(lseek(fd, 120000, SEEK_DATA), 300000 / 4096 * 4096);
    CHECK_INT(lseek(fd, 312000, SEEK_DATA), -1);
    CHECK(status.st_blocks * 512 < 40000);
    close(fd);
    check_data(&w, "dir/sparse");
    world_close(&w);
}

/* Whether the first extent of a file is shared with another file. */
static bool is_shared(int fd)
{
    struct {
        struct fiemap map;
        struct fiemap_extent extent;
    } asked = {.map = {.fm_length = FIEMAP_MAX_OFFSET,
                       .fm_flags = FIEMAP_FLAG_SYNC,
                       .fm_extent_count = 1}};
    return ioctl(fd, FS_IOC_FIEMAP, &asked) == 0 && asked.map.fm_mapped_extents == 1 &&
           (asked.extent.fe_flags & FIEMAP_EXTENT_SHARED);
}

TEST(blocks_are_shared_where_the_disk_can_do_that)
{
    struct world w;
    world_open(&w);
    int probe = openat(w.directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    bool clones = probe >= 0 && ioctl(probe, FICLONE, w.stack.layers[0].fd) == 0;
    close(probe);
    CHECK_INT(copy_up(&w, "aligned"), 0);
    CHECK_INT(copy_up(&w, "dir/deep/data"), 0); /* which begins within a block */
    int fd = openat(w.above, "aligned", O_RDONLY | O_CLOEXEC);
    CHECK(!clones || is_shared(fd));
    close(fd);
    check_data(&w, "aligned");
    check_data(&w, "dir/deep/data");
    world_close(&w);
}

/* A device is asked once for each pair, whatever it answers. */
TEST(a_device_that_shares_no_blocks_is_not_asked_again)
{
    struct world w;
    struct um_upper_unshared unshared = {0};
    world_open(&w);
    int probe = openat(w.directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    REQUIRE(probe >= 0);
    bool clones = ioctl(probe, FICLONE, w.stack.layers[0].fd) == 0;
    CHECK_INT(ftruncate(probe, 0), 0);
    uint64_t node = node_of(&w, "aligned");
    for (unsigned round = 0; round < 3; round++) {
        struct um_upper_data_copy copy = {.tree = w.stack.tree, .unshared = &unshared};
        CHECK_INT(um_upper_copy_data(&copy, node, 100000, probe), 0);
        CHECK_INT(atomic_load(&unshared.next), !clones);
        CHECK(copy.written || clones);
    }
    close(probe);
    world_close(&w);
}

/* Copy up three files with data, one without, and a directory; and the data of a metacopy later. */
static void count_waits(unsigned flags, unsigned *whole, unsigned *data)
{
    const struct um_upper_changes changes = {.which = UM_UPPER_SET_MODE, .mode = 0700};
    struct um_attr attr;
    struct world w;
    world_open(&w);
    w.metacopy_min = 1 << 16;
    remount(&w, flags);
    whole_syncs = data_waits = data_flags = 0;
    CHECK_INT(copy_up(&w, "one"), 0);
    CHECK_INT(copy_up(&w, "dir/sparse"), 0);
    CHECK_INT(copy_up(&w, "dir/deep/data"), 0);
    CHECK_INT(copy_up(&w, "empty"), 0);
    CHECK_INT(copy_up(&w, "bare"), 0);
    *whole = whole_syncs;
    *data = data_waits;
    uint64_t node = node_of(&w, "aligned");
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
    whole_syncs = data_waits = 0;
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), 0);
    *whole += whole_syncs;
    *data += data_waits;
    check_data(&w, "dir/deep/data");
    check_data(&w, "aligned");
    world_close(&w);
}

TEST(a_copy_waits_for_what_the_disk_may_lose)
{
    unsigned whole, data;
    count_waits(0, &whole, &data);
    CHECK_INT(whole, 4);
    CHECK_INT(data, 0);
    count_waits(UM_UPPER_KEEPS_ORDER, &whole, &data);
    CHECK_INT(whole, 0);
    CHECK(data == 4 || data == 3); /* blocks of the last one may be shared */
    const unsigned all =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    CHECK_INT(~data_flags & all,
              all); /* with fewer, the kernel leaves pages out that are being written */
}

TEST(a_volatile_upper_waits_for_nothing)
{
    unsigned whole, data;
    count_waits(UM_UPPER_VOLATILE, &whole, &data);
    CHECK_INT(whole + data, 0);
    count_waits(UM_UPPER_VOLATILE | UM_UPPER_KEEPS_ORDER, &whole, &data);
    CHECK_INT(whole + data, 0);
}

TEST(blocks_that_are_shared_are_only_waited_for_where_order_is_not_kept)
{
    struct world w;
    world_open(&w);
    int fd = openat(w.directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    whole_syncs = data_waits = 0;
    CHECK_INT(um_upper_settle(w.upper, fd, false), 0);
    CHECK_INT(whole_syncs, 1);
    remount(&w, UM_UPPER_KEEPS_ORDER);
    CHECK_INT(um_upper_settle(w.upper, fd, false), 0);
    CHECK_INT(whole_syncs, 1);
    CHECK_INT(data_waits, 0);
    close(fd);
    world_close(&w);
}

TEST(a_change_of_a_file_with_data_asks_for_a_copy_first)
{
    struct world w;
    struct um_attr attr;
    struct stat status;
    const struct um_upper_changes changes = {.which = UM_UPPER_SET_MODE, .mode = 0700};
    world_open(&w);
    uint64_t node = node_of(&w, "dir/deep/data");
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), -EAGAIN);
    CHECK(!on_disk(&w, "dir", &status));
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), 0);
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0700);
    CHECK_INT(attr.mtime, 2000);
    world_close(&w);
}

static bool has_metacopy(const struct world *w, const char *path)
{
    char names[1024];
    int fd = openat(w->above, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t size = flistxattr(fd, names, sizeof names);
    close(fd);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        if (strstr(names + at, "overlay.metacopy") != NULL)
            return true;
    }
    return false;
}

/* What it shows is what it showed before, but for its mode. */
static void check_metacopy(struct world *w, const char *path, uint64_t node)
{
    struct um_attr attr;
    CHECK_INT(node_of(w, path), node);
    CHECK_INT(um_upper_getattr(w->upper, node, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0700);
    CHECK_INT(attr.mtime, 2000);
    CHECK(attr.blocks > 8);
    check_data_of(w, path, "dir/deep/data");
}

TEST(a_change_of_attributes_copies_no_data_of_a_large_file)
{
    struct world w;
    struct um_attr attr;
    struct stat status;
    const struct um_upper_changes changes = {.which = UM_UPPER_SET_MODE, .mode = 0700};
    world_open(&w);
    w.metacopy_min = 1;
    remount(&w, w.flags);
    uint64_t node = node_of(&w, "dir/deep/data");
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
    CHECK(on_disk(&w, "dir/deep/data", &status));
    CHECK(status.st_blocks <= 8); /* of its xattrs */
    CHECK(has_metacopy(&w, "dir/deep/data"));
    check_metacopy(&w, "dir/deep/data", node);
    remount(&w, w.flags);
    check_metacopy(&w, "dir/deep/data", node);
    uint64_t directory = node_of(&w, "dir");
    CHECK_INT(
        um_upper_rename(w.upper, node_of(&w, "dir/deep"), "data", 4, directory, "moved", 5, 0), 0);
    check_metacopy(&w, "dir/moved", node);
    remount(&w, w.flags);
    check_metacopy(&w, "dir/moved", node);
    CHECK_INT(um_upper_open_file(w.upper, node, UM_UPPER_OPEN_WRITE), -EAGAIN);
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), 0);
    CHECK(!has_metacopy(&w, "dir/moved"));
    check_metacopy(&w, "dir/moved", node);
    CHECK_INT(um_upper_open_file(w.upper, node, UM_UPPER_OPEN_WRITE), 0);
    CHECK_INT(um_upper_write(w.upper, node, 0, "x", 1), 1);
    um_upper_release(w.upper, node);
    world_close(&w);
}

TEST(the_data_of_a_metacopy_may_be_given_up)
{
    struct world w;
    struct um_attr attr;
    const struct um_upper_changes mode = {.which = UM_UPPER_SET_MODE, .mode = 0700};
    const struct um_upper_changes empty = {.which = UM_UPPER_SET_SIZE};
    world_open(&w);
    w.metacopy_min = 1;
    remount(&w, w.flags);
    uint64_t node = node_of(&w, "dir/deep/data");
    CHECK_INT(um_upper_setattr(w.upper, node, &mode, &attr), 0);
    CHECK_INT(um_upper_setattr(w.upper, node, &empty, &attr), 0);
    CHECK_INT(attr.size, 0);
    CHECK(!has_metacopy(&w, "dir/deep/data"));
    remount(&w, w.flags);
    CHECK_INT(um_upper_getattr(w.upper, node_of(&w, "dir/deep/data"), &attr), 0);
    CHECK_INT(attr.size, 0);
    world_close(&w);
}

TEST(what_is_truncated_is_not_copied)
{
    struct world w;
    struct um_attr attr;
    world_open(&w);
    uint64_t node = node_of(&w, "dir/deep/data");
    CHECK_INT(um_upper_copy_up(w.upper, node, UM_UPPER_COPY_UP_EMPTY), 0);
    CHECK_INT(um_upper_getattr(w.upper, node, &attr), 0);
    CHECK_INT(attr.size, 0);
    CHECK_INT(attr.mode, S_IFREG | 04755);
    world_close(&w);
}

TEST(what_is_no_lower_file_is_refused)
{
    struct world w;
    world_open(&w);
    CHECK_INT(um_upper_copy_up(w.upper, UM_ROOT_NODE, 0), -EISDIR);
    CHECK_INT(um_upper_copy_up(w.upper, node_of(&w, "dir"), 0), -EISDIR);
    CHECK_INT(um_upper_copy_up(w.upper, w.upper->base + 1, 0), -ESTALE);
    CHECK_INT(um_upper_copy_up(w.upper, w.upper->base - 1, 0), -ESTALE);
    CHECK_INT(count_entries(w.work), 0);
    world_close(&w);
}

TEST(copies_inherit_nothing_from_the_work_directory)
{
    struct world w;
    char value[128];
    world_open(&w);
    if (fsetxattr(w.work, "system.posix_acl_default", ACL, sizeof ACL - 1, 0) == 0) {
        remount(&w, 0);
        CHECK_INT(copy_up(&w, "one"), 0);
        CHECK_INT(copy_up(&w, "bare"), 0);
        int fd = openat(w.above, "one", O_RDONLY | O_CLOEXEC);
        CHECK(fgetxattr(fd, "system.posix_acl_access", value, sizeof value) < 0);
        close(fd);
        fd = openat(w.above, "bare", O_RDONLY | O_CLOEXEC);
        CHECK(fgetxattr(fd, "system.posix_acl_access", value, sizeof value) < 0);
        CHECK(fgetxattr(fd, "system.posix_acl_default", value, sizeof value) < 0);
        close(fd);
    }
    world_close(&w);
}

TEST(a_layer_that_is_too_short_is_an_error)
{
    struct world w;
    struct stat status;
    world_open(&w);
    uint64_t node = node_of(&w, "dir/deep/data");
    CHECK_INT(ftruncate(w.stack.layers[0].fd, 100000), 0);
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), -EIO);
    CHECK(!on_disk(&w, "dir/deep/data", &status));
    CHECK_INT(count_entries(w.work), 0);
    world_close(&w);
}

/* ---- hard links ------------------------------------------------------------------------------------------ */

static void check_group(struct world *w, const char *const *names, size_t n)
{
    struct stat first, status;
    struct um_attr attr;
    REQUIRE(on_disk(w, names[0], &first));
    CHECK_INT(first.st_nlink, n);
    for (size_t i = 0; i < n; i++) {
        CHECK(on_disk(w, names[i], &status) && status.st_ino == first.st_ino);
        CHECK_INT(find(w, names[i], &attr), 0);
        CHECK_INT(attr.nlink, n);
    }
}

static const char *const group[] = {"one", "two", "dir/three", "top/four"};

TEST(all_names_of_a_file_are_copied_up_together)
{
    struct world w;
    struct um_attr attr;
    world_open(&w);
    uint64_t node = node_of(&w, "two");
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), 0);
    check_group(&w, group, 4);
    CHECK_INT(count_entries(w.work), 0);
    CHECK_INT(find(&w, "top/four", &attr), 0);
    CHECK_INT(attr.node, node);
    CHECK_INT(find(&w, "dir", &attr), 0);
    CHECK_INT(attr.mtime, 1000);
    CHECK_INT(attr.mtime_nsec, 123456789);
    world_close(&w);
}

TEST(names_that_are_hidden_or_moved_count_as_the_mount_shows_them)
{
    static const char *const left[] = {"one", "inner/moved/three", "top/four"};
    struct world w;
    struct um_attr attr;
    world_open(&w);
    CHECK_INT(find(&w, "one", &attr), 0);
    CHECK_INT(attr.nlink, 4);
    CHECK_INT(um_upper_unlink(w.upper, UM_ROOT_NODE, "two", 3), 0);
    CHECK_INT(find(&w, "one", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "dir", 3, UM_ROOT_NODE, "moved", 5, 0), 0);
    const struct um_upper_maker maker = {.may_setgid = true};
    struct um_attr outer;
    CHECK_INT(um_upper_mkdir(w.upper, UM_ROOT_NODE, "outer", 5, 0755, &maker, &outer), 0);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "moved", 5, outer.node, "moved", 5, 0), 0);
    CHECK_INT(find(&w, "top/four", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    CHECK_INT(um_upper_rename(w.upper, UM_ROOT_NODE, "outer", 5, UM_ROOT_NODE, "inner", 5, 0), 0);
    remount(&w, 0);
    CHECK_INT(find(&w, "top/four", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    CHECK_INT(um_upper_copy_up(w.upper, attr.node, 0), 0);
    check_group(&w, left, 3);
    check_data(&w, "one");
    CHECK_INT(find(&w, "two", &attr), -ENOENT);
    world_close(&w);
}

TEST(a_removed_directory_takes_its_names_along)
{
    struct world w;
    struct um_attr attr;
    world_open(&w);
    uint64_t top = node_of(&w, "top");
    CHECK_INT(um_upper_unlink(w.upper, top, "four", 4), 0);
    CHECK_INT(um_upper_rmdir(w.upper, UM_ROOT_NODE, "top", 3), 0);
    remount(&w, 0);
    CHECK_INT(find(&w, "one", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    CHECK_INT(um_upper_copy_up(w.upper, attr.node, 0), 0);
    check_group(&w, group, 3);
    world_close(&w);
}

TEST(a_group_stays_whole_when_a_name_can_not_be_linked)
{
    struct world w;
    struct um_attr attr;
    struct stat status;
    world_open(&w);
    CHECK_INT(find(&w, "one", &attr), 0);
    /* Somebody else made a directory there: the upper looked elsewhere a moment ago. */
    CHECK_INT(raise_directory(&w, node_of(&w, "top")), 0);
    struct um_upper_shown_name *names;
    size_t n, linked;
    pthread_rwlock_wrlock(&w.upper->lock);
    CHECK_INT(um_upper_shown_names(w.upper, attr.node, &names, &n), 0);
    CHECK_INT(n, 4);
    CHECK_INT(mkdirat(w.above, "two", 0755), 0);
    int fd = openat(w.work, "copy", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK_INT(um_upper_link_names(w.upper, w.work, "copy", names, n, &linked), -EIO);
    CHECK_INT(linked, 0);
    um_upper_shown_names_free(w.upper, &names, &n);
    pthread_rwlock_unlock(&w.upper->lock);
    CHECK(fstat(fd, &status) == 0 && status.st_nlink == 1);
    CHECK(!on_disk(&w, "one", &status));
    close(fd);
    world_close(&w);
}

/* ---- open files, and files without a name --------------------------------------------------------------- */

TEST(an_open_file_goes_on_in_the_upper)
{
    struct world w;
    char byte = 0;
    world_open(&w);
    uint64_t node = node_of(&w, "dir/sparse");
    REQUIRE(um_upper_open_file(w.upper, node, 0) == 0);
    CHECK_INT(um_upper_open_file(w.upper, node, UM_UPPER_OPEN_WRITE), -EAGAIN);
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), 0);
    CHECK_INT(um_upper_read(w.upper, node, 100000, &byte, 1, 0), 1);
    CHECK(byte != 0);
    CHECK_INT(um_upper_open_file(w.upper, node, UM_UPPER_OPEN_WRITE), 0); /* though it is 0444 */
    CHECK_INT(um_upper_write(w.upper, node, 100000, "!", 1), 1);
    CHECK_INT(um_upper_read(w.upper, node, 100000, &byte, 1, 0), 1);
    CHECK_INT(byte, '!');
    um_upper_release(w.upper, node);
    um_upper_release(w.upper, node);
    world_close(&w);
}

TEST(a_file_without_a_name_is_copied_without_one)
{
    struct world w;
    struct um_attr attr;
    struct stat status;
    const struct um_upper_changes changes = {.which = UM_UPPER_SET_MODE, .mode = 0600};
    world_open(&w);
    uint64_t node = node_of(&w, "dir/deep/data");
    uint64_t deep = node_of(&w, "dir/deep");
    REQUIRE(um_upper_open_file(w.upper, node, 0) == 0);
    CHECK_INT(um_upper_unlink(w.upper, deep, "data", 4), 0);
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), -EAGAIN);
    CHECK_INT(um_upper_copy_up(w.upper, node, 0), 0);
    CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0600);
    CHECK_INT(attr.nlink, 0);
    CHECK_INT(attr.size, BIG);
    CHECK_INT(um_upper_open_file(w.upper, node, UM_UPPER_OPEN_WRITE), 0);
    CHECK_INT(um_upper_write(w.upper, node, 0, "x", 1), 1);
    CHECK(on_disk(&w, "dir/deep/data", &status) && S_ISCHR(status.st_mode));
    CHECK_INT(count_entries(w.work), 0);
    um_upper_release(w.upper, node);
    um_upper_release(w.upper, node);
    world_close(&w);
}

TEST(other_things_without_a_name_can_be_changed_too)
{
    static const char *const names[] = {"empty", "fifo", "device", "bare"};
    struct world w;
    world_open(&w);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct um_attr attr;
        struct um_upper_changes changes = {
            .which = UM_UPPER_SET_MODE | UM_UPPER_SET_MTIME, .mode = 0601, .mtime = 1};
        CHECK_INT(find(&w, names[i], &attr), 0);
        bool directory = S_ISDIR(attr.mode);
        uint64_t node = attr.node;
        CHECK_INT(directory ? um_upper_rmdir(w.upper, UM_ROOT_NODE, names[i], strlen(names[i]))
                            : um_upper_unlink(w.upper, UM_ROOT_NODE, names[i], strlen(names[i])),
                  0);
        CHECK_INT(um_upper_setattr(w.upper, node, &changes, &attr), 0);
        CHECK_INT(attr.mode & 07777, 0601);
        CHECK_INT(attr.mtime, 1);
        CHECK_INT(attr.nlink, 0);
        CHECK_INT(count_entries(w.work), 0);
    }
    world_close(&w);
}

/* ---- many threads --------------------------------------------------------------------------------------- */

#define THREADS 6

struct job {
    struct world *w;
    unsigned number;
    const uint64_t *nodes;
    size_t n;
    int error;
};

static void *copy_all(void *context)
{
    struct job *job = context;
    for (size_t i = 0; i < job->n; i++) {
        struct um_attr attr;
        uint64_t node = job->nodes[(i + job->number / 2) % job->n];
        int error = um_upper_copy_up(job->w->upper, node, 0);
        if (error == 0)
            error = um_upper_getattr(job->w->upper, node, &attr);
        if (error != 0)
            job->error = error;
    }
    return NULL;
}

TEST(many_threads_copy_a_file_once)
{
    static const char *const names[] = {"dir/deep/data", "dir/sparse", "two", "aligned", "empty"};
    struct world w;
    uint64_t nodes[sizeof names / sizeof *names];
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    size_t n = sizeof names / sizeof *names;
    world_open(&w);
    for (size_t i = 0; i < n; i++)
        nodes[i] = node_of(&w, names[i]);
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.w = &w, .number = i, .nodes = nodes, .n = n};
        if (pthread_create(&threads[i], NULL, copy_all, &jobs[i]) != 0)
            abort();
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(jobs[i].error, 0);
    }
    for (size_t i = 0; i < n; i++)
        check_data(&w, names[i]);
    check_group(&w, group, 4);
    CHECK_INT(count_entries(w.work), 0);
    CHECK_INT(atomic_load(&w.upper->temporaries), n + 3); /* and dir, dir/deep, top */
    world_close(&w);
}

/* ---- a full disk ------------------------------------------------------------------------------------------- */

/* In a process of its own: only that one sees what it mounts. */
static int on_small_disk(const char *options, void (*body)(struct world *w))
{
    struct world w;
    char path[256];
    int status;
    make_scratch(path, sizeof path);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("none", path, "tmpfs", 0, options) != 0)
            _exit(77);
        um_test_failed_checks = 0;
        world_open_at(&w, path, true);
        body(&w);
        world_release(&w);
        _exit(um_test_failed_checks != 0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        abort();
    rmdir(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void fill_up(struct world *w)
{
    struct um_attr before, now;
    struct stat status;
    CHECK_INT(find(w, "dir/deep/data", &before), 0);
    CHECK_INT(um_upper_copy_up(w->upper, before.node, 0), -ENOSPC);
    CHECK_INT(count_entries(w->work), 0);
    CHECK(!on_disk(w, "dir/deep/data", &status));
    CHECK_INT(find(w, "dir/deep/data", &now), 0);
    check_attr("data", &now, &before);
    check_data(w, "dir/deep/data");
    CHECK_INT(um_upper_copy_up(w->upper, node_of(w, "one"), 0), 0); /* what fits, fits */
    check_group(w, group, 4);
}

TEST(a_full_disk_leaves_nothing_behind)
{
    int result = on_small_disk("size=256k", fill_up);
    CHECK(result == 0 || (result == 77 && !is_root()));
}

/* A link costs an inode in tmpfs. The root, upper and work take three, then dir, top, the copy, index
 * and four links one each. */
static void fill_up_while_linking(struct world *w)
{
    struct um_attr attr;
    struct stat status;
    CHECK_INT(find(w, "one", &attr), 0);
    CHECK_INT(um_upper_copy_up(w->upper, attr.node, 0), -ENOSPC);
    CHECK_INT(count_entries(w->work), 0);
    for (size_t i = 0; i < 4; i++) {
        CHECK(!on_disk(w, group[i], &status));
        CHECK_INT(find(w, group[i], &attr), 0);
        CHECK_INT(attr.nlink, 4);
        check_data(w, group[i]);
    }
}

TEST(a_disk_that_is_full_between_two_links_leaves_none)
{
    for (unsigned inodes = 3; inodes < 11; inodes++) {
        char options[64];
        snprintf(options, sizeof options, "nr_inodes=%u", inodes);
        int result = on_small_disk(options, fill_up_while_linking);
        CHECK(result == 0 || (result == 77 && !is_root()));
    }
}

/* ---- after a crash -------------------------------------------------------------------------------------------- */

static void put_file(int fd, const char *name)
{
    int made = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(made >= 0 && write(made, "x", 1) == 1);
    close(made);
}

TEST(leftovers_are_removed)
{
    struct world w;
    struct stat status;
    world_open(&w);
    put_file(w.work, "#0");
    CHECK_INT(mkdirat(w.work, "#1", 0700), 0);
    CHECK_INT(mkdirat(w.work, "#1/inner", 0755), 0);
    put_file(w.work, "#1/inner/file");
    CHECK_INT(mkdirat(w.work, "work", 0), 0); /* of the kernel's overlayfs */
    CHECK_INT(mkdirat(w.work, "index", 0755), 0);
    put_file(w.work, "index/123456789012");
    put_file(w.work, "index/00fb1d0001020304"); /* of the kernel's, which may need it */
    put_file(w.work, "index/2"); /* says of itself that it is no copy */
    put_file(w.work, "theirs");
    remount(&w, 0);
    CHECK_INT(count_entries(w.work), 2);
    CHECK(fstatat(w.work, "theirs", &status, 0) == 0);
    CHECK(fstatat(w.work, "index/00fb1d0001020304", &status, 0) == 0);
    CHECK(fstatat(w.work, "index/2", &status, 0) != 0);
    CHECK_INT(count_entries(w.above), 0);
    world_close(&w);
}

/* Copy a group up, and take `n` of its names away again as if they had not been made yet. */
static void interrupt_group(struct world *w, size_t n, char entry[48])
{
    uint64_t node = node_of(w, "one");
    CHECK_INT(um_upper_copy_up(w->upper, node, 0), 0);
    snprintf(entry, 48, "index/%llu", (unsigned long long)node);
    CHECK_INT(mkdirat(w->work, "index", 0700), 0);
    CHECK_INT(linkat(w->above, "one", w->work, entry, 0), 0);
    for (size_t i = 0; i < n; i++)
        CHECK_INT(unlinkat(w->above, group[3 - i], 0), 0);
}

TEST(an_interrupted_group_is_finished)
{
    for (size_t n = 0; n <= 4; n++) {
        struct world w;
        char entry[48];
        world_open(&w);
        interrupt_group(&w, n, entry);
        remount(&w, 0);
        CHECK_INT(count_entries(w.work), 0);
        check_group(&w, group, 4);
        check_data(&w, "top/four");
        world_close(&w);
    }
}

TEST(names_that_were_removed_since_are_not_linked_again)
{
    struct world w;
    struct um_attr attr;
    char entry[48];
    world_open(&w);
    interrupt_group(&w, 1, entry);
    CHECK_INT(unlinkat(w.above, "two", 0), 0);
    CHECK_INT(um_upper_make_whiteout(w.above, "two"), 0);
    remount(&w, 0);
    CHECK_INT(count_entries(w.work), 0);
    CHECK_INT(find(&w, "two", &attr), -ENOENT);
    CHECK_INT(find(&w, "top/four", &attr), 0);
    CHECK_INT(attr.nlink, 3);
    world_close(&w);
}

TEST(a_group_of_other_layers_is_dropped)
{
    struct world w;
    struct stat status;
    char entry[48];
    world_open(&w);
    interrupt_group(&w, 3, entry);
    remount(&w, UM_UPPER_FOREIGN);
    CHECK_INT(count_entries(w.work), 0);
    CHECK(!on_disk(&w, "two", &status));
    world_close(&w);
}

/* Killed at any moment, a daemon leaves a tree that shows what it showed before. */
static void copy_until_killed(struct world *w)
{
    for (size_t i = 0; i < N_PATHS; i++)
        copy_up(w, paths[(i * 5 + 2) % N_PATHS]);
    _exit(0);
}

TEST(a_kill_is_not_seen)
{
    struct world w;
    struct um_attr before[N_PATHS];
    world_open(&w);
    w.flags |= UM_UPPER_VOLATILE;
    for (size_t i = 0; i < N_PATHS; i++)
        CHECK_INT(find(&w, paths[i], &before[i]), 0);
    for (unsigned round = 0; round < 40; round++) {
        int status;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            copy_until_killed(&w);
        usleep(round * 150);
        if (child < 0 || kill(child, SIGKILL) != 0 || waitpid(child, &status, 0) != child)
            abort();
        remount(&w, 0);
        CHECK_INT(count_entries(w.work), 0);
        for (size_t i = 0; i < N_PATHS; i++) {
            struct um_attr now;
            CHECK_INT(find(&w, paths[i], &now), 0);
            if (S_ISDIR(now.mode)) { /* its times are put back after a name appeared in it */
                now.mtime = before[i].mtime;
                now.mtime_nsec = before[i].mtime_nsec;
            }
            check_attr(paths[i], &now, &before[i]);
            if (S_ISREG(now.mode))
                check_data(&w, paths[i]);
        }
        check_xattrs(&w);
        um_upper_close(w.upper);
        w.upper = NULL;
        um_upper_remove_tree(w.directory, "upper");
        close(w.above);
        w.above = make_directory(w.directory, "upper");
        CHECK_INT(mount_upper(&w), 0);
    }
    world_close(&w);
}
