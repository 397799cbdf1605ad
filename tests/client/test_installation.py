"""The client works in an environment without the service."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.client.test_card import CARD

ROOT = Path(__file__).parents[2]
#: Packages of httpx and pydantic, and no others.
EXPECTED = {
    "annotated-types",
    "anyio",
    "certifi",
    "h11",
    "httpcore",
    "httpx",
    "idna",
    "plaudit-client",
    "pydantic",
    "pydantic_core",
    "typing-inspection",
    "typing_extensions",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of an environment with the client and its dependencies."""
    home = tmp_path_factory.mktemp("client")
    venv.create(home / "venv", with_pip=True)
    python = str(home / "venv" / "bin" / "python")
    command = ["-m", "pip", "install", "--quiet", "-c", "constraints.txt", "./client"]
    done = subprocess.run([python, *command], cwd=ROOT, capture_output=True, text=True)
    is_ci = os.environ.get("PLAUDIT_TEST_REQUIRE_SERVICES") == "1"
    if done.returncode and "Retrying" in done.stderr and not is_ci:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    return python


def output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_client_brings_httpx_and_pydantic_only(python: str, tmp_path: Path) -> None:
    listed = output(python, "-m", "pip", "list", "--format=json", cwd=tmp_path)
    found = {package["name"] for package in json.loads(listed)} - {"pip", "setuptools"}
    assert found == EXPECTED


def test_client_works_without_the_rest_of_plaudit(python: str, tmp_path: Path) -> None:
    program = (
        "import sys, plaudit\n"
        "client = plaudit.Plaudit('http://127.0.0.1:1', 'plk_x', retries=plaudit.Retries(1))\n"
        "try:\n    client.health()\nexcept plaudit.ConnectionFailedError as error:\n"
        "    print(error)\n"
        "try:\n    plaudit.load_reward_model('.')\nexcept plaudit.ModelCardError as error:\n"
        "    print(error)\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'app', 'worker', 'torch'}))\n"
    )
    first, second, third = output(python, "-c", program, cwd=tmp_path).splitlines()
    assert first.startswith("Cannot connect to http://127.0.0.1:1")
    assert "no model card" in second
    assert third == "[]"


def test_missing_extras_are_named(python: str, tmp_path: Path) -> None:
    program = (
        "import plaudit, sys\n"
        "from pathlib import Path\n"
        "from plaudit import Metrics\n"
        "Path('README.md').write_text(Path(sys.argv[1]).read_text())\n"
        "for ask in (\n"
        "    lambda: plaudit.load_reward_model('.', '.'),\n"
        "    lambda: Metrics(columns={'step': [1]}).to_pandas(),\n"
        "):\n"
        "    try:\n        ask()\n    except plaudit.MissingDependencyError as error:\n"
        "        print(error)\n"
    )
    (tmp_path / "card.md").write_text(CARD)
    said = output(python, "-c", program, str(tmp_path / "card.md"), cwd=tmp_path)
    first, second = said.splitlines()
    assert "torch" in first
    assert "pandas" in second
