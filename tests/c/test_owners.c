/* Locks, accesses and their order, with a fake interpreter: after any result of the
 * callbacks each lock that is taken is released; the functions report locks and accesses
 * correctly; no waiter is passed over, and no waiter waits for a dead or stopped
 * successor. `make test` runs it under AddressSanitizer and
 * UndefinedBehaviorSanitizer. */
#define _GNU_SOURCE
#include "check.h"
#include "layout.h"
#include "owners.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OURS = 5, THEIRS = 6, ME = 100, ANOTHER = 200, BOUND_SECONDS = 60, SLOW_CALLBACKS = 20000 };
static const uint32_t CONTENDED = UINT32_C(1) << 31;
static const uint64_t READING = UINT64_C(1) << MNN_LEASE_READING_SHIFT;

/* --- an interpreter --- */

struct object {
	long references;
	unsigned long value;
};
struct function {
	struct object object;
	void *(*run)(void *self, void *one, void *two);
	int calls;
};

static struct object none, true_, false_, openBuffer, view, error;
static unsigned long me = ME;
static int exceptions, refused;
static unsigned long awaited;

static void *call(void *callable, ...)
{
	void *arguments[4] = {NULL};
	va_list rest;
	va_start(rest, callable);
	for (int index = 0; index < 4 && (arguments[index] = va_arg(rest, void *)) != NULL; index++)
		;
	va_end(rest);
	struct function *function = callable;
	function->calls++;
	return function->run(arguments[0], arguments[1], arguments[2]);
}

static void keepObject(void *object) { ((struct object *)object)->references++; }
static void dropObject(void *object) { ((struct object *)object)->references--; }
static void *given(struct object *object)
{
	object->references++;
	return object;
}
static void *number(unsigned long value)
{
	static struct object numbers[64];
	static int next;
	struct object *made = &numbers[next++ % 64];
	made->references++;
	made->value = value;
	return made;
}
static unsigned long valueOf(void *object) { return ((struct object *)object)->value; }
static void fetch(void **kind, void **value, void **trace)
{
	*kind = exceptions ? given(&error) : NULL, *value = *trace = NULL, exceptions = 0;
}
static void restore(void *kind, void *value, void *trace)
{
	(void)value, (void)trace;
	exceptions = kind != NULL;
	if (kind != NULL)
		dropObject(kind);
}
static void *raised(void)
{
	exceptions = 1;
	return NULL;
}

static void *identify(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	return number(me);
}
static void *gives(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	return given(&view);
}
static void *says(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	return given(&none);
}
static void *raises(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	return raised();
}
static void *refuses(void *self, void *reason, void *two)
{
	(void)self, (void)two;
	refused = (int)valueOf(reason);
	return raised();
}

static struct function getIdent = {.run = identify}, attach, deadline, await, awaitOthers, end,
					   linger, refuse;
/* The function that `threading.get_ident` names; `plainIdent`: no library has replaced
 * it. */
static struct function plainIdent, *named = &getIdent;
static void *item(void *names, void *key)
{
	(void)names, (void)key;
	return named;
}
static struct mnnPython python = {
	call,
	keepObject,
	dropObject,
	number,
	valueOf,
	fetch,
	restore,
	item,
	&none,
	&true_,
	&false_,
	&none,
	&none,
	&plainIdent,
	NULL,
	NULL,
};
static struct mnnCalls calls = {
	&python, &attach, &deadline, &await, &awaitOthers, &end, &linger, &refuse};

/* --- a row, and what this process has of it --- */

static char *row;
static struct mnnOwners all;
static struct mnnOwner owner;
static uint64_t expiry;

static uint32_t *word(size_t offset) { return (uint32_t *)(row + offset); }
static uint32_t *ownerLock(void) { return word(MNN_ROW_OWNER_LOCK_OFFSET); }
static uint32_t *successor(void) { return word(MNN_ROW_SUCCESSOR_OFFSET); }
static uint64_t *generation(void) { return (uint64_t *)(row + MNN_ROW_GENERATION_OFFSET); }
static uint32_t look(const uint32_t *address) { return __atomic_load_n(address, __ATOMIC_SEQ_CST); }
static void put(uint32_t *address, uint32_t value)
{
	__atomic_store_n(address, value, __ATOMIC_SEQ_CST);
}

static struct mnnAccessScope scopeOf(uint32_t kind)
{
	return (struct mnnAccessScope){
		.owner = &owner, .calls = &calls, .self = &view, .given = &view, .kind = kind};
}

static void *notAwaited(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	CHECK(!"nothing is waited for here");
	return NULL;
}

static void begin(void)
{
	memset(row, 0, MNN_ROW_BYTES);
	memset(&owner, 0, sizeof owner);
	all = (struct mnnOwners){0};
	expiry = 77;
	me = ME;
	exceptions = refused = 0;
	openBuffer.references = 0;
	attach = (struct function){.run = gives};
	deadline = (struct function){.run = says};
	await = (struct function){.run = notAwaited};
	awaitOthers = (struct function){.run = gives};
	end = (struct function){.run = says};
	linger = (struct function){.run = says};
	refuse = (struct function){.run = refuses};
	mnnOwnerBind(&owner, &all, row, &expiry, &openBuffer, OURS, 1);
}

/* No lock, access or reference is left. */
static void isAtRest(void)
{
	CHECK(look(ownerLock()) == 0 && owner.depth == 0 && owner.readers == NULL &&
		openBuffer.references == 0 && expiry == 77);
}

static bool wasRefused(void *result, int reason)
{
	bool was = result == NULL && exceptions == 1 && refused == reason;
	exceptions = refused = 0;
	return was;
}

static bool takes(struct mnnAccessScope *scope)
{
	void *result = mnnLockAcquire(scope, &none);
	CHECK((result == NULL) == (exceptions != 0) && (result == NULL || result == &true_));
	exceptions = 0;
	return result != NULL;
}

/* --- locks --- */

static void aLockIsTakenAndGivenBack(void)
{
	begin();
	struct mnnAccessScope one = scopeOf(MNN_KIND_LOCK), other = scopeOf(MNN_KIND_LOCK);
	CHECK(takes(&one) && look(ownerLock()) == OURS && openBuffer.references == 1 && !one.recovered);
	CHECK(takes(&other) && owner.depth == 2 && mnnOwnerWrites(&owner, ME) &&
		!mnnOwnerWrites(&owner, ANOTHER));
	CHECK(mnnOwnerIsBusy(&owner, ANOTHER) && !mnnOwnerIsBusy(&owner, ME));
	me = ANOTHER;
	CHECK(wasRefused(mnnLockRelease(&one), MNN_REFUSED_OTHER_THREAD) && look(ownerLock()) == OURS);
	/* mnnLockExit goes by the thread of the system, which is the same */
	CHECK(mnnLockExit(&one, &none, &none, &none) == &none);
	me = ME;
	CHECK(look(ownerLock()) == OURS && mnnLockRelease(&one) == &none);
	isAtRest();
	CHECK(wasRefused(mnnLockRelease(&one), MNN_REFUSED_NOT_HELD));
	isAtRest();
	CHECK(mnnLockEnter(&one) == &view && mnnLockRelease(&one) == &none);
	isAtRest();
}

/* A lock that a thread has taken stays its own when a library replaces `get_ident`
 * meanwhile; a lock that a green thread takes belongs to that green thread. */
static void aThreadMayBecomeGreenOnes(void)
{
	begin();
	struct mnnAccessScope lock = scopeOf(MNN_KIND_LOCK), early = scopeOf(MNN_KIND_HOST),
						  late = scopeOf(MNN_KIND_HOST);
	named = &plainIdent;
	CHECK(takes(&lock) && mnnOwnerWrites(&owner, (uint64_t)pthread_self()));
	named = &getIdent;
	CHECK(takes(&lock) && owner.depth == 2 && mnnOwnerWrites(&owner, ME) &&
		!mnnOwnerIsBusy(&owner, ME) && mnnOwnerIsBusy(&owner, 0));
	CHECK(mnnLockRelease(&lock) == &none && mnnLockRelease(&lock) == &none);
	isAtRest();
	CHECK(takes(&lock));
	me = ANOTHER;
	CHECK(wasRefused(mnnLockRelease(&lock), MNN_REFUSED_OTHER_THREAD));
	me = ME;
	CHECK(mnnLockRelease(&lock) == &none);
	named = &plainIdent;
	CHECK(mnnReadingEnter(&early) == &view);
	named = &getIdent;
	CHECK(mnnOwnerReads(&owner, ME) && !mnnOwnerIsBusy(&owner, ME) &&
		mnnReadingExit(&early, &none, &none, &none) == &false_);
	CHECK(mnnReadingEnter(&late) == &view && mnnOwnerReads(&owner, ME) &&
		!mnnOwnerReads(&owner, ANOTHER));
	CHECK(mnnReadingExit(&late, &none, &none, &none) == &false_);
	isAtRest();
}

static void aChildHasNothing(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK);
	CHECK(takes(&scope));
	struct mnnOwner before = owner;
	memset(&owner, 0, sizeof owner);
	CHECK(wasRefused(mnnLockRelease(&scope), MNN_REFUSED_VOID) && look(ownerLock()) == OURS &&
		!mnnOwnerIsBusy(&owner, 0));
	owner = before;
	mnnOwnerBind(&owner, &all, row, &expiry, &none, OURS, 1);
	CHECK(owner.depth == 1 && owner.openBuffer == &openBuffer); /* the open buffer in use stays */
	CHECK(mnnLockRelease(&scope) == &none);
	isAtRest();
	put(ownerLock(), OURS); /* stale: of an earlier member with the same word */
	CHECK(takes(&scope) && scope.recovered && mnnLockRelease(&scope) == &none);
	isAtRest();
}

/* Replacements of `await`: each does one step per call. */
static void *ends(void *self, void *one, void *said)
{
	(void)self, (void)one;
	awaited = valueOf(said);
	put(ownerLock(), 0);
	put(successor(), 0);
	return given(&false_);
}
static void *isDead(void *self, void *one, void *said)
{
	(void)self, (void)one;
	awaited = valueOf(said);
	return given(&true_);
}
static void *isTimeOver(void *self, void *one, void *said)
{
	(void)self, (void)one;
	awaited = valueOf(said);
	CHECK(look(successor()) == look(word(MNN_ROW_ARRIVALS_OFFSET)));
	return raised();
}
static void *passes(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	CHECK(await.calls < SLOW_CALLBACKS);
	usleep(200);
	return given(&false_);
}

static void waitersComeInTheirOrder(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK);
	put(ownerLock(), THEIRS);
	await.run = isTimeOver;
	/* A waiter that gives up is no successor any more */
	CHECK(!takes(&scope) && awaited == (THEIRS | CONTENDED) && look(successor()) == 0);
	await.run = ends;
	CHECK(takes(&scope) && look(ownerLock()) == (OURS | CONTENDED)); /* others may wait too */
	CHECK(mnnLockRelease(&scope) == &none);
	put(successor(), 1);
	awaited = 1;
	/* A free owner lock is kept for the successor */
	CHECK(takes(&scope) && awaited == CONTENDED && await.calls == 3);
	CHECK(mnnLockRelease(&scope) == &none);
	put(successor(), 1);
	await = (struct function){.run = passes};
	int64_t since = mnnMonotonicNs();
	/* but not for ever */
	CHECK(takes(&scope) && mnnMonotonicNs() - since >= MNN_SUCCESSOR_NS && look(successor()) == 0);
	CHECK(mnnLockRelease(&scope) == &none);
	isAtRest();
}

static void numbersMayWrap(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK);
	put(ownerLock(), THEIRS);
	put(word(MNN_ROW_ARRIVALS_OFFSET), UINT32_MAX - 1);
	put(successor(), 1); /* a waiter that came after the wrap */
	await.run = isTimeOver;
	CHECK(!takes(&scope) && look(word(MNN_ROW_ARRIVALS_OFFSET)) == UINT32_MAX);
	CHECK(!takes(&scope) &&
		look(word(MNN_ROW_ARRIVALS_OFFSET)) == 1); /* no waiter has the number 0 */
	put(ownerLock(), 0);
}

static void theDeadAreSucceeded(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK);
	put(ownerLock(), THEIRS);
	await.run = isDead;
	CHECK(takes(&scope) && scope.recovered && look(ownerLock()) == (OURS | CONTENDED) &&
		mnnLockRelease(&scope) == &none);
	await.run = notAwaited;
	CHECK(takes(&scope) && !scope.recovered && mnnLockRelease(&scope) == &none);
	isAtRest();
}

/* An exception may come before the first statement of the block. */
static void anExceptionLeavesTheRecoveryToTheNextOwner(void)
{
	begin();
	struct mnnAccessScope lock = scopeOf(MNN_KIND_LOCK), held = scopeOf(MNN_KIND_LOCK);
	held.shownIn = &lock;
	put(ownerLock(), THEIRS);
	await.run = isDead;
	CHECK(takes(&held) && lock.recovered && !held.recovered);
	CHECK(mnnLockExit(&held, &view, &view, &view) == &none && look(ownerLock()) != 0 &&
		look(ownerLock()) != THEIRS);
	CHECK(takes(&lock) && lock.recovered && mnnLockExit(&lock, &none, &none, &none) == &none);
	await.run = notAwaited;
	CHECK(takes(&lock) && !lock.recovered && mnnLockExit(&lock, &view, &view, &view) == &none);
	isAtRest();
}

static void *stays(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	all.leaver = 0;
	return given(&view);
}

static void nothingBeginsWhileAnotherThreadLeaves(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK), reader = scopeOf(MNN_KIND_STREAM);
	all.leaver = ANOTHER;
	attach = (struct function){.run = stays};
	CHECK(takes(&scope) && attach.calls == 1);
	all.leaver = ANOTHER;
	CHECK(takes(&scope) && owner.depth == 2); /* the begun access goes on */
	CHECK(mnnLockRelease(&scope) == &none && mnnLockRelease(&scope) == &none);
	CHECK(mnnReadingEnter(&reader) == &view && all.leaver == 0);
	CHECK(mnnReadingExit(&reader, &none, &none, &none) == &false_);
	isAtRest();
	all.leaver = ANOTHER;
	attach.run = raises;
	CHECK(!takes(&scope));
	isAtRest();
}

static void *sleeps(void *argument)
{
	(void)argument;
	while (look(ownerLock()) == (OURS | CONTENDED))
		mnnFutexWait32(ownerLock(), OURS | CONTENDED, (int64_t)BOUND_SECONDS * 2 * 1000000000);
	return NULL;
}

static void aReleaseWakes(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK);
	CHECK(takes(&scope));
	put(ownerLock(), OURS | CONTENDED);
	pthread_t sleeper;
	CHECK(pthread_create(&sleeper, NULL, sleeps, NULL) == 0);
	usleep(100000);
	CHECK(mnnLockRelease(&scope) == &none);
	CHECK(pthread_join(sleeper, NULL) == 0);
	isAtRest();
}

/* --- writing --- */

static void whatIsWrittenIsPublished(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_HOST), nested = scopeOf(MNN_KIND_HOST),
						  reader = scopeOf(MNN_KIND_HOST);
	CHECK(mnnWritingEnter(&scope) == &view && *generation() == 1 && look(ownerLock()) == OURS &&
		awaitOthers.calls == 0);
	CHECK(wasRefused(mnnWritingEnter(&nested), MNN_REFUSED_WRITING) &&
		wasRefused(mnnReadingEnter(&reader), MNN_REFUSED_WRITING));
	CHECK(mnnWritingExit(&scope, &none, &none, &none) == &false_ && *generation() == 2);
	isAtRest();
	CHECK(mnnWritingEnter(&scope) == &view &&
		mnnWritingExit(&scope, &error, &error, &none) == &false_ && *generation() == 3);
	isAtRest();
	CHECK(mnnWritingEnter(&scope) == &view && *generation() == 3); /* half written since then */
	CHECK(mnnWritingExit(&scope, &none, &none, &none) == &false_ && *generation() == 4);
	/* The access is over */
	CHECK(mnnWritingExit(&scope, &none, &none, &none) == &false_ && *generation() == 4);
	CHECK(mnnWritingEnter(&scope) == &view);
	mnnAccessScopeDrop(&scope); /* no program can end it any more */
	CHECK(*generation() == 5);
	isAtRest();
}

static void whatFailsOnTheWayInIsGivenBack(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_STREAM), timed = scopeOf(MNN_KIND_HOST);
	long views = view.references;
	awaitOthers.run = raises;
	CHECK(mnnWritingEnter(&scope) == NULL && exceptions == 1 && awaitOthers.calls == 1 &&
		*generation() == 0);
	isAtRest();
	scope.kind = MNN_KIND_HOST;
	put(word(MNN_ROW_READERS_OFFSET), 3); /* there was a reader: there may be one now */
	CHECK(mnnWritingEnter(&scope) == NULL && awaitOthers.calls == 2);
	isAtRest();
	timed.isTimed = 1;
	deadline.run = raises;
	CHECK(mnnWritingEnter(&timed) == NULL && deadline.calls == 1);
	attach.run = raises;
	CHECK(mnnWritingEnter(&timed) == NULL);
	isAtRest();
	CHECK(view.references == views);
}

static struct mnnAccessScope *lasting;
static void *handsOver(void *self, void *one, void *two)
{
	(void)self, (void)one, (void)two;
	CHECK(lasting->state == MNN_ACCESS_LINGERING && exceptions == 0);
	return given(&none);
}

static void aTurnLastsUntilItsWorkIsOver(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_STREAM);
	lasting = &scope;
	linger.run = handsOver;
	end.run = raises;
	CHECK(mnnWritingEnter(&scope) == &view && mnnWritingExit(&scope, &none, &none, &none) == NULL &&
		exceptions == 1);
	CHECK(linger.calls == 1 && look(ownerLock()) == OURS && !mnnOwnerWrites(&owner, ME) &&
		mnnOwnerIsBusy(&owner, ME));
	mnnAccessScopeEnd(&scope);
	mnnAccessScopeEnd(&scope);
	CHECK(*generation() == 1); /* half written */
	isAtRest();
	linger = (struct function){.run = raises};
	CHECK(mnnWritingEnter(&scope) == &view && mnnWritingExit(&scope, &none, &none, &none) == NULL &&
		exceptions == 1 && linger.calls == 3);
	isAtRest(); /* the lock is not held for ever when `linger` fails */
	struct mnnAccessScope reader = scopeOf(MNN_KIND_STREAM);
	linger = (struct function){.run = handsOver};
	CHECK(mnnReadingEnter(&reader) == &view);
	exceptions = 0;
	lasting = &reader;
	mnnAccessScopeDrop(&reader);
	CHECK(linger.calls == 1 && expiry == (77 | READING) && !mnnOwnerReads(&owner, ME));
	mnnAccessScopeEnd(&reader);
	isAtRest();
}

static void whoMendsSaysSo(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_HOST);
	*(uint64_t *)(row + MNN_ROW_TORN_OFFSET) = 9;
	*(uint64_t *)(row + MNN_ROW_LAST_WRITER_OFFSET) = 9;
	CHECK(mnnWritingEnter(&scope) == &view &&
		mnnWritingExit(&scope, &none, &none, &none) == &false_ && end.calls == 1);
	end.run = raises;
	CHECK(mnnWritingEnter(&scope) == &view && mnnWritingExit(&scope, &none, &none, &none) == NULL &&
		*generation() == 3);
	*(uint64_t *)(row + MNN_ROW_LAST_WRITER_OFFSET) = 10;
	CHECK(mnnWritingEnter(&scope) == &view &&
		mnnWritingExit(&scope, &none, &none, &none) == &false_ && end.calls == 2);
	isAtRest();
}

/* --- reading --- */

static void readersAreInsideTogether(void)
{
	begin();
	struct mnnAccessScope one = scopeOf(MNN_KIND_STREAM), other = scopeOf(MNN_KIND_STREAM),
						  writer = scopeOf(MNN_KIND_HOST);
	put(word(MNN_ROW_READERS_OFFSET), UINT32_MAX);
	CHECK(mnnReadingEnter(&one) == &view && expiry == (77 | READING) &&
		look(word(MNN_ROW_READERS_OFFSET)) == 1);
	CHECK(wasRefused(mnnReadingEnter(&one), MNN_REFUSED_READING) &&
		wasRefused(mnnWritingEnter(&writer), MNN_REFUSED_READING));
	put(ownerLock(), THEIRS); /* a writer that waits for them */
	CHECK(mnnReadingEnter(&other) == &view); /* a nested reader does not wait for the writer */
	CHECK(mnnReadingExit(&one, &none, &none, &none) == &false_ && expiry == (77 | READING) &&
		mnnOwnerReads(&owner, ME));
	CHECK(mnnReadingExit(&other, &none, &none, &none) == &false_ && expiry == 77);
	put(ownerLock(), 0);
	isAtRest();
}

static void aReaderWaitsForAWriter(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_STREAM);
	put(ownerLock(), THEIRS);
	await.run = isTimeOver;
	CHECK(mnnReadingEnter(&scope) == NULL && awaited == (THEIRS | CONTENDED) &&
		look(successor()) == 0 && expiry == 77);
	await.run = ends;
	CHECK(
		mnnReadingEnter(&scope) == &view && mnnReadingExit(&scope, &none, &none, &none) == &false_);
	put(ownerLock(), THEIRS);
	await.run = isDead;
	/* The next writer takes it */
	CHECK(mnnReadingEnter(&scope) == &view && look(ownerLock()) == (THEIRS | CONTENDED));
	CHECK(mnnReadingExit(&scope, &none, &none, &none) == &false_);
	put(ownerLock(), 0);
	awaitOthers.run = raises;
	CHECK(mnnReadingEnter(&scope) == NULL);
	isAtRest();
}

static uint32_t readersSeen;
static void *awaitsReaders(void *argument)
{
	(void)argument;
	while (look(word(MNN_ROW_READERS_OFFSET)) == readersSeen)
		mnnFutexWait32(
			word(MNN_ROW_READERS_OFFSET), readersSeen, (int64_t)BOUND_SECONDS * 2 * 1000000000);
	return NULL;
}

static void aReaderThatLeavesWakesTheWriter(void)
{
	begin();
	struct mnnAccessScope scope = scopeOf(MNN_KIND_STREAM);
	CHECK(mnnReadingEnter(&scope) == &view);
	put(ownerLock(), THEIRS);
	readersSeen = look(word(MNN_ROW_READERS_OFFSET));
	pthread_t sleeper;
	CHECK(pthread_create(&sleeper, NULL, awaitsReaders, NULL) == 0);
	usleep(100000);
	CHECK(mnnReadingExit(&scope, &none, &none, &none) == &false_);
	CHECK(pthread_join(sleeper, NULL) == 0);
	put(ownerLock(), 0);
	isAtRest();
}

/* --- processes --- */

static void *sleepsOnTheOwnerLock(void *self, void *one, void *said)
{
	(void)self, (void)one;
	mnnFutexWait32(ownerLock(), (uint32_t)valueOf(said), MNN_SUCCESSOR_NS);
	return given(&false_);
}

/* Entering at once: each thing that stands against it, by itself. */
static uint64_t fences[MNN_TICKET_RING];
static struct mnnAccessScope attempt;
enum { AREA_LEASES = 20, AREA_BYTES = AREA_LEASES * MNN_LEASE_BYTES };
static _Alignas(64) char block[MNN_MEMBERS_OFFSET + 2 * MNN_MEMBER_BYTES + 2 * AREA_BYTES];
static const struct mnnHolds holds = {.block = block,
	.areasOffset = MNN_MEMBERS_OFFSET + 2 * MNN_MEMBER_BYTES,
	.areaBytes = AREA_BYTES,
	.maxMembers = 2,
	.maxLeases = AREA_LEASES,
	.mask = ~UINT64_C(0),
	.value = 9};

/* The leases on this row and on others that the second member has; `reading` is that of one
 * of them which says so. */
static void holdsOfAnother(int own, int others, int reading)
{
	memset(block, 0, sizeof block);
	char *member = block + MNN_MEMBERS_OFFSET + MNN_MEMBER_BYTES;
	*(uint64_t *)(member + MNN_MEMBER_STATE_OFFSET) = MNN_MEMBER_LIVE;
	*(uint32_t *)(member + MNN_MEMBER_LEASE_HIGH_OFFSET) = (uint32_t)(own + others);
	for (int index = 0; index < own + others; index++) {
		char *lease = block + holds.areasOffset + AREA_BYTES + index * MNN_LEASE_BYTES;
		*(uint64_t *)(lease + MNN_LEASE_HOLD_OFFSET) = index < own ? 9 : 8;
		*(uint64_t *)(lease + MNN_LEASE_EXPIRY_OFFSET) = index == reading ? READING : 77;
	}
}

static uint64_t *ring(void) { return (uint64_t *)(row + MNN_ROW_TICKETS_OFFSET); }
static uint64_t *next(void) { return (uint64_t *)(row + MNN_ROW_TICKET_NEXT_OFFSET); }

static void entersAtOnce(bool reads, bool writes)
{
	uint64_t was = *generation();
	attempt = scopeOf(MNN_KIND_HOST);
	CHECK(mnnReadingTry(&attempt, fences) == reads);
	CHECK((expiry == (77 | READING)) == reads && (owner.readers == &attempt) == reads);
	if (reads)
		CHECK(mnnReadingExit(&attempt, &none, &none, &none) == &false_);
	CHECK(expiry == 77 && owner.readers == NULL && openBuffer.references == 0);
	put(word(MNN_ROW_READERS_OFFSET), 0); /* as a writer does that finds nobody */
	attempt = scopeOf(MNN_KIND_HOST);
	CHECK(mnnWritingTry(&attempt, fences, &holds) == writes);
	CHECK((owner.depth == 1) == writes && *generation() == was + writes);
	if (writes)
		CHECK(mnnWritingExit(&attempt, &none, &none, &none) == &false_ && *generation() == was + 2);
	CHECK(owner.depth == 0 && openBuffer.references == 0 && exceptions == 0);
	CHECK(getIdent.calls == 0 && attach.calls == 0 && awaitOthers.calls == 0);
}

static void anAccessIsEnteredAtOnceOrNotAtAll(void)
{
	named = &plainIdent;
	begin();
	getIdent.calls = 0;
	memset(fences, 0, sizeof fences);
	entersAtOnce(true, true);
	isAtRest();
	put(ownerLock(), THEIRS);
	entersAtOnce(false, false);
	CHECK(look(ownerLock()) == THEIRS);
	put(ownerLock(), MNN_OWNER_DEAD);
	entersAtOnce(false, false);
	put(ownerLock(), 0), put(successor(), 4);
	entersAtOnce(true, false);
	put(successor(), 0), *generation() += 1;
	entersAtOnce(false, false);
	*generation() += 1, all.leaver = ANOTHER;
	entersAtOnce(false, false);
	all.leaver = 0, named = &getIdent;
	entersAtOnce(false, false);
	named = &plainIdent, attempt = scopeOf(MNN_KIND_HOST);
	const struct {
		int own, others, reading;
		bool writes;
	} leases[] = {
		{3, 2, -1, true}, {3, 2, 2, false}, {3, 2, 3, true}, {16, 0, -1, true}, {17, 0, -1, false}};
	for (size_t index = 0; index < sizeof leases / sizeof *leases; index++) {
		holdsOfAnother(leases[index].own, leases[index].others, leases[index].reading);
		put(word(MNN_ROW_READERS_OFFSET), 3);
		CHECK(mnnWritingTry(&attempt, fences, &holds) == leases[index].writes);
		CHECK(look(word(MNN_ROW_READERS_OFFSET)) == (leases[index].writes ? 0 : 3));
		if (leases[index].writes)
			CHECK(mnnWritingExit(&attempt, &none, &none, &none) == &false_);
		CHECK(look(ownerLock()) == 0);
	}
	struct mnnAccessScope outer = scopeOf(MNN_KIND_HOST);
	CHECK(mnnReadingTry(&outer, fences) && !mnnReadingTry(&outer, fences));
	put(word(MNN_ROW_READERS_OFFSET), 0);
	CHECK(!mnnWritingTry(&attempt, fences, &holds)); /* a thread of this process is reading */
	CHECK(mnnReadingExit(&outer, &none, &none, &none) == &false_);
	put(word(MNN_ROW_READERS_OFFSET), 0);
	CHECK(mnnWritingTry(&outer, fences, &holds) && !mnnReadingTry(&attempt, fences));
	CHECK(mnnWritingExit(&outer, &none, &none, &none) == &false_);

	/* Tickets: in slot 5 is one whose number has wrapped. */
	uint64_t number = UINT64_C(0x100000005);
	*next() = number, fences[5] = number - MNN_TICKET_RING;
	const struct {
		uint64_t status;
		bool reads, writes;
	} kinds[] = {{MNN_TICKET_PENDING, true, true}, {MNN_TICKET_READING, true, false},
		{MNN_TICKET_WRITING, false, false}, {MNN_TICKET_WRITING_BY_DEVICE, false, false},
		{MNN_TICKET_WRITTEN, true, true}, {MNN_TICKET_READ, true, true}};
	for (size_t each = 0; each < sizeof kinds / sizeof *kinds; each++) {
		ring()[5] = number << MNN_TICKET_NUMBER_SHIFT | kinds[each].status;
		entersAtOnce(kinds[each].reads, kinds[each].writes);
	}
	fences[5] = number; /* a GPU has come to it */
	ring()[5] = number << MNN_TICKET_NUMBER_SHIFT | MNN_TICKET_WRITING_BY_DEVICE;
	entersAtOnce(true, true);
	ring()[5] = number << MNN_TICKET_NUMBER_SHIFT | MNN_TICKET_WRITING;
	entersAtOnce(false, false);
	ring()[5] = 0, *(uint64_t *)(row + MNN_ROW_TORN_OFFSET) = number;
	entersAtOnce(false, false);
	named = &getIdent;
}

static void processesTakeTurns(void)
{
	enum { PROCESSES = 4, ROUNDS = 400 };
	begin();
	await.run = sleepsOnTheOwnerLock;
	uint64_t *counter = (uint64_t *)(row + MNN_ROW_BYTES);
	*counter = 0;
	for (uint32_t child = 0; child < PROCESSES; child++)
		if (fork() == 0) {
			mnnOwnerBind(&owner, &all, row, &expiry, &openBuffer, OURS + child, 2);
			struct mnnAccessScope scope = scopeOf(MNN_KIND_LOCK);
			for (int round = 0; round < ROUNDS; round++) {
				CHECK(takes(&scope));
				uint64_t seen = *(volatile uint64_t *)counter;
				if (round % 16 == 0)
					usleep(10);
				*(volatile uint64_t *)counter = seen + 1;
				CHECK(mnnLockRelease(&scope) == &none);
			}
			_exit(0);
		}
	for (int child = 0; child < PROCESSES; child++) {
		int status;
		CHECK(wait(&status) > 0 && status == 0);
	}
	CHECK(*counter == PROCESSES * ROUNDS && look(successor()) == 0);
	isAtRest();
}

int main(void)
{
	alarm(BOUND_SECONDS); /* ends a test in which a wake-up is lost */
	row = mmap(NULL, 2 * MNN_ROW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(row != MAP_FAILED);
	aLockIsTakenAndGivenBack();
	aThreadMayBecomeGreenOnes();
	aChildHasNothing();
	waitersComeInTheirOrder();
	numbersMayWrap();
	theDeadAreSucceeded();
	anExceptionLeavesTheRecoveryToTheNextOwner();
	nothingBeginsWhileAnotherThreadLeaves();
	aReleaseWakes();
	whatIsWrittenIsPublished();
	whatFailsOnTheWayInIsGivenBack();
	aTurnLastsUntilItsWorkIsOver();
	whoMendsSaysSo();
	readersAreInsideTogether();
	aReaderWaitsForAWriter();
	aReaderThatLeavesWakesTheWriter();
	anAccessIsEnteredAtOnceOrNotAtAll();
	processesTakeTurns();
	puts("owners keep their promises");
	return 0;
}
