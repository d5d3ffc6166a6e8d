#include <dirent.h>

#include "tree/state.h"

/* Views implement the rule of docs/explanation/layers.md. */

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

/* Add a directory of the next lower layer to a view that is being assembled. `*open` says whether
 * children still merge. False when nothing below matters any more. */
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

/* Find the directory `name` in a part: 1; 0 where the part does not have the name; -ENOENT where
 * it ends the merge (a whiteout, or something that is no directory). */
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
 * layers below its own, so this ends; but without a limit the work could double with every layer. */
#define MOST_REDIRECTS 4096u

static int enter(const struct um_tree *tree, const struct um_view *view, const struct um_hit *hit,
                 unsigned *redirects, struct um_view *inside);

/* Do um_view_resolve, counting redirects. */
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

/* Add the parts of another view, of layers below. */
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

/* Continue with the directory at an absolute redirect of a part, as the layers below show it. */
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
        inside->refused =
            true; /* it leads into, or through, a directory whose content is unknown */
        error = 0;
    }
    for (int i = 0; i < 3; i++)
        um_view_close(&views[i]);
    return error == -ENOENT ? 0 : error; /* there is nothing to continue with */
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
