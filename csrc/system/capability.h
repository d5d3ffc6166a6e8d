/*
 * system/capability.h - the names under which the capability of a file is kept.
 *
 * Purpose: a file of an upper that others can reach has none that the kernel knows: a mark has its bytes
 * (upper/capability.c). It is shown under the first name, in that upper and where it is a lower layer.
 * Threads: no state.
 */
#ifndef UM_CAPABILITY_H
#define UM_CAPABILITY_H

#define UM_CAPABILITY "security.capability"
#define UM_CAPABILITY_MARK "unionmount.capability" /* behind a prefix of marks: */
#define UM_CAPABILITY_TRUSTED "trusted.overlay." UM_CAPABILITY_MARK
#define UM_CAPABILITY_USER "user.overlay." UM_CAPABILITY_MARK

#endif
