/* Slices: those that differ are marked, and no other byte is read or written. Run under
 * AddressSanitizer and UndefinedBehaviorSanitizer by `make test`. */
#define _GNU_SOURCE
#include "check.h"
#include "slices.h"

#include <string.h>

/* Memory that ends with its last byte, so that the sanitizer sees one that is read
 * beyond it. */
static char *filled(uint64_t bytes)
{
	char *made = malloc(bytes ? bytes : 1);
	CHECK(made);
	for (uint64_t at = 0; at < bytes; at++)
		made[at] = (char)at;
	return made;
}

static void marksTheSlicesThatDiffer(uint64_t bytes, uint64_t sliceBytes)
{
	uint64_t slices = bytes / sliceBytes + (bytes % sliceBytes != 0);
	char *one = filled(bytes), *other = filled(bytes);
	uint8_t *flags = calloc(slices ? slices : 1, 1);
	CHECK(flags);
	mnnCompareSlices(one, other, bytes, sliceBytes, flags);
	for (uint64_t slice = 0; slice < slices; slice++)
		CHECK(flags[slice] == 0);
	/* Each byte by itself: the first and the last of a slice, too. */
	for (uint64_t at = 0; at < bytes; at++) {
		other[at] ^= 0x40;
		memset(flags, 0, slices);
		mnnCompareSlices(one, other, bytes, sliceBytes, flags);
		for (uint64_t slice = 0; slice < slices; slice++)
			CHECK(flags[slice] == (slice == at / sliceBytes));
		other[at] ^= 0x40;
	}
	free(one);
	free(other);
	free(flags);
}

static void leavesTheOtherFlags(void)
{
	char one[8] = "aaaabbb", other[8] = "aaaabbc";
	uint8_t flags[3] = {7, 0, 9};
	mnnCompareSlices(one, other, 8, 4, flags);
	CHECK(flags[0] == 7 && flags[1] == 1 && flags[2] == 9);
}

static void takesSlicesOfAnyLength(void)
{
	char one[3] = {1, 2, 3}, other[3] = {1, 2, 4};
	uint8_t flag = 0;
	mnnCompareSlices(one, other, 3, UINT64_MAX, &flag);
	CHECK(flag == 1);
	flag = 0;
	mnnCompareSlices(one, other, 0, 1, &flag);
	CHECK(flag == 0);
}

int main(void)
{
	const uint64_t lengths[] = {1, 7, 8, 9, 16, 100};
	for (size_t number = 0; number < sizeof lengths / sizeof *lengths; number++)
		for (uint64_t sliceBytes = 1; sliceBytes <= lengths[number] + 1; sliceBytes++)
			marksTheSlicesThatDiffer(lengths[number], sliceBytes);
	leavesTheOtherFlags();
	takesSlicesOfAnyLength();
	puts("the comparison of slices keeps its promises");
	return 0;
}
