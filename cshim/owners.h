/* Owners: what this process has of the claims in shared memory, and the accesses that it
 * is inside of.
 *
 * A process that takes a claim also has to remember that it has it: which of its
 * threads, how often, and what is to be undone. If both were steps of Python, an
 * exception of a signal handler could come between them, since CPython calls handlers
 * between any two bytecodes. So here is one call for each change of both. They are
 * called with the interpreter's lock held, which makes each of them one step for the
 * threads of a process, and nothing of Python runs inside, save where a call says so:
 * what Python has to do (asking whether an owner is dead, sleeping, mapping memory for
 * a GPU) is called back at points where nothing is held, or where all that is held is
 * undone here when the callback raises.
 *
 * The waiting order of a row is two words: `arrivals` counts those that have to wait,
 * and `successor` is the number of the one that is next. Whoever waits makes itself the successor
 * if there is none, or if the successor came later. While there is a successor nobody else takes
 * a free claim, so an owner lock that is retaken at once passes a waiter by once at most:
 * until it has run for the first time. A successor that does not come (it is dead, or
 * stopped) is passed over after MNN_SUCCESSOR_NS, which whoever finds a free claim waits
 * for, however little time it has: a free claim is not refused.
 *
 * `struct mnnOwner` is private memory that reads zero in a forked child: there nobody
 * has anything.
 */
#ifndef MUNINN_OWNERS_H
#define MUNINN_OWNERS_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How long a free claim is kept for its successor: some hundred times what a wake-up
 * costs on an idle machine. */
#define MNN_SUCCESSOR_NS 5000000

/* What is called of the interpreter, as `ctypes.pythonapi` gives it; so nothing is
 * linked against it. Objects are `void *`. */
struct mnnPython {
	void *(*call)(void *callable, ...); /* PyObject_CallFunctionObjArgs: arguments, then NULL */
	void (*keep)(void *object); /* Py_IncRef */
	void (*drop)(void *object); /* Py_DecRef */
	void *(*number)(unsigned long value); /* PyLong_FromUnsignedLong */
	unsigned long (*valueOf)(void *number); /* PyLong_AsUnsignedLongMask */
	void (*fetch)(void **kind, void **error, void **trace); /* PyErr_Fetch */
	void (*restore)(void *kind, void *error, void *trace); /* PyErr_Restore */
	/* PyDict_GetItemWithError, of keys that are str: it runs nothing of Python's */
	void *(*item)(void *dictionary, void *key);
	void *none, *true_, *false_;
	/* The names of `threading`, the text "get_ident", and what it names while no
	 * library has replaced it; NULL: one had before Muninn was loaded. What has
	 * replaced it says who is running, from then on: greenlets are threads then. */
	void *names, *identName, *plainIdent;
};

/* The methods of a class of accesses. Each gets the access, and what is said here. */
struct mnnCalls {
	const struct mnnPython *python;
	/* (): let `owner` be one that is not void, once nobody is leaving the domain;
	 * return what a write access is to give its `with` */
	void *attach;
	void *deadline; /* (timeout): until when; what comes back is handed to the others */
	/* (deadline, word): the owner lock is another's, or its successor's, and says `word`.
	 * True: that owner is dead. Otherwise sleep, or raise */
	void *await;
	/* (deadline): the owner lock is ours, and there are fences or readers. What comes
	 * back replaces what `attach` gave */
	void *awaitOthers;
	void *end; /* (kind): before the owner lock is given back: promise what the stream was given */
	/* (): `end` has failed, and a GPU may be at work: see to it that mnnAccessScopeEnd is
	 * called when it is not */
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

/* All owners of one membership: this, and then one owner a row. */
struct mnnOwners {
	uint32_t ended; /* the process has left the domain: all are void */
	uint32_t unused;
	uint64_t leaver; /* the thread that is leaving it: others begin nothing. 0: none */
	uint64_t unused2[14];
};

struct mnnOwner {
	char *row; /* NULL: void */
	struct mnnOwners *all;
	uint64_t *leaseExpiry; /* which says `reading` */
	void *openBuffer; /* is kept while there is anything of it here */
	/* Whose the owner lock is: the thread, and what Python knew it by when it took it;
	 * mnnNoThread: nobody's who could come */
	uint64_t thread, who;
	struct mnnAccessScope *readers; /* the read access */
	uint32_t mine; /* what the owner lock says while it is this process's */
	uint32_t depth; /* how often it has been taken; 0: it is not ours */
	uint32_t incarnation;
	uint32_t isThreads; /* nobody had made green threads of threads when it was taken */
	uint32_t unused[12];
};

/* One use: a `Lock` object, or one access. The memory is Python's, and lives as long
 * as its object. */
struct mnnAccessScope {
	struct mnnOwner *owner;
	const struct mnnCalls *calls;
	void *self; /* the object */
	void *given; /* what entering gives: NULL, whatever `attach` or `awaitOthers` returns */
	struct mnnAccessScope *next; /* of the readers */
	uint64_t begun; /* the odd generation of a write access */
	uint64_t thread, who; /* of a read access */
	uint32_t state; /* MNN_TURN_* */
	uint32_t kind; /* MNN_KIND_* */
	uint32_t isTimed; /* `deadline` is asked, although no timeout was given to the call */
	uint32_t recovered; /* the owner lock was taken over from an owner that had died */
	uint32_t isThreads; /* of a read access, as in the owner */
	uint32_t unused;
	/* Whose `recovered` says so: that of the lock, of which this is one use; NULL:
	 * this */
	struct mnnAccessScope *shownIn;
};

enum { MNN_TURN_OUTSIDE = 0, MNN_TURN_INSIDE = 1, MNN_TURN_LINGERING = 2 };
enum { MNN_KIND_LOCK = 0, MNN_KIND_HOST = 1, MNN_KIND_STREAM = 2 };

/* Let `owner` be that of a row's incarnation. It stays as it is if it is that
 * already. */
MNN_API void mnnOwnerBind(struct mnnOwner *owner, struct mnnOwners *all, char *row,
	uint64_t *leaseExpiry, void *openBuffer, uint32_t mine, uint32_t incarnation);
/* Whether the thread that Python knows as `who` has the owner lock, or is inside a
 * read access; and whether any other thread has or is, or any at all if that one
 * is 0. */
MNN_API int mnnOwnerWrites(const struct mnnOwner *owner, uint64_t who);
MNN_API int mnnOwnerReads(const struct mnnOwner *owner, uint64_t who);
MNN_API int mnnOwnerIsBusy(const struct mnnOwner *owner, uint64_t notOf);

/* `lock.acquire(timeout)`: True, or NULL with an exception and without the lock. May
 * be nested. */
MNN_API void *mnnLockAcquire(struct mnnAccessScope *scope, void *timeout);
/* `lock.release()`: None, or NULL and RuntimeError. */
MNN_API void *mnnLockRelease(struct mnnAccessScope *scope);
/* `with lock:`. When an exception leaves the block of one who took the lock over
 * from the dead, whoever comes next is told too: that one may not even have come so
 * far as to look. */
MNN_API void *mnnLockEnter(struct mnnAccessScope *scope);
MNN_API void *mnnLockExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace);

/* `with buffer.write()`: the owner lock, then those who read, then the odd generation.
 * Leaving publishes, or after an exception gives up. */
MNN_API void *mnnWritingEnter(struct mnnAccessScope *scope);
MNN_API void *mnnWritingExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace);
/* A read access: no writer is inside, nor comes in. */
MNN_API void *mnnReadingEnter(struct mnnAccessScope *scope);
MNN_API void *mnnReadingExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace);
/* `__del__` of either: an access that nobody can end any more. */
MNN_API void mnnAccessScopeDrop(struct mnnAccessScope *scope);
/* The end of one that lingers; nothing when it has ended. */
MNN_API void mnnAccessScopeEnd(struct mnnAccessScope *scope);

#ifdef __cplusplus
}
#endif
#endif
