#include <dirent.h>
#include <sys/stat.h>

#include "index/tables.h"
#include "system/write_at.h"

/* The final order of a layer: its names, breadth first. */
struct order {
    uint32_t *children; /* name numbers, grouped by directory, each group sorted */
    uint32_t *start;    /* by name number: where its group begins in `children`; n_names + 1 */
    uint32_t *dirents;  /* name number of each dirent */
    uint32_t *parents;  /* final inode number of the directory that holds each dirent */
    uint32_t *inodes;   /* build inode of each final inode */
    uint32_t *first;    /* by final inode: its first child dirent */
    uint32_t *own;      /* by final inode of a directory: its own dirent */
    uint32_t *up;       /* by final inode of a directory: its parent's final inode */
    uint32_t *nlink;    /* by final inode */
    size_t n_dirents, n_inodes;
};

/* The strings of the index are in the order in which a listing reads them: names of dirents,
 * targets of inodes, xattrs. They are written from where they are, so each section counts the
 * places of its own strings. */
struct strings {
    uint64_t targets, values; /* where these begin */
    uint64_t n;
};

struct writer {
    int fd;
    struct um_budget *budget;
    uint64_t offset; /* of `block` in the file */
    size_t used;     /* bytes of `block` */
    uint8_t block[UM_INDEX_BLOCK];
    uint8_t *out; /* finished blocks, written in large pieces */
    size_t out_used;
    uint64_t *sums;
    size_t n_sums, sums_capacity;
};

#define OUT_BYTES ((size_t)256 * UM_INDEX_BLOCK)

/* ---- writing blocks ------------------------------------------------------------------------ */

static int flush_out(struct writer *w)
{
    int error = um_write_at(w->fd, w->offset - w->out_used, w->out, w->out_used);
    w->out_used = 0;
    return error;
}

/* Close the current block: pad it with zeros, compute its checksum, queue it. An empty block is
 * none. */
static int end_block(struct writer *w)
{
    if (w->used == 0)
        return 0;
    memset(w->block + w->used, 0, sizeof w->block - w->used);
    int error = um_budget_reserve(w->budget, (void **)&w->sums, &w->sums_capacity, w->n_sums + 1,
                                  sizeof *w->sums);
    if (error != 0)
        return error;
    w->sums[w->n_sums++] = um_index_checksum(w->block, sizeof w->block);
    memcpy(w->out + w->out_used, w->block, sizeof w->block);
    w->out_used += sizeof w->block;
    w->offset += sizeof w->block;
    w->used = 0;
    return w->out_used == OUT_BYTES ? flush_out(w) : 0;
}

static int put_record(struct writer *w, const void *record, size_t size)
{
    if (w->used + size > sizeof w->block) {
        int error = end_block(w);
        if (error != 0)
            return error;
    }
    memcpy(w->block + w->used, record, size);
    w->used += size;
    return 0;
}

static int put_bytes(struct writer *w, const uint8_t *bytes, size_t size)
{
    while (size != 0) {
        size_t room = sizeof w->block - w->used;
        size_t piece = size < room ? size : room;
        memcpy(w->block + w->used, bytes, piece);
        w->used += piece;
        bytes += piece;
        size -= piece;
        int error = w->used == sizeof w->block ? end_block(w) : 0;
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- the order ------------------------------------------------------------------------------ */

static void order_free(struct order *o)
{
    free(o->children);
    free(o->start);
    free(o->dirents);
    free(o->parents);
    free(o->inodes);
    free(o->first);
    free(o->own);
    free(o->up);
    free(o->nlink);
}

static int order_allocate(struct order *o, size_t names, size_t inodes)
{
    o->children = malloc((names + 1) * sizeof(uint32_t));
    o->start = calloc(names + 2, sizeof(uint32_t));
    o->dirents = malloc((names + 1) * sizeof(uint32_t));
    o->parents = malloc((names + 1) * sizeof(uint32_t));
    o->inodes = malloc((inodes + 1) * sizeof(uint32_t));
    o->first = calloc(inodes + 1, sizeof(uint32_t));
    o->own = malloc((inodes + 1) * sizeof(uint32_t));
    o->up = calloc(inodes + 1, sizeof(uint32_t));
    o->nlink = calloc(inodes + 1, sizeof(uint32_t));
    bool complete = o->children && o->start && o->dirents && o->parents && o->inodes && o->first &&
                    o->own && o->up && o->nlink;
    return complete ? 0 : -ENOMEM;
}

static bool is_shown(const struct um_indexer_name *name)
{
    return !(name->flags & UM_NAME_HIDDEN) &&
           (name->inode != UM_NONE || (name->flags & UM_NAME_WHITED));
}

/* Group the names by directory with a counting sort, which is linear. Then the group of name n is
 * [start[n], start[n + 1]). Name 0 is the root, which is in no group. */
static void group_children(const struct um_indexer_tables *t, struct order *o)
{
    for (size_t i = 1; i < t->n_names; i++) {
        if (is_shown(&t->names[i]))
            o->start[t->names[i].parent + 2]++;
    }
    for (size_t i = 2; i < t->n_names + 2; i++)
        o->start[i] += o->start[i - 1];
    for (size_t i = 1; i < t->n_names; i++) {
        if (is_shown(&t->names[i]))
            o->children[o->start[t->names[i].parent + 1]++] = (uint32_t)i;
    }
}

static int compare_names(const void *a, const void *b, void *context)
{
    const struct um_indexer_tables *t = (const struct um_indexer_tables *)context;
    const struct um_indexer_name *left = &t->names[*(const uint32_t *)a];
    const struct um_indexer_name *right = &t->names[*(const uint32_t *)b];
    return um_slice_compare(um_indexer_text_of(t, left), um_indexer_text_of(t, right));
}

/* Give a child its dirent and, where it is the first name of its inode, give the inode a number. */
static void place_child(struct um_indexer_tables *t, struct order *o, uint32_t parent,
                        uint32_t child)
{
    const struct um_indexer_name *name = &t->names[child];
    uint32_t dirent = (uint32_t)o->n_dirents++;
    o->dirents[dirent] = child;
    o->parents[dirent] = parent;
    if (name->inode == UM_NONE)
        return;
    struct um_indexer_inode *inode = &t->inodes[name->inode];
    if (inode->final == UM_NONE) {
        inode->final = (uint32_t)o->n_inodes;
        o->inodes[o->n_inodes++] = name->inode;
    }
    if (S_ISDIR(inode->mode)) {
        o->own[inode->final] = dirent;
        o->up[inode->final] = parent;
        o->nlink[inode->final] += 2;
        o->nlink[parent]++;
        inode->flags |= name->flags & UM_NAME_WHITED ? UM_INODE_REPLACES : 0;
        inode->flags |= name->flags & UM_NAME_OPAQUED ? UM_INODE_OPAQUE : 0;
    } else {
        o->nlink[inode->final]++;
    }
}

static void place_children(struct um_indexer_tables *t, struct order *o, uint32_t parent,
                           uint32_t name)
{
    uint32_t from = o->start[name], to = o->start[name + 1];
    qsort_r(o->children + from, to - from, sizeof *o->children, compare_names, t);
    o->first[parent] = (uint32_t)o->n_dirents;
    for (uint32_t i = from; i < to; i++)
        place_child(t, o, parent, o->children[i]);
}

static void place_root(struct um_indexer_tables *t, struct order *o)
{
    struct um_indexer_inode *root = &t->inodes[t->names[0].inode];
    root->final = 0;
    root->flags |= t->names[0].flags & UM_NAME_OPAQUED ? UM_INODE_OPAQUE : 0;
    o->inodes[o->n_inodes++] = t->names[0].inode;
    o->own[0] = UM_NONE;
    o->nlink[0] = 2;
}

/* Place all names breadth first: the dirents placed so far are the queue. */
static void place_all(struct um_indexer_tables *t, struct order *o)
{
    place_root(t, o);
    place_children(t, o, 0, 0);
    for (size_t at = 0; at < o->n_dirents; at++) {
        const struct um_indexer_name *name = &t->names[o->dirents[at]];
        if (name->inode != UM_NONE && S_ISDIR(t->inodes[name->inode].mode))
            place_children(t, o, t->inodes[name->inode].final, o->dirents[at]);
    }
}

/* ---- strings --------------------------------------------------------------------------------- */

static bool has_target(const struct um_indexer_inode *inode)
{
    return S_ISLNK(inode->mode) || (inode->flags & UM_INODE_EXTERNAL);
}

static void place_strings(const struct um_indexer_tables *t, const struct order *o,
                          struct strings *s)
{
    for (size_t i = 0; i < o->n_dirents; i++)
        s->targets += t->names[o->dirents[i]].text_size;
    s->values = s->targets;
    for (size_t i = 0; i < o->n_inodes; i++) {
        const struct um_indexer_inode *inode = &t->inodes[o->inodes[i]];
        s->values += has_target(inode) ? inode->size : 0;
    }
    s->n = s->values + um_spool_size(&t->values);
}

static int put_values(struct writer *w, const struct um_spool *values)
{
    uint8_t piece[UM_INDEX_BLOCK];
    for (uint64_t at = 0; at < um_spool_size(values);) {
        uint64_t left = um_spool_size(values) - at;
        size_t size = left < sizeof piece ? (size_t)left : sizeof piece;
        int error = um_spool_read(values, at, piece, size);
        if (error == 0)
            error = put_bytes(w, piece, size);
        if (error != 0)
            return error;
        at += size;
    }
    return 0;
}

static int put_strings(struct writer *w, const struct um_indexer_tables *t, const struct order *o)
{
    int error = 0;
    for (size_t i = 0; i < o->n_dirents && error == 0; i++) {
        const struct um_indexer_name *name = &t->names[o->dirents[i]];
        error = put_bytes(w, t->strings + name->text, name->text_size);
    }
    for (size_t i = 0; i < o->n_inodes && error == 0; i++) {
        const struct um_indexer_inode *inode = &t->inodes[o->inodes[i]];
        if (has_target(inode))
            error = put_bytes(w, t->strings + inode->data, (size_t)inode->size);
    }
    return error ? error : put_values(w, &t->values);
}

/* ---- sections -------------------------------------------------------------------------------- */

/* Encode an inode; `*target` is the place of the next target. */
static void encode_inode(const struct um_indexer_tables *t, const struct order *o, uint32_t number,
                         uint64_t *target, struct um_index_disk_inode *disk)
{
    const struct um_indexer_inode *inode = &t->inodes[o->inodes[number]];
    uint64_t size = inode->size, data = inode->data;
    if (S_ISDIR(inode->mode)) {
        uint32_t count = 0;
        /* Children are contiguous: count those that have this parent. */
        while ((size_t)o->first[number] + count < o->n_dirents &&
               o->parents[o->first[number] + count] == number)
            count++;
        data = um_indexer_pack(o->first[number], count);
        size = um_indexer_pack(o->up[number], o->own[number]);
    } else if (has_target(inode)) {
        data = *target;
        *target += size;
    }
    um_store16(disk->mode, inode->mode);
    um_store16(disk->flags, inode->flags);
    um_store32(disk->uid, inode->uid);
    um_store32(disk->gid, inode->gid);
    um_store32(disk->nlink, o->nlink[number]);
    um_store64(disk->mtime, (uint64_t)inode->mtime);
    um_store32(disk->mtime_nsec, inode->mtime_nsec);
    um_store32(disk->xattr, inode->xattr);
    um_store64(disk->size, size);
    um_store64(disk->data, data);
}

static int put_inodes(struct writer *w, const struct um_indexer_tables *t, const struct order *o,
                      uint64_t target)
{
    for (uint32_t i = 0; i < o->n_inodes; i++) {
        struct um_index_disk_inode disk;
        encode_inode(t, o, i, &target, &disk);
        int error = put_record(w, &disk, sizeof disk);
        if (error != 0)
            return error;
    }
    return 0;
}

static uint8_t dirent_type(const struct um_indexer_tables *t, const struct um_indexer_name *name)
{
    if (name->inode == UM_NONE)
        return DT_WHT;
    return IFTODT(t->inodes[name->inode].mode); /* DT_UNKNOWN for an external link: no type bits */
}

static int put_dirents(struct writer *w, const struct um_indexer_tables *t, const struct order *o)
{
    uint64_t text = 0;
    for (size_t i = 0; i < o->n_dirents; i++) {
        const struct um_indexer_name *name = &t->names[o->dirents[i]];
        struct um_index_disk_dirent disk = {.type = dirent_type(t, name)};
        um_store32(disk.name, (uint32_t)text);
        text += name->text_size;
        um_store32(disk.inode, name->inode == UM_NONE ? 0 : t->inodes[name->inode].final);
        um_store16(disk.name_size, name->text_size);
        int error = put_record(w, &disk, sizeof disk);
        if (error != 0)
            return error;
    }
    return 0;
}

static int compare_links(const void *a, const void *b)
{
    const struct um_index_disk_link *left = (const struct um_index_disk_link *)a;
    const struct um_index_disk_link *right = (const struct um_index_disk_link *)b;
    uint32_t l = um_load32(left->inode), r = um_load32(right->inode);
    if (l != r)
        return l < r ? -1 : 1;
    l = um_load32(left->dirent);
    r = um_load32(right->dirent);
    return (l > r) - (l < r);
}

/* Return whether the inode belongs into the section. */
static bool is_linked(const struct um_indexer_tables *t, const struct order *o, uint32_t number,
                      enum um_index_section section)
{
    const struct um_indexer_inode *inode = &t->inodes[o->inodes[number]];
    if (section == UM_SECTION_EXTERNALS)
        return inode->flags & UM_INODE_EXTERNAL;
    return !S_ISDIR(inode->mode) && !(inode->flags & UM_INODE_EXTERNAL) && o->nlink[number] > 1;
}

/* Gather the records of a section in `links`; where that is NULL, only count them. */
static size_t gather_links(const struct um_indexer_tables *t, const struct order *o,
                           enum um_index_section section, struct um_index_disk_link *links)
{
    size_t n = 0;
    for (size_t i = 0; i < o->n_dirents; i++) {
        uint32_t inode = t->names[o->dirents[i]].inode;
        if (inode == UM_NONE || !is_linked(t, o, t->inodes[inode].final, section))
            continue;
        if (links != NULL) {
            um_store32(links[n].inode, t->inodes[inode].final);
            um_store32(links[n].dirent, (uint32_t)i);
            um_store32(links[n].parent, o->parents[i]);
        }
        n++;
    }
    return n;
}

static int put_links(struct writer *w, const struct um_indexer_tables *t, const struct order *o,
                     enum um_index_section section, uint64_t *count)
{
    size_t n = gather_links(t, o, section, NULL);
    *count = n;
    if (n == 0)
        return 0;
    struct um_index_disk_link *links = malloc(n * sizeof *links);
    if (links == NULL)
        return -ENOMEM;
    gather_links(t, o, section, links);
    qsort(links, n, sizeof *links, compare_links);
    int error = 0;
    for (size_t i = 0; i < n && error == 0; i++)
        error = put_record(w, &links[i], sizeof *links);
    free(links);
    return error;
}

static int put_extents(struct writer *w, const struct um_indexer_tables *t)
{
    for (size_t i = 0; i < t->n_extents; i++) {
        struct um_index_disk_extent disk;
        um_store64(disk.logical, t->extents[i].logical);
        um_store64(disk.length, t->extents[i].length);
        um_store64(disk.stored, t->extents[i].stored);
        int error = put_record(w, &disk, sizeof disk);
        if (error != 0)
            return error;
    }
    return 0;
}

static int put_xattrs(struct writer *w, const struct um_indexer_tables *t, uint64_t values)
{
    for (size_t i = 0; i < t->n_xattrs; i++) {
        struct um_index_disk_xattr disk;
        uint64_t name = values + t->xattrs[i].at;
        um_store32(disk.name, (uint32_t)name);
        um_store32(disk.value, (uint32_t)(name + t->xattrs[i].name_size));
        um_store32(disk.value_size, t->xattrs[i].value_size);
        um_store16(disk.name_size, t->xattrs[i].name_size);
        um_store16(disk.last, t->xattrs[i].last);
        int error = put_record(w, &disk, sizeof disk);
        if (error != 0)
            return error;
    }
    return 0;
}

static int put_section(struct writer *w, const struct um_indexer_tables *t, const struct order *o,
                       const struct strings *s, enum um_index_section section, uint64_t *count)
{
    switch (section) {
    case UM_SECTION_INODES:
        *count = o->n_inodes;
        return put_inodes(w, t, o, s->targets);
    case UM_SECTION_DIRENTS:
        *count = o->n_dirents;
        return put_dirents(w, t, o);
    case UM_SECTION_LINKS:
    case UM_SECTION_EXTERNALS:
        return put_links(w, t, o, section, count);
    case UM_SECTION_EXTENTS:
        *count = t->n_extents;
        return put_extents(w, t);
    case UM_SECTION_XATTRS:
        *count = t->n_xattrs;
        return put_xattrs(w, t, s->values);
    case UM_SECTION_STRINGS:
        *count = s->n;
        return put_strings(w, t, o);
    case UM_SECTION_SUMS:
    case UM_SECTION_COUNT:
        break;
    }
    return -EINVAL;
}

/* ---- the file -------------------------------------------------------------------------------- */

static void count_statistics(const struct um_indexer_tables *t, const struct order *o,
                             struct um_index_disk_header *header)
{
    uint64_t files = 0, bytes = 0, directories = 0, whiteouts = 0, opaques = 0;
    for (size_t i = 0; i < o->n_inodes; i++) {
        const struct um_indexer_inode *inode = &t->inodes[o->inodes[i]];
        files += S_ISREG(inode->mode);
        bytes += S_ISREG(inode->mode) ? inode->size : 0;
        directories += S_ISDIR(inode->mode);
        opaques += (inode->flags & UM_INODE_OPAQUE) != 0;
    }
    for (size_t i = 0; i < o->n_dirents; i++)
        whiteouts += (t->names[o->dirents[i]].flags & UM_NAME_WHITED) != 0;
    um_store64(header->files, files);
    um_store64(header->file_bytes, bytes);
    um_store64(header->directories, directories);
    um_store64(header->whiteouts, whiteouts);
    um_store64(header->opaques, opaques);
    um_store64(header->acls, t->n_acls);
    um_store64(header->unresolved, t->n_unresolved);
}

static int put_sections(struct writer *w, const struct um_indexer_tables *t, const struct order *o,
                        const struct strings *s, struct um_index_disk_header *header)
{
    for (int section = 0; section < UM_SECTION_SUMS; section++) {
        uint64_t count = 0;
        um_store64(header->sections[section].offset, w->offset);
        int error = put_section(w, t, o, s, (enum um_index_section)section, &count);
        if (error == 0)
            error = end_block(w);
        if (error != 0)
            return error;
        um_store64(header->sections[section].count, count);
    }
    return flush_out(w);
}

static int put_sums(struct writer *w, struct um_index_disk_header *header, uint64_t *file_size)
{
    size_t size = w->n_sums * sizeof(uint64_t);
    for (size_t i = 0; i < w->n_sums; i++) {
        uint64_t sum = w->sums[i];
        um_store64(&w->sums[i], sum);
    }
    um_store64(header->sections[UM_SECTION_SUMS].offset, w->offset);
    um_store64(header->sections[UM_SECTION_SUMS].count, w->n_sums);
    um_store64(header->sums_checksum, um_index_checksum(w->sums, size));
    *file_size = w->offset + size;
    return um_write_at(w->fd, w->offset, w->sums, size);
}

static int put_header(struct writer *w, struct um_index_disk_header *header, uint64_t layer_size,
                      uint64_t file_size)
{
    uint8_t block[UM_INDEX_BLOCK] = {0};
    um_store64(header->magic, UM_INDEX_MAGIC);
    um_store32(header->version, UM_INDEX_VERSION);
    um_store32(header->block, UM_INDEX_BLOCK);
    um_store64(header->file_size, file_size);
    um_store64(header->layer_size, layer_size);
    um_store64(header->checksum,
               um_index_checksum(header, offsetof(struct um_index_disk_header, checksum)));
    memcpy(block, header, sizeof *header);
    return um_write_at(w->fd, 0, block, sizeof block);
}

static int write_file(struct um_indexer_tables *t, const struct order *o, const struct strings *s,
                      uint64_t layer_size, int fd)
{
    struct um_index_disk_header header = {0};
    uint64_t file_size = 0;
    um_autofree struct writer *w = calloc(1, sizeof *w);
    um_autofree uint8_t *out = malloc(OUT_BYTES);
    if (w == NULL || out == NULL)
        return -ENOMEM;
    w->fd = fd;
    w->budget = &t->budget;
    w->out = out;
    w->offset = UM_INDEX_BLOCK;
    count_statistics(t, o, &header);
    int error = put_sections(w, t, o, s, &header);
    if (error == 0 && w->offset + w->n_sums * sizeof(uint64_t) > UM_INDEX_MAX)
        error = -EFBIG; /* no reader accepts it */
    if (error == 0)
        error = put_sums(w, &header, &file_size);
    if (error == 0)
        error = put_header(w, &header, layer_size, file_size);
    free(w->sums);
    return error;
}

int um_index_write(struct um_indexer_tables *t, uint64_t layer_size, int fd)
{
    struct order o = {0};
    struct strings s = {0};
    int error = order_allocate(&o, t->n_names, t->n_inodes);
    if (error == 0) {
        group_children(t, &o);
        place_all(t, &o);
        place_strings(t, &o, &s);
        error = write_file(t, &o, &s, layer_size, fd);
    }
    order_free(&o);
    return error;
}
