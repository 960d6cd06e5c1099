/*
 * Accesses: kernels that write and read one buffer. Each member makes one access, and may
 * die between any two steps.
 *
 * A member enters an access, gives its stream one kernel, issues a ticket for it, and
 * leaves. The kernel runs at any later time, when the tickets that it waits for are over. A
 * writer has the owner lock (ownerlocks.pml). A reader sets the reading bit of its lease,
 * which only the reader writes while it lives. COPIES is `read()` on the host: it reads the
 * generation, waits for kernels, copies, and reads the generation again.
 *
 * What must hold: no kernel runs beside a writer's kernel; no kernel overtakes work that was
 * given to a stream before its access began; when a copy is accepted, each kernel of its
 * generation has run; no member waits for ever.
 *
 * The reading bit is the only word that a plain store could delay (PLAIN_READING). Locked
 * instructions change all others.
 */
#ifndef N
#define N 3
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef ROLE0
#define ROLE0 WRITES
#endif
#ifndef ROLE1
#define ROLE1 READS
#endif
#ifndef ROLE2
#define ROLE2 READS
#endif
#define WRITES 1
#define READS 2
#define COPIES 3
#define NOBODY N
#define ROLE(p) (p == 0 -> ROLE0 : (p == 1 -> ROLE1 : ROLE2))

/* the state of a member's kernel */
#define NONE 0
#define READER_QUEUED 1
#define WRITER_QUEUED 2
#define READER_RUNS 3
#define WRITER_RUNS 4

byte ownerLock = NOBODY;
byte generation;           /* odd while a member is inside a write access */
bool reading[N];           /* the reading bit in each lease */
bool delayed[N];           /* a plain store of it that has not reached memory */
byte ticket[N];            /* the role of the access whose work is not over, or NONE */
byte kernel[N];
bool published[N];         /* the access of the kernel has published, or would have */
bool waits[9];             /* by p * N + q: p's kernel waits for q's ticket */
bool behind[9];            /* by p * N + q: q's kernel was there before p's access, and must be over before p's kernel starts */
bool torn;                 /* the kernel of the last writer never ended; readers get an error */
byte writing, readingNow;  /* kernels that run */
bool alive[N], inside[N], told[N];
byte deaths;

#ifdef TAKE_FROM_THE_SUSPECTED
bool suspected[N];
#define IS_DEAD(x) (suspected[x] || alive[x] == false)
#else
#define IS_DEAD(x) (alive[x] == false)
#endif
#define OVER(p, q) (!waits[(p) * N + (q)] || ticket[q] == NONE)
#if N > 2
#define ALL_OVER(p) (OVER(p, 0) && OVER(p, 1) && OVER(p, 2))
#define NOBODY_READS (!reading[0] && !reading[1] && !reading[2])
#define UNFINISHED ((published[0] && kernel[0] != NONE) || (published[1] && kernel[1] != NONE) || (published[2] && kernel[2] != NONE))
#define WRITERS_OVER (ticket[0] != WRITES && ticket[1] != WRITES && ticket[2] != WRITES)
#else
#define ALL_OVER(p) (OVER(p, 0) && OVER(p, 1))
#define NOBODY_READS (!reading[0] && !reading[1])
#define UNFINISHED ((published[0] && kernel[0] != NONE) || (published[1] && kernel[1] != NONE))
#define WRITERS_OVER (ticket[0] != WRITES && ticket[1] != WRITES)
#endif

/* Remember the kernels that must not be overtaken: for a writer all that are in streams now, for a reader those of writers. */
inline orderBehind() {
	d_step {
		q = 0;
		do
		:: q < N -> behind[p * N + q] = q != p && (kernel[q] == WRITER_QUEUED || kernel[q] == WRITER_RUNS || (role == WRITES && kernel[q] != NONE)); q++
		:: else -> break
		od;
		q = 0
	}
}

/* fences.holdBack: wait for the tickets that are there now */
inline holdBack() {
	d_step {
		q = 0;
		do
		:: q < N -> waits[p * N + q] = q != p && (ticket[q] == WRITES || (role == WRITES && ticket[q] != NONE)); q++
		:: else -> break
		od;
		q = 0
	}
}

/* fences.signal: the stream gets the write that ends the ticket before the ticket is visible; the kernel may be over by then. */
inline signal() {
	d_step { if :: kernel[p] != NONE -> ticket[p] = role :: else fi; delayed[p] = false }
}

inline write() {
#ifdef SCAN_BEFORE_OWNER_LOCK
	NOBODY_READS;
#endif
	/* take, which also takes over from a dead owner */
	atomic { ownerLock == NOBODY || IS_DEAD(ownerLock) -> ownerLock = p };
#ifndef SCAN_BEFORE_OWNER_LOCK
	/* contention.awaitReaders */
	NOBODY_READS;
#endif
	orderBehind();
	holdBack();
	d_step { if :: generation % 2 == 0 -> generation++ :: else fi };
	d_step { kernel[p] = WRITER_QUEUED };
#ifdef TICKET_AFTER_RELEASE
	d_step { published[p] = true; generation++ };
	d_step { if :: ownerLock == p -> ownerLock = NOBODY :: else fi };
	signal()
#else
	signal();
	d_step { published[p] = true; generation++ };
	d_step { if :: ownerLock == p -> ownerLock = NOBODY :: else fi }
#endif
}

inline setReading() {
#ifdef PLAIN_READING
	delayed[p] = true
#else
	reading[p] = true
#endif
}

inline clearReading() {
	d_step { reading[p] = false; delayed[p] = false }
}

inline read() {
	/* enterReading */
#ifdef LOOK_BEFORE_READING
	ownerLock == NOBODY || IS_DEAD(ownerLock);
	setReading();
#else
	do
	:: setReading();
		if
		:: ownerLock == NOBODY || IS_DEAD(ownerLock) -> break
		:: else ->
#ifndef NO_STEP_BACK
			clearReading();
#endif
			ownerLock == NOBODY || IS_DEAD(ownerLock)
#ifdef NO_STEP_BACK
			-> break
#endif
		fi
	od;
#endif
	if
	:: generation % 2 == 1 || torn -> told[p] = true
	:: else ->
		orderBehind();
		holdBack();
		d_step { kernel[p] = READER_QUEUED };
#ifdef TICKET_AFTER_LEAVING
		clearReading();
		signal()
#else
		signal()
#endif
	fi;
	clearReading()
}

inline copy() {
#ifdef WAIT_BEFORE_LOOKING
	WRITERS_OVER;
#endif
	do
	:: g = generation;
		if
		:: g % 2 == 1 -> generation != g || ownerLock == NOBODY || IS_DEAD(ownerLock);
			if :: generation == g && (ownerLock == NOBODY || IS_DEAD(ownerLock)) -> told[p] = true; break :: else fi
		:: else ->
#ifndef WAIT_BEFORE_LOOKING
			WRITERS_OVER;
#endif
			if
			:: torn -> told[p] = true; break
			:: else ->
				ok = writing == 0; /* the copy takes a while */
				if
				:: d_step { generation == g -> assert(torn || (ok && writing == 0 && !UNFINISHED)) }; break
				:: else
				fi
			fi
		fi
	od;
	g = 0
}

proctype Member(byte p) {
	byte role, q, g;
	bool ok;
	{
		role = ROLE(p);
		inside[p] = true;
		if
		:: role == WRITES -> write()
		:: role == READS -> read()
		:: else -> copy()
		fi;
		inside[p] = false;
		false
	} unless { !alive[p] };
	d_step { role = 0; q = 0; g = 0; ok = false; inside[p] = false }
}

/* The stream of one member: the kernel starts when the tickets that it waits for are over, and ends later. */
proctype Stream(byte p) {
	do
	:: d_step { kernel[p] == READER_QUEUED && ALL_OVER(p) ->
		kernel[p] = READER_RUNS; readingNow++;
		assert(writing == 0);
		assert(torn || !((behind[p * N] && kernel[0] != NONE) || (behind[p * N + 1] && kernel[1] != NONE) || (behind[p * N + N - 1] && kernel[N - 1] != NONE))) }
	:: d_step { kernel[p] == WRITER_QUEUED && ALL_OVER(p) ->
		kernel[p] = WRITER_RUNS; writing++;
		assert(writing == 1 && readingNow == 0);
		assert(!((behind[p * N] && kernel[0] != NONE) || (behind[p * N + 1] && kernel[1] != NONE) || (behind[p * N + N - 1] && kernel[N - 1] != NONE))) }
	:: d_step { kernel[p] == READER_RUNS -> kernel[p] = NONE; ticket[p] = NONE; readingNow-- }
	:: d_step { kernel[p] == WRITER_RUNS -> kernel[p] = NONE; ticket[p] = NONE; writing--; torn = false }
	od
}

#ifdef PLAIN_READING
proctype Memory() {
	do
	:: d_step { delayed[0] -> reading[0] = true; delayed[0] = false }
	:: d_step { delayed[1] -> reading[1] = true; delayed[1] = false }
	:: d_step { delayed[N - 1] -> reading[N - 1] = true; delayed[N - 1] = false }
	od
}
#endif

/* A SIGKILL. The kernel of the process may run until the death is confirmed, and not after it. */
proctype Fate() {
	byte p;
	do
	:: deaths < DEATHS ->
		atomic { select(p : 0 .. N - 1); alive[p] -> deaths++ };
#ifdef TAKE_FROM_THE_SUSPECTED
		suspected[p] = true;
#endif
#ifdef CLEAR_THE_SUSPECTED
		d_step { reading[p] = false; ticket[p] = NONE };
#endif
		d_step {
			alive[p] = false;
			if
			:: kernel[p] == WRITER_RUNS -> writing--; torn = true
			:: kernel[p] == READER_RUNS -> readingNow--
			:: kernel[p] == WRITER_QUEUED -> torn = true
			:: else
			fi;
			kernel[p] = NONE; ticket[p] = NONE; delayed[p] = false
		};
		/* Reclaimer.begin clears the leases of the dead member */
#ifndef NO_CLEARING
		reading[p] = false;
#endif
		p = 0
	:: break
	od
}

proctype Quiescence() {
	byte k;
	timeout;
	do
	:: k < N -> assert(!(alive[k] && inside[k])); assert(!(alive[k] && kernel[k] != NONE)); k++
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
		:: p < N -> run Member(p); run Stream(p); p++
		:: else -> break
		od;
		p = 0;
#ifdef PLAIN_READING
		run Memory();
#endif
		run Fate(); run Quiescence()
	}
}
