/*
 * Claims and generations: the right to write, publication, and reading without locks.
 *
 * N members write, publish and read one buffer of two words, with a death possible between any two steps. Writers own the owner lock;
 * a waiter may take over what a dead one owned. Each member has a store buffer of its own: plain and release stores wait in it,
 * in order (x86-TSO), a locked instruction drains it, and so does the end of the process before its death can be proven.
 *
 * With -DWEAK the stores of a buffer reach memory in any order, save that a release store waits for those before it: what ARM adds
 * for writers. Only the exchange that makes the generation odd orders what comes after it.
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

byte claim = NOBODY;       /* the owner; contended is the other half of the word */
byte successor, arrivals;       /* the number of the waiter to whom a free claim is left, 0: to anybody; the last number */
byte number[N];            /* of who waits; 0: it has not had to */
byte bypassed[N];          /* how often others took a free claim from a waiter that was the successor */
bool contended;
byte generation;           /* odd while somebody writes */
byte data[2];

bool alive[N], threadGone[N], asleep[N];
byte owners;               /* how many believe that the owner lock is theirs, and run */
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

#ifdef TAKE_FROM_THE_NOTICED
#define IS_DEAD(x) (threadGone[x])
#else
#define IS_DEAD(x) (alive[x] == false)
#endif

/* takeFrom: of an owner lock that says NOBODY, or a dead member. A waiter may have been lost with its wake-up, so contention is kept. */
#define TAKE(p) \
	DRAIN(p); claim = p; owners++; \
	if :: number[p] != 0 -> contended = true :: else fi; \
	if :: number[p] != 0 && successor == number[p] -> successor = 0 :: else fi; \
	number[p] = 0; bypassed[p] = 0

/* who is the successor is passed by: only by one that looked before there was a successor, and by each of them once */
#define PASS(p) \
	if :: successor != 0 && successor == number[0] && p != 0 -> bypassed[0]++ :: else fi; \
	if :: successor != 0 && successor == number[1] && p != 1 -> bypassed[1]++ :: else fi; \
	if :: successor != 0 && successor == number[N - 1] && p != N - 1 && N > 2 -> bypassed[N - 1]++ :: else fi

/* arrive: take a number, and be the successor if nobody came earlier */
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
#ifdef NO_HEIR
		:: d_step { claim == NOBODY -> PASS(p); TAKE(p) }; break
#else
		:: d_step { claim == NOBODY && (seen == 0 || seen == number[p]) -> PASS(p); TAKE(p) }; break
		/* left to its successor: until it has taken it, or the bound of 5 ms is over */
		:: d_step { claim == NOBODY && seen != 0 && seen != number[p] -> ARRIVE(p); asleep[p] = (successor != number[p]) }
			if
			:: !asleep[p]
#ifndef NO_PASSING
			:: d_step { asleep[p] -> asleep[p] = false; if :: successor == seen -> successor = 0 :: else fi }
#endif
			fi
#endif
		:: d_step { claim != NOBODY && IS_DEAD(claim) -> TAKE(p) }; break
		:: d_step { claim != NOBODY && !IS_DEAD(claim) -> ARRIVE(p); asleep[p] = true }
			/* futexWait: woken, or the bound of 50 ms is over */
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

/* leave: an exchange, and then the wake-up */
inline release() {
	d_step { DRAIN(p); owners--; claim = NOBODY; ok = contended; contended = false };
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
	assert(owners == 1); /* and nobody else writes meanwhile */
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

/* seqRead: the generation, the data, the generation again; loads stay in order on x86, and on ARM by the acquires */
inline read() {
	g = generation;
	if
	:: g % 2 == 1 -> skip /* somebody writes, or has died in it */
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
	/* the second store before the first: unless the second is the release that publishes, or both are to one place */
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
		/* other threads of it may go on for a while; when it is over, its stores are in memory */
		d_step {
			alive[p] = false; DRAIN(p); asleep[p] = false;
			if :: claim == p && owners > 0 -> owners-- :: else fi;
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
