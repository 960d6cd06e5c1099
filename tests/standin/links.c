/* Links: what is between two devices of the host. Whether one reaches the other, which
 * copies go over the link itself, and what the link does to their bytes.
 *
 * cuInit reads STANDIN_P2P and STANDIN_LINKS, by index of the host; the links belong to
 * the process and stay as they are. A copy between two devices goes directly if a
 * device reaches both memories; only such a copy is slowed down or corrupted. Other
 * copies the driver stages by itself, or refuses.
 */
#define _GNU_SOURCE
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DAMAGE_UNIT = 64 << 10, DAMAGE = 0x55 };

static Link links[MAX_DEVICES][MAX_DEVICES];

/* --- the settings --- */

/* STANDIN_P2P: "full", "none", or a row of 0 and 1 per device. */
static bool peerSetting(int device, int peer)
{
	if (device == peer)
		return false;
	const char *text = getenv("STANDIN_P2P");
	if (!text || !*text || !strcmp(text, "full"))
		return true;
	if (!strcmp(text, "none"))
		return false;
	for (int row = 0; row < device && text; row++)
		text = (text = strchr(text, ',')) ? text + 1 : NULL;
	return text && (int)strcspn(text, ",") > peer && text[peer] == '1';
}

static bool takeText(const char **at, const char *expected)
{
	size_t length = strlen(expected);
	if (strncmp(*at, expected, length))
		return false;
	*at += length;
	return true;
}

static bool takeDevice(const char **at, int devices, int *device)
{
	size_t digits = strspn(*at, "0123456789");
	*device = atoi(*at);
	*at += digits;
	return digits && digits < 3 && *device < devices;
}

static bool takeRate(const char **at, uint64_t *rate)
{
	if (!strchr("123456789", **at))
		return false;
	*rate = bytesOf(*at, at);
	return *rate;
}

/* What an entry adds to its links. */
static bool takeKind(const char **at, Link *kind)
{
	if (takeText(at, "none"))
		kind->absent = true;
	else if (takeText(at, "refuse"))
		kind->refuses = true;
	else if (takeText(at, "corrupt"))
		kind->corrupts = true;
	else
		return takeText(at, "slow:") && takeRate(at, &kind->bytesPerSecond);
	return true;
}

static void add(int device, int peer, Link kind)
{
	Link *link = &links[device][peer];
	link->absent |= kind.absent;
	link->refuses |= kind.refuses;
	link->corrupts |= kind.corrupts;
	if (kind.bytesPerSecond)
		link->bytesPerSecond = kind.bytesPerSecond;
}

/* One entry: "0-1=none", "1>0=slow:200M". */
static bool takeEntry(const char **at, int devices)
{
	Link kind = {0};
	int device, peer;
	if (!takeDevice(at, devices, &device))
		return false;
	bool both = takeText(at, "-");
	if ((!both && !takeText(at, ">")) || !takeDevice(at, devices, &peer) || device == peer ||
		!takeText(at, "=") || !takeKind(at, &kind))
		return false;
	add(device, peer, kind);
	if (both)
		add(peer, device, kind);
	return true;
}

void linksRead(int devices)
{
	for (int i = 0; i < MAX_DEVICES; i++)
		for (int j = 0; j < MAX_DEVICES; j++)
			links[i][j].absent = !peerSetting(i, j);
	const char *text = getenv("STANDIN_LINKS"), *at = text;
	bool right = true, more = text && *text;
	while (right && more) {
		right = takeEntry(&at, devices);
		more = right && takeText(&at, ",");
	}
	if (right && (!text || !*at))
		return;
	fprintf(stderr,
		"standin: STANDIN_LINKS wants a-b=kind or a>b=kind,... of devices below %d, where kind is "
		"none, refuse, corrupt or slow:BYTES, not \"%s\" (from \"%s\")\n",
		devices, text, at);
	abort();
}

const Link *linkOf(int device, int peer) { return &links[device][peer]; }

/* --- which copies go over a link --- */

bool reaches(int device, const Mapping *mapping, bool write)
{
	int needed = write ? 3 : 1;
	if (mapping->kind == KIND_VMM)
		return (mapping->access[device] & needed) == needed;
	int home = deviceOrdinal(mapping->physical->device);
	return home == device || (mapping->kind == KIND_IPC && mapping->context->device == device) ||
		(home >= 0 && contextsReach(device, home));
}

static bool anyReaches(const Mapping *to, const Mapping *from)
{
	for (int i = 0; i < driver.deviceCount; i++)
		if (reaches(i, to, true) && reaches(i, from, false))
			return true;
	return false;
}

static bool isOnDevice(const Mapping *mapping)
{
	return mapping && mapping->physical && mapping->kind != KIND_MANAGED;
}

/* The number of bytes, at most `bytes`, that are in both mappings from these addresses
 * on. */
static uint64_t common(
	const Mapping *to, uint64_t target, const Mapping *from, uint64_t source, uint64_t bytes)
{
	uint64_t inTarget = to->base + to->bytes - target, inSource = from->base + from->bytes - source;
	uint64_t least = inTarget < inSource ? inTarget : inSource;
	return least < bytes ? least : bytes;
}

bool linkForbids(uint64_t target, uint64_t source, uint64_t bytes, int device)
{
	bool forbidden = false;
	pthread_mutex_lock(&memoryLock);
	while (bytes && !forbidden) {
		Mapping *to = mappingFind(target), *from = mappingFind(source);
		if (isOnDevice(to) != isOnDevice(from)) { /* the other side is the host's */
			Mapping *there = isOnDevice(to) ? to : from;
			forbidden = device >= 0 && there->kind == KIND_VMM &&
				!reaches(device, there, there == to);
			break;
		}
		if (!to || !from)
			break;
		if (isOnDevice(to) && isOnDevice(from) && to->physical->device != from->physical->device)
			forbidden = device >= 0 &&
				((to->kind == KIND_VMM && !reaches(device, to, true)) ||
					(from->kind == KIND_VMM && !reaches(device, from, false)));
		else if (to->kind == KIND_VMM && from->kind == KIND_VMM)
			forbidden = !anyReaches(to, from) ||
				(device >= 0 && !reaches(device, to, false) && !reaches(device, from, false));
		uint64_t part = common(to, target, from, source, bytes);
		target += part;
		source += part;
		bytes -= part;
	}
	pthread_mutex_unlock(&memoryLock);
	return forbidden;
}

Path linkPath(uint64_t target, uint64_t source, uint64_t bytes)
{
	Path path = {.bytes = bytes};
	pthread_mutex_lock(&memoryLock);
	Mapping *to = mappingFind(target), *from = mappingFind(source);
	if (isOnDevice(to) && isOnDevice(from) && to->physical->device != from->physical->device) {
		path.between = true;
		path.from = from->physical->device;
		path.to = to->physical->device;
		path.bytes = common(to, target, from, source, bytes);
		path.link = anyReaches(to, from) ? linkOf(path.from, path.to) : NULL;
	}
	pthread_mutex_unlock(&memoryLock);
	return path;
}

/* --- what a link does to bytes --- */

void linkAwait(const Path *path)
{
	if (!path->link || !path->link->bytesPerSecond)
		return;
	double seconds = (double)path->bytes / (double)path->link->bytesPerSecond;
	struct timespec wait = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, &wait))
		; /* interrupted: `wait` is what is left */
}

/* The damage is added, so that a corrupting way back does not undo it. */
void linkDamage(const Path *path, char *arrived, uint64_t bytes)
{
	if (!path->link || !path->link->corrupts)
		return;
	for (uint64_t at = 0; at < bytes; at += DAMAGE_UNIT) {
		uint64_t left = bytes - at, unit = left < DAMAGE_UNIT ? left : DAMAGE_UNIT;
		arrived[at + unit / 2] = (char)(arrived[at + unit / 2] + DAMAGE);
	}
}
