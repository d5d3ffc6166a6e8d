/*
 * layer/live_state.h - declarations that the files of live directories share. Each file uses those
 * below it:
 *
 *   live_scan.c   scans of all directories: names of a file, redirects
 *   live_list.c   reading directories
 *   live.c        the other public functions
 *   live_reach.c  reaching names and inodes on disk; their marks
 *   live_table.c  records of names and inodes
 *
 * Ownership: struct um_live owns all records until um_live_close.
 * Threads: `lock` guards the arrays and tables and the records in them; readers copy a record out.
 * Texts, and everything that `more` points to, never move, and are freed with the layer.
 */
#ifndef UM_LIVE_STATE_H
#define UM_LIVE_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/keyed_hash.h"
#include "base/table.h"
#include "layer/live.h"
#include "marks/whiteout.h"

/* A name in a directory. */
struct um_live_name {
    const uint8_t *text; /* not NUL-terminated */
    uint32_t directory;  /* the inode of the directory */
    uint32_t inode;      /* UM_INDEX_NONE: not looked up yet; of a whiteout always */
    uint8_t size;
    uint8_t type; /* DT_… */
};

/* Facts about an inode that are read when they are first needed. */
struct um_live_more {
    uint32_t flags;           /* of a directory: UM_INODE_…, and: */
    bool marks_whiteouts;     /* it may hold files that an xattr makes whiteouts */
    bool refused; /* a mark that leads elsewhere is not trusted */
    bool metacopy; /* of a file: a trusted mark says that a layer below has its data */
    struct um_slice redirect; /* size 0: none */
    struct um_slice target;   /* of a symlink */
};

/* The children of a directory. */
struct um_live_list {
    uint32_t n;
    uint32_t names[];
};

struct um_live_inode {
    uint64_t ino, birth; /* `ino` is reused after a removal, `birth` is not; 0: unknown */
    struct um_live_more *more; /* set once; NULL before */
    struct um_live_list *list; /* of a directory; set once; NULL before */
    uint32_t device; /* number in `devices` */
    uint32_t name; /* the first of its names that was seen; UM_INDEX_NONE for the root */
    uint32_t extra; /* 0: its number is `ino`; else 1 + its place in `extras` */
    uint8_t type; /* DT_… */
    bool own_data; /* a file that was found to be no metacopy */
};

/* Every statx(2) asks for these. */
#define UM_LIVE_STATX (STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID)

/* The scope in which st_ino is unique. A subvolume is another device on the same mount, a bind
 * mount another mount of the same device. */
struct um_live_device {
    uint64_t mount;
    uint32_t major, minor;
};

/* An entry of a map from files to names: all names of files that have several (`links`), or of all
 * files (`files`). */
struct um_live_map_entry {
    uint64_t ino;
    uint32_t device, name;
};

struct um_live_map {
    size_t n;
    struct um_live_map_entry places[]; /* sorted by device and ino */
};

struct um_live_arena; /* of texts */

struct um_live {
    int fd, shown_fd;
    uint32_t tag, believes; /* UM_BELIEVE_… */
    bool is_private; /* nobody can mount anything below `fd` (system/open_beneath.h) */
    bool is_removable; /* see um_live_setup */
    uint64_t hidden_devices[UM_HIDDEN_MAX], hidden_inodes[UM_HIDDEN_MAX]; /* tree/tree.h */
    struct um_fd_cache *cache;
    struct um_refusals *refusals;
    struct um_hash_key key;

    pthread_rwlock_t lock;
    struct um_live_name *names; /* under lock */
    size_t n_names, names_capacity; /* under lock */
    struct um_live_inode *inodes; /* under lock */
    size_t n_inodes, inodes_capacity;
    uint32_t *extras; /* under lock: inodes whose number is not their st_ino */
    size_t n_extras, extras_capacity;
    struct um_live_device *devices; /* under lock; 0 is that of the root */
    size_t n_devices, devices_capacity;
    struct um_numbers by_text; /* under lock; names by directory and text */
    struct um_numbers by_ino; /* under lock; inodes by device and ino */
    struct um_live_arena *arena; /* under lock */

    pthread_mutex_t scan_lock; /* one thread at a time makes the maps; then they stay */
    _Atomic(struct um_live_map *) links, files;
};

/* ---- layer/live_table.c ------------------------------------------------------------------------- */

int um_live_table_open(struct um_live *layer);
void um_live_table_close(struct um_live *layer);

/* Copy a record out; false (or -ESTALE) where there is none. */
bool um_live_get_name(struct um_live *layer, uint32_t number, struct um_live_name *name);
bool um_live_get_inode(struct um_live *layer, uint32_t number, struct um_live_inode *inode);
bool um_live_find_name(struct um_live *layer, uint32_t directory, struct um_slice text,
                       uint32_t *number, struct um_live_name *name);

/* Record the names of a directory: texts[i] has type types[i] and gets the number numbers[i]. */
int um_live_add_names(struct um_live *layer, uint32_t directory, const struct um_slice *texts,
                      const uint8_t *types, size_t n, uint32_t *numbers);

/* Record the statx of a name. -ESTALE where the name was another object before. */
int um_live_add(struct um_live *layer, uint32_t directory, struct um_slice text,
                const struct statx *status, struct um_child *child);

/* Find the inode with a file number among those that were seen. -ENOENT: the disk may still have
 * it. -ESTALE. */
int um_live_find_number(struct um_live *layer, uint64_t number, uint32_t *inode);

/* Attach facts to an inode, unless another thread already did; return those that stay. The
 * argument is taken over. */
struct um_live_more *um_live_set_more(struct um_live *layer, uint32_t inode,
                                      struct um_live_more *more);
struct um_live_list *um_live_set_list(struct um_live *layer, uint32_t inode,
                                      struct um_live_list *list);
void um_live_set_own_data(struct um_live *layer, uint32_t inode);
void um_live_more_free(struct um_live_more *more);

/* Return whether a status is that of the inode. */
bool um_live_is_inode(struct um_live *layer, const struct um_live_inode *inode,
                      const struct statx *status);

/* Copy texts into an arena, where they never move, and free all of them together. */
int um_live_keep_text(struct um_live_arena **arena, struct um_slice text, const uint8_t **kept);
void um_live_arena_free(struct um_live_arena *arena);

/* ---- layer/live_reach.c ---------------------------------------------------------------------------- */

/* An object on disk that was reached: a name in a directory whose descriptor is in use or, with an
 * empty name, that directory itself. */
struct um_live_reach {
    struct um_fd_use use;
    struct um_live *exposed; /* set where the name may be a mount point (system/open_beneath.h) */
    char name[256]; /* NUL-terminated */
};

/* Reach a name in a directory, or the directory itself ("" as text). -ESTALE where it is gone. */
int um_live_reach(struct um_live *layer, uint32_t directory, struct um_slice text,
                  struct um_live_reach *reach);
/* Reach an inode: under its own name, or the layer's directory itself. */
int um_live_reach_inode(struct um_live *layer, uint32_t number, struct um_live_inode *inode,
                        struct um_live_reach *reach);
void um_live_leave(struct um_live *layer, struct um_live_reach *reach);

/* Stat what was reached, following no symlink and triggering no automount. Where the layer is not
 * private, a mount point has the attributes of the mounted root that the kernel knows. It has no
 * xattrs, and opening it is -EXDEV. */
int um_live_reach_statx(const struct um_live_reach *reach, struct statx *status);

/* Get an xattr and return its size; -ENODATA also where the file system has no xattrs. */
int64_t um_live_reach_getxattr(const struct um_live_reach *reach, const char *name, void *value,
                               size_t size);
/* List all names, each NUL-terminated, and return their size. *names is malloced, NULL where there
 * is none. */
int64_t um_live_reach_listxattr(const struct um_live_reach *reach, char **names);

/* Open what was reached (O_PATH), and check that it still is the inode; *status is its stat.
 * Between two questions on the descriptor nobody can replace the object. The descriptor, or an
 * errno. */
int um_live_pin(struct um_live *layer, const struct um_live_inode *inode,
                const struct um_live_reach *reach, struct statx *status);

/* Return whether this layer trusts marks that everybody who may write to the object could set. */
bool um_live_believes(const struct um_live *layer, const struct statx *status);

/* [-] Return the prefixes below which names are marks: UM_OVERLAY_…. */
static inline unsigned um_live_namespaces(const struct um_live *layer)
{
    return layer->believes & UM_BELIEVE_NO_USER ? UM_OVERLAY_TRUSTED : UM_OVERLAY_BOTH;
}

/* The marks of what was reached. Unreadable values do not count. Marks that lead elsewhere count
 * as the layer trusts them, and never without `inode`. */
struct um_live_marks {
    bool opaque, marks_whiteouts, metacopy, whiteout;
    bool doubtful_redirect, doubtful_metacopy; /* there is one, and no trusted one */
    char *redirect; /* malloced, or NULL */
    size_t redirect_size;
};
int um_live_read_marks(struct um_live *layer, const struct um_live_inode *inode,
                       const struct um_live_reach *reach, struct um_live_marks *marks);

/* Log that marks of an inode are not followed. */
void um_live_tell_refused(struct um_live *layer, uint32_t number);

/* Return whether a directory with this st_ino, whose device is unknown, may be one that is hidden. */
bool um_live_may_be_hidden(const struct um_live *layer, uint64_t ino);

/* Return whether an object with this status is a whiteout, or must not be shown: 1, 0 or an errno. */
int um_live_is_whiteout(struct um_live *layer, const struct um_live_reach *reach,
                        const struct statx *status, bool marked);

/* Use a cached descriptor of a regular file for reading; the caller releases it to the layer's
 * cache. */
int um_live_use_file(struct um_live *layer, uint32_t number, struct um_fd_use *use);

/* Open a directory, or a regular file, for reading, without changing its access time where that is
 * permitted. The descriptor or an errno. */
int um_live_open_directory(struct um_live *layer, uint32_t number);
int um_live_open_file(struct um_live *layer, uint32_t number);
int um_live_open_any(struct um_live *layer, uint32_t number); /* O_PATH, of any type */

/* ---- layer/live_list.c ---------------------------------------------------------------------------- */

/* An entry of a directory as it is read: in no order, with its marks interpreted. */
struct um_live_item {
    struct um_slice text; /* of a whiteout: the name that it hides */
    uint64_t ino;
    uint8_t type; /* DT_…, DT_WHT */
};
struct um_live_items {
    struct um_live_item *all;
    size_t n, capacity;
    struct um_live_arena *arena; /* of the texts */
};
int um_live_read_directory(struct um_live *layer, uint32_t directory, struct um_live_items *items);
void um_live_items_free(struct um_live_items *items);

/* ---- layer/live.c ------------------------------------------------------------------------------------ */

/* Return the facts about an inode beyond its record, reading them at the first call. */
int um_live_more(struct um_live *layer, uint32_t directory, const struct um_live_more **more);

#endif
