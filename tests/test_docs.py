"""Files, commands, settings and links that the documentation names exist."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

from app.cli.commands import app as cli
from app.core.settings import Settings

ROOT = Path(__file__).parents[1]
ARCHITECTURE = "docs/architecture.md"
#: Names of settings that a later change adds.
PENDING: set[str] = set()
#: Directories of this repository that documents refer to by path.
DIRECTORIES = ("alembic", "app", "bench", "client", "deploy", "docs", "examples", "tests", "worker")
SOURCES = ("app", "bench", "client", "tests", "worker", "Makefile", "docker-compose.yml")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in chain(
        ROOT.glob("*.md"), *((ROOT / name).rglob("*.md") for name in ("docs", "examples", "client"))
    )
    if "generated" not in path.parts  # by `make docs`
)
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(DIRECTORIES)})/[\w./-]*")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|^ {4}.*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
each_document = pytest.mark.parametrize("document", DOCUMENTS)


def test_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", ARCHITECTURE} <= set(DOCUMENTS)


@each_document
def test_named_paths_exist(document: str) -> None:
    named = {path.rstrip(".") for path in PATH.findall(_text(document))} - PENDING
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@each_document
def test_named_make_targets_exist(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)\b", _code(document)))
    assert {target for target in named - targets if f"make {target}" not in PENDING} == set()


def test_makefile_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = re.findall(r"^#   make ([a-z-]+) ", makefile, re.MULTILINE)
    assert sorted(explained) == sorted(phony[1].split())


@each_document
def test_named_modules_can_be_run(document: str) -> None:
    named = set(re.findall(r"python -m ([a-z_][\w.]*)", _code(document)))
    ours = {name for name in named if name.partition(".")[0] in DIRECTORIES}
    places = {name: ROOT / name.replace(".", "/") for name in ours}
    missing = {
        name
        for name, place in places.items()
        if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file())
    }
    assert missing == set()


@each_document
def test_named_commands_exist(document: str) -> None:
    root = typer.main.get_command(cli)
    unknown = []
    for words in re.findall(r"(?<!from )\bplaudit((?: [a-z][a-z-]*)+)", _code(document)):
        command: object = root
        for word in words.split():
            children = getattr(command, "commands", None)
            if children is None:
                break  # the rest are arguments
            command = children.get(word)
            if command is None:
                unknown.append(f"plaudit{words}")
    assert unknown == []


@each_document
def test_named_variables_are_read(document: str) -> None:
    named = set(re.findall(r"\bPLAUDIT_[A-Z_]*[A-Z]\b", _text(document)))
    settings = {f"PLAUDIT_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in named - settings if name not in _source()} == set()


@each_document
def test_links_lead_somewhere(document: str) -> None:
    broken = []
    for link in LINK.findall(_text(document)):
        if re.match(r"[a-z]+:", link) or link in PENDING:
            continue
        if link.startswith("generated/"):  # made by `make docs`, which fails on dead links
            continue
        name, _, anchor = unquote(link).partition("#")
        if name.startswith("generated/"):  # by `make docs`, which checks these links itself
            continue
        target = (ROOT / document).parent / name if name else ROOT / document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def test_signs_of_trouble_are_names_that_the_code_uses() -> None:
    _, _, section = _text("docs/operations.md").partition("| sign |")
    rows = section.partition("\n\n")[0].splitlines()[2:]
    signs = chain.from_iterable(re.findall(r"`([a-z_]+)`", row.split("|")[1]) for row in rows)
    assert rows
    # Histograms have the suffix in the metrics, not in the code.
    names = {sign.removesuffix("_count") for sign in signs}
    assert {name for name in names if f'"{name}"' not in _source("app", "worker")} == set()


@pytest.mark.parametrize("container", ["app", "worker", "worker.trainer"])
def test_layers_are_those_of_the_import_contracts(container: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [
        contract["layers"]
        for contract in contracts["contracts"]
        if contract["type"] == "layers" and contract["containers"] == [container]
    ]
    item = re.search(rf"^- `{container}`: (.*?)(?=\n\n|\n- )", _text(ARCHITECTURE), re.M | re.S)
    assert item
    documented = [set(re.findall(r"`(\w+)`", layer)) for layer in item[1].split("→")]
    assert documented == [set(layer.split(" | ")) for layer in layers]


def _text(document: str) -> str:
    return (ROOT / document).read_text()


def _code(document: str) -> str:
    """Return the code blocks and code spans of a document."""
    return "\n".join(CODE.findall(_text(document)))


def _source(*names: str) -> str:
    """Return the text of these files and of the Python files below these directories."""
    files = chain.from_iterable(
        [ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*.py")
        for name in names or SOURCES
    )
    return "\n".join(file.read_text() for file in files)


def _anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }
