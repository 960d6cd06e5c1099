/* Repeats: a copy from one GPU's memory to another's that was made before, made again in
 * one call. Python takes ten times as long for its part of such a copy as the copy of
 * some KiB does.
 *
 * 1. The two open buffers are looked at: their leases, their rows, and a time until
 *    which nothing is to be renewed. The accesses of both are entered, if that can be
 *    done at once. If any of this is not so, nothing has happened, and the caller takes
 *    the long way, which waits, renews, and raises.
 * 2. The driver gets the copy, and this thread waits for it. Meanwhile other threads run:
 *    the two accesses are begun by then, and the caller keeps what this struct points to.
 * 3. What has failed goes to Python (`fail`), which raises. From then on the two accesses
 *    are like those of a stream: whatever happens, they last until nothing is under way
 *    (`end` and `linger` of `owners.h`). They are not entered again: two threads may
 *    linger for one of them, and the second would end the access of a later copy.
 * 4. The accesses are left. The words of shared memory that change, and their order, are
 *    those of `owners.h`: nothing else is written.
 *
 * The process may die anywhere between: the same words say the same as after a death in
 * the accesses of the long way.
 */
#ifndef MUNINN_REPEAT_H
#define MUNINN_REPEAT_H

#include "owners.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The driver's functions for copies between two GPUs, and the stream for them. Results
 * are the driver's: 0, or a code. */
struct mnnLane {
	int (*push)(void *context);
	int (*pop)(void **context);
	int (*exchangeCaptureMode)(int *mode);
	int (*copy)(uint64_t target, void *targetContext, uint64_t source, void *sourceContext,
		size_t sizeBytes, void *stream);
	int (*synchronize)(void *stream);
	void *sourceContext, *targetContext, *stream;
};

/* An open buffer as it was found. It can be used as long as the lease word is the same,
 * its row is of the owner's incarnation, and the time is not over. */
struct mnnStanding {
	const uint64_t *lease, *fences; /* the fence words of the row */
	uint64_t leaseWord;
	int64_t untilNs;
	struct mnnHolds holds;
};

struct mnnRepeat {
	const struct mnnLane *lane;
	struct mnnAccessScope *sending, *receiving; /* a read access, and a write access */
	struct mnnStanding from, to;
	uint64_t source, target, sizeBytes;
	void *fail; /* (the driver's code): raises */
	uint64_t isSpent; /* a copy has failed */
};

/* The generation that was published; None if nothing was done; NULL with an exception. */
MNN_API void *mnnRepeatCopy(struct mnnRepeat *repeat);

#ifdef __cplusplus
}
#endif
#endif
