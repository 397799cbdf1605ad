"""Results of checks of this machine."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal


class LeftOutError(Exception):
    """The check does not apply to this machine; the message says why."""


class CheckFailedError(Exception):
    """The machine did not pass; the message gives the figure and the limit."""


@dataclass(frozen=True)
class Result:
    """What a check found. GET /v1/workers shows the fields under the same names."""

    check: str
    status: Literal["passed", "failed", "left_out"]
    detail: str

    def as_json(self) -> dict[str, str]:
        """Return the result for JSON."""
        return asdict(self)


def run_check(check: str, run: Callable[[], str]) -> Result:
    """Run a check, which returns the figures that it found.

    LeftOutError leaves it out, and any other exception fails it: every fault is a result.
    """
    status: Literal["passed", "failed", "left_out"] = "passed"
    try:
        detail = run()
    except LeftOutError as error:
        status, detail = "left_out", str(error)
    except CheckFailedError as error:
        status, detail = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - every fault of the machine is a result
        traceback.print_exc()
        status, detail = "failed", f"{type(error).__name__}: {error}"
    return Result(check, status, detail[:500])


def require(is_met: bool, figures: str) -> str:  # noqa: FBT001 - the condition
    """Return the figures.

    Raises:
        CheckFailedError: with the figures, if the condition is not met.
    """
    if not is_met:
        raise CheckFailedError(figures)
    return figures
