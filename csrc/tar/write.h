/*
 * tar/write.h - headers of tar members in the form that formats/tar_writer.py writes.
 *
 * Purpose: the headers of most members of an image, without a call into Python for each of them.
 * They have the same bytes as those of formats/tar_writer.py, which writes every member and says
 * which form this is: ustar, and pax records for what has no room in it. What is rare is left to
 * that module.
 *
 * Threads: any; there is no state.
 */
#ifndef UM_TAR_WRITE_H
#define UM_TAR_WRITE_H

#include "base/base.h"

#define UM_TAR_BLOCK_SIZE 512u

/* A regular file or a symlink. Its name is `directory`, which ends with a slash unless it is empty,
 * and then `name`. */
struct um_tar_member {
    struct um_slice directory, name;
    struct um_slice target; /* of a symlink */
    uint32_t mode;          /* type and permissions */
    uint32_t uid, gid;
    uint64_t size;
    int64_t mtime;
    uint32_t mtime_nsec;
};

/* Write the header of a member. Return its size, a multiple of 512; 0, and nothing is written, where
 * the member needs formats/tar_writer.py: another type of file, or a number that is too large; or
 * -ENOBUFS where the header does not fit into `room` bytes. */
int64_t um_tar_write_header(const struct um_tar_member *member, uint8_t *out, size_t room);

/* Return how many zeros fill the last block of `size` bytes. */
static inline size_t um_tar_padding(uint64_t size)
{
    return (size_t)(-size % UM_TAR_BLOCK_SIZE);
}

#endif
