#include <sys/xattr.h>

#include "system/capability.h"
#include "system/posix_acl.h"
#include "system/xattr_name.h"
#include "upper/copy_data_later.h"
#include "upper/copy_up.h"
#include "upper/lookup.h"
#include "upper/marks.h"
#include "upper/object_xattr.h"

/* The xattrs of the upper are those of the object on disk, without the marks. So setting one that the
 * daemon may not set (trusted.*, security.* of an ordinary user) fails with the error of the disk. Users'
 * names that would be marks are escaped on disk (marks/whiteout.h); names that are marks under the other
 * prefix are stored as they are, and mean nothing.
 *
 * An ACL of an object whose mode is overridden (upper/object.c) grants on disk what the mode there grants:
 * the owner's entry always lets the daemon read and write, and the mask lets nobody else write. The
 * permissions that were asked for are those of the mode in override_stat, and are put into the ACL when it
 * is read. Two things are not exact: named users and groups are those of the daemon's user namespace, and
 * the disk's own checks do not know an owner that is kept in override_stat. Both matter only for reading
 * the upper directory itself. The permissions of the mount are checked by the kernel, with the mode, owner
 * and ACL that the mount shows. */

_Static_assert(UM_OVERLAY_ROOM == XATTR_NAME_MAX + 1, "room for a name");

/* An xattr as users of the mount and lower layers call it, and as the upper stores it. */
struct wanted {
    char shown[UM_OVERLAY_ROOM];
    char stored[UM_OVERLAY_ROOM];
};

/* ---- where xattrs come from ------------------------------------------------------------------ */

/* [r] The source of xattrs: an object of the upper (`above`), which the caller closes, or a lower inode. */
struct source {
    bool above;
    struct um_upper_reached reached;
    uint64_t lower;
};

static int source_of(struct um_upper *upper, const struct um_upper_node *node,
                     struct source *source)
{
    *source = (struct source){.above = node->in_upper, .lower = node->lower};
    if (source->above)
        return um_upper_reach(upper, node, &source->reached);
    return source->lower == 0 ? -ESTALE : 0;
}

/* Find where an inode's xattrs are, of which `name` is wanted (NULL: all). -ENODATA where it is known not to have
 * that one: the kernel asks for the capability of each new file before the first write to it. */
static int find_source(struct um_upper *upper, uint64_t number, const struct wanted *name,
                       struct source *source)
{
    const struct um_upper_node *node = um_upper_node_find(upper, number);
    *source = (struct source){0};
    if (node != NULL && node->incapable && name && strcmp(name->stored, UM_CAPABILITY) == 0)
        return -ENODATA;
    if (node != NULL)
        return source_of(upper, node, source);
    *source = (struct source){.lower = number};
    return number < upper->base ? 0 : -ESTALE;
}

/* Translate the error of an object that was removed on disk by others. */
static int64_t answer(int64_t result)
{
    return result == -ENOENT ? -ESTALE : result;
}

static int64_t get(struct um_upper *upper, struct source *source, const struct wanted *name,
                   void *value, size_t size)
{
    if (source->above)
        return answer(um_upper_object_getxattr(upper, &source->reached, name->stored, value, size));
    return um_tree_getxattr(upper->tree, source->lower, name->shown, strlen(name->shown), value,
                            size);
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Whether an xattr of the upper directory itself says which prefix its marks have, in the namespace of the
 * other prefix: the only name there that users can't set. */
static bool is_namespace_mark(const struct um_upper *upper, uint64_t number, const char *stored,
                              size_t size)
{
    const char *mark =
        upper->flags & UM_UPPER_TRUSTED ? UM_UPPER_NAMESPACE_USER : UM_UPPER_NAMESPACE_TRUSTED;
    return number == UM_ROOT_NODE && size == strlen(mark) && memcmp(stored, mark, size) == 0;
}

/* Check a name and find its spelling on disk. `mark` is the error for names that users can't have. */
static int take_name(const struct um_upper *upper, uint64_t number, struct um_slice name, int mark,
                     struct wanted *wanted)
{
    const char *text = (const char *)name.data;
    if (name.size == 0 || name.size > XATTR_NAME_MAX)
        return -ERANGE;
    if (memchr(text, 0, name.size) != NULL || um_xattr_is_nameless(name))
        return -EINVAL;
    memcpy(wanted->shown, text, name.size);
    wanted->shown[name.size] = '\0';
    if (is_namespace_mark(upper, number, text, name.size))
        return mark;
    int error = um_overlay_store(um_upper_namespace(upper), text, name.size, wanted->stored);
    return error == -EPERM ? mark : error;
}

/* Read all names, marks among them; malloced. */
static int64_t read_names(struct um_upper *upper, struct source *source, char **names)
{
    /* The kernel never lists more, so the list need not be asked for again when a name was added. */
    int64_t room = XATTR_LIST_MAX;
    if (!source->above)
        room = um_tree_listxattr(upper->tree, source->lower, NULL, 0);
    if (room <= 0)
        return room;
    *names =
        calloc((size_t)room + 1, 1); /* so that the last name ends, whatever the disk returns */
    if (*names == NULL)
        return -ENOMEM;
    if (source->above)
        return answer(um_upper_reached_listxattr(&source->reached, *names, (size_t)room));
    return um_tree_listxattr(upper->tree, source->lower, *names, (size_t)room);
}

/* Whether the capability that shows is in a mark. */
static bool has_capability(struct um_upper *upper, struct source *source)
{
    return source->above && source->reached.capable &&
           um_upper_mark_get_capability(upper, &source->reached, NULL, 0) >= 0;
}

/* Move the names that are no marks to the front, as users spell them, and return their size. The mark of
 * a capability (`capable`) becomes the name of a real one, which is shorter. There is a NUL behind the
 * last name. */
static size_t drop_marks(const struct um_upper *upper, uint64_t number, char *names, size_t size,
                         bool capable)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        size_t length = strnlen(names + at, size - at);
        size_t shown = 0;
        if (capable && um_upper_mark_is_capability_name(upper, names + at)) {
            memcpy(names + kept, UM_CAPABILITY, sizeof UM_CAPABILITY);
            shown = sizeof UM_CAPABILITY - 1;
            capable = false;
        } else if (!is_namespace_mark(upper, number, names + at, length)) {
            struct um_slice stored = um_slice_of(names + at, length);
            shown = um_overlay_show(um_upper_namespace(upper), stored, names + kept);
        }
        kept += shown;
        if (shown != 0)
            names[kept++] = '\0';
        at += length + 1;
    }
    return kept;
}

/* ---- reading --------------------------------------------------------------------------------- */

int64_t um_upper_getxattr(struct um_upper *upper, uint64_t number, const char *name,
                          size_t name_size, void *value, size_t size)
{
    struct wanted wanted;
    struct source source;
    int error = take_name(upper, number, um_slice_of(name, name_size), -ENODATA, &wanted);
    if (error != 0)
        return error;
    pthread_rwlock_rdlock(&upper->lock);
    error = find_source(upper, number, &wanted, &source);
    int64_t result = error ? error : get(upper, &source, &wanted, value, size);
    pthread_rwlock_unlock(&upper->lock);
    um_upper_reached_close(&source.reached);
    return result;
}

int64_t um_upper_listxattr(struct um_upper *upper, uint64_t number, char *names, size_t size)
{
    um_autofree char *all = NULL;
    struct source source;
    pthread_rwlock_rdlock(&upper->lock);
    int error = find_source(upper, number, NULL, &source);
    int64_t result = error ? error : read_names(upper, &source, &all);
    bool above = error == 0 && source.above;
    bool capable = result > 0 && has_capability(upper, &source);
    pthread_rwlock_unlock(&upper->lock);
    um_upper_reached_close(&source.reached);
    if (result <= 0)
        return result;
    size_t kept = (size_t)result;
    if (above)
        kept = drop_marks(upper, number, all, kept, capable);
    if (size != 0 && kept > size)
        return -ERANGE;
    if (size != 0 && kept != 0)
        memcpy(names, all, kept);
    return (int64_t)kept;
}

/* ---- changing -------------------------------------------------------------------------------- */

/* Whether an xattr is there: 1, 0 or an errno. */
static int is_there(struct um_upper *upper, const struct um_upper_node *node,
                    const struct wanted *name)
{
    struct source source;
    int error = source_of(upper, node, &source);
    if (error != 0)
        return error;
    int64_t size = get(upper, &source, name, NULL, 0);
    um_upper_reached_close(&source.reached);
    return size >= 0 ? 1 : size == -ENODATA ? 0 : (int)size;
}

/* Copy an object up and reach it. */
static int raise_spot(struct um_upper *upper, struct um_upper_node *node,
                      struct um_upper_reached *reached)
{
    if (node->data != 0 && um_upper_is_copying(upper, node->number))
        return -EAGAIN;
    int error = um_upper_node_copy_up(upper, node, UM_UPPER_NEED_NAME);
    return error ? error : um_upper_reach(upper, node, reached);
}

static int set(struct um_upper *upper, struct um_upper_node *node, const struct wanted *name,
               const void *value, size_t size, int flags)
{
    struct um_upper_reached reached = {0};
    int there = flags ? is_there(upper, node, name) : 0;
    if (there == 1 && (flags & XATTR_CREATE))
        return -EEXIST;
    if (there == 0 && (flags & XATTR_REPLACE))
        return -ENODATA;
    int error = raise_spot(upper, node, &reached);
    node->heritage.known = node->incapable = false;
    if (error == 0)
        error = (int)answer(
            um_upper_object_setxattr(upper, &reached, name->stored, value, size, flags));
    if (reached.capable)
        node->capable = true;
    um_upper_reached_close(&reached);
    return error;
}

static int remove_present(struct um_upper *upper, struct um_upper_node *node,
                          const struct wanted *name)
{
    struct um_upper_reached reached = {0};
    int there = is_there(upper, node, name);
    if (there < 0)
        return there;
    if (there == 0) /* the kernel removes an ACL that is not there */
        return um_acl_is_name(um_slice_text(name->shown)) ? 0 : -ENODATA;
    int error = raise_spot(upper, node, &reached);
    node->heritage.known = false;
    if (error == 0)
        error = (int)answer(um_upper_object_removexattr(upper, &reached, name->stored));
    um_upper_reached_close(&reached);
    return error;
}

int um_upper_setxattr(struct um_upper *upper, uint64_t number, const char *name, size_t name_size,
                      const void *value, size_t size, int flags)
{
    struct wanted wanted;
    struct um_upper_node *node;
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    int error = take_name(upper, number, um_slice_of(name, name_size), -EPERM, &wanted);
    if (error != 0)
        return error;
    if (size > XATTR_SIZE_MAX)
        return -E2BIG;
    pthread_rwlock_wrlock(&upper->lock);
    error = um_upper_node_load(upper, number, &node);
    if (error == 0) {
        error = set(upper, node, &wanted, value, size, flags);
        um_upper_node_release(upper, node);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_removexattr(struct um_upper *upper, uint64_t number, const char *name,
                         size_t name_size)
{
    struct wanted wanted;
    struct um_upper_node *node;
    int error = take_name(upper, number, um_slice_of(name, name_size), -ENODATA, &wanted);
    if (error != 0)
        return error;
    pthread_rwlock_wrlock(&upper->lock);
    error = um_upper_node_load(upper, number, &node);
    if (error == 0) {
        error = remove_present(upper, node, &wanted);
        um_upper_node_release(upper, node);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}
