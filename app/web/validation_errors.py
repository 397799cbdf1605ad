"""Translate Pydantic's validation errors into field problems with hints."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.core.errors import FieldProblem
from app.domain.meant_fields import meant_field, similar_field
from app.domain.spec import RewardJobSpec

#: Codes for frequent error types of Pydantic. Other types keep Pydantic's name.
_CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "too_long": "too_long",
    "string_too_long": "too_long",
    "too_short": "too_short",
    "string_too_short": "too_short",
    "literal_error": "not_one_of",
    "enum": "not_one_of",
    "string_pattern_mismatch": "bad_pattern",
    "json_invalid": "invalid_json",
}
#: The values of ``errors[].code`` that can occur in any body.
FIELD_CODES = frozenset(_CODES.values())
_HINTS = {
    "unknown_field": "Remove it. GET /openapi.json lists the known fields.",
    "missing": "Add the field.",
    "out_of_range": "Use a value within the limit that the message gives.",
    "too_long": "Shorten the value to the length that the message gives.",
    "too_short": "Use at least the length that the message gives.",
    "not_one_of": "Use one of the values that the message lists.",
    "bad_pattern": "Use a value that matches the pattern in the message.",
    "invalid_json": "Send one JSON object with content type application/json.",
}
#: Longer names are not compared with the known fields.
MAX_GUESSED_LENGTH = 64
_ID_PATTERN = re.compile(r"\^([a-z]+_)\[0-9a-f\]\{32\}\$")
#: Descriptions of the patterns of the API. A test checks that none is missing.
_PATTERNS = {
    r"^[^\x00-\x1f\x7f]*$": "text without control characters such as line ends",
    r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$": "text without control characters other than tabs "
    "and line ends",
    r"^[\x21-\x7e]+$": "printable ASCII characters without spaces",
    r"^[a-z0-9][a-z0-9._-]{0,63}$": "up to 64 of a-z, 0-9, '.', '_' and '-'",
    r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$": "up to 100 of a-z, A-Z, 0-9, '.', '_' and '-'",
    r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$": "up to 100 of a-z, A-Z, 0-9, '_', '.' and '-'",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$": "owner/name",
    r"^[^\x00]*$": "text without NUL characters",
    r"^[A-Za-z0-9_.-]{1,64}$": "1 to 64 of a-z, A-Z, 0-9, '_', '.' and '-'",
    r"^[A-Za-z0-9_.]{1,200}$": "1 to 200 of a-z, A-Z, 0-9, '_' and '.'",
    r"^[a-z0-9_/.,-]{1,2000}$": "names of metrics, separated by commas",
    r"^\d{1,18}$": "a whole number",
    r"^\d{1,9}-\d{1,9}$": "the id of a piece of a log, such as 1-20",
    r"^[0-9a-f]{64}$": "a sha256: 64 hex digits in lower case",
    r"^[a-z]{2,8}_[0-9a-f]{32}$": "an id: a prefix such as job_ and 32 hex digits",
    r"^(ad_[0-9a-f]{32}|base:untrained)$": "the id of an adapter, or base:untrained",
    r"^hub:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    r"(@[A-Za-z0-9][A-Za-z0-9._/-]{0,254})?$": "hub:owner/name or hub:owner/name@revision",
}
_ID_HINTS = {
    "ds_": "Copy the id from the response to the upload, or from GET /v1/datasets.",
}
_ANY_ID_HINT = "Copy the id exactly as the service returned it."


def field_problems(errors: Sequence[Any], body: Any, form: Any = None) -> list[FieldProblem]:
    """Translate Pydantic's errors; values that the client sent are never repeated.

    Args:
        errors: The list that ``ValidationError.errors()`` returns, with locations in the request.
        body: The parsed body.
        form: The type of the body; hints name its fields.
    """
    found = [_field_problem(error, body, form) for error in errors[:50]]
    # A missing field whose value was sent under another name is reported once, under that name.
    renamed = [f"{pointer}/" for _, pointer in found if pointer]
    problems = [
        p
        for p, _ in found
        if p.code != "missing" or not any(f"{p.loc}/".startswith(pointer) for pointer in renamed)
    ]
    # If a field accepts several types, report only the one whose validation got deepest: it is
    # most likely the one that the client meant.
    return [p for p in problems if not any(q.loc.startswith(f"{p.loc}/") for q in problems)]


def _field_problem(error: Any, body: Any, form: Any) -> tuple[FieldProblem, str | None]:
    """Return the problem, and for an unknown field the pointer of the intended one, if known."""
    where, *path = error["loc"]
    code = _CODES.get(error["type"], error["type"])
    message = error["msg"]
    hint = _HINTS.get(code, "GET /openapi.json describes the field.")
    described, meant = "", None
    if where != "body":
        path = [where, *path]
    elif code == "invalid_json":
        path = []
        message = f"{message}: {error.get('ctx', {}).get('error', '')}"
    elif isinstance(body, bytes):  # not parsed: curl -d sends a form's content type by default
        code, message = "invalid_json", "The content type is not application/json"
        hint = _HINTS[code]
    else:
        owners, field = _field(form, path)
        path = list(_leading(path, body, is_missing=code == "missing"))
        if code == "unknown_field":
            parent = _pointer(path[:-1])
            message, hint, meant = _unknown(parent, str(path[-1]), owners, form)
        elif field and field.description:
            described = f"Description of the field: {field.description}"
            hint = hint if code in _HINTS else described
    pattern = error.get("ctx", {}).get("pattern", "")
    if shape := _ID_PATTERN.fullmatch(pattern):
        message = f"The id must be {shape[1]} followed by 32 hex digits"
        hint = f"{_ID_HINTS.get(shape[1], _ANY_ID_HINT)} {described}".strip()
    elif pattern in _PATTERNS:
        message = f"Should be {_PATTERNS[pattern]}"
    return FieldProblem(_pointer(path), code, message, hint), meant


def _field(form: Any, path: Sequence[Any]) -> tuple[list[type[BaseModel]], FieldInfo | None]:
    """Return the possible owners of the last part of a path into ``form``, and its field if any."""
    owners, field = list(_models(form)), None
    for part in path:
        # A part that no owner has is an index, or Pydantic's name of a union member.
        if field:
            owners = list(_models(field.annotation))
        fields = [m.model_fields[part] for m in owners if part in m.model_fields]
        field = fields[0] if fields else field
    return owners, field


def _models(form: Any) -> Iterator[type[BaseModel]]:
    if isinstance(form, type) and issubclass(form, BaseModel):
        yield form
    for part in get_args(form):
        yield from _models(part)


def _unknown(
    parent: str, name: str, owners: Sequence[type[BaseModel]], form: Any
) -> tuple[str, str, str | None]:
    """Return message, hint and the pointer of the intended field, for a field that no owner has."""
    known = sorted({field for model in owners for field in model.model_fields})
    listed = f"Unknown field; known fields: {', '.join(known)}"
    is_spec = form is RewardJobSpec
    if is_spec and (foreign := meant_field(parent, name)):
        return "Unknown field", foreign.hint, foreign.pointer
    # difflib takes quadratic time in the length of a name, which the client chooses.
    if len(name) <= MAX_GUESSED_LENGTH:
        if near := difflib.get_close_matches(name, known, 1, cutoff=0.7):
            hint = f"Did you mean {near[0]}? Otherwise remove it."
            return listed, hint, f"{parent}/{near[0]}"
        if is_spec and (foreign := similar_field(name)):
            return "Unknown field", foreign.hint, foreign.pointer
    hints = [getattr(model, "unknown_field_hint", None) for model in owners]
    hint = next(filter(None, hints), "Remove it, or use one of the known fields.")
    return listed, hint, None


def _leading(path: Sequence[Any], body: Any, *, is_missing: bool) -> Iterable[Any]:
    """Yield the parts of a path that exist in the body; Pydantic adds names of union members."""
    for part in path:
        if (isinstance(body, dict) and part in body) or (
            isinstance(body, list) and isinstance(part, int)
        ):
            body = body[part]
            yield part
    if is_missing:
        yield from path[-1:]


def _pointer(path: Iterable[Any]) -> str:
    return "".join(f"/{_escaped(part)}" for part in path)


def _escaped(part: object) -> str:
    # The client chooses the names of fields: bound their length and drop control characters.
    text = re.sub(r"[^\x20-\x7e]", "?", str(part)[:100])
    return text.replace("~", "~0").replace("/", "~1")
