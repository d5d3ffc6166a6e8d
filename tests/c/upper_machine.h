/*
 * upper_machine.h - the same operations on an upper and on a plain directory, compared.
 *
 * Purpose: bytes are read as operations (make, write, link, unlink, rename …) on a small set of
 * paths. Each is done through upper.h over two lower layers, and by system calls in a plain
 * directory that held the same tree at first. Results must be equal at every step, and the trees at
 * the end, also after the upper was closed and opened again, as another daemon would find it. Node
 * numbers must be those that the files had before, over copy-up, rename and reopening. What differs
 * aborts, and says what.
 * Ownership: a machine owns what it made below its directory until machine_close.
 * Threads: one at a time.
 */
#ifndef UM_TEST_UPPER_MACHINE_H
#define UM_TEST_UPPER_MACHINE_H

#include <dirent.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "layers.h"
#include "upper/upper.h"

#define MACHINE_NUMBERS 4096
#define MACHINE_FILES 8 /* kept open */

struct machine_number {
    ino_t plain;
    uint64_t node;
};

/* A file that is open on both sides. */
struct machine_file {
    int fd; /* of the plain one; -1: none */
    uint64_t node;
    bool write;
};

struct machine {
    struct stack stack;
    struct um_upper *upper;
    int directory, plain, above, work;
    unsigned flags;
    uint64_t metacopy_min;
    const uint8_t *script;
    size_t size, at, step;
    struct machine_number numbers[MACHINE_NUMBERS];
    size_t n_numbers;
    struct machine_file files[MACHINE_FILES];
    bool verbose;
};

#define MACHINE_FAIL(machine, ...)                      \
    do {                                                \
        fprintf(stderr, "step %zu: ", (machine)->step); \
        fprintf(stderr, __VA_ARGS__);                   \
        fputc('\n', stderr);                            \
        abort();                                        \
    } while (0)

static inline unsigned machine_byte(struct machine *m)
{
    return m->at < m->size ? m->script[m->at++] : 0;
}

/* A plain inode may cease: its number is used again. */
static inline void machine_drop(struct machine *m, const struct stat *status)
{
    for (size_t i = 0; i < m->n_numbers; i++) {
        if (m->numbers[i].plain == status->st_ino)
            m->numbers[i--] = m->numbers[--m->n_numbers];
    }
}

static inline bool machine_is_last_name(const struct stat *status)
{
    return S_ISDIR(status->st_mode) || status->st_nlink <= 1;
}

/* ---- the two trees at first ---------------------------------------------------------------------- */

static inline void machine_copy(struct machine *m, uint64_t node, int fd);

static inline bool machine_link_copy(struct machine *m, const struct um_tree_entry *entry, int fd,
                                     const char *name)
{
    struct stat status;
    for (size_t i = 0; i < m->n_numbers; i++) {
        if (m->numbers[i].node == entry->attr.node) {
            /* Its first name is found by its number, in a directory made for that. */
            char known[32];
            snprintf(known, sizeof known, "%llu", (unsigned long long)entry->attr.node);
            return linkat(m->work, known, fd, name, 0) == 0;
        }
    }
    if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && m->n_numbers < MACHINE_NUMBERS)
        m->numbers[m->n_numbers++] = (struct machine_number){status.st_ino, entry->attr.node};
    return false;
}

static inline void machine_make_copy(struct machine *m, const struct um_tree_entry *entry, int fd,
                                     const char *name)
{
    const char *target;
    size_t size;
    char text[256];
    if (machine_link_copy(m, entry, fd, name))
        return;
    switch (entry->attr.mode & S_IFMT) {
    case S_IFDIR:
        if (mkdirat(fd, name, 0700) == 0) {
            int inner = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            fchmod(inner, entry->attr.mode & 07777);
            machine_copy(m, entry->attr.node, inner);
            close(inner);
        }
        break;
    case S_IFLNK:
        if (um_tree_readlink(m->stack.tree, entry->attr.node, &target, &size) == 0) {
            snprintf(text, sizeof text, "%.*s", (int)size, target);
            if (symlinkat(text, fd, name) != 0)
                abort();
        }
        break;
    case S_IFREG: {
        int made = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (made < 0 || ftruncate(made, (off_t)entry->attr.size) != 0)
            abort();
        fchmod(made, entry->attr.mode & 07777);
        close(made);
        break;
    }
    default:
        if (mknodat(fd, name, entry->attr.mode, makedev(entry->attr.major, entry->attr.minor)) != 0)
            abort();
        fchmodat(fd, name, entry->attr.mode & 07777, 0);
    }
    machine_link_copy(m, entry, fd, name);
    if (!S_ISDIR(entry->attr.mode)) {
        char known[32];
        snprintf(known, sizeof known, "%llu", (unsigned long long)entry->attr.node);
        if (linkat(fd, name, m->work, known, 0) != 0)
            abort();
    }
}

static inline void machine_copy(struct machine *m, uint64_t node, int fd)
{
    struct um_tree_entry entry;
    uint64_t cookie = 0;
    while (um_tree_list(m->stack.tree, node, cookie, &entry, 1) == 1) {
        char name[UM_NAME_MAX + 1];
        snprintf(name, sizeof name, "%.*s", (int)entry.name_size, entry.name);
        machine_make_copy(m, &entry, fd, name);
        cookie = entry.next;
    }
}

static inline int machine_directory(int fd, const char *name)
{
    if (mkdirat(fd, name, 0755) != 0)
        abort();
    return openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static inline void machine_remove(int fd)
{
    DIR *stream = fdopendir(fd);
    struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(stream), entry->d_name, 0) == 0)
            continue;
        fchmodat(dirfd(stream), entry->d_name, 0700, 0);
        int inner = openat(dirfd(stream), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (inner >= 0)
            machine_remove(inner);
        unlinkat(dirfd(stream), entry->d_name, AT_REMOVEDIR);
    }
    if (stream != NULL)
        closedir(stream);
}

static inline void machine_open_upper(struct machine *m)
{
    struct um_upper_setup setup = {m->stack.tree, m->above, m->work, m->flags, m->metacopy_min, 0};
    int error = um_upper_open(&setup, &m->upper);
    if (error == 0)
        error = um_upper_recover(m->upper);
    if (error != 0)
        MACHINE_FAIL(m, "opening the upper: %s", strerror(-error));
}

/* Begin in the directory `fd`, which is empty, over the layers of `m->stack`. */
static inline void machine_open(struct machine *m, int fd)
{
    umask(0);
    m->directory = fd;
    m->plain = machine_directory(fd, "plain");
    m->above = machine_directory(fd, "upper");
    m->work = machine_directory(fd, "work");
    for (size_t i = 0; i < MACHINE_FILES; i++)
        m->files[i].fd = -1;
    if (stack_open(&m->stack) != 0)
        abort();
    machine_copy(m, UM_ROOT_NODE, m->plain);
    int names = openat(m->directory, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    machine_remove(names);
    machine_open_upper(m);
}

static inline void machine_close(struct machine *m)
{
    um_upper_close(m->upper);
    stack_close(&m->stack);
    for (size_t i = 0; i < MACHINE_FILES; i++) {
        if (m->files[i].fd >= 0)
            close(m->files[i].fd);
    }
    close(m->plain);
    close(m->above);
    close(m->work);
    machine_remove(openat(m->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* ---- paths ------------------------------------------------------------------------------------------ */

struct machine_path {
    char parent[64]; /* "" is the root */
    char name[16];
};

/* One of the names that a plain directory has, in order; false where it has none (of them). */
static inline bool machine_pick(int fd, bool directories, unsigned which, char name[16])
{
    char names[64][16];
    size_t n = 0;
    DIR *stream = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL && n < 64) {
        bool dots = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!dots && strlen(entry->d_name) < 16 && (!directories || entry->d_type == DT_DIR))
            strcpy(names[n++], entry->d_name);
    }
    if (stream != NULL)
        closedir(stream);
    if (n == 0)
        return false;
    qsort(names, n, sizeof names[0], (int (*)(const void *, const void *))strcmp);
    strcpy(name, names[which % n]);
    return true;
}

/* Mostly what is there, so that most operations do something. */
static inline void machine_read_path(struct machine *m, struct machine_path *path)
{
    static const char *const names[] = {"a", "b", "c", "dir", "sub", "link", "x", "hard"};
    unsigned depth = machine_byte(m) % 4;
    int at = openat(m->plain, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    path->parent[0] = '\0';
    for (unsigned i = 0; i < depth; i++) {
        char name[16];
        unsigned which = machine_byte(m);
        if (at < 0 || which % 16 == 15 || !machine_pick(at, true, which, name))
            strcpy(name, names[which % 8]);
        strcat(path->parent, i ? "/" : "");
        strcat(path->parent, name);
        int inner = at < 0 ? -1 : openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (at >= 0)
            close(at);
        at = inner;
    }
    unsigned which = machine_byte(m);
    if (at < 0 || which % 4 == 3 || !machine_pick(at, false, which / 4, path->name))
        strcpy(path->name, names[which / 4 % 8]);
    if (at >= 0)
        close(at);
}

static inline int plain_parent(struct machine *m, const struct machine_path *path, int *fd)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS};
    const char *text = path->parent[0] ? path->parent : ".";
    *fd = (int)syscall(SYS_openat2, m->plain, text, &how, sizeof how);
    return *fd < 0 ? -errno : 0;
}

/* Walk as the kernel does: every step is a counted lookup. The caller forgets. */
struct machine_walk {
    uint64_t nodes[8];
    size_t n;
    uint64_t parent;
    int error;
};

static inline void upper_parent(struct machine *m, const struct machine_path *path,
                                struct machine_walk *walk)
{
    struct um_attr attr;
    const char *at = path->parent;
    *walk = (struct machine_walk){.parent = UM_ROOT_NODE};
    while (*at != '\0' && walk->error == 0) {
        size_t size = strcspn(at, "/");
        walk->error = um_upper_lookup(m->upper, walk->parent, at, size, &attr);
        if (walk->error != 0)
            return;
        walk->nodes[walk->n++] = attr.node;
        if (S_ISLNK(attr.mode))
            walk->error = -ELOOP;
        else if (!S_ISDIR(attr.mode))
            walk->error = -ENOTDIR;
        walk->parent = attr.node;
        at += size + (at[size] == '/');
    }
}

static inline void machine_forget(struct machine *m, struct machine_walk *walk)
{
    for (size_t i = 0; i < walk->n; i++)
        um_upper_forget(m->upper, walk->nodes[i], 1);
}

static inline int upper_find(struct machine *m, struct machine_walk *walk,
                             const struct machine_path *path, struct um_attr *attr)
{
    if (walk->error != 0)
        return walk->error;
    int error = um_upper_lookup(m->upper, walk->parent, path->name, strlen(path->name), attr);
    if (error == 0)
        walk->nodes[walk->n++] = attr->node;
    return error;
}

/* ---- comparing ---------------------------------------------------------------------------------------- */

/* A number stands for one plain inode, and always for the same one. */
static inline void machine_check_number(struct machine *m, const char *path, ino_t plain,
                                        uint64_t node)
{
    for (size_t i = 0; i < m->n_numbers; i++) {
        if (m->numbers[i].plain == plain && m->numbers[i].node == node)
            return;
        if (m->numbers[i].plain == plain)
            MACHINE_FAIL(m, "%s: number was %llu, is %llu", path,
                         (unsigned long long)m->numbers[i].node, (unsigned long long)node);
    }
    if (m->n_numbers < MACHINE_NUMBERS)
        m->numbers[m->n_numbers++] = (struct machine_number){plain, node};
}

static inline void machine_compare_data(struct machine *m, const char *path, int fd,
                                        const char *name, const struct um_attr *attr)
{
    static char expected[65536], got[65536];
    int plain = openat(fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = pread(plain, expected, sizeof expected, 0);
    close(plain);
    int error = um_upper_open_file(m->upper, attr->node, 0);
    if (error != 0)
        MACHINE_FAIL(m, "%s: opening: %s", path, strerror(-error));
    int64_t n = um_upper_read(m->upper, attr->node, 0, got, sizeof got, 0);
    um_upper_release(m->upper, attr->node);
    if (n != size || memcmp(expected, got, (size_t)size) != 0)
        MACHINE_FAIL(m, "%s: content differs (%zd bytes, here %lld)", path, size, (long long)n);
}

static inline void machine_compare_attr(struct machine *m, const char *path,
                                        const struct stat *status, const struct um_attr *attr)
{
    bool link =
        S_ISLNK(status->st_mode) && S_ISLNK(attr->mode); /* their permissions mean nothing */
    if (status->st_mode != attr->mode && !link)
        MACHINE_FAIL(m, "%s: mode %o, here %o", path, status->st_mode, attr->mode);
    if (status->st_nlink != attr->nlink)
        MACHINE_FAIL(m, "%s: nlink %ju, here %u", path, (uintmax_t)status->st_nlink, attr->nlink);
    if (S_ISREG(status->st_mode) && (uint64_t)status->st_size != attr->size)
        MACHINE_FAIL(m, "%s: size %jd, here %ju", path, (intmax_t)status->st_size,
                     (uintmax_t)attr->size);
    if (!S_ISDIR(status->st_mode) && !S_ISREG(status->st_mode) &&
        status->st_rdev != makedev(attr->major, attr->minor))
        MACHINE_FAIL(m, "%s: another device", path);
    /* Without trusted.* nothing on a symlink or FIFO can say what it is a copy of. */
    bool marked = S_ISREG(status->st_mode) || S_ISDIR(status->st_mode);
    if ((m->flags & UM_UPPER_TRUSTED) || marked)
        machine_check_number(m, path, status->st_ino, attr->node);
}

static inline void machine_compare_directory(struct machine *m, const char *path, uint64_t node,
                                             int fd);

static inline void machine_compare_entry(struct machine *m, const char *path, int fd,
                                         const char *name, const struct um_tree_entry *entry)
{
    struct stat status;
    char text[300], target[300];
    if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        MACHINE_FAIL(m, "%s is shown, and should not be there", path);
    machine_compare_attr(m, path, &status, &entry->attr);
    if (S_ISREG(status.st_mode))
        machine_compare_data(m, path, fd, name, &entry->attr);
    if (S_ISLNK(status.st_mode)) {
        ssize_t size = readlinkat(fd, name, text, sizeof text);
        int64_t got = um_upper_readlink(m->upper, entry->attr.node, target, sizeof target);
        if (got != size || memcmp(text, target, (size_t)size) != 0)
            MACHINE_FAIL(m, "%s: another target", path);
    }
    if (S_ISDIR(status.st_mode)) {
        int inner = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        machine_compare_directory(m, path, entry->attr.node, inner);
        close(inner);
    }
}

static inline size_t machine_count_names(int fd)
{
    size_t n = 0;
    DIR *stream = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    while (readdir(stream) != NULL)
        n++;
    closedir(stream);
    return n - 2;
}

static inline void machine_compare_directory(struct machine *m, const char *path, uint64_t node,
                                             int fd)
{
    struct um_upper_list *list;
    struct um_tree_entry entry;
    uint64_t cookie = 0;
    size_t n = 0;
    int more, error = um_upper_list_open(m->upper, node, &list);
    if (error != 0)
        MACHINE_FAIL(m, "%s: listing: %s", path, strerror(-error));
    while ((more = um_upper_list_next(list, cookie, &entry, 1)) == 1) {
        char name[UM_NAME_MAX + 1], inner[512];
        struct um_attr attr;
        snprintf(name, sizeof name, "%.*s", (int)entry.name_size, entry.name);
        snprintf(inner, sizeof inner, "%s/%s", path, name);
        machine_compare_entry(m, inner, fd, name, &entry);
        error = um_upper_lookup(m->upper, node, name, strlen(name), &attr);
        if (error != 0 || attr.node != entry.attr.node || attr.nlink != entry.attr.nlink)
            MACHINE_FAIL(m, "%s: list and lookup disagree", inner);
        um_upper_forget(m->upper, entry.attr.node, 2);
        cookie = entry.next;
        n++;
    }
    um_upper_list_close(list);
    if (more < 0)
        MACHINE_FAIL(m, "%s: listing: %s", path, strerror(-more));
    if (n != machine_count_names(fd))
        MACHINE_FAIL(m, "%s: %zu names, should be %zu", path, n, machine_count_names(fd));
}

static inline void machine_compare(struct machine *m)
{
    machine_compare_directory(m, "", UM_ROOT_NODE, m->plain);
}

/* ---- operations ------------------------------------------------------------------------------------------ */

static inline void machine_agree(struct machine *m, const char *what,
                                 const struct machine_path *path, int plain, int upper)
{
    if (m->verbose)
        fprintf(stderr, "%zu %s %s/%s: %s\n", m->step, what, path->parent, path->name,
                strerror(-plain));
    if (plain != upper)
        MACHINE_FAIL(m, "%s %s/%s: should be %s, is %s", what, path->parent, path->name,
                     strerror(-plain), strerror(-upper));
}

static inline int machine_result(int result)
{
    return result < 0 ? -errno : 0;
}

static inline struct um_upper_maker machine_maker(void)
{
    return (struct um_upper_maker){.uid = geteuid(), .gid = getegid(), .may_setgid = true};
}

static inline void machine_made(struct machine *m, struct machine_walk *walk, int error,
                                const struct um_attr *attr)
{
    if (error == 0)
        walk->nodes[walk->n++] = attr->node;
    machine_forget(m, walk);
}

/* mkdir, file, FIFO, symlink. */
static inline void machine_make(struct machine *m, unsigned kind)
{
    struct machine_path path;
    struct machine_walk walk;
    struct um_upper_maker maker = machine_maker();
    struct um_attr attr;
    int fd, plain;
    machine_read_path(m, &path);
    plain = plain_parent(m, &path, &fd);
    upper_parent(m, &path, &walk);
    int upper = walk.error;
    size_t size = strlen(path.name);
    if (plain == 0 && kind == 0)
        plain = machine_result(mkdirat(fd, path.name, 0750));
    else if (plain == 0 && kind == 1)
        plain = machine_result(mknodat(fd, path.name, S_IFREG | 0640, 0));
    else if (plain == 0 && kind == 2)
        plain = machine_result(mknodat(fd, path.name, S_IFIFO | 0600, 0));
    else if (plain == 0)
        plain = machine_result(symlinkat("nowhere", fd, path.name));
    if (upper == 0 && kind == 0)
        upper = um_upper_mkdir(m->upper, walk.parent, path.name, size, 0750, &maker, &attr);
    else if (upper == 0 && kind < 3)
        upper = um_upper_mknod(m->upper, walk.parent, path.name, size,
                               kind == 1 ? S_IFREG | 0640 : S_IFIFO | 0600, 0, 0, &maker, &attr);
    else if (upper == 0)
        upper =
            um_upper_symlink(m->upper, walk.parent, path.name, size, "nowhere", 7, &maker, &attr);
    static const char *const names[] = {"mkdir", "mknod", "mkfifo", "symlink"};
    machine_agree(m, names[kind], &path, plain, upper);
    machine_made(m, &walk, upper, &attr);
    if (plain != -ENOENT && fd >= 0)
        close(fd);
}

static inline void machine_remove_name(struct machine *m, bool directory)
{
    struct machine_path path;
    struct machine_walk walk;
    struct um_attr attr;
    int fd;
    machine_read_path(m, &path);
    bool looked_up = machine_byte(m) & 1;
    int plain = plain_parent(m, &path, &fd);
    upper_parent(m, &path, &walk);
    if (looked_up)
        upper_find(m, &walk, &path, &attr);
    int upper = walk.error;
    if (plain == 0) {
        struct stat status;
        bool last = fstatat(fd, path.name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                    machine_is_last_name(&status);
        plain = machine_result(unlinkat(fd, path.name, directory ? AT_REMOVEDIR : 0));
        if (plain == 0 && last)
            machine_drop(m, &status);
        close(fd);
    }
    size_t size = strlen(path.name);
    if (upper == 0)
        upper = directory ? um_upper_rmdir(m->upper, walk.parent, path.name, size)
                          : um_upper_unlink(m->upper, walk.parent, path.name, size);
    machine_agree(m, directory ? "rmdir" : "unlink", &path, plain, upper);
    machine_forget(m, &walk);
}

static inline void machine_rename(struct machine *m)
{
    struct machine_path from, to;
    struct machine_walk walk, other;
    struct um_attr attr;
    int fd, to_fd = -1;
    machine_read_path(m, &from);
    machine_read_path(m, &to);
    unsigned flags = machine_byte(m) % 8;
    flags = flags == 1 ? RENAME_NOREPLACE : flags > 5 ? RENAME_EXCHANGE : 0;
    int plain = plain_parent(m, &from, &fd);
    if (plain == 0) {
        plain = plain_parent(m, &to, &to_fd);
        struct stat moved, status;
        bool last = plain == 0 && flags == 0 &&
                    fstatat(fd, from.name, &moved, AT_SYMLINK_NOFOLLOW) == 0 &&
                    fstatat(to_fd, to.name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                    moved.st_ino != status.st_ino && machine_is_last_name(&status);
        if (plain == 0)
            plain = machine_result(renameat2(fd, from.name, to_fd, to.name, flags));
        if (plain == 0 && last)
            machine_drop(m, &status);
        close(fd);
        if (to_fd >= 0)
            close(to_fd);
    }
    upper_parent(m, &from, &walk);
    upper_parent(m, &to, &other);
    int upper = walk.error ? walk.error : other.error;
    for (int tries = 0; upper == 0 || upper == -EAGAIN; tries++) {
        upper = um_upper_rename(m->upper, walk.parent, from.name, strlen(from.name), other.parent,
                                to.name, strlen(to.name), flags);
        if (upper != -EAGAIN)
            break;
        if (tries > 3)
            MACHINE_FAIL(m, "rename: copy-up does not help");
        int error = upper_find(m, &walk, &from, &attr);
        if (error == 0 && S_ISREG(attr.mode))
            error = um_upper_copy_up(m->upper, attr.node, 0);
        if (error == 0 && (flags & RENAME_EXCHANGE) && upper_find(m, &other, &to, &attr) == 0 &&
            S_ISREG(attr.mode))
            error = um_upper_copy_up(m->upper, attr.node, 0);
        if (error != 0)
            MACHINE_FAIL(m, "copy-up of %s/%s: %s", from.parent, from.name, strerror(-error));
    }
    if (m->verbose)
        fprintf(stderr, "  (to %s/%s, flags %u)\n", to.parent, to.name, flags);
    machine_agree(m, "rename", &from, plain, upper);
    machine_forget(m, &walk);
    machine_forget(m, &other);
}

static inline void machine_link(struct machine *m)
{
    struct machine_path from, to;
    struct machine_walk walk, other;
    struct um_attr attr;
    int fd, to_fd = -1;
    machine_read_path(m, &from);
    machine_read_path(m, &to);
    int plain = plain_parent(m, &from, &fd);
    if (plain == 0) {
        struct stat status;
        plain = machine_result(fstatat(fd, from.name, &status, AT_SYMLINK_NOFOLLOW));
        if (plain == 0)
            plain = plain_parent(m, &to, &to_fd);
        if (plain == 0)
            plain = machine_result(linkat(fd, from.name, to_fd, to.name, 0));
        close(fd);
        if (to_fd >= 0)
            close(to_fd);
    }
    upper_parent(m, &from, &walk);
    int upper = upper_find(m, &walk, &from, &attr);
    upper_parent(m, &to, &other);
    upper = upper ? upper : other.error;
    struct um_attr made;
    if (upper == 0)
        upper = um_upper_link(m->upper, attr.node, other.parent, to.name, strlen(to.name), &made);
    if (upper == -EAGAIN) {
        upper = um_upper_copy_up(m->upper, attr.node, 0);
        if (upper == 0)
            upper =
                um_upper_link(m->upper, attr.node, other.parent, to.name, strlen(to.name), &made);
    }
    if (m->verbose)
        fprintf(stderr, "  (to %s/%s)\n", to.parent, to.name);
    machine_agree(m, "link", &from, plain, upper);
    machine_made(m, &other, upper, &made);
    machine_forget(m, &walk);
}

static inline int machine_open_upper_file(struct machine *m, uint64_t node, unsigned flags)
{
    int error = um_upper_open_file(m->upper, node, flags);
    if (error != -EAGAIN)
        return error;
    error = um_upper_copy_up(m->upper, node,
                             flags & UM_UPPER_OPEN_TRUNCATE ? UM_UPPER_COPY_UP_EMPTY : 0);
    return error ? error : um_upper_open_file(m->upper, node, flags);
}

/* Open a file on both sides, in a place of `files`; what was there is closed. */
static inline void machine_open_file(struct machine *m)
{
    struct machine_path path;
    struct machine_walk walk;
    struct um_attr attr;
    int fd;
    struct machine_file *file = &m->files[machine_byte(m) % MACHINE_FILES];
    unsigned how = machine_byte(m) % 4;
    bool write = how != 0;
    machine_read_path(m, &path);
    if (file->fd >= 0) {
        struct stat status;
        if (fstat(file->fd, &status) == 0 && status.st_nlink == 0)
            machine_drop(m, &status);
        close(file->fd);
        um_upper_release(m->upper, file->node);
        um_upper_forget(m->upper, file->node, 1);
        file->fd = -1;
    }
    int opened = -1, plain = plain_parent(m, &path, &fd);
    if (plain == 0) {
        int flags = (write ? O_RDWR : O_RDONLY) | (how == 3 ? O_TRUNC : 0);
        struct stat status;
        plain = machine_result(fstatat(fd, path.name, &status, AT_SYMLINK_NOFOLLOW));
        if (plain == 0 && S_ISREG(status.st_mode))
            plain = machine_result(opened = openat(fd, path.name, flags | O_CLOEXEC));
        else if (plain == 0)
            plain = -EXDEV; /* not a file: nothing to do */
        close(fd);
    }
    upper_parent(m, &path, &walk);
    int upper = upper_find(m, &walk, &path, &attr);
    if (upper == 0 && !S_ISREG(attr.mode))
        upper = -EXDEV;
    if (upper == 0) {
        unsigned flags =
            (write ? UM_UPPER_OPEN_WRITE : 0) | (how == 3 ? UM_UPPER_OPEN_TRUNCATE : 0);
        upper = machine_open_upper_file(m, attr.node, flags);
    }
    machine_agree(m, "open", &path, plain, upper);
    if (plain == 0) {
        *file = (struct machine_file){opened, attr.node, write};
        walk.n--; /* the file keeps its lookup */
    }
    machine_forget(m, &walk);
}

static inline void machine_use_file(struct machine *m)
{
    struct machine_file *file = &m->files[machine_byte(m) % MACHINE_FILES];
    unsigned what = machine_byte(m) % 4, at = machine_byte(m) * 40;
    char expected[300], got[300];
    struct stat status;
    struct um_attr attr;
    if (file->fd < 0)
        return;
    if (what == 0 && file->write) {
        memset(expected, (int)m->step, sizeof expected);
        if (pwrite(file->fd, expected, 200, at) != 200 ||
            um_upper_write(m->upper, file->node, at, expected, 200) != 200)
            MACHINE_FAIL(m, "writing an open file");
    } else if (what == 1) {
        struct um_upper_changes set = {.which = UM_UPPER_SET_MODE, .mode = 0600 | (at & 077)};
        int error = um_upper_setattr(m->upper, file->node, &set, &attr);
        if (error == -EAGAIN) {
            error = um_upper_copy_up(m->upper, file->node, 0);
            if (error == 0)
                error = um_upper_setattr(m->upper, file->node, &set, &attr);
        }
        fchmod(file->fd, set.mode);
        if (error != 0)
            MACHINE_FAIL(m, "fchmod: %s", strerror(-error));
    }
    ssize_t size = pread(file->fd, expected, sizeof expected, at);
    int64_t n = um_upper_read(m->upper, file->node, at, got, sizeof got, 0);
    if (n != size || memcmp(expected, got, (size_t)size) != 0)
        MACHINE_FAIL(m, "an open file reads %lld bytes, should be %zd", (long long)n, size);
    int error = um_upper_getattr(m->upper, file->node, &attr);
    fstat(file->fd, &status);
    if (error != 0)
        MACHINE_FAIL(m, "fstat: %s", strerror(-error));
    machine_compare_attr(m, "(open file)", &status, &attr);
}

/* Attributes and truncation by name. */
static inline void machine_set(struct machine *m)
{
    struct machine_path path;
    struct machine_walk walk;
    struct um_attr attr;
    struct stat status;
    int fd;
    machine_read_path(m, &path);
    unsigned what = machine_byte(m) % 3, value = machine_byte(m);
    int plain = plain_parent(m, &path, &fd);
    if (plain == 0) {
        plain = machine_result(fstatat(fd, path.name, &status, AT_SYMLINK_NOFOLLOW));
        if (plain == 0 && S_ISLNK(status.st_mode))
            plain = -ELOOP;
        if (plain == 0 && what != 1)
            plain = machine_result(fchmodat(fd, path.name, 0700 | (value & 077), 0));
        if (plain == 0 && what != 0 && S_ISREG(status.st_mode)) {
            int file = openat(fd, path.name, O_WRONLY | O_CLOEXEC);
            plain = machine_result(ftruncate(file, value * 7));
            close(file);
        }
        close(fd);
    }
    upper_parent(m, &path, &walk);
    int upper = upper_find(m, &walk, &path, &attr);
    if (upper == 0 && S_ISLNK(attr.mode))
        upper = -ELOOP;
    if (upper == 0) {
        struct um_upper_changes set = {.mode = 0700 | (value & 077), .size = value * 7};
        set.which = (what != 1 ? UM_UPPER_SET_MODE : 0) |
                    (what != 0 && S_ISREG(attr.mode) ? UM_UPPER_SET_SIZE : 0);
        uint64_t node = attr.node;
        upper = um_upper_setattr(m->upper, node, &set, &attr);
        if (upper == -EAGAIN) {
            upper = um_upper_copy_up(m->upper, node, 0);
            if (upper == 0)
                upper = um_upper_setattr(m->upper, node, &set, &attr);
        }
    }
    machine_agree(m, "setattr", &path, plain, upper);
    machine_forget(m, &walk);
}

static inline void machine_reopen(struct machine *m)
{
    for (size_t i = 0; i < MACHINE_FILES; i++) {
        struct stat status;
        if (m->files[i].fd >= 0 && fstat(m->files[i].fd, &status) == 0 && status.st_nlink == 0)
            machine_drop(m, &status);
        if (m->files[i].fd >= 0)
            close(m->files[i].fd);
        m->files[i].fd = -1;
    }
    um_upper_close(m->upper);
    machine_open_upper(m);
    if (machine_count_names(m->work) != 0)
        MACHINE_FAIL(m, "the work directory is not empty");
    machine_compare(m);
}

static inline void machine_step(struct machine *m)
{
    unsigned what = machine_byte(m) % 24;
    if (what < 6)
        machine_make(m, what < 2 ? 0 : what < 4 ? 1 : what - 2);
    else if (what < 9)
        machine_remove_name(m, false);
    else if (what < 11)
        machine_remove_name(m, true);
    else if (what < 16)
        machine_rename(m);
    else if (what < 17)
        machine_link(m);
    else if (what < 19)
        machine_open_file(m);
    else if (what < 22)
        machine_use_file(m);
    else
        machine_set(m);
    m->step++;
}

static inline void machine_run(struct machine *m, const uint8_t *script, size_t size,
                               size_t compare_every)
{
    m->script = script;
    m->size = size;
    m->at = m->step = 0;
    while (m->at < m->size) {
        machine_step(m);
        if (compare_every != 0 && m->step % compare_every == 0)
            machine_compare(m);
    }
    machine_compare(m);
    machine_reopen(m);
}

/* The layers that every machine stands on. */
static inline void machine_layers(struct stack *stack)
{
    static const char *const lower[] = {"d a",
                                        "d a/b",
                                        "d a/b/c",
                                        "f a/b/x",
                                        "f a/x",
                                        "f b",
                                        "h hard -> b",
                                        "h a/hard -> b",
                                        "d dir",
                                        "d dir/sub",
                                        "f dir/sub/a",
                                        "f dir/sub/b",
                                        "f dir/a",
                                        "s dir/link -> a",
                                        "p dir/x",
                                        "d sub",
                                        "f sub/x",
                                        "h sub/hard -> sub/x",
                                        "s link -> nowhere",
                                        "c x",
                                        NULL};
    static const char *const upper[] = {"d a",         "f a/.wh.x",       "f a/sub",
                                        "d dir",       "d dir/sub",       "f dir/sub/.wh..wh..opq",
                                        "f dir/sub/c", "h dir/hard -> b", "d sub",
                                        "d sub/dir",   "f sub/dir/x",     "d c",
                                        "d c/a",       "d c/a/b",         NULL};
    if (stack_add(stack, lower) != 0 || stack_add(stack, upper) != 0)
        abort();
}

#endif
