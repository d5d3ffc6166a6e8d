/*
 * upper/rule.h - the rule of the union: what a name in a directory of the mount is.
 *
 * Purpose: the upper decides first. A whiteout hides the name; an object is it, a directory merged with the
 * lower one that it continues; where the upper has nothing, the lower tree's entry is it. Lookup, list and
 * every change go by these functions (docs/explanation/upper.md, "The rule").
 *
 * The rule only finds: it makes no nodes, and counts neither lookups nor the links of files that are not in
 * the upper. Whoever shows attributes adds these (upper/lookup.h).
 */
#ifndef UM_UPPER_RULE_H
#define UM_UPPER_RULE_H

#include "upper/make.h"
#include "upper/marks.h"

/* An inode that was found: its attributes, and what a node of it is made of. */
struct um_upper_hit {
    struct um_attr attr;
    bool directory, in_upper;
    uint64_t lower;
    uint64_t ino;              /* in the upper */
    uint64_t data;             /* as of a node */
    bool plain, capable, ours; /* likewise */
    bool incapable;            /* likewise, where it is certain */
    struct um_slice name;      /* of a lower file: lives as long as the tree */
    struct um_upper_seen seen; /* in the upper; set by um_upper_find, also where it finds nothing */
};

/* [w] Find what `name` is in a directory. -ENOENT nothing; -EIO the directory's marks are not believed;
 * -EINVAL and -ENAMETOOLONG as um_upper_check_sought. */
int um_upper_find(struct um_upper *upper, struct um_upper_node *directory, struct um_slice name,
                  struct um_upper_hit *hit);

/* [r] What the lower tree alone shows at that name: 0 with *entry (which may be NULL), or -ENOENT. */
int um_upper_find_lower(struct um_upper *upper, const struct um_upper_node *directory,
                        struct um_slice name, struct um_tree_entry *entry);

/* [w] What is found where the upper has nothing and the lower tree shows this entry. */
int um_upper_hit_lower(struct um_upper *upper, const struct um_tree_entry *entry,
                       struct um_upper_hit *hit);

/* [w] What is found where an object was just made of which everything is known (`complete`). The lower tree
 * shows no directory there. */
int um_upper_hit_fresh(struct um_upper *upper, const struct um_upper_fresh *fresh,
                       struct um_upper_hit *hit);

/* [w] The attributes of a node. */
int um_upper_node_attr(struct um_upper *upper, struct um_upper_node *node, struct um_attr *attr);

/* [w] Store what was found, just now, in its node. */
void um_upper_node_update(struct um_upper *upper, struct um_upper_node *node,
                          const struct um_upper_hit *hit);

/* [-] The number of an object of the upper that is no copy. -EXDEV: it is on another file system. */
int um_upper_number(const struct um_upper *upper, const struct stat *status, uint64_t *number);

/* [-] Whether there may be an entry of this name: 0; -ENOENT for "." and "..", and for marks; -EINVAL or
 * -ENAMETOOLONG for what is no name. */
int um_upper_check_sought(struct um_slice name);

#endif
