/*
 * system/fd_cache.h - a bounded cache of open descriptors.
 *
 * Purpose: reading a file or looking up a name rarely has to open a path, however many directory
 * layers there are, and the daemon does not run out of descriptors. A descriptor stays under its
 * key until it is the least recently used one and another needs its room.
 *
 * Ownership: the cache owns the descriptors that it was given. A *use* keeps one open until it is
 * released.
 * Threads: every function but open and close may be called by any thread; `lock` guards
 * everything.
 */
#ifndef UM_FD_CACHE_H
#define UM_FD_CACHE_H

#include "base/base.h"

struct um_fd_cache;

struct um_fd_use {
    int fd;         /* valid until um_fd_cache_release */
    uint32_t entry; /* of the cache, or: */
};
#define UM_FD_OWN UINT32_MAX            /* the release closes it */
#define UM_FD_BORROWED (UINT32_MAX - 1) /* stays open */

/* Make a cache of at most `capacity` descriptors. 0 or -ENOMEM. */
int um_fd_cache_open(uint32_t capacity, struct um_fd_cache **out);
void um_fd_cache_close(struct um_fd_cache *cache);

/* Use the descriptor that is kept under `key`, which is not 0. False where there is none. */
bool um_fd_cache_get(struct um_fd_cache *cache, uint64_t key, struct um_fd_use *use);

/* Give `fd` to the cache, and use it. Where no other one can make room, or the key is already
 * there, the release closes it. */
void um_fd_cache_put(struct um_fd_cache *cache, uint64_t key, int fd, struct um_fd_use *use);

void um_fd_cache_release(struct um_fd_cache *cache, struct um_fd_use *use);

/* Forget `key`, whose object is gone: later calls do not get its descriptor. */
void um_fd_cache_drop(struct um_fd_cache *cache, uint64_t key);

/* Close all unused descriptors, because the process has none left. False where there was none to
 * close. */
bool um_fd_cache_shed(struct um_fd_cache *cache);

#endif
