#include "upper/marks.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "marks/override_stat.h"
#include "system/capability.h"
#include "system/open_beneath.h"

static bool is_whiteout_device(const struct stat *status)
{
    return S_ISCHR(status->st_mode) &&
           um_whiteout_is_device(major(status->st_rdev), minor(status->st_rdev));
}

/* Whether there is a file `.wh.NAME` in the directory. */
static int has_whiteout_file(const struct um_upper_reached *reached)
{
    char name[UM_NAME_MAX + 1];
    if (!um_whiteout_spell(um_slice_text(reached->name), name))
        return 0;
    return um_upper_has_entry(reached->fd, name, reached->exposed);
}

int um_upper_reached_classify(const struct um_upper_reached *reached, bool marked,
                              enum um_upper_found *found, struct stat *status)
{
    int error = um_upper_reached_stat(reached, status);
    if (error == -ENOENT) {
        *status = (struct stat){0};
        int hidden = marked ? has_whiteout_file(reached) : 0;
        *found = hidden > 0 ? UM_UPPER_FOUND_WHITEOUT : UM_UPPER_FOUND_NOTHING;
        return hidden < 0 ? hidden : 0;
    }
    if (error != 0)
        return error;
    *found = is_whiteout_device(status) ? UM_UPPER_FOUND_WHITEOUT
             : S_ISDIR(status->st_mode) ? UM_UPPER_FOUND_DIRECTORY
                                        : UM_UPPER_FOUND_FILE;
    return 0;
}

#define TRUSTED "trusted.overlay."
#define USER "user.overlay."
#define FUSE_OVERLAYFS "user.fuseoverlayfs."
#define MARK_MAX 64

/* The prefixes of marks: first the upper's own. */
#define N_PREFIXES 2

static const char *prefix_of(const struct um_upper *upper, size_t i)
{
    if (i != 0)
        return FUSE_OVERLAYFS;
    return upper->flags & UM_UPPER_TRUSTED ? TRUSTED : USER;
}

static const char *own_mark(const struct um_upper *upper, const char *what, char name[MARK_MAX])
{
    snprintf(name, MARK_MAX, "%s%s", prefix_of(upper, 0), what);
    return name;
}

const char *um_upper_stat_xattr(const struct um_upper *upper)
{
    if (upper->flags & UM_UPPER_STAT_SECURITY)
        return UM_OVERRIDE_SECURITY_XATTR;
    return upper->flags & UM_UPPER_STAT_FUSE ? UM_OVERRIDE_FUSE_XATTR : UM_OVERRIDE_XATTR;
}

bool um_upper_mark_is_absent(int64_t error)
{
    return error == -ENODATA || error == -EOPNOTSUPP || error == -EPERM;
}

/* Read the mark `what`: its size, 0 where there is none, or an errno. */
static int64_t read_mark(struct um_upper *upper, struct um_upper_reached *reached, const char *what,
                         char *value, size_t room)
{
    for (size_t i = 0; i < N_PREFIXES; i++) {
        char name[MARK_MAX];
        snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), what);
        int64_t size = um_upper_reached_getxattr(reached, name, value, room);
        if (size > 0 || (size < 0 && !um_upper_mark_is_absent(size)))
            return size;
    }
    return 0;
}

/* Whether a directory holds the file that makes it opaque. */
static int has_opaque_file(const struct um_upper_reached *reached)
{
    if (um_upper_reached_is_self(reached))
        return um_upper_has_entry(reached->fd, um_whiteout_opaque(), reached->exposed);
    int fd = um_open_beneath(reached->fd, reached->name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0) /* something else stands there by now */
        return fd == -ENOTDIR || fd == -ELOOP ? -ESTALE : fd;
    int found = um_upper_has_entry(fd, um_whiteout_opaque(), reached->exposed);
    close(fd);
    return found;
}

int um_upper_mark_is_opaque(struct um_upper *upper, struct um_upper_reached *reached, bool marked)
{
    char value[8];
    int64_t size = marked ? read_mark(upper, reached, "opaque", value, sizeof value) : 0;
    if (size < 0 && size != -ERANGE)
        return (int)size;
    if (size == 1 && value[0] == 'y')
        return 1;
    return has_opaque_file(reached);
}

int um_upper_mark_set_opaque(struct um_upper *upper, struct um_upper_reached *reached)
{
    char name[MARK_MAX];
    return um_upper_reached_setxattr(reached, own_mark(upper, "opaque", name), "y", 1, 0);
}

bool um_upper_marks_may_lead(const struct um_upper *upper)
{
    if (upper->flags & UM_UPPER_PLAIN)
        return false;
    return upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_CLOSED | UM_UPPER_OVERRIDE);
}

/* Hold an object by a descriptor, so that nobody can put another one in its place before its marks are
 * read. 1 where its marks below user. are believed; 0; or an errno. To be unpinned in any case. */
static int pin(const struct um_upper *upper, const struct um_upper_reached *reached,
               struct um_upper_reached *pinned)
{
    struct stat status;
    *pinned = (struct um_upper_reached){.fd = um_upper_reached_open(reached, O_PATH)};
    if (pinned->fd < 0)
        return pinned->fd;
    if (fstat(pinned->fd, &status) != 0)
        return -errno;
    return um_upper_trusts_owner(upper, status.st_uid, status.st_mode);
}

static void unpin(struct um_upper_reached *pinned)
{
    if (pinned->fd >= 0)
        close(pinned->fd);
}

int um_upper_mark_may_lead_at(struct um_upper *upper, const struct um_upper_reached *reached)
{
    struct um_upper_reached pinned;
    if (!um_upper_marks_may_lead(upper) || upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_CLOSED))
        return um_upper_marks_may_lead(upper);
    int ours = pin(upper, reached, &pinned);
    unpin(&pinned);
    return ours;
}

/* Read a mark that leads elsewhere: 1 with *size, 0 where there is none, or an errno (-EKEYREJECTED:
 * upper/marks.h). `ours`: marks below user. are believed. */
static int find_claim(struct um_upper *upper, struct um_upper_reached *reached, const char *what,
                      bool ours, char *value, size_t room, int64_t *size)
{
    bool doubtful = false;
    for (size_t i = 0; i < N_PREFIXES; i++) {
        char name[MARK_MAX];
        snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), what);
        *size = um_upper_reached_getxattr(reached, name, value, room);
        if (um_upper_mark_is_absent(*size))
            continue;
        if (*size < 0 && *size != -ERANGE)
            return (int)*size;
        if (i == 0 && upper->flags & UM_UPPER_TRUSTED ? !(upper->flags & UM_UPPER_PLAIN) : ours)
            return 1;
        doubtful = true;
    }
    return doubtful ? -EKEYREJECTED : 0;
}

static int read_claim(struct um_upper *upper, struct um_upper_reached *reached, const char *what,
                      char *value, size_t room, int64_t *size)
{
    struct um_upper_reached pinned;
    if (upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_PLAIN) && !(upper->flags & UM_UPPER_LOOK))
        return find_claim(upper, reached, what, false, value, room, size);
    if (upper->flags & UM_UPPER_CLOSED)
        return find_claim(upper, reached, what, true, value, room, size);
    int ours = pin(upper, reached, &pinned);
    int found = ours < 0 ? ours : find_claim(upper, &pinned, what, ours != 0, value, room, size);
    unpin(&pinned);
    return found;
}

int64_t um_upper_mark_get_redirect(struct um_upper *upper, struct um_upper_reached *reached,
                                   char *path, size_t room)
{
    int64_t size = 0;
    int found = read_claim(upper, reached, "redirect", path, room, &size);
    if (found <= 0)
        return found;
    return size == -ERANGE ? -EIO : size;
}

int um_upper_mark_is_metacopy(struct um_upper *upper, struct um_upper_reached *reached)
{
    char value[8]; /* it says nothing more */
    int64_t size;
    return read_claim(upper, reached, "metacopy", value, sizeof value, &size);
}

void um_upper_mark_report_refused(struct um_upper *upper, const struct um_upper_node *directory,
                                  struct um_slice name)
{
    char room[PATH_MAX];
    char *path = room + sizeof room - name.size;
    memcpy(path, name.data, name.size);
    for (; directory != upper->root && directory != NULL; directory = directory->parent) {
        if ((size_t)(path - room) <= directory->name_size)
            break; /* it is cut off where it begins */
        *--path = '/';
        path -= directory->name_size;
        memcpy(path, directory->name, directory->name_size);
    }
    um_refusal_tell(&upper->refusals, "upper", upper->shown_fd,
                    um_slice_of(path, (size_t)(room + sizeof room - path)));
}

int um_upper_mark_set_redirect(struct um_upper *upper, struct um_upper_reached *reached,
                               const char *path, size_t size)
{
    char name[MARK_MAX];
    return um_upper_reached_setxattr(reached, own_mark(upper, "redirect", name), path, size, 0);
}

#define ORIGIN_TEXT (24 + UM_UPPER_SESSION_ROOM)

static int64_t read_origin(struct um_upper *upper, struct um_upper_reached *reached,
                           char text[ORIGIN_TEXT], bool *ours)
{
    char name[MARK_MAX];
    struct um_upper_reached pinned;
    own_mark(upper, "unionmount.origin", name);
    *ours = true;
    if (upper->flags & (UM_UPPER_TRUSTED | UM_UPPER_CLOSED))
        return um_upper_reached_getxattr(reached, name, text, ORIGIN_TEXT);
    int error = pin(upper, reached, &pinned);
    *ours = error > 0;
    int64_t size = error < 0 ? error : um_upper_reached_getxattr(&pinned, name, text, ORIGIN_TEXT);
    unpin(&pinned);
    return size;
}

int um_upper_mark_get_origin(struct um_upper *upper, struct um_upper_reached *reached,
                             uint64_t *origin, bool *ours)
{
    char text[ORIGIN_TEXT];
    int64_t size = read_origin(upper, reached, text, ours);
    *origin = 0;
    if (um_upper_mark_is_absent(size) || size == -ERANGE)
        return 0;
    if (size < 0)
        return (int)size;
    uint64_t number = 0;
    int64_t digits = 0;
    for (; digits < size && text[digits] != ' '; digits++) {
        if (text[digits] < '0' || text[digits] > '9' || !um_mul64(number, 10, &number) ||
            !um_add64(number, (uint64_t)(text[digits] - '0'), &number))
            return 0; /* not ours */
    }
    size_t rest = (size_t)(size - digits);
    if (rest == 0
            ? number >= upper->lasting_end
            : rest != strlen(upper->session) || memcmp(text + digits, upper->session, rest) != 0)
        return 0; /* of another session */
    *origin = number;
    return 0;
}

int um_upper_mark_set_origin(struct um_upper *upper, struct um_upper_reached *reached,
                             uint64_t origin)
{
    char name[MARK_MAX], text[ORIGIN_TEXT];
    int size = snprintf(text, sizeof text, "%llu%s", (unsigned long long)origin,
                        origin < upper->lasting_end ? "" : upper->session);
    int error = um_upper_reached_setxattr(reached, own_mark(upper, "unionmount.origin", name), text,
                                          (size_t)size, 0);
    /* user.* on a symlink or a device: see docs/explanation/upper.md */
    return um_upper_mark_is_absent(error) ? 0 : error;
}

static const struct {
    const char *name; /* without a prefix */
    unsigned bit;
} marks_known[] = {{"opaque", UM_UPPER_HAS_OPAQUE},
                   {"redirect", UM_UPPER_HAS_REDIRECT},
                   {"unionmount.origin", UM_UPPER_HAS_ORIGIN},
                   {"metacopy", UM_UPPER_HAS_METACOPY},
                   {UM_CAPABILITY_MARK, UM_UPPER_HAS_CAPABILITY}};

#define N_MARKS (sizeof marks_known / sizeof *marks_known)

/* The bit of the mark of this name, without a prefix; 0 for any other name. */
static unsigned mark_bit(const char *name)
{
    for (size_t i = 0; i < N_MARKS; i++) {
        if (strcmp(name, marks_known[i].name) == 0)
            return marks_known[i].bit;
    }
    return 0;
}

/* Ask for each mark, as the list of names is too long. */
static int ask_for_marks(const struct um_upper *upper, struct um_upper_reached *reached,
                         unsigned *marks)
{
    *marks |= UM_UPPER_HAS_OVERRIDE; /* it may */
    for (size_t mark = 0; mark < N_MARKS; mark++) {
        for (size_t i = 0; i < N_PREFIXES; i++) {
            char name[MARK_MAX];
            snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), marks_known[mark].name);
            int64_t size = um_upper_reached_getxattr(reached, name, NULL, 0);
            if (size >= 0)
                *marks |= marks_known[mark].bit;
            else if (!um_upper_mark_is_absent(size))
                return (int)size;
        }
    }
    return 0;
}

int um_upper_marks_of(struct um_upper *upper, struct um_upper_reached *reached, unsigned *marks)
{
    char names[1024];
    *marks = 0;
    int64_t size = um_upper_reached_listxattr(reached, names, sizeof names);
    if (size == -ERANGE || size == -E2BIG)
        return ask_for_marks(upper, reached, marks);
    if (size < 0)
        return size == -EOPNOTSUPP ? 0 : (int)size;
    for (int64_t at = 0; at < size; at += (int64_t)strlen(names + at) + 1) {
        if (strcmp(names + at, um_upper_stat_xattr(upper)) == 0)
            *marks |= UM_UPPER_HAS_OVERRIDE;
        for (size_t i = 0; i < N_PREFIXES; i++) {
            const char *prefix = prefix_of(upper, i);
            size_t length = strlen(prefix);
            if (strncmp(names + at, prefix, length) == 0)
                *marks |= mark_bit(names + at + length);
        }
    }
    return 0;
}

int um_upper_mark_set_metacopy(struct um_upper *upper, struct um_upper_reached *reached)
{
    char name[MARK_MAX];
    return um_upper_reached_setxattr(reached, own_mark(upper, "metacopy", name), "", 0, 0);
}

static bool believes_xattr(const struct um_upper *upper, const struct stat *status,
                           const char *name)
{
    return strcmp(name, um_upper_stat_xattr(upper)) == 0 ? um_upper_believes_stat(upper, status)
                                                         : um_upper_believes(upper, status);
}

/* Anybody may have set an xattr below user. */
int64_t um_upper_getxattr_believed(struct um_upper *upper, const struct um_upper_reached *reached,
                                   const struct stat *status, const char *name, void *value,
                                   size_t size)
{
    struct um_upper_reached pinned;
    struct stat now;
    int64_t got = um_upper_reached_getxattr(reached, name, value, size);
    if (got < 0 || um_upper_reached_is_self(reached) || upper->flags & UM_UPPER_CLOSED)
        return got;
    int error = pin(upper, reached, &pinned);
    if (error >= 0)
        error = um_upper_reached_stat(&pinned, &now);
    /* The inode number of a removed object may have been used again, so the other one has to be
     * believed, too. */
    if (error == 0 && (now.st_ino != status->st_ino || now.st_dev != status->st_dev ||
                       !believes_xattr(upper, &now, name)))
        error = -ESTALE;
    got = error < 0 ? error : um_upper_reached_getxattr(&pinned, name, value, size);
    unpin(&pinned);
    return got;
}

static int64_t get_user_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                   void *value, size_t size)
{
    struct stat status;
    int error = um_upper_reached_stat(reached, &status);
    if (error != 0)
        return error;
    if (!um_upper_believes(upper, &status))
        return -ENODATA;
    int64_t got =
        um_upper_getxattr_believed(upper, reached, &status, UM_CAPABILITY_USER, value, size);
    return um_upper_mark_is_absent(got) ? -ENODATA : got;
}

int64_t um_upper_mark_get_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                     void *value, size_t size)
{
    if (upper->flags & UM_UPPER_TRUSTED) {
        int64_t got = um_upper_reached_getxattr(reached, UM_CAPABILITY_TRUSTED, value, size);
        return um_upper_mark_is_absent(got) ? -ENODATA : got;
    }
    return get_user_capability(upper, reached, value, size);
}

int um_upper_mark_set_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                 const void *value, size_t size)
{
    char name[MARK_MAX];
    return um_upper_reached_setxattr(reached, own_mark(upper, UM_CAPABILITY_MARK, name), value,
                                     size, 0);
}

int um_upper_mark_drop_capability(struct um_upper *upper, struct um_upper_reached *reached)
{
    char name[MARK_MAX];
    int error = um_upper_reached_removexattr(reached, own_mark(upper, UM_CAPABILITY_MARK, name));
    return um_upper_mark_is_absent(error) ? 0 : error;
}

bool um_upper_mark_is_capability_name(const struct um_upper *upper, const char *xattr)
{
    char name[MARK_MAX];
    return strcmp(xattr, own_mark(upper, UM_CAPABILITY_MARK, name)) == 0;
}

int um_upper_mark_drop_metacopy(struct um_upper *upper, int fd)
{
    static const char *const marks[] = {"metacopy", "redirect"};
    for (size_t mark = 0; mark < 2; mark++) {
        for (size_t i = 0; i < N_PREFIXES; i++) {
            char name[MARK_MAX];
            snprintf(name, sizeof name, "%s%s", prefix_of(upper, i), marks[mark]);
            if (fremovexattr(fd, name) != 0 && !um_upper_mark_is_absent(-errno))
                return -errno;
        }
    }
    return 0;
}
