/* Reserve: allocate the pages of a range of shared memory, and copy bytes into it, on
 * several processors at once.
 *
 * The call starts helper threads and joins them before it returns. So no thread touches
 * the memory afterwards, and a signal handler that interrupts the caller then may unmap
 * it. The helpers run no Python, take no signals, and also start while the interpreter
 * shuts down.
 */
#ifndef MUNINN_RESERVE_H
#define MUNINN_RESERVE_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of this process, and the offset in the memory to which they are copied. */
struct mnnExtent {
	uint64_t offset;
	const void *source;
	uint64_t bytes;
};

/* Allocate the pages of `memory` from the offset `begin`, which is the beginning of a
 * page, to the offset `end`, and copy what of the `count` extents goes there. The extents
 * are in the order of their offsets, and do not overlap. At most `threads` threads do
 * it, the caller's own included. `huge`: ask for huge pages even if the mount does not
 * offer them. Returns 0, or -errno of the first page that the kernel does not give.
 * After an error, the pages that were allocated stay, and an unknown part of the bytes
 * has been copied. */
MNN_API int mnnReserve(void *memory, uint64_t begin, uint64_t end, const struct mnnExtent *extents,
	uint64_t count, uint32_t threads, int huge);

#ifdef __cplusplus
}
#endif
#endif
