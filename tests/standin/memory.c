/* Memory: physical memory (each piece is a memfd), the table of address ranges, and the
 * calls that allocate, register and query.
 *
 * A device address is in a PROT_NONE range, so the host faults on it as on a real one.
 * Copies and kernels use the read-write alias of the same memfd. Ranges belong to this
 * process. A memfd is shared with the processes that have opened it through
 * /proc/<pid>/fd or have received its descriptor, and ends with the last of them,
 * however that dies. Small allocations share a block of 2 MiB, as in the real driver,
 * so handles contain an offset.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SMALL = 1 << 20, ALIGNMENT = 512, POISON = 0xA5, POISON_BYTES = 1 << 20 };
static const uint64_t TRAILER_MAGIC = 0x6e6974726169c5c5u;

pthread_mutex_t memoryLock = PTHREAD_MUTEX_INITIALIZER;
static Mapping **table; /* sorted by base */
static size_t count, room;
static Physical *physicals;
static uint64_t lastId, hostBytes;

uint64_t roundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

/* --- the table of ranges --- */

size_t mappingCount(void) { return count; }
Mapping *mappingAt(size_t index) { return table[index]; }

/* The first range that ends after `address`. */
static size_t indexAfter(uint64_t address)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (table[middle]->base + table[middle]->bytes <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

Mapping *mappingFind(uint64_t address)
{
	size_t at = indexAfter(address);
	return at < count && table[at]->base <= address ? table[at] : NULL;
}

Mapping *mappingAdd(Mapping mapping)
{
	size_t at = indexAfter(mapping.base);
	if (at < count && table[at]->base < mapping.base + mapping.bytes)
		return NULL;
	if (count == room) {
		size_t more = room ? room * 2 : 64;
		Mapping **grown = realloc(table, more * sizeof *table);
		if (!grown)
			return NULL;
		table = grown;
		room = more;
	}
	Mapping *made = malloc(sizeof *made);
	if (!made)
		return NULL;
	*made = mapping;
	made->id = ++lastId;
	if (made->physical)
		made->physical->refs++;
	if (made->kind == KIND_HOST || made->kind == KIND_REGISTERED)
		hostBytes += made->bytes;
	memmove(table + at + 1, table + at, (count - at) * sizeof *table);
	table[at] = made;
	count++;
	return made;
}

void mappingRemove(Mapping *mapping)
{
	size_t at = indexAfter(mapping->base);
	memmove(table + at, table + at + 1, (--count - at) * sizeof *table);
	if (mapping->kind == KIND_HOST || mapping->kind == KIND_REGISTERED)
		hostBytes -= mapping->bytes;
	if (mapping->kind == KIND_HOST)
		munmap((void *)mapping->base, roundUp(mapping->bytes, PAGE));
	if (mapping->handle)
		vmmUnmapped(mapping->handle);
	if (mapping->physical)
		physicalRelease(mapping->physical);
	free(mapping);
}

uint64_t reserveRange(uint64_t bytes)
{
	char *all = mmap(
		NULL, bytes + GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED)
		return 0;
	uint64_t start = roundUp((uint64_t)all, GRANULE), before = start - (uint64_t)all;
	if (before)
		munmap(all, before);
	if (GRANULE - before)
		munmap((char *)start + bytes, GRANULE - before);
	return start;
}

/* --- physical memory --- */

static Physical *enter(int fd, const Trailer *trailer)
{
	Physical *made = calloc(1, sizeof *made);
	if (!made)
		return NULL;
	*made = (Physical){.fd = fd,
		.device = trailer->device,
		.bytes = trailer->bytes,
		.nonce = trailer->nonce,
		.refs = 1,
		.exportable = trailer->exportable};
	made->alias = mmap(NULL, made->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (made->alias == MAP_FAILED) {
		free(made);
		return NULL;
	}
	madvise(made->alias, made->bytes, MADV_DONTFORK);
	made->next = physicals;
	physicals = made;
	return made;
}

CUresult physicalCreate(Physical **made, int device, uint64_t bytes, bool vmm, bool exportable)
{
	int host = driver.physical[device];
	Trailer trailer = {.magic = TRAILER_MAGIC,
		.nonce = freshNonce(),
		.bytes = bytes,
		.device = host,
		.vmm = vmm,
		.exportable = exportable,
		.exporter = getpid(),
		.exporterStart = processStart(getpid())};
	CHECK(ledgerHold(trailer.nonce, host, bytes, driver.memoryBytes));
	char name[32];
	snprintf(name, sizeof name, MEMORY_NAME, (unsigned long long)trailer.nonce);
	int fd = memfd_create(name, MFD_CLOEXEC);
	CUresult result = fd < 0 ? OPERATING_SYSTEM : OK;
	if (!result &&
		(ftruncate(fd, (off_t)(bytes + PAGE)) ||
			pwrite(fd, &trailer, sizeof trailer, (off_t)bytes) != sizeof trailer))
		result = OUT_OF_MEMORY;
	if (!result && !(*made = enter(fd, &trailer)))
		result = OUT_OF_MEMORY;
	if (result) {
		perror("standin: memory of the host");
		if (fd >= 0)
			close(fd);
		ledgerDrop(trailer.nonce);
		return result;
	}
	if (settingBytes("STANDIN_POISON", 1))
		memset((*made)->alias, POISON, bytes < POISON_BYTES ? bytes : POISON_BYTES);
	return OK;
}

Physical *physicalOf(uint64_t nonce)
{
	for (Physical *each = physicals; each; each = each->next)
		if (each->nonce == nonce)
			return each;
	return NULL;
}

bool physicalKnown(const Physical *physical)
{
	for (Physical *each = physicals; each; each = each->next)
		if (each == physical)
			return true;
	return false;
}

CUresult physicalImport(Physical **made, int fd, bool vmm, Trailer *trailer)
{
	struct stat about;
	if (fstat(fd, &about) || !S_ISREG(about.st_mode) || about.st_size < 2 * PAGE)
		return INVALID_VALUE;
	uint64_t bytes = (uint64_t)about.st_size - PAGE;
	if (pread(fd, trailer, sizeof *trailer, (off_t)bytes) != sizeof *trailer ||
		trailer->magic != TRAILER_MAGIC || trailer->bytes != bytes || (bool)trailer->vmm != vmm ||
		(vmm && !trailer->exportable))
		return INVALID_VALUE;
	Physical *have = physicalOf(trailer->nonce);
	if (have) {
		have->refs++;
		*made = have;
		return OK;
	}
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0)
		return OPERATING_SYSTEM;
	if (!(*made = enter(own, trailer))) {
		close(own);
		return MAPPING_FAILED;
	}
	ledgerHold(trailer->nonce, trailer->device, bytes, 0);
	ledgerShare(trailer->nonce);
	return OK;
}

void physicalRelease(Physical *physical)
{
	if (--physical->refs)
		return;
	Physical **link = &physicals;
	while (*link != physical)
		link = &(*link)->next;
	*link = physical->next;
	munmap(physical->alias, physical->bytes);
	if (physical->deviceVa)
		munmap((void *)physical->deviceVa, roundUp(physical->bytes, GRANULE));
	if (physical->fd >= 0)
		close(physical->fd);
	ledgerDrop(physical->nonce);
	free(physical);
}

/* --- addresses --- */

static bool mayUse(const Mapping *mapping, bool write)
{
	if (mapping->kind == KIND_REGISTERED)
		return !(write && mapping->flags & 8);
	if (mapping->kind != KIND_VMM)
		return true;
	for (int i = 0; i < MAX_DEVICES; i++)
		if ((mapping->access[i] & (write ? 3 : 1)) == (write ? 3 : 1))
			return true;
	return false;
}

static bool lostWithExporter(const Mapping *mapping)
{
	const char *text = getenv("STANDIN_IPC_DEATH");
	return text && !strcmp(text, "lost") &&
		processStart(mapping->exporter) != mapping->exporterStart;
}

CUresult resolve(uint64_t address, uint64_t *bytes, int how, char **where, Physical **held)
{
	CUresult result = OK;
	pthread_mutex_lock(&memoryLock);
	size_t at = indexAfter(address);
	Mapping *mapping = at < count && table[at]->base <= address ? table[at] : NULL;
	*held = NULL;
	if (!mapping) { /* plain host memory, up to the next range that is known */
		if (at < count && table[at]->base - address < *bytes)
			*bytes = table[at]->base - address;
		*where = (char *)address;
		if (how & KNOWN)
			result = ILLEGAL_ADDRESS;
	} else {
		uint64_t within = address - mapping->base;
		if (mapping->bytes - within < *bytes)
			*bytes = mapping->bytes - within;
		if (!mayUse(mapping, how & TO_WRITE) ||
			(mapping->kind == KIND_IPC && lostWithExporter(mapping))) {
			result = ILLEGAL_ADDRESS;
		} else if (mapping->physical && mapping->kind != KIND_MANAGED) {
			*where = mapping->physical->alias + mapping->offset + within;
			*held = mapping->physical;
			mapping->physical->refs++;
		} else {
			*where = (char *)address;
		}
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

void physicalUnpin(Physical *held)
{
	if (!held)
		return;
	pthread_mutex_lock(&memoryLock);
	physicalRelease(held);
	pthread_mutex_unlock(&memoryLock);
}

static bool covered(uint64_t address, uint64_t bytes, bool device)
{
	bool all = true;
	pthread_mutex_lock(&memoryLock);
	for (uint64_t at = address; all && at < address + (bytes ? bytes : 1);) {
		Mapping *mapping = mappingFind(at);
		bool isHost = mapping && (mapping->kind == KIND_HOST || mapping->kind == KIND_REGISTERED);
		all = mapping && isHost != device;
		if (all)
			at = mapping->base + mapping->bytes;
	}
	pthread_mutex_unlock(&memoryLock);
	return all;
}

bool isDevice(uint64_t address, uint64_t bytes) { return covered(address, bytes, true); }
bool isPinned(uint64_t address, uint64_t bytes) { return covered(address, bytes, false); }

/* --- allocating device memory --- */

/* A range of `bytes` in a block of this context, or 0 if a new block is needed. Under
 * memoryLock. */
static Mapping *placeInBlock(Context *context, uint64_t bytes, uint64_t asked)
{
	for (Physical *block = physicals; block; block = block->next) {
		if (!block->block || block->device != driver.physical[context->device])
			continue;
		uint64_t at = block->deviceVa;
		bool mine = false;
		for (size_t i = indexAfter(block->deviceVa);
			i < count && table[i]->base < block->deviceVa + block->bytes; i++) {
			mine = table[i]->context == context;
			if (!mine || table[i]->base - at >= bytes)
				break;
			at = roundUp(table[i]->base + table[i]->bytes, ALIGNMENT);
		}
		if (mine && at + bytes <= block->deviceVa + block->bytes)
			return mappingAdd((Mapping){.base = at,
				.bytes = asked,
				.kind = KIND_DEVICE,
				.physical = block,
				.offset = at - block->deviceVa,
				.context = context});
	}
	return NULL;
}

API CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
	CONTEXT_CALL("bytes=%zu", bytes);
	if (!address || !bytes)
		return INVALID_VALUE;
	if (bytes > driver.memoryBytes)
		return OUT_OF_MEMORY;
	CUresult result = OK;
	pthread_mutex_lock(&memoryLock);
	Mapping *made = bytes <= SMALL ? placeInBlock(context, roundUp(bytes, ALIGNMENT), bytes) : NULL;
	if (!made) {
		Physical *physical;
		result = physicalCreate(&physical, context->device, roundUp(bytes, GRANULE), false, false);
		if (!result) {
			physical->block = bytes <= SMALL;
			physical->deviceVa = reserveRange(physical->bytes);
			if (physical->deviceVa)
				made = mappingAdd((Mapping){.base = physical->deviceVa,
					.bytes = bytes,
					.kind = KIND_DEVICE,
					.physical = physical,
					.context = context});
			physicalRelease(physical);
			if (!made) {
				perror("standin: addresses for memory");
				result = OUT_OF_MEMORY;
			}
		}
	}
	if (made)
		*address = made->base;
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned flags)
{
	CONTEXT_CALL("bytes=%zu, flags=%u", bytes, flags);
	if (!address || !bytes || (flags != 1 && flags != 2))
		return INVALID_VALUE;
	CUresult result;
	pthread_mutex_lock(&memoryLock);
	Physical *physical;
	result = physicalCreate(&physical, context->device, roundUp(bytes, GRANULE), false, false);
	if (!result) {
		Mapping *made = mappingAdd((Mapping){.base = (uint64_t)physical->alias,
			.bytes = bytes,
			.kind = KIND_MANAGED,
			.physical = physical,
			.context = context});
		physicalRelease(physical);
		if (made)
			*address = made->base;
		else
			result = OUT_OF_MEMORY;
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemFree_v2(CUdeviceptr address)
{
	CONTEXT_CALL("address=%#llx", address);
	if (!address)
		return OK;
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	bool right = mapping && mapping->base == address &&
		(mapping->kind == KIND_DEVICE || mapping->kind == KIND_MANAGED);
	Context *owner = right ? mapping->context : NULL;
	pthread_mutex_unlock(&memoryLock);
	if (!right)
		return INVALID_VALUE;
	CUresult result = freeingIdle(owner); /* freeing waits for the device, as on the real one */
	pthread_mutex_lock(&memoryLock);
	mapping = mappingFind(address);
	if (mapping && mapping->base == address)
		mappingRemove(mapping);
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemGetInfo_v2(size_t *freeBytes, size_t *totalBytes)
{
	CONTEXT_CALL("");
	uint64_t used = ledgerUsed(driver.physical[context->device]);
	if (freeBytes)
		*freeBytes = used < driver.memoryBytes ? driver.memoryBytes - used : 0;
	if (totalBytes)
		*totalBytes = driver.memoryBytes;
	return OK;
}

API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address)
{
	CONTEXT_CALL("address=%#llx", address);
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	if (mapping && base)
		*base = mapping->base;
	if (mapping && bytes)
		*bytes = mapping->bytes;
	pthread_mutex_unlock(&memoryLock);
	return mapping ? OK : NOT_FOUND;
}

/* --- host memory --- */

static bool overBudget(uint64_t bytes)
{
	uint64_t limit = settingBytes("STANDIN_HOST_MAPPED", 0);
	return limit && hostBytes + bytes > limit;
}

API CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags)
{
	CONTEXT_CALL("bytes=%zu, flags=%u", bytes, flags);
	if (!address || !bytes || flags > 7)
		return INVALID_VALUE;
	CUresult result = OUT_OF_MEMORY;
	pthread_mutex_lock(&memoryLock);
	void *made = overBudget(bytes) ? MAP_FAILED
								   : mmap(NULL, roundUp(bytes, PAGE), PROT_READ | PROT_WRITE,
										 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (made != MAP_FAILED) {
		if (mappingAdd((Mapping){.base = (uint64_t)made,
				.bytes = bytes,
				.kind = KIND_HOST,
				.context = context,
				.flags = flags})) {
			*address = made;
			result = OK;
		} else {
			munmap(made, roundUp(bytes, PAGE));
		}
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemAllocHost_v2(void **address, size_t bytes)
{
	return cuMemHostAlloc(address, bytes, 3);
}

/* The memory ended with its context. Freeing it in that context ends the process:
 * "free(): invalid pointer" (seen on an H200). */
static void refuseDestroyed(void)
{
	Context *current = contextCurrent();
	if (!current || !current->destroyed)
		return;
	fprintf(stderr, "stand-in: host memory is freed in a context that was destroyed\n");
	abort();
}

API CUresult cuMemFreeHost(void *address)
{
	refuseDestroyed();
	CONTEXT_CALL("address=%p", address);
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind((uint64_t)address);
	bool right = mapping && mapping->kind == KIND_HOST && mapping->base == (uint64_t)address;
	Context *owner = right ? mapping->context : NULL;
	pthread_mutex_unlock(&memoryLock);
	if (!right)
		return INVALID_VALUE;
	CUresult result = freeingIdle(owner);
	pthread_mutex_lock(&memoryLock);
	mapping = mappingFind((uint64_t)address);
	if (mapping)
		mappingRemove(mapping);
	pthread_mutex_unlock(&memoryLock);
	return result;
}

/* Whether [address, address + bytes) is mapped, and writable if asked, by
 * /proc/self/maps. */
static bool hostMapped(uint64_t address, uint64_t bytes, bool writable)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return true;
	uint64_t reached = address, low, high;
	char line[512], rights[8];
	while (reached < address + bytes && fgets(line, sizeof line, maps)) {
		unsigned long first, last;
		if (sscanf(line, "%lx-%lx %7s", &first, &last, rights) != 3)
			continue;
		low = first, high = last;
		if (high <= reached)
			continue;
		if (low > reached || rights[0] != 'r' || (writable && rights[1] != 'w'))
			break;
		reached = high;
	}
	fclose(maps);
	return reached >= address + bytes;
}

API CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags)
{
	CONTEXT_CALL("address=%p, bytes=%zu, flags=%u", address, bytes, flags);
	uint64_t base = (uint64_t)address;
	if (!address || !bytes || flags > 15 || base + bytes < base)
		return INVALID_VALUE;
	if (flags & 8 && !driver.readOnlyRegister)
		return NOT_SUPPORTED;
	if (!hostMapped(base, bytes, !(flags & 8)))
		return INVALID_VALUE;
	CUresult result = OK;
	pthread_mutex_lock(&memoryLock);
	size_t at = indexAfter(base);
	if (at < count && table[at]->base < base + bytes)
		result = HOST_MEMORY_ALREADY_REGISTERED;
	else if (overBudget(bytes))
		result = OUT_OF_MEMORY;
	else if (!mappingAdd((Mapping){.base = base,
				 .bytes = bytes,
				 .kind = KIND_REGISTERED,
				 .context = context,
				 .flags = flags}))
		result = OUT_OF_MEMORY;
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemHostUnregister(void *address)
{
	CONTEXT_CALL("address=%p", address);
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind((uint64_t)address);
	bool right = mapping && mapping->kind == KIND_REGISTERED && mapping->base == (uint64_t)address;
	Context *owner = right ? mapping->context : NULL;
	pthread_mutex_unlock(&memoryLock);
	if (!right)
		return mapping && mapping->kind == KIND_REGISTERED ? INVALID_VALUE
														   : HOST_MEMORY_NOT_REGISTERED;
	CUresult result = freeingIdle(owner);
	pthread_mutex_lock(&memoryLock);
	mapping = mappingFind((uint64_t)address);
	if (mapping)
		mappingRemove(mapping);
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *host, unsigned flags)
{
	CONTEXT_CALL("host=%p, flags=%u", host, flags);
	if (!device || flags)
		return INVALID_VALUE;
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind((uint64_t)host);
	bool right = mapping && (mapping->kind == KIND_HOST || mapping->kind == KIND_REGISTERED);
	pthread_mutex_unlock(&memoryLock);
	if (!right)
		return INVALID_VALUE;
	*device = (CUdeviceptr)host;
	return OK;
}

API CUresult cuMemHostGetFlags(unsigned *flags, void *host)
{
	CONTEXT_CALL("host=%p", host);
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind((uint64_t)host);
	bool right = flags && mapping &&
		(mapping->kind == KIND_HOST || mapping->kind == KIND_REGISTERED);
	if (right)
		*flags = mapping->flags | 2;
	pthread_mutex_unlock(&memoryLock);
	return right ? OK : INVALID_VALUE;
}

/* --- what a pointer is --- */

static CUresult attributeOf(void *data, int attribute, uint64_t address)
{
	static const unsigned sizes[] = {
		0, 8, 4, 8, 8, 16, 4, 8, 4, 4, 4, 8, 8, 4, 8, 4, 4, 8, 8, 8, 8};
	if (attribute < 1 || attribute > 20)
		return INVALID_VALUE;
	memset(data, 0, sizes[attribute]);
	CUresult result = OK;
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	bool host = mapping && (mapping->kind == KIND_HOST || mapping->kind == KIND_REGISTERED);
	uint64_t value = 0;
	if (!mapping) {
		if (attribute == 9)
			*(int *)data = -2;
		result = INVALID_VALUE;
	} else {
		switch (attribute) {
		case 1:
			value = mapping->kind == KIND_VMM ? 0 : (uint64_t)mapping->context;
			break;
		case 2:
			value = host ? 1 : 2;
			break;
		case 3:
			value = address;
			break;
		case 4:
			value = host || mapping->kind == KIND_MANAGED ? address : 0;
			if (!value)
				result = INVALID_VALUE;
			break;
		case 7:
			value = mapping->id;
			break;
		case 8:
			value = mapping->kind == KIND_MANAGED;
			break;
		case 9:
			value = mapping->context ? (uint64_t)mapping->context->device : 0;
			if (mapping->physical && deviceOrdinal(mapping->physical->device) >= 0)
				value = (uint64_t)deviceOrdinal(mapping->physical->device);
			break;
		case 10:
			value = mapping->kind == KIND_DEVICE;
			break;
		case 11:
			value = mapping->base;
			break;
		case 12:
			value = mapping->bytes;
			break;
		case 13:
			value = 1;
			break;
		case 14:
			value = mapping->kind == KIND_VMM && mapping->physical->exportable ? 1 : 0;
			break;
		case 16:
			value = mayUse(mapping, true) ? 3 : mayUse(mapping, false) ? 1 : 0;
			break;
		case 18:
			value = mapping->bytes;
			break;
		case 19:
			value = mapping->base;
			break;
		case 20:
			value = mapping->physical ? mapping->physical->nonce : 0;
			break;
		default:
			break;
		}
		if (sizes[attribute] == 4)
			*(uint32_t *)data = (uint32_t)value;
		else
			*(uint64_t *)data = value;
	}
	pthread_mutex_unlock(&memoryLock);
	return result;
}

API CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr address)
{
	CALL("attribute=%d, address=%#llx", attribute, address);
	if (!contextCurrent())
		return INVALID_CONTEXT;
	return data ? attributeOf(data, attribute, address) : INVALID_VALUE;
}

API CUresult cuPointerGetAttributes(
	unsigned asked, int *attributes, void **data, CUdeviceptr address)
{
	CONTEXT_CALL("count=%u, address=%#llx", asked, address);
	if (!attributes || !data || !asked)
		return INVALID_VALUE;
	for (unsigned i = 0; i < asked; i++) {
		if (attributes[i] < 1 || attributes[i] > 20)
			return INVALID_VALUE;
		attributeOf(data[i], attributes[i],
			address); /* an unknown pointer reads zero here, and is no error */
	}
	return OK;
}

API CUresult cuPointerSetAttribute(const void *value, int attribute, CUdeviceptr address)
{
	CONTEXT_CALL("attribute=%d, address=%#llx", attribute, address);
	return value && attribute == 6 ? OK : INVALID_VALUE;
}

/* --- for CPU references of kernels, and for tests --- */

/* The host address of device memory, for a CPU reference; NULL if the access is not
 * allowed, or the device of the launch does not reach the memory. The memory stays as long as the
 * launch that gave the address. */
API void *standinHostPointer(CUdeviceptr address, uint64_t bytes, int write)
{
	char *where = NULL;
	Physical *held = NULL;
	uint64_t reached = bytes;
	Context *context = contextCurrent();
	pthread_mutex_lock(&memoryLock);
	Mapping *mapping = mappingFind(address);
	bool isApart = context && mapping && mapping->physical && mapping->kind != KIND_MANAGED &&
		!reaches(context->device, mapping, write);
	pthread_mutex_unlock(&memoryLock);
	if (isApart)
		return NULL;
	if (resolve(address, &reached, KNOWN | (write ? TO_WRITE : TO_READ), &where, &held) ||
		reached < bytes)
		where = NULL;
	physicalUnpin(held);
	return where;
}
