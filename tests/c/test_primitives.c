/* The primitives under threads, forks and kills. Every check is a sentence; the
 * first that fails ends the program. Run under AddressSanitizer and
 * UndefinedBehaviorSanitizer by `make test`. */
#define _GNU_SOURCE
#include "check.h"
#include "layout.h"
#include "primitives.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20000, BOUND_MS = 20000 };
static const int64_t MS = 1000000, FOREVER_NS = 20000000000;
static const uint32_t OWNER_DIED = 0x40000000, WAITERS = 0x80000000;

static void *shared(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	return memory;
}

static void reap(pid_t pid)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
}

/* Wait, with a bound, until the word has the bits. */
static void awaitBits(uint32_t *word, uint32_t bits)
{
	for (int ms = 0; (mnnLoadAcquire32(word) & bits) != bits; ms++) {
		CHECK(ms < BOUND_MS);
		usleep(1000);
	}
}

/* --- atomics --- */

static uint64_t counter;

static void *addByCas(void *unused)
{
	(void)unused;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t seen = mnnLoadAcquire64(&counter), found;
		while ((found = mnnCasSeqCst64(&counter, seen, seen + 1)) != seen)
			seen = found;
	}
	return NULL;
}

static void casLosesNothing(void)
{
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, addByCas, NULL) == 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CHECK(counter == (uint64_t)THREADS * ROUNDS);
	CHECK(mnnFetchAddAcqRel64(&counter, 5) == (uint64_t)THREADS * ROUNDS);
	uint32_t word = 7;
	CHECK(mnnCasSeqCst32(&word, 8, 9) == 7 && word == 7);
	CHECK(mnnCasSeqCst32(&word, 7, 9) == 7 && word == 9);
	CHECK(mnnExchangeSeqCst32(&word, 1) == 9 && mnnFetchAddAcqRel32(&word, 2) == 1 &&
		mnnLoadSeqCst32(&word) == 3);
	uint64_t wide = 1;
	CHECK(mnnExchangeSeqCst64(&wide, UINT64_MAX) == 1 && mnnLoadSeqCst64(&wide) == UINT64_MAX);
	mnnStoreRelease64(&wide, 4);
	mnnStoreRelease32(&word, 4);
	CHECK(wide == 4 && word == 4);
}

/* Open against free: each writes its own word and then reads the other's. Both
 * reading zero would be a use after free. */
static struct {
	uint64_t mine[2];
	uint64_t saw[2];
	pthread_barrier_t start, end;
} dekker;

static void *dekkerSide(void *argument)
{
	size_t me = (size_t)argument;
	for (int round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&dekker.start);
		mnnExchangeSeqCst64(&dekker.mine[me], 1);
		dekker.saw[me] = mnnLoadSeqCst64(&dekker.mine[1 - me]);
		pthread_barrier_wait(&dekker.end);
	}
	return NULL;
}

static void oneOfTwoSeesTheOther(void)
{
	pthread_t threads[2];
	pthread_barrier_init(&dekker.start, NULL, 3);
	pthread_barrier_init(&dekker.end, NULL, 3);
	for (size_t i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, dekkerSide, (void *)i) == 0);
	for (int round = 0; round < ROUNDS; round++) {
		dekker.mine[0] = dekker.mine[1] = 0;
		pthread_barrier_wait(&dekker.start);
		pthread_barrier_wait(&dekker.end);
		CHECK(dekker.saw[0] == 1 || dekker.saw[1] == 1);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

static void scansAndRaisesFields(void)
{
	uint64_t words[40] = {0};
	uint32_t indices[3] = {0};
	for (int i = 0; i < 40; i += 4)
		words[i] = (uint64_t)(i % 8 == 0) << 4 | 2;
	CHECK(mnnScan64(words, 32, 10, 0xF, 2, NULL, 0) == 10);
	CHECK(mnnScan64(words, 32, 10, 0xFF, 0x12, indices, 3) == 5 && indices[0] == 0 &&
		indices[1] == 2 && indices[2] == 4);
	uint32_t small[4] = {5, 6, 5, 0};
	CHECK(mnnScan32(small, 4, 4, 0xFF, 5, indices, 3) == 2 && indices[1] == 2);
	words[4] = 9ULL << 16 | 3;
	words[8] = 3;
	CHECK(mnnRaiseField64(words, 32, 3, 0xFFULL << 16, 7ULL << 16) == 2);
	CHECK(words[0] >> 16 == 7 && (words[0] & 0xFFFF) == 0x12 && words[4] == (9ULL << 16 | 3) &&
		words[8] == (7ULL << 16 | 3));
}

/* --- time --- */

static void interrupted(int signal) { (void)signal; }

static void *interrupt(void *sleeper)
{
	usleep(20000);
	pthread_kill(*(pthread_t *)sleeper, SIGUSR1);
	return NULL;
}

static void sleepsEndByTheirDeadlineOrASignal(void)
{
	int64_t began = mnnMonotonicNs();
	CHECK(mnnSleepUntil(began) == 0 && mnnSleepUntil(0) == 0);
	CHECK(mnnSleepUntil(began + 5 * MS) == 0 && mnnMonotonicNs() >= began + 5 * MS);
	struct sigaction action = {.sa_handler = interrupted}, before;
	pthread_t self = pthread_self(), other;
	CHECK(sigaction(SIGUSR1, &action, &before) == 0 &&
		pthread_create(&other, NULL, interrupt, &self) == 0);
	CHECK(mnnSleepUntil(mnnMonotonicNs() + FOREVER_NS) == -EINTR);
	pthread_join(other, NULL);
	sigaction(SIGUSR1, &before, NULL);
}

/* --- waiting --- */

static void futexWakesAndTimesOut(void)
{
	uint32_t *word = shared(4096);
	CHECK(mnnFutexWait32(word, 1, FOREVER_NS) == -EAGAIN);
	CHECK(mnnFutexWait32(word, 0, MS) == -ETIMEDOUT);
	pid_t child = fork();
	if (child == 0) {
		while (mnnLoadAcquire32(word) == 0)
			mnnFutexWait32(word, 0, FOREVER_NS);
		_exit(0);
	}
	usleep(2000);
	mnnStoreRelease32(word, 1);
	CHECK(mnnFutexWake32(word, INT32_MAX) >= 0);
	reap(child);
	uint64_t spun = 3;
	CHECK(mnnSpinWhile64(&spun, 4, MS) == 3 && mnnSpinWhile64(&spun, 3, MS) == 3);
	munmap(word, 4096);
}

/* --- robust words --- */

static void childHoldsUntilKilled(uint32_t *word, uint32_t *ready)
{
	void *list = malloc(mnnRobustListBytes());
	CHECK(mnnRobustHold(list, word) == 0);
	mnnStoreRelease32(ready, 1);
	for (;;)
		pause();
}

static void killMarksTheRobustWord(void)
{
	uint32_t *words = shared(4096);
	pid_t holder = fork();
	if (holder == 0)
		childHoldsUntilKilled(&words[0], &words[1]);
	awaitBits(&words[1], 1);
	/* Static: it has to outlive this thread, which ends with the program. */
	static uint64_t list[8];
	CHECK(mnnRobustListBytes() <= sizeof list && mnnRobustHold(list, &words[0]) == -EBUSY);
	pid_t watcher = fork();
	if (watcher == 0) {
		uint32_t seen = mnnLoadAcquire32(&words[0]);
		CHECK(mnnCasSeqCst32(&words[0], seen, seen | WAITERS) == seen);
		mnnStoreRelease32(&words[2], 1);
		while ((mnnLoadAcquire32(&words[0]) & OWNER_DIED) == 0)
			CHECK(mnnFutexWait32(&words[0], seen | WAITERS, FOREVER_NS) != -ETIMEDOUT);
		_exit(0);
	}
	awaitBits(&words[2], 1);
	CHECK(kill(holder, SIGKILL) == 0);
	awaitBits(&words[0], OWNER_DIED);
	reap(holder);
	int status;
	CHECK(waitpid(watcher, &status, 0) == watcher && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* A word whose owner has died may be taken again. */
	CHECK(mnnRobustHold(list, &words[0]) == 0 &&
		(mnnLoadAcquire32(&words[0]) & 0x3FFFFFFF) == mnnThreadId());
}

/* --- descriptors --- */

static void waitsForWhatCanBeReadEnd(void)
{
	int ends[2];
	CHECK(pipe(ends) == 0);
	CHECK(mnnAwaitReadable(ends[0], 0, MS) == -ETIMEDOUT &&
		mnnAwaitReadable(ends[0], MS, 2 * MS) == -ETIMEDOUT);
	CHECK(mnnAwaitReadable(ends[0], 0, -MS) == -ETIMEDOUT &&
		mnnAwaitReadable(-1, 0, FOREVER_NS) == -EBADF);
	struct sigaction heard = {.sa_handler = interrupted}, before;
	CHECK(sigaction(SIGALRM, &heard, &before) == 0);
	struct itimerval often = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	CHECK(mnnAwaitReadable(ends[0], 0, FOREVER_NS) == -EINTR);
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0 && sigaction(SIGALRM, &before, NULL) == 0);
	pid_t writer = fork();
	if (writer == 0) {
		usleep(5000);
		_exit(write(ends[1], "x", 1) != 1);
	}
	CHECK(mnnAwaitReadable(ends[0], MS, FOREVER_NS) == 0 && mnnAwaitReadable(ends[0], 0, 0) == 0);
	reap(writer);
	char read1;
	CHECK(read(ends[0], &read1, 1) == 1 && close(ends[1]) == 0);
	CHECK(mnnAwaitReadable(ends[0], 0, FOREVER_NS) == 0); /* its other end is gone */
	close(ends[0]);
}

/* --- liveness --- */

static void deathFreesByteLocksAndPidfds(void)
{
	char path[] = "/tmp/muninn-test-XXXXXX";
	int fd = mkstemp(path);
	CHECK(fd >= 0);
	uint32_t *ready = shared(4096);
	pid_t child = fork();
	if (child == 0) {
		CHECK(mnnByteLock(fd, 3) == 0 && mnnByteHolder(fd, 3) == 0);
		mnnStoreRelease32(ready, 1);
		for (;;)
			pause();
	}
	awaitBits(ready, 1);
	int pidfd = mnnPidfdOpen(child);
	CHECK(pidfd >= 0 && mnnPidfdDead(pidfd) == 0);
	CHECK(mnnByteHolder(fd, 3) == child && mnnByteLock(fd, 3) == -EAGAIN &&
		mnnByteHolder(fd, 4) == 0);
	CHECK(kill(child, SIGSTOP) == 0);
	usleep(1000);
	CHECK(mnnPidfdDead(pidfd) == 0 && mnnByteHolder(fd, 3) == child);
	CHECK(kill(child, SIGKILL) == 0);
	for (int ms = 0; mnnPidfdDead(pidfd) != 1; ms++) {
		CHECK(ms < BOUND_MS);
		usleep(1000);
	}
	/* The zombie has not been reaped: its pid is taken, and still it is dead. */
	CHECK(kill(child, 0) == 0 && mnnByteHolder(fd, 3) == 0 && mnnByteLock(fd, 3) == 0 &&
		mnnByteUnlock(fd, 3) == 0);
	reap(child);
	CHECK(mnnPidfdOpen(child) == -ESRCH && mnnByteHolder(-1, 0) == -EBADF);
	close(pidfd);
	close(fd);
	unlink(path);
}

static void forkWipesTheIdentity(void)
{
	void *page;
	CHECK(mnnMapWipedOnFork(4096, &page) == 0);
	*(uint64_t *)page = 42;
	pid_t child = fork();
	if (child == 0)
		_exit(*(uint64_t *)page == 0 ? 0 : 1);
	int status;
	CHECK(
		waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 0 && *(uint64_t *)page == 42);
	munmap(page, 4096);
}

static void *threadWithBlockedSignals(void *unused)
{
	(void)unused;
	sigset_t blocked;
	CHECK(!mnnIsOwnThread());
	CHECK(mnnBlockSignals() == 0 && pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
	CHECK(mnnIsOwnThread());
	CHECK(sigismember(&blocked, SIGINT) == 1 && sigismember(&blocked, SIGTERM) == 1 &&
		sigismember(&blocked, SIGSEGV) == 0);
	return NULL;
}

static void signalsAreTheOtherThreads(void)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, threadWithBlockedSignals, NULL) == 0);
	pthread_join(thread, NULL);
	sigset_t blocked;
	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0 && sigismember(&blocked, SIGINT) == 0);
}

/* --- memory --- */

static void memfdsAreAllocatedPrivateAndSealed(void)
{
	enum { BYTES = 3 << 20, ALIGNMENT = 2 << 20 };
	int fd = mnnMemfdCreate("muninn-test", BYTES);
	struct stat status;
	CHECK(fd >= 0 && fstat(fd, &status) == 0 && status.st_size == BYTES &&
		(status.st_mode & 0777) == 0600 && status.st_blocks * 512 >= BYTES);
	CHECK(mnnSeal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 && ftruncate(fd, 1) == -1 &&
		errno == EPERM && mnnSeal(fd, F_SEAL_WRITE) == -EPERM);
	void *first, *second;
	CHECK(mnnMap(fd, BYTES, ALIGNMENT, 1, &first) == 0 && (uintptr_t)first % ALIGNMENT == 0);
	CHECK(mnnMap(fd, BYTES, 0, 0, &second) == 0);
	memset(first, 7, BYTES);
	CHECK(((unsigned char *)second)[BYTES - 1] == 7);
	CHECK(mnnProtect(second, BYTES, 1) == 0 && mnnAdvise(first, BYTES, MADV_WILLNEED) == 0);
	((unsigned char *)second)[0] = 8;
	CHECK(((unsigned char *)first)[0] == 8);
	mnnCopy(first, second, 4096);
	int bound = mnnBindNode(first, BYTES, 0);
	CHECK(bound == 0 || bound == -ENOSYS || bound == -EPERM);
	CHECK(mnnBindNode(first, BYTES, 5000) == -EINVAL && mnnMap(-1, 4096, 0, 0, &second) == -EBADF);
	CHECK(mnnUnmap(first, BYTES) == 0);
	close(fd);
	CHECK(mnnMemfdCreate("muninn-test", UINT64_MAX) == -EINVAL);
}

/* --- seqlock --- */

enum { WORDS = 512 };
static struct {
	uint64_t generation, data[WORDS];
	uint32_t stop;
} published;

static void *writeGenerations(void *unused)
{
	(void)unused;
	for (uint64_t round = 1; mnnLoadAcquire32(&published.stop) == 0; round++) {
		mnnExchangeSeqCst64(&published.generation, 2 * round - 1);
		for (int i = 0; i < WORDS; i++)
			__atomic_store_n(&published.data[i], round, __ATOMIC_RELAXED);
		mnnStoreRelease64(&published.generation, 2 * round);
	}
	return NULL;
}

static void copiesAreNeverTorn(void)
{
	pthread_t writer;
	uint64_t copy[WORDS];
	CHECK(pthread_create(&writer, NULL, writeGenerations, NULL) == 0);
	int whole = 0;
	for (int round = 0; round < ROUNDS; round++) {
		int64_t generation = mnnSeqRead(
			&published.generation, published.data, copy, sizeof copy, 8);
		CHECK(generation >= 0 || generation == -EBUSY || generation == -EAGAIN);
		if (generation < 0)
			continue;
		whole++;
		for (int i = 0; i < WORDS; i++)
			CHECK(copy[i] == (uint64_t)generation / 2);
	}
	mnnStoreRelease32(&published.stop, 1);
	pthread_join(writer, NULL);
	CHECK(mnnSeqRead(&published.generation, published.data, copy, sizeof copy, 1) ==
		(int64_t)published.generation);
	published.generation |= 1;
	CHECK(mnnSeqRead(&published.generation, published.data, copy, sizeof copy, 1) == -EBUSY);
	printf("%d of %d copies were whole\n", whole, ROUNDS);
}

static void timesFallIntoTheirBuckets(void)
{
	const uint64_t hourNs = 3600ull * 1000000000ull;
	const uint64_t timed[] = {0, 1, 2, hourNs, 2 * hourNs};
	const struct mnnTimed *where = (const struct mnnTimed *)timed;
	uint64_t words[7] = {0};
	for (uint64_t hours = 0; hours < 3; hours++)
		mnnCountTimed(words, where, mnnMonotonicNs() - (int64_t)(hours * hourNs + hourNs / 2));
	mnnCountTimed(words, where, mnnMonotonicNs() + (int64_t)hourNs);
	CHECK(words[0] == 4);
	CHECK(words[1] == 2 && words[3] == 1 && words[5] == 1);
	CHECK(words[2] >= hourNs / 2 && words[2] < hourNs);
	CHECK(words[4] > hourNs && words[4] < 2 * hourNs && words[6] > 2 * hourNs);
}

int main(void)
{
	casLosesNothing();
	oneOfTwoSeesTheOther();
	scansAndRaisesFields();
	timesFallIntoTheirBuckets();
	sleepsEndByTheirDeadlineOrASignal();
	futexWakesAndTimesOut();
	waitsForWhatCanBeReadEnd();
	deathFreesByteLocksAndPidfds();
	forkWipesTheIdentity();
	signalsAreTheOtherThreads();
	memfdsAreAllocatedPrivateAndSealed();
	copiesAreNeverTorn();
	killMarksTheRobustWord();
	puts("all primitives keep their promises");
	return 0;
}
