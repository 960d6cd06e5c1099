/* primitives.h says what each function promises. The comments here give reasons. */
#define _GNU_SOURCE
#include "primitives.h"

#include "descriptors.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static const int64_t NS_PER_SECOND = 1000000000;
static const uint64_t PAGE_BYTES = 4096;

static int resultOf(long result) { return result < 0 ? -errno : (int)result; }

/* --- atomics --- */

uint32_t mnnLoadAcquire32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
uint64_t mnnLoadAcquire64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
uint32_t mnnLoadSeqCst32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
uint64_t mnnLoadSeqCst64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
void mnnStoreRelease32(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}
void mnnStoreRelease64(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}
uint32_t mnnExchangeSeqCst32(uint32_t *word, uint32_t value)
{
	return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}
uint64_t mnnExchangeSeqCst64(uint64_t *word, uint64_t value)
{
	return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}

uint32_t mnnCasSeqCst32(uint32_t *word, uint32_t expected, uint32_t desired)
{
	__atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return expected;
}

uint64_t mnnCasSeqCst64(uint64_t *word, uint64_t expected, uint64_t desired)
{
	__atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return expected;
}

uint32_t mnnFetchAddAcqRel32(uint32_t *word, uint32_t addend)
{
	return __atomic_fetch_add(word, addend, __ATOMIC_ACQ_REL);
}
uint64_t mnnFetchAddAcqRel64(uint64_t *word, uint64_t addend)
{
	return __atomic_fetch_add(word, addend, __ATOMIC_ACQ_REL);
}
void mnnAddThree(uint64_t *words, uint64_t first, uint64_t second, uint64_t third)
{
	const uint64_t addends[] = {first, second, third};
	for (size_t index = 0; index < 3; index++)
		if (addends[index] != 0)
			__atomic_fetch_add(&words[index], addends[index], __ATOMIC_RELAXED);
}
void mnnCountTimed(uint64_t *words, const struct mnnTimed *timed, int64_t begunNs)
{
	const int64_t now = mnnMonotonicNs();
	const uint64_t took = now > begunNs ? (uint64_t)(now - begunNs) : 0;
	uint64_t bucket = 0;
	while (bucket < timed->bounds && took > timed->boundsNs[bucket])
		bucket++;
	__atomic_fetch_add(&words[timed->times], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&words[timed->buckets + 2 * bucket], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&words[timed->buckets + 2 * bucket + 1], took, __ATOMIC_RELAXED);
}

uint32_t mnnCountIfEqual(const uint64_t *word, uint64_t mask, uint64_t value, const uint64_t *lease,
	uint64_t held, uint64_t *counter)
{
	if ((__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask) != value)
		return 0;
	if (__atomic_load_n(lease, __ATOMIC_ACQUIRE) != held)
		return 0;
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
	return 1;
}

/* --- many words --- */

uint32_t mnnScan32(const uint32_t *first, size_t strideBytes, uint32_t count, uint32_t mask,
	uint32_t value, uint32_t *outIndices, uint32_t outMax)
{
	uint32_t found = 0;
	for (uint32_t index = 0; index < count; index++) {
		const uint32_t *word = (const uint32_t *)((const char *)first + index * strideBytes);
		if ((__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask) != value)
			continue;
		if (found < outMax)
			outIndices[found] = index;
		found++;
	}
	return found;
}

uint32_t mnnScan64(const uint64_t *first, size_t strideBytes, uint32_t count, uint64_t mask,
	uint64_t value, uint32_t *outIndices, uint32_t outMax)
{
	uint32_t found = 0;
	for (uint32_t index = 0; index < count; index++) {
		const uint64_t *word = (const uint64_t *)((const char *)first + index * strideBytes);
		if ((__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask) != value)
			continue;
		if (found < outMax)
			outIndices[found] = index;
		found++;
	}
	return found;
}

uint32_t mnnRaiseField64(
	uint64_t *first, size_t strideBytes, uint32_t count, uint64_t fieldMask, uint64_t field)
{
	uint32_t raised = 0;
	for (uint32_t index = 0; index < count; index++) {
		uint64_t *word = (uint64_t *)((char *)first + index * strideBytes);
		uint64_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
		while ((seen & fieldMask) < field) {
			if (__atomic_compare_exchange_n(word, &seen, (seen & ~fieldMask) | field, 0,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
				raised++;
				break;
			}
		}
	}
	return raised;
}

/* --- waiting --- */

static struct timespec timespecOf(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / NS_PER_SECOND, .tv_nsec = ns % NS_PER_SECOND};
}

/* The clock of the C library itself. A library that is preloaded (libfaketime) replaces
 * `clock_gettime`, and its time would not be that of the other processes. */
static int (*readClock)(clockid_t, struct timespec *) = clock_gettime;

__attribute__((constructor)) static void findClock(void)
{
	/* The handle stays open. Another C library has another name; there the symbol is
	 * used as the linker resolved it. */
	void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	void *found = library == NULL ? NULL : dlsym(library, "clock_gettime");
	if (found != NULL)
		memcpy(&readClock, &found, sizeof found);
}

int64_t mnnMonotonicNs(void)
{
	struct timespec now;
	readClock(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * NS_PER_SECOND + now.tv_nsec;
}

int mnnSleepUntil(int64_t deadlineNs)
{
	struct timespec deadline = timespecOf(deadlineNs);
	return resultOf(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL));
}

int mnnFutexWait32(const uint32_t *word, uint32_t expected, int64_t timeoutNs)
{
	struct timespec timeout = timespecOf(timeoutNs);
	return resultOf(syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0));
}

int mnnFutexWake32(uint32_t *word, int32_t count)
{
	return resultOf(syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0));
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

int mnnAwaitReadable(int fd, int64_t spinNs, int64_t timeoutNs)
{
	if (fd < 0)
		return -EBADF;
	struct pollfd wanted = {fd, POLLIN, 0};
	int64_t began = mnnMonotonicNs(), passed = 0;
	do {
		int64_t left = timeoutNs > passed ? timeoutNs - passed : 0;
		struct timespec sleep = {left / NS_PER_SECOND, left % NS_PER_SECOND}, glance = {0, 0};
		int ready = ppoll(&wanted, 1, passed < spinNs ? &glance : &sleep, NULL);
		if (ready)
			return ready > 0 ? 0 : -errno;
		passed = mnnMonotonicNs() - began;
	} while (passed < timeoutNs);
	return -ETIMEDOUT;
}

uint64_t mnnSpinWhile64(const uint64_t *word, uint64_t value, int64_t timeoutNs)
{
	enum { LOOKS_PER_CLOCK = 64 }; /* the clock costs as much as some ten looks */
	int64_t end = mnnMonotonicNs() + timeoutNs;
	do {
		for (int look = 0; look < LOOKS_PER_CLOCK; look++) {
			uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
			if (seen != value)
				return seen;
			relax();
		}
		/* The thread that will change the word may wait for this very processor. */
		sched_yield();
	} while (mnnMonotonicNs() < end);
	return value;
}

/* --- robust words --- */

struct robustEntry {
	struct robust_list_head head;
	struct robust_list node;
};

size_t mnnRobustListBytes(void) { return sizeof(struct robustEntry); }

/* SYNC robust: pairs with MemberReader.isSuspectedDead. The kernel knows the list before
 * the word names the thread. */
int mnnRobustHold(void *list, uint32_t *word)
{
	struct robustEntry *entry = list;
	uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
	if ((seen & FUTEX_TID_MASK) != 0 && (seen & FUTEX_OWNER_DIED) == 0)
		return -EBUSY;
	memset(entry, 0, sizeof *entry);
	entry->head.list.next = &entry->node;
	entry->node.next = &entry->head.list;
	/* The kernel finds the word of each entry at one fixed distance from the entry. A
	 * list with one entry can choose that distance, so the entry is private and only
	 * the word is shared. */
	entry->head.futex_offset = (char *)word - (char *)&entry->node;
	if (syscall(SYS_set_robust_list, &entry->head, sizeof entry->head) != 0)
		return -errno;
	/* This comes last: a death before it leaves the word as it was, and the kernel
	 * marks a death after it. */
	uint32_t found = mnnCasSeqCst32(word, seen, mnnThreadId());
	return found == seen ? 0 : -EBUSY;
}

/* --- descriptors --- */

int mnnOwn(int fd) { return mnnOwned(fd); }

int mnnOpen(const char *path, int flags, uint32_t mode)
{
	return mnnOwned(open(path, flags | O_CLOEXEC, (mode_t)mode));
}
int mnnEventfd(void) { return mnnOwned(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
int mnnDuplicate(int fd) { return resultOf(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1)); }

struct mnnDescriptor mnnKnown(int fd)
{
	struct stat status;
	if (fd < 0 || fstat(fd, &status) != 0)
		return (struct mnnDescriptor){.number = fd < 0 ? fd : -errno};
	return (struct mnnDescriptor){fd, fcntl(fd, F_GETSIG), status.st_dev, status.st_ino};
}

static int isThat(int fd, const struct mnnDescriptor *descriptor)
{
	struct stat status;
	return fd >= 0 && fstat(fd, &status) == 0 && status.st_dev == descriptor->device &&
		status.st_ino == descriptor->inode && fcntl(fd, F_GETSIG) == descriptor->mark;
}

int mnnNumber(const struct mnnDescriptor *descriptor)
{
	return __atomic_load_n(&descriptor->number, __ATOMIC_ACQUIRE);
}

int mnnIsKnown(const struct mnnDescriptor *descriptor)
{
	return isThat(mnnNumber(descriptor), descriptor);
}

void mnnEventSet(const struct mnnDescriptor *event)
{
	if (mnnIsKnown(event))
		/* If the counter is at its maximum, the write fails, and the eventfd is ready
		 * already. */
		eventfd_write(mnnNumber(event), 1);
}

/* SYNC number: pairs with mnnRelease in another thread. One of them gets the number,
 * and closes it. */
int mnnRelease(struct mnnDescriptor *descriptor)
{
	return __atomic_exchange_n(&descriptor->number, -1, __ATOMIC_ACQ_REL);
}

void mnnCloseKnown(struct mnnDescriptor *descriptor)
{
	int fd = mnnRelease(descriptor);
	if (isThat(fd, descriptor))
		close(fd);
}

int64_t mnnReceive(int socket, void *bytes, uint64_t room, uint32_t most, struct mnnReceived *into)
{
	union {
		char room[CMSG_SPACE(sizeof into->numbers)];
		struct cmsghdr aligned;
	} beside;
	struct iovec content = {bytes, room};
	struct msghdr message = {.msg_iov = &content,
		.msg_iovlen = 1,
		.msg_control = &beside,
		.msg_controllen = CMSG_SPACE(most * sizeof(int))};
	if (most > MNN_RECEIVED_MAX)
		return -EINVAL;
	into->count = 0;
	ssize_t length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	if (length < 0)
		return -errno;
	into->flags = message.msg_flags;
	for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each != NULL;
		each = CMSG_NXTHDR(&message, each)) {
		if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count && into->count < MNN_RECEIVED_MAX; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(each) + i * sizeof fd, sizeof fd);
			into->numbers[into->count++] = mnnOwned(fd);
		}
	}
	return length;
}

/* SYNC received: pairs with mnnTakeReceived in another thread. One of them gets the
 * number. */
int mnnTakeReceived(struct mnnReceived *received, uint32_t index)
{
	return __atomic_exchange_n(&received->numbers[index], -1, __ATOMIC_ACQ_REL);
}

void mnnDropReceived(struct mnnReceived *received)
{
	for (uint32_t i = 0; i < received->count; i++) {
		int fd = mnnTakeReceived(received, i);
		if (fd >= 0)
			close(fd);
	}
}

/* --- liveness --- */

static int byteLock(
	int fd, int64_t offset, int64_t length, short kind, int command, struct flock *lock)
{
	*lock = (struct flock){
		.l_type = kind, .l_whence = SEEK_SET, .l_start = offset, .l_len = length};
	return resultOf(fcntl(fd, command, lock));
}

int mnnByteLock(int fd, int64_t offset)
{
	struct flock lock;
	int result = byteLock(fd, offset, 1, F_WRLCK, F_SETLK, &lock);
	return result == -EACCES ? -EAGAIN : result; /* POSIX allows either for "another has it" */
}

int mnnByteUnlock(int fd, int64_t offset)
{
	struct flock lock;
	return byteLock(fd, offset, 1, F_UNLCK, F_SETLK, &lock);
}

int mnnByteHolder(int fd, int64_t offset) { return mnnRangeHolder(fd, offset, 1); }

int mnnRangeHolder(int fd, int64_t offset, int64_t length)
{
	struct flock lock;
	int result = byteLock(fd, offset, length, F_WRLCK, F_GETLK, &lock);
	if (result < 0)
		return result;
	if (lock.l_type == F_UNLCK)
		return 0;
	return lock.l_pid > 0 ? lock.l_pid : INT_MAX;
}

int mnnPidfdOpen(int pid) { return mnnOwned((int)syscall(SYS_pidfd_open, pid, 0)); }

int mnnPidfdDead(int pidfd)
{
	struct pollfd poll1 = {.fd = pidfd, .events = POLLIN};
	return resultOf(poll(&poll1, 1, 0));
}

uint32_t mnnThreadId(void) { return (uint32_t)syscall(SYS_gettid); }

static _Thread_local int isOwnThread;

int mnnIsOwnThread(void) { return isOwnThread; }

int mnnBlockSignals(void)
{
	sigset_t blocked;
	isOwnThread = 1;
	sigfillset(&blocked);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	return -pthread_sigmask(SIG_SETMASK, &blocked, NULL);
}

/* --- memory --- */

int mnnMemfdCreate(const char *name, uint64_t bytes)
{
	int fd = mnnOwned(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
	if (fd < 0)
		return fd;
	int error = fchmod(fd, 0600) != 0 || ftruncate(fd, (off_t)bytes) != 0 ? errno
		: bytes == 0                                                      ? 0
					 : posix_fallocate(fd, 0, (off_t)bytes);
	if (error == 0)
		return fd;
	close(fd);
	return -error;
}

int mnnSeal(int fd, int seals) { return resultOf(fcntl(fd, F_ADD_SEALS, seals)); }

static int protectionOf(int writable) { return writable ? PROT_READ | PROT_WRITE : PROT_READ; }

int mnnMap(int fd, uint64_t bytes, uint64_t alignment, int kind, void **out)
{
	int protection = protectionOf(kind != MNN_MAP_READ);
	/* Without MAP_NORESERVE, a private mapping would need as much free memory as if each
	 * of its pages were written. */
	int flags = (kind == MNN_MAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE;
	if (alignment <= PAGE_BYTES) {
		void *address = mmap(NULL, bytes, protection, flags, fd, 0);
		if (address == MAP_FAILED)
			return -errno;
		*out = address;
		return 0;
	}
	/* Reserve more addresses than needed, map the file at an aligned address among
	 * them, and unmap the rest. Without the reservation, another thread could map
	 * something there in between. */
	uint64_t pages = (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1), reserved = pages + alignment;
	char *start = mmap(
		NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return -errno;
	char *aligned = start + (alignment - (uintptr_t)start % alignment) % alignment;
	if (mmap(aligned, bytes, protection, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
		int error = errno;
		munmap(start, reserved);
		return -error;
	}
	if (aligned > start)
		munmap(start, (size_t)(aligned - start));
	munmap(aligned + pages, (size_t)(start + reserved - (aligned + pages)));
	*out = aligned;
	return 0;
}

int mnnMapPath(
	const char *path, uint32_t owner, uint64_t bytes, uint64_t alignment, int kind, void **out)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && fd <= STDERR_FILENO) {
		/* A standard stream was closed. A library that prints to it must not write into
		 * this file. */
		int low = fd, error;
		fd = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		error = errno;
		close(low);
		errno = error;
	}
	if (fd < 0)
		return -errno;
	struct stat status;
	int result;
	if (fstat(fd, &status) != 0)
		result = -errno;
	else if (!S_ISREG(status.st_mode) || status.st_uid != owner || (status.st_mode & 077) ||
		(uint64_t)status.st_size < bytes)
		result = -EBADMSG;
	else
		result = mnnMap(fd, bytes, alignment, kind, out);
	close(fd);
	return result;
}

int mnnUnmap(void *address, uint64_t bytes) { return resultOf(munmap(address, bytes)); }

/* SYNC range: pairs with mnnUnmapOnce in another thread. One of them gets the address,
 * and unmaps it. */
int mnnUnmapOnce(struct mnnMappedRange *range)
{
	void *address = __atomic_exchange_n(&range->address, NULL, __ATOMIC_ACQ_REL);
	return address == NULL ? 0 : resultOf(munmap(address, range->bytes));
}

int mnnProtect(void *address, uint64_t bytes, int writable)
{
	return resultOf(mprotect(address, bytes, protectionOf(writable)));
}
int mnnAdvise(void *address, uint64_t bytes, int advice)
{
	return resultOf(madvise(address, bytes, advice));
}

int mnnMapWipedOnFork(uint64_t bytes, void **out)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (address == MAP_FAILED)
		return -errno;
	if (madvise(address, bytes, MADV_WIPEONFORK) != 0) {
		int error = errno;
		munmap(address, bytes);
		return -error;
	}
	*out = address;
	return 0;
}

int mnnBindNode(void *address, uint64_t bytes, int node)
{
	enum {
		MAX_NODES = 1024,
		BITS = 8 * sizeof(unsigned long),
		BIND = 2 /* MPOL_BIND; numaif.h is not everywhere */
	};
	unsigned long nodes[MAX_NODES / BITS] = {0};
	if (node < 0 || node >= MAX_NODES)
		return -EINVAL;
	nodes[node / (int)BITS] = 1UL << (node % (int)BITS);
	return resultOf(syscall(SYS_mbind, address, bytes, BIND, nodes, (unsigned long)MAX_NODES, 0U));
}

void mnnCopy(void *target, const void *source, uint64_t bytes) { memcpy(target, source, bytes); }

int mnnExchangeNames(const char *one, const char *other)
{
	enum { EXCHANGE = 2 /* RENAME_EXCHANGE; linux/fs.h does not go with every libc's stdio.h */ };
	return resultOf(syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, EXCHANGE));
}

/* SYNC write: pairs with begin, in owners.c. SYNC publish: pairs with endWriting. The
 * bytes belong to the even generation that is read before and after them. */
int64_t mnnSeqRead(
	const uint64_t *generation, const void *source, void *target, uint64_t bytes, uint32_t attempts)
{
	for (uint32_t attempt = 0; attempt < attempts; attempt++) {
		uint64_t before = __atomic_load_n(generation, __ATOMIC_ACQUIRE);
		if (before & 1)
			return -EBUSY;
		memcpy(target, source, bytes);
		/* The copy's loads stay before the second look at the generation (Boehm,
		 * "Can seqlocks get along with programming language memory models?", 2012). */
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(generation, __ATOMIC_RELAXED) == before)
			return (int64_t)before;
	}
	return -EAGAIN;
}
