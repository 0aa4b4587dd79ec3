"""What became of each key of a file of weights and of the model they are for."""

from dataclasses import dataclass, field
from enum import Enum

from tabulate import tabulate


class Outcome(Enum):
    """All that can become of a key."""

    LOADED = "loaded"
    RESIZED = "resized"
    DROPPED = "dropped on purpose"
    NEW = "new on purpose"
    ERROR = "error"


@dataclass(frozen=True)
class Entry:
    """A key of the model or, where it was dropped or had no place, of the file.

    Attributes:
        key: its name.
        outcome: what became of it.
        reason: why or how, the same text for keys of a kind.
    """

    key: str
    outcome: Outcome
    reason: str = ""


@dataclass
class Accounting:
    """The outcome of every key, each once."""

    title: str
    entries: list[Entry] = field(default_factory=list)

    def add(self, key: str, outcome: Outcome, reason: str = "") -> None:
        """Notes what became of a key."""
        self.entries.append(Entry(key, outcome, reason))

    def keys(self, outcome: Outcome) -> list[str]:
        """The keys with an outcome, in the order they were noted."""
        return [entry.key for entry in self.entries if entry.outcome is outcome]

    @property
    def errors(self) -> list[Entry]:
        """What has to be mended before the weights can be used."""
        return [entry for entry in self.entries if entry.outcome is Outcome.ERROR]

    def table(self) -> str:
        """One line per kind of outcome: how many keys, why, and the first of them."""
        groups: dict[tuple[Outcome, str], list[str]] = {}
        for entry in self.entries:
            groups.setdefault((entry.outcome, entry.reason), []).append(entry.key)
        order = list(Outcome)
        rows = [
            (outcome.value, len(keys), reason, keys[0] + (", …" if len(keys) > 1 else ""))
            for (outcome, reason), keys in sorted(
                groups.items(), key=lambda item: order.index(item[0][0])
            )
        ]
        headers = ("outcome", "keys", "why", "such as")
        return f"{self.title}\n{tabulate(rows, headers, tablefmt='simple')}"
