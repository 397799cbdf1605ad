"""The outputs in README.md compared with those of the commands, and its other claims."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import typer

from app.cli.commands import app as cli
from app.cli.exit_codes import ExitCode
from app.core.settings import Settings
from docs.site_pages import section_of
from install.torch_build import SIZES, Choice, Machine, announcement
from tests.cli.conftest import environment, serving
from tests.model_factories.tiny_models import minilm_dir
from tests.services import free_port
from tests.test_readme import ADDRESS, QUICK_START, README, ROOT, blocks

#: Patterns of values that differ between runs.
VARYING = (
    (r"\b(ds|job|ad)_[0-9a-f]{32}\b", r"\1_ID"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"starts on \S+", "starts on HOST."),
    (r"\b\d+ (s|min|h) left", "TIME left"),
    (r"^\d+ seconds$", "N seconds"),
    (r"step \d+ of", "step N of"),
    (r"[+-]\d+\.\d{3}\b", "SCORE"),
    (r"\b\d\.\d{3}\b", "N"),
)


def shape(line: str) -> str:
    """Return a line without the values that differ between runs."""
    for pattern, mark in VARYING:
        line = re.sub(pattern, mark, line)
    return line.strip()


def shown(command: str) -> list[str]:
    """The output of a command in the quick start; ``…`` stands for lines that are left out."""
    (block,) = [b for b in blocks("console", QUICK_START) if b.startswith(f"$ {command}\n")]
    return block.splitlines()[1:]


def assert_in_order(wanted: list[str], found: list[str]) -> None:
    """Every wanted line is found, in this order."""
    rest = iter(map(shape, found))
    for line in wanted:
        assert shape(line) in rest, (line, found)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = re.findall(r"^```(\w*)$", README, re.MULTILINE)
    opened = kinds[::2]
    assert set(kinds[1::2]) == {""}
    assert sorted(opened) == ["", "bash", "console", "console", "json", "python"]


@pytest.mark.train
def test_demo_prints_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / ".plaudit-demo").mkdir()
    (tmp_path / ".plaudit-demo" / "models").symlink_to(minilm_dir().parents[2])
    variables = environment(tmp_path)
    del variables["PLAUDIT_DATA_DIR"]
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "demo"],
        cwd=tmp_path,
        env=variables | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    lines = shown("make demo")
    installing = lines.index("…")
    wanted = [line for line in lines[installing:] if line.strip() != "…"]
    found = done.stdout.splitlines()
    assert_in_order(wanted, found)
    for name in ("before training", "after training", "longer is better"):
        said, measured = (
            next(float(line.split()[-1]) for line in text if line.strip().startswith(name))
            for text in (wanted, found)
        )
        assert measured == pytest.approx(said, abs=0.03), name


def test_installation_announces_what_is_shown() -> None:
    lines = shown("make demo")
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    assert f'@echo "{lines[0]}"' in makefile
    sizes = json.loads(SIZES.read_text())
    told = "the one for CPUs (TORCH_BUILD=default takes the one of pip's own index)"
    machine = Machine("Linux", "x86_64", has_gpu=False)
    assert lines[1:3] == announcement(machine, Choice("cpu", [], told), sizes)
    with_cuda = announcement(machine, Choice("default", [], told), sizes)[1]
    assert re.search(r"with CUDA\s+the download is ([\d.]+ GB)", QUICK_START)[1] in with_cuda  # type: ignore[index]


def test_serve_prints_what_is_shown(tmp_path: Path) -> None:
    data_dir = tmp_path / ".plaudit"
    data_dir.mkdir()
    port = free_port()
    with serving(data_dir, "--no-worker", port=port):
        printed = (data_dir / "serve.log").read_text()
    printed = printed.replace(f"127.0.0.1:{port}", "127.0.0.1:8000").replace(
        str(data_dir), ".plaudit"
    )
    wanted = shown("make serve")
    assert wanted == [f"Plaudit   {ADDRESS}", "API key   in .plaudit/api-key"]
    assert_in_order(wanted, printed.splitlines())
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    assert (defaults.public_url, str(defaults.data_dir)) == (ADDRESS, ".plaudit")


def test_rows_of_the_page_are_accepted(tmp_path: Path) -> None:
    (text,) = blocks("json", section_of(README, "Your own data"))
    rows = text.splitlines()
    assert len(rows) == 2
    with serving(tmp_path, "--no-worker", preflight_wait_seconds=0) as (_, url):
        key = (tmp_path / "api-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson"}
        for row in rows:
            pair = json.loads(row)
            pair["rejected"] = _other(pair["rejected"])  # the page has … on both sides
            answer = httpx.post(f"{url}/v1/datasets", content=json.dumps(pair), headers=headers)
            assert answer.status_code == 201, answer.text
            assert answer.json()["pair_count"] == 1


def _other(reply: object) -> object:
    if isinstance(reply, str):
        return f"not {reply}"
    assert isinstance(reply, list)
    return [{**message, "content": f"not {message['content']}"} for message in reply]


def test_commands_of_production_exist() -> None:
    """tests/test_end_to_end.py runs them, as docker-compose.yml does."""
    (block,) = blocks("", section_of(README, "Production"))
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    known = {f"PLAUDIT_{name.upper()}" for name in Settings.model_fields}
    named = []
    for line in block.splitlines():
        words = line.partition("#")[0].split()
        if words[0] == "export":
            assert {word.partition("=")[0] for word in words[1:]} <= known
        else:
            assert words[0] == "plaudit"
            command = commands[words[1]]
            assert len(words) == 2 or words[2] in command.commands
            named.append(words[1])
    assert named == ["migrate", "keys", "serve", "worker"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extra,) = re.findall(r"pip install 'plaudit\[(\w+)\]'", block)
    assert extra in extras["optional-dependencies"]


def test_exit_statuses_of_a_watched_job_are_those_of_the_page() -> None:
    told = {name: int(number) for number, name in re.findall(r"(\d) \((\w+)\)", QUICK_START)}
    assert told == {
        "succeeded": ExitCode.SUCCEEDED,
        "failed": ExitCode.FAILED,
        "cancelled": ExitCode.CANCELLED,
        "paused": ExitCode.PAUSED,
    }
