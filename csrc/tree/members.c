#include "tree/members.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "system/read_at.h"
#include "tar/write.h"
#include "tree/state.h"

#define ENTRIES 16u               /* that are listed at once */
#define PIECES 128u               /* of one read: data and the gaps between them, in turn */
#define GAP 4096u /* bytes between the data of two files that are read with them */
#define AHEAD (16u * 1024u * 1024u) /* bytes of a layer that are read ahead at once */

/* Data of one layer, of files that follow each other in it, that are still to be read. */
struct run {
    const struct um_layer *layer; /* NULL: none */
    uint64_t start, end; /* offsets in the tar */
    struct iovec pieces[PIECES];
    size_t n;
    size_t used; /* of the buffer, and the cookie, without the files of this run */
    uint64_t cookie;
};

struct um_members {
    struct um_tree *tree; /* borrowed */
    uint32_t n_layers;    /* of the tree, which may be closed earlier */
    uint8_t **ahead; /* for each layer a bit for each part that is read ahead */
    struct run run;
    uint8_t gaps[GAP]; /* what is read between files, and not used */
};

/* Where members are added. */
struct room {
    struct um_slice prefix;
    uint8_t *buffer;
    size_t size, used;
};

/* ---- reading ahead ------------------------------------------------------------------------------- */

static uint64_t parts_of(const struct um_layer *layer)
{
    return layer->live != NULL ? 0 : layer->length / AHEAD + 1;
}

void um_members_read_ahead(struct um_members *members, uint32_t layer_number, uint64_t offset)
{
    if (layer_number >= members->n_layers)
        return;
    const struct um_layer *layer = &members->tree->layers[layer_number];
    uint8_t *ahead = members->ahead[layer_number];
    uint64_t part = offset / AHEAD;
    for (uint64_t end = part + 2; part < end && part < parts_of(layer); part++) {
        if (ahead[part / 8] >> part % 8 & 1)
            continue;
        ahead[part / 8] |= (uint8_t)(1u << part % 8);
        posix_fadvise(layer->fd, (off_t)(layer->offset + part * AHEAD), AHEAD, POSIX_FADV_WILLNEED);
    }
}

/* ---- data ---------------------------------------------------------------------------------------- */

/* Read the data of the run: 0, or an errno with the members of the run taken back. */
static int read_run(struct um_members *members, struct room *room, uint64_t *cookie)
{
    struct run *run = &members->run;
    if (run->layer == NULL)
        return 0;
    int error =
        um_read_vector_at(run->layer->fd, run->layer->offset + run->start, run->pieces, run->n);
    run->layer = NULL;
    if (error != 0) {
        room->used = run->used;
        *cookie = run->cookie;
    }
    return error;
}

/* Return whether data at `offset` can be read with the run. */
static bool continues(const struct run *run, const struct um_layer *layer, uint64_t offset)
{
    return run->layer == layer && run->n + 2 <= PIECES && offset >= run->end &&
           offset - run->end <= GAP;
}

/* Note that data at an offset in a layer belong to `out`. */
static void add_to_run(struct um_members *members, const struct um_layer *layer, uint64_t offset,
                       void *out, size_t size)
{
    struct run *run = &members->run;
    if (run->layer == NULL) {
        run->layer = layer;
        run->start = run->end = offset;
        run->n = 0;
    }
    if (offset != run->end)
        run->pieces[run->n++] = (struct iovec){members->gaps, (size_t)(offset - run->end)};
    run->pieces[run->n++] = (struct iovec){out, size};
    run->end = offset + size;
}

/* ---- members ------------------------------------------------------------------------------------- */

/* A file that is about to become a member. */
struct plain {
    struct um_tar_member member;
    uint32_t layer;
    uint64_t offset; /* of its data in the tar of the layer */
};

/* Return whether a file is plain, and describe it. */
static bool is_plain(struct um_tree *tree, const struct um_tree_entry *entry, struct plain *plain)
{
    const struct um_attr *attr = &entry->attr;
    *plain = (struct plain){.member = {.name = um_slice_of(entry->name, entry->name_size),
                                       .mode = attr->mode,
                                       .uid = attr->uid,
                                       .gid = attr->gid,
                                       .mtime = attr->mtime,
                                       .mtime_nsec = attr->mtime_nsec}};
    if (attr->nlink != 1 || attr->layer >= tree->n_layers ||
        tree->layers[attr->layer].live != NULL || um_tree_listxattr(tree, attr->node, NULL, 0) != 0)
        return false;
    if (S_ISLNK(attr->mode)) {
        const char *target;
        size_t size;
        if (um_tree_readlink(tree, attr->node, &target, &size) != 0)
            return false;
        plain->member.target = um_slice_of(target, size);
        return true;
    }
    uint64_t length;
    if (!S_ISREG(attr->mode) ||
        um_tree_extent(tree, attr->node, &plain->layer, &plain->offset, &length) != 0)
        return false;
    plain->member.size = length;
    const struct um_layer *layer = &tree->layers[plain->layer];
    return length == attr->size && um_within(plain->offset, length, layer->length);
}

/* Add one member, with its data noted in the run: UM_MEMBERS_FULL, UM_MEMBERS_OTHER or, where it was
 * added, -1. */
static int add(struct um_members *members, struct room *room, const struct um_tree_entry *entry,
               uint64_t *cookie)
{
    struct plain plain;
    if (!is_plain(members->tree, entry, &plain))
        return UM_MEMBERS_OTHER;
    plain.member.directory = room->prefix;
    uint8_t *out = room->buffer + room->used;
    size_t left = room->size - room->used;
    int64_t header = um_tar_write_header(&plain.member, out, left);
    if (header == 0)
        return UM_MEMBERS_OTHER;
    uint64_t size = plain.member.size;
    size_t padding = um_tar_padding(size);
    if (header < 0 || !um_within((uint64_t)header, size, left) ||
        padding > left - (size_t)header - size)
        return UM_MEMBERS_FULL;
    if (size != 0) {
        const struct um_layer *layer = &members->tree->layers[plain.layer];
        if (!continues(&members->run, layer, plain.offset) && read_run(members, room, cookie) != 0)
            return UM_MEMBERS_OTHER;
        um_members_read_ahead(members, plain.layer, plain.offset);
        if (members->run.layer == NULL) {
            members->run.used = room->used;
            members->run.cookie = *cookie;
        }
        add_to_run(members, layer, plain.offset, out + header, (size_t)size);
        memset(out + header + size, 0, padding);
    }
    room->used += (size_t)header + (size_t)size + padding;
    *cookie = entry->next;
    return -1;
}

int um_members_add(struct um_members *members, uint64_t directory, const char *prefix,
                   size_t prefix_size, uint64_t *cookie, void *buffer, size_t size, size_t *used)
{
    struct um_tree_entry entries[ENTRIES];
    struct room room = {um_slice_of(prefix, prefix_size), buffer, size, *used};
    int n, state = -1;
    members->run.layer = NULL;
    /* The first entry is often a directory, so that no more are looked at in vain. */
    for (size_t count = 1; state < 0; count = ENTRIES) {
        n = um_tree_list(members->tree, directory, *cookie, entries, count);
        if (n <= 0)
            state = UM_MEMBERS_OTHER;
        for (int i = 0; i < n && state < 0; i++)
            state = add(members, &room, &entries[i], cookie);
    }
    if (read_run(members, &room, cookie) != 0)
        state = UM_MEMBERS_OTHER;
    *used = room.used;
    return state;
}

/* ---- opening ------------------------------------------------------------------------------------- */

int um_members_open(struct um_tree *tree, struct um_members **out)
{
    struct um_members *members = calloc(1, sizeof *members);
    if (members == NULL)
        return -ENOMEM;
    members->tree = tree;
    members->n_layers = tree->n_layers;
    members->ahead = calloc((size_t)tree->n_layers + 1, sizeof *members->ahead);
    int error = members->ahead == NULL ? -ENOMEM : 0;
    for (uint32_t i = 0; error == 0 && i < tree->n_layers; i++) {
        members->ahead[i] = calloc((size_t)(parts_of(&tree->layers[i]) / 8 + 1), 1);
        error = members->ahead[i] == NULL ? -ENOMEM : 0;
    }
    if (error != 0) {
        um_members_close(members);
        return error;
    }
    *out = members;
    return 0;
}

void um_members_close(struct um_members *members)
{
    if (members == NULL)
        return;
    for (uint32_t i = 0; members->ahead != NULL && i < members->n_layers; i++)
        free(members->ahead[i]);
    free(members->ahead);
    free(members);
}
