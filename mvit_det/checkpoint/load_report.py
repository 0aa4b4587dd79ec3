"""What became of each key of a file of weights and of the model they are for."""

from dataclasses import dataclass, field
from enum import Enum

from tabulate import tabulate


class KeyStatus(Enum):
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
        status: what became of it.
        reason: why or how, the same text for keys of a kind.
    """

    key: str
    status: KeyStatus
    reason: str = ""


@dataclass
class LoadReport:
    """The status of every key, each once."""

    title: str
    entries: list[Entry] = field(default_factory=list)

    def add(self, key: str, status: KeyStatus, reason: str = "") -> None:
        """Notes what became of a key."""
        self.entries.append(Entry(key, status, reason))

    def keys(self, status: KeyStatus) -> list[str]:
        """The keys with an status, in the order they were noted."""
        return [entry.key for entry in self.entries if entry.status is status]

    @property
    def errors(self) -> list[Entry]:
        """What has to be mended before the weights can be used."""
        return [entry for entry in self.entries if entry.status is KeyStatus.ERROR]

    def table(self) -> str:
        """One line per kind of status: how many keys, why, and the first of them."""
        groups: dict[tuple[KeyStatus, str], list[str]] = {}
        for entry in self.entries:
            groups.setdefault((entry.status, entry.reason), []).append(entry.key)
        order = list(KeyStatus)
        rows = [
            (status.value, len(keys), reason, keys[0] + (", …" if len(keys) > 1 else ""))
            for (status, reason), keys in sorted(
                groups.items(), key=lambda item: order.index(item[0][0])
            )
        ]
        headers = ("status", "keys", "why", "such as")
        return f"{self.title}\n{tabulate(rows, headers, tablefmt='simple')}"
