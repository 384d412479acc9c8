// Loaded before the C library by the fault tests: lets system calls fail as disks, signals and editors make them fail.
//
//   NIBBLE_FAULT=KIND[:N]   KIND one of the words below, N when it begins
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static int is(const char *kind) {
  const char *fault = getenv("NIBBLE_FAULT");
  size_t length = strlen(kind);
  return fault && strncmp(fault, kind, length) == 0 && (fault[length] == 0 || fault[length] == ':');
}

static long begin(void) {
  const char *colon = strchr(getenv("NIBBLE_FAULT"), ':');
  return colon ? atol(colon + 1) : 0;
}

static int due(void) { return atomic_fetch_add(&calls, 1) >= begin(); }

ssize_t pread(int descriptor, void *buffer, size_t count, off_t offset) {
  static ssize_t (*real)(int, void *, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pread");
  if (is("read-eio") && due()) { errno = EIO; return -1; }
  if (is("read-end") && due()) return 0;
  if (is("read-slow")) usleep(5000);
  if (is("read-short")) return real(descriptor, buffer, count > 1000 ? count / 3 : count, offset);
  if (is("read-eintr") && atomic_fetch_add(&calls, 1) % 2 == 0) { errno = EINTR; return -1; }
  return real(descriptor, buffer, count, offset);
}

ssize_t pwrite(int descriptor, const void *buffer, size_t count, off_t offset) {
  static ssize_t (*real)(int, const void *, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pwrite");
  if (is("write-enospc") && due()) { errno = ENOSPC; return -1; }
  if (is("write-eio") && due()) { errno = EIO; return -1; }
  if (is("write-short")) return real(descriptor, buffer, count > 1000 ? count / 3 : count, offset);
  if (is("write-eintr") && atomic_fetch_add(&calls, 1) % 2 == 0) { errno = EINTR; return -1; }
  if (is("write-kill") && due()) raise(SIGKILL);
  if (is("write-term") && due()) raise(SIGTERM);
  // A file system that takes the flag and refuses the writes, slowly, so that several threads are refused at once.
  if (is("write-indirect") && (fcntl(descriptor, F_GETFL) & O_DIRECT)) { usleep(50000); errno = EINVAL; return -1; }
  if (is("write-stall") && due()) sleep(20);
  return real(descriptor, buffer, count, offset);
}

int fsync(int descriptor) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fsync");
  if (is("fsync-eio") && due()) { errno = EIO; return -1; }
  if (is("fsync-kill") && due()) raise(SIGKILL);
  return real(descriptor);
}

int fdatasync(int descriptor) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
  if (is("fsync-eio") && due()) { errno = EIO; return -1; }
  if (is("fsync-kill") && due()) raise(SIGKILL);
  return real(descriptor);
}

int fchown(int descriptor, uid_t owner, gid_t group) {
  static int (*real)(int, uid_t, gid_t);
  if (!real) real = dlsym(RTLD_NEXT, "fchown");
  if (is("keep-eperm")) { errno = EPERM; return -1; }
  return real(descriptor, owner, group);
}

int fsetxattr(int descriptor, const char *name, const void *value, size_t size, int flags) {
  static int (*real)(int, const char *, const void *, size_t, int);
  if (!real) real = dlsym(RTLD_NEXT, "fsetxattr");
  if (is("keep-eperm")) { errno = EPERM; return -1; }
  return real(descriptor, name, value, size, flags);
}

int renameat2(int from, const char *a, int to, const char *b, unsigned flags) {
  static int (*real)(int, const char *, int, const char *, unsigned);
  if (!real) real = dlsym(RTLD_NEXT, "renameat2");
  if (is("rename-kill")) raise(SIGKILL);
  if (is("rename-eio")) { errno = EIO; return -1; }
  return real(from, a, to, b, flags);
}

int rename(const char *a, const char *b) {
  static int (*real)(const char *, const char *);
  if (!real) real = dlsym(RTLD_NEXT, "rename");
  if (is("rename-kill")) raise(SIGKILL);
  if (is("rename-eio")) { errno = EIO; return -1; }
  return real(a, b);
}
