/*
 * Shared windows: members that promote the same window of a buffer which nobody may write
 * use one copy of it. They find it by its name. A member may die between any two steps.
 *
 * A member looks for the name. A copy that is LIVE it opens: lease first, and the row's word
 * once more afterwards. If there is no row, it asks the broker for one (CREATING), fills the
 * memory, and asks for the commit. If another member is at that, it waits. Then it uses the
 * copy, closes it, and does all of it once more, ROUNDS times.
 *
 * The broker serves one request at a time. It frees a row that is CREATING when its maker is
 * confirmed dead, and one that is LIVE when no lease is on it: PROBING first, and the leases
 * second.
 *
 * What must hold: a copy that a member uses is there, and has all bytes, also when its maker
 * is dead; members that use the window at one time use one copy; no member waits for ever;
 * when nobody uses the window, nothing is left of it.
 *
 * Brokers that die are buffers.pml's: here the broker lives.
 */
#ifndef N
#define N 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#define NOBODY N
/* one more than there are rounds in all */
#define COPIES (N * ROUNDS + 1)

/* the row of the name */
#define FREE 0
#define CREATING 1
#define LIVE 2
#define PROBING 3

byte state = FREE;
byte incarnation;          /* of the row: another one for each copy */
byte maker = NOBODY;
bool there[COPIES];        /* the memory of each copy */
byte bytes[COPIES];        /* how many of its two words are filled */
byte lease[N];             /* the copy on which a member has a lease; 0: none */
byte uses[N];              /* the copy that it reads */
bool asksToReclaim;        /* a member has told the broker that a lease is gone */
bool alive[N], confirmed[N], inside[N];
byte deaths;

#if N > 2
#define IS_HELD (lease[0] == incarnation || lease[1] == incarnation || lease[2] == incarnation)
#else
#define IS_HELD (lease[0] == incarnation || lease[1] == incarnation)
#endif

#define USED(x) (alive[x] -> uses[x] : 0)
#define GONE(x) (!alive[x] && !confirmed[x])
#define ANY_GONE (GONE(0) || GONE(1) || GONE(N - 1))

inline tellBroker() {
#ifndef NO_TRY_RECLAIM
	asksToReclaim = true
#else
	skip
#endif
}

/* OpenBuffers.hold */
inline open() {
#ifdef VALIDATE_BEFORE_LEASE
	d_step { ok = (state == LIVE && incarnation == mine) };
	lease[p] = mine;
#else
	lease[p] = mine;
	d_step { ok = (state == LIVE && incarnation == mine) };
#endif
	if
	:: ok
	:: else -> lease[p] = 0; tellBroker()
	fi
}

/* Directory.grant; not ok is BufferExists: another member was faster */
inline grant() {
#ifdef GRANT_TWICE
	d_step { ok = (state == FREE || state == CREATING);
#else
	d_step { ok = (state == FREE);
#endif
		if :: ok -> state = CREATING; maker = p; incarnation++; mine = incarnation :: else fi }
}

/* creation._make: lease, memory, bytes, commit */
inline make() {
	lease[p] = mine;
	there[mine] = true;
#ifdef COMMIT_BEFORE_FILL
	commit();
#endif
	bytes[mine] = 1;
	bytes[mine] = 2;
#ifndef COMMIT_BEFORE_FILL
	commit()
#endif
}

/* Directory.commit */
inline commit() {
	d_step { if :: state == CREATING && maker == p && incarnation == mine -> state = LIVE :: else -> ok = false fi }
}

/* promotion._shared */
inline promote() {
	do
	:: d_step { seen = state; mine = incarnation; ok = false };
		if
		:: seen == LIVE -> open()
		:: seen == FREE -> grant();
			if
			:: ok -> make()
			:: else
			fi
		:: else -> state != seen || incarnation != mine /* another member makes it, or it ends */
		fi;
		if
		:: ok -> break
		:: else
		fi
	od
}

inline use() {
	uses[p] = mine;
	d_step { assert(there[mine] && bytes[mine] == 2); assert(USED(0) == 0 || USED(1) == 0 || USED(0) == USED(1)) };
	assert(there[mine] && bytes[mine] == 2); /* some time later */
	uses[p] = 0
}

/* Memory.onGone */
inline close() {
	lease[p] = 0;
	tellBroker()
}

proctype Member(byte p) {
	byte seen, mine, round;
	bool ok;
	{
		inside[p] = true;
		do
		:: round < ROUNDS -> round++; promote(); use(); close()
		:: else -> break
		od;
		inside[p] = false;
		false
	} unless { !alive[p] };
	d_step { seen = 0; mine = 0; round = 0; ok = false; uses[p] = 0; inside[p] = false }
}

proctype Broker() {
	byte k;
	bool held;
	do
	:: asksToReclaim -> asksToReclaim = false;
		/* Directory.tryReclaim */
		if
		:: state == LIVE && !IS_HELD ->
			state = PROBING;
#ifdef NO_SCAN_AFTER_STATE
			held = false;
#else
			k = 0;
			do
			:: k < N -> d_step { held = (held || lease[k] == incarnation); k++ }
			:: else -> break
			od;
			k = 0;
#endif
			d_step { if :: held -> state = LIVE :: else -> there[incarnation] = false; state = FREE fi };
			held = false
		:: else
		fi
	:: d_step { ANY_GONE -> k = (GONE(0) -> 0 : (GONE(1) -> 1 : N - 1)); confirmed[k] = true };
		/* Reclaimer.begin: the leases, and then the rows */
		lease[k] = 0;
		if
#ifndef NO_ORPHANS
		:: d_step { state == CREATING && maker == k -> there[incarnation] = false; state = FREE }
#endif
#ifdef ENDS_WITH_ITS_MAKER
		:: d_step { state == LIVE && maker == k -> there[incarnation] = false; state = FREE }
#endif
		:: else
		fi;
#ifndef NO_TRY_RECLAIM_AFTER_DEATH
		asksToReclaim = true;
#endif
		k = 0
	od
}

proctype Fate() {
	byte p;
	do
	:: deaths < DEATHS ->
		atomic { select(p : 0 .. N - 1); alive[p] -> deaths++; alive[p] = false; p = 0 }
	:: break
	od
}

proctype Quiescence() {
	byte k;
	timeout;
	do
	:: k < N -> assert(!(alive[k] && inside[k])); k++
	:: else -> break
	od;
	assert(state == FREE);
	k = 1;
	do
	:: k < COPIES -> assert(!there[k]); k++
	:: else -> break
	od
}

init {
	byte p;
	atomic {
		do
		:: p < N -> alive[p] = true; p++
		:: else -> break
		od;
		p = 0;
		do
		:: p < N -> run Member(p); p++
		:: else -> break
		od;
		p = 0;
		run Broker(); run Fate(); run Quiescence()
	}
}
