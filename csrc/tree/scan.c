#include "tree/scan.h"

#include <sys/stat.h>

#include "base/match.h"

#define ENTRIES 32u              /* that are listed at once */
#define RECORDS 2048u            /* of one piece */
#define TEXT (256u * 1024u)      /* bytes, after which a piece ends */
#define VISITS (16u * RECORDS) /* files that one call looks at, so that Ctrl-C is soon noticed */
#define PERMISSIONS 07777u

/* A pattern without special characters inside: most are of this kind, and fnmatch(3) is slow. */
struct literal {
    bool usable;
    bool open_start, open_end; /* '*' at the start, at the end */
    struct um_slice text;
};

struct test {
    struct um_scan_test is;
    struct literal literal;
};

/* A directory that is being read. */
struct frame {
    struct um_attr attr;
    void *list;
    uint64_t cookie;
    uint32_t n, at; /* entries that were listed, and the next one of them */
    size_t path_size; /* of its path */
    uint32_t name_size;
    struct um_tree_entry entries[ENTRIES];
};

struct um_scan {
    struct um_scan_source source;
    struct test *tests;
    uint32_t n_tests, flags, least, most;

    bool started;
    struct um_attr start;
    char *start_name; /* without the slashes at the end of its path */
    char *path; /* of the file that is looked at, NUL-terminated */
    size_t path_size, path_capacity;

    struct frame **frames; /* outermost first; frame i has the files of depth i + 1 */
    size_t n_frames, frames_capacity;

    struct um_scan_record *records;
    size_t n_records, records_capacity;
    char *paths, *text;
    size_t paths_size, paths_capacity, text_size, text_capacity;
    uint64_t *owed; /* nodes to forget when their records have been read */
    size_t n_owed, owed_capacity;
    bool failed; /* a directory could not be read: the piece ends */
};

/* A file that is looked at; its path is that of the scan. */
struct visit {
    const struct um_attr *attr;
    uint32_t depth;
    uint32_t name_size;
    bool pruned;
};

/* ---- patterns ----------------------------------------------------------------------------------- */

/* Return whether a byte stands for itself in every pattern and every locale. */
static bool is_plain(char c)
{
    return (unsigned char)c < 0x80 && c != '*' && c != '?' && c != '[' && c != '\\';
}

static struct literal literal_of(const char *pattern)
{
    struct literal literal = {.usable = true};
    size_t size = strlen(pattern);
    if (size != 0 && pattern[0] == '*') {
        literal.open_start = true;
        pattern++;
        size--;
    }
    if (size != 0 && pattern[size - 1] == '*') {
        literal.open_end = true;
        size--;
    }
    for (size_t i = 0; i < size; i++)
        literal.usable = literal.usable && is_plain(pattern[i]);
    literal.text = um_slice_of(pattern, size);
    return literal;
}

static bool matches_literal(const struct literal *literal, struct um_slice name)
{
    size_t size = literal->text.size;
    if (name.size < size)
        return false;
    if (size == 0)
        return literal->open_start || literal->open_end || name.size == 0;
    if (literal->open_start && literal->open_end)
        return memmem(name.data, name.size, literal->text.data, size) != NULL;
    if (!literal->open_end && !literal->open_start && name.size != size)
        return false;
    size_t at = literal->open_start ? name.size - size : 0;
    return memcmp(name.data + at, literal->text.data, size) == 0;
}

/* ---- tests -------------------------------------------------------------------------------------- */

static bool is_between(uint64_t value, const struct um_scan_test *test)
{
    return value >= test->low && value <= test->high;
}

static bool is_in_time(int64_t seconds, uint32_t nsec, const struct um_scan_test *test)
{
    bool is_late = seconds > test->since || (seconds == test->since && nsec >= test->since_nsec);
    bool is_early = seconds < test->until || (seconds == test->until && nsec <= test->until_nsec);
    return is_late && is_early;
}

static bool has_permissions(const struct um_attr *attr, const struct um_scan_test *test)
{
    uint64_t wanted = S_ISDIR(attr->mode) ? test->high : test->low;
    uint64_t mode = attr->mode & PERMISSIONS;
    if (test->what == UM_SCAN_PERM_IS)
        return mode == wanted;
    if (test->what == UM_SCAN_PERM_ALL)
        return (mode & wanted) == wanted;
    return wanted == 0 || (mode & wanted) != 0;
}

static bool matches_name(const struct um_scan *scan, const struct test *test,
                         const struct visit *visit)
{
    bool whole = test->is.what == UM_SCAN_PATH || test->is.what == UM_SCAN_IPATH;
    bool fold = test->is.what == UM_SCAN_INAME || test->is.what == UM_SCAN_IPATH;
    size_t size = whole ? scan->path_size : visit->name_size;
    const char *name = scan->path + scan->path_size - size;
    if (!whole && visit->depth == 0) {
        name = scan->start_name;
        size = strlen(name);
    }
    if (test->literal.usable && !fold)
        return matches_literal(&test->literal, um_slice_of(name, size));
    return um_match(test->is.pattern, name, fold);
}

/* Return whether a directory has no names: 1, 0 or an errno. */
static int is_empty_directory(struct um_scan *scan, uint64_t node)
{
    struct um_tree_entry entry;
    void *list = NULL;
    int n = scan->source.begin(scan->source.owner, node, &list);
    if (n != 0)
        return n;
    n = scan->source.next(scan->source.owner, list, node, 0, &entry, 1);
    scan->source.end(list);
    if (n > 0)
        scan->source.forget(scan->source.owner, entry.attr.node);
    return n < 0 ? n : n == 0;
}

static int print_path(struct um_scan *scan, char end)
{
    int error = um_reserve((void **)&scan->text, &scan->text_capacity,
                           scan->text_size + scan->path_size + 1, 1);
    if (error != 0)
        return error;
    memcpy(scan->text + scan->text_size, scan->path, scan->path_size);
    scan->text_size += scan->path_size;
    scan->text[scan->text_size++] = end;
    return 0;
}

/* Run one test: 1 true, 0 false, or an errno. */
static int run_test(struct um_scan *scan, const struct test *test, struct visit *visit)
{
    const struct um_attr *attr = visit->attr;
    switch (test->is.what) {
    case UM_SCAN_TYPE:
        return test->is.low >> (attr->mode >> 12 & 15) & 1;
    case UM_SCAN_PERM_IS:
    case UM_SCAN_PERM_ALL:
    case UM_SCAN_PERM_ANY:
        return has_permissions(attr, &test->is);
    case UM_SCAN_SIZE:
        return is_between(attr->size, &test->is);
    case UM_SCAN_UID:
        return is_between(attr->uid, &test->is);
    case UM_SCAN_GID:
        return is_between(attr->gid, &test->is);
    case UM_SCAN_LINKS:
        return is_between(attr->nlink, &test->is);
    case UM_SCAN_NODE:
        return is_between(attr->node, &test->is);
    case UM_SCAN_MTIME:
        return is_in_time(attr->mtime, attr->mtime_nsec, &test->is);
    case UM_SCAN_ATIME:
        return is_in_time(attr->atime, attr->atime_nsec, &test->is);
    case UM_SCAN_CTIME:
        return is_in_time(attr->ctime, attr->ctime_nsec, &test->is);
    case UM_SCAN_EMPTY:
        if (S_ISDIR(attr->mode))
            return is_empty_directory(scan, attr->node);
        return S_ISREG(attr->mode) && attr->size == 0;
    case UM_SCAN_REGEX:
        return um_path_regex_matches(test->is.regex, scan->path, scan->path_size);
    case UM_SCAN_PRINT: {
        int error = print_path(scan, (char)test->is.low);
        return error ? error : 1;
    }
    case UM_SCAN_PRUNE:
        visit->pruned = true;
        return 1;
    default:
        return matches_name(scan, test, visit);
    }
}

/* ---- records ------------------------------------------------------------------------------------ */

static int keep(struct um_scan *scan, const struct visit *visit, int failure)
{
    int error = um_reserve((void **)&scan->records, &scan->records_capacity, scan->n_records + 1,
                           sizeof *scan->records);
    if (error == 0)
        error = um_reserve((void **)&scan->paths, &scan->paths_capacity,
                           scan->paths_size + scan->path_size, 1);
    if (error != 0)
        return error;
    scan->records[scan->n_records++] = (struct um_scan_record){
        .attr = *visit->attr,
        .depth = visit->depth,
        .error = failure,
        .path = scan->paths_size,
        .path_size = (uint32_t)scan->path_size,
        .name_size = visit->name_size,
    };
    memcpy(scan->paths + scan->paths_size, scan->path, scan->path_size);
    scan->paths_size += scan->path_size;
    return 0;
}

/* Record that the directory could not be read, and end the piece. */
static int keep_failure(struct um_scan *scan, const struct visit *visit, int failure)
{
    scan->failed = true;
    return keep(scan, visit, failure);
}

/* Run the program on a file. */
static int judge(struct um_scan *scan, struct visit *visit)
{
    if (visit->depth < scan->least)
        return 0;
    uint32_t at = scan->n_tests ? 0 : UM_SCAN_KEEP;
    while (at < scan->n_tests) {
        int result = run_test(scan, &scan->tests[at], visit);
        if (result == -ENOMEM)
            return result;
        if (result < 0) {
            int error = keep_failure(scan, visit, result);
            if (error != 0)
                return error;
            result = 0;
        }
        at = result ? scan->tests[at].is.yes : scan->tests[at].is.no;
    }
    return at == UM_SCAN_KEEP ? keep(scan, visit, 0) : 0;
}

/* ---- the walk ----------------------------------------------------------------------------------- */

/* Make the path of the scan that of a name in the directory whose path has this size. */
static int go_to(struct um_scan *scan, size_t directory_size, const char *name, uint32_t name_size)
{
    int error =
        um_reserve((void **)&scan->path, &scan->path_capacity, directory_size + name_size + 2, 1);
    if (error != 0)
        return error;
    size_t size = directory_size;
    if (size == 0 || scan->path[size - 1] != '/')
        scan->path[size++] = '/';
    memcpy(scan->path + size, name, name_size);
    scan->path_size = size + name_size;
    scan->path[scan->path_size] = '\0';
    return scan->path_size > UINT32_MAX ? -ENAMETOOLONG : 0;
}

/* Give back a node: at once, or with the piece if that has records. */
static void forget(struct um_scan *scan, uint64_t node)
{
    if (scan->n_records != 0 && um_reserve((void **)&scan->owed, &scan->owed_capacity,
                                           scan->n_owed + 1, sizeof *scan->owed) == 0)
        scan->owed[scan->n_owed++] = node;
    else
        scan->source.forget(scan->source.owner, node);
}

static void forget_owed(struct um_scan *scan)
{
    while (scan->n_owed != 0)
        scan->source.forget(scan->source.owner, scan->owed[--scan->n_owed]);
}

static int enter(struct um_scan *scan, const struct visit *visit)
{
    int error = um_reserve((void **)&scan->frames, &scan->frames_capacity, scan->n_frames + 1,
                           sizeof(struct frame *));
    struct frame *frame = error ? NULL : malloc(sizeof *frame);
    if (frame == NULL)
        return -ENOMEM;
    frame->attr = *visit->attr;
    frame->list = NULL;
    frame->cookie = 0;
    frame->n = frame->at = 0;
    frame->path_size = scan->path_size;
    frame->name_size = visit->name_size;
    error = scan->source.begin(scan->source.owner, visit->attr->node, &frame->list);
    if (error == 0) {
        scan->frames[scan->n_frames++] = frame;
        return 0;
    }
    free(frame);
    return error == -ENOMEM ? error : keep_failure(scan, visit, error);
}

/* Give back the entries of a frame that were listed and not looked at. */
static void drop_frame(struct um_scan *scan)
{
    struct frame *frame = scan->frames[--scan->n_frames];
    for (; frame->at < frame->n; frame->at++)
        forget(scan, frame->entries[frame->at].attr.node);
    scan->source.end(frame->list);
    if (scan->n_frames != 0) /* the start is the caller's */
        forget(scan, frame->attr.node);
    free(frame);
}

/* Look at a file, and enter it if it is a directory. */
static int look(struct um_scan *scan, struct visit *visit)
{
    bool enters = S_ISDIR(visit->attr->mode) && visit->depth < scan->most;
    bool is_late = enters && (scan->flags & UM_SCAN_POST_ORDER);
    int error = is_late ? 0 : judge(scan, visit);
    size_t before = scan->n_frames;
    if (error == 0 && enters && !(visit->pruned && !(scan->flags & UM_SCAN_POST_ORDER)))
        error = enter(scan, visit);
    if (error == 0 && is_late && scan->n_frames == before)
        error = judge(scan, visit); /* it could not be read */
    if (scan->n_frames == before && visit->depth != 0) /* the start is the caller's */
        forget(scan, visit->attr->node);
    return error;
}

static struct visit visit_of_top(const struct um_scan *scan)
{
    const struct frame *frame = scan->frames[scan->n_frames - 1];
    return (struct visit){
        .attr = &frame->attr, .depth = (uint32_t)scan->n_frames - 1, .name_size = frame->name_size};
}

/* Leave the innermost directory, which was read to its end. */
static int leave(struct um_scan *scan)
{
    int error = 0;
    if (scan->flags & UM_SCAN_POST_ORDER) {
        struct visit visit = visit_of_top(scan);
        scan->path_size = scan->frames[scan->n_frames - 1]->path_size;
        scan->path[scan->path_size] = '\0';
        error = judge(scan, &visit);
    }
    drop_frame(scan);
    return error;
}

/* List more of the innermost directory, or leave it. */
static int refill(struct um_scan *scan, struct frame *frame)
{
    int n = scan->source.next(scan->source.owner, frame->list, frame->attr.node, frame->cookie,
                              frame->entries, ENTRIES);
    frame->n = frame->at = 0;
    if (n > 0) {
        frame->n = (uint32_t)n;
        frame->cookie = frame->entries[n - 1].next;
        return 0;
    }
    if (n < 0 && n != -ENOMEM) {
        struct visit visit = visit_of_top(scan);
        scan->path_size = frame->path_size;
        int error = keep_failure(scan, &visit, n);
        return error ? error : leave(scan);
    }
    return n ? n : leave(scan);
}

/* Look at the next file: 1, 0 at the end, or an errno. */
static int step(struct um_scan *scan)
{
    if (!scan->started) {
        scan->started = true;
        struct visit visit = {.attr = &scan->start};
        int error = look(scan, &visit);
        return error ? error : 1;
    }
    if (scan->n_frames == 0)
        return 0;
    struct frame *frame = scan->frames[scan->n_frames - 1];
    if (frame->at == frame->n) {
        int error = refill(scan, frame);
        return error ? error : 1;
    }
    const struct um_tree_entry *entry = &frame->entries[frame->at++];
    struct visit visit = {
        .attr = &entry->attr, .depth = (uint32_t)scan->n_frames, .name_size = entry->name_size};
    int error = go_to(scan, frame->path_size, entry->name, entry->name_size);
    if (error == 0)
        error = look(scan, &visit);
    return error ? error : 1;
}

int um_scan_next(struct um_scan *scan, struct um_scan_batch *batch)
{
    int more = 1;
    forget_owed(scan);
    scan->n_records = scan->paths_size = scan->text_size = 0;
    scan->failed = false;
    for (uint32_t visits = 0; more > 0 && visits < VISITS && !scan->failed; visits++) {
        more = step(scan);
        if (scan->n_records >= RECORDS || scan->text_size + scan->paths_size >= TEXT)
            break;
    }
    *batch = (struct um_scan_batch){
        .records = scan->records,
        .n_records = scan->n_records,
        .paths = scan->paths,
        .text = scan->text,
        .text_size = scan->text_size,
    };
    if (more == 0 && (scan->n_records != 0 || scan->text_size != 0))
        return 1;
    return more;
}

void um_scan_leave(struct um_scan *scan, uint32_t depth, uint64_t node)
{
    if (scan->n_frames <= depth || scan->frames[depth]->attr.node != node)
        return;
    while (scan->n_frames > depth)
        drop_frame(scan);
}

/* ---- opening ------------------------------------------------------------------------------------ */

static bool is_target(uint32_t target, uint32_t at, uint32_t n)
{
    return target == UM_SCAN_SKIP || target == UM_SCAN_KEEP || (target > at && target < n);
}

static int take_tests(struct um_scan *scan, const struct um_scan_setup *setup)
{
    if (setup->n_tests > UM_SCAN_TESTS_MAX)
        return -EINVAL;
    scan->tests = calloc((size_t)setup->n_tests + 1, sizeof *scan->tests);
    if (scan->tests == NULL)
        return -ENOMEM;
    scan->n_tests = setup->n_tests;
    for (uint32_t i = 0; i < setup->n_tests; i++) {
        struct test *test = &scan->tests[i];
        test->is = setup->tests[i];
        bool is_pattern = test->is.what >= UM_SCAN_NAME && test->is.what <= UM_SCAN_IPATH;
        bool is_regex = test->is.what == UM_SCAN_REGEX;
        if (test->is.what >= UM_SCAN_TESTS || (is_pattern && test->is.pattern == NULL) ||
            (is_regex && test->is.regex == NULL) || !is_target(test->is.yes, i, scan->n_tests) ||
            !is_target(test->is.no, i, scan->n_tests))
            return -EINVAL;
        if (is_pattern)
            test->literal = literal_of(test->is.pattern);
    }
    return 0;
}

/* Copy the last component of the path of the start; "/" of the root. */
static char *name_of_start(const char *path, size_t size)
{
    while (size > 1 && path[size - 1] == '/')
        size--;
    size_t at = size;
    while (at > 0 && path[at - 1] != '/')
        at--;
    return at == size ? strndup("/", 1) : strndup(path + at, size - at);
}

static int take_start(struct um_scan *scan, const struct um_scan_setup *setup)
{
    if (setup->shown_size == 0 || setup->shown_size > UINT32_MAX / 2 ||
        memchr(setup->shown, '\0', setup->shown_size) != NULL)
        return -EINVAL;
    int error = um_reserve((void **)&scan->path, &scan->path_capacity, setup->shown_size + 1, 1);
    if (error != 0)
        return error;
    memcpy(scan->path, setup->shown, setup->shown_size);
    scan->path_size = setup->shown_size;
    scan->path[scan->path_size] = '\0';
    scan->start_name = name_of_start(setup->shown, setup->shown_size);
    if (scan->start_name == NULL)
        return -ENOMEM;
    return scan->source.getattr(scan->source.owner, setup->start, &scan->start);
}

int um_scan_open(const struct um_scan_source *source, const struct um_scan_setup *setup,
                 struct um_scan **out)
{
    struct um_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL)
        return -ENOMEM;
    scan->source = *source;
    scan->flags = setup->flags;
    scan->least = setup->least;
    scan->most = setup->most;
    int error = take_tests(scan, setup);
    if (error == 0)
        error = take_start(scan, setup);
    if (error != 0) {
        um_scan_close(scan);
        return error;
    }
    *out = scan;
    return 0;
}

void um_scan_close(struct um_scan *scan)
{
    if (scan == NULL)
        return;
    while (scan->n_frames != 0)
        drop_frame(scan);
    forget_owed(scan);
    free(scan->frames);
    free(scan->owed);
    free(scan->paths);
    free(scan->tests);
    free(scan->start_name);
    free(scan->path);
    free(scan->records);
    free(scan->text);
    free(scan);
}

/* ---- trees and layers, which need no open directories ------------------------------------------- */

static int begin_nothing(void *owner, uint64_t directory, void **list)
{
    (void)owner;
    (void)directory;
    *list = NULL;
    return 0;
}

static void end_nothing(void *list)
{
    (void)list;
}

static void forget_nothing(void *owner, uint64_t node)
{
    (void)owner;
    (void)node;
}

static int tree_getattr(void *owner, uint64_t node, struct um_attr *attr)
{
    return um_tree_getattr((struct um_tree *)owner, node, attr);
}

static int tree_next(void *owner, void *list, uint64_t directory, uint64_t cookie,
                     struct um_tree_entry *entries, size_t capacity)
{
    (void)list;
    return um_tree_list((struct um_tree *)owner, directory, cookie, entries, capacity);
}

int um_scan_tree(struct um_tree *tree, const struct um_scan_setup *setup, struct um_scan **out)
{
    const struct um_scan_source source = {.owner = tree,
                                          .getattr = tree_getattr,
                                          .begin = begin_nothing,
                                          .next = tree_next,
                                          .end = end_nothing,
                                          .forget = forget_nothing};
    return um_scan_open(&source, setup, out);
}

static int unstacked_getattr(void *owner, uint64_t node, struct um_attr *attr)
{
    return um_unstacked_getattr((struct um_unstacked *)owner, node, attr);
}

static int unstacked_next(void *owner, void *list, uint64_t directory, uint64_t cookie,
                          struct um_tree_entry *entries, size_t capacity)
{
    (void)list;
    return um_unstacked_list((struct um_unstacked *)owner, directory, cookie, entries, capacity);
}

int um_scan_unstacked(struct um_unstacked *layers, const struct um_scan_setup *setup,
                      struct um_scan **out)
{
    const struct um_scan_source source = {.owner = layers,
                                          .getattr = unstacked_getattr,
                                          .begin = begin_nothing,
                                          .next = unstacked_next,
                                          .end = end_nothing,
                                          .forget = forget_nothing};
    return um_scan_open(&source, setup, out);
}
