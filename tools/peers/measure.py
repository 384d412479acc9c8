"""Runs programs and says what each took. Standard library only, because a child's peak memory starts at its parent's."""
import dataclasses
import os
import signal
import statistics
import threading
import time


@dataclasses.dataclass
class Run:
    wall: float
    cpu: float
    peak: int
    status: int
    # The most memory that was no file's, as far as it was looked at.
    anonymous: int = 0
    # Cores that other programs kept busy meanwhile.
    others: float = 0


def busy_seconds():
    """Of all cores since the machine started, whoever used them."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, file.readline().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def watch_anonymous(child, found, ended):
    """Looks at a process's memory every 20 ms; the greatest in `found`."""
    while not ended.wait(0.02):
        try:
            with open(f"/proc/{child}/status") as file:
                now = next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
        except (OSError, StopIteration):
            continue
        found[0] = max(found[0], now)


def run(command, environment, log, limit=1800, anonymous=False, errors=None):
    """Runs `command` to its end, with what it prints in the file `log`.

    CPU time is user and system time of the process and of every descendant it waited for; peak memory is the largest
    resident set of any one of them, mapped pages of files included. With `anonymous` the memory that is no file's is
    watched, too. What it says on standard error goes to `errors`, or into the same file.
    """
    output = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    silence = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    second = (os.POSIX_SPAWN_DUP2, 1, 2)
    if errors is not None:
        second = (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    busy, started = busy_seconds(), time.monotonic()
    child = os.posix_spawnp(
        command[0], [str(word) for word in command], environment, file_actions=[silence, output, second], setpgroup=0)
    found, ended = [0], threading.Event()
    if anonymous:
        threading.Thread(target=watch_anonymous, args=(child, found, ended), daemon=True).start()
    try:
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
        signal.alarm(limit)
        _, status, used = os.wait4(child, 0)
    except BaseException:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        signal.alarm(0)
        ended.set()
    wall = time.monotonic() - started
    cpu = used.ru_utime + used.ru_stime
    others = max(busy_seconds() - busy - cpu, 0) / wall
    return Run(wall, cpu, used.ru_maxrss * 1024, os.waitstatus_to_exitcode(status), found[0], others)


def median(runs):
    """The middle run by each measure."""
    return Run(
        statistics.median(r.wall for r in runs), statistics.median(r.cpu for r in runs), max(r.peak for r in runs), 0)


def tail(log):
    """The last thing a program said."""
    with open(log, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1][:200] if lines else "nothing was printed"


class Failed(Exception):
    """What a program said when it failed."""


def checked(command, environment, work, **how):
    """Runs it with its words in files of `work`; what it took, and what it said."""
    log, errors = work / "said.txt", work / "errors.txt"
    done = run(command, environment, log, errors=errors, **how)
    if done.status != 0:
        said = tail(errors)
        raise Failed(f"exit code {done.status}: {tail(log) if said == 'nothing was printed' else said}")
    return done, log.read_text(errors="replace")
