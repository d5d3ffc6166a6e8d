#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#include "harness.h"
#include "layers.h"
#include "marks/override_stat.h"
#include "system/posix_acl.h"
#include "upper/make.h"
#include "upper/marks.h"
#include "upper/object.h"
#include "upper/object_xattr.h"
#include "upper/reach.h"
#include "upper/work.h"

/* What the kernel does to files of its own is the reference for both kinds of upper: root's, and that
 * of an ordinary user, who must see the same through override_stat. */

#define NOBODY 65534
#define POWERLESS (UM_UPPER_TRUSTED | UM_UPPER_OVERRIDE | UM_UPPER_OPEN) /* root's, too */
#define LAYERS 7

static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
#define N_TYPES (sizeof types / sizeof *types)

/* ---- a place to work in --------------------------------------------------------------------------- */

struct place {
    char path[256];
    int fd;
};

static void place_open(struct place *place)
{
    /* not TMPDIR, which may be one user's own: ordinary users come here, too */
    const char *parent = getenv("UNIONMOUNT_TEST_PLACE");
    snprintf(place->path, sizeof place->path, "%s/test_upper_stat.XXXXXX",
             parent ? parent : "/tmp");
    if (mkdtemp(place->path) == NULL)
        abort();
    place->fd = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void place_close(struct place *place)
{
    close(place->fd);
    char *slash = strrchr(place->path, '/');
    *slash = '\0';
    int parent = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_INT(um_upper_remove_tree(parent, slash + 1), 0);
    close(parent);
}

static struct um_upper upper_of(uint32_t flags)
{
    return (struct um_upper){.flags = flags, .n_layers = LAYERS};
}

static struct um_upper_reached spot_in(int fd, const char *name)
{
    const struct um_upper any = {0};
    struct um_upper_reached spot;
    CHECK_INT(um_upper_reach_name(&any, fd, um_slice_of(name, strlen(name)), &spot), 0);
    return spot;
}

/* Run checks as an ordinary user: in a child where this process is root. */
static void as_ordinary_user(void (*run)(void))
{
    if (geteuid() != 0) {
        run();
        return;
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        um_test_failed_checks = 0;
        if (setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 ||
            setresuid(NOBODY, NOBODY, NOBODY) != 0)
            _exit(2);
        run();
        fflush(NULL);
        _exit(um_test_failed_checks != 0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
}

static bool is_root(const char *what)
{
    if (geteuid() != 0)
        fprintf(stderr, "not run, as it needs root: %s\n", what);
    return geteuid() == 0;
}

/* ---- numbers by chance, the same in every run --------------------------------------------------------- */

static uint32_t pick(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33) % below;
}

/* The ACL that says what a mode does; its size. */
static size_t minimal_acl(uint32_t mode, uint8_t acl[128])
{
    static const uint16_t tags[] = {0x01, 0x04, 0x20};
    um_store32(acl, 2);
    for (size_t i = 0; i < 3; i++) {
        um_store16(acl + 4 + 8 * i, tags[i]);
        um_store16(acl + 6 + 8 * i, (uint16_t)(mode >> (6 - 3 * i) & 7));
        um_store32(acl + 8 + 8 * i, UINT32_MAX);
    }
    return 28;
}

/* Any ACL that the kernel accepts; its size. */
static size_t pick_acl(uint64_t *state, uint8_t acl[128])
{
    size_t size = 4;
    const uint32_t n_users = pick(state, 3), n_groups = pick(state, 3);
    const bool masked = n_users + n_groups != 0 || pick(state, 3) == 0;
    const struct {
        uint16_t tag;
        uint32_t n;
    } kinds[] = {{0x01, 1},        {0x02, n_users}, {0x04, 1},
                 {0x08, n_groups}, {0x10, masked},  {0x20, 1}};
    um_store32(acl, 2);
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        for (uint32_t i = 0; i < kinds[kind].n; i++) {
            um_store16(acl + size, kinds[kind].tag);
            um_store16(acl + size + 2, (uint16_t)pick(state, 8));
            um_store32(acl + size + 4,
                       kinds[kind].n == 1 && kinds[kind].tag != 0x02 && kinds[kind].tag != 0x08
                           ? UINT32_MAX
                           : 1000 + i);
            size += 8;
        }
    }
    return size;
}

/* ---- what is seen ---------------------------------------------------------------------------------------- */

struct seen {
    uint32_t mode, uid, gid, major, minor;
    uint64_t size;
    int64_t access_size, default_size;
    uint8_t access_acl[128], default_acl[128];
};

static struct seen see_disk(int fd, const char *name)
{
    struct stat status = {0};
    struct um_upper_reached spot = spot_in(fd, name);
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    struct seen seen = {.mode = status.st_mode,
                        .uid = status.st_uid,
                        .gid = status.st_gid,
                        .major = major(status.st_rdev),
                        .minor = minor(status.st_rdev),
                        .size = S_ISDIR(status.st_mode) ? 0 : (uint64_t)status.st_size};
    seen.access_size = um_upper_reached_getxattr(&spot, UM_ACL_ACCESS, seen.access_acl, 128);
    seen.default_size = um_upper_reached_getxattr(&spot, UM_ACL_DEFAULT, seen.default_acl, 128);
    return seen;
}

static struct seen see(struct um_upper *upper, int fd, const char *name)
{
    struct stat status = {0};
    struct um_attr attr = {0};
    struct um_upper_reached spot = spot_in(fd, name);
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    CHECK_INT(um_upper_object_attr(upper, &spot, &status, &attr), 0);
    CHECK_INT(attr.layer, LAYERS);
    CHECK_INT(attr.nlink, status.st_nlink);
    CHECK_INT(attr.mtime, status.st_mtim.tv_sec);
    CHECK_INT(attr.mtime_nsec, status.st_mtim.tv_nsec);
    CHECK_INT(attr.ctime_nsec, status.st_ctim.tv_nsec);
    CHECK_INT(attr.atime_nsec, status.st_atim.tv_nsec);
    struct seen seen = {.mode = attr.mode,
                        .uid = attr.uid,
                        .gid = attr.gid,
                        .major = attr.major,
                        .minor = attr.minor,
                        .size = S_ISDIR(attr.mode) ? 0 : attr.size};
    seen.access_size = um_upper_object_getxattr(upper, &spot, UM_ACL_ACCESS, seen.access_acl, 128);
    seen.default_size =
        um_upper_object_getxattr(upper, &spot, UM_ACL_DEFAULT, seen.default_acl, 128);
    return seen;
}

static void compare(const struct seen *actual, const struct seen *expected)
{
    CHECK_INT(actual->mode, expected->mode);
    CHECK_INT(actual->uid, expected->uid);
    CHECK_INT(actual->gid, expected->gid);
    CHECK_INT(actual->major, expected->major);
    CHECK_INT(actual->minor, expected->minor);
    CHECK_INT(actual->size, expected->size);
    CHECK_INT(actual->access_size, expected->access_size);
    CHECK_INT(actual->default_size, expected->default_size);
    CHECK(memcmp(actual->access_acl, expected->access_acl, 128) == 0);
    CHECK(memcmp(actual->default_acl, expected->default_acl, 128) == 0);
}

/* The daemon can always read and write what is kept apart, nobody else can write it, and nothing in it acts
 * as its owner. (The mask of an ACL is the group's part of the mode.) */
static void check_own(int fd, const char *name)
{
    struct seen disk = see_disk(fd, name);
    uint32_t needed = S_ISDIR(disk.mode) ? 0700 : 0600;
    CHECK_INT(disk.uid, geteuid());
    CHECK_INT(disk.mode & 07000, 0);
    if (S_ISREG(disk.mode) || S_ISDIR(disk.mode))
        CHECK_INT(disk.mode & (022 | needed), needed);
}

/* ---- making ------------------------------------------------------------------------------------------------ */

static struct um_upper_new_object pick_owner(uint64_t *state, uint32_t type)
{
    bool device = type == S_IFCHR || type == S_IFBLK;
    return (struct um_upper_new_object){.uid = pick(state, 3) * 1000,
                                        .gid = pick(state, 3) * 1000,
                                        .mode = type | pick(state, 010000),
                                        .major = device ? 1 + pick(state, 4000) : 0,
                                        .minor = device ? pick(state, 1000000) : 0};
}

static void check_makes(uint32_t flags)
{
    static const mode_t masks[] = {0, 022, 077, 0777};
    struct place place;
    struct um_upper upper = upper_of(flags);
    uint64_t state = 1;
    place_open(&place);
    for (unsigned i = 0; i < 400; i++) {
        struct um_upper_new_object owner = pick_owner(&state, types[i % N_TYPES]);
        umask(masks[pick(&state, 4)]);
        CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, NULL, pick(&state, 2)), 0);
        CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, NULL, true), -EEXIST);
        struct seen seen = see(&upper, place.fd, "made");
        CHECK_INT(seen.mode, owner.mode);
        CHECK_INT(seen.uid, owner.uid);
        CHECK_INT(seen.gid, owner.gid);
        CHECK_INT(seen.major, owner.major);
        CHECK_INT(seen.minor, owner.minor);
        CHECK_INT(seen.size, 0);
        if (flags & UM_UPPER_OVERRIDE) {
            check_own(place.fd, "made");
        } else {
            struct seen disk = see_disk(place.fd, "made");
            compare(&disk, &seen);
        }
        CHECK_INT(um_upper_remove_tree(place.fd, "made"), 0);
    }
    umask(022);
    place_close(&place);
}

TEST(root_makes_what_was_asked_for)
{
    if (!is_root(__func__))
        return;
    check_makes(0);
    check_makes(POWERLESS);
}

static void check_own_makes(void)
{
    check_makes(UM_UPPER_OVERRIDE);
}

TEST(an_ordinary_user_makes_what_was_asked_for)
{
    as_ordinary_user(check_own_makes);
}

static bool has_override(int fd, const char *name)
{
    struct um_upper_reached spot = spot_in(fd, name);
    return um_upper_reached_getxattr(&spot, UM_OVERRIDE_XATTR, NULL, 0) >= 0;
}

static void check_plain(void)
{
    struct place place;
    struct um_upper upper = upper_of(UM_UPPER_OVERRIDE);
    struct um_upper_new_object own = {.uid = geteuid(), .gid = getegid()};
    place_open(&place);
    for (size_t i = 0; i < 4; i++) {
        own.mode = types[i] | 0750;
        CHECK_INT(um_upper_make(&upper, place.fd, "made", &own, NULL, false), 0);
        struct seen disk = see_disk(place.fd, "made");
        CHECK_INT(disk.mode, own.mode);
        CHECK(!has_override(place.fd, "made"));
        struct um_upper_reached spot = spot_in(place.fd, "made");
        if (i < 2) {
            /* There and back again. */
            CHECK_INT(um_upper_object_chown(&upper, &spot, 5, UINT32_MAX), 0);
            CHECK(has_override(place.fd, "made"));
            CHECK_INT(see(&upper, place.fd, "made").uid, 5);
            CHECK_INT(um_upper_object_chown(&upper, &spot, own.uid, own.gid), 0);
            CHECK(!has_override(place.fd, "made"));
        } else {
            CHECK_INT(um_upper_object_chmod(&upper, &spot, 0005), 0);
            CHECK_INT(see(&upper, place.fd, "made").mode, types[i] | 0005);
            CHECK_INT(um_upper_object_chown(&upper, &spot, own.uid, own.gid), 0);
            CHECK_INT(um_upper_object_chown(&upper, &spot, 5, 5), -EPERM);
        }
        CHECK_INT(um_upper_remove_tree(place.fd, "made"), 0);
    }
    place_close(&place);
}

TEST(what_the_disk_shows_has_no_override)
{
    as_ordinary_user(check_plain);
}

static void check_symlink(uint32_t flags)
{
    struct place place;
    struct um_upper upper = upper_of(flags);
    struct um_upper_new_object owner = {.uid = 1000, .gid = 1001, .mode = S_IFLNK | 0777};
    char target[16];
    place_open(&place);
    CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, "nowhere", true), 0);
    struct um_upper_reached spot = spot_in(place.fd, "made");
    CHECK_INT(readlinkat(place.fd, "made", target, sizeof target), 7);
    struct seen seen = see(&upper, place.fd, "made");
    CHECK_INT(seen.mode, S_IFLNK | 0777);
    CHECK_INT(seen.size, 7);
    CHECK_INT(seen.uid, geteuid() ? geteuid() : 1000);
    CHECK_INT(seen.gid, geteuid() ? getegid() : 1001);
    CHECK_INT(um_upper_object_chown(&upper, &spot, 2000, 2001), 0);
    CHECK_INT(see(&upper, place.fd, "made").gid, geteuid() ? getegid() : 2001);
    CHECK_INT(um_upper_object_chmod(&upper, &spot, 0700), -EOPNOTSUPP);
    place_close(&place);
}

static void check_own_symlink(void)
{
    check_symlink(UM_UPPER_OVERRIDE);
}

TEST(symlinks)
{
    if (is_root(__func__)) {
        check_symlink(0);
        check_symlink(POWERLESS);
    }
    as_ordinary_user(check_own_symlink);
}

static void check_whiteout_trap(uint32_t flags)
{
    struct place place;
    struct um_upper upper = upper_of(flags);
    struct um_upper_new_object owner = {.uid = 1000, .gid = 1001, .mode = S_IFCHR | 0640};
    struct stat status;
    enum um_upper_found found;
    place_open(&place);
    CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, NULL, true), 0);
    struct um_upper_reached spot = spot_in(place.fd, "made");
    CHECK_INT(um_upper_reached_classify(&spot, true, &found, &status), 0);
    CHECK_INT(found, UM_UPPER_FOUND_FILE);
    CHECK_INT(um_upper_object_chown(&upper, &spot, 0, UINT32_MAX), 0);
    CHECK_INT(um_upper_object_chmod(&upper, &spot, 06755), 0);
    CHECK_INT(um_upper_object_chown(&upper, &spot, UINT32_MAX, 3), 0);
    struct seen seen = see(&upper, place.fd, "made");
    CHECK_INT(seen.mode, S_IFCHR | 0755);
    CHECK_INT(seen.uid, 0);
    CHECK_INT(seen.gid, 3);
    CHECK_INT(seen.major, 0);
    CHECK_INT(seen.minor, 0);
    place_close(&place);
}

static void check_own_whiteout_trap(void)
{
    check_whiteout_trap(UM_UPPER_OVERRIDE);
}

TEST(a_device_0_0_is_no_whiteout)
{
    if (is_root(__func__))
        check_whiteout_trap(0);
    as_ordinary_user(check_own_whiteout_trap);
}

static void check_failure(void)
{
    struct place place;
    struct um_upper upper = upper_of(0); /* which wants what this user may not do */
    struct um_upper_new_object owner = {.uid = 0, .gid = 0};
    place_open(&place);
    for (size_t i = 0; i < 4; i++) {
        owner.mode = types[i] | 0755;
        CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, NULL, true), -EPERM);
        CHECK_INT(faccessat(place.fd, "made", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    }
    owner.mode = 0644; /* of no type */
    CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, NULL, true), -EINVAL);
    place_close(&place);
}

TEST(failure_leaves_nothing)
{
    as_ordinary_user(check_failure);
}

TEST(what_others_wrote_is_understood)
{
    static const struct {
        const char *text;
        uint32_t mode, uid;
    } cases[] = {
        {"5:6:04711", S_IFREG | 04711, 5},
        {"5:6:0100711:file", S_IFREG | 0711, 5},
        {"5:6:0600:pipe", S_IFIFO | 0600, 5},
        {"5:6:0600:socket", S_IFSOCK | 0600, 5},
        {"5:6:0600:block-8-1", S_IFBLK | 0600, 5},
        {"5:6:0600:dir", S_IFREG | 0600, 5}, /* a file it stays */
    };
    struct place place;
    struct um_upper upper = upper_of(0);
    struct stat status;
    struct um_attr attr = {0};
    place_open(&place);
    int fd = openat(place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK_INT(write(fd, "data", 4), 4);
    struct um_upper_reached spot = spot_in(place.fd, "file");
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(um_upper_reached_setxattr(&spot, UM_OVERRIDE_XATTR, cases[i].text,
                                            strlen(cases[i].text), 0),
                  0);
        CHECK_INT(um_upper_object_attr(&upper, &spot, &status, &attr), 0);
        CHECK_INT(attr.mode, cases[i].mode);
        CHECK_INT(attr.uid, cases[i].uid);
        CHECK_INT(attr.size, S_ISREG(attr.mode) ? 4 : 0);
        CHECK_INT(attr.major, S_ISBLK(attr.mode) ? 8 : 0);
    }
    char longest[300];
    memset(longest, '1', sizeof longest);
    CHECK_INT(um_upper_reached_setxattr(&spot, UM_OVERRIDE_XATTR, longest, sizeof longest, 0), 0);
    CHECK_INT(um_upper_object_attr(&upper, &spot, &status, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0644);
    CHECK_INT(um_upper_reached_setxattr(&spot, UM_OVERRIDE_XATTR, "nonsense", 8, 0), 0);
    CHECK_INT(um_upper_object_attr(&upper, &spot, &status, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0644);
    close(fd);
    place_close(&place);
}

static bool is_believed(const struct um_upper *upper, int fd, uint32_t uid, uint32_t mode)
{
    struct um_upper_reached spot = spot_in(fd, "file");
    CHECK_INT(um_upper_reached_chown(&spot, uid, uid), 0);
    CHECK_INT(um_upper_reached_chmod(&spot, mode), 0);
    CHECK_INT(um_upper_reached_setxattr(&spot, UM_OVERRIDE_XATTR, "5:6:04711", 9, 0), 0);
    struct stat status;
    struct um_attr attr = {0};
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    CHECK_INT(um_upper_object_attr((struct um_upper *)upper, &spot, &status, &attr), 0);
    bool claimed = attr.mode == (S_IFREG | 04711) && attr.uid == 5 && attr.gid == 6;
    CHECK(claimed || (attr.mode == (S_IFREG | mode) && attr.uid == uid && attr.gid == uid));
    return claimed;
}

/* A file system gives the number of what was removed to what is made next. */
TEST(a_claim_is_read_of_what_was_looked_at)
{
    struct um_upper upper = upper_of(POWERLESS);
    struct place place;
    struct stat status;
    char text[64];
    if (!is_root(__func__))
        return;
    place_open(&place);
    close(openat(place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    struct um_upper_reached spot = spot_in(place.fd, "file");
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    CHECK_INT(um_upper_reached_setxattr(&spot, UM_OVERRIDE_XATTR, "0:0:04755", 9, 0), 0);
    CHECK_INT(
        um_upper_getxattr_believed(&upper, &spot, &status, UM_OVERRIDE_XATTR, text, sizeof text),
        9);
    CHECK_INT(um_upper_reached_chown(&spot, NOBODY, NOBODY),
              0); /* as one of somebody else with its number */
    CHECK_INT(
        um_upper_getxattr_believed(&upper, &spot, &status, UM_OVERRIDE_XATTR, text, sizeof text),
        -ESTALE);
    place_close(&place);
}

/* Be somebody who makes two files in a directory and exchanges them, for ever: one claims to be a program
 * of root's. */
static _Noreturn void exchange_for_ever(int fd)
{
    if (setresgid(NOBODY, NOBODY, NOBODY) != 0 || setresuid(NOBODY, NOBODY, NOBODY) != 0)
        _exit(2);
    for (;;) {
        close(openat(fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        int claims = openat(fd, "other", O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
        fsetxattr(claims, UM_OVERRIDE_XATTR, "0:0:04755", 9, 0);
        close(claims);
        for (int i = 0; i < 200; i++)
            renameat2(fd, "file", fd, "other", RENAME_EXCHANGE);
        unlinkat(fd, "file", 0);
        unlinkat(fd, "other", 0);
    }
}

static bool is_program_of_root(struct um_upper *upper, int fd, const char *name)
{
    struct um_upper_reached spot;
    struct stat status;
    struct um_attr attr = {0};
    int file = openat(fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0)
        return false;
    CHECK_INT(um_upper_reach_name(upper, file, (struct um_slice){0}, &spot), 0);
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    CHECK_INT(um_upper_object_attr(upper, &spot, &status, &attr), 0);
    close(file);
    return attr.uid == 0 && (attr.mode & S_ISUID);
}

TEST(an_exchange_while_owners_change_makes_no_claim_believed)
{
    struct um_upper upper = upper_of(POWERLESS);
    struct place place;
    bool fooled = false;
    if (!is_root(__func__))
        return;
    place_open(&place);
    CHECK_INT(fchown(place.fd, NOBODY, NOBODY), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        exchange_for_ever(place.fd);
    for (int i = 0; i < 20000 && !fooled; i++) {
        struct um_upper_reached spot = spot_in(place.fd, "file");
        um_upper_object_chown(&upper, &spot, 5, 5);
        fooled = is_program_of_root(&upper, place.fd, "file") ||
                 is_program_of_root(&upper, place.fd, "other");
    }
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(!fooled);
    place_close(&place);
}

TEST(a_claim_is_believed_where_nobody_else_could_make_it)
{
    struct place place;
    if (!is_root(__func__))
        return;
    place_open(&place);
    close(openat(place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    const uint32_t strict[] = {0, UM_UPPER_TRUSTED, POWERLESS};
    for (size_t i = 0; i < sizeof strict / sizeof *strict; i++) {
        struct um_upper upper = upper_of(strict[i]);
        CHECK(is_believed(&upper, place.fd, 0, 0644));
        CHECK(is_believed(&upper, place.fd, 0, 0755));
        CHECK(!is_believed(&upper, place.fd, 0, 0664));
        CHECK(!is_believed(&upper, place.fd, 0, 0646));
        CHECK(!is_believed(&upper, place.fd, NOBODY, 0644));
        CHECK(!is_believed(&upper, place.fd, NOBODY, 0600));
    }
    /* An ordinary user's, seen by root: its modes on disk may be those of an earlier version. */
    struct um_upper theirs = upper_of(UM_UPPER_TRUSTED | UM_UPPER_OVERRIDE | UM_UPPER_LOOK);
    theirs.owner = NOBODY;
    CHECK(is_believed(&theirs, place.fd, NOBODY, 0644));
    CHECK(is_believed(&theirs, place.fd, 0, 0666));
    CHECK(!is_believed(&theirs, place.fd, 1000, 0600));
    place_close(&place);
}

/* Owner and claim are those of one object, whatever others put in its place between the two questions. */
TEST(a_claim_is_that_of_the_object_whose_owner_was_asked)
{
    struct place place;
    struct stat status;
    struct um_attr attr = {0};
    if (!is_root(__func__))
        return;
    place_open(&place);
    close(openat(place.fd, "root's", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    close(openat(place.fd, "theirs", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    struct um_upper_reached theirs = spot_in(place.fd, "theirs");
    CHECK_INT(um_upper_reached_setxattr(&theirs, UM_OVERRIDE_XATTR, "0:0:04777", 9, 0), 0);
    CHECK_INT(um_upper_reached_chown(&theirs, NOBODY, NOBODY), 0);
    struct um_upper_reached spot = spot_in(place.fd, "root's");
    CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
    CHECK_INT(renameat2(place.fd, "root's", place.fd, "theirs", RENAME_EXCHANGE), 0);
    struct um_upper upper = upper_of(UM_UPPER_TRUSTED);
    CHECK_INT(um_upper_object_attr(&upper, &spot, &status, &attr), -ESTALE);
    place_close(&place);
}

/* A change that makes a claim look like the daemon's own word drops it. */
TEST(a_claim_is_not_believed_later)
{
    struct place place;
    struct stat status;
    struct um_attr attr = {0};
    struct um_upper upper = upper_of(UM_UPPER_TRUSTED);
    if (!is_root(__func__))
        return;
    place_open(&place);
    close(openat(place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    uint8_t acl[128];
    size_t size = minimal_acl(0644, acl);
    struct um_upper_reached spot = spot_in(place.fd, "file");
    for (int how = 0; how < 3; how++) {
        CHECK(!is_believed(&upper, place.fd, how == 0 ? NOBODY : 0, how == 0 ? 0644 : 0666));
        if (how == 0)
            CHECK_INT(um_upper_object_chown(&upper, &spot, 0, 0), 0);
        else if (how == 1)
            CHECK_INT(um_upper_object_chmod(&upper, &spot, 0644), 0);
        else
            CHECK_INT(um_upper_object_setxattr(&upper, &spot, UM_ACL_ACCESS, acl, size, 0), 0);
        CHECK_INT(um_upper_reached_stat(&spot, &status), 0);
        CHECK_INT(um_upper_object_attr(&upper, &spot, &status, &attr), 0);
        CHECK_INT(attr.mode, S_IFREG | 0644);
        CHECK_INT(attr.uid, 0);
        CHECK(!has_override(place.fd, "file"));
    }
    place_close(&place);
}

/* ---- changing ------------------------------------------------------------------------------------------------ */

enum { N_STEPS = 600 };
static struct seen expected[N_STEPS]; /* what root sees of the kernel's own files */

static void change_on_disk(int fd, uint64_t *state)
{
    uint8_t acl[128];
    struct um_upper_reached spot = spot_in(fd, "made");
    uint32_t what = pick(state, 3), a = pick(state, 4) * 1000, b = pick(state, 4) * 1000;
    uint32_t mode = pick(state, 010000);
    size_t size = pick_acl(state, acl);
    if (what == 0)
        CHECK_INT(
            um_upper_reached_chown(&spot, a == 3000 ? UINT32_MAX : a, b == 3000 ? UINT32_MAX : b),
            0);
    else if (what == 1)
        CHECK_INT(um_upper_reached_chmod(&spot, mode), 0);
    else
        CHECK_INT(um_upper_reached_setxattr(&spot, UM_ACL_ACCESS, acl, size, 0), 0);
}

static void change_shown(struct um_upper *upper, int fd, uint64_t *state)
{
    uint8_t acl[128];
    struct um_upper_reached spot = spot_in(fd, "made");
    uint32_t what = pick(state, 3), a = pick(state, 4) * 1000, b = pick(state, 4) * 1000;
    uint32_t mode = pick(state, 010000);
    size_t size = pick_acl(state, acl);
    if (what == 0)
        CHECK_INT(um_upper_object_chown(upper, &spot, a == 3000 ? UINT32_MAX : a,
                                        b == 3000 ? UINT32_MAX : b),
                  0);
    else if (what == 1)
        CHECK_INT(um_upper_object_chmod(upper, &spot, mode), 0);
    else
        CHECK_INT(um_upper_object_setxattr(upper, &spot, UM_ACL_ACCESS, acl, size, 0), 0);
}

/* Make an object of each type now and then, and change it meanwhile: on disk, with `upper` NULL, to
 * see what is expected; else through the upper. */
static void change_many(struct um_upper *upper)
{
    struct um_upper root = upper_of(0);
    struct place place;
    uint64_t state = 7;
    place_open(&place);
    for (unsigned i = 0; i < N_STEPS; i++) {
        if (i % 20 == 0) {
            struct um_upper_new_object owner = pick_owner(&state, types[i / 20 % N_TYPES]);
            CHECK_INT(um_upper_remove_tree(place.fd, "made"), 0);
            CHECK_INT(um_upper_make(upper ? upper : &root, place.fd, "made", &owner, NULL, false),
                      0);
        }
        if (upper == NULL) {
            change_on_disk(place.fd, &state);
            expected[i] = see_disk(place.fd, "made");
        } else {
            change_shown(upper, place.fd, &state);
            struct seen seen = see(upper, place.fd, "made");
            compare(&seen, &expected[i]);
            if (upper->flags & UM_UPPER_OVERRIDE)
                check_own(place.fd, "made");
        }
    }
    place_close(&place);
}

static void check_own_changes(void)
{
    struct um_upper upper = upper_of(UM_UPPER_OVERRIDE);
    change_many(&upper);
}

TEST(owner_mode_and_acl_change_as_on_disk)
{
    if (!is_root(__func__))
        return;
    struct um_upper upper = upper_of(0);
    change_many(NULL);
    change_many(&upper);
    struct um_upper powerless = upper_of(POWERLESS);
    change_many(&powerless);
    as_ordinary_user(check_own_changes);
}

/* The root, kept apart from the directory that it is on disk: nothing that is done to it lets in more. */
static void check_closed_root(mode_t bits, uint32_t flags)
{
    struct place place;
    uint64_t state = 5;
    place_open(&place);
    CHECK_INT(mkdirat(place.fd, "made", 0700), 0);
    CHECK_INT(fchmodat(place.fd, "made", bits, 0), 0);
    int made = openat(place.fd, "made", O_RDONLY | O_CLOEXEC);
    struct um_upper upper = upper_of(UM_UPPER_CLOSED_ROOT | flags);
    upper.upper_fd = made;
    struct um_upper_reached spot = spot_in(made, "");
    struct um_upper_reached reference = spot_in(place.fd, "reference");
    CHECK_INT(mkdirat(place.fd, "reference", 0755), 0);
    CHECK_INT(um_upper_reached_chmod(&reference, bits), 0);
    for (unsigned i = 0; i < 200; i++) {
        uint8_t acl[128];
        uint32_t what = pick(&state, 4), id = pick(&state, 3) * 1000, mode = pick(&state, 010000);
        size_t size = pick_acl(&state, acl);
        if (what == 0) {
            CHECK_INT(um_upper_object_chown(&upper, &spot, id, UINT32_MAX), 0);
            CHECK_INT(um_upper_reached_chown(&reference, id, UINT32_MAX), 0);
        } else if (what == 1) {
            CHECK_INT(um_upper_object_chmod(&upper, &spot, mode), 0);
            CHECK_INT(um_upper_reached_chmod(&reference, mode), 0);
        } else if (what == 2) {
            CHECK_INT(um_upper_object_setxattr(&upper, &spot, UM_ACL_ACCESS, acl, size, 0), 0);
            CHECK_INT(um_upper_reached_setxattr(&reference, UM_ACL_ACCESS, acl, size, 0), 0);
        } else {
            CHECK_INT(um_upper_object_removexattr(&upper, &spot, UM_ACL_ACCESS),
                      um_upper_reached_removexattr(&reference, UM_ACL_ACCESS));
        }
        struct seen seen = see(&upper, made, ""), wanted = see_disk(place.fd, "reference");
        wanted.size = seen.size;
        compare(&seen, &wanted);
        struct seen disk = see_disk(place.fd, "made");
        CHECK_INT(disk.uid, 0);
        CHECK_INT(disk.gid, 0);
        /* The group's bits are an ACL's mask; they become what others have, at most. */
        CHECK_INT(disk.mode & 07000, 0);
        CHECK_INT(disk.mode & 0707, bits & 0707);
        CHECK_INT(disk.mode & 070 & ~bits, 0);
        CHECK((disk.mode & 070) == (bits & 070) || (disk.mode & 070) == (bits & bits << 3 & 070));
    }
    close(made);
    place_close(&place);
}

TEST(the_root_opens_nothing_on_disk)
{
    static const mode_t bits[] = {0700, 0755, 0750, 0711};
    if (!is_root(__func__))
        return;
    for (size_t i = 0; i < 4; i++) {
        check_closed_root(bits[i], UM_UPPER_TRUSTED);
        check_closed_root(bits[i], POWERLESS);
    }
}

/* Wait until a change would have another time. */
static void next_tick(void)
{
    struct timespec before, now;
    clock_gettime(CLOCK_REALTIME_COARSE, &before);
    do {
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
    } while (now.tv_nsec == before.tv_nsec);
}

static void check_change_times(void)
{
    struct place place;
    struct um_upper upper = upper_of(UM_UPPER_OVERRIDE);
    struct um_upper_new_object owner = {.uid = geteuid(), .gid = getegid(), .mode = S_IFREG | 0644};
    struct stat before, after;
    place_open(&place);
    CHECK_INT(um_upper_make(&upper, place.fd, "made", &owner, NULL, false), 0);
    struct um_upper_reached spot = spot_in(place.fd, "made");
    for (int i = 0; i < 4; i++) {
        CHECK_INT(um_upper_reached_stat(&spot, &before), 0);
        next_tick();
        if (i % 2 == 0)
            CHECK_INT(um_upper_object_chown(&upper, &spot, i / 2, i / 2), 0);
        else
            CHECK_INT(um_upper_object_chmod(&upper, &spot, 0644), 0);
        CHECK_INT(um_upper_reached_stat(&spot, &after), 0);
        CHECK(before.st_ctim.tv_sec != after.st_ctim.tv_sec ||
              before.st_ctim.tv_nsec != after.st_ctim.tv_nsec);
        if (i == 0) {
            /* Once more the same. */
            before = after;
            next_tick();
            CHECK_INT(um_upper_object_chown(&upper, &spot, 0, 0), 0);
            CHECK_INT(um_upper_reached_stat(&spot, &after), 0);
            CHECK(before.st_ctim.tv_nsec != after.st_ctim.tv_nsec);
        }
    }
    place_close(&place);
}

TEST(changing_nothing_sets_the_change_time)
{
    as_ordinary_user(check_change_times);
}

/* ---- default ACLs ---------------------------------------------------------------------------------------------- */

/* One directory with a default ACL: what the kernel makes in it, what is made in it here, and what is
 * made elsewhere for it. */
static void check_inheritance(struct um_upper *upper, struct place *place, uint64_t *state)
{
    uint8_t acl[128];
    size_t size = pick_acl(state, acl);
    uint32_t type = types[pick(state, 4)], mode = type | pick(state, 01000);
    struct um_upper_new_object owner = {.uid = geteuid(), .gid = getegid(), .mode = mode};
    int directory, work;
    CHECK_INT(mkdirat(place->fd, "directory", 0755), 0);
    CHECK_INT(mkdirat(place->fd, "work", 0755), 0);
    struct um_upper_reached spot = spot_in(place->fd, "directory");
    CHECK_INT(um_upper_has_default_acl(&spot), 0);
    CHECK_INT(um_upper_reached_setxattr(&spot, UM_ACL_DEFAULT, acl, size, 0), 0);
    CHECK_INT(um_upper_has_default_acl(&spot), 1);
    directory = openat(place->fd, "directory", O_RDONLY | O_CLOEXEC);
    work = openat(place->fd, "work", O_RDONLY | O_CLOEXEC);
    struct um_upper_reached other = spot_in(place->fd, "work");
    if (pick(state, 2)) {
        uint8_t misleading[128];
        size_t misleading_size = pick_acl(state, misleading);
        CHECK_INT(um_upper_reached_setxattr(&other, UM_ACL_DEFAULT, misleading, misleading_size, 0),
                  0);
    }

    umask(077); /* which does not count */
    if (S_ISDIR(type))
        CHECK_INT(mkdirat(directory, "kernel", mode & 0777), 0);
    else
        CHECK_INT(mknodat(directory, "kernel", mode, 0), 0);
    struct seen kernel = see_disk(directory, "kernel");

    CHECK_INT(um_upper_make(upper, directory, "here", &owner, NULL, true), 0);
    struct seen here = see(upper, directory, "here");
    compare(&here, &kernel);

    CHECK_INT(um_upper_make(upper, work, "there", &owner, NULL, false), 0);
    struct seen there = see(upper, work, "there");
    CHECK_INT(there.mode, mode);
    CHECK_INT(there.access_size, -ENODATA);
    CHECK(there.default_size == -ENODATA || there.default_size == -EACCES);
    struct um_upper_reached made = spot_in(work, "there");
    CHECK_INT(um_upper_inherit_acl(upper, &spot, &made, mode), kernel.mode);
    there = see(upper, work, "there");
    compare(&there, &kernel);
    umask(022);

    struct um_upper_reached plain = spot_in(place->fd, "");
    CHECK_INT(um_upper_inherit_acl(upper, &plain, &made, mode), mode);
    close(directory);
    close(work);
    CHECK_INT(um_upper_remove_tree(place->fd, "directory"), 0);
    CHECK_INT(um_upper_remove_tree(place->fd, "work"), 0);
}

static void check_inheritances(uint32_t flags)
{
    struct place place;
    struct um_upper upper = upper_of(flags);
    uint64_t state = 3;
    place_open(&place);
    for (unsigned i = 0; i < 300; i++)
        check_inheritance(&upper, &place, &state);
    place_close(&place);
}

TEST(root_inherits_acls_as_the_kernel_does)
{
    if (!is_root(__func__))
        return;
    check_inheritances(0);
    check_inheritances(POWERLESS);
}

static void check_own_inheritances(void)
{
    check_inheritances(UM_UPPER_OVERRIDE);
}

TEST(an_ordinary_user_inherits_acls_as_the_kernel_does)
{
    as_ordinary_user(check_own_inheritances);
}

TEST(bytes_that_are_no_acl)
{
    uint8_t acl[128];
    uint64_t state = 11;
    uint32_t mode = 0777;
    for (unsigned i = 0; i < 2000; i++) {
        size_t size = pick_acl(&state, acl);
        acl[pick(&state, (uint32_t)size)] ^= (uint8_t)(1u << pick(&state, 8));
        size -= pick(&state, (uint32_t)size + 1);
        um_autofree uint8_t *exact = malloc(size + 1); /* so that reading beyond it is seen */
        memcpy(exact, acl, size);
        int result = um_acl_mode(um_slice_of(exact, size), &mode);
        CHECK(result == 0 || result == -EINVAL);
        CHECK_INT(um_acl_chmod(exact, size, 0640), result);
        int inherited = um_acl_inherit(exact, size, &mode);
        CHECK(result == 0 ? inherited >= 0 : inherited == -EINVAL);
    }
    CHECK(um_acl_is_empty(um_slice_of(acl, 4)));
    CHECK(!um_acl_is_empty(um_slice_of(acl, 28)));
}

/* ---- the public verbs, on what is in the upper already ------------------------------------------------------------ */

struct mount {
    struct stack stack;
    struct place upper_place, work_place;
    struct um_upper *upper;
};

/* A layer with "lower", which has data, "directory", and "guarded", whose ACL is `acl`. */
static int add_layer(struct stack *stack, struct um_slice acl)
{
    struct um_fault fault = {0};
    struct um_indexer *indexer;
    const struct um_tar_xattr xattr = {.name = UM_SLICE_LITERAL(UM_ACL_ACCESS), .value = acl};
    const struct um_tar_entry guarded = {.name = UM_SLICE_LITERAL("guarded"),
                                         .type = UM_TAR_FILE,
                                         .mode = 0170,
                                         .uid = 11,
                                         .gid = 12,
                                         .xattrs = &xattr,
                                         .n_xattrs = 1};
    int fd = make_memfd(0);
    int error = um_indexer_open(NULL, &indexer);
    if (error == 0)
        error = add_line(indexer, "f lower", &fault);
    if (error == 0)
        error = add_line(indexer, "d directory", &fault);
    if (error == 0)
        error = um_indexer_add(indexer, &guarded, &fault);
    if (error == 0)
        error = um_indexer_finish(indexer, LAYER_BYTES, fd, &fault);
    um_indexer_close(indexer);
    return error ? error : stack_push(stack, fd, &fault);
}

/* Owner: execute; user 1000: all; mask: all; nothing for others. */
static size_t write_guard(uint8_t acl[128])
{
    static const uint16_t entries[][2] = {{0x01, 1}, {0x02, 7}, {0x04, 0}, {0x10, 7}, {0x20, 0}};
    size_t size = 4;
    um_store32(acl, 2);
    for (size_t i = 0; i < 5; i++, size += 8) {
        um_store16(acl + size, entries[i][0]);
        um_store16(acl + size + 2, entries[i][1]);
        um_store32(acl + size + 4, entries[i][0] == 0x02 ? 1000 : UINT32_MAX);
    }
    return size;
}

static void mount_open(struct mount *mount)
{
    uint8_t acl[128];
    size_t acl_size = write_guard(acl);
    *mount = (struct mount){0};
    place_open(&mount->upper_place);
    place_open(&mount->work_place);
    CHECK_INT(add_layer(&mount->stack, um_slice_of(acl, acl_size)), 0);
    CHECK_INT(stack_open(&mount->stack), 0);
    struct um_upper_setup setup = {.tree = mount->stack.tree,
                                   .upper_fd = mount->upper_place.fd,
                                   .work_fd = mount->work_place.fd,
                                   .flags = geteuid() == 0 ? UM_UPPER_TRUSTED : UM_UPPER_OVERRIDE};
    CHECK_INT(um_upper_open(&setup, &mount->upper), 0);
}

static void mount_close(struct mount *mount)
{
    um_upper_close(mount->upper);
    stack_close(&mount->stack);
    place_close(&mount->upper_place);
    place_close(&mount->work_place);
}

static uint64_t mount_look(struct mount *mount, const char *name)
{
    struct um_attr attr = {0};
    CHECK_INT(um_upper_lookup(mount->upper, UM_ROOT_NODE, name, strlen(name), &attr), 0);
    return attr.node;
}

static void check_setattr(void)
{
    struct mount mount;
    struct um_attr attr = {0};
    mount_open(&mount);
    int fd = openat(mount.upper_place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK_INT(write(fd, "data", 4), 4);
    close(fd);
    uint64_t node = mount_look(&mount, "file");

    struct um_upper_changes changes = {.which = UM_UPPER_SET_SIZE | UM_UPPER_SET_UID |
                                                UM_UPPER_SET_MODE | UM_UPPER_SET_MTIME,
                                       .size = 10,
                                       .uid = 4321,
                                       .mode = 04755,
                                       .mtime = -5,
                                       .mtime_nsec = 123456789};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.node, node);
    CHECK_INT(attr.size, 10);
    CHECK_INT(attr.uid, 4321);
    CHECK_INT(attr.gid, getegid());
    CHECK_INT(attr.mode, S_IFREG | 04755);
    CHECK_INT(attr.mtime, -5);
    CHECK_INT(attr.mtime_nsec, 123456789);

    changes = (struct um_upper_changes){.which = UM_UPPER_SET_GID | UM_UPPER_SET_MTIME_NOW |
                                                 UM_UPPER_SET_ATIME,
                                        .gid = 77,
                                        .atime = 99};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0755);
    CHECK_INT(attr.uid, 4321);
    CHECK_INT(attr.gid, 77);
    CHECK_INT(attr.atime, 99);
    CHECK(attr.mtime > 1000000000);

    changes = (struct um_upper_changes){.which = UM_UPPER_SET_SIZE, .size = 1};
    CHECK_INT(um_upper_open_file(mount.upper, node, UM_UPPER_OPEN_WRITE), 0);
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.size, 1);
    um_upper_release(mount.upper, node);
    CHECK_INT(um_upper_setattr(mount.upper, UM_ROOT_NODE, &changes, &attr), -EISDIR);
    changes.size = UINT64_MAX;
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), -EFBIG);
    changes = (struct um_upper_changes){.which = UM_UPPER_SET_ATIME, .atime_nsec = UTIME_NOW};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), -EINVAL);
    CHECK_INT(um_upper_setattr(mount.upper, UINT64_MAX - 1, &changes, &attr), -ESTALE);

    /* Size, of what may not be opened. */
    CHECK_INT(mkfifoat(mount.upper_place.fd, "fifo", 0644), 0);
    node = mount_look(&mount, "fifo");
    changes = (struct um_upper_changes){.which = UM_UPPER_SET_SIZE};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), -EINVAL);
    changes = (struct um_upper_changes){.which = UM_UPPER_SET_MODE, .mode = 0600};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mode, S_IFIFO | 0600);

    CHECK_INT(symlinkat("nowhere", mount.upper_place.fd, "link"), 0);
    node = mount_look(&mount, "link");
    changes =
        (struct um_upper_changes){.which = UM_UPPER_SET_UID | UM_UPPER_SET_MTIME, .uid = geteuid()};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mtime, 0);
    CHECK(S_ISLNK(attr.mode));
    mount_close(&mount);
}

TEST(setattr)
{
    if (geteuid() == 0)
        check_setattr();
    as_ordinary_user(check_setattr);
}

static int set(struct mount *mount, uint64_t node, const char *name, const char *value, int flags)
{
    return um_upper_setxattr(mount->upper, node, name, strlen(name), value, strlen(value), flags);
}

static int64_t get(struct mount *mount, uint64_t node, const char *name, char *value, size_t size)
{
    return um_upper_getxattr(mount->upper, node, name, strlen(name), value, size);
}

static int drop(struct mount *mount, uint64_t node, const char *name)
{
    return um_upper_removexattr(mount->upper, node, name, strlen(name));
}

/* What users call as marks are called; the object on disk is marked as opaque. */
static void check_names_of_marks(struct mount *mount, uint64_t node)
{
    const bool trusted = mount->upper->flags & UM_UPPER_TRUSTED;
    const char *own = trusted ? "trusted.overlay.x" : "user.overlay.x";
    const char *escaped = trusted ? "trusted.overlay.overlay.x" : "user.overlay.overlay.x";
    const char *twice =
        trusted ? "trusted.overlay.overlay.overlay.x" : "user.overlay.overlay.overlay.x";
    const char *bare = trusted ? "trusted.overlay." : "user.overlay.";
    char value[16], names[256], longest[256] = {0};
    struct um_upper_reached spot = spot_in(mount->upper_place.fd, "file");
    int64_t before = um_upper_listxattr(mount->upper, node, NULL, 0);
    CHECK_INT(set(mount, node, own, "one", 0), 0);
    CHECK_INT(set(mount, node, escaped, "two.", 0), 0);
    CHECK_INT(um_upper_reached_getxattr(&spot, own, value, sizeof value), -ENODATA);
    CHECK_INT(um_upper_reached_getxattr(&spot, escaped, value, sizeof value), 3);
    CHECK_INT(um_upper_reached_getxattr(&spot, twice, value, sizeof value), 4);
    CHECK_INT(get(mount, node, own, value, sizeof value), 3);
    CHECK_INT(get(mount, node, escaped, value, sizeof value), 4);
    int64_t size = um_upper_listxattr(mount->upper, node, names, sizeof names);
    CHECK_INT(size, before + (int64_t)(strlen(own) + strlen(escaped) + 2));
    CHECK_INT(set(mount, node, own, "no", XATTR_CREATE), -EEXIST);
    CHECK_INT(drop(mount, node, own), 0);
    CHECK_INT(drop(mount, node, own), -ENODATA);
    CHECK_INT(get(mount, node, escaped, value, sizeof value), 4);
    CHECK_INT(drop(mount, node, escaped), 0);
    CHECK_INT(um_upper_reached_getxattr(&spot, twice, value, sizeof value), -ENODATA);
    CHECK_INT(set(mount, node, bare, "", 0), -EINVAL);
    CHECK_INT(get(mount, node, bare, NULL, 0), -EINVAL);
    memset(longest, 'a', 248);
    memcpy(longest, own, strlen(own));
    CHECK_INT(set(mount, node, longest, "", 0), -EOPNOTSUPP);
    CHECK_INT(get(mount, node, longest, NULL, 0), -EOPNOTSUPP);
    CHECK_INT(drop(mount, node, longest), -EOPNOTSUPP);
    longest[247] = '\0';
    int error = set(mount, node, longest, "", 0);
    CHECK(error == 0 || error == -ENOSPC);
    CHECK_INT(drop(mount, node, longest), error ? -ENODATA : 0);
}

static void check_xattrs(void)
{
    struct mount mount;
    char value[16], names[64], longest[300];
    mount_open(&mount);
    close(openat(mount.upper_place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    uint64_t node = mount_look(&mount, "file");
    struct um_upper_changes changes = {.which = UM_UPPER_SET_UID, .uid = 5};
    struct um_attr attr;
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    struct um_upper_reached spot = spot_in(mount.upper_place.fd, "file");
    const char *mark =
        mount.upper->flags & UM_UPPER_TRUSTED ? "trusted.overlay.opaque" : "user.overlay.opaque";
    CHECK_INT(um_upper_reached_setxattr(&spot, mark, "y", 1, 0), 0);

    CHECK_INT(um_upper_listxattr(mount.upper, node, NULL, 0), 0);
    CHECK_INT(get(&mount, node, "user.a", value, sizeof value), -ENODATA);
    CHECK_INT(set(&mount, node, "user.a", "1234", XATTR_REPLACE), -ENODATA);
    CHECK_INT(set(&mount, node, "user.a", "1234", XATTR_CREATE), 0);
    CHECK_INT(set(&mount, node, "user.a", "1234", XATTR_CREATE), -EEXIST);
    CHECK_INT(set(&mount, node, "user.a", "12345", XATTR_REPLACE), 0);
    CHECK_INT(set(&mount, node, "user.b", "", 0), 0);
    CHECK_INT(get(&mount, node, "user.a", NULL, 0), 5);
    CHECK_INT(get(&mount, node, "user.a", value, 4), -ERANGE);
    CHECK_INT(get(&mount, node, "user.a", value, sizeof value), 5);
    CHECK_BYTES(value, 5, "12345");
    CHECK_INT(get(&mount, node, "user.b", value, sizeof value), 0);
    CHECK_INT(um_upper_listxattr(mount.upper, node, NULL, 0), 14);
    CHECK_INT(um_upper_listxattr(mount.upper, node, names, 13), -ERANGE);
    CHECK_INT(um_upper_listxattr(mount.upper, node, names, sizeof names), 14);
    CHECK(memcmp(names, "user.a\0user.b", 14) == 0 || memcmp(names, "user.b\0user.a", 14) == 0);

    /* Marks. */
    CHECK_INT(get(&mount, node, mark, value, sizeof value), -ENODATA);
    CHECK_INT(get(&mount, node, UM_OVERRIDE_XATTR, value, sizeof value), -ENODATA);
    CHECK_INT(set(&mount, node, UM_OVERRIDE_XATTR, "0:0:04755", 0), -EPERM);
    CHECK_INT(set(&mount, node, "user.fuseoverlayfs.opaque", "y", 0), -EPERM);
    CHECK_INT(set(&mount, node, "security.fuseoverlayfs.override_stat", "0:0:0", 0), -EPERM);
    CHECK_INT(drop(&mount, node, mark), -ENODATA);

    check_names_of_marks(&mount, node);
    CHECK_INT(um_upper_reached_getxattr(&spot, mark, value, sizeof value), 1);

    CHECK_INT(drop(&mount, node, "user.a"), 0);
    CHECK_INT(drop(&mount, node, "user.a"), -ENODATA);
    CHECK_INT(drop(&mount, node, UM_ACL_ACCESS), 0);
    CHECK_INT(um_upper_reached_removexattr(&spot, UM_ACL_ACCESS), 0); /* as the kernel says, too */

    /* Names and sizes. */
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "user.", 5);
    CHECK_INT(um_upper_setxattr(mount.upper, node, longest, 255, "x", 1, 0), 0);
    CHECK_INT(um_upper_getxattr(mount.upper, node, longest, 255, NULL, 0), 1);
    CHECK_INT(um_upper_setxattr(mount.upper, node, longest, 256, "x", 1, 0), -ERANGE);
    CHECK_INT(um_upper_getxattr(mount.upper, node, longest, 256, NULL, 0), -ERANGE);
    CHECK_INT(um_upper_removexattr(mount.upper, node, "", 0), -ERANGE);
    CHECK_INT(um_upper_getxattr(mount.upper, node, "user.a\0b", 8, NULL, 0), -EINVAL);
    um_autofree char *large = calloc(1, 65537);
    CHECK_INT(um_upper_setxattr(mount.upper, node, "user.l", 6, large, 65537, 0), -E2BIG);
    CHECK_INT(set(&mount, node, "user.a", "", 4), -EINVAL);

    /* What is not there is not copied up to be removed. */
    node = mount_look(&mount, "lower");
    CHECK_INT(drop(&mount, node, "user.a"), -ENODATA);
    CHECK_INT(drop(&mount, node, UM_ACL_ACCESS), 0);
    CHECK_INT(set(&mount, node, "user.a", "", XATTR_REPLACE), -ENODATA);
    CHECK_INT(get(&mount, node, "user.a", NULL, 0), -ENODATA);
    CHECK_INT(um_upper_listxattr(mount.upper, node, NULL, 0), 0);
    CHECK_INT(faccessat(mount.upper_place.fd, "lower", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    CHECK_INT(get(&mount, UINT64_MAX - 1, "user.a", NULL, 0), -ESTALE);
    CHECK_INT(um_upper_listxattr(mount.upper, UINT64_MAX - 1, NULL, 0), -ESTALE);
    mount_close(&mount);
}

TEST(xattrs)
{
    if (geteuid() == 0)
        check_xattrs();
    as_ordinary_user(check_xattrs);
}

static bool is_above(struct mount *mount, const char *name)
{
    return faccessat(mount->upper_place.fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void check_copy_up(void)
{
    struct mount mount;
    struct um_attr attr = {0};
    struct um_upper_changes changes = {.which = UM_UPPER_SET_MODE, .mode = 0604};
    uint8_t acl[128], copied[128];
    int64_t acl_size = (int64_t)write_guard(acl);
    mount_open(&mount);

    /* A file with data: nothing is changed before it is copied. */
    uint64_t node = mount_look(&mount, "lower");
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), -EAGAIN);
    CHECK_INT(set(&mount, node, "user.a", "1", 0), -EAGAIN);
    CHECK_INT(um_upper_getattr(mount.upper, node, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0644);
    CHECK(!is_above(&mount, "lower"));
    CHECK_INT(um_upper_copy_up(mount.upper, node, 0), 0);
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0604);
    CHECK_INT(attr.size, 3);
    CHECK_INT(attr.uid, 0);
    CHECK_INT(attr.node, node);
    CHECK_INT(set(&mount, node, "user.a", "1", 0), 0);
    CHECK_INT(get(&mount, node, "user.a", NULL, 0), 1);

    /* A directory. */
    node = mount_look(&mount, "directory");
    changes = (struct um_upper_changes){.which = 0};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK(!is_above(&mount, "directory"));
    changes = (struct um_upper_changes){
        .which = UM_UPPER_SET_GID | UM_UPPER_SET_MODE, .gid = 9, .mode = 02511};
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.mode, S_IFDIR | 02511);
    CHECK_INT(attr.gid, 9);
    CHECK_INT(attr.node, node);
    CHECK(is_above(&mount, "directory"));
    CHECK_INT(set(&mount, node, "user.a", "1", 0), 0);

    /* A file whose ACL does not let its owner read it. */
    node = mount_look(&mount, "guarded");
    CHECK_INT(um_upper_copy_up(mount.upper, node, 0), 0);
    CHECK(is_above(&mount, "guarded"));
    CHECK_INT(um_upper_getattr(mount.upper, node, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0170);
    CHECK_INT(attr.uid, 11);
    CHECK_INT(attr.gid, 12);
    CHECK_INT(get(&mount, node, UM_ACL_ACCESS, (char *)copied, sizeof copied), acl_size);
    CHECK(memcmp(acl, copied, (size_t)acl_size) == 0);
    CHECK_INT(drop(&mount, node, UM_ACL_ACCESS), 0);
    CHECK_INT(um_upper_getattr(mount.upper, node, &attr), 0);
    CHECK_INT(attr.mode, S_IFREG | 0170);
    mount_close(&mount);
}

TEST(changes_copy_up)
{
    if (geteuid() == 0)
        check_copy_up();
    as_ordinary_user(check_copy_up);
}

static void check_truncation(void)
{
    struct mount mount;
    struct um_attr attr = {0};
    struct um_upper_changes changes = {.which = UM_UPPER_SET_SIZE, .size = 1};
    mount_open(&mount);
    uint64_t node = mount_look(&mount, "lower");
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), -EAGAIN);
    changes.size = 0; /* nothing to copy */
    CHECK_INT(um_upper_setattr(mount.upper, node, &changes, &attr), 0);
    CHECK_INT(attr.size, 0);
    CHECK_INT(attr.node, node);
    CHECK(attr.mtime > 1000000000); /* now, not the lower file's */
    mount_close(&mount);
}

TEST(truncation_copies_up_without_data)
{
    if (geteuid() == 0)
        check_truncation();
    as_ordinary_user(check_truncation);
}

static void check_refused_by_disk(void)
{
    struct mount mount;
    mount_open(&mount);
    close(openat(mount.upper_place.fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    uint64_t node = mount_look(&mount, "file");
    CHECK_INT(set(&mount, node, "trusted.a", "1", 0), -EPERM);
    CHECK_INT(set(&mount, node, "nonsense", "1", 0), -EOPNOTSUPP);
    CHECK_INT(set(&mount, node, UM_ACL_ACCESS, "nonsense", 0), -EOPNOTSUPP);
    CHECK_INT(symlinkat("nowhere", mount.upper_place.fd, "link"), 0);
    node = mount_look(&mount, "link");
    CHECK_INT(set(&mount, node, "user.a", "1", 0), -EPERM);
    mount_close(&mount);
}

TEST(what_the_disk_refuses)
{
    as_ordinary_user(check_refused_by_disk);
}
