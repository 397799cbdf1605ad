"""Runs the code of docs/client.md against a service that trains."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import plaudit
from app.cli.card_script import card_script, run_script
from tests.cli.conftest import serving
from tests.model_factories.tiny_models import minilm_dir
from tests.services import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.train
@pytest.mark.timeout(900)
def test_page_runs_as_it_stands(tmp_path: Path) -> None:
    """The page runs in a directory like a checkout, with the service of `make serve`."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    data = tmp_path / ".plaudit"
    data.mkdir()
    (data / "models").symlink_to(minilm_dir().parents[2])  # as a worker downloads them
    program = tmp_path / "page.py"
    program.write_text("\n".join(BLOCKS))
    with serving(data, preflight_wait_seconds=120) as (_, url):
        wait_until("a worker", lambda: httpx.get(f"{url}/readyz").json()["workers"], seconds=60)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
        environment |= {
            "PLAUDIT_URL": url,
            "PLAUDIT_API_KEY": (data / "api-key").read_text().strip(),
        }
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "420 pairs" in done.stdout
    assert "/lora/r out_of_range" in done.stdout
    assert "job_not_found" in done.stdout
    assert "The adapter is published." in done.stdout
    assert "succeeded" in done.stderr
    printed = re.search(r"^(-?\d\.\d+) (-?\d\.\d+)$", done.stdout, re.MULTILINE)
    assert printed, done.stdout
    assert list(map(float, printed.groups())) == pytest.approx(card_scores(tmp_path), abs=1e-5)


def card_scores(directory: Path) -> list[float]:
    """Return the scores that the card's program prints for the prompt and replies of the page."""
    names: dict[str, Any] = {}
    example = next(block for block in BLOCKS if "load_reward_model" in block)
    tree = ast.parse(example)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "prompt":
            names["prompt"] = ast.literal_eval(node.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "reward_model.score":
            names["replies"] = ast.literal_eval(node.args[1])
    card = (directory / "my-adapter" / "README.md").read_text()
    script = directory / "score.py"
    script.write_text(card_script(card, minilm_dir(), names["prompt"], names["replies"]))
    return run_script(script, directory / "my-adapter")


def test_every_exception_is_in_the_table() -> None:
    names = {
        name
        for name in plaudit.__all__
        if isinstance(found := getattr(plaudit, name), type) and issubclass(found, Exception)
    }
    assert {name for name in names if f"`{name}`" not in PAGE} <= {"BadRequestError"}
