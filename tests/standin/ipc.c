/* IPC handles: 64 bytes that name memory or an event of another process.
 *
 * The bytes are the exporter's pid and start time, its descriptor, and the nonce of the
 * memory behind the descriptor. The importer opens /proc/<pid>/fd/<n>, and accepts the
 * file only if its nonce is the same. STANDIN_IPC_DEATH says whether importers keep the
 * memory when the exporter is dead or has freed it: keep (the default) or lost.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint32_t MEMORY_MAGIC = 0x6d454d53u, EVENT_MAGIC = 0x76454d53u;

typedef struct {
	uint32_t magic;
	int32_t pid, fd, device;
	uint64_t start, nonce, offset, bytes;
	char unused[16];
} Handle;
_Static_assert(sizeof(Handle) == 64, "a handle is 64 bytes");

static CUresult openPeer(const Handle *handle, int *fd)
{
	if (processStart(handle->pid) != handle->start)
		return INVALID_HANDLE;
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/fd/%d", handle->pid, handle->fd);
	*fd = open(path, O_RDWR | O_CLOEXEC);
	return *fd >= 0                          ? OK
		: errno == EMFILE || errno == ENFILE ? OPERATING_SYSTEM
											 : INVALID_VALUE; /* its memory was freed */
}

API CUresult cuIpcGetMemHandle(CUipcHandle *out, CUdeviceptr address)
{
	CONTEXT_CALL("address=%#llx", address);
	if (!out)
		return INVALID_VALUE;
	CUresult result = INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	if (mapping && mapping->kind == KIND_DEVICE) {
		Handle handle = {.magic = MEMORY_MAGIC,
			.pid = getpid(),
			.fd = mapping->physical->fd,
			.device = mapping->physical->device,
			.start = processStart(getpid()),
			.nonce = mapping->physical->nonce,
			.offset = mapping->offset,
			.bytes = mapping->bytes};
		memcpy(out, &handle, sizeof handle);
		result = OK;
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

/* The range of an import that is open already: opening it again counts it up;
 * under memoryLock. */
static Mapping *openedBefore(const Handle *handle)
{
	for (size_t i = 0; i < mappingCount(); i++) {
		Mapping *mapping = mappingAt(i);
		if (mapping->kind == KIND_IPC && mapping->physical->nonce == handle->nonce &&
			mapping->offset == handle->offset)
			return mapping;
	}
	return NULL;
}

static CUresult mapImport(const Handle *handle, int fd, Context *context, uint64_t *address)
{
	Trailer trailer;
	Physical *physical;
	CUresult result = physicalImport(&physical, fd, false, &trailer);
	if (result)
		return result == OPERATING_SYSTEM ? result : INVALID_VALUE;
	bool right = trailer.nonce == handle->nonce && trailer.device == handle->device &&
		handle->bytes && handle->offset < trailer.bytes &&
		handle->bytes <= trailer.bytes - handle->offset;
	if (right && !physical->deviceVa)
		physical->deviceVa = reserveRange(physical->bytes);
	Mapping *made = !right || !physical->deviceVa
		? NULL
		: mappingAdd((Mapping){.base = physical->deviceVa + handle->offset,
			  .bytes = handle->bytes,
			  .kind = KIND_IPC,
			  .physical = physical,
			  .offset = handle->offset,
			  .context = context,
			  .opens = 1,
			  .exporter = handle->pid,
			  .exporterStart = handle->start});
	physicalRelease(physical);
	if (!made)
		return right ? MAPPING_FAILED : INVALID_VALUE;
	*address = made->base;
	return OK;
}

API CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *address, CUipcHandle raw, unsigned flags)
{
	CONTEXT_CALL("flags=%u", flags);
	Handle handle;
	memcpy(&handle, &raw, sizeof handle);
	if (!address || flags != 1)
		return INVALID_VALUE;
	if (handle.magic != MEMORY_MAGIC)
		return INVALID_VALUE;
	if (handle.pid == getpid())
		return INVALID_CONTEXT;
	int ordinal = deviceOrdinal(handle.device);
	if (ordinal < 0)
		return INVALID_DEVICE;
	if (ordinal != context->device && !driver.peer[context->device][ordinal])
		return PEER_ACCESS_UNSUPPORTED;
	if (linkOf(driver.physical[context->device], handle.device)->refuses)
		return TOO_MANY_PEERS;
	int fd;
	CHECK(openPeer(&handle, &fd));
	CUresult result = OK;
	uint64_t made = 0;
	pthread_mutex_lock(&memoryLock);
	Mapping *before = openedBefore(&handle);
	if (before)
		before->opens++, made = before->base;
	else
		result = mapImport(&handle, fd, context, &made);
	pthread_mutex_unlock(&memoryLock);
	close(fd);
	*address = made;
	return result;
}

API CUresult cuIpcCloseMemHandle(CUdeviceptr address)
{
	CONTEXT_CALL("address=%#llx", address);
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	bool right = mapping && mapping->kind == KIND_IPC && mapping->base == address;
	bool last = right && --mapping->opens == 0;
	Context *owner = right ? mapping->context : NULL;
	pthread_mutex_unlock(&memoryLock);
	if (!right)
		return INVALID_VALUE;
	if (!last)
		return OK;
	CUresult result = freeingIdle(owner);
	pthread_mutex_lock(&memoryLock);
	mapping = mappingFind(address);
	if (mapping && mapping->kind == KIND_IPC && !mapping->opens)
		mappingRemove(mapping);
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuIpcGetEventHandle(CUipcHandle *out, Event *event)
{
	CONTEXT_CALL("event=%p", (void *)event);
	if (!out)
		return INVALID_VALUE;
	Handle handle = {.magic = EVENT_MAGIC, .pid = getpid(), .start = processStart(getpid())};
	CHECK(eventExport(event, &handle.fd, &handle.nonce));
	memcpy(out, &handle, sizeof handle);
	return OK;
}

API CUresult cuIpcOpenEventHandle(Event **event, CUipcHandle raw)
{
	CONTEXT_CALL("event=%p", (void *)event);
	Handle handle;
	memcpy(&handle, &raw, sizeof handle);
	if (!event)
		return INVALID_VALUE;
	if (handle.magic != EVENT_MAGIC)
		return INVALID_HANDLE;
	if (handle.pid == getpid())
		return INVALID_CONTEXT;
	int fd;
	CHECK(openPeer(&handle, &fd));
	CUresult result = eventImport(fd, handle.nonce, event);
	close(fd);
	return result;
}
