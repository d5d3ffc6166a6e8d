#include "search/batch.h"

#include "search/source.h"

#define MOST_FILES 512u
#define MOST_BYTES (8u << 20)
#define MOST_MERGED (1u << 20) /* bytes of one event, but for the last file's */

int um_batch_open(const struct um_search_source *source, struct um_slice prefix,
                  struct um_search_batch **out)
{
    struct um_search_batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL)
        return -ENOMEM;
    batch->source = *source;
    batch->prefix = malloc(prefix.size + 1);
    if (batch->prefix == NULL) {
        free(batch);
        return -ENOMEM;
    }
    if (prefix.size != 0)
        memcpy(batch->prefix, prefix.data, prefix.size);
    batch->prefix_size = prefix.size;
    *out = batch;
    return 0;
}

void um_search_batch_close(struct um_search_batch *batch)
{
    if (batch == NULL)
        return;
    for (size_t i = 0; i < batch->n; i++) {
        if (batch->files[i].counts)
            um_source_forget(&batch->source, batch->files[i].node);
    }
    free(batch->files);
    free(batch->names);
    free(batch->prefix);
    free(batch->output);
    free(batch->merged);
    free(batch);
}

/* Add a file of which only the name is known. */
static int add_named(struct um_search_batch *batch, struct um_slice name)
{
    int error =
        um_reserve((void **)&batch->files, &batch->capacity, batch->n + 1, sizeof *batch->files);
    if (error == 0)
        error = um_reserve((void **)&batch->names, &batch->names_capacity,
                           batch->names_size + name.size + 1, 1);
    if (error != 0)
        return error;
    batch->files[batch->n++] =
        (struct um_search_file){.name = batch->names_size, .name_size = name.size};
    if (name.size != 0)
        memcpy(batch->names + batch->names_size, name.data, name.size);
    batch->names_size += name.size;
    return 0;
}

int um_batch_add(struct um_search_batch *batch, const struct um_attr *attr, struct um_slice name,
                 bool counts)
{
    int error = add_named(batch, name);
    if (error != 0)
        return error;
    struct um_search_file *file = &batch->files[batch->n - 1];
    file->node = attr->node;
    file->size = attr->size;
    file->has_holes = attr->blocks < attr->size / 512;
    file->counts = counts;
    um_source_place(&batch->source, attr->node, &file->layer, &file->place);
    batch->bytes = um_add64(batch->bytes, attr->size, &batch->bytes) ? batch->bytes : UINT64_MAX;
    return 0;
}

int um_batch_add_failure(struct um_search_batch *batch, struct um_slice name, int failure)
{
    int error = add_named(batch, name);
    if (error != 0)
        return error;
    batch->files[batch->n - 1].flags = UM_SEARCH_FAILED;
    batch->files[batch->n - 1].error = failure;
    return 0;
}

bool um_batch_is_full(const struct um_search_batch *batch)
{
    return batch->n >= MOST_FILES || batch->bytes >= MOST_BYTES;
}

/* ---- events -------------------------------------------------------------------------------------- */

/* Return whether something has to be said about a file by itself. */
static bool is_special(const struct um_search_batch *batch, const struct um_search_file *file)
{
    uint32_t own = UM_SEARCH_BINARY | UM_SEARCH_GROUPS | UM_SEARCH_LARGE | UM_SEARCH_FAILED;
    return (file->flags & own) || (batch->records && (file->flags || file->output_size));
}

static int take_file(struct um_search_batch *batch, struct um_search_event *event)
{
    const struct um_search_file *file = &batch->files[batch->next];
    int error = um_reserve((void **)&batch->merged, &batch->merged_capacity,
                           event->output_size + file->output_size + 1, 1);
    if (error != 0)
        return error;
    if (file->output_size != 0)
        memcpy(batch->merged + event->output_size, batch->output + file->output, file->output_size);
    event->output_size += file->output_size;
    event->output = (const char *)batch->merged;
    event->flags |= file->flags;
    event->file = batch->next++;
    return 0;
}

int um_search_batch_next(struct um_search_batch *batch, struct um_search_event *event)
{
    int error = 0;
    *event = (struct um_search_event){0};
    while (error == 0 && batch->next < batch->n && event->output_size < MOST_MERGED &&
           !is_special(batch, &batch->files[batch->next]))
        error = take_file(batch, event);
    if (error != 0)
        return error;
    if (event->output_size != 0 || batch->next == batch->n)
        return event->output_size != 0 || event->flags != 0;
    const struct um_search_file *file = &batch->files[batch->next];
    event->path = (const char *)batch->names + file->name;
    event->path_size = file->name_size;
    event->leading = file->leading;
    event->error = file->error;
    error = take_file(batch, event);
    return error ? error : 1;
}
