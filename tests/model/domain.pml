/*
 * The domain: its control block is created, joined, left, withdrawn, repaired, lost and
 * created anew. No two members are ever in two different blocks, and a buffer that was
 * shared is never lost.
 *
 * N members join, one of them shares a named buffer, they leave and join again. With
 * REPAIRS, another process repairs the domain. With LOSSES, a cleaner removes both names of
 * the block. A process may die between any two steps.
 *
 * The CREATE byte of the lock file is a lock of the kernel, which frees it at the death of
 * its holder. A block is a file: a process finds it only while it has a name, and uses it as
 * long as it has it mapped. The two names of a block are one here, because a process that
 * finds one of them gives the block the other.
 */
#ifndef N
#define N 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef REPAIRS
#define REPAIRS 0
#endif
#ifndef LOSSES
#define LOSSES 0
#endif
#define NOBODY 7
#define NOTHING 0
#define BLOCKS 6

/* member slots of a block */
#define VACANT 0
#define CLAIMING 1
#define MEMBER 2

byte named;                /* the block that has the name; 0 for none */
byte made;                 /* the number of blocks that were created */
bool ready[BLOCKS];        /* the version word of a block */
bool rowOf[BLOCKS];        /* the buffer is in the block's rows */
bool journalOf[BLOCKS];    /* a journal of the block vouches for the buffer */
bool segment;              /* the buffer's bytes */
bool shared;               /* a program was told that the buffer exists */
byte slotState[18];        /* one slot per member and block: which member gets which slot is not the subject here */
#define SLOT(b, p) slotState[(b) * N + (p)]

byte creating = NOBODY;    /* the CREATE byte */
bool locked[N];            /* the slot bytes: one file for all blocks */
bool alive[N + 1];         /* the last one is the repairer */
bool inside[N];            /* the member believes that it is in the domain */
byte inBlock[N];
byte deaths;

#define LOCK(who) atomic { creating == NOBODY -> creating = who }
#define UNLOCK creating = NOBODY
#define A_SLOT_IS_LOCKED (locked[0] || locked[1] || locked[N - 1])
#define VOUCHED (journalOf[1] || journalOf[2] || journalOf[3] || journalOf[4] || journalOf[5])

/* A segment may be removed only if no journal vouches for it. */
inline removeSegment() {
	d_step { assert(!VOUCHED && !shared); segment = false }
}

/* creation.create with Adoption: `d` is a new block under a temporary name. No process opens it until it gets the name, in one step. */
inline makeBlock(d) {
	atomic { made < BLOCKS - 1 -> made++; d = made };
#ifdef REPAIR_IN_PLACE
	d_step { ready[d] = true; named = d };
#endif
#ifndef NO_ADOPTION
	d_step { if :: segment && VOUCHED -> rowOf[d] = true; journalOf[d] = true :: else fi };
#endif
	d_step { ready[d] = true; named = d };
	/* From here on the journals of earlier blocks are void: the new block has taken over their rows. */
	d_step {
		if :: d != 1 -> journalOf[1] = false :: else fi;
		if :: d != 2 -> journalOf[2] = false :: else fi;
		if :: d != 3 -> journalOf[3] = false :: else fi;
		if :: d != 4 -> journalOf[4] = false :: else fi;
		if :: d != 5 -> journalOf[5] = false :: else fi
	};
	if
	:: segment && !rowOf[d] -> removeSegment()
	:: else
	fi
}

/* creation.openOrCreate: `b` becomes the block that the name leads to, found or created; NOTHING if a member lives in a lost block */
inline openOrCreate() {
	b = NOTHING;
	d_step { if :: named != NOTHING && ready[named] -> b = named :: else fi };
	if
	:: b != NOTHING
	:: else ->
#ifndef NO_CREATE_LOCK
		LOCK(p);
#endif
#ifndef NO_REINSTATE
		/* withdrawal.reinstate: a process was killed while it withdrew the block */
		d_step { if :: named != NOTHING && !ready[named] -> ready[named] = true :: else fi };
#endif
		d_step { if :: named != NOTHING && ready[named] -> b = named :: else fi };
		if
		:: b != NOTHING
		:: else ->
			if
#ifndef BESIDE_THE_LIVING
			:: A_SLOT_IS_LOCKED /* inhabitantOf, until the bound is reached */
#endif
			:: else -> makeBlock(b)
			fi
		fi;
#ifndef NO_CREATE_LOCK
		UNLOCK
#endif
	fi
}

/* entry.enter */
inline join() {
	do
	:: openOrCreate();
		if
		:: b == NOTHING -> skip /* a typed error; the program tries again */
		:: else ->
			locked[p] = true;
			SLOT(b, p) = CLAIMING;
#ifdef NO_LOOK_AFTER_CLAIM
			break
#else
			if
			:: d_step { ready[b] && named == b } -> break
			:: else -> SLOT(b, p) = VACANT; locked[p] = false
			fi
#endif
		fi
	od;
	skip;
	d_step { SLOT(b, p) = MEMBER; inside[p] = true; inBlock[p] = b };
	assertOne();
	/* Maintenance._collectOrphans of the elected member */
	if
	:: d_step { segment && !rowOf[b] && !shared && !VOUCHED && named == b } -> removeSegment()
	:: else
	fi
}

/* the invariant: all members are in one block */
inline assertOne() {
	d_step {
		k = 0;
		do
		:: k < N -> assert(!(alive[k] && inside[k] && inside[p] && inBlock[k] != inBlock[p])); k++
		:: else -> break
		od;
		k = 0
	}
}

/* creation.create: the row comes first, and the journal before the program is told. A broker in a lost block refuses. */
inline share() {
	if
	:: d_step { !rowOf[b] && !segment && named == b } ->
		rowOf[b] = true;
		segment = true;
		journalOf[b] = true;
		d_step { if :: named == b -> shared = true :: else fi }
	:: else
	fi
}

/* BrokerRole._abandonBlock: both names are gone */
inline disconnect() {
	d_step { SLOT(b, p) = VACANT; inside[p] = false; inBlock[p] = NOTHING };
	locked[p] = false;
	b = NOTHING
}

#define OTHERS (SLOT(b, 0) != VACANT || SLOT(b, 1) != VACANT || SLOT(b, N - 1) != VACANT)
#define WANTED (OTHERS || rowOf[b] || segment)

/* Membership.leave and entry.retire */
inline leave() {
	d_step { SLOT(b, p) = VACANT; inside[p] = false; inBlock[p] = NOTHING };
	LOCK(p);
	if
#ifndef NO_LOOK_AT_THE_NAME
	:: named != b /* another process has withdrawn the block; members that are still in it find out */
#endif
	:: else ->
#ifdef WITHDRAW_WHAT_IS_WANTED
		wanted = false;
#else
		d_step { wanted = WANTED };
#endif
		if
		:: wanted
		:: else ->
#ifndef LOOK_BEFORE_WITHDRAWAL
			ready[b] = false;
			d_step { wanted = WANTED };
#endif
			if
			:: wanted -> ready[b] = true
			:: else ->
				ready[b] = false;
#ifdef JOURNALS_FIRST
				journalOf[b] = false;
#endif
				d_step { named = NOTHING };
				journalOf[b] = false
			fi
		fi
	fi;
	wanted = false;
	UNLOCK;
	locked[p] = false;
	b = NOTHING
}

proctype Member(byte p) {
	byte b, k, rounds;
	bool wanted;
	{
		do
		:: rounds < ROUNDS ->
			rounds++; join();
			if
			:: p == 0 -> share()
			:: else
			fi;
			if
			:: named != b -> disconnect()
			:: else -> leave()
			fi
		:: else -> break
		od;
		if
		:: p == 0 -> join() /* one member joins again */
		:: else
		fi;
		/* the member stays, and finds out if its block is lost */
		if
		:: p == 0 -> named != b; disconnect()
		:: else
		fi;
		false
	} unless { !alive[p] };
	d_step { b = 0; k = 0; rounds = 0; wanted = false }
}

/* repair.rebuild */
proctype Repairer() {
	byte d, old;
	{
#if REPAIRS > 0
		LOCK(N);
		d_step { old = named };
#ifdef REPAIR_LOOKS_FIRST
		if
		:: A_SLOT_IS_LOCKED -> old = NOTHING
		:: else -> if :: old != NOTHING -> ready[old] = false :: else fi; makeBlock(d)
		fi;
#else
		if :: old != NOTHING -> ready[old] = false :: else fi;
		if
		:: A_SLOT_IS_LOCKED -> if :: old != NOTHING -> ready[old] = true :: else fi
		:: else -> makeBlock(d)
		fi;
#endif
		UNLOCK;
#endif
		false
	} unless { !alive[N] };
	d_step { d = 0; old = 0 }
}

proctype Fate() {
	byte p, b, losses;
	do
	:: deaths < DEATHS ->
		atomic {
			select(p : 0 .. N);
			alive[p] ->
			alive[p] = false; deaths++;
			if :: p < N -> inside[p] = false; inBlock[p] = NOTHING; locked[p] = false :: else fi;
			if :: creating == p -> creating = NOBODY :: else fi;
		}
		p = 0
	/* the broker reclaims the slot of a dead member at some time */
	:: atomic {
		select(p : 0 .. N - 1); select(b : 1 .. BLOCKS - 1);
		!alive[p] && SLOT(b, p) != VACANT -> SLOT(b, p) = VACANT; p = 0; b = 0
	}
	/* rm, or a cleaner, while no process creates or withdraws a block */
	:: atomic { losses < LOSSES && named != NOTHING && creating == NOBODY -> losses++; named = NOTHING }
	:: break
	od
}

proctype Quiescence() {
	byte k;
	timeout;
	assert(creating == NOBODY);
	do /* each member can be found; the next process that looks for the block makes it ready */
	:: k < N -> assert(!(alive[k] && inside[k]) || named == inBlock[k]); k++
	:: else -> break
	od;
	/* the shared buffer is there: in the rows of the block that has the name, or in a journal for the creator of the next block */
	assert(!shared || segment && (named != NOTHING && rowOf[named] || named == NOTHING && VOUCHED))
}

init {
	byte p;
	atomic {
		do
		:: p < N -> alive[p] = true; run Member(p); p++
		:: else -> break
		od;
		alive[N] = true; run Repairer();
		p = 0;
		run Fate(); run Quiescence()
	}
}
