"""Run docs/scoring.md unchanged: its shell commands, and its Python up to a GRPO run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployed import COMPOSE_SERVICES
from tests.model_factories import ROOT
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
from tests.scoring.stage import Stage
from tests.services import skip_or_fail

PAGE = (ROOT / "docs" / "scoring.md").read_text()
#: Code that the page leaves to the reader.
SET_UP = """
import os, warnings
warnings.simplefilter("ignore")
adapter_id, dataset_id = os.environ["ADAPTER"], os.environ["DATASET"]
"""
TEAR_DOWN = """
rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
print("rewards", len(rewards), any(rewards))
"""


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def dataset(stage: Stage) -> str:
    return stage.upload(make_pairs(12, seed=5))


@pytest.fixture
def environment(stage: Stage, dataset: str, tmp_path: Path) -> dict[str, str]:
    """Environment that the reader has set."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "plaudit").write_text(f"#!/bin/sh\nexec {sys.executable} -m app.cli $@\n")
    (tmp_path / "bin" / "plaudit").chmod(0o700)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PLAUDIT_URL": str(stage.client.base_url).rstrip("/"),
        "PLAUDIT_API_KEY": stage.key,
        "ADAPTER": stage.chat,
        "DATASET": dataset,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.mark.train
def test_python_of_the_page_runs(environment: dict[str, str], tmp_path: Path) -> None:
    make_decoder(tmp_path / "policy")
    program = tmp_path / "page.py"
    program.write_text("\n".join([SET_UP, *blocks("python"), TEAR_DOWN]))
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rewards 2 True" in done.stdout
    assert len((tmp_path / "batch-scores.jsonl").read_text().splitlines()) == 12


def test_shell_commands_of_the_page_run(
    stage: Stage, environment: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        skip_or_fail("the page's commands need curl")
    compose, *commands = blocks("sh")
    profiles = {
        name for service in COMPOSE_SERVICES.values() for name in service.get("profiles", ())
    }
    assert set(re.findall(r"docker compose --profile (\S+)", compose)) <= profiles
    answers = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert len(commands) == 3
    prompt = [{"role": "user", "content": "What is tea?"}]
    group = {"prompt": prompt, "responses": ["A drink made from leaves.", "No."]}
    expected = stage.score(model=stage.chat, groups=[group])["data"][0]["scores"]
    assert json.loads(answers[0])["data"][0]["scores"] == pytest.approx(expected, abs=1e-5)
    assert json.loads(answers[2])["rewards"] == pytest.approx(expected[:1], abs=1e-5)
    lines = [json.loads(x) for x in (tmp_path / "dataset-scores.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == list(range(1, 13))
