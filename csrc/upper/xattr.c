#include "upper/state.h"

#include <linux/limits.h>
#include <sys/xattr.h>

#include "system/posix_acl.h"
#include "system/xattr_name.h"

/* Xattrs of the upper are those of the object on disk, without the marks. So what the daemon may not
 * set (trusted.*, security.* of an ordinary user) fails with what the disk says. What users call as a mark
 * would be called is escaped on disk (marks/whiteout.h); what is called as a mark of the other kind of uppers
 * stands there as it is, and means nothing.
 *
 * ACLs of what shows another mode than it has on disk (upper/object.c). On disk they grant what the mode
 * there does: the owning user's entry always lets the daemon read and write, the mask lets nobody else
 * write. What was asked for is in override_stat, as the mode, and is put back where an ACL is read.
 * What is not exact: named users and groups are those of the daemon's user namespace, and an owner
 * that is kept in override_stat is not one that the disk's own checks know. Both matter to nobody but
 * who reads the upper directory itself: the mount's permissions are checked by the kernel, with the
 * mode, owner and ACL that the mount shows. */

_Static_assert(UM_OVERLAY_ROOM == XATTR_NAME_MAX + 1, "room for a name");

/* An xattr as users of the mount and lower layers call it, and as the upper stores it. */
struct wanted {
    char shown[UM_OVERLAY_ROOM];
    char stored[UM_OVERLAY_ROOM];
};

static bool is_name(const char *name, const char *wanted)
{
    return strcmp(name, wanted) == 0;
}

/* ---- one object on disk ---------------------------------------------------------------------------- */

static int stat_shown(struct um_upper *upper, struct um_spot *spot, struct um_attr *attr)
{
    struct stat status;
    int error = um_spot_stat(spot, &status);
    return error ? error : um_disk_attr(upper, spot, &status, attr);
}

int64_t um_disk_getxattr(struct um_upper *upper, struct um_spot *spot, const char *name,
                         void *value, size_t size)
{
    struct um_attr attr;
    if (is_name(name, UM_CAPABILITY))
        return um_capability_get(upper, spot, value, size);
    int64_t got = um_spot_getxattr(spot, name, value, size);
    if (got <= 0 || size == 0 || !is_name(name, UM_ACL_ACCESS))
        return got;
    int error = stat_shown(upper, spot, &attr);
    if (error == 0)
        error = um_acl_chmod(value, (size_t)got, attr.mode);
    return error == -EINVAL ? -EIO : error ? error : got;
}

/* An access ACL that grants on disk what the disk is to grant, at no moment more or less. */
static int set_kept_acl(struct um_spot *spot, struct um_slice acl, uint32_t bits, int flags)
{
    um_autofree uint8_t *copy = malloc(acl.size);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, acl.data, acl.size);
    int error = um_acl_chmod(copy, acl.size, bits);
    return error ? error : um_spot_setxattr(spot, UM_ACL_ACCESS, copy, acl.size, flags);
}

/* The disk's mode follows the ACL, and nothing else says what it is. */
static int set_disk_acl(struct um_upper *upper, struct um_spot *spot, struct um_slice acl,
                        int flags)
{
    struct stat before;
    int error = um_spot_stat(spot, &before);
    if (error == 0)
        error = um_spot_setxattr(spot, UM_ACL_ACCESS, acl.data, acl.size, flags);
    return error ? error : um_disk_drop_claim(upper, spot, &before);
}

static int set_acl(struct um_upper *upper, struct um_spot *spot, struct um_slice acl, int flags)
{
    struct um_attr before;
    uint32_t bits, kept;
    if (um_acl_mode(acl, &bits) != 0) /* the kernel refuses it, and knows why */
        return um_spot_setxattr(spot, UM_ACL_ACCESS, acl.data, acl.size, flags);
    int error = stat_shown(upper, spot, &before);
    if (error != 0)
        return error;
    int apart = um_disk_keeps_apart(upper, spot, bits, &kept);
    if (apart <= 0)
        return apart ? apart : set_disk_acl(upper, spot, acl, flags);
    error = set_kept_acl(spot, acl, kept, flags);
    return error ? error : um_disk_chmod(upper, spot, (before.mode & 07000) | bits);
}

int um_disk_setxattr(struct um_upper *upper, struct um_spot *spot, const char *name,
                     const void *value, size_t size, int flags)
{
    const struct um_slice acl = um_slice_of(value, size);
    if (is_name(name, UM_ACL_ACCESS) && !um_acl_is_empty(acl))
        return set_acl(upper, spot, acl, flags);
    if (is_name(name, UM_CAPABILITY))
        return um_capability_set(upper, spot, value, size, flags);
    return um_spot_setxattr(spot, name, value, size, flags);
}

int um_disk_removexattr(struct um_upper *upper, struct um_spot *spot, const char *name)
{
    if (is_name(name, UM_CAPABILITY))
        return um_capability_remove(upper, spot);
    return um_spot_removexattr(spot, name);
}

/* ---- where xattrs come from -------------------------------------------------------------------------- */

/* [r] An object of the upper (`above`; its spot is closed by the caller), or a lower node. */
struct source {
    bool above;
    struct um_spot spot;
    uint64_t lower;
};

static int source_of(struct um_upper *upper, const struct um_record *record, struct source *source)
{
    *source = (struct source){.above = record->in_upper, .lower = record->lower};
    if (source->above)
        return um_spot_of(upper, record, &source->spot);
    return source->lower == 0 ? -ESTALE : 0;
}

static int find_source(struct um_upper *upper, uint64_t node, struct source *source)
{
    const struct um_record *record = um_upper_record(upper, node);
    if (record != NULL)
        return source_of(upper, record, source);
    *source = (struct source){.lower = node};
    return node < upper->base ? 0 : -ESTALE;
}

/* An object that was removed behind the daemon's back. */
static int64_t answer(int64_t result)
{
    return result == -ENOENT ? -ESTALE : result;
}

static int64_t get(struct um_upper *upper, struct source *source, const struct wanted *name,
                   void *value, size_t size)
{
    if (source->above)
        return answer(um_disk_getxattr(upper, &source->spot, name->stored, value, size));
    return um_tree_getxattr(upper->tree, source->lower, name->shown, strlen(name->shown), value,
                            size);
}

/* ---- names --------------------------------------------------------------------------------------------- */

/* Whether an xattr of the upper directory itself is the record of which prefix its marks have, in the other
 * one's namespace: the only name there that is not the users'. */
static bool is_record(const struct um_upper *upper, uint64_t node, const char *stored, size_t size)
{
    const char *record = upper->flags & UM_UPPER_TRUSTED ? UM_NAMESPACE_USER : UM_NAMESPACE_TRUSTED;
    return node == UM_ROOT_NODE && size == strlen(record) && memcmp(stored, record, size) == 0;
}

/* A name as the system calls want it; `mark` is what is said to those that are no user's. */
static int take_name(const struct um_upper *upper, uint64_t node, struct um_slice name, int mark,
                     struct wanted *wanted)
{
    const char *text = (const char *)name.data;
    if (name.size == 0 || name.size > XATTR_NAME_MAX)
        return -ERANGE;
    if (memchr(text, 0, name.size) != NULL || um_xattr_is_nameless(name))
        return -EINVAL;
    memcpy(wanted->shown, text, name.size);
    wanted->shown[name.size] = '\0';
    if (is_record(upper, node, text, name.size))
        return mark;
    int error = um_overlay_store(um_upper_namespace(upper), text, name.size, wanted->stored);
    return error == -EPERM ? mark : error;
}

/* All names, marks among them; malloced. */
static int64_t read_names(struct um_upper *upper, struct source *source, char **names)
{
    /* The kernel never lists more; so nothing has to be asked again where a name was added. */
    int64_t room = XATTR_LIST_MAX;
    if (!source->above)
        room = um_tree_listxattr(upper->tree, source->lower, NULL, 0);
    if (room <= 0)
        return room;
    *names = calloc((size_t)room + 1, 1); /* so the last name ends, whatever the disk says */
    if (*names == NULL)
        return -ENOMEM;
    if (source->above)
        return answer(um_spot_listxattr(&source->spot, *names, (size_t)room));
    return um_tree_listxattr(upper->tree, source->lower, *names, (size_t)room);
}

/* Whether the capability that shows is one in a mark. */
static bool has_capability(struct um_upper *upper, struct source *source)
{
    return source->above && source->spot.capable &&
           um_mark_get_capability(upper, &source->spot, NULL, 0) >= 0;
}

/* Move the names that are no marks to the front, as users call them; their size. Of a capability in a mark
 * (`capable`) the name is that of a real one, which is shorter. There is a NUL behind the last name. */
static size_t drop_marks(const struct um_upper *upper, uint64_t node, char *names, size_t size,
                         bool capable)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        size_t length = strnlen(names + at, size - at);
        size_t shown = 0;
        if (capable && um_mark_is_capability(upper, names + at)) {
            memcpy(names + kept, UM_CAPABILITY, sizeof UM_CAPABILITY);
            shown = sizeof UM_CAPABILITY - 1;
            capable = false;
        } else if (!is_record(upper, node, names + at, length)) {
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

/* ---- reading -------------------------------------------------------------------------------------------- */

int64_t um_upper_getxattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                          void *value, size_t size)
{
    struct wanted wanted;
    struct source source;
    int error = take_name(upper, node, um_slice_of(name, name_size), -ENODATA, &wanted);
    if (error != 0)
        return error;
    pthread_rwlock_rdlock(&upper->lock);
    error = find_source(upper, node, &source);
    int64_t result = error ? error : get(upper, &source, &wanted, value, size);
    pthread_rwlock_unlock(&upper->lock);
    um_spot_close(&source.spot);
    return result;
}

int64_t um_upper_listxattr(struct um_upper *upper, uint64_t node, char *names, size_t size)
{
    um_autofree char *all = NULL;
    struct source source;
    pthread_rwlock_rdlock(&upper->lock);
    int error = find_source(upper, node, &source);
    int64_t result = error ? error : read_names(upper, &source, &all);
    bool above = error == 0 && source.above;
    bool capable = result > 0 && has_capability(upper, &source);
    pthread_rwlock_unlock(&upper->lock);
    um_spot_close(&source.spot);
    if (result <= 0)
        return result;
    size_t kept = (size_t)result;
    if (above)
        kept = drop_marks(upper, node, all, kept, capable);
    if (size != 0 && kept > size)
        return -ERANGE;
    if (size != 0 && kept != 0)
        memcpy(names, all, kept);
    return (int64_t)kept;
}

/* ---- changing --------------------------------------------------------------------------------------------- */

/* Whether an xattr is there: 1, 0 or an errno. */
static int is_there(struct um_upper *upper, const struct um_record *record,
                    const struct wanted *name)
{
    struct source source;
    int error = source_of(upper, record, &source);
    if (error != 0)
        return error;
    int64_t size = get(upper, &source, name, NULL, 0);
    um_spot_close(&source.spot);
    return size >= 0 ? 1 : size == -ENODATA ? 0 : (int)size;
}

/* The object to change, copied up. */
static int raise_spot(struct um_upper *upper, struct um_record *record, struct um_spot *spot)
{
    if (record->data != 0 && um_upper_is_copying(upper, record->node))
        return -EAGAIN;
    int error = um_record_raise(upper, record, UM_NEED_NAME);
    return error ? error : um_spot_of(upper, record, spot);
}

static int set(struct um_upper *upper, struct um_record *record, const struct wanted *name,
               const void *value, size_t size, int flags)
{
    struct um_spot spot = {0};
    int there = flags ? is_there(upper, record, name) : 0;
    if (there == 1 && (flags & XATTR_CREATE))
        return -EEXIST;
    if (there == 0 && (flags & XATTR_REPLACE))
        return -ENODATA;
    int error = raise_spot(upper, record, &spot);
    if (error == 0)
        error = (int)answer(um_disk_setxattr(upper, &spot, name->stored, value, size, flags));
    if (spot.capable)
        record->capable = true;
    um_spot_close(&spot);
    return error;
}

static int remove_present(struct um_upper *upper, struct um_record *record,
                          const struct wanted *name)
{
    struct um_spot spot = {0};
    int there = is_there(upper, record, name);
    if (there < 0)
        return there;
    if (there == 0) /* the kernel removes an ACL that is not there */
        return um_acl_is_name(um_slice_of(name->shown, strlen(name->shown))) ? 0 : -ENODATA;
    int error = raise_spot(upper, record, &spot);
    if (error == 0)
        error = (int)answer(um_disk_removexattr(upper, &spot, name->stored));
    um_spot_close(&spot);
    return error;
}

int um_upper_setxattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size,
                      const void *value, size_t size, int flags)
{
    struct wanted wanted;
    struct um_record *record;
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    int error = take_name(upper, node, um_slice_of(name, name_size), -EPERM, &wanted);
    if (error != 0)
        return error;
    if (size > XATTR_SIZE_MAX)
        return -E2BIG;
    pthread_rwlock_wrlock(&upper->lock);
    error = um_upper_need(upper, node, &record);
    if (error == 0) {
        error = set(upper, record, &wanted, value, size, flags);
        um_record_rest(upper, record);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}

int um_upper_removexattr(struct um_upper *upper, uint64_t node, const char *name, size_t name_size)
{
    struct wanted wanted;
    struct um_record *record;
    int error = take_name(upper, node, um_slice_of(name, name_size), -ENODATA, &wanted);
    if (error != 0)
        return error;
    pthread_rwlock_wrlock(&upper->lock);
    error = um_upper_need(upper, node, &record);
    if (error == 0) {
        error = remove_present(upper, record, &wanted);
        um_record_rest(upper, record);
    }
    pthread_rwlock_unlock(&upper->lock);
    return error;
}
