/* Primitives: what Muninn needs of the processor and the kernel, and Python can not
 * say.
 *
 * Owns nothing: no policy, no allocation, no globals. Words live in memory that several
 * processes map; the memory order is in the name of each function. Everything that can
 * fail returns 0 or a count, or -errno. Preconditions, stated once: pointers are valid
 * for the length that is given and stay so during the call; words are naturally
 * aligned; times are nanoseconds, relative, and not negative.
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

/* --- atomics
 * --------------------------------------------------------------------------------
 * Acquire: what the peer wrote before its release is visible after. SeqCst: also one
 * total order over all SeqCst operations, which "write mine, then read yours" needs
 * on both sides (open against free). On x86-64 the loads are plain moves and the
 * exchanges are full barriers. */
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

/* --- many words
 * --------------------------------------------------------------------------------
 * Count the words, `strideBytes` apart, for which (word & mask) == value, and store
 * the indices of the first `outMax` of them. Each load is SeqCst; the scan as a
 * whole is no snapshot. `outIndices` may be NULL when `outMax` is 0. */
MNN_API uint32_t mnnScan32(const uint32_t *first, size_t strideBytes, uint32_t count, uint32_t mask,
	uint32_t value, uint32_t *outIndices, uint32_t outMax);
MNN_API uint32_t mnnScan64(const uint64_t *first, size_t strideBytes, uint32_t count, uint64_t mask,
	uint64_t value, uint32_t *outIndices, uint32_t outMax);
/* In each word whose field is below `field` (as masked integers), CAS the field up
 * to it and leave the rest. Returns how many were changed. A word that others change
 * meanwhile is tried again until its field is not below: fields only go up, so that
 * ends. */
MNN_API uint32_t mnnRaiseField64(
	uint64_t *first, size_t strideBytes, uint32_t count, uint64_t fieldMask, uint64_t field);

/* --- time
 * --------------------------------------------------------------------------------
 * CLOCK_MONOTONIC as the kernel has it for the calling process: in its time
 * namespace. Programs replace the functions of Python's `time`, and some replace
 * them in C too. */
MNN_API int64_t mnnMonotonicNs(void);
/* Sleep until that clock shows `deadlineNs`. 0: it does. -EINTR: a signal came
 * first; handle it, and call again with the same deadline. */
MNN_API int mnnSleepUntil(int64_t deadlineNs);

/* --- waiting
 * --------------------------------------------------------------------------------
 * Sleep while the word has the expected value. 0: woken, perhaps for nothing.
 * -EAGAIN: it had another value. -ETIMEDOUT, -EINTR. Between processes (not
 * FUTEX_PRIVATE). */
MNN_API int mnnFutexWait32(const uint32_t *word, uint32_t expected, int64_t timeoutNs);
/* Wake at most `count` sleepers; returns how many. */
MNN_API int mnnFutexWake32(uint32_t *word, int32_t count);
/* Look at the word until it differs from `value` or the time is over; returns what
 * was seen last (acquire). For waits shorter than a sleep and a wake-up. */
MNN_API uint64_t mnnSpinWhile64(const uint64_t *word, uint64_t value, int64_t timeoutNs);
/* Look whether there is something to read, or an end, for `spinNs`, and then sleep
 * until there is: 0; -ETIMEDOUT, and -EINTR after a signal. */
MNN_API int mnnAwaitReadable(int fd, int64_t spinNs, int64_t timeoutNs);

/* --- robust words
 * --------------------------------------------------------------------------------
 * The kernel's robust-futex list (Documentation/locking/robust-futex-ABI.rst) with one
 * entry. When the calling thread ends, for whatever reason, the kernel sets
 * FUTEX_OWNER_DIED in `*word` and wakes one waiter if FUTEX_WAITERS was set. That is
 * 0.1 ms after a SIGKILL, before the kernel tears the memory down.
 *
 * It replaces libc's list head of the CALLING thread, which must never lock a robust
 * pthread mutex. `list` is private memory of mnnRobustListBytes() bytes that outlives
 * the thread. */
MNN_API size_t mnnRobustListBytes(void);
/* `*word` becomes the thread's id. -EBUSY: it is a thread's already that has not
 * died. */
MNN_API int mnnRobustHold(void *list, uint32_t *word);

/* --- descriptors
 * --------------------------------------------------------------------------------
 * Make a new descriptor ours, as `descriptors.h` says: returns the number that it
 * has then; or -errno, and then it is closed. An error of the call that made it, -1,
 * becomes -errno. */
MNN_API int mnnOwn(int fd);
/* What these make is ours, and closed on exec; -errno. A duplicate has the mark that
 * its original has. */
MNN_API int mnnOpen(const char *path, int flags, uint32_t mode);
MNN_API int mnnEventfd(void);
MNN_API int mnnDuplicate(int fd);

/* A descriptor, and what tells it from another under the same number: programs close
 * numbers that are not theirs, and open something else.
 *
 * Python gets one as the result of whatever opens, in the same step: so the number has
 * an owner, whose end closes it, before a bytecode runs. */
struct mnnDescriptor {
	int number; /* below 0: there is none; -errno where it could not be opened */
	int mark;
	uint64_t device, inode;
};
MNN_API struct mnnDescriptor mnnKnown(int fd);
MNN_API int mnnNumber(const struct mnnDescriptor *descriptor);
/* 1: the number still is that descriptor. */
MNN_API int mnnIsKnown(const struct mnnDescriptor *descriptor);
/* Let an eventfd be ready, if the number still is that one. It does not block. */
MNN_API void mnnEventSet(const struct mnnDescriptor *event);
/* Close it if it still is that; again, from whatever thread, is nothing. */
MNN_API void mnnCloseKnown(struct mnnDescriptor *descriptor);
/* Its number, which is the caller's to close from now on. */
MNN_API int mnnRelease(struct mnnDescriptor *descriptor);

/* What came with a message: as many as the kernel allows in one (SCM_MAX_FD). */
#define MNN_RECEIVED_MAX 253
struct mnnReceived {
	uint32_t count;
	int32_t flags; /* of recvmsg: MSG_TRUNC, MSG_CTRUNC */
	int32_t numbers[MNN_RECEIVED_MAX]; /* -errno: it could not be made ours, and is closed */
};
/* Receive one message of at most `room` bytes with at most `most` descriptors;
 * returns its length, or -errno. Nothing in `into` is left to be taken. */
MNN_API int64_t mnnReceive(
	int socket, void *bytes, uint64_t room, uint32_t most, struct mnnReceived *into);
/* One of them, which is the caller's from now on. */
MNN_API int mnnTakeReceived(struct mnnReceived *received, uint32_t index);
/* Close what nobody took. */
MNN_API void mnnDropReceived(struct mnnReceived *received);

/* --- liveness
 * --------------------------------------------------------------------------------
 * POSIX byte locks: owned by the process; freed when its last thread has passed
 * exit_files, or when it closes ANY descriptor of the file. */
MNN_API int mnnByteLock(int fd, int64_t offset); /* -EAGAIN: another process has it */
MNN_API int mnnByteUnlock(int fd, int64_t offset);
/* The pid of ANOTHER process that has the byte, INT_MAX when that pid means nothing
 * in this PID namespace; 0: free, or our own. */
MNN_API int mnnByteHolder(int fd, int64_t offset);
/* The same of any byte of a range. */
MNN_API int mnnRangeHolder(int fd, int64_t offset, int64_t length);
MNN_API int mnnPidfdOpen(int pid); /* a close-on-exec descriptor */
/* 1: the process has ended, a zombie included; 0: it runs, or is stopped */
MNN_API int mnnPidfdDead(int pidfd);
MNN_API uint32_t mnnThreadId(void);
/* Block every signal in the calling thread that is not the thread's own fault:
 * handlers belong to the program's threads. */
MNN_API int mnnBlockSignals(void);

/* --- memory
 * --------------------------------------------------------------------------------
 * A memfd of `bytes` allocated bytes, or none yet, that may be sealed, mode 0600
 * (the kernel makes them 0777) and close-on-exec; returns the descriptor. */
MNN_API int mnnMemfdCreate(const char *name, uint64_t bytes);
MNN_API int mnnSeal(int fd, int seals);
/* Map the file from its beginning, shared. `alignment` is 0 or a power of two: the
 * address is a multiple of it. */
MNN_API int mnnMap(int fd, uint64_t bytes, uint64_t alignment, int writable, void **out);
/* The same of the file at `path`, without a descriptor that outlives the call;
 * `-EBADMSG` unless it is a file of `owner`'s alone with so many bytes. */
MNN_API int mnnMapPath(
	const char *path, uint32_t owner, uint64_t bytes, uint64_t alignment, int writable, void **out);
MNN_API int mnnUnmap(void *address, uint64_t bytes);
/* Where something is mapped; NULL: nothing is. What maps puts the address in. */
struct mnnAddressCell {
	void *address;
	uint64_t bytes;
};
/* Unmap what `place` says, which says nothing from then on: whoever calls it again,
 * from whatever thread, unmaps nothing of another's. */
MNN_API int mnnUnmapOnce(struct mnnAddressCell *place);
MNN_API int mnnProtect(void *address, uint64_t bytes, int writable);
MNN_API int mnnAdvise(void *address, uint64_t bytes, int advice);
/* Private memory that reads zero in a forked child. */
MNN_API int mnnMapWipedOnFork(uint64_t bytes, void **out);
/* Let the pages of the range come from one NUMA node (MPOL_BIND). Without NUMA in
 * the kernel: -ENOSYS. */
MNN_API int mnnBindNode(void *address, uint64_t bytes, int node);
MNN_API void mnnCopy(void *target, const void *source, uint64_t bytes);
/* Let two files of one file system change their names, in one step: whoever opens
 * either meets one of them whole. -ENOENT when one of the names is gone. */
MNN_API int mnnExchangeNames(const char *one, const char *other);
/* The reader's half of a seqlock: copy `bytes` that belong to one even generation,
 * and return that generation. -EBUSY: it is odd, somebody writes. -EAGAIN: every
 * attempt was overtaken by a writer. The copy races with writers by design, and is
 * thrown away when one was there. */
MNN_API int64_t mnnSeqRead(const uint64_t *generation, const void *source, void *target,
	uint64_t bytes, uint32_t attempts);

#ifdef __cplusplus
}
#endif
#endif
