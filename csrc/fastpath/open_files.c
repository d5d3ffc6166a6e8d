#include "fastpath/open_files.h"

#include <pthread.h>

#include "base/table.h"

struct um_open_file {
    uint64_t node;
    struct um_open_file *newer, *older;
    uint32_t uses;
    bool write; /* opened for writing */
    bool plain;
    bool dropped; /* to be closed when it is unused; not in the table any more */
};

struct entry {
    uint64_t node; /* the key */
    struct um_open_file *file;
};

struct um_open_files {
    struct um_upper *upper;
    uint32_t capacity;
    pthread_mutex_t lock;
    struct um_table by_node; /* under lock, as all below; of struct entry */
    struct um_open_file *newest, *oldest;
};

/* ---- the table, under the lock -------------------------------------------------------------------- */

static struct um_open_file *find(const struct um_open_files *files, uint64_t node)
{
    const struct entry *entry = um_table_find(&files->by_node, sizeof *entry, node);
    return entry ? entry->file : NULL;
}

static void unlink_age(struct um_open_files *files, struct um_open_file *file)
{
    *(file->newer ? &file->newer->older : &files->newest) = file->older;
    *(file->older ? &file->older->newer : &files->oldest) = file->newer;
}

static void link_newest(struct um_open_files *files, struct um_open_file *file)
{
    file->newer = NULL;
    file->older = files->newest;
    *(files->newest ? &files->newest->newer : &files->oldest) = file;
    files->newest = file;
}

static void take_out(struct um_open_files *files, struct um_open_file *file)
{
    um_table_remove(&files->by_node, sizeof(struct entry),
                    um_table_find(&files->by_node, sizeof(struct entry), file->node));
    unlink_age(files, file);
}

static struct um_open_file *use_known(struct um_open_files *files, uint64_t node, bool write)
{
    struct um_open_file *file = find(files, node);
    if (file == NULL || (write && !file->write))
        return NULL;
    file->uses++;
    unlink_age(files, file);
    link_newest(files, file);
    return file;
}

/* Take out the least recently used file that is not in use; NULL where there is none, or room
 * enough. */
static struct um_open_file *make_room(struct um_open_files *files)
{
    struct um_open_file *file = files->by_node.n > files->capacity ? files->oldest : NULL;
    while (file != NULL && file->uses != 0)
        file = file->newer;
    if (file != NULL)
        take_out(files, file);
    return file;
}

/* ---- outside of the lock --------------------------------------------------------------------------- */

static void let_go(struct um_open_files *files, struct um_open_file *file)
{
    if (file == NULL)
        return;
    um_upper_release(files->upper, file->node);
    free(file);
}

struct um_open_file *um_open_files_find(struct um_open_files *files, uint64_t node, bool write)
{
    pthread_mutex_lock(&files->lock);
    struct um_open_file *file = use_known(files, node, write);
    pthread_mutex_unlock(&files->lock);
    return file;
}

/* Add a file that was just opened. Another thread may have opened it meanwhile, or it is open for
 * reading only: then that one stays, and the new one is released. */
static int add(struct um_open_files *files, struct um_open_file *fresh, struct um_open_file **out)
{
    struct um_open_file *old = fresh;
    int error = 0;
    pthread_mutex_lock(&files->lock);
    *out = use_known(files, fresh->node, false);
    if (*out != NULL)
        (*out)->write |= fresh->write;
    else
        error = um_table_reserve(&files->by_node, sizeof(struct entry), 1);
    if (*out == NULL && error == 0) {
        struct entry *entry = um_table_add(&files->by_node, sizeof *entry, fresh->node);
        *out = entry->file = fresh;
        fresh->uses = 1;
        link_newest(files, fresh);
        old = make_room(files);
    }
    pthread_mutex_unlock(&files->lock);
    let_go(files, old);
    return error;
}

void um_open_files_shed(struct um_open_files *files)
{
    pthread_mutex_lock(&files->lock);
    uint32_t capacity = files->capacity;
    uint32_t wanted = (uint32_t)files->by_node.n / 2;
    for (;;) {
        files->capacity = wanted;
        struct um_open_file *file = make_room(files);
        files->capacity = capacity;
        pthread_mutex_unlock(&files->lock);
        if (file == NULL)
            return;
        let_go(files, file);
        pthread_mutex_lock(&files->lock);
    }
}

int um_open_files_use(struct um_open_files *files, uint64_t node, bool write,
                      struct um_open_file **out)
{
    *out = um_open_files_find(files, node, write);
    if (*out != NULL)
        return 0;
    struct um_open_file *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    fresh->node = node;
    fresh->write = write;
    int error = um_upper_open_file(files->upper, node, write ? UM_UPPER_OPEN_WRITE : 0);
    if (error == -EMFILE || error == -ENFILE) {
        um_open_files_shed(files);
        error = um_upper_open_file(files->upper, node, write ? UM_UPPER_OPEN_WRITE : 0);
    }
    if (error != 0) {
        free(fresh);
        return error;
    }
    return add(files, fresh, out);
}

void um_open_files_done(struct um_open_files *files, struct um_open_file *file)
{
    struct um_open_file *old = NULL;
    pthread_mutex_lock(&files->lock);
    if (--file->uses == 0 && file->dropped)
        old = file;
    else
        old = make_room(files);
    pthread_mutex_unlock(&files->lock);
    let_go(files, old);
}

bool um_open_files_is_plain(struct um_open_files *files, struct um_open_file *file)
{
    pthread_mutex_lock(&files->lock);
    bool plain = file->plain;
    pthread_mutex_unlock(&files->lock);
    return plain;
}

void um_open_files_set_plain(struct um_open_files *files, struct um_open_file *file)
{
    pthread_mutex_lock(&files->lock);
    file->plain = true;
    pthread_mutex_unlock(&files->lock);
}

void um_open_files_suspect(struct um_open_files *files, uint64_t node)
{
    pthread_mutex_lock(&files->lock);
    struct um_open_file *file = find(files, node);
    if (file != NULL)
        file->plain = false;
    pthread_mutex_unlock(&files->lock);
}

void um_open_files_drop(struct um_open_files *files, uint64_t node)
{
    pthread_mutex_lock(&files->lock);
    struct um_open_file *file = find(files, node);
    if (file != NULL)
        take_out(files, file);
    if (file != NULL && file->uses != 0) {
        file->dropped = true;
        file = NULL;
    }
    pthread_mutex_unlock(&files->lock);
    let_go(files, file);
}

uint32_t um_open_files_count(struct um_open_files *files)
{
    pthread_mutex_lock(&files->lock);
    uint32_t n = (uint32_t)files->by_node.n;
    pthread_mutex_unlock(&files->lock);
    return n;
}

int um_open_files_open(struct um_upper *upper, uint32_t capacity, struct um_open_files **out)
{
    struct um_open_files *files = calloc(1, sizeof *files);
    if (files == NULL)
        return -ENOMEM;
    files->upper = upper;
    files->capacity = capacity;
    pthread_mutex_init(&files->lock, NULL);
    *out = files;
    return 0;
}

void um_open_files_close(struct um_open_files *files)
{
    if (files == NULL)
        return;
    while (files->newest != NULL) {
        struct um_open_file *file = files->newest;
        take_out(files, file);
        let_go(files, file);
    }
    um_table_clear(&files->by_node, sizeof(struct entry));
    pthread_mutex_destroy(&files->lock);
    free(files);
}
