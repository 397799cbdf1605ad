"""What validation found wrong with a request, field by field, each with what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.core.errors import FieldProblem

#: Pydantic's names for errors that clients meet often, under names that say what is wrong.
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
#: What ``errors[].code`` says in any body.
FIELD_CODES = frozenset(_CODES.values())
_HINTS = {
    "unknown_field": "Leave it out; GET /openapi.json lists the fields there are.",
    "missing": "Add the field.",
    "out_of_range": "Give a value within the limit that the message names.",
    "too_long": "Shorten it to what the message names.",
    "too_short": "Give as much as the message names.",
    "not_one_of": "Give one of the values that the message names.",
    "bad_pattern": "Give a value that the pattern in the message fits.",
    "invalid_json": "Send one JSON object with content type application/json.",
}
#: Longer names are no misspellings.
MAX_GUESSED = 64
_ID_PATTERN = re.compile(r"\^([a-z]+_)\[0-9a-f\]\{32\}\$")


def field_problems(errors: Sequence[Any], body: Any, form: Any = None) -> list[FieldProblem]:
    """Pydantic's errors as JSON pointers into the body; what the client sent is never repeated.

    ``form`` is the body's type, whose fields the hints name.
    """
    found = [_field_problem(error, body, form) for error in errors[:50]]
    # Of a field's forms, the one that was read further is the one that was meant.
    return [p for p in found if not any(q.loc.startswith(f"{p.loc}/") for q in found)]


def _field_problem(error: Any, body: Any, form: Any) -> FieldProblem:
    where, *path = error["loc"]
    code = _CODES.get(error["type"], error["type"])
    message = error["msg"]
    hint = _HINTS.get(code, "GET /openapi.json describes the field.")
    if where != "body":
        path = [where, *path]
    elif code == "invalid_json":
        path = []
        message = f"{message}: {error.get('ctx', {}).get('error', '')}"
    elif isinstance(body, bytes):  # as curl -d sends it, unless it is told otherwise
        code, message = "invalid_json", "The content type does not say that the body is JSON"
        hint = _HINTS[code]
    else:
        owners, field = _field(form, path)
        if code == "unknown_field":
            message, hint = _unknown(str(path[-1]), owners)
        elif code not in _HINTS and field and field.description:
            hint = f"The field's description: {field.description}"
        path = list(_leading(path, body, is_missing=code == "missing"))
    if shape := _ID_PATTERN.fullmatch(error.get("ctx", {}).get("pattern", "")):
        message = f"Not an id of this kind: {shape[1]} and 32 hex digits"
        hint = "Copy the id as the service gave it."
    loc = "".join(f"/{_escaped(part)}" for part in path)
    return FieldProblem(loc, code, message, hint)


def _field(form: Any, path: Sequence[Any]) -> tuple[list[type[BaseModel]], FieldInfo | None]:
    """The models that may hold the end of a path into ``form``, and the field there, if any."""
    owners, field = list(_models(form)), None
    for part in path:
        # Else a place in a list, or Pydantic's name for one of the forms of the field before.
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


def _unknown(name: str, owners: Sequence[type[BaseModel]]) -> tuple[str, str]:
    """Message and hint for a field that none of its possible owners has."""
    known = sorted({field for model in owners for field in model.model_fields})
    message = f"No such field; there are: {', '.join(known)}"
    # difflib is quadratic in the length of a name that the client chose.
    if len(name) <= MAX_GUESSED and (near := difflib.get_close_matches(name, known, 1, cutoff=0.7)):
        return message, f"Did you mean {near[0]}? Else leave it out."
    told = [getattr(model, "unknown_field_hint", None) for model in owners]
    return message, next(filter(None, told), "Leave it out, or use one of the fields named.")


def _leading(path: Sequence[Any], body: Any, *, is_missing: bool) -> Iterable[Any]:
    """The parts of a path that lead into the body: Pydantic's name forms of a field as well."""
    for part in path:
        if (isinstance(body, dict) and part in body) or (
            isinstance(body, list) and isinstance(part, int)
        ):
            body = body[part]
            yield part
    if is_missing:
        yield from path[-1:]


def _escaped(part: object) -> str:
    # Names come from the client; control characters and odd lengths stay out of the answer.
    text = re.sub(r"[^\x20-\x7e]", "?", str(part)[:100])
    return text.replace("~", "~0").replace("/", "~1")
