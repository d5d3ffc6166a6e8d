/*
 * system/fd_cache.h - a bounded number of open descriptors of directories.
 *
 * Purpose: reading a file, or looking up a name, opens by path only once in a while, however many
 * directory layers there are; and the daemon's descriptors are not used up by them. A descriptor is
 * kept under a key until a less recently used one has to make room.
 *
 * Ownership: the cache owns the descriptors that it was given; a *use* keeps one open until it is
 * given back.
 * Threads: every function but open and close may be called by any thread; `lock` guards all.
 */
#ifndef UM_FD_CACHE_H
#define UM_FD_CACHE_H

#include "base/base.h"

struct um_fd_cache;

struct um_fd_use {
    int fd;         /* valid until um_fd_cache_release */
    uint32_t entry; /* of the cache, or: */
};
#define UM_FD_OWN UINT32_MAX            /* closed by the release */
#define UM_FD_BORROWED (UINT32_MAX - 1) /* stays open */

/* `capacity` descriptors at most. 0 or -ENOMEM. */
int um_fd_cache_open(uint32_t capacity, struct um_fd_cache **out);
void um_fd_cache_close(struct um_fd_cache *cache);

/* Use the descriptor kept under `key` (not 0): true where there is one. */
bool um_fd_cache_get(struct um_fd_cache *cache, uint64_t key, struct um_fd_use *use);

/* Keep `fd`, which the cache takes over, and use it. Where nothing can make room, or the key is there
 * already, it is closed by the release. */
void um_fd_cache_put(struct um_fd_cache *cache, uint64_t key, int fd, struct um_fd_use *use);

void um_fd_cache_release(struct um_fd_cache *cache, struct um_fd_use *use);

/* What `key` stood for is no more: nobody gets its descriptor any more. */
void um_fd_cache_drop(struct um_fd_cache *cache, uint64_t key);

/* Close all that nobody uses, because the process has no descriptors left: false where there was
 * none to close. */
bool um_fd_cache_shed(struct um_fd_cache *cache);

#endif
