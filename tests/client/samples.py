"""Sample responses from the OpenAPI document, with the required fields only."""

from __future__ import annotations

from typing import Any

from tests.client.calls import DOCUMENT


def sample(schema: dict[str, Any]) -> Any:
    """Return a value that the schema allows."""
    if "$ref" in schema:
        return sample(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return sample(schema[choice][0])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            return {name: sample(schema["properties"][name]) for name in required}
        case "array":
            return []
        case "string":
            return "2026-11-24T10:00:00.000Z" if schema.get("format") == "date-time" else "text"
        case "integer" | "number":
            return 1
        case "boolean":
            return False
    raise AssertionError(f"no sample of {schema}")
