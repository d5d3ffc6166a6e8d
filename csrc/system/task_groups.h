/*
 * system/task_groups.h - the supplementary groups of a program that asks for something.
 *
 * Purpose: a request of FUSE names one group of its task; the others are in /proc/PID/status.
 * Ownership: nothing. Threads: no state. It reads /proc, which waits for no disk.
 */
#ifndef UM_TASK_GROUPS_H
#define UM_TASK_GROUPS_H

#include "base/base.h"

/* Whether a group is among the supplementary groups of a task. False where the task can't be seen: it has ended,
 * or is in another PID namespace. */
bool um_task_is_in_group(uint32_t task, uint32_t gid);

#endif
