#define _GNU_SOURCE
#include "CNibbleSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/xattr.h>
#include <unistd.h>

int nibble_available_cores(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  int count = CPU_COUNT(&set);
  return count > 0 ? count : 1;
}

int nibble_set_direct(int descriptor, int on) {
  int flags = fcntl(descriptor, F_GETFL);
  if (flags < 0) return -1;
  return fcntl(descriptor, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

int nibble_rename_new(const char *from, const char *to) {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
}

// Linux keeps no longer lists and values than these.
enum { most_bytes = 65536 };

static int copy_attribute(int from, int to, const char *name, char *value, char *old) {
  ssize_t length = fgetxattr(from, name, value, most_bytes);
  if (length < 0) return -1;
  // Labels that a security module has given both files alike need not be set, which it may not allow.
  if (fgetxattr(to, name, old, most_bytes) == length && memcmp(value, old, (size_t)length) == 0) return 0;
  return fsetxattr(to, name, value, (size_t)length, 0);
}

static int remove_strangers(int from, int to, char *names, char *value) {
  int lost = 0;
  ssize_t length = flistxattr(to, names, most_bytes);
  for (ssize_t at = 0; at < length; at += strlen(names + at) + 1) {
    const char *name = names + at;
    if (strncmp(name, "security.", 9) == 0 || fgetxattr(from, name, value, most_bytes) >= 0) continue;
    if (fremovexattr(to, name) != 0) lost++;
  }
  return lost;
}

int nibble_copy_attributes(int from, int to) {
  char *names = malloc(most_bytes), *value = malloc(most_bytes), *old = malloc(most_bytes);
  int lost = 1;
  if (names && value && old) {
    // Such as the access control list that a new file gets from its folder.
    lost = remove_strangers(from, to, names, value);
    ssize_t length = flistxattr(from, names, most_bytes);
    // File systems without attributes have none to lose.
    if (length < 0 && errno != ENOTSUP) lost++;
    for (ssize_t at = 0; at < length; at += strlen(names + at) + 1) {
      if (copy_attribute(from, to, names + at, value, old) != 0) lost++;
    }
  }
  free(names), free(value), free(old);
  return lost;
}

int nibble_exchange(const char *a, const char *b) {
  return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

int nibble_open_nameless(const char *folder) {
  int descriptor = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return descriptor;
  // File systems without nameless files.
  char path[4096];
  int length = snprintf(path, sizeof path, "%s/.nibble-states-XXXXXX", folder);
  if (length < 0 || (size_t)length >= sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  descriptor = mkostemp(path, O_CLOEXEC);
  if (descriptor >= 0) unlink(path);
  return descriptor;
}

int nibble_write_back(int descriptor, long offset, long count, int wait) {
  unsigned flags = SYNC_FILE_RANGE_WRITE;
  if (wait) flags |= SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
  return sync_file_range(descriptor, offset, count, flags);
}

int nibble_page_out(void *start, unsigned long count) {
#if defined(MADV_PAGEOUT)
  if (madvise(start, count, MADV_PAGEOUT) == 0) return 0;
#endif
  // The mapping is shared, so its contents stay in the file.
  return madvise(start, count, MADV_DONTNEED);
}

int nibble_start(const char *path, char *const arguments[], int out, int err, int kept, int ending) {
  int empty = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (empty < 0) return -1;
  pid_t parent = getpid();
  // No handler of this program's may run in the child.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, ending);
    if (getppid() != parent) _exit(127);
    setpgid(0, 0);
    struct sigaction standard = {.sa_handler = SIG_DFL};
    for (int number = 1; number < 32; number++) sigaction(number, &standard, NULL);
    if (dup2(empty, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(127);
    if (kept >= 0 && fcntl(kept, F_SETFD, 0) < 0) _exit(127);
    sigprocmask(SIG_SETMASK, &before, NULL);
    execv(path, arguments);
    _exit(127);
  }
  int code = errno;
  sigprocmask(SIG_SETMASK, &before, NULL);
  close(empty);
  errno = code;
  return child;
}
