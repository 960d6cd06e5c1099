/* The passes over rows: they count and find the right rows, and stay inside the given
 * memory. Run under AddressSanitizer and UndefinedBehaviorSanitizer by `make
 * test`. */
#define _GNU_SOURCE
#include "check.h"
#include "layout.h"
#include "rows.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 300, ROOM = 256, PAGE = 4096 };
static char *table;

static char *rowOf(uint32_t row) { return table + (size_t)row * MNN_ROW_BYTES; }

static void put64(uint32_t row, size_t offset, uint64_t value)
{
	memcpy(rowOf(row) + offset, &value, sizeof value);
}

static void make(uint32_t row, unsigned state, const char *name, const char *tenant, unsigned mode,
	uint64_t bytes)
{
	put64(row, MNN_ROW_STATE_OFFSET, 7ULL << 40 | state);
	put64(row, MNN_ROW_SIZE_OFFSET, bytes);
	put64(row, MNN_ROW_SEGMENT_BYTES_OFFSET, bytes);
	rowOf(row)[MNN_ROW_MODE_OFFSET] = (char)mode;
	rowOf(row)[MNN_ROW_NAME_LENGTH_OFFSET] = (char)strlen(name);
	rowOf(row)[MNN_ROW_TENANT_LENGTH_OFFSET] = (char)strlen(tenant);
	memcpy(rowOf(row) + MNN_ROW_NAME_OFFSET, name, strlen(name));
	memcpy(rowOf(row) + MNN_ROW_TENANT_OFFSET, tenant, strlen(tenant));
}

static void sumsWhatTakesMemory(void)
{
	uint64_t sums[2 * ROOM] = {0};
	uint8_t *marks = malloc(ROWS);
	CHECK(marks);
	memset(table, 0, (size_t)ROWS * MNN_ROW_BYTES);
	make(0, MNN_ROW_LIVE, "a", "t", 0, PAGE);
	make(3, MNN_ROW_PROBING, "b", "t", 0, PAGE);
	make(4, MNN_ROW_DYING, "c", "t", 0, PAGE);
	make(5, MNN_ROW_CREATING, "d", "t", 0, PAGE);
	make(6, MNN_ROW_DEAD, "e", "t", 0, PAGE);
	make(7, MNN_ROW_LIVE, "f", "u", 0, PAGE);
	make(8, MNN_ROW_LIVE, "g", "t", 1, PAGE);
	make(9, MNN_ROW_LIVE, "h", "t", 99, PAGE);
	make(10, MNN_ROW_LIVE, "i", "t", 0, UINT64_MAX);
	make(11, MNN_ROW_REPLACED, "a", "t", 0, PAGE);
	put64(7, MNN_ROW_DEADLINE_MS_OFFSET, 5);
	CHECK(mnnSumRows(table, ROWS, marks, sums, ROOM) == 3);
	uint64_t ofT = 0, ofU = 0, others = 0;
	for (int entry = 0; entry < ROOM; entry++) {
		uint64_t row = sums[2 * entry], sum = sums[2 * entry + 1];
		*(row == 1 ? &ofT : row == 8 ? &ofU : &others) += sum;
	}
	CHECK(ofT == 4 * PAGE && ofU == PAGE && others == PAGE);
	CHECK(marks[0] == MNN_MARK_COUNTED && marks[7] == (MNN_MARK_COUNTED | MNN_MARK_DEADLINE));
	CHECK(!marks[1] && !marks[5] && !marks[6] && !marks[9] && !marks[10]);
	free(marks);
}

static void saysWhenTheSumsAreTooMany(void)
{
	uint64_t sums[2 * ROOM] = {0}, *many = calloc(8 * ROOM, sizeof *many);
	uint8_t marks[ROWS];
	char tenant[8];
	CHECK(many);
	for (uint32_t row = 0; row < ROWS; row++) {
		snprintf(tenant, sizeof tenant, "t%u", row);
		make(row, MNN_ROW_LIVE, "a", tenant, 0, 1ULL << 62);
	}
	CHECK(mnnSumRows(table, ROWS, marks, sums, ROOM) == -ENOSPC);
	CHECK(mnnSumRows(table, ROWS, marks, many, 4 * ROOM) == ROWS);
	free(many);
	uint64_t one[8] = {0};
	for (uint32_t row = 0; row < ROWS; row++)
		make(row, MNN_ROW_LIVE, "a", "t00", 0, 1ULL << 62);
	CHECK(mnnSumRows(table, 7, marks, one, 4) >= 1);
	CHECK(one[1] == UINT64_MAX || one[3] == UINT64_MAX || one[5] == UINT64_MAX ||
		one[7] == UINT64_MAX);
}

static void findsANameThatCanBeOpened(void)
{
	memset(table, 0, (size_t)ROWS * MNN_ROW_BYTES);
	make(2, MNN_ROW_DYING, "wanted", "t", 0, PAGE);
	make(3, MNN_ROW_REPLACED, "wanted", "t", 0, PAGE);
	make(4, MNN_ROW_LIVE, "wanted!", "t", 0, PAGE);
	make(ROWS - 1, MNN_ROW_PROBING, "wanted", "t", 0, PAGE);
	CHECK(mnnFindName(table, ROWS, "wanted", 6) == ROWS - 1);
	CHECK(mnnFindName(table, ROWS - 1, "wanted", 6) == -1);
	CHECK(mnnFindName(table, ROWS, "wante", 5) == -1);
	char longest[200];
	memset(longest, 'x', sizeof longest);
	CHECK(mnnFindName(table, ROWS, longest, sizeof longest) == -1);
}

int main(void)
{
	table = calloc(ROWS, MNN_ROW_BYTES);
	CHECK(table);
	sumsWhatTakesMemory();
	saysWhenTheSumsAreTooMany();
	findsANameThatCanBeOpened();
	free(table);
	puts("the passes over rows keep their promises");
	return 0;
}
