"""Thirty drawn cases of each area of the differential fuzzer, of a fresh seed in every run: docs/differential.md.

A case of GGUF files takes up to two seconds, so there are eight.

NIBBLE_SEED sets the seed, NIBBLE_CASES the number of cases an area. The seed stands in the report's header and in every failure, with
the command that runs the one case again.
"""
import os

import pytest
from differential import AREAS, area
from differential.cases import run_case

SEED = int(os.environ["NIBBLE_SEED"])  # drawn in conftest.py where it is not set


def cases(name):
    return int(os.environ.get("NIBBLE_CASES") or ({"gguf": 8, "calibrate": 8}.get(name, 30)))


@pytest.mark.parametrize("name, number", [
    pytest.param(name, number, id=f"{name}-{SEED}-{number}") for name in AREAS for number in range(cases(name))])
def test_a_drawn_case(nibble, tally, name, number):
    outcome, reason, case = run_case(name, area(name), SEED, number)
    tally.add(name, outcome, reason, number)
    if outcome == "failed":
        pytest.fail(f"seed {SEED}: {reason}\n  replay: {case.replay}\n  files: {case.folder}", pytrace=False)
