"""What validation found wrong with a request, field by field, each with what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.domain.meant_fields import meant_field, similar_field
from app.domain.spec import RewardJobSpec
from app.errors import FieldProblem

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
    "bad_pattern": "Give a value of the form that the message names.",
    "invalid_json": "Send one JSON object with content type application/json.",
}
_ID_PATTERN = re.compile(r"\^([a-z]+_)\[0-9a-f\]\{32\}\$")
#: What the patterns of the API ask for, in words. A test checks that none is missing.
_PATTERNS = {
    r"^[^\x00-\x1f\x7f]*$": "text without control characters such as line ends",
    r"^[\x21-\x7e]+$": "printable ASCII characters without spaces",
    r"^[a-z0-9][a-z0-9._-]{0,63}$": "up to 64 of a-z, 0-9, '.', '_' and '-'",
    r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$": "up to 100 of a-z, A-Z, 0-9, '.', '_' and '-'",
    r"^[A-Za-z0-9_.-]{1,64}$": "1 to 64 of a-z, A-Z, 0-9, '_', '.' and '-'",
    r"^[A-Za-z0-9_.]{1,200}$": "1 to 200 of a-z, A-Z, 0-9, '_' and '.'",
    r"^[a-z0-9_/.,-]{1,2000}$": "names of metrics, separated by commas",
    r"^\d{1,18}$": "a whole number",
    r"^\d{1,9}-\d{1,9}$": "the id of a piece of a log, such as 1-20",
    r"^[a-z]{2,8}_[0-9a-f]{32}$": "an id: a prefix such as job_ and 32 hex digits",
}
_ID_HINTS = {
    "ds_": "Copy the id from the answer to the upload, or from GET /v1/datasets.",
}
_ANY_ID_HINT = "Copy the id as the service gave it."


def field_problems(errors: Sequence[Any], body: Any, form: Any = None) -> list[FieldProblem]:
    """Translate Pydantic's errors; values that the client sent are never repeated.

    Args:
        errors: The list that ``ValidationError.errors()`` returns, locations from the request on.
        body: What was validated, as parsed JSON.
        form: The body's type; hints name its fields.
    """
    found = [_field_problem(error, body, form) for error in errors[:50]]
    # A field that is missing because it was written under another name is one mistake, not two.
    renamed = [f"{pointer}/" for _, pointer in found if pointer]
    problems = [
        p
        for p, _ in found
        if p.code != "missing" or not any(f"{p.loc}/".startswith(pointer) for pointer in renamed)
    ]
    # Of a field's forms, the one that was read further is the one that was meant.
    return [p for p in problems if not any(q.loc.startswith(f"{p.loc}/") for q in problems)]


def _field_problem(error: Any, body: Any, form: Any) -> tuple[FieldProblem, str | None]:
    """The problem, and the pointer of the field that an unknown one stands for."""
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
    elif isinstance(body, bytes):  # as curl -d sends it, unless it is told otherwise
        code, message = "invalid_json", "The content type does not say that the body is JSON"
        hint = _HINTS[code]
    else:
        owners, field = _field(form, path)
        path = list(_leading(path, body, is_missing=code == "missing"))
        if code == "unknown_field":
            parent = _pointer(path[:-1])
            message, hint, meant = _unknown(parent, str(path[-1]), owners, form)
        elif field and field.description:
            described = f"The field's description: {field.description}"
            hint = hint if code in _HINTS else described
    pattern = error.get("ctx", {}).get("pattern", "")
    if shape := _ID_PATTERN.fullmatch(pattern):
        message = f"Not an id of this kind: {shape[1]} and 32 hex digits"
        hint = f"{_ID_HINTS.get(shape[1], _ANY_ID_HINT)} {described}".strip()
    elif pattern in _PATTERNS:
        message = f"Should be {_PATTERNS[pattern]}"
    return FieldProblem(_pointer(path), code, message, hint), meant


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


def _unknown(
    parent: str, name: str, owners: Sequence[type[BaseModel]], form: Any
) -> tuple[str, str, str | None]:
    """Message, hint and the pointer of what was meant, for a field that no owner has."""
    known = sorted({field for model in owners for field in model.model_fields})
    listed = f"No such field; there are: {', '.join(known)}"
    is_spec = form is RewardJobSpec
    if is_spec and (foreign := meant_field(parent, name)):
        return "No such field", foreign.hint, foreign.pointer
    if near := difflib.get_close_matches(name, known, 1, cutoff=0.7):
        return listed, f"Did you mean {near[0]}? Else leave it out.", f"{parent}/{near[0]}"
    if is_spec and (foreign := similar_field(name)):
        return "No such field", foreign.hint, foreign.pointer
    told = [getattr(model, "unknown_field_hint", None) for model in owners]
    hint = next(filter(None, told), "Leave it out, or use one of the fields named.")
    return listed, hint, None


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


def _pointer(path: Iterable[Any]) -> str:
    return "".join(f"/{_escaped(part)}" for part in path)


def _escaped(part: object) -> str:
    # Names come from the client; control characters and odd lengths stay out of the answer.
    text = re.sub(r"[^\x20-\x7e]", "?", str(part))[:100]
    return text.replace("~", "~0").replace("/", "~1")
