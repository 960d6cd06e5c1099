/* See descriptorserver.h for what each function promises; here is only why it is
 * done so. */
#define _GNU_SOURCE
#include "descriptorserver.h"

#include "descriptors.h"
#include "primitives.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BATCH = 32, STACK_BYTES = 256 << 10, PAUSE_NS = 10000000 };

typedef struct {
	uint32_t row, unused;
	uint64_t incarnation;
} Request;

typedef struct {
	int32_t result;
} Reply;

typedef struct {
	uint64_t incarnation; /* 0: nothing */
	int fd;
	/* What `fd` is: the program may close it, and open something else under its
	 * number */
	dev_t device;
	ino_t inode;
} Entry;

struct MnnHatch {
	/* Of entries and room; held while a reply is sent, so that nobody closes what is
	 * in it */
	pthread_mutex_t lock;
	Entry *entries; /* by row */
	uint32_t room;
	pthread_t thread;
	int epoll, listener, stop;
	int *connections; /* the thread's, and `close`'s once that has ended */
	uint32_t connected, connectionRoom;
	struct sockaddr_un address;
};

static int addressOf(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address->sun_path)
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

/* --- serving --- */

static int watch(MnnHatch *hatch, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	return epoll_ctl(hatch->epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void drop(MnnHatch *hatch, int connection)
{
	for (uint32_t i = 0; i < hatch->connected; i++)
		if (hatch->connections[i] == connection) {
			hatch->connections[i] = hatch->connections[--hatch->connected];
			break;
		}
	/* A forked child may have it too: closing alone would not end its events. */
	epoll_ctl(hatch->epoll, EPOLL_CTL_DEL, connection, NULL);
	mnnCloseOwn(connection);
}

static int keep(MnnHatch *hatch, int connection)
{
	if (hatch->connected == hatch->connectionRoom) {
		uint32_t room = hatch->connectionRoom ? hatch->connectionRoom * 2 : BATCH;
		int *grown = realloc(hatch->connections, room * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		hatch->connections = grown;
		hatch->connectionRoom = room;
	}
	int result = watch(hatch, connection);
	if (!result)
		hatch->connections[hatch->connected++] = connection;
	return result;
}

static void admit(MnnHatch *hatch)
{
	int connection = mnnOwned(accept4(hatch->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
	if (connection < 0) {
		struct timespec pause = {0, PAUSE_NS};
		if (connection == -EMFILE || connection == -ENFILE || connection == -ENOMEM ||
			connection == -ENOBUFS)
			/* Who waits there is still there then; without a pause this thread would
			 * do nothing else */
			nanosleep(&pause, NULL);
		return;
	}
	struct ucred peer;
	socklen_t length = sizeof peer;
	if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) || peer.uid != geteuid() ||
		keep(hatch, connection))
		close(connection);
}

static int isThere(const Entry *entry, uint64_t incarnation)
{
	struct stat status;
	return incarnation && entry->incarnation == incarnation && !fstat(entry->fd, &status) &&
		status.st_ino == entry->inode && status.st_dev == entry->device;
}

static int answer(MnnHatch *hatch, int connection, const Request *request)
{
	Reply reply = {-ENOENT};
	struct iovec content = {&reply, sizeof reply};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control = {{0}};
	struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
	pthread_mutex_lock(&hatch->lock);
	const Entry *entry = request->row < hatch->room ? &hatch->entries[request->row] : NULL;
	if (entry && isThere(entry, request->incarnation)) {
		reply.result = 0;
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof control.bytes;
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &entry->fd, sizeof(int));
	}
	ssize_t sent = sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	pthread_mutex_unlock(&hatch->lock);
	return sent == sizeof reply ? 0 : -1;
}

static void serve(MnnHatch *hatch, int connection)
{
	/* Descriptors that somebody sends along find no room, and are closed by the
	 * kernel. */
	Request request;
	ssize_t got = recv(connection, &request, sizeof request, MSG_DONTWAIT | MSG_TRUNC);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got != sizeof request || answer(hatch, connection, &request))
		drop(hatch, connection);
}

static void *run(void *given)
{
	MnnHatch *hatch = given;
	struct epoll_event events[BATCH];
	for (;;) {
		/* The program may close these descriptors, and open its own under their
		 * numbers: then nobody is served any more. */
		int count = mnnIsMarked(hatch->epoll) ? epoll_wait(hatch->epoll, events, BATCH, -1) : -1;
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 || !mnnIsMarked(hatch->epoll))
			return NULL;
		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;
			if (fd == hatch->stop)
				return NULL;
			if (fd == hatch->listener)
				admit(hatch);
			else
				serve(hatch, fd);
		}
	}
}

static int listenAt(MnnHatch *hatch)
{
	if ((hatch->epoll = mnnOwned(epoll_create1(EPOLL_CLOEXEC))) < 0)
		return hatch->epoll;
	if ((hatch->stop = mnnOwned(eventfd(0, EFD_CLOEXEC))) < 0)
		return hatch->stop;
	if ((hatch->listener = mnnOwned(
			 socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0))) < 0)
		return hatch->listener;
	if (bind(hatch->listener, (struct sockaddr *)&hatch->address, sizeof hatch->address))
		return -errno;
	if (chmod(hatch->address.sun_path, 0600) || listen(hatch->listener, SOMAXCONN)) {
		int result = -errno;
		unlink(hatch->address.sun_path);
		return result;
	}
	int result = watch(hatch, hatch->listener);
	return result ? result : watch(hatch, hatch->stop);
}

static int start(MnnHatch *hatch)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	int result = pthread_attr_init(&attributes);
	if (result)
		return -result;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
	result = pthread_create(&hatch->thread, &attributes, run, hatch);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -result;
}

static void discard(MnnHatch *hatch)
{
	int own[] = {hatch->listener, hatch->epoll, hatch->stop};
	while (hatch->connected)
		mnnCloseOwn(hatch->connections[--hatch->connected]);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		if (own[i] >= 0)
			mnnCloseOwn(own[i]);
	pthread_mutex_destroy(&hatch->lock);
	free(hatch->connections);
	free(hatch->entries);
	free(hatch);
}

int mnnHatchOpen(const char *path, MnnHatch **out)
{
	MnnHatch *hatch = calloc(1, sizeof *hatch);
	if (!hatch)
		return -ENOMEM;
	hatch->epoll = hatch->listener = hatch->stop = -1;
	pthread_mutex_init(&hatch->lock, NULL);
	int result = addressOf(path, &hatch->address);
	if (!result && !(result = listenAt(hatch)) && (result = start(hatch)))
		unlink(path);
	if (result)
		discard(hatch);
	else
		*out = hatch;
	return result;
}

int mnnHatchPut(MnnHatch *hatch, uint32_t row, uint64_t incarnation, int fd)
{
	int result = 0;
	struct stat status;
	if (fstat(fd, &status))
		return -errno;
	pthread_mutex_lock(&hatch->lock);
	if (row >= hatch->room) {
		uint32_t room = row < UINT32_MAX / 2 ? (row + 1) * 2 : UINT32_MAX;
		Entry *grown = realloc(hatch->entries, room * sizeof *grown);
		if (grown) {
			memset(grown + hatch->room, 0, (room - hatch->room) * sizeof *grown);
			hatch->entries = grown;
			hatch->room = room;
		}
	}
	if (row < hatch->room)
		hatch->entries[row] = (Entry){incarnation, fd, status.st_dev, status.st_ino};
	else
		result = -ENOMEM;
	pthread_mutex_unlock(&hatch->lock);
	return result;
}

void mnnHatchTake(MnnHatch *hatch, uint32_t row, uint64_t incarnation)
{
	pthread_mutex_lock(&hatch->lock);
	if (row < hatch->room && hatch->entries[row].incarnation == incarnation)
		hatch->entries[row].incarnation = 0;
	pthread_mutex_unlock(&hatch->lock);
}

void mnnHatchClose(MnnHatch *hatch)
{
	if (!mnnIsMarked(hatch->stop)) {
		/* The program has closed it, and mostly the thread's other descriptors too:
		 * the thread sleeps on what nobody can reach, and keeps its memory. */
		pthread_mutex_lock(&hatch->lock);
		if (hatch->room)
			memset(hatch->entries, 0, hatch->room * sizeof *hatch->entries);
		pthread_mutex_unlock(&hatch->lock);
		pthread_detach(hatch->thread);
		unlink(hatch->address.sun_path);
		return;
	}
	eventfd_write(hatch->stop, 1);
	pthread_join(hatch->thread, NULL);
	unlink(hatch->address.sun_path);
	discard(hatch);
}

/* --- the other side --- */

int mnnHatchConnect(const char *path)
{
	struct sockaddr_un address;
	int result = addressOf(path, &address);
	if (result)
		return result;
	int connection = mnnOwned(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
	if (connection >= 0 && connect(connection, (struct sockaddr *)&address, sizeof address)) {
		result = -errno;
		close(connection);
		return result;
	}
	return connection;
}

/* A signal does not end it: its bound is short. */
static int await(int connection, int64_t spinNs, int64_t timeoutNs)
{
	int64_t end = mnnMonotonicNs() + timeoutNs;
	int result;
	do
		result = mnnAwaitReadable(connection, spinNs, end - mnnMonotonicNs());
	while (result == -EINTR);
	return result;
}

int mnnHatchFetch(
	int connection, uint32_t row, uint64_t incarnation, int64_t spinNs, int64_t timeoutNs)
{
	Request request = {.row = row, .incarnation = incarnation};
	if (send(connection, &request, sizeof request, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof request)
		return -EPIPE;
	int result = await(connection, spinNs, timeoutNs);
	if (result)
		return result;
	Reply reply;
	struct iovec content = {&reply, sizeof reply};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control;
	struct msghdr message = {.msg_iov = &content,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof control.bytes};
	ssize_t got = recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (got <= 0)
		return -EPIPE;
	int fd = -1;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
		header->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(header), sizeof fd);
	if (got == sizeof reply && !reply.result && fd >= 0)
		return mnnOwned(fd);
	if (fd >= 0)
		close(fd);
	if (message.msg_flags & MSG_CTRUNC)
		return -EMFILE;
	return got == sizeof reply && reply.result == -ENOENT ? -ENOENT : -EPROTO;
}
