/*
 * Stacks of layers of strange shape. Input: a program of two-byte steps. A step adds an entry whose
 * path and target are made of a few short names, so that they meet often; or begins a new layer.
 * A layer that is built from entries is well-formed: no question about it may fail, and lookup and
 * list must agree.
 */
#include "exercise.h"

static const char *const paths[] = {
    "a",
    "b",
    "a/b",
    "a/b/c",
    "a/c",
    "b/a",
    "b/b/b",
    "c",
    ".wh.a",
    ".wh.b",
    "a/.wh.b",
    "a/.wh..wh..opq",
    "b/.wh.a",
    "b/.wh.c",
    ".wh..wh..opq",
    "a/b/.wh..wh..opq",
    "../a",
    "/b/../c",
    "./",
    "a/",
    ".wh..wh.plnk",
    ".wh.a/b",
    "d/e/f/g",
    "d/e",
    "d/.wh.e",
    "d",
    "e",
    "e/f",
    "a/b/c/d/e/f",
    ".wh.d",
    "c/.wh.nix",
    "c/c/c",
};
static const char types[] = "fdshcbpwhdfhs";

static bool end_layer(struct stack *stack, struct um_indexer **indexer)
{
    struct um_fault fault;
    int fd = make_memfd(0);
    int error = um_indexer_finish(*indexer, LAYER_BYTES, fd, &fault);
    um_indexer_close(*indexer);
    *indexer = NULL;
    if (error != 0)
        abort();
    if (stack_push(stack, fd, &fault) != 0 ||
        um_index_verify(stack->layers[stack->n - 1].index, &fault) != 0)
        abort(); /* what was just written is valid */
    return true;
}

static void run_step(struct um_indexer *indexer, uint8_t first, uint8_t second)
{
    struct um_fault fault;
    char type = types[first % (sizeof types - 1)];
    const char *path = paths[second % (sizeof paths / sizeof *paths)];
    const char *target =
        paths[(first / (sizeof types - 1) + second / 32 * 5) % (sizeof paths / sizeof *paths)];
    if (add_entry(indexer, type, path, target, type == 'f' ? second : 0, &fault) != 0)
        abort(); /* none of these is refused */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stack stack = {0};
    struct um_indexer *indexer = NULL;
    for (size_t at = 0; at + 2 <= size && at < 400; at += 2) {
        if (data[at] == 0xff && indexer != NULL) {
            end_layer(&stack, &indexer);
            if (stack.n == STACK_MAX)
                break;
            continue;
        }
        if (indexer == NULL && um_indexer_open(NULL, &indexer) != 0)
            abort();
        run_step(indexer, data[at], data[at + 1]);
    }
    if (indexer != NULL)
        end_layer(&stack, &indexer);
    if (stack_open(&stack) != 0)
        abort();
    exercise_tree(&stack, true);
    stack_close(&stack);
    return 0;
}
