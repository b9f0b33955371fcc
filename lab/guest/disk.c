/* Verbs on one disk or file: every sector written says which sector of which seed it is. */
#define _GNU_SOURCE
#include "lab.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 * 1024)
#define WORDS (SECTOR / 8)
#define LOAD_MOST 64

int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  return x ^ (x >> 32);
}

/* Sector `sector` of `seed`: its number, the seed, then words that follow from both. */
static void stamp(uint64_t *words, uint64_t seed, uint64_t sector) {
  uint64_t x = mix(seed ^ mix(sector));
  words[0] = sector;
  words[1] = seed;
  for (int i = 2; i < WORDS; i++) words[i] = x + (uint64_t)i * 0x9e3779b97f4a7c15ULL;
}

static void stamp_all(char *buffer, uint64_t seed, uint64_t at, size_t length) {
  for (size_t done = 0; done < length; done += SECTOR)
    stamp((uint64_t *)(buffer + done), seed, (at + done) / SECTOR);
}

static int moved(int write, int fd, char *buffer, size_t length, uint64_t at) {
  while (length > 0) {
    ssize_t n = write ? pwrite(fd, buffer, length, at) : pread(fd, buffer, length, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n == 0 ? (errno = ENODATA, -1) : -1;
    buffer += n;
    at += n;
    length -= n;
  }
  return 0;
}

static char *aligned(size_t size) {
  void *memory = NULL;
  return posix_memalign(&memory, 4096, size) == 0 ? memory : NULL;
}

/* Compares what was read with what was written; says what is there instead. */
static int differs(const char *buffer, uint64_t seed, int zeros, uint64_t at, size_t length,
                   char *why, size_t room) {
  uint64_t want[WORDS];
  memset(want, 0, sizeof want);
  for (size_t done = 0; done < length; done += SECTOR) {
    uint64_t sector = (at + done) / SECTOR;
    const uint64_t *have = (const uint64_t *)(buffer + done);
    if (!zeros) stamp(want, seed, sector);
    if (memcmp(have, want, SECTOR) == 0) continue;
    snprintf(why, room, "sector %llu does not hold %s: it begins with %016llx %016llx",
             (unsigned long long)sector, zeros ? "zeros" : "what was written",
             (unsigned long long)have[0], (unsigned long long)have[1]);
    return 1;
  }
  return 0;
}

static int sweep(int write, int fd, uint64_t seed, int zeros, uint64_t at, uint64_t length,
                 char *why, size_t room) {
  char *buffer = aligned(CHUNK);
  for (uint64_t done = 0; done < length; done += CHUNK) {
    size_t step = length - done < CHUNK ? length - done : CHUNK;
    if (write) stamp_all(buffer, seed, at + done, step);
    if (moved(write, fd, buffer, step, at + done) < 0) {
      snprintf(why, room, "%s at %llu: %s", write ? "write" : "read",
               (unsigned long long)(at + done), strerror(errno));
      return 1;
    }
    if (!write && differs(buffer, seed, zeros, at + done, step, why, room)) return 1;
  }
  free(buffer);
  return 0;
}

struct tally {
  uint64_t reads, writes, flushes;
};

/* One worker on its own part of the disk: random writes, each read back past the cache. */
static int worker(const char *path, uint64_t seed, uint64_t at, uint64_t length, int64_t until,
                  struct tally *tally, char *why, size_t room) {
  int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd < 0) return snprintf(why, room, "open: %s", strerror(errno)), 1;
  uint64_t blocks = length / 4096, random = seed;
  uint32_t *generation = calloc(blocks, sizeof *generation);
  char *buffer = aligned(65536);
  while (now_ms() < until) {
    random = mix(random + 0x9e3779b97f4a7c15ULL);
    uint64_t block = random % blocks, count = 1 + (random >> 40) % 16;
    if (count > blocks - block) count = blocks - block;
    uint64_t from = at + block * 4096;
    if (random >> 63) {
      uint64_t next = ++generation[block];
      for (uint64_t i = 1; i < count; i++) generation[block + i] = next;
      stamp_all(buffer, seed + next, from, count * 4096);
      if (moved(1, fd, buffer, count * 4096, from) < 0) goto failed;
      tally->writes++;
      if ((random >> 32) % 16 == 0 && ++tally->flushes && fsync(fd) < 0) goto failed;
    } else if (generation[block] != 0) {
      if (moved(0, fd, buffer, 4096, from) < 0) goto failed;
      if (differs(buffer, seed + generation[block], 0, from, 4096, why, room)) return 1;
      tally->reads++;
    }
  }
  return 0;
failed:
  snprintf(why, room, "I/O at %llu: %s", (unsigned long long)at, strerror(errno));
  return 1;
}

/* Several workers side by side; each tells its tally or its fault through one pipe. */
static int stress(const char *path, uint64_t seed, uint64_t at, uint64_t length, int seconds,
                  int jobs, FILE *out, char *why, size_t room) {
  struct { struct tally tally; int failed; char why[200]; } result;
  struct tally all = {0, 0, 0};
  int ends[2], failed = 0;
  uint64_t part = length / jobs / 65536 * 65536;
  int64_t until = now_ms() + seconds * 1000LL;
  if (part == 0 || pipe(ends) < 0) return snprintf(why, room, "the disk is too small"), 1;
  for (int i = 0; i < jobs; i++) {
    if (fork() != 0) continue;
    memset(&result, 0, sizeof result);
    result.failed = worker(path, seed + ((uint64_t)i << 32), at + i * part, part, until,
                           &result.tally, result.why, sizeof result.why);
    _exit(write(ends[1], &result, sizeof result) == sizeof result ? 0 : 1);
  }
  close(ends[1]);
  for (int i = 0; i < jobs; i++) {
    if (read(ends[0], &result, sizeof result) != sizeof result)
      failed = 1, snprintf(why, room, "a worker died");
    else if (result.failed)
      failed = 1, snprintf(why, room, "%s", result.why);
    all.reads += result.tally.reads;
    all.writes += result.tally.writes;
    all.flushes += result.tally.flushes;
  }
  while (wait(NULL) > 0) continue;
  if (!failed)
    fprintf(out, "reads=%llu writes=%llu flushes=%llu\n", (unsigned long long)all.reads,
            (unsigned long long)all.writes, (unsigned long long)all.flushes);
  return failed;
}

/* So many requests under way, of one process: what the guest itself spends is to be little. */
struct requests {
  int fd, write, depth, failed;
  size_t block;
  uint64_t blocks, random;
  aio_context_t context;
  char *buffer;
  struct iocb each[LOAD_MOST];
};

static void submit(struct requests *load, struct iocb **next, int count) {
  for (int i = 0; i < count; i++) {
    load->random = mix(load->random + 0x9e3779b97f4a7c15ULL);
    next[i]->aio_offset = load->random % load->blocks * load->block;
  }
  for (int done = 0, some; done < count; done += some) {
    some = syscall(SYS_io_submit, load->context, count - done, next + done);
    if (some <= 0) {
      load->failed = 1;
      return;
    }
  }
}

/* Keeps them under way until that time. Returns how many blocks were moved. */
static int64_t keep_busy(struct requests *load, int64_t until) {
  struct io_event events[LOAD_MOST];
  struct iocb *next[LOAD_MOST];
  int64_t moves = 0;
  int under_way = load->depth;
  for (int i = 0; i < load->depth; i++) {
    load->each[i] = (struct iocb){
        .aio_data = i,
        .aio_fildes = load->fd,
        .aio_lio_opcode = load->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_buf = (uintptr_t)(load->buffer + i * load->block),
        .aio_nbytes = load->block,
    };
    next[i] = &load->each[i];
  }
  submit(load, next, load->depth);
  while (under_way > 0 && !load->failed) {
    int ended = syscall(SYS_io_getevents, load->context, 1, under_way, events, NULL);
    if (ended <= 0) load->failed = 1;
    for (int i = 0; i < ended; i++) {
      if (events[i].res != (int64_t)load->block) load->failed = 1;
      next[i] = &load->each[events[i].data];
    }
    if (load->failed) break;
    moves += ended;
    if (now_ms() < until) submit(load, next, ended);
    else under_way -= ended;
  }
  return moves;
}

/* Reads or writes random blocks of the disk past every cache, for a time. */
static int load(const char *path, int writes, size_t block, uint64_t length, int seconds, int depth,
                FILE *out, char *why, size_t room) {
  static struct requests load;
  int64_t start = now_ms(), moves;
  if (length < block || depth < 1 || depth > LOAD_MOST)
    return snprintf(why, room, "a load of %d times %zu bytes", depth, block), 1;
  load = (struct requests){
      .fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC),
      .write = writes,
      .depth = depth,
      .block = block,
      .blocks = length / block,
      .buffer = aligned(block * depth),
  };
  if (load.fd < 0 || load.buffer == NULL || syscall(SYS_io_setup, depth, &load.context) < 0)
    return snprintf(why, room, "a load of %s: %s", path, strerror(errno)), 1;
  memset(load.buffer, 0x5a, block * depth);
  moves = keep_busy(&load, start + seconds * 1000LL);
  syscall(SYS_io_destroy, load.context);
  close(load.fd);
  free(load.buffer);
  if (load.failed) return snprintf(why, room, "a request of the load failed"), 1;
  fprintf(out, "moves=%lld in=%lld\n", (long long)moves, (long long)(now_ms() - start));
  return 0;
}

static int discard(int fd, uint64_t at, uint64_t length) {
  struct stat stat;
  uint64_t range[2] = {at, length};
  if (fstat(fd, &stat) < 0) return -1;
  if (S_ISBLK(stat.st_mode)) return ioctl(fd, BLKDISCARD, range);
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
}

static uint64_t number(int argc, char **argv, int index, uint64_t otherwise) {
  return index < argc ? strtoull(argv[index], NULL, 0) : otherwise;
}

/* VERB PATH [SEED [AT [LENGTH [SECONDS [JOBS]]]]]; LENGTH 0 or none: to the end.
   Of a load, SEED is how many bytes it moves at a time. */
int disk_verb(int argc, char **argv, FILE *out, char *why, size_t room) {
  const char *verb = argv[0], *path = argc > 1 ? argv[1] : "";
  uint64_t seed = number(argc, argv, 2, 1), at = number(argc, argv, 3, 0);
  uint64_t length = number(argc, argv, 4, 0);
  int zeros = strcmp(verb, "zeros") == 0, reading = zeros || strcmp(verb, "verify") == 0;
  int fd = open(path, (reading ? O_RDONLY | O_DIRECT : O_RDWR) | O_CLOEXEC), failed = 0;
  if (fd < 0) return snprintf(why, room, "open %s: %s", path, strerror(errno)), 1;
  int64_t size = lseek(fd, 0, SEEK_END), start = now_ms();
  if (length == 0) length = at < (uint64_t)size ? size - at : 0;
  if (reading) failed = sweep(0, fd, seed, zeros, at, length, why, room);
  else if (strcmp(verb, "fill") == 0) failed = sweep(1, fd, seed, 0, at, length, why, room);
  else if (strcmp(verb, "stress") == 0)
    failed = stress(path, seed, at, length, number(argc, argv, 5, 5), number(argc, argv, 6, 2),
                    out, why, room);
  else if (strcmp(verb, "loadread") == 0 || strcmp(verb, "loadwrite") == 0)
    failed = load(path, verb[4] == 'w', number(argc, argv, 2, 4096), length,
                  number(argc, argv, 5, 5), number(argc, argv, 6, 1), out, why, room);
  else if (strcmp(verb, "discard") == 0) failed = discard(fd, at, length) < 0;
  else if (strcmp(verb, "flush") != 0) failed = 1, errno = EINVAL;
  if (!failed && !reading && fsync(fd) < 0) failed = 1;
  if (failed && why[0] == 0) snprintf(why, room, "%s: %s", verb, strerror(errno));
  close(fd);
  fprintf(out, "bytes=%llu ms=%lld\n", (unsigned long long)length, (long long)(now_ms() - start));
  return failed;
}
