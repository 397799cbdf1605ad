"""Violated rules of a spec, and the error that lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecProblem:
    """A violated rule: JSON pointer of the field, stable code, what was found, and what to do."""

    loc: str
    code: str
    message: str
    hint: str


class SpecRejectedError(Exception):
    """The spec cannot be trained as written. ``problems`` lists the reasons by field."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(f"{p.loc}: {p.message}" for p in problems))
        self.problems = problems

    @classmethod
    def of(cls, loc: str, code: str, message: str, hint: str) -> SpecRejectedError:
        """Build the error from a single problem."""
        return cls([SpecProblem(loc, code, message, hint)])
