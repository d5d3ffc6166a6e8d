#include "upper/list.h"

#include <dirent.h>
#include <fcntl.h>

#include "marks/whiteout.h"
#include "system/directory_stream.h"
#include "upper/lookup.h"
#include "upper/marks.h"

/* An open directory. Its list is made when it is first read, and again at cookie 0. For a directory that is
 * in the upper, it is a merged list of names; one that is in lower layers only is listed by the tree, whose
 * order and cookies never change. In both cases a name that has gone when it is its turn is left out, and a
 * later one is not shown before a rewind.
 *
 * A cookie is a place in the list: 1, 2, 3 …, so that a reader can seek to any number. In a list that
 * readers share, a name keeps its place as long as it is there, whatever other names come and go. A new
 * name takes a place that has become free, so the list is never much longer than the directory was. Where
 * the tree's cookies have been given out, its names have the tree's places. */

struct listed_name {
    const char *name; /* in `text`, or of the tree; NULL: a free place of a shared list */
    uint32_t size;
    bool hides; /* while merging: a whiteout */
};

struct um_upper_list {
    struct um_upper *upper;
    struct um_upper_node *directory;
    bool begun;                /* it was read */
    bool merged;               /* `names` is the list */
    struct listed_name *names; /* sorted, but where places are kept */
    size_t n, capacity;
    char **texts; /* names of the upper, in blocks that never move */
    size_t n_texts, texts_capacity, text_used;
    bool shared;
};

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

/* ---- the names of the upper ------------------------------------------------------------------ */

/* Whether an entry is a whiteout: 1, 0 or an errno. */
static int is_whiteout(const struct um_upper *upper, int fd, const struct dirent *entry)
{
    struct um_upper_reached reached;
    struct stat status;
    enum um_upper_found found;
    if (entry->d_type != DT_CHR && entry->d_type != DT_UNKNOWN)
        return 0;
    int error = um_upper_reach_name(upper, fd, um_slice_text(entry->d_name), &reached);
    if (error == 0)
        error = um_upper_reached_classify(&reached, true, &found, &status);
    if (error == -EXDEV)
        return 0; /* what is mounted there is no whiteout */
    return error ? error : found == UM_UPPER_FOUND_WHITEOUT;
}

static int add_entry(struct um_upper_list *list, int fd, const struct dirent *entry)
{
    struct um_slice name = um_slice_text(entry->d_name);
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

static int read_above(struct um_upper_list *list)
{
    struct um_upper_reached reached = {0};
    DIR *stream;
    int error = um_upper_reach(list->upper, list->directory, &reached);
    if (error == 0)
        error = um_upper_reached_open_stream(list->upper, &reached, &stream);
    um_upper_reached_close(&reached);
    if (error != 0)
        return error;
    struct dirent *entry;
    int more;
    while (error == 0 && (more = um_directory_next(stream, &entry)) != 0)
        error = more < 0 ? more : add_entry(list, dirfd(stream), entry);
    closedir(stream);
    return error;
}

/* ---- merging --------------------------------------------------------------------------------- */

static struct um_slice slice_of(const struct listed_name *name)
{
    return um_slice_of(name->name, name->size);
}

/* By name; of two spellings of a whiteout's name, the object before the whiteout. */
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

/* Add the names of the lower directory that are not among the first `n` names, which have or hide them. */
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

/* Drop whiteouts, and the second spelling of a name. */
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
    int error = list->directory->lower == UM_UPPER_LOWER_REFUSED ? -EIO : read_above(list);
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

/* ---- places that are kept -------------------------------------------------------------------- */

static int compare_places(const void *a, const void *b)
{
    const struct listed_name *const *left = a, *const *right = b;
    return um_slice_compare(slice_of(*left), slice_of(*right));
}

/* The names that have a place, by name; *sorted is malloced. */
static int sort_places(const struct um_upper_list *list, const struct listed_name ***sorted,
                       size_t *n)
{
    const struct listed_name **all = malloc((list->n + 1) * sizeof *all);
    if (all == NULL)
        return -ENOMEM;
    *n = 0;
    for (size_t i = 0; i < list->n; i++)
        if (list->names[i].name != NULL)
            all[(*n)++] = &list->names[i];
    if (*n != 0)
        qsort(all, *n, sizeof *all, compare_places);
    *sorted = all;
    return 0;
}

/* Move the names of `fresh` that have a place in the list to the same place in `to`. */
static int move_known(const struct um_upper_list *list, struct um_upper_list *fresh,
                      struct listed_name *to)
{
    const struct listed_name **sorted;
    size_t n, at = 0;
    int error = sort_places(list, &sorted, &n);
    for (size_t i = 0; error == 0 && i < fresh->n; i++) {
        struct listed_name *name = &fresh->names[i];
        int order = 1;
        while (at < n && (order = um_slice_compare(slice_of(sorted[at]), slice_of(name))) < 0)
            at++;
        if (at == n || order != 0)
            continue;
        to[sorted[at++] - list->names] = *name;
        name->name = NULL;
    }
    if (error == 0)
        free(sorted);
    return error;
}

/* Move the names that are left in `fresh` to the first free places, and return the number of places
 * then. */
static size_t move_new(struct um_upper_list *fresh, struct listed_name *to, size_t room)
{
    size_t at = 0;
    for (size_t i = 0; i < fresh->n; i++) {
        if (fresh->names[i].name == NULL)
            continue;
        while (to[at].name != NULL)
            at++;
        to[at] = fresh->names[i];
    }
    while (room != 0 && to[room - 1].name == NULL)
        room--;
    return room;
}

/* Exchange the names of the list with those of `fresh`, in the places that they have in the list. */
static int keep_places(struct um_upper_list *list, struct um_upper_list *fresh)
{
    size_t room = list->n + fresh->n;
    struct listed_name *places = calloc(room + 1, sizeof *places);
    int error = places ? move_known(list, fresh, places) : -ENOMEM;
    if (error != 0) {
        free(places);
        return error;
    }
    size_t n = move_new(fresh, places, room);
    free(fresh->names);
    fresh->names = places;
    fresh->n = n;
    fresh->capacity = room + 1;
    struct um_upper_list held = *list;
    list->names = fresh->names;
    list->n = fresh->n;
    list->capacity = fresh->capacity;
    list->texts = fresh->texts;
    list->n_texts = fresh->n_texts;
    list->texts_capacity = fresh->texts_capacity;
    list->text_used = fresh->text_used;
    *fresh = held;
    return 0;
}

/* Give the names of the lower directory the places that the tree's cookies stand for. */
static int place_below(struct um_upper_list *list)
{
    struct um_tree_entry entries[BATCH];
    uint64_t cookie = 0;
    int got = 0, error = 0;
    if (!list->directory->listed || list->directory->lower == 0)
        return 0;
    while (error == 0 && (got = um_tree_list(list->upper->tree, list->directory->lower, cookie,
                                             entries, BATCH)) > 0) {
        for (int i = 0; error == 0 && i < got; i++) {
            while (error == 0 && list->n + 1 < entries[i].next)
                error = add_name(list, um_slice_of(NULL, 0), false);
            if (error == 0)
                error = add_name(list, um_slice_of(entries[i].name, entries[i].name_size), false);
        }
        cookie = entries[got - 1].next;
    }
    return error ? error : got;
}

static int rewind_shared(struct um_upper_list *list)
{
    struct um_upper_list fresh = {.upper = list->upper, .directory = list->directory};
    int error = list->directory->gone ? 0 : read_merged(&fresh);
    if (error == 0 && !list->merged)
        error = place_below(list);
    if (error == 0)
        error = keep_places(list, &fresh);
    if (error == 0)
        list->merged = true;
    else if (!list->merged)
        drop_names(list);
    drop_names(&fresh);
    return error;
}

static int rewind_list(struct um_upper_list *list)
{
    bool merged = list->directory->in_upper || list->directory->gone;
    int error = 0;
    if (list->shared) {
        error = merged ? rewind_shared(list) : 0;
    } else {
        drop_names(list);
        list->merged = merged;
        error = merged && !list->directory->gone ? read_merged(list) : 0;
    }
    list->begun = error == 0;
    return error;
}

/* Whether a list has to be read (again) before the entry at a cookie is returned. So is a shared one
 * once its directory is in the upper: its readers may hold cookies of the tree. */
static bool is_due(const struct um_upper_list *list, uint64_t cookie)
{
    bool behind = list->shared && !list->merged && !um_upper_node_only_lower(list->directory);
    return cookie == 0 || !list->begun || behind;
}

/* ---- the public face ------------------------------------------------------------------------- */

int um_upper_list_open(struct um_upper *upper, uint64_t number, struct um_upper_list **out)
{
    struct um_upper_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return -ENOMEM;
    pthread_rwlock_wrlock(&upper->lock);
    struct um_upper_node *node = um_upper_node_find(upper, number);
    int error = node == NULL ? -ESTALE : node->directory ? 0 : -ENOTDIR;
    if (error == 0) {
        list->upper = upper;
        list->directory = node;
        node->opens++;
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
    um_upper_node_drop_unused(list->upper, list->directory);
    pthread_rwlock_unlock(&list->upper->lock);
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

/* The name at *cookie, which moves behind it: 1, 0 at the end, or an errno. */
static int next_name(struct um_upper_list *list, uint64_t *cookie, struct um_slice *name)
{
    if (list->merged) {
        while (*cookie < list->n && list->names[*cookie].name == NULL)
            (*cookie)++;
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
        int error = um_upper_find_counted(list->upper, list->directory, *name, hit);
        if (error == -EXDEV)
            continue; /* something else is mounted there: no part of the upper */
        if (error != -ENOENT)
            return error ? error : 1;
    }
    return more;
}

/* As next_hit, and count a lookup of the entry. */
static int next_entry(struct um_upper_list *list, uint64_t *cookie, struct um_tree_entry *entry)
{
    struct um_slice name;
    struct um_upper_hit hit;
    int more = next_hit(list, cookie, &name, &hit);
    if (more <= 0)
        return more;
    int error = um_upper_count_lookup(list->upper, list->directory, name, &hit);
    if (error != 0)
        return error;
    *entry = (struct um_tree_entry){.name = (const char *)name.data,
                                    .name_size = (uint32_t)name.size,
                                    .next = *cookie,
                                    .attr = hit.attr};
    return 1;
}

int um_upper_is_empty(struct um_upper *upper, struct um_upper_node *directory)
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

/* ---- a directory that is not in the upper ---------------------------------------------------- */

/* The lower directory that has all entries of this list; 0 where the upper has or hides some. */
static uint64_t only_below(const struct um_upper_list *list)
{
    return list->merged ? 0 : um_upper_node_only_lower(list->directory);
}

/* Count lookups of entries of the lower tree: the number of those that were counted, or an errno for the
 * first one. */
static int count_below(struct um_upper_list *list, struct um_tree_entry *entries, int n)
{
    for (int i = 0; i < n; i++) {
        struct um_slice name = um_slice_of(entries[i].name, entries[i].name_size);
        struct um_upper_hit hit;
        int error = um_upper_hit_lower_counted(list->upper, &entries[i], &hit);
        if (error == 0)
            error = um_upper_count_lookup(list->upper, list->directory, name, &hit);
        if (error != 0)
            return i ? i : error;
        entries[i].attr = hit.attr;
    }
    return n;
}

/* List a directory that is in the lower tree only, without the lock, since disks are waited for. -EAGAIN
 * where it is in the upper. */
static int next_below(struct um_upper_list *list, uint64_t cookie, struct um_tree_entry *entries,
                      size_t capacity)
{
    struct um_upper *upper = list->upper;
    pthread_rwlock_wrlock(&upper->lock);
    bool due = um_upper_node_only_lower(list->directory) != 0 && is_due(list, cookie);
    int got = due ? rewind_list(list) : 0;
    uint64_t lower = only_below(list);
    list->directory->listed |= lower != 0;
    pthread_rwlock_unlock(&upper->lock);
    if (got != 0 || lower == 0)
        return got ? got : -EAGAIN;
    got = um_tree_list(upper->tree, lower, cookie, entries, capacity);
    if (got <= 0)
        return got;
    pthread_rwlock_wrlock(&upper->lock);
    got = only_below(list) == lower ? count_below(list, entries, got) : -EAGAIN;
    pthread_rwlock_unlock(&upper->lock);
    return got;
}

/* ---- the next entries ------------------------------------------------------------------------ */

int um_upper_list_next(struct um_upper_list *list, uint64_t cookie, struct um_tree_entry *entries,
                       size_t capacity)
{
    int n = next_below(list, cookie, entries, capacity);
    if (n != -EAGAIN)
        return n;
    n = 0;
    pthread_rwlock_wrlock(&list->upper->lock);
    int error = is_due(list, cookie) ? rewind_list(list) : 0;
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
