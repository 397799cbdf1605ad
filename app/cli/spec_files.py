"""Reads job specs from JSON and TOML files, and writes commented TOML for ``plaudit jobs init``."""

from __future__ import annotations

import errno
import json
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.cli.exit_codes import CommandError, ExitCode
from app.domain.spec import RewardJobSpec

WIDTH = 98
_HEADER = """\
# A job of Plaudit. Submit it with: plaudit jobs submit {file}
#
# A line that begins with "# name =" shows a field and its default; remove the "#" to change it.
# Show the plan with: plaudit jobs submit {file} --dry-run
"""
_REQUIRED = {
    "base_model": "see: plaudit base-models",
    "train_dataset": "see: plaudit datasets list",
}


def read_spec(path: Path) -> dict[str, Any]:
    """Read a spec from a file: TOML if the name ends in ``.toml``, else JSON; ``-`` is stdin.

    The format of stdin is detected.

    Raises:
        CommandError: the file cannot be read, or is not a job spec.
    """
    try:
        text = read_stdin() if str(path) == "-" else path.read_text(encoding="utf-8")
        text = text.removeprefix("\ufeff")  # editors on Windows write a byte order mark
        is_json = path.suffix != ".toml" if str(path) != "-" else text.lstrip().startswith("{")
        document = json.loads(text) if is_json else tomllib.loads(text)
        json.dumps(document, allow_nan=False)  # refuses TOML dates and NaN, which JSON cannot hold
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = f"{error.strerror}." if isinstance(error, OSError) else str(error)
        raise CommandError(
            f"{path} is not a job spec: {reason}",
            ExitCode.USAGE,
            "Specs are JSON, or TOML in files named *.toml; 'plaudit jobs init' writes one.",
        ) from error
    if not isinstance(document, dict):
        raise CommandError(f"{path} is not a job spec: it is not a JSON object.", ExitCode.USAGE)
    return document


def read_stdin() -> str:
    """Return all of standard input.

    Raises:
        OSError: it is closed.
    """
    if sys.stdin is None:  # the shell closed it: <&-
        raise OSError(errno.EBADF, "It is closed", "Standard input")
    return sys.stdin.read()


def commented_spec(file: str, given: dict[str, Any]) -> str:
    """Return TOML with every field of a spec: those of ``given`` are set, the others commented out.

    Args:
        file: the file name to show in the instructions.
        given: values of top-level fields.
    """
    schema = RewardJobSpec.model_json_schema()
    parts = schema["$defs"]
    lines, tables = [_HEADER.format(file=file).rstrip()], []
    for name, field in schema["properties"].items():
        part = parts.get(field.get("$ref", "").rpartition("/")[2])
        if part is not None:  # in TOML, tables must follow the top-level fields
            tables.append((name, part))
        else:
            lines += _field_lines(name, field, parts, given)
    for name, part in tables:
        lines += ["", *_comment(part.get("description", "")), f"[{name}]"]
        for inner, field in part["properties"].items():
            if inner != "task_type":  # has only one allowed value
                lines += _field_lines(inner, field, parts, {})
    return "\n".join(lines) + "\n"


def _field_lines(
    name: str, field: dict[str, Any], parts: dict[str, Any], given: dict[str, Any]
) -> list[str]:
    about = [field.get("description", ""), _allowed(field, parts)]
    comment = _comment(" ".join(text for text in about if text))
    if name in given:
        return ["", *comment, f"{name} = {_toml(given[name])}"]
    if name in _REQUIRED:
        return ["", *comment, f'{name} = ""  # required; {_REQUIRED[name]}']
    value = field.get("default")
    shown = _toml(_example(field, parts) if value is None else value)
    return ["", *comment, f"# {name} = {shown}{'  # not set' if value is None else ''}"]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH - 2)]


def _allowed(field: dict[str, Any], parts: dict[str, Any]) -> str:
    """Return a sentence with the allowed values of a field; empty if there is no limit."""
    found = [text for choice in _choices(field) if (text := _bounds(choice, parts))]
    return f"Allowed: {', or '.join(found)}." if found else ""


def _choices(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the alternatives of a field's schema without null, which TOML does not have."""
    nested = field.get("anyOf") or field.get("oneOf")
    if nested:
        for choice in nested:
            yield from _choices(choice)
    elif field.get("type") != "null":
        yield field


def _bounds(choice: dict[str, Any], parts: dict[str, Any]) -> str:
    if "enum" in choice:
        return ", ".join(map(_toml, choice["enum"]))
    if "const" in choice:
        return _toml(choice["const"])
    if "$ref" in choice:
        names = parts[choice["$ref"].rpartition("/")[2]]["properties"]
        return f"a table of {', '.join(names)}"
    if choice.get("type") == "boolean":
        return "true, false"
    lower = [f"{word} {_number(choice[key])}" for key, word in _LOWER if key in choice]
    upper = [f"{word} {_number(choice[key])}" for key, word in _UPPER if key in choice]
    return " ".join(lower + upper)


_LOWER = (("minimum", "from"), ("exclusiveMinimum", "above"))
_UPPER = (("maximum", "to"), ("exclusiveMaximum", "below"))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _example(field: dict[str, Any], parts: dict[str, Any]) -> Any:
    """Return an example value for a field without a default."""
    for choice in _choices(field):
        if "$ref" in choice:
            found = parts[choice["$ref"].rpartition("/")[2]]["properties"]
            example = {name: inner.get("default", 0.1) for name, inner in found.items()}
            return {name: value for name, value in example.items() if value is not None}
    choice = next(_choices(field))
    match choice.get("type"):
        case "integer":
            return max(100, choice.get("minimum", 1))
        case "number":
            return 0.01
    return "my-job"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON does not escape the delete character, which TOML does not allow.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            pairs = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}.")


def parse_overrides(changes: list[str]) -> dict[str, Any]:
    """Return ``["training.epochs=2"]`` as ``{"training": {"epochs": 2}}``.

    A value is parsed as JSON; if it is not JSON, it is a string.

    Raises:
        CommandError: a change is not ``FIELD=VALUE``, or conflicts with another.
    """
    found: dict[str, Any] = {}
    for change in changes:
        path, is_given, text = change.partition("=")
        *parents, name = path.strip().split(".")
        if not is_given or not all([*parents, name]):
            raise CommandError(
                f"--set {change} is not FIELD=VALUE.",
                ExitCode.USAGE,
                "Write it like --set training.learning_rate=5e-5.",
            )
        part = found
        for parent in parents:
            part = part.setdefault(parent, {})
            if not isinstance(part, dict):
                raise CommandError(f"--set {change}: {parent} already has a value.", ExitCode.USAGE)
        try:
            part[name] = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            part[name] = text
    return found


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(f"JSON has no {name}.")
