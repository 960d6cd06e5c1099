/* Streams: queues of work. Each has a thread, so work that no call has waited for may
 * really be undone.
 *
 * The default stream (NULL) of a context begins a piece of work when all blocking
 * streams have done the work that they were given before it; and they begin later work
 * after it. A NON_BLOCKING stream is independent. STANDIN_DELAY (microseconds) delays
 * every piece of work. Streams belong to the process and end with it: their threads are
 * detached, and exit does not wait for their work.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PER_THREAD = 16 }; /* the number of contexts in which one thread has a default stream */
static const uint64_t STREAM_MAGIC = 0x6d61657274735c5cu;

typedef struct Item {
	struct Item *next;
	Work work;
	_Alignas(16) char arguments[];
} Item;

struct Stream {
	uint64_t magic, id; /* an id is never used twice, an address may be */
	Stream *next; /* of all; under submitLock */
	Context *context;
	unsigned flags;
	int priority, refs;
	bool closing;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	Item *head, **tail;
	uint64_t submitted, done;
};

static pthread_mutex_t submitLock = PTHREAD_MUTEX_INITIALIZER;
static Stream *streams;
static _Thread_local struct {
	Context *context;
	Stream *stream;
} perThread[PER_THREAD];
static _Thread_local Stream *working; /* whose worker this thread is */

void futexWake(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }

void futexWait(uint32_t *word, uint32_t seen, long ms)
{
	struct timespec wait = {ms / 1000, ms % 1000 * 1000000};
	syscall(SYS_futex, word, FUTEX_WAIT, seen, &wait, NULL, 0);
}

static void unref(Stream *stream)
{
	pthread_mutex_lock(&submitLock);
	bool last = --stream->refs == 0;
	pthread_mutex_unlock(&submitLock);
	if (!last)
		return;
	pthread_mutex_destroy(&stream->lock);
	pthread_cond_destroy(&stream->changed);
	stream->magic = 0;
	free(stream);
}

static void *workOff(void *given)
{
	Stream *stream = given;
	uint64_t delay = settingBytes("STANDIN_DELAY", 0);
	working = stream;
	/* A CPU reference in Python may collect objects that need a context to be freed. */
	contextAdopt(stream->context);
	pthread_mutex_lock(&stream->lock);
	for (;;) {
		while (!stream->head && !stream->closing)
			pthread_cond_wait(&stream->changed, &stream->lock);
		Item *item = stream->head;
		if (!item)
			break;
		pthread_mutex_unlock(&stream->lock);
		if (delay)
			usleep((useconds_t)delay);
		CUresult before = atomic_load(&stream->context->error);
		CUresult after = item->work(item->arguments, before);
		if (after && !before) {
			logLine("stream=%p died of %d", (void *)stream, after);
			atomic_compare_exchange_strong(&stream->context->error, &before, after);
		}
		pthread_mutex_lock(&stream->lock);
		stream->head = item->next;
		if (!stream->head)
			stream->tail = &stream->head;
		stream->done++;
		pthread_cond_broadcast(&stream->changed);
		free(item);
	}
	pthread_mutex_unlock(&stream->lock);
	unref(stream);
	return NULL;
}

/* Under submitLock. */
static Stream *streamNew(Context *context, unsigned flags, int priority)
{
	Stream *made = calloc(1, sizeof *made);
	if (!made)
		return NULL;
	static uint64_t ids = 16;
	*made = (Stream){.magic = STREAM_MAGIC,
		.id = ++ids,
		.context = context,
		.flags = flags,
		.priority = priority,
		.refs = 2,
		.next = streams};
	made->tail = &made->head;
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->changed, NULL);
	pthread_t thread;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
	int failed = pthread_create(&thread, NULL, workOff, made);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed) {
		free(made);
		return NULL;
	}
	pthread_detach(thread);
	streams = made;
	return made;
}

/* This thread's own stream in a context; under submitLock. */
static Stream *ownOf(Context *context)
{
	for (int i = 0; i < PER_THREAD; i++) {
		if (!perThread[i].context)
			perThread[i].context = context, perThread[i].stream = streamNew(context, 0, 0);
		if (perThread[i].context == context)
			return perThread[i].stream;
	}
	return NULL;
}

/* The stream of a handle; under submitLock. 0 and 1 are the legacy default stream of
 * the current context, 2 is the thread's own. */
static CUresult streamOf(Stream *handle, Stream **found)
{
	if ((uintptr_t)handle <= 2) {
		Context *context = contextCurrent();
		if (!context)
			return INVALID_CONTEXT;
		if ((uintptr_t)handle == 2) {
			*found = ownOf(context);
		} else {
			if (!atomic_load(&context->legacy))
				atomic_store(&context->legacy, streamNew(context, 0, 0));
			*found = atomic_load(&context->legacy);
		}
		return *found ? OK : OUT_OF_MEMORY;
	}
	for (Stream *each = streams; each; each = each->next)
		if (each == handle) {
			*found = each;
			return OK;
		}
	return INVALID_HANDLE;
}

int streamDevice(Stream *handle)
{
	Stream *stream = NULL;
	pthread_mutex_lock(&submitLock);
	int device = streamOf(handle, &stream) ? -1 : stream->context->device;
	pthread_mutex_unlock(&submitLock);
	return device;
}

static uint64_t push(Stream *stream, Item *item)
{
	pthread_mutex_lock(&stream->lock);
	*stream->tail = item;
	stream->tail = &item->next;
	uint64_t ticket = ++stream->submitted;
	pthread_cond_broadcast(&stream->changed);
	pthread_mutex_unlock(&stream->lock);
	return ticket;
}

static Item *itemNew(Work work, const void *arguments, size_t bytes)
{
	Item *item = malloc(sizeof *item + bytes);
	if (!item)
		return NULL;
	item->next = NULL;
	item->work = work;
	if (bytes)
		memcpy(item->arguments, arguments, bytes);
	return item;
}

typedef struct {
	Stream *stream;
	uint64_t upTo;
} Position;

static CUresult waitForPosition(void *given, CUresult before)
{
	Position *position = given;
	Stream *stream = position->stream;
	pthread_mutex_lock(&stream->lock);
	while (stream->done < position->upTo)
		pthread_cond_wait(&stream->changed, &stream->lock);
	pthread_mutex_unlock(&stream->lock);
	unref(stream);
	return before;
}

/* Make `stream` wait for the work that `other` was given until now; under
 * submitLock. */
static void orderAfter(Stream *stream, Stream *other)
{
	pthread_mutex_lock(&other->lock);
	Position position = {other, other->submitted};
	bool idle = other->done >= other->submitted;
	pthread_mutex_unlock(&other->lock);
	if (idle)
		return;
	Item *item = itemNew(waitForPosition, &position, sizeof position);
	if (!item)
		abort();
	other->refs++;
	push(stream, item);
}

CUresult streamSubmit(Stream *handle, Work work, const void *arguments, size_t bytes, bool wait)
{
	Stream *stream = NULL;
	Item *item = itemNew(work, arguments, bytes);
	if (!item)
		return OUT_OF_MEMORY;
	pthread_mutex_lock(&submitLock);
	CUresult result = streamOf(handle, &stream);
	if (result) {
		pthread_mutex_unlock(&submitLock);
		free(item);
		return result;
	}
	if (captureHas(stream)) { /* the work is recorded, and not done */
		pthread_mutex_unlock(&submitLock);
		free(item);
		if (wait)
			captureBreak(stream);
		return wait ? STREAM_CAPTURE_UNSUPPORTED : OK;
	}
	Stream *legacy = atomic_load(&stream->context->legacy);
	if (stream == legacy) {
		for (Stream *each = streams; each; each = each->next)
			if (each != stream && each->context == stream->context &&
				!(each->flags & STREAM_NON_BLOCKING))
				orderAfter(stream, each);
	} else if (legacy && !(stream->flags & STREAM_NON_BLOCKING)) {
		orderAfter(stream, legacy);
	}
	Position position = {stream, push(stream, item)};
	if (wait)
		stream->refs++;
	Context *context = stream->context;
	pthread_mutex_unlock(&submitLock);
	if (!wait)
		return OK;
	waitForPosition(&position, OK);
	return atomic_load(&context->error);
}

bool streamIsWorker(void) { return working; }

CUresult streamIdle(Context *context)
{
	Position positions[256];
	int found = 0;
	pthread_mutex_lock(&submitLock);
	for (Stream *each = streams; each && found < 256; each = each->next)
		/* A thread that frees within the work of a stream must not wait for that
		 * stream. */
		if (each->context == context && each != working) {
			pthread_mutex_lock(&each->lock);
			if (each->done < each->submitted) {
				each->refs++;
				positions[found++] = (Position){each, each->submitted};
			}
			pthread_mutex_unlock(&each->lock);
		}
	pthread_mutex_unlock(&submitLock);
	for (int i = 0; i < found; i++)
		waitForPosition(&positions[i], OK);
	return atomic_load(&context->error);
}

static CUresult nothing(void *given, CUresult before)
{
	(void)given;
	return before;
}

/* --- entry points --- */

API CUresult cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority)
{
	CONTEXT_CALL("flags=%u, priority=%d", flags, priority);
	if (!stream || flags > 1)
		return INVALID_VALUE;
	pthread_mutex_lock(&submitLock);
	*stream = streamNew(context, flags, priority);
	pthread_mutex_unlock(&submitLock);
	return *stream ? OK : OUT_OF_MEMORY;
}

API CUresult cuStreamCreate(Stream **stream, unsigned flags)
{
	CONTEXT_CALL("flags=%u", flags);
	if (!stream || flags > 1)
		return INVALID_VALUE;
	pthread_mutex_lock(&submitLock);
	*stream = streamNew(context, flags, 0);
	pthread_mutex_unlock(&submitLock);
	return *stream ? OK : OUT_OF_MEMORY;
}

API CUresult cuStreamDestroy_v2(Stream *stream)
{
	CALL("stream=%p", (void *)stream);
	if ((uintptr_t)stream <= 2)
		return INVALID_HANDLE;
	pthread_mutex_lock(&submitLock);
	Stream **link = &streams;
	while (*link && *link != stream)
		link = &(*link)->next;
	bool found = *link;
	if (found)
		*link = stream->next;
	pthread_mutex_unlock(&submitLock);
	if (!found)
		return INVALID_HANDLE;
	/* The submitted work is still done, and the caller does not wait for it. */
	pthread_mutex_lock(&stream->lock);
	stream->closing = true;
	pthread_cond_broadcast(&stream->changed);
	pthread_mutex_unlock(&stream->lock);
	CUresult sticky = atomic_load(&stream->context->error);
	unref(stream);
	return sticky;
}

API CUresult cuStreamSynchronize(Stream *stream)
{
	HOST_CALL("stream=%p", (void *)stream);
	return streamSubmit(stream, nothing, NULL, 0, true);
}

API CUresult cuStreamQuery(Stream *stream)
{
	HOST_CALL("stream=%p", (void *)stream);
	Stream *found = NULL;
	pthread_mutex_lock(&submitLock);
	CUresult result = streamOf(stream, &found);
	bool legacy = !result && found == atomic_load(&found->context->legacy);
	for (Stream *each = streams; !result && each; each = each->next) {
		if (each != found &&
			!(legacy && each->context == found->context && !(each->flags & STREAM_NON_BLOCKING)))
			continue;
		pthread_mutex_lock(&each->lock);
		if (each->done < each->submitted)
			result = NOT_READY;
		pthread_mutex_unlock(&each->lock);
	}
	Context *context = found ? found->context : NULL;
	pthread_mutex_unlock(&submitLock);
	CUresult sticky = context ? atomic_load(&context->error) : OK;
	return sticky ? sticky : result;
}

/* The query `which` of a stream, for the small getters. */
static CUresult tell(
	Stream *handle, Context **context, unsigned *flags, int *priority, unsigned long long *id)
{
	Stream *found = NULL;
	pthread_mutex_lock(&submitLock);
	CUresult result = streamOf(handle, &found);
	if (!result) {
		if (context)
			*context = found->context;
		if (flags)
			*flags = found->flags;
		if (priority)
			*priority = found->priority;
		if (id)
			*id = found->id;
	}
	pthread_mutex_unlock(&submitLock);
	return result;
}

API CUresult cuStreamGetCtx(Stream *stream, Context **context)
{
	CALL("stream=%p", (void *)stream);
	return context ? tell(stream, context, NULL, NULL, NULL) : INVALID_VALUE;
}

API CUresult cuStreamGetCtx_v2(Stream *stream, Context **context, void **green)
{
	CALL("stream=%p", (void *)stream);
	if (green)
		*green = NULL;
	return context ? tell(stream, context, NULL, NULL, NULL) : INVALID_VALUE;
}

API CUresult cuStreamGetFlags(Stream *stream, unsigned *flags)
{
	CALL("stream=%p", (void *)stream);
	CHECK(captureDisturbs(stream));
	return flags ? tell(stream, NULL, flags, NULL, NULL) : INVALID_VALUE;
}

API CUresult cuStreamGetPriority(Stream *stream, int *priority)
{
	CALL("stream=%p", (void *)stream);
	return priority ? tell(stream, NULL, NULL, priority, NULL) : INVALID_VALUE;
}

API CUresult cuStreamGetId(Stream *stream, unsigned long long *id)
{
	CALL("stream=%p", (void *)stream);
	CHECK(captureDisturbs(stream));
	return id ? tell(stream, NULL, NULL, NULL, id) : INVALID_VALUE;
}

API CUresult cuStreamGetDevice(Stream *stream, CUdevice *device)
{
	CALL("stream=%p", (void *)stream);
	Context *context = NULL;
	CHECK(device ? tell(stream, &context, NULL, NULL, NULL) : INVALID_VALUE);
	*device = context->device;
	return OK;
}

/* --- work of the host --- */

typedef struct {
	void (*function)(void *);
	void *data;
} HostWork;

static CUresult runHost(void *given, CUresult before)
{
	HostWork *host = given;
	if (before)
		return before; /* after an error, host functions are not called */
	inHostFunction = true;
	host->function(host->data);
	inHostFunction = false;
	return OK;
}

API CUresult cuLaunchHostFunc(Stream *stream, void (*function)(void *), void *data)
{
	CONTEXT_CALL("stream=%p, data=%p", (void *)stream, data);
	if (!function)
		return INVALID_VALUE;
	HostWork host = {function, data};
	return streamSubmit(stream, runHost, &host, sizeof host, false);
}

typedef struct {
	void (*function)(Stream *, CUresult, void *);
	Stream *stream;
	void *data;
} Callback;

static CUresult runCallback(void *given, CUresult before)
{
	Callback *callback = given;
	inHostFunction = true;
	callback->function(callback->stream, before, callback->data);
	inHostFunction = false;
	return before;
}

API CUresult cuStreamAddCallback(
	Stream *stream, void (*function)(Stream *, CUresult, void *), void *data, unsigned flags)
{
	CONTEXT_CALL("stream=%p, data=%p, flags=%u", (void *)stream, data, flags);
	if (!function || flags)
		return INVALID_VALUE;
	Callback callback = {function, stream, data};
	return streamSubmit(stream, runCallback, &callback, sizeof callback, false);
}

/* --- words in memory as fences --- */

typedef struct {
	uint64_t address, value;
	unsigned flags;
	bool wide;
} Word;

static CUresult writeWord(void *given, CUresult before)
{
	Word *word = given;
	uint64_t bytes = word->wide ? 8 : 4;
	char *where;
	Physical *held;
	if (before)
		return before;
	if (resolve(word->address, &bytes, KNOWN | TO_WRITE, &where, &held))
		return LAUNCH_FAILED;
	if (word->wide)
		__atomic_store_n((uint64_t *)where, word->value, __ATOMIC_RELEASE);
	else
		__atomic_store_n((uint32_t *)where, (uint32_t)word->value, __ATOMIC_RELEASE);
	physicalUnpin(held);
	return OK;
}

static bool reached(const Word *word, uint64_t now)
{
	uint64_t mask = word->wide ? UINT64_MAX : UINT32_MAX, want = word->value & mask;
	switch (word->flags & 3) {
	case 0:
		return word->wide ? (int64_t)(now - want) >= 0 : (int32_t)(uint32_t)(now - want) >= 0;
	case 1:
		return now == want;
	case 2:
		return (now & want) != 0;
	default:
		return (~(now | want) & mask) != 0;
	}
}

static CUresult waitWord(void *given, CUresult before)
{
	Word *word = given;
	for (unsigned scope = 0; !before; scope++) {
		uint64_t bytes = word->wide ? 8 : 4;
		char *where;
		Physical *held;
		CHECK(resolve(word->address, &bytes, KNOWN | TO_READ, &where, &held));
		uint64_t now = word->wide ? __atomic_load_n((uint64_t *)where, __ATOMIC_ACQUIRE)
								  : __atomic_load_n((uint32_t *)where, __ATOMIC_ACQUIRE);
		physicalUnpin(held);
		if (reached(word, now))
			break;
		usleep(scope < 100 ? 10 : 500);
	}
	return before;
}

static CUresult submitWord(
	Stream *stream, CUdeviceptr address, uint64_t value, unsigned flags, bool wide, Work work)
{
	uint64_t bytes = wide ? 8 : 4;
	if (address % bytes || (!isDevice(address, bytes) && !isPinned(address, bytes)))
		return INVALID_VALUE;
	Word word = {address, value, flags, wide};
	return streamSubmit(stream, work, &word, sizeof word, false);
}

API CUresult cuStreamWaitValue64_v2(
	Stream *stream, CUdeviceptr address, uint64_t value, unsigned flags)
{
	CONTEXT_CALL("stream=%p, address=%#llx, value=%llu, flags=%u", (void *)stream, address,
		(unsigned long long)value, flags);
	return submitWord(stream, address, value, flags, true, waitWord);
}

API CUresult cuStreamWaitValue32_v2(
	Stream *stream, CUdeviceptr address, uint32_t value, unsigned flags)
{
	CONTEXT_CALL(
		"stream=%p, address=%#llx, value=%u, flags=%u", (void *)stream, address, value, flags);
	return submitWord(stream, address, value, flags, false, waitWord);
}

API CUresult cuStreamWriteValue64_v2(
	Stream *stream, CUdeviceptr address, uint64_t value, unsigned flags)
{
	CONTEXT_CALL("stream=%p, address=%#llx, value=%llu, flags=%u", (void *)stream, address,
		(unsigned long long)value, flags);
	return submitWord(stream, address, value, flags, true, writeWord);
}

API CUresult cuStreamWriteValue32_v2(
	Stream *stream, CUdeviceptr address, uint32_t value, unsigned flags)
{
	CONTEXT_CALL(
		"stream=%p, address=%#llx, value=%u, flags=%u", (void *)stream, address, value, flags);
	return submitWord(stream, address, value, flags, false, writeWord);
}
