/*
 * system/directory_stream.h - the entries of a directory, read one by one.
 *
 * Purpose: readdir(3) without its traps: the end and an error look the same unless errno is cleared first,
 * "." and ".." are among the entries, and fdopendir(3) keeps the descriptor only where it succeeds.
 * Ownership: a stream owns its descriptor; the caller closes it with closedir(3).
 * Threads: a stream is for one thread at a time.
 */
#ifndef UM_DIRECTORY_STREAM_H
#define UM_DIRECTORY_STREAM_H

#include <dirent.h>

#include "base/base.h"

/* Make a stream of a descriptor that was opened for reading, and take the descriptor over: an
 * error closes it. 0 or an errno. */
int um_directory_stream(int fd, DIR **stream);

/* Read the next entry that is neither "." nor "..": 1 with *entry, which is valid until the next
 * call; 0 at the end; or an errno. */
int um_directory_next(DIR *stream, struct dirent **entry);

#endif
