/* Calls: the first step of every entry point. It writes a line to STANDIN_LOG, refuses
 * callers that may not make this call, and injects the faults of STANDIN_FAULTS.
 *
 * The counters of the faults belong to the process: "n-th call" is the n-th call of
 * this process since its start. Nothing here outlives the process.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Thread_local bool inHostFunction;

enum { MAX_FAULTS = 32 };
static struct {
	char name[64];
	int code;
	long nth;
	_Atomic long seen;
} faults[MAX_FAULTS];
static int faultCount;
static int logFd = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void readSettings(void)
{
	const char *path = getenv("STANDIN_LOG");
	if (path && *path)
		logFd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	const char *at = getenv("STANDIN_FAULTS");
	while (at && *at && faultCount < MAX_FAULTS) {
		int used = 0;
		if (sscanf(at, "%63[^:,]:%d:%ld%n", faults[faultCount].name, &faults[faultCount].code,
				&faults[faultCount].nth, &used) < 3) {
			fprintf(stderr, "standin: STANDIN_FAULTS wants name:code:nth,..., not \"%s\"\n", at);
			abort();
		}
		faultCount++;
		at += used;
		if (*at == ',')
			at++;
	}
}

/* "cuMemAlloc" and "cuMemAlloc_v2" both name cuMemAlloc_v2. */
static bool sameName(const char *asked, const char *name)
{
	size_t length = strlen(asked);
	return !strncmp(asked, name, length) &&
		(name[length] == 0 || (name[length] == '_' && name[length + 1] == 'v'));
}

static void writeLine(const char *name, const char *format, va_list arguments)
{
	char line[512];
	int used = snprintf(line, sizeof line, "%llu %d %ld %s(", (unsigned long long)nowNs(), getpid(),
		syscall(SYS_gettid), name);
	used += vsnprintf(line + used, sizeof line - (size_t)used - 2, format, arguments);
	if (used > (int)sizeof line - 3)
		used = sizeof line - 3;
	line[used++] = ')';
	line[used++] = '\n';
	if (write(logFd, line, (size_t)used) < 0)
		return; /* the call goes on, even if its log line can not be written */
}

CUresult callBegin(const char *name, Need need, const char *format, ...)
{
	pthread_once(&once, readSettings);
	if (logFd >= 0) {
		va_list arguments;
		va_start(arguments, format);
		writeLine(name, format, arguments);
		va_end(arguments);
	}
	for (int i = 0; i < faultCount; i++)
		if (sameName(faults[i].name, name) &&
			atomic_fetch_add(&faults[i].seen, 1) + 1 == faults[i].nth)
			return faults[i].code;
	if (inHostFunction && need == NEEDS_INIT)
		return NOT_PERMITTED;
	if (driver.forked || (need && !driver.ready))
		return NOT_INITIALIZED;
	CHECK(captureRefuses(name));
	freeingAwait(name);
	return OK;
}

void logLine(const char *format, ...)
{
	if (logFd < 0)
		return;
	va_list arguments;
	va_start(arguments, format);
	writeLine("standin", format, arguments);
	va_end(arguments);
}

uint64_t bytesOf(const char *text, const char **end)
{
	char *after;
	uint64_t value = strtoull(text, &after, 0);
	const char *units = "KMG";
	const char *unit = *after ? strchr(units, *after) : NULL;
	*end = unit ? after + 1 : after;
	return unit ? value << (10 * (unit - units + 1)) : value;
}

uint64_t settingBytes(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name), *end;
	return text && *text ? bytesOf(text, &end) : otherwise;
}

uint64_t nowNs(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t freshNonce(void)
{
	uint64_t value = 0;
	while (value == 0)
		if (getrandom(&value, sizeof value, 0) != sizeof value)
			value = nowNs() ^ ((uint64_t)getpid() << 40);
	return value;
}
