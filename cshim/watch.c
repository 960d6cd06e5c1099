/* watch.h says what each function promises, and has the protocol. The comments here
 * give reasons. */
#define _GNU_SOURCE
#include "watch.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "primitives.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* The kernel's struct futex_waitv and FUTEX_32, which older headers lack. */
struct waitedWord {
	uint64_t expected;
	uint64_t address;
	uint32_t flags;
	uint32_t reserved;
};
enum { WORD_OF_32_BITS = 2, WATCHED_WORDS = 3 };

static const int64_t NS_PER_SECOND = 1000000000;
enum { FALLBACK_LOOKS = 10 };

static struct timespec timespecOf(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / NS_PER_SECOND, .tv_nsec = ns % NS_PER_SECOND};
}

static void wakeAll(const uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static uint32_t bitOf(uint32_t slot) { return 1U << (slot % 32); }

/* SYNC wake: pairs with mnnWakeWatcher. Each word is compared as the thread falls
 * asleep. */
static void sleepOnAny(uint32_t *robust, uint32_t armed, const uint32_t *election,
	uint32_t electionSeen, struct mnnWake *wake, uint32_t wakeSeen, uint32_t slot, int64_t end,
	int64_t lookNs)
{
	int64_t now = mnnMonotonicNs();
	/* No FUTEX_PRIVATE, for the private word neither: the key of private memory is the
	 * process and the address in both kinds, so each kind of wake-up finds the
	 * sleeper. */
	struct waitedWord words[WATCHED_WORDS] = {
		{.expected = armed, .address = (uintptr_t)robust, .flags = WORD_OF_32_BITS},
		{.expected = electionSeen, .address = (uintptr_t)election, .flags = WORD_OF_32_BITS},
		{.expected = wakeSeen, .address = (uintptr_t)&wake->count, .flags = WORD_OF_32_BITS},
	};
	struct timespec until = timespecOf(end < now + lookNs ? end : now + lookNs);
	long result = syscall(SYS_futex_waitv, words, WATCHED_WORDS, 0, &until, CLOCK_MONOTONIC);
	if (result >= 0 || errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR)
		return;
	__atomic_store_n(&wake->sleepsOnRobust, 1, __ATOMIC_SEQ_CST);
	/* A waker counts first and looks at `sleepsOnRobust` second. A wake-up between this
	 * look and the sleep is lost, and the short sleep makes up for it. */
	if (__atomic_load_n(&wake->count, __ATOMIC_SEQ_CST) != wakeSeen)
		return;
	until = timespecOf(end < now + lookNs / FALLBACK_LOOKS ? end : now + lookNs / FALLBACK_LOOKS);
	syscall(SYS_futex, robust, FUTEX_WAIT_BITSET, armed, &until, NULL, bitOf(slot));
}

/* SYNC watch: pairs with Election.replace, and with the kernel, which marks the robust
 * word and wakes one watcher. */
int mnnWatch(uint32_t *robust, const uint32_t *election, uint32_t electionSeen,
	struct mnnWake *wake, uint32_t wakeSeen, uint32_t slot, int64_t timeoutNs, int64_t lookNs)
{
	int64_t end = mnnMonotonicNs() + timeoutNs;
	for (;;) {
		uint32_t word = __atomic_load_n(robust, __ATOMIC_ACQUIRE);
		if (word == 0 || (word & FUTEX_OWNER_DIED) != 0) {
			wakeAll(robust);
			return 0;
		}
		/* The waiters bit stays set: it asks the kernel for a wake-up at the owner's
		 * end, and for nothing else. */
		if ((word & FUTEX_WAITERS) == 0 &&
			!__atomic_compare_exchange_n(
				robust, &word, word | FUTEX_WAITERS, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			/* The owner has died, or another watcher has set the bit: each happens at
			 * most once. */
			continue;
		if (__atomic_load_n(election, __ATOMIC_SEQ_CST) != electionSeen ||
			__atomic_load_n(&wake->count, __ATOMIC_SEQ_CST) != wakeSeen)
			return 0;
		if (mnnMonotonicNs() >= end)
			return -ETIMEDOUT;
		sleepOnAny(robust, word | FUTEX_WAITERS, election, electionSeen, wake, wakeSeen, slot, end,
			lookNs);
	}
}

/* SYNC wake: pairs with sleepOnAny. The count is changed before the wake-up. */
void mnnWakeWatcher(struct mnnWake *wake, uint32_t *robust, uint32_t slot)
{
	__atomic_fetch_add(&wake->count, 1, __ATOMIC_SEQ_CST);
	wakeAll(&wake->count);
	if (robust != NULL && __atomic_load_n(&wake->sleepsOnRobust, __ATOMIC_SEQ_CST) != 0)
		syscall(SYS_futex, robust, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, bitOf(slot));
}
