#include <sys/stat.h>

#include "harness.h"
#include "layers.h"
#include "tar/write.h"
#include "tree/members.h"

/* Members in rooms of every size, each on the heap by itself, so that ASAN sees a byte too many.
 * tests/core/test_members.py compares the bytes. */

#define LINES(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }
#define ROOM_MAX 16384u

/* Add the files of the root to rooms of one size until nothing more fits: the bytes in all. */
static size_t add_all(struct um_tree *tree, size_t room, uint64_t *cookie)
{
    struct um_members *members = NULL;
    size_t total = 0, used;
    *cookie = 0;
    if (um_members_open(tree, &members) != 0)
        return 0;
    do {
        void *buffer = malloc(room ? room : 1);
        used = 0;
        int state = um_members_add(members, UM_ROOT_NODE, "p/", 2, cookie, buffer, room, &used);
        free(buffer);
        total += used;
        if (state != UM_MEMBERS_FULL)
            break;
    } while (used != 0);
    um_members_close(members);
    return total;
}

TEST(rooms_of_every_size)
{
    struct stack stack = {0};
    REQUIRE(stack_add(&stack, LINES("f a", "f b", "s c -> target", "f d", "d e", "f f")) == 0);
    REQUIRE(stack_open(&stack) == 0);
    const size_t wanted = 3 * 1024 + 512;
    for (size_t room = 0; room < wanted + 600; room++) {
        uint64_t cookie;
        size_t total = add_all(stack.tree, room, &cookie);
        CHECK_INT(total, room < 1024 ? 0 : wanted);
        CHECK_INT(cookie, room < 1024 ? 0 : 4);
    }
    stack_close(&stack);
}

TEST(a_layer_that_became_shorter)
{
    struct stack stack = {0};
    uint64_t cookie;
    REQUIRE(stack_add(&stack, LINES("s a -> b", "f b", "f c")) == 0);
    REQUIRE(stack_open(&stack) == 0);
    REQUIRE(ftruncate(stack.layers[0].fd, 2) == 0);
    CHECK_INT(add_all(stack.tree, ROOM_MAX, &cookie), 512);
    CHECK_INT(cookie, 1);
    stack_close(&stack);
}

TEST(headers_stay_in_their_room)
{
    char text[600];
    memset(text, 'n', sizeof text);
    const size_t sizes[] = {0, 1, 99, 100, 101, 255, 600};
    const int64_t times[] = {0, -1, 1, INT64_MAX, INT64_MIN, 077777777777, 0100000000000};
    for (size_t i = 0; i < 7 * 7 * 7 * 2; i++) {
        const struct um_tar_member member = {
            .directory = um_slice_of(text, sizes[i % 7]),
            .name = um_slice_of(text, 1 + sizes[i / 7 % 7] % 255),
            .target = um_slice_of(text, sizes[i / 49 % 7]),
            .mode = S_IFLNK | 0777,
            .mtime = times[(i / 7 + i) % 7],
            .mtime_nsec = i / 343 ? 999999999 : 0,
        };
        uint8_t *large = malloc(ROOM_MAX);
        int64_t size = um_tar_write_header(&member, large, ROOM_MAX);
        CHECK(size >= 512 && size % 512 == 0);
        uint8_t *exact = malloc((size_t)size);
        CHECK_INT(um_tar_write_header(&member, exact, (size_t)size - 1), -ENOBUFS);
        CHECK_INT(um_tar_write_header(&member, exact, (size_t)size), size);
        CHECK(memcmp(large, exact, (size_t)size) == 0);
        free(large);
        free(exact);
    }
}

TEST(a_layer_that_does_not_exist_is_not_read_ahead)
{
    struct stack stack = {0};
    struct um_members *members = NULL;
    REQUIRE(stack_add(&stack, LINES("f a")) == 0);
    REQUIRE(stack_open(&stack) == 0);
    REQUIRE(um_members_open(stack.tree, &members) == 0);
    um_members_read_ahead(members, 1, 0);
    um_members_read_ahead(members, 0, UINT64_MAX);
    um_members_read_ahead(members, 0, 0);
    um_members_close(members);
    stack_close(&stack);
}
