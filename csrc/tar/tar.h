/*
 * tar/tar.h - a parser that turns a tar stream into entries.
 *
 * Purpose: understand every dialect of tar that image layers are written in: old V7, ustar
 * (POSIX.1-1988), pax local and global headers (POSIX.1-2001), GNU long names and links ('L',
 * 'K'), GNU base-256 numbers, GNU sparse ('S'), pax sparse 0.0, 0.1 and 1.0, SCHILY.xattr and
 * LIBARCHIVE.xattr. The parser knows nothing of layers: it reports names as the archive spells
 * them, and whiteouts are ordinary names. Sources: POSIX.1-2017 pax(1) "pax Interchange Format"
 * and "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files";
 * star(5).
 *
 * Ownership: the parser owns its buffers; all slices of an entry are borrowed and valid during the
 * callback only.
 * Threads: one parser is used by one thread at a time; there is no shared state.
 *
 * Memory is bounded by struct um_tar_limits, whatever numbers the archive contains. A header that
 * announces 8 EiB of extended header is refused before anything is allocated for it, and one of
 * more than 65,536 xattrs when it is read. With the defaults a parser holds at most 80 MiB. Global
 * headers may leave at most 1 KiB and 16 xattrs, because these accompany every entry.
 *
 * Refused are: a malformed checksum, number or pax record; a NUL in a path of a pax record; an
 * owner or device number beyond 32 bits; a device in a V7 header; a sparse map that contradicts
 * itself, its size or the stored bytes; parts of multi-volume archives ('M') and GNU's obsolete
 * 'N'. Where readers of tar disagree, tar/parser.c says what this one does and why.
 */
#ifndef UM_TAR_H
#define UM_TAR_H

#include "tar/entry.h"

/* These limits bound what an archive may request. A field of zero means its default. */
struct um_tar_limits {
    uint64_t max_extended; /* bytes of one extended header or GNU long name; default 16 MiB: the
                            * sum of xattrs may be some MiB. Beyond: -EFBIG */
    uint64_t max_extents;  /* runs of one sparse file; default 1,048,576. Beyond: -E2BIG */
};

/* The parser calls this for every entry, in archive order, before its payload. A non-zero result
 * (a negative errno) stops the parser, and um_tar_feed returns it. */
typedef int (*um_tar_entry_fn)(void *context, const struct um_tar_entry *entry,
                               struct um_fault *fault);

struct um_tar; /* opaque */

/* Make a new parser. `limits` may be NULL. 0 or -ENOMEM. The caller owns *out. */
int um_tar_open(um_tar_entry_fn on_entry, void *context, const struct um_tar_limits *limits,
                struct um_tar **out);

/* Feed the next `size` bytes of the stream; splitting it differently gives the same entries. 0;
 * -EBADMSG damaged; -E2BIG/-EFBIG over a limit; -ENOMEM; or the result of the callback. After an
 * error only um_tar_close may be called. */
int um_tar_feed(struct um_tar *tar, const void *data, size_t size, struct um_fault *fault);

/* Return how many of the next bytes are payload or padding that need not be fed: a reader of a
 * seekable file jumps over them. UINT64_MAX after the end-of-archive marker, as the rest is
 * ignored. */
uint64_t um_tar_skippable(const struct um_tar *tar);

/* Account for `size` bytes that were jumped over; size <= um_tar_skippable(tar). */
void um_tar_skip(struct um_tar *tar, uint64_t size);

/* Return the number of bytes consumed so far, fed and skipped. */
uint64_t um_tar_position(const struct um_tar *tar);

/* Check that the stream may end here. 0 at the end-of-archive marker (two zero blocks) or, where
 * that is missing or halved, at the end of an entry, whose padding may be missing, too. -EBADMSG
 * within a header or a payload, or between an extended header and its entry. */
int um_tar_finish(struct um_tar *tar, struct um_fault *fault);

/* Free the parser, which may be NULL. */
void um_tar_close(struct um_tar *tar);

#endif
