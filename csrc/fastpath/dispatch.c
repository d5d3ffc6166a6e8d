#include "fastpath/fastpath.h"

#include "fastpath/exchange.h"

/* Other requests are forwarded. */
static um_handler *const handlers[] = {
    [FUSE_LOOKUP] = um_answer_lookup,
    [FUSE_FORGET] = um_answer_forget,
    [FUSE_GETATTR] = um_answer_getattr,
    [FUSE_SETATTR] = um_answer_setattr,
    [FUSE_READLINK] = um_answer_readlink,
    [FUSE_SYMLINK] = um_answer_symlink,
    [FUSE_MKNOD] = um_answer_mknod,
    [FUSE_MKDIR] = um_answer_mkdir,
    [FUSE_UNLINK] = um_answer_unlink,
    [FUSE_RMDIR] = um_answer_rmdir,
    [FUSE_RENAME] = um_answer_rename,
    [FUSE_LINK] = um_answer_link,
    [FUSE_OPEN] = um_answer_open,
    [FUSE_READ] = um_answer_read,
    [FUSE_WRITE] = um_answer_write,
    [FUSE_STATFS] = um_answer_statfs,
    [FUSE_RELEASE] = um_answer_release,
    [FUSE_FSYNC] = um_answer_fsync,
    [FUSE_SETXATTR] = um_answer_setxattr,
    [FUSE_GETXATTR] = um_answer_getxattr,
    [FUSE_LISTXATTR] = um_answer_listxattr,
    [FUSE_REMOVEXATTR] = um_answer_removexattr,
    /* close(2) has nothing to wait for. */
    [FUSE_FLUSH] = um_answer_unsupported,
    [FUSE_INIT] = um_answer_init,
    [FUSE_OPENDIR] = um_answer_opendir,
    [FUSE_RELEASEDIR] = um_answer_releasedir,
    [FUSE_READDIR] = um_answer_readdir,
    [FUSE_FSYNCDIR] = um_answer_fsync,
    /* The kernel asks where it does not check permissions itself: then everything is permitted. */
    [FUSE_ACCESS] = um_answer_unsupported,
    /* The kernel then creates files by MKNOD and opens them by itself, so no RELEASE follows. */
    [FUSE_CREATE] = um_answer_unsupported,
    [FUSE_IOCTL] = um_answer_ioctl,
    /* Every file is always ready; the kernel asks once. */
    [FUSE_POLL] = um_answer_unsupported,
    [FUSE_BATCH_FORGET] = um_answer_batch_forget,
    [FUSE_FALLOCATE] = um_answer_fallocate,
    [FUSE_READDIRPLUS] = um_answer_readdirplus,
    [FUSE_RENAME2] = um_answer_rename2,
    [FUSE_LSEEK] = um_answer_lseek,
    [FUSE_COPY_FILE_RANGE] = um_answer_copy_file_range,
    [FUSE_SYNCFS] = um_answer_syncfs,
    [UM_FUSE_TMPFILE] = um_answer_tmpfile,
    [UM_FUSE_STATX] = um_answer_statx,
};

/* ---- the public face ---------------------------------------------------------------------------------- */

static int64_t dispatch(struct um_exchange *x)
{
    uint32_t opcode = x->header->opcode;
    um_handler *handler =
        opcode < sizeof handlers / sizeof *handlers ? handlers[opcode] : (um_handler *)NULL;
    return handler ? handler(x) : UM_FORWARD;
}

static struct um_answer answer_request(struct um_fastpath *fastpath, const void *request,
                                       size_t size, void *reply, bool may_wait,
                                       const struct um_patience *patience)
{
    const struct fuse_in_header *header = request;
    struct fuse_out_header *out = reply;
    struct um_exchange x = {
        .fastpath = fastpath,
        .header = header,
        .body = (const uint8_t *)request + sizeof *header,
        .size = size - sizeof *header,
        .out = (uint8_t *)reply + sizeof *out,
        .may_wait = may_wait,
        .patience = patience,
    };
    int64_t result = header->len == size ? dispatch(&x) : -EIO;
    if (result == UM_LATER && may_wait)
        result = -EIO; /* every request is answered */
    struct um_answer answer = {.stale = {x.stale[0], x.stale[1]}, .copy_ups = x.copy_ups};
    switch (result) {
    case UM_FORWARD:
        answer.kind = UM_ANSWER_FORWARD;
        return answer;
    case UM_LATER:
        answer.kind = UM_ANSWER_LATER;
        return answer;
    case UM_SILENT:
        answer.kind = UM_ANSWER_NONE;
        return answer;
    default:
        answer.size = sizeof *out + (result > 0 ? (size_t)result : 0);
        *out = (struct fuse_out_header){.len = (uint32_t)answer.size,
                                        .error = result < 0 ? (int32_t)result : 0,
                                        .unique = header->unique};
        return answer;
    }
}

struct um_answer um_fastpath_answer(struct um_fastpath *fastpath, const void *request, size_t size,
                                    void *reply, bool may_wait)
{
    return answer_request(fastpath, request, size, reply, may_wait, NULL);
}

struct um_answer um_fastpath_answer_patiently(struct um_fastpath *fastpath, const void *request,
                                              size_t size, void *reply,
                                              const struct um_patience *patience)
{
    return answer_request(fastpath, request, size, reply, true, patience);
}

/* Return whether the reply of an opcode begins with a struct fuse_entry_out, which counts as a
 * lookup. */
static bool grants_one(uint32_t opcode)
{
    return opcode == FUSE_LOOKUP || opcode == FUSE_MKNOD || opcode == FUSE_MKDIR ||
           opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opcode == UM_FUSE_TMPFILE;
}

static void undo_listing(struct um_fastpath *fastpath, const uint8_t *body, size_t size)
{
    size_t at = 0;
    while (size - at >= FUSE_NAME_OFFSET_DIRENTPLUS) {
        const struct fuse_direntplus *entry = (const void *)(body + at);
        if (entry->entry_out.nodeid != 0)
            um_fastpath_node_forget(fastpath, entry->entry_out.nodeid, 1);
        at += FUSE_DIRENTPLUS_SIZE(entry);
    }
}

void um_fastpath_undo(struct um_fastpath *fastpath, const void *request, const void *reply,
                      size_t size)
{
    const struct fuse_in_header *header = request;
    const struct fuse_out_header *out = reply;
    const uint8_t *body = (const uint8_t *)reply + sizeof *out;
    size -= sizeof *out;
    if (out->error != 0 || fastpath->upper == NULL)
        return;
    um_fastpath_undo_open(fastpath, header, body, size);
    if (header->opcode == FUSE_READDIRPLUS) {
        undo_listing(fastpath, body, size);
    } else if (grants_one(header->opcode) && size >= sizeof(struct fuse_entry_out)) {
        const struct fuse_entry_out *entry = (const void *)body;
        if (entry->nodeid != 0)
            um_fastpath_node_forget(fastpath, entry->nodeid, 1);
    }
}

uint32_t um_fastpath_open_files(struct um_fastpath *fastpath)
{
    return fastpath->open_files ? um_open_files_count(fastpath->open_files) : 0;
}

int um_fastpath_try_passthrough(struct um_fastpath *fastpath, int fd)
{
    if (fastpath->passthrough == NULL || atomic_load(&fastpath->no_passthrough))
        return -EOPNOTSUPP;
    return um_passthrough_try(fastpath->passthrough, fd);
}

bool um_fastpath_uses_io_uring(const struct um_fastpath *fastpath)
{
    return atomic_load(&fastpath->uses_io_uring);
}

static int copy_layers(struct um_fastpath *fastpath, const struct um_fastpath_setup *setup)
{
    fastpath->layers = calloc(setup->n_layers + 1, sizeof *fastpath->layers);
    if (fastpath->layers == NULL)
        return -ENOMEM;
    for (; fastpath->n_layers < setup->n_layers; fastpath->n_layers++) {
        char *copy = strdup(setup->layers[fastpath->n_layers]);
        if (copy == NULL)
            return -ENOMEM;
        fastpath->layers[fastpath->n_layers] = copy;
    }
    return 0;
}

int um_fastpath_open(const struct um_fastpath_setup *setup, struct um_fastpath **out)
{
    struct um_fastpath *fastpath = calloc(1, sizeof *fastpath);
    if (fastpath == NULL)
        return -ENOMEM;
    fastpath->tree = setup->tree;
    fastpath->upper = setup->upper;
    fastpath->statfs_fd = setup->statfs_fd;
    fastpath->bytes = setup->bytes;
    fastpath->inodes = setup->inodes;
    fastpath->has_acls = setup->has_acls;
    fastpath->obeys_acls = setup->obeys_acls;
    fastpath->list_layers = setup->list_layers;
    fastpath->keeps = setup->keeps;
    fastpath->keeps_nsec = setup->keeps_nsec;
    fastpath->static_nlink = setup->static_nlink;
    fastpath->no_xattrs = setup->no_xattrs;
    fastpath->io_uring = setup->io_uring;
    fastpath->ids =
        setup->ids ? *setup->ids : (struct um_id_maps){{.squashed = -1}, {.squashed = -1}};
    pthread_mutex_init(&fastpath->lists_lock, NULL);
    int error = copy_layers(fastpath, setup);
    if (error == 0 && setup->upper != NULL)
        error = um_open_files_open(setup->upper, setup->max_open_files, &fastpath->open_files);
    if (error == 0 && setup->upper != NULL && setup->passthrough)
        error = um_passthrough_open(setup->upper, fastpath->open_files, setup->device,
                                    setup->max_open_files, &fastpath->passthrough);
    if (error != 0) {
        um_fastpath_close(fastpath);
        return error;
    }
    *out = fastpath;
    return 0;
}

void um_fastpath_close(struct um_fastpath *fastpath)
{
    if (fastpath == NULL)
        return;
    um_fastpath_close_lists(fastpath);
    um_passthrough_close(fastpath->passthrough);
    um_open_files_close(fastpath->open_files);
    for (size_t i = 0; i < fastpath->n_layers; i++)
        free(fastpath->layers[i]);
    free(fastpath->layers);
    pthread_mutex_destroy(&fastpath->lists_lock);
    free(fastpath);
}
