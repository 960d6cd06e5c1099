/* A libnvidia-ml.so.1 for the stand-in driver: it tells the heat and the power of GPUs as
 * a file says them, and nothing else. Apart from the driver's library, so that only the
 * programs that look for it find it.
 *
 * STANDIN_HEAT names the file, which is read at each call: a line for each GPU, with its
 * number, the temperature and the one of the slowdown in degrees C, the power and its
 * limit in milliwatts, and the bits of the clocks' event reasons. "-" for a number is a
 * fact that NVML does not have: NVML_ERROR_NOT_SUPPORTED. A GPU is named by its PCI
 * address: the stand-in's device N is on bus N + 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { HEAT, SLOWDOWN, POWER, LIMIT, REASONS, FACTS };

struct temperature {
	unsigned version;
	unsigned sensorType;
	int temperature;
};

static int fact(void *device, int wanted, long *value)
{
	const char *path = getenv("STANDIN_HEAT");
	FILE *file = path == NULL ? NULL : fopen(path, "r");
	if (file == NULL) {
		return NOT_SUPPORTED;
	}
	int answer = NOT_SUPPORTED;
	long gpu = (long)device - 1, number;
	char words[FACTS][32];
	while (fscanf(file, "%ld %31s %31s %31s %31s %31s", &number, words[0], words[1], words[2],
			   words[3], words[4]) == 1 + FACTS) {
		if (number == gpu && strcmp(words[wanted], "-") != 0) {
			*value = strtol(words[wanted], NULL, 0);
			answer = SUCCESS;
		}
	}
	fclose(file);
	return answer;
}

static int unsignedFact(void *device, int wanted, unsigned *value)
{
	long found = 0;
	int answer = fact(device, wanted, &found);
	*value = (unsigned)found;
	return answer;
}

EXPORT int nvmlInit_v2(void) { return SUCCESS; }

EXPORT const char *nvmlErrorString(int code)
{
	return code == NOT_SUPPORTED ? "Not Supported"
		: code == NOT_FOUND      ? "Not Found"
								 : "Unknown Error";
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *busId, void **device)
{
	unsigned domain, bus;
	if (sscanf(busId, "%x:%x:", &domain, &bus) != 2 || bus == 0) {
		return NOT_FOUND;
	}
	*device = (void *)(long)bus; /* NULL is no handle */
	return SUCCESS;
}

EXPORT int nvmlDeviceGetTemperatureV(void *device, struct temperature *told)
{
	long found = 0;
	int answer = fact(device, HEAT, &found);
	told->temperature = (int)found;
	return answer;
}

EXPORT int nvmlDeviceGetTemperatureThreshold(void *device, int type, unsigned *value)
{
	return type == 1 ? unsignedFact(device, SLOWDOWN, value) : INVALID_ARGUMENT;
}

EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned *value)
{
	return unsignedFact(device, POWER, value);
}

EXPORT int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *value)
{
	return unsignedFact(device, LIMIT, value);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *value)
{
	long found = 0;
	int answer = fact(device, REASONS, &found);
	*value = (unsigned long long)found;
	return answer;
}
