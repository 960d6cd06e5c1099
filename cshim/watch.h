/* Watching: the sleep of a member's background thread, and the wake-up that reaches
 * this thread and no other.
 *
 * Three words can end the sleep. The *robust word* of the broker's slot is shared by
 * all members; the kernel marks it when the broker's thread ends (primitives.h). The
 * *election word* is shared, and changes with each term. The *wake word* is private to
 * one process; `mnnWakeWatcher` counts it up.
 *
 * 1. The caller reads the election word and the wake word, does what they ask for, and
 *    calls `mnnWatch` with the values that it read.
 * 2. `mnnWatch` reads the robust word. If the owner has died, it wakes all watchers of
 *    the word and returns: the kernel wakes only one watcher, and the others sleep on.
 * 3. It sets the waiters bit of the robust word (CAS), which asks the kernel for a
 *    wake-up at the owner's end. No process takes the bit back.
 * 4. It compares the two other words with the values that were read, and returns if one
 *    of them has changed.
 * 5. It sleeps on all three words in one system call (futex_waitv). The kernel compares
 *    each word once more as the thread falls asleep, so a stale read costs one more
 *    round and no wake-up is lost.
 * 6. After `lookNs` at most it begins again at step 2: the watcher that the kernel woke
 *    may have been stopped or killed before it woke the others.
 *
 * Without futex_waitv (before Linux 5.16, or forbidden) the thread sleeps on the robust
 * word alone, with a bit of its own slot, and says so in `sleepsOnRobust`. A wake-up
 * then goes to that bit of the robust word. One that comes between the last look and
 * the sleep is lost; the sleep is a tenth of `lookNs` long for that reason.
 *
 * No policy, no allocation, no globals; preconditions as in primitives.h.
 */
#ifndef MUNINN_WATCH_H
#define MUNINN_WATCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MNN_API __attribute__((visibility("default")))

/* Private memory of the watching process; zero at first. */
struct mnnWake {
	/* The number of wake-ups. It may wrap: it is compared for equality only, and the
	 * first wake-up ends the sleep, long before 2^32 of them */
	uint32_t count;
	/* 1: this kernel has no wait for several words, and the thread sleeps on the robust
	 * word alone */
	uint32_t sleepsOnRobust;
};

/* Sleep while the owner of `robust` lives, the low half of the election word is
 * `electionSeen`, and `wake->count` is `wakeSeen`. 0: one of them changed. -ETIMEDOUT.
 * `slot` is the caller's own slot: it chooses the bit of the fallback. */
MNN_API int mnnWatch(uint32_t *robust, const uint32_t *election, uint32_t electionSeen,
	struct mnnWake *wake, uint32_t wakeSeen, uint32_t slot, int64_t timeoutNs, int64_t lookNs);
/* Wake the thread of this process that watches `robust`, or is about to. Takes no lock
 * and does not wait, so finalizers and signal handlers may call it. `robust` is NULL
 * when this process watches no broker. */
MNN_API void mnnWakeWatcher(struct mnnWake *wake, uint32_t *robust, uint32_t slot);

#ifdef __cplusplus
}
#endif
#endif
