/* Descriptor server: hands descriptors out through a socket, on a thread of its own that needs no
 * interpreter.
 *
 * A process that opens memory without a name gets its descriptor here in two switches
 * of the processor, whatever the broker's process is busy with. The descriptor server knows nothing
 * of buffers: (row, incarnation) is a number to it, and the descriptors are its
 * owner's. What it does not have it says so, and its owner is asked another way.
 *
 * Everything that can fail returns 0 or a descriptor, or -errno. `put`, `take` and
 * `close` may be called by any thread of the process that opened it, one that is not
 * its child.
 */
#ifndef MUNINN_DESCRIPTORSERVER_H
#define MUNINN_DESCRIPTORSERVER_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MnnDescriptorServer MnnDescriptorServer;

/* Listen at `path`, which must not exist, mode 0600; only processes of this uid are
 * served. */
MNN_API int mnnDescriptorServerOpen(const char *path, MnnDescriptorServer **out);
/* Hand out duplicates of `fd` for (row, incarnation) from now on, and of none that
 * was there for that row before. -ENOMEM. */
MNN_API int mnnDescriptorServerPut(
	MnnDescriptorServer *descriptorServer, uint32_t row, uint64_t incarnation, int fd);
/* No more; when it returns, the thread does not use that descriptor. Of another
 * incarnation: nothing. */
MNN_API void mnnDescriptorServerTake(
	MnnDescriptorServer *descriptorServer, uint32_t row, uint64_t incarnation);
/* End the thread and every connection, and remove `path`. */
MNN_API void mnnDescriptorServerClose(MnnDescriptorServer *descriptorServer);

/* --- the other side
 * --------------------------------------------------------------------------------
 * A connection to the descriptor server at `path`: a close-on-exec descriptor that one thread at
 * a time may use. */
MNN_API int mnnDescriptorServerConnect(const char *path);
/* A close-on-exec duplicate of the descriptor of (row, incarnation). -ENOENT: the
 * descriptor server does not have it. After any other error the connection is to be closed:
 * -ETIMEDOUT, -EMFILE (this process may open no more), -EPIPE (the descriptor server is gone),
 * -EPROTO (that was no descriptor server). It looks for the answer for `spinNs` before it
 * sleeps. */
MNN_API int mnnDescriptorServerFetch(
	int connection, uint32_t row, uint64_t incarnation, int64_t spinNs, int64_t timeoutNs);

#ifdef __cplusplus
}
#endif
#endif
