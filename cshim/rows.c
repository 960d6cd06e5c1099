/* rows.h says what each function promises. */
#include "rows.h"
#include "layout.h"

#include <errno.h>
#include <string.h>

static const uint64_t MOST_BYTES = 1ULL << 62;

static uint64_t word(const char *row, size_t offset)
{
	uint64_t value;
	memcpy(&value, row + offset, sizeof value);
	return value;
}

static unsigned stateOf(const char *row)
{
	return (unsigned)(__atomic_load_n(
						  (const uint64_t *)(row + MNN_ROW_STATE_OFFSET), __ATOMIC_SEQ_CST) &
		MNN_ROW_STATE_MASK);
}

static int isInRange(const char *row)
{
	uint64_t bytes = word(row, MNN_ROW_SEGMENT_BYTES_OFFSET);
	return (uint8_t)row[MNN_ROW_MODE_OFFSET] < 2 &&
		(uint8_t)row[MNN_ROW_TENANT_LENGTH_OFFSET] <= MNN_MAX_TENANT_BYTES && bytes <= MOST_BYTES &&
		word(row, MNN_ROW_SIZE_OFFSET) <= bytes;
}

static int isWindow(const char *row)
{
	return (uint8_t)row[MNN_ROW_KIND_OFFSET] == MNN_ROW_KIND_WINDOW;
}

static int addToOneSum(const char *one, const char *other)
{
	return isWindow(one) == isWindow(other) &&
		one[MNN_ROW_MODE_OFFSET] == other[MNN_ROW_MODE_OFFSET] &&
		memcmp(one + MNN_ROW_GPU_OFFSET, other + MNN_ROW_GPU_OFFSET, 2) == 0 &&
		one[MNN_ROW_TENANT_LENGTH_OFFSET] == other[MNN_ROW_TENANT_LENGTH_OFFSET] &&
		memcmp(one + MNN_ROW_TENANT_OFFSET, other + MNN_ROW_TENANT_OFFSET,
			(uint8_t)one[MNN_ROW_TENANT_LENGTH_OFFSET]) == 0;
}

/* FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/). */
static uint32_t hashOf(const char *row)
{
	uint32_t hash = 2166136261u;
	uint32_t length = (uint8_t)row[MNN_ROW_TENANT_LENGTH_OFFSET];
	for (uint32_t index = 0; index < length; index++)
		hash = (hash ^ (uint8_t)row[MNN_ROW_TENANT_OFFSET + index]) * 16777619u;
	hash = (hash ^ (uint8_t)row[MNN_ROW_MODE_OFFSET]) * 16777619u;
	return (hash ^ (uint8_t)row[MNN_ROW_GPU_OFFSET]) * 16777619u;
}

int mnnSumRows(const void *rows, uint32_t count, uint8_t *marks, uint64_t *sums, uint32_t room)
{
	uint32_t used = 0;
	for (uint32_t index = 0; index < count; index++) {
		const char *row = (const char *)rows + (size_t)index * MNN_ROW_BYTES;
		unsigned state = stateOf(row);
		marks[index] = 0;
		if ((state != MNN_ROW_LIVE && state != MNN_ROW_PROBING && state != MNN_ROW_DYING &&
				state != MNN_ROW_REPLACED) ||
			!isInRange(row))
			continue;
		marks[index] = MNN_MARK_COUNTED |
			(word(row, MNN_ROW_DEADLINE_MS_OFFSET) ? MNN_MARK_DEADLINE : 0);
		uint32_t position = hashOf(row) & (room - 1);
		while (sums[2 * position] &&
			!addToOneSum(
				row, (const char *)rows + (size_t)(sums[2 * position] - 1) * MNN_ROW_BYTES))
			position = (position + 1) & (room - 1);
		if (!sums[2 * position]) {
			if (++used > room / 4 * 3)
				return -ENOSPC;
			sums[2 * position] = index + 1;
		}
		uint64_t sum = sums[2 * position + 1] + word(row, MNN_ROW_SEGMENT_BYTES_OFFSET);
		/* The sum may overflow: a creator wrote the sizes, and may have lied. */
		sums[2 * position + 1] = sum < sums[2 * position + 1] ? UINT64_MAX : sum;
	}
	return (int)used;
}

int64_t mnnFindName(const void *rows, uint32_t count, const char *name, uint32_t length)
{
	if (length > MNN_MAX_NAME_BYTES)
		return -1;
	for (uint32_t index = 0; index < count; index++) {
		const char *row = (const char *)rows + (size_t)index * MNN_ROW_BYTES;
		unsigned state = stateOf(row);
		if ((state == MNN_ROW_LIVE || state == MNN_ROW_PROBING) &&
			(uint8_t)row[MNN_ROW_NAME_LENGTH_OFFSET] == length &&
			memcmp(row + MNN_ROW_NAME_OFFSET, name, length) == 0)
			return index;
	}
	return -1;
}
