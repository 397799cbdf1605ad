"""Writes the generated parts of the client. Run ``make client-models`` after a change of the API.

- ``models.py``: pydantic models of the responses, from docs/openapi.json;
- ``params.py``: typed dictionaries of the request bodies, from the same document;
- ``_sync/``: the synchronous client, from the asynchronous one in ``_async/``.

    python client/generate.py [OUTPUT_DIRECTORY]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenize_rt
import unasync
from datamodel_code_generator import (
    DatetimeClassType,
    InputFileType,
    LiteralType,
    OpenAPIScope,
    generate,
)
from datamodel_code_generator.enums import DataModelType
from datamodel_code_generator.format import Formatter, PythonVersion

HERE = Path(__file__).parent
PACKAGE = HERE / "src" / "plaudit"
DOCUMENT = HERE.parent / "docs" / "openapi.json"
#: Modules that are written by hand in both ``_async`` and ``_sync``.
BY_HAND = {"__init__.py", "concurrency.py"}

#: Maximum length of a docstring line; with indentation it stays below 100 characters.
WIDTH = 90

_HEADER = '"""{}\n\nGenerated from docs/openapi.json by `make client-models`. Do not edit."""'
_CONSTRAINTS = {
    "maxItems", "maxLength", "maxProperties", "maximum", "exclusiveMaximum",
    "minItems", "minLength", "minProperties", "minimum", "exclusiveMinimum",
    "pattern", "propertyNames", "uniqueItems",
}  # fmt: skip


def main(output: Path) -> None:
    """Write all generated files below ``output``, which has the layout of ``src/plaudit``."""
    document = json.loads(DOCUMENT.read_text())
    schemas = document["components"]["schemas"]
    asked = _reachable(schemas, _request_schemas(document))
    answered = _reachable(schemas, _response_schemas(document))
    _write(
        output / "models.py",
        {name: _as_answer(schemas[name], schemas) for name in answered},
        _HEADER.format("Models of the responses, named as in the service's OpenAPI document."),
        DataModelType.PydanticV2BaseModel,
    )
    _write(
        output / "params.py",
        {name: _as_request(schemas[name], schemas) for name in asked},
        _HEADER.format("Types of the request bodies, named as in the service's OpenAPI document."),
        DataModelType.TypingTypedDict,
    )
    write_sync(PACKAGE / "_async", output / "_sync")
    _format(output)


def write_sync(source: Path, target: Path) -> None:
    """Write the synchronous modules of ``target`` from the asynchronous ones of ``source``."""
    files = [file for file in sorted(source.glob("*.py")) if file.name not in BY_HAND]
    target.mkdir(parents=True, exist_ok=True)
    for stale in set(target.glob("*.py")) - {target / file.name for file in files}:
        if stale.name not in BY_HAND:
            stale.unlink()
    names = {
        token.src
        for file in files
        for token in tokenize_rt.src_to_tokens(file.read_text())
        if token.name == "NAME"
    }
    # unasync knows the names of Python itself (AsyncIterator, __aenter__).
    known = set(unasync.Rule("", "").token_replacements)
    replacements = {
        "_async": "_sync",
        "aclose": "close",
        "aiter_bytes": "iter_bytes",
        "aiter_raw": "iter_raw",
        "aread": "read",
    } | {name: name.removeprefix("Async") for name in names - known if name.startswith("Async")}
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        rule = unasync.Rule(str(source), str(made), replacements)
        unasync.unasync_files([str(file) for file in files], [rule])
        for file in files:
            text = (made / file.name).read_text()
            notice = (
                f"# Generated from ../_async/{file.name} by `make client-models`. Do not edit.\n"
            )
            (target / file.name).write_text(notice + text)


def _request_schemas(document: dict[str, Any]) -> set[str]:
    return set(_references(list(_bodies(document))))


def _response_schemas(document: dict[str, Any]) -> set[str]:
    """Return schemas of responses. Pages are replaced by their items: the client has one page type
    for all lists."""
    found = set()
    for operation in _operations(document):
        found |= set(_references(operation["responses"]))
    pages = {name for name in found if name.startswith("Page_")}
    schemas = document["components"]["schemas"]
    return (found - pages) | {item for page in pages for item in _references(schemas[page])}


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from item.values()


def _bodies(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operation in _operations(document):
        if "requestBody" in operation:
            yield operation["requestBody"]


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rpartition("/")[2]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _reachable(schemas: dict[str, Any], names: set[str]) -> list[str]:
    """Return these schemas and all that they refer to, except those that ``_inlined`` inlines."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= set(_references(schemas[name]))
    return sorted(name for name in found if schemas[name] and "enum" not in schemas[name])


def _as_answer(schema: Any, schemas: dict[str, Any]) -> Any:
    """Return a schema that also accepts the responses of a newer service.

    A newer service may add fields and enumeration values, and change limits.
    """
    return _converted(schema, schemas, {*_CONSTRAINTS, "examples"}, is_open=True)


def _as_request(schema: Any, schemas: dict[str, Any]) -> Any:
    """Return a schema for static type checks. Limits are left out: the service checks them."""
    return _converted(schema, schemas, {*_CONSTRAINTS, "default", "examples"}, is_open=False)


def _converted(node: Any, schemas: dict[str, Any], dropped: set[str], *, is_open: bool) -> Any:
    if isinstance(node, list):
        return [_converted(item, schemas, dropped, is_open=is_open) for item in node]
    if not isinstance(node, dict):
        return node
    node = _inlined(node, schemas)
    found = {}
    for key, value in node.items():
        if key == "properties":  # the names of properties are not schema keywords
            found[key] = {
                name: _converted(schema, schemas, dropped, is_open=is_open)
                for name, schema in value.items()
            }
        elif key not in dropped:
            found[key] = _converted(value, schemas, dropped, is_open=is_open)
    return _opened(found) if is_open else found


def _opened(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that also accepts fields and values that a newer service adds."""
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]
    for name, part in schema.get("properties", {}).items():
        if "$ref" in part and name not in schema.get("required", ()):
            part.setdefault("default", {})  # an omitted part of a spec has all of its defaults
    if "enum" in schema:
        kind = schema.pop("type")
        schema["anyOf"] = [{"type": kind, "enum": schema.pop("enum")}, {"type": kind}]
    return schema


def _inlined(node: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a node without its title, which repeats the name, and with enumerations inlined."""
    node = {key: value for key, value in node.items() if key != "title"}
    if "$ref" in node:
        target = schemas[node["$ref"].rpartition("/")[2]]
        if "enum" in target:
            own = {key: value for key, value in node.items() if key != "$ref"}
            return {"type": target["type"], "enum": target["enum"]} | own
        if not target:  # any JSON: as a class of its own, it would not equal the plain value
            return {key: value for key, value in node.items() if key != "$ref"}
    if "patternProperties" in node:
        (values,) = node.pop("patternProperties").values()
        node["additionalProperties"] = values
    if "description" in node:
        text = node["description"].replace("``", "`")
        node["description"] = "\n".join(
            textwrap.fill(" ".join(paragraph.split()), WIDTH) for paragraph in text.split("\n\n")
        )
    return node


def _write(path: Path, schemas: dict[str, Any], header: str, kind: DataModelType) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_answer = kind is DataModelType.PydanticV2BaseModel
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Plaudit", "version": "1"},
        "paths": {},
        "components": {"schemas": schemas},
    }
    generate(
        json.dumps(document),
        input_file_type=InputFileType.OpenAPI,
        openapi_scopes=[OpenAPIScope.Schemas],
        output=path,
        output_model_type=kind,
        base_class="plaudit._model.Model" if is_answer else "",
        custom_file_header=header,
        disable_timestamp=True,
        enum_field_as_literal=LiteralType.All,
        output_datetime_class=DatetimeClassType.Awaredatetime if is_answer else None,
        strict_nullable=True,
        target_python_version=PythonVersion.PY_311,
        use_closed_typed_dict=False,
        use_double_quotes=True,
        use_field_description=True,
        use_schema_description=True,
        use_single_line_docstring=True,
        use_standard_collections=True,
        use_union_operator=True,
        formatters=[Formatter.BUILTIN],
    )


def _format(output: Path) -> None:
    """Format the output with the repository's settings; without a cache, so that no file is
    skipped."""
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    made = [str(output / "models.py"), str(output / "params.py"), str(output / "_sync")]
    settings = ["--config", str(HERE.parent / "pyproject.toml"), "--no-cache", "--quiet"]
    subprocess.run([ruff, "check", "--fix-only", *settings, *made], check=True)
    subprocess.run([ruff, "format", *settings, *made], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
