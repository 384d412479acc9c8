"""Runs programs and says what each took. Standard library alone, because a child's peak memory starts at its parent's."""
import dataclasses
import os
import signal
import statistics
import time


@dataclasses.dataclass
class Run:
    wall: float
    cpu: float
    peak: int
    status: int


def run(command, environment, log, limit=1800):
    """Runs `command` to its end, with what it prints in the file `log`.

    CPU time is user and system time of the process and of every descendant it waited for; peak memory is the largest
    resident set of any one of them, mapped pages of files included.
    """
    output = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    silence = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    started = time.monotonic()
    child = os.posix_spawnp(
        command[0], [str(word) for word in command], environment, file_actions=[silence, output, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setpgroup=0)
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
    wall = time.monotonic() - started
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))


def median(runs):
    """The middle run by each measure."""
    return Run(
        statistics.median(r.wall for r in runs), statistics.median(r.cpu for r in runs), max(r.peak for r in runs), 0)


def tail(log):
    """The last thing a program said."""
    with open(log, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1][:200] if lines else "nothing was printed"
