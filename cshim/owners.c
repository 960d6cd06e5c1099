/* owners.h says what each function promises, and has the protocol of the owner lock and
 * of its waiting order. The comments here give reasons.
 *
 * The file is long because locks, write accesses and read accesses are one protocol.
 * Each of them calls the same functions, and reads the words that the others change. In
 * several files these functions could not be static. */
#define _GNU_SOURCE
#include "owners.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "layout.h"

static const uint32_t CONTENDED = MNN_OWNER_CONTENDED_MASK, SLOT_MASK = MNN_OWNER_SLOT_MASK;
static const uint32_t DEAD_OWNER = MNN_OWNER_DEAD;
static const uint64_t NO_THREAD = UINT64_MAX;
/* How many times `linger` is called for one access when an exception interrupts it. */
enum { LINGER_ATTEMPTS = 3 };

static uint32_t *ownerLockAddress(const struct mnnOwner *owner)
{
	return (uint32_t *)(owner->row + MNN_ROW_OWNER_LOCK_OFFSET);
}
static uint32_t *successorAddress(const struct mnnOwner *owner)
{
	return (uint32_t *)(owner->row + MNN_ROW_SUCCESSOR_OFFSET);
}
static uint32_t *arrivalsAddress(const struct mnnOwner *owner)
{
	return (uint32_t *)(owner->row + MNN_ROW_ARRIVALS_OFFSET);
}
static uint32_t *readersAddress(const struct mnnOwner *owner)
{
	return (uint32_t *)(owner->row + MNN_ROW_READERS_OFFSET);
}
static uint64_t *generationAddress(const struct mnnOwner *owner)
{
	return (uint64_t *)(owner->row + MNN_ROW_GENERATION_OFFSET);
}

static uint32_t load32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
static uint64_t load64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
static bool cas32(uint32_t *word, uint32_t expected, uint32_t desired)
{
	return mnnCasSeqCst32(word, expected, desired) == expected;
}
static bool isFree(uint32_t word) { return (word & SLOT_MASK) == 0; }

/* SYNC ended: pairs with Owners.end. */
static bool isVoid(const struct mnnOwner *owner)
{
	return owner == NULL || owner->row == NULL || owner->all->ended != 0;
}
/* Whether another thread is leaving the domain, and will void the owner. That thread
 * says so first, and looks for accesses second, both under the interpreter's lock: so
 * it sees each access that was begun before. */
/* SYNC leaver: pairs with Owners.depart. */
static bool isDeparting(const struct mnnOwner *owner, uint64_t identity)
{
	return owner->all->leaver != 0 && owner->all->leaver != identity;
}

/* --- the record of this process --- */

void mnnOwnerBind(struct mnnOwner *owner, struct mnnOwners *all, char *row, uint64_t *leaseExpiry,
	void *openBuffer, uint32_t mine, uint32_t incarnation)
{
	bool isSame = owner->row == row && owner->incarnation == incarnation;
	if (isSame && (owner->depth != 0 || owner->readers != NULL))
		return; /* in use: the reference that it has keeps the open buffer the same */
	memset(owner, 0, sizeof *owner);
	*owner = (struct mnnOwner){.row = row,
		.all = all,
		.leaseExpiry = leaseExpiry,
		.openBuffer = openBuffer,
		.mine = mine,
		.incarnation = incarnation};
}

/* The caller, as Python knows it. */
struct caller {
	uint64_t identity;
	bool isThread; /* no library has replaced `get_ident` */
};

/* Find the caller. False, with an exception, when a library's `get_ident` raised. */
static bool findCaller(const struct mnnPython *python, struct caller *caller)
{
	*caller = (struct caller){(uint64_t)pthread_self(), true};
	/* Looked up at each call: a library may replace it at any moment. */
	void *getIdent = python->item(python->names, python->identName);
	if (getIdent == python->plainIdent || getIdent == NULL)
		return true;
	python->keep(getIdent);
	void *number = python->call(getIdent, NULL);
	python->drop(getIdent);
	if (number == NULL)
		return false;
	*caller = (struct caller){python->valueOf(number), false};
	python->drop(number);
	return true;
}

/* Whether `identity` has the owner lock. A lock that a thread took before a library
 * replaced `get_ident` belongs to that thread, and so to each of its green threads. */
static bool isHolder(const struct mnnOwner *owner, uint64_t identity)
{
	return owner->identity == identity ||
		(owner->isThreads && owner->thread == (uint64_t)pthread_self());
}
static bool isInScope(const struct mnnAccessScope *scope, uint64_t identity)
{
	return scope->identity == identity ||
		(scope->isThreads && scope->thread == (uint64_t)pthread_self());
}

int mnnOwnerWrites(const struct mnnOwner *owner, uint64_t identity)
{
	return !isVoid(owner) && owner->depth != 0 && isHolder(owner, identity);
}

int mnnOwnerReads(const struct mnnOwner *owner, uint64_t identity)
{
	if (!isVoid(owner))
		for (const struct mnnAccessScope *scope = owner->readers; scope != NULL;
			scope = scope->next)
			if (isInScope(scope, identity))
				return 1;
	return 0;
}

int mnnOwnerIsBusy(const struct mnnOwner *owner, uint64_t notOf)
{
	if (isVoid(owner))
		return 0;
	if (owner->depth != 0 && (notOf == 0 || !isHolder(owner, notOf)))
		return 1;
	for (const struct mnnAccessScope *scope = owner->readers; scope != NULL; scope = scope->next)
		if (notOf == 0 || !isInScope(scope, notOf))
			return 1;
	return 0;
}

/* The open buffer has a reference while it has a lock or an access here, even if Python
 * drops the object by which that was begun. */
static void keep(struct mnnOwner *owner, const struct mnnPython *python)
{
	python->keep(owner->openBuffer);
}
/* The last step of an end: the open buffer may be destroyed by it, and `owner` with
 * it. */
static void drop(struct mnnOwner *owner, const struct mnnPython *python)
{
	python->drop(owner->openBuffer);
}

/* --- the owner lock --- */

/* A thread that takes the owner lock, until it has it or gives up. */
struct waiter {
	uint32_t number; /* 0: it has not had to wait yet */
	uint32_t passing; /* the successor to which it leaves a free owner lock */
	int64_t passingSinceNs;
};

/* Whether a free owner lock is kept for another waiter. */
static bool isKept(struct mnnOwner *owner, struct waiter *waiter)
{
	uint32_t successor = load32(successorAddress(owner));
	if (successor == 0 || successor == waiter->number)
		return false;
	int64_t now = mnnMonotonicNs();
	if (waiter->passing != successor) {
		waiter->passing = successor;
		waiter->passingSinceNs = now;
		return true;
	}
	if (now - waiter->passingSinceNs < MNN_SUCCESSOR_NS)
		return true;
	/* The successor is dead, stopped or slow. A slow one makes itself the successor
	 * again in `arrive`. SYNC successor: pairs with arrive. */
	cas32(successorAddress(owner), successor, 0);
	waiter->passing = 0;
	return false;
}

/* Take a number, become the successor if no earlier waiter is, and set the contended
 * bit so that the next release wakes. Returns the value of the owner lock after
 * that. */
static uint32_t arrive(struct mnnOwner *owner, struct waiter *waiter)
{
	/* SYNC arrivals: pairs with arrive of the other waiters. No two of them get the
	 * same number, and none gets 0. */
	while (waiter->number == 0)
		waiter->number = __atomic_add_fetch(arrivalsAddress(owner), 1, __ATOMIC_SEQ_CST);
	uint32_t successor = load32(successorAddress(owner));
	/* SYNC successor: pairs with isKept. Bounded: each failure says that an earlier one
	 * has become the successor, or that the successor has gone. */
	while (successor != waiter->number &&
		(successor == 0 || (int32_t)(successor - waiter->number) > 0)) {
		uint32_t found = mnnCasSeqCst32(successorAddress(owner), successor, waiter->number);
		if (found == successor)
			break;
		successor = found;
	}
	uint32_t word = load32(ownerLockAddress(owner));
	/* SYNC claim: pairs with releaseAs, which wakes if it finds the bit. */
	while ((word & CONTENDED) == 0) {
		uint32_t found = mnnCasSeqCst32(ownerLockAddress(owner), word, word | CONTENDED);
		if (found == word)
			return word | CONTENDED;
		word = found;
	}
	return word;
}

/* The waiter is not the successor any more: it gives up, or enters without the owner
 * lock. SYNC successor: pairs with isKept. A waiter that has left a free word alone
 * looks again. */
static void giveUpNumber(struct mnnOwner *owner, struct waiter *waiter)
{
	if (waiter->number != 0 && !isVoid(owner) && cas32(successorAddress(owner), waiter->number, 0))
		/* Other waiters may have left a free lock to this one. */
		mnnFutexWake32(ownerLockAddress(owner), INT_MAX);
}

/* Take the owner lock if it still has the value that was seen. */
static bool takeFrom(
	struct mnnOwner *owner, struct waiter *waiter, uint32_t word, struct caller caller)
{
	/* Others may wait too if we did, or be asleep since a wake-up that was lost with
	 * its waiter. SYNC claim: pairs with releaseAs and markDead; the last owner's
	 * stores are visible. */
	if (!cas32(ownerLockAddress(owner), word,
			owner->mine | (word & CONTENDED) | (waiter->number != 0 ? CONTENDED : 0)))
		return false;
	owner->depth = 1;
	owner->thread = (uint64_t)pthread_self();
	owner->identity = caller.identity;
	owner->isThreads = caller.isThread;
	/* SYNC successor: pairs with isKept. A waiter that finds 0 does not leave the next
	 * free word to this one. */
	if (waiter->number != 0)
		cas32(successorAddress(owner), waiter->number, 0);
	return true;
}

/* Release the owner lock, and store `word` in it: 0, or DEAD_OWNER. */
static void releaseAs(struct mnnOwner *owner, uint32_t word)
{
	owner->depth = 0;
	owner->thread = owner->identity = owner->isThreads = 0;
	/* SYNC claim: pairs with takeFrom. */
	if (mnnExchangeSeqCst32(ownerLockAddress(owner), word) & CONTENDED)
		mnnFutexWake32(ownerLockAddress(owner), INT_MAX);
}

static void release(struct mnnOwner *owner) { releaseAs(owner, 0); }

enum taken { TAKEN, OURS_ALREADY, RAISED };

static void *refuse(struct mnnAccessScope *scope, unsigned long reason)
{
	const struct mnnPython *python = scope->calls->python;
	void *number = python->number(reason);
	if (number == NULL)
		return NULL;
	void *result = python->call(scope->calls->refuse, scope->self, number, NULL);
	python->drop(number);
	if (result != NULL)
		python->drop(result); /* `refuse` always raises */
	return NULL;
}

enum awaited { AWAIT_RAISED, AWAIT_LOOK_AGAIN, AWAIT_OWNER_DEAD };

/* Let Python sleep, or confirm the death of the owner that `word` names. */
static enum awaited await(struct mnnAccessScope *scope, void *deadline, uint32_t word)
{
	const struct mnnPython *python = scope->calls->python;
	void *number = python->number(word);
	if (number == NULL)
		return AWAIT_RAISED;
	void *isDead = python->call(scope->calls->await, scope->self, deadline, number, NULL);
	python->drop(number);
	if (isDead == NULL)
		return AWAIT_RAISED;
	python->drop(isDead);
	return isDead == python->true_ ? AWAIT_OWNER_DEAD : AWAIT_LOOK_AGAIN;
}

/* Get an owner that is not void. Its result replaces the result of an earlier one. */
static bool attach(struct mnnAccessScope *scope, void **given)
{
	const struct mnnPython *python = scope->calls->python;
	void *result = python->call(scope->calls->attach, scope->self, NULL);
	if (result == NULL)
		return false;
	if (*given != NULL)
		python->drop(*given);
	*given = result;
	if (!isVoid(scope->owner))
		return true;
	/* A signal handler has forked, or has left the domain, after `attach`. */
	refuse(scope, MNN_REFUSED_VOID);
	return false;
}

static bool knowDeadline(struct mnnAccessScope *scope, void *timeout, void **deadline)
{
	const struct mnnPython *python = scope->calls->python;
	*deadline = python->none;
	if (!scope->isTimed && timeout == python->none)
		return true;
	*deadline = python->call(scope->calls->deadline, scope->self, timeout, NULL);
	if (*deadline == python->none)
		python->drop(*deadline);
	return *deadline != NULL;
}

static void forgetDeadline(struct mnnAccessScope *scope, void *deadline)
{
	if (deadline != NULL && deadline != scope->calls->python->none)
		scope->calls->python->drop(deadline);
}

static struct mnnAccessScope *shown(struct mnnAccessScope *scope)
{
	return scope->shownIn != NULL ? scope->shownIn : scope;
}

/* Take the owner lock: the steps at the head of owners.h. No owner lock is held while
 * Python runs, and a callback may void the owner: so each round begins with a look at
 * it. */
static enum taken take(struct mnnAccessScope *scope, void *deadline, void **given)
{
	struct waiter waiter = {0};
	bool isDead = false;
	uint32_t word = 0;
	for (;;) {
		struct mnnOwner *owner = scope->owner;
		struct caller caller;
		if (isVoid(owner)) {
			waiter = (struct waiter){0};
			isDead = false;
			if (!attach(scope, given))
				return RAISED;
			owner = scope->owner;
		}
		if (!findCaller(scope->calls->python, &caller)) {
			giveUpNumber(owner, &waiter);
			return RAISED;
		}
		if (isVoid(owner))
			continue;
		if (isDeparting(owner, caller.identity) && !mnnOwnerWrites(owner, caller.identity)) {
			giveUpNumber(owner, &waiter);
			waiter = (struct waiter){0};
			isDead = false;
			if (!attach(scope, given))
				return RAISED;
			continue;
		}
		if (mnnOwnerWrites(owner, caller.identity)) {
			giveUpNumber(owner, &waiter);
			return OURS_ALREADY;
		}
		if (owner->depth == 0) {
			if (!isDead)
				word = load32(ownerLockAddress(owner));
			/* The word names this process, and the record names no thread. The steps of
			 * the protocol do not lead here: the next member of the slot has another
			 * generation, and the broker marks the word of a member that dies with the
			 * lock (markDead). Two events do: the mark was not made, and this is the
			 * member that came 2^19 members later to the slot; or the row was damaged.
			 * The other members see a living owner, so only this process can take the
			 * lock over. */
			bool isOwnStaleWord = (word & ~CONTENDED) == owner->mine;
			bool mayTake = isDead || isOwnStaleWord || (isFree(word) && !isKept(owner, &waiter));
			if (mayTake && takeFrom(owner, &waiter, word, caller)) {
				shown(scope)->recovered = isDead || isOwnStaleWord;
				keep(owner, scope->calls->python);
				return TAKEN;
			}
			isDead = false;
			if (mayTake)
				continue;
		}
		word = arrive(owner, &waiter);
		if (isFree(word) && load32(successorAddress(owner)) == waiter.number)
			continue;
		enum awaited result = await(scope, deadline, word);
		if (result == AWAIT_RAISED) {
			giveUpNumber(scope->owner, &waiter);
			return RAISED;
		}
		isDead = result == AWAIT_OWNER_DEAD;
	}
}

/* --- locks --- */

/* A new reference, for the caller. */
static void *gave(struct mnnAccessScope *scope, void *object)
{
	scope->calls->python->keep(object);
	return object;
}

static bool lock(struct mnnAccessScope *scope, void *timeout)
{
	void *deadline;
	if (!knowDeadline(scope, timeout, &deadline))
		return false;
	void *given = NULL;
	enum taken taken = take(scope, deadline, &given);
	forgetDeadline(scope, deadline);
	if (given != NULL)
		scope->calls->python->drop(given);
	if (taken == OURS_ALREADY)
		scope->owner->depth++;
	return taken != RAISED;
}

static void *unlock(struct mnnAccessScope *scope, uint64_t identity, bool isMine, bool isWhole)
{
	struct mnnOwner *owner = scope->owner;
	if (isVoid(owner))
		return refuse(scope, MNN_REFUSED_VOID);
	if (owner->depth == 0)
		return refuse(scope, MNN_REFUSED_NOT_HELD);
	if (!isMine && !isHolder(owner, identity))
		return refuse(scope, MNN_REFUSED_OTHER_THREAD);
	if (owner->depth > 1)
		owner->depth--;
	else {
		releaseAs(owner, isWhole || !shown(scope)->recovered ? 0 : DEAD_OWNER);
		drop(owner, scope->calls->python);
	}
	return gave(scope, scope->calls->python->none);
}

void *mnnLockAcquire(struct mnnAccessScope *scope, void *timeout)
{
	return lock(scope, timeout) ? gave(scope, scope->calls->python->true_) : NULL;
}

void *mnnLockRelease(struct mnnAccessScope *scope)
{
	struct caller caller;
	return findCaller(scope->calls->python, &caller) ? unlock(scope, caller.identity, false, true)
													 : NULL;
}

void *mnnLockEnter(struct mnnAccessScope *scope)
{
	return lock(scope, scope->calls->python->none) ? gave(scope, scope->given) : NULL;
}

void *mnnLockExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace)
{
	(void)error, (void)trace;
	/* The owner is recognized by its thread, for which no code of Python runs: a signal
	 * handler that raised there would leave the lock held. */
	return unlock(scope, 0,
		!isVoid(scope->owner) && scope->owner->thread == (uint64_t)pthread_self(),
		kind == scope->calls->python->none);
}

/* --- writing --- */

/* Whether a writer that has the owner lock must wait for readers or for fences. */
static bool mustAwaitOthers(const struct mnnAccessScope *scope)
{
	const char *row = scope->owner->row;
	/* SYNC reading: pairs with beginReading; the owner lock was taken before. */
	return scope->kind == MNN_KIND_STREAM || load32(readersAddress(scope->owner)) != 0 ||
		load64((const uint64_t *)(row + MNN_ROW_TICKET_NEXT_OFFSET)) != 0;
}

static bool isTorn(const struct mnnOwner *owner)
{
	uint64_t torn = load64((const uint64_t *)(owner->row + MNN_ROW_TORN_OFFSET));
	return torn != 0 && torn >= load64((const uint64_t *)(owner->row + MNN_ROW_LAST_WRITER_OFFSET));
}

/* Odd from now on; it is odd already when the last writer died. SYNC write: pairs
 * with mnnSeqRead. An exchange, so that no write to the data is seen before. */
static uint64_t begin(struct mnnOwner *owner)
{
	uint64_t value = load64(generationAddress(owner));
	if ((value & 1) == 0)
		mnnExchangeSeqCst64(generationAddress(owner), ++value);
	return value;
}

static void endWriting(struct mnnAccessScope *scope, bool isWhole)
{
	struct mnnOwner *owner = scope->owner;
	scope->state = MNN_ACCESS_OUTSIDE;
	if (isVoid(owner))
		return; /* in a child that was forked meanwhile: the parent has the access */
	if (isWhole)
		/* SYNC publish: pairs with mnnSeqRead and Generation.wait; the data is visible
		 * before the even generation. */
		__atomic_store_n(generationAddress(owner), scope->begun + 1, __ATOMIC_RELEASE);
	release(owner);
	mnnFutexWake32((uint32_t *)generationAddress(owner), INT_MAX);
	drop(owner, scope->calls->python);
}

void *mnnWritingEnter(struct mnnAccessScope *scope)
{
	const struct mnnPython *python = scope->calls->python;
	void *given = NULL, *deadline = NULL;
	if (!attach(scope, &given) || !knowDeadline(scope, python->none, &deadline)) {
		if (given != NULL)
			python->drop(given);
		return NULL;
	}
	enum taken taken = TAKEN;
	struct caller caller;
	if (scope->owner->readers != NULL &&
		(!findCaller(python, &caller) || mnnOwnerReads(scope->owner, caller.identity))) {
		if (findCaller(python, &caller))
			refuse(scope, MNN_REFUSED_READING);
		taken = RAISED;
	} else
		taken = take(scope, deadline, &given);
	if (taken == TAKEN && mustAwaitOthers(scope)) {
		struct mnnOwner *owner = scope->owner;
		void *entered = python->call(scope->calls->awaitOthers, scope->self, deadline, NULL);
		if (entered == NULL && !isVoid(owner)) {
			release(owner);
			drop(owner, python);
		}
		if (entered != NULL && isVoid(owner)) {
			refuse(scope, MNN_REFUSED_VOID);
			python->drop(entered);
			entered = NULL;
		}
		python->drop(given);
		given = entered;
	} else if (taken != TAKEN) {
		if (taken == OURS_ALREADY)
			refuse(scope, MNN_REFUSED_WRITING);
		python->drop(given);
		given = NULL;
	}
	forgetDeadline(scope, deadline);
	if (given != NULL) {
		scope->begun = begin(scope->owner);
		scope->state = MNN_ACCESS_INSIDE;
	}
	return given;
}

/* `end` has failed, so no other process can wait for the work that the stream was
 * given. The access lasts until that work is over, and another thread ends it. */
static void linger(struct mnnAccessScope *scope)
{
	const struct mnnPython *python = scope->calls->python;
	void *kind, *error, *trace, *handed = NULL;
	python->fetch(&kind, &error, &trace);
	for (int attempt = 0;
		attempt < LINGER_ATTEMPTS && handed == NULL && scope->state == MNN_ACCESS_LINGERING;
		attempt++) {
		handed = python->call(scope->calls->linger, scope->self, NULL);
		if (handed != NULL)
			python->drop(handed);
		else if (attempt + 1 < LINGER_ATTEMPTS) {
			void *otherKind, *otherError, *otherTrace;
			python->fetch(&otherKind, &otherError, &otherTrace);
			if (otherKind != NULL)
				python->drop(otherKind);
			if (otherError != NULL)
				python->drop(otherError);
			if (otherTrace != NULL)
				python->drop(otherTrace);
		}
	}
	if (handed == NULL)
		mnnAccessScopeEnd(scope); /* otherwise the owner lock would be held for ever */
	python->restore(kind, error, trace);
}

static void endReading(struct mnnAccessScope *scope);

void mnnAccessScopeEnd(struct mnnAccessScope *scope)
{
	if (scope->state == MNN_ACCESS_OUTSIDE)
		return;
	if (scope->begun != 0)
		endWriting(scope, false);
	else
		endReading(scope);
}

static void *lingering(struct mnnAccessScope *scope)
{
	scope->state = MNN_ACCESS_LINGERING;
	if (scope->begun != 0)
		scope->owner->thread = scope->owner->identity = NO_THREAD;
	scope->thread = scope->identity = NO_THREAD;
	linger(scope);
	return NULL;
}

void *mnnWritingExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace)
{
	(void)error, (void)trace;
	const struct mnnPython *python = scope->calls->python;
	bool isWhole = kind == python->none;
	if (scope->state != MNN_ACCESS_INSIDE)
		return gave(scope, python->false_);
	if (!isVoid(scope->owner) &&
		(scope->kind == MNN_KIND_STREAM || (isWhole && isTorn(scope->owner)))) {
		void *ended = python->call(scope->calls->end, scope->self, kind, NULL);
		if (ended == NULL && scope->kind == MNN_KIND_STREAM && !isVoid(scope->owner))
			return lingering(scope);
		if (ended == NULL) {
			endWriting(scope, false);
			return NULL;
		}
		python->drop(ended);
	}
	endWriting(scope, isWhole);
	return gave(scope, python->false_);
}

/* --- reading --- */

/* SYNC reading: pairs with readersOf; the caller has changed its lease before. */
static void changeReaders(struct mnnOwner *owner)
{
	/* The value must change, and must not be 0: 0 says that no lease need be looked
	 * at. */
	while (__atomic_add_fetch(readersAddress(owner), 1, __ATOMIC_SEQ_CST) == 0)
		;
}

/* SYNC reading: pairs with readersOf. */
static void sayReading(struct mnnOwner *owner, bool isReading)
{
	const uint64_t reading = MNN_LEASE_READING_MASK;
	if (isReading)
		__atomic_fetch_or(owner->leaseExpiry, reading, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(owner->leaseExpiry, ~reading, __ATOMIC_SEQ_CST);
}

static void beginReading(struct mnnAccessScope *scope, struct caller caller)
{
	struct mnnOwner *owner = scope->owner;
	bool isFirst = owner->readers == NULL;
	scope->thread = (uint64_t)pthread_self();
	scope->identity = caller.identity;
	scope->isThreads = caller.isThread;
	scope->begun = 0;
	scope->next = owner->readers;
	owner->readers = scope;
	scope->state = MNN_ACCESS_INSIDE;
	keep(owner, scope->calls->python);
	if (isFirst) {
		/* SYNC reading: pairs with mustAwaitOthers and readersOf in a writer that has
		 * the owner lock. Here the lease comes first and the owner lock second, there
		 * the other way round. */
		sayReading(owner, true);
		changeReaders(owner);
	}
}

/* SYNC readers: pairs with awaitReaders, which has read the count before it looked at
 * the leases. */
static void endReading(struct mnnAccessScope *scope)
{
	struct mnnOwner *owner = scope->owner;
	scope->state = MNN_ACCESS_OUTSIDE;
	if (isVoid(owner))
		return;
	for (struct mnnAccessScope **link = &owner->readers; *link != NULL; link = &(*link)->next)
		if (*link == scope) {
			*link = scope->next;
			break;
		}
	if (owner->readers == NULL)
		sayReading(owner, false);
	changeReaders(owner);
	if (load32(ownerLockAddress(owner)) != 0)
		mnnFutexWake32(readersAddress(owner), INT_MAX);
	drop(owner, scope->calls->python);
}

/* Begin a read access when no writer is inside; false with an exception. */
static bool enterReading(struct mnnAccessScope *scope, void *deadline, void **given)
{
	struct waiter waiter = {0};
	uint32_t word = 0, dead = 0;
	for (;;) {
		struct mnnOwner *owner = scope->owner;
		struct caller caller;
		if (!findCaller(scope->calls->python, &caller)) {
			giveUpNumber(owner, &waiter);
			return false;
		}
		if (isVoid(owner) || isDeparting(owner, caller.identity)) {
			giveUpNumber(owner, &waiter);
			waiter = (struct waiter){0};
			if (!attach(scope, given))
				return false;
			continue;
		}
		if (mnnOwnerWrites(owner, caller.identity)) {
			giveUpNumber(owner, &waiter);
			refuse(scope, MNN_REFUSED_WRITING);
			return false;
		}
		/* A writer that has the owner lock already waits for this thread's outer
		 * access, so the nested one must not wait for the writer. */
		bool isNested = mnnOwnerReads(owner, caller.identity);
		beginReading(scope, caller);
		word = load32(ownerLockAddress(owner));
		if (isNested || isFree(word) || word == dead) {
			giveUpNumber(owner, &waiter);
			return true;
		}
		endReading(scope);
		word = arrive(owner, &waiter);
		if (isFree(word))
			continue;
		enum awaited result = await(scope, deadline, word);
		if (result == AWAIT_RAISED) {
			giveUpNumber(scope->owner, &waiter);
			return false;
		}
		dead = result == AWAIT_OWNER_DEAD ? word : 0;
	}
}

void *mnnReadingEnter(struct mnnAccessScope *scope)
{
	const struct mnnPython *python = scope->calls->python;
	void *given = NULL, *deadline = NULL, *entered = NULL;
	if (scope->state != MNN_ACCESS_OUTSIDE)
		return refuse(scope, MNN_REFUSED_READING);
	if (attach(scope, &given) && knowDeadline(scope, python->none, &deadline) &&
		enterReading(scope, deadline, &given)) {
		entered = python->call(scope->calls->awaitOthers, scope->self, deadline, NULL);
		if (entered == NULL)
			endReading(scope);
	}
	forgetDeadline(scope, deadline);
	if (given != NULL)
		python->drop(given);
	return entered;
}

void *mnnReadingExit(struct mnnAccessScope *scope, void *kind, void *error, void *trace)
{
	(void)error, (void)trace;
	if (scope->state != MNN_ACCESS_INSIDE)
		return gave(scope, scope->calls->python->false_);
	if (scope->kind == MNN_KIND_STREAM && !isVoid(scope->owner)) {
		void *ended = scope->calls->python->call(scope->calls->end, scope->self, kind, NULL);
		if (ended == NULL && !isVoid(scope->owner))
			return lingering(scope);
		if (ended == NULL) {
			endReading(scope);
			return NULL;
		}
		scope->calls->python->drop(ended);
	}
	endReading(scope);
	return gave(scope, scope->calls->python->false_);
}

/* --- at once --- */

/* Whether an access of this thread can be entered without Python. */
static bool isPlain(const struct mnnAccessScope *scope)
{
	const struct mnnPython *python = scope->calls->python;
	return scope->state == MNN_ACCESS_OUTSIDE && !isVoid(scope->owner) &&
		scope->owner->all->leaver == 0 && scope->owner->depth == 0 && python->plainIdent != NULL &&
		python->item(python->names, python->identName) == python->plainIdent;
}

/* Whether a ticket is one for which the access has to wait. Its slot's number is the low
 * half of the ticket's. */
static bool isAwaited(uint64_t word, uint64_t fence, bool isWriting)
{
	uint64_t status = word & MNN_TICKET_STATUS_MASK;
	bool isOfWriter = (status & MNN_TICKET_KIND_MASK) == MNN_TICKET_WRITING;
	if (!isOfWriter && !(isWriting && status == MNN_TICKET_READING))
		return false;
	uint32_t number = (uint32_t)(word >> MNN_TICKET_NUMBER_SHIFT);
	return (status & MNN_TICKET_BY_DEVICE_BIT) == 0 || (int32_t)((uint32_t)fence - number) < 0;
}

/* Whether the bytes are whole, and no stream has work on them that the access must wait
 * for. SYNC ticket, SYNC fence: pair with Tickets.complete and CudaStream.recordFence; the
 * writes of the stream are visible. */
static bool isSettled(const struct mnnOwner *owner, const uint64_t *fences, bool isWriting)
{
	const uint64_t *ring = (const uint64_t *)(owner->row + MNN_ROW_TICKETS_OFFSET);
	if ((load64(generationAddress(owner)) & 1) != 0)
		return false;
	if (load64((const uint64_t *)(owner->row + MNN_ROW_TICKET_NEXT_OFFSET)) == 0)
		return true;
	for (int slot = 0; slot < MNN_TICKET_RING; slot++)
		if (isAwaited(load64(ring + slot), load64(fences + slot), isWriting))
			return false;
	return !isTorn(owner);
}

/* Whether nobody is inside a read access. As awaitReaders does, it sets the word to 0 if
 * readers have been there and none is. SYNC reading: pairs with beginReading; the owner lock
 * was taken before. */
static bool isUnread(const struct mnnOwner *owner, const struct mnnHolds *holds)
{
	enum { MOST = 16 };
	struct mnnLease found[MOST];
	uint32_t seen = load32(readersAddress(owner));
	if (seen == 0)
		return true;
	uint32_t count = mnnScanLeases(holds->block, holds->areasOffset, holds->areaBytes,
		holds->maxMembers, holds->maxLeases, holds->mask, holds->value, found, MOST);
	if (count > MOST)
		return false;
	for (uint32_t index = 0; index < count; index++)
		if ((found[index].expiry & MNN_LEASE_READING_MASK) != 0)
			return false;
	cas32(readersAddress(owner), seen, 0);
	return true;
}

bool mnnWritingTry(
	struct mnnAccessScope *scope, const uint64_t *fences, const struct mnnHolds *holds)
{
	struct mnnOwner *owner = scope->owner;
	struct waiter waiter = {0};
	if (!isPlain(scope) || owner->readers != NULL || load32(successorAddress(owner)) != 0)
		return false;
	if (!takeFrom(owner, &waiter, 0, (struct caller){(uint64_t)pthread_self(), true}))
		return false;
	keep(owner, scope->calls->python);
	if (!isUnread(owner, holds) || !isSettled(owner, fences, true)) {
		release(owner);
		drop(owner, scope->calls->python);
		return false;
	}
	shown(scope)->recovered = 0;
	scope->begun = begin(owner);
	scope->state = MNN_ACCESS_INSIDE;
	return true;
}

bool mnnReadingTry(struct mnnAccessScope *scope, const uint64_t *fences)
{
	if (!isPlain(scope))
		return false;
	beginReading(scope, (struct caller){(uint64_t)pthread_self(), true});
	/* SYNC reading: pairs with isUnread and mustAwaitOthers. */
	if (load32(ownerLockAddress(scope->owner)) == 0 && isSettled(scope->owner, fences, false))
		return true;
	endReading(scope);
	return false;
}

void mnnAccessScopeDrop(struct mnnAccessScope *scope)
{
	if (scope->state == MNN_ACCESS_INSIDE && scope->kind == MNN_KIND_STREAM &&
		!isVoid(scope->owner))
		lingering(scope);
	else
		mnnAccessScopeEnd(scope);
}
