#include "fastpath/passthrough.h"

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/table.h"

/* As in include/uapi/linux/fuse.h of Linux 6.9. */
struct backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

/* What an open was given, in its `fh`. */
enum kind {
    NO_KIND, /* opened before anything was counted */
    CACHED, /* the kernel caches pages, and sends READ and WRITE */
    PASSED, /* the kernel reads and writes the backing file */
    UNCACHED, /* READ and WRITE are sent, and nothing is cached: fits both of the others */
};

struct inode {
    uint64_t node; /* the key */
    uint32_t opens; /* of `mode`; those that are UNCACHED do not count */
    enum kind mode; /* while there are opens */
    int32_t backing_id; /* of PASSED */
    struct um_open_file *file; /* of PASSED, in use */
    bool changing; /* it was passed through for writing, and may be mapped since */
};

/* A backing file that was registered. */
struct backing {
    int32_t id; /* 0: none */
    struct um_open_file *file;
};

struct um_passthrough {
    struct um_upper *upper;
    struct um_open_files *files;
    int device;
    uint32_t capacity;
    pthread_mutex_t lock;
    struct um_table inodes; /* under lock, as below; of struct inode */
    uint32_t n_passed;
};

static int register_file(const struct um_passthrough *passthrough, int fd)
{
    struct backing_map map = {.fd = fd};
    int id = ioctl(passthrough->device, BACKING_OPEN, &map);
    return id < 0 ? -errno : id;
}

static void unregister(const struct um_passthrough *passthrough, int32_t id)
{
    uint32_t number = (uint32_t)id;
    ioctl(passthrough->device, BACKING_CLOSE, &number); /* fails only where the connection ended */
}

static void let_go(struct um_passthrough *passthrough, const struct backing *backing)
{
    if (backing->id == 0)
        return;
    unregister(passthrough, backing->id);
    um_open_files_done(passthrough->files, backing->file);
}

/* Return whether a file may be passed through: it is in the upper with its data. The kernel would
 * write as the daemon, which keeps set-user-ID bits, so files that have any are not. */
static bool is_fit(const struct um_passthrough *passthrough, uint64_t node)
{
    struct um_attr attr;
    return um_upper_has_data(passthrough->upper, node) &&
           um_upper_getattr(passthrough->upper, node, &attr) == 0 && S_ISREG(attr.mode) &&
           !(attr.mode & (S_ISUID | S_ISGID));
}

/* Register the file of an inode. Every failure means that it is not passed through. */
static void prepare(struct um_passthrough *passthrough, uint64_t node, struct backing *backing)
{
    struct um_open_file *file;
    int fd;
    if (!is_fit(passthrough, node) || um_open_files_use(passthrough->files, node, true, &file) != 0)
        return;
    if (um_upper_backing(passthrough->upper, node, &fd) == 0) {
        int id = register_file(passthrough, fd);
        close(fd);
        if (id > 0) {
            *backing = (struct backing){.id = id, .file = file};
            return;
        }
    }
    um_open_files_done(passthrough->files, file);
}

/* Return whether the next open would decide on the mode of an inode, and there is room. */
static bool is_open_to_passing(struct um_passthrough *passthrough, uint64_t node)
{
    pthread_mutex_lock(&passthrough->lock);
    const struct inode *inode = um_table_find(&passthrough->inodes, sizeof *inode, node);
    bool result =
        (inode == NULL || inode->opens == 0) && passthrough->n_passed < passthrough->capacity;
    pthread_mutex_unlock(&passthrough->lock);
    return result;
}

/* Decide how an inode is opened, under the lock. Its mode stays until its last open ends. A file
 * that may be mapped through the disk is never cached: the cache would not see the mapping's
 * changes. */
static enum kind choose(struct um_passthrough *passthrough, struct inode *inode,
                        struct backing *fresh)
{
    if (inode->opens != 0)
        return inode->mode;
    if (fresh->id == 0)
        return inode->changing ? UNCACHED : CACHED;
    inode->backing_id = fresh->id;
    inode->file = fresh->file;
    *fresh = (struct backing){0};
    passthrough->n_passed++;
    return PASSED;
}

static struct inode *find_or_add(struct um_passthrough *passthrough, uint64_t node)
{
    struct inode *inode = um_table_find(&passthrough->inodes, sizeof *inode, node);
    if (inode == NULL && um_table_reserve(&passthrough->inodes, sizeof *inode, 1) == 0)
        inode = um_table_add(&passthrough->inodes, sizeof *inode, node);
    return inode;
}

int um_passthrough_begin(struct um_passthrough *passthrough, uint64_t node, bool write,
                         struct fuse_open_out *out)
{
    struct backing fresh = {0};
    int result = -ENOMEM;
    if (is_open_to_passing(passthrough, node))
        prepare(passthrough, node, &fresh);
    pthread_mutex_lock(&passthrough->lock);
    struct inode *inode = find_or_add(passthrough, node);
    if (inode != NULL) {
        enum kind kind = choose(passthrough, inode, &fresh);
        if (kind != UNCACHED) {
            inode->mode = kind;
            inode->opens++;
        }
        result = kind == PASSED && write && !inode->changing;
        inode->changing |= result;
        out->fh = kind;
        /* The kernel refuses FOPEN_KEEP_CACHE with passthrough (FOPEN_PASSTHROUGH_MASK). */
        out->open_flags = kind == PASSED   ? UM_FOPEN_PASSTHROUGH
                          : kind == CACHED ? FOPEN_KEEP_CACHE
                                           : FOPEN_DIRECT_IO;
        /* This is backing_id in Linux 6.9. */
        out->padding = kind == PASSED ? (uint32_t)inode->backing_id : 0;
    }
    pthread_mutex_unlock(&passthrough->lock);
    let_go(passthrough, &fresh); /* another thread was faster */
    return result;
}

void um_passthrough_end(struct um_passthrough *passthrough, uint64_t node, uint64_t fh)
{
    struct backing last = {0};
    if (fh != CACHED && fh != PASSED)
        return;
    pthread_mutex_lock(&passthrough->lock);
    struct inode *inode = um_table_find(&passthrough->inodes, sizeof *inode, node);
    if (inode != NULL && inode->opens != 0 && --inode->opens == 0) {
        if (inode->mode == PASSED) {
            last = (struct backing){.id = inode->backing_id, .file = inode->file};
            passthrough->n_passed--;
        }
        if (!inode->changing)
            um_table_remove(&passthrough->inodes, sizeof *inode, inode);
    }
    pthread_mutex_unlock(&passthrough->lock);
    let_go(passthrough, &last);
}

void um_passthrough_forget(struct um_passthrough *passthrough, uint64_t node)
{
    if (passthrough == NULL)
        return;
    pthread_mutex_lock(&passthrough->lock);
    struct inode *inode = um_table_find(&passthrough->inodes, sizeof *inode, node);
    if (inode != NULL && inode->opens == 0)
        um_table_remove(&passthrough->inodes, sizeof *inode, inode);
    pthread_mutex_unlock(&passthrough->lock);
}

bool um_passthrough_is_changing(struct um_passthrough *passthrough, uint64_t node)
{
    if (passthrough == NULL)
        return false;
    pthread_mutex_lock(&passthrough->lock);
    const struct inode *inode = um_table_find(&passthrough->inodes, sizeof *inode, node);
    bool changing = inode != NULL && inode->changing;
    pthread_mutex_unlock(&passthrough->lock);
    return changing;
}

int um_passthrough_try(struct um_passthrough *passthrough, int fd)
{
    int id = register_file(passthrough, fd);
    if (id > 0)
        unregister(passthrough, id);
    return id > 0 ? 0 : id;
}

int um_passthrough_open(struct um_upper *upper, struct um_open_files *files, int device,
                        uint32_t capacity, struct um_passthrough **out)
{
    struct um_passthrough *passthrough = calloc(1, sizeof *passthrough);
    if (passthrough == NULL)
        return -ENOMEM;
    passthrough->upper = upper;
    passthrough->files = files;
    passthrough->device = device;
    passthrough->capacity = capacity;
    pthread_mutex_init(&passthrough->lock, NULL);
    *out = passthrough;
    return 0;
}

void um_passthrough_close(struct um_passthrough *passthrough)
{
    if (passthrough == NULL)
        return;
    for (struct inode *inode = NULL;
         (inode = um_table_next(&passthrough->inodes, sizeof *inode, inode)) != NULL;) {
        if (inode->opens != 0 && inode->mode == PASSED)
            um_open_files_done(passthrough->files, inode->file);
    }
    um_table_clear(&passthrough->inodes, sizeof(struct inode));
    pthread_mutex_destroy(&passthrough->lock);
    free(passthrough);
}
