"""`plaudit score` gives the same file with a service and with a directory, also in two parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.scoring.stage import Stage


def run_score(stage: Stage, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
    environment |= {
        "PLAUDIT_URL": str(stage.client.base_url),
        "PLAUDIT_API_KEY": stage.key,
        "PLAUDIT_TORCH_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "score", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{**row, "id": f"row-{row['line']}"} for row in make_pairs(70, seed=3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_file_is_scored_continued_and_the_same_without_a_service(
    stage: Stage, tiny: TinyBase, pairs_file: Path, tmp_path: Path
) -> None:
    out, again, local = (tmp_path / name for name in ("out.jsonl", "again.jsonl", "local.jsonl"))
    done = run_score(stage, stage.chat, pairs_file, "--out", out)
    assert done.returncode == 0, done.stderr
    rows = read(out)
    assert [row["line"] for row in rows] == list(range(1, 71))
    assert rows[4]["id"] == "row-5"
    assert all(len(row["scores"]) == 2 for row in rows)

    cut = "".join(line + "\n" for line in out.read_text().splitlines()[:10])
    again.write_text(cut + '{"line": 11, "sco')  # killed in the middle of a line
    assert run_score(stage, stage.chat, pairs_file, "--out", again).returncode == 0
    continued = read(again)
    assert [row["line"] for row in continued] == list(range(1, 71))
    assert_close(continued, rows)

    directory = stage.trained["chat"].directory
    done = run_score(stage, directory, pairs_file, "--out", local, "--base", tiny.directory)
    assert done.returncode == 0, done.stderr
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
    done = run_score(stage, stage.chat, pairs_file, "--out", out)
    assert done.returncode != 0
    assert "score_spec" in done.stderr
    assert len(out.read_text().splitlines()) == 1
