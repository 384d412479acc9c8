"""`tools/differential`: runs drawn cases of one area or of all, and says at the end what was refused."""
import argparse
import importlib
import os
import pathlib
import random
import sys
import time
from collections import Counter, defaultdict

from .common import run_case

AREAS = ("forward", "quantize", "merge", "attach", "combine", "train", "generate")


def area(name):
    return importlib.import_module(f".{name}", __package__).run


def main():
    parser = argparse.ArgumentParser(prog="tools/differential", description=__doc__)
    parser.add_argument("--area", action="append", choices=AREAS, help="an area; may be repeated (default: all)")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="cases an area (default: 100)")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="seed (default: a fresh one, printed)")
    parser.add_argument("--case", type=int, metavar="K", help="only this case; its files are kept")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first case (default: 0)")
    parser.add_argument("--root", type=pathlib.Path, metavar="DIR", help="where files are kept (default: nibble-differential in TMPDIR)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    failures = 0
    for name in options.area or AREAS:
        run = area(name)
        numbers = [options.case] if options.case is not None else range(options.first, options.first + options.cases)
        outcomes, reasons, started = Counter(), defaultdict(Counter), time.monotonic()
        first = {}
        for number in numbers:
            outcome, reason, case = run_case(name, run, seed, number, options.root, keep=options.case is not None)
            outcomes[outcome] += 1
            if reason:
                reasons[outcome][reason] += 1
                first.setdefault((outcome, reason), number)
            if outcome == "failed":
                failures += 1
                print(f"FAILED {case.replay}\n  {reason}\n  files: {case.folder}", flush=True)
            elif options.case is not None:
                print(f"{outcome}: {reason}\n  files: {case.folder}")
        seconds = time.monotonic() - started
        print(f"{name}: {', '.join(f'{count} {what}' for what, count in outcomes.most_common())}; {seconds:.0f} s, "
              f"{seconds / max(len(numbers), 1):.2f} s a case", flush=True)
        for what in ("refused", "peer refused", "known", "not drawable"):
            for reason, count in reasons[what].most_common():
                print(f"  {what} {count} x {reason} (first: --case {first[what, reason]})", flush=True)
    sys.stdout.flush()
    # Threads of the libraries have nothing left to say.
    os._exit(1 if failures else 0)


if __name__ == "__main__":
    main()
