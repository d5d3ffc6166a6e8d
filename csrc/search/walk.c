#include <dirent.h>
#include <fnmatch.h>
#include <sys/stat.h>

#include "search/batch.h"
#include "search/search.h"
#include "search/source.h"

#define LISTED 64

/* A directory that is being walked. */
struct frame {
    uint64_t node;
    bool counts; /* a lookup is owed */
    struct um_source_list list;
    struct um_tree_entry *entries;
    int n, at;
    uint64_t cookie;
    size_t path_size; /* of the directory, with a slash behind */
};

/* Patterns of names, in the order of the command line. */
struct names {
    char **patterns; /* the first byte is 'i' or 'e' */
    size_t n;
};

struct um_search_walk {
    struct um_search_source source;
    struct um_attr start;
    struct um_slice prefix; /* owned, as are these: */
    uint8_t *path;
    size_t path_size, path_capacity;
    struct names files, directories;
    struct frame *frames;
    size_t n_frames, frames_capacity;
    bool began;
    bool left_out; /* what the command line names is */
};

/* ---- names ----------------------------------------------------------------------------------------- */

static int copy_names(const char *const *patterns, size_t n, struct names *names)
{
    names->patterns = calloc(n + 1, sizeof *names->patterns);
    if (names->patterns == NULL)
        return -ENOMEM;
    for (; names->n < n; names->n++) {
        names->patterns[names->n] = strdup(patterns[names->n]);
        if (names->patterns[names->n] == NULL)
            return -ENOMEM;
    }
    return 0;
}

static void free_names(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->patterns[i]);
    free(names->patterns);
}

/* Match a name; one from the command line also from each of its components on. */
static bool fits(const char *pattern, const char *name, bool given)
{
    if (fnmatch(pattern, name, 0) == 0)
        return true;
    for (const char *at = name; given && *at != '\0'; at++) {
        if (at[0] == '/' && at[1] != '/' && fnmatch(pattern, at + 1, 0) == 0)
            return true;
    }
    return false;
}

/* Return whether a name is left out: the last pattern that it matches decides, and where it matches
 * none, it is left out if the first one includes. */
static bool is_left_out(const struct names *names, const char *name, bool given)
{
    for (size_t i = names->n; i-- != 0;) {
        if (fits(names->patterns[i] + 1, name, given))
            return names->patterns[i][0] == 'e';
    }
    return names->n != 0 && names->patterns[0][0] == 'i';
}

/* ---- the path ------------------------------------------------------------------------------------ */

/* Put a name behind the first `size` bytes of the path; a NUL follows it. */
static int put_name(struct um_search_walk *walk, size_t size, struct um_slice name)
{
    int error = um_reserve((void **)&walk->path, &walk->path_capacity, size + name.size + 2, 1);
    if (error != 0)
        return error;
    if (name.size != 0)
        memcpy(walk->path + size, name.data, name.size);
    walk->path_size = size + name.size;
    walk->path[walk->path_size] = '\0';
    return 0;
}

/* ---- directories ------------------------------------------------------------------------------------ */

static void pop(struct um_search_walk *walk)
{
    struct frame *frame = &walk->frames[--walk->n_frames];
    for (; frame->at < frame->n; frame->at++) /* listed, and not taken */
        um_source_forget(&walk->source, frame->entries[frame->at].attr.node);
    um_source_list_close(&frame->list);
    free(frame->entries);
    if (frame->counts)
        um_source_forget(&walk->source, frame->node);
}

/* Enter the directory that the path names. */
static int push(struct um_search_walk *walk, uint64_t node, bool counts)
{
    int error = um_reserve((void **)&walk->frames, &walk->frames_capacity, walk->n_frames + 1,
                           sizeof *walk->frames);
    if (error != 0)
        return error;
    if (walk->path_size == 0 || walk->path[walk->path_size - 1] != '/')
        error = put_name(walk, walk->path_size, UM_SLICE_LITERAL("/"));
    if (error != 0)
        return error;
    struct frame *frame = &walk->frames[walk->n_frames];
    *frame = (struct frame){.node = node, .counts = counts, .path_size = walk->path_size};
    frame->entries = calloc(LISTED, sizeof *frame->entries);
    if (frame->entries == NULL)
        return -ENOMEM;
    error = um_source_list_open(&walk->source, node, &frame->list);
    if (error != 0) {
        free(frame->entries);
        return error;
    }
    walk->n_frames++;
    return 0;
}

/* Return the next entry of a directory: 1, 0 at the end, or an errno. */
static int next_entry(struct frame *frame, struct um_tree_entry *entry)
{
    if (frame->at == frame->n) {
        frame->at = frame->n = 0;
        int n = um_source_list_next(&frame->list, frame->cookie, frame->entries, LISTED);
        if (n <= 0)
            return n;
        frame->n = n;
    }
    *entry = frame->entries[frame->at++];
    frame->cookie = entry->next;
    return 1;
}

/* Take a directory that could not be read, which ends nothing. Its path has `size` bytes. */
static int take_failure(const struct um_search_walk *walk, size_t size, int failure,
                        struct um_search_batch *batch)
{
    if (failure == -ENOMEM)
        return failure;
    if (size > 1 && walk->path[size - 1] == '/')
        size--;
    return um_batch_add_failure(batch, um_slice_of(walk->path, size), failure);
}

/* Take an entry of a directory. What it owes is the batch's, the new frame's, or paid here. */
static int take_entry(struct um_search_walk *walk, const struct frame *frame,
                      const struct um_tree_entry *entry, struct um_search_batch *batch)
{
    bool counts = walk->source.upper != NULL, is_directory = S_ISDIR(entry->attr.mode);
    size_t size = frame->path_size;
    int error = put_name(walk, size, um_slice_of(entry->name, entry->name_size));
    const char *name = (const char *)walk->path + size;
    if (error == 0 && is_directory && !is_left_out(&walk->directories, name, false)) {
        error = push(walk, entry->attr.node, counts);
        counts &= error != 0;
        if (error != 0)
            error = take_failure(walk, size + entry->name_size, error, batch);
    } else if (error == 0 && S_ISREG(entry->attr.mode) && !is_left_out(&walk->files, name, false)) {
        error = um_batch_add(batch, &entry->attr, um_slice_of(walk->path, walk->path_size), counts);
        counts &= error != 0;
    }
    if (counts)
        um_source_forget(&walk->source, entry->attr.node);
    return error;
}

/* Take what the command line names. */
static int take_start(struct um_search_walk *walk, struct um_search_batch *batch)
{
    if (walk->left_out)
        return 0;
    if (S_ISDIR(walk->start.mode)) {
        int error = push(walk, walk->start.node, false);
        return error ? take_failure(walk, walk->path_size, error, batch) : 0;
    }
    if (!S_ISREG(walk->start.mode))
        return 0;
    return um_batch_add(batch, &walk->start, um_slice_of(walk->path, walk->path_size), false);
}

int um_search_walk_next(struct um_search_walk *walk, struct um_search_batch **out)
{
    struct um_search_batch *batch = NULL;
    struct um_tree_entry entry;
    int error = um_batch_open(&walk->source, walk->prefix, &batch);
    if (error == 0 && !walk->began)
        error = take_start(walk, batch);
    walk->began = true;
    while (error == 0 && walk->n_frames != 0 && !um_batch_is_full(batch)) {
        struct frame *frame = &walk->frames[walk->n_frames - 1];
        int found = next_entry(frame, &entry);
        if (found > 0)
            error = take_entry(walk, frame, &entry, batch);
        else if (found < 0)
            error = take_failure(walk, frame->path_size, found, batch);
        if (found <= 0)
            pop(walk);
    }
    if (error != 0 || batch->n == 0) {
        um_search_batch_close(batch);
        return error;
    }
    *out = batch;
    return 1;
}

/* ---- opening ------------------------------------------------------------------------------------- */

static int copy_start(const struct um_search_start *start, struct um_search_walk *walk)
{
    size_t size = start->path_size;
    uint8_t *prefix = malloc(start->prefix_size + 1);
    if (prefix == NULL)
        return -ENOMEM;
    if (start->prefix_size != 0)
        memcpy(prefix, start->prefix, start->prefix_size);
    walk->prefix = um_slice_of(prefix, start->prefix_size);
    walk->start = start->attr;
    while (S_ISDIR(start->attr.mode) && size > 1 && start->path[size - 1] == '/')
        size--;
    int error = put_name(walk, 0, um_slice_of(start->path, start->path_size));
    if (error == 0)
        error = copy_names(start->files, start->n_files, &walk->files);
    if (error == 0)
        error = copy_names(start->directories, start->n_directories, &walk->directories);
    if (error != 0)
        return error;
    walk->left_out = is_left_out(S_ISDIR(start->attr.mode) ? &walk->directories : &walk->files,
                                 (const char *)walk->path, true);
    return put_name(walk, 0, um_slice_of(start->path, size));
}

int um_search_walk_open(const struct um_search_source *source, const struct um_search_start *start,
                        struct um_search_walk **out)
{
    struct um_search_walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL)
        return -ENOMEM;
    walk->source = *source;
    int error = copy_start(start, walk);
    if (error != 0) {
        um_search_walk_close(walk);
        return error;
    }
    *out = walk;
    return 0;
}

void um_search_walk_close(struct um_search_walk *walk)
{
    if (walk == NULL)
        return;
    while (walk->n_frames != 0)
        pop(walk);
    free((void *)walk->prefix.data);
    free(walk->path);
    free_names(&walk->files);
    free_names(&walk->directories);
    free(walk->frames);
    free(walk);
}
