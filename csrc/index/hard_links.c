#include "index/indexer.h"

int um_indexer_join_target(struct um_indexer *ix, struct um_indexer_inode *inode, uint64_t header,
                           struct um_fault *fault)
{
    uint32_t first = (uint32_t)ix->tables.n_strings;
    for (size_t i = 0; i < ix->target.n; i++) {
        uint32_t ignored;
        int error =
            i ? um_indexer_add_string(ix, UM_SLICE_LITERAL("/"), &ignored, header, fault) : 0;
        if (error == 0)
            error = um_indexer_add_string(ix, ix->target.parts[i], &ignored, header, fault);
        if (error != 0)
            return error;
    }
    inode->data = first;
    inode->size = ix->tables.n_strings - first;
    return 0;
}

/* Return the inode that the split target of a hard link has in this layer now, through symlinks on
 * its way: UM_NONE, with *nowhere where it is a directory, or where the path leads nowhere. */
int um_indexer_find_target(struct um_indexer *ix, uint32_t *inode, bool *nowhere)
{
    *inode = UM_NONE;
    *nowhere = false;
    int error = ix->target.n ? um_indexer_follow_links(ix, &ix->target, ix->target.n - 1) : 0;
    if (error == 0)
        *inode = um_indexer_resolve(ix, &ix->target, nowhere);
    if (error == -ELOOP)
        *nowhere = true;
    return error == -ELOOP ? 0 : error;
}

/* A chain collects the external inodes that are passed on the way to what they mean at the end of
 * the layer, so that each is settled once. */
struct chain {
    uint32_t *inodes;
    size_t n, capacity;
};

/* Find what the target of an external inode means at the end. Where this layer has nothing there,
 * the link is looked up in the layers below, at the path that this layer's symlinks lead to. */
static int step(struct um_indexer *ix, uint32_t inode, uint32_t *next, bool *nowhere)
{
    struct um_indexer_inode *from = &ix->tables.inodes[inode];
    um_autofree uint8_t *text = malloc(from->size + 1); /* appending to the strings moves them */
    if (text == NULL)
        return -ENOMEM;
    memcpy(text, ix->tables.strings + from->data, from->size);
    int error = um_index_path_split(um_slice_of(text, from->size), &ix->target);
    unsigned before = ix->n_followed;
    if (error == 0)
        error = um_indexer_find_target(ix, next, nowhere);
    if (error == 0 && *next == UM_NONE && ix->n_followed != before)
        error = um_indexer_join_target(ix, from, 0, NULL);
    return error;
}

/* Close a loop: the chain has come back to `at`. Each link of the loop looks in the layers below
 * for its own target. Links that led into the loop mean what `at` means, and stay in the chain. */
static uint32_t close_circle(struct chain *chain, uint32_t at, uint32_t *settled)
{
    uint32_t inode;
    do {
        inode = chain->inodes[--chain->n];
        settled[inode] = inode;
    } while (inode != at);
    return at;
}

/* Settle the external inode `start`. settled[i] is the inode that i means: itself where it stays
 * external, UM_NONE while that is unknown, UM_NONE - 1 while its chain is followed. */
static int settle(struct um_indexer *ix, uint32_t start, uint32_t *settled, struct chain *chain)
{
    const uint32_t following = UM_NONE - 1;
    uint32_t at = start, end = UM_NONE;
    chain->n = 0;
    while (end == UM_NONE) {
        if (!(ix->tables.inodes[at].flags & UM_INODE_EXTERNAL))
            end = at;
        else if (settled[at] == following)
            end = close_circle(chain, at, settled);
        else if (settled[at] != UM_NONE)
            end = settled[at];
        if (end != UM_NONE)
            break;
        uint32_t next = UM_NONE;
        bool nowhere = false;
        int error = um_budget_reserve(&ix->tables.budget, (void **)&chain->inodes, &chain->capacity,
                                      chain->n + 1, sizeof *chain->inodes);
        if (error == 0)
            error = step(ix, at, &next, &nowhere);
        if (error != 0)
            return error;
        chain->inodes[chain->n++] = at;
        settled[at] = following;
        if (nowhere)
            ix->tables.inodes[at].flags |= UM_INODE_DANGLING;
        if (next == UM_NONE)
            end = at;
        at = next;
    }
    for (size_t i = 0; i < chain->n; i++)
        settled[chain->inodes[i]] = end;
    return 0;
}

int um_indexer_settle_links(struct um_indexer *ix)
{
    struct um_indexer_tables *t = &ix->tables;
    bool any = false;
    for (size_t i = 0; i < t->n_inodes && !any; i++)
        any = t->inodes[i].flags & UM_INODE_EXTERNAL;
    if (!any)
        return 0;
    um_autofree uint32_t *settled = malloc(t->n_inodes * sizeof *settled);
    if (settled == NULL)
        return -ENOMEM;
    memset(settled, 0xff, t->n_inodes * sizeof *settled);
    struct chain chain = {0};
    int error = 0;
    for (uint32_t i = 0; i < t->n_names && error == 0; i++) {
        uint32_t inode = t->names[i].inode;
        if (inode == UM_NONE || !(t->inodes[inode].flags & UM_INODE_EXTERNAL))
            continue;
        if (settled[inode] == UM_NONE)
            error = settle(ix, inode, settled, &chain);
        if (error == 0)
            t->names[i].inode = settled[inode];
    }
    free(chain.inodes);
    um_budget_give(&t->budget, chain.capacity * sizeof *chain.inodes);
    return error;
}
