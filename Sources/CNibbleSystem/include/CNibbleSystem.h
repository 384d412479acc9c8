// Linux calls that Glibc's Swift module hides behind _GNU_SOURCE.

#ifndef CNIBBLESYSTEM_H
#define CNIBBLESYSTEM_H

/// Cores this process may run on, at least 1.
int nibble_available_cores(void);

/// Switches writing past the page cache on or off; 0 on success.
int nibble_set_direct(int descriptor, int on);

/// Renames `from` to `to` only if nothing is there (errno EEXIST); 0 on success.
int nibble_rename_new(const char *from, const char *to);

/// Gives the open file `to` the extended attributes of `from` and no others; how many could not be copied or removed.
int nibble_copy_attributes(int from, int to);

/// Exchanges two names in one step; 0 on success.
int nibble_exchange(const char *a, const char *b);

/// Opens a new file without a name in `folder`, which is gone when it is closed; -1 with errno.
int nibble_open_nameless(const char *folder);

/// Begins to write `count` bytes at `offset` to the disk and, with `wait`, waits for the end; 0 on success.
int nibble_write_back(int descriptor, long offset, long count, int wait);

/// Lets go of pages of a mapped file whose contents are on the disk; 0 on success.
int nibble_page_out(void *start, unsigned long count);

/// Starts a program that gets the signal `ending` when this thread ends, whatever ended it. Its output goes to `out` and `err`, its input is
/// empty, `kept` stays open in it (-1 for nothing), and signals of the terminal do not reach it. Its id; -1 with errno.
int nibble_start(const char *path, char *const arguments[], int out, int err, int kept, int ending);

#endif
