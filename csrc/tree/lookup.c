#include <dirent.h>
#include <sys/stat.h>

#include "tree/state.h"

#include "marks/whiteout.h"
#include "system/xattr_name.h"

/* ---- the public face -------------------------------------------------------------------------------- */

int um_tree_lookup(struct um_tree *tree, uint64_t node, const char *name, size_t name_size,
                   struct um_attr *attr)
{
    struct um_directory *directory;
    int error = um_tree_need_directory(tree, node, &directory);
    if (error != 0)
        return error;
    if (name_size > UM_NAME_MAX)
        return -ENAMETOOLONG;
    struct um_hit hit;
    error = um_view_find(tree, &directory->view, um_slice_of(name, name_size), &hit);
    return error ? error : um_tree_hit_attr(tree, directory, &hit, attr);
}

int um_tree_parent(struct um_tree *tree, uint64_t node, uint64_t *parent)
{
    struct um_directory *directory;
    int error = um_tree_need_directory(tree, node, &directory);
    if (error != 0)
        return error;
    *parent = directory->parent;
    return 0;
}

int um_tree_top(struct um_tree *tree, uint64_t node, uint32_t *layer)
{
    struct um_directory *directory;
    int error = um_tree_need_directory(tree, node, &directory);
    if (error != 0)
        return error;
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

/* Find the part and inode whose xattrs are shown. -ENODATA for an implied directory, which has
 * none. */
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
    if (um_xattr_is_nameless(um_slice_of(name, name_size)))
        return -EINVAL;
    int error = find_metadata(tree, node, &part, &inode);
    if (error != 0)
        return error;
    return um_layer_getxattr(&tree->layers[part.layer], part.inode, &inode, UM_OVERLAY_BOTH,
                             um_slice_of(name, name_size), value, size);
}

int64_t um_tree_listxattr(struct um_tree *tree, uint64_t node, char *names, size_t size)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_metadata(tree, node, &part, &inode);
    if (error != 0)
        return error == -ENODATA ? 0 : error;
    return um_layer_listxattr(&tree->layers[part.layer], part.inode, &inode, UM_OVERLAY_BOTH, names,
                              size);
}

int um_tree_open_path(struct um_tree *tree, uint64_t node, int *fd)
{
    struct um_part part;
    struct um_inode inode;
    int error = find_metadata(tree, node, &part, &inode);
    return error ? error : um_layer_open_path(&tree->layers[part.layer], part.inode, fd);
}

/* ---- listing ------------------------------------------------------------------------------------ */

/* Return the merged names of a directory record, which the first listing makes. Two threads may
 * make them at once: those of the second one are dropped. */
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

/* Return whether there are whiteouts among the children of a directory of one part: 1, 0 or an
 * errno. */
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

/* Return whether the listing of a directory is that of its children, which are sorted: it has one
 * part, and no whiteouts that would take up cookies. 1, 0 or an errno. The first listing finds
 * out. */
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
    error = um_view_merged_hit(tree, &directory->view, &merged->names[(*cookie)++], hit);
    return error ? error : 1;
}

/* Return the name at `*cookie`, which advances: 1, 0 at the end, or an errno. Cookies are
 * positions among the names that are shown. */
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

/* Return the next name with its attributes, skipping hard links that lead nowhere. */
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
    struct um_directory *directory;
    int error = um_tree_need_directory(tree, node, &directory);
    if (error != 0)
        return error;
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
