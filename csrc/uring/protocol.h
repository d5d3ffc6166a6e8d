/*
 * uring/protocol.h - what the kernel and a FUSE server exchange over io_uring.
 *
 * Purpose: declare the structs and constants of FUSE over io_uring, which the headers of older
 * systems lack. They are copies from include/uapi/linux/fuse.h of Linux 6.14, where they are
 * called struct fuse_uring_ent_in_out, fuse_uring_req_header and fuse_uring_cmd_req, and enum
 * fuse_uring_cmd; Documentation/filesystems/fuse/fuse-io-uring.rst of Linux explains them.
 *
 * Ownership: nothing here owns anything.
 * Threads: these are declarations alone.
 */
#ifndef UM_URING_PROTOCOL_H
#define UM_URING_PROTOCOL_H

#include <stdint.h>

/* The flags of INIT above the first 32, in flags2: FUSE_OVER_IO_URING is bit 41. */
#define UM_FUSE_INIT_EXT (1u << 30)
#define UM_FUSE_OVER_IO_URING2 (1u << (41 - 32))

#define UM_RING_HEADER_ROOM 128u /* of struct fuse_in_header, or fuse_out_header */
#define UM_RING_ARGUMENT_ROOM 128u /* of the first struct of a request's body */

struct um_ring_sizes {
    uint64_t flags;
    uint64_t commit_id; /* names the request when its reply is committed */
    uint32_t payload; /* bytes of the rest of the request, or of the body of the reply */
    uint32_t padding;
    uint64_t reserved;
};

/* The first of the two buffers of an entry; the other one is the payload. */
struct um_ring_head {
    _Alignas(8) uint8_t header[UM_RING_HEADER_ROOM];
    _Alignas(8) uint8_t argument[UM_RING_ARGUMENT_ROOM];
    struct um_ring_sizes sizes;
};
_Static_assert(sizeof(struct um_ring_head) == 288, "as the kernel's");

/* The commands of a submission. */
enum um_ring_command {
    UM_RING_REGISTER = 1, /* offer a new entry for a request */
    UM_RING_COMMIT = 2, /* reply to the request in an entry, and offer the entry again */
};

/* The argument of a command, in the submission. */
struct um_ring_argument {
    uint64_t flags;
    uint64_t commit_id;
    uint16_t queue;
    uint8_t padding[6];
};
_Static_assert(sizeof(struct um_ring_argument) == 24, "as the kernel's");

#endif
