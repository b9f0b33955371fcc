/* One small static program, used three ways: the first process of a guest, the first process of
   dom0 and of a driver domain until their root file system is there, and the disk checker. */
#ifndef LAB_H
#define LAB_H
#include <stdint.h>
#include <stdio.h>

#define SECTOR 512

/* Runs one verb on a disk; `out` gets its lines. Returns 0, or 1 after writing why to `why`. */
int disk_verb(int argc, char **argv, FILE *out, char *why, size_t room);

/* Milliseconds since boot. */
int64_t now_ms(void);

#endif
