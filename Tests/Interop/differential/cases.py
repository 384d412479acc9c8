"""One case from start to end: every way it can end becomes an outcome."""
import logging
import pathlib
import shutil
import traceback
import warnings

import torch

from . import known
from .common import Case, Difference, Known, PeerRefusal, Refusal, Undrawable

OUTCOMES = {Difference: "failed", Refusal: "refused", PeerRefusal: "peer refused", Undrawable: "not drawable", Known: "known"}


def run_case(area, run, seed, number, root=None, keep=False):
    """Runs one case: (outcome, reason, case). The files of failures are kept."""
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    case = Case(area, seed, number, root)
    outcome, reason = "agreed", ""
    try:
        try:
            run(case)
        except Difference as error:
            known.check(case, str(error))
            raise
    except tuple(OUTCOMES) as error:
        outcome, reason = OUTCOMES[type(error)], str(error)
    except Exception as error:  # noqa: BLE001: one broken case must not end the run
        (case / "traceback.txt").write_text(traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome = "failed"
        reason = f"the fuzzer itself: {type(error).__name__}: {error} ({pathlib.Path(where.filename).name}:{where.lineno})"
    case.note(outcome=outcome, reason=reason, replay=case.replay)
    if outcome != "failed" and not keep:
        shutil.rmtree(case.folder, ignore_errors=True)
    return outcome, reason, case
