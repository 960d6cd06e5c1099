/*
 * Promotion and writeback: a window of a buffer is copied to scratch memory, written there,
 * and copied back, while others write the buffer itself. A member may die between any two
 * steps.
 *
 * A buffer of two words has an owner lock and a generation, which is odd while a writer is
 * inside. A promoter copies the words inside a read access, and remembers the generation;
 * then it writes its copy, and copies that back inside a write access, if the generation is
 * still the one that it remembers, and even: BACKS times, each of which publishes. A plain
 * writer writes both words. Each write has a value of its own, so a word says which write it
 * is of.
 *
 * What must hold: a writeback overwrites only the generation that its window was promoted
 * from; a conflict changes nothing; what was given away is of one write; after a death half
 * way nobody gets the words until the next plain writer has written them, and then everybody
 * does; no member waits for ever.
 *
 * Owner locks, generations and the order in which their stores reach memory are
 * ownerlocks.pml's, and reading bits are access.pml's: here each step is seen at once.
 */
#ifndef N
#define N 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef BACKS
#define BACKS 2
#endif
#ifndef ROLE0
#define ROLE0 PROMOTES
#endif
#ifndef ROLE1
#define ROLE1 WRITES
#endif
#ifndef ROLE2
#define ROLE2 WRITES
#endif
#define PROMOTES 1
#define WRITES 2
#define READS 3
#define NOBODY N
#define ROLE(p) (p == 0 -> ROLE0 : (p == 1 -> ROLE1 : ROLE2))

byte ownerLock = NOBODY;
byte generation;           /* odd while a member is inside a write access, or died there */
byte word[2];              /* the value of the write that wrote it last */
byte writes;               /* the value of the last write */
bool reading[N];           /* the reading bit in each lease */
bool alive[N], inside[N];
byte deaths;

#ifdef TAKE_FROM_THE_SUSPECTED
bool suspected[N];
#define IS_DEAD(x) (suspected[x] || alive[x] == false)
#else
#define IS_DEAD(x) (alive[x] == false)
#endif
#define NO_WRITER (ownerLock == NOBODY || IS_DEAD(ownerLock))
#if N > 2
#define NOBODY_READS (!reading[0] && !reading[1] && !reading[2])
#else
#define NOBODY_READS (!reading[0] && !reading[1])
#endif

/* owners.c: take, which also takes over from a dead owner; contention.awaitReaders */
inline enterWriting() {
	atomic { NO_WRITER -> ownerLock = p };
	NOBODY_READS
}

/* owners.c: begin */
inline makeOdd() {
#ifdef NO_ODD
	skip
#else
#ifdef ODD_AGAIN
	generation++
#else
	d_step { if :: generation % 2 == 0 -> generation++ :: else fi }
#endif
#endif
}

/* owners.c: endWriting. Even, which publishes what is there. */
inline publish() {
#ifdef NO_ODD
	generation = generation + 2
#else
	d_step { generation++ }
#endif
}

inline release() {
	d_step { if :: ownerLock == p -> ownerLock = NOBODY :: else fi }
}

/* owners.c: enterReading. The bit comes first, and the look at the owner lock second. */
inline enterReading() {
	do
	:: reading[p] = true;
		if
		:: NO_WRITER -> break
		:: else -> reading[p] = false; NO_WRITER
		fi
	od
}

/* _Filler.fill inside Sending */
inline promote() {
#ifndef NO_READ_ACCESS
	enterReading();
#endif
	if
	:: generation % 2 == 1 -> ok = false /* WriterDied */
	:: else ->
		scratch[0] = word[0];
		scratch[1] = word[1];
#ifndef GENERATION_AFTERWARDS
		from = generation;
#endif
		assert(scratch[0] == scratch[1]);
		ok = true
	fi;
	reading[p] = false;
#ifdef GENERATION_AFTERWARDS
	from = generation;
#endif
	d_step { if :: ok -> promoted = scratch[0] :: else fi }
}

/* a kernel writes the copy */
inline compute() {
	d_step { writes++; scratch[0] = writes; scratch[1] = writes }
}

/* WritingBack._awaitOthers: what the access must find */
#ifdef NO_LOOK
#define IS_PROMOTED true
#else
#ifdef TORN_IS_PROMOTED
#define IS_PROMOTED (generation - generation % 2 == from)
#else
#define IS_PROMOTED (generation == from)
#endif
#endif

/* Scratch.writeback */
inline writeBack() {
#ifdef LOOK_BEFORE_OWNER_LOCK
	ok = IS_PROMOTED;
#endif
	enterWriting();
	d_step { found = generation; was[0] = word[0]; was[1] = word[1] };
#ifdef LOOK_WHEN_ODD
	makeOdd();
	d_step { ok = (generation == from + 1); if :: !ok -> generation = generation + 1 :: else fi };
#else
#ifndef LOOK_BEFORE_OWNER_LOCK
	ok = IS_PROMOTED;
#endif
#endif
	if
	:: ok ->
#ifndef LOOK_WHEN_ODD
		makeOdd();
#endif
		/* the words that are overwritten are those that were promoted, or written back */
		assert(word[0] == promoted && word[1] == promoted);
#ifdef PUBLISH_BEFORE_COPY
		publish();
#endif
		word[0] = scratch[0];
		word[1] = scratch[1];
#ifndef PUBLISH_BEFORE_COPY
		publish();
#endif
		d_step { promoted = scratch[0]; from = from + 2 }
	:: else -> /* WritebackConflict */
		assert(generation == found && word[0] == was[0] && word[1] == was[1])
	fi;
	release()
}

/* a plain writer: the whole buffer */
inline write() {
	enterWriting();
	makeOdd();
	d_step { writes++; found = writes };
	word[0] = found;
	word[1] = found;
	publish();
	/* whatever a dead writer had left */
	assert(generation % 2 == 0 && word[0] == found && word[1] == found);
	release()
}

/* owners.c: mnnSeqRead */
inline read() {
	do
	:: found = generation;
		if
		:: found % 2 == 1 ->
			generation != found || NO_WRITER;
			if
			:: generation == found && NO_WRITER -> break /* WriterDied */
			:: else
			fi
		:: else ->
			was[0] = word[0];
			was[1] = word[1];
			if
			:: d_step { generation == found -> assert(was[0] == was[1]) }; break
			:: else
			fi
		fi
	od
}

proctype Member(byte p) {
	byte role, from, promoted, found, round;
	byte scratch[2], was[2];
	bool ok;
	{
		role = ROLE(p);
		inside[p] = true;
		if
		:: role == PROMOTES ->
			promote();
			do
			:: ok && round < BACKS -> round++; compute(); writeBack()
			:: else -> break
			od
		:: role == WRITES -> write()
		:: else -> read()
		fi;
		inside[p] = false;
		false
	} unless { !alive[p] };
	d_step { role = 0; from = 0; promoted = 0; found = 0; round = 0; scratch[0] = 0; scratch[1] = 0; was[0] = 0; was[1] = 0; ok = false; inside[p] = false }
}

proctype Fate() {
	byte p;
	do
	:: deaths < DEATHS ->
		atomic { select(p : 0 .. N - 1); alive[p] -> deaths++ };
#ifdef TAKE_FROM_THE_SUSPECTED
		suspected[p] = true;
#endif
		alive[p] = false;
		/* Reclaimer.begin clears the leases of the dead member */
		reading[p] = false;
		p = 0
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
	assert(NO_WRITER);
	/* half-written words have the mark of it, and the mark is a death's */
	assert(generation % 2 == 1 || word[0] == word[1]);
	assert(generation % 2 == 0 || deaths > 0)
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
		run Fate(); run Quiescence()
	}
}
