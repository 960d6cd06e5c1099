/* Lease words of all members in one call: a domain has up to 4,094 areas of them, and
 * to find them one area at a time costs the interpreter more than the memory.
 *
 * Only reads. Owns nothing: no policy, no allocation, no globals; preconditions as in
 * primitives.h.
 */
#ifndef MUNINN_LEASES_H
#define MUNINN_LEASES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MNN_API __attribute__((visibility("default")))

/* One held lease slot, as it was seen: 24 bytes without a gap. */
struct mnnLease {
	uint32_t slot;
	uint32_t position;
	uint64_t hold;
	uint64_t expiry;
};

/* Count the lease words that hold a row and for which (word & mask) == value, in the
 * areas of all members whose slot is not FREE, each as far as its leases ever went;
 * store the first `outMax` of them. `block` is the control block, and the four
 * numbers are those of its geometry. Each load is SeqCst, the slot's state first,
 * then leaseHigh, then the words; the scan as a whole is no snapshot. `out` may be
 * NULL when `outMax` is 0. */
MNN_API uint32_t mnnScanLeases(const char *block, uint64_t areasOffset, uint64_t areaBytes,
	uint32_t maxMembers, uint32_t maxLeases, uint64_t mask, uint64_t value, struct mnnLease *out,
	uint32_t outMax);

#ifdef __cplusplus
}
#endif
#endif
