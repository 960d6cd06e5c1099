/* The promises of reserve.h. Built with the sanitizers. */
#define _GNU_SOURCE
#include "reserve.h"

#include "check.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint64_t PAGE_BYTES = 4096, MANY_BYTES = (33 << 20) + 4096;

static int threadsNow(void)
{
	int count = 0;
	DIR *tasks = opendir("/proc/self/task");
	CHECK(tasks != NULL);
	while (readdir(tasks) != NULL)
		count++;
	closedir(tasks);
	return count;
}

static char *mapped(uint64_t fileBytes, uint64_t bytes)
{
	int fd = memfd_create("reserve", MFD_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)fileBytes) == 0);
	char *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(address != MAP_FAILED);
	close(fd);
	return address;
}

/* Copies a source in extents that begin and end anywhere, the first page is left out. */
static void allPagesAndBytesAreThere(void)
{
	enum { EXTENTS = 40 };
	uint64_t sourceBytes = MANY_BYTES - 3 * PAGE_BYTES - 5, begin = PAGE_BYTES;
	unsigned char *source = malloc(sourceBytes), *resident = malloc(MANY_BYTES / PAGE_BYTES);
	struct mnnExtent extents[EXTENTS];
	uint64_t offset = 0;
	for (int number = 0; number < EXTENTS; number++) {
		/* An extent of no bytes, some small ones, and those that fill the rest. */
		uint64_t bytes = number < EXTENTS / 2
			? (uint64_t)number * 3
			: (sourceBytes - offset) / (uint64_t)(EXTENTS - number);
		extents[number] = (struct mnnExtent){offset, source + offset, bytes};
		offset += bytes;
	}
	CHECK(offset == sourceBytes);
	CHECK(source != NULL && resident != NULL);
	for (uint64_t index = 0; index < sourceBytes; index++)
		source[index] = (unsigned char)(index * 2654435761u >> 24);
	int before = threadsNow();
	for (uint32_t threads = 1; threads <= 100; threads = threads * 3 + 1) {
		char *target = mapped(MANY_BYTES, MANY_BYTES);
		CHECK(mnnReserve(target, begin, MANY_BYTES, extents, EXTENTS, threads, threads % 2) == 0);
		CHECK(memcmp(target + begin, source + begin, sourceBytes - begin) == 0);
		CHECK(mnnReserve(target, 0, begin, extents, EXTENTS, threads, 0) == 0);
		CHECK(memcmp(target, source, sourceBytes) == 0);
		for (uint64_t rest = sourceBytes; rest < MANY_BYTES; rest++)
			CHECK(target[rest] == 0);
		CHECK(mincore(target, MANY_BYTES, resident) == 0);
		for (uint64_t page = 0; page < MANY_BYTES / PAGE_BYTES; page++)
			CHECK(resident[page] & 1);
		munmap(target, MANY_BYTES);
	}
	/* A joined thread's entry in /proc may outlive the join by a moment. */
	for (int look = 0; look < 1000 && threadsNow() != before; look++)
		usleep(1000);
	CHECK(threadsNow() == before);
	free(source);
	free(resident);
}

static void whatCanNotBeHadIsAnError(void)
{
	char *target = mapped(MANY_BYTES / 2, MANY_BYTES);
	CHECK(mnnReserve(target, 0, MANY_BYTES, NULL, 0, 4, 0) < 0);
	munmap(target, MANY_BYTES);
}

int main(void)
{
	allPagesAndBytesAreThere();
	whatCanNotBeHadIsAnError();
	puts("reserve keeps its promises");
	return 0;
}
