/*
 * layers.h - small layers made from lines of text, for the tests and fuzzers of index and tree.
 *
 * Ownership: a struct stack owns what it made until stack_close.
 * Threads: one at a time.
 */
#ifndef UM_TEST_LAYERS_H
#define UM_TEST_LAYERS_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "index/builder.h"
#include "tree/tree.h"

#define STACK_MAX 8
#define LAYER_BYTES (1u << 20) /* of payload that every layer pretends to have */

struct stack {
    struct um_tree_layer layers[STACK_MAX];
    int index_fds[STACK_MAX];
    size_t n;
    struct um_tree *tree;
};

static inline int make_memfd(size_t size)
{
    int fd = memfd_create("layer", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        abort();
    return fd;
}

static inline struct um_slice text_slice(const char *text)
{
    return um_slice_of(text, strlen(text));
}

/* One entry: a type letter (f d s h c b p), a name, and after " -> " a target. A file holds `size`
 * bytes at offset 0 of its layer; devices are 1:3, and 0:0 for 'w'. */
static inline int add_entry(struct um_indexer *indexer, char type, const char *name,
                            const char *link, uint64_t size, struct um_fault *fault)
{
    static const char letters[] = "fdshcbp";
    struct um_tar_entry entry = {.name = text_slice(name),
                                 .link = text_slice(link),
                                 .mode = 0644,
                                 .size = size,
                                 .stored_size = size,
                                 .major = type == 'w' ? 0 : 1,
                                 .minor = type == 'w' ? 0 : 3};
    const char *letter = strchr(letters, type == 'w' ? 'c' : type);
    entry.type = letter ? (enum um_tar_type)(letter - letters) : UM_TAR_FILE;
    return um_indexer_add(indexer, &entry, fault);
}

static inline int add_line(struct um_indexer *indexer, const char *line, struct um_fault *fault)
{
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", line + 2);
    char *arrow = strstr(copy, " -> ");
    if (arrow != NULL)
        *arrow = '\0';
    return add_entry(indexer, line[0], copy, arrow ? arrow + 4 : "", line[0] == 'f' ? 3 : 0, fault);
}

/* Build an index of `lines` (ended by NULL): "f a/b", "s link -> target", "h name -> target". */
static inline int index_lines(const char *const *lines, int fd, struct um_fault *fault)
{
    struct um_indexer *indexer;
    int error = um_indexer_open(NULL, &indexer);
    for (; error == 0 && *lines != NULL; lines++)
        error = add_line(indexer, *lines, fault);
    if (error == 0)
        error = um_indexer_finish(indexer, LAYER_BYTES, fd, fault);
    um_indexer_close(indexer);
    return error;
}

/* Put the index in `fd` on top of the stack; takes the descriptor over. */
static inline int stack_push(struct stack *stack, int fd, struct um_fault *fault)
{
    struct um_tree_layer *layer = &stack->layers[stack->n];
    int error = um_index_open(fd, &layer->index, fault);
    if (error != 0) {
        close(fd);
        return error;
    }
    layer->fd = make_memfd(LAYER_BYTES);
    layer->offset = 0;
    layer->length = LAYER_BYTES;
    stack->index_fds[stack->n++] = fd;
    return 0;
}

static inline int stack_add(struct stack *stack, const char *const *lines)
{
    struct um_fault fault = {0};
    int fd = make_memfd(0);
    int error = index_lines(lines, fd, &fault);
    if (error != 0) {
        close(fd);
        return error;
    }
    return stack_push(stack, fd, &fault);
}

/* Put a live directory on top of the stack; takes the descriptor over. */
static inline void stack_add_directory(struct stack *stack, int fd)
{
    /* As a daemon that may read trusted. ones, and one that may not, together. */
    stack->layers[stack->n] = (struct um_tree_layer){
        .fd = fd, .believes = UM_BELIEVE_TRUSTED | UM_BELIEVE_OWN | UM_BELIEVE_STAT};
    stack->index_fds[stack->n++] = -1;
}

static inline int stack_open(struct stack *stack)
{
    return um_tree_open(stack->layers, stack->n, &stack->tree);
}

static inline void stack_close(struct stack *stack)
{
    um_tree_close(stack->tree);
    for (size_t i = 0; i < stack->n; i++) {
        if (stack->layers[i].index != NULL)
            um_index_close(stack->layers[i].index);
        close(stack->layers[i].fd);
        if (stack->index_fds[i] >= 0)
            close(stack->index_fds[i]);
    }
    *stack = (struct stack){0};
}

/* The attributes of a path of names divided by slashes; "" is the root. */
static inline int stack_stat(struct stack *stack, const char *path, struct um_attr *attr)
{
    int error = um_tree_getattr(stack->tree, UM_ROOT_NODE, attr);
    while (error == 0 && *path != '\0') {
        size_t size = strcspn(path, "/");
        error = um_tree_lookup(stack->tree, attr->node, path, size, attr);
        path += size + (path[size] == '/');
    }
    return error;
}

#endif
