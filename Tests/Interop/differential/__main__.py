"""`tools/differential`: runs drawn cases of one area or of all, and says at the end what was refused."""
import argparse
import os
import pathlib
import random
import time

from . import AREAS, area
from .cases import run_case
from .common import ONLY
from .tally import Tally


def main():
    parser = argparse.ArgumentParser(prog="tools/differential", description=__doc__)
    parser.add_argument("--area", action="append", choices=AREAS, help="an area; may be repeated (default: all)")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="cases an area (default: 100)")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="seed (default: a fresh one, printed)")
    parser.add_argument("--case", type=int, metavar="K", help="only this case; its files are kept")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first case (default: 0)")
    parser.add_argument("--root", type=pathlib.Path, metavar="DIR", help="where files are kept (default: nibble-differential in TMPDIR)")
    parser.add_argument("--family", action="append", default=[], metavar="TYPE", help="a model_type to draw; may be repeated (default: all)")
    options = parser.parse_args()
    ONLY.extend(options.family)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    failures = 0
    tally = Tally()
    for name in options.area or AREAS:
        run = area(name)
        numbers = [options.case] if options.case is not None else range(options.first, options.first + options.cases)
        started = time.monotonic()
        for number in numbers:
            outcome, reason, case = run_case(name, run, seed, number, options.root, keep=options.case is not None)
            tally.add(name, outcome, reason, number)
            if outcome == "failed":
                failures += 1
                print(f"FAILED {case.replay}\n  {reason}\n  files: {case.folder}", flush=True)
            elif options.case is not None:
                print(f"files: {case.folder}")
        print(*tally.lines(name), sep="\n")
        print(f"  {(time.monotonic() - started) / max(len(numbers), 1):.2f} s a case", flush=True)
    # Threads of the libraries have nothing left to say.
    os._exit(1 if failures else 0)


if __name__ == "__main__":
    main()
