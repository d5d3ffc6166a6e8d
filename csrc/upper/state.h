/*
 * upper/state.h - what the files of the upper share.
 *
 *   upper/upper.c         nodes of nodes; lookup, getattr, forget
 *   upper/reach.c    reaching what a node stands for on disk; the marks (opaque, redirect, origin)
 *   upper/object.c    what stat shows, user.containers.override_stat, setattr
 *   upper/xattr.c   extended attributes
 *   upper/capability.c  capabilities of files where the disk is not to have them
 *   upper/list.c    listing
 *   upper/file.c    open files: read, write, fsync
 *   upper/target.c  a name that is about to be changed, and what its node lives on as
 *   upper/create_remove.c  create, link, unlink, rmdir
 *   upper/rename.c  rename
 *   upper/shown_names.c   hard-link groups of lower files: their names, their link counts
 *   upper/copy_up.c        lower file or directory -> upper (upper/copy_data.h: its data)
 *   upper/recover.c what an earlier daemon was doing when it was killed
 *
 * A *node* stands for a node that is a directory, or is in the upper, or is open. All other files
 * of lower layers that the kernel knows have 32 bytes in the table of *known* nodes, so that a walk
 * over a million of them stays cheap.
 *
 * Ownership: struct um_upper owns its nodes. A directory's node is kept while it is looked up,
 * open, or the parent of a node; a file's while it is looked up or open.
 * Threads: `lock` guards everything in a node and both tables. Functions below say which lock
 * their caller holds: [r] any, [w] for writing, [-] none.
 */
#ifndef UM_UPPER_PRIVATE_H
#define UM_UPPER_PRIVATE_H

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "marks/whiteout.h"
#include "system/capability.h"
#include "system/fd_cache.h"
#include "system/refusals.h"
#include "upper/upper.h"

#define UM_KEEP UINT32_MAX

struct um_override; /* marks/override_stat.h */

static inline int um_failed(void)
{
    return -errno;
}

static inline uint64_t um_hash_node(uint64_t number)
{
    number *= 0x9e3779b97f4a7c15ull;
    return number ^ number >> 32;
}

struct um_upper_node {
    uint64_t number;
    struct um_upper_node *next; /* in its bucket */
    struct um_upper_node *parent; /* with `name` its place; NULL: the root, or no place is known */
    char *name; /* malloced, not NUL-terminated */
    size_t name_size;
    uint64_t lookups;
    uint64_t ino; /* in the upper; 0: not known */
    uint32_t opens; /* open files and listings */
    uint32_t pins; /* by verbs that use it right now */
    uint32_t children; /* nodes whose parent this is */
    bool directory;
    bool in_upper; /* it has a part in the upper; a directory may have one below as well */
    bool gone; /* it has no name (any more); `fd` is all there is */
    bool linkable; /* it never had a name, and may get one */
    bool writable; /* `fd` was opened for writing, too */
    bool plain; /* it has no override_stat, and nobody can give it one */
    bool capable; /* a file that may have a capability in a mark (upper/capability.c) */
    bool ours; /* a file that shows what the daemon says: on disk nobody else owns it */
    bool settled; /* a file in the upper: that it is there, and has data of its own, is durable */
    bool listed; /* a directory: the tree's cookies of what it continues were given out */
    bool unmarked; /* a directory that was made since the mount: it has no whiteouts `.wh.NAME` */
    uint64_t lower; /* directory: the lower node that it continues; file in the upper: the node that
                       it is a copy of; 0 for none. A file that is not in the upper: its node */
    int fd; /* -1, or the upper's file: while it is open or has no place. O_PATH where it is
                       no regular file */
    uint64_t data; /* a file in the upper whose data still is that of this lower node; else 0 */
    uint32_t nlink; /* of a directory; 0: to be counted */
};

/* A file of a lower layer that the kernel knows and that has no node. */
struct um_upper_known {
    uint64_t number; /* 0: empty */
    uint64_t parent;
    const char *name; /* lives as long as the tree */
    uint64_t lookups : 56;
    uint64_t name_size : 8;
};

/* Values of a node's `data` that are no node: the data is nowhere; there is none, only its mark. */
#define UM_DATA_LOST UINT64_MAX
#define UM_DATA_NONE (UINT64_MAX - 1)

/* A directory's `lower` that is no node: it continues one, but the mark that says so is not believed. So
 * nobody knows what is in it, and all that asks gets -EIO. */
#define UM_LOWER_REFUSED UINT64_MAX

#define UM_SESSION_ROOM 24

struct um_upper {
    struct um_tree *tree;
    int upper_fd, work_fd, shown_fd;
    uint32_t flags;
    uint32_t n_layers; /* what um_attr.layer says of the upper */
    uid_t owner; /* whose daemon wrote the marks that are believed; root's are, too */
    dev_t device;
    uint64_t base; /* node of the upper's inode 0 */
    uint64_t metacopy_min;
    bool ordered; /* its file system keeps the order of changes of names that nobody syncs */
    bool
        work_inherits; /* the work directory has a default ACL: what is made there loses it again */
    char session[UM_SESSION_ROOM]; /* what ends the origins that are believed; see set_session */
    struct um_refusals refusals;
    atomic_ullong temporaries; /* to name the next one in the work directory */
    struct um_fd_cache *directories; /* of the upper, by node */

    pthread_rwlock_t lock;
    struct um_upper_node **buckets; /* under lock */
    size_t n_buckets, n_records; /* under lock */
    struct um_upper_node *root;
    struct um_upper_known *known; /* under lock; open-addressed by node */
    size_t n_known_slots, n_known; /* under lock */
    struct um_upper_redirects *redirects; /* under lock; NULL: to be looked for */
    bool
        may_hide; /* under lock; a name of a lower layer: not before one of an empty upper is removed */
    struct um_upper_link_count *link_counts; /* under lock; NULL: none is known */

    pthread_mutex_t copying_lock;
    pthread_cond_t copied;
    uint64_t *copying; /* under copying_lock: nodes that some thread is copying up */
    size_t n_copying, copying_capacity;
};

/* Xattrs of the upper directory that say which prefix its marks have: mounting/upper_directory.py writes one of them. Under its own prefix users can't set it anyway; the other one is kept from them there. */
#define UM_NAMESPACE_TRUSTED "trusted.overlay.unionmount.namespace"
#define UM_NAMESPACE_USER "user.overlay.unionmount.namespace"

/* Which names of xattrs are marks in this upper: UM_OVERLAY_…. The others are users' as they are. */
static inline unsigned um_upper_namespace(const struct um_upper *upper)
{
    return upper->flags & UM_UPPER_TRUSTED ? UM_OVERLAY_TRUSTED : UM_OVERLAY_USER;
}

/* A place on disk, reached: a directory's descriptor and a name in it; or, with name "", the object
 * that the descriptor itself is. Closed with um_upper_reached_close. */
struct um_upper_reached {
    int fd;
    struct um_fd_cache *cache; /* whose `use` is; NULL: the descriptor is borrowed */
    struct um_fd_use use;
    bool plain, capable; /* as of a node */
    bool exposed; /* the name may be a mount point (system/open_beneath.h) */
    char name[UM_NAME_MAX + 1]; /* NUL-terminated */
};

/* What of a file has to be in the upper. */
enum um_upper_need {
    UM_NEED_NAME, /* so that its name or attributes can change */
    UM_NEED_EMPTY, /* its data is thrown away */
    UM_NEED_DATA,
};

/* What a name of the upper is. */
enum um_upper_found {
    UM_FOUND_NOTHING,
    UM_FOUND_WHITEOUT,
    UM_FOUND_FILE,
    UM_FOUND_DIRECTORY,
};

/* ---- upper/upper.c --------------------------------------------------------------------------------- */

/* [r] The node of a node, or NULL. */
struct um_upper_node *um_upper_node_find(struct um_upper *upper, uint64_t number);

/* [w] The node of a node, which the caller knows to be at (parent, name), made where there is
 * none. `lower` and `in_upper` are those of a new node. It takes over what is known of the node.
 * Pinned. */
int um_upper_node_add(struct um_upper *upper, uint64_t number, struct um_upper_node *parent,
                      struct um_slice name, bool directory, bool in_upper, uint64_t lower,
                      struct um_upper_node **out);

/* [w] Put a node in another place. -ENOMEM leaves it where it was. */
int um_upper_node_move(struct um_upper *upper, struct um_upper_node *node,
                       struct um_upper_node *parent, struct um_slice name);

/* [w] Drop a node that nothing keeps, and parents that it alone kept. */
void um_upper_node_drop_unused(struct um_upper *upper, struct um_upper_node *node);

/* [r] A descriptor of a file without a name, to be closed without the lock by who may let go of the node
 * under it: that takes as long as the disk takes to free what is there. -1 where that is not needed. */
int um_upper_node_last_descriptor(const struct um_upper_node *node);

/* [w] Keep a node while it is used. A node that um_upper_node_add, um_upper_node_load or um_upper_shown_directory
 * gave out is pinned; unpinning may drop it. */
static inline void um_upper_node_pin(struct um_upper_node *node)
{
    node->pins++;
}
void um_upper_node_unpin(struct um_upper *upper, struct um_upper_node *node);

/* [w] A node of a node that is about to be opened or changed, whichever table knows it. It has a
 * place (parent and name) or a descriptor, or is gone. Pinned. -ESTALE. */
int um_upper_node_load(struct um_upper *upper, uint64_t number, struct um_upper_node **node);

/* What lookup found: the node's attributes, and what a node of it is made of. */
struct um_upper_hit {
    struct um_attr attr;
    bool directory, in_upper;
    uint64_t lower;
    uint64_t ino; /* in the upper */
    uint64_t data; /* as of a node */
    bool plain, capable, ours; /* likewise */
    struct um_slice name; /* of a lower file: lives as long as the tree */
};

/* [w] The rule: what `name` is in a directory. Makes no node of it and counts nothing, neither lookups nor
 * the links of a file that is not in the upper: `attr.nlink` is what the tree says. */
int um_upper_find(struct um_upper *upper, struct um_upper_node *directory, struct um_slice name,
                  struct um_upper_hit *hit);

/* [r] What the lower tree alone shows there: 0 with *entry (which may be NULL), or -ENOENT. */
int um_upper_find_lower(struct um_upper *upper, const struct um_upper_node *directory,
                        struct um_slice name, struct um_tree_entry *entry);

/* [w] What is found where the upper says nothing and the lower tree shows this. */
int um_upper_hit_lower(struct um_upper *upper, const struct um_tree_entry *entry,
                       struct um_upper_hit *hit);

/* [w] As um_upper_find and um_upper_hit_lower, with the link count that the mount shows. */
int um_upper_find_counted(struct um_upper *upper, struct um_upper_node *directory,
                          struct um_slice name, struct um_upper_hit *hit);
int um_upper_hit_lower_counted(struct um_upper *upper, const struct um_tree_entry *entry,
                               struct um_upper_hit *hit);

/* [r] The lower directory whose names are those of this one, as long as it is not in the upper; 0 where
 * there is none. So that may be asked for without the lock, and believed if it is the same afterwards. */
uint64_t um_upper_node_only_lower(const struct um_upper_node *directory);

/* [w] Count a lookup of what was found, with a node where it needs one. */
int um_upper_count_lookup(struct um_upper *upper, struct um_upper_node *directory,
                          struct um_slice name, const struct um_upper_hit *hit);

/* [w] Let the node of what was found, just now, say the same. */
void um_upper_node_update(struct um_upper *upper, struct um_upper_node *node,
                          const struct um_upper_hit *hit);

/* [w] Make a node of a new file that has no name, which `fd` (taken over, on failure, too) is open
 * for reading and writing; count a lookup of it. -ESTALE: its number is somebody else's still, whose
 * file was removed on disk. */
int um_upper_node_add_nameless(struct um_upper *upper, int fd, struct um_attr *attr);

/* [w] Whether somebody may still use a node: it has a node, or is known. */
bool um_upper_is_known(struct um_upper *upper, uint64_t number);

/* [w] A node that has no place any more: its last name was removed. */
void um_upper_node_lose_name(struct um_upper *upper, struct um_upper_node *node);

/* [w] The place of a node is no longer (directory, name), though the node is still there: another
 * name of it is looked for when one is needed. */
void um_upper_forget_place(struct um_upper *upper, uint64_t number,
                           const struct um_upper_node *directory, struct um_slice name);

/* [w] Forget that a file of a lower layer was open: it goes back to the table of known nodes. */
void um_upper_node_demote(struct um_upper *upper, struct um_upper_node *node);

/* [w] Attributes of what a node stands for. The links of a file that is not in the upper are not counted,
 * as by um_upper_find; um_upper_node_attr_counted counts them. */
int um_upper_node_attr(struct um_upper *upper, struct um_upper_node *node, struct um_attr *attr);
int um_upper_node_attr_counted(struct um_upper *upper, struct um_upper_node *node,
                               struct um_attr *attr);

/* ---- upper/file.c ------------------------------------------------------------------------------ */

/* [w] Let go of the descriptor of a file that is not open, where its place leads to it again; then as
 * um_upper_node_demote. */
void um_upper_node_close_unused(struct um_upper *upper, struct um_upper_node *node);

/* ---- upper/list.c ------------------------------------------------------------------------------ */

/* [w] 1 where a directory shows no name, 0, or an errno. */
int um_upper_is_empty(struct um_upper *upper, struct um_upper_node *directory);

/* ---- upper/target.c ---------------------------------------------------------------------------- */

/* A name in a directory of the mount that is about to be changed. */
struct um_upper_target {
    struct um_upper_node *directory;
    struct um_slice name;
    char text[UM_NAME_MAX + 1]; /* the name, NUL-terminated */
    bool shown; /* the mount shows something there: */
    struct um_upper_hit hit;
    bool below, below_directory; /* the lower tree shows something there; a directory */
    /* Once it is reached: */
    int fd; /* of the directory in the upper, O_PATH; -1 before */
    struct um_fd_use use; /* which it is of */
    enum um_upper_found found; /* what the upper has there */
    bool pinned; /* `directory` */
    bool object; /* something stands there on disk: not a whiteout by a file `.wh.NAME` */
};

/* [w] A directory alone, for what has no name. -ESTALE, -ENOTDIR; -ENOENT it was removed. To be closed
 * in any case. */
int um_upper_target_open_directory(struct um_upper *upper, uint64_t directory,
                                   struct um_upper_target *target);
/* [w] Copy it up, and fill `fd`. */
int um_upper_target_reach_directory(struct um_upper *upper, struct um_upper_target *target);

/* [w] Look at a name. Not finding it is no error. Errors as above; -EINVAL a name that no layer can
 * hold; -ENAMETOOLONG. */
int um_upper_target_open(struct um_upper *upper, uint64_t directory, const char *name,
                         size_t name_size, struct um_upper_target *target);
/* [w] Copy its directory up and see what stands there on disk. To be asked again when that changed. */
int um_upper_target_reach(struct um_upper *upper, struct um_upper_target *target);
void um_upper_target_close(struct um_upper *upper, struct um_upper_target *target);

/* [w] Count what stands at a target now that something was made there; *attr is what it shows. */
int um_upper_target_made(struct um_upper *upper, struct um_upper_target *target,
                         struct um_attr *attr);

/* What becomes of the node whose name is removed. */
struct um_upper_removal {
    struct um_upper_node *node; /* NULL: nobody knows it */
    bool last; /* it was its last name */
    bool anchored; /* its descriptor was opened for the removal */
};

/* [w] Keep the node of a target that is shown reachable without its name, where somebody knows it. */
int um_upper_removal_begin(struct um_upper *upper, const struct um_upper_target *target,
                           struct um_upper_removal *removal);
/* [w] The name has gone, or (with an error) it has not. */
void um_upper_removal_end(struct um_upper *upper, const struct um_upper_target *target,
                          struct um_upper_removal *removal, int error);

/* [w] The number of subdirectories of a directory changed. */
void um_upper_node_add_subdirectories(struct um_upper_node *directory, int change);

/* ---- upper/reach.c ------------------------------------------------------------------------------ */

/* [r] A descriptor (O_PATH) of a directory of the upper: its node is `in_upper`. It is released to
 * `directories`. -ESTALE as below. */
int um_upper_reach_directory(struct um_upper *upper, const struct um_upper_node *directory,
                             struct um_fd_use *use);

/* [r] Reach the upper's part of a node, which is `in_upper`. -ESTALE where it has neither a place
 * nor a descriptor, or where something else stands there by now (UM_UPPER_OPEN). */
int um_upper_reach(struct um_upper *upper, const struct um_upper_node *node,
                   struct um_upper_reached *reached);

/* [-] The reached object `name` in the directory `fd`, which is borrowed. */
int um_upper_reach_name(const struct um_upper *upper, int fd, struct um_slice name,
                        struct um_upper_reached *reached);
void um_upper_reached_close(struct um_upper_reached *reached);
bool um_upper_reached_is_self(const struct um_upper_reached *reached);

/* Symlinks are not followed, and what is mounted at a name is not asked: -EXDEV. */
int um_upper_reached_stat(const struct um_upper_reached *reached, struct stat *status);
int64_t um_upper_reached_getxattr(const struct um_upper_reached *reached, const char *name,
                                  void *value, size_t size);
/* Of the object that *status is of: -ESTALE where another one stands there by now, as somebody who gets to
 * the directory on disk exchanged them. For what is believed because of its owner. */
int64_t um_upper_reached_getxattr_same(struct um_upper *upper,
                                       const struct um_upper_reached *reached,
                                       const struct stat *status, const char *name, void *value,
                                       size_t size);
int64_t um_upper_reached_listxattr(const struct um_upper_reached *reached, char *names,
                                   size_t size);
int um_upper_reached_setxattr(const struct um_upper_reached *reached, const char *name,
                              const void *value, size_t size, int flags);
int um_upper_reached_removexattr(const struct um_upper_reached *reached, const char *name);
int um_upper_reached_chmod(const struct um_upper_reached *reached, uint32_t mode);
int um_upper_reached_chown(const struct um_upper_reached *reached, uint32_t uid,
                           uint32_t gid); /* UINT32_MAX: keep */
int um_upper_reached_set_times(const struct um_upper_reached *reached,
                               const struct timespec times[2]);
/* The descriptor, or an errno. Without O_PATH only files and directories are opened (-ESTALE), and
 * nothing is waited for. */
int um_upper_reached_open(const struct um_upper_reached *reached, int flags);
/* The same for somebody who reads through the mount: with UM_UPPER_ATIME that counts as access. What the
 * daemon reads for itself never does, unless it is another user's. */
int um_upper_reached_open_for_user(const struct um_upper *upper,
                                   const struct um_upper_reached *reached, int flags);
/* As linkat(2): give what stands at a reached object a name in the directory `fd`. */
int um_upper_reached_link(const struct um_upper_reached *reached, int fd, const char *name);
/* The directory at a reached object, to be read with readdir(3), and closed by the caller. `reader`: the upper, where
 * somebody reads through the mount (um_upper_reached_open_for_user), else NULL. */
int um_upper_reached_open_stream(const struct um_upper *reader,
                                 const struct um_upper_reached *reached, DIR **stream);

/* [-] What stands at a reached object; *status is filled for a file or directory. `marked`: a file `.wh.NAME` may
 * be a whiteout. */
int um_upper_reached_classify(const struct um_upper_reached *reached, bool marked,
                              enum um_upper_found *found, struct stat *status);

/* [-] 1 where what readdir(3) gave in the directory `fd` is a directory, 0, or an errno. */
int um_upper_entry_is_directory(const struct um_upper *upper, int fd, const struct dirent *entry);

/* [-] Whether override_stat, and a capability's mark below user., are believed of an object: everybody who may
 * write to it can set them, so nobody else may (docs/explanation/upper.md, "Whose word counts"). */
bool um_upper_believes(const struct um_upper *upper, const struct stat *status);

/* [-] Marks of an object of the upper, under the prefix of the upper's flags; for reading under that of
 * fuse-overlayfs, too. What is below the other one of overlayfs' prefixes has no meaning: users set it. */
/* 1, 0 or an errno. `marked`: it may have the xattr (um_upper_marks_of); else a file may still say it. */
int um_upper_mark_is_opaque(struct um_upper *upper, struct um_upper_reached *reached, bool marked);
int um_upper_mark_set_opaque(struct um_upper *upper, struct um_upper_reached *reached);
/* Marks that lead elsewhere are believed where nobody else can have set them: below trusted., or by who owns
 * the object, and who can write to it (marks/trust.h; UM_UPPER_CLOSED, UM_UPPER_PLAIN). Where there is one
 * and none that is believed, that is -EKEYREJECTED. */
/* The redirect: its size, 0 for none; without NUL. An absolute path, or a name beside this one. */
int64_t um_upper_mark_get_redirect(struct um_upper *upper, struct um_upper_reached *reached,
                                   char *path, size_t room);
int um_upper_mark_set_redirect(struct um_upper *upper, struct um_upper_reached *reached,
                               const char *path, size_t size);
/* The lower node that an object is a copy of; *origin is 0 for none, or one that is not believed
 * because it may be of other lowers. *ours: nobody else can have set it. Setting it where the file system
 * has no room for it (symlinks of ordinary users) is no error. */
int um_upper_mark_get_origin(struct um_upper *upper, struct um_upper_reached *reached,
                             uint64_t *origin, bool *ours);
int um_upper_mark_set_origin(struct um_upper *upper, struct um_upper_reached *reached,
                             uint64_t origin);
/* Which marks an object has: one call, where most objects have none. */
#define UM_HAS_OPAQUE 1u
#define UM_HAS_REDIRECT 2u
#define UM_HAS_ORIGIN 4u
#define UM_HAS_METACOPY 8u
#define UM_HAS_OVERRIDE 16u /* user.containers.override_stat, which is no mark of overlayfs */
#define UM_HAS_CAPABILITY 32u
int um_upper_marks_of(struct um_upper *upper, struct um_upper_reached *reached, unsigned *marks);
/* That the data of a file is that of a lower file: of its redirect, else of its name. */
int um_upper_mark_is_metacopy(struct um_upper *upper,
                              struct um_upper_reached *reached); /* 1, 0, -EKEYREJECTED … */
int um_upper_mark_set_metacopy(struct um_upper *upper, struct um_upper_reached *reached);
/* With the redirect that belongs to it. */
int um_upper_mark_drop_metacopy(struct um_upper *upper, int fd);
/* The capability of a file where it is no xattr security.capability: its size, or -ENODATA. */
int64_t um_upper_mark_get_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                     void *value, size_t size);
int um_upper_mark_set_capability(struct um_upper *upper, struct um_upper_reached *reached,
                                 const void *value, size_t size);
int um_upper_mark_drop_capability(struct um_upper *upper, struct um_upper_reached *reached);
bool um_upper_mark_is_capability_name(const struct um_upper *upper, const char *xattr);
/* Whether marks that lead elsewhere may be written to what is made here: it stays so that they are believed,
 * as the upper is closed, or as nobody else can write to what an ordinary user's upper holds. */
bool um_upper_marks_may_lead(const struct um_upper *upper);
int um_upper_mark_may_lead_at(struct um_upper *upper,
                              const struct um_upper_reached *reached); /* to this: 1, 0, errno */
/* [r] Tell that marks of a name in a directory are not followed. */
void um_upper_mark_report_refused(struct um_upper *upper, const struct um_upper_node *directory,
                                  struct um_slice name);

/* [-] The next name in the work directory; it begins with '#'. */
void um_upper_work_name(struct um_upper *upper, char name[32]);

/* [-] Make a whiteout; remove what stands at (fd, name), a directory with all that it holds, but for
 * what is mounted in it (-EXDEV). */
int um_upper_make_whiteout(int fd, const char *name);
int um_upper_work_make_whiteout(struct um_upper *upper,
                                const char *name); /* with no inherited ACL */
int um_upper_remove_tree(int fd, const char *name);

/* ---- upper/object.c ------------------------------------------------------------------------------ */

/* [-] To be called after a change to an object of which `before` was known: a claim of whoever could write
 * to it goes, if it would be believed now. */
int um_upper_object_drop_claim(struct um_upper *upper, struct um_upper_reached *reached,
                               const struct stat *before);

/* [-] What stat shows of an object of the upper, override_stat included: everything but `node`; for a
 * directory nlink is what the disk says. */
int um_upper_object_attr(struct um_upper *upper, struct um_upper_reached *reached,
                         const struct stat *status, struct um_attr *attr);

/* Owner, group, mode (with type) and device that a new object of the upper shall show. */
struct um_upper_new_object {
    uint32_t uid, gid, mode, major, minor;
};

/* [-] Make an object on disk at (fd, name) that shows `owner`: a directory, device, FIFO, socket,
 * symlink (to `target`) or empty file, as the upper's flags allow. S_ISGID of the directory was
 * applied by the caller. With `inherit` the default ACL of the directory `fd` has its effect on
 * what shows, without it shows the mode as given. Nothing is left behind on failure. -EEXIST. */
int um_upper_make(struct um_upper *upper, int fd, const char *name,
                  const struct um_upper_new_object *wanted, const char *target, bool inherit);

/* [-] Take away from what was just made in the work directory, at (fd, name), the ACLs that it inherited there:
 * the directory is the user's, and keeps its default ACL. */
int um_upper_work_strip_acls(struct um_upper *upper, int fd, const char *name, uint32_t type);
/* [-] O_NOATIME, unless who reads what is opened so changes access times. */
int um_upper_noatime(const struct um_upper *upper);

/* [-] Make an empty file without a name that shows `owner`, in the directory `fd`, whose default ACL
 * has its effect: *made is open for reading and writing, and all that there is. -EOPNOTSUPP where the
 * disk's file system has no such files. */
int um_upper_make_nameless(struct um_upper *upper, int fd, const struct um_upper_new_object *wanted,
                           int *made);

/* [-] 1 where a directory has a default ACL, 0, or an errno. */
int um_upper_has_default_acl(struct um_upper_reached *directory);

/* [-] Give what was made elsewhere with `mode` what it would have inherited from the default ACL of
 * `directory`, as __posix_acl_create() of the kernel does it. The mode that it shows then, with its
 * type, or an errno. */
int um_upper_inherit_acl(struct um_upper *upper, struct um_upper_reached *directory,
                         struct um_upper_reached *made, uint32_t mode);

/* [-] Whether an object's mode on disk is not the one that it shows: 1, with *kept the permissions that it
 * has on disk when it shows `mode`, and an ACL's mask there, too; 0; or an errno. */
int um_upper_object_overridden_mode(struct um_upper *upper, struct um_upper_reached *reached,
                                    uint32_t mode, uint32_t *kept);

/* [-] Let an object show this owner and mode (permissions; the type stays). */
int um_upper_object_chown(struct um_upper *upper, struct um_upper_reached *reached, uint32_t uid,
                          uint32_t gid);
int um_upper_object_chmod(struct um_upper *upper, struct um_upper_reached *reached, uint32_t mode);

/* [w] Let a node have its part in the upper because it is to be changed; -EAGAIN where a file has
 * data, unless `empty`. */
int um_upper_node_copy_up(struct um_upper *upper, struct um_upper_node *node,
                          enum um_upper_need need);

/* [w] Let go of a node that um_upper_node_load may have made. */
void um_upper_node_release(struct um_upper *upper, struct um_upper_node *node);

/* ---- upper/xattr.c ----------------------------------------------------------------------------- */

/* [-] As um_upper_reached_setxattr and um_upper_reached_getxattr, for an access ACL, too: it agrees with the mode that
 * shows, and takes no access from the daemon; and for a capability. Names are those on disk, and marks are
 * set and read as anything else. */
int um_upper_object_setxattr(struct um_upper *upper, struct um_upper_reached *reached,
                             const char *name, const void *value, size_t size, int flags);
int64_t um_upper_object_getxattr(struct um_upper *upper, struct um_upper_reached *reached,
                                 const char *name, void *value, size_t size);

int um_upper_object_removexattr(struct um_upper *upper, struct um_upper_reached *reached,
                                const char *name);

/* ---- upper/capability.c ------------------------------------------------------------------------ */

/* [-] As um_upper_reached_getxattr … for UM_CAPABILITY, wherever it is kept. Setting it lets `capable` of the reached object
 * be true. */
int64_t um_upper_capability_get(struct um_upper *upper, struct um_upper_reached *reached,
                                void *value, size_t size);
int um_upper_capability_set(struct um_upper *upper, struct um_upper_reached *reached,
                            const void *value, size_t size, int flags);
int um_upper_capability_remove(struct um_upper *upper, struct um_upper_reached *reached);

/* [w] To be called before the data or the owner of a file of the upper changes: a capability that is kept
 * in a mark goes, as the disk lets a real one go. */
int um_upper_node_drop_capability(struct um_upper *upper, struct um_upper_node *node);

/* ---- upper/rename.c ---------------------------------------------------------------------------- */

/* [-] The path of a directory of the lower tree, from its root, in `room`. -EXDEV where it is too long
 * for a mark. */
int um_upper_lower_directory_path(struct um_upper *upper, uint64_t directory, char *room,
                                  size_t size, const char **path);

/* ---- upper/shown_names.c ----------------------------------------------------------------------------- */

/* [w] The directory of the mount that shows a directory of the lower tree; -ENOENT where none does.
 * Pinned. */
int um_upper_shown_directory(struct um_upper *upper, uint64_t lower_directory,
                             struct um_upper_node **out);

/* [w] The visible names, in the mount, of a lower file that is not in the upper. Their directories
 * count as open until um_upper_shown_names_free, so that none of the nodes goes away meanwhile. */
struct um_upper_shown_name {
    struct um_upper_node *directory;
    const char *name; /* lives as long as the tree */
    size_t name_size;
};
int um_upper_shown_names(struct um_upper *upper, uint64_t number,
                         struct um_upper_shown_name **names, size_t *n);
void um_upper_shown_names_free(struct um_upper *upper, struct um_upper_shown_name **names,
                               size_t *n);

/* [r] 1 where `name` shows the lower file `node`, which the upper neither hides nor has; 0; or an
 * errno. */
int um_upper_shows_lower(struct um_upper *upper, struct um_upper_node *directory,
                         struct um_slice name, uint64_t number);

/* [w] Let nlink of a file that is not in the upper be the number of names that the mount shows (at
 * least 1). Cheap where nlink is 1, or while no names changed since the last time. */
int um_upper_count_links(struct um_upper *upper, struct um_attr *attr);

/* [w] To be called after a name of a lower file ceased to be shown, or was moved. */
void um_upper_shown_names_changed(struct um_upper *upper);

/* [w] To be called after a redirect was made, or moved. */
void um_upper_redirects_changed(struct um_upper *upper);

/* [-] Give back what this file keeps in struct um_upper. */
void um_upper_shown_names_close(struct um_upper *upper);

/* ---- upper/copy_up.c ---------------------------------------------------------------------------------- */

/* [w] Let a directory have its part in the upper, and its parents. Moves little data: no -EAGAIN. */
int um_upper_copy_up_directory(struct um_upper *upper, struct um_upper_node *directory);

/* [-] Whether some thread is copying a node up. While the data of a file that is in the upper is
 * fetched, nothing else may change it: -EAGAIN, and um_upper_copy_up waits. */
bool um_upper_is_copying(struct um_upper *upper, uint64_t number);

/* [w] Let a file be in the upper, as far as that is needed; -EAGAIN where data has to be copied. With
 * UM_NEED_EMPTY it is empty afterwards. */
int um_upper_copy_up_now(struct um_upper *upper, struct um_upper_node *node,
                         enum um_upper_need need);

/* [w] To be called before a file of the upper moves or gets another name. Where its data is still below
 * and its mark says so by the name that it has, as the kernel's overlayfs writes it, the mark gets the
 * path of the data instead; -EAGAIN where that is too long. */
int um_upper_node_fix_data_path(struct um_upper *upper, struct um_upper_node *node);

#define UM_UPPER_INDEX \
    "index" /* of the work directory: hard-link groups that are being copied up */

/* [w] Let all these names be links to what stands at (fd, entry), or none: *linked says how many are,
 * which is not 0 after an error only where they could not be taken back. */
int um_upper_link_names(struct um_upper *upper, int fd, const char *entry,
                        const struct um_upper_shown_name *names, size_t n, size_t *linked);

/* ---- upper/nodes.c ----------------------------------------------------------------------- */

int um_upper_grow_nodes(struct um_upper *upper);
void um_upper_node_free(struct um_upper_node *node);
struct um_upper_known *um_upper_known_find(const struct um_upper *upper, uint64_t number);
/* Remove an entry; those behind it that probing would not reach any more move up. */
void um_upper_known_remove(struct um_upper *upper, struct um_upper_known *entry);
int um_upper_known_add(struct um_upper *upper, uint64_t number, uint64_t parent,
                       struct um_slice name, uint64_t lookups);

/* ---- upper/rule.c ------------------------------------------------------------------------ */

/* Whether a name is "." or "..". */
bool um_is_dots(struct um_slice name);
int um_upper_number(const struct um_upper *upper, const struct stat *status, uint64_t *number);
/* 0 where there may be such a name. */
int um_upper_check_sought(struct um_slice name);

/* ---- upper/reach.c ----------------------------------------------------------------------- */

/* Whether something of this name stands in a directory; `like` is another reached object of the upper. */
int um_upper_has_entry(const struct um_upper_reached *like, int fd, const char *name);
/* Whether a mark below user. on an object of this owner and mode is the daemon's word, root's, or that of the
 * upper's owner. */
bool um_upper_trusts_owner(const struct um_upper *upper, uint32_t uid, uint32_t mode);

/* ---- upper/object.c ---------------------------------------------------------------------- */

bool um_upper_overrides(const struct um_upper *upper);
/* user.* xattrs are for files and directories. */
bool um_upper_takes_user_xattrs(uint32_t mode);
/* The permissions on disk of what is kept apart: never without access for the daemon, nor such that
 * others could write, and so say what it shows. */
uint32_t um_upper_overridden_bits(uint32_t type, uint32_t mode);
/* Put into override_stat what the disk, which is at `status`, does not show. */
int um_upper_object_set_override(struct um_upper_reached *reached, const struct stat *status,
                                 const struct um_override *shown, bool had);
/* The owner of a symlink where the daemon may set it; an ordinary user's is the daemon's. */
int um_upper_object_chown_symlink(struct um_upper *upper, const struct um_upper_reached *reached,
                                  uint32_t uid, uint32_t gid);

/* ---- upper/redirects.c ------------------------------------------------------------------- */

/* The node of the directory `name` in a directory, which is unpinned; -ENOENT where the mount shows
 * none. */
int um_upper_enter_directory(struct um_upper *upper, struct um_upper_node *directory,
                             struct um_slice name, struct um_upper_node **out);
/* The directory that continues `lower` because it was renamed. */
int um_upper_find_redirected(struct um_upper *upper, uint64_t lower, struct um_upper_node **out);

/* ---- upper/copy.c ------------------------------------------------------------------------ */

struct um_upper_copy {
    char name[32]; /* in the work directory; empty once it stands there no more */
    bool directory;
    uint64_t data; /* the lower node whose data it has, 0 where that is its own */
    int fd; /* of a regular file, for reading and writing; else -1 */
    uint64_t ino; /* what the upper's file system calls it */
    bool capable; /* as of a node */
    const struct um_patience *patience; /* set before it is made; of the copying of data */
};

void um_upper_copy_discard(struct um_upper *upper, struct um_upper_copy *copy);
/* Copy a node of the lower tree into the work directory. */
int um_upper_copy_make(struct um_upper *upper, uint64_t lower, const struct um_attr *attr,
                       const char *redirect, bool empty, struct um_upper_copy *copy);

/* ---- upper/publish.c --------------------------------------------------------------------- */

#define UM_REDIRECT_ROOM 1024u /* every file system has room for an xattr of that size */

int um_upper_copy_publish(struct um_upper *upper, struct um_upper_node *node,
                          struct um_upper_copy *copy);
/* The path of `name` in a directory of the lower tree; NULL where it is too long for a mark. */
const char *um_upper_lower_file_path(struct um_upper *upper, uint64_t directory,
                                     struct um_slice name, char room[UM_REDIRECT_ROOM]);
/* The path of a file in the lower tree, where its node leads to it; NULL where it does not, or where
 * the path is too long for a mark. */
const char *um_upper_node_lower_path(struct um_upper *upper, const struct um_upper_node *node,
                                     char room[UM_REDIRECT_ROOM]);

/* Take the ACLs from an object of this type that it inherited. */
int um_upper_strip_acls(struct um_upper_reached *made, uint32_t type);

#endif
