#include "base/keyed_hash.h"
#include "harness.h"
#include "index/format.h"
#include "layers.h"

#define LINES(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

static int make_index(void)
{
    struct um_fault fault;
    int fd = make_memfd(0);
    if (index_lines(LINES("d a", "f a/b", "s a/c -> target", "h a/d -> a/b", "f .wh.x"), fd,
                    &fault) != 0)
        abort();
    return fd;
}

static size_t size_of(int fd)
{
    return (size_t)lseek(fd, 0, SEEK_END);
}

static int open_and_verify(int fd)
{
    struct um_index *index = NULL;
    struct um_fault fault;
    int error = um_index_open(fd, &index, &fault);
    if (error == 0)
        error = um_index_verify(index, &fault);
    um_index_close(index);
    return error;
}

TEST(a_whole_index_opens)
{
    int fd = make_index();
    struct um_index *index;
    struct um_index_info info;
    struct um_fault fault;
    CHECK_INT(um_index_open(fd, &index, &fault), 0);
    um_index_get_info(index, &info);
    CHECK_INT(info.files, 1);
    CHECK_INT(info.directories, 2);
    CHECK_INT(info.whiteouts, 1);
    CHECK_INT(info.links, 2);
    CHECK_INT(info.layer_size, LAYER_BYTES);
    CHECK_INT(um_index_verify(index, &fault), 0);
    um_index_close(index);
    close(fd);
}

TEST(every_flipped_bit_is_found)
{
    int fd = make_index();
    size_t size = size_of(fd);
    for (size_t at = 0; at < size; at += at < 512 || size - at < 512 ? 1 : 13) {
        uint8_t byte, flipped;
        REQUIRE(pread(fd, &byte, 1, (off_t)at) == 1);
        flipped = byte ^ (uint8_t)(1u << at % 8);
        REQUIRE(pwrite(fd, &flipped, 1, (off_t)at) == 1);
        int error = open_and_verify(fd);
        bool padding = at >= sizeof(struct um_index_disk_header) && at < UM_INDEX_BLOCK;
        if (padding)
            CHECK_INT(error, 0); /* nobody reads it */
        else
            CHECK(error == -EBADMSG || error == -ESTALE);
        REQUIRE(pwrite(fd, &byte, 1, (off_t)at) == 1);
    }
    CHECK_INT(open_and_verify(fd), 0);
    close(fd);
}

TEST(every_truncation_is_found)
{
    int fd = make_index();
    for (size_t size = size_of(fd); size-- > 0;) {
        REQUIRE(ftruncate(fd, (off_t)size) == 0);
        if (size % 4096 < 8 || size % 97 == 0)
            CHECK_INT(open_and_verify(fd), -EBADMSG);
    }
    close(fd);
}

TEST(another_version_says_so)
{
    int fd = make_index();
    uint8_t version[4];
    struct um_index *index;
    struct um_fault fault;
    um_store32(version, UM_INDEX_VERSION + 1);
    REQUIRE(pwrite(fd, version, 4, offsetof(struct um_index_disk_header, version)) == 4);
    CHECK_INT(um_index_open(fd, &index, &fault), -ESTALE);
    CHECK_CONTAINS(fault.text, "version 3");
    close(fd);
}

TEST(limits_refuse_what_is_beyond_them)
{
    struct um_index_limits limits = {.max_entries = 3};
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    CHECK_INT(um_indexer_open(&limits, &indexer), 0);
    CHECK_INT(add_line(indexer, "f a", &fault), 0);
    CHECK_INT(add_line(indexer, "f b", &fault), 0);
    CHECK_INT(add_line(indexer, "f c", &fault), -E2BIG);
    CHECK_CONTAINS(fault.text, "3 names");
    um_indexer_close(indexer);
    limits = (struct um_index_limits){.max_strings = 10};
    CHECK_INT(um_indexer_open(&limits, &indexer), 0);
    CHECK_INT(add_line(indexer, "f 0123456789", &fault), 0);
    CHECK_INT(add_line(indexer, "f x", &fault), -EFBIG);
    um_indexer_close(indexer);
}

TEST(a_layer_shorter_than_its_tar_is_refused)
{
    static const uint8_t zeros[1024];
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    int fd = make_memfd(0);
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    CHECK_INT(um_indexer_feed(indexer, zeros, sizeof zeros, &fault), 0);
    CHECK_INT(um_indexer_finish(indexer, 512, fd, &fault), -EBADMSG);
    um_indexer_close(indexer);
    close(fd);
}

TEST(names_that_are_taken_literally_are_no_marks)
{
    static const char *const lines[] = {"d a",           "f a/.wh.b", "f .wh..wh..opq",
                                        "w device",      "d .wh.",    "f .wh./x",
                                        "s way -> .wh.", "f way/y",   "h c -> .wh./x"};
    struct um_indexer *indexer;
    struct um_index *index;
    struct um_index_info info;
    struct um_fault fault = {0};
    const char *name;
    size_t size;
    int fd = make_memfd(0);
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    um_indexer_take_literally(indexer);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        CHECK_INT(add_line(indexer, lines[i], &fault), 0);
    CHECK_INT(um_indexer_marks(indexer), 5);
    REQUIRE(um_indexer_mark(indexer, 0, &name, &size) == 1);
    CHECK_INT(size, 7);
    CHECK(memcmp(name, "a/.wh.b", size) == 0);
    REQUIRE(um_indexer_mark(indexer, 2, &name, &size) == 1);
    CHECK(memcmp(name, "device", size) == 0);
    CHECK_INT(um_indexer_mark(indexer, 5, &name, &size), 0);
    CHECK_INT(um_indexer_mark(indexer, UM_INDEXER_MARKS, &name, &size), 0);
    CHECK_INT(um_indexer_finish(indexer, LAYER_BYTES, fd, &fault), 0);
    um_indexer_close(indexer);
    CHECK_INT(um_index_open(fd, &index, &fault), 0);
    um_index_get_info(index, &info);
    CHECK_INT(info.whiteouts, 0);
    CHECK_INT(info.opaques, 0);
    CHECK_INT(info.files, 4);
    CHECK_INT(info.directories, 3);
    CHECK_INT(um_index_verify(index, &fault), 0);
    um_index_close(index);
    close(fd);
}

TEST(of_many_marks_only_the_first_names_are_kept)
{
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    char line[400] = "f .wh.";
    const char *name;
    size_t size;
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    um_indexer_take_literally(indexer);
    for (unsigned i = 0; i < UM_INDEXER_MARKS + 3; i++) {
        snprintf(line + 6, sizeof line - 6, "%u", i);
        CHECK_INT(add_line(indexer, line, &fault), 0);
    }
    CHECK_INT(um_indexer_marks(indexer), UM_INDEXER_MARKS + 3);
    CHECK_INT(um_indexer_mark(indexer, UM_INDEXER_MARKS - 1, &name, &size), 1);
    memset(line + 2, 'x', 256);
    line[258] = '\0';
    CHECK_INT(add_line(indexer, line, &fault), -EBADMSG);
    CHECK_CONTAINS(fault.text, "256 bytes");
    um_indexer_close(indexer);
}

TEST(a_full_disk_is_an_error)
{
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    int fd = open("/dev/full", O_RDWR);
    REQUIRE(fd >= 0);
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    CHECK_INT(add_line(indexer, "f a", &fault), 0);
    CHECK_INT(um_indexer_finish(indexer, LAYER_BYTES, fd, &fault), -ENOSPC);
    um_indexer_close(indexer);
    close(fd);
}

/* Vectors from CPython 3.11, which hashes bytes with SipHash-1-3: PYTHONHASHSEED=0 is this key,
 * hash(bytes(range(n))) & 2**64 - 1 the value. */
TEST(the_hash_of_names_is_siphash)
{
    static const struct {
        size_t size;
        uint64_t hash;
    } vectors[] = {{8, 0xead411e67ebe2eeaull},  {9, 0x75927f9d95124362ull},
                   {15, 0xf30eb725bb91c9eaull}, {16, 0x8972188433a5c5b7ull},
                   {23, 0x37332b1389daa4ffull}, {40, 0x95bc321ab41d8206ull}};
    const struct um_hash_key zero = {0};
    uint8_t bytes[40];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        CHECK(um_hash_keyed(&zero, um_load64(bytes), um_slice_of(bytes + 8, vectors[i].size - 8)) ==
              vectors[i].hash);
}

/* Names made to meet in one slot under one key don't meet under another. */
TEST(the_hash_of_names_has_a_new_key_for_every_layer)
{
    struct um_hash_key one = {0}, other = {0};
    CHECK_INT(um_hash_key_make(&one), 0);
    CHECK_INT(um_hash_key_make(&other), 0);
    CHECK(memcmp(&one, &other, sizeof one) != 0);
    CHECK(um_hash_keyed(&one, 0, text_slice("a")) != um_hash_keyed(&other, 0, text_slice("a")));
}

TEST(xattr_names_that_could_not_be_listed_are_refused)
{
    static char names[256][255];
    struct um_tar_xattr xattrs[256];
    struct um_tar_entry entry = {.name = text_slice("a"), .xattrs = xattrs, .n_xattrs = 256};
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    for (size_t i = 0; i < 256; i++) {
        memset(names[i], 'n', sizeof names[i]);
        names[i][0] = (char)(i == 0 ? 'N' : i);
        xattrs[i] = (struct um_tar_xattr){.name = um_slice_of(names[i], sizeof names[i])};
    }
    CHECK_INT(um_indexer_open(NULL, &indexer), 0);
    CHECK_INT(um_indexer_add(indexer, &entry, &fault), 0); /* 65,536 bytes with their NULs */
    struct um_tar_xattr more[257];
    memcpy(more, xattrs, sizeof xattrs);
    more[256] = (struct um_tar_xattr){.name = text_slice("m")};
    entry.xattrs = more;
    entry.n_xattrs = 257;
    CHECK_INT(um_indexer_add(indexer, &entry, &fault), -EBADMSG);
    CHECK_CONTAINS(fault.text, "65536 bytes together");
    um_indexer_close(indexer);
}

static int index_xattrs(int spool, unsigned files, unsigned sets, int fd, struct um_fault *fault)
{
    static char value[60000];
    struct um_tar_xattr xattr = {.name = text_slice("user.a"),
                                 .value = um_slice_of(value, sizeof value)};
    struct um_indexer *indexer;
    int error = um_indexer_open(NULL, &indexer);
    if (error == 0 && spool >= 0)
        um_indexer_spool(indexer, spool);
    for (unsigned i = 0; i < files && error == 0; i++) {
        char name[20];
        snprintf(name, sizeof name, "f%u", i);
        memset(value, 'v', sizeof value);
        snprintf(value + sizeof value - 20, 20, "%u", i % sets); /* only the end tells them apart */
        struct um_tar_entry entry = {.name = text_slice(name), .xattrs = &xattr, .n_xattrs = 1};
        error = um_indexer_add(indexer, &entry, fault);
    }
    if (error == 0)
        error = um_indexer_finish(indexer, LAYER_BYTES, fd, fault);
    um_indexer_close(indexer);
    return error;
}

static bool same_files(int a, int b)
{
    size_t size = size_of(a);
    uint8_t *left = malloc(size), *right = malloc(size);
    bool same = size_of(b) == size && left != NULL && right != NULL &&
                pread(a, left, size, 0) == (ssize_t)size &&
                pread(b, right, size, 0) == (ssize_t)size && memcmp(left, right, size) == 0;
    free(left);
    free(right);
    return same;
}

TEST(xattrs_that_were_kept_in_a_file_give_the_same_index)
{
    struct um_fault fault;
    int spool = make_memfd(0), spooled = make_memfd(0), plain = make_memfd(0);
    CHECK_INT(index_xattrs(-1, 150, 100, plain, &fault), 0);
    CHECK_INT(index_xattrs(spool, 150, 100, spooled, &fault), 0);
    CHECK(same_files(plain, spooled));
    CHECK(size_of(spool) > 4u << 20);
    CHECK(size_of(plain) > 100 * 60000 && size_of(plain) < 101 * 60000); /* each set once */
    CHECK_INT(open_and_verify(spooled), 0);
    close(spool);
    close(spooled);
    close(plain);
}

TEST(a_file_for_xattrs_that_is_full_is_an_error)
{
    struct um_fault fault = {0};
    int full = open("/dev/full", O_RDWR), fd = make_memfd(0);
    REQUIRE(full >= 0);
    CHECK_INT(index_xattrs(full, 150, 100, fd, &fault), -ENOSPC);
    close(full);
    close(fd);
}

/* Add up to `n` entries of one kind; *added are those that were taken. */
static int add_many(struct um_indexer *indexer, const char *format, unsigned n, unsigned *added,
                    struct um_fault *fault)
{
    int error = 0;
    for (*added = 0; error == 0 && *added < n; *added += error == 0) {
        char line[4096];
        snprintf(line, sizeof line, format, *added, *added);
        error = add_line(indexer, line, fault);
    }
    return error;
}

/* How many entries of one kind a limit allows. Of almost as many an index is made: what that needs was
 * counted before. */
static uint64_t fill(const char *format, uint64_t max_memory)
{
    struct um_index_limits limits = {.max_memory = max_memory};
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    unsigned n = 0, fewer = 0;
    int fd = make_memfd(0);
    CHECK_INT(um_indexer_open(&limits, &indexer), 0);
    CHECK_INT(add_many(indexer, format, 1000000, &n, &fault), -ENOBUFS);
    CHECK_CONTAINS(fault.text, "more than 4194304 bytes of memory");
    um_indexer_close(indexer);
    CHECK_INT(um_indexer_open(&limits, &indexer), 0);
    CHECK_INT(add_many(indexer, format, n - n / 50, &fewer, &fault), 0);
    CHECK_INT(um_indexer_finish(indexer, LAYER_BYTES, fd, &fault), 0);
    um_indexer_close(indexer);
    close(fd);
    return n;
}

/* What is refused is what needs the memory, not what growing by doubling would have taken: so a limit
 * says how many entries there may be, within some per cent. */
TEST(memory_is_bounded_whatever_the_entries_are)
{
    const uint64_t limit = 4u << 20;
    CHECK(fill("f %u", limit) > limit / 220);
    CHECK(fill("d %u", limit) > limit / 220);
    CHECK(fill("s %u -> %u", limit) > limit / 230);
    CHECK(fill("h %u -> none%u", limit) > limit / 230);
    CHECK(fill("f .wh.%u", limit) > limit / 150);
    CHECK(fill("f %u/a/b/c/d/e/f/g", limit) > limit / 8 / 220);
}

TEST(memory_for_xattrs_without_a_file_is_bounded)
{
    struct um_index_limits limits = {.max_memory = 4u << 20};
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    char value[1000] = {0};
    struct um_tar_xattr xattr = {.name = text_slice("user.a"),
                                 .value = um_slice_of(value, sizeof value)};
    int error = um_indexer_open(&limits, &indexer);
    unsigned n = 0;
    for (; error == 0 && n < 10000; n++) {
        struct um_tar_entry entry = {.name = text_slice("a"), .xattrs = &xattr, .n_xattrs = 1};
        memcpy(value, &n, sizeof n);
        error = um_indexer_add(indexer, &entry, &fault);
    }
    CHECK_INT(error, -ENOBUFS);
    CHECK(n > 3000);
    um_indexer_close(indexer);
}
