#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "harness.h"
#include "marks/whiteout.h"
#include "system/open_beneath.h"
#include "upper/marks.h"
#include "upper/reach.h"
#include "upper/work.h"

/* A directory that somebody else changes: what they put into the place of a file or directory leads
 * nowhere. `in` is what the core works in, `out` what nobody may reach from there. */

struct place {
    char path[64];
    int in, out;
};

static int directory_at(int fd, const char *name)
{
    return openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void write_file(int fd, const char *name, const char *text)
{
    int file = openat(fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    CHECK(write(file, text, strlen(text)) == (ssize_t)strlen(text));
    close(file);
}

static void place_open(struct place *place)
{
    snprintf(place->path, sizeof place->path, "/tmp/test_open_beneath.XXXXXX");
    if (mkdtemp(place->path) == NULL)
        abort();
    int top = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_INT(mkdirat(top, "in", 0755), 0);
    CHECK_INT(mkdirat(top, "out", 0755), 0);
    place->in = directory_at(top, "in");
    place->out = directory_at(top, "out");
    close(top);
    write_file(place->out, "file", "outside");
    write_file(place->out, um_whiteout_opaque(), "");
    CHECK_INT(symlinkat("../out", place->in, "way"), 0);
    CHECK_INT(symlinkat("../out/file", place->in, "link"), 0);
    CHECK_INT(mkfifoat(place->in, "pipe", 0600), 0);
    CHECK_INT(mkdirat(place->in, "directory", 0700), 0);
    write_file(place->in, "directory/file", "inside");
}

static void place_close(struct place *place)
{
    char command[100];
    close(place->in);
    close(place->out);
    snprintf(command, sizeof command, "rm -r %s", place->path);
    CHECK_INT(system(command), 0);
}

static struct um_upper_reached spot_of(const struct place *place, const char *name, uint32_t flags)
{
    const struct um_upper upper = {.flags = flags};
    struct um_upper_reached spot = {0};
    CHECK_INT(um_upper_reach_name(&upper, place->in, um_slice_of(name, strlen(name)), &spot), 0);
    return spot;
}

static int open_beneath(int fd, const char *path, int flags)
{
    int opened = um_open_beneath(fd, path, flags, 0600);
    if (opened < 0)
        return opened;
    CHECK(fcntl(opened, F_GETFD) == FD_CLOEXEC);
    close(opened);
    return 0;
}

TEST(nothing_leads_out)
{
    struct place place;
    place_open(&place);
    CHECK_INT(open_beneath(place.in, "directory/file", O_RDONLY), 0);
    CHECK_INT(open_beneath(place.in, ".", O_RDONLY | O_DIRECTORY), 0);
    CHECK_INT(open_beneath(place.in, "new", O_RDWR | O_CREAT | O_EXCL), 0);
    CHECK_INT(open_beneath(place.in, "new", O_RDWR | O_CREAT | O_EXCL), -EEXIST);
    CHECK_INT(open_beneath(place.in, "absent", O_RDONLY), -ENOENT);
    CHECK_INT(open_beneath(place.in, "..", O_RDONLY), -EXDEV);
    CHECK_INT(open_beneath(place.in, "directory/../../out/file", O_RDONLY), -EXDEV);
    CHECK_INT(open_beneath(place.in, "/etc/passwd", O_RDONLY), -EXDEV);
    CHECK_INT(open_beneath(place.in, "way", O_RDONLY | O_DIRECTORY), -ELOOP);
    CHECK_INT(open_beneath(place.in, "way/file", O_RDONLY), -ELOOP);
    CHECK_INT(open_beneath(place.in, "link", O_RDONLY), -ELOOP);
    CHECK_INT(open_beneath(place.in, "link", O_PATH | O_NOFOLLOW), 0);
    CHECK_INT(um_open_directory(place.in, "way"), -ELOOP);
    CHECK_INT(um_open_directory(place.in, "directory/file"), -ENOTDIR);
    place_close(&place);
}

static struct stat stat_outside(const struct place *place, const char *name)
{
    struct stat status = {0};
    CHECK_INT(fstatat(place->out, name, &status, 0), 0);
    return status;
}

/* What the upper does to a name that has become a symlink stays with the symlink. */
static void check_symlinks(uint32_t flags)
{
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 2}};
    struct um_upper upper = {.flags = flags};
    struct place place;
    struct stat status;
    char value[8];
    place_open(&place);
    struct um_upper_reached way = spot_of(&place, "way", flags),
                            link = spot_of(&place, "link", flags);
    const struct stat before = stat_outside(&place, "file");
    CHECK_INT(fsetxattr(place.out, "user.a", "x", 1, 0), 0);

    CHECK_INT(um_upper_mark_is_opaque(&upper, &way, true), -ESTALE);
    CHECK_INT(um_upper_reached_stat(&way, &status), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_INT(um_upper_reached_chmod(&link, 0777), -EOPNOTSUPP);
    CHECK_INT(um_upper_reached_set_times(&link, times), 0);
    CHECK(um_upper_reached_getxattr(&way, "user.a", value, sizeof value) < 0);
    CHECK_INT(um_upper_reached_setxattr(&link, "user.b", "x", 1, 0), -EPERM);
    CHECK(um_upper_reached_removexattr(&way, "user.a") < 0);
    CHECK_INT(um_upper_reached_open(&link, O_RDONLY), -ELOOP);
    CHECK_INT(um_upper_reached_open(&way, O_RDONLY | O_DIRECTORY), -ENOTDIR);
    if (geteuid() == 0)
        CHECK_INT(um_upper_reached_chown(&link, 1, 1), 0);

    const struct stat after = stat_outside(&place, "file");
    CHECK_INT(after.st_mode, before.st_mode);
    CHECK_INT(after.st_uid, before.st_uid);
    CHECK_INT(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
    CHECK_INT(after.st_ctim.tv_nsec, before.st_ctim.tv_nsec);
    CHECK_INT(fgetxattr(place.out, "user.a", value, sizeof value), 1);
    place_close(&place);
}

TEST(symlinks_are_not_followed)
{
    check_symlinks(0);
    check_symlinks(UM_UPPER_PRIVATE);
}

TEST(opaque_marks_are_found)
{
    for (uint32_t flags = 0; flags <= UM_UPPER_PRIVATE; flags += UM_UPPER_PRIVATE) {
        struct um_upper upper = {.flags = flags};
        struct place place;
        place_open(&place);
        struct um_upper_reached spot = spot_of(&place, "directory", flags);
        CHECK_INT(um_upper_mark_is_opaque(&upper, &spot, false), 0);
        int fd = directory_at(place.in, "directory");
        write_file(fd, um_whiteout_opaque(), "");
        CHECK_INT(um_upper_mark_is_opaque(&upper, &spot, false), 1);
        close(fd);
        place_close(&place);
    }
}

TEST(nobody_waits_for_a_pipe)
{
    struct place place;
    place_open(&place);
    struct um_upper_reached spot = spot_of(&place, "pipe", 0);
    CHECK_INT(um_upper_reached_open(&spot, O_RDONLY), -ESTALE);
    CHECK_INT(um_upper_reached_open(&spot, O_RDWR), -ESTALE);
    CHECK_INT(um_upper_reached_open(&spot, O_WRONLY), -ENXIO);
    int fd = um_upper_reached_open(&spot, O_PATH);
    CHECK(fd >= 0);
    close(fd);
    place_close(&place);
}

/* ---- mount points --------------------------------------------------------------------------------- */

static bool in_mounts_of_its_own(void (*check)(void))
{
    if (geteuid() != 0)
        return false;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        um_test_failed_checks = 0;
        if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
            _exit(2);
        check();
        fflush(NULL);
        _exit(um_test_failed_checks != 0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    return true;
}

static void mount_on(const struct place *place, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/in/%s", place->path, name);
    CHECK_INT(mount("tmpfs", path, "tmpfs", 0, NULL), 0);
    int fd = directory_at(place->in, name);
    write_file(fd, "kept", "not ours");
    close(fd);
}

static void check_mount_points(void)
{
    struct place place;
    struct stat status;
    char path[128];
    place_open(&place);
    int private_in = um_private_directory(place.in, 0);
    REQUIRE(private_in >= 0);
    mount_on(&place, "directory");

    CHECK_INT(open_beneath(place.in, "directory", O_PATH | O_DIRECTORY), -EXDEV);
    CHECK_INT(open_beneath(place.in, "directory/kept", O_RDONLY), -EXDEV);
    struct um_upper_reached spot = spot_of(&place, "directory", 0);
    CHECK_INT(um_upper_reached_stat(&spot, &status), -EXDEV);
    CHECK_INT(um_upper_reached_chmod(&spot, 0700), -EXDEV);
    CHECK_INT(um_upper_reached_setxattr(&spot, "user.a", "x", 1, 0), -EXDEV);
    CHECK_INT(um_upper_reached_open(&spot, O_RDONLY | O_DIRECTORY), -EXDEV);

    CHECK_INT(open_beneath(private_in, "directory/file", O_RDWR), 0);
    CHECK_INT(open_beneath(private_in, "directory/kept", O_RDONLY), -ENOENT);
    /* Nothing of what is mounted in a directory is removed with it. */
    CHECK(um_upper_remove_tree(place.in, "directory") < 0);
    snprintf(path, sizeof path, "%s/in/directory", place.path);
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK_INT(faccessat(fd, "kept", F_OK, 0), 0);
    close(fd);
    CHECK_INT(umount(path), 0);
    close(private_in);
    place_close(&place);
}

static int open_within(int fd, const char *path, int flags, unsigned how)
{
    int opened = um_open_within(fd, path, flags, how);
    if (opened < 0)
        return opened;
    close(opened);
    return 0;
}

/* Copies into a user's directory: the user's mounts are crossed, symlinks are not. */
TEST(symlinks_lead_out_of_no_copy)
{
    struct place place;
    place_open(&place);
    CHECK_INT(mkdirat(place.in, "root", 0755), 0);
    CHECK_INT(symlinkat("/directory", place.in, "absolute"), 0);
    CHECK_INT(symlinkat("/../../out", place.in, "high"), 0);

    CHECK_INT(open_within(place.in, "directory/file", O_RDONLY, 0), 0);
    CHECK_INT(open_within(place.in, "way/file", O_RDONLY, 0), -ELOOP);
    CHECK_INT(open_within(place.in, "link", O_RDONLY, 0), -ELOOP);
    CHECK_INT(open_within(place.in, "link", O_PATH | O_NOFOLLOW, 0), 0);
    CHECK_INT(open_within(place.in, "../out/file", O_RDONLY, 0), -EXDEV);
    CHECK_INT(open_within(place.in, "/directory", O_RDONLY, 0), -EXDEV);
    CHECK_INT(open_within(place.in, "directory/new", O_RDONLY, 0), -ENOENT);

    CHECK_INT(open_within(place.in, "absolute/file", O_RDONLY, UM_WITHIN_IN_ROOT), 0);
    CHECK_INT(open_within(place.in, "way/file", O_RDONLY, UM_WITHIN_IN_ROOT), -ENOENT);
    CHECK_INT(open_within(place.in, "high/file", O_RDONLY, UM_WITHIN_IN_ROOT), -ENOENT);
    CHECK_INT(open_within(place.in, "../../directory", O_RDONLY, UM_WITHIN_IN_ROOT), 0);
    place_close(&place);
}

static void check_mount_points_of_a_user(void)
{
    struct place place;
    place_open(&place);
    mount_on(&place, "directory");
    CHECK_INT(open_within(place.in, "directory", O_PATH | O_DIRECTORY, 0), 0);
    CHECK_INT(open_within(place.in, "directory/kept", O_RDONLY, 0), 0);
    char path[100];
    snprintf(path, sizeof path, "%s/in/directory", place.path);
    CHECK_INT(umount(path), 0);
    place_close(&place);
}

TEST(mount_points_of_a_user_are_crossed)
{
    if (!in_mounts_of_its_own(check_mount_points_of_a_user))
        printf("no mounts without root; ");
}

TEST(mount_points_are_not_crossed)
{
    if (!in_mounts_of_its_own(check_mount_points))
        printf("no mounts without root; ");
}
