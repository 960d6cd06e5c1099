/* The stand-in CUDA driver: the declarations that its modules share.
 *
 * It declares the used part of the driver's binary interface itself, from the
 * documentation, so that gcc alone builds it. One noun per file: calls (log, faults),
 * ledger (accounting across processes), device (devices, contexts), links (between
 * devices), memory, vmm, copies, batches, streams, captures, freeing, events, ipc,
 * kernels, entries (the table behind cuGetProcAddress).
 *
 * Locks, outermost first: the submission lock of streams.c, a stream's own,
 * `memoryLock` of memory.c, the ledger's. No thread waits for work while it holds one
 * of them.
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>

#define API __attribute__((visibility("default")))

typedef int CUresult;
enum {
	OK = 0,
	INVALID_VALUE = 1,
	OUT_OF_MEMORY = 2,
	NOT_INITIALIZED = 3,
	DEINITIALIZED = 4,
	NO_DEVICE = 100,
	INVALID_DEVICE = 101,
	INVALID_IMAGE = 200,
	INVALID_CONTEXT = 201,
	MAPPING_FAILED = 205,
	PEER_ACCESS_UNSUPPORTED = 217,
	OPERATING_SYSTEM = 304,
	INVALID_HANDLE = 400,
	ILLEGAL_STATE = 401,
	NOT_FOUND = 500,
	NOT_READY = 600,
	ILLEGAL_ADDRESS = 700,
	PEER_ACCESS_ALREADY_ENABLED = 704,
	PEER_ACCESS_NOT_ENABLED = 705,
	CONTEXT_IS_DESTROYED = 709,
	TOO_MANY_PEERS = 711,
	HOST_MEMORY_ALREADY_REGISTERED = 712,
	HOST_MEMORY_NOT_REGISTERED = 713,
	LAUNCH_FAILED = 719,
	NOT_PERMITTED = 800,
	NOT_SUPPORTED = 801,
	STREAM_CAPTURE_UNSUPPORTED = 900,
	STREAM_CAPTURE_INVALIDATED = 901,
	CAPTURED_EVENT = 907,
	UNKNOWN = 999,
};

typedef unsigned long long CUdeviceptr;
typedef int CUdevice;
typedef struct {
	char bytes[16];
} CUuuid;
typedef struct {
	char reserved[64];
} CUipcHandle;
typedef struct {
	int type, id;
} CUmemLocation;
typedef struct {
	CUmemLocation location;
	int flags;
} CUmemAccessDesc;
typedef struct {
	int type, requestedHandleTypes;
	CUmemLocation location;
	void *win32;
	struct {
		unsigned char compressionType, gpuDirectRdma;
		unsigned short usage;
		unsigned char reserved[4];
	} allocFlags;
} CUmemAllocationProp;
typedef struct {
	unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
	struct Stream *stream;
	void *attributes;
	unsigned attributeCount;
} CUlaunchConfig;

enum { MAX_DEVICES = 16, GRANULE = 2 << 20, PAGE = 4096, STREAM_NON_BLOCKING = 1 };

/* --- calls.c --- */

/* Every entry point begins with one of these. CALL: needs cuInit. HOST_CALL: needs
 * no more, and host functions may make it too. FREE_CALL: needs nothing.
 * CONTEXT_CALL: needs a current context as well, in `context`, and tells its sticky
 * error. */
typedef enum { NEEDS_NOTHING, NEEDS_INIT_ONLY, NEEDS_INIT } Need;
#define BEGIN(need, ...) \
	do { \
		CUresult refused_ = callBegin(__func__, need, __VA_ARGS__); \
		if (refused_) \
			return refused_; \
	} while (0)
#define CALL(...) BEGIN(NEEDS_INIT, __VA_ARGS__)
#define HOST_CALL(...) BEGIN(NEEDS_INIT_ONLY, __VA_ARGS__)
#define FREE_CALL(...) BEGIN(NEEDS_NOTHING, __VA_ARGS__)
#define CONTEXT_CALL(...) \
	CALL(__VA_ARGS__); \
	Context *context = contextCurrent(); \
	if (!context) \
		return INVALID_CONTEXT; \
	do { \
		CUresult sticky_ = atomic_load(&context->error); \
		if (sticky_) \
			return sticky_; \
	} while (0)
#define CHECK(call) \
	do { \
		CUresult failed_ = (call); \
		if (failed_) \
			return failed_; \
	} while (0)

CUresult callBegin(const char *name, Need need, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void logLine(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t settingBytes(const char *name, uint64_t otherwise);
/* A number with an optional K, M, G, and where it ends */
uint64_t bytesOf(const char *text, const char **end);
uint64_t nowNs(void);
uint64_t freshNonce(void);
extern _Thread_local bool inHostFunction;

/* --- ledger.c --- */

CUresult ledgerOpen(void);
/* Limit 0: an import, which takes nothing new */
CUresult ledgerHold(uint64_t nonce, int device, uint64_t bytes, uint64_t limit);
void ledgerShare(uint64_t nonce); /* from now on other processes may have a descriptor of it */
void ledgerDrop(uint64_t nonce);
uint64_t ledgerUsed(int device);
#define MEMORY_NAME "standin-%016llx" /* of a memfd, by its nonce */
uint64_t processStart(int pid); /* 0 when there is no such process, or only its zombie */

/* --- device.c --- */

typedef struct Context {
	int device; /* ordinal in this process */
	bool primary, destroyed;
	int retained;
	uint64_t nonce; /* of what it takes in the ledger */
	unsigned flags;
	_Atomic CUresult error; /* sticky: the error of a kernel or a copy */
	_Atomic(struct Stream *) legacy;
	_Atomic uint32_t peers; /* bit per device whose memory was made accessible */
	struct Context *next;
} Context;

typedef struct {
	bool ready, forked;
	int deviceCount, driverVersion;
	int physical[MAX_DEVICES]; /* ordinal -> index of the host, by CUDA_VISIBLE_DEVICES */
	bool peer[MAX_DEVICES][MAX_DEVICES]; /* by ordinal */
	uint64_t memoryBytes, contextBytes;
	bool vmmFd, readOnlyRegister;
} Driver;
extern Driver driver;

Context *contextCurrent(void);
Context *contextPrimary(int device); /* active or not */
bool contextKnown(Context *context); /* and not destroyed */
void contextAdopt(Context *context); /* for this thread */
/* Whether a context of `device` has enabled access to `peer`; under memoryLock */
bool contextsReach(int device, int peer);
int deviceOrdinal(int physical); /* -1: the device is not visible here */

/* --- memory.c --- */

typedef enum { KIND_DEVICE, KIND_IPC, KIND_VMM, KIND_MANAGED, KIND_HOST, KIND_REGISTERED } Kind;

/* Device memory: a memfd of `bytes`, and a trailer page that describes it. Under
 * `memoryLock`. */
typedef struct Physical {
	struct Physical *next;
	int fd, device; /* device: index of the host, not ordinal */
	uint64_t bytes, nonce;
	char *alias; /* the mapping through which this process reads and writes it */
	uint64_t deviceVa; /* PROT_NONE range that its address is in; 0 under VMM */
	int refs; /* mappings, handles, work under way */
	int exportable, block;
} Physical;

typedef struct {
	uint64_t magic, nonce, bytes;
	int32_t device, vmm, exportable, exporter;
	uint64_t exporterStart;
} Trailer;

typedef struct VmmHandle VmmHandle;
void vmmUnmapped(VmmHandle *handle); /* vmm.c; under memoryLock */

typedef struct {
	uint64_t base, bytes;
	Kind kind;
	Physical *physical; /* NULL for host memory */
	VmmHandle *handle; /* what was mapped, under VMM */
	uint64_t offset; /* in the physical */
	Context *context;
	int opens; /* of an IPC handle */
	unsigned flags; /* of host memory */
	unsigned char access[MAX_DEVICES]; /* by ordinal: 0, 1 read, 3 both; VMM only */
	int exporter;
	uint64_t exporterStart, id;
} Mapping;

extern pthread_mutex_t memoryLock;

Mapping *mappingFind(uint64_t address); /* under memoryLock */
/* Under memoryLock; takes a reference of the physical; NULL when it overlaps */
Mapping *mappingAdd(Mapping mapping);
void mappingRemove(Mapping *mapping); /* under memoryLock */
size_t mappingCount(void); /* under memoryLock */
Mapping *mappingAt(size_t index); /* under memoryLock */
/* Under memoryLock, refs 1 */
CUresult physicalCreate(Physical **made, int device, uint64_t bytes, bool vmm, bool exportable);
/* Under memoryLock, refs 1; fd stays the caller's */
CUresult physicalImport(Physical **made, int fd, bool vmm, Trailer *trailer);
Physical *physicalOf(uint64_t nonce); /* under memoryLock */
bool physicalKnown(const Physical *physical); /* under memoryLock */
void physicalRelease(Physical *physical); /* under memoryLock */
/* PROT_NONE, aligned to GRANULE; 0 when there is none */
uint64_t reserveRange(uint64_t bytes);
/* Find the host address of `address`, with at most `*bytes` from there. The caller
 * gives *held back with physicalUnpin. */
enum { TO_READ = 0, TO_WRITE = 1, KNOWN = 2 }; /* KNOWN: plain host memory is an error */
CUresult resolve(uint64_t address, uint64_t *bytes, int how, char **where, Physical **held);
void physicalUnpin(Physical *held);
bool isDevice(uint64_t address, uint64_t bytes); /* all of it */
/* Host memory that a queued copy may use */
bool isPinned(uint64_t address, uint64_t bytes);
uint64_t roundUp(uint64_t value, uint64_t unit);

/* --- links.c --- */

/* The link over which `device` reaches the memory of `peer`, and over which bytes go
 * from `device` to `peer`. */
typedef struct {
	bool absent, refuses, corrupts;
	uint64_t bytesPerSecond; /* 0: no limit */
} Link;

/* How the first `bytes` of a copy go. */
typedef struct {
	bool between; /* two devices, by index of the host: */
	int from, to;
	const Link *link; /* NULL: they do not go over the link */
	uint64_t bytes;
} Path;

void linksRead(int devices);
const Link *linkOf(int device, int peer); /* by index of the host */
/* Whether a device (by ordinal) reaches device memory; under memoryLock */
bool reaches(int device, const Mapping *mapping, bool write);
/* Whether the driver refuses the copy in a stream of `device` (by ordinal; -1: of none) */
bool linkForbids(uint64_t target, uint64_t source, uint64_t bytes, int device);
Path linkPath(uint64_t target, uint64_t source, uint64_t bytes);
void linkAwait(const Path *path); /* as long as the link takes */
void linkDamage(const Path *path, char *arrived, uint64_t bytes);

/* --- streams.c --- */

typedef struct Stream Stream;
/* `before` is the sticky error of the context; the result becomes the sticky error */
typedef CUresult (*Work)(void *arguments, CUresult before);
CUresult streamSubmit(Stream *handle, Work work, const void *arguments, size_t bytes, bool wait);
CUresult streamIdle(Context *context); /* waits for all streams of the context */
int streamDevice(Stream *handle); /* its ordinal; -1: there is no such stream */
bool streamIsWorker(void); /* whether this thread is the worker of a stream */
void futexWake(uint32_t *word);
void futexWait(uint32_t *word, uint32_t seen, long ms);

/* --- copies.c --- */

/* When the caller may go on, and when the source may be read. IN_CALL and ANY_TIME are
 * those of a batch. */
typedef enum { WAITED, QUEUED, IN_CALL, ANY_TIME } Timing;
/* INVALID_VALUE for a copy that the driver refuses */
CUresult copyCheck(uint64_t target, uint64_t source, uint64_t bytes, Stream *stream, bool mayStage);
/* Of a copy that was checked */
CUresult copySubmit(
	uint64_t target, uint64_t source, uint64_t bytes, Stream *stream, Timing timing);

/* --- captures.c --- */

bool captureHas(const struct Stream *stream);
void captureBreak(const struct Stream *stream);
CUresult captureDisturbs(const struct Stream *stream);
/* OK, or the error for a call that this thread may not make now; then captures are
 * broken */
CUresult captureRefuses(const char *name);

/* --- freeing.c --- */

CUresult freeingIdle(Context *context); /* streamIdle, with the driver's lock */
void freeingAwait(const char *name); /* wait for the driver's lock, if that call needs it */

/* --- events.c --- */

typedef struct Event Event;
CUresult eventExport(Event *event, int *fd, uint64_t *nonce);
CUresult eventImport(int fd, uint64_t nonce, Event **made);

/* --- entries.c --- */

CUresult refuseUnknown(void);

#endif
