/* The numbers that this library was compiled with, by name, for whoever compares
 * them with `muninn/control/layout.py` (tests/test_layout.py). */
#include <stddef.h>

#include "layout.h"

#define MNN_API __attribute__((visibility("default")))

_Static_assert(MNN_LAYOUT_VERSION_OFFSET + 4 <= MNN_ELECTION_OFFSET,
	"what the creator writes ends before the election word");
_Static_assert(MNN_ROW_TICKETS_OFFSET + MNN_TICKET_RING * 8 == MNN_ROW_HANDLE_OFFSET,
	"the handle comes after the ticket ring");
_Static_assert(sizeof MNN_MAGIC == MNN_VERSION_OFFSET - MNN_MAGIC_OFFSET + 1,
	"the magic ends where the version begins");

struct mnnNumber {
	const char *name; /* NULL: the table ends */
	uint64_t value;
};

#define NUMBER(name, value) {#name, (uint64_t)(value)},

extern MNN_API const struct mnnNumber mnnNumbers[];
const struct mnnNumber mnnNumbers[] = {MNN_LAYOUT(NUMBER){NULL, 0}};
