#include "tree/tree.h"

#include "tree/state.h"

#define MAX_LAYERS 4096u /* as in images/config.py */

/* This many descriptors are kept open for all live directories of a tree. */
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
                                  .is_removable = layer->flags & UM_TREE_LAYER_REMOVABLE,
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
    tree->end = tree->bases[tree->n_layers] + (tree->n_live != 0 ? UM_SHARED_NUMBERS : 0);
    if (tree->end == UM_ROOT_NODE) /* without layers there is a root nevertheless */
        tree->end++;
    tree->lasting_end = tree->end;
    for (uint32_t i = tree->n_layers; i-- > 0 && (layers[i].flags & UM_TREE_LAYER_TEMPORARY) != 0;)
        tree->lasting_end = tree->bases[i];
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
        error = um_tree_keep_directory(tree, UM_ROOT_NODE, UM_ROOT_NODE, &view, &root);
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
    int error = tree->layers && tree->bases ? 0 : -ENOMEM;
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
    for (const struct um_directory_entry *entry = NULL;
         (entry = um_table_next(&tree->directories, sizeof *entry, entry)) != NULL;)
        um_tree_free_directory(entry->directory);
    for (uint32_t i = 0; tree->layers != NULL && i < tree->n_layers; i++)
        um_layer_close(&tree->layers[i]);
    um_fd_cache_close(tree->cache);
    um_cross_links_free(atomic_load(&tree->cross_links));
    um_table_clear(&tree->directories, sizeof(struct um_directory_entry));
    um_table_clear(&tree->kept, sizeof(struct um_kept));
    free(tree->layers);
    free(tree->bases);
    pthread_rwlock_destroy(&tree->lock);
    pthread_mutex_destroy(&tree->redirect_lock);
    free(tree);
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
