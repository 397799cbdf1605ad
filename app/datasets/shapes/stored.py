"""Shapes of the datasets of this service, as ``GET /v1/datasets/{id}/content`` returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.datasets.shapes.dialogues import is_dialogue
from app.datasets.shapes.example_messages import BAD, GOOD, USER
from app.datasets.shapes.labels import read_number
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import SYSTEM, Parts, Shape


def _are_stored(sample: Sample) -> bool:
    """Return whether most rows may come from a stored dataset.

    Other files may have a column ``line`` too.
    """
    return 2 * sum(_may_be_stored(row) for _, row in sample.rows) > len(sample.rows)


def _may_be_stored(row: Mapping[str, Any]) -> bool:
    """Return whether a row is numbered and holds only texts, or only lists of messages."""
    line = read_number(row.get("line"))
    if line is None or not line.is_integer():
        return False
    if isinstance(replies := row.get("replies"), list):
        contents = [each.get("reply") for each in replies if isinstance(each, dict)]
    else:
        contents = [row.get("chosen"), row.get("rejected")]
    if any(isinstance(reply, str) and is_dialogue(reply) for reply in contents):
        return False
    if (prompt := row.get("prompt")) is not None:
        contents.append(prompt)
    kinds = {type(each) for each in contents}
    return kinds in ({str}, {list})


_PARTS = Parts(system=(), history=(), prompt=("prompt",), id=("id",), is_verbatim=True)

STORED: tuple[Shape, ...] = (
    Shape(
        name="stored",
        summary="A dataset of this service, as `GET /v1/datasets/{id}/content` returns it.",
        parts=replace(_PARTS, chosen=("chosen",), rejected=("rejected",)),
        needs=("line",),
        lacks=(*SYSTEM, "history"),
        when=_are_stored,
        examples=({"chosen": [GOOD], "line": 1, "prompt": [USER], "rejected": [BAD]},),
    ),
    Shape(
        name="stored_ranked",
        summary="A ranked dataset of this service, as `GET /v1/datasets/{id}/content` returns it.",
        parts=replace(_PARTS, answers=("replies",)),
        needs=("line",),
        when=_are_stored,
        examples=(
            {
                "line": 1,
                "prompt": [USER],
                "replies": [{"rank": 1, "reply": [GOOD]}, {"rank": 2, "reply": [BAD]}],
            },
        ),
    ),
)
