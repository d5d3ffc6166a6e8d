/*
 * tardump.c - the tar parser as a program, for tests that ask other tar programs what is right.
 *
 *     tardump [PIECE [skip]] < ARCHIVE
 *
 * One JSON object per entry on stdout; bytes become the characters U+0000…U+00FF. The archive is
 * fed in pieces of PIECE bytes (65536); with `skip`, payload is jumped over as by a reader of a
 * seekable file. Exit 1 with "OFFSET: TEXT (ERRNO)" on stderr where the archive is refused.
 */
#include "tar/tar.h"

#include <inttypes.h>

static void print_bytes(const char *key, struct um_slice bytes)
{
    printf("\"%s\": \"", key);
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t byte = bytes.data[i];
        if (byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\')
            putchar(byte);
        else
            printf("\\u%04x", byte);
    }
    printf("\"");
}

static void print_xattrs(const struct um_tar_entry *entry)
{
    printf("\"xattrs\": [");
    for (size_t i = 0; i < entry->n_xattrs; i++) {
        printf("%s{", i ? ", " : "");
        print_bytes("name", entry->xattrs[i].name);
        printf(", ");
        print_bytes("value", entry->xattrs[i].value);
        printf("}");
    }
    printf("]");
}

static void print_extents(const struct um_tar_entry *entry)
{
    printf("\"extents\": [");
    for (size_t i = 0; i < entry->n_extents; i++) {
        const struct um_tar_extent *run = &entry->extents[i];
        printf("%s[%" PRIu64 ", %" PRIu64 ", %" PRIu64 "]", i ? ", " : "", run->logical,
               run->length, run->stored);
    }
    printf("]");
}

static int print_entry(void *context, const struct um_tar_entry *entry, struct um_fault *fault)
{
    static const char *const TYPES[] = {"file",      "directory",    "symlink", "hardlink",
                                        "character", "block_device", "fifo"};
    (void)context;
    (void)fault;
    printf("{\"type\": \"%s\", ", TYPES[entry->type]);
    print_bytes("name", entry->name);
    printf(", ");
    print_bytes("link", entry->link);
    printf(", \"mode\": %u, \"uid\": %u, \"gid\": %u, \"major\": %u, \"minor\": %u", entry->mode,
           entry->uid, entry->gid, entry->major, entry->minor);
    printf(", \"mtime\": %" PRId64 ", \"nsec\": %u, \"size\": %" PRIu64, entry->mtime,
           entry->mtime_nsec, entry->size);
    printf(", \"stored\": %" PRIu64 ", \"stored_size\": %" PRIu64 ", \"header\": %" PRIu64,
           entry->stored, entry->stored_size, entry->header);
    printf(", \"sparse\": %s, ", entry->sparse ? "true" : "false");
    print_extents(entry);
    printf(", ");
    print_xattrs(entry);
    printf("}\n");
    return 0;
}

/* How much of the next `size` bytes to feed; what the parser does not want is skipped here. */
static size_t jump(struct um_tar *tar, size_t size)
{
    uint64_t skippable = um_tar_skippable(tar);
    size_t count = skippable < size ? (size_t)skippable : size;
    um_tar_skip(tar, count);
    return count;
}

static int feed(struct um_tar *tar, const uint8_t *data, size_t size, bool skip,
                struct um_fault *fault)
{
    while (size != 0) {
        size_t used = skip ? jump(tar, size) : 0;
        size_t piece = skip && size - used > UM_TAR_BLOCK ? UM_TAR_BLOCK : size - used;
        int error = um_tar_feed(tar, data + used, piece, fault);
        if (error != 0)
            return error;
        data += used + piece;
        size -= used + piece;
    }
    return 0;
}

static int dump(struct um_tar *tar, size_t piece, bool skip, struct um_fault *fault)
{
    um_autofree uint8_t *buffer = malloc(piece);
    size_t size;
    if (buffer == NULL)
        return -ENOMEM;
    while ((size = fread(buffer, 1, piece, stdin)) != 0) {
        int error = feed(tar, buffer, size, skip, fault);
        if (error != 0)
            return error;
    }
    return um_tar_finish(tar, fault);
}

int main(int argc, char **argv)
{
    size_t piece = argc > 1 ? strtoul(argv[1], NULL, 10) : 65536;
    bool skip = argc > 2 && strcmp(argv[2], "skip") == 0;
    struct um_tar *tar;
    struct um_fault fault = {0};
    int error = piece == 0 ? -EINVAL : um_tar_open(print_entry, NULL, NULL, &tar);
    if (error == 0) {
        error = dump(tar, piece, skip, &fault);
        um_tar_close(tar);
    }
    if (error != 0)
        fprintf(stderr, "%" PRIu64 ": %s (%d)\n", fault.offset, fault.text, -error);
    return error != 0;
}
