/* CPU references of Muninn's kernels in C, for programs that do not register references
 * of their own: STANDIN_REFERENCES names this library.
 *
 * They compute the same as `muninn/kernels/references.py`; `tests/cuda/test_kernels.py`
 * compares the two. An array of Numba is seven parameters: the third is its length, the
 * fourth the size of an element and the fifth its address. Each number of a tuple is one.
 */
#include <stdint.h>
#include <string.h>

typedef struct {
	const char *name;
	unsigned grid[3], block[3], sharedBytes;
	int parameterCount;
	void **parameters;
	const unsigned *parameterBytes;
	void *stream;
} Launch;

typedef int (*Reference)(const Launch *launch, void *data);
extern int standinRegisterKernel(const char *part, Reference reference, void *data);
extern void *standinHostPointer(uint64_t address, uint64_t bytes, int write);

enum { LAUNCH_FAILED = 719, COUNT = 2, SIZE = 3, DATA = 4, ARRAY = 7 };

/* A kernel reads and writes nothing of an empty array, wherever that is. */
static void *hostPointer(uint64_t address, uint64_t bytes, int write)
{
	static uint64_t nothing;
	return bytes ? standinHostPointer(address, bytes, write) : &nothing;
}

typedef struct {
	uint64_t *words, count;
} Array;

static uint64_t value(const Launch *launch, int index)
{
	uint64_t made = 0;
	memcpy(&made, launch->parameters[index], launch->parameterBytes[index]);
	return made;
}

static Array array(const Launch *launch, int first, int write)
{
	uint64_t count = value(launch, first + COUNT);
	return (Array){
		hostPointer(value(launch, first + DATA), count * sizeof(uint64_t), write), count};
}

static uint64_t mixed(uint64_t value)
{
	value += 0x9E3779B97F4A7C15ull;
	value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
	value = (value ^ value >> 27) * 0x94D049BB133111EBull;
	return value ^ value >> 31;
}

static int readSum(const Launch *launch, void *unused)
{
	(void)unused;
	Array data = array(launch, 0, 0), result = array(launch, ARRAY, 1);
	if (!data.words || !result.words)
		return LAUNCH_FAILED;
	uint64_t sum = 0;
	for (uint64_t i = 0; i < data.count; i++)
		sum += data.words[i];
	result.words[0] += sum;
	return 0;
}

static int copyElements(const Launch *launch, void *unused)
{
	(void)unused;
	Array target = array(launch, 0, 1), source = array(launch, ARRAY, 0);
	if (!target.words || !source.words)
		return LAUNCH_FAILED;
	memcpy(target.words, source.words, source.count * sizeof(uint64_t));
	return 0;
}

enum { AXES = 9 };

static void axes(const Launch *launch, int first, uint64_t made[AXES])
{
	for (int axis = 0; axis < AXES; axis++)
		made[axis] = value(launch, first + axis);
}

/* The arrays of these two have words of any size, so they are not `Array`s. */
static int packElements(const Launch *launch, void *unused)
{
	enum { BEGIN = 2 * ARRAY, FIRST, LENGTHS, STRIDES = LENGTHS + AXES };
	(void)unused;
	uint64_t begin = value(launch, BEGIN), first = value(launch, FIRST);
	uint64_t lengths[AXES], strides[AXES];
	axes(launch, LENGTHS, lengths);
	axes(launch, STRIDES, strides);
	uint64_t count = value(launch, COUNT), size = value(launch, SIZE);
	uint64_t span = value(launch, ARRAY + COUNT);
	unsigned char *target = hostPointer(value(launch, DATA), count * size, 1);
	const unsigned char *source = hostPointer(value(launch, ARRAY + DATA), span * size, 0);
	if (!target || !source || value(launch, ARRAY + SIZE) != size)
		return LAUNCH_FAILED;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t rest = begin + i, place = first;
		for (int axis = AXES - 1; axis > 0; axis--) {
			place += rest % lengths[axis] * strides[axis];
			rest /= lengths[axis];
		}
		place += rest * strides[0];
		if (place >= span)
			return LAUNCH_FAILED;
		memcpy(target + i * size, source + place * size, size);
	}
	return 0;
}

static int packTransposed(const Launch *launch, void *unused)
{
	enum { FIRST = 2 * ARRAY, LENGTHS, STRIDES = LENGTHS + AXES, TARGETS = STRIDES + AXES };
	(void)unused;
	uint64_t first = value(launch, FIRST);
	uint64_t lengths[AXES], strides[AXES], targets[AXES];
	axes(launch, LENGTHS, lengths);
	axes(launch, STRIDES, strides);
	axes(launch, TARGETS, targets);
	uint64_t count = value(launch, COUNT), size = value(launch, SIZE);
	uint64_t span = value(launch, ARRAY + COUNT);
	unsigned char *target = hostPointer(value(launch, DATA), count * size, 1);
	const unsigned char *source = hostPointer(value(launch, ARRAY + DATA), span * size, 0);
	if (!target || !source || value(launch, ARRAY + SIZE) != size)
		return LAUNCH_FAILED;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t rest = i, from = first, to = 0;
		for (int axis = AXES - 1; axis >= 0; axis--) {
			from += rest % lengths[axis] * strides[axis];
			to += rest % lengths[axis] * targets[axis];
			rest /= lengths[axis];
		}
		if (from >= span || to >= count)
			return LAUNCH_FAILED;
		memcpy(target + to * size, source + from * size, size);
	}
	return 0;
}

static int fillPattern(const Launch *launch, void *unused)
{
	(void)unused;
	Array data = array(launch, 0, 1);
	if (!data.words)
		return LAUNCH_FAILED;
	uint64_t seed = value(launch, ARRAY);
	for (uint64_t i = 0; i < data.count; i++)
		data.words[i] = mixed(seed + i);
	return 0;
}

static int countMismatches(const Launch *launch, void *unused)
{
	(void)unused;
	Array data = array(launch, 0, 0), result = array(launch, ARRAY + 1, 1);
	if (!data.words || !result.words)
		return LAUNCH_FAILED;
	uint64_t seed = value(launch, ARRAY), wrong = 0;
	for (uint64_t i = 0; i < data.count; i++)
		wrong += data.words[i] != mixed(seed + i);
	result.words[0] += wrong;
	return 0;
}

/* The flags have bytes, so they are no `Array`. */
static int compareSlices(const Launch *launch, void *unused)
{
	enum { ELEMENTS = 2 * ARRAY, FLAGS };
	(void)unused;
	Array scratch = array(launch, 0, 0), base = array(launch, ARRAY, 0);
	uint64_t elements = value(launch, ELEMENTS), count = value(launch, FLAGS + COUNT);
	unsigned char *flags = hostPointer(value(launch, FLAGS + DATA), count, 1);
	if (!scratch.words || !base.words || !flags || !elements || base.count < scratch.count)
		return LAUNCH_FAILED;
	for (uint64_t i = 0; i < scratch.count; i++) {
		if (scratch.words[i] == base.words[i])
			continue;
		if (i / elements >= count)
			return LAUNCH_FAILED;
		flags[i / elements] = 1;
	}
	return 0;
}

/* Slices that follow each other in one array, and lie at their positions in the other. */
static int moveSlices(const Launch *launch, int packedAt, int looseAt)
{
	enum { ELEMENTS = 2 * ARRAY, POSITIONS };
	Array packed = array(launch, packedAt, !packedAt), loose = array(launch, looseAt, !looseAt);
	Array positions = array(launch, POSITIONS, 0);
	uint64_t elements = value(launch, ELEMENTS);
	if (!packed.words || !loose.words || !positions.words)
		return LAUNCH_FAILED;
	for (uint64_t j = 0; j < positions.count; j++) {
		uint64_t from = j * elements, to = positions.words[j] * elements, count = elements;
		if (from >= packed.count || to >= loose.count)
			return LAUNCH_FAILED;
		if (count > packed.count - from)
			count = packed.count - from;
		if (count > loose.count - to)
			count = loose.count - to;
		if (packedAt)
			memcpy(loose.words + to, packed.words + from, count * sizeof(uint64_t));
		else
			memcpy(packed.words + from, loose.words + to, count * sizeof(uint64_t));
	}
	return 0;
}

static int copyMarked(const Launch *launch, void *unused)
{
	enum { SLICE = 2 * ARRAY, FLAGS };
	(void)unused;
	Array target = array(launch, 0, 1), source = array(launch, ARRAY, 0);
	uint64_t slice = value(launch, SLICE), count = value(launch, FLAGS + COUNT);
	const unsigned char *flags = hostPointer(value(launch, FLAGS + DATA), count, 0);
	if (!target.words || !source.words || !flags)
		return LAUNCH_FAILED;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t begin = i * slice, left = source.count > begin ? source.count - begin : 0;
		if (flags[i])
			memcpy(target.words + begin, source.words + begin,
				(left < slice ? left : slice) * sizeof(uint64_t));
	}
	return 0;
}

static int gatherSlices(const Launch *launch, void *unused)
{
	(void)unused;
	return moveSlices(launch, 0, ARRAY);
}

static int scatterSlices(const Launch *launch, void *unused)
{
	(void)unused;
	return moveSlices(launch, ARRAY, 0);
}

void standinReferences(void)
{
	standinRegisterKernel("readSum", readSum, NULL);
	standinRegisterKernel("copyElements", copyElements, NULL);
	standinRegisterKernel("packElements", packElements, NULL);
	standinRegisterKernel("packTransposed", packTransposed, NULL);
	standinRegisterKernel("fillPattern", fillPattern, NULL);
	standinRegisterKernel("countMismatches", countMismatches, NULL);
	standinRegisterKernel("compareSlices", compareSlices, NULL);
	standinRegisterKernel("copyMarked", copyMarked, NULL);
	standinRegisterKernel("gatherSlices", gatherSlices, NULL);
	standinRegisterKernel("scatterSlices", scatterSlices, NULL);
}
