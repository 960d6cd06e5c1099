/* Rows: what a broker asks of all buffer rows at once, where a loop in Python would
 * cost more than a takeover may.
 *
 * Reads only, and decides nothing. What is read of a row are its state word and its
 * description (`layout.h`); a description does not change while its row is in one of
 * the states that are looked for, so the answer is that of the moment for each row, and
 * no snapshot of all. Preconditions as in `primitives.h`: `rows` is the first of
 * `count` rows.
 */
#ifndef MUNINN_ROWS_H
#define MUNINN_ROWS_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The bytes of the rows that take memory (LIVE, PROBING, DYING), summed by mode, GPU
 * and tenant. Returns the number of sums. `sums` has `room` entries, a power of two,
 * which must be zero; of an entry in use the first word is the index + 1 of a row
 * whose mode, GPU and tenant the sum is for, the second the sum. -ENOSPC: there are
 * more than three quarters of `room`. `marks` has a byte for each row:
 * MNN_MARK_COUNTED and MNN_MARK_DEADLINE (its lifetime ends). A row whose
 * description is out of range is not counted. */
#define MNN_MARK_COUNTED 1
#define MNN_MARK_DEADLINE 2
MNN_API int mnnSumRows(
	const void *rows, uint32_t count, uint8_t *marks, uint64_t *sums, uint32_t room);
/* The first row that can be opened by its name (LIVE, PROBING) and has this one; -1:
 * none. */
MNN_API int64_t mnnFindName(const void *rows, uint32_t count, const char *name, uint32_t length);

#ifdef __cplusplus
}
#endif
#endif
