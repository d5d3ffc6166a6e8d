/*
 * system/capability.h - the names of the xattrs that keep the capability of a file.
 *
 * Purpose: an upper that other users can reach must not hold capabilities that the kernel would
 * honour. The bytes are kept in a mark instead (upper/capability.c), and shown under the first
 * name, in that upper and where it is a lower layer.
 * Threads: no state.
 */
#ifndef UM_CAPABILITY_H
#define UM_CAPABILITY_H

#define UM_CAPABILITY "security.capability"
#define UM_CAPABILITY_MARK "unionmount.capability" /* behind a prefix of marks: */
#define UM_CAPABILITY_TRUSTED "trusted.overlay." UM_CAPABILITY_MARK
#define UM_CAPABILITY_USER "user.overlay." UM_CAPABILITY_MARK

#endif
