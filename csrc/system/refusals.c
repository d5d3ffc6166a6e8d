#include "system/refusals.h"

#include <limits.h>
#include <time.h>
#include <unistd.h>

#include "system/open_beneath.h"

#define SECONDS 5
#define MOST_LINES 10u
#define SHOWN 1024u /* of a path */

/* Count a line, and return how many were counted before it in the current period. */
static unsigned count(struct um_refusals *refusals)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    long long since = atomic_load(&refusals->since);
    if (now.tv_sec - since >= SECONDS &&
        atomic_compare_exchange_strong(&refusals->since, &since, now.tv_sec))
        atomic_store(&refusals->lines, 0);
    return atomic_fetch_add(&refusals->lines, 1);
}

/* Escape a text so that it can be printed on one line. The result is NUL-terminated, and cut off
 * where it is long. */
static void escape(struct um_slice text, char shown[SHOWN])
{
    size_t used = 0;
    for (size_t i = 0; i < text.size && used + 8 < SHOWN; i++) {
        bool plain = text.data[i] > ' ' && text.data[i] < 127 && text.data[i] != '\\';
        used +=
            (size_t)snprintf(shown + used, SHOWN - used, plain ? "%c" : "\\x%02x", text.data[i]);
    }
    shown[used] = '\0';
}

static void name_directory(int fd, char shown[SHOWN])
{
    char path[PATH_MAX];
    escape(um_slice_of(path, um_fd_name(fd, path, sizeof path)), shown);
}

void um_refusal_tell(struct um_refusals *refusals, const char *kind, int fd, struct um_slice path)
{
    char directory[SHOWN], name[SHOWN];
    unsigned before = count(refusals);
    if (before > MOST_LINES)
        return;
    if (before == MOST_LINES) {
        dprintf(STDERR_FILENO, "unionmount: further lines about such marks are omitted for %d s\n",
                SECONDS);
        return;
    }
    name_directory(fd, directory);
    escape(path, name);
    dprintf(
        STDERR_FILENO,
        "unionmount: %s directory %s: %s: a redirect or metacopy mark is not followed, as somebody "
        "else may have set it; its content can't be read (docs/explanation/layers.md, "
        "\"Whose marks count\")\n",
        kind, directory, name);
}
