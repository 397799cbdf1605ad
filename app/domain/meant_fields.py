"""Find the intended field for an unknown field of a job spec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from app.domain.foreign_names import FOREIGN_NAMES, ForeignName
from app.domain.spec import RewardJobSpec

#: Minimum similarity of a misspelled name to one of several hundred names (`difflib` ratio).
_CUTOFF = 0.88
_MAX_NAME_CHARACTERS = 100


def meant_field(parent: str, name: str) -> ForeignName | None:
    """Return the intended field for an unknown field of the object at ``parent``, or None.

    The name may be a field of another object of the spec, or another tool's name for a field.

    Args:
        parent: JSON pointer of the object with the field; "" is the spec itself.
        name: The name as the client sent it, of any length.
    """
    plain = _plain(name)
    inside, anywhere = _index()
    return inside.get(parent, {}).get(plain) or anywhere.get(plain)


def similar_field(name: str) -> ForeignName | None:
    """Return the intended field for a misspelled name that resembles a name of ``meant_field``."""
    _, anywhere = _index()
    near = get_close_matches(_plain(name), anywhere, 1, cutoff=_CUTOFF)
    return anywhere[near[0]] if near else None


def spec_pointers() -> list[str]:
    """Return the JSON pointers of all fields of a job spec, including nested ones."""
    return list(_pointers(RewardJobSpec, ""))


@cache
def _index() -> tuple[dict[str, dict[str, ForeignName]], dict[str, ForeignName]]:
    """Return the names that apply to one object, by its pointer, and those that apply anywhere."""
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
    """Normalise a name: ``--learningRate`` and ``learning-rate`` become ``learning_rate``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:_MAX_NAME_CHARACTERS])
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
