/* Leases: a scan of the lease words of all members in one call.
 *
 * A domain has up to 4,094 areas of lease words. With one call per area, the
 * interpreter would cost more than the memory. The scan only reads. No policy, no
 * allocation, no globals; preconditions as in primitives.h.
 */
#ifndef MUNINN_LEASES_H
#define MUNINN_LEASES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MNN_API __attribute__((visibility("default")))

/* One lease that holds a row, as the scan saw it: 24 bytes without a gap. */
struct mnnLease {
	uint32_t slot;
	uint32_t position;
	uint64_t hold;
	uint64_t expiry;
};

/* The leases on one buffer: where leases are, and by what those are told from others. */
struct mnnHolds {
	const char *block;
	uint64_t areasOffset, areaBytes;
	uint32_t maxMembers, maxLeases;
	uint64_t mask, value;
};

/* Count the lease words that hold a row and for which (word & mask) == value, and store
 * the first `outMax` of them. The scan covers the areas of all members whose slot is
 * not FREE, each up to `leaseHigh`, the highest position that was ever used there.
 * `block` is the control block, and the four numbers are those of its geometry. Each
 * load is SeqCst: first the state of the slot, then leaseHigh, then the words. The scan
 * as a whole is no snapshot. `out` may be NULL when `outMax` is 0. */
MNN_API uint32_t mnnScanLeases(const char *block, uint64_t areasOffset, uint64_t areaBytes,
	uint32_t maxMembers, uint32_t maxLeases, uint64_t mask, uint64_t value, struct mnnLease *out,
	uint32_t outMax);

#ifdef __cplusplus
}
#endif
#endif
