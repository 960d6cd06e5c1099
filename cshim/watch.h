/* Watching: how a member's background thread sleeps until it is wanted, and how it is
 * woken without waking anybody else.
 *
 * Three words can end the sleep. The broker's *robust word* is shared by all members,
 * and the kernel marks it when the broker ends (primitives.h). The *election word* is
 * shared, and changes with each term. The *wake words* are private to one process. No
 * policy, no allocation, no globals; preconditions as in primitives.h.
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
	/* Wakes so far; it may wrap, since it is compared for equality only, and 2^32
	 * wake-ups during one sleep end that sleep */
	uint32_t count;
	/* 1: this kernel can not wait for several words, and the thread sleeps on the
	 * robust word alone */
	uint32_t sleepsOnRobust;
};

/* Sleep while the owner of `robust` lives, the election word's low half is
 * `electionSeen`, and nobody has woken since `wakeSeen` was read. 0: one of them
 * changed. -ETIMEDOUT.
 *
 * Whoever finds the owner dead wakes all who watch it, because the kernel wakes one.
 * That one may be stopped or killed before it wakes the others, so the words are looked
 * at again every `lookNs`. `slot` is the caller's own slot: without futex_waitv (before
 * Linux 5.16, or forbidden) it chooses the bit by which a wake-up tells this sleeper from
 * others on the robust word; a wake-up at the instant of falling asleep is then seen after
 * a tenth of `lookNs`. */
MNN_API int mnnWatch(uint32_t *robust, const uint32_t *election, uint32_t electionSeen,
	struct mnnWake *wake, uint32_t wakeSeen, uint32_t slot, int64_t timeoutNs, int64_t lookNs);
/* Wake the thread of this process that watches `robust`, or is about to. No lock, no
 * wait: for finalizers and signal handlers too. `robust` may be NULL: nobody is
 * watched. */
MNN_API void mnnWakeWatcher(struct mnnWake *wake, uint32_t *robust, uint32_t slot);

#ifdef __cplusplus
}
#endif
#endif
