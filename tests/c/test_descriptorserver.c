/* The descriptor server under threads, forks, garbage and a lack of descriptors. Run
 * under AddressSanitizer and UndefinedBehaviorSanitizer by `make test`. */
#define _GNU_SOURCE
#include "check.h"
#include "descriptorserver.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 4, ROUNDS = 3000, ROWS = 8, FEW = 64 };
static const int64_t SPIN_NS = 20000, BOUND_NS = 20000000000;
static char path[108];

static int descriptors(void)
{
	int count = 0;
	DIR *own = opendir("/proc/self/fd");
	CHECK(own);
	while (readdir(own))
		count++;
	closedir(own);
	return count;
}

/* A file whose size is its number. */
static int numbered(uint64_t number)
{
	int fd = memfd_create("numbered", MFD_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)number) == 0);
	return fd;
}

static uint64_t numberOf(int fd)
{
	struct stat about;
	CHECK(fstat(fd, &about) == 0);
	return (uint64_t)about.st_size;
}

static MnnDescriptorServer *opened(void)
{
	MnnDescriptorServer *descriptorServer = NULL;
	CHECK(mnnDescriptorServerOpen(path, &descriptorServer) == 0 && descriptorServer);
	return descriptorServer;
}

static int connected(void)
{
	int connection = mnnDescriptorServerConnect(path);
	CHECK(connection >= 0);
	return connection;
}

static void handsOutWhatItHas(void)
{
	int before = descriptors();
	MnnDescriptorServer *descriptorServer = opened();
	int fd = numbered(77), connection = connected();
	CHECK(mnnDescriptorServerFetch(connection, 3, 5, SPIN_NS, BOUND_NS) == -ENOENT);
	CHECK(mnnDescriptorServerPut(descriptorServer, 3, 5, fd) == 0 &&
		mnnDescriptorServerPut(descriptorServer, 40000, 1, fd) == 0);
	int got = mnnDescriptorServerFetch(connection, 3, 5, SPIN_NS, BOUND_NS),
		far = mnnDescriptorServerFetch(connection, 40000, 1, 0, BOUND_NS);
	CHECK(got >= 0 && got != fd && numberOf(got) == 77 && fcntl(got, F_GETFD) == FD_CLOEXEC);
	CHECK(far >= 0 && numberOf(far) == 77);
	CHECK(mnnDescriptorServerFetch(connection, 3, 4, SPIN_NS, BOUND_NS) == -ENOENT);
	CHECK(mnnDescriptorServerFetch(connection, 2, 5, SPIN_NS, BOUND_NS) == -ENOENT);
	CHECK(mnnDescriptorServerFetch(connection, UINT32_MAX, 0, SPIN_NS, BOUND_NS) == -ENOENT);
	CHECK(mnnDescriptorServerFetch(connection, 3, 0, SPIN_NS, BOUND_NS) == -ENOENT);
	mnnDescriptorServerTake(descriptorServer, 3, 4); /* of another incarnation: nothing */
	mnnDescriptorServerTake(descriptorServer, 40001, 1);
	int again = mnnDescriptorServerFetch(connection, 3, 5, SPIN_NS, BOUND_NS);
	CHECK(again >= 0);
	mnnDescriptorServerTake(descriptorServer, 3, 5);
	CHECK(mnnDescriptorServerFetch(connection, 3, 5, SPIN_NS, BOUND_NS) == -ENOENT);
	struct stat about;
	CHECK(stat(path, &about) == 0 && (about.st_mode & 0777) == 0600);
	mnnDescriptorServerClose(descriptorServer);
	CHECK(stat(path, &about) == -1 && errno == ENOENT);
	CHECK(mnnDescriptorServerFetch(connection, 3, 5, SPIN_NS, BOUND_NS) == -EPIPE);
	CHECK(mnnDescriptorServerConnect(path) == -ENOENT);
	int own[] = {fd, connection, got, far, again};
	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		close(own[i]);
	CHECK(descriptors() == before);
}

static void refusesWhatItCanNotBe(void)
{
	MnnDescriptorServer *descriptorServer = opened(), *other = NULL;
	CHECK(mnnDescriptorServerOpen(path, &other) == -EADDRINUSE && !other);
	CHECK(mnnDescriptorServerOpen("/dev/shm/there/is/no/such/folder", &other) == -ENOENT);
	char far[300];
	memset(far, 'x', sizeof far);
	far[sizeof far - 1] = 0;
	CHECK(mnnDescriptorServerOpen(far, &other) == -ENAMETOOLONG &&
		mnnDescriptorServerConnect(far) == -ENAMETOOLONG);
	mnnDescriptorServerClose(descriptorServer);
}

static void hangsUpOnGarbage(void)
{
	MnnDescriptorServer *descriptorServer = opened();
	int fd = numbered(9), connection = connected();
	CHECK(mnnDescriptorServerPut(descriptorServer, 1, 1, fd) == 0);
	char garbage[70000];
	memset(garbage, 0xA5, sizeof garbage);
	const size_t sizes[] = {0, 1, 15, 17, 4096, sizeof garbage};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		int stranger = connected();
		char answer[64];
		CHECK(send(stranger, garbage, sizes[i], MSG_NOSIGNAL) == (ssize_t)sizes[i]);
		struct timeval bound = {20, 0};
		setsockopt(stranger, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
		CHECK(fcntl(stranger, F_SETFL, 0) == 0);
		ssize_t got = recv(stranger, answer, sizeof answer, 0);
		CHECK(got == 0 || (got < 0 && errno == ECONNRESET));
		close(stranger);
	}
	/* It is admitted by now */
	int sender = connected(), got = mnnDescriptorServerFetch(sender, 1, 1, SPIN_NS, BOUND_NS);
	CHECK(got >= 0);
	close(got);
	int before = descriptors();
	/* The server does not take descriptors that come along */
	char request[16] = {1, 0, 0, 0, 0, 0, 0, 0, 1};
	struct iovec content = {request, sizeof request};
	char control[CMSG_SPACE(sizeof fd)] = {0};
	struct msghdr message = {.msg_iov = &content,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){
		.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	CHECK(sendmsg(sender, &message, 0) == sizeof request);
	got = mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS);
	CHECK(got >= 0 && numberOf(got) == 9);
	close(got);
	CHECK(descriptors() == before);
	/* A client that asks and never reads is disconnected, and the server does not
	 * wait */
	for (int round = 0; round < 100000; round++)
		if (send(sender, request, sizeof request, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
			errno != EAGAIN)
			break;
	got = mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS);
	CHECK(got >= 0 && numberOf(got) == 9);
	mnnDescriptorServerClose(descriptorServer);
	close(got), close(sender), close(connection), close(fd);
}

static MnnDescriptorServer *busy;
static int over;

/* The file of row r and incarnation i has the size r * 2^32 + i, whatever incarnation
 * the server has now. */
static void *fetches(void *unused)
{
	(void)unused;
	int connection = connected();
	uint64_t found = 0;
	for (int round = 0; round < ROUNDS; round++)
		for (uint32_t row = 0; row < ROWS; row++)
			for (uint64_t incarnation = 1; incarnation <= 2; incarnation++) {
				int fd = mnnDescriptorServerFetch(connection, row, incarnation, SPIN_NS, BOUND_NS);
				CHECK(fd >= 0 || fd == -ENOENT);
				if (fd < 0)
					continue;
				CHECK(numberOf(fd) == ((uint64_t)row << 32) + incarnation);
				close(fd);
				found++;
			}
	close(connection);
	return (void *)found;
}

static void *changes(void *unused)
{
	(void)unused;
	for (uint64_t round = 0; !__atomic_load_n(&over, __ATOMIC_ACQUIRE); round++) {
		uint32_t row = round % ROWS;
		uint64_t incarnation = 1 + round / ROWS % 2;
		int fd = numbered(((uint64_t)row << 32) + incarnation);
		CHECK(mnnDescriptorServerPut(busy, row, incarnation, fd) == 0);
		usleep(50);
		mnnDescriptorServerTake(busy, row, incarnation);
		close(fd); /* its number is another file's at once */
	}
	return NULL;
}

static void neverHandsOutAnothersFile(void)
{
	busy = opened();
	pthread_t clients[CLIENTS], changer;
	uint64_t found = 0;
	CHECK(pthread_create(&changer, NULL, changes, NULL) == 0);
	for (int i = 0; i < CLIENTS; i++)
		CHECK(pthread_create(&clients[i], NULL, fetches, NULL) == 0);
	for (int i = 0; i < CLIENTS; i++) {
		void *own;
		pthread_join(clients[i], &own);
		found += (uint64_t)own;
	}
	__atomic_store_n(&over, 1, __ATOMIC_RELEASE);
	pthread_join(changer, NULL);
	mnnDescriptorServerClose(busy);
	CHECK(found > 0);
	printf("%llu descriptors were the right ones\n", (unsigned long long)found);
}

static void outlivesItsClientsAndTheirChildren(void)
{
	MnnDescriptorServer *descriptorServer = opened();
	int fd = numbered(4);
	CHECK(mnnDescriptorServerPut(descriptorServer, 1, 1, fd) == 0);
	int hold[2];
	CHECK(pipe(hold) == 0);
	int connection = connected();
	/* It is admitted by now: the child has both ends */
	int got = mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS);
	CHECK(got >= 0);
	close(got);
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child) {
		char byte;
		close(hold[1]);
		_exit(read(hold[0], &byte, 1) != 0);
	}
	/* The descriptor server closes its end; the child still has it */
	CHECK(send(connection, "garbage", 7, MSG_NOSIGNAL) == 7);
	for (int round = 0; round < 100; round++) {
		int another = connected();
		got = mnnDescriptorServerFetch(another, 1, 1, SPIN_NS, BOUND_NS);
		CHECK(got >= 0 && numberOf(got) == 4);
		close(got), close(another);
	}
	/* Bytes for the copy that the child still has must be no events: otherwise the
	 * thread would spin on a descriptor that it does not have. */
	struct timespec began, ended;
	CHECK(send(connection, "garbage", 7, MSG_NOSIGNAL) == 7);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
	usleep(300000);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
	CHECK((ended.tv_sec - began.tv_sec) * 1000 + (ended.tv_nsec - began.tv_nsec) / 1000000 < 150);
	close(hold[0]), close(hold[1]);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	mnnDescriptorServerClose(descriptorServer);
	close(connection), close(fd);
}

static void saysWhenNoDescriptorIsLeft(void)
{
	MnnDescriptorServer *descriptorServer = opened();
	int fd = numbered(4), connection = connected();
	CHECK(mnnDescriptorServerPut(descriptorServer, 1, 1, fd) == 0);
	int got = mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS);
	CHECK(got >= 0);
	close(got);
	struct rlimit before, few;
	CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
	few = (struct rlimit){FEW, before.rlim_max};
	CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
	int taken[FEW], count = 0;
	while ((taken[count] = dup(fd)) >= 0)
		count++;
	CHECK(mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS) == -EMFILE);
	CHECK(mnnDescriptorServerConnect(path) == -EMFILE);
	while (count)
		close(taken[--count]);
	CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
	int later = connected();
	got = mnnDescriptorServerFetch(later, 1, 1, SPIN_NS, BOUND_NS);
	CHECK(got >= 0);
	mnnDescriptorServerClose(descriptorServer);
	close(got), close(later), close(connection), close(fd);
}

static void aSilentPeerIsLeftInTime(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, path);
	int silent = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	CHECK(silent >= 0 && bind(silent, (struct sockaddr *)&address, sizeof address) == 0 &&
		listen(silent, 8) == 0);
	int connection = connected();
	CHECK(mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, 1000000) == -ETIMEDOUT);
	int peer = accept(silent, NULL, NULL);
	/* Found, and no descriptor; no answer that there is; likewise */
	const int32_t answers[][2] = {{0, 0}, {5, 0}, {-7, 0}};
	char asked[16];
	CHECK(peer >= 0 && recv(peer, asked, sizeof asked, 0) == sizeof asked);
	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		CHECK(send(peer, answers[i], 4, 0) == 4);
		CHECK(mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS) == -EPROTO);
	}
	int before = descriptors();
	/* A descriptor with a word that is no answer */
	struct iovec content = {(void *)answers[1], 4};
	char control[CMSG_SPACE(sizeof peer)] = {0};
	struct msghdr message = {.msg_iov = &content,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){
		.cmsg_len = CMSG_LEN(sizeof peer), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(header), &peer, sizeof peer);
	CHECK(sendmsg(peer, &message, 0) == 4);
	CHECK(mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS) == -EPROTO &&
		descriptors() == before);
	CHECK(send(peer, answers, 8, 0) == 8);
	CHECK(mnnDescriptorServerFetch(connection, 1, 1, SPIN_NS, BOUND_NS) == -EPROTO);
	close(peer), close(silent), close(connection);
	unlink(path);
}

int main(void)
{
	snprintf(path, sizeof path, "/dev/shm/descriptor server-test-%d", getpid());
	handsOutWhatItHas();
	refusesWhatItCanNotBe();
	hangsUpOnGarbage();
	neverHandsOutAnothersFile();
	outlivesItsClientsAndTheirChildren();
	saysWhenNoDescriptorIsLeft();
	aSilentPeerIsLeftInTime();
	puts("the descriptor server keeps its promises");
	return 0;
}
