"""Findings about rows: their number, and the line numbers of the first ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: Line numbers listed per finding; the count is always exact.
MAX_LINES_LISTED = 100
#: Line numbers that a message lists.
MAX_LINES_IN_MESSAGE = 20


@dataclass
class Finding:
    """Number of rows with some property, and the line numbers of the first ones."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, *lines: int) -> None:
        """Add rows by their line numbers."""
        self.extend(lines)

    def extend(self, lines: Iterable[int]) -> None:
        """Add rows by their line numbers."""
        for line in lines:
            self.count += 1
            if len(self.lines) < MAX_LINES_LISTED:
                self.lines.append(int(line))

    def sentence(self) -> str:
        """Return "line 3" or "lines 3, 5 and 7 more"."""
        listed = ", ".join(str(line) for line in self.lines[:MAX_LINES_IN_MESSAGE])
        rest = self.count - len(self.lines[:MAX_LINES_IN_MESSAGE])
        more = f" and {rest} more" if rest else ""
        return f"{'line' if self.count == 1 else 'lines'} {listed}{more}"
