/*
 * The ring bench's measure: what our worker's loop does for one guest, with the same system calls,
 * in C. Copies each request into a record in shared memory before it looks at it, checks it, moves
 * its bytes through memory of its own, answers in order.
 *
 * usage: twin FOLDER DOMID IMAGE RECORD null|real
 */
#define _GNU_SOURCE
#include "guest-folder.h"

#include <sys/uio.h>

enum { MOST = 256, TURN = 32, TURN_BYTES = 1 << 20, SLOTS = 32, ENTRY_WORDS = 32 };
static const uint64_t SLOT_BYTES = (MOST + 1) * (uint64_t)PAGE;

static struct guest guest;
static struct ring *ring;
static uint32_t *record;
static uint8_t *slots;
static int image, is_null, is_plain;
static pid_t pid;
static uint64_t sectors;
static uint32_t taken, answered, published;
static int free_slots[SLOTS], free_count = SLOTS;

static struct work {
    uint8_t operation, is_listed, is_done;
    int8_t status;
    uint16_t segments;
    int slot;
    uint64_t sector, bytes;
} works[ENTRIES];

static struct copy {
    int to_guest, owner;
    uint32_t grant;
    uint16_t offset, bytes;
    uint8_t *own;
    int failed;
} copies[MOST];
static int copy_count, waiting[ENTRIES], waiting_count;

static void finish(int place, int status)
{
    struct work *work = &works[place];
    work->is_done = 1;
    work->status = status;
    if (work->slot >= 0) free_slots[free_count++] = work->slot;
    work->slot = -1;
}

static int granted_at(const struct copy *copy, uint8_t **granted)
{
    if (copy->grant >= REFERENCES) return 1;
    uint32_t entry = guest.grants[copy->grant];
    if (entry == 0 || (copy->to_guest && entry >= READ_ONLY)) return 1;
    uint32_t page = (entry & ~READ_ONLY) - 1;
    if (page >= guest.pages || copy->offset + copy->bytes > PAGE) return 1;
    *granted = guest.memory + (uint64_t)page * PAGE + copy->offset;
    return 0;
}

/* All in one call of the kernel. */
static void move(int count)
{
    static struct iovec to[MOST], from[MOST];
    ssize_t wanted = 0;
    for (int i = 0; i < count; i++) {
        uint8_t *granted = NULL;
        copies[i].failed = granted_at(&copies[i], &granted);
        uint16_t bytes = copies[i].failed ? 0 : copies[i].bytes;
        to[i] = (struct iovec){copies[i].to_guest ? granted : copies[i].own, bytes};
        from[i] = (struct iovec){copies[i].to_guest ? copies[i].own : granted, bytes};
        wanted += bytes;
    }
    if (process_vm_readv(pid, to, count, from, count, 0) != wanted) fail("process_vm_readv");
}

static void run_copies(void)
{
    int count = copy_count, owners = waiting_count;
    if (count == 0) return;
    copy_count = waiting_count = 0;
    move(count);
    for (int i = 0; i < count; i++) {
        if (copies[i].failed) works[copies[i].owner].status = -1;
    }
    for (int i = 0; i < owners; i++) {
        struct work *work = &works[waiting[i]];
        if (work->status == 0 && work->operation == OP_WRITE && !is_null) {
            uint8_t *own = slots + work->slot * SLOT_BYTES;
            ssize_t wrote = pwrite(image, own, work->bytes, work->sector * 512);
            if (wrote != (ssize_t)work->bytes) work->status = -1;
        }
        finish(waiting[i], work->status);
    }
}

static int check(struct work *work, const struct segment *segments)
{
    uint64_t count = 0;
    for (int i = 0; i < work->segments; i++) {
        if (segments[i].last < segments[i].first || segments[i].last > 7) return -1;
        count += segments[i].last - segments[i].first + 1;
    }
    work->bytes = count * 512;
    return work->sector + count > sectors ? -1 : 0;
}

static struct segment *segments_of(int place)
{
    struct work *work = &works[place];
    if (work->is_listed) {
        return (struct segment *)(slots + work->slot * SLOT_BYTES + work->segments * PAGE);
    }
    return ((union entry *)&record[place * ENTRY_WORDS + 2])->direct.segment;
}

static void queue_copies(int place, int to_guest)
{
    struct work *work = &works[place];
    struct segment *segments = segments_of(place);
    if (copy_count + work->segments > MOST) run_copies();
    uint8_t *own = slots + work->slot * SLOT_BYTES;
    for (int i = 0; i < work->segments; i++) {
        uint16_t bytes = (segments[i].last - segments[i].first + 1) * 512;
        uint16_t offset = segments[i].first * 512;
        copies[copy_count++] = (struct copy){to_guest, place, segments[i].grant, offset, bytes, own, 0};
        own += bytes;
    }
    waiting[waiting_count++] = place;
}

static int read_image(struct work *work)
{
    if (is_null) return 0;
    uint8_t *own = slots + work->slot * SLOT_BYTES;
    if (!is_plain) {
        struct iovec vector = {own, work->bytes};
        ssize_t got = preadv2(image, &vector, 1, work->sector * 512, RWF_NOWAIT);
        if (got == (ssize_t)work->bytes) return 0;
        if (got < 0 && errno == EOPNOTSUPP) is_plain = 1;
    }
    return pread(image, own, work->bytes, work->sector * 512) == (ssize_t)work->bytes ? 0 : -1;
}

static void note(uint32_t index, uint32_t *noted)
{
    union entry *from = &ring->entry[index % ENTRIES];
    atomic_store((_Atomic uint32_t *)&noted[0], 0);
    noted[1] = index;
    noted[2] = ((volatile uint32_t *)from)[0];
    uint8_t operation = noted[2] & 0xff, segments = noted[2] >> 8 & 0xff;
    int words = 28;
    if (operation <= 2) words = 6 + 2 * (segments > SEGMENTS ? SEGMENTS : segments);
    for (int i = 1; i < words; i++) noted[2 + i] = ((volatile uint32_t *)from)[i];
    atomic_store((_Atomic uint32_t *)&noted[0], 1);
}

/* Takes and begins one request. Returns how many bytes it has, for the turn. */
static uint64_t begin(void)
{
    int place = taken % ENTRIES;
    uint32_t *noted = &record[place * ENTRY_WORDS];
    note(taken++, noted);
    union entry *entry = (union entry *)&noted[2];
    struct work *work = &works[place];
    *work = (struct work){.operation = entry->direct.operation, .slot = -1, .sector = entry->direct.sector};
    work->segments = entry->direct.segments;
    if (work->operation == OP_INDIRECT) {
        work->operation = entry->indirect.inner;
        work->segments = entry->indirect.segments;
        work->is_listed = 1;
    }
    if (work->operation > OP_WRITE || work->segments == 0 || work->segments > (work->is_listed ? MOST : SEGMENTS)
        || (!work->is_listed && check(work, segments_of(place)) != 0)) {
        finish(place, -1);
        return 0;
    }
    work->slot = free_slots[--free_count];
    if (work->is_listed) {
        run_copies();
        uint8_t *own = (uint8_t *)segments_of(place);
        copies[0] = (struct copy){.grant = entry->indirect.page[0], .bytes = work->segments * 8, .own = own};
        move(1);
        if (copies[0].failed || check(work, segments_of(place)) != 0) {
            finish(place, -1);
            return 0;
        }
    }
    uint64_t bytes = work->bytes;
    if (work->operation == OP_WRITE) queue_copies(place, 0);
    else if (read_image(work) == 0) queue_copies(place, 1);
    else finish(place, -1);
    return bytes;
}

static void answer(void)
{
    while (answered != taken && works[answered % ENTRIES].is_done) {
        struct work *work = &works[answered % ENTRIES];
        union entry *noted = (union entry *)&record[answered % ENTRIES * ENTRY_WORDS + 2];
        union entry *entry = &ring->entry[answered++ % ENTRIES];
        entry->response.id = noted->direct.id;
        entry->response.operation = work->operation;
        entry->response.status = work->status;
        work->is_done = 0;
    }
    if (answered == published) return;
    uint32_t before = published;
    published = answered;
    atomic_store(&ring->responses, answered);
    if (answered - atomic_load(&ring->response_event) < answered - before) notify(guest.to_guest);
}

/* Returns whether more waits. */
static int serve(void)
{
    uint64_t bytes = 0;
    int is_idle = 0;
    for (int i = 0; i < TURN && bytes < TURN_BYTES; i++) {
        uint32_t produced = atomic_load(&ring->requests);
        if (produced - published > ENTRIES) exit(1);
        if (produced == taken) {
            is_idle = 1;
            break;
        }
        bytes += begin();
    }
    run_copies();
    answer();
    if (!is_idle) return 1;
    atomic_store(&ring->request_event, taken + 1);
    return atomic_load(&ring->requests) != taken;
}

int main(int argc, char **argv)
{
    struct stat stat;
    uint64_t bytes;
    if (argc != 6) return 2;
    pid = getpid();
    guest = open_guest(argv[1], atoi(argv[2]));
    ring = (struct ring *)guest.memory;
    image = open(argv[3], O_RDWR);
    if (image < 0 || fstat(image, &stat) != 0) fail(argv[3]);
    sectors = stat.st_size / 512;
    record = map_file("", argv[4], &bytes);
    is_null = strcmp(argv[5], "null") == 0;
    slots = mmap(NULL, SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < SLOTS; i++) free_slots[i] = i;
    int outer = epoll_create1(0), inner = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event);
    event.events = EPOLLIN | EPOLLET;
    epoll_ctl(inner, EPOLL_CTL_ADD, guest.to_backend, &event);
    printf("ready\n");
    fflush(stdout);
    for (int more = 1;;) {
        if (epoll_wait(outer, &event, 1, more ? 0 : -1) > 0) {
            epoll_wait(inner, &event, 1, 0);
            hear(guest.to_backend);
            more = 1;
        }
        if (more) more = serve();
    }
}
