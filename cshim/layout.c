/* The numbers of the layout that this library was compiled with, by name.
 * tests/test_layout.py compares them with `muninn/control/layout.py`. */
#include <stddef.h>

#include "layout.h"

#define MNN_API __attribute__((visibility("default")))

_Static_assert(MNN_LAYOUT_VERSION_OFFSET + 4 <= MNN_ELECTION_OFFSET,
	"the words of the creator end before the election word");
_Static_assert(MNN_ROW_TICKETS_OFFSET + MNN_TICKET_RING * 8 == MNN_ROW_HANDLE_OFFSET,
	"the handle comes after the ticket ring");
_Static_assert(sizeof MNN_MAGIC == MNN_VERSION_OFFSET - MNN_MAGIC_OFFSET + 1,
	"the magic ends where the version begins");

struct mnnNumber {
	const char *name; /* NULL: the end of the table */
	uint64_t value;
};

#define NUMBER(name, value) {#name, (uint64_t)(value)},

extern MNN_API const struct mnnNumber mnnNumbers[];
const struct mnnNumber mnnNumbers[] = {MNN_LAYOUT(NUMBER){NULL, 0}};
