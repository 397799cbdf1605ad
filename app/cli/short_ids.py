"""Completes ids that are given by their first digits."""

from __future__ import annotations

import re
from typing import Literal

from app.cli.exit_codes import CommandError, ExitCode
from plaudit import Plaudit

Kind = Literal["job", "ds", "ad", "eval"]
_NAMES = {"job": "job", "ds": "dataset", "ad": "adapter", "eval": "evaluation"}
_ARTICLES = {"job": "a", "ds": "a", "ad": "an", "eval": "an"}
_DIGITS = 32
#: Ids begin with their creation time; fewer digits span more than a year.
_MIN_DIGITS = 4


def full_id(client: Plaudit, kind: Kind, text: str) -> str:
    """Return the only id that begins with ``text``, which may lack the prefix.

    A complete id is returned without a request.

    Raises:
        CommandError: ``text`` is not the beginning of an id, or not of exactly one.
    """
    found = re.fullmatch(rf"(?:{kind}_)?([0-9a-f]{{{_MIN_DIGITS},{_DIGITS}}})", text.strip())
    if found is None:
        raise CommandError(
            f"{text} is not the id of {_ARTICLES[kind]} {_NAMES[kind]}.",
            ExitCode.USAGE,
            f"Ids look like {kind}_01a2…; the first digits are enough if they are unique.",
        )
    beginning = f"{kind}_{found[1]}"
    if len(found[1]) == _DIGITS:
        return beginning
    ids = [name for name in _newest_below(client, kind, beginning) if name.startswith(beginning)]
    if not ids:
        raise CommandError(f"No {_NAMES[kind]} id begins with {beginning}.", ExitCode.REFUSED)
    if len(ids) > 1:
        raise CommandError(
            f"More than one {_NAMES[kind]} id begins with {beginning}: {', '.join(ids)}, …",
            ExitCode.REFUSED,
            "Give more digits.",
        )
    return ids[0]


def _newest_below(client: Plaudit, kind: Kind, beginning: str) -> list[str]:
    """Return at most two ids. Lists are sorted by id, so ids with this beginning are adjacent."""
    after = beginning.ljust(len(kind) + 1 + _DIGITS, "f")
    match kind:
        case "job":
            return [item.id for item in client.jobs.list(page_size=2, after=after).page().data]
        case "ds":
            return [item.id for item in client.datasets.list(page_size=2, after=after).page().data]
        case "ad":
            return [item.id for item in client.adapters.list(page_size=2, after=after).page().data]
        case "eval":
            return [e.id for e in client.evaluations.list(page_size=2, after=after).page().data]
