/*
 * Owner locks and generations: the right to write, publication, and reading without
 * locks.
 *
 * N members write, publish and read one buffer of two words. A member may die between any
 * two steps. A writer takes the owner lock; a waiter may take it over from a dead owner.
 * Each member has a store buffer: plain and release stores wait in it, in order (x86-TSO).
 * A locked instruction drains it, and so does the end of the process, before its death can
 * be confirmed.
 *
 * With -DWEAK the stores of a buffer reach memory in any order, except that a release store
 * waits for the stores before it. That is what ARM adds for writers. Only the exchange that
 * makes the generation odd keeps later stores behind it.
 *
 * The protocol in words is at the head of cshim/owners.h.
 */
#ifndef N
#define N 3
#endif
#ifndef OPS
#define OPS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define NOBODY N
#define ROOM 3

byte ownerLock = NOBODY;   /* the owner; `contended` is the other half of the word */
byte successor, arrivals;  /* the number of the waiter that is next, 0: none; the last number */
byte number[N];            /* the number of a waiter; 0: the member has not had to wait */
byte bypassed[N];          /* how often others took a free owner lock while this waiter was the successor */
bool contended;
byte generation;           /* odd while a member writes */
byte data[2];

bool alive[N], threadGone[N], asleep[N];
byte owners;               /* how many running members believe that they have the owner lock */
byte deaths;

/* the store buffers: {0, 1: data, 2: generation} and the value */
#define WHERE(p, n) bufferWhere[(p) * ROOM + (n)]
#define VALUE(p, n) bufferValue[(p) * ROOM + (n)]
byte bufferWhere[9], bufferValue[9], waiting[N];

#define TO_MEMORY(where, value) \
	if \
	:: (where) < 2 -> data[where] = value \
	:: else -> generation = value \
	fi

/* the oldest store of p reaches memory */
#define FLUSH(p) \
	TO_MEMORY(WHERE(p, 0), VALUE(p, 0)); \
	WHERE(p, 0) = WHERE(p, 1); VALUE(p, 0) = VALUE(p, 1); \
	WHERE(p, 1) = WHERE(p, 2); VALUE(p, 1) = VALUE(p, 2); \
	WHERE(p, 2) = 0; VALUE(p, 2) = 0; waiting[p]--

#define OVERTAKE(p) d_step { \
	waiting[p] > 1 && WHERE(p, 0) != WHERE(p, 1) && (WHERE(p, 1) != 2 || VALUE(p, 1) % 2 == 1) -> \
	TO_MEMORY(WHERE(p, 1), VALUE(p, 1)); \
	WHERE(p, 1) = WHERE(p, 2); VALUE(p, 1) = VALUE(p, 2); \
	WHERE(p, 2) = 0; VALUE(p, 2) = 0; waiting[p]-- }

#define DRAIN(p) \
	if :: waiting[p] > 0 -> FLUSH(p) :: else fi; \
	if :: waiting[p] > 0 -> FLUSH(p) :: else fi; \
	if :: waiting[p] > 0 -> FLUSH(p) :: else fi

inline store(where, value) {
	d_step { WHERE(p, waiting[p]) = where; VALUE(p, waiting[p]) = value; waiting[p]++ }
}

#ifdef TAKE_FROM_THE_SUSPECTED
#define IS_DEAD(x) (threadGone[x])
#else
#define IS_DEAD(x) (alive[x] == false)
#endif

/* takeFrom: the owner lock says NOBODY, or names a dead member. A waiter may have died with its wake-up, so `contended` is kept. */
#define TAKE(p) \
	DRAIN(p); ownerLock = p; owners++; \
	if :: number[p] != 0 -> contended = true :: else fi; \
	if :: number[p] != 0 && successor == number[p] -> successor = 0 :: else fi; \
	number[p] = 0; bypassed[p] = 0

/* Count that p passes the successor by. Only a member that looked before there was a successor can do so, and each of them once. */
#define PASS(p) \
	if :: successor != 0 && successor == number[0] && p != 0 -> bypassed[0]++ :: else fi; \
	if :: successor != 0 && successor == number[1] && p != 1 -> bypassed[1]++ :: else fi; \
	if :: successor != 0 && successor == number[N - 1] && p != N - 1 && N > 2 -> bypassed[N - 1]++ :: else fi

/* arrive: take a number, and become the successor if no earlier waiter is */
#define ARRIVE(p) \
	if :: number[p] == 0 -> arrivals++; number[p] = arrivals :: else fi; \
	if :: successor == 0 || successor > number[p] -> successor = number[p] :: else fi; \
	contended = true

/* take, of cshim/owners.c */
inline acquire() {
	do
	:: true ->
		seen = successor;
		if
#ifdef NO_SUCCESSOR
		:: d_step { ownerLock == NOBODY -> PASS(p); TAKE(p) }; break
#else
		:: d_step { ownerLock == NOBODY && (seen == 0 || seen == number[p]) -> PASS(p); TAKE(p) }; break
		/* The lock is left to the successor until it has taken the lock, or until 5 ms are over. */
		:: d_step { ownerLock == NOBODY && seen != 0 && seen != number[p] -> ARRIVE(p); asleep[p] = (successor != number[p]) }
			if
			:: !asleep[p]
#ifndef NO_PASSING
			:: d_step { asleep[p] -> asleep[p] = false; if :: successor == seen -> successor = 0 :: else fi }
#endif
			fi
#endif
		:: d_step { ownerLock != NOBODY && IS_DEAD(ownerLock) -> TAKE(p) }; break
		:: d_step { ownerLock != NOBODY && !IS_DEAD(ownerLock) -> ARRIVE(p); asleep[p] = true }
			/* futexWait: ends with a wake-up, or after 50 ms */
			if
			:: !asleep[p]
#ifndef NO_BOUND
			:: d_step { asleep[p] -> asleep[p] = false }
#endif
			fi
		fi
	od;
	seen = 0;
	assert(bypassed[0] < N && bypassed[1] < N && bypassed[N - 1] < N)
}

/* releaseAs: an exchange, and then the wake-up */
inline release() {
	d_step { DRAIN(p); owners--; ownerLock = NOBODY; ok = contended; contended = false };
	if
	:: ok -> d_step { ok = false; asleep[0] = false; asleep[1] = false; asleep[N - 1] = false }
	:: else
	fi
}

inline write() {
	acquire();
	/* Generation.begin */
	d_step { g = generation; ok = (g % 2 == 0) };
#ifdef NO_ODD
	if :: ok -> ok = false; g = g + 1 :: else fi;
#else
#ifdef PLAIN_BEGIN
	if :: ok -> ok = false; g = g + 1; store(2, g) :: else fi;
#else
	if :: ok -> d_step { ok = false; DRAIN(p); g = g + 1; generation = g } :: else fi;
#endif
#endif
	assert(owners == 1); /* no other member writes meanwhile */
#ifdef RELEASE_BEFORE_DATA
	release();
#endif
	store(0, g);
	store(1, g);
	/* Generation.publish */
#ifdef PUBLISH_BEFORE_DATA
	d_step { DRAIN(p); generation = g + 1 };
#else
	store(2, g + 1);
#endif
#ifndef RELEASE_BEFORE_DATA
	release();
#endif
	g = 0
}

/* mnnSeqRead: reads the generation, the data, and the generation again. Loads stay in order: on x86 always, on ARM by the acquires. */
inline read() {
	g = generation;
	if
	:: g % 2 == 1 -> skip /* a member writes, or has died while it wrote */
	:: else ->
		first = data[0];
		second = data[1];
#ifdef NO_SECOND_LOOK
		assert(first == second)
#else
		d_step { if :: generation == g -> assert(first == second) :: else fi }
#endif
	fi;
	g = 0; first = 0; second = 0
}

proctype Member(byte p) {
	byte g, first, second, ops, seen;
	bool ok;
	{
		do
#ifdef WRITES_ONLY
		:: ops < OPS -> ops++; write()
#else
		:: ops < OPS -> ops++; if :: write() :: read() fi
#endif
		:: else -> break
		od;
		skip;
		false
	} unless { !alive[p] };
	d_step { g = 0; first = 0; second = 0; ops = 0; ok = false; seen = 0 }
}

proctype Memory() {
	do
#ifdef WEAK
	/* The second store gets ahead of the first, unless it is the release that publishes, or both are to one place. */
	:: OVERTAKE(0)
	:: OVERTAKE(1)
#if N > 2
	:: OVERTAKE(2)
#endif
#endif
	:: d_step { waiting[0] > 0 -> FLUSH(0) }
	:: d_step { waiting[1] > 0 -> FLUSH(1) }
#if N > 2
	:: d_step { waiting[2] > 0 -> FLUSH(2) }
#endif
	od
}

proctype Fate() {
	byte p;
	do
	:: deaths < DEATHS ->
		atomic { select(p : 0 .. N - 1); alive[p] && !threadGone[p] -> threadGone[p] = true; deaths++ }
		/* Other threads of the process may run for a while. When the process has ended, its stores are in memory. */
		d_step {
			alive[p] = false; DRAIN(p); asleep[p] = false;
			if :: ownerLock == p && owners > 0 -> owners-- :: else fi;
			p = 0
		}
	:: break
	od
}

proctype Quiescence() {
	byte k;
	timeout;
	do
	:: k < N -> assert(!(alive[k] && asleep[k])); k++
	:: else -> break
	od
}

init {
	byte p;
	atomic {
		do
		:: p < N -> alive[p] = true; run Member(p); p++
		:: else -> break
		od;
		p = 0;
		run Memory(); run Fate(); run Quiescence()
	}
}
