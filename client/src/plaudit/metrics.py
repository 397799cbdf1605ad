"""The metrics of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaudit.errors import MissingDependencyError
from plaudit.models import MetricsRead

if TYPE_CHECKING:
    import pandas


class Metrics(MetricsRead):
    """Columns of equal length: ``step``, and one per metric with None where it was not logged."""

    def latest(self) -> dict[str, float]:
        """The last value of each metric that was logged."""
        found = {}
        for name, column in self.columns.items():
            values = [value for value in column if value is not None]
            if name != "step" and values:
                found[name] = values[-1]
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """A frame with a row a step and a column a metric.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError(
                "to_pandas needs pandas.", hint="Install it, or the client's extra 'pandas'."
            ) from error
        frame = pandas.DataFrame(self.columns, dtype="float64")
        frame.index = pandas.Index(frame.pop("step").astype("int64"), name="step")
        return frame
