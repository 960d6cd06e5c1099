/* reserve.h says what the function promises. The comments here give reasons. */
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
/* A thread takes one piece at a time. A piece is whole huge pages, and so small that
 * all threads end at about the same moment. */
static const uint64_t PIECE_BYTES = 4 << 20;

struct work {
	char *memory;
	const struct mnnExtent *extents;
	/* `next` is the offset of the next piece; all threads add to it. */
	uint64_t count, end, next;
	int huge, error;
};

static uint64_t smaller(uint64_t one, uint64_t other) { return one < other ? one : other; }

static uint64_t larger(uint64_t one, uint64_t other) { return one > other ? one : other; }

/* The number of the first extent that does not end before `offset`. */
static uint64_t firstExtent(const struct work *work, uint64_t offset)
{
	uint64_t low = 0, high = work->count;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if (work->extents[middle].offset + work->extents[middle].bytes <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void copyExtents(const struct work *work, uint64_t begin, uint64_t end)
{
	for (uint64_t number = firstExtent(work, begin);
		number < work->count && work->extents[number].offset < end; number++) {
		const struct mnnExtent *extent = &work->extents[number];
		uint64_t from = larger(begin, extent->offset);
		uint64_t to = smaller(end, extent->offset + extent->bytes);
		memcpy(
			work->memory + from, (const char *)extent->source + (from - extent->offset), to - from);
	}
}

static int reservePiece(const struct work *work, uint64_t offset)
{
	uint64_t length = smaller(PIECE_BYTES, work->end - offset);
	/* If the mount offers no huge pages, some kernels grant the collapse, and others
	 * refuse it (6.18, observed). The populating below then takes small pages. */
	if (work->huge && length >= HUGE_PAGE_BYTES)
		madvise(work->memory + offset, length, MADV_COLLAPSE);
	/* Populating runs in parallel, whereas fallocate takes the lock of the file. It
	 * uses the huge pages that the mapping asks for. It returns an error where an
	 * access would get SIGBUS. */
	if (madvise(work->memory + offset, length, MADV_POPULATE_WRITE) != 0)
		return -errno;
	/* The pages that were cleared just now are still in the processor's cache. */
	copyExtents(work, offset, offset + length);
	return 0;
}

static void *reservePieces(void *argument)
{
	struct work *work = argument;
	while (__atomic_load_n(&work->error, __ATOMIC_RELAXED) == 0) {
		uint64_t offset = __atomic_fetch_add(&work->next, PIECE_BYTES, __ATOMIC_RELAXED);
		if (offset >= work->end)
			break;
		int error = reservePiece(work, offset);
		if (error != 0)
			__atomic_store_n(&work->error, error, __ATOMIC_RELAXED);
	}
	return NULL;
}

int mnnReserve(void *memory, uint64_t begin, uint64_t end, const struct mnnExtent *extents,
	uint64_t count, uint32_t threads, int huge)
{
	enum { MAX_HELPERS = 63, STACK_BYTES = 1 << 20 };
	struct work work = {.memory = memory,
		.extents = extents,
		.count = count,
		.end = end,
		.next = begin,
		.huge = huge};
	uint64_t pieces = (end - begin + PIECE_BYTES - 1) / PIECE_BYTES;
	uint64_t wanted = smaller(smaller(threads, pieces), MAX_HELPERS + 1);
	pthread_t helpers[MAX_HELPERS];
	uint64_t started = 0;
	if (wanted > 1) {
		/* The helpers inherit the mask, so no signal handler of the program runs on
		 * them. */
		sigset_t all, before;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		pthread_attr_t attributes;
		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, STACK_BYTES);
		while (started < wanted - 1 &&
			pthread_create(&helpers[started], &attributes, reservePieces, &work) == 0)
			started++; /* with fewer helpers the call only takes longer */
		pthread_attr_destroy(&attributes);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	reservePieces(&work);
	while (started > 0)
		pthread_join(helpers[--started], NULL);
	return work.error;
}
