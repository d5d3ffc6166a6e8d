/*
 * An index that changes under its reader: records, strings and the end of the file, after each block was
 * verified. One that only we can write to is mapped; any other is copied.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "exercise.h"
#include "harness.h"
#include "index/format.h"

#define OURS 0600
#define SOMEBODYS 0666
#define ROUNDS 200
#define THREADS 4

static const char *const LINES[] = {
    "d a",      "f a/b",       "s a/c -> target",  "h a/d -> a/b", "h e -> gone",      "f .wh.x",
    "d a/deep", "d a/deep/er", "f a/deep/er/file", "c null",       "f a/.wh..wh..opq", NULL};

/* A sparse file, and one with attributes. */
static int add_special(struct um_indexer *indexer, struct um_fault *fault)
{
    static const struct um_tar_extent extents[] = {{0, 10, 0}, {100, 10, 512}, {4096, 1, 1024}};
    static char value[5000]; /* of two blocks */
    struct um_tar_xattr xattrs[] = {
        {.name = text_slice("user.a"), .value = text_slice("1")},
        {.name = text_slice("user.b"), .value = um_slice_of(value, sizeof value)},
    };
    struct um_tar_entry sparse = {.name = text_slice("sparse"),
                                  .mode = 0644,
                                  .size = 5000,
                                  .stored_size = 21,
                                  .sparse = true,
                                  .extents = extents,
                                  .n_extents = 3};
    struct um_tar_entry marked = {
        .name = text_slice("xattrs"), .mode = 0644, .xattrs = xattrs, .n_xattrs = 2};
    int error = um_indexer_add(indexer, &sparse, fault);
    return error ? error : um_indexer_add(indexer, &marked, fault);
}

static int make_index(mode_t mode)
{
    struct um_indexer *indexer;
    struct um_fault fault = {0};
    int fd = make_memfd(0), error = um_indexer_open(NULL, &indexer);
    for (const char *const *line = LINES; error == 0 && *line != NULL; line++)
        error = add_line(indexer, *line, &fault);
    if (error == 0)
        error = add_special(indexer, &fault);
    if (error == 0)
        error = um_indexer_finish(indexer, LAYER_BYTES, fd, &fault);
    um_indexer_close(indexer);
    if (error != 0 || fchmod(fd, mode) != 0)
        abort();
    return fd;
}

/* A tree of one layer, everything in it seen once; with the descriptor of its index. */
static int open_stack(struct stack *stack, mode_t mode)
{
    struct um_fault fault;
    *stack = (struct stack){0};
    int fd = make_index(mode);
    if (stack_push(stack, fd, &fault) != 0 || stack_open(stack) != 0)
        abort();
    exercise_tree(stack, false);
    return fd;
}

/* Everything at once: what the tree cached of the index before, and what a new tree makes of it. */
static void exercise_all(struct stack *stack)
{
    struct um_tree *tree = stack->tree;
    exercise_tree(stack, false);
    if (um_tree_open(stack->layers, stack->n, &stack->tree) == 0) {
        exercise_tree(stack, false);
        um_tree_close(stack->tree);
    }
    stack->tree = tree;
}

static void put(int fd, off_t at, const void *bytes, size_t size)
{
    if (pwrite(fd, bytes, size, at) != (ssize_t)size)
        abort();
}

/* Let `size` bytes of the file be others while everything is looked up, then be again what they were. */
static void change(struct stack *stack, int fd, off_t at, const void *bytes, size_t size)
{
    uint8_t before[8];
    if (pread(fd, before, size, at) != (ssize_t)size)
        abort();
    put(fd, at, bytes, size);
    exercise_all(stack);
    put(fd, at, before, size);
}

static void change_record(struct stack *stack, int fd, off_t at, size_t size)
{
    static const uint8_t all[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t most[4] = {0xf0, 0xff, 0xff, 0x7f};
    static const uint8_t few[4] = {0x01, 0, 0, 0};
    static const uint8_t zero[8] = {0};
    for (size_t field = 0; field + 2 <= size; field += 2)
        change(stack, fd, at + (off_t)field, all, 2);
    for (size_t field = 0; field + 4 <= size; field += 4) {
        change(stack, fd, at + (off_t)field, all, 4);
        change(stack, fd, at + (off_t)field, most, 4);
        change(stack, fd, at + (off_t)field, few, 4);
        change(stack, fd, at + (off_t)field, zero, 4);
    }
    for (size_t field = 0; field + 8 <= size; field += 8)
        change(stack, fd, at + (off_t)field, all, 8);
}

static struct um_index_disk_header header_of(int fd)
{
    struct um_index_disk_header header;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
        abort();
    return header;
}

TEST(every_field_of_a_mapped_index_may_change_after_it_was_verified)
{
    struct stack stack;
    int fd = open_stack(&stack, OURS);
    struct um_index_disk_header header = header_of(fd);
    for (int which = 0; which < UM_SECTION_STRINGS; which++) {
        size_t size = um_index_record_size((enum um_index_section)which);
        uint64_t n = um_load64(header.sections[which].count);
        CHECK(n != 0);
        for (uint64_t i = 0; i < n; i++)
            change_record(&stack, fd, (off_t)(um_load64(header.sections[which].offset) + i * size),
                          size);
    }
    exercise_tree(&stack, true); /* all is as it was */
    stack_close(&stack);
}

static int64_t mtime_of_root(struct stack *stack)
{
    struct um_inode inode;
    int error = um_index_inode(stack->layers[0].index, 0, &inode);
    return error ? error : inode.mtime;
}

static void set_mtime_of_root(int fd, uint64_t mtime)
{
    uint8_t bytes[8];
    um_store64(bytes, mtime);
    put(fd, UM_INDEX_BLOCK + (off_t)offsetof(struct um_index_disk_inode, mtime), bytes,
        sizeof bytes);
}

/* Who else can write to a file decides; so a change shows in ours only. */
TEST(an_index_that_others_can_change_is_copied)
{
    static const mode_t modes[] = {0600, 0644, 0660, 0606, 0620, 0602};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct stack stack;
        int fd = open_stack(&stack, modes[i]);
        set_mtime_of_root(fd, 7);
        CHECK_INT(mtime_of_root(&stack), (modes[i] & 022) == 0 ? 7 : 0);
        stack_close(&stack);
    }
    if (geteuid() != 0)
        return; /* nobody else gives files away */
    struct stack stack = {0};
    struct um_fault fault;
    int fd = make_index(OURS);
    REQUIRE(fchown(fd, 65534, 65534) == 0);
    CHECK_INT(stack_push(&stack, fd, &fault), 0);
    CHECK_INT(mtime_of_root(&stack), 0);
    set_mtime_of_root(fd, 7);
    CHECK_INT(mtime_of_root(&stack), 0);
    stack_close(&stack);
}

TEST(what_was_copied_stays_when_the_file_is_overwritten_and_truncated)
{
    struct stack stack;
    int fd = open_stack(&stack, SOMEBODYS);
    uint8_t garbage[UM_INDEX_BLOCK];
    off_t size = lseek(fd, 0, SEEK_END);
    memset(garbage, 0xff, sizeof garbage);
    exercise_tree(&stack, true);
    for (off_t at = 0; at < size; at += (off_t)sizeof garbage)
        put(fd, at, garbage, sizeof garbage);
    exercise_tree(&stack, true);
    REQUIRE(ftruncate(fd, 0) == 0);
    exercise_tree(&stack, true);
    struct um_fault fault;
    CHECK_INT(um_index_verify(stack.layers[0].index, &fault), -EBADMSG); /* it looks at the file */
    exercise_tree(&stack, true);
    stack_close(&stack);
}

TEST(what_was_not_copied_yet_is_an_error_until_it_is_there_again)
{
    struct um_index *index;
    struct um_inode inode;
    struct um_dirent dirent;
    struct um_fault fault;
    int fd = make_index(SOMEBODYS);
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *whole = malloc((size_t)size);
    REQUIRE(whole != NULL && pread(fd, whole, (size_t)size, 0) == (ssize_t)size);
    CHECK_INT(um_index_open(fd, &index, &fault), 0);
    CHECK_INT(um_index_inode(index, 0, &inode), 0);
    REQUIRE(ftruncate(fd, 0) == 0);
    CHECK_INT(um_index_inode(index, 0, &inode), 0);
    CHECK_INT(um_index_dirent(index, inode.first, &dirent), -EBADMSG);
    REQUIRE(ftruncate(fd, size) == 0); /* zeros: their checksum is wrong */
    CHECK_INT(um_index_dirent(index, inode.first, &dirent), -EBADMSG);
    put(fd, 0, whole, (size_t)size);
    CHECK_INT(um_index_dirent(index, inode.first, &dirent), 0);
    free(whole);
    um_index_close(index);
    close(fd);
}

TEST(an_index_of_others_that_is_too_large_is_refused)
{
    struct um_index *index;
    struct um_fault fault = {0};
    int fd = make_index(SOMEBODYS);
    REQUIRE(ftruncate(fd, (off_t)UM_INDEX_COPY_MAX + 1) == 0);
    CHECK_INT(um_index_open(fd, &index, &fault), -EFBIG);
    CHECK_CONTAINS(fault.text, "that others can change");
    REQUIRE(fchmod(fd, OURS) == 0);
    CHECK_INT(um_index_open(fd, &index, &fault), -EBADMSG); /* the header knows its size */
    REQUIRE(ftruncate(fd, (off_t)UM_INDEX_MAX + 1) == 0);
    CHECK_INT(um_index_open(fd, &index, &fault), -EFBIG);
    close(fd);
}

struct flips {
    int fd;
    off_t size;
    atomic_bool stop;
};

/* The owner of the file: overwrites it, cuts it off, and puts it back, again and again. */
static void *flip(void *context)
{
    struct flips *flips = context;
    uint8_t *whole = malloc((size_t)flips->size), *garbage = malloc((size_t)flips->size);
    if (whole == NULL || garbage == NULL ||
        pread(flips->fd, whole, (size_t)flips->size, 0) != (ssize_t)flips->size)
        abort();
    memset(garbage, 0x81, (size_t)flips->size);
    while (!atomic_load(&flips->stop)) {
        put(flips->fd, 0, garbage, (size_t)flips->size);
        if (ftruncate(flips->fd, 0) != 0)
            abort();
        put(flips->fd, 0, whole, (size_t)flips->size);
    }
    free(whole);
    free(garbage);
    return NULL;
}

static void *look(void *context)
{
    struct stack stack = *(struct stack *)context;
    if (um_tree_open(stack.layers, stack.n, &stack.tree) == 0) {
        exercise_tree(&stack, false);
        um_tree_close(stack.tree);
    }
    return NULL;
}

TEST(many_look_up_while_the_owner_changes_the_file)
{
    for (int round = 0; round < ROUNDS; round++) {
        struct stack stack = {0};
        struct um_fault fault;
        pthread_t threads[THREADS], owner;
        int fd = make_index(SOMEBODYS);
        struct flips flips = {.fd = fd, .size = lseek(fd, 0, SEEK_END)};
        REQUIRE(stack_push(&stack, fd, &fault) == 0);
        REQUIRE(pthread_create(&owner, NULL, flip, &flips) == 0);
        for (int i = 0; i < THREADS; i++)
            REQUIRE(pthread_create(&threads[i], NULL, look, &stack) == 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        atomic_store(&flips.stop, true);
        pthread_join(owner, NULL);
        stack_close(&stack);
    }
}
