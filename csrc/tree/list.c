#include <dirent.h>

#include "tree/state.h"

/* A name of one part, while the parts of a directory are merged. */
struct candidate {
    struct um_slice name;
    uint32_t place, dirent;
    uint8_t type;
};

struct candidates {
    struct candidate *all;
    size_t n, capacity;
};

static int gather_part(const struct um_tree *tree, const struct um_view *view, uint32_t place,
                       struct candidates *c)
{
    struct um_part part = view->parts[place];
    const struct um_layer *layer = &tree->layers[part.layer];
    struct um_children children;
    int error = um_layer_children(layer, part.inode, &children);
    if (error == 0)
        error = um_reserve((void **)&c->all, &c->capacity, c->n + children.n, sizeof *c->all);
    for (uint32_t i = 0; error == 0 && i < children.n; i++) {
        struct um_child child;
        error = um_layer_child(layer, &children, i, &child);
        if (error == 0)
            c->all[c->n++] = (struct candidate){child.name, place, child.dirent, child.type};
    }
    return error;
}

/* Compare by name, then topmost first. */
static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *left = (const struct candidate *)a;
    const struct candidate *right = (const struct candidate *)b;
    int order = um_slice_compare(left->name, right->name);
    return order ? order : (left->place > right->place) - (left->place < right->place);
}

/* Pick the first candidate of each name, which decides. */
static int pick(const struct candidates *c, bool whiteouts, struct um_merged **out)
{
    struct um_merged *merged = malloc(sizeof *merged + c->n * sizeof merged->names[0]);
    if (merged == NULL)
        return -ENOMEM;
    merged->n = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct candidate *at = &c->all[i];
        if (i != 0 && um_slice_equal(at->name, c->all[i - 1].name))
            continue;
        if (whiteouts || at->type != DT_WHT)
            merged->names[merged->n++] = (struct um_merged_name){at->place, at->dirent};
    }
    *out = merged;
    return 0;
}

int um_view_merge(const struct um_tree *tree, const struct um_view *view, bool whiteouts,
                  struct um_merged **out)
{
    struct candidates c = {0};
    int error = view->refused ? -EIO : 0;
    for (uint32_t place = 0; place < view->n && error == 0; place++)
        error = gather_part(tree, view, place, &c);
    if (error == 0 && c.n != 0)
        qsort(c.all, c.n, sizeof *c.all, compare_candidates);
    if (error == 0)
        error = pick(&c, whiteouts, out);
    free(c.all);
    return error;
}

int um_view_merged_hit(const struct um_tree *tree, const struct um_view *view,
                       const struct um_merged_name *name, struct um_hit *hit)
{
    hit->place = name->place;
    hit->directory = view->parts[name->place];
    return um_layer_dirent(&tree->layers[hit->directory.layer], name->dirent, &hit->child);
}
