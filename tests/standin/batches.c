/* Batches: many copies in one call. All of them are checked before the first is
 * submitted, and each becomes a piece of work of the stream.
 *
 * A copy has the attributes of the last entry that begins at it or before it. They say
 * when its source may be read: in stream order, within the call, or whenever the driver
 * likes. Hints are read and ignored. A batch leaves nothing behind in this process but
 * its work.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <stdint.h>

typedef struct {
	int order;
	CUmemLocation sourceHint, targetHint;
	unsigned flags;
} CUmemcpyAttributes;
_Static_assert(sizeof(CUmemcpyAttributes) == 24, "as in cuda.h");

enum { IN_STREAM_ORDER = 1, DURING_THE_CALL = 2, AT_ANY_TIME = 3, OVERLAP_WITH_KERNELS = 1 };

typedef struct {
	const CUdeviceptr *targets, *sources;
	const size_t *sizes;
	size_t count;
	const CUmemcpyAttributes *attributes;
	const size_t *firsts; /* the copy from which on the attributes hold */
	size_t attributeCount;
	Stream *stream;
} Batch;

static CUresult checkAttributes(const Batch *batch)
{
	if (!batch->attributes || !batch->firsts || !batch->attributeCount ||
		batch->attributeCount > batch->count || batch->firsts[0])
		return INVALID_VALUE;
	for (size_t i = 0; i < batch->attributeCount; i++) {
		const CUmemcpyAttributes *each = &batch->attributes[i];
		if (each->order < IN_STREAM_ORDER || each->order > AT_ANY_TIME ||
			each->flags & ~(unsigned)OVERLAP_WITH_KERNELS || batch->firsts[i] >= batch->count ||
			(i && batch->firsts[i] <= batch->firsts[i - 1]))
			return INVALID_VALUE;
	}
	return OK;
}

static Timing timingOf(int order)
{
	return order == DURING_THE_CALL ? IN_CALL : order == AT_ANY_TIME ? ANY_TIME : QUEUED;
}

/* `*failed` becomes the index of the copy that was refused, or SIZE_MAX if the error is
 * not about one copy. */
static CUresult submitBatch(const Batch *batch, size_t *failed)
{
	*failed = SIZE_MAX;
	if (!batch->targets || !batch->sources || !batch->sizes || (uintptr_t)batch->stream <= 1)
		return INVALID_VALUE;
	CHECK(checkAttributes(batch));
	for (size_t i = 0; i < batch->count; i++) {
		CUresult result = batch->sizes[i]
			? copyCheck(batch->targets[i], batch->sources[i], batch->sizes[i], batch->stream, false)
			: INVALID_VALUE;
		if (result) {
			*failed = i;
			return result;
		}
	}
	for (size_t i = 0, entry = 0; i < batch->count; i++) {
		if (entry + 1 < batch->attributeCount && batch->firsts[entry + 1] == i)
			entry++;
		CHECK(copySubmit(batch->targets[i], batch->sources[i], batch->sizes[i], batch->stream,
			timingOf(batch->attributes[entry].order)));
	}
	return OK;
}

/* The signature of CUDA 12.8, with the index of the copy that failed. */
API CUresult cuMemcpyBatchAsync(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes,
	size_t count, CUmemcpyAttributes *attributes, size_t *firsts, size_t attributeCount,
	size_t *failed, Stream *stream)
{
	CONTEXT_CALL("count=%zu, stream=%p", count, (void *)stream);
	size_t unasked;
	Batch batch = {targets, sources, sizes, count, attributes, firsts, attributeCount, stream};
	return submitBatch(&batch, failed ? failed : &unasked);
}

API CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes,
	size_t count, CUmemcpyAttributes *attributes, size_t *firsts, size_t attributeCount,
	Stream *stream)
{
	CONTEXT_CALL("count=%zu, stream=%p", count, (void *)stream);
	size_t unasked;
	Batch batch = {targets, sources, sizes, count, attributes, firsts, attributeCount, stream};
	return submitBatch(&batch, &unasked);
}
