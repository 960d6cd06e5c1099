/* Reserve: allocate the pages of a range of shared memory, and copy its first bytes, on
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

/* Allocate the pages of `bytes` bytes from `target`, which is the beginning of a page,
 * and copy `sourceBytes` (at most `bytes`) from `source` to `target`. At most `threads`
 * threads do it, the caller's own included. `huge`: ask for huge pages even if the
 * mount does not offer them. Returns 0, or -errno of the first page that the kernel
 * does not give. After an error, the pages that were allocated stay, and an unknown
 * part of the bytes has been copied. */
MNN_API int mnnReserve(void *target, uint64_t bytes, const void *source, uint64_t sourceBytes,
	uint32_t threads, int huge);

#ifdef __cplusplus
}
#endif
#endif
