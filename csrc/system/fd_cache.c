#include "system/fd_cache.h"

#include <pthread.h>

struct entry {
    uint64_t key; /* 0: empty */
    uint64_t used; /* when it was last asked for */
    int fd;
    uint32_t users;
};

struct um_fd_cache {
    pthread_mutex_t lock;
    uint64_t clock;    /* under lock */
    uint32_t capacity; /* set once */
    struct entry entries[]; /* under lock */
};

int um_fd_cache_open(uint32_t capacity, struct um_fd_cache **out)
{
    struct um_fd_cache *cache = calloc(1, sizeof *cache + capacity * sizeof cache->entries[0]);
    if (cache == NULL)
        return -ENOMEM;
    pthread_mutex_init(&cache->lock, NULL);
    cache->capacity = capacity;
    *out = cache;
    return 0;
}

void um_fd_cache_close(struct um_fd_cache *cache)
{
    if (cache == NULL)
        return;
    um_fd_cache_shed(cache);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* Return the entry of a key (of 0: an empty entry), or `capacity` where there is none. Scanning a
 * hundred keys is faster than computing a hash and following it. */
static uint32_t find(const struct um_fd_cache *cache, uint64_t key)
{
    uint32_t at = 0;
    while (at < cache->capacity && cache->entries[at].key != key)
        at++;
    return at;
}

static void use_entry(struct um_fd_cache *cache, uint32_t at, struct um_fd_use *use)
{
    struct entry *entry = &cache->entries[at];
    entry->used = ++cache->clock;
    entry->users++;
    *use = (struct um_fd_use){.fd = entry->fd, .entry = at};
}

bool um_fd_cache_get(struct um_fd_cache *cache, uint64_t key, struct um_fd_use *use)
{
    pthread_mutex_lock(&cache->lock);
    uint32_t at = find(cache, key);
    bool found = at < cache->capacity;
    if (found)
        use_entry(cache, at, use);
    pthread_mutex_unlock(&cache->lock);
    return found;
}

/* Return the least recently used entry among those that are unused now. */
static uint32_t find_oldest(const struct um_fd_cache *cache)
{
    uint32_t oldest = cache->capacity;
    for (uint32_t at = 0; at < cache->capacity; at++) {
        const struct entry *entry = &cache->entries[at];
        if (entry->users == 0 &&
            (oldest == cache->capacity || entry->used < cache->entries[oldest].used))
            oldest = at;
    }
    return oldest;
}

void um_fd_cache_put(struct um_fd_cache *cache, uint64_t key, int fd, struct um_fd_use *use)
{
    int evicted = -1;
    *use = (struct um_fd_use){.fd = fd, .entry = UM_FD_OWN};
    pthread_mutex_lock(&cache->lock);
    if (find(cache, key) == cache->capacity) {
        uint32_t at = find(cache, 0);
        if (at == cache->capacity)
            at = find_oldest(cache);
        if (at < cache->capacity) {
            if (cache->entries[at].key != 0)
                evicted = cache->entries[at].fd;
            cache->entries[at] = (struct entry){.key = key, .fd = fd};
            use_entry(cache, at, use);
        }
    }
    pthread_mutex_unlock(&cache->lock);
    if (evicted >= 0)
        close(evicted);
}

void um_fd_cache_release(struct um_fd_cache *cache, struct um_fd_use *use)
{
    if (use->entry == UM_FD_OWN) {
        if (use->fd >= 0)
            close(use->fd);
    } else if (use->entry != UM_FD_BORROWED) {
        pthread_mutex_lock(&cache->lock);
        cache->entries[use->entry].users--;
        pthread_mutex_unlock(&cache->lock);
    }
    use->fd = -1;
    use->entry = UM_FD_OWN;
}

#define DROPPED UINT64_MAX /* the key of a dropped entry that is still in use */

void um_fd_cache_drop(struct um_fd_cache *cache, uint64_t key)
{
    int fd = -1;
    pthread_mutex_lock(&cache->lock);
    uint32_t at = find(cache, key);
    if (at < cache->capacity && cache->entries[at].users != 0) {
        cache->entries[at].key = DROPPED;
    } else if (at < cache->capacity) {
        fd = cache->entries[at].fd;
        cache->entries[at] = (struct entry){0};
    }
    pthread_mutex_unlock(&cache->lock);
    if (fd >= 0)
        close(fd);
}

bool um_fd_cache_shed(struct um_fd_cache *cache)
{
    bool any = false;
    pthread_mutex_lock(&cache->lock);
    for (uint32_t at = 0; at < cache->capacity; at++) {
        struct entry *entry = &cache->entries[at];
        if (entry->key == 0 || entry->users != 0)
            continue;
        close(entry->fd);
        *entry = (struct entry){0};
        any = true;
    }
    pthread_mutex_unlock(&cache->lock);
    return any;
}
