#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "router/queues.h"

/* Block all signals in the new thread: they are for Python's main thread. */
int um_router_start_thread(pthread_t *thread, void *(*work)(void *), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, work, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

static int clone_device(const struct um_router *router, int *device)
{
    uint32_t original = (uint32_t)router->device;
    *device = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (*device >= 0 && ioctl(*device, FUSE_DEV_IOC_CLONE, &original) == 0)
        return 0;
    if (*device >= 0)
        close(*device);
    *device = fcntl(router->device, F_DUPFD_CLOEXEC, 3);
    return um_result(*device);
}

void um_worker_free(struct um_worker *worker)
{
    if (worker->device >= 0)
        close(worker->device);
    free(worker->request);
    free(worker->reply);
    free(worker);
}

static int make_worker(struct um_router *router, struct um_worker **out)
{
    struct um_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return -ENOMEM;
    worker->router = router;
    worker->device = -1;
    worker->request = malloc(UM_FUSE_BUFFER);
    worker->reply = malloc(UM_FUSE_BUFFER);
    int error = worker->request && worker->reply ? clone_device(router, &worker->device) : -ENOMEM;
    if (error != 0) {
        um_worker_free(worker);
        return error;
    }
    *out = worker;
    return 0;
}

int um_router_add_worker(struct um_router *router)
{
    struct um_worker *worker;
    int error = make_worker(router, &worker);
    if (error != 0)
        return error;
    pthread_mutex_lock(&router->lock);
    if (router->n_workers == UM_ROUTER_MAX_THREADS || atomic_load(&router->stopping)) {
        error = -EAGAIN;
    } else {
        atomic_fetch_add(&router->active, 1);
        error = um_router_start_thread(&worker->thread, router->work, worker);
        if (error == 0)
            router->workers[router->n_workers++] = worker;
        else
            atomic_fetch_sub(&router->active, 1);
    }
    pthread_mutex_unlock(&router->lock);
    if (error != 0)
        um_worker_free(worker);
    return error;
}

void um_worker_call(struct um_router *router)
{
    pthread_mutex_lock(&router->lock);
    bool woken = router->n_parked > router->n_wanted;
    if (woken) {
        atomic_fetch_add(&router->active, 1);
        router->n_wanted++;
        pthread_cond_signal(&router->parked);
    }
    pthread_mutex_unlock(&router->lock);
    if (!woken)
        um_router_add_worker(router); /* where that fails, requests wait */
}

/* Count one active worker less, unless it is the last one. */
static bool leave(struct um_router *router)
{
    unsigned active = atomic_load(&router->active);
    while (active > 1) {
        if (atomic_compare_exchange_weak(&router->active, &active, active - 1))
            return true;
    }
    return false;
}

/* Park, as another worker looks for requests. */
void um_worker_park(struct um_router *router)
{
    pthread_mutex_lock(&router->lock);
    if (!atomic_load(&router->stopping) && leave(router)) {
        router->n_parked++;
        while (router->n_wanted == 0 && !atomic_load(&router->stopping))
            pthread_cond_wait(&router->parked, &router->lock);
        router->n_wanted -= router->n_wanted != 0;
        router->n_parked--;
    }
    pthread_mutex_unlock(&router->lock);
}

void um_router_end(struct um_router *router)
{
    uint64_t one = 1;
    pthread_mutex_lock(&router->lock);
    atomic_store(&router->stopping, true);
    pthread_cond_broadcast(&router->parked);
    pthread_mutex_unlock(&router->lock);
    um_queues_wake(router);
    if (write(router->wake, &one, sizeof one) < 0)
        return; /* it is readable already */
}
