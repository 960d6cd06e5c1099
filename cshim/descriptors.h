/* A new descriptor, made ours: never 0, 1 or 2, to which C libraries print whatever is
 * there, and marked, so that it is told from what a program opens under the same number
 * later.
 *
 * The mark is F_SETSIG of the last real-time signal. Nothing asks for that signal
 * (O_ASYNC), and no other property of an open file goes with every kind of it. Include
 * after _GNU_SOURCE.
 */
#ifndef MUNINN_DESCRIPTORS_H
#define MUNINN_DESCRIPTORS_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { MNN_MARK = 64 };

/* `fd` is what the call that made it returned: -1 becomes -errno. Returns the number
 * that it has from now on; or -errno, and then it is closed. */
static inline int mnnOwned(int fd)
{
	enum { FIRST = STDERR_FILENO + 1 };
	if (fd < 0)
		return -errno;
	if (fd < FIRST) {
		int low = fd;
		fd = fcntl(low, F_DUPFD_CLOEXEC, FIRST);
		int error = errno;
		close(low);
		if (fd < 0)
			return -error;
	}
	fcntl(fd, F_SETSIG, MNN_MARK); /* where that can not be, the inode alone must do */
	return fd;
}

static inline int mnnIsMarked(int fd) { return fcntl(fd, F_GETSIG) == MNN_MARK; }

/* Close it, unless the program has closed it and opened something else under its
 * number. */
static inline void mnnCloseOwn(int fd)
{
	if (mnnIsMarked(fd))
		close(fd);
}

#endif
