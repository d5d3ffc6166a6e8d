#include "system/task_groups.h"

#include <stdio.h>

#include "system/open_beneath.h"

/* Whether a number is among those of a line, which are separated by blanks. */
static bool has_number(const char *line, uint32_t wanted)
{
    for (;;) {
        char *end;
        unsigned long number = strtoul(line, &end, 10);
        if (end == line)
            return false;
        if (number == wanted)
            return true;
        line = end;
    }
}

/* The line is longer than a buffer may be: a task can have 65,536 groups. */
static bool read_groups(FILE *status, uint32_t gid)
{
    static const char groups[] = "Groups:";
    um_autofree char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, status) > 0) {
        if (strncmp(line, groups, sizeof groups - 1) == 0)
            return has_number(line + sizeof groups - 1, gid);
    }
    return false;
}

bool um_task_is_in_group(uint32_t task, uint32_t gid)
{
    int fd = task != 0 ? um_open_task_status(task) : -ENOENT;
    if (fd < 0)
        return false;
    FILE *status = fdopen(fd, "r");
    if (status == NULL) {
        close(fd);
        return false;
    }
    bool found = read_groups(status, gid);
    fclose(status);
    return found;
}
