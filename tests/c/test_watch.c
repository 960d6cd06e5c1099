/* Watching the end of a process, a change of term and wake-ups, between real processes.
 * Run under AddressSanitizer and UndefinedBehaviorSanitizer by `make test`. */
#define _GNU_SOURCE
#include "check.h"
#include "watch.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WATCHERS = 5, WAKES = 2000 };
static const int64_t MS = 1000000, BOUND_NS = 20000000000;

/* The memory that the processes share. */
struct words {
	uint32_t robust;
	uint32_t election;
	uint32_t ready;
};
static struct words *words;

static int64_t nowNs(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A child that holds the robust word until it is killed: the kernel's list, set as
 * mnnRobustHold does. */
static pid_t holder(void)
{
	words->robust = 0;
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		static struct robust_list node;
		static struct robust_list_head head;
		head.list.next = &node;
		node.next = &head.list;
		head.futex_offset = (char *)&words->robust - (char *)&node;
		CHECK(syscall(SYS_set_robust_list, &head, sizeof head) == 0);
		__atomic_store_n(&words->robust, (uint32_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
		for (;;)
			pause();
	}
	while (__atomic_load_n(&words->robust, __ATOMIC_SEQ_CST) == 0)
		usleep(100);
	return child;
}

static void endOf(pid_t child, int number)
{
	int status;
	if (number != 0)
		kill(child, number);
	CHECK(waitpid(child, &status, 0) == child && (number != 0 || status == 0));
}

static int watchFor(struct mnnWake *wake, int64_t ns)
{
	return mnnWatch(&words->robust, &words->election, 0, wake, 0, 3, ns, 1000 * MS);
}

static void theEndIsToldToAll(void)
{
	pid_t doomed = holder(), watching[WATCHERS];
	for (int i = 0; i < WATCHERS; i++) {
		watching[i] = fork();
		if (watching[i] == 0) {
			struct mnnWake wake = {0};
			_exit(watchFor(&wake, BOUND_NS) == 0 && (words->robust & FUTEX_OWNER_DIED) ? 0 : 1);
		}
	}
	usleep(50000);
	endOf(doomed, SIGKILL);
	for (int i = 0; i < WATCHERS; i++)
		endOf(watching[i], 0);
	struct mnnWake wake = {0};
	CHECK(watchFor(&wake, BOUND_NS) == 0); /* returns at once for a dead owner */
	words->robust = 0;
	CHECK(watchFor(&wake, BOUND_NS) == 0);
}

struct woken {
	struct mnnWake wake;
	uint32_t seen;
};

static void *watchingThread(void *argument)
{
	struct woken *woken = argument;
	for (uint32_t seen = 0; seen < WAKES;
		seen = __atomic_load_n(&woken->wake.count, __ATOMIC_SEQ_CST)) {
		__atomic_store_n(&woken->seen, seen, __ATOMIC_SEQ_CST);
		CHECK(mnnWatch(&words->robust, &words->election, 0, &woken->wake, seen, 3, BOUND_NS,
				  1000 * MS) == 0);
	}
	__atomic_store_n(&woken->seen, WAKES, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Each wake is given once the thread has seen the one before, at all distances from
 * its falling asleep. */
static void noWakeIsLost(void)
{
	pid_t living = holder();
	struct woken woken = {0};
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, watchingThread, &woken) == 0);
	for (uint32_t i = 0; i < WAKES; i++) {
		while (__atomic_load_n(&woken.seen, __ATOMIC_SEQ_CST) != i)
			sched_yield();
		if (i % 3 == 0)
			usleep(50);
		mnnWakeWatcher(&woken.wake, &words->robust, 3);
	}
	pthread_join(thread, NULL);
	CHECK(woken.seen == WAKES);
	endOf(living, SIGKILL);
}

static void wakesWakeNobodyElse(void)
{
	pid_t living = holder();
	pid_t other = fork();
	if (other == 0) {
		struct mnnWake wake = {0};
		int64_t end = nowNs() + 300 * MS;
		_exit(watchFor(&wake, 300 * MS) == -ETIMEDOUT && nowNs() >= end ? 0 : 1);
	}
	struct mnnWake own = {0};
	for (int i = 0; i < 1000; i++)
		mnnWakeWatcher(&own, &words->robust, 35);
	CHECK(mnnWatch(&words->robust, &words->election, 0, &own, 0, 35, BOUND_NS, 1000 * MS) == 0);
	mnnWakeWatcher(&own, NULL, 35);
	CHECK(own.count == 1001 &&
		mnnWatch(&words->robust, &words->election, 0, &own, 1001, 35, MS, 1000 * MS) == -ETIMEDOUT);
	endOf(other, 0);
	endOf(living, SIGKILL);
}

static void aTermThatHasEndedIsSeen(void)
{
	pid_t living = holder();
	struct mnnWake wake = {0};
	words->election = 1;
	CHECK(watchFor(&wake, BOUND_NS) == 0);
	words->election = 0;
	pid_t watching = fork();
	if (watching == 0)
		_exit(watchFor(&wake, BOUND_NS) == 0 ? 0 : 1);
	usleep(50000);
	__atomic_store_n(&words->election, 7, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &words->robust, FUTEX_WAKE, 1000, NULL, NULL, 0);
	endOf(watching, 0);
	words->election = 0;
	endOf(living, SIGKILL);
}

static void *sleepingThread(void *argument)
{
	struct woken *woken = argument;
	__atomic_store_n(&woken->seen, 1, __ATOMIC_SEQ_CST);
	CHECK(mnnWatch(&words->robust, &words->election, 0, &woken->wake, 0, 3, BOUND_NS,
			  100 * BOUND_NS) == 0);
	return NULL;
}

/* The sleeper looks by itself only after more than the bound of the test, so only the
 * wake-up can end the sleep before. */
static void aWakeWakesTheSleeper(void)
{
	pid_t living = holder();
	struct woken woken = {0};
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, sleepingThread, &woken) == 0);
	while (__atomic_load_n(&woken.seen, __ATOMIC_SEQ_CST) == 0)
		sched_yield();
	usleep(100000);
	int64_t before = nowNs();
	mnnWakeWatcher(&woken.wake, &words->robust, 3);
	pthread_join(thread, NULL);
	CHECK(nowNs() < before + BOUND_NS / 2);
	endOf(living, SIGKILL);
}

/* A wake-up of slot 3 does not wake a sleeper of slot 4, although both sleep on one
 * robust word. */
static void aWakeOfAnotherSlotLetsSleep(void)
{
	pid_t living = holder();
	pid_t other = fork();
	if (other == 0) {
		struct mnnWake wake = {0};
		struct rusage usage;
		CHECK(mnnWatch(&words->robust, &words->election, 0, &wake, 0, 4, 500 * MS, BOUND_NS) ==
			-ETIMEDOUT);
		CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
		_exit(usage.ru_nvcsw < 100 ? 0 : 1);
	}
	struct mnnWake own = {0};
	CHECK(watchFor(&own, MS) == -ETIMEDOUT); /* now it is known how this process sleeps */
	int status;
	while (waitpid(other, &status, WNOHANG) == 0) {
		mnnWakeWatcher(&own, &words->robust, 3);
		usleep(100);
	}
	CHECK(status == 0);
	endOf(living, SIGKILL);
}

/* Forbid futex_waitv, as a sandbox that does not know the call. */
static void forbidWaitv(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 449, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

int main(void)
{
	alarm(90); /* a watcher that nothing wakes must not hold the build up */
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(words != MAP_FAILED);
	theEndIsToldToAll();
	aWakeWakesTheSleeper();
	noWakeIsLost();
	wakesWakeNobodyElse();
	aWakeOfAnotherSlotLetsSleep();
	aTermThatHasEndedIsSeen();
	forbidWaitv();
	theEndIsToldToAll();
	aWakeWakesTheSleeper();
	noWakeIsLost();
	wakesWakeNobodyElse();
	aWakeOfAnotherSlotLetsSleep();
	aTermThatHasEndedIsSeen();
	puts("a watcher is woken when it is wanted");
	return 0;
}
