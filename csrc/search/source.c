#include "search/source.h"

int um_source_list_open(const struct um_search_source *source, uint64_t directory,
                        struct um_source_list *list)
{
    *list = (struct um_source_list){.source = source, .directory = directory};
    return source->upper ? um_upper_list_open(source->upper, directory, &list->list) : 0;
}

int um_source_list_next(struct um_source_list *list, uint64_t cookie, struct um_tree_entry *entries,
                        size_t capacity)
{
    const struct um_search_source *source = list->source;
    if (source->upper != NULL)
        return um_upper_list_next(list->list, cookie, entries, capacity);
    if (source->layers != NULL)
        return um_unstacked_list(source->layers, list->directory, cookie, entries, capacity);
    return um_tree_list(source->tree, list->directory, cookie, entries, capacity);
}

void um_source_list_close(struct um_source_list *list)
{
    if (list->list != NULL)
        um_upper_list_close(list->list);
    list->list = NULL;
}

void um_source_forget(const struct um_search_source *source, uint64_t node)
{
    if (source->upper != NULL)
        um_upper_forget(source->upper, node, 1);
}

int um_source_open_file(const struct um_search_source *source, uint64_t node)
{
    return source->upper ? um_upper_open_file(source->upper, node, 0) : 0;
}

int64_t um_source_read(const struct um_search_source *source, uint64_t node, uint64_t offset,
                       void *buffer, size_t size)
{
    if (source->upper != NULL)
        return um_upper_read(source->upper, node, offset, buffer, size, 0);
    if (source->layers != NULL)
        return um_unstacked_read(source->layers, node, offset, buffer, size, 0);
    return um_tree_read(source->tree, node, offset, buffer, size, 0);
}

void um_source_release(const struct um_search_source *source, uint64_t node)
{
    if (source->upper != NULL)
        um_upper_release(source->upper, node);
}

void um_source_place(const struct um_search_source *source, uint64_t node, uint32_t *layer,
                     uint64_t *offset)
{
    uint64_t length;
    int error = -EINVAL;
    if (source->tree != NULL)
        error =
            um_tree_extent(source->tree, source->layers ? node - 1 : node, layer, offset, &length);
    if (error != 0) {
        *layer = 0;
        *offset = 0;
    }
}
