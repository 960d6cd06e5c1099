/* Slices: parts of one length into which memory is divided, and which of them differ.
 *
 * An emulated GPU compares a promoted window with a copy of it. Both are read once, as
 * fast as memory is, and nothing of their size is made.
 */
#ifndef MUNINN_SLICES_H
#define MUNINN_SLICES_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Set flags[i] to 1 where slice i of `one` differs from that of `other`; the other flags
 * stay. Both have `bytes` bytes. A slice has `sliceBytes`, at least 1; the last one may
 * have fewer. A slice to which somebody writes meanwhile is either equal or not. */
MNN_API void mnnCompareSlices(
	const void *one, const void *other, uint64_t bytes, uint64_t sliceBytes, uint8_t *flags);

#ifdef __cplusplus
}
#endif
#endif
