#include "index.h"

#include <dirent.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "index_format.h"

/* A mapping of this size or less may stay resident as a whole. */
#define SMALL_MAPPING ((size_t)4 << 20)

enum block_state { BLOCK_UNSEEN, BLOCK_GOOD, BLOCK_BAD };

struct section {
    uint64_t first_block;
    uint64_t count;
    size_t record_size;
    uint32_t per_block;
};

struct um_index {
    const uint8_t *map;
    size_t map_size;
    struct section sections[UM_SECTION_COUNT];
    struct um_index_info info;
    uint64_t n_blocks; /* header and everything before the sums */
    atomic_uchar *states; /* enum block_state by block */
};

/* ---- validating a block ----------------------------------------------------------------------- */

static bool string_fits(const struct um_index *index, uint64_t offset, uint64_t size)
{
    return um_within(offset, size, index->sections[UM_SECTION_STRINGS].count);
}

static bool run_fits(const struct um_index *index, enum um_index_section section, uint64_t packed)
{
    return um_within((uint32_t)packed, packed >> 32, index->sections[section].count);
}

static bool valid_file(const struct um_index *index, uint32_t flags, uint64_t size, uint64_t data)
{
    if (flags & UM_INODE_SPARSE)
        return size <= INT64_MAX && run_fits(index, UM_SECTION_EXTENTS, data);
    return um_within(data, size, index->info.layer_size);
}

static bool valid_directory(const struct um_index *index, uint64_t number, uint64_t size,
                            uint64_t data)
{
    uint64_t parent = (uint32_t)size, own = size >> 32;
    if (!run_fits(index, UM_SECTION_DIRENTS, data))
        return false;
    if (number == 0)
        return own == UM_INDEX_NONE;
    return parent < number && own < index->sections[UM_SECTION_DIRENTS].count;
}

static bool valid_inode(const struct um_index *index, const uint8_t *record, uint64_t number)
{
    const struct um_disk_inode *disk = (const struct um_disk_inode *)record;
    uint32_t mode = um_load16(disk->mode), flags = um_load16(disk->flags);
    uint64_t size = um_load64(disk->size), data = um_load64(disk->data);
    if (um_load32(disk->xattr) > index->sections[UM_SECTION_XATTRS].count ||
        um_load32(disk->mtime_nsec) > 999999999u || S_ISDIR(mode) < (number == 0))
        return false;
    if (flags & UM_INODE_EXTERNAL)
        return (mode & S_IFMT) == 0 && string_fits(index, data, size);
    switch (mode & S_IFMT) {
    case S_IFREG:
        return valid_file(index, flags, size, data);
    case S_IFDIR:
        return valid_directory(index, number, size, data);
    case S_IFLNK:
        return size != 0 && size < 4096 && string_fits(index, data, size);
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
        return true;
    default:
        return false;
    }
}

static bool valid_dirent(const struct um_index *index, const uint8_t *record)
{
    const struct um_disk_dirent *disk = (const struct um_disk_dirent *)record;
    uint32_t size = um_load16(disk->name_size);
    return size != 0 && size <= 255 && string_fits(index, um_load32(disk->name), size) &&
           um_load32(disk->inode) < index->sections[UM_SECTION_INODES].count;
}

static bool valid_link(const struct um_index *index, const uint8_t *record)
{
    const struct um_disk_link *disk = (const struct um_disk_link *)record;
    uint64_t inodes = index->sections[UM_SECTION_INODES].count;
    return um_load32(disk->inode) < inodes && um_load32(disk->parent) < inodes &&
           um_load32(disk->dirent) < index->sections[UM_SECTION_DIRENTS].count;
}

static bool valid_extent(const struct um_index *index, const uint8_t *record)
{
    const struct um_disk_extent *disk = (const struct um_disk_extent *)record;
    uint64_t length = um_load64(disk->length);
    return length != 0 && um_within(um_load64(disk->logical), length, INT64_MAX) &&
           um_within(um_load64(disk->stored), length, index->info.layer_size);
}

static bool valid_xattr(const struct um_index *index, const uint8_t *record)
{
    const struct um_disk_xattr *disk = (const struct um_disk_xattr *)record;
    uint32_t name_size = um_load16(disk->name_size), value_size = um_load32(disk->value_size);
    return name_size != 0 && name_size <= 255 && value_size <= 65536 &&
           um_load16(disk->last) <= 1 && string_fits(index, um_load32(disk->name), name_size) &&
           string_fits(index, um_load32(disk->value), value_size);
}

static bool valid_record(const struct um_index *index, enum um_index_section section,
                         const uint8_t *record, uint64_t number)
{
    switch (section) {
    case UM_SECTION_INODES:
        return valid_inode(index, record, number);
    case UM_SECTION_DIRENTS:
        return valid_dirent(index, record);
    case UM_SECTION_LINKS:
    case UM_SECTION_EXTERNALS:
        return valid_link(index, record);
    case UM_SECTION_EXTENTS:
        return valid_extent(index, record);
    case UM_SECTION_XATTRS:
        return valid_xattr(index, record);
    case UM_SECTION_STRINGS:
    case UM_SECTION_SUMS:
    case UM_SECTION_COUNT:
        break;
    }
    return true;
}

static bool valid_records(const struct um_index *index, enum um_index_section which, uint64_t block)
{
    const struct section *section = &index->sections[which];
    const uint8_t *at = index->map + block * UM_INDEX_BLOCK;
    uint64_t number = (block - section->first_block) * section->per_block;
    uint64_t end = number + section->per_block;
    if (end > section->count)
        end = section->count;
    for (; number < end; number++, at += section->record_size) {
        if (!valid_record(index, which, at, number))
            return false;
    }
    return true;
}

static uint64_t stored_sum(const struct um_index *index, uint64_t block)
{
    return um_load64(index->map + index->n_blocks * UM_INDEX_BLOCK + (block - 1) * 8);
}

static int verify_block(struct um_index *index, enum um_index_section section, uint64_t block)
{
    const uint8_t *at = index->map + block * UM_INDEX_BLOCK;
    bool good = um_index_checksum(at, UM_INDEX_BLOCK) == stored_sum(index, block) &&
                (section == UM_SECTION_STRINGS || valid_records(index, section, block));
    atomic_store_explicit(&index->states[block], good ? BLOCK_GOOD : BLOCK_BAD,
                          memory_order_release);
    return good ? 0 : -EBADMSG;
}

static inline int need_block(struct um_index *index, enum um_index_section section, uint64_t block)
{
    switch (atomic_load_explicit(&index->states[block], memory_order_acquire)) {
    case BLOCK_GOOD:
        return 0;
    case BLOCK_BAD:
        return -EBADMSG;
    default:
        return verify_block(index, section, block);
    }
}

/* ---- opening ------------------------------------------------------------------------------------ */

static int place_section(struct um_index *index, const struct um_disk_header *header,
                         enum um_index_section which, uint64_t *next_block)
{
    struct section *section = &index->sections[which];
    uint64_t offset = um_load64(header->sections[which].offset);
    section->count = um_load64(header->sections[which].count);
    section->record_size = um_index_record_size(which);
    section->per_block = (uint32_t)um_index_per_block(section->record_size);
    section->first_block = *next_block;
    if (offset != *next_block * UM_INDEX_BLOCK || section->count > UINT32_MAX)
        return -EBADMSG;
    *next_block += um_index_blocks(section->count, section->record_size);
    return *next_block * UM_INDEX_BLOCK <= index->map_size ? 0 : -EBADMSG;
}

static int place_sections(struct um_index *index, const struct um_disk_header *header,
                          struct um_fault *fault)
{
    uint64_t block = 1;
    for (int which = 0; which < UM_SECTION_SUMS; which++) {
        if (place_section(index, header, (enum um_index_section)which, &block) != 0)
            return um_refuse(fault, -EBADMSG, 0, "section %d is not where it belongs", which);
    }
    index->n_blocks = block;
    uint64_t sums = um_load64(header->sections[UM_SECTION_SUMS].count);
    if (um_load64(header->sections[UM_SECTION_SUMS].offset) != block * UM_INDEX_BLOCK ||
        sums != block - 1 || block * UM_INDEX_BLOCK + sums * 8 != index->map_size)
        return um_refuse(fault, -EBADMSG, 0, "the checksums are not where they belong");
    if (index->sections[UM_SECTION_INODES].count == 0)
        return um_refuse(fault, -EBADMSG, 0, "there is no root directory");
    uint64_t expected = um_load64(header->sums_checksum);
    if (um_index_checksum(index->map + block * UM_INDEX_BLOCK, (size_t)sums * 8) != expected)
        return um_refuse(fault, -EBADMSG, block * UM_INDEX_BLOCK, "the checksums are damaged");
    return 0;
}

static int check_header(const struct um_index *index, const struct um_disk_header *header,
                        struct um_fault *fault)
{
    if (um_load64(header->magic) != UM_INDEX_MAGIC)
        return um_refuse(fault, -EBADMSG, 0, "this is no layer index");
    if (um_load32(header->version) != UM_INDEX_VERSION)
        return um_refuse(fault, -ESTALE, 8, "index version %u, this program reads %u",
                         um_load32(header->version), UM_INDEX_VERSION);
    uint64_t sum = um_index_checksum(header, offsetof(struct um_disk_header, checksum));
    if (um_load64(header->checksum) != sum || um_load32(header->block) != UM_INDEX_BLOCK)
        return um_refuse(fault, -EBADMSG, 0, "the header is damaged");
    if (um_load64(header->file_size) != index->map_size)
        return um_refuse(fault, -EBADMSG, 0, "the file has %zu bytes, the header says %llu",
                         index->map_size, (unsigned long long)um_load64(header->file_size));
    return 0;
}

static void read_info(struct um_index *index, const struct um_disk_header *header)
{
    index->info.layer_size = um_load64(header->layer_size);
    index->info.files = um_load64(header->files);
    index->info.file_bytes = um_load64(header->file_bytes);
    index->info.directories = um_load64(header->directories);
    index->info.whiteouts = um_load64(header->whiteouts);
    index->info.opaques = um_load64(header->opaques);
    index->info.acls = um_load64(header->acls);
}

static int map_file(int fd, struct um_index *index, struct um_fault *fault)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return um_refuse(fault, -errno, 0, "fstat: %s", strerror(errno));
    if (st.st_size < UM_INDEX_BLOCK || (uint64_t)st.st_size > SIZE_MAX)
        return um_refuse(fault, -EBADMSG, 0, "a file of %lld bytes is no layer index",
                         (long long)st.st_size);
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return um_refuse(fault, -errno, 0, "mmap: %s", strerror(errno));
    index->map = map;
    index->map_size = (size_t)st.st_size;
    return 0;
}

static int load(int fd, struct um_index *index, struct um_fault *fault)
{
    int error = map_file(fd, index, fault);
    if (error != 0)
        return error;
    const struct um_disk_header *header = (const struct um_disk_header *)index->map;
    error = check_header(index, header, fault);
    if (error == 0)
        error = place_sections(index, header, fault);
    if (error != 0)
        return error;
    read_info(index, header);
    index->info.inodes = index->sections[UM_SECTION_INODES].count;
    index->info.dirents = index->sections[UM_SECTION_DIRENTS].count;
    index->info.links = index->sections[UM_SECTION_LINKS].count;
    index->info.externals = index->sections[UM_SECTION_EXTERNALS].count;
    index->states = calloc((size_t)index->n_blocks, sizeof *index->states);
    return index->states == NULL ? -ENOMEM : 0;
}

int um_index_open(int fd, struct um_index **out, struct um_fault *fault)
{
    struct um_index *index = calloc(1, sizeof *index);
    if (index == NULL)
        return -ENOMEM;
    int error = load(fd, index, fault);
    if (error != 0) {
        um_index_close(index);
        return error;
    }
    *out = index;
    return 0;
}

void um_index_close(struct um_index *index)
{
    if (index == NULL)
        return;
    if (index->map != NULL)
        munmap((void *)(uintptr_t)index->map, index->map_size);
    free(index->states);
    free(index);
}

void um_index_get_info(const struct um_index *index, struct um_index_info *info)
{
    *info = index->info;
}

/* Pages stay valid for other threads: a private read-only mapping of a file faults in again. */
void um_index_trim(struct um_index *index)
{
    if (index->map_size > SMALL_MAPPING)
        madvise((void *)(uintptr_t)index->map, index->map_size, MADV_DONTNEED);
}

int um_index_verify(struct um_index *index, struct um_fault *fault)
{
    for (int which = 0; which < UM_SECTION_SUMS; which++) {
        const struct section *section = &index->sections[which];
        uint64_t blocks = um_index_blocks(section->count, section->record_size);
        for (uint64_t i = 0; i < blocks; i++) {
            uint64_t block = section->first_block + i;
            /* Again also where it was seen before: the file may have been damaged since. */
            int error = verify_block(index, (enum um_index_section)which, block);
            if (error != 0)
                return um_refuse(fault, error, block * UM_INDEX_BLOCK,
                                 "a block of section %d is damaged", which);
        }
    }
    return 0;
}

/* ---- records ------------------------------------------------------------------------------------ */

/* The bytes of a record in a block that has been verified. */
static int need_record(struct um_index *index, enum um_index_section which, uint32_t number,
                       const uint8_t **record)
{
    const struct section *section = &index->sections[which];
    if (number >= section->count)
        return -EBADMSG;
    uint64_t block = section->first_block + number / section->per_block;
    int error = need_block(index, which, block);
    *record = index->map + block * UM_INDEX_BLOCK +
              (size_t)(number % section->per_block) * section->record_size;
    return error;
}

/* A string that valid_record has found to lie within the section: its blocks are verified here. */
static int need_string(struct um_index *index, uint64_t offset, uint64_t size,
                       struct um_slice *text)
{
    const struct section *strings = &index->sections[UM_SECTION_STRINGS];
    *text = um_slice_of(index->map + strings->first_block * UM_INDEX_BLOCK + offset, (size_t)size);
    if (size == 0)
        return 0;
    uint64_t last = strings->first_block + (offset + size - 1) / UM_INDEX_BLOCK;
    for (uint64_t block = strings->first_block + offset / UM_INDEX_BLOCK; block <= last; block++) {
        int error = need_block(index, UM_SECTION_STRINGS, block);
        if (error != 0)
            return error;
    }
    return 0;
}

static int decode_data(struct um_index *index, struct um_inode *inode, uint64_t size, uint64_t data)
{
    if (inode->flags & UM_INODE_EXTERNAL || S_ISLNK(inode->mode)) {
        inode->size = size;
        return need_string(index, data, size, &inode->target);
    }
    switch (inode->mode & S_IFMT) {
    case S_IFDIR:
        inode->parent = (uint32_t)size;
        inode->own = (uint32_t)(size >> 32);
        inode->first = (uint32_t)data;
        inode->count = (uint32_t)(data >> 32);
        return 0;
    case S_IFREG:
        inode->size = size;
        inode->stored = inode->flags & UM_INODE_SPARSE ? 0 : data;
        inode->first = inode->flags & UM_INODE_SPARSE ? (uint32_t)data : 0;
        inode->count = inode->flags & UM_INODE_SPARSE ? (uint32_t)(data >> 32) : 0;
        return 0;
    default:
        inode->major = (uint32_t)data;
        inode->minor = (uint32_t)(data >> 32);
        return 0;
    }
}

int um_index_inode(struct um_index *index, uint32_t number, struct um_inode *inode)
{
    const uint8_t *record;
    int error = need_record(index, UM_SECTION_INODES, number, &record);
    if (error != 0)
        return error;
    const struct um_disk_inode *disk = (const struct um_disk_inode *)record;
    *inode = (struct um_inode){
        .mode = um_load16(disk->mode),
        .flags = um_load16(disk->flags),
        .uid = um_load32(disk->uid),
        .gid = um_load32(disk->gid),
        .nlink = um_load32(disk->nlink),
        .mtime = (int64_t)um_load64(disk->mtime),
        .mtime_nsec = um_load32(disk->mtime_nsec),
        .xattr = um_load32(disk->xattr),
    };
    return decode_data(index, inode, um_load64(disk->size), um_load64(disk->data));
}

int um_index_dirent(struct um_index *index, uint32_t number, struct um_dirent *dirent)
{
    const uint8_t *record;
    int error = need_record(index, UM_SECTION_DIRENTS, number, &record);
    if (error != 0)
        return error;
    const struct um_disk_dirent *disk = (const struct um_disk_dirent *)record;
    dirent->inode = um_load32(disk->inode);
    dirent->type = disk->type;
    return need_string(index, um_load32(disk->name), um_load16(disk->name_size), &dirent->name);
}

int um_index_find(struct um_index *index, uint32_t directory, struct um_slice name,
                  uint32_t *number, struct um_dirent *dirent)
{
    struct um_inode inode;
    int error = um_index_inode(index, directory, &inode);
    if (error != 0)
        return error;
    if (!S_ISDIR(inode.mode))
        return -ENOTDIR;
    uint32_t low = inode.first, high = inode.first + inode.count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        error = um_index_dirent(index, middle, dirent);
        if (error != 0)
            return error;
        int order = um_slice_compare(dirent->name, name);
        if (order == 0) {
            *number = middle;
            return 0;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -ENOENT;
}

int um_index_extent(struct um_index *index, uint32_t number, struct um_index_extent *extent)
{
    const uint8_t *record;
    int error = need_record(index, UM_SECTION_EXTENTS, number, &record);
    if (error != 0)
        return error;
    const struct um_disk_extent *disk = (const struct um_disk_extent *)record;
    extent->logical = um_load64(disk->logical);
    extent->length = um_load64(disk->length);
    extent->stored = um_load64(disk->stored);
    return 0;
}

int um_index_xattr(struct um_index *index, uint32_t number, struct um_index_xattr *xattr)
{
    const uint8_t *record;
    int error = need_record(index, UM_SECTION_XATTRS, number, &record);
    if (error != 0)
        return error;
    const struct um_disk_xattr *disk = (const struct um_disk_xattr *)record;
    xattr->last = um_load16(disk->last) != 0;
    error = need_string(index, um_load32(disk->name), um_load16(disk->name_size), &xattr->name);
    if (error != 0)
        return error;
    return need_string(index, um_load32(disk->value), um_load32(disk->value_size), &xattr->value);
}

static int read_link(struct um_index *index, enum um_index_section section, uint32_t number,
                     struct um_index_link *link)
{
    const uint8_t *record;
    int error = need_record(index, section, number, &record);
    if (error != 0)
        return error;
    const struct um_disk_link *disk = (const struct um_disk_link *)record;
    link->inode = um_load32(disk->inode);
    link->dirent = um_load32(disk->dirent);
    link->parent = um_load32(disk->parent);
    return 0;
}

int um_index_link(struct um_index *index, uint32_t number, struct um_index_link *link)
{
    return read_link(index, UM_SECTION_LINKS, number, link);
}

int um_index_external(struct um_index *index, uint32_t number, struct um_index_link *link)
{
    return read_link(index, UM_SECTION_EXTERNALS, number, link);
}

int um_index_links_from(struct um_index *index, uint32_t inode, uint32_t *number)
{
    uint32_t low = 0, high = (uint32_t)index->sections[UM_SECTION_LINKS].count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct um_index_link link;
        int error = um_index_link(index, middle, &link);
        if (error != 0)
            return error;
        if (link.inode < inode)
            low = middle + 1;
        else
            high = middle;
    }
    *number = low;
    return 0;
}
