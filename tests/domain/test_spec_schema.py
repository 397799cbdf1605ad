"""Every field of a job spec has a description, for forms, `plaudit jobs init` and the client."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.meant_fields import spec_pointers
from app.domain.spec import RewardJobSpec

SCHEMA = RewardJobSpec.model_json_schema()


def described(pointer: str) -> str | None:
    """Return the description of a field, or of its object."""
    owners, description = [SCHEMA], None
    for name in pointer.split("/")[1:]:
        (field,) = [o["properties"][name] for o in owners if name in o.get("properties", {})]
        owners = objects_of(field)
        description = field.get("description") or (owners and owners[0].get("description")) or None
    return description


def objects_of(field: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of the objects that a field may hold."""
    if reference := field.get("$ref"):
        return [SCHEMA["$defs"][reference.rpartition("/")[2]]]
    forms = field.get("anyOf", []) + field.get("oneOf", [])
    return [found for form in forms for found in objects_of(form)]


@pytest.mark.parametrize("pointer", spec_pointers())
def test_every_field_has_a_description(pointer: str) -> None:
    text = described(pointer)
    assert text
    assert text.endswith(".")
    assert len(text.split()) > 1
