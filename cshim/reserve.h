/* Reserve: give a range of shared memory its pages and its bytes, by several processors
 * at once.
 *
 * The threads that help are begun and ended within the call, so nothing touches the
 * memory once it has returned: whatever interrupts the caller then may unmap it. They
 * run no Python, take no signals, and need no interpreter that still starts threads.
 */
#ifndef MUNINN_RESERVE_H
#define MUNINN_RESERVE_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Allocate the pages of `bytes` bytes from `target`, a page's beginning, and copy
 * `sourceBytes` (at most `bytes`) from `source` to the beginning of it, by at most
 * `threads` threads, the caller's own among them. `huge`: ask for huge pages where
 * the mount does not offer them. 0, or -errno of the first page that can not be had;
 * what was allocated stays so, and what of the bytes was copied is not said. */
MNN_API int mnnReserve(void *target, uint64_t bytes, const void *source, uint64_t sourceBytes,
	uint32_t threads, int huge);

#ifdef __cplusplus
}
#endif
#endif
