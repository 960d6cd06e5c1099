/* repeat.h says what each function promises. */
#include "repeat.h"

#include "layout.h"

enum { DONE = 0, CAPTURE_MODE_RELAXED = 2 };

static bool isUsable(const struct mnnStanding *standing, const struct mnnOwner *owner, int64_t now)
{
	if (owner->row == NULL || owner->all->ended != 0)
		return false; /* a forked child, or the process has left the domain */
	/* SYNC row: pairs with RowTable.change. */
	uint64_t row = __atomic_load_n(
		(const uint64_t *)(owner->row + MNN_ROW_STATE_OFFSET), __ATOMIC_SEQ_CST);
	uint64_t state = row & MNN_ROW_STATE_MASK;
	return now < standing->untilNs &&
		__atomic_load_n(standing->lease, __ATOMIC_ACQUIRE) == standing->leaseWord &&
		(state == MNN_ROW_LIVE || state == MNN_ROW_REPLACED) &&
		row >> MNN_ROW_INCARNATION_SHIFT == owner->incarnation;
}

/* Make the sender's context this thread's, in which no capture of another thread forbids
 * the calls. `mode` gets the thread's own capture mode. */
static bool enterLane(const struct mnnLane *lane, int *mode)
{
	void *context;
	*mode = CAPTURE_MODE_RELAXED;
	if (lane->push(lane->sourceContext) != DONE)
		return false;
	if (lane->exchangeCaptureMode(mode) == DONE)
		return true;
	lane->pop(&context);
	return false;
}

static void leaveLane(const struct mnnLane *lane, int mode)
{
	void *context;
	lane->exchangeCaptureMode(&mode);
	lane->pop(&context);
}

/* Give the driver the copy, and wait for it. Returns the driver's code. Another thread may be
 * in the driver, and have its lock until a stream goes on that waits for Python: so Python
 * runs meanwhile. */
static int copy(const struct mnnRepeat *repeat, const struct mnnPython *python)
{
	const struct mnnLane *lane = repeat->lane;
	void *thread = python->release();
	int code = lane->copy(repeat->target, lane->targetContext, repeat->source, lane->sourceContext,
		repeat->sizeBytes, lane->stream);
	if (code == DONE)
		code = lane->synchronize(lane->stream);
	python->resume(thread);
	return code;
}

/* An exception, while other code of Python runs. */
struct raised {
	void *kind, *error, *trace;
};

/* Leave an access. The first exception stays, and later ones are dropped. */
static void leave(const struct mnnPython *python, struct raised *raised,
	struct mnnAccessScope *scope, void *(*exit)(struct mnnAccessScope *, void *, void *, void *))
{
	void *left = exit(
		scope, raised->kind != NULL ? raised->kind : python->none, python->none, python->none);
	if (left != NULL) {
		python->drop(left);
		return;
	}
	struct raised later;
	python->fetch(&later.kind, &later.error, &later.trace);
	if (raised->kind == NULL) {
		*raised = later;
		return;
	}
	void *objects[] = {later.kind, later.error, later.trace};
	for (int index = 0; index < 3; index++)
		if (objects[index] != NULL)
			python->drop(objects[index]);
}

/* Leave both accesses. If the copy has failed, Python raises its error before that. */
static void *leaveBoth(struct mnnRepeat *repeat, int code)
{
	struct mnnAccessScope *sending = repeat->sending, *receiving = repeat->receiving;
	const struct mnnPython *python = sending->calls->python;
	struct raised raised = {NULL, NULL, NULL};
	uint64_t generation = receiving->begun + 1;
	if (code != DONE) {
		repeat->isSpent = true;
		sending->kind = receiving->kind = MNN_KIND_STREAM;
		void *number = python->number((unsigned long)code);
		void *none = number != NULL ? python->call(repeat->fail, number, NULL) : NULL;
		if (number != NULL)
			python->drop(number);
		if (none != NULL)
			python->drop(none); /* `fail` always raises */
		python->fetch(&raised.kind, &raised.error, &raised.trace);
	}
	leave(python, &raised, receiving, mnnWritingExit);
	leave(python, &raised, sending, mnnReadingExit);
	if (raised.kind == NULL)
		return python->number((unsigned long)generation);
	python->restore(raised.kind, raised.error, raised.trace);
	return NULL;
}

void *mnnRepeatCopy(struct mnnRepeat *repeat)
{
	struct mnnAccessScope *sending = repeat->sending, *receiving = repeat->receiving;
	const struct mnnPython *python = sending->calls->python;
	bool isInside = false;
	int64_t now = mnnMonotonicNs();
	int mode, code = DONE;
	/* Another thread is inside if one of them is not outside. On a thread of Muninn's a
	 * finalizer of the program must not wait. */
	if (!repeat->isSpent && !mnnIsOwnThread() && sending->state == MNN_ACCESS_OUTSIDE &&
		receiving->state == MNN_ACCESS_OUTSIDE && isUsable(&repeat->from, sending->owner, now) &&
		isUsable(&repeat->to, receiving->owner, now) && enterLane(repeat->lane, &mode)) {
		sending->kind = receiving->kind = MNN_KIND_HOST;
		if (mnnReadingTry(sending, repeat->from.fences)) {
			isInside = mnnWritingTry(receiving, repeat->to.fences, &repeat->to.holds);
			if (isInside)
				code = copy(repeat, python);
			else
				python->drop(mnnReadingExit(sending, python->none, python->none, python->none));
		}
		leaveLane(repeat->lane, mode);
	}
	if (isInside)
		return leaveBoth(repeat, code);
	python->keep(python->none);
	return python->none;
}
