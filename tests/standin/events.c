/* Events: positions in streams for which streams and threads wait, in this process and
 * in others.
 *
 * An event is a page of counters. The page of an INTERPROCESS event is a memfd, and its
 * handle is pid, descriptor and nonce. Each record takes the next number. When the
 * stream reaches the position, it stores the number in the ring. A record also names
 * its process: if that process dies before the stream gets there, STANDIN_DEAD_EVENT
 * says what the waiters see (pending, the default: they wait for ever; done; error).
 */
#define _GNU_SOURCE
#include "standin.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	RING = 64,
	EVENT_BLOCKING_SYNC = 1,
	EVENT_NO_TIMING = 2,
	EVENT_INTERPROCESS = 4,
	SLICE_MS = 50
};
static const uint64_t PAGE_MAGIC = 0x746e657665c5c5c5u;

typedef struct {
	uint64_t magic, nonce;
	_Atomic uint64_t recorded; /* the number of the newest record */
	_Atomic uint64_t done[RING], ns[RING]; /* by number % RING */
	_Atomic uint64_t recorderStart[RING];
	_Atomic int32_t recorder[RING];
	uint32_t changed; /* futex */
} Page;

struct Event {
	Event *next; /* of all; under lock */
	Page *page;
	unsigned flags;
	int fd, refs;
	bool imported;
	Context *context; /* in which it was created; NULL when imported */
	_Atomic(struct Stream *) captured; /* the stream whose capture recorded it last */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Event *events;

static Event *eventRef(Event *asked)
{
	Event *each;
	pthread_mutex_lock(&lock);
	for (each = events; each && each != asked; each = each->next) {
	}
	if (each)
		each->refs++;
	pthread_mutex_unlock(&lock);
	return each;
}

static void eventUnref(Event *event)
{
	pthread_mutex_lock(&lock);
	bool last = --event->refs == 0;
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	munmap(event->page, sizeof *event->page);
	if (event->fd >= 0)
		close(event->fd);
	free(event);
}

static Event *enter(Page *page, unsigned flags, int fd)
{
	Event *made = calloc(1, sizeof *made);
	if (!made)
		return NULL;
	*made = (Event){.page = page, .flags = flags, .fd = fd, .refs = 1};
	pthread_mutex_lock(&lock);
	made->next = events;
	events = made;
	pthread_mutex_unlock(&lock);
	return made;
}

API CUresult cuEventCreate(Event **event, unsigned flags)
{
	CONTEXT_CALL("flags=%u", flags);
	if (!event || flags > 7 || (flags & EVENT_INTERPROCESS && !(flags & EVENT_NO_TIMING)))
		return INVALID_VALUE;
	int fd = -1;
	if (flags & EVENT_INTERPROCESS) {
		fd = memfd_create("standin-event", MFD_CLOEXEC);
		if (fd < 0)
			return OPERATING_SYSTEM;
		if (ftruncate(fd, sizeof(Page))) {
			close(fd);
			return OUT_OF_MEMORY;
		}
	}
	Page *page = mmap(NULL, sizeof(Page), PROT_READ | PROT_WRITE,
		fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return OUT_OF_MEMORY;
	page->magic = PAGE_MAGIC;
	page->nonce = freshNonce();
	*event = enter(page, flags, fd);
	if (!*event)
		return OUT_OF_MEMORY;
	(*event)->context = context;
	return OK;
}

API CUresult cuEventDestroy_v2(Event *event)
{
	CALL("event=%p", (void *)event);
	pthread_mutex_lock(&lock);
	Event **link = &events;
	while (*link && *link != event)
		link = &(*link)->next;
	bool found = *link;
	if (found)
		*link = event->next;
	pthread_mutex_unlock(&lock);
	if (!found)
		return INVALID_HANDLE;
	eventUnref(event); /* waits and records under way have references of their own */
	return OK;
}

typedef struct {
	Event *event;
	uint64_t number;
} Position;

static CUresult reach(void *given, CUresult before)
{
	Position *position = given;
	Page *page = position->event->page;
	uint64_t at = position->number % RING;
	atomic_store(&page->ns[at], nowNs());
	atomic_store(&page->done[at], position->number); /* waiters see what the stream wrote before */
	__atomic_fetch_add(&page->changed, 1, __ATOMIC_SEQ_CST);
	futexWake(&page->changed);
	eventUnref(position->event);
	return before;
}

API CUresult cuEventRecord(Event *asked, struct Stream *stream)
{
	CONTEXT_CALL("event=%p, stream=%p", (void *)asked, (void *)stream);
	static _Atomic uint64_t started;
	static _Atomic int startedPid;
	if (atomic_load(&startedPid) != getpid()) {
		atomic_store(&started, processStart(getpid()));
		atomic_store(&startedPid, getpid());
	}
	Event *event = eventRef(asked);
	if (!event)
		return INVALID_HANDLE;
	bool isCaptured = captureHas(stream);
	atomic_store(&event->captured, isCaptured ? stream : NULL);
	if (isCaptured) {
		eventUnref(event);
		return OK;
	}
	Page *page = event->page;
	Position position = {event, atomic_load(&page->recorded) + 1};
	uint64_t at = position.number % RING;
	atomic_store(&page->recorder[at], getpid());
	atomic_store(&page->recorderStart[at], atomic_load(&started));
	atomic_store(&page->recorded, position.number);
	CUresult result = streamSubmit(stream, reach, &position, sizeof position, false);
	if (result) {
		atomic_store(&page->recorded, position.number - 1);
		eventUnref(event);
	}
	return result;
}

API CUresult cuEventRecordWithFlags(Event *event, struct Stream *stream, unsigned flags)
{
	return flags > 1 ? INVALID_VALUE : cuEventRecord(event, stream);
}

/* The errors that forbid any query of an event. */
static CUresult refusal(Event *event)
{
	struct Stream *stream = atomic_load(&event->captured);
	if (stream)
		captureBreak(stream);
	return stream                                     ? CAPTURED_EVENT
		: event->context && event->context->destroyed ? CONTEXT_IS_DESTROYED
													  : OK;
}

/* OK, NOT_READY, or the outcome that STANDIN_DEAD_EVENT chooses for a dead recorder. */
static CUresult stateOf(const Page *page, uint64_t number)
{
	uint64_t at = number % RING;
	if (!number || atomic_load(&page->done[at]) >= number)
		return OK;
	const char *text = getenv("STANDIN_DEAD_EVENT");
	int recorder = atomic_load(&page->recorder[at]);
	if (!text || !strcmp(text, "pending") || recorder == getpid())
		return NOT_READY;
	if (processStart(recorder) == atomic_load(&page->recorderStart[at]))
		return NOT_READY;
	return !strcmp(text, "done") ? OK : LAUNCH_FAILED;
}

static CUresult awaitNumber(Page *page, uint64_t number)
{
	for (;;) {
		uint32_t seen = __atomic_load_n(&page->changed, __ATOMIC_SEQ_CST);
		CUresult state = stateOf(page, number);
		if (state != NOT_READY)
			return state;
		futexWait(&page->changed, seen, SLICE_MS);
	}
}

API CUresult cuEventQuery(Event *asked)
{
	HOST_CALL("event=%p", (void *)asked);
	Event *event = eventRef(asked);
	if (!event)
		return INVALID_HANDLE;
	CUresult result = refusal(event);
	if (!result)
		result = stateOf(event->page, atomic_load(&event->page->recorded));
	eventUnref(event);
	Context *context = contextCurrent();
	CUresult sticky = context ? atomic_load(&context->error) : OK;
	return sticky ? sticky : result;
}

API CUresult cuEventSynchronize(Event *asked)
{
	CALL("event=%p", (void *)asked);
	Event *event = eventRef(asked);
	if (!event)
		return INVALID_HANDLE;
	CUresult result = refusal(event);
	if (!result)
		result = awaitNumber(event->page, atomic_load(&event->page->recorded));
	eventUnref(event);
	Context *context = contextCurrent();
	return result || !context ? result : atomic_load(&context->error);
}

static CUresult waitForEvent(void *given, CUresult before)
{
	Position *position = given;
	CUresult result = before ? before : awaitNumber(position->event->page, position->number);
	eventUnref(position->event);
	return result;
}

API CUresult cuStreamWaitEvent(struct Stream *stream, Event *asked, unsigned flags)
{
	CONTEXT_CALL("stream=%p, event=%p, flags=%u", (void *)stream, (void *)asked, flags);
	if (flags > 1)
		return INVALID_VALUE;
	Event *event = eventRef(asked);
	if (!event)
		return INVALID_HANDLE;
	/* The wait is for the newest record of this moment, not for later ones. */
	Position position = {event, atomic_load(&event->page->recorded)};
	CUresult result = streamSubmit(stream, waitForEvent, &position, sizeof position, false);
	if (result)
		eventUnref(event);
	return result;
}

API CUresult cuEventElapsedTime_v2(float *ms, Event *first, Event *last)
{
	CALL("first=%p, last=%p", (void *)first, (void *)last);
	if (!ms)
		return INVALID_VALUE;
	Event *from = eventRef(first), *to = eventRef(last);
	CUresult result = OK;
	if (!from || !to || (from->flags | to->flags) & EVENT_NO_TIMING) {
		result = INVALID_HANDLE;
	} else {
		uint64_t begun = atomic_load(&from->page->recorded),
				 ended = atomic_load(&to->page->recorded);
		if (!begun || !ended)
			result = INVALID_HANDLE;
		else if (stateOf(from->page, begun) || stateOf(to->page, ended))
			result = NOT_READY;
		else
			*ms = (float)((double)(int64_t)(atomic_load(&to->page->ns[ended % RING]) -
							  atomic_load(&from->page->ns[begun % RING])) /
				1e6);
	}
	if (from)
		eventUnref(from);
	if (to)
		eventUnref(to);
	return result;
}

/* --- for ipc.c --- */

CUresult eventExport(Event *asked, int *fd, uint64_t *nonce)
{
	Event *event = eventRef(asked);
	if (!event)
		return INVALID_HANDLE;
	CUresult result = event->flags & EVENT_INTERPROCESS && !event->imported ? OK : INVALID_HANDLE;
	*fd = event->fd;
	*nonce = event->page->nonce;
	eventUnref(event);
	return result;
}

CUresult eventImport(int fd, uint64_t nonce, Event **made)
{
	struct stat about;
	if (fstat(fd, &about) || about.st_size != sizeof(Page))
		return INVALID_HANDLE;
	Page *page = mmap(NULL, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return MAPPING_FAILED;
	if (page->magic != PAGE_MAGIC || page->nonce != nonce) {
		munmap(page, sizeof *page);
		return INVALID_HANDLE;
	}
	*made = enter(page, EVENT_INTERPROCESS | EVENT_NO_TIMING, -1);
	if (!*made)
		return OUT_OF_MEMORY;
	(*made)->imported = true;
	return OK;
}
