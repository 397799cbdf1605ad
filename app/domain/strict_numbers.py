"""A base class of specs whose numbers are never ``true`` or ``false``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

_NESTED = (Annotated, Literal, Union, UnionType)


class StrictNumbers(BaseModel):
    """Rejects booleans for numbers.

    Pydantic would convert them: a learning rate of ``true`` would be 1.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            kind = _number(cls, str(info.field_name))
            if kind is not None:
                raise PydanticKnownError(kind)
        return value


@cache
def _number(model: type[BaseModel], field: str) -> Literal["int_type", "float_type"] | None:
    """Return the error for a field that accepts numbers and no booleans; None for others."""
    accepted = set(_types(model.model_fields[field].annotation))
    if bool in accepted or not accepted & {int, float}:
        return None
    return "float_type" if float in accepted else "int_type"


def _types(form: Any) -> Iterator[type]:
    if get_origin(form) in _NESTED:
        for part in get_args(form):
            yield from _types(part)
    else:
        yield form if isinstance(form, type) else type(form)
