/* The first process: loads modules, then either goes over to the root file system that the
   kernel's command line names (lab.root=, lab.init=), or serves commands on the console. */
#define _GNU_SOURCE
#include "lab.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define LINE 4096

static void console(const char *path) {
  int fd = open(path, O_RDWR);
  if (fd < 0) return;
  for (int i = 0; i < 3; i++) dup2(fd, i);
  if (fd > 2) close(fd);
}

/* Loads the modules of a list; those for hardware that is not here say ENODEV. */
static void load_modules(const char *order) {
  char name[200], path[220];
  FILE *list = fopen(order, "r");
  while (list != NULL && fgets(name, sizeof name, list) != NULL) {
    name[strcspn(name, "\n")] = 0;
    snprintf(path, sizeof path, "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && errno != ENODEV))
      printf("vbd: module %s: %s\n", name, strerror(errno));
    close(fd);
  }
  if (list != NULL) fclose(list);
}

/* The value of NAME= on the kernel's command line, or NULL. */
static char *option(const char *name) {
  static char line[LINE];
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n = read(fd, line, sizeof line - 1);
  close(fd);
  line[n < 0 ? 0 : n] = 0;
  for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n"))
    if (strncmp(word, name, strlen(name)) == 0 && word[strlen(name)] == '=')
      return strdup(word + strlen(name) + 1);
  return NULL;
}

/* Waits until a path is there (or, with `gone`, is not); devices announce themselves in no file. */
static int await_path(const char *path, int gone, int64_t timeout_ms) {
  int64_t until = now_ms() + timeout_ms;
  while ((access(path, F_OK) != 0) != gone) {
    if (now_ms() > until) return -1;
    usleep(20000);
  }
  return 0;
}

static void go_over(const char *device, const char *program) {
  static const char *const moved[] = {"/dev", "/proc", "/sys"};
  char target[32];
  if (await_path(device, 0, 60000) < 0) printf("vbd: %s did not come\n", device);
  mkdir("/root", 0755);
  if (mount(device, "/root", "ext4", 0, NULL) < 0)
    printf("vbd: mount %s: %s\n", device, strerror(errno));
  for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
    snprintf(target, sizeof target, "/root%s", moved[i]);
    mount(moved[i], target, NULL, MS_MOVE, NULL);
  }
  if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
      chdir("/") < 0)
    printf("vbd: root: %s\n", strerror(errno));
  execl(program, program, (char *)NULL);
  printf("vbd: %s: %s\n", program, strerror(errno));
  for (;;) pause();
}

static void first_word(const char *format, const char *name, FILE *out, const char *label) {
  char path[200], word[64] = "";
  snprintf(path, sizeof path, format, name);
  FILE *file = fopen(path, "r");
  if (file != NULL && fgets(word, sizeof word, file) != NULL) word[strcspn(word, "\n")] = 0;
  for (char *c = word; *c; c++) if (*c == ' ') *c = '-';
  fprintf(out, " %s=%s", label, word);
  if (file != NULL) fclose(file);
}

static void list_disks(FILE *out) {
  struct dirent **names;
  int count = scandir("/sys/block", &names, NULL, alphasort);
  for (int i = 0; i < count; i++) {
    const char *name = names[i]->d_name;
    if (strncmp(name, "xvd", 3) != 0 && strncmp(name, "sd", 2) != 0 && name[0] != 'h') continue;
    fprintf(out, "name=%s", name);
    first_word("/sys/block/%s/size", name, out, "sectors");
    first_word("/sys/block/%s/ro", name, out, "readonly");
    first_word("/sys/block/%s/queue/logical_block_size", name, out, "sectorBytes");
    first_word("/sys/block/%s/queue/discard_max_bytes", name, out, "discardBytes");
    first_word("/sys/block/%s/queue/write_cache", name, out, "cache");
    fputc('\n', out);
  }
}

static int shell(char *command, FILE *out, char *why, size_t room) {
  char line[LINE];
  char *argv[] = {"sh", "-c", command, NULL};
  int ends[2], status = 0;
  if (pipe(ends) < 0) return 1;
  pid_t child = fork();
  if (child == 0) {
    dup2(open("/dev/null", O_RDONLY), 0);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    setenv("PATH", "/bin:/sbin", 1);
    execv("/bin/sh", argv);
    _exit(127);
  }
  close(ends[1]);
  FILE *in = fdopen(ends[0], "r");
  while (fgets(line, sizeof line, in) != NULL) fputs(line, out);
  waitpid(child, &status, 0);
  if (status == 0) return 0;
  snprintf(why, room, "ended with %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  return 1;
}

static void power(const char *how) {
  sync();
  if (strcmp(how, "crash") == 0) {
    int fd = open("/proc/sysrq-trigger", O_WRONLY);
    if (write(fd, "c", 1) < 0) abort();
  }
  reboot(strcmp(how, "reboot") == 0 ? RB_AUTOBOOT : RB_POWER_OFF);
}

static int perform(int argc, char **argv, char *rest, FILE *out, char *why, size_t room) {
  char path[64];
  const char *verb = argv[0];
  if (strcmp(verb, "list") == 0) return list_disks(out), 0;
  if (strcmp(verb, "ext4") == 0) return load_modules("/modules.ext4"), 0;
  if (strcmp(verb, "sh") == 0) return shell(rest, out, why, room);
  if (strcmp(verb, "poweroff") == 0 || strcmp(verb, "reboot") == 0 || strcmp(verb, "crash") == 0)
    return power(verb), 0;
  snprintf(path, sizeof path, "/dev/%s", argc > 1 ? argv[1] : "");
  if (strcmp(verb, "await") == 0 || strcmp(verb, "awaitgone") == 0) {
    if (await_path(path, verb[5] == 'g', argc > 2 ? atoi(argv[2]) : 60000) == 0) return 0;
    return snprintf(why, room, "%s: still not", path), 1;
  }
  argv[1] = path;
  return disk_verb(argc, argv, out, why, room);
}

/* One command `ID VERB ARGUMENT…`: its lines as `vbd ID | …`, then `vbd ID ok` or `vbd ID error …`. */
static void command(char *line) {
  char *argv[16], *text = NULL, why[300] = "", reply[LINE];
  size_t length = 0;
  int argc = 0;
  char *rest = strchr(line, ' ');
  rest = rest == NULL ? NULL : strchr(rest + 1, ' ');
  rest = strdup(rest == NULL ? "" : rest + 1);
  for (char *word = strtok(line, " "); word != NULL && argc < 15; word = strtok(NULL, " "))
    argv[argc++] = word;
  if (argc < 2) return;
  argv[argc] = NULL;
  FILE *out = open_memstream(&text, &length);
  int failed = perform(argc - 1, argv + 1, rest, out, why, sizeof why);
  fclose(out);
  for (char *one = strtok(text, "\n"); one != NULL; one = strtok(NULL, "\n")) {
    int n = snprintf(reply, sizeof reply, "vbd %s | %s\n", argv[0], one);
    if (write(1, reply, n) < 0) return;
  }
  int n = snprintf(reply, sizeof reply, "vbd %s %s %s\n", argv[0], failed ? "error" : "ok", why);
  if (write(1, reply, n) < 0) return;
}

static void serve(void) {
  char line[LINE];
  struct termios tty;
  console("/dev/hvc0");
  if (tcgetattr(0, &tty) == 0) {
    tty.c_lflag &= ~(ECHO | ECHOE | ECHOK | ECHONL);
    tty.c_oflag &= ~OPOST;
    tcsetattr(0, TCSANOW, &tty);
  }
  signal(SIGCHLD, SIG_IGN);
  printf("vbd ready ms=%lld\n", (long long)now_ms());
  fflush(stdout);
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\r\n")] = 0;
    if (fork() != 0) continue;
    signal(SIGCHLD, SIG_DFL);
    command(line);
    _exit(0);
  }
  for (;;) pause();
}

int main(int argc, char **argv) {
  char why[300] = "";
  const char *name = strrchr(argv[0], '/') == NULL ? argv[0] : strrchr(argv[0], '/') + 1;
  if (strcmp(name, "poweroff") == 0 || strcmp(name, "reboot") == 0) power(name);
  if (getpid() != 1) {
    if (argc < 3) return fprintf(stderr, "disk VERB PATH [SEED [AT [LENGTH …]]]\n"), 2;
    int failed = disk_verb(argc - 1, argv + 1, stdout, why, sizeof why);
    if (failed) fprintf(stderr, "%s\n", why);
    return failed;
  }
  mkdir("/proc", 0755);
  mkdir("/sys", 0755);
  mkdir("/dev", 0755);
  mkdir("/tmp", 01777);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sysfs", "/sys", "sysfs", 0, NULL);
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  console("/dev/console");
  load_modules("/modules.order");
  char *root = option("lab.root"), *program = option("lab.init");
  if (root != NULL && program != NULL) go_over(root, program);
  serve();
}
