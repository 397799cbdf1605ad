"""Rows of an upload that are not stored: refused ones, and skipped ones by reason."""

from __future__ import annotations

from dataclasses import dataclass

from app.datasets.canonical import SkippedRows
from app.datasets.options import OnInvalid
from app.datasets.row_errors import MAX_REPORTED, InvalidDatasetError, RowError, RowProblem

#: A row in which neither reply is better is no mistake of the file: it is always skipped.
TIE = "tie"
_LINES_NAMED = 10


@dataclass(frozen=True)
class TallyLimits:
    """When an upload is refused for its bad rows."""

    on_invalid: OnInvalid = "refuse"
    max_bad_lines: int = 1_000
    """Bad rows are counted up to here; an upload with more is not read to its end."""
    max_skipped_share: float = 0.5
    """Of all rows, ties aside."""


class Tally:
    """Counts the rows of one upload that are not stored."""

    def __init__(self, limits: TallyLimits) -> None:
        self._limits = limits
        self._problems: list[RowProblem] = []
        self._skipped: dict[str, SkippedRows] = {}
        self.bad_line_count = 0

    def add(self, line: int, error: RowError) -> None:
        """One more row that is not stored.

        Raises:
            InvalidDatasetError: there are so many that reading on is of no use.
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
        """A problem for which the upload is refused at its end."""
        self.bad_line_count += 1
        if len(self._problems) < MAX_REPORTED:
            self._problems.append(problem)

    def refusal(self, *, is_counted_to_end: bool) -> InvalidDatasetError:
        """The refusal of the upload."""
        return InvalidDatasetError(
            self._problems,
            bad_line_count=self.bad_line_count,
            is_counted_to_end=is_counted_to_end,
        )

    def check_end(self, last_line: int, row_count: int) -> None:
        """Decide about the upload after its last row; ``row_count`` rows were stored.

        Raises:
            InvalidDatasetError: there were bad rows, too many skipped ones, or no others.
        """
        skipped = sum(each.count for each in self._skipped.values())
        invalid = skipped - (self._skipped[TIE].count if TIE in self._skipped else 0)
        reasons = ", ".join(f"{each.count} {each.code}" for each in self.skipped)
        problem: RowError | None = None
        if not self.bad_line_count and not row_count:
            problem = RowError(
                "empty_dataset",
                f"no row is left of {skipped}: {reasons}" if skipped else "dataset has no rows",
                "give at least one row with chosen and rejected",
            )
        elif invalid > self._limits.max_skipped_share * (row_count + invalid):
            problem = RowError(
                "too_many_skipped",
                f"{invalid} of {row_count + invalid} rows would be skipped ({reasons})",
                f"at most {self._limits.max_skipped_share:.0%} may be; correct the rows, or check "
                "which column is which",
            )
        if problem is not None:
            # Before the rows, which only explain it.
            self._problems.insert(0, problem.at(max(last_line, 1)))
            self.bad_line_count = max(self.bad_line_count, 1)
        if self.bad_line_count:
            raise self.refusal(is_counted_to_end=True)

    @property
    def skipped(self) -> list[SkippedRows]:
        """The skipped rows by reason, most frequent first."""
        return sorted(self._skipped.values(), key=lambda each: (-each.count, each.code))

    def _skip(self, line: int, code: str) -> None:
        known = self._skipped.get(code)
        if known is None:
            self._skipped[code] = SkippedRows(code=code, count=1, lines=[line])
            return
        lines = [*known.lines, line] if len(known.lines) < _LINES_NAMED else known.lines
        self._skipped[code] = SkippedRows(code=code, count=known.count + 1, lines=lines)
