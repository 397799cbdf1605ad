"""Prepare the OpenAPI document for the page of the API reference."""

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
    """A parameter of an operation or a property of a schema."""

    name: str
    where: str  # "path", "query" or "header" for a parameter, "" for a property
    type: str
    refs: tuple[str, ...]  # names of the schemas in the type
    is_required: bool
    default: str | None
    description: str


class DocumentedResponse(NamedTuple):
    """A response of an operation."""

    status: str
    description: str
    refs: tuple[str, ...]


class Operation(NamedTuple):
    """A method of a path."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    fields: tuple[Field, ...]
    media_types: tuple[str, ...]
    body: tuple[str, ...]
    example: str | None
    responses: tuple[DocumentedResponse, ...]


class NamedSchema(NamedTuple):
    """A schema of the document."""

    name: str
    type: str
    description: str
    fields: tuple[Field, ...]


def code(text: str) -> Markup:
    """Convert a description to markup: text in backticks becomes code."""
    parts = text.split("`")
    marked = [
        Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts)
    ]
    return Markup("").join(marked)


def operations(document: Schema) -> dict[str, list[Operation]]:
    """Return the operations by tag, in the order of the document, with "service" last."""
    found: dict[str, list[Operation]] = {}
    for path, item in document["paths"].items():
        for method, raw in item.items():
            tag = (raw.get("tags") or ["service"])[0]
            found.setdefault(tag, []).append(_operation(document, path, method, raw))
    return dict(sorted(found.items(), key=lambda item: item[0] == "service"))


def schemas(document: Schema) -> list[NamedSchema]:
    """Return all schemas, ordered by name."""
    return [
        NamedSchema(name, _type(raw), raw.get("description", ""), tuple(_properties(raw)))
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
            _field(p["name"], p["schema"], p, where=p["in"], is_required=p.get("required", False))
            for p in raw.get("parameters", ())
        ),
        media_types=tuple(content),
        body=body,
        example=json.dumps(examples[0], indent=2, ensure_ascii=False) if examples else None,
        responses=tuple(
            DocumentedResponse(
                status, response["description"], _content_refs(response.get("content", {}))
            )
            for status, response in raw["responses"].items()
        ),
    )


def _content_refs(content: Schema) -> tuple[str, ...]:
    """Return the names of the schemas of a body, for all media types."""
    return tuple(
        dict.fromkeys(ref for part in content.values() for ref in _refs(part.get("schema", {})))
    )


def _properties(schema: Schema) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, raw in schema.get("properties", {}).items():
        yield _field(name, raw, raw, where="", is_required=name in required)


def _field(name: str, schema: Schema, described: Schema, *, where: str, is_required: bool) -> Field:
    return Field(
        name=name,
        where=where,
        type=_type(schema),
        refs=tuple(_refs(schema)),
        is_required=is_required,
        default=json.dumps(schema["default"]) if "default" in schema else None,
        description=described.get("description") or "",
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
    """Yield the names of the schemas that a schema refers to."""
    if "$ref" in schema:
        yield str(schema["$ref"]).rpartition("/")[2]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _refs(choice)
    if isinstance(items := schema.get("items"), Mapping):
        yield from _refs(items)
    if isinstance(more := schema.get("additionalProperties"), Mapping):
        yield from _refs(more)
