/* Copies and fills. The addresses tell which side is a device, as with unified
 * addressing; the name of a call only says which side must be one.
 *
 * With pageable host memory even an Async call waits, except that a few bytes for a
 * device are copied aside at once. With pinned memory the copy is queued. Between
 * devices no call waits, not even one without Async. The addresses are looked up again
 * when the work runs, and so is the link between their devices. If one was unmapped
 * meanwhile, a copy ends with ILLEGAL_ADDRESS; a fill, which is a kernel, and a word
 * that a stream writes end with LAUNCH_FAILED. The error stays that of the context.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESS(pointer) ((unsigned long long)(pointer))
enum { STAGED_BYTES = 64 << 10 };

/* `to` and `from` say how to resolve the addresses */
typedef struct {
	uint64_t target, source, bytes;
	int to, from;
} Copy;
typedef struct {
	uint64_t target, bytes;
	char content[];
} Staged;
typedef struct {
	uint64_t target, count;
	uint32_t value;
	int width;
} Fill;

static CUresult runCopy(void *given, CUresult before)
{
	Copy *copy = given;
	while (!before && copy->bytes) {
		char *to, *from;
		Physical *toHeld, *fromHeld;
		Path path = linkPath(copy->target, copy->source, copy->bytes);
		uint64_t bytes = path.bytes;
		linkAwait(&path);
		CHECK(resolve(copy->target, &bytes, copy->to, &to, &toHeld));
		CUresult result = resolve(copy->source, &bytes, copy->from, &from, &fromHeld);
		if (!result) {
			memmove(to, from, bytes);
			linkDamage(&path, to, bytes);
			physicalUnpin(fromHeld);
		}
		physicalUnpin(toHeld);
		CHECK(result);
		copy->target += bytes;
		copy->source += bytes;
		copy->bytes -= bytes;
	}
	return before;
}

static CUresult runStaged(void *given, CUresult before)
{
	Staged *staged = given;
	Copy copy = {
		staged->target, ADDRESS(staged->content), staged->bytes, TO_WRITE | KNOWN, TO_READ};
	return runCopy(&copy, before);
}

/* Copy the bytes aside, so that the caller may change its own. */
static CUresult submitStaged(uint64_t target, const void *source, uint64_t bytes, Stream *stream)
{
	Staged *staged = malloc(sizeof *staged + bytes);
	if (!staged)
		return OUT_OF_MEMORY;
	*staged = (Staged){target, bytes};
	memcpy(staged->content, source, bytes);
	CUresult result = streamSubmit(stream, runStaged, staged, sizeof *staged + bytes, false);
	free(staged);
	return result;
}

static bool mayReach(uint64_t address, uint64_t bytes, int how)
{
	while (bytes) {
		uint64_t part = bytes;
		char *where;
		Physical *held;
		if (resolve(address, &part, how, &where, &held))
			return false;
		physicalUnpin(held);
		address += part;
		bytes -= part;
	}
	return true;
}

/* Whether the range leaves the memory that it begins in. A kernel sees two adjacent
 * registrations as one range, a copy as two. */
static bool crosses(uint64_t address, uint64_t bytes)
{
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	bool outside = mapping && address + bytes > mapping->base + mapping->bytes;
	Kind kind = mapping ? mapping->kind : KIND_HOST;
	pthread_mutex_unlock(&memoryLock);
	return outside && (kind == KIND_REGISTERED || (kind != KIND_HOST && !isDevice(address, bytes)));
}

CUresult copyCheck(uint64_t target, uint64_t source, uint64_t bytes, Stream *stream, bool mayStage)
{
	bool right = target && source && !crosses(target, bytes) && !crosses(source, bytes) &&
		(mayStage || !linkForbids(target, source, bytes, streamDevice(stream))) &&
		mayReach(target, bytes, TO_WRITE) && mayReach(source, bytes, TO_READ);
	return right ? OK : INVALID_VALUE;
}

static void logCopy(uint64_t target, uint64_t source, uint64_t bytes)
{
	Path path = linkPath(target, source, bytes);
	char between[64] = "";
	if (path.between)
		snprintf(between, sizeof between, ", GPU %d to GPU %d %s", path.from, path.to,
			path.link ? "directly" : "staged");
	logLine("copy %s to %s, bytes=%llu%s", isDevice(source, bytes) ? "device" : "host",
		isDevice(target, bytes) ? "device" : "host", (unsigned long long)bytes, between);
}

CUresult copySubmit(uint64_t target, uint64_t source, uint64_t bytes, Stream *stream, Timing timing)
{
	bool toDevice = isDevice(target, bytes), fromDevice = isDevice(source, bytes);
	bool stays = fromDevice || timing == ANY_TIME || isPinned(source, bytes);
	bool pinned = stays && (toDevice || isPinned(target, bytes));
	bool wait = timing == WAITED ? !(toDevice && fromDevice)
		: timing == IN_CALL      ? true
								 : !pinned || !(toDevice || fromDevice);
	Copy copy = {target, source, bytes, TO_WRITE | (toDevice ? KNOWN : 0),
		TO_READ | (fromDevice ? KNOWN : 0)};
	logCopy(target, source, bytes);
	if (toDevice && !fromDevice &&
		(timing == IN_CALL || (timing == QUEUED && !pinned && bytes <= STAGED_BYTES)))
		return submitStaged(target, (const void *)source, bytes, stream);
	return streamSubmit(stream, runCopy, &copy, sizeof copy, wait);
}

static CUresult copyBy(
	uint64_t target, uint64_t source, uint64_t bytes, Stream *stream, bool async, bool mayStage)
{
	if (!bytes)
		return OK;
	CHECK(copyCheck(target, source, bytes, stream, mayStage));
	return copySubmit(target, source, bytes, stream, async ? QUEUED : WAITED);
}

static CUresult copyNow(
	uint64_t target, uint64_t source, uint64_t bytes, Stream *stream, bool async)
{
	return copyBy(target, source, bytes, stream, async, false);
}

#define TWO_SIDES "target=%#llx, source=%#llx, bytes=%zu"

API CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t bytes)
{
	CONTEXT_CALL(TWO_SIDES, target, ADDRESS(source), bytes);
	return isDevice(target, bytes) ? copyNow(target, ADDRESS(source), bytes, NULL, false)
								   : INVALID_VALUE;
}

API CUresult cuMemcpyHtoDAsync_v2(
	CUdeviceptr target, const void *source, size_t bytes, Stream *stream)
{
	CONTEXT_CALL(TWO_SIDES ", stream=%p", target, ADDRESS(source), bytes, (void *)stream);
	return isDevice(target, bytes) ? copyNow(target, ADDRESS(source), bytes, stream, true)
								   : INVALID_VALUE;
}

API CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t bytes)
{
	CONTEXT_CALL(TWO_SIDES, ADDRESS(target), source, bytes);
	return isDevice(source, bytes) ? copyNow(ADDRESS(target), source, bytes, NULL, false)
								   : INVALID_VALUE;
}

API CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t bytes, Stream *stream)
{
	CONTEXT_CALL(TWO_SIDES ", stream=%p", ADDRESS(target), source, bytes, (void *)stream);
	return isDevice(source, bytes) ? copyNow(ADDRESS(target), source, bytes, stream, true)
								   : INVALID_VALUE;
}

/* Numba also passes the device pointers of registered host memory to these two
 * calls. */
static bool known(uint64_t address, uint64_t bytes)
{
	return isDevice(address, bytes) || isPinned(address, bytes);
}

API CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes)
{
	CONTEXT_CALL(TWO_SIDES, target, source, bytes);
	return known(target, bytes) && known(source, bytes)
		? copyNow(target, source, bytes, NULL, false)
		: INVALID_VALUE;
}

API CUresult cuMemcpyDtoDAsync_v2(
	CUdeviceptr target, CUdeviceptr source, size_t bytes, Stream *stream)
{
	CONTEXT_CALL(TWO_SIDES ", stream=%p", target, source, bytes, (void *)stream);
	return known(target, bytes) && known(source, bytes)
		? copyNow(target, source, bytes, stream, true)
		: INVALID_VALUE;
}

API CUresult cuMemcpy(CUdeviceptr target, CUdeviceptr source, size_t bytes)
{
	CONTEXT_CALL(TWO_SIDES, target, source, bytes);
	return copyNow(target, source, bytes, NULL, false);
}

API CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, Stream *stream)
{
	CONTEXT_CALL(TWO_SIDES ", stream=%p", target, source, bytes, (void *)stream);
	return copyNow(target, source, bytes, stream, true);
}

API CUresult cuMemcpyPeer(CUdeviceptr target, Context *targetContext, CUdeviceptr source,
	Context *sourceContext, size_t bytes)
{
	CONTEXT_CALL(TWO_SIDES, target, source, bytes);
	if (!contextKnown(targetContext) || !contextKnown(sourceContext))
		return INVALID_CONTEXT;
	return isDevice(target, bytes) && isDevice(source, bytes)
		? copyBy(target, source, bytes, NULL, false, true)
		: INVALID_VALUE;
}

API CUresult cuMemcpyPeerAsync(CUdeviceptr target, Context *targetContext, CUdeviceptr source,
	Context *sourceContext, size_t bytes, Stream *stream)
{
	CONTEXT_CALL(TWO_SIDES ", stream=%p", target, source, bytes, (void *)stream);
	if (!contextKnown(targetContext) || !contextKnown(sourceContext))
		return INVALID_CONTEXT;
	return isDevice(target, bytes) && isDevice(source, bytes)
		? copyBy(target, source, bytes, stream, true, true)
		: INVALID_VALUE;
}

/* --- fills --- */

static CUresult runFill(void *given, CUresult before)
{
	Fill *fill = given;
	uint64_t left = fill->count * (uint64_t)fill->width;
	while (!before && left) {
		char *to;
		Physical *held;
		uint64_t bytes = left;
		if (resolve(fill->target, &bytes, KNOWN | TO_WRITE, &to, &held))
			return LAUNCH_FAILED;
		if (fill->width == 1)
			memset(to, (int)fill->value, bytes);
		else
			for (uint64_t at = 0; at + (uint64_t)fill->width <= bytes; at += (uint64_t)fill->width)
				memcpy(to + at, &fill->value, (size_t)fill->width);
		physicalUnpin(held);
		fill->target += bytes;
		left -= bytes;
	}
	return before;
}

static CUresult fillNow(uint64_t target, uint32_t value, size_t count, int width, Stream *stream)
{
	uint64_t bytes = count * (uint64_t)width;
	if (!count)
		return OK;
	if (target % (uint64_t)width || !known(target, bytes) || !mayReach(target, bytes, TO_WRITE))
		return INVALID_VALUE;
	Fill fill = {target, count, value, width};
	return streamSubmit(stream, runFill, &fill, sizeof fill, !stream && isPinned(target, bytes));
}

#define FILL "target=%#llx, value=%u, count=%zu"

API CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, size_t count)
{
	CONTEXT_CALL(FILL, target, value, count);
	return fillNow(target, value, count, 1, NULL);
}

API CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, Stream *stream)
{
	CONTEXT_CALL(FILL ", stream=%p", target, value, count, (void *)stream);
	return fillNow(target, value, count, 1, stream);
}

API CUresult cuMemsetD16_v2(CUdeviceptr target, unsigned short value, size_t count)
{
	CONTEXT_CALL(FILL, target, value, count);
	return fillNow(target, value, count, 2, NULL);
}

API CUresult cuMemsetD16Async(
	CUdeviceptr target, unsigned short value, size_t count, Stream *stream)
{
	CONTEXT_CALL(FILL ", stream=%p", target, value, count, (void *)stream);
	return fillNow(target, value, count, 2, stream);
}

API CUresult cuMemsetD32_v2(CUdeviceptr target, unsigned value, size_t count)
{
	CONTEXT_CALL(FILL, target, value, count);
	return fillNow(target, value, count, 4, NULL);
}

API CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, Stream *stream)
{
	CONTEXT_CALL(FILL ", stream=%p", target, value, count, (void *)stream);
	return fillNow(target, value, count, 4, stream);
}
