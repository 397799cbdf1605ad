"""The OpenAPI document as a page for people: what every operation takes and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup, escape

Schema = Mapping[str, Any]
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
    "minItems": "{} or more",
    "maxItems": "at most {}",
    "pattern": "matches {}",
}


class Field(NamedTuple):
    """A parameter or a property."""

    name: str
    where: str
    type: str
    refs: tuple[str, ...]  # schemas that the type names
    is_required: bool
    default: str | None
    description: str


class Answer(NamedTuple):
    """A documented status."""

    status: str
    description: str
    refs: tuple[str, ...]


class Operation(NamedTuple):
    """A method of an address."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    fields: tuple[Field, ...]
    media_types: tuple[str, ...]
    body: tuple[str, ...]
    example: str | None
    answers: tuple[Answer, ...]


class Shape(NamedTuple):
    """A schema."""

    name: str
    type: str
    description: str
    fields: tuple[Field, ...]


def code(text: str) -> Markup:
    """A description as markup: what stands between backticks is code."""
    parts = text.split("`")
    marked = [
        Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts)
    ]
    return Markup("").join(marked)


def operations(document: Schema) -> dict[str, list[Operation]]:
    """By tag, in the document's order; what is about the service itself comes last."""
    found: dict[str, list[Operation]] = {}
    for path, item in document["paths"].items():
        for method, raw in item.items():
            tag = (raw.get("tags") or ["service"])[0]
            found.setdefault(tag, []).append(_operation(document, path, method, raw))
    return dict(sorted(found.items(), key=lambda item: item[0] == "service"))


def shapes(document: Schema) -> list[Shape]:
    """Every schema, by name."""
    return [
        Shape(name, _type(raw), raw.get("description", ""), tuple(_properties(raw)))
        for name, raw in sorted(document["components"]["schemas"].items())
    ]


def _operation(document: Schema, path: str, method: str, raw: Schema) -> Operation:
    content = raw.get("requestBody", {}).get("content", {})
    body = tuple(dict.fromkeys(ref for c in content.values() for ref in _refs(c["schema"])))
    examples = [
        e for ref in body for e in document["components"]["schemas"][ref].get("examples", ())
    ]
    return Operation(
        id=raw["operationId"],
        method=method.upper(),
        path=path,
        summary=raw["summary"],
        description=raw["description"],
        fields=tuple(
            _field(p["name"], p["in"], p["schema"], p.get("required", False), p.get("description"))
            for p in raw.get("parameters", ())
        ),
        media_types=tuple(content),
        body=body,
        example=json.dumps(examples[0], indent=2, ensure_ascii=False) if examples else None,
        answers=tuple(
            Answer(status, answer["description"], _named(answer.get("content", {})))
            for status, answer in raw["responses"].items()
        ),
    )


def _named(content: Schema) -> tuple[str, ...]:
    """Schemas of a body, whatever its media type."""
    return tuple(
        dict.fromkeys(ref for part in content.values() for ref in _refs(part.get("schema", {})))
    )


def _properties(schema: Schema) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, raw in schema.get("properties", {}).items():
        yield _field(name, "", raw, name in required, raw.get("description"))


def _field(
    name: str, where: str, schema: Schema, is_required: bool, description: str | None
) -> Field:
    default = json.dumps(schema["default"]) if "default" in schema else None
    return Field(
        name, where, _type(schema), tuple(_refs(schema)), is_required, default, description or ""
    )


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [text.format(_plain(schema[key])) for key, text in _BOUNDS.items() if key in schema]
    return ", ".join([str(kind), *bounds])


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refs(schema: Schema) -> Iterator[str]:
    """Names of the schemas that this one is, or is made of."""
    if "$ref" in schema:
        yield str(schema["$ref"]).rpartition("/")[2]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _refs(choice)
    if isinstance(items := schema.get("items"), Mapping):
        yield from _refs(items)
    if isinstance(more := schema.get("additionalProperties"), Mapping):
        yield from _refs(more)
