/*
 * tar/parser.c - see tar/tar.h.
 *
 * The parser is a state machine that consumes blocks of 512 bytes. A block that is complete in the
 * fed bytes is parsed in place; others are assembled in `stage`. Payload and padding are counted,
 * not read. So every split of the input gives the same entries.
 *
 * Where writers or readers of tar disagree, this parser sides with Go's archive/tar, because
 * container engines read and write layers with it. Those places are marked, and they are:
 *  - Links, devices, FIFOs and directories have no payload, whatever their size field says (GNU tar
 *    and libarchive skip the size of a directory; Python's tarfile does as Go does). The size of
 *    'D' is skipped.
 *  - NUL with a trailing slash in the name is a directory, as V7 wrote them; '0' and '7' with one
 *    are files.
 *  - A GNU long name beats a pax path; GNU.sparse.name beats both. Of two 'x' headers before one
 *    entry, the last counts alone.
 *  - A lone zero block with anything but a zero block behind it is an error.
 * One place differs: Go ignores global headers; here they count, as POSIX wants it.
 */
#include "tar/tar.h"

#include <inttypes.h>

#include "tar/header.h"
#include "tar/pax.h"
#include "tar/sparse.h"

#define NO_HEADER UINT64_MAX

enum state {
    AT_HEADER,
    AFTER_ZERO_BLOCK,
    IN_EXTENDED,      /* the payload of 'x', 'g', 'L' or 'K' */
    IN_SPARSE_BLOCKS, /* old GNU: blocks of runs between header and payload */
    IN_SPARSE_MAP,    /* pax 1.0: the map at the start of the payload */
    AT_END,
};

struct um_tar {
    um_tar_entry_fn on_entry;
    void *context;
    uint64_t max_extended;

    enum state state;
    int error;         /* of the call that failed; every later call repeats it */
    uint64_t position; /* bytes fed and skipped; within on_block: the end of that block */
    uint64_t skip;     /* payload and padding before the next block */
    uint32_t padding;  /* how many of them, at the end, are padding */

    char extended_type; /* IN_EXTENDED: which header, */
    uint64_t extended_left;
    uint64_t extended_at;          /* where its payload begins, */
    struct um_tar_bytes *extended; /* and where its bytes go */

    uint64_t first_header; /* of the entry that is being put together, or NO_HEADER */
    struct um_tar_pax local, global, incoming, merged;
    struct um_tar_bytes long_name, long_link;

    struct um_tar_entry entry; /* waits for its sparse map, in the two states for that */
    uint64_t payload;          /* its bytes in the stream that are not consumed yet */
    struct um_tar_runs runs;

    uint32_t staged;
    uint8_t stage[UM_TAR_BLOCK];
    uint8_t held[UM_TAR_BLOCK]; /* the header block of `entry` while it waits */
    uint8_t joined[UM_TAR_LONGEST_NAME];
};

static uint64_t block_offset(const struct um_tar *tar)
{
    return tar->position - UM_TAR_BLOCK;
}

/* ---- extended headers ---- */

/* Finish an entry, and forget the headers that were for it alone. */
static void end_entry(struct um_tar *tar)
{
    um_tar_pax_clear(&tar->local);
    um_tar_runs_clear(&tar->runs);
    tar->long_name.size = tar->long_link.size = 0;
    tar->first_header = NO_HEADER;
    tar->state = AT_HEADER;
}

static void cut_at_nul(struct um_tar_bytes *text)
{
    if (text->size != 0)
        text->size = um_tar_text(text->data, text->size).size;
}

static int end_global(struct um_tar *tar, struct um_fault *fault)
{
    int error = um_tar_pax_parse(&tar->incoming, NULL, tar->extended_at, fault);
    if (error != 0)
        return error;
    return um_tar_pax_add_global(&tar->global, &tar->incoming, &tar->merged, tar->extended_at,
                                 fault);
}

static int end_extended(struct um_tar *tar, struct um_fault *fault)
{
    tar->state = AT_HEADER;
    switch (tar->extended_type) {
    case 'x':
    case 'X':
        return um_tar_pax_parse(&tar->local, &tar->runs, tar->extended_at, fault);
    case 'g':
        return end_global(tar, fault);
    default:
        cut_at_nul(tar->extended);
        return 0;
    }
}

/* Return the buffer for the payload of an extended header, emptied: of each kind only the last one
 * counts. */
static struct um_tar_bytes *empty_target(struct um_tar *tar, char type)
{
    switch (type) {
    case 'L':
        tar->long_name.size = 0;
        return &tar->long_name;
    case 'K':
        tar->long_link.size = 0;
        return &tar->long_link;
    case 'g':
        um_tar_pax_clear(&tar->incoming);
        return &tar->incoming.raw;
    default:
        um_tar_pax_clear(&tar->local);
        um_tar_runs_clear(&tar->runs);
        return &tar->local.raw;
    }
}

static int bad_field(const struct um_tar *tar, struct um_tar_field field, struct um_fault *fault)
{
    return um_refuse(fault, -EBADMSG, block_offset(tar) + field.offset,
                     "header field at %u is not a number in range", field.offset);
}

/* Read the size field, which must not be negative. */
static int read_size(const struct um_tar *tar, const uint8_t *block, uint64_t *size,
                     struct um_fault *fault)
{
    int64_t value;
    if (!um_tar_parse_field(block, F_SIZE, &value) || value < 0)
        return bad_field(tar, F_SIZE, fault);
    *size = (uint64_t)value;
    return 0;
}

static int on_extended_header(struct um_tar *tar, const uint8_t *block, char type,
                              struct um_fault *fault)
{
    uint64_t size = 0;
    int error = read_size(tar, block, &size, fault);
    if (error != 0)
        return error;
    uint64_t here = block_offset(tar);
    if (size > tar->max_extended)
        return um_refuse(fault, -EFBIG, here,
                         "extended header of %" PRIu64 " bytes, at most %" PRIu64 " are allowed",
                         size, tar->max_extended);
    if (type != 'g' && tar->first_header == NO_HEADER)
        tar->first_header = here;
    tar->extended = empty_target(tar, type);
    tar->extended_type = type;
    tar->extended_left = size;
    tar->extended_at = tar->position;
    tar->state = IN_EXTENDED;
    return size == 0 ? end_extended(tar, fault) : 0;
}

static int on_extended_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    size_t size = tar->extended_left < UM_TAR_BLOCK ? (size_t)tar->extended_left : UM_TAR_BLOCK;
    int error = um_tar_append(tar->extended, block, size);
    tar->extended_left -= size;
    return error != 0 || tar->extended_left != 0 ? error : end_extended(tar, fault);
}

/* ---- entries ---- */

static int skip_payload(struct um_tar *tar, struct um_fault *fault)
{
    uint64_t padding = -tar->payload & (UM_TAR_BLOCK - 1), end;
    if (!um_add64(tar->position, tar->payload + padding, &end) || end > INT64_MAX)
        return um_refuse(fault, -EBADMSG, tar->position, "payload of %" PRIu64 " bytes has no end",
                         tar->payload);
    tar->skip = tar->payload + padding;
    tar->padding = (uint32_t)padding;
    return 0;
}

static int deliver(struct um_tar *tar, struct um_fault *fault)
{
    struct um_tar_entry *entry = &tar->entry;
    entry->stored = tar->position;
    if (entry->type == UM_TAR_FILE)
        entry->stored_size = tar->payload;
    int error = entry->sparse ? um_tar_place_runs(&tar->runs, entry, fault) : 0;
    if (error == 0)
        error = skip_payload(tar, fault);
    if (error == 0)
        error = tar->on_entry(tar->context, entry, fault);
    end_entry(tar);
    return error;
}

static struct um_slice name_of(struct um_tar *tar, const uint8_t *block,
                               const struct um_tar_pax *pax)
{
    if (um_tar_pax_has(pax, K_SPARSE_NAME))
        return pax->values[K_SPARSE_NAME].text;
    if (tar->long_name.size != 0)
        return um_slice_of(tar->long_name.data, tar->long_name.size);
    if (um_tar_pax_has(pax, K_PATH))
        return pax->values[K_PATH].text;
    return um_tar_header_name(block, tar->joined);
}

static struct um_slice link_of(const struct um_tar *tar, const uint8_t *block,
                               const struct um_tar_pax *pax)
{
    if (tar->long_link.size != 0)
        return um_slice_of(tar->long_link.data, tar->long_link.size);
    if (um_tar_pax_has(pax, K_LINKPATH))
        return pax->values[K_LINKPATH].text;
    return um_tar_field_text(block, F_LINK);
}

/* Return the type of an entry; 'D' is the directory of a GNU incremental archive. */
static enum um_tar_type type_of(char flag, struct um_slice name)
{
    switch (flag) {
    case '1':
        return UM_TAR_HARDLINK;
    case '2':
        return UM_TAR_SYMLINK;
    case '3':
        return UM_TAR_CHARACTER;
    case '4':
        return UM_TAR_BLOCK_DEVICE;
    case '5':
    case 'D':
        return UM_TAR_DIRECTORY;
    case '6':
        return UM_TAR_FIFO;
    case '\0':
        return name.data[name.size - 1] == '/' ? UM_TAR_DIRECTORY : UM_TAR_FILE;
    default:
        return UM_TAR_FILE;
    }
}

/* Return whether a type has a payload, as in Go; see the top of this file. */
static bool has_payload(char flag, enum um_tar_type type)
{
    return type == UM_TAR_FILE || flag == 'D';
}

/* Read a number, which a pax record may override. */
static int read_number(const struct um_tar *tar, const uint8_t *block, const struct um_tar_pax *pax,
                       unsigned key, struct um_tar_field field, uint64_t limit, uint64_t *number,
                       struct um_fault *fault)
{
    int64_t value;
    if (um_tar_pax_has(pax, key))
        value = (int64_t)pax->values[key].number;
    else if (!um_tar_parse_field(block, field, &value))
        return bad_field(tar, field, fault);
    if (value < 0 || (uint64_t)value > limit)
        return bad_field(tar, field, fault);
    *number = (uint64_t)value;
    return 0;
}

static int read_device(const struct um_tar *tar, const uint8_t *block, struct um_tar_entry *entry,
                       struct um_fault *fault)
{
    int64_t major, minor;
    if (um_tar_dialect_of(block) == UM_TAR_V7)
        return um_refuse(fault, -EBADMSG, block_offset(tar),
                         "device in a V7 header, which can't hold its numbers");
    if (!um_tar_parse_field(block, F_MAJOR, &major) || major < 0 || major > UINT32_MAX)
        return bad_field(tar, F_MAJOR, fault);
    if (!um_tar_parse_field(block, F_MINOR, &minor) || minor < 0 || minor > UINT32_MAX)
        return bad_field(tar, F_MINOR, fault);
    entry->major = (uint32_t)major;
    entry->minor = (uint32_t)minor;
    return 0;
}

static int read_owner(const struct um_tar *tar, const uint8_t *block, const struct um_tar_pax *pax,
                      struct um_tar_entry *entry, struct um_fault *fault)
{
    uint64_t uid = 0, gid = 0;
    int error = read_number(tar, block, pax, K_UID, F_UID, UINT32_MAX, &uid, fault);
    if (error == 0)
        error = read_number(tar, block, pax, K_GID, F_GID, UINT32_MAX, &gid, fault);
    entry->uid = (uint32_t)uid;
    entry->gid = (uint32_t)gid;
    return error;
}

static int read_metadata(const struct um_tar *tar, const uint8_t *block,
                         const struct um_tar_pax *pax, struct um_tar_entry *entry,
                         struct um_fault *fault)
{
    int64_t mode;
    if (!um_tar_parse_field(block, F_MODE, &mode) || mode < 0)
        return bad_field(tar, F_MODE, fault);
    entry->mode = (uint32_t)mode & 07777;
    if (um_tar_pax_has(pax, K_MTIME)) {
        entry->mtime = (int64_t)pax->values[K_MTIME].number;
        entry->mtime_nsec = pax->values[K_MTIME].nsec;
    } else if (!um_tar_parse_field(block, F_MTIME, &entry->mtime)) {
        return bad_field(tar, F_MTIME, fault);
    }
    if (entry->type == UM_TAR_CHARACTER || entry->type == UM_TAR_BLOCK_DEVICE) {
        int error = read_device(tar, block, entry, fault);
        if (error != 0)
            return error;
    }
    return read_owner(tar, block, pax, entry, fault);
}

/* Put together the pax headers that apply to the next entry. */
static int collect_pax(struct um_tar *tar, struct um_tar_pax **pax)
{
    *pax = &tar->local;
    if (!um_tar_pax_is_empty(&tar->global)) {
        *pax = &tar->merged;
        int error = um_tar_pax_overlay(&tar->local, &tar->global, &tar->merged);
        if (error != 0)
            return error;
    }
    return um_tar_pax_unique(*pax);
}

/* ---- entries that are sparse ---- */

static int bad_sparse(const struct um_tar *tar, const char *why, struct um_fault *fault)
{
    return um_refuse(fault, -EBADMSG, tar->entry.header, "sparse file: %s", why);
}

/* Find the version of a pax sparse file; *in_payload says where its map is. 0.0 and 0.1 need not
 * name themselves. */
static int sparse_version(const struct um_tar *tar, const struct um_tar_pax *pax, bool *in_payload,
                          struct um_fault *fault)
{
    const uint32_t named = UM_TAR_BIT(K_SPARSE_MAJOR) | UM_TAR_BIT(K_SPARSE_MINOR);
    *in_payload = false;
    if ((pax->present & named) == 0)
        return 0;
    uint64_t major = pax->values[K_SPARSE_MAJOR].number, minor = pax->values[K_SPARSE_MINOR].number;
    *in_payload = major == 1;
    if ((pax->present & named) != named || major > 1 || minor > 1 || (major == 1 && minor != 0))
        return bad_sparse(tar, "unknown version", fault);
    return 0;
}

static int on_pax_sparse(struct um_tar *tar, const struct um_tar_pax *pax, struct um_fault *fault)
{
    bool in_payload;
    int error = sparse_version(tar, pax, &in_payload, fault);
    if (error != 0)
        return error;
    if (um_tar_pax_has(pax, K_SPARSE_SIZE))
        tar->entry.size = pax->values[K_SPARSE_SIZE].number;
    else if (um_tar_pax_has(pax, K_SPARSE_REALSIZE))
        tar->entry.size = pax->values[K_SPARSE_REALSIZE].number;
    else
        return bad_sparse(tar, "no size", fault);
    if (!in_payload) {
        if (um_tar_pax_has(pax, K_SPARSE_NUMBLOCKS) &&
            pax->values[K_SPARSE_NUMBLOCKS].number != tar->runs.count)
            return bad_sparse(tar, "other number of runs than announced", fault);
        return deliver(tar, fault);
    }
    if (tar->runs.count != 0)
        return bad_sparse(tar, "two maps", fault);
    tar->state = IN_SPARSE_MAP;
    return 0;
}

static int on_gnu_sparse(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    int64_t size;
    if (um_tar_dialect_of(block) != UM_TAR_GNU)
        return bad_sparse(tar, "type 'S' in a header that is not GNU's", fault);
    if (!um_tar_parse_field(block, F_GNU_REALSIZE, &size) || size < 0)
        return bad_field(tar, F_GNU_REALSIZE, fault);
    tar->entry.size = (uint64_t)size;
    int error = um_tar_add_header_runs(&tar->runs, block, fault, block_offset(tar));
    if (error != 0)
        return error;
    if (block[AT_SPARSE_MORE] == 0)
        return deliver(tar, fault);
    tar->state = IN_SPARSE_BLOCKS;
    return 0;
}

static int on_sparse_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    int error = um_tar_add_block_runs(&tar->runs, block, fault, block_offset(tar));
    return error != 0 || block[AT_BLOCK_MORE] != 0 ? error : deliver(tar, fault);
}

static int on_map_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    if (tar->payload < UM_TAR_BLOCK)
        return um_refuse(fault, -EBADMSG, block_offset(tar), "sparse map is longer than its file");
    tar->payload -= UM_TAR_BLOCK;
    int more = um_tar_read_map_block(&tar->runs, block, fault, block_offset(tar));
    if (more != 0)
        return more < 0 ? more : 0;
    return deliver(tar, fault);
}

/* ---- blocks ---- */

/* Fill tar->entry from a header block and the pax headers before it. */
static int read_entry(struct um_tar *tar, const uint8_t *block, const struct um_tar_pax *pax,
                      struct um_fault *fault)
{
    char flag = (char)block[AT_TYPE];
    struct um_tar_entry *entry = &tar->entry;
    memset(entry, 0, sizeof *entry);
    entry->header = tar->first_header != NO_HEADER ? tar->first_header : block_offset(tar);
    entry->name = name_of(tar, block, pax);
    if (entry->name.size == 0)
        return um_refuse(fault, -EBADMSG, entry->header, "entry without a name");
    entry->type = type_of(flag, entry->name);
    if (entry->type == UM_TAR_SYMLINK || entry->type == UM_TAR_HARDLINK)
        entry->link = link_of(tar, block, pax);
    entry->xattrs = pax->xattrs;
    entry->n_xattrs = pax->n_xattrs;
    tar->payload = 0;
    if (has_payload(flag, entry->type)) {
        int error = read_number(tar, block, pax, K_SIZE, F_SIZE, INT64_MAX, &tar->payload, fault);
        if (error != 0)
            return error;
    }
    if (entry->type == UM_TAR_FILE)
        entry->size = tar->payload;
    return read_metadata(tar, block, pax, entry, fault);
}

static int on_entry_header(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    struct um_tar_pax *pax;
    int error = collect_pax(tar, &pax);
    if (error != 0)
        return error;
    bool pax_sparse = (pax->present & UM_TAR_SPARSE_KEYS) != 0, gnu_sparse = block[AT_TYPE] == 'S';
    if (pax_sparse || gnu_sparse) /* the entry outlives the block while it waits for its map */
        block = memcpy(tar->held, block, UM_TAR_BLOCK);
    error = read_entry(tar, block, pax, fault);
    if (error != 0)
        return error;
    if (!pax_sparse && !gnu_sparse)
        return deliver(tar, fault);
    tar->entry.sparse = true;
    if (tar->entry.type != UM_TAR_FILE || (pax_sparse && gnu_sparse))
        return bad_sparse(tar, "not a file, or described twice", fault);
    return gnu_sparse ? on_gnu_sparse(tar, block, fault) : on_pax_sparse(tar, pax, fault);
}

/* Skip a volume label: it names the archive, and is no entry. */
static int on_label(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    int error = read_size(tar, block, &tar->payload, fault);
    end_entry(tar);
    return error != 0 ? error : skip_payload(tar, fault);
}

static int on_header(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    uint64_t here = block_offset(tar);
    char type = (char)block[AT_TYPE];
    switch (type) {
    case 'x':
    case 'X': /* Solaris */
    case 'g':
    case 'L':
    case 'K':
        return on_extended_header(tar, block, type, fault);
    case 'V':
        return on_label(tar, block, fault);
    case 'M':
        return um_refuse(fault, -EBADMSG, here, "part of a multi-volume archive");
    case 'N':
        return um_refuse(fault, -EBADMSG, here, "obsolete GNU list of long names ('N')");
    default:
        return on_entry_header(tar, block, fault);
    }
}

static int on_zero_block(struct um_tar *tar, struct um_fault *fault)
{
    if (tar->first_header != NO_HEADER)
        return um_refuse(fault, -EBADMSG, tar->first_header,
                         "archive ends after an extended header");
    tar->state = tar->state == AFTER_ZERO_BLOCK ? AT_END : AFTER_ZERO_BLOCK;
    return 0;
}

static int on_header_or_end(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    uint32_t sum = um_tar_sum(block);
    if (sum == 0)
        return on_zero_block(tar, fault);
    if (tar->state == AFTER_ZERO_BLOCK)
        return um_refuse(fault, -EBADMSG, block_offset(tar), "data after a lone zero block");
    if (!um_tar_checksum_fits(block, sum))
        return um_refuse(fault, -EBADMSG, block_offset(tar), "header checksum does not fit");
    return on_header(tar, block, fault);
}

static int on_block(struct um_tar *tar, const uint8_t *block, struct um_fault *fault)
{
    switch (tar->state) {
    case IN_EXTENDED:
        return on_extended_block(tar, block, fault);
    case IN_SPARSE_BLOCKS:
        return on_sparse_block(tar, block, fault);
    case IN_SPARSE_MAP:
        return on_map_block(tar, block, fault);
    default:
        return on_header_or_end(tar, block, fault);
    }
}

/* ---- the public face ---- */

int um_tar_open(um_tar_entry_fn on_entry, void *context, const struct um_tar_limits *limits,
                struct um_tar **out)
{
    struct um_tar *tar = calloc(1, sizeof *tar);
    if (tar == NULL)
        return -ENOMEM;
    tar->on_entry = on_entry;
    tar->context = context;
    tar->max_extended = limits != NULL ? limits->max_extended : 0;
    if (tar->max_extended == 0)
        tar->max_extended = 16u << 20;
    tar->runs.limit = limits != NULL ? limits->max_extents : 0;
    if (tar->runs.limit == 0)
        tar->runs.limit = 1u << 20;
    tar->first_header = NO_HEADER;
    *out = tar;
    return 0;
}

/* Consume bytes that need not be parsed. */
static size_t pass(struct um_tar *tar, size_t size)
{
    uint64_t skippable = um_tar_skippable(tar);
    size_t count = size < skippable ? size : (size_t)skippable;
    um_tar_skip(tar, count);
    return count;
}

/* Assemble a block from pieces; NULL while it is incomplete. */
static const uint8_t *stage(struct um_tar *tar, const uint8_t *data, size_t size, size_t *used)
{
    size_t room = UM_TAR_BLOCK - tar->staged;
    *used = size < room ? size : room;
    memcpy(tar->stage + tar->staged, data, *used);
    tar->staged = (tar->staged + (uint32_t)*used) % UM_TAR_BLOCK;
    return tar->staged == 0 ? tar->stage : NULL;
}

static int eat(struct um_tar *tar, const uint8_t *data, size_t size, size_t *used,
               struct um_fault *fault)
{
    if (um_tar_skippable(tar) != 0) {
        *used = pass(tar, size);
        return 0;
    }
    const uint8_t *block = data;
    if (tar->staged == 0 && size >= UM_TAR_BLOCK)
        *used = UM_TAR_BLOCK;
    else
        block = stage(tar, data, size, used);
    tar->position += *used;
    return block != NULL ? on_block(tar, block, fault) : 0;
}

int um_tar_feed(struct um_tar *tar, const void *data, size_t size, struct um_fault *fault)
{
    const uint8_t *at = data;
    while (size != 0 && tar->error == 0) {
        size_t used = 0;
        tar->error = eat(tar, at, size, &used, fault);
        at += used;
        size -= used;
    }
    return tar->error;
}

uint64_t um_tar_skippable(const struct um_tar *tar)
{
    return tar->state == AT_END ? UINT64_MAX : tar->skip;
}

void um_tar_skip(struct um_tar *tar, uint64_t size)
{
    if (tar->state != AT_END)
        tar->skip -= size;
    if (!um_add64(tar->position, size, &tar->position))
        tar->position = UINT64_MAX;
}

uint64_t um_tar_position(const struct um_tar *tar)
{
    return tar->position;
}

int um_tar_finish(struct um_tar *tar, struct um_fault *fault)
{
    if (tar->error != 0 || tar->state == AT_END)
        return tar->error;
    if (tar->staged != 0 || tar->state == IN_EXTENDED || tar->state == IN_SPARSE_BLOCKS ||
        tar->state == IN_SPARSE_MAP || tar->first_header != NO_HEADER)
        tar->error = um_refuse(fault, -EBADMSG, tar->position, "archive ends within a header");
    else if (tar->skip > tar->padding)
        tar->error = um_refuse(fault, -EBADMSG, tar->position,
                               "archive ends within a file: %" PRIu64 " bytes are missing",
                               tar->skip - tar->padding);
    return tar->error;
}

void um_tar_close(struct um_tar *tar)
{
    if (tar == NULL)
        return;
    um_tar_pax_free(&tar->local);
    um_tar_pax_free(&tar->global);
    um_tar_pax_free(&tar->incoming);
    um_tar_pax_free(&tar->merged);
    free(tar->long_name.data);
    free(tar->long_link.data);
    free(tar->runs.extents);
    free(tar);
}
