"""Checks of a machine and their results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch


class LeftOutError(Exception):
    """The check does not apply to this machine; the message says why."""


class CheckFailedError(Exception):
    """The machine did not pass; the message gives the figure and the limit."""


@dataclass(frozen=True)
class Check:
    """One check. ``run`` takes "cpu" or "cuda" and returns the figures that were found.

    It raises CheckFailedError or LeftOutError; any other exception fails the check too.
    """

    name: str
    run: Callable[[str], str]
    is_quick: bool = False
    needs_gpu: bool = False


@dataclass(frozen=True)
class Result:
    """What a check found."""

    name: str
    result: Literal["passed", "failed", "left out"]
    detail: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "name": self.name,
            "result": self.result,
            "detail": self.detail,
            "seconds": round(self.seconds, 1),
        }


def run_checks(checks: Sequence[Check]) -> list[Result]:
    """Run the checks one after another; none of them ends the others."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [_run(check, device) for check in checks]


def _run(check: Check, device: str) -> Result:
    began = time.monotonic()
    result: Literal["passed", "failed", "left out"] = "passed"
    try:
        if check.needs_gpu and device == "cpu":
            raise LeftOutError("this machine has no usable GPU")
        detail = check.run(device)
    except LeftOutError as error:
        result, detail = "left out", str(error)
    except CheckFailedError as error:
        result, detail = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - every fault of the machine is a result
        traceback.print_exc()
        result, detail = "failed", f"{type(error).__name__}: {error}"
    return Result(check.name, result, detail[:500], time.monotonic() - began)


def require(is_met: bool, figures: str) -> str:  # noqa: FBT001 - the condition
    """Return the figures.

    Raises:
        CheckFailedError: with the figures, if the condition is not met.
    """
    if not is_met:
        raise CheckFailedError(figures)
    return figures
