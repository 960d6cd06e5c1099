/* Descriptors: each descriptor of Muninn has a number above 2, and a mark.
 *
 * C libraries print to 0, 1 and 2, whatever file is open there. And a program may close
 * a number that is not its own, and open another file under it: that file has no mark.
 *
 * The mark is F_SETSIG with the last real-time signal. The signal is never sent,
 * because O_ASYNC is not set. F_SETSIG is the only property that every kind of open
 * file has and that other code does not use. Include this file after _GNU_SOURCE.
 */
#ifndef MUNINN_DESCRIPTORS_H
#define MUNINN_DESCRIPTORS_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { MNN_MARK = 64 };

/* Move a new descriptor above 2, and mark it. `fd` is the result of the call that
 * opened it: -1 becomes -errno. Returns the number that it has from now on; or -errno,
 * and then it is closed. */
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
	fcntl(fd, F_SETSIG, MNN_MARK); /* if it fails, only the inode identifies the file */
	return fd;
}

static inline int mnnIsMarked(int fd) { return fcntl(fd, F_GETSIG) == MNN_MARK; }

/* Close the descriptor, unless the program has closed it and opened another file under
 * its number. */
static inline void mnnCloseOwn(int fd)
{
	if (mnnIsMarked(fd))
		close(fd);
}

#endif
