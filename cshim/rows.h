/* Rows: questions of a broker about all buffer rows at once. A loop in Python would
 * take longer than a whole takeover may.
 *
 * The functions only read, and decide nothing. They read the state word and the
 * description of a row (`layout.h`). A description does not change while its row is in
 * one of the states that count here. So the answer is right for each row at the moment
 * at which the row is read, and is no snapshot of all rows. Preconditions as in
 * `primitives.h`: `rows` is the first of `count` rows.
 */
#ifndef MUNINN_ROWS_H
#define MUNINN_ROWS_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sum the bytes of the rows that take memory (LIVE, PROBING, DYING, REPLACED) by mode,
 * GPU and tenant, and those of promoted windows apart. Returns the number of sums. `sums` is a hash
 * table of `room` entries, a power of two, which must be zero. An entry in use has two words: the
 * index + 1 of a row with the mode, GPU and tenant of this sum, and the sum. -ENOSPC: more than
 * three quarters of `room` would be in use. `marks` has a byte for each row: MNN_MARK_COUNTED, and
 * MNN_MARK_DEADLINE if the row has a deadline. A row whose description is out of range is not
 * counted. */
#define MNN_MARK_COUNTED 1
#define MNN_MARK_DEADLINE 2
MNN_API int mnnSumRows(
	const void *rows, uint32_t count, uint8_t *marks, uint64_t *sums, uint32_t room);
/* The index of the first row that has this name and can be opened by it (LIVE,
 * PROBING); -1: there is none. */
MNN_API int64_t mnnFindName(const void *rows, uint32_t count, const char *name, uint32_t length);

#ifdef __cplusplus
}
#endif
#endif
