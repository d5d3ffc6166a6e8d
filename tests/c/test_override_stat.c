#include <sys/stat.h>

#include "harness.h"
#include "marks/override_stat.h"

static int parse(const char *text, struct um_override *override)
{
    return um_override_parse(um_slice_of(text, strlen(text)), override);
}

TEST(what_other_tools_write_is_read)
{
    struct um_override o;
    CHECK_INT(parse("0:42:0644", &o), 0);
    CHECK_INT(o.uid, 0);
    CHECK_INT(o.gid, 42);
    CHECK_INT(o.mode, 0644);
    CHECK_INT(o.type, 0);
    CHECK_INT(parse("1000:1000:104755", &o), 0); /* fuse-overlayfs: with the type's bits */
    CHECK_INT(o.mode, 04755);
    CHECK_INT(parse("1:2:0755:dir", &o), 0);
    CHECK_INT(o.type, S_IFDIR);
    CHECK_INT(parse("1:2:0600:block-8-16", &o), 0);
    CHECK_INT(o.type, S_IFBLK);
    CHECK_INT(o.major, 8);
    CHECK_INT(o.minor, 16);
    CHECK_INT(parse("4294967294:4294967294:7777:char-4294967295-4294967295", &o), 0);
    CHECK_INT(o.uid, 4294967294);
    CHECK_INT(o.minor, 4294967295);
    CHECK_INT(parse("5:-1:100755", &o), 0); /* fuse-overlayfs before 1.14, after chgrp */
    CHECK_INT(o.uid, 5);
    CHECK_INT(o.gid, UM_OVERRIDE_NOBODY);
}

TEST(a_malformed_text_is_refused)
{
    static const char *const wrong[] = {
        "",
        "0",
        "0:0",
        "0:0:",
        ":0:644",
        "0::644",
        "0:0:648",
        "-2:0:644",
        "-1-:0:644",
        "+1:0:644",
        " 1:0:644",
        "1:0:644 ",
        "1:0:644\n",
        "0x1:0:644",
        "4294967295:0:644",
        "0:4294967296:644",
        "0:0:200000",
        "0:0:644:",
        "0:0:644:dir:",
        "0:0:644:dirs",
        "0:0:644:file-1-2",
        "0:0:6:block",
        "0:0:6:char-1",
        "0:0:6:char-1-",
        "0:0:6:char--1",
        "0:0:6:char-1-2-3",
        "99999999999999999999999:0:644",
        "0:0:6:char-4294967296-0",
    };
    struct um_override o = {.uid = 7};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (parse(wrong[i], &o) != -EINVAL)
            UM_TEST_FAIL("taken: %s", wrong[i]);
    }
    CHECK_INT(um_override_parse(um_slice_of("0:0:644\0", 8), &o), -EINVAL);
    CHECK_INT(um_override_parse(um_slice_of(NULL, 0), &o), -EINVAL);
    CHECK_INT(o.uid, 7);
}

TEST(what_is_written_is_read_again)
{
    static const char *const texts[] = {
        "0:0:0000",
        "1:2:0644:file",
        "3:4:1777:dir",
        "5:6:0777:symlink",
        "7:8:0600:pipe",
        "9:10:0600:socket",
        "0:0:0660:block-8-0",
        "0:0:0666:char-1-3",
        "4294967294:4294967294:7777:block-4294967295-4294967295",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct um_override o;
        char text[UM_OVERRIDE_TEXT];
        CHECK_INT(parse(texts[i], &o), 0);
        CHECK_INT(um_override_format(&o, text), strlen(texts[i]));
        CHECK_STR(text, texts[i]);
    }
}

TEST(only_a_regular_file_stands_for_something_else)
{
    struct um_override o = {.mode = 0640, .type = S_IFCHR};
    CHECK_INT(um_override_mode(&o, S_IFREG | 0600), S_IFCHR | 0640);
    CHECK_INT(um_override_mode(&o, S_IFDIR | 0700), S_IFDIR | 0640);
    o.type = S_IFDIR;
    CHECK_INT(um_override_mode(&o, S_IFREG | 0600), S_IFREG | 0640);
    o.type = 0;
    CHECK_INT(um_override_mode(&o, S_IFLNK | 0777), S_IFLNK | 0640);
}
