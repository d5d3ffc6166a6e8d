#include "index/index.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "index/format.h"
#include "system/read_at.h"

/* A mapping of at most this size may stay resident as a whole. */
#define SMALL_MAPPING ((size_t)4 << 20)

enum block_state { BLOCK_UNSEEN, BLOCK_GOOD, BLOCK_BAD };

struct section {
    uint64_t first_block;
    uint64_t count;
    size_t record_size;
    uint32_t per_block;
};

/* <linux/magic.h> lacks these magic numbers of local file systems; they are from the sources of
 * these. */
#define MAGIC_ZFS 0x2fc12fc1
#define MAGIC_BCACHEFS 0xca451a4e

union record {
    struct um_index_disk_inode inode;
    struct um_index_disk_dirent dirent;
    struct um_index_disk_link link;
    struct um_index_disk_extent extent;
    struct um_index_disk_xattr xattr;
};

struct um_index {
    uint8_t
        *map; /* of the file; or the index's own memory, which gets each block at its first use */
    size_t map_size;
    int fd; /* of an index that is copied: the source of its blocks; else -1 */
    pthread_mutex_t filling; /* one thread copies a block at a time */
    struct section sections[UM_SECTION_COUNT];
    struct um_index_info info;
    uint64_t n_blocks; /* header and everything before the sums */
    atomic_uchar *states; /* enum block_state by block */
};

/* ---- validating a record ---------------------------------------------------------------------- */

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

static bool valid_inode(const struct um_index *index, const struct um_index_disk_inode *disk,
                        uint64_t number)
{
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

static bool valid_dirent(const struct um_index *index, const struct um_index_disk_dirent *disk)
{
    uint32_t size = um_load16(disk->name_size);
    return size != 0 && size <= 255 && string_fits(index, um_load32(disk->name), size) &&
           um_load32(disk->inode) < index->sections[UM_SECTION_INODES].count;
}

static bool valid_link(const struct um_index *index, const struct um_index_disk_link *disk)
{
    uint64_t inodes = index->sections[UM_SECTION_INODES].count;
    return um_load32(disk->inode) < inodes && um_load32(disk->parent) < inodes &&
           um_load32(disk->dirent) < index->sections[UM_SECTION_DIRENTS].count;
}

static bool valid_extent(const struct um_index *index, const struct um_index_disk_extent *disk)
{
    uint64_t length = um_load64(disk->length);
    return length != 0 && um_within(um_load64(disk->logical), length, INT64_MAX) &&
           um_within(um_load64(disk->stored), length, index->info.layer_size);
}

static bool valid_xattr(const struct um_index *index, const struct um_index_disk_xattr *disk)
{
    uint32_t name_size = um_load16(disk->name_size), value_size = um_load32(disk->value_size);
    return name_size != 0 && name_size <= 255 && value_size <= 65536 &&
           um_load16(disk->last) <= 1 && string_fits(index, um_load32(disk->name), name_size) &&
           string_fits(index, um_load32(disk->value), value_size);
}

static bool valid_record(const struct um_index *index, enum um_index_section section,
                         const union record *record, uint64_t number)
{
    switch (section) {
    case UM_SECTION_INODES:
        return valid_inode(index, &record->inode, number);
    case UM_SECTION_DIRENTS:
        return valid_dirent(index, &record->dirent);
    case UM_SECTION_LINKS:
    case UM_SECTION_EXTERNALS:
        return valid_link(index, &record->link);
    case UM_SECTION_EXTENTS:
        return valid_extent(index, &record->extent);
    case UM_SECTION_XATTRS:
        return valid_xattr(index, &record->xattr);
    case UM_SECTION_STRINGS:
    case UM_SECTION_SUMS:
    case UM_SECTION_COUNT:
        break;
    }
    return true;
}

/* Load a record once, so that the bytes that are used are those that were checked, even if the
 * file changes. */
static void load_record(const uint8_t *at, size_t size, union record *record)
{
    memcpy(record, at, size);
    __asm__ volatile("" ::: "memory"); /* the compiler must not read the file a second time */
}

static bool valid_records(const struct um_index *index, enum um_index_section which, uint64_t block,
                          const uint8_t *at)
{
    const struct section *section = &index->sections[which];
    uint64_t number = (block - section->first_block) * section->per_block;
    uint64_t end = number + section->per_block;
    if (end > section->count)
        end = section->count;
    for (; number < end; number++, at += section->record_size) {
        union record record;
        load_record(at, section->record_size, &record);
        if (!valid_record(index, which, &record, number))
            return false;
    }
    return true;
}

/* ---- verifying a block ------------------------------------------------------------------------- */

static bool sum_fits(const struct um_index *index, uint64_t block, const uint8_t *bytes)
{
    return um_index_checksum(bytes, UM_INDEX_BLOCK) ==
           um_load64(index->map + index->n_blocks * UM_INDEX_BLOCK + (block - 1) * 8);
}

/* Read bytes of the file, all of them. -EBADMSG where it has become shorter. */
static int read_file(int fd, uint64_t offset, void *buffer, size_t size)
{
    return um_read_all_at(fd, offset, buffer, size, -EBADMSG);
}

/* Copy a block into the index's own memory, where nobody reads it before its state is BLOCK_GOOD. */
static int fill_block(struct um_index *index, uint64_t block)
{
    uint8_t *at = index->map + block * UM_INDEX_BLOCK;
    int error = read_file(index->fd, block * UM_INDEX_BLOCK, at, UM_INDEX_BLOCK);
    if (error == 0 && !sum_fits(index, block, at))
        error = -EBADMSG;
    if (error == 0)
        atomic_store_explicit(&index->states[block], BLOCK_GOOD, memory_order_release);
    return error; /* a block that could not be read is tried again at its next use */
}

static int need_copy(struct um_index *index, uint64_t block)
{
    int error = 0;
    pthread_mutex_lock(&index->filling);
    if (atomic_load_explicit(&index->states[block], memory_order_relaxed) != BLOCK_GOOD)
        error = fill_block(index, block);
    pthread_mutex_unlock(&index->filling);
    return error;
}

static int check_sum(struct um_index *index, uint64_t block)
{
    bool good = sum_fits(index, block, index->map + block * UM_INDEX_BLOCK);
    atomic_store_explicit(&index->states[block], good ? BLOCK_GOOD : BLOCK_BAD,
                          memory_order_release);
    return good ? 0 : -EBADMSG;
}

/* Make sure that the bytes of a block are present and their checksum is right. */
static inline int need_block(struct um_index *index, uint64_t block)
{
    if (block == 0 || block >= index->n_blocks)
        return -EBADMSG;
    switch (atomic_load_explicit(&index->states[block], memory_order_acquire)) {
    case BLOCK_GOOD:
        return 0;
    case BLOCK_BAD:
        return -EBADMSG;
    default:
        return index->fd < 0 ? check_sum(index, block) : need_copy(index, block);
    }
}

/* Verify a block as it is in the file now, checksum and records. */
static int verify_block(const struct um_index *index, enum um_index_section which, uint64_t block)
{
    uint8_t bytes[UM_INDEX_BLOCK];
    if (index->fd < 0) {
        memcpy(bytes, index->map + block * UM_INDEX_BLOCK, sizeof bytes);
    } else {
        int error = read_file(index->fd, block * UM_INDEX_BLOCK, bytes, sizeof bytes);
        if (error != 0)
            return error;
    }
    bool good = sum_fits(index, block, bytes) &&
                (which == UM_SECTION_STRINGS || valid_records(index, which, block, bytes));
    return good ? 0 : -EBADMSG;
}

/* ---- opening ------------------------------------------------------------------------------------ */

static int place_section(struct um_index *index, const struct um_index_disk_header *header,
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

static int place_sections(struct um_index *index, const struct um_index_disk_header *header,
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
    return 0;
}

static int check_sums(struct um_index *index, const struct um_index_disk_header *header,
                      struct um_fault *fault)
{
    uint64_t offset = index->n_blocks * UM_INDEX_BLOCK;
    size_t size = (size_t)(index->n_blocks - 1) * 8;
    int error = index->fd < 0 ? 0 : read_file(index->fd, offset, index->map + offset, size);
    if (error != 0)
        return um_refuse(fault, error, offset, "the checksums can't be read");
    if (um_index_checksum(index->map + offset, size) != um_load64(header->sums_checksum))
        return um_refuse(fault, -EBADMSG, offset, "the checksums are damaged");
    return 0;
}

static int check_header(const struct um_index *index, const struct um_index_disk_header *header,
                        struct um_fault *fault)
{
    if (um_load64(header->magic) != UM_INDEX_MAGIC)
        return um_refuse(fault, -EBADMSG, 0, "this is no layer index");
    if (um_load32(header->version) != UM_INDEX_VERSION)
        return um_refuse(fault, -ESTALE, 8, "index version %u, this program reads %u",
                         um_load32(header->version), UM_INDEX_VERSION);
    uint64_t sum = um_index_checksum(header, offsetof(struct um_index_disk_header, checksum));
    if (um_load64(header->checksum) != sum || um_load32(header->block) != UM_INDEX_BLOCK)
        return um_refuse(fault, -EBADMSG, 0, "the header is damaged");
    if (um_load64(header->file_size) != index->map_size)
        return um_refuse(fault, -EBADMSG, 0, "the file has %zu bytes, the header says %llu",
                         index->map_size, (unsigned long long)um_load64(header->file_size));
    return 0;
}

static void read_info(struct um_index *index, const struct um_index_disk_header *header)
{
    index->info.layer_size = um_load64(header->layer_size);
    index->info.files = um_load64(header->files);
    index->info.file_bytes = um_load64(header->file_bytes);
    index->info.directories = um_load64(header->directories);
    index->info.whiteouts = um_load64(header->whiteouts);
    index->info.opaques = um_load64(header->opaques);
    index->info.acls = um_load64(header->acls);
    index->info.unresolved = um_load64(header->unresolved);
}

/* ---- mapping or copying -------------------------------------------------------------------------- */

/* Return whether the file system keeps its files on this machine. On others somebody else may
 * truncate a file, or its bytes may become unreadable, and both would kill a process that has it
 * mapped. */
static bool is_local(int fd)
{
    struct statfs st;
    if (fstatfs(fd, &st) != 0)
        return false;
    switch ((uint32_t)st.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
    case SQUASHFS_MAGIC:
    case EROFS_SUPER_MAGIC_V1:
    case OVERLAYFS_SUPER_MAGIC:
    case MAGIC_ZFS:
    case MAGIC_BCACHEFS:
        return true;
    default:
        return false;
    }
}

/* Return whether only this user and root can change the file. An ACL that lets others write shows
 * in the bits of the group. */
static bool is_ours(int fd, const struct stat *st)
{
    bool owner = st->st_uid == geteuid() || st->st_uid == 0;
    return owner && (st->st_mode & (S_IWGRP | S_IWOTH)) == 0 && is_local(fd);
}

static int map_pages(struct um_index *index, int protection, int flags, int fd,
                     struct um_fault *fault)
{
    void *map = mmap(NULL, index->map_size, protection, flags, fd, 0);
    if (map == MAP_FAILED)
        return um_refuse(fault, -errno, 0, "mmap: %s", strerror(errno));
    index->map = map;
    return 0;
}

/* Reserve memory for the whole file; only blocks that are used become resident. */
static int make_copy(struct um_index *index, int fd, struct um_fault *fault)
{
    if (index->map_size > UM_INDEX_COPY_MAX)
        return um_refuse(fault, -EFBIG, 0,
                         "an index of %zu bytes that others can change; at most %u are copied",
                         index->map_size, UM_INDEX_COPY_MAX);
    index->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (index->fd < 0)
        return um_refuse(fault, -errno, 0, "fcntl: %s", strerror(errno));
    int error = map_pages(index, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, fault);
    if (error == 0)
        error = read_file(fd, 0, index->map, UM_INDEX_BLOCK);
    return error;
}

static int map_file(int fd, struct um_index *index, struct um_fault *fault)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return um_refuse(fault, -errno, 0, "fstat: %s", strerror(errno));
    if (st.st_size < UM_INDEX_BLOCK)
        return um_refuse(fault, -EBADMSG, 0, "a file of %lld bytes is no layer index",
                         (long long)st.st_size);
    if ((uint64_t)st.st_size > UM_INDEX_MAX || (uint64_t)st.st_size > SIZE_MAX)
        return um_refuse(fault, -EFBIG, 0, "an index of %lld bytes; the limit is %llu",
                         (long long)st.st_size, (unsigned long long)UM_INDEX_MAX);
    index->map_size = (size_t)st.st_size;
    return is_ours(fd, &st) ? map_pages(index, PROT_READ, MAP_PRIVATE, fd, fault)
                            : make_copy(index, fd, fault);
}

static int load(int fd, struct um_index *index, struct um_fault *fault)
{
    struct um_index_disk_header header;
    int error = map_file(fd, index, fault);
    if (error != 0)
        return error;
    memcpy(&header, index->map, sizeof header);
    __asm__ volatile("" ::: "memory"); /* as load_record */
    error = check_header(index, &header, fault);
    if (error == 0)
        error = place_sections(index, &header, fault);
    if (error == 0)
        error = check_sums(index, &header, fault);
    if (error != 0)
        return error;
    read_info(index, &header);
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
    index->fd = -1;
    pthread_mutex_init(&index->filling, NULL); /* the default kind cannot fail */
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
        munmap(index->map, index->map_size);
    if (index->fd >= 0)
        close(index->fd);
    pthread_mutex_destroy(&index->filling);
    free(index->states);
    free(index);
}

void um_index_get_info(const struct um_index *index, struct um_index_info *info)
{
    *info = index->info;
}

uint64_t um_index_copied(const struct um_index *index)
{
    return index->fd < 0 ? 0 : index->map_size;
}

/* Pages stay valid for other threads, as a private read-only mapping of a file is paged in again.
 * A copy would be lost, so it stays. */
void um_index_trim(struct um_index *index)
{
    if (index->fd < 0 && index->map_size > SMALL_MAPPING)
        madvise(index->map, index->map_size, MADV_DONTNEED);
}

int um_index_verify(struct um_index *index, struct um_fault *fault)
{
    for (int which = 0; which < UM_SECTION_SUMS; which++) {
        const struct section *section = &index->sections[which];
        uint64_t blocks = um_index_blocks(section->count, section->record_size);
        for (uint64_t i = 0; i < blocks; i++) {
            uint64_t block = section->first_block + i;
            int error = verify_block(index, (enum um_index_section)which, block);
            if (error != 0)
                return um_refuse(fault, error, block * UM_INDEX_BLOCK,
                                 "a block of section %d is damaged or can't be read", which);
        }
    }
    return 0;
}

/* ---- records ------------------------------------------------------------------------------------ */

/* Load a record and check it. */
static int need_record(struct um_index *index, enum um_index_section which, uint32_t number,
                       union record *record)
{
    const struct section *section = &index->sections[which];
    if (number >= section->count)
        return -EBADMSG;
    uint64_t block = section->first_block + number / section->per_block;
    int error = need_block(index, block);
    if (error != 0)
        return error;
    load_record(index->map + block * UM_INDEX_BLOCK +
                    (size_t)(number % section->per_block) * section->record_size,
                section->record_size, record);
    return valid_record(index, which, record, number) ? 0 : -EBADMSG;
}

static int need_string(struct um_index *index, uint64_t offset, uint64_t size,
                       struct um_slice *text)
{
    const struct section *strings = &index->sections[UM_SECTION_STRINGS];
    if (!string_fits(index, offset, size))
        return -EBADMSG;
    *text = um_slice_of(index->map + strings->first_block * UM_INDEX_BLOCK + offset, (size_t)size);
    if (size == 0)
        return 0;
    uint64_t last = strings->first_block + (offset + size - 1) / UM_INDEX_BLOCK;
    for (uint64_t block = strings->first_block + offset / UM_INDEX_BLOCK; block <= last; block++) {
        int error = need_block(index, block);
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
    union record record;
    int error = need_record(index, UM_SECTION_INODES, number, &record);
    if (error != 0)
        return error;
    const struct um_index_disk_inode *disk = &record.inode;
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
    union record record;
    int error = need_record(index, UM_SECTION_DIRENTS, number, &record);
    if (error != 0)
        return error;
    const struct um_index_disk_dirent *disk = &record.dirent;
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
    union record record;
    int error = need_record(index, UM_SECTION_EXTENTS, number, &record);
    if (error != 0)
        return error;
    const struct um_index_disk_extent *disk = &record.extent;
    extent->logical = um_load64(disk->logical);
    extent->length = um_load64(disk->length);
    extent->stored = um_load64(disk->stored);
    return 0;
}

int um_index_xattr(struct um_index *index, uint32_t number, struct um_index_xattr *xattr)
{
    union record record;
    int error = need_record(index, UM_SECTION_XATTRS, number, &record);
    if (error != 0)
        return error;
    const struct um_index_disk_xattr *disk = &record.xattr;
    xattr->last = um_load16(disk->last) != 0;
    error = need_string(index, um_load32(disk->name), um_load16(disk->name_size), &xattr->name);
    if (error != 0)
        return error;
    return need_string(index, um_load32(disk->value), um_load32(disk->value_size), &xattr->value);
}

static int read_link(struct um_index *index, enum um_index_section section, uint32_t number,
                     struct um_index_link *link)
{
    union record record;
    int error = need_record(index, section, number, &record);
    if (error != 0)
        return error;
    const struct um_index_disk_link *disk = &record.link;
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
