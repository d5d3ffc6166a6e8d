#include <signal.h>

#include "router/state.h"

#include "system/open_beneath.h"

/* A program that was killed while it waits for an answer does not need it any more: what takes long ends
 * then, as it does on the kernel's own file systems. The kernel sends one INTERRUPT, for the first signal
 * of any kind. Most signals have a handler, and a program does not expect EINTR of a file; so from then
 * on it is asked whether the task has a SIGKILL pending, which is what every signal becomes that ends a
 * program. What pyfuse3 answers, and what ends soon, is answered as if no signal had come.
 *
 * The INTERRUPT may be read by another worker before the one that has the request says so. Each first
 * writes and then looks, so one of them finds the other. */

/* ---- the task that asked ------------------------------------------------------------------------ */

/* The set of signals in a line of /proc/PID/status. */
static unsigned long long signals_of(const char *status, const char *line)
{
    const char *found = strstr(status, line);
    return found ? strtoull(found + strlen(line), NULL, 16) : 0;
}

/* Whether a task is about to end. One that can't be seen, as it is in another PID namespace, is not. */
static bool is_killed(uint32_t task)
{
    const unsigned long long kill = 1ull << (SIGKILL - 1);
    char status[4096];
    int fd = task != 0 ? um_open_task_status(task) : -ENOENT;
    if (fd < 0)
        return false;
    ssize_t size = read(fd, status, sizeof status - 1);
    close(fd);
    status[size > 0 ? size : 0] = '\0';
    return ((signals_of(status, "\nSigPnd:") | signals_of(status, "\nShdPnd:")) & kill) != 0;
}

/* ---- requests that wait ----------------------------------------------------------------------------- */

static bool was_interrupted(struct um_router *router, uint64_t unique)
{
    for (unsigned i = 0; i < UM_INTERRUPTS; i++) {
        if (atomic_load(&router->interrupts[i]) == unique)
            return true;
    }
    return false;
}

static bool is_over(const void *context)
{
    const struct um_worker *worker = context;
    const struct fuse_in_header *header = worker->request;
    if (atomic_load(&worker->router->stopping))
        return true; /* the connection has gone, and its requests with it */
    return atomic_load(&worker->interrupted) && is_killed(header->pid);
}

struct um_answer um_worker_answer_patiently(struct um_worker *worker, size_t size)
{
    struct um_router *router = worker->router;
    const struct fuse_in_header *header = worker->request;
    const struct um_patience patience = {.is_over = is_over, .context = worker};
    atomic_store(&worker->interrupted, false);
    atomic_store(&worker->waiting, header->unique);
    if (was_interrupted(router, header->unique))
        atomic_store(&worker->interrupted, true);
    struct um_answer answer = um_fastpath_answer_patiently(router->fastpath, worker->request, size,
                                                           worker->reply, &patience);
    atomic_store(&worker->waiting, 0);
    return answer;
}

void um_router_interrupt(struct um_router *router, const void *message, size_t size)
{
    const struct fuse_in_header *header = message;
    const struct fuse_interrupt_in *in = (const void *)(header + 1);
    if (size < sizeof *header + sizeof *in || in->unique == 0)
        return;
    unsigned at = atomic_fetch_add(&router->n_interrupts, 1) % UM_INTERRUPTS;
    atomic_store(&router->interrupts[at], in->unique);
    pthread_mutex_lock(&router->lock);
    for (uint32_t i = 0; i < router->n_workers; i++) {
        /* It may go on with another request now, and then asks once more than it needs to. */
        if (atomic_load(&router->workers[i]->waiting) == in->unique)
            atomic_store(&router->workers[i]->interrupted, true);
    }
    pthread_mutex_unlock(&router->lock);
}
