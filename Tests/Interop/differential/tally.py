"""How the cases of a run ended, counted: refusals are no failures, but many of them would hide what is refused for no reason."""
from collections import Counter, defaultdict

LISTED = ("refused", "peer refused", "known", "not drawable")


class Tally:
    def __init__(self):
        self.outcomes = defaultdict(Counter)
        self.reasons = defaultdict(Counter)
        self.first = {}

    def add(self, area, outcome, reason, number):
        self.outcomes[area][outcome] += 1
        if outcome in LISTED:
            self.reasons[area, outcome][reason] += 1
            self.first.setdefault((area, outcome, reason), number)

    def rows(self):
        """Everything, in types that go from one process to another."""
        counts = [[area, outcome, count] for area, found in self.outcomes.items() for outcome, count in found.items()]
        reasons = [[*key, reason, count, self.first[*key, reason]]
                   for key, found in self.reasons.items() for reason, count in found.items()]
        return [counts, reasons]

    def take(self, rows):
        """Adds what another process counted."""
        counts, reasons = rows
        for area, outcome, count in counts:
            self.outcomes[area][outcome] += count
        for area, outcome, reason, count, first in reasons:
            self.reasons[area, outcome][reason] += count
            key = (area, outcome, reason)
            self.first[key] = min(first, self.first.get(key, first))

    def lines(self, area):
        """The counts of an area, then every reason with the first case it was given in."""
        counts = self.outcomes[area]
        yield f"{area}: {sum(counts.values())} cases, " + ", ".join(f"{count} {what}" for what, count in counts.most_common())
        for outcome in LISTED:
            for reason, count in self.reasons[area, outcome].most_common():
                yield f"  {outcome} {count} x {reason} (first: --case {self.first[area, outcome, reason]})"
