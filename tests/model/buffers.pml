/*
 * The life of a buffer: election, grant, commit, open, close, free, revoke, reclaim, adopt.
 *
 * One row, N members. Each member is two threads: Client is the program, Broker is the
 * background thread. A member may die between any two steps, and a broker may be deposed
 * between any two of its own steps. A stopped process needs no transition: it takes no
 * step. One step reads or writes one word of shared memory, or is one system call.
 *
 * Each -D below takes away one thing that the code does. check.py expects each of these
 * explorations to fail.
 */
#ifndef N
#define N 3
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef SPURIOUS
#define SPURIOUS 1 /* depositions of a broker that lives */
#endif
#ifndef REJOINS
#define REJOINS 0
#endif
/* the calls that the program of each member makes, one after the other */
#define CREATES create()
#define OPENS open()
#define FREES free()
#define REVOKES revoke()
#define RENEWS free(); create()
#define RESTS skip
#ifndef DOES0
#define DOES0 CREATES
#endif
#ifndef DOES1
#define DOES1 OPENS
#endif
#ifndef DOES2
#define DOES2 FREES
#endif
#define MAX_EPOCH (1 + DEATHS + SPURIOUS)
#define NOBODY N

/* row states */
#define FREE 0
#define CREATING 1
#define LIVE 2
#define PROBING 3
#define DYING 4
#define DEAD 5

/* member states */
#define VACANT 0
#define MEMBER 1
#define MARKED_DEAD 2

/* requests */
#define NONE 0
#define CREATE 1
#define COMMIT 2
#define RELEASED 3 /* free() */
#define TRY_RECLAIM 4
#define REVOKE 5
#define REFUSED 255

/* ---- shared memory --------------------------------------------------------------------------------------------------------- */
byte epoch, broker = NOBODY;                 /* the election word */
byte rowState, rowEpoch, rowInc, rowCreator;   /* the state word of the row */
byte described;                              /* the description: which incarnation it is of; plain stores */
bool lastClose;                              /* a part of it */
byte lease[N];                               /* lease slots: the incarnation, 0 for none; a revocation sets the bit REVOKED */
bool leaseGen[N];                            /* the slot generation in the same word */
byte member[N];                              /* member slots, with their generation */
bool gen[N];
#define REVOKED 128
#define HELD(k) (lease[k] & 127)

/* ---- the kernel ------------------------------------------------------------------------------------------------------------ */
bool alive[N];            /* false: confirmed dead, the byte lock is free and the pidfd readable */
bool threadGone[N];       /* suspected: the robust word is marked; in the code this comes just before the death is confirmed */
bool there[8];            /* which segments exist, by incarnation */
byte req[N], reqTo[N], reqInc[N], ans[N]; /* sockets: the request, the epoch of the broker that is asked, the incarnation; the answer */
byte ended[N];            /* how many of the member's two threads have ended */

/* x86-TSO: one store may wait in a member's buffer; a locked instruction or a system call drains it, or it drains at any other time */
byte buffered[N], bufferedValue[N];
#define TO_DESCRIPTION 1
#define TO_LEASE 2

/* ---- variables of the checks -------------------------------------------------------------------------------------------------- */
byte mapped[N];           /* the incarnation that the member uses, after its open has succeeded */
byte deaths, spurious, rejoins;
#ifdef COUNTER
byte count;               /* a refcount that is one word */
#endif

#define DRAIN(p) \
	if \
	:: buffered[p] == TO_DESCRIPTION -> described = bufferedValue[p] \
	:: buffered[p] == TO_LEASE -> lease[p] = bufferedValue[p]; leaseGen[p] = gen[p] \
	:: else \
	fi; \
	buffered[p] = 0; bufferedValue[p] = 0

/* a locked instruction on the member's own lease slot */
inline exchangeLease(value) {
	d_step { DRAIN(p); lease[p] = value; leaseGen[p] = gen[p] }
}

/* ---- programs -------------------------------------------------------------------------------------------------------------- */

/* Client.request: ask the broker; if another broker is elected before the answer, ask the new one */
inline ask(kind, about) {
	d_step { DRAIN(p); req[p] = kind; reqInc[p] = about; reqTo[p] = epoch; ans[p] = 0 }
	do
	:: ans[p] != 0 -> break
	:: ans[p] == 0 && reqTo[p] != epoch -> reqTo[p] = epoch
	od;
	skip;
	d_step { got = ans[p]; ans[p] = 0; req[p] = NONE; reqInc[p] = 0; reqTo[p] = 0 }
}

/* creation.create */
inline create() {
	ask(CREATE, 0);
	if
	:: got == REFUSED
	:: else ->
		i = got;
		exchangeLease(i);
#ifdef COUNTER
		count++;
#endif
		there[i] = true; /* segments.create */
		/* rows.describe: plain stores */
		d_step { buffered[p] = TO_DESCRIPTION; bufferedValue[p] = i };
		if
		:: lastClose = true
		:: lastClose = false
		fi;
		ask(COMMIT, i);
		if
		:: got == REFUSED -> skip /* the row was freed after a commit whose answer was lost */
		:: else -> mapped[p] = i
		fi;
		close();
	fi
}

/* OpenBuffers._map */
inline open() {
	i = 0;
	d_step { if :: rowState == LIVE -> i = rowInc :: else fi };
	if
	:: i == 0
	:: else ->
#ifdef VALIDATE_BEFORE_LEASE
		atomic { if :: rowState == LIVE && rowInc == i -> ok = true :: else -> ok = false fi };
#endif
#ifdef PLAIN_LEASE
		d_step { buffered[p] = TO_LEASE; bufferedValue[p] = i };
#else
		exchangeLease(i);
#endif
#ifdef COUNTER
		count++;
#endif
#ifndef VALIDATE_BEFORE_LEASE
#ifdef NO_INCARNATION
		d_step { ok = (rowState == LIVE) };
#else
		d_step { ok = (rowState == LIVE && rowInc == i) };
#endif
#endif
		if
		:: ok -> d_step { mapped[p] = i; ok = false; assert(described == i && there[i]) }
			close()
		:: else -> exchangeLease(0);
#ifdef COUNTER
			count--;
#endif
#ifndef NO_TRY_RECLAIM_AFTER_FAILED_OPEN
			ask(TRY_RECLAIM, i)
#endif
		fi
	fi
}

/* Memory.onGone */
inline close() {
	mapped[p] = 0;
	exchangeLease(0);
#ifdef COUNTER
	count--;
#endif
#ifndef NO_TRY_RECLAIM_AFTER_CLOSE
	d_step { if :: rowInc == i && rowState == LIVE && !lastClose -> ok = false :: else -> ok = true fi };
	if
	:: ok -> ok = false; ask(TRY_RECLAIM, i)
	:: else
	fi;
#endif
	i = 0
}

inline free() {
	d_step { i = rowInc };
	ask(RELEASED, i)
}

inline revoke() {
	d_step { i = rowInc };
	ask(REVOKE, i)
}

proctype Client(byte p) {
	byte i, got;
	bool ok;
	{
		if
		:: p == 0 -> DOES0
		:: p == 1 -> DOES1
		:: p == 2 -> DOES2
		fi;
		d_step { i = 0; got = 0; ok = false };
		false /* the member lives on, and does nothing more */
	} unless { !alive[p] };
	d_step { ended[p]++; i = 0; got = 0; ok = false }
}

/* ---- brokers --------------------------------------------------------------------------------------------------------------- */

/* rows.state */
#define READ d_step { s = rowState; se = rowEpoch; si = rowInc; sm = rowCreator }

/* rows.change: a CAS on exactly the word that was read; the new word has the broker's own epoch */
#ifdef NO_EPOCH
#define UNCHANGED (rowState == s && rowInc == si && rowCreator == sm)
#else
#define UNCHANGED (rowState == s && rowEpoch == se && rowInc == si && rowCreator == sm && se <= e)
#endif
#ifdef PLAIN_ROW_STORE
#define CHANGE(to, maker, inc) \
	d_step { rowState = to; rowEpoch = e; rowInc = inc; rowCreator = maker; s = to; se = e; si = inc; sm = maker }
#else
#define CHANGE(to, maker, inc) \
	if \
	:: atomic { UNCHANGED -> rowState = to; rowEpoch = e; rowInc = inc; rowCreator = maker; s = to; se = e; si = inc; sm = maker } \
	:: !(UNCHANGED) -> goto deposed \
	fi
#endif

/* leases.countHolds: one slot after the other */
inline scan() {
	held = false;
#ifdef COUNTER
	d_step { held = (count > 0) };
#else
	k = 0;
	do
	:: k < N -> d_step { held = (held || (member[k] != VACANT && HELD(k) == si)); k++ }
	:: else -> break
	od;
	k = 0
#endif
}

/* Directory._reclaim */
inline reclaimRow() {
	if
	:: s != DEAD ->
#ifdef UNLINK_BEFORE_DEAD
		unlink();
#endif
		CHANGE(DEAD, sm, si)
	:: else
	fi;
	unlink();
	CHANGE(FREE, NOBODY, si)
}

/* segments.unlink: here the memory is given back */
inline unlink() {
	d_step {
		k = 0;
		do
		:: k < N -> assert(!(alive[k] && mapped[k] == si)); k++
		:: else -> break
		od;
		k = 0;
		there[si] = false
	}
}

/* Directory.tryReclaim */
inline tryReclaim() {
	READ;
	if
	:: s == LIVE && lastClose ->
		scan();
		if
		:: !held -> CHANGE(PROBING, sm, si)
		:: else
		fi
	:: else
	fi;
	if
	:: s == PROBING || s == DYING ->
#ifdef NO_SCAN_AFTER_STATE
		held = false;
#else
		scan();
#endif
		if
		:: held && s == PROBING -> CHANGE(LIVE, sm, si)
		:: held && s == DYING
		:: !held -> reclaimRow()
		fi
	:: s == DEAD -> reclaimRow()
	:: else
	fi;
	held = false
}

/* Reclaimer.begin; `d` is confirmed dead */
inline reclaim() {
	d_step { dg = gen[d] };
	if /* MemberTable.markDead */
	:: d_step { member[d] == MEMBER && gen[d] == dg -> member[d] = MARKED_DEAD }
	:: member[d] != MEMBER
	fi;
	/* leases.clearDead: CAS on the exact word, which has the generation of the dead member */
	d_step {
		if
		:: member[d] == MARKED_DEAD && leaseGen[d] == dg -> lease[d] = 0
		:: else
		fi
	};
	READ;
	if
	:: s == CREATING && sm == d -> reclaimRow() /* Directory.orphaned */
	:: else
	fi;
#ifndef NO_TRY_RECLAIM_AFTER_DEATH
	tryReclaim(); /* the rows that the dead member held */
#endif
	if /* MemberTable.release */
	:: d_step { member[d] == MARKED_DEAD && gen[d] == dg -> member[d] = VACANT }
	:: !(member[d] == MARKED_DEAD && gen[d] == dg)
	fi;
#ifndef NO_TRY_RECLAIM_AFTER_DEATH
	tryReclaim(); /* Maintenance.tryReclaimUnheld */
#endif
	dg = false; d = 0
}

/* The broker sends its answer on the connection of its epoch. The client reads it only if it has not asked another broker since. */
#define ANSWER(value) d_step { if :: req[c] != NONE && reqTo[c] == e && ans[c] == 0 -> ans[c] = value :: else fi }

inline serve() {
	if
	:: q == CREATE ->
		READ;
		if
		:: s == FREE && si < 6 ->
			CHANGE(CREATING, c, si + 1);
			ANSWER(si)
		:: s == CREATING && sm == c -> ANSWER(si) /* the request comes again: the answer was lost */
		:: else -> ANSWER(REFUSED)
		fi
	:: q == COMMIT ->
		READ;
		if
		:: s == CREATING && sm == c && si == qi ->
			CHANGE(LIVE, sm, si);
			ANSWER(1)
		:: (s == LIVE || s == PROBING) && si == qi -> ANSWER(1)
		:: else -> ANSWER(REFUSED)
		fi
	:: q == RELEASED ->
		READ;
		if
		:: si == qi && (s == LIVE || s == PROBING) ->
#ifdef SCAN_BEFORE_STATE
			scan();
			if
			:: held
			:: else -> CHANGE(DYING, sm, si); reclaimRow()
			fi
#else
			CHANGE(DYING, sm, si);
			tryReclaim()
#endif
		:: else
		fi;
		ANSWER(1)
	:: q == TRY_RECLAIM ->
		READ;
		if
		:: si == qi -> tryReclaim()
		:: else
		fi;
		ANSWER(1)
	:: q == REVOKE ->
		k = 0;
		do
		:: k < N ->
			/* leases.revoke: read, then CAS on the exact word */
			d_step { dg = leaseGen[k]; held = (HELD(k) == qi && qi != 0 && lease[k] < REVOKED) };
			d_step { if :: held && lease[k] == qi && leaseGen[k] == dg -> lease[k] = qi + REVOKED :: else fi; held = false; dg = false; k++ }
		:: else -> break
		od;
		k = 0;
		ANSWER(1)
	fi
}

#define IS_GONE(x) (member[x] != VACANT && DEATH(x))
#ifdef NO_PROOF
#define DEATH(x) threadGone[x]
#else
#define DEATH(x) !alive[x]
#endif
#define WORK_FOR(x) (req[x] != NONE && reqTo[x] == e && ans[x] == 0 && member[x] == MEMBER)
#define PICK(x) d_step { WORK_FOR(x) -> c = x; q = req[x]; qi = reqInc[x] }
#define HALF_DONE (rowState == PROBING || rowState == DYING || rowState == DEAD)

#define FORGET d_step { s = 0; se = 0; si = 0; sm = 0; k = 0; c = 0; q = 0; qi = 0; d = 0; held = false; dg = false }

proctype Broker(byte p) {
	byte e, s, se, si, sm, k, c, q, qi, d;
	bool held, ok, dg, collected;
	{
		if
		:: p == 0 -> e = 1; goto fencing /* the first member is the broker at the start */
		:: else
		fi;
	follow:
		do
		:: atomic {
			broker != p && (broker == NOBODY || threadGone[broker]) && epoch < MAX_EPOCH ->
			epoch++; broker = p; e = epoch; break
		}
		:: atomic { /* the heartbeat stood still */
			broker != p && broker != NOBODY && spurious < SPURIOUS && epoch < MAX_EPOCH ->
			spurious++; epoch++; broker = p; e = epoch; break
		}
		od;
	fencing:
		skip;
#ifndef NO_FENCE
		d_step { if :: rowEpoch < e -> rowEpoch = e :: else fi };
#endif
#ifndef NO_ADOPT
		if
		:: HALF_DONE -> tryReclaim(); FORGET /* Maintenance._finishRows */
		:: else
		fi;
#endif
		collected = false;
		do
		:: epoch != e -> goto deposed /* the broker looks before each step */
		:: epoch == e && IS_GONE(0) -> d = 0; reclaim(); FORGET
		:: epoch == e && IS_GONE(1) -> d = 1; reclaim(); FORGET
#if N > 2
		:: epoch == e && IS_GONE(2) -> d = 2; reclaim(); FORGET
#endif
#ifndef NO_ADOPT
		:: epoch == e && !collected -> collected = true; tryReclaim(); FORGET /* Maintenance._collectOrphans */
#endif
#ifdef TTL_REAPS
		:: d_step { epoch == e && lease[0] != 0 -> lease[0] = 0 }
#endif
		:: PICK(0) -> if :: epoch != e -> goto deposed :: else -> serve() fi; FORGET
		:: PICK(1) -> if :: epoch != e -> goto deposed :: else -> serve() fi; FORGET
#if N > 2
		:: PICK(2) -> if :: epoch != e -> goto deposed :: else -> serve() fi; FORGET
#endif
		od;
	deposed:
		skip;
		d_step { e = 0; s = 0; se = 0; si = 0; sm = 0; k = 0; c = 0; q = 0; qi = 0; d = 0; held = false; dg = false; collected = false };
		goto follow
	} unless { threadGone[p] };
	d_step {
		ended[p]++;
		e = 0; s = 0; se = 0; si = 0; sm = 0; k = 0; c = 0; q = 0; qi = 0; d = 0; held = false; dg = false; collected = false
	}
}

/* ---- fate ------------------------------------------------------------------------------------------------------------------ */

/* A buffered store reaches memory at some time. The store of a process that died may never reach it: then it was never made. */
proctype Memory() {
	byte p;
end:	do
	:: atomic { buffered[0] != 0 -> p = 0; DRAIN(p) }
	:: atomic { buffered[1] != 0 -> p = 1; DRAIN(p) }
#if N > 2
	:: atomic { buffered[2] != 0 -> p = 2; DRAIN(p); p = 0 }
#endif
	od
}

/* The kernel's order: the robust word first; the byte lock and the pidfd when no thread of the process runs any more. */
proctype Fate() {
	byte p;
	do
	:: deaths < DEATHS ->
		atomic { select(p : 0 .. N - 1); alive[p] && !threadGone[p] -> threadGone[p] = true; deaths++ }
		/* other threads of the process may run for a while */
		d_step {
			alive[p] = false; mapped[p] = 0;
			buffered[p] = 0; bufferedValue[p] = 0;
			req[p] = NONE; ans[p] = 0; reqInc[p] = 0; reqTo[p] = 0;
			p = 0
		}
#if REJOINS > 0
	:: rejoins < REJOINS ->
		atomic {
			select(p : 0 .. N - 1);
			member[p] == VACANT && !alive[p] && ended[p] == 2 ->
			gen[p] = !gen[p]; ended[p] = 0; threadGone[p] = false; alive[p] = true; member[p] = MEMBER; rejoins++;
			run Client(p); run Broker(p);
			p = 0
		}
#endif
	:: break
	od
}

/* When no process can take a step any more: no member hangs, and nothing has leaked. */
proctype Quiescence() {
	byte k;
	timeout;
	d_step {
		k = 0;
		do
		:: k < N ->
			assert(!alive[k] || req[k] == NONE);
			if
			:: !alive[k] && broker != NOBODY && alive[broker] -> assert(member[k] == VACANT && lease[k] == 0)
			:: else
			fi;
			k++
		:: else -> break
		od;
		if
		:: broker != NOBODY && alive[broker] ->
			assert(rowState == FREE || (rowState == LIVE && !lastClose));
			k = 1;
			do
			:: k < 8 -> assert(!there[k] || (rowState == LIVE && rowInc == k)); k++
			:: else -> break
			od
		:: else -> /* there is no broker: then all members are dead */
			k = 0;
			do
			:: k < N -> assert(!alive[k]); k++
			:: else -> break
			od
		fi
	}
}

init {
	byte p;
	atomic {
		rowCreator = NOBODY;
		epoch = 1; broker = 0;
#ifdef THERE_IS_ONE
		/* a row that no member holds */
		rowState = LIVE; rowEpoch = 1; rowInc = 1; described = 1; there[1] = true;
#if THERE_IS_ONE == 2
		lastClose = true;
#endif
#endif
		p = 0;
		do
		:: p < N -> alive[p] = true; member[p] = MEMBER; run Client(p); run Broker(p); p++
		:: else -> break
		od;
		p = 0;
		run Memory(); run Fate(); run Quiescence()
	}
}
