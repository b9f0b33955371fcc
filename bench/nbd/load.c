/*
 * The client of the NBD bench: keeps so many requests of one size under way on a unix socket for a
 * time, and prints how many were answered. Requests that become possible together are sent together.
 *
 * usage: load SOCKET read|write random|sequential|spread BLOCK_BYTES DEPTH SECONDS START_BYTE SPAN_BYTES SEED
 * spread: one request in each of 4096 equal parts of the span, in an order of chance; SECONDS is a limit.
 */
#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { PARTS = 4096, RECEIVE = 4 << 20 };

static int fd;
static uint8_t *received;
static size_t from, to;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void send_all(const void *bytes, size_t count)
{
    const uint8_t *next = bytes;
    while (count > 0) {
        ssize_t sent = send(fd, next, count, MSG_NOSIGNAL);
        if (sent <= 0) fail("the server closed the connection");
        next += sent;
        count -= sent;
    }
}

/* What was received and not taken, at least `count` bytes of it. */
static uint8_t *take(size_t count)
{
    if (to - from < count && from > 0) {
        memmove(received, received + from, to - from);
        to -= from;
        from = 0;
    }
    while (to - from < count) {
        ssize_t got = recv(fd, received + to, RECEIVE - to, 0);
        if (got <= 0) fail("the server closed the connection");
        to += got;
    }
    from += count;
    return received + from - count;
}

/* Throws bytes away, most of them without looking for them to be in one piece. */
static void skip(size_t count)
{
    while (count > to - from) {
        count -= to - from;
        from = to = 0;
        ssize_t got = recv(fd, received, RECEIVE, 0);
        if (got <= 0) fail("the server closed the connection");
        to = got;
    }
    from += count;
}

static uint32_t u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return be32toh(value);
}

static void put(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8) at[i] = value;
}

static void option(uint32_t number, const void *data, uint32_t length)
{
    uint8_t header[16] = "IHAVEOPT";
    put(header + 8, number, 4);
    put(header + 12, length, 4);
    send_all(header, 16);
    send_all(data, length);
    for (;;) {
        uint8_t *reply = take(20);
        uint32_t type = u32(reply + 12), bytes = u32(reply + 16);
        skip(bytes);
        if (type == 1) return;
        if (type & 0x80000000) fail("the server refuses an option");
    }
}

static void connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof address.sun_path) fail("the path is too long");
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("no server there");
    skip(18);
    send_all("\0\0\0\3", 4);
    option(8, "", 0);
    option(7, "\0\0\0\0\0\0", 6);
}

/* Takes the whole reply to one request. */
static void take_reply(void)
{
    for (;;) {
        uint8_t *reply = take(16);
        uint32_t magic = u32(reply), flags = u32(reply + 4);
        if (magic == 0x67446698) {
            if (flags != 0) fail("the server answers with an error");
            return;
        }
        if (magic != 0x668e33ef) fail("the server answers with nonsense");
        if (flags & 0x8000) fail("the server answers with an error");
        skip(u32(take(4)));
        if (flags >> 16 & 1) return;
    }
}

static uint64_t chance;

static uint64_t random64(void)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance;
}

static uint64_t parts[PARTS];

int main(int argc, char **argv)
{
    if (argc != 10) fail("wrong arguments");
    int writes = !strcmp(argv[2], "write"), sequential = !strcmp(argv[3], "sequential");
    int spread = !strcmp(argv[3], "spread");
    uint64_t block = atoll(argv[4]), depth = atoll(argv[5]), start_at = atoll(argv[7]), span = atoll(argv[8]);
    double seconds = atof(argv[6]);
    chance = atoll(argv[9]) * 2654435761u + 88172645463325252u;
    for (uint64_t i = 0; i < PARTS; i++) {
        uint64_t other = random64() % (i + 1);
        parts[i] = parts[other];
        parts[other] = i;
    }
    received = malloc(RECEIVE);
    size_t each = 28 + (writes ? block : 0);
    uint8_t *out = calloc(depth, each);
    for (uint64_t i = 0; i < depth * each; i++) out[i] = random64();
    connect_to(argv[1]);

    uint64_t begun = 0, ended = 0, last = 0, blocks = span / block;
    double start = now(), end = start + seconds;
    for (;;) {
        uint64_t count = 0;
        if (now() < end) {
            uint64_t limit = spread && begun + depth > PARTS ? PARTS - begun : depth;
            for (; begun - ended < depth && count < limit; begun++, count++) {
                uint64_t at = sequential ? last++ % blocks : random64() % blocks;
                if (spread) at = parts[begun] * (blocks / PARTS);
                uint8_t *request = out + count * each;
                put(request, 0x25609513, 4);
                put(request + 4, 0, 2);
                put(request + 6, writes, 2);
                put(request + 8, begun, 8);
                put(request + 16, start_at + at * block, 8);
                put(request + 24, block, 4);
            }
        }
        if (count > 0) send_all(out, count * each);
        if (ended == begun) break;
        take_reply();
        ended++;
        /* Those whose replies are here already: a header at least. */
        while (ended < begun && to - from >= 16 + (writes ? 0 : block)) {
            take_reply();
            ended++;
        }
    }
    double took = now() - start;
    uint8_t leave[28] = { 0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2 };
    send_all(leave, 28);
    printf("{\"ops\":%llu,\"seconds\":%.6f}\n", (unsigned long long)ended, took);
    return 0;
}
