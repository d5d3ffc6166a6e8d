/*
 * tar/header.h - one header block: its dialect, checksum, fields and name.
 *
 * Ownership: texts are borrowed from the block. Threads: pure.
 */
#ifndef UM_TAR_HEADER_H
#define UM_TAR_HEADER_H

#include "base/base.h"

enum um_tar_dialect { UM_TAR_V7, UM_TAR_USTAR, UM_TAR_GNU, UM_TAR_STAR };

struct um_tar_field {
    uint16_t offset, size;
};

static const struct um_tar_field F_MODE = {100, 8}, F_UID = {108, 8}, F_GID = {116, 8},
                                 F_SIZE = {124, 12}, F_MTIME = {136, 12}, F_LINK = {157, 100},
                                 F_MAJOR = {329, 8}, F_MINOR = {337, 8}, F_GNU_REALSIZE = {483, 12};

enum { AT_TYPE = 156, AT_SPARSE_MORE = 482, AT_BLOCK_MORE = 504, UM_TAR_LONGEST_NAME = 256 };

/* Sum all bytes; 0 means that all are zero. */
uint32_t um_tar_sum(const uint8_t *block);

/* Return whether the checksum in the block matches the sum of its bytes. */
bool um_tar_checksum_fits(const uint8_t *block, uint32_t sum);

enum um_tar_dialect um_tar_dialect_of(const uint8_t *block);

bool um_tar_parse_field(const uint8_t *block, struct um_tar_field field, int64_t *value);

/* Return the text up to its first NUL, or all of it. */
struct um_slice um_tar_text(const uint8_t *at, size_t size);
struct um_slice um_tar_field_text(const uint8_t *block, struct um_tar_field field);

/* Return the name with its prefix, borrowed from the block or, where the two had to be joined,
 * from `joined`, which has UM_TAR_LONGEST_NAME bytes. */
struct um_slice um_tar_header_name(const uint8_t *block, uint8_t *joined);

#endif
