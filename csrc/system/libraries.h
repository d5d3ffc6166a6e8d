/*
 * system/libraries.h - shared libraries that are loaded before they are needed.
 *
 * Purpose: a module that is loaded late, from a descriptor, needs libraries which the dynamic linker would
 * look for by path. Loaded before, they are found by their names, whatever stands at their paths by then.
 *
 * Source: dlopen(3), dlinfo(3).
 * Ownership: a library stays loaded until the process ends.
 * Threads: no state; the dynamic linker has locks of its own.
 */
#ifndef UM_LIBRARIES_H
#define UM_LIBRARIES_H

#include "base/base.h"

/* cffi: begin */
/* Load what the shared object at `path` needs, but not the object: it is mapped for a moment, and none of
 * its functions is called but for its constructors. -ENOEXEC: it can't be loaded. */
int um_libraries_keep(const char *path);
/* cffi: end */

#endif
