"""The metrics of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaudit.errors import MissingDependencyError
from plaudit.models import MetricsRead

if TYPE_CHECKING:
    import pandas


class Metrics(MetricsRead):
    """Metrics of a job. ``columns`` has lists of equal length: ``step``, and one for each metric,
    with None for steps at which it was not logged."""

    def latest(self) -> dict[str, float]:
        """Return the last logged value of each metric."""
        found = {}
        for name, column in self.columns.items():
            values = [value for value in column if value is not None]
            if name != "step" and values:
                found[name] = values[-1]
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with one row per step, indexed by it, and one column per metric.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError(
                "to_pandas requires pandas.", hint="Install it, or the client's extra 'pandas'."
            ) from error
        frame = pandas.DataFrame(self.columns, dtype="float64")
        frame.index = pandas.Index(frame.pop("step").astype("int64"), name="step")
        return frame
