/*
 * The domain: its control block is made, joined, left, withdrawn, repaired, lost and made anew. No two members are ever in two
 * different blocks, and a buffer that was shared is never lost.
 *
 * N members join, one of them shares a named buffer, they leave and join again; with REPAIRS somebody repairs, with LOSSES a cleaner takes
 * both names of the block away. A death is possible between any two steps. The lock file's CREATE byte is the kernel's: it goes with its
 * holder. A block is a file: it can be found only while it has a name, and used as long as somebody has it mapped. The two names of a block
 * are one here: whoever finds one gives the block the other.
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
byte made;                 /* how many were made */
bool ready[BLOCKS];        /* the version word of a block */
bool rowOf[BLOCKS];        /* the buffer is in the block's rows */
bool journalOf[BLOCKS];    /* a journal of the block vouches for the buffer */
bool segment;              /* the buffer's bytes */
bool shared;               /* somebody was told that it is there */
byte slotState[18];        /* a slot a member and block; who claims which slot is not what is looked at here */
#define SLOT(b, p) slotState[(b) * N + (p)]

byte creating = NOBODY;    /* the CREATE byte */
bool locked[N];            /* the slot bytes: one file for all blocks */
bool alive[N + 1];         /* the last is who repairs */
bool inside[N];            /* the member believes that it is in the domain */
byte inBlock[N];
byte deaths;

#define LOCK(who) atomic { creating == NOBODY -> creating = who }
#define UNLOCK creating = NOBODY
#define SOMEBODY_LOCKED (locked[0] || locked[1] || locked[N - 1])
#define VOUCHED (journalOf[1] || journalOf[2] || journalOf[3] || journalOf[4] || journalOf[5])

/* Removing a segment is right only if no journal vouches for it. */
inline removeSegment() {
	d_step { assert(!VOUCHED && !shared); segment = false }
}

/* block.create with Adoption: `d` is a draft that nobody opens until it has the name, which it gets in one step */
inline makeBlock(d) {
	atomic { made < BLOCKS - 1 -> made++; d = made };
#ifdef REPAIR_IN_PLACE
	d_step { ready[d] = true; named = d };
#endif
#ifndef NO_ADOPTION
	d_step { if :: segment && VOUCHED -> rowOf[d] = true; journalOf[d] = true :: else fi };
#endif
	d_step { ready[d] = true; named = d };
	/* published: what the new block has is what there is */
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

/* block.openOrCreate: `b` is the block that the name leads to, ready or of one's own making; NOTHING where somebody lives in a lost one */
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
		/* _reinstate: somebody was killed while he withdrew it */
		d_step { if :: named != NOTHING && !ready[named] -> ready[named] = true :: else fi };
#endif
		d_step { if :: named != NOTHING && ready[named] -> b = named :: else fi };
		if
		:: b != NOTHING
		:: else ->
			if
#ifndef BESIDE_THE_LIVING
			:: SOMEBODY_LOCKED /* inhabitantOf, until the bound is reached */
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
		:: b == NOTHING -> skip /* a typed error; it is tried again */
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
	/* Maintenance._collectOrphans, of whoever is elected */
	if
	:: d_step { segment && !rowOf[b] && !shared && !VOUCHED && named == b } -> removeSegment()
	:: else
	fi
}

/* what all this is for */
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

/* creation.create: the row first, the journal before anybody is told. Whoever makes one in a lost block is refused (Broker._onCreate). */
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

/* Membership._abandonBlock: both names are gone */
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
	:: named != b /* somebody has withdrawn it: what is in it now will notice */
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
		:: p == 0 -> join() /* one comes again */
		:: else
		fi;
		/* it stays, and finds out if its block is lost */
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
		:: SOMEBODY_LOCKED -> old = NOTHING
		:: else -> if :: old != NOTHING -> ready[old] = false :: else fi; makeBlock(d)
		fi;
#else
		if :: old != NOTHING -> ready[old] = false :: else fi;
		if
		:: SOMEBODY_LOCKED -> if :: old != NOTHING -> ready[old] = true :: else fi
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
	/* the broker reclaims the slot of a dead member, some time */
	:: atomic {
		select(p : 0 .. N - 1); select(b : 1 .. BLOCKS - 1);
		!alive[p] && SLOT(b, p) != VACANT -> SLOT(b, p) = VACANT; p = 0; b = 0
	}
	/* rm, a cleaner: while nobody makes, or withdraws, a block */
	:: atomic { losses < LOSSES && named != NOTHING && creating == NOBODY -> losses++; named = NOTHING }
	:: break
	od
}

proctype Quiescence() {
	byte k;
	timeout;
	assert(creating == NOBODY);
	do /* whoever is in the domain can be found; that its block is ready is seen to by who looks for it */
	:: k < N -> assert(!(alive[k] && inside[k]) || named == inBlock[k]); k++
	:: else -> break
	od;
	/* what was shared is there: in the rows of the block that has the name, or whoever makes the next one finds a journal */
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
