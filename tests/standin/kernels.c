/* Kernels: the names and parameters of the kernels are read from a cubin, and a launch
 * runs a CPU reference that a test has registered.
 *
 * Device code is not interpreted. `.nv.info.<kernel>` lists the offset and size of each
 * parameter (attribute 0x17). The values are copied at the launch, so the caller may
 * reuse its arrays. A kernel without a CPU reference is NOT_SUPPORTED at the launch,
 * not later. CPU references and libraries belong to the process.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	MAX_PARAMETERS = 256,
	MAX_REFERENCES = 64,
	PARAMETER_INFO = 0x17,
	PARAMETER_INFO_BYTES = 12,
	MAX_BLOCK = 1024
};

/* The argument of a CPU reference. `parameters[i]` points to the value of parameter i.
 * A CPU reference resolves device addresses with standinHostPointer. */
typedef struct {
	const char *name;
	unsigned grid[3], block[3], sharedBytes;
	int parameterCount;
	void **parameters;
	const unsigned *parameterBytes;
	void *stream;
} Launch;
/* Returns 0, or the error that the context keeps */
typedef int (*Reference)(const Launch *launch, void *data);

typedef struct Kernel {
	struct Kernel *next;
	struct Library *library;
	char name[512];
	int parameterCount;
	unsigned offsets[MAX_PARAMETERS], sizes[MAX_PARAMETERS];
} Kernel;

typedef struct Library {
	struct Library *next;
	Kernel *kernels;
} Library;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Library *libraries;
static struct {
	char part[256];
	Reference reference;
	void *data;
} references[MAX_REFERENCES];
static int referenceCount;

/* Run `reference` for each launch of a kernel whose name contains `part`; the newest
 * registration wins. */
API CUresult standinRegisterKernel(const char *part, Reference reference, void *data)
{
	pthread_mutex_lock(&lock);
	bool full = referenceCount == MAX_REFERENCES;
	if (!full) {
		snprintf(references[referenceCount].part, sizeof references[0].part, "%s", part);
		references[referenceCount].reference = reference;
		references[referenceCount++].data = data;
	}
	pthread_mutex_unlock(&lock);
	return full ? OUT_OF_MEMORY : OK;
}

/* --- reading a cubin --- */

static void readParameters(Kernel *kernel, const unsigned char *at, const unsigned char *end)
{
	while (at + 4 <= end) {
		unsigned format = at[0], attribute = at[1], bytes = (unsigned)at[2] | (unsigned)at[3] << 8;
		at += 4;
		if (format != 4)
			continue; /* the value was in the two bytes of the size */
		if (attribute == PARAMETER_INFO && bytes >= PARAMETER_INFO_BYTES && at + bytes <= end) {
			uint16_t ordinal, offset;
			uint32_t packed;
			memcpy(&ordinal, at + 4, 2);
			memcpy(&offset, at + 6, 2);
			memcpy(&packed, at + 8, 4);
			if (ordinal < MAX_PARAMETERS) {
				kernel->offsets[ordinal] = offset;
				kernel->sizes[ordinal] = packed >> 18;
				if (ordinal >= kernel->parameterCount)
					kernel->parameterCount = ordinal + 1;
			}
		}
		at += bytes;
	}
}

static Kernel *kernelOf(Library *library, const char *name)
{
	for (Kernel *each = library->kernels; each; each = each->next)
		if (!strcmp(each->name, name))
			return each;
	return NULL;
}

static Kernel *addKernel(Library *library, const char *name)
{
	Kernel *made = kernelOf(library, name);
	if (made || !(made = calloc(1, sizeof *made)))
		return made;
	snprintf(made->name, sizeof made->name, "%s", name);
	made->library = library;
	made->next = library->kernels;
	library->kernels = made;
	return made;
}

static CUresult readImage(Library *library, const unsigned char *image)
{
	Elf64_Ehdr head;
	memcpy(&head, image, sizeof head);
	if (memcmp(head.e_ident, ELFMAG, SELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64 ||
		!head.e_shoff || head.e_shentsize != sizeof(Elf64_Shdr))
		return INVALID_IMAGE; /* PTX and fat binaries as well: assemble them first */
	const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + head.e_shoff);
	const char *names = (const char *)image + sections[head.e_shstrndx].sh_offset;
	for (unsigned i = 0; i < head.e_shnum; i++) {
		const char *name = names + sections[i].sh_name;
		if (!strncmp(name, ".text.", 6))
			addKernel(library, name + 6);
		if (strncmp(name, ".nv.info.", 9))
			continue;
		Kernel *kernel = addKernel(library, name + 9);
		if (kernel)
			readParameters(kernel, image + sections[i].sh_offset,
				image + sections[i].sh_offset + sections[i].sh_size);
	}
	return OK;
}

static CUresult load(Library **out, const void *image)
{
	if (!out || !image)
		return INVALID_VALUE;
	Library *made = calloc(1, sizeof *made);
	if (!made)
		return OUT_OF_MEMORY;
	CUresult result = readImage(made, image);
	if (result) {
		free(made);
		return result;
	}
	pthread_mutex_lock(&lock);
	made->next = libraries;
	libraries = made;
	pthread_mutex_unlock(&lock);
	*out = made;
	return OK;
}

static bool libraryKnown(const Library *library)
{
	Library *each = libraries;
	while (each && each != library)
		each = each->next;
	return each;
}

static CUresult find(Kernel **kernel, Library *library, const char *name)
{
	if (!kernel || !name)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	bool known = libraryKnown(library);
	*kernel = known ? kernelOf(library, name) : NULL;
	pthread_mutex_unlock(&lock);
	return *kernel ? OK : known ? NOT_FOUND : INVALID_HANDLE;
}

/* Kernels stay allocated: a launch may still be queued, and a test process is short. */
static CUresult unload(Library *library)
{
	pthread_mutex_lock(&lock);
	Library **link = &libraries;
	while (*link && *link != library)
		link = &(*link)->next;
	bool found = *link;
	if (found)
		*link = library->next;
	pthread_mutex_unlock(&lock);
	return found ? OK : INVALID_HANDLE;
}

API CUresult cuLibraryLoadData(Library **library, const void *image, void *jit, void **jitValues,
	unsigned jitCount, void *options, void **values, unsigned count)
{
	CALL("image=%p", image);
	(void)jit, (void)jitValues, (void)jitCount, (void)options, (void)values, (void)count;
	return load(library, image);
}

API CUresult cuLibraryUnload(Library *library)
{
	CALL("library=%p", (void *)library);
	return unload(library);
}

API CUresult cuLibraryGetKernel(Kernel **kernel, Library *library, const char *name)
{
	CALL("library=%p, name=%s", (void *)library, name ? name : "");
	return find(kernel, library, name);
}

API CUresult cuLibraryGetKernelCount(unsigned *count, Library *library)
{
	CALL("library=%p", (void *)library);
	if (!count)
		return INVALID_VALUE;
	*count = 0;
	pthread_mutex_lock(&lock);
	bool known = libraryKnown(library);
	for (Kernel *each = known ? library->kernels : NULL; each; each = each->next)
		++*count;
	pthread_mutex_unlock(&lock);
	return known ? OK : INVALID_HANDLE;
}

API CUresult cuLibraryEnumerateKernels(Kernel **kernels, unsigned room, Library *library)
{
	CALL("library=%p", (void *)library);
	pthread_mutex_lock(&lock);
	bool known = libraryKnown(library);
	for (Kernel *each = known ? library->kernels : NULL; each && room; each = each->next, room--)
		*kernels++ = each;
	pthread_mutex_unlock(&lock);
	return known ? OK : INVALID_HANDLE;
}

API CUresult cuModuleLoadData(Library **module, const void *image)
{
	CONTEXT_CALL("image=%p", image);
	return load(module, image);
}

API CUresult cuModuleLoadDataEx(
	Library **module, const void *image, unsigned count, void *options, void **values)
{
	CONTEXT_CALL("image=%p", image);
	(void)count, (void)options, (void)values;
	return load(module, image);
}

API CUresult cuModuleUnload(Library *module)
{
	CONTEXT_CALL("module=%p", (void *)module);
	return unload(module);
}

API CUresult cuModuleGetFunction(Kernel **kernel, Library *module, const char *name)
{
	CONTEXT_CALL("module=%p, name=%s", (void *)module, name ? name : "");
	return find(kernel, module, name);
}

API CUresult cuKernelGetFunction(Kernel **function, Kernel *kernel)
{
	CALL("kernel=%p", (void *)kernel);
	if (!function || !kernel)
		return INVALID_VALUE;
	*function = kernel;
	return OK;
}

API CUresult cuKernelGetLibrary(Library **library, Kernel *kernel)
{
	CALL("kernel=%p", (void *)kernel);
	if (!library || !kernel)
		return INVALID_VALUE;
	*library = kernel->library;
	return OK;
}

API CUresult cuKernelGetName(const char **name, Kernel *kernel)
{
	CALL("kernel=%p", (void *)kernel);
	if (!name || !kernel)
		return INVALID_VALUE;
	*name = kernel->name;
	return OK;
}

API CUresult cuKernelGetParamInfo(Kernel *kernel, size_t index, size_t *offset, size_t *bytes)
{
	CALL("kernel=%p, index=%zu", (void *)kernel, index);
	if (!kernel || index >= (size_t)kernel->parameterCount)
		return INVALID_VALUE;
	if (offset)
		*offset = kernel->offsets[index];
	if (bytes)
		*bytes = kernel->sizes[index];
	return OK;
}

static CUresult tellAttribute(int *value, int attribute)
{
	if (!value)
		return INVALID_VALUE;
	*value = attribute == 0                ? MAX_BLOCK
		: attribute == 4                   ? 32
		: attribute == 5 || attribute == 6 ? 90
										   : 0;
	return OK;
}

API CUresult cuKernelGetAttribute(int *value, int attribute, Kernel *kernel, CUdevice device)
{
	CALL("attribute=%d, kernel=%p, device=%d", attribute, (void *)kernel, device);
	return kernel ? tellAttribute(value, attribute) : INVALID_HANDLE;
}

API CUresult cuFuncGetAttribute(int *value, int attribute, Kernel *kernel)
{
	CALL("attribute=%d, kernel=%p", attribute, (void *)kernel);
	return kernel ? tellAttribute(value, attribute) : INVALID_HANDLE;
}

API CUresult cuKernelSetAttribute(int attribute, int value, Kernel *kernel, CUdevice device)
{
	CALL("attribute=%d, value=%d, kernel=%p, device=%d", attribute, value, (void *)kernel, device);
	return kernel ? OK : INVALID_HANDLE;
}

API CUresult cuFuncSetAttribute(Kernel *kernel, int attribute, int value)
{
	CALL("attribute=%d, value=%d, kernel=%p", attribute, value, (void *)kernel);
	return kernel ? OK : INVALID_HANDLE;
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(
	int *blocks, Kernel *kernel, int blockSize, size_t shared)
{
	CONTEXT_CALL("kernel=%p, block=%d, shared=%zu", (void *)kernel, blockSize, shared);
	if (!blocks || blockSize < 1)
		return INVALID_VALUE;
	*blocks = 2048 / blockSize > 32 ? 32 : 2048 / blockSize;
	return OK;
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
	int *blocks, Kernel *kernel, int blockSize, size_t shared, unsigned flags)
{
	return flags > 1
		? INVALID_VALUE
		: cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, blockSize, shared);
}

API CUresult cuOccupancyMaxPotentialBlockSize(
	int *grid, int *block, Kernel *kernel, size_t (*sharedOf)(int), size_t shared, int limit)
{
	CONTEXT_CALL("kernel=%p, shared=%zu, limit=%d", (void *)kernel, shared, limit);
	(void)sharedOf;
	if (!grid || !block)
		return INVALID_VALUE;
	*block = limit > 0 && limit < MAX_BLOCK ? limit : MAX_BLOCK;
	*grid = 132 * (2048 / *block);
	return OK;
}

/* --- launching --- */

typedef struct {
	Kernel *kernel;
	Reference reference;
	void *data;
	Launch launch;
	char *values;
} Queued;

static CUresult runReference(void *given, CUresult before)
{
	Queued *queued = given;
	void *parameters[MAX_PARAMETERS];
	CUresult result = before;
	for (int i = 0; i < queued->launch.parameterCount; i++)
		parameters[i] = queued->values + queued->kernel->offsets[i];
	queued->launch.parameters = parameters;
	if (!before)
		result = queued->reference(&queued->launch, queued->data);
	free(queued->values);
	return result;
}

/* All parameters in one block, as the kernel would find them; the caller frees it. NULL
 * if they do not fit the kernel. */
static char *packParameters(const Kernel *kernel, void **parameters, void **extra, CUresult *result)
{
	unsigned bytes = 16;
	for (int i = 0; i < kernel->parameterCount; i++)
		if (kernel->offsets[i] + kernel->sizes[i] > bytes)
			bytes = kernel->offsets[i] + kernel->sizes[i];
	char *values = calloc(1, bytes);
	*result = values ? OK : OUT_OF_MEMORY;
	if (!values)
		return NULL;
	if (parameters) {
		for (int i = 0; i < kernel->parameterCount; i++)
			memcpy(values + kernel->offsets[i], parameters[i], kernel->sizes[i]);
		return values;
	}
	const void *buffer = NULL;
	size_t given = 0;
	for (; extra && *extra; extra += 2) {
		if (*extra == (void *)1)
			buffer = extra[1];
		else if (*extra == (void *)2)
			given = *(size_t *)extra[1];
		else
			break;
	}
	if (buffer && given <= bytes) {
		memcpy(values, buffer, given);
	} else if (kernel->parameterCount) {
		free(values);
		*result = INVALID_VALUE;
		return NULL;
	}
	return values;
}

static bool kernelKnown(const Kernel *kernel)
{
	for (Library *library = libraries; library; library = library->next)
		for (Kernel *each = library->kernels; each; each = each->next)
			if (each == kernel)
				return true;
	return false;
}

static CUresult launchNow(
	const CUlaunchConfig *config, Kernel *kernel, void **parameters, void **extra)
{
	if (!config->gridX || !config->gridY || !config->gridZ || !config->blockX || !config->blockY ||
		!config->blockZ || (uint64_t)config->blockX * config->blockY * config->blockZ > MAX_BLOCK)
		return INVALID_VALUE;
	Queued queued = {.kernel = kernel};
	pthread_mutex_lock(&lock);
	bool known = kernelKnown(kernel);
	for (int i = referenceCount; known && i-- > 0 && !queued.reference;)
		if (strstr(kernel->name, references[i].part))
			queued.reference = references[i].reference, queued.data = references[i].data;
	pthread_mutex_unlock(&lock);
	if (!known)
		return INVALID_HANDLE;
	logLine("launch %.200s, reference=%s", kernel->name, queued.reference ? "yes" : "no");
	if (!queued.reference)
		return NOT_SUPPORTED;
	CUresult result;
	queued.values = packParameters(kernel, parameters, extra, &result);
	if (!queued.values)
		return result;
	queued.launch = (Launch){.name = kernel->name,
		.grid = {config->gridX, config->gridY, config->gridZ},
		.block = {config->blockX, config->blockY, config->blockZ},
		.sharedBytes = config->sharedBytes,
		.parameterCount = kernel->parameterCount,
		.parameterBytes = kernel->sizes,
		.stream = config->stream};
	result = streamSubmit(config->stream, runReference, &queued, sizeof queued, false);
	if (result)
		free(queued.values);
	return result;
}

API CUresult cuLaunchKernelEx(
	const CUlaunchConfig *config, Kernel *kernel, void **parameters, void **extra)
{
	CONTEXT_CALL("kernel=%p", (void *)kernel);
	return config ? launchNow(config, kernel, parameters, extra) : INVALID_VALUE;
}

API CUresult cuLaunchKernel(Kernel *kernel, unsigned gridX, unsigned gridY, unsigned gridZ,
	unsigned blockX, unsigned blockY, unsigned blockZ, unsigned sharedBytes, Stream *stream,
	void **parameters, void **extra)
{
	CONTEXT_CALL(
		"kernel=%p, grid=%u, block=%u, stream=%p", (void *)kernel, gridX, blockX, (void *)stream);
	CUlaunchConfig config = {
		gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes, stream, NULL, 0};
	return launchNow(&config, kernel, parameters, extra);
}

API CUresult cuLaunchCooperativeKernel(Kernel *kernel, unsigned gridX, unsigned gridY,
	unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ, unsigned sharedBytes,
	Stream *stream, void **parameters)
{
	return cuLaunchKernel(
		kernel, gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes, stream, parameters, NULL);
}
