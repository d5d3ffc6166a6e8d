#include "tree/state.h"

struct um_directory *um_tree_directory(struct um_tree *tree, uint64_t node)
{
    pthread_rwlock_rdlock(&tree->lock);
    const struct um_directory_entry *entry = um_table_find(&tree->directories, sizeof *entry, node);
    struct um_directory *directory = entry ? entry->directory : NULL;
    pthread_rwlock_unlock(&tree->lock);
    return directory;
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

void um_tree_free_directory(struct um_directory *directory)
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

/* Return the record of a directory, making it where there is none. Two threads may make it at
 * once: the second one then finds that of the first. */
int um_tree_keep_directory(struct um_tree *tree, uint64_t node, uint64_t parent,
                           const struct um_view *view, struct um_directory **out)
{
    bool is_new = false;
    *out = um_tree_directory(tree, node);
    if (*out != NULL)
        return 0;
    struct um_directory *made = directory_new(node, parent, view);
    if (made == NULL)
        return -ENOMEM;
    pthread_rwlock_wrlock(&tree->lock);
    struct um_directory_entry *entry;
    int error = um_table_reserve(&tree->directories, sizeof *entry, 1);
    if (error == 0) {
        entry = um_table_add(&tree->directories, sizeof *entry, node);
        is_new = entry->directory == NULL;
        if (is_new)
            entry->directory = um_steal(&made);
        *out = entry->directory;
    }
    pthread_rwlock_unlock(&tree->lock);
    free(made);
    return is_new && tree->n_live != 0 ? um_tree_keep_shown(tree, *out) : error;
}

static uint64_t shared_number(const struct um_tree *tree, uint64_t parent,
                              const struct um_view *view, uint64_t attempt)
{
    struct um_part top = view->parts[0];
    uint64_t hash = um_hash_number(um_hash_number(parent) + um_tree_node(tree, top)) + attempt;
    return tree->bases[tree->n_layers] + hash % UM_SHARED_NUMBERS;
}

static bool is_record_of(const struct um_directory *directory, uint64_t parent,
                         const struct um_view *view)
{
    return directory->parent == parent && directory->view.n == view->n &&
           memcmp(directory->view.parts, view->parts, view->n * sizeof *view->parts) == 0;
}

/* Return the record of a merged directory, under the number of its lowest part. Redirects may let
 * several directories continue with one below. Then the first one that is seen has its number. The
 * others, and everything in them, have numbers that depend on where they are. */
static int keep_merged(struct um_tree *tree, uint64_t parent, const struct um_view *view,
                       struct um_directory **out)
{
    int error = um_tree_keep_directory(tree, um_tree_node(tree, view->parts[view->n - 1]), parent,
                                       view, out);
    if (tree->n_live == 0)
        return error;
    for (uint64_t attempt = 0; error == 0 && !is_record_of(*out, parent, view); attempt++)
        error = um_tree_keep_directory(tree, shared_number(tree, parent, view, attempt), parent,
                                       view, out);
    return error;
}

int um_tree_enter(struct um_tree *tree, const struct um_directory *above, const struct um_hit *hit,
                  struct um_directory **directory)
{
    struct um_view inside;
    int error = um_view_open(tree, &inside);
    if (error == 0)
        error = um_view_enter(tree, &above->view, hit, &inside);
    if (error == 0 && inside.n == 0) /* it was a directory a moment ago: the index is damaged */
        error = tree->layers[hit->directory.layer].live ? -ESTALE : -EBADMSG;
    if (error == 0)
        error = keep_merged(tree, above->node, &inside, directory);
    um_view_close(&inside);
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

/* Return what was kept under a number; 0 for nothing. */
uint64_t um_tree_kept(struct um_tree *tree, uint64_t node)
{
    pthread_rwlock_rdlock(&tree->lock);
    const struct um_kept *kept = um_table_find(&tree->kept, sizeof *kept, node);
    uint64_t value = kept ? kept->value : 0;
    pthread_rwlock_unlock(&tree->lock);
    return value;
}

/* Return the slot of a number, adding it where it is new; NULL without memory. The lock is held
 * for writing. */
static struct um_kept *need_kept(struct um_tree *tree, uint64_t node)
{
    if (um_table_reserve(&tree->kept, sizeof(struct um_kept), 1) != 0)
        return NULL;
    return um_table_add(&tree->kept, sizeof(struct um_kept), node);
}

int um_tree_keep(struct um_tree *tree, uint64_t node, uint64_t value)
{
    pthread_rwlock_wrlock(&tree->lock);
    struct um_kept *slot = need_kept(tree, node);
    if (slot != NULL)
        slot->value = value;
    pthread_rwlock_unlock(&tree->lock);
    return slot ? 0 : -ENOMEM;
}

/* Return whether a part before part `number` was found to be shown by the directory `first`, too. */
static bool was_shared(struct um_tree *tree, const struct um_view *view, uint32_t number,
                       uint64_t first)
{
    for (uint32_t i = 0; i < number; i++) {
        if (um_tree_kept(tree, um_tree_node(tree, view->parts[i])) == first)
            return true;
    }
    return false;
}

static int add_share(struct um_tree *tree, struct um_directory *first,
                     struct um_directory *directory)
{
    struct um_share *share = malloc(sizeof *share);
    if (share == NULL)
        return -ENOMEM;
    pthread_rwlock_wrlock(&tree->lock);
    *share = (struct um_share){directory, atomic_load(&first->shares)};
    atomic_store(&first->shares, share);
    atomic_store(&tree->has_shares, true);
    pthread_rwlock_unlock(&tree->lock);
    return 0;
}

/* Record that a directory shows a part or, where another one shows it already, that it shares the
 * part. */
static int keep_shown_part(struct um_tree *tree, struct um_directory *directory, uint32_t number)
{
    const struct um_view *view = &directory->view;
    uint64_t node = um_tree_node(tree, view->parts[number]), first = directory->node;
    pthread_rwlock_wrlock(&tree->lock);
    struct um_kept *slot = need_kept(tree, node);
    if (slot != NULL && slot->value != 0 && slot->value != UM_HIDDEN)
        first = slot->value;
    else if (slot != NULL)
        slot->value = first;
    pthread_rwlock_unlock(&tree->lock);
    if (slot == NULL)
        return -ENOMEM;
    if (first == directory->node || was_shared(tree, view, number, first))
        return 0;
    return add_share(tree, um_tree_directory(tree, first), directory);
}

int um_tree_keep_shown(struct um_tree *tree, struct um_directory *directory)
{
    int error = 0;
    for (uint32_t i = 0; error == 0 && i < directory->view.n; i++)
        error = keep_shown_part(tree, directory, i);
    return error;
}
