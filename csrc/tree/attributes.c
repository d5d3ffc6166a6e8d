#include <dirent.h>
#include <sys/stat.h>

#include "tree/state.h"

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
    attr->size = 4096; /* most file systems show this; a directory of a layer has no size */
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
    int error = um_tree_hit_inode(tree, hit, &part, &inode);
    return error ? error : file_attr(tree, part, &inode, attr);
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

/* Return why there is no record of a directory. */
static int no_directory(struct um_tree *tree, uint64_t node)
{
    struct um_attr attr;
    int error = um_tree_getattr(tree, node, &attr);
    return error ? error : -ENOTDIR;
}

int um_tree_need_directory(struct um_tree *tree, uint64_t node, struct um_directory **directory)
{
    *directory = um_tree_directory(tree, node);
    return *directory != NULL ? 0 : no_directory(tree, node);
}
