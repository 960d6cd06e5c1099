/* Descriptor server: a thread of the broker's process that gives out descriptors
 * through a socket. It runs no Python, so it answers while the interpreter is busy.
 *
 * A process that opens memory without a name (fastMode) needs a descriptor of it. It
 * gets one here in two context switches, whatever the broker's process computes:
 *
 * 1. The broker opens the server at a path of its own epoch, before it announces that
 *    it listens. It calls `put` when a row gets its memory, and `take` before it closes
 *    that descriptor.
 * 2. A client connects once, and keeps the connection. The server accepts only
 *    processes of its own uid.
 * 3. The client sends one packet {row, incarnation}. The server looks up the row's
 *    entry. If the incarnation is the same, and the number still is the file that was
 *    put, it sends one packet {0} with a duplicate of the descriptor. Otherwise it
 *    sends {-ENOENT}, and the client asks the broker itself.
 * 4. A packet of another length, or a client that does not receive, ends its
 *    connection.
 * 5. `close` ends the thread first, and then closes the connections. Clients see the
 *    end of the connection, and ask the next broker.
 *
 * The server does not know what a buffer is. It compares (row, incarnation) as numbers,
 * and never closes a descriptor that was put. A mutex covers the entries, and is held
 * while the answer is sent: so after `take` returns, no answer uses the descriptor.
 *
 * A stale answer costs a reopening: a client that gets the descriptor of a row that is
 * freed at this moment finds out when it uses its lease, as any other opener does.
 *
 * If the program closes a descriptor of the server, the number may lead to another
 * file. So the server checks its mark (descriptors.h) before it uses a number. If the
 * epoll descriptor is gone, the thread ends, and clients get no answer until their
 * timeout.
 *
 * Functions that can fail return 0 or a descriptor, or -errno. Any thread of the
 * process that opened the server may call `put`, `take` and `close`; a forked child
 * must not.
 */
#ifndef MUNINN_DESCRIPTORSERVER_H
#define MUNINN_DESCRIPTORSERVER_H

#include "primitives.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MnnDescriptorServer MnnDescriptorServer;

/* Listen at `path`, which must not exist; the socket gets mode 0600. */
MNN_API int mnnDescriptorServerOpen(const char *path, MnnDescriptorServer **out);
/* From now on, give out duplicates of `fd` for (row, incarnation). It replaces an
 * earlier descriptor of that row. -ENOMEM; -errno of fstat. */
MNN_API int mnnDescriptorServerPut(
	MnnDescriptorServer *descriptorServer, uint32_t row, uint64_t incarnation, int fd);
/* Give out the descriptor of (row, incarnation) no more. When the call returns, the
 * thread does not use it. Does nothing if the entry is of another incarnation. */
MNN_API void mnnDescriptorServerTake(
	MnnDescriptorServer *descriptorServer, uint32_t row, uint64_t incarnation);
/* End the thread and every connection, and remove `path`. */
MNN_API void mnnDescriptorServerClose(MnnDescriptorServer *descriptorServer);

/* --- the client --- */

/* Connect to the descriptor server at `path`. Returns a close-on-exec descriptor, which
 * one thread at a time may use. */
MNN_API int mnnDescriptorServerConnect(const char *path);
/* Get a close-on-exec duplicate of the descriptor of (row, incarnation). The call looks
 * for the answer for `spinNs`, and then sleeps. -ENOENT: the server does not have it.
 * After any other error the caller must close the connection: -ETIMEDOUT, -EMFILE (this
 * process may open no more descriptors), -EPIPE (the server is gone), -EPROTO (the peer
 * is no descriptor server). */
MNN_API int mnnDescriptorServerFetch(
	int connection, uint32_t row, uint64_t incarnation, int64_t spinNs, int64_t timeoutNs);

#ifdef __cplusplus
}
#endif
#endif
