/* Primitives: operations of the processor and of the kernel that Python does not offer.
 *
 * No policy, no allocation, no globals. The words live in memory that several processes
 * map; the memory order is in the name of each function. Functions that can fail return
 * 0 or a count, or -errno. Preconditions, stated once: pointers are valid for the
 * length that is given, and stay so during the call; words are naturally aligned; times
 * are nanoseconds, relative, and not negative.
 *
 * The shared words are those of `layout.h`. Python reaches these functions through
 * `muninn/system/atomics.py`.
 */
#ifndef MUNINN_PRIMITIVES_H
#define MUNINN_PRIMITIVES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MNN_API __attribute__((visibility("default")))

/* --- atomics --- */

/* Acquire: the peer's writes before its release are visible afterwards. SeqCst: there
 * is one total order over all SeqCst operations, too. Two sides that each write their
 * own word and then read the other's need it (open against free). On x86-64 the loads
 * are plain moves, and the exchanges are full barriers. */
MNN_API uint32_t mnnLoadAcquire32(const uint32_t *word);
MNN_API uint64_t mnnLoadAcquire64(const uint64_t *word);
MNN_API uint32_t mnnLoadSeqCst32(const uint32_t *word);
MNN_API uint64_t mnnLoadSeqCst64(const uint64_t *word);
MNN_API void mnnStoreRelease32(uint32_t *word, uint32_t value);
MNN_API void mnnStoreRelease64(uint64_t *word, uint64_t value);
MNN_API uint32_t mnnExchangeSeqCst32(uint32_t *word, uint32_t value);
MNN_API uint64_t mnnExchangeSeqCst64(uint64_t *word, uint64_t value);
/* Compare and swap. Returns the value found: the swap happened if and only if it
 * equals `expected`. */
MNN_API uint32_t mnnCasSeqCst32(uint32_t *word, uint32_t expected, uint32_t desired);
MNN_API uint64_t mnnCasSeqCst64(uint64_t *word, uint64_t expected, uint64_t desired);
/* Return the value before the addition. */
MNN_API uint32_t mnnFetchAddAcqRel32(uint32_t *word, uint32_t addend);
MNN_API uint64_t mnnFetchAddAcqRel64(uint64_t *word, uint64_t addend);
/* Add to three neighbouring words, relaxed: a count publishes nothing. An addend of 0
 * touches no word. */
MNN_API void mnnAddThree(uint64_t *words, uint64_t first, uint64_t second, uint64_t third);
/* Where something that is timed is counted, as indices of words: how often, and the first
 * of its buckets. These are pairs of words, how often and how many nanoseconds, one for
 * each of the ascending bounds and one more. */
struct mnnTimed {
	uint64_t times, buckets, bounds;
	uint64_t boundsNs[];
};
/* Count something that began at `begunNs` and is over now, relaxed. */
MNN_API void mnnCountTimed(uint64_t *words, const struct mnnTimed *timed, int64_t begunNs);
/* Whether (word & mask) == value, by a SeqCst load, and *lease == held; if so, `counter`
 * goes up by one, relaxed. */
MNN_API uint32_t mnnCountIfEqual(const uint64_t *word, uint64_t mask, uint64_t value,
	const uint64_t *lease, uint64_t held, uint64_t *counter);

/* --- many words --- */

/* Count the words, `strideBytes` apart, for which (word & mask) == value, and store
 * the indices of the first `outMax` of them. Each load is SeqCst; the scan as a
 * whole is no snapshot. `outIndices` may be NULL when `outMax` is 0. */
MNN_API uint32_t mnnScan32(const uint32_t *first, size_t strideBytes, uint32_t count, uint32_t mask,
	uint32_t value, uint32_t *outIndices, uint32_t outMax);
MNN_API uint32_t mnnScan64(const uint64_t *first, size_t strideBytes, uint32_t count, uint64_t mask,
	uint64_t value, uint32_t *outIndices, uint32_t outMax);
/* In each word whose field is below `field` (as masked integers), CAS the field up to
 * it and leave the other bits. Returns the number of changed words. If another process
 * changes a word meanwhile, the CAS is repeated until the field is not below. Fields
 * only go up, so the loop ends. */
MNN_API uint32_t mnnRaiseField64(
	uint64_t *first, size_t strideBytes, uint32_t count, uint64_t fieldMask, uint64_t field);

/* --- time --- */

/* CLOCK_MONOTONIC of the kernel, in the time namespace of the calling process. Tests of
 * programs replace the functions of Python's `time`, and some preload a library that
 * replaces those of C: neither has an effect here. */
MNN_API int64_t mnnMonotonicNs(void);
/* Sleep until that clock shows `deadlineNs`: 0. -EINTR: a signal came first; the caller
 * handles it, and calls again with the same deadline. */
MNN_API int mnnSleepUntil(int64_t deadlineNs);

/* --- waiting --- */

/* Sleep while the word has the expected value. 0: woken, perhaps spuriously. -EAGAIN:
 * the word had another value. -ETIMEDOUT, -EINTR. Works between processes (not
 * FUTEX_PRIVATE). */
MNN_API int mnnFutexWait32(const uint32_t *word, uint32_t expected, int64_t timeoutNs);
/* Wake at most `count` sleepers; returns the number that was woken. */
MNN_API int mnnFutexWake32(uint32_t *word, int32_t count);
/* Read the word until it differs from `value` or the time is over; returns the last
 * value (acquire). For waits that are shorter than a sleep and a wake-up. */
MNN_API uint64_t mnnSpinWhile64(const uint64_t *word, uint64_t value, int64_t timeoutNs);
/* Wait until `fd` is readable or at its end: 0. Polls for `spinNs`, and then sleeps.
 * -ETIMEDOUT; -EINTR after a signal. */
MNN_API int mnnAwaitReadable(int fd, int64_t spinNs, int64_t timeoutNs);

/* --- robust words --- */

/* The kernel's robust-futex list (Documentation/locking/robust-futex-ABI.rst) with one
 * entry. When the calling thread ends, for whatever reason, the kernel sets
 * FUTEX_OWNER_DIED in `*word`, and wakes one waiter if FUTEX_WAITERS was set. It does
 * so 0.1 ms after a SIGKILL, before it tears the memory down.
 *
 * The call replaces libc's list head of the CALLING thread, so that thread must never
 * lock a robust pthread mutex. `list` is private memory of mnnRobustListBytes() bytes
 * that outlives the thread. */
MNN_API size_t mnnRobustListBytes(void);
/* Store the thread's id in `*word`. -EBUSY: another thread has the word, and has not
 * died. */
MNN_API int mnnRobustHold(void *list, uint32_t *word);

/* --- descriptors --- */

/* Move a new descriptor above 2 and mark it, as `descriptors.h` says. Returns its
 * number from then on; or -errno, and then it is closed. `fd` is -1 if the call that
 * opened it failed: the result is -errno. */
MNN_API int mnnOwn(int fd);
/* Open a descriptor that is above 2, marked, and close-on-exec; or -errno. A duplicate
 * has the mark of its original. */
MNN_API int mnnOpen(const char *path, int flags, uint32_t mode);
MNN_API int mnnEventfd(void);
MNN_API int mnnDuplicate(int fd);

/* A descriptor with the identity of its file: programs close numbers that are not
 * theirs, and open other files under them.
 *
 * Python gets this structure as the result of the call that opens the descriptor. So
 * the number has an owner, whose destruction closes it, before the next bytecode
 * runs. */
struct mnnDescriptor {
	int number; /* below 0: there is none; -errno if the opening failed */
	int mark;
	uint64_t device, inode;
};
MNN_API struct mnnDescriptor mnnKnown(int fd);
MNN_API int mnnNumber(const struct mnnDescriptor *descriptor);
/* 1: the number still leads to the same file. */
MNN_API int mnnIsKnown(const struct mnnDescriptor *descriptor);
/* Make an eventfd readable, if the number still leads to it. Does not block. */
MNN_API void mnnEventSet(const struct mnnDescriptor *event);
/* Close the descriptor if the number still leads to the same file. A second call, from
 * any thread, does nothing. */
MNN_API void mnnCloseKnown(struct mnnDescriptor *descriptor);
/* Returns the number, which the caller closes from now on. */
MNN_API int mnnRelease(struct mnnDescriptor *descriptor);

/* The descriptors that came with a message. The kernel allows so many (SCM_MAX_FD). */
#define MNN_RECEIVED_MAX 253
struct mnnReceived {
	uint32_t count;
	int32_t flags; /* of recvmsg: MSG_TRUNC, MSG_CTRUNC */
	int32_t numbers[MNN_RECEIVED_MAX]; /* -errno: mnnOwn failed, and has closed it */
};
/* Receive one message of at most `room` bytes with at most `most` descriptors;
 * returns its length, or -errno. `into` must have no descriptors in it. */
MNN_API int64_t mnnReceive(
	int socket, void *bytes, uint64_t room, uint32_t most, struct mnnReceived *into);
/* Returns one of the descriptors, which the caller closes from now on. */
MNN_API int mnnTakeReceived(struct mnnReceived *received, uint32_t index);
/* Close the descriptors that were not taken. */
MNN_API void mnnDropReceived(struct mnnReceived *received);

/* --- liveness --- */

/* POSIX byte locks: the process owns them. The kernel frees them when the last thread
 * of the process has passed exit_files, or when the process closes ANY descriptor of
 * the file. */
MNN_API int mnnByteLock(int fd, int64_t offset); /* -EAGAIN: another process has it */
MNN_API int mnnByteUnlock(int fd, int64_t offset);
/* The pid of ANOTHER process that has the byte, or INT_MAX if that process has no pid
 * in this PID namespace; 0: the byte is free, or this process has it. */
MNN_API int mnnByteHolder(int fd, int64_t offset);
/* The same for any byte of a range. */
MNN_API int mnnRangeHolder(int fd, int64_t offset, int64_t length);
MNN_API int mnnPidfdOpen(int pid); /* a close-on-exec descriptor */
/* 1: the process has ended, a zombie included; 0: it runs, or is stopped */
MNN_API int mnnPidfdDead(int pidfd);
MNN_API uint32_t mnnThreadId(void);
/* Block all signals in the calling thread except those of its own faults (SIGSEGV,
 * SIGBUS, SIGFPE, SIGILL): signal handlers are for the program's own threads. */
MNN_API int mnnBlockSignals(void);

/* Whether the calling thread has called that: it is one of Muninn's. */
int mnnIsOwnThread(void);

/* --- memory --- */

/* Create a memfd of `bytes` allocated bytes (0: none yet), which may be sealed, with
 * mode 0600 (the kernel's default is 0777) and close-on-exec. Returns the
 * descriptor. */
MNN_API int mnnMemfdCreate(const char *name, uint64_t bytes);
MNN_API int mnnSeal(int fd, int seals);
/* How a file is mapped. What is written to a private mapping goes to pages of this
 * process, and never to the file. */
enum mnnMapKind { MNN_MAP_READ = 0, MNN_MAP_WRITE = 1, MNN_MAP_PRIVATE = 2 };
/* Map the file from its beginning. `alignment` is 0 or a power of two: the address is a
 * multiple of it. */
MNN_API int mnnMap(int fd, uint64_t bytes, uint64_t alignment, int kind, void **out);
/* The same for the file at `path`, without a descriptor that outlives the call.
 * -EBADMSG unless it is a regular file of `owner`, closed to other users, of at least
 * so many bytes. */
MNN_API int mnnMapPath(
	const char *path, uint32_t owner, uint64_t bytes, uint64_t alignment, int kind, void **out);
MNN_API int mnnUnmap(void *address, uint64_t bytes);
/* A range of addresses that a mapping has. The call that maps stores the address here;
 * NULL: there is no mapping. */
struct mnnMappedRange {
	void *address;
	uint64_t bytes;
};
/* Unmap the range, and clear its address. A second call, from any thread, does nothing:
 * so it can not unmap memory that was mapped at that address later. */
MNN_API int mnnUnmapOnce(struct mnnMappedRange *range);
MNN_API int mnnProtect(void *address, uint64_t bytes, int writable);
MNN_API int mnnAdvise(void *address, uint64_t bytes, int advice);
/* Private memory that reads zero in a forked child. */
MNN_API int mnnMapWipedOnFork(uint64_t bytes, void **out);
/* Bind the pages of the range to one NUMA node (MPOL_BIND). -ENOSYS: the kernel has no
 * NUMA. */
MNN_API int mnnBindNode(void *address, uint64_t bytes, int node);
MNN_API void mnnCopy(void *target, const void *source, uint64_t bytes);
/* Exchange the names of two files of one file system, in one step: a process that opens
 * either name gets one of the two files. -ENOENT: one of the names is gone. */
MNN_API int mnnExchangeNames(const char *one, const char *other);
/* The reader's half of a seqlock: copy `bytes` that belong to one even generation, and
 * return that generation. -EBUSY: the generation is odd, because a process writes.
 * -EAGAIN: a writer overtook each attempt. The copy races with writers by design; a
 * copy that a writer has overtaken is discarded. */
MNN_API int64_t mnnSeqRead(const uint64_t *generation, const void *source, void *target,
	uint64_t bytes, uint32_t attempts);

#ifdef __cplusplus
}
#endif
#endif
