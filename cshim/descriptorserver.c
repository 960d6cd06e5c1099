/* descriptorserver.h says what each function promises, and has the protocol. The
 * comments here give reasons. */
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
	uint64_t incarnation; /* 0: the entry is empty */
	int fd;
	/* The file of `fd`: the program may close the number, and open another file under
	 * it. */
	dev_t device;
	ino_t inode;
} Entry;

struct MnnDescriptorServer {
	/* Covers `entries` and `room`. Held while a reply is sent, so that the broker does
	 * not close the descriptor in it. */
	pthread_mutex_t lock;
	Entry *entries; /* by row */
	uint32_t room;
	pthread_t thread;
	int epoll, listener, stop;
	int *connections; /* used by the thread, and by `close` after the thread has ended */
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

static int watch(MnnDescriptorServer *descriptorServer, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	return epoll_ctl(descriptorServer->epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void drop(MnnDescriptorServer *descriptorServer, int connection)
{
	for (uint32_t i = 0; i < descriptorServer->connected; i++)
		if (descriptorServer->connections[i] == connection) {
			descriptorServer->connections[i] =
				descriptorServer->connections[--descriptorServer->connected];
			break;
		}
	/* A forked child may have a copy of the descriptor, and then closing does not
	 * remove it from the epoll set. */
	epoll_ctl(descriptorServer->epoll, EPOLL_CTL_DEL, connection, NULL);
	mnnCloseOwn(connection);
}

static int keep(MnnDescriptorServer *descriptorServer, int connection)
{
	if (descriptorServer->connected == descriptorServer->connectionRoom) {
		uint32_t room = descriptorServer->connectionRoom ? descriptorServer->connectionRoom * 2
														 : BATCH;
		int *grown = realloc(descriptorServer->connections, room * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		descriptorServer->connections = grown;
		descriptorServer->connectionRoom = room;
	}
	int result = watch(descriptorServer, connection);
	if (!result)
		descriptorServer->connections[descriptorServer->connected++] = connection;
	return result;
}

static void admit(MnnDescriptorServer *descriptorServer)
{
	int connection = mnnOwned(
		accept4(descriptorServer->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
	if (connection < 0) {
		struct timespec pause = {0, PAUSE_NS};
		if (connection == -EMFILE || connection == -ENFILE || connection == -ENOMEM ||
			connection == -ENOBUFS)
			/* The client stays in the queue of the listener, which stays readable:
			 * without a pause this thread would spin. */
			nanosleep(&pause, NULL);
		return;
	}
	struct ucred peer;
	socklen_t length = sizeof peer;
	if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) || peer.uid != geteuid() ||
		keep(descriptorServer, connection))
		close(connection);
}

static int isThere(const Entry *entry, uint64_t incarnation)
{
	struct stat status;
	return incarnation && entry->incarnation == incarnation && !fstat(entry->fd, &status) &&
		status.st_ino == entry->inode && status.st_dev == entry->device;
}

static int answer(MnnDescriptorServer *descriptorServer, int connection, const Request *request)
{
	Reply reply = {-ENOENT};
	struct iovec content = {&reply, sizeof reply};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control = {{0}};
	struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
	pthread_mutex_lock(&descriptorServer->lock);
	const Entry *entry = request->row < descriptorServer->room
		? &descriptorServer->entries[request->row]
		: NULL;
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
	pthread_mutex_unlock(&descriptorServer->lock);
	return sent == sizeof reply ? 0 : -1;
}

static void serve(MnnDescriptorServer *descriptorServer, int connection)
{
	/* There is no room for control data: the kernel closes descriptors that a client
	 * sends along. */
	Request request;
	ssize_t got = recv(connection, &request, sizeof request, MSG_DONTWAIT | MSG_TRUNC);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got != sizeof request || answer(descriptorServer, connection, &request))
		drop(descriptorServer, connection);
}

static void *run(void *given)
{
	MnnDescriptorServer *descriptorServer = given;
	struct epoll_event events[BATCH];
	for (;;) {
		/* The program may close these descriptors, and open its own files under their
		 * numbers: then the thread serves no client any more. */
		int count = mnnIsMarked(descriptorServer->epoll)
			? epoll_wait(descriptorServer->epoll, events, BATCH, -1)
			: -1;
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 || !mnnIsMarked(descriptorServer->epoll))
			return NULL;
		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;
			if (fd == descriptorServer->stop)
				return NULL;
			if (fd == descriptorServer->listener)
				admit(descriptorServer);
			else
				serve(descriptorServer, fd);
		}
	}
}

static int listenAt(MnnDescriptorServer *descriptorServer)
{
	if ((descriptorServer->epoll = mnnOwned(epoll_create1(EPOLL_CLOEXEC))) < 0)
		return descriptorServer->epoll;
	if ((descriptorServer->stop = mnnOwned(eventfd(0, EFD_CLOEXEC))) < 0)
		return descriptorServer->stop;
	if ((descriptorServer->listener = mnnOwned(
			 socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0))) < 0)
		return descriptorServer->listener;
	if (bind(descriptorServer->listener, (struct sockaddr *)&descriptorServer->address,
			sizeof descriptorServer->address))
		return -errno;
	if (chmod(descriptorServer->address.sun_path, 0600) ||
		listen(descriptorServer->listener, SOMAXCONN)) {
		int result = -errno;
		unlink(descriptorServer->address.sun_path);
		return result;
	}
	int result = watch(descriptorServer, descriptorServer->listener);
	return result ? result : watch(descriptorServer, descriptorServer->stop);
}

static int start(MnnDescriptorServer *descriptorServer)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	int result = pthread_attr_init(&attributes);
	if (result)
		return -result;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
	result = pthread_create(&descriptorServer->thread, &attributes, run, descriptorServer);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -result;
}

static void discard(MnnDescriptorServer *descriptorServer)
{
	int own[] = {descriptorServer->listener, descriptorServer->epoll, descriptorServer->stop};
	while (descriptorServer->connected)
		mnnCloseOwn(descriptorServer->connections[--descriptorServer->connected]);
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		if (own[i] >= 0)
			mnnCloseOwn(own[i]);
	pthread_mutex_destroy(&descriptorServer->lock);
	free(descriptorServer->connections);
	free(descriptorServer->entries);
	free(descriptorServer);
}

int mnnDescriptorServerOpen(const char *path, MnnDescriptorServer **out)
{
	MnnDescriptorServer *descriptorServer = calloc(1, sizeof *descriptorServer);
	if (!descriptorServer)
		return -ENOMEM;
	descriptorServer->epoll = descriptorServer->listener = descriptorServer->stop = -1;
	pthread_mutex_init(&descriptorServer->lock, NULL);
	int result = addressOf(path, &descriptorServer->address);
	if (!result && !(result = listenAt(descriptorServer)) && (result = start(descriptorServer)))
		unlink(path);
	if (result)
		discard(descriptorServer);
	else
		*out = descriptorServer;
	return result;
}

int mnnDescriptorServerPut(
	MnnDescriptorServer *descriptorServer, uint32_t row, uint64_t incarnation, int fd)
{
	int result = 0;
	struct stat status;
	if (fstat(fd, &status))
		return -errno;
	pthread_mutex_lock(&descriptorServer->lock);
	if (row >= descriptorServer->room) {
		uint32_t room = row < UINT32_MAX / 2 ? (row + 1) * 2 : UINT32_MAX;
		Entry *grown = realloc(descriptorServer->entries, room * sizeof *grown);
		if (grown) {
			memset(
				grown + descriptorServer->room, 0, (room - descriptorServer->room) * sizeof *grown);
			descriptorServer->entries = grown;
			descriptorServer->room = room;
		}
	}
	if (row < descriptorServer->room)
		descriptorServer->entries[row] = (Entry){incarnation, fd, status.st_dev, status.st_ino};
	else
		result = -ENOMEM;
	pthread_mutex_unlock(&descriptorServer->lock);
	return result;
}

void mnnDescriptorServerTake(
	MnnDescriptorServer *descriptorServer, uint32_t row, uint64_t incarnation)
{
	pthread_mutex_lock(&descriptorServer->lock);
	if (row < descriptorServer->room && descriptorServer->entries[row].incarnation == incarnation)
		descriptorServer->entries[row].incarnation = 0;
	pthread_mutex_unlock(&descriptorServer->lock);
}

void mnnDescriptorServerClose(MnnDescriptorServer *descriptorServer)
{
	if (!mnnIsMarked(descriptorServer->stop)) {
		/* The program has closed it, and usually the other descriptors of the thread
		 * too. No event can wake the thread any more, so it is detached and keeps its
		 * memory. */
		pthread_mutex_lock(&descriptorServer->lock);
		if (descriptorServer->room)
			memset(descriptorServer->entries, 0,
				descriptorServer->room * sizeof *descriptorServer->entries);
		pthread_mutex_unlock(&descriptorServer->lock);
		pthread_detach(descriptorServer->thread);
		unlink(descriptorServer->address.sun_path);
		return;
	}
	eventfd_write(descriptorServer->stop, 1);
	pthread_join(descriptorServer->thread, NULL);
	unlink(descriptorServer->address.sun_path);
	discard(descriptorServer);
}

/* --- the client --- */

int mnnDescriptorServerConnect(const char *path)
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

/* A signal does not end the wait: its bound is short. */
static int await(int connection, int64_t spinNs, int64_t timeoutNs)
{
	int64_t end = mnnMonotonicNs() + timeoutNs;
	int result;
	do
		result = mnnAwaitReadable(connection, spinNs, end - mnnMonotonicNs());
	while (result == -EINTR);
	return result;
}

int mnnDescriptorServerFetch(
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
