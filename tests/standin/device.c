/* Devices and contexts: the settings that cuInit reads from the environment, the
 * attributes, the primary contexts, and the stack of contexts of each thread.
 *
 * All of it belongs to the process. After a fork the child has none of it: each call
 * that needs cuInit returns NOT_INITIALIZED.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Driver driver = {.driverVersion = 13000};

enum { STACK_DEPTH = 64, MAX_HOST_DEVICES = 64 };
static Context primaries[MAX_DEVICES];
static Context *created; /* by cuCtxCreate; under memoryLock */
static _Thread_local Context *stack[STACK_DEPTH];
static _Thread_local int depth;
static pthread_mutex_t initLock = PTHREAD_MUTEX_INITIALIZER;

static void beforeFork(void) { pthread_mutex_lock(&memoryLock); }
static void afterForkParent(void) { pthread_mutex_unlock(&memoryLock); }
static void afterForkChild(void)
{
	driver.forked = true;
	/* An open descriptor of the child would keep memory that the ledger does not
	 * count. */
	for (size_t i = 0; i < mappingCount(); i++) {
		Physical *physical = mappingAt(i)->physical;
		if (physical && physical->fd >= 0)
			close(physical->fd), physical->fd = -1;
	}
	pthread_mutex_unlock(&memoryLock);
}

static void readDevices(void)
{
	int host = (int)settingBytes("STANDIN_DEVICES", 1);
	host = host < 0 ? 0 : host > MAX_DEVICES ? MAX_DEVICES : host;
	linksRead(host);
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	if (!visible) {
		for (int i = 0; i < host; i++)
			driver.physical[driver.deviceCount++] = i;
	} else {
		while (*visible && driver.deviceCount < MAX_DEVICES) {
			char *end;
			long index = strtol(visible, &end, 10);
			if (end == visible || index < 0 || index >= host)
				break; /* like the real driver: devices after an unknown index are not visible */
			driver.physical[driver.deviceCount++] = (int)index;
			visible = *end == ',' ? end + 1 : end;
		}
	}
	for (int i = 0; i < driver.deviceCount; i++) {
		primaries[i].device = i;
		primaries[i].primary = true;
		for (int j = 0; j < driver.deviceCount; j++)
			driver.peer[i][j] = !linkOf(driver.physical[i], driver.physical[j])->absent;
	}
}

API CUresult cuInit(unsigned flags)
{
	FREE_CALL("flags=%u", flags);
	if (flags)
		return INVALID_VALUE;
	CUresult result = OK;
	pthread_mutex_lock(&initLock);
	if (!driver.ready) {
		driver.driverVersion = (int)settingBytes("STANDIN_DRIVER", 13000);
		driver.memoryBytes = settingBytes("STANDIN_MEMORY", 2ull << 30);
		driver.contextBytes = settingBytes("STANDIN_CONTEXT", 8ull << 20);
		driver.vmmFd = settingBytes("STANDIN_VMM_FD", 1);
		driver.readOnlyRegister = settingBytes("STANDIN_READ_ONLY", 1);
		readDevices();
		result = driver.deviceCount ? ledgerOpen() : NO_DEVICE;
		if (!result) {
			pthread_atfork(beforeFork, afterForkParent, afterForkChild);
			driver.ready = true;
			const char *references = getenv("STANDIN_REFERENCES");
			void *library = references && *references ? dlopen(references, RTLD_NOW) : NULL;
			void (*enrol)(void) = NULL;
			if (library)
				*(void **)&enrol = dlsym(library, "standinReferences");
			if (enrol)
				enrol();
		} else {
			driver.deviceCount = 0;
		}
	}
	pthread_mutex_unlock(&initLock);
	return result;
}

API CUresult cuDriverGetVersion(int *version)
{
	FREE_CALL("");
	if (!version)
		return INVALID_VALUE;
	*version = (int)settingBytes("STANDIN_DRIVER", 13000);
	return OK;
}

static bool known(int device) { return device >= 0 && device < driver.deviceCount; }

int deviceOrdinal(int physical)
{
	for (int i = 0; i < driver.deviceCount; i++)
		if (driver.physical[i] == physical)
			return i;
	return -1;
}

API CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	CALL("ordinal=%d", ordinal);
	if (!device)
		return INVALID_VALUE;
	if (!known(ordinal))
		return INVALID_DEVICE;
	*device = ordinal;
	return OK;
}

API CUresult cuDeviceGetCount(int *count)
{
	CALL("");
	if (!count)
		return INVALID_VALUE;
	*count = driver.deviceCount;
	return OK;
}

API CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
	CALL("device=%d", device);
	if (!name || length < 1)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	snprintf(name, (size_t)length, "Stand-in GPU %d", driver.physical[device]);
	return OK;
}

API CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	CALL("device=%d", device);
	if (!uuid)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	memcpy(uuid->bytes, "standin-gpu-uuid", 16);
	uuid->bytes[15] = (char)driver.physical[device];
	return OK;
}

API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
	CALL("device=%d", device);
	if (!bytes)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	*bytes = driver.memoryBytes;
	return OK;
}

API CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device)
{
	CALL("device=%d", device);
	if (!text || length < 13)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	snprintf(text, (size_t)length, "0000:%02x:00.0", driver.physical[device] + 1);
	return OK;
}

/* The figures of an H100 SXM, by the attributes of cuda.h; other attributes read 0. */
static int attributeOf(int attribute, int device)
{
	switch (attribute) {
	case 1:
	case 2:
	case 3:
		return 1024; /* threads per block, block x, y */
	case 4:
		return 64; /* block z */
	case 5:
		return 2147483647; /* grid x */
	case 6:
	case 7:
		return 65535; /* grid y, z */
	case 8:
		return 49152; /* shared memory per block */
	case 9:
		return 65536; /* constant memory */
	case 10:
		return 32; /* warp size */
	case 11:
		return 2147483647; /* pitch */
	case 12:
	case 82:
		return 65536; /* registers per block, per multiprocessor */
	case 13:
		return 1980000; /* clock kHz */
	case 14:
		return 512; /* texture alignment */
	case 15:
	case 19:
	case 31:
	case 41:
		return 1; /* overlap, map host memory, concurrent kernels, unified addressing */
	case 16:
		return 132; /* multiprocessors */
	case 33:
		return driver.physical[device] + 1; /* PCI bus */
	case 36:
		return 2619000; /* memory clock kHz */
	case 37:
		return 5120; /* bus width */
	case 38:
		return 50 << 20; /* L2 */
	case 39:
		return 2048; /* threads per multiprocessor */
	case 40:
		return 3; /* copy engines */
	case 75:
		return 9; /* compute capability */
	case 76:
		return 0;
	case 78:
		return 1; /* stream priorities */
	case 81:
		return 233472; /* shared memory per multiprocessor */
	case 83:
	case 89:
	case 90:
	case 91:
		return 1; /* managed, concurrent managed, preemption, host pointer of registered memory */
	case 92:
	case 93:
	case 94:
		return 1; /* stream memory operations, the older three */
	case 95:
	case 99:
		return 1; /* cooperative launch, host registration */
	case 97:
		return 232448; /* shared memory per block, opted in */
	case 102:
		return 1; /* virtual memory management */
	case 103:
		return driver.vmmFd; /* ... with POSIX descriptors */
	case 106:
		return 32; /* blocks per multiprocessor */
	case 111:
		return 1024; /* reserved shared memory */
	case 113:
		return driver.readOnlyRegister; /* read-only host registration */
	case 122:
	case 123:
	case 125:
		return 1; /* 64-bit stream memory operations, wait-nor, IPC events */
	default:
		return 0;
	}
}

API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
	CALL("attribute=%d, device=%d", attribute, device);
	if (!value || attribute < 1 || attribute > 200)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	*value = attributeOf(attribute, device);
	return OK;
}

API CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
	CALL("device=%d, peer=%d", device, peer);
	if (!can)
		return INVALID_VALUE;
	if (!known(device) || !known(peer))
		return INVALID_DEVICE;
	*can = driver.peer[device][peer];
	return OK;
}

API CUresult cuDeviceGetP2PAttribute(int *value, int attribute, CUdevice device, CUdevice peer)
{
	CALL("attribute=%d, device=%d, peer=%d", attribute, device, peer);
	if (!value)
		return INVALID_VALUE;
	if (!known(device) || !known(peer) || device == peer)
		return INVALID_DEVICE;
	switch (attribute) {
	case 1: /* the rank: lower is faster */
		*value = linkOf(driver.physical[device], driver.physical[peer])->bytesPerSecond > 0;
		return OK;
	case 2:
	case 3:
	case 4:
		*value = driver.peer[device][peer]; /* access, native atomics, access to arrays */
		return OK;
	case 5:
		*value = 0; /* only some of the atomics */
		return OK;
	default:
		return INVALID_VALUE;
	}
}

/* --- contexts --- */

Context *contextPrimary(int device) { return &primaries[device]; }

/* Whether it is, or once was, a context. Contexts are never freed, because the worker
 * of a stream may still read one. */
static bool contextEver(Context *context)
{
	if (context >= primaries && context < primaries + driver.deviceCount)
		return true;
	bool found = false;
	pthread_mutex_lock(&memoryLock);
	for (Context *each = created; each && !found; each = each->next)
		found = each == context;
	pthread_mutex_unlock(&memoryLock);
	return found;
}

bool contextKnown(Context *context) { return contextEver(context) && !context->destroyed; }

/* The context that is meant (NULL is the current one), or the error. */
static CUresult contextMeant(Context *asked, Context **context)
{
	*context = asked ? asked : contextCurrent();
	if (!*context || !contextEver(*context))
		return INVALID_CONTEXT;
	return (*context)->destroyed ? CONTEXT_IS_DESTROYED : OK;
}

Context *contextCurrent(void)
{
	Context *top = depth ? stack[depth - 1] : NULL;
	return top && (top->retained || !top->primary) ? top : NULL;
}

bool contextsReach(int device, int peer)
{
	if (primaries[device].peers >> peer & 1)
		return true;
	for (Context *each = created; each; each = each->next)
		if (!each->destroyed && each->device == device && each->peers >> peer & 1)
			return true;
	return false;
}

void contextAdopt(Context *context)
{
	depth = 1;
	stack[0] = context;
}

/* The memory that a context takes of its device; under memoryLock. */
static CUresult takeContext(Context *context)
{
	context->nonce = freshNonce();
	return driver.contextBytes ? ledgerHold(context->nonce, driver.physical[context->device],
									 driver.contextBytes, driver.memoryBytes)
							   : OK;
}

API CUresult cuDevicePrimaryCtxRetain(Context **context, CUdevice device)
{
	CALL("device=%d", device);
	if (!context)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	pthread_mutex_lock(&memoryLock);
	CUresult result = primaries[device].retained ? OK : takeContext(&primaries[device]);
	if (!result)
		primaries[device].retained++;
	pthread_mutex_unlock(&memoryLock);
	if (!result)
		*context = &primaries[device];
	return result;
}

/* The memory that cuMemAlloc, cuMemHostAlloc and the IPC calls gave in a context ends
 * with the context; VMM memory does not. */
static void dropMemory(Context *context)
{
	streamIdle(context);
	pthread_mutex_lock(&memoryLock);
	for (size_t i = mappingCount(); i-- > 0;)
		if (mappingAt(i)->context == context && mappingAt(i)->kind != KIND_VMM)
			mappingRemove(mappingAt(i));
	pthread_mutex_unlock(&memoryLock);
	context->peers = 0;
	atomic_store(&context->error, OK);
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
	CALL("device=%d", device);
	if (!known(device))
		return INVALID_DEVICE;
	pthread_mutex_lock(&memoryLock);
	int left = primaries[device].retained ? --primaries[device].retained : -1;
	pthread_mutex_unlock(&memoryLock);
	if (left < 0)
		return INVALID_CONTEXT;
	if (!left) {
		dropMemory(&primaries[device]);
		ledgerDrop(primaries[device].nonce);
	}
	return OK;
}

API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
	CALL("device=%d", device);
	if (!known(device))
		return INVALID_DEVICE;
	dropMemory(&primaries[device]);
	return OK;
}

API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags)
{
	CALL("device=%d, flags=%u", device, flags);
	if (!known(device))
		return INVALID_DEVICE;
	primaries[device].flags = flags;
	return OK;
}

API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
	CALL("device=%d", device);
	if (!known(device))
		return INVALID_DEVICE;
	if (!flags || !active)
		return INVALID_VALUE;
	*flags = primaries[device].flags;
	*active = primaries[device].retained > 0;
	return OK;
}

API CUresult cuCtxCreate_v2(Context **context, unsigned flags, CUdevice device)
{
	CALL("flags=%u, device=%d", flags, device);
	if (!context)
		return INVALID_VALUE;
	if (!known(device))
		return INVALID_DEVICE;
	if (depth == STACK_DEPTH)
		return INVALID_CONTEXT;
	Context *made = calloc(1, sizeof *made);
	if (!made)
		return OUT_OF_MEMORY;
	made->device = device;
	made->flags = flags;
	pthread_mutex_lock(&memoryLock);
	CUresult result = takeContext(made);
	if (!result)
		made->next = created, created = made;
	pthread_mutex_unlock(&memoryLock);
	if (result)
		free(made);
	else
		stack[depth++] = *context = made;
	return result;
}

API CUresult cuCtxCreate_v4(Context **context, void *parameters, unsigned flags, CUdevice device)
{
	return parameters ? NOT_SUPPORTED : cuCtxCreate_v2(context, flags, device);
}

API CUresult cuCtxDestroy_v2(Context *context)
{
	CALL("context=%p", (void *)context);
	if (!contextKnown(context) || context->primary)
		return INVALID_CONTEXT;
	dropMemory(context);
	ledgerDrop(context->nonce);
	context->destroyed = true;
	atomic_store(&context->error, CONTEXT_IS_DESTROYED);
	if (depth && stack[depth - 1] == context)
		depth--;
	return OK;
}

API CUresult cuCtxGetCurrent(Context **context)
{
	CALL("");
	if (!context)
		return INVALID_VALUE;
	*context = depth ? stack[depth - 1] : NULL;
	return OK;
}

API CUresult cuCtxSetCurrent(Context *context)
{
	CALL("context=%p", (void *)context);
	if (context && !contextKnown(context))
		return INVALID_CONTEXT;
	if (!context) {
		if (depth)
			depth--;
		return OK;
	}
	if (!depth)
		depth = 1;
	stack[depth - 1] = context;
	return OK;
}

API CUresult cuCtxPushCurrent_v2(Context *context)
{
	CALL("context=%p", (void *)context);
	if (!context || !contextEver(context) || depth == STACK_DEPTH)
		return INVALID_CONTEXT; /* a destroyed one too: seen on an H200 */
	stack[depth++] = context;
	return OK;
}

API CUresult cuCtxPopCurrent_v2(Context **context)
{
	CALL("");
	if (!depth)
		return INVALID_CONTEXT;
	Context *top = stack[--depth];
	if (context)
		*context = top;
	return OK;
}

API CUresult cuCtxGetDevice(CUdevice *device)
{
	CALL("");
	Context *context = contextCurrent();
	if (!context)
		return INVALID_CONTEXT;
	if (!device)
		return INVALID_VALUE;
	*device = context->device;
	return OK;
}

API CUresult cuCtxGetDevice_v2(CUdevice *device, Context *context)
{
	CALL("context=%p", (void *)context);
	if (!context)
		context = contextCurrent();
	if (!context || !contextKnown(context))
		return INVALID_CONTEXT;
	if (!device)
		return INVALID_VALUE;
	*device = context->device;
	return OK;
}

API CUresult cuCtxGetFlags(unsigned *flags)
{
	CONTEXT_CALL("");
	if (!flags)
		return INVALID_VALUE;
	*flags = context->flags;
	return OK;
}

API CUresult cuCtxGetApiVersion(Context *context, unsigned *version)
{
	CALL("context=%p", (void *)context);
	if (!version)
		return INVALID_VALUE;
	*version = 3020;
	return OK;
}

API CUresult cuCtxGetId(Context *context, unsigned long long *id)
{
	CALL("context=%p", (void *)context);
	Context *meant;
	CHECK(contextMeant(context, &meant));
	if (!id)
		return INVALID_VALUE;
	*id = (uintptr_t)meant;
	return OK;
}

API CUresult cuCtxGetLimit(size_t *value, int limit)
{
	CONTEXT_CALL("limit=%d", limit);
	(void)limit;
	if (!value)
		return INVALID_VALUE;
	*value = 1024;
	return OK;
}

API CUresult cuCtxSetLimit(int limit, size_t value)
{
	CONTEXT_CALL("limit=%d, value=%zu", limit, value);
	return OK;
}

API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	CONTEXT_CALL("");
	if (least)
		*least = 0;
	if (greatest)
		*greatest = -5;
	return OK;
}

API CUresult cuCtxSynchronize(void)
{
	CONTEXT_CALL("");
	return streamIdle(context);
}

API CUresult cuCtxSynchronize_v2(Context *asked)
{
	CALL("context=%p", (void *)asked);
	Context *context;
	CHECK(contextMeant(asked, &context));
	return streamIdle(context);
}

API CUresult cuCtxEnablePeerAccess(Context *peer, unsigned flags)
{
	CONTEXT_CALL("peer=%p, flags=%u", (void *)peer, flags);
	if (flags)
		return INVALID_VALUE;
	if (!peer || !contextKnown(peer) || peer == context)
		return INVALID_CONTEXT;
	if (!driver.peer[context->device][peer->device])
		return PEER_ACCESS_UNSUPPORTED;
	if (context->peers >> peer->device & 1)
		return PEER_ACCESS_ALREADY_ENABLED;
	if (linkOf(driver.physical[context->device], driver.physical[peer->device])->refuses)
		return TOO_MANY_PEERS;
	context->peers |= 1u << peer->device;
	return OK;
}

API CUresult cuCtxDisablePeerAccess(Context *peer)
{
	CONTEXT_CALL("peer=%p", (void *)peer);
	if (!peer || !contextKnown(peer))
		return INVALID_CONTEXT;
	if (!(context->peers >> peer->device & 1))
		return PEER_ACCESS_NOT_ENABLED;
	context->peers &= ~(1u << peer->device);
	return OK;
}
