#include <dirent.h>

#include "tree/state.h"

/* These functions find what a layer did, by comparing its own names with the tree of the layers
 * below it. */

/* A name to report: the layer's own (dirent), or one below that the directory hides. */
struct item {
    struct um_slice name;
    uint32_t dirent; /* UM_INDEX_NONE: the layer does not have the name itself */
};

struct frame {
    uint32_t directory;   /* of the layer */
    struct um_view
        below; /* the same directory in the layers below; without parts where they have none */
    bool hides;           /* it, or a directory that it is in, is opaque or replaced */
    struct item *items;
    size_t n, at, capacity;
    size_t path_size; /* of the directory's own path */
};

struct um_tree_walk {
    struct um_tree *tree;
    uint32_t layer;
    struct frame *frames;
    size_t n_frames, frames_capacity;
    char *path;
    size_t path_capacity;
};

/* Return whether the view shows `name`: 1, 0 or an errno. */
static int exists(struct um_tree *tree, const struct um_view *view, struct um_slice name,
                  struct um_hit *hit)
{
    struct um_part part;
    struct um_inode inode;
    int error = um_view_find(tree, view, name, hit);
    if (error == 0 && hit->child.type == DT_UNKNOWN)
        error = um_tree_hit_inode(tree, hit, &part, &inode);
    return error == 0 ? 1 : error == -ENOENT ? 0 : error;
}

static int add_item(struct frame *frame, struct um_slice name, uint32_t dirent)
{
    int error =
        um_reserve((void **)&frame->items, &frame->capacity, frame->n + 1, sizeof *frame->items);
    if (error == 0)
        frame->items[frame->n++] = (struct item){name, dirent};
    return error;
}

static int add_own_items(const struct um_layer *layer, struct frame *frame)
{
    struct um_children children;
    int error = um_layer_children(layer, frame->directory, &children);
    for (uint32_t i = 0; error == 0 && i < children.n; i++) {
        struct um_child child;
        error = um_layer_child(layer, &children, i, &child);
        if (error == 0)
            error = add_item(frame, child.name, child.dirent);
    }
    return error;
}

static int compare_items(const void *a, const void *b)
{
    const struct item *left = (const struct item *)a, *right = (const struct item *)b;
    int order = um_slice_compare(left->name, right->name);
    /* UM_INDEX_NONE is the largest number: the layer's own name comes first. */
    return order ? order : (left->dirent > right->dirent) - (left->dirent < right->dirent);
}

/* Add the names below that a hiding directory removes to its own. */
static int add_hidden_items(const struct um_tree *tree, struct frame *frame)
{
    struct um_merged *merged;
    int error = um_view_merge(tree, &frame->below, false, &merged);
    if (error != 0)
        return error;
    for (uint32_t i = 0; error == 0 && i < merged->n; i++) {
        struct um_hit hit;
        error = um_view_merged_hit(tree, &frame->below, &merged->names[i], &hit);
        if (error == 0)
            error = add_item(frame, hit.child.name, UM_INDEX_NONE);
    }
    free(merged);
    if (error != 0 || frame->n == 0)
        return error;
    qsort(frame->items, frame->n, sizeof *frame->items, compare_items);
    size_t kept = 0;
    for (size_t i = 0; i < frame->n; i++) {
        if (kept == 0 || !um_slice_equal(frame->items[kept - 1].name, frame->items[i].name))
            frame->items[kept++] = frame->items[i];
    }
    frame->n = kept;
    return 0;
}

static void frame_close(struct frame *frame)
{
    um_view_close(&frame->below);
    free(frame->items);
}

/* Push a directory of the layer. `frame` is taken over, even on failure. */
static int push(struct um_tree_walk *walk, struct frame *frame)
{
    int error = add_own_items(&walk->tree->layers[walk->layer], frame);
    if (error == 0 && frame->hides && frame->below.n != 0)
        error = add_hidden_items(walk->tree, frame);
    if (error == 0)
        error = um_reserve((void **)&walk->frames, &walk->frames_capacity, walk->n_frames + 1,
                           sizeof *walk->frames);
    if (error == 0)
        walk->frames[walk->n_frames++] = *frame;
    else
        frame_close(frame);
    return error;
}

static int push_root(struct um_tree_walk *walk)
{
    uint32_t flags;
    struct frame frame = {0};
    int error = um_layer_flags(&walk->tree->layers[walk->layer], 0, &flags);
    if (error == 0)
        error = um_view_open(walk->tree, &frame.below);
    if (error == 0)
        error = um_view_root(walk->tree, walk->layer, &frame.below);
    if (error != 0) {
        frame_close(&frame);
        return error;
    }
    frame.hides = flags & UM_INODE_OPAQUE;
    return push(walk, &frame);
}

/* Descend into a directory of the layer; `hit` is the directory below it, NULL where there is
 * none. */
static int push_child(struct um_tree_walk *walk, const struct frame *parent, uint32_t directory,
                      uint32_t flags, const struct um_hit *hit, size_t path_size)
{
    struct frame frame = {.directory = directory, .path_size = path_size};
    frame.hides = parent->hides || (flags & (UM_INODE_OPAQUE | UM_INODE_REPLACES));
    int error = um_view_open(walk->tree, &frame.below);
    if (error == 0 && hit != NULL && hit->child.type == DT_DIR)
        error = um_view_enter(walk->tree, &parent->below, hit, &frame.below);
    um_view_shrink(&frame.below); /* a walk may be thousands of directories deep */
    if (error != 0) {
        frame_close(&frame);
        return error;
    }
    return push(walk, &frame);
}

int um_tree_walk_open(struct um_tree *tree, uint32_t layer, struct um_tree_walk **out)
{
    if (layer >= tree->n_layers)
        return -EINVAL;
    struct um_tree_walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL)
        return -ENOMEM;
    walk->tree = tree;
    walk->layer = layer;
    int error = push_root(walk);
    if (error != 0) {
        um_tree_walk_close(walk);
        return error;
    }
    *out = walk;
    return 0;
}

/* Join the item's path to that of its directory. */
static int join_path(struct um_tree_walk *walk, const struct frame *frame, const struct item *item,
                     size_t *size)
{
    size_t at = frame->path_size;
    int error = um_reserve((void **)&walk->path, &walk->path_capacity, at + item->name.size + 1, 1);
    if (error != 0)
        return error;
    if (at != 0)
        walk->path[at++] = '/';
    memcpy(walk->path + at, item->name.data, item->name.size);
    *size = at + item->name.size;
    return 0;
}

/* Return whether a directory occurs only in paths of other entries, and so changes nothing of the
 * one below. */
static bool is_mention(const struct um_inode *inode)
{
    return (inode->flags & (UM_INODE_IMPLIED | UM_INODE_REPLACES)) == UM_INODE_IMPLIED;
}

/* Decide what the layer's own name does. *change is 0 where there is nothing to report. */
static int judge(struct um_tree_walk *walk, struct frame *frame, const struct item *item,
                 size_t path_size, char *change, uint32_t *mode, uint64_t *size)
{
    struct um_tree *tree = walk->tree;
    const struct um_layer *layer = &tree->layers[walk->layer];
    struct um_hit below = {0}, own = {.directory = {walk->layer, frame->directory}};
    struct um_inode inode = {0};
    struct um_part part;
    int was = exists(tree, &frame->below, item->name, &below);
    if (was < 0)
        return was;
    *change = was ? 'D' : 0;
    *mode = 0;
    *size = 0;
    if (item->dirent == UM_INDEX_NONE)
        return 0;
    int error = um_layer_dirent(layer, item->dirent, &own.child);
    if (error == 0)
        error = um_layer_resolve(layer, frame->directory, &own.child);
    if (error != 0 || own.child.type == DT_WHT)
        return error == -ENOENT ? 0 : error;
    if (own.child.type == DT_DIR)
        error = um_layer_child_inode(layer, frame->directory, &own.child, &inode);
    else
        error = um_tree_hit_inode(tree, &own, &part, &inode);
    if (error != 0)
        return error == -ENOENT ? 0 : error; /* a link to nowhere deletes the name below */
    *change = is_mention(&inode) && was && below.child.type == DT_DIR ? 0 : was ? 'C' : 'A';
    *mode = inode.mode;
    *size = inode.size;
    if (own.child.type != DT_DIR)
        return 0;
    return push_child(walk, frame, own.child.inode, inode.flags, was ? &below : NULL, path_size);
}

int um_tree_walk_next(struct um_tree_walk *walk, const char **path, size_t *path_size, char *change,
                      uint32_t *mode, uint64_t *size)
{
    while (walk->n_frames != 0) {
        struct frame *frame = &walk->frames[walk->n_frames - 1];
        if (frame->at == frame->n) {
            frame_close(frame);
            walk->n_frames--;
            continue;
        }
        struct item item = frame->items[frame->at++];
        int error = join_path(walk, frame, &item, path_size);
        if (error == 0)
            error = judge(walk, frame, &item, *path_size, change, mode, size);
        if (error != 0)
            return error;
        *path = walk->path;
        if (*change != 0)
            return 1;
    }
    return 0;
}

void um_tree_walk_close(struct um_tree_walk *walk)
{
    if (walk == NULL)
        return;
    while (walk->n_frames != 0)
        frame_close(&walk->frames[--walk->n_frames]);
    free(walk->frames);
    free(walk->path);
    free(walk);
}

int um_tree_broken_link(struct um_tree *tree, uint32_t layer, uint64_t *cursor, char **name,
                        size_t *name_size, char **target, size_t *target_size)
{
    struct um_index_info info;
    if (layer >= tree->n_layers)
        return -EINVAL;
    if (tree->layers[layer].index == NULL)
        return 0;
    um_index_get_info(tree->layers[layer].index, &info);
    while (*cursor < info.externals) {
        struct um_index_link link;
        struct um_inode inode;
        struct um_part part;
        struct um_hit hit = {0};
        int error = um_index_external(tree->layers[layer].index, (uint32_t)(*cursor)++, &link);
        if (error == 0)
            error = um_layer_dirent(&tree->layers[layer], link.dirent, &hit.child);
        hit.directory = (struct um_part){layer, link.parent};
        if (error == 0)
            error = um_tree_hit_inode(tree, &hit, &part, &inode);
        if (error == 0)
            continue;
        if (error == -ENOENT)
            error = um_layer_inode(&tree->layers[layer], link.inode, &inode);
        if (error == 0 && !(inode.flags & UM_INODE_EXTERNAL))
            error = -EBADMSG;
        if (error == 0)
            error =
                um_tree_layer_path(&tree->layers[layer], link.parent, link.dirent, name, name_size);
        if (error != 0)
            return error;
        *target_size = inode.target.size;
        *target = malloc(inode.target.size + 1);
        if (*target == NULL) {
            free(*name);
            return -ENOMEM;
        }
        memcpy(*target, inode.target.data, inode.target.size);
        return 1;
    }
    return 0;
}
