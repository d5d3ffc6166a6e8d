/*
 * upper/state.h - the state of an upper, which every file of this folder works on.
 *
 * Each file has a header of its own, which says what it does for the others. They stand on each other in this
 * order, lowest first; a file calls those above it, never those below:
 *
 *   nodes            what the kernel knows: nodes, and files of lower layers that need none
 *   reach            from a node, or a name, to the object on disk; system calls on that object
 *   marks            xattrs of the format: opaque, redirect, origin, metacopy, capability
 *   work             the work directory: names, whiteouts, removing
 *   capability       capabilities of files where the disk must not have them
 *   object           what stat(2) shows of an object, override_stat included, and changing that
 *   object_xattr     its xattrs, ACLs included
 *   make             new objects
 *   rule             what a name is: the upper's object, the lower tree's, or nothing
 *   lower_path       paths in the lower tree, for marks
 *   redirects        which directory of the mount continues a lower directory that was renamed
 *   shown_names      under which names the mount shows a lower file; link counts
 *   lookup           lookup, getattr, readlink, forget; from a number to a node
 *   list             listing
 *   copy_data        the data of a lower file -> an empty file
 *   settle           waiting for that data
 *   copy             a lower file or directory -> a copy in the work directory
 *   publish          the copy -> its names in the upper, all or none
 *   copy_data_later  copying without the lock, and the data of files that were copied up without it
 *   copy_up          what of a file has to be in the upper before it is changed
 *   target           a name that is about to be changed
 *   file             open files: read, write, allocate, sync
 *   setattr, xattr, create_remove, rename      the verbs of upper/upper.h
 *   recover, open    the beginning and the end
 *
 * Locks. Functions are marked with what their caller holds of `lock`: [r] reading or writing, [w] writing,
 * [-] nothing is needed.
 * Errors: 0 or a negative errno, unless a comment says otherwise; -ESTALE where the object on disk has gone,
 * or is another one by now.
 */
#ifndef UM_UPPER_STATE_H
#define UM_UPPER_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/table.h"
#include "marks/whiteout.h"
#include "system/fd_cache.h"
#include "system/refusals.h"
#include "upper/copy_data.h"
#include "upper/upper.h"

struct um_upper_node;       /* upper/nodes.h */
struct um_upper_redirects;  /* upper/redirects.c */
struct um_upper_link_count; /* upper/shown_names.c */

#define UM_UPPER_SESSION_ROOM 24
#define UM_UPPER_KEPT 8u /* descriptors of new files: of some that are made side by side */

struct um_upper {
    struct um_tree *tree;  /* borrowed, as are the descriptors */
    int upper_fd, work_fd; /* the upper and the work directory */
    int shown_fd;          /* the directory whose path messages show */
    uint32_t flags;        /* UM_UPPER_… */
    uint32_t n_layers;     /* um_attr.layer of objects of the upper */
    uid_t owner;           /* the user whose marks are believed; root's are, too */
    dev_t device;          /* of the upper's file system */
    uint64_t base;         /* the number of the upper's inode 0 */
    uint64_t metacopy_min; /* bytes; as in struct um_upper_setup */
    /* The file system keeps the order of changes of names that nobody syncs. */
    bool ordered;
    /* The work directory has a default ACL, which new objects get and lose again. */
    bool work_inherits;
    /* The end of origins that are believed in this session only (upper/open.c); empty for none. */
    char session[UM_UPPER_SESSION_ROOM];
    uint64_t lasting_end; /* origins below are believed in all sessions; 0: none */
    struct um_upper_unshared
        unshared;   /* devices of lower files that share no blocks with the upper */
    struct um_refusals refusals;         /* the messages that were written already */
    atomic_ullong temporaries;           /* the number of the next name in the work directory */
    struct um_fd_cache *directories;     /* descriptors of directories of the upper, by number */

    pthread_rwlock_t lock; /* guards all nodes, and everything down to `copying_lock` */
    struct um_table nodes; /* of struct um_upper_node_entry (upper/nodes.c) */
    struct um_upper_node *root;
    struct um_table known;                /* of struct um_upper_known */
    struct um_upper_redirects *redirects; /* NULL: to be looked for */
    /* A name of a lower layer may be hidden: false while an upper that was empty has lost none. */
    bool may_hide;
    struct um_upper_link_count *link_counts; /* NULL: none is known */
    /* The numbers of files whose nodes were `kept` last, in a ring; 0: none. */
    uint64_t kept[UM_UPPER_KEPT];
    unsigned next_kept;

    /* Guards what follows. It may be taken under `lock`, not the other way round. */
    pthread_mutex_t copying_lock;
    pthread_cond_t copied; /* a file was copied up, or that failed */
    uint64_t *copying; /* the numbers that some thread is copying up */
    size_t n_copying, copying_capacity;
};

/* Xattrs of the upper directory that say which prefix its marks have; mounting/upper_directory.py writes one
 * of them. Users can't set the one below the upper's own prefix anyway, and are kept from the other. */
#define UM_UPPER_NAMESPACE_TRUSTED "trusted.overlay.unionmount.namespace"
#define UM_UPPER_NAMESPACE_USER "user.overlay.unionmount.namespace"

/* The names of xattrs that are marks in this upper: UM_OVERLAY_…. All others are users' as they are. */
static inline unsigned um_upper_namespace(const struct um_upper *upper)
{
    return upper->flags & UM_UPPER_TRUSTED ? UM_OVERLAY_TRUSTED : UM_OVERLAY_USER;
}

#endif
