#include <signal.h>

#include "router/queues.h"

#include "system/open_beneath.h"

/* A killed program does not need the result that it waits for, so long operations end then, as
 * they do in the kernel's own file systems. The kernel sends one INTERRUPT, for the first signal
 * of any kind. But most signals have a handler, and programs do not expect EINTR from a file. So
 * from then on the router checks whether the task has a SIGKILL pending, which every fatal signal
 * becomes. Requests that pyfuse3 answers, and short ones, are answered as if no signal had come.
 *
 * Another worker may read the INTERRUPT before the worker with the request has said so. Each of
 * the two first writes and then reads, so one of them finds the other. */

/* ---- the task that asked ------------------------------------------------------------------------ */

/* Parse the set of signals in a line of /proc/PID/status. */
static unsigned long long signals_of(const char *status, const char *line)
{
    const char *found = strstr(status, line);
    return found ? strtoull(found + strlen(line), NULL, 16) : 0;
}

/* Return whether a task is about to end. One in another PID namespace, which cannot be seen, is
 * not. */
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
        return true; /* the connection is gone, and its requests with it */
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

/* Tell a worker that a request was interrupted. It may have another request by now, and then checks
 * once more than necessary. */
static void tell(struct um_worker *worker, uint64_t unique)
{
    if (atomic_load(&worker->waiting) == unique)
        atomic_store(&worker->interrupted, true);
}

static void tell_hands(struct um_queues *queues, uint64_t unique)
{
    pthread_mutex_lock(&queues->lock);
    for (uint32_t i = 0; i < queues->n_hands; i++)
        tell(queues->hands[i], unique);
    pthread_mutex_unlock(&queues->lock);
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
    for (uint32_t i = 0; i < router->n_workers; i++)
        tell(router->workers[i], in->unique);
    pthread_mutex_unlock(&router->lock);
    if (router->queues != NULL)
        tell_hands(router->queues, in->unique);
}
