/*
 * A publication: a new version takes the name of the one before, in one step, and nobody
 * finds no version.
 *
 * Two rows: row 0 is the version that is there, row 1 the new one. Member 0 publishes,
 * the others open. Each member is two threads: Client is the program, Broker is the
 * background thread. A member may die between any two steps, a broker may be deposed
 * between any two of its own steps, and the publisher may be interrupted while it waits.
 * One step reads or writes one word of shared memory, or is one system call. Memory order
 * and the leases are in buffers.pml; here they are in order.
 *
 * UNINTERRUPTED and LOOKS_ONLY make an exploration smaller: the publisher is never
 * interrupted, and an opener that finds nothing by the index does not ask the broker.
 * Every other -D below takes away one thing that the code does. check.py expects each of
 * these explorations to fail.
 */
#ifndef N
#define N 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef SPURIOUS
#define SPURIOUS 1 /* depositions of a broker that lives */
#endif
#ifndef FIRST
#define FIRST 0 /* the broker at the start */
#endif
#define OPEN open()
#define REST skip
#ifndef OTHERS
#define OTHERS OPEN /* the program of the members that do not publish */
#endif
#define MAX_EPOCH (1 + DEATHS + SPURIOUS)
#define NOBODY N

/* row states */
#define FREE 0
#define CREATING 1
#define LIVE 2
#define DYING 4
#define DEAD 5
#define REPLACED 6

/* requests */
#define NONE 0
#define CREATE 1
#define COMMIT 2
#define ABANDON 3
#define FIND 4
#define TRY_RECLAIM 5
#define RELEASED 6
/* answers */
#define OLD 1
#define NEW 2
#define DONE 3
#define REFUSED 4

/* ---- shared memory --------------------------------------------------------------------------------------------------------- */
byte epoch, broker = NOBODY;      /* the election word */
byte state[2], rowEpoch[2];       /* the state words of the rows */
bool word; byte wordEpoch;        /* the replacement's word: whether it names the two rows */
bool indexed[2];                  /* the entries of the name index for the name */
bool lease[N * 2];                /* the lease of member m on row r: lease[m * 2 + r] */
bool member[N];                   /* slots */

/* ---- the kernel, and files ------------------------------------------------------------------------------------------------- */
bool alive[N], threadGone[N];     /* as in buffers.pml */
bool there[2], filled[2];         /* the segments */
byte req[N], reqTo[N], reqRow[N], ans[N];
byte recorded, takenAt, vouchedAt; /* the journals: the epoch of the record that the new row is live and has taken the name; that the old row is live after all */
bool gone;                        /* a journal has ended the new row */

/* ---- variables of the checks ------------------------------------------------------------------------------------------------ */
byte mapped[N];                   /* row + 1 that the member uses */
byte deaths, spurious;

/* the version that a process opens by the words alone */
#define OPENABLE(r) (state[r] == LIVE && there[r] && filled[r])
/* the version that repair finds by the journals alone, if the block is lost */
#define IS_TAKEN (takenAt != 0 && takenAt >= vouchedAt)
#define REPAIRABLE ((there[0] && !IS_TAKEN) || (there[1] && filled[1] && recorded != 0 && !gone))

/* ---- programs -------------------------------------------------------------------------------------------------------------- */

/* Client.request */
inline send(kind, about) { d_step { req[p] = kind; reqRow[p] = about; reqTo[p] = epoch; ans[p] = 0 } }
inline received() { d_step { got = ans[p]; ans[p] = 0; req[p] = NONE; reqRow[p] = 0; reqTo[p] = 0 } }
inline ask(kind, about) {
	send(kind, about);
	do
	:: ans[p] != 0 -> break
	:: ans[p] == 0 && reqTo[p] != epoch -> reqTo[p] = epoch
	od;
	received()
}

/* api.publish, creation.create */
inline publish() {
	ask(CREATE, 1);
	d_step { lease[p * 2 + 1] = true; there[1] = true };
	filled[1] = true;
	send(COMMIT, 1);
	do
	:: ans[p] != 0 -> received(); break
	:: ans[p] == 0 && reqTo[p] != epoch -> reqTo[p] = epoch
#ifndef UNINTERRUPTED
	:: ans[p] == 0 -> /* an interruption: Reservation.giveUp */
		d_step { req[p] = NONE; reqRow[p] = 0; reqTo[p] = 0 };
		ask(ABANDON, 1);
#ifdef FREE_IN_DOUBT
		ask(RELEASED, 1);
#endif
		got = REFUSED;
		break
#endif
	od;
	if
	:: got == DONE -> d_step { assert(state[1] == LIVE || state[1] == REPLACED); mapped[p] = 2 }
	:: else
	fi;
	r = 1;
	close()
}

/* OpenBuffers.known, then asked */
inline open() {
	if /* the entries are read one after the other, in either order */
	:: seen[0] = indexed[0]; seen[1] = indexed[1]
	:: seen[1] = indexed[1]; seen[0] = indexed[0]
	fi;
	if
	:: seen[0] -> r = 0; hold() /* the entries of one name: either may come first in the probe */
	:: seen[1] -> r = 1; hold()
	:: !seen[0] && !seen[1]
	fi;
	if
	:: mapped[p] == 0 && seen[1 - r] -> r = 1 - r; hold()
	:: else
	fi;
	seen[0] = false; seen[1] = false;
#ifndef LOOKS_ONLY
	do
	:: mapped[p] != 0 -> break
	:: mapped[p] == 0 ->
		ask(FIND, 0);
		assert(got != REFUSED); /* there always is a version */
		r = (got == NEW -> 1 : 0);
		hold();
#ifdef ASK_ONCE
		assert(mapped[p] != 0);
#endif
	od;
#endif
	if
	:: mapped[p] != 0 -> /* an operation */
		d_step { assert(there[mapped[p] - 1] && filled[mapped[p] - 1] && (state[mapped[p] - 1] == LIVE || state[mapped[p] - 1] == REPLACED)) };
		r = mapped[p] - 1;
		close()
	:: else /* LOOKS_ONLY */
	fi
}

/* OpenBuffers.hold */
inline hold() {
	lease[p * 2 + r] = true;
#ifdef OPEN_REPLACED
	d_step { ok = (state[r] == LIVE || state[r] == REPLACED) };
#else
	d_step { ok = (state[r] == LIVE) };
#endif
	if
	:: ok -> d_step { mapped[p] = r + 1; ok = false }
	:: else -> lease[p * 2 + r] = false; ask(TRY_RECLAIM, r); got = 0
	fi
}

inline close() {
	d_step { mapped[p] = 0; lease[p * 2 + r] = false };
	d_step { ok = (state[r] != LIVE) };
	if
	:: ok -> ok = false; ask(TRY_RECLAIM, r); got = 0
	:: else
	fi;
	r = 0
}

proctype Client(byte p) {
	byte got, r;
	bool ok, seen[2];
	{
		if
		:: p == 0 -> publish()
		:: p != 0 -> OTHERS
		fi;
		d_step { got = 0; r = 0; ok = false };
		false /* the member lives on, and does nothing more */
	} unless { !alive[p] };
	d_step { got = 0; r = 0; ok = false; seen[0] = false; seen[1] = false }
}

/* ---- brokers --------------------------------------------------------------------------------------------------------------- */

#define READ(x) d_step { s = state[x]; se = rowEpoch[x] }
/* RowTable.change */
#define CHANGE(x, to) \
	if \
	:: atomic { state[x] == s && rowEpoch[x] == se && se <= e -> state[x] = to; rowEpoch[x] = e; s = to; se = e } \
	:: !(state[x] == s && rowEpoch[x] == se && se <= e) -> goto deposed \
	fi

/* Replacement._change: the word is read, then changed by a CAS from exactly what was read */
inline exchangeWord(to) {
#ifdef NO_WORD_FENCE
	word = to;
#else
	d_step { w = word; we = wordEpoch };
	if
	:: atomic { word == w && wordEpoch == we && we <= e -> word = to; wordEpoch = e; w = false; we = 0 }
	:: !(word == w && wordEpoch == we && we <= e) -> goto deposed
	fi;
#endif
	skip
}

/* Succession.begin: the word first, the record second */
inline begin() {
#ifdef RECORD_BEFORE_WORD
	d_step { recorded = e; takenAt = e };
#endif
#ifndef NO_WORD
	exchangeWord(true);
#endif
#ifndef RECORD_BEFORE_WORD
	d_step { if :: recorded < e -> recorded = e :: else fi; if :: takenAt < e -> takenAt = e :: else fi }
#endif
}

/* Succession.finish */
inline finish() {
	READ(0);
	if
	:: s == LIVE -> CHANGE(0, REPLACED)
	:: else
	fi;
	indexed[0] = false;
#ifndef NO_WORD
	exchangeWord(false)
#endif
}

/* Directory.commit, of a buffer that replaces another */
inline commit() {
	READ(0);
	old = (s == LIVE);
	READ(1);
	if
	:: old ->
#ifndef WORD_AFTER_LIVE
		begin();
#endif
		skip
	:: else -> d_step { if :: recorded < e -> recorded = e :: else fi }
	fi;
#ifndef NO_ROOM_IN_INDEX
	indexed[1] = true;
#endif
#ifdef OLD_FIRST
	if
	:: old -> finish(); READ(1)
	:: else
	fi;
	CHANGE(1, LIVE);
#else
	CHANGE(1, LIVE);
#ifdef WORD_AFTER_LIVE
	if
	:: old -> begin()
	:: else
	fi;
#endif
	if
	:: old -> finish()
	:: else
	fi;
#endif
	if
	:: old -> x = 0; tryReclaim(); old = false
	:: else
	fi
}

/* leases.countHolds; buffers.pml has it slot by slot */
inline scan() {
	d_step {
		held = false; k = 0;
		do
		:: k < N -> held = (held || (member[k] && lease[k * 2 + x])); k++
		:: else -> break
		od;
		k = 0
	}
}

/* Directory.tryReclaim of row x */
inline tryReclaim() {
	READ(x);
	if
	:: s == REPLACED || s == DYING -> scan()
	:: s == DEAD
	:: else -> held = true
	fi;
	if
	:: !held -> reclaimRow()
	:: else
	fi;
	held = false
}

/* Maintenance.tryReclaimUnheld */
inline tryReclaimBoth() {
	do
	:: x < 2 -> tryReclaim(); x++
	:: else -> break
	od;
	x = 0
}

/* Directory._reclaim */
inline reclaimRow() {
	if
	:: s != DEAD -> CHANGE(x, DEAD)
	:: else
	fi;
	d_step {
		indexed[x] = false;
		k = 0;
		do
		:: k < N -> assert(!(alive[k] && mapped[k] == x + 1)); k++
		:: else -> break
		od;
		k = 0;
		there[x] = false;
		gone = (gone || x == 1)
	};
	CHANGE(x, FREE)
}

/* Reclaimer.begin; `d` is confirmed dead */
inline reclaim() {
	d_step { if :: member[d] -> lease[d * 2] = false; lease[d * 2 + 1] = false :: else fi };
	READ(1);
	if
	:: s == CREATING && d == 0 -> x = 1; reclaimRow()
	:: else
	fi;
	member[d] = false;
	x = 0;
	tryReclaimBoth();
	d = 0
}

#define ANSWER(value) d_step { if :: req[c] != NONE && reqTo[c] == e && ans[c] == 0 -> ans[c] = value :: else fi }

inline serve() {
	if
	:: q == CREATE ->
		READ(1);
		if
		:: s == FREE -> CHANGE(1, CREATING)
		:: else /* the request comes again: the answer was lost */
		fi;
		ANSWER(DONE)
	:: q == COMMIT ->
		READ(1);
		if
		:: s == CREATING -> commit(); ANSWER(DONE)
		:: s == LIVE || s == REPLACED -> ANSWER(DONE)
		:: else -> ANSWER(REFUSED)
		fi
	:: q == ABANDON ->
		READ(1);
		if
		:: s == CREATING -> x = 1; reclaimRow()
		:: else
		fi;
		ANSWER(DONE)
	:: q == RELEASED ->
		READ(1);
		if
		:: s == LIVE -> CHANGE(1, DYING); x = 1; tryReclaim()
		:: else
		fi;
		ANSWER(DONE)
	:: q == FIND -> /* the catalog knows one row of the name */
		READ(1);
		if
		:: s == LIVE -> ANSWER(NEW)
		:: else ->
			READ(0);
			if
			:: s == LIVE -> ANSWER(OLD)
			:: else -> if :: epoch == e -> ANSWER(REFUSED) :: else -> goto deposed fi
			fi
		fi
	:: q == TRY_RECLAIM -> x = qr; tryReclaim(); ANSWER(DONE)
	:: q == NONE
	fi
}

#define HALF_DONE(r) (state[r] == REPLACED || state[r] == DYING || state[r] == DEAD)
#define IS_GONE(m) (member[m] && !alive[m])
#define WORK_FOR(m) (req[m] != NONE && reqTo[m] == e && ans[m] == 0 && member[m])
#define PICK(m) d_step { WORK_FOR(m) -> c = m; q = req[m]; qr = reqRow[m] }
#define FORGET d_step { s = 0; se = 0; w = false; we = 0; k = 0; c = 0; q = 0; qr = 0; d = 0; x = 0; held = false; old = false }

proctype Broker(byte p) {
	byte e, s, se, we, k, c, q, qr, d, x;
	bool held, w, old, collected;
	{
		if
		:: p == FIRST -> e = 1; goto fencing
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
#ifndef NO_WORD_FENCE
		d_step { if :: wordEpoch < e -> wordEpoch = e :: else fi };
#endif
		d_step { if :: rowEpoch[0] < e -> rowEpoch[0] = e :: else fi };
		d_step { if :: rowEpoch[1] < e -> rowEpoch[1] = e :: else fi };
#ifndef NO_FINISH
		/* Succession.finishLeft */
		if
		:: word ->
			READ(1);
			if
			:: s == LIVE -> finish()
			:: else ->
				READ(0);
#ifndef NO_VOUCHING
				d_step { if :: s == LIVE && vouchedAt < e + 1 -> vouchedAt = e + 1 :: else fi };
#endif
				exchangeWord(false)
			fi
		:: else
		fi;
#endif
		FORGET;
		collected = false;
		do
		:: epoch != e -> goto deposed /* the broker looks before each step */
		:: epoch == e && (IS_GONE(0) || IS_GONE(1) || IS_GONE(N - 1)) ->
			d_step { if :: IS_GONE(0) -> d = 0 :: IS_GONE(1) -> d = 1 :: else -> d = N - 1 fi };
			reclaim();
			FORGET
		:: epoch == e && !collected && (HALF_DONE(0) || HALF_DONE(1)) -> collected = true; tryReclaimBoth(); FORGET
		:: WORK_FOR(0) || WORK_FOR(1) || WORK_FOR(N - 1) ->
			if
			:: PICK(0)
			:: PICK(1)
#if N > 2
			:: PICK(2)
#endif
			:: else /* the member has died meanwhile */
			fi;
			if
			:: epoch != e -> goto deposed
			:: else -> serve()
			fi;
			FORGET
		od;
	deposed:
		skip;
		FORGET;
		d_step { e = 0; collected = false };
		goto follow
	} unless { threadGone[p] };
	d_step { e = 0; s = 0; se = 0; w = false; we = 0; k = 0; c = 0; q = 0; qr = 0; d = 0; x = 0; held = false; old = false; collected = false }
}

/* ---- fate ------------------------------------------------------------------------------------------------------------------ */

proctype Fate() {
	byte p;
	do
	:: deaths < DEATHS ->
		atomic { select(p : 0 .. N - 1); alive[p] && !threadGone[p] -> threadGone[p] = true; deaths++ }
		d_step { alive[p] = false; mapped[p] = 0; req[p] = NONE; ans[p] = 0; reqRow[p] = 0; reqTo[p] = 0; p = 0 }
	:: break
	od
}

/* I-17, at each moment: a version can be opened, the index leads to one, and the journals alone know one. */
proctype Monitor() {
	atomic {
		assert(OPENABLE(0) || OPENABLE(1));
#ifndef NO_ROOM_IN_INDEX
		assert((indexed[0] && OPENABLE(0)) || (indexed[1] && OPENABLE(1)));
#endif
		assert(REPAIRABLE)
	}
}

/* When no process can take a step any more: nobody hangs, and one version is left, with nothing else. */
proctype Quiescence() {
	byte k;
	timeout;
	d_step {
		k = 0;
		do
		:: k < N ->
			assert(!alive[k] || req[k] == NONE);
			if
			:: !alive[k] && broker != NOBODY && alive[broker] -> assert(!member[k] && !lease[k * 2] && !lease[k * 2 + 1])
			:: else
			fi;
			k++
		:: else -> break
		od;
		if
		:: broker != NOBODY && alive[broker] ->
			assert(!word);
			assert((state[0] == LIVE && state[1] == FREE) || (state[0] == FREE && state[1] == LIVE));
			assert(there[0] == (state[0] == LIVE) && there[1] == (state[1] == LIVE));
			/* a deposed broker may leave an entry, which is a hint, and takes none that counts */
#ifndef NO_ROOM_IN_INDEX
			assert((indexed[0] || state[0] != LIVE) && (indexed[1] || state[1] != LIVE))
#endif
		:: else
		fi
	}
}

init {
	byte p;
	atomic {
		epoch = 1; broker = FIRST;
		state[0] = LIVE; rowEpoch[0] = 1; rowEpoch[1] = 1; wordEpoch = 1;
		there[0] = true; filled[0] = true;
#ifndef NO_ROOM_IN_INDEX
		indexed[0] = true;
#endif
		p = 0;
		do
		:: p < N -> alive[p] = true; member[p] = true; run Client(p); run Broker(p); p++
		:: else -> break
		od;
		p = 0;
		run Fate(); run Monitor(); run Quiescence()
	}
}
