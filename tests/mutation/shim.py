"""Mutants of `cshim/`, compiled into the copy. What differs only in the order that x86-64 keeps anyway can not be noticed here."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_SHIM, _HATCH, _WATCH, _RESERVE, _LEASES, _OWNERS = (
    f"cshim/{name}.c" for name in ("primitives", "hatch", "watch", "reserve", "leases", "owners")
)

# fmt: off
_SANITIZED = "test_primitives.py::test_primitivesKeepTheirPromisesUnderSanitizers"

MUTANTS = [
    Mutant(_OWNERS, "leave(owner, isWhole || !shown(turn)->recovered ? 0 : DEAD_OWNER);", "leave(owner, 0);", "what the dead left is told until a block has ended", "test_lock.py"),
    Mutant(_OWNERS, "return turn->shownIn != NULL ? turn->shownIn : turn;", "return turn;", "a bounded wait tells of the dead too", "test_lock.py"),
    Mutant(_OWNERS, "\tif (heir == 0 || heir == waiter->number)\n", "\tif (1)\n", "a free claim is left to its heir", _SANITIZED),
    Mutant(_OWNERS, "\tcas32(heirOf(owner), heir, 0);\n\twaiter->passing = 0;\n\treturn false;\n", "\treturn true;\n", "an heir that does not come is passed over", _SANITIZED),
    Mutant(_OWNERS, "cas32(heirOf(owner), waiter->number, 0))\n\t\tmnnFutexWake32", "0)\n\t\tmnnFutexWake32", "who gives up keeps no place", _SANITIZED),
    Mutant(_OWNERS, "(int32_t)(heir - waiter->number) > 0", "heir > waiter->number", "arrivals may wrap", _SANITIZED),
    Mutant(_OWNERS, "\tif (mnnExchangeSeqCst32(claimOf(owner), word) & CONTENDED)\n\t\tmnnFutexWake32(claimOf(owner), INT_MAX);\n", "\tmnnExchangeSeqCst32(claimOf(owner), word);\n", "a release wakes who waits", _SANITIZED),
    Mutant(_OWNERS, "\t\tleave(owner, isWhole || !shown(turn)->recovered ? 0 : DEAD_OWNER);\n\t\tdrop(owner, turn->calls->python);\n\t}\n\treturn gave", "\t\towner->depth = 0;\n\t}\n\treturn gave", "a lock is given back", _SANITIZED),
    Mutant(_OWNERS, "\tif (owner->depth == 0)\n\t\treturn refuse(turn, MNN_REFUSED_NOT_HELD);\n", "", "only its holder releases a lock", _SANITIZED),
    Mutant(_OWNERS, "\tif (!isMine && !hasIt(owner, who))\n\t\treturn refuse(turn, MNN_REFUSED_OTHER_THREAD);\n", "", "another thread does not release it", _SANITIZED),
    Mutant(_OWNERS, "\tvoid *whoAmI = python->item(python->names, python->identName);\n", "\tvoid *whoAmI = python->plainIdent;\n", "who runs is asked of a library that has replaced the function", _SANITIZED),
    Mutant(_OWNERS, "owner->who == who || (owner->isThreads && owner->thread == (uint64_t)pthread_self())", "owner->who == who", "what a thread had stays its own when it becomes green ones", _SANITIZED),
    Mutant(_OWNERS, "owner->who == who || (owner->isThreads && ", "owner->who == who || (", "what a green thread has is no other's", _SANITIZED),
    Mutant(_OWNERS, "turn->who == who || (turn->isThreads && turn->thread == (uint64_t)pthread_self())", "turn->who == who", "a thread in a reader's turn stays in it when it becomes green ones", _SANITIZED),
    Mutant(_OWNERS, "(notOf == 0 || !hasIt(owner, notOf))", "!hasIt(owner, notOf)", "whether anybody has it is asked of the own thread too", _SANITIZED),
    Mutant(_OWNERS, "\tif (isVoid(owner))\n\t\treturn refuse(turn, MNN_REFUSED_VOID);\n", "", "a forked child does not release its parent's lock", _SANITIZED),
    Mutant(_OWNERS, "static void keep(struct mnnOwner *owner, const struct mnnPython *python) { python->keep(owner->holding); }", "static void keep(struct mnnOwner *owner, const struct mnnPython *python) { (void)owner, (void)python; }", "a lock is held although nobody kept the object", _SANITIZED),
    Mutant(_OWNERS, "\t\t\t\tshown(turn)->recovered = isDead || isLeft;\n", "", "who takes a lock over from the dead is told", _SANITIZED),
    Mutant(_OWNERS, "\t\tif (isDeparting(owner, me.who) && !mnnOwnerWrites(owner, me.who)) {", "\t\tif (0) {", "nothing begins in a slot that is given back", _SANITIZED),
    Mutant(_OWNERS, "\tendWriting(turn, isWhole);\n\treturn gave", "\tendWriting(turn, true);\n\treturn gave", "what was not written to its end is not published", _SANITIZED),
    Mutant(_OWNERS, "\tmnnFutexWake32((uint32_t *)generationOf(owner), INT_MAX);\n", "", "who waits for a writer that gave up is woken", "test_buffer.py::test_whoWaitsForAWriterThatGivesUpIsToldAtOnce"),
    Mutant(_OWNERS, "\t\tif (settled == NULL && !isVoid(owner)) {\n", "\t\tif (0) {\n", "what fails on the way in is given back", _SANITIZED),
    Mutant(_OWNERS, "\t\tif (isNested || isFree(word) || word == dead) {", "\t\tif (1) {", "a reader looks for a writer", _SANITIZED),
    Mutant(_OWNERS, "\t\tif (isNested || isFree(word) || word == dead) {", "\t\tif (isFree(word) || word == dead) {", "who is inside does not wait for the writer that waits for it", _SANITIZED),
    Mutant(_OWNERS, "\t\tif (isNested || isFree(word) || word == dead) {", "\t\tif (isNested || isFree(word)) {", "a dead writer keeps no reader out", _SANITIZED),
    Mutant(_OWNERS, "\tif (owner->readers == NULL)\n\t\tsayReading(owner, false);\n", "\tsayReading(owner, false);\n", "one reader's end is not the end of all", _SANITIZED),
    Mutant(_OWNERS, "\t\tsayReading(owner, true);\n\t\tchangeReaders(owner);\n", "\t\tsayReading(owner, true);\n", "a writer knows that somebody reads", _SANITIZED),
    Mutant(_OWNERS, "\tchangeReaders(owner);\n\tif (load32(claimOf(owner)) != 0)\n\t\tmnnFutexWake32(readersOf(owner), INT_MAX);\n", "", "a reader that leaves wakes the writer", _SANITIZED),
    Mutant(_OWNERS, "\tturn->thread = turn->who = NO_THREAD;\n\tlinger", "\tlinger", "a turn that lasts is no turn of its thread any more", _SANITIZED),
    Mutant(_SHIM, "\t\tif (__atomic_load_n(generation, __ATOMIC_RELAXED) == before)\n", "\t\tif (1)\n", "a copy is of one generation", "test_generations.py::test_aCopyDuringWhichTheGenerationChangedIsMadeAgain"),
    Mutant(_SHIM, "\t\tif (before & 1)\n\t\t\treturn -EBUSY;\n", "", "nothing is copied while somebody writes", "test_primitives.py test_generations.py"),
    Mutant(_SHIM, "\t\t__atomic_thread_fence(__ATOMIC_ACQUIRE);\n", "", "the copy comes before the second look", "test_generations.py::test_aCopyIsNeverTorn", "x86-64 keeps loads in order, and memcpy is a call that the compiler does not look into"),
    Mutant(_SHIM, "\tif ((seen & FUTEX_TID_MASK) != 0 && (seen & FUTEX_OWNER_DIED) == 0)\n\t\treturn -EBUSY;\n", "", "a robust word that somebody holds is refused", "test_primitives.py"),
    Mutant(_SHIM, "\tentry->head.futex_offset = (char *)word - (char *)&entry->node;\n", "", "the kernel finds the word", "test_primitives.py"),
    Mutant(_SHIM, "	if (lock.l_type == F_UNLCK)\n		return 0;\n", "", "a free byte has no holder", "test_primitives.py"),
    Mutant(_SHIM, "\treturn resultOf(poll(&poll1, 1, 0));\n", "\t(void)poll1;\n\treturn 1;\n", "a pidfd tells the living from the dead", "test_primitives.py"),
    Mutant(_SHIM, "	sigdelset(&blocked, SIGSEGV);\n", "", "a fault in the background thread is a fault", "test_primitives.py"),
    Mutant(_SHIM, "\treturn -pthread_sigmask(SIG_SETMASK, &blocked, NULL);\n", "\treturn -pthread_sigmask(SIG_SETMASK, NULL, NULL);\n", "signals are the other threads'", "test_primitives.py"),
    Mutant(_SHIM, "\tif (madvise(address, bytes, MADV_WIPEONFORK) != 0) {\n", "\tif (0) {\n", "the kernel wipes the identity in a child", "test_primitives.py"),
    Mutant(_SHIM, "fchmod(fd, 0600) != 0 || ftruncate", "ftruncate", "a memfd is its owner's only", "test_primitives.py"),
    Mutant(_SHIM, "bytes == 0 ? 0 : posix_fallocate(fd, 0, (off_t)bytes);\n", "0;\n", "a memfd has its pages", "test_primitives.py"),
    Mutant(_SHIM, "\t\twhile ((seen & fieldMask) < field) {\n", "\t\twhile ((seen & fieldMask) != field) {\n", "a field is raised and never lowered", "test_primitives.py test_rows.py"),
    Mutant(_SHIM, "(seen & ~fieldMask) | field, 0,", "field, 0,", "raising a field leaves the others alone", "test_primitives.py"),
    Mutant(_SHIM, "\t\tif (found < outMax)\n\t\t\toutIndices[found] = index;\n\t\tfound++;\n\t}\n\treturn found;\n}\n\nuint32_t mnnScan64", "\t\toutIndices[found] = index;\n\t\tfound++;\n\t}\n\treturn found;\n}\n\nuint32_t mnnScan64", "a scan writes no more than it was given room for", "test_primitives.py"),
    Mutant(_SHIM, "\tuint64_t pages = (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1), reserved = pages + alignment;\n", "\tuint64_t pages = (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1), reserved = pages;\n", "an aligned mapping takes nobody's addresses", "test_primitives.py test_segments.py"),
    Mutant(_SHIM, "\treturn result == -EACCES ? -EAGAIN : result; /* POSIX allows either for \"another has it\" */\n", "\treturn 0;\n", "a byte that another has is not taken", "test_primitives.py test_members.py"),
    Mutant(_SHIM, "\tstruct timespec timeout = timespecOf(timeoutNs);\n\treturn resultOf(syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout", "\t(void)timeoutNs;\n\treturn resultOf(syscall(SYS_futex, word, FUTEX_WAIT, expected, NULL", "no wait is without a bound", "test_primitives.py"),
    Mutant(_HATCH, "incarnation && entry->incarnation == incarnation && !fstat", "incarnation && !fstat", "another buffer's memory is not handed out", "test_primitives.py"),
    Mutant(_HATCH, "\tepoll_ctl(hatch->epoll, EPOLL_CTL_DEL, connection, NULL);\n", "", "a child's copy of a connection is no connection", "test_primitives.py"),
    Mutant(_HATCH, "\tif (got != sizeof request || answer", "\tif (got <= 0 || answer", "what is no request is hung up on", "test_primitives.py"),
    Mutant(_HATCH, "\tif (row < hatch->room && hatch->entries[row].incarnation == incarnation)\n", "\tif (row < hatch->room)\n", "a buffer that is gone takes no other's memory along", "test_primitives.py"),
    Mutant(_HATCH, "\tif (fd >= 0)\n\t\tclose(fd);\n\tif (message.msg_flags", "\tif (message.msg_flags", "what comes with garbage is closed", "test_primitives.py"),
    Mutant(_SHIM, "\t} while (passed < timeoutNs);\n", "\t} while (1);\n", "no wait is without an end", _SANITIZED + " test_hatch.py::test_aLateAnswerIsNobodys"),
    Mutant(_SHIM, "\t\tif (ready)\n", "\t\tif (ready > 0)\n", "a signal ends a wait", _SANITIZED),
    Mutant(_HATCH, "chmod(hatch->address.sun_path, 0600) || listen", "listen", "a hatch is its owner's only", "test_primitives.py"),
    Mutant(_WATCH, "\t\t\twakeAll(robust);\n", "", "whoever finds the broker dead wakes all", "test_watch.py"),
    Mutant(_WATCH, "word == 0 || (word & FUTEX_OWNER_DIED) != 0", "word == 0", "the dead are not waited for", "test_watch.py"),
    Mutant(_WATCH, " || __atomic_load_n(&kick->count, __ATOMIC_SEQ_CST) != kickSeen)\n\t\t\treturn 0;", ")\n\t\t\treturn 0;", "a kick ends the sleep", "test_primitives.py"),
    Mutant(_WATCH, "\tif (robust != NULL && __atomic", "\tif (0 && __atomic", "a kick is heard without futex_waitv", "test_primitives.py"),
    Mutant(_WATCH, "bitOf(uint32_t slot) { return 1U << (slot % 32); }", "bitOf(uint32_t slot) { return slot ? ~0U : 0; }", "a kick wakes nobody else, without futex_waitv too", "test_primitives.py"),
    Mutant(_WATCH, "\t\tif (mnnMonotonicNs() >= end)\n", "\t\tif (0)\n", "no sleep is without a bound", "test_watch.py"),
    Mutant(_RESERVE, "\twhile (started > 0)\n\t\tpthread_join(helpers[--started], NULL);\n", "", "no thread outlives the call", "test_primitives.py test_segments.py"),
    Mutant(_RESERVE, "\tif (offset < work->sourceBytes)\n", "\tif (offset + length <= work->sourceBytes)\n", "the last bytes are copied too", "test_primitives.py test_segments.py"),
    Mutant(_RESERVE, "\t\tif (error != 0)\n\t\t\t__atomic_store_n", "\t\tif (0)\n\t\t\t__atomic_store_n", "a page that can not be had is an error", "test_primitives.py"),
    Mutant(_LEASES, "\t\tif ((load64(member + MNN_MEMBER_STATE_OFFSET) & 0xFF) == MNN_MEMBER_FREE)\n\t\t\tcontinue;\n", "", "a slot that is free has no leases", "test_leases.py"),
    Mutant(_LEASES, "position < high && position < maxLeases", "position < high", "a scan does not go beyond an area", "test_leases.py"),
    Mutant(_LEASES, "\t\t\tif (found < outMax)\n", "", "a scan of leases writes no more than it was given room for", "test_leases.py"),
]
# fmt: on
