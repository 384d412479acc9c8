"""Differences that are known and documented: an area (None for all), a predicate of what was drawn and of the failure's text, the reason."""
from .common import Known

KNOWN = []


def check(case, failure):
    """Raises Known where the list explains a failure."""
    for area, explains, reason in KNOWN:
        if area in (None, case.area) and explains(case.drawn, failure):
            raise Known(reason)
