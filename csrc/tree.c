#include "tree_private.h"

#include <dirent.h>
#include <sys/stat.h>

#include "xattr_name.h"

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
    view->refused = false;
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
        uint32_t flags;
        int error = um_layer_flags(&tree->layers[layer], 0, &flags);
        if (error != 0)
            return error;
        if (!view_add(view, (struct um_part){.layer = layer}, flags, &open))
            break;
    }
    return 0;
}

int um_view_find(const struct um_tree *tree, const struct um_view *view, struct um_slice name,
                 struct um_hit *hit)
{
    if (view->refused)
        return -EIO;
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
                     struct um_part *part, uint32_t *flags)
{
    struct um_child child;
    struct um_inode inode = {0};
    const struct um_layer *layer = &tree->layers[in.layer];
    int error = um_layer_find(layer, in.inode, name, &child);
    if (error == -ENOENT)
        return 0;
    if (error != 0)
        return error;
    if (child.type != DT_DIR)
        return -ENOENT;
    *part = (struct um_part){.layer = in.layer, .inode = child.inode};
    if (layer->live != NULL)
        error = um_layer_flags(layer, child.inode, &inode.flags);
    else
        error = um_layer_child_inode(layer, in.inode, &child, &inode);
    *flags = inode.flags;
    return error ? error : 1;
}

/* Redirects of live directories may lead through directories that have redirects. Each leads into
 * layers below its own, so that this ends; but the work could double with every layer. */
#define MOST_REDIRECTS 4096u

static int enter(const struct um_tree *tree, const struct um_view *view, const struct um_hit *hit,
                 unsigned *redirects, struct um_view *inside);

/* um_view_resolve, counting redirects. */
static int resolve(const struct um_tree *tree, uint32_t n_layers, struct um_slice path,
                   unsigned *redirects, struct um_view views[2], const struct um_view **in,
                   struct um_hit *hit)
{
    struct um_view *view = &views[0];
    int error = um_view_root(tree, n_layers, view);
    while (error == 0) {
        const uint8_t *slash = path.size ? memchr(path.data, '/', path.size) : NULL;
        size_t size = slash ? (size_t)(slash - path.data) : path.size;
        error = um_view_find(tree, view, um_slice_of(path.data, size), hit);
        if (error != 0 || slash == NULL)
            break;
        if (hit->child.type != DT_DIR)
            return -ENOENT;
        struct um_view *inside = view == &views[0] ? &views[1] : &views[0];
        error = enter(tree, view, hit, redirects, inside);
        view = inside;
        path = um_slice_of(slash + 1, path.size - size - 1);
    }
    *in = view;
    return error;
}

int um_view_resolve(const struct um_tree *tree, uint32_t n_layers, struct um_slice path,
                    struct um_view views[2], const struct um_view **in, struct um_hit *hit)
{
    unsigned redirects = 0;
    return resolve(tree, n_layers, path, &redirects, views, in, hit);
}

/* Add the parts of another view, which is of layers below. */
static int add_parts(const struct um_tree *tree, const struct um_view *below,
                     struct um_view *inside, bool *open)
{
    for (uint32_t i = 0; i < below->n; i++) {
        struct um_part part = below->parts[i];
        uint32_t flags;
        int error = um_layer_flags(&tree->layers[part.layer], part.inode, &flags);
        if (error != 0)
            return error;
        if (!view_add(inside, part, flags, open))
            break;
    }
    return 0;
}

/* Go on with the directory that an absolute redirect of a part names, as the layers below show it. */
static int follow_redirect(const struct um_tree *tree, struct um_part part, struct um_slice path,
                           unsigned *redirects, struct um_view *inside, bool *open)
{
    struct um_view views[3] = {0};
    const struct um_view *in = NULL;
    struct um_hit hit;
    int error = ++*redirects > MOST_REDIRECTS ? -ELOOP : 0;
    for (int i = 0; error == 0 && i < 3; i++)
        error = um_view_open(tree, &views[i]);
    if (error == 0)
        error = resolve(tree, part.layer, um_slice_of(path.data + 1, path.size - 1), redirects,
                        views, &in, &hit);
    if (error == 0)
        error = hit.child.type == DT_DIR ? enter(tree, in, &hit, redirects, &views[2]) : -ENOENT;
    if (error == 0)
        error = add_parts(tree, &views[2], inside, open);
    if ((error == -EIO && in != NULL && in->refused) || (error == 0 && views[2].refused)) {
        inside->refused = true; /* it leads into, or through, what nobody knows */
        error = 0;
    }
    for (int i = 0; i < 3; i++)
        um_view_close(&views[i]);
    return error == -ENOENT ? 0 : error; /* nothing is there to go on with */
}

static int enter(const struct um_tree *tree, const struct um_view *view, const struct um_hit *hit,
                 unsigned *redirects, struct um_view *inside)
{
    bool open = true;
    struct um_slice name = hit->child.name;
    view_reset(inside);
    for (uint32_t place = hit->place; place < view->n; place++) {
        struct um_part part = {0};
        struct um_slice redirect;
        uint32_t flags = 0;
        int found = find_part(tree, view->parts[place], name, &part, &flags);
        if (found == 0)
            continue;
        if (found < 0)
            return found == -ENOENT ? 0 : found;
        if (!view_add(inside, part, flags, &open))
            return 0;
        int error =
            um_layer_redirect(&tree->layers[part.layer], part.inode, &redirect, &inside->refused);
        if (error != 0 || inside->refused)
            return error;
        if (redirect.size != 0 && redirect.data[0] == '/')
            return follow_redirect(tree, part, redirect, redirects, inside, &open);
        if (redirect.size != 0)
            name = redirect;
    }
    return 0;
}

int um_view_enter(const struct um_tree *tree, const struct um_view *view, const struct um_hit *hit,
                  struct um_view *inside)
{
    unsigned redirects = 0;
    return enter(tree, view, hit, &redirects, inside);
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
    const struct um_layer *layer = &tree->layers[hit->directory.layer];
    const struct um_outer_links *outer = NULL;
    struct um_child child = hit->child;
    int error = um_layer_resolve(layer, hit->directory.inode, &child);
    if (error != 0)
        return error;
    *part = (struct um_part){.layer = hit->directory.layer, .inode = child.inode};
    if (child.type != DT_UNKNOWN)
        return um_layer_child_inode(layer, hit->directory.inode, &child, inode);
    error = um_tree_outer(tree, &outer);
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

static void directory_free(struct um_directory *directory)
{
    if (directory == NULL)
        return;
    struct um_share *share = atomic_load(&directory->shares);
    while (share != NULL) {
        struct um_share *next = share->next;
        free(share);
        share = next;
    }
    free(atomic_load(&directory->merged));
    free(directory);
}

/* The record of a directory, made where there is none. Two threads may make it at once: the
 * second finds the first one's. */
static int keep_directory(struct um_tree *tree, uint64_t node, uint64_t parent,
                          const struct um_view *view, struct um_directory **out)
{
    bool is_new = false;
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
        is_new = true;
    }
    *out = *slot;
    pthread_rwlock_unlock(&tree->lock);
    free(made);
    return is_new && tree->n_live != 0 ? um_tree_keep_shown(tree, *out) : error;
}

static bool is_record_of(const struct um_directory *directory, uint64_t parent,
                         const struct um_view *view)
{
    return directory->parent == parent && directory->view.n == view->n &&
           memcmp(directory->view.parts, view->parts, view->n * sizeof *view->parts) == 0;
}

/* Numbers of directories whose lowest part belongs to another directory, too: above all layers. */
#define SHARED_NUMBERS (1ull << 40)

static uint64_t shared_number(const struct um_tree *tree, uint64_t parent,
                              const struct um_view *view, uint64_t attempt)
{
    struct um_part top = view->parts[0];
    uint64_t hash = um_hash_node(um_hash_node(parent) + um_tree_node(tree, top)) + attempt;
    return tree->bases[tree->n_layers] + hash % SHARED_NUMBERS;
}

/* The record of a merged directory, under the number of its lowest part. Redirects may let several
 * directories go on with one below: then the first that is seen has its number, and the others, and
 * what is in them, numbers that depend on where they are. */
static int keep_merged(struct um_tree *tree, uint64_t parent, const struct um_view *view,
                       struct um_directory **out)
{
    int error =
        keep_directory(tree, um_tree_node(tree, view->parts[view->n - 1]), parent, view, out);
    if (tree->n_live == 0)
        return error;
    for (uint64_t attempt = 0; error == 0 && !is_record_of(*out, parent, view); attempt++)
        error = keep_directory(tree, shared_number(tree, parent, view, attempt), parent, view, out);
    return error;
}

#define USES_BETWEEN_TRIMS 65536u

void um_tree_count_use(struct um_tree *tree)
{
    unsigned uses = atomic_fetch_add_explicit(&tree->uses, 1, memory_order_relaxed);
    if (uses < USES_BETWEEN_TRIMS)
        return;
    atomic_store_explicit(&tree->uses, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < tree->n_layers; i++) {
        if (tree->layers[i].index != NULL)
            um_index_trim(tree->layers[i].index);
    }
}

/* ---- attributes ------------------------------------------------------------------------------------ */

static void inode_attr(const struct um_layer *layer, const struct um_inode *inode,
                       struct um_attr *attr)
{
    attr->mode = inode->mode;
    attr->uid = inode->uid;
    attr->gid = inode->gid;
    attr->mtime = attr->atime = attr->ctime = inode->mtime;
    attr->mtime_nsec = attr->atime_nsec = attr->ctime_nsec = inode->mtime_nsec;
    if (layer->live == NULL)
        return;
    attr->atime = inode->atime;
    attr->atime_nsec = inode->atime_nsec;
    attr->ctime = inode->ctime;
    attr->ctime_nsec = inode->ctime_nsec;
}

static int directory_attr(struct um_tree *tree, struct um_directory *directory,
                          struct um_attr *attr)
{
    const struct um_view *view = &directory->view;
    *attr = (struct um_attr){.node = directory->node, .mode = S_IFDIR | 0755};
    attr->size = 4096; /* what most file systems show; a directory of a layer has no size */
    attr->layer = view->n ? view->parts[0].layer : 0;
    if (!view->implied) {
        const struct um_layer *layer = &tree->layers[view->metadata.layer];
        struct um_inode inode;
        int error = um_layer_inode(layer, view->metadata.inode, &inode);
        if (error != 0)
            return error;
        inode_attr(layer, &inode, attr);
        attr->layer = view->metadata.layer;
        if (layer->live != NULL) {
            attr->size = inode.size;
            attr->blocks = inode.blocks;
        }
    }
    return um_tree_count_subdirectories(tree, directory, &attr->nlink);
}

static int file_attr(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                     struct um_attr *attr)
{
    const struct um_layer *layer = &tree->layers[part.layer];
    *attr = (struct um_attr){.node = um_tree_node(tree, part), .layer = part.layer};
    inode_attr(layer, inode, attr);
    attr->major = inode->major;
    attr->minor = inode->minor;
    attr->size = inode->size;
    int error = 0;
    if (layer->live != NULL)
        error = um_tree_live_blocks(tree, part, inode, &attr->blocks);
    else if (S_ISREG(inode->mode))
        error = um_layer_blocks(layer, inode, &attr->blocks);
    return error ? error : um_tree_count_links(tree, part, inode, &attr->nlink);
}

int um_tree_enter(struct um_tree *tree, const struct um_directory *above, const struct um_hit *hit,
                  struct um_directory **directory)
{
    struct um_view inside;
    int error = um_view_open(tree, &inside);
    if (error == 0)
        error = um_view_enter(tree, &above->view, hit, &inside);
    if (error == 0 && inside.n == 0) /* it was a directory a moment ago: a damaged index */
        error = tree->layers[hit->directory.layer].live ? -ESTALE : -EBADMSG;
    if (error == 0)
        error = keep_merged(tree, above->node, &inside, directory);
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

int um_tree_locate(const struct um_tree *tree, uint64_t node, struct um_part *part)
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
    part->layer = low;
    return um_layer_seek(&tree->layers[low], node - tree->bases[low], &part->inode);
}

int um_tree_part(const struct um_tree *tree, uint64_t node, struct um_part *part,
                 struct um_inode *inode)
{
    int error = um_tree_locate(tree, node, part);
    if (error == 0)
        error = um_layer_peek(&tree->layers[part->layer], part->inode, inode);
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
    int error = um_tree_part(tree, node, &part, &inode);
    if (error == 0 && tree->layers[part.layer].live != NULL)
        error = um_layer_inode(&tree->layers[part.layer], part.inode, &inode);
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

int um_tree_top(struct um_tree *tree, uint64_t node, uint32_t *layer)
{
    const struct um_directory *directory = um_tree_directory(tree, node);
    if (directory == NULL) {
        struct um_attr attr;
        int error = um_tree_getattr(tree, node, &attr);
        return error ? error : -ENOTDIR;
    }
    *layer = directory->view.n ? directory->view.parts[0].layer : 0;
    return 0;
}

int um_tree_readlink(struct um_tree *tree, uint64_t node, const char **target, size_t *size)
{
    struct um_part part;
    struct um_inode inode;
    struct um_slice text = {0};
    if (um_tree_directory(tree, node) != NULL)
        return -EINVAL;
    int error = um_tree_part(tree, node, &part, &inode);
    if (error != 0)
        return error;
    if (!S_ISLNK(inode.mode))
        return -EINVAL;
    error = um_layer_target(&tree->layers[part.layer], part.inode, &inode, &text);
    *target = (const char *)text.data;
    *size = text.size;
    return error;
}

/* The part and inode whose xattrs show. -ENODATA for an implied directory: it has none. */
static int find_metadata(struct um_tree *tree, uint64_t node, struct um_part *part,
                         struct um_inode *inode)
{
    struct um_directory *directory = um_tree_directory(tree, node);
    if (directory == NULL)
        return um_tree_part(tree, node, part, inode);
    if (directory->view.implied)
        return -ENODATA;
    *part = directory->view.metadata;
    return um_layer_peek(&tree->layers[part->layer], part->inode, inode);
}

int64_t um_tree_getxattr(struct um_tree *tree, uint64_t node, const char *name, size_t name_size,
                         void *value, size_t size)
{
    struct um_part part;
    struct um_inode inode;
    if (um_xattr_is_nameless(name, name_size))
        return -EINVAL;
    int error = find_metadata(tree, node, &part, &inode);
    if (error != 0)
        return error;
    return um_layer_getxattr(&tree->layers[part.layer], part.inode, &inode,
                             um_slice_of(name, name_size), value, size);
}

int64_t um_tree_listxattr(struct um_tree *tree, uint64_t node, char *names, size_t size)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_metadata(tree, node, &part, &inode);
    if (error != 0)
        return error == -ENODATA ? 0 : error;
    return um_layer_listxattr(&tree->layers[part.layer], part.inode, &inode, names, size);
}

int um_tree_open_path(struct um_tree *tree, uint64_t node, int *fd)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_metadata(tree, node, &part, &inode);
    return error ? error : um_layer_open_path(&tree->layers[part.layer], part.inode, fd);
}

bool um_tree_is_live(const struct um_tree *tree)
{
    for (uint32_t i = 0; i < tree->n_layers; i++) {
        if (tree->layers[i].live != NULL)
            return true;
    }
    return false;
}

void um_free(void *memory)
{
    free(memory);
}

/* ---- opening ---------------------------------------------------------------------------------------- */

/* Descriptors that are kept open for all live directories of a tree. */
#define CACHED_DESCRIPTORS 128u

static int open_live(struct um_tree *tree, uint32_t number, const struct um_tree_layer *layer)
{
    struct um_live_setup setup = {.fd = layer->fd,
                                  .shown_fd = layer->shown_fd ? layer->shown_fd : layer->fd,
                                  .tag = number,
                                  .believes = layer->believes,
                                  .hidden_devices = layer->hidden_devices,
                                  .hidden_inodes = layer->hidden_inodes,
                                  .is_private = layer->flags & UM_TREE_LAYER_PRIVATE,
                                  .refusals = &tree->refusals};
    int error = 0;
    if (tree->cache == NULL)
        error = um_fd_cache_open(CACHED_DESCRIPTORS, &tree->cache);
    setup.cache = tree->cache;
    if (error == 0)
        error = um_layer_open_live(&setup, &tree->layers[number]);
    tree->n_live += error == 0;
    return error;
}

static int open_image(struct um_tree *tree, uint32_t number, const struct um_tree_layer *layer)
{
    struct um_index_info info;
    um_index_get_info(layer->index, &info);
    tree->has_externals |= info.externals != 0;
    return um_layer_open(layer->index, layer->fd, layer->offset, layer->length,
                         &tree->layers[number]);
}

static int stack_layers(struct um_tree *tree, const struct um_tree_layer *layers)
{
    tree->bases[0] = UM_ROOT_NODE;
    for (uint32_t i = 0; i < tree->n_layers; i++) {
        int error =
            layers[i].index ? open_image(tree, i, &layers[i]) : open_live(tree, i, &layers[i]);
        if (error != 0)
            return error;
        tree->bases[i + 1] = tree->bases[i] + um_layer_span(&tree->layers[i]);
    }
    tree->end = tree->bases[tree->n_layers] + (tree->n_live != 0 ? SHARED_NUMBERS : 0);
    if (tree->end == UM_ROOT_NODE) /* without layers there still is a root */
        tree->end++;
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
    pthread_mutex_init(&tree->redirect_lock, NULL);
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
    for (size_t i = 0; i < tree->n_slots; i++)
        directory_free(tree->slots[i]);
    for (uint32_t i = 0; tree->layers != NULL && i < tree->n_layers; i++)
        um_layer_close(&tree->layers[i]);
    um_fd_cache_close(tree->cache);
    um_outer_free(atomic_load(&tree->outer));
    free(tree->slots);
    free(tree->kept);
    free(tree->layers);
    free(tree->bases);
    pthread_rwlock_destroy(&tree->lock);
    pthread_mutex_destroy(&tree->redirect_lock);
    free(tree);
}
