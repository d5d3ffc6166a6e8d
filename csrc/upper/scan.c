#include "tree/scan.h"

#include "upper/upper.h"

/* Searching a mount with its changes: lists of an upper are opened, and count lookups. */

static int upper_getattr(void *owner, uint64_t node, struct um_attr *attr)
{
    return um_upper_getattr((struct um_upper *)owner, node, attr);
}

static int upper_begin(void *owner, uint64_t directory, void **list)
{
    struct um_upper_list *opened = NULL;
    int error = um_upper_list_open((struct um_upper *)owner, directory, &opened);
    *list = opened;
    return error;
}

static int upper_next(void *owner, void *list, uint64_t directory, uint64_t cookie,
                      struct um_tree_entry *entries, size_t capacity)
{
    (void)owner;
    (void)directory;
    return um_upper_list_next((struct um_upper_list *)list, cookie, entries, capacity);
}

static void upper_end(void *list)
{
    um_upper_list_close((struct um_upper_list *)list);
}

static void upper_forget(void *owner, uint64_t node)
{
    um_upper_forget((struct um_upper *)owner, node, 1);
}

int um_upper_scan(struct um_upper *upper, const struct um_scan_setup *setup, struct um_scan **out)
{
    const struct um_scan_source source = {.owner = upper,
                                          .getattr = upper_getattr,
                                          .begin = upper_begin,
                                          .next = upper_next,
                                          .end = upper_end,
                                          .forget = upper_forget};
    return um_scan_open(&source, setup, out);
}
