/* leases.h says what the function promises. */
#include "leases.h"

#include "layout.h"

static const uint64_t ROW_MASK = MNN_LEASE_ROW_MASK;

static uint64_t load64(const char *address)
{
	return __atomic_load_n((const uint64_t *)address, __ATOMIC_SEQ_CST);
}
static uint32_t load32(const char *address)
{
	return __atomic_load_n((const uint32_t *)address, __ATOMIC_SEQ_CST);
}

uint32_t mnnScanLeases(const char *block, uint64_t areasOffset, uint64_t areaBytes,
	uint32_t maxMembers, uint32_t maxLeases, uint64_t mask, uint64_t value, struct mnnLease *out,
	uint32_t outMax)
{
	uint32_t found = 0;
	for (uint32_t slot = 0; slot < maxMembers; slot++) {
		const char *member = block + MNN_MEMBERS_OFFSET + (uint64_t)slot * MNN_MEMBER_BYTES;
		/* The area of a slot that was never LIVE is a hole in the file, and its
		 * leaseHigh is 0. A value beyond the area is not believed. */
		if ((load64(member + MNN_MEMBER_STATE_OFFSET) & MNN_MEMBER_STATE_MASK) == MNN_MEMBER_FREE)
			continue;
		uint32_t high = load32(member + MNN_MEMBER_LEASE_HIGH_OFFSET);
		const char *lease = block + areasOffset + slot * areaBytes;
		for (uint32_t position = 0; position < high && position < maxLeases;
			position++, lease += MNN_LEASE_BYTES) {
			uint64_t hold = load64(lease + MNN_LEASE_HOLD_OFFSET);
			if ((hold & ROW_MASK) == 0 || (hold & mask) != value)
				continue;
			if (found < outMax)
				out[found] = (struct mnnLease){
					slot, position, hold, load64(lease + MNN_LEASE_EXPIRY_OFFSET)};
			found++;
		}
	}
	return found;
}
