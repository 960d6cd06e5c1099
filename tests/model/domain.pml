/*
 * The domain: its control block is made, joined, left, withdrawn and made anew, and no two members are ever in two different blocks.
 *
 * N members join, leave and join again, with a death possible between any two steps. The lock file's CREATE byte is the kernel's: it
 * goes with its holder. A block is a file: it can be found only while it has its name, and used as long as somebody has it mapped.
 */
#ifndef N
#define N 3
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define NOBODY N
#define NOTHING 0
#define BLOCKS 6

/* member slots of a block */
#define VACANT 0
#define CLAIMING 1
#define MEMBER 2

byte named;                /* the block that has the name; 0 for none */
byte made;                 /* how many were made */
bool ready[BLOCKS];        /* the version word of a block, which is stored last */
byte slotState[18];        /* a slot a member and block; who claims which slot is not what is looked at here */
#define SLOT(b, p) slotState[(b) * N + (p)]

byte creating = NOBODY;    /* the CREATE byte */
bool locked[N];            /* the slot bytes: one file for all blocks */
bool alive[N];
bool inside[N];            /* the member believes that it is in the domain */
byte inBlock[N];
byte deaths;

#define LOCK atomic { creating == NOBODY -> creating = p }
#define UNLOCK creating = NOBODY

/* block.openOrCreate: `b` is the block that the name leads to, ready or of one's own making */
inline openOrCreate() {
	b = NOTHING;
	d_step { if :: named != NOTHING && ready[named] -> b = named :: else fi };
	if
	:: b != NOTHING
	:: else ->
#ifndef NO_CREATE_LOCK
		LOCK;
#endif
#ifndef NO_REINSTATE
		/* _reinstate: somebody was killed while he withdrew it, and others live in it */
		d_step {
			if
			:: named != NOTHING && !ready[named] && finished[named] && (locked[0] || locked[1] || locked[N - 1]) -> ready[named] = true
			:: else
			fi
		};
#endif
		d_step { if :: named != NOTHING && ready[named] -> b = named :: else fi };
		if
		:: b != NOTHING
		:: else ->
			named = NOTHING; /* _discard */
			atomic { named == NOTHING && made < BLOCKS - 1 -> made++; b = made; named = b }
			/* _create: contents, and then the version */
			d_step { ready[b] = true; finished[b] = true }
		fi;
#ifndef NO_CREATE_LOCK
		UNLOCK
#endif
	fi
}
bool finished[BLOCKS];     /* the version was stored once: nobody can have claimed a slot before */

/* Membership._join */
inline join() {
	do
	:: openOrCreate();
		locked[p] = true;
		SLOT(b, p) = CLAIMING;
#ifdef NO_LOOK_AFTER_CLAIM
		break
#else
		if
		:: ready[b] -> break
		:: else -> SLOT(b, p) = VACANT; locked[p] = false
		fi
#endif
	od;
	skip;
	d_step { SLOT(b, p) = MEMBER; inside[p] = true; inBlock[p] = b };
	assertOne()
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

/* Membership.leave and _retire */
inline leave() {
	d_step { SLOT(b, p) = VACANT; inside[p] = false; inBlock[p] = NOTHING };
	LOCK;
	if
#ifndef NO_LOOK_AT_THE_NAME
	:: named != b /* somebody has withdrawn it: what is in it now will notice */
#endif
	:: else ->
#ifdef LOOK_BEFORE_WITHDRAWAL
	d_step { others = (SLOT(b, 0) != VACANT || SLOT(b, 1) != VACANT || SLOT(b, N - 1) != VACANT) };
	if
	:: others
	:: else -> ready[b] = false; if :: named == b -> named = NOTHING :: else fi
	fi
#else
	ready[b] = false;
	d_step { others = (SLOT(b, 0) != VACANT || SLOT(b, 1) != VACANT || SLOT(b, N - 1) != VACANT) };
	if
	:: others -> ready[b] = true
	:: else -> if :: named == b -> named = NOTHING :: else fi
	fi
#endif
	fi;
	others = false;
	UNLOCK;
	locked[p] = false;
	b = NOTHING
}

proctype Member(byte p) {
	byte b, k, rounds;
	bool others;
	{
		do
		:: rounds < ROUNDS -> rounds++; join(); leave()
		:: else -> break
		od;
		if
		:: p == 0 -> join() /* one comes again */
		:: else
		fi;
		false
	} unless { !alive[p] };
	d_step { b = 0; k = 0; rounds = 0; others = false }
}

proctype Fate() {
	byte p, b;
	do
	:: deaths < DEATHS ->
		atomic {
			select(p : 0 .. N - 1);
			alive[p] ->
			alive[p] = false; inside[p] = false; inBlock[p] = NOTHING; locked[p] = false; deaths++;
			if :: creating == p -> creating = NOBODY :: else fi;
		}
		p = 0
	/* the broker reclaims the slot of a dead member, some time */
	:: atomic {
		select(p : 0 .. N - 1); select(b : 1 .. BLOCKS - 1);
		!alive[p] && SLOT(b, p) != VACANT -> SLOT(b, p) = VACANT; p = 0; b = 0
	}
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
		run Fate(); run Quiescence()
	}
}
