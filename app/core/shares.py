"""Places that several owners share, so that none of them can take all."""

from __future__ import annotations

from collections import Counter


class Shares:
    """An owner gets a further place if more are free than it has.

    So one owner holds at most half of the places, the next one half of the rest, and so on (dynamic
    thresholds; Choudhury and Hahne 1998). Not safe for threads.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: Counter[str] = Counter()

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self.total - self._held.total()

    def held(self, owner: str) -> int:
        """Places that an owner has."""
        return self._held[owner]

    def may_take(self, owner: str) -> bool:
        """Whether an owner may have one more."""
        return self.free > self._held[owner]

    def take(self, owner: str) -> None:
        """Give an owner one more."""
        self._held[owner] += 1

    def give_back(self, owner: str) -> None:
        """Take one place back from an owner."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
