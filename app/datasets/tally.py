"""Count the rows of an upload that are not stored: bad rows, and skipped rows by reason."""

from __future__ import annotations

from dataclasses import dataclass

from app.datasets.canonical import SkippedRows
from app.datasets.options import OnInvalid
from app.datasets.row_errors import MAX_REPORTED, InvalidDatasetError, RowError, RowProblem

#: A row in which neither reply is better is valid data, but not a pair: it is always skipped.
TIE = "tie"
_LINES_NAMED = 10


@dataclass(frozen=True)
class TallyLimits:
    """Limits on bad and skipped rows, above which an upload is rejected."""

    on_invalid: OnInvalid = "refuse"
    max_bad_lines: int = 1_000
    """Reading stops after this number of bad rows."""
    max_skipped_share: float = 0.5
    """Largest share of skipped rows (0 to 1), without ties."""


class Tally:
    """Counts the rows of one upload that are not stored."""

    def __init__(self, limits: TallyLimits) -> None:
        self._limits = limits
        self._problems: list[RowProblem] = []
        self._skipped: dict[str, SkippedRows] = {}
        self.bad_line_count = 0

    def add(self, line: int, error: RowError) -> None:
        """Count a row that is not stored.

        Raises:
            InvalidDatasetError: the number of bad rows has reached ``max_bad_lines``.
        """
        if error.code == TIE or self._limits.on_invalid == "skip":
            self._skip(line, error.code)
            if error.code != TIE and len(self._problems) < MAX_REPORTED:
                self._problems.append(error.at(line))
            return
        self.refuse(error.at(line))
        if self.bad_line_count >= self._limits.max_bad_lines:
            raise self.refusal(is_counted_to_end=False)

    def refuse(self, problem: RowProblem) -> None:
        """Record a problem that rejects the upload after its last row."""
        self.bad_line_count += 1
        if len(self._problems) < MAX_REPORTED:
            self._problems.append(problem)

    def refusal(self, *, is_counted_to_end: bool, can_skip: bool = False) -> InvalidDatasetError:
        """Return the error that rejects the upload."""
        return InvalidDatasetError(
            self._problems,
            bad_line_count=self.bad_line_count,
            is_counted_to_end=is_counted_to_end,
            can_skip=can_skip,
        )

    def check_end(self, last_line: int, row_count: int) -> None:
        """Check the counts after the last row; ``row_count`` is the number of stored rows.

        Raises:
            InvalidDatasetError: there are bad rows, too many skipped rows, or no stored rows.
        """
        skipped = sum(each.count for each in self._skipped.values())
        invalid = skipped - (self._skipped[TIE].count if TIE in self._skipped else 0)
        reasons = ", ".join(f"{each.count} {each.code}" for each in self.skipped)
        problem: RowError | None = None
        if not self.bad_line_count and not row_count:
            problem = RowError(
                "empty_dataset",
                f"all {skipped} rows were skipped: {reasons}" if skipped else "dataset has no rows",
                "give at least one row with chosen and rejected",
            )
        elif invalid > self._limits.max_skipped_share * (row_count + invalid):
            problem = RowError(
                "too_many_skipped",
                f"{invalid} of {row_count + invalid} rows would be skipped ({reasons})",
                f"at most {self._limits.max_skipped_share:.0%} may be; correct the rows, or check "
                "the mapping of the columns",
            )
        if problem is not None:
            # It comes first: the skipped rows only explain it.
            self._problems.insert(0, problem.at(max(last_line, 1)))
            self.bad_line_count = max(self.bad_line_count, 1)
        if self.bad_line_count:
            most = self._limits.max_skipped_share * (row_count + self.bad_line_count)
            can_skip = self._limits.on_invalid == "refuse" and 0 < self.bad_line_count <= most
            raise self.refusal(is_counted_to_end=True, can_skip=can_skip)

    @property
    def skipped(self) -> list[SkippedRows]:
        """Skipped rows by reason, most frequent first."""
        return sorted(self._skipped.values(), key=lambda each: (-each.count, each.code))

    def _skip(self, line: int, code: str) -> None:
        known = self._skipped.get(code)
        if known is None:
            self._skipped[code] = SkippedRows(code=code, count=1, lines=[line])
            return
        lines = [*known.lines, line] if len(known.lines) < _LINES_NAMED else known.lines
        self._skipped[code] = SkippedRows(code=code, count=known.count + 1, lines=lines)
