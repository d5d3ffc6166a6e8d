/*
 * layer/live_state.h - what the files of a directory layer share: layer/live.c (its functions),
 * layer/live_table.c (records of names and inodes), layer/live_reach.c (reaching them on disk; marks),
 * layer/live_list.c (reading directories), layer/live_scan.c (all directories: names of a file,
 * redirects).
 *
 * Ownership: struct um_live owns all records until um_live_close.
 * Threads: `lock` guards the arrays and tables, and the records in them; readers copy a record out.
 * Texts, and what `more` points to, never move and are freed with the layer.
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
    uint32_t inode;      /* UM_INDEX_NONE: not asked for yet; of a whiteout always */
    uint8_t size;
    uint8_t type; /* DT_… */
};

/* What is found out about an inode when it is needed. */
struct um_live_more {
    uint32_t flags;           /* of a directory: UM_INODE_…, and: */
    bool marks_whiteouts;     /* it may hold files that an xattr makes whiteouts */
    bool refused; /* a mark that would lead elsewhere is not believed */
    bool metacopy; /* of a file: one that is believed says that its data stands below */
    struct um_slice redirect; /* size 0: none */
    struct um_slice target;   /* of a symlink */
};

/* The children of a directory. */
struct um_live_list {
    uint32_t n;
    uint32_t names[];
};

struct um_live_inode {
    uint64_t ino, birth; /* what was removed leaves its `ino` to what is made next; 0: not known */
    struct um_live_more *more; /* set once; NULL before */
    struct um_live_list *list; /* of a directory; set once; NULL before */
    uint32_t device; /* number in `devices` */
    uint32_t name; /* the first of its names that was seen; UM_INDEX_NONE for the root */
    uint32_t extra; /* 0: its number is `ino`; else 1 + its place in `extras` */
    uint8_t type; /* DT_… */
    bool own_data; /* a file that was found to be no metacopy */
};

/* What is asked of everything on disk. */
#define UM_LIVE_STATX (STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID)

/* What st_ino is unique in. A subvolume is another device on the same mount, a bind mount another
 * mount of the same device. */
struct um_live_device {
    uint64_t mount;
    uint32_t major, minor;
};

/* Files by number: all names of those that have several (`links`) or of all (`files`). */
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

/* Copies; false (or -ESTALE) where there is no such record. */
bool um_live_get_name(struct um_live *layer, uint32_t number, struct um_live_name *name);
bool um_live_get_inode(struct um_live *layer, uint32_t number, struct um_live_inode *inode);
bool um_live_find_name(struct um_live *layer, uint32_t directory, struct um_slice text,
                       uint32_t *number, struct um_live_name *name);

/* The names of a directory, known from now on: texts[i] has type types[i] and becomes numbers[i]. */
int um_live_add_names(struct um_live *layer, uint32_t directory, const struct um_slice *texts,
                      const uint8_t *types, size_t n, uint32_t *numbers);

/* What statx says of a name, known from now on. -ESTALE where it is not what it was. */
int um_live_add(struct um_live *layer, uint32_t directory, struct um_slice text,
                const struct statx *status, struct um_child *child);

/* The inode that was seen with a file number. -ENOENT: none, but there may be one on disk. -ESTALE. */
int um_live_find_number(struct um_live *layer, uint64_t number, uint32_t *inode);

/* Set once what is known of an inode: the first thread's stays, and is returned. Takes over. */
struct um_live_more *um_live_set_more(struct um_live *layer, uint32_t inode,
                                      struct um_live_more *more);
struct um_live_list *um_live_set_list(struct um_live *layer, uint32_t inode,
                                      struct um_live_list *list);
void um_live_set_own_data(struct um_live *layer, uint32_t inode);
void um_live_more_free(struct um_live_more *more);

/* True where the status is that of the inode. */
bool um_live_is_inode(struct um_live *layer, const struct um_live_inode *inode,
                      const struct statx *status);

/* Texts that never move, freed together. */
int um_live_keep_text(struct um_live_arena **arena, struct um_slice text, const uint8_t **kept);
void um_live_arena_free(struct um_live_arena *arena);

/* ---- layer/live_reach.c ---------------------------------------------------------------------------- */

/* An object on disk, reached: a name in a directory whose descriptor is in use; or, with an empty
 * name, that directory itself. */
struct um_live_reach {
    struct um_fd_use use;
    struct um_live *exposed; /* set where the name may be a mount point (system/open_beneath.h) */
    char name[256]; /* NUL-terminated */
};

/* Reach a name of a directory, or the directory ("" for text). -ESTALE where it is gone. */
int um_live_reach(struct um_live *layer, uint32_t directory, struct um_slice text,
                  struct um_live_reach *reach);
/* Reach an inode: under its own name, or the layer's directory itself. */
int um_live_reach_inode(struct um_live *layer, uint32_t number, struct um_live_inode *inode,
                        struct um_live_reach *reach);
void um_live_leave(struct um_live *layer, struct um_live_reach *reach);

/* Symlinks are not followed, nothing is mounted by it. Where the layer is not private, a mount point is
 * what is mounted there, as far as the kernel knows; it has no xattrs, and opening it is -EXDEV. */
int um_live_reach_statx(const struct um_live_reach *reach, struct statx *status);

/* The size of the value; -ENODATA also where the file system has no xattrs. */
int64_t um_live_reach_getxattr(const struct um_live_reach *reach, const char *name, void *value,
                               size_t size);
/* All names, each NUL-terminated: their size. *names is malloced, NULL where there is none. */
int64_t um_live_reach_listxattr(const struct um_live_reach *reach, char **names);

/* A descriptor (O_PATH) of what was reached, which is the inode still, as *status says; or an errno. So
 * nobody can put something else under its name between two questions. */
int um_live_pin(struct um_live *layer, const struct um_live_inode *inode,
                const struct um_live_reach *reach, struct statx *status);

/* Whether a mark that its owner, and all who may write to it, could set is believed in this layer. */
bool um_live_believes(const struct um_live *layer, const struct statx *status);

/* [-] Below which prefixes names are marks: UM_OVERLAY_…. */
static inline unsigned um_live_namespaces(const struct um_live *layer)
{
    return layer->believes & UM_BELIEVE_NO_USER ? UM_OVERLAY_TRUSTED : UM_OVERLAY_BOTH;
}

/* Marks of what was reached. Values that nobody can read do not count. Those that lead elsewhere count
 * as the layer believes them; without `inode` none does. */
struct um_live_marks {
    bool opaque, marks_whiteouts, metacopy, whiteout;
    bool doubtful_redirect, doubtful_metacopy; /* there is one, and none that is believed */
    char *redirect; /* malloced, or NULL */
    size_t redirect_size;
};
int um_live_read_marks(struct um_live *layer, const struct um_live_inode *inode,
                       const struct um_live_reach *reach, struct um_live_marks *marks);

/* Tell that marks of an inode are not followed. */
void um_live_tell_refused(struct um_live *layer, uint32_t number);

/* Whether a directory with this inode may be one that is not shown: its device is not known yet. */
bool um_live_may_be_hidden(const struct um_live *layer, uint64_t ino);

/* 1 where this status, of what was reached, is that of a whiteout, or of what is not to be shown. */
int um_live_is_whiteout(struct um_live *layer, const struct um_live_reach *reach,
                        const struct statx *status, bool marked);

/* The descriptor of a regular file for reading it, kept open between reads; given back to the layer's cache. */
int um_live_use_file(struct um_live *layer, uint32_t number, struct um_fd_use *use);

/* A directory, or a regular file, opened for reading; its access time stays where that is allowed. The
 * descriptor or an errno. */
int um_live_open_directory(struct um_live *layer, uint32_t number);
int um_live_open_file(struct um_live *layer, uint32_t number);
int um_live_open_any(struct um_live *layer, uint32_t number); /* O_PATH, of any type */

/* ---- layer/live_list.c ---------------------------------------------------------------------------- */

/* A directory, read as it stands: its names in no order, marks interpreted. */
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

/* What is known of a directory beyond its record, read where it was not yet. */
int um_live_more(struct um_live *layer, uint32_t directory, const struct um_live_more **more);

#endif
