/* Captures: streams whose work is recorded for a graph instead of being done.
 *
 * The recorded work is not kept: a program can destroy a graph made here, and nothing
 * else. But the prohibitions of a capture are enforced. No thread may synchronize its
 * context. While a capture of mode GLOBAL is under way, or one that the thread began, a
 * thread of the default mode may make no call that might wait. A forbidden call is
 * refused, and breaks the capture, even if another thread began it. Captures belong to
 * the process.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MODE_GLOBAL, MODE_THREAD_LOCAL, MODE_RELAXED, MAX_CAPTURES = 64 };

typedef struct {
	struct Stream *stream;
	Context *context;
	long thread;
	int mode;
	bool broken;
} Capture;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Capture captures[MAX_CAPTURES];
static _Atomic int underway;
static _Thread_local int mode = MODE_GLOBAL;

/* Calls that might wait, or allocate. An H200 refused those without a comment. */
static const char *const unsafe[] = {
	"cuMemAlloc_v2",
	"cuMemFree_v2",
	"cuMemHostAlloc",
	"cuMemFreeHost",
	"cuMemHostUnregister",
	"cuEventSynchronize",
	"cuEventQuery",
	"cuStreamSynchronize",
	"cuStreamQuery",
	"cuMemAllocHost_v2" /* assumed */,
	"cuMemHostRegister_v2",
	"cuIpcCloseMemHandle" /* assumed */,
};

static Capture *find(const struct Stream *stream)
{ /* under lock */
	for (int i = 0; i < MAX_CAPTURES; i++)
		if (stream && captures[i].stream == stream)
			return &captures[i];
	return NULL;
}

bool captureHas(const struct Stream *stream)
{
	if (!atomic_load(&underway))
		return false;
	pthread_mutex_lock(&lock);
	bool found = find(stream);
	pthread_mutex_unlock(&lock);
	return found;
}

void captureBreak(const struct Stream *stream)
{
	pthread_mutex_lock(&lock);
	Capture *found = find(stream);
	if (found)
		found->broken = true;
	pthread_mutex_unlock(&lock);
}

/* Some queries of a captured stream are refused, and break its capture. */
CUresult captureDisturbs(const struct Stream *stream)
{
	if (!captureHas(stream))
		return OK;
	captureBreak(stream);
	return STREAM_CAPTURE_UNSUPPORTED;
}

CUresult captureRefuses(const char *name)
{
	if (!atomic_load(&underway))
		return OK;
	bool waitsForAll = !strncmp(name, "cuCtxSynchronize", 16), mayWait = waitsForAll,
		 refused = false;
	for (size_t i = 0; i < sizeof unsafe / sizeof *unsafe; i++)
		mayWait = mayWait || !strcmp(name, unsafe[i]);
	if (!mayWait)
		return OK;
	long thread = syscall(SYS_gettid);
	Context *context = contextCurrent();
	pthread_mutex_lock(&lock);
	for (int i = 0; i < MAX_CAPTURES; i++) {
		Capture *each = &captures[i];
		if (!each->stream)
			continue;
		bool own = each->thread == thread && each->mode != MODE_RELAXED,
			 others = mode == MODE_GLOBAL && each->mode == MODE_GLOBAL;
		if ((waitsForAll && each->context == context) || (mode != MODE_RELAXED && (own || others)))
			refused = each->broken = true;
	}
	pthread_mutex_unlock(&lock);
	return refused ? STREAM_CAPTURE_UNSUPPORTED : OK;
}

API CUresult cuThreadExchangeStreamCaptureMode(int *wanted)
{
	CALL("mode=%d", wanted ? *wanted : -1);
	if (!wanted || *wanted < MODE_GLOBAL || *wanted > MODE_RELAXED)
		return INVALID_VALUE;
	int before = mode;
	mode = *wanted;
	*wanted = before;
	return OK;
}

API CUresult cuStreamBeginCapture_v2(struct Stream *stream, int wanted)
{
	CONTEXT_CALL("stream=%p, mode=%d", (void *)stream, wanted);
	if (wanted < MODE_GLOBAL || wanted > MODE_RELAXED)
		return INVALID_VALUE;
	if ((uintptr_t)stream <= 2)
		return STREAM_CAPTURE_UNSUPPORTED;
	CUresult result = OUT_OF_MEMORY;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < MAX_CAPTURES && result == OUT_OF_MEMORY; i++) {
		if (captures[i].stream == stream)
			result = ILLEGAL_STATE;
		if (captures[i].stream)
			continue;
		captures[i] = (Capture){stream, context, syscall(SYS_gettid), wanted, false};
		atomic_fetch_add(&underway, 1);
		result = OK;
	}
	pthread_mutex_unlock(&lock);
	return result;
}

API CUresult cuStreamEndCapture(struct Stream *stream, void **graph)
{
	CALL("stream=%p", (void *)stream);
	if (!graph)
		return INVALID_VALUE;
	*graph = NULL;
	pthread_mutex_lock(&lock);
	Capture *found = find(stream);
	bool broken = found && found->broken;
	if (found) {
		*found = (Capture){0};
		atomic_fetch_sub(&underway, 1);
	}
	pthread_mutex_unlock(&lock);
	if (!found || broken)
		return found ? STREAM_CAPTURE_INVALIDATED : ILLEGAL_STATE;
	*graph = malloc(1);
	return *graph ? OK : OUT_OF_MEMORY;
}

API CUresult cuGraphDestroy(void *graph)
{
	CALL("graph=%p", graph);
	free(graph);
	return OK;
}

API CUresult cuStreamIsCapturing(struct Stream *stream, int *status)
{
	CALL("stream=%p", (void *)stream);
	if (!status)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	Capture *found = find(stream);
	*status = !found ? 0 : found->broken ? 2 : 1;
	pthread_mutex_unlock(&lock);
	return OK;
}
