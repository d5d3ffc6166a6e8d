/*
 * upper/lookup.h - from numbers and names to nodes and attributes that are shown.
 *
 * Purpose: what lookup, list and every change begin and end with. To what the rule finds (upper/rule.h) it
 * adds what the kernel is told and what it keeps: link counts, and the number of lookups.
 */
#ifndef UM_UPPER_LOOKUP_H
#define UM_UPPER_LOOKUP_H

#include "upper/rule.h"

/* ---- attributes that are shown --------------------------------------------------------------- */

/* [w] As um_upper_find, um_upper_hit_lower and um_upper_node_attr, with the link count that the mount shows
 * (um_upper_count_links). */
int um_upper_find_counted(struct um_upper *upper, struct um_upper_node *directory,
                          struct um_slice name, struct um_upper_hit *hit);
int um_upper_hit_lower_counted(struct um_upper *upper, const struct um_tree_entry *entry,
                               struct um_upper_hit *hit);
int um_upper_node_attr_counted(struct um_upper *upper, struct um_upper_node *node,
                               struct um_attr *attr);

/* ---- lookups --------------------------------------------------------------------------------- */

/* [w] Count a lookup of what was found in a directory, with a node where it needs one. */
int um_upper_count_lookup(struct um_upper *upper, struct um_upper_node *directory,
                          struct um_slice name, const struct um_upper_hit *hit);

/* [w] Make a node of a new file that has no name, count a lookup of it, and fill *attr. `fd`, open for
 * reading and writing, is taken over, also on failure. -ESTALE: its number is still that of another file,
 * which was removed on disk. */
int um_upper_node_add_nameless(struct um_upper *upper, int fd, struct um_attr *attr);

/* ---- using a node by its number -------------------------------------------------------------- */

/* [w] The node of a number that the kernel knows, for a file that is about to be opened or changed; made
 * where the file is only known. It has a place or a descriptor, or is `gone`. Pinned. -ESTALE. */
int um_upper_node_load(struct um_upper *upper, uint64_t number, struct um_upper_node **node);

/* [w] Unpin what um_upper_node_load returned; what needs no node goes back to the table of known files. */
void um_upper_node_release(struct um_upper *upper, struct um_upper_node *node);

/* [w] Let a file of a lower layer that is no longer open go back to that table, where nothing else needs its
 * node. */
void um_upper_node_demote(struct um_upper *upper, struct um_upper_node *node);

#endif
