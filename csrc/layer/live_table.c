#include <dirent.h>
#include <fcntl.h>

#include "layer/live_state.h"

/* These are the records of names and inodes. Hash tables of their numbers find them, so that
 * records stay small: a walk over a million files leaves a hundred bytes for each. */

#define MOST_RECORDS (UINT32_MAX - 1) /* UM_INDEX_NONE is no record, and slots hold 1 + number */
#define EXTRA_NUMBERS \
    (1ull << 32) /* at the top of the span, for inodes that cannot use their st_ino */
#define ARENA_CHUNK 65536 /* bytes that are allocated at once */

/* ---- texts ------------------------------------------------------------------------------------------ */

struct um_live_arena {
    struct um_live_arena *next;
    size_t used, size;
    uint8_t bytes[];
};

int um_live_keep_text(struct um_live_arena **arena, struct um_slice text, const uint8_t **kept)
{
    struct um_live_arena *first = *arena;
    if (first == NULL || first->size - first->used < text.size) {
        size_t size = first == NULL ? 1024 : ARENA_CHUNK; /* a small directory costs little */
        first = malloc(sizeof *first + size);
        if (first == NULL)
            return -ENOMEM;
        *first = (struct um_live_arena){.next = *arena, .size = size};
        *arena = first;
    }
    *kept = first->bytes + first->used;
    if (text.size != 0)
        memcpy(first->bytes + first->used, text.data, text.size);
    first->used += text.size;
    return 0;
}

void um_live_arena_free(struct um_live_arena *arena)
{
    while (arena != NULL) {
        struct um_live_arena *next = arena->next;
        free(arena);
        arena = next;
    }
}

/* ---- hash tables; the lock is held ---------------------------------------------------------------- */

static uint64_t hash_name(const struct um_live *layer, uint32_t directory, struct um_slice text)
{
    return um_hash_keyed(&layer->key, directory, text);
}

static uint64_t hash_inode(const struct um_live *layer, uint32_t device, uint64_t ino)
{
    return um_hash_keyed(&layer->key, ino, um_slice_of(&device, sizeof device));
}

static struct um_slice text_of(const struct um_live_name *name)
{
    return um_slice_of(name->text, name->size);
}

/* Return the place of a name in its table, or the empty one where it belongs. */
static size_t name_place(const struct um_live *layer, uint32_t directory, struct um_slice text)
{
    size_t at = um_numbers_home(&layer->by_text, hash_name(layer, directory, text));
    for (uint32_t number; (number = um_numbers_at(&layer->by_text, at)) != UM_NUMBERS_NONE;
         at = um_numbers_behind(&layer->by_text, at)) {
        const struct um_live_name *name = &layer->names[number];
        if (name->directory == directory && um_slice_equal(text_of(name), text))
            break;
    }
    return at;
}

static bool same_birth(uint64_t a, uint64_t b)
{
    return a == b || a == 0 || b == 0;
}

/* Return the place of an inode that exists or existed; with `birth` NULL, of the one whose number
 * is `ino`. */
static size_t inode_place(const struct um_live *layer, uint32_t device, uint64_t ino,
                          const uint64_t *birth)
{
    size_t at = um_numbers_home(&layer->by_ino, hash_inode(layer, device, ino));
    for (uint32_t number; (number = um_numbers_at(&layer->by_ino, at)) != UM_NUMBERS_NONE;
         at = um_numbers_behind(&layer->by_ino, at)) {
        const struct um_live_inode *inode = &layer->inodes[number];
        bool meant = birth ? same_birth(inode->birth, *birth) : inode->extra == 0;
        if (inode->device == device && inode->ino == ino && meant)
            break;
    }
    return at;
}

static int room_for_names(struct um_live *layer, size_t more)
{
    size_t n = layer->n_names + more;
    if (n > MOST_RECORDS)
        return -E2BIG;
    int error = um_reserve((void **)&layer->names, &layer->names_capacity, n, sizeof *layer->names);
    if (error != 0)
        return error;
    int grown = um_numbers_reserve(&layer->by_text, more);
    for (uint32_t i = 0; grown > 0 && i < layer->n_names; i++) {
        const struct um_live_name *name = &layer->names[i];
        um_numbers_add(&layer->by_text, hash_name(layer, name->directory, text_of(name)), i);
    }
    return grown < 0 ? grown : 0;
}

static int room_for_inode(struct um_live *layer)
{
    size_t n = layer->n_inodes + 1;
    if (n > MOST_RECORDS)
        return -E2BIG;
    int error =
        um_reserve((void **)&layer->inodes, &layer->inodes_capacity, n, sizeof *layer->inodes);
    if (error != 0)
        return error;
    int grown = um_numbers_reserve(&layer->by_ino, 1);
    for (uint32_t i = 0; grown > 0 && i < layer->n_inodes; i++) {
        const struct um_live_inode *inode = &layer->inodes[i];
        um_numbers_add(&layer->by_ino, hash_inode(layer, inode->device, inode->ino), i);
    }
    return grown < 0 ? grown : 0;
}

/* ---- making records; the lock is held for writing ------------------------------------------------- */

/* Return the number of a name, creating it where it is new. There is room. */
static int need_name(struct um_live *layer, uint32_t directory, struct um_slice text, uint8_t type,
                     uint32_t *number)
{
    size_t at = name_place(layer, directory, text);
    const uint8_t *kept;
    *number = um_numbers_at(&layer->by_text, at);
    if (*number != UM_NUMBERS_NONE)
        return 0;
    int error = um_live_keep_text(&layer->arena, text, &kept);
    if (error != 0)
        return error;
    *number = (uint32_t)layer->n_names++;
    layer->names[*number] = (struct um_live_name){.text = kept,
                                                  .directory = directory,
                                                  .inode = UM_INDEX_NONE,
                                                  .size = (uint8_t)text.size,
                                                  .type = type};
    um_numbers_put(&layer->by_text, at, *number);
    return 0;
}

static bool same_device(const struct um_live_device *a, const struct um_live_device *b)
{
    return a->mount == b->mount && a->major == b->major && a->minor == b->minor;
}

static struct um_live_device device_of(const struct statx *status)
{
    return (struct um_live_device){.mount =
                                       status->stx_mask & STATX_MNT_ID ? status->stx_mnt_id : 0,
                                   .major = status->stx_dev_major,
                                   .minor = status->stx_dev_minor};
}

static int need_device(struct um_live *layer, const struct statx *status, uint32_t *device)
{
    struct um_live_device wanted = device_of(status);
    for (size_t i = 0; i < layer->n_devices; i++) {
        if (same_device(&layer->devices[i], &wanted)) {
            *device = (uint32_t)i;
            return 0;
        }
    }
    int error = um_reserve((void **)&layer->devices, &layer->devices_capacity, layer->n_devices + 1,
                           sizeof *layer->devices);
    if (error != 0)
        return error;
    *device = (uint32_t)layer->n_devices;
    layer->devices[layer->n_devices++] = wanted;
    return 0;
}

static uint64_t birth_of(const struct statx *status)
{
    const struct statx_timestamp *at = &status->stx_btime;
    return status->stx_mask & STATX_BTIME ? (uint64_t)at->tv_sec * 1000000000 + at->tv_nsec : 0;
}

static bool has_own_number(uint32_t device, uint64_t ino)
{
    return device == 0 && ino != 0 && ino < UM_LIVE_SPAN - EXTRA_NUMBERS;
}

/* Return the inode whose number is `ino`; UM_NUMBERS_NONE where there is none. */
static uint32_t find_number(const struct um_live *layer, uint32_t device, uint64_t ino)
{
    return um_numbers_at(&layer->by_ino, inode_place(layer, device, ino, NULL));
}

static int need_inode(struct um_live *layer, const struct statx *status, uint32_t name,
                      uint32_t *number)
{
    uint32_t device;
    int error = need_device(layer, status, &device);
    if (error == 0)
        error = room_for_inode(layer);
    if (error == 0)
        error = um_reserve((void **)&layer->extras, &layer->extras_capacity, layer->n_extras + 1,
                           sizeof *layer->extras);
    if (error != 0)
        return error;
    uint64_t birth = birth_of(status);
    size_t at = inode_place(layer, device, status->stx_ino, &birth);
    *number = um_numbers_at(&layer->by_ino, at);
    if (*number != UM_NUMBERS_NONE)
        return 0;
    *number = (uint32_t)layer->n_inodes;
    struct um_live_inode made = {.ino = status->stx_ino,
                                 .birth = birth,
                                 .device = device,
                                 .name = name,
                                 .type = IFTODT(status->stx_mode)};
    bool own =
        has_own_number(device, made.ino) && find_number(layer, device, made.ino) == UM_NUMBERS_NONE;
    if (name != UM_INDEX_NONE && !own) {
        layer->extras[layer->n_extras++] = *number;
        made.extra = (uint32_t)layer->n_extras;
    }
    layer->inodes[layer->n_inodes++] = made;
    um_numbers_put(&layer->by_ino, at, *number);
    return 0;
}

/* Bind the name to the inode. A directory has one name, and a type never changes. */
static int join(struct um_live *layer, uint32_t number, const struct statx *status, uint32_t inode)
{
    struct um_live_name *name = &layer->names[number];
    const struct um_live_inode *is = &layer->inodes[inode];
    if (is->type != IFTODT(status->stx_mode) || (is->type == DT_DIR && is->name != number) ||
        (name->inode != UM_INDEX_NONE && name->inode != inode) || name->type == DT_WHT)
        return -ESTALE;
    name->inode = inode;
    name->type = is->type;
    return 0;
}

/* ---- the face ------------------------------------------------------------------------------------------ */

int um_live_add(struct um_live *layer, uint32_t directory, struct um_slice text,
                const struct statx *status, struct um_child *child)
{
    uint32_t number = 0, inode = 0;
    pthread_rwlock_wrlock(&layer->lock);
    int error = room_for_names(layer, 1);
    if (error == 0)
        error = need_name(layer, directory, text, IFTODT(status->stx_mode), &number);
    if (error == 0)
        error = need_inode(layer, status, number, &inode);
    if (error == 0)
        error = join(layer, number, status, inode);
    if (error == 0)
        *child = (struct um_child){.name = text_of(&layer->names[number]),
                                   .dirent = number,
                                   .inode = inode,
                                   .type = layer->names[number].type};
    pthread_rwlock_unlock(&layer->lock);
    return error;
}

int um_live_add_names(struct um_live *layer, uint32_t directory, const struct um_slice *texts,
                      const uint8_t *types, size_t n, uint32_t *numbers)
{
    pthread_rwlock_wrlock(&layer->lock);
    int error = room_for_names(layer, n);
    for (size_t i = 0; error == 0 && i < n; i++)
        error = need_name(layer, directory, texts[i], types[i], &numbers[i]);
    pthread_rwlock_unlock(&layer->lock);
    return error;
}

bool um_live_get_name(struct um_live *layer, uint32_t number, struct um_live_name *name)
{
    pthread_rwlock_rdlock(&layer->lock);
    bool found = number < layer->n_names;
    if (found)
        *name = layer->names[number];
    pthread_rwlock_unlock(&layer->lock);
    return found;
}

bool um_live_get_inode(struct um_live *layer, uint32_t number, struct um_live_inode *inode)
{
    pthread_rwlock_rdlock(&layer->lock);
    bool found = number < layer->n_inodes;
    if (found)
        *inode = layer->inodes[number];
    pthread_rwlock_unlock(&layer->lock);
    return found;
}

bool um_live_find_name(struct um_live *layer, uint32_t directory, struct um_slice text,
                       uint32_t *number, struct um_live_name *name)
{
    pthread_rwlock_rdlock(&layer->lock);
    *number = um_numbers_at(&layer->by_text, name_place(layer, directory, text));
    bool found = *number != UM_NUMBERS_NONE;
    if (found)
        *name = layer->names[*number];
    pthread_rwlock_unlock(&layer->lock);
    return found;
}

int um_live_find_number(struct um_live *layer, uint64_t number, uint32_t *inode)
{
    int error = 0;
    *inode = 0;
    if (number == 0)
        return 0;
    pthread_rwlock_rdlock(&layer->lock);
    if (has_own_number(0, number)) {
        *inode = find_number(layer, 0, number);
        error = *inode != UM_NUMBERS_NONE ? 0 : -ENOENT;
    } else if (number < UM_LIVE_SPAN && UM_LIVE_SPAN - number <= layer->n_extras) {
        *inode = layer->extras[UM_LIVE_SPAN - number - 1];
    } else {
        error = -ESTALE;
    }
    pthread_rwlock_unlock(&layer->lock);
    return error;
}

bool um_live_is_inode(struct um_live *layer, const struct um_live_inode *inode,
                      const struct statx *status)
{
    struct um_live_device device = device_of(status);
    pthread_rwlock_rdlock(&layer->lock);
    bool same = same_device(&layer->devices[inode->device], &device);
    pthread_rwlock_unlock(&layer->lock);
    return same && inode->ino == status->stx_ino && inode->type == IFTODT(status->stx_mode) &&
           same_birth(inode->birth, birth_of(status));
}

void um_live_more_free(struct um_live_more *more)
{
    if (more == NULL)
        return;
    free((void *)more->redirect.data);
    free((void *)more->target.data);
    free(more);
}

struct um_live_more *um_live_set_more(struct um_live *layer, uint32_t number,
                                      struct um_live_more *more)
{
    pthread_rwlock_wrlock(&layer->lock);
    struct um_live_inode *inode = &layer->inodes[number];
    if (inode->more == NULL)
        inode->more = um_steal(&more);
    struct um_live_more *kept = inode->more;
    pthread_rwlock_unlock(&layer->lock);
    um_live_more_free(more);
    return kept;
}

struct um_live_list *um_live_set_list(struct um_live *layer, uint32_t number,
                                      struct um_live_list *list)
{
    pthread_rwlock_wrlock(&layer->lock);
    struct um_live_inode *inode = &layer->inodes[number];
    if (inode->list == NULL)
        inode->list = um_steal(&list);
    struct um_live_list *kept = inode->list;
    pthread_rwlock_unlock(&layer->lock);
    free(list);
    return kept;
}

void um_live_set_own_data(struct um_live *layer, uint32_t number)
{
    pthread_rwlock_wrlock(&layer->lock);
    layer->inodes[number].own_data = true;
    pthread_rwlock_unlock(&layer->lock);
}

uint64_t um_live_number(struct um_live *layer, uint32_t number)
{
    struct um_live_inode inode;
    if (number == 0 || !um_live_get_inode(layer, number, &inode))
        return 0;
    return inode.extra == 0 ? inode.ino : UM_LIVE_SPAN - inode.extra;
}

uint32_t um_live_type(struct um_live *layer, uint32_t number)
{
    struct um_live_inode inode;
    return um_live_get_inode(layer, number, &inode) ? DTTOIF(inode.type) : 0;
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

int um_live_table_open(struct um_live *layer)
{
    uint32_t root;
    struct statx status;
    const int flags = AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
    if (statx(layer->fd, "", flags, UM_LIVE_STATX, &status) != 0)
        return -errno;
    if (!S_ISDIR(status.stx_mode))
        return -ENOTDIR;
    int error = um_hash_key_make(&layer->key);
    if (error == 0)
        error = room_for_names(layer, 1);
    return error ? error : need_inode(layer, &status, UM_INDEX_NONE, &root);
}

void um_live_table_close(struct um_live *layer)
{
    for (size_t i = 0; i < layer->n_inodes; i++) {
        um_live_more_free(layer->inodes[i].more);
        free(layer->inodes[i].list);
    }
    um_live_arena_free(layer->arena);
    free(layer->names);
    free(layer->inodes);
    free(layer->extras);
    free(layer->devices);
    um_numbers_clear(&layer->by_text);
    um_numbers_clear(&layer->by_ino);
}
