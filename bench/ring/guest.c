/*
 * The guests of the ring bench: each keeps so many requests of one size under way on its ring for a
 * time. Prints how many each had answered, a line a guest.
 *
 * usage: guest FOLDER FIRST_DOMID GUESTS read|write BLOCK_BYTES DEPTH SECONDS SPAN_BYTES
 */
#include "guest-folder.h"

#include <time.h>

enum { MOST_GUESTS = 1024 };

static struct driven {
    struct guest guest;
    struct ring *ring;
    uint32_t produced, consumed;
    uint64_t answered;
    int free[ENTRIES], free_count;
} driven[MOST_GUESTS];

static int is_write;
static uint64_t block, depth, blocks;
static uint64_t chance = 88172645463325252;

static uint64_t next_chance(void)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* The first page is the ring's; each buffer has a page for its list of segments before its own. */
static uint32_t first_page(int buffer)
{
    return 1 + buffer * (1 + block / PAGE);
}

static void write_segments(struct segment *segments, int buffer)
{
    for (uint64_t i = 0; i < block / PAGE; i++) {
        uint32_t grant = FIRST_REFERENCE + first_page(buffer) + 1 + i;
        segments[i] = (struct segment){.grant = grant, .first = 0, .last = 7};
    }
}

static void prepare(struct driven *d)
{
    d->ring = (struct ring *)d->guest.memory;
    d->produced = d->consumed = d->ring->responses;
    for (uint64_t buffer = 0; buffer < depth; buffer++) {
        uint32_t first = first_page(buffer);
        if (first + block / PAGE >= d->guest.pages) {
            fprintf(stderr, "guest: too little memory\n");
            exit(1);
        }
        for (uint32_t page = first; page <= first + block / PAGE; page++) {
            d->guest.grants[page + FIRST_REFERENCE] = page + 1;
        }
        if (block / PAGE > SEGMENTS) {
            write_segments((struct segment *)(d->guest.memory + (uint64_t)first * PAGE), buffer);
        }
        d->free[d->free_count++] = buffer;
    }
}

static void push(struct driven *d)
{
    uint32_t before = d->produced;
    while (d->free_count > 0) {
        int buffer = d->free[--d->free_count];
        union entry *entry = &d->ring->entry[d->produced++ % ENTRIES];
        uint64_t sector = next_chance() % blocks * (block / 512);
        int operation = is_write ? OP_WRITE : OP_READ;
        if (block / PAGE > SEGMENTS) {
            entry->indirect.operation = OP_INDIRECT;
            entry->indirect.inner = operation;
            entry->indirect.segments = block / PAGE;
            entry->indirect.page[0] = FIRST_REFERENCE + first_page(buffer);
        } else {
            entry->direct.operation = operation;
            entry->direct.segments = block / PAGE;
            write_segments(entry->direct.segment, buffer);
        }
        entry->direct.id = buffer;
        entry->direct.sector = sector;
    }
    if (d->produced == before) return;
    atomic_store(&d->ring->requests, d->produced);
    if (d->produced - atomic_load(&d->ring->request_event) < d->produced - before) {
        notify(d->guest.to_backend);
    }
}

static void take(struct driven *d)
{
    do {
        uint32_t there = atomic_load(&d->ring->responses);
        while (d->consumed != there) {
            union entry *entry = &d->ring->entry[d->consumed++ % ENTRIES];
            if (entry->response.status != 0) {
                fprintf(stderr, "guest: status %d\n", entry->response.status);
                exit(1);
            }
            d->free[d->free_count++] = entry->response.id;
            d->answered++;
        }
        atomic_store(&d->ring->response_event, d->consumed + 1);
    } while (atomic_load(&d->ring->responses) != d->consumed);
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fprintf(stderr, "usage: see the source\n");
        return 2;
    }
    int first = atoi(argv[2]), guests = atoi(argv[3]);
    is_write = strcmp(argv[4], "write") == 0;
    block = atoll(argv[5]);
    depth = atoll(argv[6]);
    double seconds = atof(argv[7]);
    blocks = atoll(argv[8]) / block;
    int poller = epoll_create1(0);
    for (int i = 0; i < guests; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        driven[i].guest = open_guest(argv[1], first + i);
        prepare(&driven[i]);
        epoll_ctl(poller, EPOLL_CTL_ADD, driven[i].guest.to_guest, &event);
    }
    double start = now();
    uint64_t passes = 0, under_way = 0;
    for (int i = 0; i < guests; i++) push(&driven[i]);
    under_way = depth * guests;
    int is_over = 0;
    while (under_way > 0) {
        struct epoll_event events[64];
        int count = epoll_wait(poller, events, 64, 5000);
        if (count == 0) {
            fprintf(stderr, "guest: no answer\n");
            return 1;
        }
        if ((++passes & 15) == 0 || depth == 1) is_over = is_over || now() - start > seconds;
        for (int i = 0; i < count; i++) {
            struct driven *d = &driven[events[i].data.u32];
            hear(d->guest.to_guest);
            uint64_t before = d->answered;
            take(d);
            if (is_over) under_way -= d->answered - before;
            else push(d);
        }
    }
    double took = now() - start;
    for (int i = 0; i < guests; i++) printf("%.1f\n", driven[i].answered / took);
    return 0;
}
