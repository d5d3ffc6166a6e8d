#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "layer/live_state.h"
#include "marks/whiteout.h"

#define READ_ROOM 32768 /* bytes of entries from the kernel at once */

/* ---- reading a directory -------------------------------------------------------------------------------- */

/* The entry as getdents64(2) writes it; glibc has no declaration. */
struct kernel_entry {
    uint64_t ino;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* Find the type of an entry where the kernel does not tell enough: 1 to keep the entry, 0 where it
 * is gone. */
static int ask_type(struct um_live *layer, uint32_t directory, bool marked,
                    struct um_live_item *item)
{
    struct um_live_reach reach;
    struct statx status;
    int error = um_live_reach(layer, directory, item->text, &reach);
    if (error != 0)
        return error;
    error = um_live_reach_statx(&reach, &status);
    int hides = error ? 0 : um_live_is_whiteout(layer, &reach, &status, marked);
    um_live_leave(layer, &reach);
    if (error != 0)
        return error == -ENOENT ? 0 : error;
    if (hides < 0)
        return hides;
    item->type = hides ? DT_WHT : IFTODT(status.stx_mode);
    return 1;
}

/* Interpret an entry: 1 to keep it, 0 to drop it. A device may be a whiteout; where marks make
 * whiteouts, a file may be one, too. */
static int interpret(struct um_live *layer, uint32_t directory, bool marked,
                     struct um_live_item *item)
{
    if (um_slice_is_dots(item->text))
        return 0;
    switch (um_whiteout_classify(item->text, &item->text)) {
    case UM_NAME_PLAIN:
        break;
    case UM_NAME_WHITEOUT:
        item->type = DT_WHT;
        return 1;
    default:
        return 0;
    }
    if (item->type == DT_CHR || item->type == DT_UNKNOWN || (marked && item->type == DT_REG) ||
        (item->type == DT_DIR && um_live_may_be_hidden(layer, item->ino)))
        return ask_type(layer, directory, marked, item);
    return 1;
}

static int add_item(struct um_live_items *items, const struct um_live_item *item)
{
    int error =
        um_reserve((void **)&items->all, &items->capacity, items->n + 1, sizeof *items->all);
    if (error != 0)
        return error;
    struct um_live_item *kept = &items->all[items->n];
    *kept = *item;
    error = um_live_keep_text(&items->arena, item->text, &kept->text.data);
    items->n += error == 0;
    return error;
}

static int read_entries(struct um_live *layer, uint32_t directory, bool marked,
                        const uint8_t *buffer, size_t size, struct um_live_items *items)
{
    for (size_t at = 0; at < size;) {
        const struct kernel_entry *entry = (const struct kernel_entry *)(buffer + at);
        struct um_live_item item = {
            .text = um_slice_text(entry->name), .ino = entry->ino, .type = entry->type};
        at += entry->size;
        if (item.text.size > 255)
            return -EIO; /* no Linux file system has such names */
        int more = interpret(layer, directory, marked, &item);
        int error = more > 0 ? add_item(items, &item) : more;
        if (error != 0)
            return error;
    }
    return 0;
}

static int read_all(struct um_live *layer, uint32_t directory, bool marked, int fd,
                    struct um_live_items *items)
{
    um_autofree uint8_t *buffer = malloc(READ_ROOM);
    if (buffer == NULL)
        return -ENOMEM;
    for (;;) {
        long size = syscall(SYS_getdents64, fd, buffer, READ_ROOM);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return size == 0 ? 0 : errno == ENOENT ? -ESTALE : -errno;
        int error = read_entries(layer, directory, marked, buffer, (size_t)size, items);
        if (error != 0)
            return error;
    }
}

int um_live_read_directory(struct um_live *layer, uint32_t directory, struct um_live_items *items)
{
    const struct um_live_more *more = NULL;
    *items = (struct um_live_items){0};
    int error = um_live_more(layer, directory, &more);
    if (error != 0)
        return error;
    int fd = um_live_open_directory(layer, directory);
    if (fd < 0)
        return fd;
    error = read_all(layer, directory, more->marks_whiteouts, fd, items);
    close(fd);
    if (error != 0)
        um_live_items_free(items);
    return error;
}

void um_live_items_free(struct um_live_items *items)
{
    free(items->all);
    um_live_arena_free(items->arena);
    *items = (struct um_live_items){0};
}

/* ---- listing ---------------------------------------------------------------------------------------------- */

/* Compare by name; a real entry precedes the whiteout of its name. */
static int compare_items(const void *a, const void *b)
{
    const struct um_live_item *left = (const struct um_live_item *)a;
    const struct um_live_item *right = (const struct um_live_item *)b;
    int order = um_slice_compare(left->text, right->text);
    return order ? order : (left->type == DT_WHT) - (right->type == DT_WHT);
}

/* Sort, and keep each name once: a directory that changes while it is read may return one twice. */
static void sort_items(struct um_live_items *items)
{
    size_t kept = 0;
    if (items->n != 0)
        qsort(items->all, items->n, sizeof *items->all, compare_items);
    for (size_t i = 0; i < items->n; i++) {
        if (kept == 0 || !um_slice_equal(items->all[kept - 1].text, items->all[i].text))
            items->all[kept++] = items->all[i];
    }
    items->n = kept;
}

static int make_list(struct um_live *layer, uint32_t directory, const struct um_live_items *items,
                     struct um_live_list **out)
{
    um_autofree struct um_slice *texts = malloc((items->n + 1) * sizeof *texts);
    um_autofree uint8_t *types = malloc(items->n + 1);
    um_autofree struct um_live_list *list = malloc(sizeof *list + items->n * sizeof list->names[0]);
    if (texts == NULL || types == NULL || list == NULL)
        return -ENOMEM;
    if (items->n > UINT32_MAX)
        return -E2BIG;
    for (size_t i = 0; i < items->n; i++) {
        texts[i] = items->all[i].text;
        types[i] = items->all[i].type;
    }
    list->n = (uint32_t)items->n;
    int error = um_live_add_names(layer, directory, texts, types, items->n, list->names);
    if (error == 0)
        *out = um_steal(&list);
    return error;
}

int um_live_children(struct um_live *layer, uint32_t directory, const uint32_t **names, uint32_t *n)
{
    struct um_live_inode inode;
    if (!um_live_get_inode(layer, directory, &inode) || inode.type != DT_DIR)
        return -ESTALE;
    struct um_live_list *list = inode.list;
    if (list == NULL) {
        struct um_live_items items;
        int error = um_live_read_directory(layer, directory, &items);
        if (error != 0)
            return error;
        sort_items(&items);
        error = make_list(layer, directory, &items, &list);
        um_live_items_free(&items);
        if (error != 0)
            return error;
        list = um_live_set_list(layer, directory, list);
    }
    *names = list->names;
    *n = list->n;
    return 0;
}
