/* See reserve.h for what it promises; here is only why it is done so. */
#define _GNU_SOURCE
#include "reserve.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static const uint64_t HUGE_PAGE_BYTES = 2 << 20;
/* What a thread takes at a time: whole huge pages, and so little that all threads
 * end at about the same moment. */
static const uint64_t PIECE_BYTES = 4 << 20;

struct work {
	char *target;
	const char *source;
	/* Next: where the next piece begins; added to by all threads */
	uint64_t bytes, sourceBytes, next;
	int huge, error;
};

static uint64_t smaller(uint64_t one, uint64_t other) { return one < other ? one : other; }

static int reservePiece(const struct work *work, uint64_t offset)
{
	uint64_t length = smaller(PIECE_BYTES, work->bytes - offset);
	/* Some kernels grant it where the mount offers no huge pages, others refuse
	 * (6.18, seen). Small ones follow. */
	if (work->huge && length >= HUGE_PAGE_BYTES)
		madvise(work->target + offset, length, MADV_COLLAPSE);
	/* Populating works in parallel, where fallocate holds the file's lock, and takes
	 * the huge pages that the mapping asks for. It fails where a touch is a SIGBUS. */
	if (madvise(work->target + offset, length, MADV_POPULATE_WRITE) != 0)
		return -errno;
	if (offset < work->sourceBytes)
		memcpy(work->target + offset, work->source + offset,
			smaller(length, work->sourceBytes - offset));
	return 0;
}

static void *reservePieces(void *argument)
{
	struct work *work = argument;
	while (__atomic_load_n(&work->error, __ATOMIC_RELAXED) == 0) {
		uint64_t offset = __atomic_fetch_add(&work->next, PIECE_BYTES, __ATOMIC_RELAXED);
		if (offset >= work->bytes)
			break;
		int error = reservePiece(work, offset);
		if (error != 0)
			__atomic_store_n(&work->error, error, __ATOMIC_RELAXED);
	}
	return NULL;
}

int mnnReserve(void *target, uint64_t bytes, const void *source, uint64_t sourceBytes,
	uint32_t threads, int huge)
{
	enum { MAX_HELPERS = 63, STACK_BYTES = 1 << 20 };
	struct work work = {.target = target,
		.source = source,
		.bytes = bytes,
		.sourceBytes = sourceBytes,
		.huge = huge};
	uint64_t pieces = (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
	uint64_t wanted = smaller(smaller(threads, pieces), MAX_HELPERS + 1);
	pthread_t helpers[MAX_HELPERS];
	uint64_t started = 0;
	if (wanted > 1) {
		/* The helpers inherit it: a handler of the program's does not run on them. */
		sigset_t all, before;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		pthread_attr_t attributes;
		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, STACK_BYTES);
		while (started < wanted - 1 &&
			pthread_create(&helpers[started], &attributes, reservePieces, &work) == 0)
			started++; /* fewer than wanted only takes longer */
		pthread_attr_destroy(&attributes);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	reservePieces(&work);
	while (started > 0)
		pthread_join(helpers[--started], NULL);
	return work.error;
}
