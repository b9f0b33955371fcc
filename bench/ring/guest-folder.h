/*
 * A guest of the embedded host as C programs see it: its memory and grant table, mapped, and the
 * FIFOs of its one event channel. And the block ring, x86_64 ABI (Xen's public io/blkif.h, io/ring.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    ENTRIES = 32,
    SEGMENTS = 11,
    LISTED = 512,
    REFERENCES = 32768,
    OP_READ = 0,
    OP_WRITE = 1,
    OP_INDIRECT = 6,
};
/* The references of a guest are its page numbers, and these more. */
enum { FIRST_REFERENCE = 8 };
static const uint32_t READ_ONLY = 0x80000000;

struct segment {
    uint32_t grant;
    uint8_t first, last;
    uint16_t unused;
};

union entry {
    struct {
        uint8_t operation, segments;
        uint16_t handle;
        uint32_t unused;
        uint64_t id, sector;
        struct segment segment[SEGMENTS];
    } direct;
    struct {
        uint8_t operation, inner;
        uint16_t segments;
        uint32_t unused;
        uint64_t id, sector;
        uint16_t handle, unused2;
        uint32_t page[8];
    } indirect;
    struct {
        uint64_t id;
        uint8_t operation, unused;
        int16_t status;
    } response;
    uint32_t word[28];
};

struct ring {
    _Atomic uint32_t requests, request_event, responses, response_event;
    uint8_t unused[48];
    union entry entry[ENTRIES];
};
_Static_assert(sizeof(union entry) == 112, "an entry");

struct guest {
    uint8_t *memory;
    uint64_t pages;
    _Atomic uint32_t *grants;
    int to_guest, to_backend;
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *map_file(const char *folder, const char *name, uint64_t *bytes)
{
    char path[512];
    struct stat stat;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &stat) != 0) fail(path);
    void *at = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) fail(path);
    close(fd);
    *bytes = stat.st_size;
    return at;
}

static int open_fifo(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_NONBLOCK);
    if (fd < 0) fail(path);
    return fd;
}

static struct guest open_guest(const char *folder, int domid)
{
    char path[256];
    uint64_t bytes;
    struct guest guest;
    snprintf(path, sizeof path, "%s/guest-%d", folder, domid);
    guest.memory = map_file(path, "memory", &bytes);
    guest.pages = bytes / PAGE;
    guest.grants = map_file(path, "grants", &bytes);
    guest.to_guest = open_fifo(path, "port-1.to-guest");
    guest.to_backend = open_fifo(path, "port-1.to-backend");
    return guest;
}

static void notify(int fifo)
{
    if (write(fifo, "", 1) != 1 && errno != EAGAIN) fail("write");
}

static void hear(int fifo)
{
    char bytes[PAGE];
    if (read(fifo, bytes, PAGE) < 0 && errno != EAGAIN) fail("read");
}
