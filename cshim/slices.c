/* slices.h says what the function promises. The comments here give reasons. */
#include "slices.h"

#include <string.h>

void mnnCompareSlices(
	const void *one, const void *other, uint64_t bytes, uint64_t sliceBytes, uint8_t *flags)
{
	const char *first = one, *second = other;
	for (uint64_t slice = 0, begin = 0; begin < bytes; slice++, begin += sliceBytes) {
		uint64_t left = bytes - begin;
		if (memcmp(first + begin, second + begin, left < sliceBytes ? left : sliceBytes) != 0)
			flags[slice] = 1;
	}
}
