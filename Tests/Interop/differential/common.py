"""A case of the fuzzer: where its chance comes from, where its files are, how nibble is run, and how the case can end.

A case is a function of its area, seed and number only. It ends by returning (nibble and the peer agree) or with one of the exceptions
below. Everything else that is thrown is an error of the fuzzer itself and counts as a failure.
"""
import contextlib
import json
import pathlib
import random
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings

from conftest import find_binary  # first: it quiets the libraries before anything imports them
import torch
from rounding import moved_by_rounding

# Logits in float32 against float32, relative to the greatest one; see `compare` for ill-conditioned models.
TOLERANCE = 2e-5
HANG_SECONDS = 60
# Families that cases draw from, where somebody wants no others (`tools/differential --family`).
ONLY = []
# Usage, bad input, and an adapter that does not fit: what a refusal by name may exit with. The other documented codes (damage, a missed
# gate, a full disk) are wrong here, because no drawn input is damaged and every gate is open.
REFUSALS = (2, 3, 5)


class Difference(Exception):
    """nibble is wrong: other numbers, a crash, a hang, a code that is not documented. The case has failed."""


class Refusal(Exception):
    """nibble refuses by name what the peer runs. Counted by reason."""


class PeerRefusal(Exception):
    """The peer refuses what nibble runs, or loses something itself. Counted by reason."""


class Undrawable(Exception):
    """No such case exists: the peer cannot make it, or both refuse."""


class Known(Exception):
    """A documented difference; see known.py."""


class Case:
    """One drawn case."""

    def __init__(self, area, seed, number, root=None):
        self.area, self.seed, self.number = area, seed, number
        self.rng = random.Random(f"{area}/{seed}/{number}")
        torch.manual_seed(self.rng.getrandbits(62))
        root = pathlib.Path(root or pathlib.Path(tempfile.gettempdir()) / "nibble-differential")
        self.folder = root / str(seed) / f"{area}-{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # What was drawn, for people; kept as case.json.
        self.drawn = {}

    @property
    def replay(self):
        families = "".join(f" --family {family}" for family in ONLY)
        return f"tools/differential --area {self.area}{families} --seed {self.seed} --case {self.number}"

    def __truediv__(self, name):
        return self.folder / name

    def chance(self, probability):
        return self.rng.random() < probability

    def note(self, **drawn):
        self.drawn.update(drawn)
        (self.folder / "case.json").write_text(json.dumps(self.drawn, indent=1, default=str))

    def nibble(self, *words, gates=()):
        """Runs nibble in the case's folder and appends the command to run.sh.

        - gates: exit codes beside those of refusals that the case expects; their result is returned
        - Raises: Refusal for a refusal by name, Difference for every other code but 0
        """
        words = [str(word) for word in words]
        with open(self.folder / "run.sh", "a") as script:
            script.write(f"${{NIBBLE:-nibble}} {shlex.join(words)}; echo exit $?\n")
        try:
            done = subprocess.run(
                [find_binary(), *words], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            raise Difference(f"nibble {words[0]} ran for {HANG_SECONDS} s") from None
        if done.returncode == 0 or done.returncode in gates:
            return done
        said = (done.stderr.strip().splitlines() or ["(nothing on standard error)"])[-1]
        if done.returncode in REFUSALS and done.stderr.strip():
            raise Refusal(f"{done.returncode}: {plain_reason(said, self.folder)}")
        raise Difference(f"nibble {words[0]} exited {done.returncode}: {said}")


def plain_reason(line, folder):
    """An error line without what differs from case to case: paths, and numbers."""
    line = line.replace(f"{folder}/", "")
    line = re.sub(r"^nibble:\s*(error:\s*)?", "", line)
    line = re.sub(r"\[[\d, ]*\]", "[…]", line)
    line = re.sub(r"\b(a\d?)/(sst|my-task)\b|'(a)'", r"\1\3", line).replace("my-task", "sst")
    line = line.replace("packed.nbl", "m").replace("packed:", "m:")
    # Of a list of modules the first is enough.
    line = re.sub(r"(\(nearest: '[^']*'\)).*", r"\1", line)
    return re.sub(r"(?<![A-Za-z_\d])-?\d+(\.\d+)?(e[-+]?\d+)?(?![A-Za-z_])", "N", line)


@contextlib.contextmanager
def peer(what, raises=Undrawable):
    """The peer's part of a case: what it throws is a refusal of its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Difference, Refusal, PeerRefusal, Undrawable, Known):
        raise
    except Exception as error:  # noqa: BLE001: libraries throw anything
        line = (str(error).strip().splitlines() or [""])[0][:160]
        line = re.sub(r"-?\d+(\.\d+)?", "N", line)
        raise raises(f"{what}: {type(error).__name__}: {line}") from error


def distance(ours, theirs):
    """The greatest difference relative to the greatest number expected. NaN counts as infinitely far."""
    if ours.shape != theirs.shape:
        raise Difference(f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    if not theirs.numel():
        return 0.0
    found = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp_min(1e-30))
    return found if found == found else float("inf")


def compare(ours, theirs, in_double, tolerance=TOLERANCE, mask=None, what=""):
    """nibble's tensors against the peer's, by name.

    Some drawn models amplify float32 rounding (large weights, tiny epsilons). Where the plain comparison fails, the peer is asked again in
    float64: nibble may be ten times as far from that as the peer's own float32, or as float64 with every weight moved by a float32 ulp.

    - in_double: a function that computes `theirs` in float64, twice: as they are, and with moved weights
    """
    def visible(name, tensor):
        by_token = name == "last_hidden_state" or (name == "logits" and tensor.dim() == 3)
        return tensor[mask == 1] if mask is not None and by_token else tensor

    exact = None
    for name, value in theirs.items():
        if name not in ours:
            raise Difference(f"{what}{name} is missing in nibble's answer")
        mine, expected = visible(name, ours[name]), visible(name, value)
        if not expected.isfinite().all():
            raise Undrawable("the peer's numbers are not finite")
        found = distance(mine, expected)
        if found <= tolerance:
            continue
        exact = exact or in_double()
        truth, moved = (visible(name, one[name]) for one in exact)
        noise = max(distance(expected, truth), distance(moved, truth))
        found = distance(mine, truth)
        if not found <= max(tolerance, 10 * noise):
            raise Difference(f"{what}{name} is off by {found:.2g} of its greatest value (rounding explains {noise:.1g})")


def answers(model, **tensors):
    """What transformers computes: logits and loss, or hidden states."""
    with torch.no_grad(), peer("asking"):
        out = model(**{name: value for name, value in tensors.items() if value is not None})
    found = {}
    for name in ("logits", "loss", "last_hidden_state"):
        if out.get(name) is not None:
            found[name] = out[name].reshape(1) if name == "loss" else out[name]
    return found


def in_double(model, tensors):
    """A function that computes `answers` in float64, and once more with every weight moved by what float32 rounds off."""
    def compute():
        # Some code of transformers insists on float32; its answer is the truth then.
        if getattr(model.config, "reorder_and_upcast_attn", False):
            return answers(model, **tensors), answers(model, **tensors)
        wide = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
        exact = answers(model.double(), **wide)
        return exact, answers(moved_by_rounding(model), **wide)
    return compute
