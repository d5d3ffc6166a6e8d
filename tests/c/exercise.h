/*
 * exercise.h - ask a tree everything, and hold its answers against one another.
 *
 * Purpose: what the fuzzers of index and tree do with a tree, whatever it was made of. Answers may
 * be errors (the index may be damaged); what must not happen is a crash, or that lookup and list
 * disagree.
 */
#ifndef UM_TEST_EXERCISE_H
#define UM_TEST_EXERCISE_H

#include <sys/stat.h>

#include "layers.h"
#include "tree/summary.h"
#include "tree/unstacked.h"

#define EXERCISE_ENTRIES 2000

/* Step through the runs of a file: they go on. */
static inline void exercise_data(struct um_tree *tree, uint64_t node)
{
    uint64_t from = 0, logical, length, stored;
    for (int i = 0; i < 100; i++) {
        if (um_tree_next_data(tree, node, -1, from, &logical, &length, &stored) != 1)
            break;
        if (logical < from || length == 0)
            abort();
        from = logical + length;
    }
}

static inline void exercise_node(struct um_tree *tree, uint64_t node)
{
    char buffer[300];
    const char *target;
    size_t size;
    uint32_t layer;
    uint64_t offset, length;
    um_tree_read(tree, node, 0, buffer, sizeof buffer, 0);
    um_tree_read(tree, node, UINT64_MAX - 5, buffer, sizeof buffer, UM_READ_NOWAIT);
    um_tree_readlink(tree, node, &target, &size);
    um_tree_extent(tree, node, &layer, &offset, &length);
    um_tree_listxattr(tree, node, buffer, sizeof buffer);
    um_tree_getxattr(tree, node, "user.a", 6, buffer, sizeof buffer);
    exercise_data(tree, node);
}

/* All names of a file lead to it, and are as many as its link count says; of a live directory that is the
 * only layer, more may be elsewhere. */
static inline void exercise_names(struct um_tree *tree, const struct um_attr *file)
{
    struct um_tree_name *names = NULL;
    struct um_attr attr;
    size_t n = 0;
    bool elsewhere = um_tree_is_live(tree) && um_tree_layers(tree) == 1;
    if (um_tree_names(tree, file->node, &names, &n) != 0 || n > file->nlink ||
        (n < file->nlink && !elsewhere))
        abort();
    for (size_t i = 0; i < n; i++) {
        if (um_tree_lookup(tree, names[i].directory, names[i].name, names[i].name_size, &attr) !=
                0 ||
            attr.node != file->node)
            abort();
    }
    um_free(names);
}

/* A directory is found again by its name. */
static inline void exercise_place(struct um_tree *tree, uint64_t directory)
{
    uint64_t parent;
    const char *name;
    size_t name_size;
    struct um_tree_entry entry;
    if (um_tree_name(tree, directory, &parent, &name, &name_size) != 0)
        abort();
    if (um_tree_find(tree, parent, name, name_size, &entry) != 0 || entry.attr.node != directory)
        abort();
}

static inline void exercise_entry(struct um_tree *tree, uint64_t directory,
                                  const struct um_tree_entry *entry)
{
    struct um_attr attr;
    if (um_tree_lookup(tree, directory, entry->name, entry->name_size, &attr) != 0)
        abort(); /* what is listed is found */
    if (memcmp(&attr, &entry->attr, sizeof attr) != 0)
        abort(); /* and is the same */
    if (um_tree_getattr(tree, attr.node, &attr) != 0 || attr.node != entry->attr.node)
        abort();
    exercise_node(tree, attr.node);
}

/* Depth first over at most EXERCISE_ENTRIES names; `well_formed`: no answer may be an error. */
static inline void exercise_directory(struct um_tree *tree, uint64_t directory, unsigned *left,
                                      bool well_formed)
{
    struct um_tree_entry entry;
    uint64_t cookie = 0;
    char last[256];
    size_t last_size = 0;
    int more;
    while ((more = um_tree_list(tree, directory, cookie, &entry, 1)) == 1 && *left != 0) {
        --*left;
        if (well_formed) {
            exercise_entry(tree, directory, &entry);
            if (cookie != 0 && um_slice_compare(um_slice_of(last, last_size),
                                                um_slice_of(entry.name, entry.name_size)) >= 0)
                abort(); /* sorted, each name once */
        }
        exercise_node(tree, entry.attr.node);
        if (well_formed && !S_ISDIR(entry.attr.mode))
            exercise_names(tree, &entry.attr);
        else if (well_formed)
            exercise_place(tree, entry.attr.node);
        last_size = entry.name_size;
        memcpy(last, entry.name, last_size);
        cookie = entry.next;
        if (S_ISDIR(entry.attr.mode))
            exercise_directory(tree, entry.attr.node, left, well_formed);
    }
    if (more < 0 && well_formed)
        abort();
}

/* *counts become what the layer did; true where all of it was told. */
static inline bool exercise_changes(struct um_tree *tree, uint32_t layer,
                                    struct um_layer_summary *counts)
{
    int more = 1;
    struct um_tree_walk *walk;
    const char *path;
    size_t path_size;
    char change;
    uint32_t mode;
    uint64_t size, cursor = 0;
    char *name, *target;
    size_t name_size, target_size;
    if (um_tree_walk_open(tree, layer, &walk) == 0) {
        for (unsigned i = 0; i < EXERCISE_ENTRIES && more == 1; i++) {
            more = um_tree_walk_next(walk, &path, &path_size, &change, &mode, &size);
            counts->added += more == 1 && change == 'A';
            counts->changed += more == 1 && change == 'C';
            counts->deleted += more == 1 && change == 'D';
        }
        um_tree_walk_close(walk);
    }
    for (unsigned i = 0; i < EXERCISE_ENTRIES; i++) {
        if (um_tree_broken_link(tree, layer, &cursor, &name, &name_size, &target, &target_size) !=
            1)
            break;
        um_free(name);
        um_free(target);
    }
    return more == 0;
}

/* The bytes of all listed paths are those of all layers; a listing changes no count. */
static inline void exercise_listing(struct um_summary *summary, uint32_t n_layers, bool well_formed)
{
    struct um_layer_summary before[STACK_MAX], after[STACK_MAX];
    struct um_path_summary paths, again;
    struct um_path_floor floor = {0};
    struct um_path_versions found;
    uint64_t shown = 0, wasted = 0, all_wasted = 0;
    int more;
    um_summary_get(summary, before, &paths);
    while ((more = um_summary_list(summary, &floor, &found)) > 0) {
        if (more != 1)
            continue;
        shown += found.shown;
        wasted += found.wasted;
        if (found.n == 0 || found.path_size == 0)
            abort();
        for (size_t i = 0; i < found.n; i++)
            if (found.versions[i].layer >= n_layers ||
                (well_formed && i != 0 && found.versions[i].layer <= found.versions[i - 1].layer))
                abort();
    }
    um_summary_get(summary, after, &again);
    for (uint32_t i = 0; i < n_layers; i++) {
        all_wasted += before[i].wasted;
        if (before[i].added != after[i].added || before[i].wasted != after[i].wasted)
            abort();
    }
    if (well_formed && (more != 0 || wasted != all_wasted || shown + wasted != paths.stored ||
                        again.stored != paths.stored))
        abort();
}

/* What all layers did, told in one pass, is what each of them tells. */
static inline void exercise_summary(const struct stack *stack,
                                    const struct um_layer_summary *counts, const bool *complete,
                                    bool well_formed)
{
    struct um_summary *summary;
    struct um_layer_summary layers[STACK_MAX];
    struct um_path_summary paths;
    int more;
    if (um_summary_open(stack->tree, &summary) != 0) {
        if (well_formed)
            abort();
        return;
    }
    do
        more = um_summary_step(summary);
    while (more == 1);
    um_summary_get(summary, layers, &paths);
    if (more == 0)
        exercise_listing(summary, stack->n, well_formed);
    um_summary_close(summary);
    if (well_formed && (more != 0 || paths.least > paths.stored))
        abort();
    for (uint32_t i = 0; well_formed && i < stack->n; i++) {
        if (complete[i] &&
            (layers[i].added != counts[i].added || layers[i].changed != counts[i].changed ||
             layers[i].deleted != counts[i].deleted || layers[i].wasted > layers[i].bytes))
            abort();
    }
}

static inline void exercise_layer_directory(struct um_unstacked *trees, uint64_t directory,
                                            unsigned *left, bool well_formed)
{
    struct um_tree_entry entry;
    struct um_attr attr;
    uint64_t cookie = 0, parent;
    const char *target;
    char buffer[300];
    size_t size;
    int more;
    while ((more = um_unstacked_list(trees, directory, cookie, &entry, 1)) == 1 && *left != 0) {
        --*left;
        cookie = entry.next;
        int error = um_unstacked_lookup(trees, directory, entry.name, entry.name_size, &attr);
        if (well_formed && (error != 0 || memcmp(&attr, &entry.attr, sizeof attr) != 0))
            abort();
        um_unstacked_read(trees, entry.attr.node, 0, buffer, sizeof buffer, 0);
        um_unstacked_readlink(trees, entry.attr.node, &target, &size);
        um_unstacked_listxattr(trees, entry.attr.node, buffer, sizeof buffer);
        um_unstacked_getxattr(trees, entry.attr.node, "user.a", 6, buffer, sizeof buffer);
        if (!S_ISDIR(entry.attr.mode))
            continue;
        error = um_unstacked_parent(trees, entry.attr.node, &parent);
        if (well_formed && (error != 0 || parent != directory))
            abort();
        exercise_layer_directory(trees, entry.attr.node, left, well_formed);
    }
    if (more < 0 && well_formed)
        abort();
}

static inline void exercise_layer_trees(const struct stack *stack, bool well_formed)
{
    unsigned left = EXERCISE_ENTRIES;
    struct um_unstacked *trees;
    struct um_attr attr;
    uint32_t marks;
    if (um_unstacked_open(stack->tree, &trees) != 0)
        abort(); /* nothing is read for that */
    exercise_layer_directory(trees, UM_ROOT_NODE, &left, well_formed);
    for (uint64_t node = 0; node < 100; node++) {
        um_unstacked_getattr(trees, node, &attr);
        um_unstacked_lookup(trees, node, "a", 1, &attr);
        um_unstacked_marks(trees, node, &marks);
    }
    um_unstacked_close(trees);
}

static inline void exercise_tree(struct stack *stack, bool well_formed)
{
    unsigned left = EXERCISE_ENTRIES;
    struct um_attr attr;
    exercise_directory(stack->tree, UM_ROOT_NODE, &left, well_formed);
    for (uint64_t node = 0; node < 40; node++) {
        um_tree_getattr(stack->tree, node, &attr);
        um_tree_lookup(stack->tree, node, "a", 1, &attr);
        exercise_node(stack->tree, node);
    }
    struct um_layer_summary counts[STACK_MAX] = {{0}};
    bool complete[STACK_MAX];
    for (uint32_t layer = 0; layer < stack->n; layer++)
        complete[layer] = exercise_changes(stack->tree, layer, &counts[layer]);
    exercise_summary(stack, counts, complete, well_formed);
    exercise_layer_trees(stack, well_formed);
}

#endif
