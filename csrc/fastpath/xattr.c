#include "fastpath/exchange.h"
#include "system/posix_acl.h"

/* These handlers show the extended attributes that mounting/read_operations.py shows. */

#define LAYER "user.unionmount.layer"
#define LAYER_INDEX "user.unionmount.layer_index"

static bool equals(struct um_slice name, const char *text)
{
    return um_slice_equal(name, um_slice_text(text));
}

static bool begins(struct um_slice name, const char *prefix)
{
    return um_slice_begins(name, um_slice_text(prefix));
}

static bool is_layer(struct um_slice name)
{
    return equals(name, LAYER) || equals(name, LAYER_INDEX);
}

static bool has_namespace(struct um_slice name)
{
    return um_acl_is_name(name) || begins(name, "user.") || begins(name, "security.") ||
           begins(name, "trusted.");
}

static bool is_visible(struct um_slice name, uint32_t uid)
{
    return has_namespace(name) && (uid == 0 || !begins(name, "trusted."));
}

/* Reply with the size of the result, or with its `got` bytes, which are in x->out. */
static int64_t reply_sized(struct um_exchange *x, int64_t got, uint32_t size)
{
    if (got < 0)
        return got;
    if (got > UINT32_MAX)
        return -E2BIG;
    if (size != 0)
        return got <= size ? got : -ERANGE;
    struct fuse_getxattr_out *out = um_reply_room(x, sizeof *out);
    out->size = (uint32_t)got;
    return sizeof *out;
}

static int64_t layer_value(struct um_exchange *x, bool number)
{
    struct um_attr attr;
    int error = um_fastpath_node_attr(x->fastpath, x->header->nodeid, &attr);
    if (error != 0)
        return error;
    if (attr.layer >= x->fastpath->n_layers) /* an image without layers has a root, too */
        return -ENODATA;
    if (number)
        return snprintf((char *)x->out, UM_FUSE_MAX_WRITE, "%u", attr.layer);
    return snprintf((char *)x->out, UM_FUSE_MAX_WRITE, "%s", x->fastpath->layers[attr.layer]);
}

static int64_t value(struct um_exchange *x, struct um_slice name, size_t room)
{
    struct um_fastpath *fastpath = x->fastpath;
    uint64_t node = x->header->nodeid;
    const char *text = (const char *)name.data;
    return fastpath->upper ? um_upper_getxattr(fastpath->upper, node, text, name.size, x->out, room)
                           : um_tree_getxattr(fastpath->tree, node, text, name.size, x->out, room);
}

/* The value as it is shown. Its size changes, so it is read even where only the size is asked for. */
static int64_t translated_value(struct um_exchange *x, struct um_slice name)
{
    int64_t got = value(x, name, UM_FUSE_MAX_WRITE - UM_ID_XATTR_GROWTH);
    return got <= 0 ? got
                    : um_id_show_xattr(&x->fastpath->ids, (const char *)name.data, name.size,
                                       x->out, (size_t)got);
}

int64_t um_answer_getxattr(struct um_exchange *x)
{
    const struct fuse_getxattr_in *in = UM_BODY(x, struct fuse_getxattr_in);
    struct um_slice name;
    size_t at = sizeof *in;
    if (x->fastpath->no_xattrs)
        return -ENOSYS; /* so it is asked once */
    if (in == NULL || !um_exchange_take_name(x, &at, &name))
        return -EIO;
    if (is_layer(name))
        return reply_sized(x, layer_value(x, equals(name, LAYER_INDEX)), in->size);
    if (!is_visible(name, x->header->uid))
        return has_namespace(name) ? -ENODATA : -EOPNOTSUPP;
    if (um_acl_is_name(name) && !x->fastpath->has_acls)
        return -EOPNOTSUPP;
    size_t room = in->size < UM_FUSE_MAX_WRITE ? in->size : UM_FUSE_MAX_WRITE;
    int64_t got = um_id_is_in_xattr(&x->fastpath->ids, name) ? translated_value(x, name)
                                                             : value(x, name, room);
    /* "ls -l" asks for the label of every file, unless the file system says that it has none. */
    if (got == -ENODATA && equals(name, "security.selinux"))
        got = -EOPNOTSUPP;
    return reply_sized(x, got, in->size);
}

/* ---- the names ---------------------------------------------------------------------------------------- */

/* Return whether the kernel permits reading `user.` attributes of such a file: see xattr(7). */
static int has_user_xattrs(struct um_exchange *x)
{
    struct um_attr attr;
    int error = um_fastpath_node_attr(x->fastpath, x->header->nodeid, &attr);
    return error ? error : S_ISREG(attr.mode) || S_ISDIR(attr.mode);
}

/* Remove the names from x->out that must not be shown, and return the size of the rest. */
static size_t filter(struct um_exchange *x, size_t size, bool user)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        size_t length = strnlen((const char *)x->out + at, size - at);
        struct um_slice name = um_slice_of(x->out + at, length);
        bool show =
            is_visible(name, x->header->uid) && !is_layer(name) && (user || !begins(name, "user."));
        if (show) {
            memmove(x->out + kept, x->out + at, length);
            kept += length;
            x->out[kept++] = '\0';
        }
        at += length + 1;
    }
    return kept;
}

int64_t um_answer_listxattr(struct um_exchange *x)
{
    static const char layers[] = LAYER "\0" LAYER_INDEX; /* both with NUL */
    const struct fuse_getxattr_in *in = UM_BODY(x, struct fuse_getxattr_in);
    struct um_fastpath *fastpath = x->fastpath;
    size_t room = UM_FUSE_MAX_WRITE - sizeof layers;
    if (x->fastpath->no_xattrs)
        return -ENOSYS; /* so it is asked once */
    if (in == NULL)
        return -EIO;
    int64_t got = fastpath->upper
                      ? um_upper_listxattr(fastpath->upper, x->header->nodeid, (char *)x->out, room)
                      : um_tree_listxattr(fastpath->tree, x->header->nodeid, (char *)x->out, room);
    int user = got < 0 ? 0 : has_user_xattrs(x);
    if (got < 0 || user < 0)
        return got < 0 ? got : user;
    size_t size = filter(x, (size_t)got, user);
    if (fastpath->list_layers && user) {
        memcpy(x->out + size, layers, sizeof layers);
        size += sizeof layers;
    }
    return reply_sized(x, (int64_t)size, in->size);
}

/* ---- changes -------------------------------------------------------------------------------------------- */

/* Return 0, or the reason why an attribute of that name cannot be changed. */
static int check_settable(const struct um_fastpath *fastpath, struct um_slice name)
{
    if (is_layer(name))
        return -EPERM;
    if (!has_namespace(name) || (um_acl_is_name(name) && !fastpath->has_acls))
        return -EOPNOTSUPP;
    return 0;
}

/* Set an attribute, or remove it where there is no value; the file is copied up first. */
static int64_t change(struct um_exchange *x, struct um_slice name, const void *value, size_t size,
                      int flags)
{
    struct um_upper *upper = x->fastpath->upper;
    const char *text = (const char *)name.data;
    uint64_t node = x->header->nodeid;
    for (int i = 0; i < UM_COPY_UPS; i++) {
        int64_t error = value ? um_upper_setxattr(upper, node, text, name.size, value, size, flags)
                              : um_upper_removexattr(upper, node, text, name.size);
        if (error != -EAGAIN)
            return error;
        error = um_exchange_copy_up(x, node, 0);
        if (error != 0)
            return error;
        x->stale[0] = node;
    }
    return -EIO;
}

/* Return whether setting an ACL may remove S_ISGID, as chmod(2) does: Python finds the members of
 * a group in /proc. 1, 0, or an errno. */
static int may_lose_setgid(const struct um_exchange *x, struct um_slice name)
{
    struct um_attr attr;
    if (!equals(name, UM_ACL_ACCESS) || x->header->uid == 0)
        return 0;
    int error = um_fastpath_node_attr(x->fastpath, x->header->nodeid, &attr);
    if (error != 0)
        return error;
    uint32_t group = um_id_shown(&x->fastpath->ids.groups, attr.gid);
    return (attr.mode & S_ISGID) && group != x->header->gid;
}

/* Put the value as it is stored into the room of the reply, which has no body; return its size. */
static int64_t take_value(struct um_exchange *x, struct um_slice name, const void *value,
                          size_t size)
{
    if (size > UM_FUSE_MAX_WRITE - UM_ID_XATTR_GROWTH)
        return -E2BIG;
    memcpy(x->out, value, size);
    return um_id_is_in_xattr(&x->fastpath->ids, name)
               ? um_id_store_xattr(&x->fastpath->ids, (const char *)name.data, name.size, x->out,
                                   size)
               : (int64_t)size;
}

int64_t um_answer_setxattr(struct um_exchange *x)
{
    /* The struct without FUSE_SETXATTR_EXT. */
    struct {
        uint32_t size, flags;
    } in;
    struct um_slice name;
    size_t at = sizeof in;
    if (x->fastpath->no_xattrs)
        return -ENOSYS; /* so it is asked once */
    if (x->fastpath->upper == NULL)
        return UM_FORWARD;
    if (x->size < sizeof in || !um_exchange_take_name(x, &at, &name))
        return -EIO;
    memcpy(&in, x->body, sizeof in);
    if (in.size > x->size - at)
        return -EIO;
    int error = check_settable(x->fastpath, name);
    int loses = error ? error : may_lose_setgid(x, name);
    if (loses != 0)
        return loses < 0 ? loses : UM_FORWARD;
    int64_t size = take_value(x, name, x->body + at, in.size);
    return size < 0 ? size : change(x, name, x->out, (size_t)size, (int)in.flags);
}

int64_t um_answer_removexattr(struct um_exchange *x)
{
    struct um_slice name;
    size_t at = 0;
    if (x->fastpath->no_xattrs)
        return -ENOSYS; /* so it is asked once */
    if (x->fastpath->upper == NULL)
        return UM_FORWARD;
    if (!um_exchange_take_name(x, &at, &name))
        return -EIO;
    int64_t error = check_settable(x->fastpath, name);
    if (error == 0)
        error = change(x, name, NULL, 0, 0);
    if (error == 0 && um_slice_equal(name, UM_SLICE_LITERAL("security.capability")))
        atomic_store(&x->fastpath->incapable, x->header->nodeid);
    return error;
}
