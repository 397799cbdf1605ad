"""Unusual files, addresses and arguments end a command with one clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import client
from app.cli.commands import app
from app.cli.spec_files import commented_spec
from plaudit import Retries
from tests.client.samples import sample
from tests.client.scripted import Answer, Scripted, scripted

ID = "0" * 32
ADAPTER, JOB, EVALUATION = f"ad_{ID}", f"job_{ID}", f"eval_{ID}"
SCORES = dict(sample({"$ref": "/ScoreResponse"})) | {
    "score_spec": "s",
    "data": [{"index": 0, "id": None, "scores": [0.5], "truncated": [False]}],
}
ROW = b'{"response": "a"}\n'
DEEP = b"[" * 100_000
Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted(Answer(200, SCORES)) as server:
        yield server


@pytest.fixture
def run(server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAUDIT_URL", server.url)
    monkeypatch.setenv("PLAUDIT_API_KEY", "plk_test")
    monkeypatch.setattr(client, "RETRIES", Retries(attempts=1))

    def invoke(*arguments: str, **options: str) -> Result:
        return CliRunner().invoke(app, arguments, **options)  # type: ignore[arg-type]

    return invoke


def refusal(done: Result, exit_code: int = 2) -> str:
    """Return the message of a command that ended with an error, and not with a traceback."""
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == exit_code
    assert ".." not in done.stderr
    return done.stderr


@pytest.mark.parametrize("url", ["http://a..b", "http://xn--a.com", f"http://{'a' * 64}.com"])
def test_host_that_cannot_exist(run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PLAUDIT_URL", url)
    assert "is not a URL" in refusal(run("jobs", "list"))


def test_proxy_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1")
    assert "ALL_PROXY" in refusal(run("jobs", "list"))


@pytest.mark.parametrize("name", ["", "%2e/x", "a b", "é", "a/b"])
def test_base_model_that_is_no_id(run: Run, server: Scripted, name: str) -> None:
    assert "is not an id" in refusal(run("base-models", name))
    assert server.asked == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"response": "\xe4"}\n', "Line 1 is not UTF-8"),
        (ROW + b'{"response": NaN}\n', "Line 2 is not JSON"),
        (DEEP, "Line 1 is not JSON"),
        (b'{"response": 1e999}\n', "cannot be encoded as JSON"),
    ],
)
def test_replies_that_cannot_be_read(run: Run, content: bytes, reason: str) -> None:
    Path("rows.jsonl").write_bytes(content)
    assert reason in refusal(run("score", ADAPTER, "rows.jsonl", "--out", "scores.jsonl"))


def test_byte_order_mark_empty_lines_and_lone_surrogates_are_read(
    run: Run, server: Scripted
) -> None:
    rows = ROW + b"\n" + b'{"id": "\\ud800", "response": "b"}\n \n'
    Path("rows.jsonl").write_bytes(b"\xef\xbb\xbf" + rows)
    answer = SCORES | {"data": SCORES["data"] * 2}
    server.lay_out(Answer(200, answer))
    assert run("score", ADAPTER, "rows.jsonl", "--out", "scores.jsonl").exit_code == 0
    scored = [json.loads(line) for line in Path("scores.jsonl").read_bytes().splitlines()]
    assert [(row["line"], row.get("id")) for row in scored] == [(1, None), (3, "\ud800")]
    server.lay_out(Answer(200, SCORES))
    assert run("score", ADAPTER, "rows.jsonl", "--out", "scores.jsonl").exit_code == 0
    assert len(server.asked) == 1  # only the check of the last line


@pytest.mark.parametrize(
    "last",
    [
        b'{"line": 0, "scores": [1], "score_spec": "s"}',
        b'{"line": -3, "scores": [1], "score_spec": "s"}',
        b'{"line": 1e400, "scores": [1], "score_spec": "s"}',
        b'{"line": 1, "scores": ["a"], "score_spec": "s"}',
        b'{"line": 1, "scores": [null], "score_spec": "s"}',
        DEEP,
    ],
)
def test_output_of_something_else_is_kept(run: Run, last: bytes) -> None:
    Path("rows.jsonl").write_bytes(ROW)
    Path("scores.jsonl").write_bytes(last + b"\n")
    done = run("score", ADAPTER, "rows.jsonl", "--out", "scores.jsonl")
    assert "does not contain scores" in refusal(done)
    assert Path("scores.jsonl").read_bytes() == last + b"\n"


@pytest.mark.parametrize("text", [b"my notes", b"one\ntwo", b'{"lines": 3}'])
def test_text_without_a_last_line_end_is_kept(run: Run, text: bytes) -> None:
    Path("rows.jsonl").write_bytes(ROW)
    Path("notes").write_bytes(text)
    done = run("score", ADAPTER, "rows.jsonl", "--out", "notes")
    assert "does not contain scores" in refusal(done)
    assert Path("notes").read_bytes() == text


@pytest.mark.parametrize("rest", [b"{", b'{"line": 1, "sco'])
def test_interrupted_first_line_is_scored_again(run: Run, rest: bytes) -> None:
    Path("rows.jsonl").write_bytes(ROW)
    Path("scores.jsonl").write_bytes(rest)
    assert run("score", ADAPTER, "rows.jsonl", "--out", "scores.jsonl").exit_code == 0
    assert json.loads(Path("scores.jsonl").read_bytes())["line"] == 1


@pytest.mark.parametrize("out", ["missing/file", "rows.jsonl/file", "/dev/full"])
def test_output_that_cannot_be_written(run: Run, server: Scripted, out: str) -> None:
    Path("rows.jsonl").write_bytes(ROW)
    refusal(run("score", ADAPTER, "rows.jsonl", "--out", out))
    server.lay_out(Answer(200, b"<html>"))
    assert f"{out} cannot be used" in refusal(run("report", JOB, out))


@pytest.mark.parametrize("name", ["spec.json", "spec.toml"])
def test_spec_may_begin_with_a_byte_order_mark(run: Run, server: Scripted, name: str) -> None:
    text = '{"base_model": "m"}' if name.endswith("json") else 'base_model = "m"\n'
    Path(name).write_text(text, encoding="utf-8-sig")
    server.lay_out(Answer(502, b"<html>"))
    assert "proxies" in refusal(run("estimate", name), 6)


def test_spec_that_is_nested_too_deeply(run: Run) -> None:
    Path("spec.json").write_bytes(DEEP)
    assert "is not a job spec" in refusal(run("estimate", "spec.json"))
    assert "cannot be encoded" in refusal(run("jobs", "clone", JOB, "--set", "a=1e999"))


def test_written_spec_is_named_for_the_shell(run: Run) -> None:
    assert run("jobs", "init", "my spec.toml").exit_code == 0
    assert "plaudit jobs submit 'my spec.toml'" in Path("my spec.toml").read_text()
    bad = run("jobs", "init", "bad.toml", "--base-model", os.fsdecode(b"\xff"))
    assert "not valid Unicode" in refusal(bad)
    assert not Path("bad.toml").exists()


def test_every_text_can_be_written_as_toml() -> None:
    text = "".join(map(chr, range(0x300)))
    assert tomllib.loads(commented_spec("f", {"base_model": text}))["base_model"] == text


@pytest.mark.parametrize("command", ["estimate -", f"jobs note {JOB} -"])
def test_closed_standard_input(run: Run, command: str) -> None:
    shell = f"exec {sys.executable} -m app.cli {command} <&-"
    root = Path(__file__).parents[2]
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "is closed" in done.stderr


#: Sends SIGINT to a command while it imports a module. SIGINT is ignored in what a shell starts in
#: the background, pytest included.
INTERRUPTED = """
import signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "app.cli.jobs":
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from app.cli import main
main()
"""


def test_interrupt_while_a_command_starts_is_silent() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
