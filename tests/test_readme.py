"""The commands of README.md, docs/curl.md and the notebook, against a service with a trainer."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from app.base_models.catalogue import load_catalogue
from app.domain.spec import RewardJobSpec
from docs.site_pages import section_of
from tests.cli.conftest import environment, serving
from tests.model_factories.tiny_models import minilm_dir
from tests.services import free_port, skip_or_fail

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUICK_START = section_of(README, "Quick start")
CURL = (ROOT / "docs" / "curl.md").read_text()
#: Where `make serve` listens; another service may be there, so the test's has a port of its own.
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str, text: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that README's commands use."""
    directory = tmp_path_factory.mktemp("checkout")
    (directory / "examples").symlink_to(ROOT / "examples")
    (directory / ".venv").symlink_to(sys.prefix)
    (directory / ".plaudit").mkdir()
    # The base model, so that it is not downloaded once more.
    (directory / ".plaudit" / "models").symlink_to(minilm_dir().parents[2])
    return directory


@pytest.fixture(scope="module")
def port(checkout: Path) -> Iterator[int]:
    """`plaudit serve`, as `make serve` starts it."""
    port = free_port()
    with serving(checkout / ".plaudit", port=port):
        yield port


def run(script: str, checkout: Path, port: int) -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        skip_or_fail("README's commands need curl")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, f"http://127.0.0.1:{port}")],
        cwd=checkout,
        env=environment(checkout / ".plaudit", port=port) | {"HOME": str(checkout)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def quick_start(checkout: Path, port: int) -> subprocess.CompletedProcess[str]:
    """The part of the command line."""
    return run("\n".join(blocks("bash", QUICK_START)), checkout, port)


@pytest.fixture(scope="module")
def life_with_curl(
    quick_start: subprocess.CompletedProcess[str], checkout: Path, port: int
) -> subprocess.CompletedProcess[str]:
    """The part of curl, which uses the spec of the command line's part."""
    assert quick_start.returncode == 0, quick_start.stderr
    return run("\n".join(blocks("bash", CURL)), checkout, port)


@pytest.mark.train
def test_quick_start_runs_as_written(
    quick_start: subprocess.CompletedProcess[str], checkout: Path
) -> None:
    assert quick_start.returncode == 0, quick_start.stderr
    assert json.loads((checkout / "job.json").read_text())["status"] == "succeeded"
    assert RewardJobSpec.model_validate_json((checkout / "spec.json").read_bytes())
    assert (checkout / "my-adapter" / "adapter_model.safetensors").is_file()
    assert re.search(r"verified +yes", quick_start.stdout)


@pytest.mark.train
def test_life_of_a_job_with_curl_runs_as_written(
    life_with_curl: subprocess.CompletedProcess[str], checkout: Path
) -> None:
    done = life_with_curl
    assert done.returncode == 0, done.stderr
    assert json.loads((checkout / "job.json").read_text())["status"] == "succeeded"
    assert "event: succeeded" in done.stdout
    assert '"eval/accuracy"' in done.stdout
    archive = checkout / "adapter.tar"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in (checkout / "headers").read_text()
    with tarfile.open(archive) as tar:
        assert any(name.endswith("reward_model.json") for name in tar.getnames())
    assert (checkout / ".plaudit" / "header").stat().st_mode & 0o077 == 0


@pytest.mark.train
def test_python_of_the_quick_start_runs_as_written(checkout: Path, port: int) -> None:
    (program,) = blocks("python", QUICK_START)
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ADDRESS, f"http://127.0.0.1:{port}")],
        cwd=checkout,
        env=environment(checkout / ".plaudit"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (checkout / "adapter-from-python" / "adapter_config.json").exists()


@pytest.mark.train
def test_notebook_gives_the_outputs_that_it_shows(checkout: Path, port: int) -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    shown = outputs_of(notebook)
    variables = environment(checkout / ".plaudit") | {
        "PLAUDIT_URL": f"http://127.0.0.1:{port}",
        "PLAUDIT_API_KEY": (checkout / ".plaudit" / "api-key").read_text().strip(),
    }
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(checkout)}})
    client.execute(env=variables)
    assert outputs_of(notebook) == shown


def outputs_of(notebook: NotebookNode) -> list[str]:
    """Return the values that the cells show."""
    return [
        output["data"]["text/plain"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]


def test_api_fails_where_the_request_is_refused(
    quick_start: subprocess.CompletedProcess[str], checkout: Path, port: int
) -> None:
    assert quick_start.returncode == 0, quick_start.stderr
    definitions = blocks("bash", CURL)[0]
    done = run(f'{definitions}\napi "$URL/v1/jobs/job_{"0" * 32}"', checkout, port)
    assert done.returncode == 22
    assert json.loads(done.stdout)["code"] == "job_not_found"


@pytest.mark.train
def test_wait_ends_where_the_job_is_not_found(
    quick_start: subprocess.CompletedProcess[str], checkout: Path, port: int
) -> None:
    assert quick_start.returncode == 0, quick_start.stderr
    definitions, *_ = bash = blocks("bash", CURL)
    (wait,) = [block for block in bash if "while api" in block]
    loop = wait.partition("done\n")[0] + "done"
    script = f"{definitions}\nJOB=job_{'0' * 32}\n{loop}\necho over"
    done = run(script, checkout, port)
    assert done.stdout == "over\n", done.stderr


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([\w-]+)`|^\$ make ([\w-]+)$",
                                                        README, re.MULTILINE))))  # fmt: skip
def test_targets_of_make_are_there(target: tuple[str, str]) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert (target[0] or target[1]) in phony[1].split()


def test_catalogue_of_the_page_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "base-models.md").read_text()
    text = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
    path = tmp_path / "models.yaml"
    path.write_text(text)
    assert load_catalogue(path).entries


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_no_variable_of_the_shell_is_taken_from_this_machine() -> None:
    """Every name that the commands use is set by them or documented as a setting."""
    text = "\n".join(blocks("bash", README + CURL))
    used = set(re.findall(r"\$\{?([A-Z_]+)\}?", text)) - {"PATH", "PWD"}
    assert used <= set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))
