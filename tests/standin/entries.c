/* Entries: the table of names and functions for cuGetProcAddress, and the names of
 * errors.
 *
 * A name that has had two signatures is here twice, each with the version that brought
 * it. A name that came with a newer version than STANDIN_DRIVER is not found, as with
 * an old driver. Any other name that is not here gets a stub that returns
 * NOT_SUPPORTED.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <string.h>

/* The name without its suffix, the first version in which it means this function, and
 * the function. */
#define ENTRIES(ENTRY) \
	ENTRY(cuInit, 0, cuInit) \
	ENTRY(cuDriverGetVersion, 0, cuDriverGetVersion) \
	ENTRY(cuDeviceGet, 0, cuDeviceGet) \
	ENTRY(cuDeviceGetCount, 0, cuDeviceGetCount) \
	ENTRY(cuDeviceGetName, 0, cuDeviceGetName) \
	ENTRY(cuDeviceGetUuid, 0, cuDeviceGetUuid_v2) \
	ENTRY(cuDeviceTotalMem, 0, cuDeviceTotalMem_v2) \
	ENTRY(cuDeviceGetPCIBusId, 0, cuDeviceGetPCIBusId) \
	ENTRY(cuDeviceGetAttribute, 0, cuDeviceGetAttribute) \
	ENTRY(cuDeviceCanAccessPeer, 0, cuDeviceCanAccessPeer) \
	ENTRY(cuDeviceGetP2PAttribute, 0, cuDeviceGetP2PAttribute) \
	ENTRY(cuDevicePrimaryCtxRetain, 0, cuDevicePrimaryCtxRetain) \
	ENTRY(cuDevicePrimaryCtxRelease, 0, cuDevicePrimaryCtxRelease_v2) \
	ENTRY(cuDevicePrimaryCtxReset, 0, cuDevicePrimaryCtxReset_v2) \
	ENTRY(cuDevicePrimaryCtxSetFlags, 0, cuDevicePrimaryCtxSetFlags_v2) \
	ENTRY(cuDevicePrimaryCtxGetState, 0, cuDevicePrimaryCtxGetState) \
	ENTRY(cuCtxCreate, 0, cuCtxCreate_v2) \
	ENTRY(cuCtxCreate, 12050, cuCtxCreate_v4) \
	ENTRY(cuCtxDestroy, 0, cuCtxDestroy_v2) \
	ENTRY(cuCtxGetCurrent, 0, cuCtxGetCurrent) \
	ENTRY(cuCtxSetCurrent, 0, cuCtxSetCurrent) \
	ENTRY(cuCtxPushCurrent, 0, cuCtxPushCurrent_v2) \
	ENTRY(cuCtxPopCurrent, 0, cuCtxPopCurrent_v2) \
	ENTRY(cuCtxGetDevice, 0, cuCtxGetDevice) \
	ENTRY(cuCtxGetDevice, 13000, cuCtxGetDevice_v2) \
	ENTRY(cuCtxGetFlags, 0, cuCtxGetFlags) \
	ENTRY(cuCtxGetApiVersion, 0, cuCtxGetApiVersion) \
	ENTRY(cuCtxGetId, 0, cuCtxGetId) \
	ENTRY(cuCtxGetLimit, 0, cuCtxGetLimit) \
	ENTRY(cuCtxSetLimit, 0, cuCtxSetLimit) \
	ENTRY(cuCtxGetStreamPriorityRange, 0, cuCtxGetStreamPriorityRange) \
	ENTRY(cuCtxSynchronize, 0, cuCtxSynchronize) \
	ENTRY(cuCtxSynchronize, 13000, cuCtxSynchronize_v2) \
	ENTRY(cuCtxEnablePeerAccess, 0, cuCtxEnablePeerAccess) \
	ENTRY(cuCtxDisablePeerAccess, 0, cuCtxDisablePeerAccess) \
	ENTRY(cuMemAlloc, 0, cuMemAlloc_v2) \
	ENTRY(cuMemAllocManaged, 0, cuMemAllocManaged) \
	ENTRY(cuMemFree, 0, cuMemFree_v2) \
	ENTRY(cuMemGetInfo, 0, cuMemGetInfo_v2) \
	ENTRY(cuMemGetAddressRange, 0, cuMemGetAddressRange_v2) \
	ENTRY(cuMemHostAlloc, 0, cuMemHostAlloc) \
	ENTRY(cuMemAllocHost, 0, cuMemAllocHost_v2) \
	ENTRY(cuMemFreeHost, 0, cuMemFreeHost) \
	ENTRY(cuMemHostRegister, 0, cuMemHostRegister_v2) \
	ENTRY(cuMemHostUnregister, 0, cuMemHostUnregister) \
	ENTRY(cuMemHostGetDevicePointer, 0, cuMemHostGetDevicePointer_v2) \
	ENTRY(cuMemHostGetFlags, 0, cuMemHostGetFlags) \
	ENTRY(cuPointerGetAttribute, 0, cuPointerGetAttribute) \
	ENTRY(cuPointerGetAttributes, 0, cuPointerGetAttributes) \
	ENTRY(cuPointerSetAttribute, 0, cuPointerSetAttribute) \
	ENTRY(cuMemGetAllocationGranularity, 0, cuMemGetAllocationGranularity) \
	ENTRY(cuMemCreate, 0, cuMemCreate) \
	ENTRY(cuMemRelease, 0, cuMemRelease) \
	ENTRY(cuMemRetainAllocationHandle, 0, cuMemRetainAllocationHandle) \
	ENTRY(cuMemGetAllocationPropertiesFromHandle, 0, cuMemGetAllocationPropertiesFromHandle) \
	ENTRY(cuMemExportToShareableHandle, 0, cuMemExportToShareableHandle) \
	ENTRY(cuMemImportFromShareableHandle, 0, cuMemImportFromShareableHandle) \
	ENTRY(cuMemAddressReserve, 0, cuMemAddressReserve) \
	ENTRY(cuMemAddressFree, 0, cuMemAddressFree) \
	ENTRY(cuMemMap, 0, cuMemMap) \
	ENTRY(cuMemUnmap, 0, cuMemUnmap) \
	ENTRY(cuMemSetAccess, 0, cuMemSetAccess) \
	ENTRY(cuMemGetAccess, 0, cuMemGetAccess) \
	ENTRY(cuMemcpyHtoD, 0, cuMemcpyHtoD_v2) \
	ENTRY(cuMemcpyHtoDAsync, 0, cuMemcpyHtoDAsync_v2) \
	ENTRY(cuMemcpyDtoH, 0, cuMemcpyDtoH_v2) \
	ENTRY(cuMemcpyDtoHAsync, 0, cuMemcpyDtoHAsync_v2) \
	ENTRY(cuMemcpyDtoD, 0, cuMemcpyDtoD_v2) \
	ENTRY(cuMemcpyDtoDAsync, 0, cuMemcpyDtoDAsync_v2) \
	ENTRY(cuMemcpy, 0, cuMemcpy) \
	ENTRY(cuMemcpyAsync, 0, cuMemcpyAsync) \
	ENTRY(cuMemcpyPeer, 0, cuMemcpyPeer) \
	ENTRY(cuMemcpyPeerAsync, 0, cuMemcpyPeerAsync) \
	ENTRY(cuMemcpyBatchAsync, 12080, cuMemcpyBatchAsync) \
	ENTRY(cuMemcpyBatchAsync, 13000, cuMemcpyBatchAsync_v2) \
	ENTRY(cuMemsetD8, 0, cuMemsetD8_v2) \
	ENTRY(cuMemsetD8Async, 0, cuMemsetD8Async) \
	ENTRY(cuMemsetD16, 0, cuMemsetD16_v2) \
	ENTRY(cuMemsetD16Async, 0, cuMemsetD16Async) \
	ENTRY(cuMemsetD32, 0, cuMemsetD32_v2) \
	ENTRY(cuMemsetD32Async, 0, cuMemsetD32Async) \
	ENTRY(cuStreamCreateWithPriority, 0, cuStreamCreateWithPriority) \
	ENTRY(cuStreamCreate, 0, cuStreamCreate) \
	ENTRY(cuStreamDestroy, 0, cuStreamDestroy_v2) \
	ENTRY(cuStreamSynchronize, 0, cuStreamSynchronize) \
	ENTRY(cuStreamQuery, 0, cuStreamQuery) \
	ENTRY(cuStreamGetCtx, 0, cuStreamGetCtx) \
	ENTRY(cuStreamGetCtx, 12050, cuStreamGetCtx_v2) \
	ENTRY(cuStreamGetFlags, 0, cuStreamGetFlags) \
	ENTRY(cuStreamGetPriority, 0, cuStreamGetPriority) \
	ENTRY(cuStreamGetId, 0, cuStreamGetId) \
	ENTRY(cuStreamGetDevice, 0, cuStreamGetDevice) \
	ENTRY(cuStreamIsCapturing, 0, cuStreamIsCapturing) \
	ENTRY(cuStreamBeginCapture, 0, cuStreamBeginCapture_v2) \
	ENTRY(cuStreamEndCapture, 0, cuStreamEndCapture) \
	ENTRY(cuThreadExchangeStreamCaptureMode, 0, cuThreadExchangeStreamCaptureMode) \
	ENTRY(cuGraphDestroy, 0, cuGraphDestroy) \
	ENTRY(cuLaunchHostFunc, 0, cuLaunchHostFunc) \
	ENTRY(cuStreamAddCallback, 0, cuStreamAddCallback) \
	ENTRY(cuStreamWaitValue64, 0, cuStreamWaitValue64_v2) \
	ENTRY(cuStreamWaitValue32, 0, cuStreamWaitValue32_v2) \
	ENTRY(cuStreamWriteValue64, 0, cuStreamWriteValue64_v2) \
	ENTRY(cuStreamWriteValue32, 0, cuStreamWriteValue32_v2) \
	ENTRY(cuEventCreate, 0, cuEventCreate) \
	ENTRY(cuEventDestroy, 0, cuEventDestroy_v2) \
	ENTRY(cuEventRecord, 0, cuEventRecord) \
	ENTRY(cuEventRecordWithFlags, 0, cuEventRecordWithFlags) \
	ENTRY(cuEventQuery, 0, cuEventQuery) \
	ENTRY(cuEventSynchronize, 0, cuEventSynchronize) \
	ENTRY(cuStreamWaitEvent, 0, cuStreamWaitEvent) \
	ENTRY(cuEventElapsedTime, 0, cuEventElapsedTime_v2) \
	ENTRY(cuIpcGetMemHandle, 0, cuIpcGetMemHandle) \
	ENTRY(cuIpcOpenMemHandle, 0, cuIpcOpenMemHandle_v2) \
	ENTRY(cuIpcCloseMemHandle, 0, cuIpcCloseMemHandle) \
	ENTRY(cuIpcGetEventHandle, 0, cuIpcGetEventHandle) \
	ENTRY(cuIpcOpenEventHandle, 0, cuIpcOpenEventHandle) \
	ENTRY(cuLibraryLoadData, 0, cuLibraryLoadData) \
	ENTRY(cuLibraryUnload, 0, cuLibraryUnload) \
	ENTRY(cuLibraryGetKernel, 0, cuLibraryGetKernel) \
	ENTRY(cuLibraryGetKernelCount, 0, cuLibraryGetKernelCount) \
	ENTRY(cuLibraryEnumerateKernels, 0, cuLibraryEnumerateKernels) \
	ENTRY(cuModuleLoadData, 0, cuModuleLoadData) \
	ENTRY(cuModuleLoadDataEx, 0, cuModuleLoadDataEx) \
	ENTRY(cuModuleUnload, 0, cuModuleUnload) \
	ENTRY(cuModuleGetFunction, 0, cuModuleGetFunction) \
	ENTRY(cuKernelGetFunction, 0, cuKernelGetFunction) \
	ENTRY(cuKernelGetLibrary, 0, cuKernelGetLibrary) \
	ENTRY(cuKernelGetName, 0, cuKernelGetName) \
	ENTRY(cuKernelGetParamInfo, 0, cuKernelGetParamInfo) \
	ENTRY(cuKernelGetAttribute, 0, cuKernelGetAttribute) \
	ENTRY(cuFuncGetAttribute, 0, cuFuncGetAttribute) \
	ENTRY(cuKernelSetAttribute, 0, cuKernelSetAttribute) \
	ENTRY(cuFuncSetAttribute, 0, cuFuncSetAttribute) \
	ENTRY(cuOccupancyMaxActiveBlocksPerMultiprocessor, 0, \
		cuOccupancyMaxActiveBlocksPerMultiprocessor) \
	ENTRY(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, 0, \
		cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) \
	ENTRY(cuOccupancyMaxPotentialBlockSize, 0, cuOccupancyMaxPotentialBlockSize) \
	ENTRY(cuLaunchKernelEx, 0, cuLaunchKernelEx) \
	ENTRY(cuLaunchKernel, 0, cuLaunchKernel) \
	ENTRY(cuLaunchCooperativeKernel, 0, cuLaunchCooperativeKernel) \
	ENTRY(cuGetErrorString, 0, cuGetErrorString) \
	ENTRY(cuGetErrorName, 0, cuGetErrorName) \
	ENTRY(cuGetExportTable, 0, cuGetExportTable) \
	ENTRY(cuGetProcAddress, 0, cuGetProcAddress) \
	ENTRY(cuGetProcAddress, 12000, cuGetProcAddress_v2)

#define DECLARE(name, version, function) CUresult function();
ENTRIES(DECLARE)

static const struct {
	const char *name;
	int version;
	void *function;
} ENTRY_TABLE[] = {
#define ROW(name, version, function) {#name, version, (void *)function},
	ENTRIES(ROW)};

/* The stub behind a name that is not in the table. */
CUresult refuseUnknown(void)
{
	CALL("");
	return NOT_SUPPORTED;
}

enum { FOUND = 0, SYMBOL_NOT_FOUND = 1, VERSION_NOT_SUFFICIENT = 2 };

static int find(const char *name, int version, void **function)
{
	*function = NULL;
	int newest = -1, own = (int)settingBytes("STANDIN_DRIVER", 13000);
	if (version > own)
		return VERSION_NOT_SUFFICIENT;
	bool here = false;
	for (size_t i = 0; i < sizeof ENTRY_TABLE / sizeof *ENTRY_TABLE; i++) {
		if (strcmp(ENTRY_TABLE[i].name, name))
			continue;
		here = true;
		if (ENTRY_TABLE[i].version <= version && ENTRY_TABLE[i].version > newest) {
			newest = ENTRY_TABLE[i].version;
			*function = ENTRY_TABLE[i].function;
		}
	}
	if (!here && !strncmp(name, "cu", 2))
		*function = (void *)refuseUnknown;
	if (here && !*function)
		return VERSION_NOT_SUFFICIENT;
	return *function ? FOUND : SYMBOL_NOT_FOUND;
}

API CUresult cuGetProcAddress_v2(
	const char *name, void **function, int version, uint64_t flags, int *status)
{
	(void)flags; /* the per-thread default stream needs no function of its own: it is handle 2 */
	if (!name || !function)
		return INVALID_VALUE;
	int found = find(name, version, function);
	if (status)
		*status = found;
	return found && !status ? NOT_FOUND : OK;
}

API CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
	return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* nvrtc crashes if it gets no table and the pointer is not NULL either. */
API CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
	(void)id;
	if (table)
		*table = NULL;
	return NOT_FOUND;
}

#define ERRORS(ERROR) \
	ERROR(0, SUCCESS, "no error") \
	ERROR(1, INVALID_VALUE, "invalid argument") \
	ERROR(2, OUT_OF_MEMORY, "out of memory") \
	ERROR(3, NOT_INITIALIZED, "initialization error") \
	ERROR(4, DEINITIALIZED, "driver shutting down") \
	ERROR(46, DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable") \
	ERROR(100, NO_DEVICE, "no CUDA-capable device is detected") \
	ERROR(101, INVALID_DEVICE, "invalid device ordinal") \
	ERROR(200, INVALID_IMAGE, "device kernel image is invalid") \
	ERROR(201, INVALID_CONTEXT, "invalid device context") \
	ERROR(205, MAP_FAILED, "mapping of buffer object failed") \
	ERROR(208, ALREADY_MAPPED, "resource already mapped") \
	ERROR(214, ECC_UNCORRECTABLE, "uncorrectable ECC error encountered") \
	ERROR(217, PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices") \
	ERROR(304, OPERATING_SYSTEM, "OS call failed or operation not supported on this OS") \
	ERROR(400, INVALID_HANDLE, "invalid resource handle") \
	ERROR(401, ILLEGAL_STATE, "the operation cannot be performed in the present state") \
	ERROR(500, NOT_FOUND, "named symbol not found") \
	ERROR(600, NOT_READY, "device not ready") \
	ERROR(700, ILLEGAL_ADDRESS, "an illegal memory access was encountered") \
	ERROR(704, PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled") \
	ERROR(705, PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled") \
	ERROR(709, CONTEXT_IS_DESTROYED, "context is destroyed") \
	ERROR(711, TOO_MANY_PEERS, "peer mapping resources exhausted") \
	ERROR(712, HOST_MEMORY_ALREADY_REGISTERED, \
		"part or all of the requested memory range is already mapped") \
	ERROR(713, HOST_MEMORY_NOT_REGISTERED, \
		"pointer does not correspond to a registered memory region") \
	ERROR(719, LAUNCH_FAILED, "unspecified launch failure") \
	ERROR(800, NOT_PERMITTED, "operation not permitted") \
	ERROR(801, NOT_SUPPORTED, "operation not supported") \
	ERROR(999, UNKNOWN, "unknown error")

static const struct {
	int code;
	const char *name, *text;
} ERROR_TABLE[] = {
#define ERROR_ROW(code, name, text) {code, "CUDA_ERROR_" #name, text},
	ERRORS(ERROR_ROW)};

static CUresult describe(int code, const char **out, bool text)
{
	if (!out)
		return INVALID_VALUE;
	*out = NULL;
	for (size_t i = 0; i < sizeof ERROR_TABLE / sizeof *ERROR_TABLE; i++)
		if (ERROR_TABLE[i].code == code)
			*out = text ? ERROR_TABLE[i].text : code ? ERROR_TABLE[i].name : "CUDA_SUCCESS";
	return *out ? OK : INVALID_VALUE;
}

API CUresult cuGetErrorName(int code, const char **name) { return describe(code, name, false); }
API CUresult cuGetErrorString(int code, const char **text) { return describe(code, text, true); }
