/* How many system calls the verbs of an upper make. The verbs run in a child, which the test follows with
 * ptrace(2), so the kernel counts. What is measured are sequences as the kernel's FUSE sends them for one call
 * of a program; what answers come from memory is for docs/explanation/upper.md ("What is not asked again"). */
#include <linux/fs.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "harness.h"
#include "upper/upper.h"
#include "upper_machine.h"

#define MARK 0xfff0 /* the number of no system call */

/* What is counted. The child marks where each begins. */
enum phase {
    BEFORE, /* what only makes ready is not looked at */
    CREATE,
    WRITE_FIRST,
    OVERWRITE,
    MKDIR,
    SYMLINK,
    RENAME,
    REPLACE,
    LINK,
    UNLINK_OPEN,
    UNLINK_CLOSED,
    RMDIR,
    CHOWN,
    CHMOD,
    UTIMENS,
    GETXATTR_FRESH,
    LOOKUP_KNOWN,
    N_PHASES,
};

struct world {
    struct stack stack;
    struct um_upper *upper;
    uint64_t place; /* the directory in which all happens */
    int directory, above, work;
    char path[64];
};

static void world_open(struct world *w, unsigned flags)
{
    *w = (struct world){0};
    umask(0);
    snprintf(w->path, sizeof w->path, "/tmp/um-calls-XXXXXX");
    if (mkdtemp(w->path) == NULL)
        abort();
    w->directory = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    w->above = machine_directory(w->directory, "upper");
    w->work = machine_directory(w->directory, "work");
    machine_layers(&w->stack);
    if (stack_open(&w->stack) != 0)
        abort();
    const struct um_upper_setup setup = {w->stack.tree, w->above, w->work, flags, 0, 0};
    if (um_upper_open(&setup, &w->upper) != 0 || um_upper_recover(w->upper) != 0)
        abort();
}

static void world_close(struct world *w)
{
    um_upper_close(w->upper);
    stack_close(&w->stack);
    machine_remove(openat(w->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    close(w->above);
    close(w->work);
    close(w->directory);
    CHECK_INT(rmdir(w->path), 0);
}

/* ---- what the kernel sends for a call of a program ------------------------------------------------- */

static void begins(enum phase phase)
{
    syscall(MARK, (long)phase);
}

/* In the child, which has nothing to tell but its status. */
static void need(bool good)
{
    if (!good)
        _exit(3);
}

static struct um_upper_maker maker(void)
{
    struct um_upper_maker maker = machine_maker();
    maker.umask = 022;
    return maker;
}

static uint64_t look(struct world *w, const char *name)
{
    struct um_attr attr;
    int error = um_upper_lookup(w->upper, w->place, name, strlen(name), &attr);
    need(error == 0 || error == -ENOENT);
    return error ? 0 : attr.node;
}

static uint64_t create(struct world *w, const char *name)
{
    struct um_attr attr;
    const struct um_upper_maker who = maker();
    need(look(w, name) == 0);
    need(um_upper_mknod(w->upper, w->place, name, strlen(name), S_IFREG | 0644, 0, 0, &who,
                        &attr) == 0);
    return attr.node;
}

static uint64_t make_directory(struct world *w, uint64_t above, const char *name)
{
    struct um_attr attr;
    const struct um_upper_maker who = maker();
    need(um_upper_lookup(w->upper, above, name, strlen(name), &attr) == -ENOENT);
    need(um_upper_mkdir(w->upper, above, name, strlen(name), 0755, &who, &attr) == 0);
    return attr.node;
}

static void make_symlink(struct world *w, const char *name)
{
    struct um_attr attr;
    const struct um_upper_maker who = maker();
    need(look(w, name) == 0);
    need(um_upper_symlink(w->upper, w->place, name, strlen(name), "target", 6, &who, &attr) == 0);
}

/* The file stays open, as csrc/fastpath keeps files that were written lately. */
static void put(struct world *w, uint64_t node)
{
    need(um_upper_open_file(w->upper, node, UM_UPPER_OPEN_WRITE) == 0);
    need(um_upper_write(w->upper, node, 0, "content", 7) == 7);
}

static void move(struct world *w, const char *from, const char *to)
{
    look(w, to);
    need(um_upper_rename(w->upper, w->place, from, strlen(from), w->place, to, strlen(to), 0) == 0);
}

static void set(struct world *w, uint64_t node, const struct um_upper_changes *changes)
{
    struct um_attr attr;
    need(um_upper_setattr(w->upper, node, changes, &attr) == 0);
}

/* ---- the child ---------------------------------------------------------------------------------------- */

static void change_attributes(struct world *w, uint64_t node)
{
    begins(CHOWN);
    set(w, node,
        &(struct um_upper_changes){
            .which = UM_UPPER_SET_UID | UM_UPPER_SET_GID, .uid = geteuid(), .gid = getegid()});
    begins(CHMOD);
    set(w, node, &(struct um_upper_changes){.which = UM_UPPER_SET_MODE, .mode = 0600});
    begins(UTIMENS);
    set(w, node, &(struct um_upper_changes){.which = UM_UPPER_SET_MTIME, .mtime = 1});
    begins(BEFORE);
}

static void remove_files(struct world *w, uint64_t opened, uint64_t closed)
{
    um_upper_release(w->upper, closed);
    begins(UNLINK_OPEN);
    need(um_upper_unlink(w->upper, w->place, "opened", 6) == 0);
    um_upper_forget(w->upper, opened, 1);
    um_upper_release(w->upper, opened);
    begins(UNLINK_CLOSED);
    need(um_upper_unlink(w->upper, w->place, "closed", 6) == 0);
    um_upper_forget(w->upper, closed, 1);
    begins(BEFORE);
}

static void move_files(struct world *w)
{
    struct um_attr attr;
    uint64_t old = create(w, "replaced");
    put(w, create(w, "from"));
    um_upper_release(w->upper, look(w, "from"));
    begins(RENAME);
    move(w, "from", "to");
    begins(LINK);
    need(look(w, "another") == 0);
    need(um_upper_link(w->upper, look(w, "to"), w->place, "another", 7, &attr) == 0);
    begins(BEFORE);
    create(w, "new");
    begins(REPLACE);
    move(w, "new", "replaced");
    begins(BEFORE);
    um_upper_forget(w->upper, old, 1);
}

static void make_things(struct world *w)
{
    begins(CREATE);
    uint64_t opened = create(w, "opened");
    begins(GETXATTR_FRESH);
    need(um_upper_getxattr(w->upper, opened, "security.capability", 19, NULL, 0) == -ENODATA);
    begins(WRITE_FIRST);
    put(w, opened);
    begins(OVERWRITE);
    need(um_upper_write(w->upper, opened, 0, "another", 7) == 7);
    begins(LOOKUP_KNOWN);
    need(look(w, "opened") == opened);
    begins(BEFORE);
    um_upper_forget(w->upper, opened, 1);
    change_attributes(w, opened);
    uint64_t closed = create(w, "closed");
    put(w, closed);
    remove_files(w, opened, closed);
}

static void do_everything(struct world *w)
{
    w->place = make_directory(w, UM_ROOT_NODE, "place");
    put(w, create(w, "first")); /* what is learned of a directory is known from here on */
    make_things(w);
    move_files(w);
    begins(MKDIR);
    uint64_t directory = make_directory(w, w->place, "directory");
    begins(SYMLINK);
    make_symlink(w, "symlink");
    begins(RMDIR);
    need(um_upper_rmdir(w->upper, w->place, "directory", 9) == 0);
    um_upper_forget(w->upper, directory, 1);
    begins(BEFORE);
}

/* ---- the one that counts ------------------------------------------------------------------------------ */

/* Calls about memory, threads and time, which the sanitizers make as well, and such that only ask for numbers
 * of the process. Every other one counts. */
static bool is_about_files(uint64_t number)
{
    switch (number) {
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise:
    case SYS_mremap:
    case SYS_brk:
    case SYS_futex:
    case SYS_clock_gettime:
    case SYS_getpid:
    case SYS_gettid:
    case SYS_geteuid:
    case SYS_getegid:
    case SYS_sched_yield:
    case SYS_rt_sigprocmask:
        return false;
    default:
        return true;
    }
}

/* Follow the child from one call to the next, to its end. Its status. */
static int follow(pid_t child, unsigned counts[N_PHASES])
{
    enum phase phase = BEFORE;
    int status;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        if (WSTOPSIG(status) == SIGSTOP)
            ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)PTRACE_O_TRACESYSGOOD);
        struct __ptrace_syscall_info info = {0};
        long got = ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof info, &info);
        if (got > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            if (info.entry.nr == MARK && info.entry.args[0] < N_PHASES)
                phase = (enum phase)info.entry.args[0];
            else if (is_about_files(info.entry.nr))
                counts[phase]++;
        }
        if (ptrace(PTRACE_SYSCALL, child, NULL, NULL) != 0)
            break;
    }
    return status;
}

static void count(unsigned flags, unsigned counts[N_PHASES])
{
    struct world w;
    world_open(&w, flags);
    memset(counts, 0, N_PHASES * sizeof *counts);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        need(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGSTOP);
        do_everything(&w);
        _exit(0);
    }
    int status = follow(child, counts);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(counts[BEFORE] > 0); /* it was followed */
    world_close(&w);
}

struct budget {
    enum phase phase;
    const char *name;
    unsigned calls;
};

static void check_budgets(unsigned flags, const struct budget *budgets, size_t n)
{
    unsigned counts[N_PHASES];
    count(flags, counts);
    for (size_t i = 0; i < n; i++) {
        if (counts[budgets[i].phase] != budgets[i].calls)
            UM_TEST_FAIL("%s takes %u system calls, expected %u", budgets[i].name,
                         counts[budgets[i].phase], budgets[i].calls);
    }
}

#define CHECK_BUDGETS(flags, ...)                                             \
    do {                                                                      \
        const struct budget budgets_[] = {__VA_ARGS__};                       \
        check_budgets((flags), budgets_, sizeof budgets_ / sizeof *budgets_); \
    } while (0)

/* As root's daemon has it; an ordinary user can't set the marks below trusted., which nothing here needs. */
TEST(calls_of_an_upper_that_nobody_else_reaches)
{
    unsigned marks = geteuid() == 0 ? UM_UPPER_TRUSTED : 0;
    CHECK_BUDGETS(UM_UPPER_VOLATILE | UM_UPPER_PRIVATE | marks, {CREATE, "creating", 3},
                  {GETXATTR_FRESH, "asking for the capability of a new file", 0},
                  {WRITE_FIRST, "the first write to a new file", 1},
                  {OVERWRITE, "writing to an open file", 1},
                  {LOOKUP_KNOWN, "looking up a known file", 1}, {CHOWN, "changing the owner", 3},
                  {CHMOD, "changing the mode", 3}, {UTIMENS, "setting times", 2},
                  {UNLINK_OPEN, "removing an open file", 3}, {UNLINK_CLOSED, "removing a file", 5},
                  {RENAME, "renaming", 4}, {REPLACE, "renaming over a file", 4},
                  {LINK, "linking", 5}, {MKDIR, "making a directory", 3},
                  {SYMLINK, "making a symlink", 3}, {RMDIR, "removing a directory", 4});
}

/* As an ordinary user's daemon has it: what an object shows may be in an xattr, and something may be mounted
 * on its name, so each is opened before it is asked. */
TEST(calls_of_an_ordinary_users_upper)
{
    CHECK_BUDGETS(UM_UPPER_VOLATILE | UM_UPPER_OVERRIDE | UM_UPPER_CLOSED, {CREATE, "creating", 3},
                  {GETXATTR_FRESH, "asking for the capability of a new file", 0},
                  {WRITE_FIRST, "the first write to a new file", 1},
                  {OVERWRITE, "writing to an open file", 1},
                  {LOOKUP_KNOWN, "looking up a known file", 7}, {CHOWN, "changing the owner", 6},
                  {CHMOD, "changing the mode", 6}, {UTIMENS, "setting times", 3},
                  {UNLINK_OPEN, "removing an open file", 9}, {UNLINK_CLOSED, "removing a file", 11},
                  {RENAME, "renaming", 10}, {REPLACE, "renaming over a file", 22},
                  {LINK, "linking", 17}, {MKDIR, "making a directory", 5},
                  {SYMLINK, "making a symlink", 5}, {RMDIR, "removing a directory", 13});
}

/* In an upper that others can reach nothing is remembered: each object is opened, compared and asked. */
TEST(calls_of_an_upper_that_others_reach)
{
    CHECK_BUDGETS(UM_UPPER_VOLATILE | UM_UPPER_OVERRIDE | UM_UPPER_OPEN, {CREATE, "creating", 22},
                  {GETXATTR_FRESH, "asking for the capability of a new file", 5},
                  {WRITE_FIRST, "the first write to a new file", 12},
                  {UNLINK_CLOSED, "removing a file", 21}, {RENAME, "renaming", 14});
}
