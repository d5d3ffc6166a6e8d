#include <dirent.h>

#include "layer/live_state.h"

/* Finding all names of a file takes reading all directories of a layer: one getdents(2) and one
 * stat for each directory, and none for files. */

/* ---- all directories ------------------------------------------------------------------------------------ */

/* Inodes of directories, parents before children. */
struct walk {
    uint32_t *directories;
    size_t n, capacity;
};

static int push(struct walk *walk, uint32_t directory)
{
    int error = um_reserve((void **)&walk->directories, &walk->capacity, walk->n + 1,
                           sizeof *walk->directories);
    if (error == 0)
        walk->directories[walk->n++] = directory;
    return error;
}

/* Add the subdirectories among the items of a directory to the walk. */
static int push_children(struct um_live *layer, uint32_t directory,
                         const struct um_live_items *items, struct walk *walk)
{
    for (size_t i = 0; i < items->n; i++) {
        struct um_child child;
        if (items->all[i].type != DT_DIR)
            continue;
        int error = um_live_find(layer, directory, items->all[i].text, &child);
        if (error == 0 && child.type == DT_DIR)
            error = push(walk, child.inode);
        if (error != 0 && error != -ENOENT)
            return error;
    }
    return 0;
}

/* ---- names of files --------------------------------------------------------------------------------------- */

/* A name of a file, while it is unknown which files have several. */
struct sighting {
    uint64_t ino;
    uint32_t device, directory;
    struct um_slice text; /* in the arena of the scan */
    uint8_t type;
};

struct scan {
    struct sighting *all;
    size_t n, capacity;
    struct um_live_arena *arena;
};

static int add_sighting(struct scan *scan, const struct um_live_item *item, uint32_t directory,
                        uint32_t device)
{
    int error = um_reserve((void **)&scan->all, &scan->capacity, scan->n + 1, sizeof *scan->all);
    if (error != 0)
        return error;
    struct sighting *made = &scan->all[scan->n];
    *made = (struct sighting){.ino = item->ino,
                              .device = device,
                              .directory = directory,
                              .text = item->text,
                              .type = item->type};
    error = um_live_keep_text(&scan->arena, item->text, &made->text.data);
    scan->n += error == 0;
    return error;
}

/* Scan one directory. `scan` is NULL where only the subdirectories matter. */
static int scan_directory(struct um_live *layer, uint32_t number, struct walk *walk,
                          struct scan *scan)
{
    struct um_live_inode directory;
    struct um_live_items items;
    if (!um_live_get_inode(layer, number, &directory))
        return -ESTALE;
    int error = um_live_read_directory(layer, number, &items);
    if (error != 0)
        return error;
    for (size_t i = 0; error == 0 && scan != NULL && i < items.n; i++) {
        if (items.all[i].type != DT_DIR && items.all[i].type != DT_WHT)
            error = add_sighting(scan, &items.all[i], number, directory.device);
    }
    if (error == 0)
        error = push_children(layer, number, &items, walk);
    um_live_items_free(&items);
    return error;
}

/* Return whether a directory may be skipped: one that may not be read, or is a mount point, has no
 * names that count, because nobody can list it through the mount. */
static bool can_be_skipped(int error)
{
    return error == -EACCES || error == -EPERM || error == -EXDEV;
}

static int walk_all(struct um_live *layer, struct walk *walk, struct scan *scan)
{
    int error = push(walk, 0);
    for (size_t at = 0; error == 0 && at < walk->n; at++) {
        error = scan_directory(layer, walk->directories[at], walk, scan);
        if (can_be_skipped(error))
            error = 0;
    }
    return error;
}

/* ---- maps -------------------------------------------------------------------------------------------------- */

static int compare_places(uint32_t device, uint64_t ino, uint32_t other_device, uint64_t other_ino)
{
    if (device != other_device)
        return device < other_device ? -1 : 1;
    return (ino > other_ino) - (ino < other_ino);
}

static int compare_sightings(const void *a, const void *b)
{
    const struct sighting *left = (const struct sighting *)a;
    const struct sighting *right = (const struct sighting *)b;
    return compare_places(left->device, left->ino, right->device, right->ino);
}

static bool same_file(const struct sighting *a, const struct sighting *b)
{
    return compare_sightings(a, b) == 0;
}

/* Keep the sightings of files that have several names. */
static void keep_links(struct scan *scan)
{
    size_t kept = 0;
    for (size_t i = 0; i < scan->n; i++) {
        bool before = i != 0 && same_file(&scan->all[i], &scan->all[i - 1]);
        bool after = i + 1 < scan->n && same_file(&scan->all[i], &scan->all[i + 1]);
        if (before || after) {
            struct sighting moved = scan->all[i]; /* kept <= i: the one before i still stands */
            scan->all[kept++] = moved;
        }
    }
    scan->n = kept;
}

static int make_map(struct um_live *layer, const struct scan *scan, struct um_live_map **out)
{
    struct um_live_map *map = malloc(sizeof *map + scan->n * sizeof map->places[0]);
    int error = map ? 0 : -ENOMEM;
    for (size_t i = 0; error == 0 && i < scan->n; i++) {
        const struct sighting *at = &scan->all[i];
        map->places[i] = (struct um_live_map_entry){.ino = at->ino, .device = at->device};
        error =
            um_live_add_names(layer, at->directory, &at->text, &at->type, 1, &map->places[i].name);
    }
    if (error != 0) {
        free(map);
        return error;
    }
    map->n = scan->n;
    *out = map;
    return 0;
}

static int scan_map(struct um_live *layer, bool all, struct um_live_map **out)
{
    struct scan scan = {0};
    struct walk walk = {0};
    int error = walk_all(layer, &walk, &scan);
    free(walk.directories);
    if (error == 0 && scan.n != 0)
        qsort(scan.all, scan.n, sizeof *scan.all, compare_sightings);
    if (error == 0 && !all)
        keep_links(&scan);
    if (error == 0)
        error = make_map(layer, &scan, out);
    free(scan.all);
    um_live_arena_free(scan.arena);
    return error;
}

/* Return a map of the layer; the first caller makes it. */
static int need_map(struct um_live *layer, bool all, const struct um_live_map **out)
{
    _Atomic(struct um_live_map *) *place = all ? &layer->files : &layer->links;
    int error = 0;
    struct um_live_map *map = atomic_load(place);
    if (map == NULL) {
        pthread_mutex_lock(&layer->scan_lock);
        map = atomic_load(place);
        if (map == NULL)
            error = scan_map(layer, all, &map);
        if (error == 0)
            atomic_store(place, map);
        pthread_mutex_unlock(&layer->scan_lock);
    }
    *out = map;
    return error;
}

/* Find the first entry of a file in a map, and how many it has. */
static size_t find_places(const struct um_live_map *map, uint32_t device, uint64_t ino, size_t *n)
{
    size_t low = 0, high = map->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct um_live_map_entry *at = &map->places[middle];
        if (compare_places(at->device, at->ino, device, ino) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *n = 0;
    while (low + *n < map->n && map->places[low + *n].device == device &&
           map->places[low + *n].ino == ino)
        ++*n;
    return low;
}

/* ---- the face ------------------------------------------------------------------------------------------------ */

/* Return the names of a file in the map; none where the map does not have it. */
static int mapped_names(struct um_live *layer, const struct um_live_inode *inode,
                        struct um_place **places, size_t *n)
{
    const struct um_live_map *map = NULL;
    int error = need_map(layer, false, &map);
    if (error != 0)
        return error;
    size_t first = find_places(map, inode->device, inode->ino, n);
    *places = calloc(*n + 1, sizeof **places);
    if (*places == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < *n; i++) {
        struct um_live_name name = {0};
        uint32_t at = map->places[first + i].name;
        um_live_get_name(layer, at, &name);
        (*places)[i] = (struct um_place){name.directory, at};
    }
    return 0;
}

int um_live_names(struct um_live *layer, uint32_t number, uint32_t nlink, struct um_place **places,
                  size_t *n)
{
    struct um_live_inode inode;
    struct um_place own;
    int error = um_live_place(layer, number, &own.directory, &own.dirent);
    if (error != 0 || !um_live_get_inode(layer, number, &inode))
        return -ESTALE;
    *places = NULL;
    *n = 0;
    if (nlink > 1) {
        error = mapped_names(layer, &inode, places, n);
        if (error != 0 || *n != 0)
            return error;
        free(*places); /* its other names are outside of this directory */
    }
    *places = malloc(sizeof own);
    if (*places == NULL)
        return -ENOMEM;
    **places = own;
    *n = 1;
    return 0;
}

/* Find the inode of a number that was not seen yet, by its names. */
static int search(struct um_live *layer, uint64_t number, uint32_t *inode)
{
    const struct um_live_map *map = NULL;
    size_t n;
    int error = need_map(layer, true, &map);
    if (error != 0)
        return error;
    size_t first = find_places(map, 0, number, &n);
    for (size_t i = 0; i < n; i++) {
        struct um_live_name name;
        struct um_child child;
        if (!um_live_get_name(layer, map->places[first + i].name, &name))
            continue;
        error = um_live_find(layer, name.directory, um_slice_of(name.text, name.size), &child);
        if (error == 0 && child.type != DT_WHT && um_live_number(layer, child.inode) == number) {
            *inode = child.inode;
            return 0;
        }
    }
    return -ESTALE;
}

int um_live_seek(struct um_live *layer, uint64_t number, uint32_t *inode)
{
    int error = um_live_find_number(layer, number, inode);
    return error == -ENOENT ? search(layer, number, inode) : error;
}

int um_live_redirects(struct um_live *layer, uint32_t **directories, size_t *n)
{
    struct walk walk = {0};
    size_t kept = 0;
    int error = walk_all(layer, &walk, NULL);
    for (size_t at = 0; error == 0 && at < walk.n; at++) {
        struct um_slice redirect;
        bool refused;
        error = um_live_redirect(layer, walk.directories[at], &redirect, &refused);
        if (error == 0 && redirect.size != 0)
            walk.directories[kept++] = walk.directories[at];
        else if (can_be_skipped(error))
            error = 0;
    }
    if (error != 0) {
        free(walk.directories);
        return error;
    }
    *directories = walk.directories;
    *n = kept;
    return 0;
}
