#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>
#include <wchar.h>

// libedit's settings are variadic functions, which Swift does not call.

/// What editing asks of its owner; must live as long.
struct nibble_edit_owner {
  const char *prompt;
  /// Whether a signal asks to stop waiting.
  int (*stopped)(void);
};

static inline struct nibble_edit_owner *nibble_edit_owner(EditLine *edit) {
  void *owner = NULL;
  el_get(edit, EL_CLIENTDATA, &owner);
  return (struct nibble_edit_owner *)owner;
}

static inline char *nibble_edit_prompt(EditLine *edit) { return (char *)nibble_edit_owner(edit)->prompt; }

/// The next character: 1, 0 at the end of the input, -1 with EINTR after a signal. One that comes just before the wait begins is noticed
/// within a quarter of a second.
static inline int nibble_edit_read(EditLine *edit, wchar_t *out) {
  mbstate_t state = {0};
  for (;;) {
    if (nibble_edit_owner(edit)->stopped()) {
      errno = EINTR;
      return -1;
    }
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    int ready = poll(&input, 1, 250);
    if (ready == 0) continue;
    char byte;
    ssize_t count = ready < 0 ? -1 : read(STDIN_FILENO, &byte, 1);
    if (count <= 0) return (int)count;
    size_t length = mbrtowc(out, &byte, 1, &state);
    // A character of several bytes goes on; bytes that are none are passed over.
    if (length == (size_t)-2) continue;
    if (length != (size_t)-1) return 1;
    state = (mbstate_t){0};
  }
}

/// Begins editing on the terminal, echo on standard error, with keys as in a shell. NULL if there is no memory.
static inline EditLine *nibble_edit_begin(struct nibble_edit_owner *owner, History *own) {
  EditLine *edit = el_init("nibble", stdin, stderr, stderr);
  if (!edit) return NULL;
  el_set(edit, EL_CLIENTDATA, owner);
  el_set(edit, EL_PROMPT, nibble_edit_prompt);
  el_set(edit, EL_GETCFN, nibble_edit_read);
  el_set(edit, EL_EDITOR, "emacs");
  el_set(edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
  if (own) el_set(edit, EL_HIST, history, own);
  el_source(edit, NULL);
  return edit;
}

/// The next line; NULL at the end of the input, and with a count of -1 and EINTR after a signal.
static inline const char *nibble_edit_line(EditLine *edit, int *count) {
  // Keys count from the moment the prompt is seen.
  el_set(edit, EL_PREP_TERM, 1);
  return el_gets(edit, count);
}

/// A history of at most so many lines, none twice in a row.
static inline int nibble_history_limit(History *own, int lines) {
  HistEvent event;
  history(own, &event, H_SETUNIQUE, 1);
  return history(own, &event, H_SETSIZE, lines);
}

static inline int nibble_history_load(History *own, const char *path) {
  HistEvent event;
  return history(own, &event, H_LOAD, path);
}

static inline int nibble_history_save(History *own, const char *path) {
  HistEvent event;
  return history(own, &event, H_SAVE, path);
}

static inline int nibble_history_add(History *own, const char *line) {
  HistEvent event;
  return history(own, &event, H_ENTER, line);
}
