#include "fastpath/open_files.h"

#include <pthread.h>

#include "base/table.h"

struct um_held_file {
    uint64_t node;
    struct um_held_file *newer, *older;
    uint32_t uses;
    bool write; /* opened for writing */
    bool plain;
    bool dropped; /* to be let go of when nobody uses it; not in the table any more */
};

struct entry {
    uint64_t node; /* the key */
    struct um_held_file *file;
};

struct um_held {
    struct um_upper *upper;
    uint32_t capacity;
    pthread_mutex_t lock;
    struct um_table files; /* under lock, as all below; of struct entry */
    struct um_held_file *newest, *oldest;
};

/* ---- the table, under the lock -------------------------------------------------------------------- */

static struct um_held_file *find(const struct um_held *held, uint64_t node)
{
    const struct entry *entry = um_table_find(&held->files, sizeof *entry, node);
    return entry ? entry->file : NULL;
}

static void unlink_age(struct um_held *held, struct um_held_file *file)
{
    *(file->newer ? &file->newer->older : &held->newest) = file->older;
    *(file->older ? &file->older->newer : &held->oldest) = file->newer;
}

static void link_newest(struct um_held *held, struct um_held_file *file)
{
    file->newer = NULL;
    file->older = held->newest;
    *(held->newest ? &held->newest->newer : &held->oldest) = file;
    held->newest = file;
}

static void take_out(struct um_held *held, struct um_held_file *file)
{
    um_table_remove(&held->files, sizeof(struct entry),
                    um_table_find(&held->files, sizeof(struct entry), file->node));
    unlink_age(held, file);
}

static struct um_held_file *use_known(struct um_held *held, uint64_t node, bool write)
{
    struct um_held_file *file = find(held, node);
    if (file == NULL || (write && !file->write))
        return NULL;
    file->uses++;
    unlink_age(held, file);
    link_newest(held, file);
    return file;
}

/* The oldest file that nobody uses, taken out; NULL where there is none, or room enough. */
static struct um_held_file *make_room(struct um_held *held)
{
    struct um_held_file *file = held->files.n > held->capacity ? held->oldest : NULL;
    while (file != NULL && file->uses != 0)
        file = file->newer;
    if (file != NULL)
        take_out(held, file);
    return file;
}

/* ---- outside of the lock --------------------------------------------------------------------------- */

static void let_go(struct um_held *held, struct um_held_file *file)
{
    if (file == NULL)
        return;
    um_upper_release(held->upper, file->node);
    free(file);
}

struct um_held_file *um_held_find(struct um_held *held, uint64_t node, bool write)
{
    pthread_mutex_lock(&held->lock);
    struct um_held_file *file = use_known(held, node, write);
    pthread_mutex_unlock(&held->lock);
    return file;
}

/* The file was opened; somebody else may have done so meanwhile, or it is held for reading only: then
 * that one open stays, and the other is given back. */
static int add(struct um_held *held, struct um_held_file *fresh, struct um_held_file **out)
{
    struct um_held_file *old = fresh;
    int error = 0;
    pthread_mutex_lock(&held->lock);
    *out = use_known(held, fresh->node, false);
    if (*out != NULL)
        (*out)->write |= fresh->write;
    else
        error = um_table_reserve(&held->files, sizeof(struct entry), 1);
    if (*out == NULL && error == 0) {
        struct entry *entry = um_table_add(&held->files, sizeof *entry, fresh->node);
        *out = entry->file = fresh;
        fresh->uses = 1;
        link_newest(held, fresh);
        old = make_room(held);
    }
    pthread_mutex_unlock(&held->lock);
    let_go(held, old);
    return error;
}

void um_held_shed(struct um_held *held)
{
    pthread_mutex_lock(&held->lock);
    uint32_t capacity = held->capacity;
    uint32_t wanted = (uint32_t)held->files.n / 2;
    for (;;) {
        held->capacity = wanted;
        struct um_held_file *file = make_room(held);
        held->capacity = capacity;
        pthread_mutex_unlock(&held->lock);
        if (file == NULL)
            return;
        let_go(held, file);
        pthread_mutex_lock(&held->lock);
    }
}

int um_held_use(struct um_held *held, uint64_t node, bool write, struct um_held_file **out)
{
    *out = um_held_find(held, node, write);
    if (*out != NULL)
        return 0;
    struct um_held_file *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    fresh->node = node;
    fresh->write = write;
    int error = um_upper_open_file(held->upper, node, write ? UM_OPEN_WRITE : 0);
    if (error == -EMFILE || error == -ENFILE) {
        um_held_shed(held);
        error = um_upper_open_file(held->upper, node, write ? UM_OPEN_WRITE : 0);
    }
    if (error != 0) {
        free(fresh);
        return error;
    }
    return add(held, fresh, out);
}

void um_held_done(struct um_held *held, struct um_held_file *file)
{
    struct um_held_file *old = NULL;
    pthread_mutex_lock(&held->lock);
    if (--file->uses == 0 && file->dropped)
        old = file;
    else
        old = make_room(held);
    pthread_mutex_unlock(&held->lock);
    let_go(held, old);
}

bool um_held_is_plain(struct um_held *held, struct um_held_file *file)
{
    pthread_mutex_lock(&held->lock);
    bool plain = file->plain;
    pthread_mutex_unlock(&held->lock);
    return plain;
}

void um_held_set_plain(struct um_held *held, struct um_held_file *file)
{
    pthread_mutex_lock(&held->lock);
    file->plain = true;
    pthread_mutex_unlock(&held->lock);
}

void um_held_suspect(struct um_held *held, uint64_t node)
{
    pthread_mutex_lock(&held->lock);
    struct um_held_file *file = find(held, node);
    if (file != NULL)
        file->plain = false;
    pthread_mutex_unlock(&held->lock);
}

void um_held_drop(struct um_held *held, uint64_t node)
{
    pthread_mutex_lock(&held->lock);
    struct um_held_file *file = find(held, node);
    if (file != NULL)
        take_out(held, file);
    if (file != NULL && file->uses != 0) {
        file->dropped = true;
        file = NULL;
    }
    pthread_mutex_unlock(&held->lock);
    let_go(held, file);
}

uint32_t um_held_count(struct um_held *held)
{
    pthread_mutex_lock(&held->lock);
    uint32_t n = (uint32_t)held->files.n;
    pthread_mutex_unlock(&held->lock);
    return n;
}

int um_held_open(struct um_upper *upper, uint32_t capacity, struct um_held **out)
{
    struct um_held *held = calloc(1, sizeof *held);
    if (held == NULL)
        return -ENOMEM;
    held->upper = upper;
    held->capacity = capacity;
    pthread_mutex_init(&held->lock, NULL);
    *out = held;
    return 0;
}

void um_held_close(struct um_held *held)
{
    if (held == NULL)
        return;
    while (held->newest != NULL) {
        struct um_held_file *file = held->newest;
        take_out(held, file);
        let_go(held, file);
    }
    um_table_clear(&held->files, sizeof(struct entry));
    pthread_mutex_destroy(&held->lock);
    free(held);
}
