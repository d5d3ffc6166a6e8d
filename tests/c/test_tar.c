/*
 * test_tar.c - the tar parser: each dialect, each refusal, each split.
 *
 * parse() reads an archive four times: whole, byte by byte, in pieces of 513 bytes, and jumping
 * over what is skippable; all must tell the same. So every test here tests the splits, too.
 */
#include "harness.h"
#include "tar/tar.h"
#include "tar_maker.h"

enum { MAX_SEEN = 8, TEXT = 700 };

struct seen {
    enum um_tar_type type;
    char name[TEXT], link[TEXT];
    uint32_t mode, uid, gid, major, minor, nsec;
    int64_t mtime;
    uint64_t size, stored, stored_size, header;
    bool sparse;
    size_t n_extents, n_xattrs;
    struct um_tar_extent extents[MAX_SEEN];
    struct {
        char name[TEXT];
        uint8_t value[TEXT];
        size_t size;
    } xattrs[MAX_SEEN];
};

struct outcome {
    int error;
    struct um_fault fault;
    size_t count;
    struct seen seen[MAX_SEEN]; /* the first ones */
};

static struct um_tar_limits limits; /* of the test that runs */

static void copy_text(char *out, struct um_slice text)
{
    size_t size = text.size < TEXT - 1 ? text.size : TEXT - 1;
    if (size != 0)
        memcpy(out, text.data, size);
    out[size] = '\0';
}

static void copy_lists(struct seen *seen, const struct um_tar_entry *entry)
{
    for (size_t i = 0; i < entry->n_extents && i < MAX_SEEN; i++)
        seen->extents[i] = entry->extents[i];
    for (size_t i = 0; i < entry->n_xattrs && i < MAX_SEEN; i++) {
        struct um_slice value = entry->xattrs[i].value;
        copy_text(seen->xattrs[i].name, entry->xattrs[i].name);
        seen->xattrs[i].size = value.size;
        if (value.size != 0)
            memcpy(seen->xattrs[i].value, value.data, value.size < TEXT ? value.size : TEXT);
    }
}

static int on_entry(void *context, const struct um_tar_entry *entry, struct um_fault *fault)
{
    struct outcome *outcome = context;
    (void)fault;
    if (outcome->count++ >= MAX_SEEN)
        return 0;
    struct seen *seen = &outcome->seen[outcome->count - 1];
    *seen = (struct seen){.type = entry->type,
                          .mode = entry->mode,
                          .uid = entry->uid,
                          .gid = entry->gid,
                          .major = entry->major,
                          .minor = entry->minor,
                          .mtime = entry->mtime,
                          .nsec = entry->mtime_nsec,
                          .size = entry->size,
                          .stored = entry->stored,
                          .stored_size = entry->stored_size,
                          .header = entry->header,
                          .sparse = entry->sparse,
                          .n_extents = entry->n_extents,
                          .n_xattrs = entry->n_xattrs};
    copy_text(seen->name, entry->name);
    copy_text(seen->link, entry->link);
    copy_lists(seen, entry);
    return 0;
}

/* Feed from a copy of exactly the size of the piece, so that ASAN sees a read beyond it. */
static int feed_copy(struct um_tar *tar, const uint8_t *data, size_t size, struct um_fault *fault)
{
    um_autofree uint8_t *copy = malloc(size ? size : 1);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, data, size);
    return um_tar_feed(tar, copy, size, fault);
}

static int feed_pieces(struct um_tar *tar, const struct maker *archive, size_t piece, bool skip,
                       struct um_fault *fault)
{
    size_t at = 0;
    while (at < archive->size) {
        uint64_t jump = skip ? um_tar_skippable(tar) : 0;
        jump = jump < archive->size - at ? jump : archive->size - at;
        um_tar_skip(tar, jump);
        at += jump;
        size_t size = archive->size - at < piece ? archive->size - at : piece;
        int error = feed_copy(tar, archive->data + at, size, fault);
        at += size;
        if (error != 0)
            return error;
        CHECK_INT(um_tar_position(tar), at);
    }
    return um_tar_finish(tar, fault);
}

static void parse_pieces(const struct maker *archive, size_t piece, bool skip,
                         struct outcome *outcome)
{
    struct um_tar *tar;
    memset(outcome, 0, sizeof *outcome);
    REQUIRE(um_tar_open(on_entry, outcome, &limits, &tar) == 0);
    outcome->error = feed_pieces(tar, archive, piece, skip, &outcome->fault);
    if (outcome->error != 0)
        CHECK_INT(um_tar_feed(tar, "x", 1, NULL), outcome->error);
    um_tar_close(tar);
}

/* Read the archive in all ways, and use it up. */
static void parse(struct maker *archive, struct outcome *outcome)
{
    static const struct {
        size_t piece;
        bool skip;
    } WAYS[] = {{1, false}, {513, false}, {512, true}, {1, true}};
    static struct outcome other;
    seal(archive);
    parse_pieces(archive, archive->size + 1, false, outcome);
    for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++) {
        parse_pieces(archive, WAYS[i].piece, WAYS[i].skip, &other);
        CHECK_INT(other.error, outcome->error);
        CHECK_STR(other.fault.text, outcome->fault.text);
        CHECK_INT(other.fault.offset, outcome->fault.offset);
        CHECK_INT(other.count, outcome->count);
        CHECK(memcmp(other.seen, outcome->seen, sizeof other.seen) == 0);
    }
    maker_free(archive);
    memset(&limits, 0, sizeof limits);
}

static struct outcome result; /* of the last expect_ call */

static void expect_entries(struct maker *archive, size_t count)
{
    parse(archive, &result);
    CHECK_INT(result.error, 0);
    CHECK_STR(result.fault.text, "");
    CHECK_INT(result.count, count);
}

static void expect_refusal(struct maker *archive, int error, uint64_t offset, const char *text)
{
    parse(archive, &result);
    CHECK_INT(result.error, error);
    CHECK_CONTAINS(result.fault.text, text);
    CHECK_INT(result.fault.offset, offset);
}

/* ---- the end of an archive ---- */

TEST(nothing_at_all_is_an_empty_archive)
{
    struct maker archive = {0};
    expect_entries(&archive, 0);
}

TEST(two_zero_blocks_end_and_the_rest_is_not_looked_at)
{
    struct maker archive = {0};
    add_end(&archive);
    add_bytes(&archive, "garbage", 7);
    expect_entries(&archive, 0);
}

TEST(after_the_end_everything_is_skippable)
{
    struct um_tar *tar;
    uint8_t zeros[1024] = {0};
    REQUIRE(um_tar_open(on_entry, &result, NULL, &tar) == 0);
    CHECK_INT(um_tar_skippable(tar), 0);
    CHECK_INT(um_tar_feed(tar, zeros, sizeof zeros, NULL), 0);
    CHECK(um_tar_skippable(tar) == UINT64_MAX);
    um_tar_skip(tar, UINT64_MAX);
    CHECK(um_tar_position(tar) == UINT64_MAX);
    CHECK_INT(um_tar_finish(tar, NULL), 0);
    um_tar_close(tar);
}

TEST(closing_nothing_is_fine)
{
    um_tar_close(NULL);
}

TEST(one_zero_block_at_the_end_is_fine)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    add_zeros(&archive, 512);
    expect_entries(&archive, 1);
}

TEST(lone_zero_block_before_data_is_refused)
{
    struct maker archive = {0};
    add_zeros(&archive, 512);
    add_header(&archive, "a", '0', 0);
    expect_refusal(&archive, -EBADMSG, 512, "lone zero block");
}

TEST(missing_trailer_and_padding_are_fine)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 5);
    add_bytes(&archive, "hello", 5);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].stored, 512);
}

TEST(end_within_padding_is_fine)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 5);
    add_bytes(&archive, "hello\0\0\0", 8);
    expect_entries(&archive, 1);
}

TEST(end_within_a_payload_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 5);
    add_bytes(&archive, "hell", 4);
    expect_refusal(&archive, -EBADMSG, 516, "1 bytes are missing");
}

TEST(end_within_a_header_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    add_zeros(&archive, 100);
    expect_refusal(&archive, -EBADMSG, 612, "within a header");
}

TEST(end_within_an_extended_header_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "x", 'x', 2000);
    add_zeros(&archive, 512);
    expect_refusal(&archive, -EBADMSG, 1024, "within a header");
}

TEST(end_after_an_extended_header_is_refused)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "path", "a");
    expect_refusal(&archive, -EBADMSG, 1024, "within a header");
    add_record(&archive, 'x', "path", "a");
    add_end(&archive);
    expect_refusal(&archive, -EBADMSG, 0, "after an extended header");
}

TEST(a_global_header_may_be_last)
{
    struct maker archive = {0};
    add_record(&archive, 'g', "comment", "a");
    expect_entries(&archive, 0);
}

/* ---- headers ---- */

TEST(ustar_header_with_everything)
{
    struct maker archive = {0};
    add_header(&archive, "file", '0', 3);
    set_octal(&archive, 100, 8, 0104755);
    set_octal(&archive, 108, 8, 1000);
    set_octal(&archive, 116, 8, 1001);
    set_octal(&archive, 136, 12, 1600000000);
    set_text(&archive, 345, "usr/share");
    add_payload(&archive, "abc", 3);
    add_header(&archive, "next", '0', 0);
    add_end(&archive);
    expect_entries(&archive, 2);
    const struct seen *file = &result.seen[0];
    CHECK_STR(file->name, "usr/share/file");
    CHECK_INT(file->type, UM_TAR_FILE);
    CHECK_INT(file->mode, 04755);
    CHECK_INT(file->uid, 1000);
    CHECK_INT(file->gid, 1001);
    CHECK_INT(file->mtime, 1600000000);
    CHECK_INT(file->nsec, 0);
    CHECK_INT(file->size, 3);
    CHECK_INT(file->stored, 512);
    CHECK_INT(file->stored_size, 3);
    CHECK_INT(file->header, 0);
    CHECK(!file->sparse);
    CHECK_STR(result.seen[1].name, "next");
    CHECK_INT(result.seen[1].header, 1024);
}

TEST(names_may_fill_their_fields)
{
    char name[101] = {0}, prefix[156] = {0}, whole[300];
    memset(name, 'n', 100);
    memset(prefix, 'p', 155);
    snprintf(whole, sizeof whole, "%s/%s", prefix, name);
    struct maker archive = {0};
    add_header(&archive, name, '2', 0);
    set_text(&archive, 345, prefix);
    set_text(&archive, 157, name);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, whole);
    CHECK_STR(result.seen[0].link, name);
}

TEST(v7_header_has_no_prefix)
{
    struct maker archive = {0};
    add_header(&archive, "a", '\0', 0);
    set_v7(&archive);
    set_text(&archive, 345, "junk");
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "a");
    CHECK_INT(result.seen[0].type, UM_TAR_FILE);
}

TEST(star_header_has_a_shorter_prefix)
{
    struct maker archive = {0};
    char prefix[132] = {0};
    memset(prefix, 'p', 131);
    add_header(&archive, "a", '0', 0);
    set_text(&archive, 345, prefix);
    set_octal(&archive, 476, 12, 1);
    set_bytes(&archive, 508, "tar", 4);
    expect_entries(&archive, 1);
    CHECK_INT(strlen(result.seen[0].name), 133);
}

TEST(gnu_header_has_times_instead_of_a_prefix)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_gnu(&archive);
    set_octal(&archive, 345, 12, 1600000000);
    set_octal(&archive, 357, 12, 1600000000);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "a");
}

TEST(gnu_header_of_early_go_has_a_prefix)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_gnu(&archive);
    set_text(&archive, 345, "usr/share/very/long/directory");
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "usr/share/very/long/directory/a");
}

TEST(a_prefix_may_begin_like_a_time)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_gnu(&archive);
    set_text(&archive, 345, "012345670123/not-a-time");
    add_header(&archive, "b", '0', 0);
    set_gnu(&archive);
    set_text(&archive, 345, "not ASCII: \xff");
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, "012345670123/not-a-time/a");
    CHECK_STR(result.seen[1].name, "b");
}

TEST(names_need_not_be_utf8)
{
    struct maker archive = {0};
    add_header(&archive, "\xff\xfe\x80", '0', 0);
    add_record(&archive, 'x', "path", "\xc3\x28/\xff");
    add_header(&archive, "b", '0', 0);
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, "\xff\xfe\x80");
    CHECK_STR(result.seen[1].name, "\xc3\x28/\xff");
}

TEST(checksum_may_be_of_signed_bytes)
{
    struct maker archive = {0};
    add_header(&archive, "\xff\xfe", '0', 0);
    seal(&archive);
    unsigned sum = 0;
    sscanf((char *)archive.data + 148, "%o", &sum);
    snprintf((char *)archive.data + 148, 8, "%06o", sum - 2 * 256);
    expect_entries(&archive, 1);
}

TEST(wrong_checksum_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    add_header(&archive, "b", '0', 0);
    seal(&archive);
    archive.data[512] = 'c';
    expect_refusal(&archive, -EBADMSG, 512, "checksum");
}

TEST(checksum_that_is_no_number_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    seal(&archive);
    archive.data[148] = 'z';
    expect_refusal(&archive, -EBADMSG, 0, "checksum");
}

TEST(empty_name_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "", '0', 0);
    expect_refusal(&archive, -EBADMSG, 0, "without a name");
}

/* ---- numbers ---- */

static void expect_uid(const char *field, int64_t uid)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 108, field, 8);
    if (uid < 0) {
        expect_refusal(&archive, -EBADMSG, 108, "108 is not a number");
    } else {
        expect_entries(&archive, 1);
        CHECK_INT(result.seen[0].uid, uid);
    }
}

TEST(octal_fields)
{
    expect_uid("0001750", 1000);
    expect_uid("   1750", 1000);
    expect_uid("1750\0\0\0", 1000);
    expect_uid("1750    ", 1000);
    expect_uid("1750 \0\0", 1000);
    expect_uid("1750\0ab", 1000); /* after a NUL nobody looks */
    expect_uid("00001750", 1000);
    expect_uid("77777777", 077777777);
    expect_uid("\0\0\0\0\0\0\0", 0);
    expect_uid("        ", 0);
    expect_uid("   \0   ", 0);
    expect_uid("0001780", -1);
    expect_uid("17 50  ", -1);
    expect_uid("-000175", -1);
    expect_uid("+000175", -1);
    expect_uid("0x10\0\0\0", -1);
    expect_uid("\0"
               "001750",
               -1);
    expect_uid("\t001750", -1);
}

TEST(base256_fields)
{
    expect_uid("\x80\0\0\0\0\0\x03\xe8", 1000);
    expect_uid("\x80\0\0\0\xff\xff\xff\xff", UINT32_MAX);
    expect_uid("\x80\0\0\x01\0\0\0\0", -1);
    expect_uid("\xff\xff\xff\xff\xff\xff\xff\xfe", -1);
    expect_uid("\xc0\0\0\0\0\0\0\x01", -1);
}

static void expect_mtime(const char *field, int64_t mtime)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 136, field, 12);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].mtime, mtime);
}

TEST(base256_times)
{
    expect_mtime("\x80\0\0\0\0\0\0\0\0\0\0\x01", 1);
    expect_mtime("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", -1);
    expect_mtime("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", -256);
    expect_mtime("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", INT64_MAX);
    expect_mtime("\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", INT64_MIN);
    expect_mtime("777777777777", 0777777777777);
}

TEST(base256_beyond_64_bits_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 136, "\x80\0\0\0\x80\0\0\0\0\0\0\0", 12);
    expect_refusal(&archive, -EBADMSG, 136, "136 is not a number");
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 136, "\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EBADMSG, 136, "136 is not a number");
}

TEST(base256_mode_and_size)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 100, "\x80\0\0\0\0\0\x01\xff", 8);
    set_bytes(&archive, 124, "\x80\0\0\0\0\0\0\0\0\0\0\x02", 12);
    add_payload(&archive, "ab", 2);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].mode, 0777);
    CHECK_INT(result.seen[0].size, 2);
}

TEST(bad_mode_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_text(&archive, 100, "rwxr-xr");
    expect_refusal(&archive, -EBADMSG, 100, "100 is not a number");
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 100, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    expect_refusal(&archive, -EBADMSG, 100, "100 is not a number");
}

TEST(negative_size_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EBADMSG, 124, "124 is not a number");
    add_header(&archive, "x", 'x', 0);
    set_bytes(&archive, 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EBADMSG, 124, "124 is not a number");
}

TEST(size_without_an_end_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EBADMSG, 512, "has no end");
}

TEST(huge_size_is_only_skipped)
{
    struct um_tar *tar;
    struct maker archive = {0};
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 124, "\x80\0\0\0\x10\0\0\0\0\0\0\x01", 12);
    seal(&archive);
    memset(&result, 0, sizeof result);
    REQUIRE(um_tar_open(on_entry, &result, NULL, &tar) == 0);
    CHECK_INT(um_tar_feed(tar, archive.data, archive.size, &result.fault), 0);
    CHECK_INT(result.seen[0].size, 0x1000000000000001);
    CHECK_INT(um_tar_skippable(tar), 0x1000000000000200);
    um_tar_skip(tar, 0x1000000000000000);
    CHECK_INT(um_tar_finish(tar, &result.fault), -EBADMSG);
    CHECK_CONTAINS(result.fault.text, "1 bytes are missing");
    um_tar_close(tar);
    maker_free(&archive);
}

/* ---- types ---- */

static void expect_type(char flag, const char *name, enum um_tar_type type, bool payload)
{
    struct maker archive = {0};
    add_header(&archive, name, flag, 5);
    if (payload)
        add_payload(&archive, "hello", 5);
    add_header(&archive, "next", '0', 0);
    expect_entries(&archive, 2);
    CHECK_INT(result.seen[0].type, type);
    CHECK_INT(result.seen[0].size, type == UM_TAR_FILE ? 5 : 0);
    CHECK_INT(result.seen[0].stored_size, type == UM_TAR_FILE ? 5 : 0);
    CHECK_STR(result.seen[1].name, "next");
}

TEST(types_and_whether_they_have_a_payload)
{
    expect_type('0', "a", UM_TAR_FILE, true);
    expect_type('\0', "a", UM_TAR_FILE, true);
    expect_type('7', "a", UM_TAR_FILE, true);
    expect_type('1', "a", UM_TAR_HARDLINK, false);
    expect_type('2', "a", UM_TAR_SYMLINK, false);
    expect_type('3', "a", UM_TAR_CHARACTER, false);
    expect_type('4', "a", UM_TAR_BLOCK_DEVICE, false);
    expect_type('5', "a", UM_TAR_DIRECTORY, false);
    expect_type('6', "a", UM_TAR_FIFO, false);
    expect_type('D', "a", UM_TAR_DIRECTORY, true);
    expect_type('0', "a/", UM_TAR_FILE, true);
    expect_type('7', "a/", UM_TAR_FILE, true);
    expect_type('\0', "a/", UM_TAR_DIRECTORY, false);
    expect_type('5', "a/", UM_TAR_DIRECTORY, false);
    expect_type('Z', "a", UM_TAR_FILE, true);
    expect_type('8', "a", UM_TAR_FILE, true);
    expect_type('\xff', "a", UM_TAR_FILE, true);
}

TEST(slash_of_a_pax_path_makes_a_directory)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "path", "long/");
    add_header(&archive, "a", '\0', 5);
    add_header(&archive, "next", '0', 0);
    expect_entries(&archive, 2);
    CHECK_INT(result.seen[0].type, UM_TAR_DIRECTORY);
}

TEST(links_have_targets_and_files_have_none)
{
    struct maker archive = {0};
    for (const char *type = "120"; *type != '\0'; type++) {
        add_header(&archive, "a", *type, 0);
        set_text(&archive, 157, "target");
    }
    expect_entries(&archive, 3);
    CHECK_STR(result.seen[0].link, "target");
    CHECK_STR(result.seen[1].link, "target");
    CHECK_STR(result.seen[2].link, "");
}

TEST(device_numbers)
{
    struct maker archive = {0};
    add_header(&archive, "a", '3', 0);
    set_octal(&archive, 329, 8, 5);
    set_octal(&archive, 337, 8, 1);
    add_header(&archive, "b", '4', 0);
    set_bytes(&archive, 329, "\x80\0\0\0\0\0\x01\x03", 8);
    set_bytes(&archive, 337, "\x80\0\0\0\xff\xff\xff\xff", 8);
    add_header(&archive, "c", '0', 0);
    set_text(&archive, 329, "junk");
    expect_entries(&archive, 3);
    CHECK_INT(result.seen[0].major, 5);
    CHECK_INT(result.seen[0].minor, 1);
    CHECK_INT(result.seen[1].major, 259);
    CHECK_INT(result.seen[1].minor, UINT32_MAX);
    CHECK_INT(result.seen[2].major, 0);
}

TEST(bad_device_numbers_are_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '3', 0);
    set_text(&archive, 329, "9");
    expect_refusal(&archive, -EBADMSG, 329, "329 is not a number");
    add_header(&archive, "a", '3', 0);
    set_bytes(&archive, 337, "\x80\0\0\x01\0\0\0\0", 8);
    expect_refusal(&archive, -EBADMSG, 337, "337 is not a number");
}

TEST(device_of_a_v7_header_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", '3', 0);
    set_v7(&archive);
    expect_refusal(&archive, -EBADMSG, 0, "V7");
}

TEST(volume_label_is_skipped)
{
    struct maker archive = {0};
    add_header(&archive, "label", 'V', 5);
    add_payload(&archive, "abcde", 5);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "a");
    CHECK_INT(result.seen[0].header, 1024);
}

TEST(volume_label_without_a_size_is_refused)
{
    struct maker archive = {0};
    add_header(&archive, "label", 'V', 0);
    set_text(&archive, 124, "oops");
    expect_refusal(&archive, -EBADMSG, 124, "124 is not a number");
}

TEST(volume_label_takes_what_was_said_before_it)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "path", "of the label");
    add_header(&archive, "label", 'V', 0);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "a");
}

TEST(parts_of_volumes_are_refused)
{
    struct maker archive = {0};
    add_header(&archive, "a", 'M', 0);
    expect_refusal(&archive, -EBADMSG, 0, "multi-volume");
    add_header(&archive, "a", 'N', 0);
    expect_refusal(&archive, -EBADMSG, 0, "'N'");
}

/* ---- GNU long names ---- */

TEST(gnu_long_name_and_link)
{
    char name[601] = {0};
    memset(name, 'n', 600);
    struct maker archive = {0};
    add_extended(&archive, 'K', "the/target", 11);
    add_extended(&archive, 'L', name, sizeof name);
    add_header(&archive, "short", '2', 0);
    set_gnu(&archive);
    set_text(&archive, 157, "tar");
    add_header(&archive, "next", '2', 0);
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, name);
    CHECK_STR(result.seen[0].link, "the/target");
    CHECK_INT(result.seen[0].header, 0);
    CHECK_STR(result.seen[1].name, "next");
    CHECK_STR(result.seen[1].link, "");
    CHECK_INT(result.seen[1].header, 1024 + 512 + 1024 + 512);
}

TEST(gnu_long_name_ends_at_its_nul_or_its_size)
{
    struct maker archive = {0};
    add_extended(&archive, 'L', "abc\0def", 7);
    add_header(&archive, "a", '0', 0);
    add_extended(&archive, 'L', "abc", 3);
    add_header(&archive, "a", '0', 0);
    add_extended(&archive, 'L', "", 0);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 3);
    CHECK_STR(result.seen[0].name, "abc");
    CHECK_STR(result.seen[1].name, "abc");
    CHECK_STR(result.seen[2].name, "a");
}

TEST(gnu_long_name_beats_pax_and_the_last_one_counts)
{
    struct maker archive = {0};
    add_extended(&archive, 'L', "first", 5);
    add_extended(&archive, 'L', "gnu", 3);
    add_record(&archive, 'x', "path", "pax");
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "gnu");
}

TEST(extended_header_over_the_limit_is_refused)
{
    for (const char *type = "xXgLK"; *type != '\0'; type++) {
        struct maker archive = {0};
        add_header(&archive, "a", *type, 1025);
        limits.max_extended = 1024;
        expect_refusal(&archive, -EFBIG, 0, "1025 bytes, at most 1024");
    }
    struct maker archive = {0};
    add_header(&archive, "a", 'x', 0);
    set_bytes(&archive, 124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EFBIG, 0, "at most 16777216");
}

/* ---- pax ---- */

TEST(pax_keys_of_a_local_header)
{
    struct maker archive = {0}, records = {0};
    record(&records, "path", "the/path");
    record(&records, "linkpath", "the/link");
    record(&records, "uid", "4294967295");
    record(&records, "gid", "65536");
    record(&records, "mtime", "1600000000.123456789");
    record(&records, "hdrcharset", "BINARY");
    record(&records, "comment", "");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '2', 0);
    add_header(&archive, "b", '2', 0);
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, "the/path");
    CHECK_STR(result.seen[0].link, "the/link");
    CHECK_INT(result.seen[0].uid, UINT32_MAX);
    CHECK_INT(result.seen[0].gid, 65536);
    CHECK_INT(result.seen[0].mtime, 1600000000);
    CHECK_INT(result.seen[0].nsec, 123456789);
    CHECK_STR(result.seen[1].name, "b");
    CHECK_INT(result.seen[1].uid, 0);
    CHECK_INT(result.seen[1].nsec, 0);
}

TEST(solaris_header_is_a_pax_header)
{
    struct maker archive = {0};
    add_record(&archive, 'X', "path", "the/path");
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "the/path");
}

TEST(pax_size_beats_the_header)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "size", "3");
    add_header(&archive, "a", '0', 0);
    add_payload(&archive, "abc", 3);
    add_header(&archive, "b", '0', 0);
    expect_entries(&archive, 2);
    CHECK_INT(result.seen[0].size, 3);
    CHECK_INT(result.seen[0].stored, 1536);
}

TEST(pax_number_makes_the_field_of_the_header_irrelevant)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "uid", "7");
    add_header(&archive, "a", '0', 0);
    set_bytes(&archive, 108, "\x80\xff\xff\xff\xff\xff\xff\xff", 8);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].uid, 7);
}

TEST(last_local_header_counts_alone)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "uid", "7");
    add_record(&archive, 'x', "gid", "8");
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].uid, 0);
    CHECK_INT(result.seen[0].gid, 8);
    CHECK_INT(result.seen[0].header, 0);
}

TEST(last_record_of_a_key_counts_and_an_empty_one_deletes)
{
    struct maker archive = {0}, records = {0};
    record(&records, "path", "first");
    record(&records, "path", "last");
    record(&records, "uid", "5");
    record(&records, "uid", "");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "last");
    CHECK_INT(result.seen[0].uid, 0);
}

TEST(global_header_stays_and_a_local_one_overrides)
{
    struct maker archive = {0}, records = {0};
    record(&records, "uid", "5");
    record(&records, "gid", "6");
    record(&records, "mtime", "-7.25");
    record(&records, "SCHILY.xattr.user.a", "global");
    add_records(&archive, 'g', &records);
    add_header(&archive, "a", '0', 0);
    record(&records, "uid", "55");
    record(&records, "gid", "");
    record(&records, "SCHILY.xattr.user.a", "local");
    add_records(&archive, 'x', &records);
    add_header(&archive, "b", '0', 0);
    set_octal(&archive, 116, 8, 66);
    add_header(&archive, "c", '0', 0);
    expect_entries(&archive, 3);
    for (int i = 0; i < 3; i++) {
        bool local = i == 1;
        CHECK_INT(result.seen[i].uid, local ? 55 : 5);
        CHECK_INT(result.seen[i].gid, local ? 66 : 6);
        CHECK_INT(result.seen[i].mtime, -8);
        CHECK_INT(result.seen[i].nsec, 750000000);
        CHECK_INT(result.seen[i].n_xattrs, 1);
        CHECK_STR(result.seen[i].xattrs[0].name, "user.a");
        CHECK_STR((char *)result.seen[i].xattrs[0].value, local ? "local" : "global");
    }
    CHECK_INT(result.seen[0].header, 1024 + 512 - 512);
}

TEST(global_headers_add_up_and_delete)
{
    struct maker archive = {0};
    add_record(&archive, 'g', "uid", "5");
    add_record(&archive, 'g', "path", "all");
    add_record(&archive, 'g', "gid", "6");
    add_header(&archive, "a", '0', 0);
    add_record(&archive, 'g', "uid", "");
    add_record(&archive, 'g', "path", "others");
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, "all");
    CHECK_INT(result.seen[0].uid, 5);
    CHECK_INT(result.seen[0].gid, 6);
    CHECK_STR(result.seen[1].name, "others");
    CHECK_INT(result.seen[1].uid, 0);
    CHECK_INT(result.seen[1].gid, 6);
}

TEST(global_state_is_bounded)
{
    struct maker archive = {0}, records = {0};
    char big[1025] = {0};
    memset(big, 'p', sizeof big - 1);
    record(&records, "path", big);
    record(&records, "uid", "1");
    add_records(&archive, 'g', &records);
    expect_refusal(&archive, -EFBIG, 512, "global headers hold more than");
    for (int i = 0; i < 17; i++) {
        char key[40];
        snprintf(key, sizeof key, "SCHILY.xattr.user.%d", i);
        record(&records, key, "");
    }
    add_records(&archive, 'g', &records);
    expect_refusal(&archive, -E2BIG, 512, "more than 16 xattrs");
    memset(big, 'c', sizeof big - 1);
    add_record(&archive, 'g', "comment", big); /* what says nothing is not kept */
    expect_entries(&archive, 0);
}

TEST(global_headers_do_not_pile_up)
{
    struct maker archive = {0};
    for (int i = 0; i < 500; i++)
        add_record(&archive, 'g', "SCHILY.xattr.user.a",
                   "a value of some forty bytes, or thereabouts");
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].n_xattrs, 1);
}

static void expect_pax_time(const char *text, int64_t seconds, uint32_t nsec)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "mtime", text);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_INT(result.seen[0].mtime, seconds);
    CHECK_INT(result.seen[0].nsec, nsec);
}

TEST(pax_times)
{
    expect_pax_time("0", 0, 0);
    expect_pax_time("1.", 1, 0);
    expect_pax_time("1.5", 1, 500000000);
    expect_pax_time("1.000000001", 1, 1);
    expect_pax_time("1.9999999999", 1, 999999999);
    expect_pax_time("-1", -1, 0);
    expect_pax_time("-1.5", -2, 500000000);
    expect_pax_time("-0.5", -1, 500000000);
    expect_pax_time("-0.0", 0, 0);
    expect_pax_time("-1.000000000", -1, 0);
    expect_pax_time("-1.0000000000001", -2, 999999999);
    expect_pax_time("-1.9999999999", -2, 0);
    expect_pax_time("-1.9999999990", -2, 1);
    expect_pax_time("9223372036854775807", INT64_MAX, 0);
    expect_pax_time("-9223372036854775807.5", INT64_MIN, 500000000);
}

static void expect_bad_record(const char *key, const char *value)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "comment", "c");
    add_record(&archive, 'x', key, value);
    add_header(&archive, "a", '0', 0);
    expect_refusal(&archive, -EBADMSG, 1536, key);
}

TEST(bad_numbers_in_pax_are_refused)
{
    static const char *const TIMES[] = {"x",
                                        "-",
                                        "--1",
                                        "+1",
                                        ".5",
                                        "1.5.5",
                                        "1,5",
                                        "1.5e300",
                                        " 1.5",
                                        "1 ",
                                        "1.5x",
                                        "1.1234567890x",
                                        "9223372036854775808"};
    for (size_t i = 0; i < sizeof TIMES / sizeof *TIMES; i++)
        expect_bad_record("mtime", TIMES[i]);
    static const char *const NUMBERS[] = {
        "-1", "+1", "0x1", "1.0", " 1", "1 ", "9223372036854775808", "18446744073709551617"};
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) {
        expect_bad_record("size", NUMBERS[i]);
        expect_bad_record("uid", NUMBERS[i]);
        expect_bad_record("GNU.sparse.realsize", NUMBERS[i]);
    }
}

TEST(pax_owner_beyond_32_bits_is_refused)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "uid", "4294967296");
    add_header(&archive, "a", '0', 0);
    expect_refusal(&archive, -EBADMSG, 1024 + 108, "108 is not a number in range");
}

TEST(nul_in_a_path_is_refused)
{
    static const char *const KEYS[] = {"path", "linkpath", "GNU.sparse.name"};
    for (size_t i = 0; i < 3; i++) {
        struct maker archive = {0}, records = {0};
        record_bytes(&records, KEYS[i], "a\0b", 3);
        add_records(&archive, 'x', &records);
        add_header(&archive, "a", '0', 0);
        expect_refusal(&archive, -EBADMSG, 512, KEYS[i]);
    }
}

static void expect_malformed(const char *records, size_t size)
{
    struct maker archive = {0};
    add_extended(&archive, 'x', records, size);
    add_header(&archive, "a", '0', 0);
    expect_refusal(&archive, -EBADMSG, 512, "malformed pax record");
}

TEST(malformed_records_are_refused)
{
#define MALFORMED(text) expect_malformed(text, sizeof(text) - 1)
    MALFORMED("x");
    MALFORMED("8 path=a");
    MALFORMED("8 path=a\n");
    MALFORMED("11 path=a\nb\n");
    MALFORMED("10 path=ab");
    MALFORMED("100 path=a\n");
    MALFORMED("0 path=a\n");
    MALFORMED("1 path=a\n");
    MALFORMED("2 path=a\n");
    MALFORMED("-9 path=a\n");
    MALFORMED("+9 path=a\n");
    MALFORMED(" 9 path=a\n");
    MALFORMED("5 =a\n");
    MALFORMED("7 path\n");
    MALFORMED("3 \n");
    MALFORMED("4 =\n");
    MALFORMED("9");
    MALFORMED("9 ");
    MALFORMED("18446744073709551625 path=a\n");
    MALFORMED("99999999999999999999999999999999 path=a\n");
    MALFORMED("\0\0\0\0");
#undef MALFORMED
}

TEST(fault_names_the_record_that_is_malformed)
{
    struct maker archive = {0};
    add_extended(&archive, 'x', "8 uid=1\njunk", 12);
    add_header(&archive, "a", '0', 0);
    expect_refusal(&archive, -EBADMSG, 520, "malformed pax record");
}

TEST(last_record_needs_no_room_behind_it)
{
    struct maker archive = {0}, records = {0};
    char path[505] = {0}; /* 512 bytes of record fill the block */
    memset(path, 'p', 502);
    record(&records, "path", path);
    CHECK_INT(records.size, 512);
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, path);
}

/* ---- xattrs ---- */

TEST(schily_xattrs_are_arbitrary_bytes)
{
    struct maker archive = {0}, records = {0};
    record_bytes(&records, "SCHILY.xattr.security.capability", "\0\n=\xff\n9 path=x\n", 15);
    record(&records, "SCHILY.xattr.user.empty", "");
    record(&records, "SCHILY.xattr.user.%41", "literal");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    const struct seen *file = &result.seen[0];
    CHECK_STR(file->name, "a");
    CHECK_INT(file->n_xattrs, 3);
    CHECK_STR(file->xattrs[0].name, "security.capability");
    CHECK_BYTES(file->xattrs[0].value, file->xattrs[0].size, "\0\n=\xff\n9 path=x\n\0");
    CHECK_STR(file->xattrs[1].name, "user.empty");
    CHECK_INT(file->xattrs[1].size, 0);
    CHECK_STR(file->xattrs[2].name, "user.%41");
}

TEST(libarchive_xattrs_are_encoded)
{
    struct maker archive = {0}, records = {0};
    record(&records, "LIBARCHIVE.xattr.user.a%3Db%25%zz%4", "AP8KCg");
    record(&records, "LIBARCHIVE.xattr.user.padded", "AP8KCg==");
    record(&records, "LIBARCHIVE.xattr.user.empty", "");
    record(&records, "LIBARCHIVE.xattr.user.abcdef", "YWJj");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    const struct seen *file = &result.seen[0];
    CHECK_INT(file->n_xattrs, 4);
    CHECK_STR(file->xattrs[0].name, "user.a=b%%zz%4");
    CHECK_BYTES(file->xattrs[0].value, file->xattrs[0].size, "\0\xff\n\n");
    CHECK_BYTES(file->xattrs[1].value, file->xattrs[1].size, "\0\xff\n\n");
    CHECK_INT(file->xattrs[2].size, 0);
    CHECK_STR(file->xattrs[3].name, "user.abcdef");
    CHECK_BYTES(file->xattrs[3].value, file->xattrs[3].size, "abc");
}

TEST(each_xattr_is_told_once_and_the_last_wins)
{
    struct maker archive = {0}, records = {0};
    record(&records, "SCHILY.xattr.user.b", "1");
    record(&records, "SCHILY.xattr.user.a", "2");
    record(&records, "LIBARCHIVE.xattr.user.b", "Mw");
    record(&records, "SCHILY.xattr.user.c", "4");
    record(&records, "SCHILY.xattr.user.a", "5");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 0);
    expect_entries(&archive, 1);
    const struct seen *file = &result.seen[0];
    CHECK_INT(file->n_xattrs, 3);
    CHECK_STR(file->xattrs[0].name, "user.b");
    CHECK_STR((char *)file->xattrs[0].value, "3");
    CHECK_STR(file->xattrs[1].name, "user.c");
    CHECK_STR(file->xattrs[2].name, "user.a");
    CHECK_STR((char *)file->xattrs[2].value, "5");
}

TEST(bad_xattrs_are_refused)
{
    static const char *const KEYS[] = {"SCHILY.xattr.", "LIBARCHIVE.xattr.",
                                       "LIBARCHIVE.xattr.user%00"};
    for (size_t i = 0; i < 3; i++) {
        struct maker archive = {0};
        add_record(&archive, 'x', KEYS[i], "YQ");
        add_header(&archive, "a", '0', 0);
        expect_refusal(&archive, -EBADMSG, 512, "without a proper name");
    }
    expect_bad_record("LIBARCHIVE.xattr.user.a", "Y");
    expect_bad_record("LIBARCHIVE.xattr.user.a", "YW-j");
    expect_bad_record("LIBARCHIVE.xattr.user.a", "YW=j");
}

/* ---- sparse files ---- */

/* A run in an old GNU header or block. */
static void gnu_run(uint8_t *block, size_t at, uint64_t offset, uint64_t length)
{
    snprintf((char *)block + at, 12, "%011" PRIo64, offset);
    snprintf((char *)block + at + 12, 12, "%011" PRIo64, length);
}

static void add_gnu_sparse(struct maker *archive, uint64_t stored, uint64_t size)
{
    add_header(archive, "sparse", 'S', stored);
    set_gnu(archive);
    set_octal(archive, 483, 12, size);
}

static void set_run(struct maker *archive, unsigned number, uint64_t offset, uint64_t length)
{
    uint8_t run[25];
    gnu_run(run, 0, offset, length);
    set_bytes(archive, 386 + 24 * number, run, 24);
}

static void check_runs(size_t count, uint64_t size, uint64_t stored, uint64_t stored_size)
{
    const struct seen *file = &result.seen[0];
    CHECK_INT(file->type, UM_TAR_FILE);
    CHECK(file->sparse);
    CHECK_INT(file->n_extents, count);
    CHECK_INT(file->size, size);
    CHECK_INT(file->stored, stored);
    CHECK_INT(file->stored_size, stored_size);
}

static void check_run(size_t number, uint64_t logical, uint64_t length, uint64_t stored)
{
    const struct um_tar_extent *run = &result.seen[0].extents[number];
    CHECK_INT(run->logical, logical);
    CHECK_INT(run->length, length);
    CHECK_INT(run->stored, stored);
}

TEST(gnu_sparse)
{
    struct maker archive = {0};
    add_gnu_sparse(&archive, 6, 1000000);
    set_run(&archive, 0, 0, 2);
    set_run(&archive, 1, 4096, 4);
    set_run(&archive, 2, 1000000, 0);
    add_payload(&archive, "abcdef", 6);
    add_header(&archive, "next", '0', 0);
    expect_entries(&archive, 2);
    check_runs(2, 1000000, 512, 6);
    check_run(0, 0, 2, 512);
    check_run(1, 4096, 4, 514);
    CHECK_STR(result.seen[1].name, "next");
}

TEST(gnu_sparse_without_runs)
{
    struct maker archive = {0};
    add_gnu_sparse(&archive, 0, 1000);
    expect_entries(&archive, 1);
    check_runs(0, 1000, 512, 0);
}

TEST(gnu_sparse_with_further_blocks)
{
    struct maker archive = {0};
    uint8_t block[513] = {0};
    add_extended(&archive, 'L', "long", 4);
    add_gnu_sparse(&archive, 4 + 21 + 1, 1000);
    for (unsigned i = 0; i < 4; i++)
        set_run(&archive, i, 10 * i, 1);
    set_bytes(&archive, 482, "\x01", 1);
    for (unsigned i = 0; i < 21; i++)
        gnu_run(block, 24 * i, 100 + 10 * i, 1);
    block[504] = 1;
    add_bytes(&archive, block, 512);
    memset(block, 0, sizeof block);
    gnu_run(block, 0, 999, 1);
    add_bytes(&archive, block, 512);
    add_payload(&archive, "abcdefghijklmnopqrstuvwxyz", 26);
    add_header(&archive, "next", '0', 0);
    expect_entries(&archive, 2);
    check_runs(26, 1000, 1024 + 1536, 26);
    check_run(5, 110, 1, 1024 + 1536 + 5);
    CHECK_STR(result.seen[0].name, "long");
    CHECK_STR(result.seen[1].name, "next");
}

TEST(gnu_sparse_waits_with_the_name_of_its_header)
{
    struct maker archive = {0};
    uint8_t zeros[512] = {0};
    add_gnu_sparse(&archive, 0, 1000);
    set_octal(&archive, 108, 8, 33);
    set_bytes(&archive, 482, "1", 1);
    add_bytes(&archive, zeros, 512);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "sparse");
    CHECK_INT(result.seen[0].uid, 33);
    check_runs(0, 1000, 1024, 0);
}

TEST(gnu_sparse_end_within_blocks_is_refused)
{
    struct maker archive = {0};
    add_gnu_sparse(&archive, 0, 1000);
    set_bytes(&archive, 482, "\x01", 1);
    expect_refusal(&archive, -EBADMSG, 512, "within a header");
}

TEST(gnu_sparse_bad_run_in_a_further_block_is_refused)
{
    struct maker archive = {0};
    uint8_t block[513] = {0};
    add_gnu_sparse(&archive, 2, 1000);
    set_bytes(&archive, 482, "\x01", 1);
    gnu_run(block, 0, 0, 2);
    memcpy(block + 24, "bad", 3);
    add_bytes(&archive, block, 512);
    add_payload(&archive, "ab", 2);
    expect_refusal(&archive, -EBADMSG, 512 + 24, "pair of numbers");
}

TEST(gnu_sparse_refusals)
{
    struct maker archive = {0};
    add_gnu_sparse(&archive, 0, 1000);
    set_bytes(&archive, 257,
              "ustar\0"
              "00",
              8);
    expect_refusal(&archive, -EBADMSG, 0, "not GNU's");
    add_gnu_sparse(&archive, 0, 0);
    set_text(&archive, 483, "oops");
    expect_refusal(&archive, -EBADMSG, 483, "483 is not a number");
    add_gnu_sparse(&archive, 1, 1000);
    set_text(&archive, 386, "bad");
    expect_refusal(&archive, -EBADMSG, 386, "pair of numbers");
    add_gnu_sparse(&archive, 1, 1000);
    set_run(&archive, 0, 1, 1);
    set_text(&archive, 398, "9");
    expect_refusal(&archive, -EBADMSG, 386, "pair of numbers");
    add_record(&archive, 'x', "GNU.sparse.size", "10");
    add_gnu_sparse(&archive, 0, 1000);
    expect_refusal(&archive, -EBADMSG, 0, "described twice");
}

static void refuse_runs(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length,
                        uint64_t stored, const char *text)
{
    struct maker archive = {0};
    add_header(&archive, "before", '0', 0);
    add_gnu_sparse(&archive, stored, 1000);
    set_run(&archive, 0, a, a_length);
    set_run(&archive, 1, b, b_length);
    expect_refusal(&archive, -EBADMSG, 512, text);
}

TEST(maps_that_contradict_themselves_are_refused)
{
    refuse_runs(0, 10, 9, 10, 20, "sparse run 1 (10 bytes at 9) overlaps");
    refuse_runs(100, 10, 0, 10, 20, "sparse run 1 (10 bytes at 0) overlaps");
    refuse_runs(0, 10, 995, 10, 20, "lies beyond the size 1000");
    refuse_runs(0, 10, 1001, 0, 10, "lies beyond the size 1000");
    refuse_runs(0, 10, 5, 0, 10, "overlaps");
    refuse_runs(0, 10, 077777777777, 077777777777, 10, "lies beyond the size 1000");
    refuse_runs(0, 10, 20, 10, 19, "hold 20 bytes, 19 are stored");
    refuse_runs(0, 10, 20, 10, 21, "hold 20 bytes, 21 are stored");
}

TEST(runs_near_the_end_of_64_bits_are_refused)
{
    struct maker archive = {0};
    add_gnu_sparse(&archive, 0, 1000);
    set_bytes(&archive, 386, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    set_bytes(&archive, 398, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EBADMSG, 0, "lies beyond");
    add_gnu_sparse(&archive, 0, 1000);
    set_bytes(&archive, 386, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
    expect_refusal(&archive, -EBADMSG, 386, "pair of numbers");
}

TEST(too_many_runs_are_refused)
{
    struct maker archive = {0};
    add_gnu_sparse(&archive, 3, 1000);
    for (unsigned i = 0; i < 3; i++)
        set_run(&archive, i, i, 1);
    limits.max_extents = 2;
    expect_refusal(&archive, -E2BIG, 386 + 48, "more than 2 runs");
    add_record(&archive, 'x', "GNU.sparse.map", "0,1,1,1,2,1");
    limits.max_extents = 2;
    expect_refusal(&archive, -E2BIG, 512, "more than 2 runs");
}

TEST(pax_sparse_0_0)
{
    struct maker archive = {0}, records = {0};
    record(&records, "GNU.sparse.size", "1000");
    record(&records, "GNU.sparse.numblocks", "3");
    record(&records, "GNU.sparse.offset", "0");
    record(&records, "GNU.sparse.numbytes", "2");
    record(&records, "GNU.sparse.offset", "500");
    record(&records, "GNU.sparse.numbytes", "3");
    record(&records, "GNU.sparse.offset", "1000");
    record(&records, "GNU.sparse.numbytes", "0");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 5);
    add_payload(&archive, "abcde", 5);
    add_header(&archive, "next", '0', 0);
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, "a");
    check_runs(2, 1000, 1536, 5);
    check_run(1, 500, 3, 1538);
    CHECK(!result.seen[1].sparse);
}

TEST(pax_sparse_0_1_may_name_its_version)
{
    struct maker archive = {0}, records = {0};
    record(&records, "GNU.sparse.major", "0");
    record(&records, "GNU.sparse.minor", "1");
    record(&records, "GNU.sparse.size", "1000");
    record(&records, "GNU.sparse.map", "998,2");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 2);
    add_payload(&archive, "ab", 2);
    expect_entries(&archive, 1);
    check_runs(1, 1000, 1536, 2);
    check_run(0, 998, 2, 1536);
}

TEST(pax_sparse_0_1)
{
    struct maker archive = {0}, records = {0};
    record(&records, "path", "GNUSparseFile.1/a");
    record(&records, "GNU.sparse.name", "real");
    record(&records, "GNU.sparse.size", "1000");
    record(&records, "GNU.sparse.numblocks", "2");
    record(&records, "GNU.sparse.map", "0,2,500,3");
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", '0', 5);
    add_payload(&archive, "abcde", 5);
    expect_entries(&archive, 1);
    CHECK_STR(result.seen[0].name, "real");
    check_runs(2, 1000, 1536, 5);
    check_run(0, 0, 2, 1536);
    check_run(1, 500, 3, 1538);
}

static void add_sparse_1_0(struct maker *archive, const char *size, uint64_t stored)
{
    struct maker records = {0};
    record(&records, "GNU.sparse.major", "1");
    record(&records, "GNU.sparse.minor", "0");
    record(&records, "GNU.sparse.name", "real");
    record(&records, "GNU.sparse.realsize", size);
    record(&records, "SCHILY.xattr.user.a", "b");
    add_records(archive, 'x', &records);
    add_header(archive, "GNUSparseFile.1/a", '0', stored);
}

TEST(pax_sparse_1_0)
{
    struct maker archive = {0};
    add_sparse_1_0(&archive, "1000", 517);
    add_payload(&archive, "3\n0\n2\n500\n3\n1000\n0\n", 19);
    add_payload(&archive, "abcde", 5);
    add_header(&archive, "next", '0', 0);
    expect_entries(&archive, 2);
    CHECK_STR(result.seen[0].name, "real");
    CHECK_INT(result.seen[0].n_xattrs, 1);
    check_runs(2, 1000, 2048, 5);
    check_run(0, 0, 2, 2048);
    check_run(1, 500, 3, 2050);
    CHECK_STR(result.seen[1].name, "next");
}

TEST(pax_sparse_1_0_with_a_long_map)
{
    struct maker archive = {0}, map = {0};
    char line[40];
    add_bytes(&map, "100\n", 4);
    for (int i = 0; i < 100; i++) {
        snprintf(line, sizeof line, "%d\n%d\n", 1000 + 10 * i, 1);
        add_bytes(&map, line, strlen(line));
    }
    size_t blocks = (map.size + 511) / 512;
    CHECK_INT(blocks, 2);
    add_sparse_1_0(&archive, "5000", blocks * 512 + 100);
    add_payload(&archive, map.data, map.size);
    add_zeros(&archive, 512);
    expect_entries(&archive, 1);
    check_runs(100, 5000, 1536 + 1024, 100);
    check_run(7, 1070, 1, 1536 + 1024 + 7);
    maker_free(&map);
}

TEST(pax_sparse_1_0_of_holes_only)
{
    struct maker archive = {0};
    add_sparse_1_0(&archive, "1000", 512);
    add_payload(&archive, "0\n", 2);
    expect_entries(&archive, 1);
    check_runs(0, 1000, 2048, 0);
}

TEST(pax_sparse_1_0_maps_that_are_wrong)
{
    static const struct {
        const char *map, *text;
        uint64_t offset;
    } MAPS[] = {
        {"", "not a list", 1536},
        {"1\n0\n-2\n", "not a list", 1540},
        {"1\n\n2\n", "not a list", 1538},
        {"1 0 2", "not a list", 1537},
        {"1\n0\n2", "not a list", 1541},
        {"99999999999999999999\n", "not a list", 1555},
        {"1\n0\n600\n", "hold 600 bytes", 0},
        {"1\n900\n600\n", "lies beyond", 0},
        {"1\n18446744073709551615\n600\n", "lies beyond", 0},
    };
    for (size_t i = 0; i < sizeof MAPS / sizeof *MAPS; i++) {
        struct maker archive = {0};
        add_sparse_1_0(&archive, "1000", 513);
        add_payload(&archive, MAPS[i].map, strlen(MAPS[i].map));
        add_zeros(&archive, 1024);
        expect_refusal(&archive, -EBADMSG, MAPS[i].offset, MAPS[i].text);
    }
}

TEST(pax_sparse_1_0_map_beyond_its_file_or_limit)
{
    struct maker archive = {0};
    add_sparse_1_0(&archive, "1000", 511);
    add_payload(&archive, "0\n", 2);
    expect_refusal(&archive, -EBADMSG, 1536, "longer than its file");
    add_sparse_1_0(&archive, "1000", 512);
    add_payload(&archive, "1048577\n", 8);
    expect_refusal(&archive, -E2BIG, 1536 + 7, "more than 1048576 runs");
    add_sparse_1_0(&archive, "1000", 1024);
    expect_refusal(&archive, -EBADMSG, 1536, "within a header");
}

static void refuse_sparse_records(const char *const (*pairs)[2], size_t count, char type,
                                  uint64_t offset, const char *text)
{
    struct maker archive = {0}, records = {0};
    for (size_t i = 0; i < count; i++)
        record(&records, pairs[i][0], pairs[i][1]);
    add_records(&archive, 'x', &records);
    add_header(&archive, "a", type, 0);
    expect_refusal(&archive, -EBADMSG, offset, text);
}

#define REFUSE_SPARSE(type, offset, text, ...)                                          \
    do {                                                                                \
        static const char *const pairs[][2] = {__VA_ARGS__};                            \
        refuse_sparse_records(pairs, sizeof pairs / sizeof *pairs, type, offset, text); \
    } while (0)

TEST(pax_sparse_refusals)
{
    REFUSE_SPARSE('0', 0, "no size", {"GNU.sparse.map", "0,1"});
    REFUSE_SPARSE('0', 0, "no size", {"GNU.sparse.name", "a"});
    REFUSE_SPARSE('0', 0, "unknown version", {"GNU.sparse.major", "1"});
    REFUSE_SPARSE('0', 0, "unknown version", {"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "1"});
    REFUSE_SPARSE('0', 0, "unknown version", {"GNU.sparse.major", "2"}, {"GNU.sparse.minor", "0"});
    REFUSE_SPARSE('0', 0, "unknown version", {"GNU.sparse.minor", "1"});
    REFUSE_SPARSE('0', 0, "unknown version", {"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "2"});
    REFUSE_SPARSE('0', 0, "number of runs", {"GNU.sparse.size", "9"}, {"GNU.sparse.numblocks", "2"},
                  {"GNU.sparse.map", "0,1"});
    REFUSE_SPARSE('0', 0, "two maps", {"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"},
                  {"GNU.sparse.realsize", "9"}, {"GNU.sparse.map", "0,1"});
    REFUSE_SPARSE('5', 0, "not a file", {"GNU.sparse.size", "9"});
    REFUSE_SPARSE('2', 0, "not a file", {"GNU.sparse.size", "9"});
    REFUSE_SPARSE('0', 512, "bad value", {"GNU.sparse.map", "0"});
    REFUSE_SPARSE('0', 512, "bad value", {"GNU.sparse.map", "0,1,"});
    REFUSE_SPARSE('0', 512, "bad value", {"GNU.sparse.map", "0,1,2"});
    REFUSE_SPARSE('0', 512, "bad value", {"GNU.sparse.map", "0,-1"});
    REFUSE_SPARSE('0', 512, "bad value", {"GNU.sparse.map", "0;1"});
    REFUSE_SPARSE('0', 512, "bad value", {"GNU.sparse.numbytes", "1"});
    REFUSE_SPARSE('0', 512, "without a length", {"GNU.sparse.offset", "1"});
    REFUSE_SPARSE('0', 512 + 23, "bad value", {"GNU.sparse.offset", "1"},
                  {"GNU.sparse.offset", "1"});
    REFUSE_SPARSE('0', 512 + 22, "bad value", {"GNU.sparse.map", "0,1"}, {"GNU.sparse.map", "0,1"});
}

TEST(global_header_describes_no_sparse_file)
{
    struct maker archive = {0};
    add_record(&archive, 'g', "GNU.sparse.size", "5");
    expect_refusal(&archive, -EBADMSG, 512, "global header describes a sparse file");
}

/* ---- the caller ---- */

static int on_entry_stop(void *context, const struct um_tar_entry *entry, struct um_fault *fault)
{
    ++*(int *)context;
    return um_refuse(fault, -ECANCELED, entry->header, "enough");
}

TEST(callback_stops_the_parser)
{
    struct maker archive = {0};
    struct um_fault fault = {0};
    struct um_tar *tar;
    int calls = 0;
    add_header(&archive, "a", '0', 0);
    add_header(&archive, "b", '0', 0);
    seal(&archive);
    REQUIRE(um_tar_open(on_entry_stop, &calls, NULL, &tar) == 0);
    CHECK_INT(um_tar_feed(tar, archive.data, archive.size, &fault), -ECANCELED);
    CHECK_STR(fault.text, "enough");
    CHECK_INT(um_tar_feed(tar, archive.data, archive.size, &fault), -ECANCELED);
    CHECK_INT(um_tar_finish(tar, &fault), -ECANCELED);
    CHECK_INT(calls, 1);
    um_tar_close(tar);
    maker_free(&archive);
}

TEST(a_fault_is_not_needed)
{
    struct um_tar *tar;
    uint8_t junk[512];
    memset(junk, 'j', sizeof junk);
    REQUIRE(um_tar_open(on_entry, &result, NULL, &tar) == 0);
    CHECK_INT(um_tar_feed(tar, junk, sizeof junk, NULL), -EBADMSG);
    um_tar_close(tar);
}

TEST(messages_hide_control_bytes)
{
    struct maker archive = {0};
    add_record(&archive, 'x', "mtime", "\x1b[31m\n");
    add_header(&archive, "a", '0', 0);
    expect_refusal(&archive, -EBADMSG, 512, "'?[31m?'");
}
