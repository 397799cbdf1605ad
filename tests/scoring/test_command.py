"""`plaudit score` gives the same file with a service and with a directory, also in two parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import scoring
from app.cli.commands import app
from app.cli.exit_codes import ExitCode
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.scoring.stage import Stage

ROWS = 14
#: Makes several requests of a few rows.
ROWS_AT_ONCE = 6


@pytest.fixture(autouse=True)
def _client(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", ROWS_AT_ONCE)
    monkeypatch.setenv("PLAUDIT_URL", str(stage.client.base_url))
    monkeypatch.setenv("PLAUDIT_API_KEY", stage.key)


def run_score(*arguments: object) -> Result:
    """Run the command in this process: in another one the imports take seconds."""
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{**row, "id": f"row-{row['line']}"} for row in make_pairs(ROWS, seed=3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_file_is_scored_continued_and_the_same_without_a_service(
    stage: Stage, tiny: TinyBase, pairs_file: Path, tmp_path: Path
) -> None:
    out, again, local = (tmp_path / name for name in ("out.jsonl", "again.jsonl", "local.jsonl"))
    done = run_score(stage.chat, pairs_file, "--out", out)
    assert done.exit_code == 0, done.stderr
    rows = read(out)
    assert [row["line"] for row in rows] == list(range(1, ROWS + 1))
    assert rows[4]["id"] == "row-5"
    assert all(len(row["scores"]) == 2 for row in rows)

    cut = "".join(line + "\n" for line in out.read_text().splitlines()[:8])
    again.write_text(cut + '{"line": 9, "sco')  # killed in the middle of a line
    assert run_score(stage.chat, pairs_file, "--out", again).exit_code == 0
    continued = read(again)
    assert [row["line"] for row in continued] == list(range(1, ROWS + 1))
    assert_close(continued, rows)

    directory = stage.trained["chat"].directory
    done = run_score(directory, pairs_file, "--out", local, "--base", tiny.directory)
    assert done.exit_code == 0, done.stderr
    assert_close(read(local), rows)
    assert read(local)[0]["score_spec"] == rows[0]["score_spec"]


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)


def test_output_of_another_model_is_not_continued(
    stage: Stage, pairs_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"line": 1, "scores": [0.5], "score_spec": "sha256:other"}\n')
    done = run_score(stage.chat, pairs_file, "--out", out)
    assert done.exit_code != 0
    assert "score_spec" in done.stderr
    assert len(out.read_text().splitlines()) == 1


def test_output_of_another_file_is_not_continued(
    stage: Stage, pairs_file: Path, tmp_path: Path
) -> None:
    out, short, other = (tmp_path / name for name in ("out.jsonl", "short.jsonl", "other.jsonl"))
    assert run_score(stage.chat, pairs_file, "--out", out).exit_code == 0
    before = out.read_bytes()
    short.write_text("".join(pairs_file.read_text().splitlines(keepends=True)[:3]))
    rows = [{**row, "id": f"row-{row['line']}"} for row in make_pairs(ROWS + 3, seed=4)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in (short, other):
        done = run_score(stage.chat, file, "--out", out)
        assert done.exit_code == ExitCode.FAILED
        assert "another file or model" in done.stderr
        assert out.read_bytes() == before
    assert run_score(stage.chat, pairs_file, "--out", out).exit_code == 0
    assert out.read_bytes() == before


def test_dataset_is_scored_by_a_worker_as_requests_are(stage: Stage, tmp_path: Path) -> None:
    pairs = make_pairs(ROWS, seed=3)
    pairs[2]["rejected"][0]["content"] = "rude " * 3000
    dataset, out = stage.upload(pairs), tmp_path / "scores.jsonl"
    done = run_score(stage.chat, "--dataset", dataset, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "1 rows have no scores: overlong" in done.stderr
    rows = read(out)
    assert rows.pop(2) == {"line": 3, "scores": None, "reason": "overlong"}
    del pairs[2]
    groups = [
        {"prompt": pair["prompt"], "responses": [pair["chosen"], pair["rejected"]]}
        for pair in pairs
    ]
    answer = stage.score(model=stage.chat, groups=groups, **{"return": ["tokens"]})
    for row, data in zip(rows, answer["data"], strict=True):
        assert row["scores"] == pytest.approx(data["scores"], abs=1e-5)
        assert row["tokens"] == data["tokens"]
    (batch,) = [
        each
        for each in stage.client.get("/v1/score/batches").json()["data"]
        if each["dataset"] == dataset
    ]
    found = stage.client.get(f"/v1/score/batches/{batch['id']}").json()
    assert found["result"]["score_spec"] == answer["score_spec"]
    assert found["progress"]["step"] == found["progress"]["total_steps"]

    before = out.read_bytes()
    assert run_score(stage.chat, "--dataset", dataset, "--out", out).exit_code == 0
    assert out.read_bytes() == before
    out.write_text("my notes\n")
    again = run_score(stage.chat, "--dataset", dataset, "--out", out)
    assert (again.exit_code, "exists" in again.stderr) == (ExitCode.USAGE, True)
    assert out.read_text() == "my notes\n"


@pytest.mark.parametrize("both", [True, False])
def test_file_or_dataset_is_needed(
    stage: Stage, pairs_file: Path, tmp_path: Path, *, both: bool
) -> None:
    arguments = [pairs_file, "--dataset", f"ds_{'0' * 32}"] if both else []
    done = run_score(stage.chat, *arguments, "--out", tmp_path / "out.jsonl")
    assert done.exit_code == ExitCode.USAGE
    assert "Name a file or a --dataset." in done.stderr
