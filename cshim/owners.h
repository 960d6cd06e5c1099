/* Owners: the owner locks that this process has, and the accesses that it is inside of.
 *
 * The owner lock of a row is a word in shared memory: {contended, generation of the
 * member's slot, slot + 1}, or 0 when it is free. All members change it. The record
 * beside it, `struct mnnOwner`, is private to this process: which thread has the lock,
 * how often, and what is to be undone. The record reads zero in a forked child, so a
 * child has no lock of its parent's.
 *
 * The word and the record change in one call of C. If they were two steps of Python,
 * the exception of a signal handler could come between them, because CPython runs
 * handlers between any two bytecodes. The caller holds the interpreter's lock during
 * the call, so each call is one step for the threads of the process. Some work only
 * Python can do: ask whether an owner is confirmed dead, sleep, map memory for a GPU. A
 * call of C calls back for it at a point where it holds no owner lock, or where it
 * undoes what it has done if the callback raises.
 *
 * To take the owner lock, a thread goes through these steps:
 *
 * 1. It reads the word. If the word names this process and the record names this
 *    thread, a lock is taken once more (`depth`), and a write access is refused.
 * 2. If the word is free and is not kept for a successor (see below), the thread swaps
 *    its own word in (CAS). If another member was faster, it begins again. If the word
 *    names this process and the record names no thread, the word is stale: it is that
 *    of an earlier member of the slot with the same bits of the generation, or the row
 *    was damaged. The thread takes the lock over in the same way as from a dead owner.
 * 3. Otherwise the thread takes a number, sets the contended bit, and calls Python with
 *    the word that it saw. Python sleeps on the word, or finds that its owner is
 *    confirmed dead. In that case the thread swaps its own word in for exactly the word
 *    of the dead owner, so that one of several waiters recovers the lock.
 * 4. To release the lock, its owner clears the record, exchanges the word with 0, and
 *    wakes all sleepers if the contended bit was set. If an exception leaves the block
 *    of a lock that was taken over from a dead owner, the word becomes MNN_OWNER_DEAD
 *    instead of 0.
 *
 * A stale read of the word costs one round: the CAS fails, or the futex finds another
 * value and does not sleep. A wake-up that is lost with a waiter that dies costs
 * nothing either: the next owner takes the contended bit over, and wakes at its
 * release.
 *
 * The waiting order of a row is two words. `arrivals` counts the waiters, and each
 * waiter takes its number from it. `successor` is the number of the waiter that is
 * next:
 *
 * 1. A thread that has to wait makes itself the successor if there is none, or if the
 *    successor has a later number (numbers may wrap).
 * 2. While a successor is named, no other thread takes a free owner lock. So an owner
 *    that releases and retakes at once gets ahead of a waiter at most once: before the
 *    waiter has run for the first time.
 * 3. The successor takes the lock, and clears `successor`. The next release wakes the
 *    other waiters, and the earliest of them becomes the successor.
 * 4. A successor that gives up clears `successor`, and wakes the threads that left the
 *    free lock to it.
 * 5. A successor that is dead or stopped is passed over: a thread that finds the lock
 *    free for MNN_SUCCESSOR_NS clears `successor`. A thread with a shorter timeout
 *    waits that long too, because a free lock is never refused.
 *
 * A stale read of `successor` costs the order of two waiters, and never the exclusion:
 * only the CAS on the owner lock decides which thread has it.
 *
 * A read access takes no owner lock. It sets the reading bit of its lease first, and
 * reads the owner lock second; a writer takes the owner lock first, and looks for
 * reading leases second. So at least one of the two sees the other. A reader that finds
 * a writer clears the bit again, and waits as above, with a number. It enters when the
 * word is free, whether or not it is the successor.
 */
#ifndef MUNINN_OWNERS_H
#define MUNINN_OWNERS_H

#include <stdbool.h>

#include "leases.h"
#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The functions of the interpreter that are called here. `ctypes.pythonapi` gives them,
 * so that this library is not linked against an interpreter. Objects are `void *`. */
struct mnnPython {
	void *(*call)(void *callable, ...); /* PyObject_CallFunctionObjArgs: arguments, then NULL */
	void (*keep)(void *object); /* Py_IncRef */
	void (*drop)(void *object); /* Py_DecRef */
	void *(*number)(unsigned long value); /* PyLong_FromUnsignedLong */
	unsigned long (*valueOf)(void *number); /* PyLong_AsUnsignedLongMask */
	void (*fetch)(void **kind, void **error, void **trace); /* PyErr_Fetch */
	void (*restore)(void *kind, void *error, void *trace); /* PyErr_Restore */
	/* PyDict_GetItemWithError. Keys are of type str, so it runs no code of Python. */
	void *(*item)(void *dictionary, void *key);
	void *none, *true_, *false_;
	/* The dictionary of the module `threading`, the text "get_ident", and the function
	 * that this names as long as no library has replaced it. `plainIdent` is NULL if a
	 * library had replaced it before Muninn was loaded. The replacement tells which
	 * green thread is running: a greenlet counts as a thread then. */
	void *names, *identName, *plainIdent;
	/* PyEval_SaveThread and PyEval_RestoreThread: between the two other threads run Python,
	 * and this one calls none of these functions. */
	void *(*release)(void);
	void (*resume)(void *thread);
};

/* The methods of a class of accesses. Each gets the access, and the arguments that are
 * named in brackets. */
struct mnnCalls {
	const struct mnnPython *python;
	/* (): wait until no thread is leaving the domain, and set `owner` to one that is
	 * not void. Returns the value that a write access gives to its `with`. */
	void *attach;
	/* (timeout): the deadline, an object that is handed to the other methods. */
	void *deadline;
	/* (deadline, word): another owner has the lock, or it is kept for the successor;
	 * `word` is the value of the owner lock. Returns True if that owner is confirmed
	 * dead. Otherwise sleeps, or raises. */
	void *await;
	/* (deadline): waits for the accesses that are not over, or raises. The result is
	 * what `with` gives. A write access has the owner lock, and calls this if it has a
	 * stream, or if there may be readers or tickets. A read access has its lease
	 * marked, and always calls this. If this raises, C releases the owner lock, or ends
	 * the read access. */
	void *awaitOthers;
	/* (the type of the exception that leaves the block, or None): called while the
	 * access still stands. An access with a stream issues its ticket, which the stream
	 * completes. A write access of the host that has replaced torn bytes records that
	 * they are whole. */
	void *end;
	/* (): `end` has failed, and a GPU may be at work. Has mnnAccessScopeEnd called when
	 * the GPU has finished. */
	void *linger;
	void *refuse; /* (reason): raise, MNN_REFUSED_* */
};

enum {
	MNN_REFUSED_WRITING = 1,
	MNN_REFUSED_READING = 2,
	MNN_REFUSED_NOT_HELD = 3,
	MNN_REFUSED_OTHER_THREAD = 4,
	MNN_REFUSED_VOID = 5
};

/* All owners of one membership: this record, and one owner per row behind it. */
struct mnnOwners {
	uint32_t ended; /* 1: the process has left the domain, and all owners are void */
	uint32_t unused;
	/* The thread that is leaving the domain; other threads begin no access. 0: none */
	uint64_t leaver;
	uint64_t unused2[14];
};

struct mnnOwner {
	char *row; /* NULL: void */
	struct mnnOwners *all;
	uint64_t *leaseExpiry; /* the lease word with the reading bit */
	void *openBuffer; /* has a reference while there is a lock or an access of it here */
	/* The thread that took the owner lock, and the identity by which Python knew it
	 * then. UINT64_MAX: no thread; a stream has it, and another thread ends the
	 * access */
	uint64_t thread, identity;
	struct mnnAccessScope *readers; /* the list of the read accesses */
	uint32_t mine; /* the value of the owner lock while this process has it */
	uint32_t depth; /* how often this process has taken it; 0: it does not have it */
	uint32_t incarnation;
	uint32_t isThreads; /* 1: no library had replaced `get_ident` when it was taken */
	uint32_t unused[12];
};

/* One use of an owner: a `Lock` object, or one access. The memory belongs to the Python
 * object `self`, and lives as long. */
struct mnnAccessScope {
	struct mnnOwner *owner;
	const struct mnnCalls *calls;
	void *self;
	/* The result of entering a lock. NULL: the result of `attach` or `awaitOthers` is
	 * it */
	void *given;
	struct mnnAccessScope *next; /* in the list of the read accesses */
	uint64_t begun; /* the odd generation of a write access; 0 for a read access */
	uint64_t thread, identity; /* of a read access, as in the owner */
	uint32_t state; /* MNN_ACCESS_* */
	uint32_t kind; /* MNN_KIND_* */
	uint32_t isTimed; /* 1: call `deadline`, even if the call has no timeout */
	uint32_t recovered; /* 1: the owner lock was taken over from an owner that had died */
	uint32_t isThreads; /* of a read access, as in the owner */
	uint32_t unused;
	/* The scope in which `recovered` is set: that of the lock of which this is one use.
	 * NULL: this scope itself */
	struct mnnAccessScope *shownIn;
};

enum { MNN_ACCESS_OUTSIDE = 0, MNN_ACCESS_INSIDE = 1, MNN_ACCESS_LINGERING = 2 };
enum { MNN_KIND_LOCK = 0, MNN_KIND_HOST = 1, MNN_KIND_STREAM = 2 };

/* Bind `owner` to one incarnation of a row. An owner of the same incarnation that is in
 * use stays as it is. */
MNN_API void mnnOwnerBind(struct mnnOwner *owner, struct mnnOwners *all, char *row,
	uint64_t *leaseExpiry, void *openBuffer, uint32_t mine, uint32_t incarnation);
/* Whether the thread that Python knows as `identity` has the owner lock; whether it is
 * inside a read access; and whether any thread but `notOf` has the lock or is inside a
 * read access (any thread at all if `notOf` is 0). */
MNN_API int mnnOwnerWrites(const struct mnnOwner *owner, uint64_t identity);
int mnnOwnerReads(const struct mnnOwner *owner, uint64_t identity);
MNN_API int mnnOwnerIsBusy(const struct mnnOwner *owner, uint64_t notOf);

/* `lock.acquire(timeout)`: True, or NULL with an exception and without the lock. A
 * thread may nest it. */
MNN_API void *mnnLockAcquire(struct mnnAccessScope *scope, void *timeout);
/* `lock.release()`: None, or NULL and RuntimeError. */
MNN_API void *mnnLockRelease(struct mnnAccessScope *scope);
/* `with lock:`. If the lock was taken over from a dead owner and an exception leaves
 * the block, the next owner is told of the death too: the block may have ended before
 * it looked at `recovered`. */
MNN_API void *mnnLockEnter(struct mnnAccessScope *scope);
MNN_API void *mnnLockExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace);

/* `with buffer.write()`: takes the owner lock, waits for the readers, and makes the
 * generation odd, in this order. Leaving publishes; after an exception it releases the
 * lock and leaves the generation odd. */
MNN_API void *mnnWritingEnter(struct mnnAccessScope *scope);
MNN_API void *mnnWritingExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace);
/* A read access: as long as it lasts, no writer enters. */
MNN_API void *mnnReadingEnter(struct mnnAccessScope *scope);
MNN_API void *mnnReadingExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace);
/* The same two kinds, entered only if that takes neither a wait nor Python: nobody else
 * is inside or waits, no stream has work on the bytes, they are whole, no library has
 * replaced `get_ident`, and no thread is leaving the domain. `scope` has its owner;
 * `fences` are the fence words of the row, and `holds` the leases on it. They are left by
 * mnnWritingExit and mnnReadingExit. */
bool mnnWritingTry(
	struct mnnAccessScope *scope, const uint64_t *fences, const struct mnnHolds *holds);
bool mnnReadingTry(struct mnnAccessScope *scope, const uint64_t *fences);
/* `__del__` of both kinds: no program can end this access any more. */
MNN_API void mnnAccessScopeDrop(struct mnnAccessScope *scope);
/* End an access that lingers. Does nothing if it has ended. */
MNN_API void mnnAccessScopeEnd(struct mnnAccessScope *scope);

#ifdef __cplusplus
}
#endif
#endif
