/* The ledger: how much memory of which device each process holds, over all processes of
 * this user and STANDIN_DOMAIN.
 *
 * It is one file in /dev/shm. Every process writes it, under one robust mutex. A row is
 * one piece of device memory, with a bit for each process that holds it (importers too:
 * the memory lives as long as one of them); or it is the memory that the context of a
 * process takes.
 *
 * A dying process subtracts nothing. The next process that reads the ledger finds that
 * the pid and start time of the slot are gone, and clears its bits. Shared memory that
 * no process has open any more may still be behind a descriptor, which is found in
 * /proc: it counts as long as there is one. A process that dies with the mutex leaves
 * at worst a row without holders, and the next sweep drops it.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 256, ROWS = 16384, WORDS = SLOTS / 64, MANY_ROWS = 1024 };
static const uint64_t MAGIC = 0x32305245474445c5u;

typedef struct {
	int32_t pid, unused;
	uint64_t start;
} Slot;
typedef struct {
	uint64_t nonce, bytes;
	uint32_t device, shared; /* shared: others may have a descriptor of it */
	uint64_t holders[WORDS];
} Row;
typedef struct {
	uint64_t magic;
	pthread_mutex_t mutex;
	uint64_t rowsUsed; /* rows from here on were never used */
	Slot slots[SLOTS];
	Row rows[ROWS];
} Ledger;

static Ledger *ledger;
static int mySlot = -1;

uint64_t processStart(int pid)
{
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0)
		return 0;
	text[got] = 0;
	char *at = strrchr(text, ')');
	if (!at || at[2] == 'Z' || at[2] == 'X')
		return 0;
	at += 2;
	for (int field = 3; field < 22; field++) {
		at = strchr(at, ' ');
		if (!at)
			return 0;
		at++;
	}
	return strtoull(at, NULL, 10);
}

static void lockLedger(void)
{
	if (pthread_mutex_lock(&ledger->mutex) == EOWNERDEAD)
		pthread_mutex_consistent(&ledger->mutex);
}

static bool heldByAny(const Row *row)
{
	for (int i = 0; i < WORDS; i++)
		if (row->holders[i])
			return true;
	return false;
}

static bool keptByNobody(const Row *row) { return row->nonce && row->shared && !heldByAny(row); }

/* Mark the rows in `kept` whose memory is behind a descriptor of the process `pid`: the
 * name of the file contains the nonce. */
static void markDescriptors(const char *pid, bool *kept)
{
	char path[300], name[64];
	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	DIR *descriptors = opendir(path);
	if (!descriptors)
		return; /* the process has ended, or belongs to another user */
	for (struct dirent *each; (each = readdir(descriptors));) {
		ssize_t length = readlinkat(dirfd(descriptors), each->d_name, name, sizeof name - 1);
		unsigned long long nonce;
		if (length <= 0)
			continue;
		name[length] = 0;
		if (sscanf(name, "/memfd:" MEMORY_NAME, &nonce) != 1)
			continue;
		for (uint64_t r = 0; r < ledger->rowsUsed; r++)
			if (ledger->rows[r].nonce == nonce)
				kept[r] = true;
	}
	closedir(descriptors);
}

/* Drop the rows that no process has open, and of which no process has a descriptor. */
static void dropUnkept(void)
{
	bool *kept = calloc(ROWS, sizeof *kept);
	DIR *processes = kept ? opendir("/proc") : NULL;
	if (processes) {
		for (struct dirent *each; (each = readdir(processes));)
			if (each->d_name[0] >= '1' && each->d_name[0] <= '9')
				markDescriptors(each->d_name, kept);
		closedir(processes);
		for (uint64_t r = 0; r < ledger->rowsUsed; r++)
			if (keptByNobody(&ledger->rows[r]) && !kept[r])
				ledger->rows[r].nonce = 0;
	}
	free(kept);
}

static void sweep(void)
{
	bool asked = false;
	uint64_t dead[WORDS] = {0};
	for (int i = 0; i < SLOTS; i++)
		if (!ledger->slots[i].pid || processStart(ledger->slots[i].pid) != ledger->slots[i].start)
			dead[i / 64] |= 1ull << (i % 64);
	for (uint64_t r = 0; r < ledger->rowsUsed; r++) {
		Row *row = &ledger->rows[r];
		if (!row->nonce)
			continue;
		for (int i = 0; i < WORDS; i++)
			row->holders[i] &= ~dead[i];
		if (keptByNobody(row))
			asked = true;
		else if (!heldByAny(row))
			row->nonce = 0;
	}
	if (asked)
		dropUnkept();
	for (int i = 0; i < SLOTS; i++)
		if (dead[i / 64] >> (i % 64) & 1)
			ledger->slots[i].pid = 0;
}

CUresult ledgerOpen(void)
{
	const char *domain = getenv("STANDIN_DOMAIN");
	char path[256];
	snprintf(path, sizeof path, "/dev/shm/standin-%u-%s", (unsigned)getuid(),
		domain && *domain ? domain : "default");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return OPERATING_SYSTEM;
	if (flock(fd, LOCK_EX) || posix_fallocate(fd, 0, sizeof(Ledger))) {
		close(fd);
		return OPERATING_SYSTEM;
	}
	ledger = mmap(NULL, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ledger == (void *)-1) {
		close(fd);
		return OPERATING_SYSTEM;
	}
	if (ledger->magic != MAGIC) {
		memset(ledger, 0, sizeof *ledger);
		pthread_mutexattr_t attributes;
		pthread_mutexattr_init(&attributes);
		pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
		pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
		pthread_mutex_init(&ledger->mutex, &attributes);
		pthread_mutexattr_destroy(&attributes);
		ledger->magic = MAGIC;
	}
	flock(fd, LOCK_UN); /* closing would not: the mapping keeps the file open */
	close(fd);
	lockLedger();
	for (int attempt = 0; attempt < 2 && mySlot < 0; attempt++) {
		for (int i = 0; i < SLOTS && mySlot < 0; i++)
			if (!ledger->slots[i].pid)
				mySlot = i;
		if (mySlot < 0)
			sweep();
	}
	if (mySlot >= 0)
		ledger->slots[mySlot] = (Slot){.pid = getpid(), .start = processStart(getpid())};
	pthread_mutex_unlock(&ledger->mutex);
	return mySlot < 0 ? OPERATING_SYSTEM : OK;
}

static uint64_t usedLocked(int device)
{
	uint64_t sum = 0;
	for (uint64_t r = 0; r < ledger->rowsUsed; r++)
		if (ledger->rows[r].nonce && ledger->rows[r].device == (uint32_t)device)
			sum += ledger->rows[r].bytes;
	return sum;
}

static Row *rowOf(uint64_t nonce)
{
	for (uint64_t r = 0; r < ledger->rowsUsed; r++)
		if (ledger->rows[r].nonce == nonce)
			return &ledger->rows[r];
	return NULL;
}

CUresult ledgerHold(uint64_t nonce, int device, uint64_t bytes, uint64_t limit)
{
	CUresult result = OK;
	lockLedger();
	if (limit && usedLocked(device) + bytes > limit) {
		sweep();
		uint64_t used = usedLocked(device);
		if (used + bytes > limit) {
			fprintf(stderr, "standin: GPU %d has no %llu bytes: %llu of %llu are held\n", device,
				(unsigned long long)bytes, (unsigned long long)used, (unsigned long long)limit);
			result = OUT_OF_MEMORY;
		}
	}
	Row *row = result ? NULL : rowOf(nonce);
	if (!result && !row) {
		row = rowOf(0);
		if (!row && ledger->rowsUsed >= MANY_ROWS) {
			sweep();
			row = rowOf(0);
		}
		if (!row && ledger->rowsUsed < ROWS)
			row = &ledger->rows[ledger->rowsUsed++];
		if (row)
			*row = (Row){.nonce = nonce, .bytes = bytes, .device = (uint32_t)device};
		else {
			fprintf(stderr, "standin: the books have no row left\n");
			result = OUT_OF_MEMORY;
		}
	}
	if (row)
		row->holders[mySlot / 64] |= 1ull << (mySlot % 64);
	pthread_mutex_unlock(&ledger->mutex);
	return result;
}

void ledgerShare(uint64_t nonce)
{
	lockLedger();
	Row *row = rowOf(nonce);
	if (row)
		row->shared = 1;
	pthread_mutex_unlock(&ledger->mutex);
}

void ledgerDrop(uint64_t nonce)
{
	lockLedger();
	Row *row = rowOf(nonce);
	if (row) {
		row->holders[mySlot / 64] &= ~(1ull << (mySlot % 64));
		if (!heldByAny(row) && !row->shared)
			row->nonce = 0;
	}
	pthread_mutex_unlock(&ledger->mutex);
}

uint64_t ledgerUsed(int device)
{
	lockLedger();
	sweep();
	uint64_t used = usedLocked(device);
	pthread_mutex_unlock(&ledger->mutex);
	return used;
}
