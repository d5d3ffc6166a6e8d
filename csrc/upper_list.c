#include <dirent.h>
#include <fcntl.h>

#include "upper_private.h"
#include "whiteout.h"

/* An open directory. What it lists is settled when it is first read (cookie 0): a directory that is
 * in the upper is merged into a list of names then; one that is in lower layers only is listed by
 * the tree as it goes, whose order and cookies never change. Either way a name that has gone by the
 * time it is its turn is left out, and one that came later is not shown before a rewind. */

struct listed_name {
    const char *name; /* in `text`, or of the tree */
    uint32_t size;
    bool hides; /* while merging: a whiteout */
};

struct um_upper_list {
    struct um_upper *upper;
    struct um_record *directory;
    bool merged;               /* `names` is the list */
    struct listed_name *names; /* sorted */
    size_t n, capacity;
    char **texts; /* names of the upper, in blocks that never move */
    size_t n_texts, texts_capacity, text_used;
    bool shared;
    uint64_t epoch; /* of a shared one: how often its list was begun anew; cookies hold it */
    struct um_upper_list *previous; /* the names of the epoch before */
};

#define EPOCH_SHIFT 40
#define PLACE_MASK (((uint64_t)1 << EPOCH_SHIFT) - 1)
#define GONE_MAX 4096u /* names that have gone, besides four times those that are there */

#define TEXT_BLOCK 65536u

static void drop_names(struct um_upper_list *list)
{
    for (size_t i = 0; i < list->n_texts; i++)
        free(list->texts[i]);
    free(list->texts);
    free(list->names);
    list->texts = NULL;
    list->names = NULL;
    list->n = list->capacity = list->n_texts = list->texts_capacity = list->text_used = 0;
}

static int keep_text(struct um_upper_list *list, struct um_slice name, const char **out)
{
    if (list->n_texts == 0 || name.size > TEXT_BLOCK - list->text_used) {
        int error = um_reserve((void **)&list->texts, &list->texts_capacity, list->n_texts + 1,
                               sizeof *list->texts);
        char *block = error ? NULL : malloc(TEXT_BLOCK);
        if (block == NULL)
            return -ENOMEM;
        list->texts[list->n_texts++] = block;
        list->text_used = 0;
    }
    char *at = list->texts[list->n_texts - 1] + list->text_used;
    memcpy(at, name.data, name.size);
    list->text_used += name.size;
    *out = at;
    return 0;
}

static int add_name(struct um_upper_list *list, struct um_slice name, bool hides)
{
    int error =
        um_reserve((void **)&list->names, &list->capacity, list->n + 1, sizeof *list->names);
    if (error == 0)
        list->names[list->n++] =
            (struct listed_name){(const char *)name.data, (uint32_t)name.size, hides};
    return error;
}

/* ---- the names of the upper --------------------------------------------------------------------- */

/* 1 a whiteout, 0 something else. */
static int is_whiteout(const struct um_upper *upper, int fd, const struct dirent *entry)
{
    struct um_spot spot;
    struct stat status;
    enum um_found found;
    if (entry->d_type != DT_CHR && entry->d_type != DT_UNKNOWN)
        return 0;
    int error = um_spot_in(upper, fd, um_slice_of(entry->d_name, strlen(entry->d_name)), &spot);
    if (error == 0)
        error = um_disk_classify(&spot, true, &found, &status);
    if (error == -EXDEV)
        return 0; /* what is mounted there is no whiteout */
    return error ? error : found == UM_FOUND_WHITEOUT;
}

static int add_entry(struct um_upper_list *list, int fd, const struct dirent *entry)
{
    struct um_slice name = um_slice_of(entry->d_name, strlen(entry->d_name));
    struct um_slice hidden;
    int hides = 1;
    switch (um_whiteout_classify(name, &hidden)) {
    case UM_NAME_PLAIN:
        hides = is_whiteout(list->upper, fd, entry);
        break;
    case UM_NAME_WHITEOUT:
        name = hidden;
        break;
    default:
        return 0;
    }
    if (hides < 0)
        return hides;
    const char *text;
    int error = keep_text(list, name, &text);
    return error ? error : add_name(list, um_slice_of(text, name.size), hides != 0);
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int read_above(struct um_upper_list *list)
{
    struct um_spot spot = {0};
    DIR *stream;
    int error = um_spot_of(list->upper, list->directory, &spot);
    if (error == 0)
        error = um_spot_list(&spot, &stream);
    um_spot_close(&spot);
    if (error != 0)
        return error;
    struct dirent *entry;
    while (error == 0 && (errno = 0, entry = readdir(stream)) != NULL) {
        if (!is_dots(entry->d_name))
            error = add_entry(list, dirfd(stream), entry);
    }
    if (error == 0)
        error = -errno;
    closedir(stream);
    return error;
}

/* ---- merging ---------------------------------------------------------------------------------------- */

static struct um_slice slice_of(const struct listed_name *name)
{
    return um_slice_of(name->name, name->size);
}

/* By name; of two spellings, what stands there before what hides it. */
static int compare_names(const void *a, const void *b)
{
    const struct listed_name *left = a, *right = b;
    int order = um_slice_compare(slice_of(left), slice_of(right));
    return order ? order : (int)left->hides - (int)right->hides;
}

static bool is_listed(const struct um_upper_list *list, size_t n, struct um_slice name)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = um_slice_compare(slice_of(&list->names[middle]), name);
        if (order == 0)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

#define BATCH 64

/* Add the names of the lower directory that none of the first `n` names stands for or hides. */
static int read_below(struct um_upper_list *list, size_t n)
{
    struct um_tree_entry entries[BATCH];
    uint64_t cookie = 0;
    int got;
    if (list->directory->lower == 0)
        return 0;
    while ((got = um_tree_list(list->upper->tree, list->directory->lower, cookie, entries, BATCH)) >
           0) {
        for (int i = 0; i < got; i++) {
            struct um_slice name = um_slice_of(entries[i].name, entries[i].name_size);
            int error = is_listed(list, n, name) ? 0 : add_name(list, name, false);
            if (error != 0)
                return error;
        }
        cookie = entries[got - 1].next;
    }
    return got;
}

static void sort_names(struct um_upper_list *list)
{
    if (list->n != 0)
        qsort(list->names, list->n, sizeof *list->names, compare_names);
}

/* Leave out what hides, and the second spelling of a name. */
static void drop_hiding(struct um_upper_list *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->n; i++) {
        struct listed_name name = list->names[i];
        bool again = kept != 0 && um_slice_equal(slice_of(&list->names[kept - 1]), slice_of(&name));
        if (!name.hides && !again)
            list->names[kept++] = name;
    }
    list->n = kept;
}

/* Read the merged names, sorted, into a list that is empty. */
static int read_merged(struct um_upper_list *list)
{
    int error = read_above(list);
    if (error == 0) {
        sort_names(list);
        error = read_below(list, list->n);
    }
    if (error != 0)
        return error;
    sort_names(list);
    drop_hiding(list);
    return 0;
}

/* Add those of `fresh` that are not in the list. */
static int add_new(struct um_upper_list *list, const struct um_upper_list *fresh)
{
    struct um_upper_list sorted = {.names = malloc((list->n + 1) * sizeof *list->names),
                                   .n = list->n};
    int error = sorted.names ? 0 : -ENOMEM;
    if (error == 0 && list->n != 0)
        memcpy(sorted.names, list->names, list->n * sizeof *list->names);
    if (error == 0)
        sort_names(&sorted);
    for (size_t i = 0; error == 0 && i < fresh->n; i++) {
        struct um_slice name = slice_of(&fresh->names[i]);
        const char *text;
        if (is_listed(&sorted, sorted.n, name))
            continue;
        error = keep_text(list, name, &text);
        if (error == 0)
            error = add_name(list, um_slice_of(text, name.size), false);
    }
    free(sorted.names);
    return error;
}

static void drop_previous(struct um_upper_list *list)
{
    if (list->previous != NULL)
        drop_names(list->previous);
    free(list->previous);
    list->previous = NULL;
}

/* Begin the list anew with what `fresh` holds, and keep what it was. */
static int replace_names(struct um_upper_list *list, struct um_upper_list *fresh)
{
    struct um_upper_list *old = malloc(sizeof *old);
    if (old == NULL)
        return -ENOMEM;
    drop_previous(list);
    *old = *list;
    *fresh = (struct um_upper_list){.upper = list->upper,
                                    .directory = list->directory,
                                    .merged = true,
                                    .names = fresh->names,
                                    .n = fresh->n,
                                    .capacity = fresh->capacity,
                                    .texts = fresh->texts,
                                    .n_texts = fresh->n_texts,
                                    .texts_capacity = fresh->texts_capacity,
                                    .text_used = fresh->text_used,
                                    .shared = true,
                                    .epoch = list->epoch + 1,
                                    .previous = old};
    *list = *fresh;
    *fresh = (struct um_upper_list){0};
    return 0;
}

static int rewind_shared(struct um_upper_list *list)
{
    struct um_upper_list fresh = {.upper = list->upper, .directory = list->directory};
    int error = list->directory->gone ? 0 : read_merged(&fresh);
    if (error == 0 && (list->epoch == 0 || list->n > 4 * fresh.n + GONE_MAX))
        error = replace_names(list, &fresh);
    else if (error == 0)
        error = add_new(list, &fresh);
    drop_names(&fresh);
    return error;
}

static int rewind_list(struct um_upper_list *list)
{
    bool merged = list->directory->in_upper || list->directory->gone;
    if (list->shared)
        return merged ? rewind_shared(list) : 0;
    drop_names(list);
    list->merged = merged;
    return merged && !list->directory->gone ? read_merged(list) : 0;
}

/* ---- the public face ---------------------------------------------------------------------------------- */

int um_upper_list_open(struct um_upper *upper, uint64_t node, struct um_upper_list **out)
{
    struct um_upper_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return -ENOMEM;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_record *record = um_upper_record(upper, node);
    int error = record == NULL ? -ESTALE : record->directory ? 0 : -ENOTDIR;
    if (error == 0) {
        list->upper = upper;
        list->directory = record;
        record->opens++;
    }
    pthread_rwlock_unlock(&upper->lock);
    if (error != 0) {
        free(list);
        return error;
    }
    *out = list;
    return 0;
}

void um_upper_list_close(struct um_upper_list *list)
{
    if (list == NULL)
        return;
    pthread_rwlock_wrlock(&list->upper->lock);
    list->directory->opens--;
    um_record_settle(list->upper, list->directory);
    pthread_rwlock_unlock(&list->upper->lock);
    drop_previous(list);
    drop_names(list);
    free(list);
}

void um_upper_list_share(struct um_upper_list *list)
{
    list->shared = true;
}

bool um_upper_list_is_needed(const struct um_upper_list *list)
{
    return list->merged;
}

/* The names that a cookie of a shared list is about; NULL where they are no more. */
static const struct um_upper_list *names_of(const struct um_upper_list *list, uint64_t epoch)
{
    if (epoch == list->epoch)
        return list;
    return list->previous != NULL && epoch + 1 == list->epoch ? list->previous : NULL;
}

static int next_shared(const struct um_upper_list *list, uint64_t *cookie, struct um_slice *name)
{
    const struct um_upper_list *names = names_of(list, *cookie >> EPOCH_SHIFT);
    uint64_t place = *cookie & PLACE_MASK;
    if (names == NULL || place >= names->n)
        return 0;
    *name = slice_of(&names->names[place]);
    (*cookie)++;
    return 1;
}

/* The name at *cookie, which moves behind it: 1, 0 at the end, or an errno. */
static int next_name(struct um_upper_list *list, uint64_t *cookie, struct um_slice *name)
{
    if (list->shared && *cookie >> EPOCH_SHIFT != 0)
        return next_shared(list, cookie, name);
    if (list->merged && !list->shared) {
        if (*cookie >= list->n)
            return 0;
        *name = slice_of(&list->names[(*cookie)++]);
        return 1;
    }
    struct um_tree_entry entry;
    int got = list->directory->lower == 0
                  ? 0
                  : um_tree_list(list->upper->tree, list->directory->lower, *cookie, &entry, 1);
    if (got <= 0)
        return got;
    *cookie = entry.next;
    *name = um_slice_of(entry.name, entry.name_size);
    return 1;
}

/* The next name that is still there: 1, 0 at the end, or an errno. */
static int next_hit(struct um_upper_list *list, uint64_t *cookie, struct um_slice *name,
                    struct um_upper_hit *hit)
{
    int more;
    while ((more = next_name(list, cookie, name)) > 0) {
        int error = um_upper_find(list->upper, list->directory, *name, hit);
        if (error == -EXDEV)
            continue; /* something else is mounted there: no part of the upper */
        if (error != -ENOENT)
            return error ? error : 1;
    }
    return more;
}

/* The same, counted as looked up. */
static int next_entry(struct um_upper_list *list, uint64_t *cookie, struct um_tree_entry *entry)
{
    struct um_slice name;
    struct um_upper_hit hit;
    int more = next_hit(list, cookie, &name, &hit);
    if (more <= 0)
        return more;
    int error = um_upper_count(list->upper, list->directory, name, &hit);
    if (error != 0)
        return error;
    *entry = (struct um_tree_entry){.name = (const char *)name.data,
                                    .name_size = (uint32_t)name.size,
                                    .next = *cookie,
                                    .attr = hit.attr};
    return 1;
}

int um_upper_is_empty(struct um_upper *upper, struct um_record *directory)
{
    struct um_upper_list list = {.upper = upper, .directory = directory};
    struct um_slice name;
    struct um_upper_hit hit;
    uint64_t cookie = 0;
    int error = rewind_list(&list);
    int more = error ? error : next_hit(&list, &cookie, &name, &hit);
    drop_names(&list);
    return more < 0 ? more : !more;
}

/* ---- a directory that is not in the upper -------------------------------------------------------------- */

/* The lower directory whose list this is, 0 where the upper has a say in it. */
static uint64_t only_below(const struct um_upper_list *list, uint64_t cookie)
{
    bool own = list->shared ? cookie >> EPOCH_SHIFT != 0 : list->merged;
    return own ? 0 : um_record_only_below(list->directory);
}

/* Count entries of the lower tree as looked up: how many were, or an errno for the first one. */
static int count_below(struct um_upper_list *list, struct um_tree_entry *entries, int n)
{
    for (int i = 0; i < n; i++) {
        struct um_slice name = um_slice_of(entries[i].name, entries[i].name_size);
        struct um_upper_hit hit;
        int error = um_upper_hit_below(list->upper, &entries[i], &hit);
        if (error == 0)
            error = um_upper_count(list->upper, list->directory, name, &hit);
        if (error != 0)
            return i ? i : error;
        entries[i].attr = hit.attr;
    }
    return n;
}

/* Entries of a directory as the lower tree has it, which is read without the lock: disks are waited for.
 * -EAGAIN where the upper has a say in it. */
static int next_below(struct um_upper_list *list, uint64_t cookie, struct um_tree_entry *entries,
                      size_t capacity)
{
    struct um_upper *upper = list->upper;
    pthread_rwlock_wrlock(&upper->lock);
    int got = cookie == 0 && um_record_only_below(list->directory) ? rewind_list(list) : 0;
    uint64_t lower = only_below(list, cookie);
    pthread_rwlock_unlock(&upper->lock);
    if (got != 0 || lower == 0)
        return got ? got : -EAGAIN;
    got = um_tree_list(upper->tree, lower, cookie, entries, capacity);
    if (got <= 0)
        return got;
    pthread_rwlock_wrlock(&upper->lock);
    got = only_below(list, cookie) == lower ? count_below(list, entries, got) : -EAGAIN;
    pthread_rwlock_unlock(&upper->lock);
    return got;
}

/* ---- the next entries --------------------------------------------------------------------------------------- */

int um_upper_list_next(struct um_upper_list *list, uint64_t cookie, struct um_tree_entry *entries,
                       size_t capacity)
{
    int n = next_below(list, cookie, entries, capacity);
    if (n != -EAGAIN)
        return n;
    n = 0;
    pthread_rwlock_wrlock(&list->upper->lock);
    int error = cookie == 0 ? rewind_list(list) : 0;
    if (error == 0 && cookie == 0 && list->shared && list->merged)
        cookie = list->epoch << EPOCH_SHIFT;
    while (error == 0 && (size_t)n < capacity && n < INT32_MAX) {
        int more = next_entry(list, &cookie, &entries[n]);
        if (more < 0)
            error = more;
        if (more <= 0)
            break;
        n++;
    }
    pthread_rwlock_unlock(&list->upper->lock);
    return n != 0 ? n : error;
}
