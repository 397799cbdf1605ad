"""Write the pages of the documentation site that are derived from the code.

They are written when the site is built and not committed: references of the job spec, the HTTP API
and the command line, the quick start of README.md, and copies of the pages outside of ``docs/``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from app.cli.commands import app as cli
from app.cli.exit_codes import EPILOG
from app.domain.spec import RewardJobSpec

HERE = Path(__file__).parent
ROOT = HERE.parent
#: Pages outside of ``docs/`` that the site shows.
COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def write(directory: Path) -> None:
    """Write all generated pages into a directory."""
    directory.mkdir(exist_ok=True)
    pages = {"spec.md": spec_text(), "http.md": http_text(), "command-line.md": cli_text()}
    for name, source in COPIED.items():
        pages[name] = _moved((ROOT / source).read_text())
    quick_start = section_of((ROOT / "README.md").read_text(), "Quick start")
    pages["quick-start.md"] = f"# Quick start\n{_moved(quick_start)}"
    for name, text in pages.items():
        path = directory / name
        if not path.is_file() or path.read_text() != text:  # Sphinx rebuilds changed files only
            path.write_text(text)


def section_of(text: str, title: str) -> str:
    """Return the text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise LookupError(title)
    return found[1]


def spec_text() -> str:
    """Return the reference of the job spec: one table for each part."""
    schema = _named_by_fields(RewardJobSpec.model_json_schema())
    parts: dict[str, Any] = schema["$defs"]
    example = json.dumps(schema["examples"][0], indent=2)
    in_order = [_name_of(f["$ref"]) for f in schema["properties"].values() if "$ref" in f]
    lines = [
        "# Job spec",
        "",
        "The body of `POST /v1/jobs`. Unknown fields are rejected. `plaudit jobs init` writes a",
        "spec with all fields as comments. [Defaults](../defaults.md) explains the defaults.",
        "",
        f"```json\n{example}\n```",
        "",
        *_fields("Top level", schema, parts),
    ]
    for name in dict.fromkeys([*in_order, *parts]):
        if "properties" in parts[name]:
            lines += ["", *_fields(f"`{name}`", parts[name], parts)]
    return "\n".join(lines) + "\n"


def http_text() -> str:
    """Return the reference of the HTTP API: every operation, and every model."""
    document = json.loads((HERE / "openapi.json").read_text())
    groups: dict[str, list[str]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = next(iter(operation.get("tags", [])), "")
            groups[tag] += _operation(f"{method.upper()} {path}", operation)
    lines = [
        "# HTTP API",
        "",
        "Requests need the header `Authorization: Bearer plk_…`. A running service shows the same",
        "reference under `/docs`; [openapi.json](../openapi.json) is the machine-readable form.",
        "[Errors](../errors.md) explains every error code.",
    ]
    for tag, operations in groups.items():
        lines += ["", f"## {tag.capitalize()}", *operations]
    lines += ["", "## Models"]
    parts = document["components"]["schemas"]
    for name, part in sorted(parts.items()):
        if "properties" in part:
            lines += ["", *_fields(name, part, parts, level=3)]
    return "\n".join(lines) + "\n"


def cli_text() -> str:
    """Return the reference of the ``plaudit`` command."""
    lines = ["# Command line", "", EPILOG, ""]
    for words, command in _commands("plaudit", typer.main.get_command(cli)):
        usage = " ".join(_usage(p) for p in command.params if p.param_type_name == "argument")
        lines += [f"## `{words}`", "", _paragraphs(command.help), ""]
        lines += [f"```text\n{words} {usage}".rstrip() + "\n```", ""]
        options = [
            (", ".join(f"`{name}`" for name in option.opts), getattr(option, "help", None) or "")
            for option in command.params
            if option.param_type_name == "option" and not option.hidden and option.name != "help"
        ]
        if options:
            lines += ["| option | |", "|---|---|"]
            lines += [f"| {names} | {_cell(text)} |" for names, text in options] + [""]
    return "\n".join(lines)


def _named_by_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with each part named after the field of the spec that holds it."""
    text = json.dumps(schema)
    for field, value in schema["properties"].items():
        if "$ref" in value:
            name = _name_of(value["$ref"])
            text = text.replace(f'/{name}"', f'/{field}"').replace(
                f'"{name}": {{', f'"{field}": {{'
            )
    return dict(json.loads(text))


def _moved(text: str) -> str:
    """Return a page of the root with links that work in ``docs/generated/``."""
    return re.sub(r"\]\((?!\w+:|#)(docs/)?", lambda m: "](../" if m[1] else "](../../", text)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"### `{title}`", "", _paragraphs(operation.get("description")))
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("", "| parameter | in | value | description |", "|---|---|---|---|")
        for each in parameters:
            values = _values(each["schema"], {})
            text = _cell(each.get("description", ""))
            yield f"| `{each['name']}` | {each['in']} | {values} | {text} |"
    body = operation.get("requestBody", {}).get("content", {})
    named = [_named(content["schema"]) for content in body.values() if "schema" in content]
    if any(named):
        yield from ("", f"Body: {', '.join(dict.fromkeys(filter(None, named)))}")
    answers = [
        f"{status} {_named(next(iter(answer['content'].values()), {}).get('schema', {}))}".strip()
        if "content" in answer
        else status
        for status, answer in operation["responses"].items()
    ]
    yield from ("", f"Responses: {', '.join(answers)}")


def _fields(
    title: str, part: dict[str, Any], parts: dict[str, Any], level: int = 2
) -> Iterator[str]:
    yield from (f"{'#' * level} {title}", "", _paragraphs(part.get("description")), "")
    yield from ("| field | value | default | description |", "|---|---|---|---|")
    for name, field in part["properties"].items():
        default = "required" if name in part.get("required", ()) else ""
        if "default" in field:
            default = f"`{json.dumps(field['default'], ensure_ascii=False)}`"
        held = parts.get(_name_of(field.get("$ref", "")), {})
        text = _cell(field.get("description", held.get("description", "")))
        yield f"| `{name}` | {_values(field, parts)} | {default} | {text} |"


def _values(field: dict[str, Any], parts: dict[str, Any]) -> str:
    """Return the values that a field may have."""
    choices = field.get("anyOf") or field.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_values(choice, parts) for choice in choices))
    if "$ref" in field:
        name = _name_of(field["$ref"])
        part = parts.get(name, {})
        if "properties" in part:
            return f"[`{name}`](#{name.lower()})"
        return ", ".join(f"`{v}`" for v in part.get("enum", ())) or name
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if field.get("type") == "array":
        return f"list of {_values(field.get('items', {}), parts)}"
    bounds = [
        f"{sign} {_number(field[key])}"
        for key, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")
        )
        if key in field
    ]  # fmt: skip
    return " ".join([str(field.get("type", "any")), ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _commands(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        yield from _commands(f"{words} {name}", child)


def _usage(argument: Any) -> str:
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _named(schema: dict[str, Any]) -> str:
    return f"`{_name_of(schema['$ref'])}`" if "$ref" in schema else ""


def _name_of(reference: str) -> str:
    return reference.rpartition("/")[2]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _paragraphs(text: str | None) -> str:
    paragraphs = (text or "").split("\f")[0].split("\n\n")
    return "\n\n".join(_cell(paragraph) for paragraph in paragraphs)
