"""Differences that are known and documented, each with its reason."""
from .common import Known

KNOWN = [
    # (area, a predicate of the case's drawn values and the failure's text, the reason)
]


def check(case, error):
    """Raises Known where the list explains a Difference."""
    for area, explains, reason in KNOWN:
        if area in (None, case.area) and explains(case.drawn, str(error)):
            raise Known(reason) from error
