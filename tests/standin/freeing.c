/* Freeing: memory that the driver frees behind the work of its context, and the threads
 * that have to wait meanwhile.
 *
 * A thread that waits in such a call has the driver's lock. Until the work is done, no
 * other thread of the process can launch, copy, record or allocate. Waits, queries and
 * writes of words go on. So a stream that waits for the host blocks the host, if a
 * thread frees memory meanwhile.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <string.h>

/* An H200 lets these calls wait; seen of those without a comment. */
static const char *const locked[] = {
	"cuEventRecord",
	"cuMemAlloc_v2",
	"cuMemcpyHtoDAsync_v2",
	"cuMemFree_v2" /* assumed, like all that follow */,
	"cuMemFreeHost",
	"cuMemHostUnregister",
	"cuIpcCloseMemHandle",
	"cuIpcOpenMemHandle_v2",
	"cuMemHostAlloc",
	"cuMemHostRegister_v2",
	"cuMemcpyDtoHAsync_v2",
	"cuMemcpyDtoDAsync_v2",
	"cuMemcpyAsync",
	"cuMemcpyPeerAsync",
	"cuMemcpyBatchAsync",
	"cuMemcpyBatchAsync_v2",
	"cuMemcpyHtoD_v2",
	"cuMemcpyDtoH_v2",
	"cuMemcpyDtoD_v2",
	"cuMemcpy",
	"cuMemcpyPeer",
	"cuMemsetD8Async",
	"cuMemsetD16Async",
	"cuMemsetD32Async",
	"cuMemsetD8_v2",
	"cuMemsetD16_v2",
	"cuMemsetD32_v2",
	"cuLaunchKernel",
	"cuLaunchKernelEx",
	"cuLaunchCooperativeKernel",
	"cuLaunchHostFunc",
};

enum { SLICE_MS = 50 };
/* The number of threads that free, and the number of frees that have ended: a futex */
static uint32_t freeing, over;

CUresult freeingIdle(Context *context)
{
	__atomic_fetch_add(&freeing, 1, __ATOMIC_SEQ_CST);
	CUresult result = streamIdle(context);
	__atomic_fetch_sub(&freeing, 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&over, 1, __ATOMIC_SEQ_CST);
	futexWake(&over);
	return result;
}

void freeingAwait(const char *name)
{
	if (!__atomic_load_n(&freeing, __ATOMIC_SEQ_CST) || streamIsWorker())
		return;
	for (size_t i = 0; i < sizeof locked / sizeof *locked; i++) {
		if (strcmp(name, locked[i]))
			continue;
		for (uint32_t seen; seen = __atomic_load_n(&over, __ATOMIC_SEQ_CST),
							__atomic_load_n(&freeing, __ATOMIC_SEQ_CST);)
			futexWait(&over, seen, SLICE_MS);
	}
}
