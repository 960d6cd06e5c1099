/* Virtual memory management: physical memory, address ranges, and mappings of one into
 * the other; and descriptors, by which processes share physical memory.
 *
 * A handle belongs to this process. Each import makes a new one, also of memory that
 * the process has already. Only descriptors cross processes. The memory lives as long
 * as a process has a handle, a mapping or a descriptor of it. Ranges, handles and
 * mappings are under `memoryLock`.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct Range {
	struct Range *next;
	uint64_t base, bytes;
} Range;

struct VmmHandle {
	VmmHandle *next;
	Physical *physical; /* one reference, as long as this is here */
	int releases; /* how often cuMemRelease is due */
	int mappings; /* mapped memory gives its handle back through cuMemRetainAllocationHandle */
	bool imported; /* an imported handle can not be exported again */
};

static Range *ranges;
static VmmHandle *handles;

/* A handle of memory whose reference becomes the handle's. */
static VmmHandle *handleNew(Physical *physical, bool imported)
{
	VmmHandle *made = malloc(sizeof *made);
	if (!made) {
		physicalRelease(physical);
		return NULL;
	}
	*made = (VmmHandle){.next = handles, .physical = physical, .releases = 1, .imported = imported};
	handles = made;
	return made;
}

static bool handleKnown(const VmmHandle *handle)
{
	for (VmmHandle *each = handles; each; each = each->next)
		if (each == handle)
			return each->releases > 0;
	return false;
}

static void handleTryReclaim(VmmHandle *handle)
{
	if (handle->releases || handle->mappings)
		return;
	VmmHandle **link = &handles;
	while (*link != handle)
		link = &(*link)->next;
	*link = handle->next;
	physicalRelease(handle->physical);
	free(handle);
}

void vmmUnmapped(VmmHandle *handle)
{
	handle->mappings--;
	handleTryReclaim(handle);
}

static bool aligned(uint64_t value) { return value && value % GRANULE == 0; }

static CUresult checkProp(const CUmemAllocationProp *prop)
{
	if (!prop || prop->type != 1 || prop->location.type != 1)
		return INVALID_VALUE;
	if (prop->location.id < 0 || prop->location.id >= driver.deviceCount)
		return INVALID_DEVICE;
	if (prop->requestedHandleTypes & ~1)
		return NOT_SUPPORTED;
	return prop->requestedHandleTypes && !driver.vmmFd ? NOT_SUPPORTED : OK;
}

API CUresult cuMemGetAllocationGranularity(
	size_t *granularity, const CUmemAllocationProp *prop, int option)
{
	CALL("option=%d", option);
	if (!granularity || (option != 0 && option != 1))
		return INVALID_VALUE;
	CHECK(checkProp(prop));
	*granularity = GRANULE;
	return OK;
}

API CUresult cuMemCreate(
	VmmHandle **handle, size_t bytes, const CUmemAllocationProp *prop, unsigned long long flags)
{
	CALL("bytes=%zu, flags=%llu", bytes, flags);
	if (!handle || flags || !aligned(bytes))
		return INVALID_VALUE;
	CHECK(checkProp(prop));
	pthread_mutex_lock(&memoryLock);
	Physical *made = NULL;
	CUresult result = physicalCreate(
		&made, prop->location.id, bytes, true, prop->requestedHandleTypes & 1);
	if (!result && !(*handle = handleNew(made, false)))
		result = OUT_OF_MEMORY;
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemRelease(VmmHandle *handle)
{
	CALL("handle=%p", (void *)handle);
	CUresult result = INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	if (handleKnown(handle)) {
		handle->releases--;
		handleTryReclaim(handle);
		result = OK;
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemRetainAllocationHandle(VmmHandle **handle, void *address)
{
	CALL("address=%p", address);
	if (!handle)
		return INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind((uint64_t)address);
	bool right = mapping && mapping->kind == KIND_VMM;
	if (right) {
		mapping->handle->releases++;
		*handle = mapping->handle;
	}
	pthread_mutex_unlock(&memoryLock);
	return right ? OK : INVALID_VALUE;
}

API CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, VmmHandle *handle)
{
	CALL("handle=%p", (void *)handle);
	CUresult result = INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	if (prop && handleKnown(handle)) {
		*prop = (CUmemAllocationProp){
			.type = 1, .requestedHandleTypes = handle->physical->exportable, .location = {1, 0}};
		int ordinal = deviceOrdinal(handle->physical->device);
		prop->location.id = ordinal < 0 ? 0 : ordinal;
		result = OK;
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemExportToShareableHandle(
	void *shared, VmmHandle *handle, int type, unsigned long long flags)
{
	CALL("handle=%p, type=%d, flags=%llu", (void *)handle, type, flags);
	if (!shared || flags)
		return INVALID_VALUE;
	if (type != 1 || !driver.vmmFd)
		return NOT_SUPPORTED;
	CUresult result = INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	if (handleKnown(handle) && handle->physical->exportable && !handle->imported) {
		int fd = fcntl(handle->physical->fd, F_DUPFD_CLOEXEC, 3);
		result = fd < 0 ? OPERATING_SYSTEM : OK;
		if (!result) {
			*(int *)shared = fd;
			ledgerShare(handle->physical->nonce);
		}
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemImportFromShareableHandle(VmmHandle **handle, void *shared, int type)
{
	CALL("descriptor=%d, type=%d", (int)(intptr_t)shared, type);
	if (!handle)
		return INVALID_VALUE;
	if (type != 1 || !driver.vmmFd)
		return NOT_SUPPORTED;
	Trailer trailer;
	pthread_mutex_lock(&memoryLock);
	Physical *made = NULL;
	CUresult result = physicalImport(&made, (int)(intptr_t)shared, true, &trailer);
	if (!result && !(*handle = handleNew(made, true)))
		result = OUT_OF_MEMORY;
	pthread_mutex_unlock(&memoryLock);
	return result == INVALID_VALUE ? UNKNOWN : result; /* a descriptor of something else */
}

API CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment,
	CUdeviceptr wished, unsigned long long flags)
{
	CALL("bytes=%zu, alignment=%zu, wished=%#llx, flags=%llu", bytes, alignment, wished, flags);
	if (!address || flags || !aligned(bytes) || (alignment & (alignment - 1)))
		return INVALID_VALUE;
	Range *range = malloc(sizeof *range);
	if (!range)
		return OUT_OF_MEMORY;
	uint64_t slack = alignment > GRANULE ? alignment : 0, start = 0;
	if (wished && wished % GRANULE == 0) { /* a hint: another address serves if it is in use */
		void *got = mmap((void *)wished, bytes, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		if (got == (void *)wished)
			start = wished, slack = 0;
		else if (got != MAP_FAILED)
			munmap(got, bytes);
	}
	if (!start) {
		start = reserveRange(bytes + slack);
		if (start && slack) {
			uint64_t at = roundUp(start, alignment);
			if (at > start)
				munmap((void *)start, at - start);
			if (start + slack > at)
				munmap((void *)(at + bytes), start + slack - at);
			start = at;
		}
	}
	if (!start) {
		free(range);
		return OUT_OF_MEMORY;
	}
	*range = (Range){.base = start, .bytes = bytes};
	pthread_mutex_lock(&memoryLock);
	range->next = ranges;
	ranges = range;
	pthread_mutex_unlock(&memoryLock);
	*address = start;
	return OK;
}

/* Under memoryLock. */
static bool anyMapped(uint64_t address, uint64_t bytes)
{
	for (size_t i = 0; i < mappingCount(); i++)
		if (mappingAt(i)->base < address + bytes &&
			mappingAt(i)->base + mappingAt(i)->bytes > address)
			return true;
	return false;
}

API CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
	CALL("address=%#llx, bytes=%zu", address, bytes);
	CUresult result = INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	Range **link = &ranges;
	while (*link && ((*link)->base != address || (*link)->bytes != bytes))
		link = &(*link)->next;
	Range *range = *link;
	if (range && !anyMapped(address, bytes)) {
		*link = range->next;
		munmap((void *)range->base, range->bytes);
		free(range);
		result = OK;
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemMap(
	CUdeviceptr address, size_t bytes, size_t offset, VmmHandle *handle, unsigned long long flags)
{
	CALL("address=%#llx, bytes=%zu, offset=%zu, handle=%p, flags=%llu", address, bytes, offset,
		(void *)handle, flags);
	if (flags || offset || !aligned(bytes) || address % GRANULE)
		return INVALID_VALUE;
	CUresult result = INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	bool reserved = false;
	for (Range *each = ranges; each && !reserved; each = each->next)
		reserved = each->base <= address && address + bytes <= each->base + each->bytes;
	if (reserved && handleKnown(handle)) {
		if (bytes < handle->physical->bytes)
			result = NOT_SUPPORTED;
		else if (bytes == handle->physical->bytes &&
			mappingAdd((Mapping){.base = address,
				.bytes = bytes,
				.kind = KIND_VMM,
				.physical = handle->physical,
				.handle = handle})) {
			handle->mappings++;
			result = OK;
		}
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

/* Whether whole mappings, and nothing else, make up the range; under memoryLock. */
static bool wholeMappings(uint64_t address, uint64_t bytes)
{
	uint64_t at = address;
	while (at < address + bytes) {
		Mapping *mapping = mappingFind(at);
		if (!mapping || mapping->kind != KIND_VMM || mapping->base != at)
			return false;
		at += mapping->bytes;
	}
	return bytes && at == address + bytes;
}

API CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
	CALL("address=%#llx, bytes=%zu", address, bytes);
	pthread_mutex_lock(&memoryLock);
	bool right = wholeMappings(address, bytes);
	for (uint64_t at = address; right && at < address + bytes;) {
		Mapping *mapping = mappingFind(at);
		at += mapping->bytes;
		mappingRemove(mapping);
	}
	pthread_mutex_unlock(&memoryLock);
	return right ? OK : INVALID_VALUE;
}

/* Whether a device can be given access to a mapping, under memoryLock. */
static CUresult checkAccess(const Mapping *mapping, const CUmemAccessDesc *wanted)
{
	int device = wanted->location.id, home = deviceOrdinal(mapping->physical->device);
	if (!wanted->flags || device == home)
		return OK;
	if (home < 0 || !driver.peer[device][home])
		return INVALID_DEVICE;
	return linkOf(driver.physical[device], driver.physical[home])->refuses ? OUT_OF_MEMORY : OK;
}

static CUresult checkEntry(const CUmemAccessDesc *wanted)
{
	bool right = wanted->location.type == 1 && wanted->location.id >= 0 &&
		wanted->location.id < driver.deviceCount &&
		(wanted->flags == 0 || wanted->flags == 1 || wanted->flags == 3);
	return right ? OK : INVALID_VALUE;
}

/* All of the entries hold, or none. */
API CUresult cuMemSetAccess(
	CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t entries)
{
	CALL("address=%#llx, bytes=%zu, entries=%zu, flags=%d, GPU %d", address, bytes, entries,
		access && entries ? access->flags : -1, access && entries ? access->location.id : -1);
	if (!access || !entries)
		return INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	CUresult result = wholeMappings(address, bytes) ? OK : INVALID_VALUE;
	for (size_t i = 0; i < entries && !result; i++) {
		result = checkEntry(&access[i]);
		for (uint64_t at = address; !result && at < address + bytes;) {
			Mapping *mapping = mappingFind(at);
			result = checkAccess(mapping, &access[i]);
			at += mapping->bytes;
		}
	}
	for (size_t i = 0; i < entries && !result; i++)
		for (uint64_t at = address; at < address + bytes;) {
			Mapping *mapping = mappingFind(at);
			mapping->access[access[i].location.id] = (unsigned char)access[i].flags;
			at += mapping->bytes;
		}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemGetAccess(
	unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
	CALL("address=%#llx", address);
	if (!flags || !location || location->id < 0 || location->id >= driver.deviceCount)
		return INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	bool right = mapping && mapping->kind == KIND_VMM;
	if (right)
		*flags = mapping->access[location->id];
	pthread_mutex_unlock(&memoryLock);
	return right ? OK : INVALID_VALUE;
}
