/*
 * upper/nodes.h - nodes: what the kernel knows of the mount, or has open.
 *
 * Purpose: a *node* stands for an inode of the mount that is a directory, or is in the upper, or is open. All
 * other files of lower layers that the kernel knows have 32 bytes in the table of *known* files, so that a
 * walk over a million of them stays cheap. An inode is in one of the two tables, never in both.
 *
 * Ownership: struct um_upper owns its nodes. A directory's node is kept while it is looked up, open, pinned,
 * or the parent of a node; a file's while it is looked up, open or pinned.
 * Threads: struct um_upper's `lock` guards everything in a node, and both tables.
 */
#ifndef UM_UPPER_NODES_H
#define UM_UPPER_NODES_H

#include "upper/state.h"

/* What new objects in a directory get from it. */
struct um_upper_heritage {
    bool known;
    bool setgid; /* its group, and directories the bit */
    bool acl;    /* a default ACL */
    uint32_t gid;
};

struct um_upper_node {
    uint64_t number;
    struct um_upper_node *parent; /* with `name` its place; NULL: the root, or no place is known */
    char *name; /* malloced, not NUL-terminated */
    size_t name_size;
    uint64_t lookups;
    uint64_t ino; /* in the upper; 0: not known */
    uint32_t opens; /* open files and listings */
    uint32_t pins; /* by verbs that are using it */
    uint32_t children; /* nodes whose parent this is */
    bool directory;
    bool in_upper; /* it has a part in the upper; a directory may have one below as well */
    bool gone; /* it has no name (any more); `fd` is all there is of it */
    bool linkable; /* it never had a name, and may get one */
    bool writable; /* `fd` was opened for writing, too */
    bool plain; /* it has no override_stat, and nobody can give it one */
    bool capable; /* it may have a capability in a mark (upper/capability.c) */
    bool ours; /* a file that shows what the daemon says: on disk nobody else owns it */
    bool synced; /* a file in the upper: that it is there, and has data of its own, is durable */
    bool listed; /* a directory: the tree's cookies of what it continues were given out */
    bool regular; /* a file in the upper that was seen, and shows a regular file */
    bool kept; /* `fd` is open for whoever opens the file first (upper/file.h) */
    bool incapable; /* a file that was made since the mount and never got a capability */
    bool unmarked; /* a directory that was made since the mount: it has no whiteouts `.wh.NAME` */
    /* Of a directory, the number of the lower one that it continues; of a file in the upper, that of the
     * lower file that it is a copy of; 0 for none. Of a file that is not in the upper, its own. */
    uint64_t lower;
    /* The upper's file while it is open or has no place; O_PATH where that is no regular file. Else -1. */
    int fd;
    uint64_t
        data; /* of a file in the upper whose data still is that of a lower file, its number; else 0 */
    uint32_t nlink; /* of a directory; 0: to be counted */
    /* Of a directory in an upper that nobody else reaches. Everything that changes owner, mode or xattrs of
     * a directory goes by its node (upper/setattr.c, upper/xattr.c), and forgets it. */
    struct um_upper_heritage heritage;
};

/* Values of a node's `data` that are no number: the data is nowhere; there is none, only its mark. */
#define UM_UPPER_DATA_LOST UINT64_MAX
#define UM_UPPER_DATA_NONE (UINT64_MAX - 1)

/* A directory's `lower` that is no number: it continues a lower directory, but the mark that says which is
 * not believed. So its entries are not known, and asking for any is -EIO. */
#define UM_UPPER_LOWER_REFUSED UINT64_MAX

/* A file of a lower layer that the kernel knows and that has no node. */
struct um_upper_known {
    uint64_t number; /* 0: empty */
    uint64_t parent; /* the number of its directory; 0: its place is not known */
    const char *name; /* lives as long as the tree */
    uint64_t lookups : 56;
    uint64_t name_size : 8;
};

static inline struct um_slice um_upper_node_name(const struct um_upper_node *node)
{
    return um_slice_of(node->name, node->name_size);
}

/* [r] Whether this is the place that is known of a node. It may have other names. */
static inline bool um_upper_node_is_at(const struct um_upper_node *node,
                                       const struct um_upper_node *directory, struct um_slice name)
{
    return node->parent == directory && um_slice_equal(um_upper_node_name(node), name);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* [r] The node of a number, or NULL. */
struct um_upper_node *um_upper_node_find(struct um_upper *upper, uint64_t number);

/* [w] The node of a number, which the caller knows to be at (parent, name); made where there is none.
 * `directory`, `in_upper` and `lower` are those of a new one, which takes over the lookups of a known file.
 * Pinned. -ENOMEM. */
int um_upper_node_add(struct um_upper *upper, uint64_t number, struct um_upper_node *parent,
                      struct um_slice name, bool directory, bool in_upper, uint64_t lower,
                      struct um_upper_node **out);

/* [w] Keep a node while it is used; um_upper_node_add and others that say so have pinned what they return.
 * Unpinning frees a node that nothing else keeps. */
static inline void um_upper_node_pin(struct um_upper_node *node)
{
    node->pins++;
}
void um_upper_node_unpin(struct um_upper *upper, struct um_upper_node *node);

/* [w] Free a node that nothing keeps, and parents that it alone kept. NULL is allowed. */
void um_upper_node_drop_unused(struct um_upper *upper, struct um_upper_node *node);

/* [w] Free all nodes, as the upper is closed. */
void um_upper_nodes_close(struct um_upper *upper);

/* [w] Put a node in another place. -ENOMEM leaves it where it was. */
int um_upper_node_move(struct um_upper *upper, struct um_upper_node *node,
                       struct um_upper_node *parent, struct um_slice name);

/* [w] The last name of a node was removed: it is `gone`, and has no place. */
void um_upper_node_lose_name(struct um_upper *upper, struct um_upper_node *node);

/* [w] The place of an inode is no longer (directory, name), though it has other names: one of those is looked
 * for when a place is needed. */
void um_upper_forget_place(struct um_upper *upper, uint64_t number,
                           const struct um_upper_node *directory, struct um_slice name);

/* [r] The lower directory whose entries are those of this one as long as it is not in the upper; 0 where
 * there is none. Its entries may be read without the lock, and hold if the result is the same afterwards.
 * NULL is allowed. */
uint64_t um_upper_node_only_lower(const struct um_upper_node *directory);

/* [w] Take the descriptor of a file without a name out of its node, which nothing else keeps: closing the last
 * one takes as long as the disk takes to free the data, so the caller does it without the lock. -1 where there is
 * none, or the node is kept. */
int um_upper_node_take_descriptor(const struct um_upper *upper, struct um_upper_node *node);

/* [w] The number of subdirectories of a directory changed. */
void um_upper_node_add_subdirectories(struct um_upper_node *directory, int change);

/* ---- known files ----------------------------------------------------------------------------- */

/* [r] The entry of a known file, or NULL; valid until the table changes. */
struct um_upper_known *um_upper_known_find(const struct um_upper *upper, uint64_t number);

/* [w] Count lookups of a file of a lower layer that has no node. Its place is that of the first lookup,
 * unless that was forgotten. `name` lives as long as the tree. -ENOMEM. */
int um_upper_known_add(struct um_upper *upper, uint64_t number, uint64_t parent,
                       struct um_slice name, uint64_t lookups);

/* [w] Remove an entry; pointers to others are no longer valid. */
void um_upper_known_remove(struct um_upper *upper, struct um_upper_known *entry);

/* [r] Whether the kernel may still use a number: it has a node, or is known. */
bool um_upper_is_known(struct um_upper *upper, uint64_t number);

#endif
