"""Places that several owners share; no owner can occupy all of them."""

from __future__ import annotations

from collections import Counter


class Shares:
    """An owner gets another place if more places are free than it already has.

    One owner therefore holds at most half of the places, the next one half of the rest, and so on
    (dynamic thresholds; Choudhury and Hahne 1998). Not safe for threads.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: Counter[str] = Counter()

    @property
    def free(self) -> int:
        """Number of free places."""
        return self.total - self._held.total()

    def held(self, owner: str) -> int:
        """Number of places of an owner."""
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
