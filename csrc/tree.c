#include "tree_private.h"

#include <dirent.h>
#include <sys/stat.h>

#define MAX_LAYERS 4096u /* as image.py has it */

/* ---- views: the rule of docs/layers.md --------------------------------------------------------- */

int um_view_open(const struct um_tree *tree, struct um_view *view)
{
    *view = (struct um_view){.implied = true};
    view->parts = malloc(((size_t)tree->n_layers + 1) * sizeof *view->parts);
    return view->parts == NULL ? -ENOMEM : 0;
}

void um_view_close(struct um_view *view)
{
    free(view->parts);
    view->parts = NULL;
}

static void view_reset(struct um_view *view)
{
    view->n = 0;
    view->implied = true;
}

/* Take a directory of the next lower layer into a view that is being put together. `*open` says
 * whether children still merge. False when nothing below matters any more. */
static bool view_add(struct um_view *view, struct um_part part, uint32_t flags, bool *open)
{
    if (*open)
        view->parts[view->n++] = part;
    if (view->implied && !(flags & UM_INODE_IMPLIED)) {
        view->metadata = part;
        view->implied = false;
    }
    if (flags & UM_INODE_OPAQUE)
        *open = false;
    return !(flags & UM_INODE_REPLACES) && (*open || view->implied);
}

int um_view_root(const struct um_tree *tree, uint32_t n_layers, struct um_view *view)
{
    bool open = true;
    view_reset(view);
    for (uint32_t layer = n_layers; layer-- > 0;) {
        struct um_inode inode;
        int error = um_layer_inode(&tree->layers[layer], 0, &inode);
        if (error != 0)
            return error;
        if (!view_add(view, (struct um_part){.layer = layer}, inode.flags, &open))
            break;
    }
    return 0;
}

int um_view_find(const struct um_tree *tree, const struct um_view *view, struct um_slice name,
                 struct um_hit *hit)
{
    for (uint32_t place = 0; place < view->n; place++) {
        struct um_part part = view->parts[place];
        int error = um_layer_find(&tree->layers[part.layer], part.inode, name, &hit->child);
        if (error == -ENOENT)
            continue;
        hit->place = place;
        hit->directory = part;
        if (error == 0 && hit->child.type == DT_WHT)
            return -ENOENT;
        return error;
    }
    return -ENOENT;
}

/* The directory `name` of the part, where it has one: 1; 0 it says nothing; -ENOENT it ends the
 * merge (a whiteout, or something that is no directory). */
static int find_part(const struct um_tree *tree, struct um_part in, struct um_slice name,
                     struct um_part *part, struct um_inode *inode)
{
    struct um_child child;
    const struct um_layer *layer = &tree->layers[in.layer];
    int error = um_layer_find(layer, in.inode, name, &child);
    if (error == -ENOENT)
        return 0;
    if (error != 0)
        return error;
    if (child.type != DT_DIR)
        return -ENOENT;
    *part = (struct um_part){.layer = in.layer, .inode = child.inode};
    error = um_layer_child_inode(layer, in.inode, &child, inode);
    return error ? error : 1;
}

int um_view_enter(const struct um_tree *tree, const struct um_view *view, const struct um_hit *hit,
                  struct um_view *inside)
{
    bool open = true;
    view_reset(inside);
    for (uint32_t place = hit->place; place < view->n; place++) {
        struct um_part part = {0};
        struct um_inode inode = {0};
        int found = find_part(tree, view->parts[place], hit->child.name, &part, &inode);
        if (found == -ENOENT)
            break;
        if (found < 0)
            return found;
        if (found > 0 && !view_add(inside, part, inode.flags, &open))
            break;
    }
    return 0;
}

void um_view_shrink(struct um_view *view)
{
    struct um_part *parts = realloc(view->parts, (view->n + 1) * sizeof *parts);
    if (parts != NULL)
        view->parts = parts;
}

int um_hit_inode(struct um_tree *tree, const struct um_hit *hit, struct um_part *part,
                 struct um_inode *inode)
{
    *part = (struct um_part){.layer = hit->directory.layer, .inode = hit->child.inode};
    if (hit->child.type != DT_UNKNOWN)
        return um_layer_child_inode(&tree->layers[part->layer], hit->directory.inode, &hit->child,
                                    inode);
    const struct um_outer_links *outer = NULL;
    int error = um_tree_outer(tree, &outer);
    if (error != 0)
        return error;
    const struct um_outer_link *link = um_outer_find(outer, *part);
    if (link == NULL)
        return -EBADMSG;
    if (!link->found)
        return -ENOENT;
    *part = link->target;
    return um_layer_inode(&tree->layers[part->layer], part->inode, inode);
}

/* ---- directory records --------------------------------------------------------------------------- */

static struct um_directory **find_slot(const struct um_tree *tree, uint64_t node)
{
    size_t mask = tree->n_slots - 1;
    for (size_t at = um_hash_node(node) & mask;; at = (at + 1) & mask) {
        struct um_directory **slot = &tree->slots[at];
        if (*slot == NULL || (*slot)->node == node)
            return slot;
    }
}

struct um_directory *um_tree_directory(struct um_tree *tree, uint64_t node)
{
    pthread_rwlock_rdlock(&tree->lock);
    struct um_directory *directory = *find_slot(tree, node);
    pthread_rwlock_unlock(&tree->lock);
    return directory;
}

static int grow_slots(struct um_tree *tree)
{
    size_t grown = tree->n_slots ? tree->n_slots * 2 : 256;
    struct um_directory **slots = calloc(grown, sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    struct um_directory **old = tree->slots;
    size_t n_old = tree->n_slots;
    tree->slots = slots;
    tree->n_slots = grown;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i] != NULL)
            *find_slot(tree, old[i]->node) = old[i];
    }
    free(old);
    return 0;
}

static struct um_directory *directory_new(uint64_t node, uint64_t parent,
                                          const struct um_view *view)
{
    size_t parts = view->n * sizeof *view->parts;
    struct um_directory *directory = calloc(1, sizeof *directory + parts);
    if (directory == NULL)
        return NULL;
    directory->node = node;
    directory->parent = parent;
    directory->view = *view;
    directory->view.parts = (struct um_part *)(directory + 1);
    if (parts != 0)
        memcpy(directory->view.parts, view->parts, parts);
    return directory;
}

/* The record of a directory, made where there is none. Two threads may make it at once: the
 * second finds the first one's. */
static int keep_directory(struct um_tree *tree, uint64_t node, uint64_t parent,
                          const struct um_view *view, struct um_directory **out)
{
    *out = um_tree_directory(tree, node);
    if (*out != NULL)
        return 0;
    struct um_directory *made = directory_new(node, parent, view);
    if (made == NULL)
        return -ENOMEM;
    int error = 0;
    pthread_rwlock_wrlock(&tree->lock);
    if ((tree->n_directories + 1) * 2 > tree->n_slots)
        error = grow_slots(tree);
    struct um_directory **slot = find_slot(tree, node);
    if (error == 0 && *slot == NULL) {
        *slot = um_steal(&made);
        tree->n_directories++;
    }
    *out = *slot;
    pthread_rwlock_unlock(&tree->lock);
    free(made);
    return error;
}

#define USES_BETWEEN_TRIMS 65536u

void um_tree_count_use(struct um_tree *tree)
{
    unsigned uses = atomic_fetch_add_explicit(&tree->uses, 1, memory_order_relaxed);
    if (uses < USES_BETWEEN_TRIMS)
        return;
    atomic_store_explicit(&tree->uses, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < tree->n_layers; i++)
        um_index_trim(tree->layers[i].index);
}

/* ---- attributes ------------------------------------------------------------------------------------ */

static void inode_attr(const struct um_inode *inode, struct um_attr *attr)
{
    attr->mode = inode->mode;
    attr->uid = inode->uid;
    attr->gid = inode->gid;
    attr->mtime = inode->mtime;
    attr->mtime_nsec = inode->mtime_nsec;
}

static int directory_attr(struct um_tree *tree, struct um_directory *directory,
                          struct um_attr *attr)
{
    const struct um_view *view = &directory->view;
    *attr = (struct um_attr){.node = directory->node, .mode = S_IFDIR | 0755};
    attr->size = 4096; /* what most file systems show; a directory of a layer has no size */
    attr->layer = view->n ? view->parts[0].layer : 0;
    if (!view->implied) {
        struct um_inode inode;
        int error =
            um_layer_inode(&tree->layers[view->metadata.layer], view->metadata.inode, &inode);
        if (error != 0)
            return error;
        inode_attr(&inode, attr);
        attr->layer = view->metadata.layer;
    }
    return um_tree_count_subdirectories(tree, directory, &attr->nlink);
}

static int file_attr(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                     struct um_attr *attr)
{
    *attr = (struct um_attr){.node = um_tree_node(tree, part), .layer = part.layer};
    inode_attr(inode, attr);
    attr->major = inode->major;
    attr->minor = inode->minor;
    attr->size = inode->size;
    uint64_t bytes = 0;
    int error = 0;
    if (S_ISREG(inode->mode))
        error = um_layer_stored_bytes(&tree->layers[part.layer], inode, &bytes);
    attr->blocks = bytes / 512 + (bytes % 512 != 0);
    return error ? error : um_tree_count_links(tree, part, inode, &attr->nlink);
}

int um_tree_enter(struct um_tree *tree, const struct um_directory *above, const struct um_hit *hit,
                  struct um_directory **directory)
{
    struct um_view inside;
    int error = um_view_open(tree, &inside);
    if (error == 0)
        error = um_view_enter(tree, &above->view, hit, &inside);
    if (error == 0 && inside.n == 0)
        error = -EBADMSG; /* the hit was a directory a moment ago: a damaged index */
    if (error == 0)
        error = keep_directory(tree, um_tree_node(tree, inside.parts[inside.n - 1]), above->node,
                               &inside, directory);
    um_view_close(&inside);
    return error;
}

static int enter_hit(struct um_tree *tree, const struct um_directory *above,
                     const struct um_hit *hit, struct um_attr *attr)
{
    struct um_directory *directory;
    int error = um_tree_enter(tree, above, hit, &directory);
    return error ? error : directory_attr(tree, directory, attr);
}

int um_tree_hit_attr(struct um_tree *tree, const struct um_directory *above,
                     const struct um_hit *hit, struct um_attr *attr)
{
    um_tree_count_use(tree);
    if (hit->child.type == DT_DIR)
        return enter_hit(tree, above, hit, attr);
    struct um_part part;
    struct um_inode inode;
    int error = um_hit_inode(tree, hit, &part, &inode);
    return error ? error : file_attr(tree, part, &inode, attr);
}

/* The layer and inode that a number of a file stands for; -ESTALE where it is no such number. */
static int find_node(const struct um_tree *tree, uint64_t node, struct um_part *part,
                     struct um_inode *inode)
{
    uint32_t low = 0, high = tree->n_layers;
    if (node < UM_ROOT_NODE || node >= tree->bases[tree->n_layers])
        return -ESTALE;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (tree->bases[middle] <= node)
            low = middle;
        else
            high = middle;
    }
    *part = (struct um_part){.layer = low, .inode = (uint32_t)(node - tree->bases[low])};
    int error = um_layer_inode(&tree->layers[low], part->inode, inode);
    if (error != 0)
        return error;
    return S_ISDIR(inode->mode) || (inode->flags & UM_INODE_EXTERNAL) ? -ESTALE : 0;
}

/* ---- the public face -------------------------------------------------------------------------------- */

int um_tree_lookup(struct um_tree *tree, uint64_t node, const char *name, size_t name_size,
                   struct um_attr *attr)
{
    struct um_directory *directory = um_tree_directory(tree, node);
    if (directory == NULL) {
        int error = um_tree_getattr(tree, node, attr);
        return error ? error : -ENOTDIR;
    }
    if (name_size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    struct um_hit hit;
    int error = um_view_find(tree, &directory->view, um_slice_of(name, name_size), &hit);
    return error ? error : um_tree_hit_attr(tree, directory, &hit, attr);
}

int um_tree_getattr(struct um_tree *tree, uint64_t node, struct um_attr *attr)
{
    struct um_directory *directory = um_tree_directory(tree, node);
    if (directory != NULL)
        return directory_attr(tree, directory, attr);
    struct um_part part;
    struct um_inode inode;
    int error = find_node(tree, node, &part, &inode);
    return error ? error : file_attr(tree, part, &inode, attr);
}

int um_tree_parent(struct um_tree *tree, uint64_t node, uint64_t *parent)
{
    const struct um_directory *directory = um_tree_directory(tree, node);
    if (directory == NULL) {
        struct um_attr attr;
        int error = um_tree_getattr(tree, node, &attr);
        return error ? error : -ENOTDIR;
    }
    *parent = directory->parent;
    return 0;
}

int um_tree_readlink(struct um_tree *tree, uint64_t node, const char **target, size_t *size)
{
    struct um_part part;
    struct um_inode inode;
    if (um_tree_directory(tree, node) != NULL)
        return -EINVAL;
    int error = find_node(tree, node, &part, &inode);
    if (error != 0)
        return error;
    if (!S_ISLNK(inode.mode))
        return -EINVAL;
    *target = (const char *)inode.target.data;
    *size = inode.target.size;
    return 0;
}

static int find_file(struct um_tree *tree, uint64_t node, struct um_part *part,
                     struct um_inode *inode)
{
    if (um_tree_directory(tree, node) != NULL)
        return -EISDIR;
    int error = find_node(tree, node, part, inode);
    if (error != 0)
        return error;
    return S_ISREG(inode->mode) ? 0 : -EINVAL;
}

int64_t um_tree_read(struct um_tree *tree, uint64_t node, uint64_t offset, void *buffer,
                     size_t size, unsigned flags)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_file(tree, node, &part, &inode);
    if (error != 0)
        return error;
    unsigned how = flags & UM_READ_NOWAIT ? UM_LAYER_NOWAIT : 0;
    return um_layer_read(&tree->layers[part.layer], &inode, offset, buffer, size, how);
}

int um_tree_extent(struct um_tree *tree, uint64_t node, uint32_t *layer, uint64_t *offset,
                   uint64_t *length)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_file(tree, node, &part, &inode);
    if (error != 0)
        return error;
    if (inode.flags & UM_INODE_SPARSE)
        return -EINVAL;
    *layer = part.layer;
    *offset = inode.stored;
    *length = inode.size;
    return 0;
}

/* The part and inode whose xattrs show. -ENODATA for an implied directory: it has none. */
static int find_metadata(struct um_tree *tree, uint64_t node, struct um_part *part,
                         struct um_inode *inode)
{
    struct um_directory *directory = um_tree_directory(tree, node);
    if (directory == NULL)
        return find_node(tree, node, part, inode);
    if (directory->view.implied)
        return -ENODATA;
    *part = directory->view.metadata;
    return um_layer_inode(&tree->layers[part->layer], part->inode, inode);
}

int64_t um_tree_getxattr(struct um_tree *tree, uint64_t node, const char *name, size_t name_size,
                         void *value, size_t size)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_metadata(tree, node, &part, &inode);
    if (error != 0)
        return error;
    return um_layer_getxattr(&tree->layers[part.layer], &inode, um_slice_of(name, name_size), value,
                             size);
}

int64_t um_tree_listxattr(struct um_tree *tree, uint64_t node, char *names, size_t size)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_metadata(tree, node, &part, &inode);
    if (error != 0)
        return error == -ENODATA ? 0 : error;
    return um_layer_listxattr(&tree->layers[part.layer], &inode, names, size);
}

void um_free(void *memory)
{
    free(memory);
}

/* ---- opening ---------------------------------------------------------------------------------------- */

static int stack_layers(struct um_tree *tree, const struct um_tree_layer *layers)
{
    tree->bases[0] = UM_ROOT_NODE;
    for (uint32_t i = 0; i < tree->n_layers; i++) {
        struct um_index_info info;
        um_index_get_info(layers[i].index, &info);
        tree->has_externals |= info.externals != 0;
        tree->bases[i + 1] = tree->bases[i] + info.inodes;
        int error = um_layer_open(layers[i].index, layers[i].fd, layers[i].offset, layers[i].length,
                                  &tree->layers[i]);
        if (error != 0)
            return error;
    }
    return 0;
}

static int keep_root(struct um_tree *tree)
{
    struct um_view view;
    struct um_directory *root;
    int error = um_view_open(tree, &view);
    if (error == 0)
        error = um_view_root(tree, tree->n_layers, &view);
    if (error == 0)
        error = keep_directory(tree, UM_ROOT_NODE, UM_ROOT_NODE, &view, &root);
    um_view_close(&view);
    return error;
}

int um_tree_open(const struct um_tree_layer *layers, size_t n_layers, struct um_tree **out)
{
    if (n_layers > MAX_LAYERS)
        return -E2BIG;
    struct um_tree *tree = calloc(1, sizeof *tree);
    if (tree == NULL)
        return -ENOMEM;
    pthread_rwlock_init(&tree->lock, NULL);
    tree->n_layers = (uint32_t)n_layers;
    tree->layers = calloc(n_layers + 1, sizeof *tree->layers);
    tree->bases = calloc(n_layers + 1, sizeof *tree->bases);
    int error = tree->layers && tree->bases ? grow_slots(tree) : -ENOMEM;
    if (error == 0)
        error = stack_layers(tree, layers);
    if (error == 0)
        error = keep_root(tree);
    if (error != 0) {
        um_tree_close(tree);
        return error;
    }
    *out = tree;
    return 0;
}

void um_tree_close(struct um_tree *tree)
{
    if (tree == NULL)
        return;
    for (size_t i = 0; i < tree->n_slots; i++) {
        if (tree->slots[i] != NULL)
            free(atomic_load(&tree->slots[i]->merged));
        free(tree->slots[i]);
    }
    um_outer_free(atomic_load(&tree->outer));
    free(tree->slots);
    free(tree->kept);
    free(tree->layers);
    free(tree->bases);
    pthread_rwlock_destroy(&tree->lock);
    free(tree);
}
