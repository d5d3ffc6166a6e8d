/*
 * tree/state.h - declarations that the files of the tree share. Each file uses those below it:
 *
 *   open.c         stacking layers
 *   for_upper.c    questions of the upper
 *   changes.c      what a layer did; summary.c: a summary of all layers
 *   scan.c         searching a tree, or layers
 *   unstacked.c    the layers side by side
 *   members.c      plain files as members of a tar
 *   lookup.c       the public questions: names, lists, symlinks, xattrs
 *   attributes.c   attributes of a node
 *   data.c         the data of files
 *   metacopy.c     the file below that has the data of a metacopy
 *   names.c        the names of a file, link counts
 *   cross_links.c  hard links into lower layers
 *   list.c         the merged names of a directory
 *   resolve.c      the inode of a name or number
 *   directories.c  records of merged directories; facts that are kept of nodes
 *   view.c         the rule: which directories of the layers form one
 *
 * A *part* is a directory of one layer; a merged directory is its parts, topmost first. A *view*
 * is the list of parts that form one directory. um_view_find and um_view_enter are the rule;
 * everything else uses them.
 *
 * Ownership: struct um_tree owns its directory records and caches until um_tree_close.
 * Threads: `lock` guards the tables of directory records and of facts that are kept of nodes.
 * Directory records live as long as the tree, and their lazily computed fields are set once,
 * atomically; so a record that was found is used without the lock.
 */
#ifndef UM_TREE_STATE_H
#define UM_TREE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/table.h"
#include "layer/layer.h"
#include "tree/tree.h"

struct um_part {
    uint32_t layer, inode;
};

struct um_view {
    struct um_part *parts; /* room for as many parts as the tree has layers */
    uint32_t n;
    struct um_part metadata; /* the part whose mode, owner, times and xattrs show */
    bool implied;            /* no part has metadata */
    bool refused; /* its content is unknown (-EIO), because a redirect of it is not trusted */
};

/* The result of finding a name in a view. */
struct um_hit {
    uint32_t place; /* index of the deciding part in the view */
    struct um_part directory; /* that part */
    struct um_child child;
};

/* A visible name of a merged directory. */
struct um_merged_name {
    uint32_t place;
    uint32_t dirent;
};

struct um_merged {
    uint32_t n;
    struct um_merged_name names[];
};

/* Another directory that shows a part of a directory, because redirects lead to the part twice. */
struct um_share {
    struct um_directory *directory;
    struct um_share *next;
};

/* Whether the listing of a directory is that of its children as they are (tree/list.c). */
enum um_plain { UM_PLAIN_UNKNOWN, UM_PLAIN_YES, UM_PLAIN_NO };

struct um_directory {
    uint64_t node;
    uint64_t parent; /* the root's is itself */
    struct um_view view;
    _Atomic(struct um_merged *) merged; /* set at the first listing; NULL before */
    _Atomic(enum um_plain) plain;       /* of a directory of one part */
    atomic_uint nlink;                  /* 0 until it was counted */
    _Atomic(struct um_share *) shares;  /* added to under the tree's lock */
};

/* A name that is a hard link to an inode of a layer below its own. */
struct um_cross_link {
    struct um_part link;      /* its inode in its own layer */
    struct um_part directory; /* the directory that has the name */
    uint32_t dirent;
    bool found; /* whether it leads somewhere; then: */
    struct um_part target;
    struct um_part
        target_directory; /* the directory that has the name by which the target was found */
    uint32_t target_dirent;
};

struct um_cross_links {
    struct um_cross_link **by_target; /* those that lead somewhere, sorted by target */
    size_t n, n_found;
    struct um_cross_link links[]; /* all, sorted by link */
};

/* A fact that is kept of a node. For a file it is the link count. For a directory of one layer it
 * is the node of the merged directory that it is a part of, or UM_HIDDEN where the tree does not
 * show it; a tree with live directories keeps that of every directory that was looked up. */
struct um_kept {
    uint64_t node; /* the key */
    uint64_t value;
};

struct um_directory_entry {
    uint64_t node; /* the key */
    struct um_directory *directory;
};

struct um_tree {
    struct um_layer *layers;
    uint32_t n_layers;
    uint64_t *bases; /* n_layers + 1: the first node number of each layer, and the one above all */
    uint64_t end; /* the first number above all */
    uint64_t lasting_end; /* the first number of temporary layers; `end` if there are none */
    bool has_externals;
    uint32_t n_live; /* layers that are live directories */
    struct um_fd_cache *cache; /* of all live directories; NULL where there is none */
    _Atomic(struct um_cross_links *) cross_links; /* set when first needed */

    pthread_mutex_t redirect_lock; /* one thread finds all redirects; then this is set: */
    atomic_bool redirects_known;
    atomic_bool has_shares; /* a directory has some */

    struct um_refusals refusals; /* of all live directories */
    atomic_uint uses; /* nodes that were used since the indexes were last trimmed */

    pthread_rwlock_t lock;
    struct um_table directories; /* under lock; of struct um_directory_entry */
    struct um_table kept; /* under lock; of struct um_kept */
};

static inline uint64_t um_tree_node(const struct um_tree *tree, struct um_part part)
{
    return tree->bases[part.layer] + um_layer_number(&tree->layers[part.layer], part.inode);
}

static inline bool um_part_equal(struct um_part a, struct um_part b)
{
    return a.layer == b.layer && a.inode == b.inode;
}

/* ---- tree/view.c: the rule; resolve.c, directories.c, attributes.c ---------------------------------- */

int um_view_open(const struct um_tree *tree, struct um_view *view);
void um_view_close(struct um_view *view);

/* Make the view of the root in the lowest `n_layers` layers. */
int um_view_root(const struct um_tree *tree, uint32_t n_layers, struct um_view *view);

/* Find the part that decides about `name` in the view; -ENOENT where it is hidden, or in no part.
 * An external link is returned as it is. */
int um_view_find(const struct um_tree *tree, const struct um_view *view, struct um_slice name,
                 struct um_hit *hit);

/* Make the view of the directory that is a hit of type DT_DIR. `inside` must not be `view`. */
int um_view_enter(const struct um_tree *tree, const struct um_view *view, const struct um_hit *hit,
                  struct um_view *inside);

/* Find a path, names separated by slashes, in the lowest `n_layers` layers: a hit in the view *in,
 * which is one of the two that the caller has opened. */
int um_view_resolve(const struct um_tree *tree, uint32_t n_layers, struct um_slice path,
                    struct um_view views[2], const struct um_view **in, struct um_hit *hit);

/* Free the room that a view does not use; nothing can be added to it any more. */
void um_view_shrink(struct um_view *view);

/* Find the inode of a hit that is no directory: its own, or the one that its external link leads
 * to. -ENOENT where the link leads nowhere. */
int um_tree_hit_inode(struct um_tree *tree, const struct um_hit *hit, struct um_part *part,
                      struct um_inode *inode);

/* Count the use of a node. After every 65,536 of them the indexes release their pages, so that a
 * walk over a million files does not make the process large. */
void um_tree_count_use(struct um_tree *tree);

/* Return the record of a directory, NULL where it was never looked up. */
struct um_directory *um_tree_directory(struct um_tree *tree, uint64_t node);

/* Directories whose lowest part belongs to another directory, too, have numbers above all layers. */
#define UM_SHARED_NUMBERS (1ull << 40)

/* Return the record of `node`, making it of the view where there is none yet. */
int um_tree_keep_directory(struct um_tree *tree, uint64_t node, uint64_t parent,
                           const struct um_view *view, struct um_directory **out);
void um_tree_free_directory(struct um_directory *directory);

/* Return and keep facts of nodes: of a file its link count, of a directory of a layer the number
 * of the merged directory that shows it, or UM_HIDDEN; 0: nothing. */
#define UM_HIDDEN UINT64_MAX
uint64_t um_tree_kept(struct um_tree *tree, uint64_t node);
int um_tree_keep(struct um_tree *tree, uint64_t node, uint64_t value);

/* Return the record of the directory that is a hit of type DT_DIR. */
int um_tree_enter(struct um_tree *tree, const struct um_directory *above, const struct um_hit *hit,
                  struct um_directory **directory);

/* Return the attributes of a hit; a directory gets its record. */
int um_tree_hit_attr(struct um_tree *tree, const struct um_directory *above,
                     const struct um_hit *hit, struct um_attr *attr);

/* Return the layer in whose range a number lies: layer i has those from firsts[i] on, and the
 * number is not below firsts[0]. */
uint32_t um_tree_layer_at(const uint64_t *firsts, uint32_t n_layers, uint64_t number);

/* Find the layer and inode of a number of any kind; -ESTALE. */
int um_tree_locate(const struct um_tree *tree, uint64_t node, struct um_part *part);

/* Find the layer and inode of a number of a file; -ESTALE where it is none. Of a file in a live
 * directory *inode has the type only (um_layer_peek). */
int um_tree_part(const struct um_tree *tree, uint64_t node, struct um_part *part,
                 struct um_inode *inode);

/* Return the record of the directory `node`; -ENOTDIR where it is something else, or -ESTALE. */
int um_tree_need_directory(struct um_tree *tree, uint64_t node, struct um_directory **directory);

/* ---- tree/data.c ------------------------------------------------------------------------------- */

/* Find the layer and inode of the file that has the data of a regular file. -EISDIR, -EINVAL; -EIO
 * where the layers below do not have it. */
int um_tree_file(struct um_tree *tree, uint64_t node, struct um_part *part, struct um_inode *inode);

/* Return the blocks that the data of a regular file of a live directory occupies. */
int um_tree_live_blocks(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                        uint64_t *blocks);

/* ---- tree/list.c ------------------------------------------------------------------------------- */

/* Merge the visible names of a view, sorted. External links are among them, and with `whiteouts`
 * the names that a whiteout hides. *out is malloced. */
int um_view_merge(const struct um_tree *tree, const struct um_view *view, bool whiteouts,
                  struct um_merged **out);

/* Return the hit of a merged name. */
int um_view_merged_hit(const struct um_tree *tree, const struct um_view *view,
                       const struct um_merged_name *name, struct um_hit *hit);

/* ---- tree/cross_links.c ------------------------------------------------------------------------------ */

/* Return all hard links into lower layers. The first call follows them; the tree keeps the result. */
int um_tree_cross_links(struct um_tree *tree, const struct um_cross_links **out);

/* Find the link with an inode; NULL where it is no such link. */
const struct um_cross_link *um_cross_links_find(const struct um_cross_links *links,
                                                struct um_part link);

/* Return the place in `by_target` of the first link to `target`, or to what comes after it. */
size_t um_cross_links_to(const struct um_cross_links *links, struct um_part target);

void um_cross_links_free(struct um_cross_links *links);

/* ---- tree/names.c ------------------------------------------------------------------------------ */

/* Return the record of the merged directory that a directory of a layer belongs to; NULL where
 * something above hides it. */
int um_tree_shown(struct um_tree *tree, struct um_part part, struct um_directory **shown);

/* Record that a directory shows all parts of its view. */
int um_tree_keep_shown(struct um_tree *tree, struct um_directory *directory);

int um_tree_count_links(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                        uint32_t *count);

/* Return all visible names of an inode that is no directory; *all is malloced, NULL where there is
 * none. */
int um_tree_part_names(struct um_tree *tree, struct um_part part, const struct um_inode *inode,
                       struct um_tree_name **all, size_t *n);

int um_tree_count_subdirectories(struct um_tree *tree, struct um_directory *directory,
                                 uint32_t *nlink);

/* Return the path of a dirent of a layer, names separated by slashes; *path is malloced. */
int um_tree_layer_path(const struct um_layer *layer, uint32_t directory, uint32_t dirent,
                       char **path, size_t *size);

#endif
