"""What a client meant by a name that is no field of a job spec where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from app.domain.foreign_names import FOREIGN_NAMES, ForeignName
from app.domain.spec import RewardJobSpec

#: How close a misspelt name has to be to one of several hundred (`difflib` ratio).
_CUTOFF = 0.88
_MAX_NAME_CHARACTERS = 100


def meant_field(parent: str, name: str) -> ForeignName | None:
    """What a name stands for that is no field of the object at ``parent``.

    It may be a field of the spec that is written in the wrong place, or the name that another tool
    gives to a field.

    Args:
        parent: JSON pointer of the object that holds the name; "" is the spec itself.
        name: As the client sent it, of any length.
    """
    plain = _plain(name)
    inside, anywhere = _index()
    return inside.get(parent, {}).get(plain) or anywhere.get(plain)


def similar_field(name: str) -> ForeignName | None:
    """What a name stands for if it is nearly one that ``meant_field`` knows."""
    _, anywhere = _index()
    near = get_close_matches(_plain(name), anywhere, 1, cutoff=_CUTOFF)
    return anywhere[near[0]] if near else None


def spec_pointers() -> list[str]:
    """JSON pointers of all fields of a job spec, objects and what is in them."""
    return list(_pointers(RewardJobSpec, ""))


@cache
def _index() -> tuple[dict[str, dict[str, ForeignName]], dict[str, ForeignName]]:
    """Names of one object only, by its pointer; and names that mean the same everywhere."""
    inside: dict[str, dict[str, ForeignName]] = {}
    anywhere: dict[str, ForeignName] = {}
    for entry in FOREIGN_NAMES:
        names = anywhere if entry.parent is None else inside.setdefault(entry.parent, {})
        names.update(dict.fromkeys(entry.names.split(), entry))
    for pointer in spec_pointers():
        name = pointer.rpartition("/")[2]
        anywhere[name] = ForeignName(name, pointer)
    return inside, anywhere


def _pointers(form: Any, prefix: str) -> Iterator[str]:
    if isinstance(form, type) and issubclass(form, BaseModel):
        for name, field in form.model_fields.items():
            yield f"{prefix}/{name}"
            yield from _pointers(field.annotation, f"{prefix}/{name}")
    for part in get_args(form):
        yield from _pointers(part, prefix)


def _plain(name: str) -> str:
    """``--learningRate`` and ``learning-rate`` as ``learning_rate``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:_MAX_NAME_CHARACTERS])
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
