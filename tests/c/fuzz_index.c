/*
 * The index reader on hostile files. Input: up to two index files, halves of the input. Their
 * checksums are put right before they are opened, so that the checks of the records are reached;
 * one input in sixteen is left as it is, so that the checksums are tested too.
 *
 * The second byte also says whether the files change after they were looked at: bytes of them, as the end
 * of the input tells, and the length of those that others could write to, which are copied. The files of
 * the other half are as ours only, and mapped.
 */
#include "exercise.h"
#include "index/format.h"

static void mend(uint8_t *file, size_t size)
{
    struct um_index_disk_header *header = (struct um_index_disk_header *)file;
    size_t blocks = size / (UM_INDEX_BLOCK + 8);
    if (blocks < 1)
        return;
    size_t sums_at = (blocks + 1) * UM_INDEX_BLOCK;
    size_t end = sums_at + blocks * 8;
    if (end > size)
        return;
    for (size_t block = 1; block <= blocks; block++)
        um_store64(file + sums_at + (block - 1) * 8,
                   um_index_checksum(file + block * UM_INDEX_BLOCK, UM_INDEX_BLOCK));
    um_store64(header->magic, UM_INDEX_MAGIC);
    um_store32(header->version, UM_INDEX_VERSION);
    um_store32(header->block, UM_INDEX_BLOCK);
    um_store64(header->file_size, size);
    um_store64(header->sections[UM_SECTION_SUMS].offset, sums_at);
    um_store64(header->sections[UM_SECTION_SUMS].count, blocks);
    um_store64(header->sums_checksum, um_index_checksum(file + sums_at, blocks * 8));
    um_store64(header->checksum,
               um_index_checksum(file, offsetof(struct um_index_disk_header, checksum)));
}

/* Size the file so that header, blocks and sums fit exactly: most mutations then still open. */
static size_t fitting_size(size_t size)
{
    size_t blocks = size < UM_INDEX_BLOCK ? 0 : (size - UM_INDEX_BLOCK) / (UM_INDEX_BLOCK + 8);
    return UM_INDEX_BLOCK + blocks * (UM_INDEX_BLOCK + 8);
}

enum { TWO = 1, CHANGING = 2, OTHERS = 4, TRUNCATED = 8 };

#define CHANGE_BYTES 5u /* of the input: a place, and the byte that comes there */
#define CHANGES_MAX 32u

static void change_file(int fd, const uint8_t *data, size_t size)
{
    off_t end = lseek(fd, 0, SEEK_END);
    for (size_t i = 0; i < CHANGES_MAX && size >= CHANGE_BYTES; i++) {
        size -= CHANGE_BYTES;
        off_t at = (off_t)(um_load32(data + size) % (uint64_t)end);
        if (pwrite(fd, data + size + 4, 1, at) != 1)
            abort();
    }
}

static void change_files(const struct stack *stack, unsigned flags, const uint8_t *data,
                         size_t size)
{
    for (size_t i = 0; i < stack->n; i++) {
        int fd = stack->index_fds[i];
        change_file(fd, data, size);
        bool cut = (flags & OTHERS) && (flags & TRUNCATED) && size >= 4;
        if (cut && ftruncate(fd, um_load32(data) % lseek(fd, 0, SEEK_END)) != 0)
            abort();
    }
}

static bool push_index(struct stack *stack, const uint8_t *data, size_t size, bool mended,
                       mode_t mode)
{
    struct um_fault fault;
    size_t fits = mended ? fitting_size(size) : size;
    uint8_t *copy = calloc(1, fits + 1);
    memcpy(copy, data, size < fits ? size : fits);
    if (mended)
        mend(copy, fits);
    int fd = make_memfd(0);
    bool written = write(fd, copy, fits) == (ssize_t)fits && fchmod(fd, mode) == 0;
    free(copy);
    return written && stack_push(stack, fd, &fault) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stack stack = {0};
    struct um_fault fault;
    if (size < 2)
        return 0;
    bool mended = data[0] % 16 != 0;
    unsigned flags = data[1];
    mode_t mode = flags & OTHERS ? 0666 : 0600;
    data += 2;
    size -= 2;
    size_t half = flags & TWO ? size / 2 : size;
    bool good = push_index(&stack, data, half, mended, mode);
    if (good && (flags & TWO))
        good = push_index(&stack, data + half, size - half, mended, mode);
    if (good && stack_open(&stack) == 0) {
        exercise_tree(&stack, false);
        if (flags & CHANGING) {
            change_files(&stack, flags, data, size);
            exercise_tree(&stack, false);
        }
        for (size_t i = 0; i < stack.n; i++)
            um_index_verify(stack.layers[i].index, &fault);
    }
    stack_close(&stack);
    return 0;
}
