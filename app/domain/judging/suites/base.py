"""Definition of a benchmark suite: a versioned rule that computes metrics from a score table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.domain.judging.score_table import ScoredRow


@dataclass(frozen=True)
class SuiteResult:
    """Metrics of a suite, as shares (0 to 1). ``overall`` is None unless the table is complete."""

    metrics: dict[str, float]
    overall: float | None
    complete: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """Result of a rule on the available rows; ``overall`` is None if it cannot be computed."""

    metrics: dict[str, float]
    overall: float | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MissingRows:
    """Numbers of rows of the uploaded file that have no scores."""

    skipped: int = 0
    """Rows that the upload skipped."""
    left_out: int = 0
    """Rows of the dataset that the model could not score."""

    def problems(self) -> list[str]:
        """Return why the scores are not those of the whole file."""
        found = []
        if self.skipped:
            found.append(f"{self.skipped} rows of the file were skipped at the upload")
        if self.left_out:
            found.append(f"{self.left_out} rows of the dataset were left out")
        return found


NONE_MISSING = MissingRows()


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A public benchmark. Plaudit implements the rule; the operator supplies the rows."""

    name: str
    version: int
    title: str
    rule: str
    """The published rule in one or two sentences."""
    source: str
    licence: str
    row_form: str
    upload: Mapping[str, str]
    """Query parameters of the upload that store the columns that the rule needs."""
    counts: Mapping[str, int]
    """Number of rows of the published file by slice."""
    figures: Callable[[Sequence[ScoredRow]], Figures]
    totals: tuple[int, ...] = ()
    """Number of rows of each published file, if the numbers by slice are unknown. Without any
    numbers no table can be told to be complete."""
    is_provisional: bool = False

    @property
    def id(self) -> str:
        """Name and version, such as ``reward-bench-2@1``."""
        return f"{self.name}@{self.version}"

    def score(self, rows: Sequence[ScoredRow], missing: MissingRows = NONE_MISSING) -> SuiteResult:
        """Apply the rule to the scored rows of an uploaded file.

        ``overall`` is None if the row counts differ from the published ones, or if rows of the file
        are missing: without some of its rows, one published file may have the size of another.
        """
        figures = self.figures(rows)
        problems = (*self._wrong_counts(rows), *missing.problems(), *figures.problems)
        is_complete = not problems and figures.overall is not None
        overall = figures.overall if is_complete else None
        return SuiteResult(figures.metrics, overall, is_complete, problems)

    def _wrong_counts(self, rows: Sequence[ScoredRow]) -> list[str]:
        found = dict.fromkeys(self.counts, 0)
        for row in rows:
            name = row.slice or ""
            found[name] = found.get(name, 0) + 1
        if not self.counts:
            if not self.totals:
                return ["the number of published rows is not known"]
            sizes = " or ".join(map(str, self.totals))
            return [] if len(rows) in self.totals else [f"{len(rows)} rows instead of {sizes}"]
        return [
            f"{count} rows of {name or 'no slice'} instead of {self.counts.get(name, 0)}"
            for name, count in found.items()
            if count != self.counts.get(name, 0)
        ]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of one value or more."""
    return sum(values) / len(values)


def by_slice(rows: Sequence[ScoredRow]) -> dict[str, list[ScoredRow]]:
    """Return the rows of each slice; slices are in the order of their first rows."""
    found: dict[str, list[ScoredRow]] = {}
    for row in rows:
        found.setdefault(row.slice or "", []).append(row)
    return found


def sides(row: ScoredRow) -> tuple[list[float], list[float]]:
    """Return the scores of the chosen replies (rank 1) and of the others, in the stored order."""
    chosen = [s for s, rank in zip(row.scores, row.ranks, strict=True) if rank == 1]
    rejected = [s for s, rank in zip(row.scores, row.ranks, strict=True) if rank != 1]
    return chosen, rejected
