#include "fastpath/open_files.h"

#include <pthread.h>

#define BUCKETS 1024u

struct um_held_file {
    uint64_t node;
    struct um_held_file *next; /* in its bucket */
    struct um_held_file *newer, *older;
    uint32_t uses;
    bool write; /* opened for writing */
    bool plain;
    bool dropped; /* to be let go of when nobody uses it; not in its bucket any more */
};

struct um_held {
    struct um_upper *upper;
    uint32_t capacity;
    pthread_mutex_t lock;
    struct um_held_file *buckets[BUCKETS]; /* under lock, as all below */
    struct um_held_file *newest, *oldest;
    uint32_t n;
};

/* ---- the table, under the lock -------------------------------------------------------------------- */

static struct um_held_file **find_slot(struct um_held *held, uint64_t node)
{
    uint64_t hash = node * 0x9e3779b97f4a7c15ull;
    struct um_held_file **slot = &held->buckets[(hash >> 32) % BUCKETS];
    while (*slot != NULL && (*slot)->node != node)
        slot = &(*slot)->next;
    return slot;
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
    *find_slot(held, file->node) = file->next;
    unlink_age(held, file);
    held->n--;
}

static struct um_held_file *use_known(struct um_held *held, uint64_t node, bool write)
{
    struct um_held_file *file = *find_slot(held, node);
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
    struct um_held_file *file = held->n > held->capacity ? held->oldest : NULL;
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
static struct um_held_file *add(struct um_held *held, struct um_held_file *fresh)
{
    pthread_mutex_lock(&held->lock);
    struct um_held_file **slot = find_slot(held, fresh->node);
    struct um_held_file *file = *slot, *old = NULL;
    if (file != NULL) {
        file->write |= fresh->write;
        use_known(held, file->node, false);
        old = fresh;
    } else {
        file = *slot = fresh;
        file->uses = 1;
        link_newest(held, file);
        held->n++;
        old = make_room(held);
    }
    pthread_mutex_unlock(&held->lock);
    let_go(held, old);
    return file;
}

void um_held_shed(struct um_held *held)
{
    pthread_mutex_lock(&held->lock);
    uint32_t capacity = held->capacity;
    uint32_t wanted = held->n / 2;
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
    *out = add(held, fresh);
    return 0;
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
    struct um_held_file *file = *find_slot(held, node);
    if (file != NULL)
        file->plain = false;
    pthread_mutex_unlock(&held->lock);
}

void um_held_drop(struct um_held *held, uint64_t node)
{
    pthread_mutex_lock(&held->lock);
    struct um_held_file *file = *find_slot(held, node);
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
    uint32_t n = held->n;
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
    pthread_mutex_destroy(&held->lock);
    free(held);
}
