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

/* By name, then topmost first. */
static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *left = (const struct candidate *)a;
    const struct candidate *right = (const struct candidate *)b;
    int order = um_slice_compare(left->name, right->name);
    return order ? order : (left->place > right->place) - (left->place < right->place);
}

/* The first candidate of each name decides. */
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

int um_merged_hit(const struct um_tree *tree, const struct um_view *view,
                  const struct um_merged_name *name, struct um_hit *hit)
{
    hit->place = name->place;
    hit->directory = view->parts[name->place];
    return um_layer_dirent(&tree->layers[hit->directory.layer], name->dirent, &hit->child);
}

/* The merged names of a directory record, made at the first listing. Two threads may make them at
 * once: the second one's are dropped. */
static int need_merged(struct um_tree *tree, struct um_directory *directory,
                       const struct um_merged **out)
{
    struct um_merged *merged = atomic_load(&directory->merged);
    if (merged == NULL) {
        struct um_merged *made;
        int error = um_view_merge(tree, &directory->view, false, &made);
        if (error != 0)
            return error;
        if (atomic_compare_exchange_strong(&directory->merged, &merged, made))
            merged = made;
        else
            free(made);
    }
    *out = merged;
    return 0;
}

/* Whether whiteouts stand among the children of a directory of one part: 1, 0 or an errno. */
static int has_whiteouts(const struct um_layer *layer, const struct um_children *children)
{
    for (uint32_t i = 0; i < children->n; i++) {
        struct um_child child;
        int error = um_layer_child(layer, children, i, &child);
        if (error != 0)
            return error;
        if (child.type == DT_WHT)
            return 1;
    }
    return 0;
}

/* Whether the children of a directory are listed as they stand, which are sorted: it has one part, and no
 * whiteouts in it that would take up cookies. 1, 0 or an errno. Found out at the first listing. */
static int is_plain(struct um_directory *directory, const struct um_layer *layer,
                    const struct um_children *children)
{
    enum um_plain plain = atomic_load(&directory->plain);
    if (plain != UM_PLAIN_UNKNOWN)
        return plain == UM_PLAIN_YES;
    int found = has_whiteouts(layer, children);
    if (found < 0)
        return found;
    atomic_store(&directory->plain, found ? UM_PLAIN_NO : UM_PLAIN_YES);
    return !found;
}

static int next_merged(struct um_tree *tree, struct um_directory *directory, uint64_t *cookie,
                       struct um_hit *hit)
{
    const struct um_merged *merged = NULL;
    int error = need_merged(tree, directory, &merged);
    if (error != 0)
        return error;
    if (*cookie >= merged->n)
        return 0;
    error = um_merged_hit(tree, &directory->view, &merged->names[(*cookie)++], hit);
    return error ? error : 1;
}

/* The name at `*cookie`, which moves behind it: 1, 0 at the end, or an errno. Cookies are places among
 * the names that are shown. */
static int next_hit(struct um_tree *tree, struct um_directory *directory, uint64_t *cookie,
                    struct um_hit *hit)
{
    const struct um_view *view = &directory->view;
    if (view->refused)
        return -EIO;
    if (view->n == 0)
        return 0;
    if (view->n > 1)
        return next_merged(tree, directory, cookie, hit);
    struct um_children children;
    const struct um_layer *layer = &tree->layers[view->parts[0].layer];
    int error = um_layer_children(layer, view->parts[0].inode, &children);
    if (error != 0)
        return error;
    int plain = is_plain(directory, layer, &children);
    if (plain <= 0)
        return plain ? plain : next_merged(tree, directory, cookie, hit);
    if (*cookie >= children.n)
        return 0;
    hit->place = 0;
    hit->directory = view->parts[0];
    error = um_layer_child(layer, &children, (uint32_t)(*cookie)++, &hit->child);
    return error ? error : 1;
}

/* As next_hit, with attributes; a hard link that leads nowhere is passed over. */
static int next_entry(struct um_tree *tree, struct um_directory *directory, uint64_t *cookie,
                      struct um_tree_entry *entry)
{
    struct um_hit hit;
    int more;
    while ((more = next_hit(tree, directory, cookie, &hit)) > 0) {
        int error = um_tree_hit_attr(tree, directory, &hit, &entry->attr);
        if (error == -ENOENT)
            continue;
        if (error != 0)
            return error;
        entry->name = (const char *)hit.child.name.data;
        entry->name_size = (uint32_t)hit.child.name.size;
        entry->reserved = 0;
        entry->next = *cookie;
        return 1;
    }
    return more;
}

int um_tree_list(struct um_tree *tree, uint64_t node, uint64_t cookie,
                 struct um_tree_entry *entries, size_t capacity)
{
    struct um_directory *directory = um_tree_directory(tree, node);
    if (directory == NULL) {
        struct um_attr attr;
        int error = um_tree_getattr(tree, node, &attr);
        return error ? error : -ENOTDIR;
    }
    int n = 0;
    while ((size_t)n < capacity && n < INT32_MAX) {
        int more = next_entry(tree, directory, &cookie, &entries[n]);
        if (more < 0 && n == 0)
            return more;
        if (more <= 0)
            break;
        n++;
    }
    return n;
}
