#include "tree/unstacked.h"

#include <dirent.h>
#include <sys/stat.h>

#include "marks/whiteout.h"
#include "system/xattr_name.h"
#include "tree/state.h"

#define TOP UM_ROOT_NODE
#define NAME_SIZE 8 /* room for the number of a layer as text */

struct um_unstacked {
    struct um_tree *tree;
    char (*names)[NAME_SIZE]; /* of the layers, NUL-terminated */
    uint64_t
        *whiteouts; /* n_layers + 1: the first number of the whiteouts of each layer, and the end */
};

/* The kind of a node. */
enum what { IS_TOP, IS_INODE, IS_WHITEOUT };

struct found {
    enum what what;
    struct um_part part; /* of a whiteout, the layer */
    struct um_inode inode;
};

static uint64_t node_of(const struct um_unstacked *layers, struct um_part part)
{
    return um_tree_node(layers->tree, part) + 1;
}

static int find(struct um_unstacked *layers, uint64_t node, struct found *found)
{
    const struct um_tree *tree = layers->tree;
    *found = (struct found){.what = IS_TOP};
    if (node == TOP)
        return 0;
    if (node >= layers->whiteouts[0] && node < layers->whiteouts[tree->n_layers]) {
        found->what = IS_WHITEOUT;
        found->part.layer = um_tree_layer_at(layers->whiteouts, tree->n_layers, node);
        return 0;
    }
    found->what = IS_INODE;
    int error = node == 0 ? -ESTALE : um_tree_locate(tree, node - 1, &found->part);
    if (error == 0)
        error = um_layer_inode(&tree->layers[found->part.layer], found->part.inode, &found->inode);
    return error ? error : found->inode.flags & UM_INODE_EXTERNAL ? -ESTALE : 0;
}

static int find_directory(struct um_unstacked *layers, uint64_t node, struct found *found)
{
    int error = find(layers, node, found);
    if (error != 0 || found->what == IS_TOP)
        return error;
    return found->what == IS_INODE && S_ISDIR(found->inode.mode) ? 0 : -ENOTDIR;
}

static bool is_opaque(const struct found *found)
{
    return found->what == IS_INODE && S_ISDIR(found->inode.mode) &&
           (found->inode.flags & (UM_INODE_OPAQUE | UM_INODE_REPLACES));
}

/* ---- attributes --------------------------------------------------------------------------------- */

/* Count the names of a file in all layers: those of its own, and the links of the layers above. */
static int count_names(struct um_unstacked *layers, const struct found *found, uint32_t *nlink)
{
    const struct um_cross_links *cross_links = NULL;
    *nlink = found->inode.nlink;
    if (S_ISDIR(found->inode.mode) || !layers->tree->has_externals)
        return 0;
    int error = um_tree_cross_links(layers->tree, &cross_links);
    if (error != 0)
        return error;
    for (size_t at = um_cross_links_to(cross_links, found->part); at < cross_links->n_found; at++) {
        if (!um_part_equal(cross_links->by_target[at]->target, found->part))
            break;
        ++*nlink;
    }
    return 0;
}

static int inode_attr(struct um_unstacked *layers, const struct found *found, struct um_attr *attr)
{
    const struct um_inode *inode = &found->inode;
    const struct um_layer *layer = &layers->tree->layers[found->part.layer];
    int error = 0;
    *attr = (struct um_attr){
        .node = node_of(layers, found->part),
        .mode = inode->mode,
        .uid = inode->uid,
        .gid = inode->gid,
        .major = inode->major,
        .minor = inode->minor,
        .size = S_ISDIR(inode->mode) ? 4096 : inode->size,
        .mtime = inode->mtime,
        .atime = inode->mtime,
        .ctime = inode->mtime,
        .mtime_nsec = inode->mtime_nsec,
        .atime_nsec = inode->mtime_nsec,
        .ctime_nsec = inode->mtime_nsec,
        .layer = found->part.layer,
    };
    if (S_ISREG(inode->mode))
        error = um_layer_blocks(layer, inode, &attr->blocks);
    return error ? error : count_names(layers, found, &attr->nlink);
}

static int found_attr(struct um_unstacked *layers, uint64_t node, const struct found *found,
                      struct um_attr *attr)
{
    if (found->what == IS_INODE)
        return inode_attr(layers, found, attr);
    *attr = (struct um_attr){.node = node, .layer = found->part.layer};
    attr->mode = found->what == IS_TOP ? S_IFDIR | 0755 : S_IFCHR;
    attr->nlink = found->what == IS_TOP ? 2 + layers->tree->n_layers : 1;
    attr->size = found->what == IS_TOP ? 4096 : 0;
    return 0;
}

int um_unstacked_getattr(struct um_unstacked *layers, uint64_t node, struct um_attr *attr)
{
    struct found found;
    int error = find(layers, node, &found);
    return error ? error : found_attr(layers, node, &found, attr);
}

/* Return the attributes of a name as it is in its layer. */
static int child_attr(struct um_unstacked *layers, struct um_part directory,
                      const struct um_child *child, struct um_attr *attr)
{
    struct um_hit hit = {.directory = directory, .child = *child};
    struct found found = {.what = IS_INODE};
    int error = -ENOENT;
    um_tree_count_use(layers->tree);
    if (child->type != DT_WHT)
        error = um_tree_hit_inode(layers->tree, &hit, &found.part, &found.inode);
    if (error == 0)
        return inode_attr(layers, &found, attr);
    if (error != -ENOENT)
        return error;
    found = (struct found){.what = IS_WHITEOUT, .part = directory};
    return found_attr(layers, layers->whiteouts[directory.layer] + child->dirent, &found, attr);
}

/* ---- names --------------------------------------------------------------------------------------- */

static int layer_attr(struct um_unstacked *layers, uint32_t layer, struct um_attr *attr)
{
    return um_unstacked_getattr(layers, node_of(layers, (struct um_part){.layer = layer}), attr);
}

/* Parse the name of a layer: its number, without leading zeros. */
static int find_layer(const struct um_unstacked *layers, const char *name, size_t size,
                      uint32_t *layer)
{
    uint32_t number = 0;
    if (size == 0 || size >= NAME_SIZE)
        return -ENOENT;
    for (size_t i = 0; i < size; i++) {
        if (name[i] < '0' || name[i] > '9')
            return -ENOENT;
        number = number * 10 + (uint32_t)(name[i] - '0');
    }
    *layer = number;
    if (number >= layers->tree->n_layers || strlen(layers->names[number]) != size)
        return -ENOENT;
    return 0;
}

int um_unstacked_lookup(struct um_unstacked *layers, uint64_t directory, const char *name,
                        size_t name_size, struct um_attr *attr)
{
    struct found found;
    struct um_child child;
    uint32_t layer;
    int error = find_directory(layers, directory, &found);
    if (error != 0)
        return error;
    if (name_size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    if (found.what == IS_TOP) {
        error = find_layer(layers, name, name_size, &layer);
        return error ? error : layer_attr(layers, layer, attr);
    }
    error = um_layer_find(&layers->tree->layers[found.part.layer], found.part.inode,
                          um_slice_of(name, name_size), &child);
    return error ? error : child_attr(layers, found.part, &child, attr);
}

int um_unstacked_parent(struct um_unstacked *layers, uint64_t directory, uint64_t *parent)
{
    struct found found;
    int error = find_directory(layers, directory, &found);
    if (error != 0)
        return error;
    *parent = TOP;
    if (found.what == IS_INODE && found.part.inode != 0)
        *parent = node_of(layers, (struct um_part){found.part.layer, found.inode.parent});
    return 0;
}

int um_unstacked_marks(struct um_unstacked *layers, uint64_t node, uint32_t *marks)
{
    struct found found;
    int error = find(layers, node, &found);
    *marks = 0;
    if (error != 0 || found.what != IS_INODE || !S_ISDIR(found.inode.mode))
        return error;
    *marks |= found.inode.flags & UM_INODE_IMPLIED ? UM_UNSTACKED_IMPLIED : 0;
    *marks |= found.inode.flags & UM_INODE_OPAQUE ? UM_UNSTACKED_OPAQUE : 0;
    *marks |= found.inode.flags & UM_INODE_REPLACES ? UM_UNSTACKED_REPLACES : 0;
    return 0;
}

static int entry_at(struct um_unstacked *layers, const struct found *found, uint32_t number,
                    struct um_tree_entry *entry)
{
    struct um_children children = {.n = found->inode.count, .first = found->inode.first};
    struct um_child child;
    if (found->what == IS_TOP) {
        entry->name = layers->names[number];
        entry->name_size = (uint32_t)strlen(layers->names[number]);
        return layer_attr(layers, number, &entry->attr);
    }
    int error = um_layer_child(&layers->tree->layers[found->part.layer], &children, number, &child);
    if (error != 0)
        return error;
    entry->name = (const char *)child.name.data;
    entry->name_size = (uint32_t)child.name.size;
    return child_attr(layers, found->part, &child, &entry->attr);
}

int um_unstacked_list(struct um_unstacked *layers, uint64_t directory, uint64_t cookie,
                      struct um_tree_entry *entries, size_t capacity)
{
    struct found found;
    int n = 0, error = find_directory(layers, directory, &found);
    if (error != 0)
        return error;
    uint64_t all = found.what == IS_TOP ? layers->tree->n_layers : found.inode.count;
    while ((size_t)n < capacity && n < INT32_MAX && cookie < all) {
        error = entry_at(layers, &found, (uint32_t)cookie, &entries[n]);
        if (error != 0)
            return n ? n : error;
        entries[n].reserved = 0;
        entries[n++].next = ++cookie;
    }
    return n;
}

/* ---- files --------------------------------------------------------------------------------------- */

/* Find a file that is an inode of a layer. */
static int find_file(struct um_unstacked *layers, uint64_t node, struct found *found)
{
    int error = find(layers, node, found);
    if (error != 0)
        return error;
    return found->what == IS_INODE && !S_ISDIR(found->inode.mode) ? 0 : -EINVAL;
}

int um_unstacked_readlink(struct um_unstacked *layers, uint64_t node, const char **target,
                          size_t *size)
{
    struct found found;
    int error = find_file(layers, node, &found);
    return error ? error : um_tree_readlink(layers->tree, node - 1, target, size);
}

int64_t um_unstacked_read(struct um_unstacked *layers, uint64_t node, uint64_t offset, void *buffer,
                          size_t size, unsigned flags)
{
    struct found found;
    int error = find_file(layers, node, &found);
    if (error != 0) /* as read(2) of a directory */
        return found.what == IS_WHITEOUT || error != -EINVAL ? error : -EISDIR;
    return um_tree_read(layers->tree, node - 1, offset, buffer, size, flags);
}

/* An overlay of these directories has its marks below user.overlay., so names of users there stay
 * escaped. */
#define SHOWN (UM_OVERLAY_TRUSTED | UM_OVERLAY_RAW_USER)

int64_t um_unstacked_getxattr(struct um_unstacked *layers, uint64_t node, const char *name,
                              size_t name_size, void *value, size_t size)
{
    struct found found;
    struct um_slice wanted = um_slice_of(name, name_size);
    int error = find(layers, node, &found);
    if (error != 0)
        return error;
    if (found.what != IS_INODE)
        return -ENODATA;
    if (is_opaque(&found) && um_slice_equal(wanted, um_whiteout_opaque_xattr()))
        return um_slice_copy_out(UM_SLICE_LITERAL("y"), value, size);
    return um_layer_getxattr(&layers->tree->layers[found.part.layer], found.part.inode,
                             &found.inode, SHOWN, wanted, value, size);
}

int64_t um_unstacked_listxattr(struct um_unstacked *layers, uint64_t node, char *names, size_t size)
{
    struct found found;
    struct um_slice opaque = um_whiteout_opaque_xattr();
    int error = find(layers, node, &found);
    if (error != 0)
        return error;
    if (found.what != IS_INODE)
        return 0;
    const struct um_layer *layer = &layers->tree->layers[found.part.layer];
    int64_t used = um_layer_listxattr(layer, found.part.inode, &found.inode, SHOWN, names, size);
    if (used < 0 || !is_opaque(&found))
        return used;
    size_t all = (size_t)used;
    error = um_xattr_list_append(opaque, names, size, &all);
    return error ? error : (int64_t)all;
}

/* ---- opening ------------------------------------------------------------------------------------ */

static int make_tables(struct um_unstacked *layers)
{
    const struct um_tree *tree = layers->tree;
    layers->names = calloc((size_t)tree->n_layers + 1, sizeof *layers->names);
    layers->whiteouts = calloc((size_t)tree->n_layers + 1, sizeof *layers->whiteouts);
    if (layers->names == NULL || layers->whiteouts == NULL)
        return -ENOMEM;
    layers->whiteouts[0] = tree->bases[tree->n_layers] + 1;
    for (uint32_t i = 0; i < tree->n_layers; i++) {
        struct um_index_info info;
        um_index_get_info(tree->layers[i].index, &info);
        layers->whiteouts[i + 1] = layers->whiteouts[i] + info.dirents;
        snprintf(layers->names[i], NAME_SIZE, "%u", i % 10000000u);
    }
    return 0;
}

int um_unstacked_open(struct um_tree *tree, struct um_unstacked **out)
{
    if (tree->n_live != 0)
        return -EOPNOTSUPP;
    struct um_unstacked *layers = calloc(1, sizeof *layers);
    if (layers == NULL)
        return -ENOMEM;
    layers->tree = tree;
    int error = make_tables(layers);
    if (error != 0) {
        um_unstacked_close(layers);
        return error;
    }
    *out = layers;
    return 0;
}

void um_unstacked_close(struct um_unstacked *layers)
{
    if (layers == NULL)
        return;
    free(layers->names);
    free(layers->whiteouts);
    free(layers);
}
