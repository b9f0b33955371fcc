/*
 * Lets Debian's xenstored and oxenstored run where there is no hypervisor: preloaded into them, it
 * answers the few calls of libxenctrl, libxenevtchn and libxengnttab that they make.
 *
 * FAKEXEN_DIR names a folder:
 *   domains   one line a domain: its number, and `dying` or `shutdown` when it is. Rewriting the
 *             file raises VIRQ_DOM_EXC, as the hypervisor does when a domain comes to an end.
 *   N.sock    appears when domain N is introduced; whoever connects there is domain N: the bytes
 *             go through a ring page as a guest's would.
 *   socket    where the daemon's own socket goes, whatever folder it has compiled in.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PAGE = 4096, RING = 1024, PORTS = 4096, DOMAINS = 1024, VIRQ_PORT = 1 };

/* The interface page of a domain, xs_wire.h: two rings and their indexes. */
struct interface {
	char requests[RING];
	char replies[RING];
	uint32_t request_consumed, request_produced;
	uint32_t reply_consumed, reply_produced;
};

/* One domain's end of its ring. */
struct guest {
	int domid;
	int kick; /* signalled when the daemon notifies the domain */
	struct interface *page;
};

/* A test that is killed leaves no daemon behind. */
__attribute__((constructor)) static void die_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static const char *folder(void)
{
	const char *dir = getenv("FAKEXEN_DIR");
	return dir ? dir : "/tmp";
}

static char *in_folder(char *to, size_t size, const char *name)
{
	snprintf(to, size, "%s/%s", folder(), name);
	return to;
}

/* ---- domains ---- */

struct domain {
	unsigned id;
	int dying, shutdown;
};

/* Reads the file of domains, domain 0 first; returns how many there are. */
static unsigned read_domains(struct domain *to, unsigned most)
{
	char path[256], line[64], state[32];
	unsigned count = 0;
	FILE *file = fopen(in_folder(path, sizeof path, "domains"), "r");
	to[count++] = (struct domain){ 0, 0, 0 };
	while (file && count < most && fgets(line, sizeof line, file)) {
		unsigned id;
		state[0] = 0;
		if (sscanf(line, "%u %31s", &id, state) < 1 || id == 0)
			continue;
		to[count++] = (struct domain){ id, !strcmp(state, "dying"), !strcmp(state, "shutdown") };
	}
	if (file)
		fclose(file);
	return count;
}

static int there_is(unsigned domid)
{
	struct domain all[DOMAINS];
	unsigned count = read_domains(all, DOMAINS);
	for (unsigned i = 0; i < count; i++)
		if (all[i].id == domid)
			return 1;
	return 0;
}

static int handle;
void *xc_interface_open(void *a, void *b, unsigned c) { (void)a; (void)b; (void)c; return &handle; }
int xc_interface_close(void *x) { (void)x; return 0; }

/* The first of libxenctrl's xc_dominfo; the rest stays zero. */
struct dominfo {
	uint32_t domid, ssidref;
	unsigned dying : 1, crashed : 1, shutdown : 1;
};
enum { DOMINFO_SIZE = 112, DYING = 1, SHUTDOWN = 4 };

/* C xenstored: the first domain from `first` on. */
int xc_domain_getinfo(void *x, uint32_t first, unsigned most, void *info)
{
	struct domain all[DOMAINS];
	unsigned count = read_domains(all, DOMAINS);
	(void)x;
	(void)most;
	for (unsigned i = 0; i < count; i++) {
		if (all[i].id != first)
			continue;
		struct dominfo *to = info;
		*to = (struct dominfo){ .domid = first, .dying = all[i].dying, .shutdown = all[i].shutdown };
		return 1;
	}
	return 0;
}

/* oxenstored: the same, in the shape of the hypercall. */
int xc_domain_getinfolist(void *x, uint32_t first, unsigned most, void *info)
{
	struct domain all[DOMAINS];
	unsigned count = read_domains(all, DOMAINS);
	(void)x;
	(void)most;
	for (unsigned i = 0; i < count; i++) {
		if (all[i].id != first)
			continue;
		memset(info, 0, DOMINFO_SIZE);
		*(uint16_t *)info = first;
		*((uint32_t *)info + 1) = (all[i].dying ? DYING : 0) | (all[i].shutdown ? SHUTDOWN : 0);
		return 1;
	}
	return 0;
}

/* ---- event channels ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int event_fd = -1;
static unsigned char raised[PORTS];
static struct guest *behind[PORTS]; /* who is notified through a port */

static void raise_port(int port)
{
	/* Under the lock: a daemon that is woken and finds no port raised ends itself. */
	pthread_mutex_lock(&lock);
	raised[port] = 1;
	eventfd_write(event_fd, 1);
	pthread_mutex_unlock(&lock);
}

static void *watch_domains(void *unused)
{
	char events[4096] __attribute__((aligned(8)));
	int fd = inotify_init1(IN_CLOEXEC);
	inotify_add_watch(fd, folder(), IN_CLOSE_WRITE | IN_MOVED_TO);
	for (ssize_t got; (got = read(fd, events, sizeof events)) > 0;) {
		for (char *at = events; at < events + got;) {
			struct inotify_event *event = (void *)at;
			if (event->len && !strcmp(event->name, "domains"))
				raise_port(VIRQ_PORT);
			at += sizeof *event + event->len;
		}
	}
	return unused;
}

void *xenevtchn_open(void *a, unsigned b)
{
	(void)a;
	(void)b;
	event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return &handle;
}
int xenevtchn_close(void *x) { (void)x; return 0; }
int xenevtchn_fd(void *x) { (void)x; return event_fd; }
int xenevtchn_unmask(void *x, uint32_t port) { (void)x; (void)port; return 0; }

int xenevtchn_bind_virq(void *x, unsigned virq)
{
	pthread_t thread;
	(void)x;
	(void)virq;
	pthread_create(&thread, NULL, watch_domains, NULL);
	return VIRQ_PORT;
}

/* The daemon's port of a channel is the domain's number above the ports of the rest. */
int xenevtchn_bind_interdomain(void *x, uint32_t domid, uint32_t remote)
{
	(void)x;
	(void)remote;
	return VIRQ_PORT + 1 + domid;
}

int xenevtchn_unbind(void *x, uint32_t port) { (void)x; behind[port] = NULL; return 0; }

int xenevtchn_notify(void *x, uint32_t port)
{
	(void)x;
	if (behind[port])
		eventfd_write(behind[port]->kick, 1);
	return 0;
}

int xenevtchn_pending(void *x)
{
	eventfd_t count;
	int port, more = 0, found = -1;
	(void)x;
	pthread_mutex_lock(&lock);
	eventfd_read(event_fd, &count);
	for (port = 0; port < PORTS; port++) {
		if (!raised[port])
			continue;
		if (found < 0) {
			found = port;
			raised[port] = 0;
		} else {
			more = 1;
		}
	}
	if (more)
		eventfd_write(event_fd, 1);
	pthread_mutex_unlock(&lock);
	if (found < 0)
		errno = EAGAIN;
	return found;
}

/* ---- rings ---- */

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Moves what fits from the socket into the ring; 0 when the other end is gone. */
static int take_requests(struct guest *guest, int sock)
{
	struct interface *page = guest->page;
	uint32_t at = page->request_produced % RING;
	size_t space = RING - (page->request_produced - page->request_consumed);
	ssize_t got = recv(sock, page->requests + at, least(space, RING - at), 0);
	if (got <= 0)
		return 0;
	__sync_synchronize();
	page->request_produced += got;
	raise_port(VIRQ_PORT + 1 + guest->domid);
	return 1;
}

static int give_replies(struct guest *guest, int sock)
{
	struct interface *page = guest->page;
	while (page->reply_consumed != page->reply_produced) {
		uint32_t at = page->reply_consumed % RING;
		size_t there = page->reply_produced - page->reply_consumed;
		__sync_synchronize();
		ssize_t sent = send(sock, page->replies + at, least(there, RING - at), MSG_NOSIGNAL);
		if (sent <= 0)
			return 0;
		__sync_synchronize();
		page->reply_consumed += sent;
		raise_port(VIRQ_PORT + 1 + guest->domid);
	}
	return 1;
}

static void serve(struct guest *guest, int sock)
{
	struct interface *page = guest->page;
	for (;;) {
		int full = page->request_produced - page->request_consumed == RING;
		struct pollfd both[2] = { { guest->kick, POLLIN, 0 }, { sock, full ? 0 : POLLIN, 0 } };
		eventfd_t count;
		poll(both, 2, -1);
		if (both[0].revents)
			eventfd_read(guest->kick, &count);
		if (!give_replies(guest, sock))
			return;
		if ((both[1].revents & POLLIN) && !full && !take_requests(guest, sock))
			return;
		if (both[1].revents & (POLLERR | POLLNVAL))
			return;
	}
}

/* The domain's own kernel, so to speak: whoever connects to its socket speaks for it. */
static void *run_guest(void *given)
{
	struct guest *guest = given;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char name[32], path[100], fresh[104];
	snprintf(name, sizeof name, "%d.sock", guest->domid);
	in_folder(path, sizeof path, name);
	snprintf(fresh, sizeof fresh, "%s.new", path);
	memcpy(address.sun_path, fresh, sizeof fresh);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unlink(fresh);
	/* Whoever sees its name may connect at once. */
	if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1) || rename(fresh, path))
		perror(path);
	for (int sock; (sock = accept(listener, NULL, NULL)) >= 0; close(sock))
		serve(guest, sock);
	return NULL;
}

static void *introduce(unsigned domid)
{
	void *page;
	pthread_t thread;
	struct guest *guest;
	if (!there_is(domid)) {
		errno = EINVAL;
		return NULL;
	}
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (domid == 0 || domid >= PORTS - VIRQ_PORT - 1)
		return page;
	guest = calloc(1, sizeof *guest);
	guest->domid = domid;
	guest->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* A mapping of its own: the daemon unmaps its one when the domain goes. */
	guest->page = mremap(page, 0, PAGE, MREMAP_MAYMOVE);
	behind[VIRQ_PORT + 1 + domid] = guest;
	pthread_create(&thread, NULL, run_guest, guest);
	return page;
}

/* C xenstored maps a guest's page by its grant, oxenstored by its frame. */
void *xengnttab_open(void *a, unsigned b) { (void)a; (void)b; return &handle; }
int xengnttab_close(void *x) { (void)x; return 0; }
int xengnttab_set_max_grants(void *x, uint32_t n) { (void)x; (void)n; return 0; }
void *xengnttab_map_grant_ref(void *x, uint32_t domid, uint32_t ref, int prot)
{
	(void)x;
	(void)ref;
	(void)prot;
	return introduce(domid);
}
int xengnttab_unmap(void *x, void *page, uint32_t n) { (void)x; return munmap(page, n * PAGE); }

void *xc_map_foreign_range(void *x, uint32_t domid, int size, int prot, unsigned long frame)
{
	(void)x;
	(void)size;
	(void)prot;
	(void)frame;
	return introduce(domid);
}

/* ---- files ---- */

/* /proc/xen/xsd_port says which channel is dom0's, xsd_kva is its page. */
static int kernel_file(const char *path)
{
	int fd = memfd_create("fakexen", MFD_CLOEXEC);
	if (strstr(path, "port")) {
		if (write(fd, "2", 1) != 1 || lseek(fd, 0, SEEK_SET))
			return -1;
	} else if (ftruncate(fd, PAGE)) {
		return -1;
	}
	return fd;
}

/* Where a path of the daemon's folder, which is compiled in, goes instead. */
static const char *moved(const char *path, char *to, size_t size)
{
	const char *rest = strstr(path, "/run/xenstored");
	if (!rest || (rest != path && strncmp(path, "/var/", 5)))
		return path;
	snprintf(to, size, "%s%s", folder(), rest + strlen("/run/xenstored"));
	return to;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                             \
	int name(const char *path, int flags, ...)                             \
	{                                                                      \
		char to[256];                                                  \
		va_list rest;                                                  \
		va_start(rest, flags);                                         \
		mode_t mode = va_arg(rest, mode_t);                            \
		va_end(rest);                                                  \
		if (strstr(path, "/xen/xsd_"))                                 \
			return kernel_file(path);                              \
		return REAL(name)(moved(path, to, sizeof to), flags, mode);    \
	}
OPEN(open)
OPEN(open64)

int unlink(const char *path)
{
	char to[256];
	return REAL(unlink)(moved(path, to, sizeof to));
}

int mkdir(const char *path, mode_t mode)
{
	char to[256];
	return REAL(mkdir)(moved(path, to, sizeof to), mode);
}

int chmod(const char *path, mode_t mode)
{
	char to[256];
	return REAL(chmod)(moved(path, to, sizeof to), mode);
}

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const struct sockaddr_un *from = (const void *)address;
	char path[256];
	if (address->sa_family != AF_UNIX)
		return REAL(bind)(fd, address, size);
	snprintf(to.sun_path, sizeof to.sun_path, "%s", moved(from->sun_path, path, sizeof path));
	return REAL(bind)(fd, (void *)&to, sizeof to);
}

/* oxenstored asks for as many files as the system can have, which not every sandbox grants. */
int setrlimit(__rlimit_resource_t what, const struct rlimit *limit)
{
	(void)what;
	(void)limit;
	return 0;
}
