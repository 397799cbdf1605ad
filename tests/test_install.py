"""The build of torch that `make` installs, and the download size that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from install import torch_build
from install.measure_sizes import pinned, pins_digest
from install.torch_build import (
    SIZES,
    Choice,
    CpuBuildError,
    Machine,
    announcement,
    choose,
    has_nvidia_gpu,
    index_problem,
)
from tests.services import free_port

ROOT = Path(__file__).parent.parent
TORCH = "torch==2.13.0"
LINUX = Machine("Linux", "x86_64", has_gpu=False)
GPU_MACHINE = Machine("Linux", "x86_64", has_gpu=True)
ARM = Machine("Linux", "aarch64", has_gpu=False)
MAC = Machine("Darwin", "arm64", has_gpu=False)


class Quiet(SimpleHTTPRequestHandler):
    """A package index of files."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Return the address of an index."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def add_wheel(index: Path, name: str, version: str) -> None:
    """Add an empty package to an index."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    wheel = f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    links = [f'<a href="{path.name}">{path.name}</a>' for path in folder.glob("*.whl")]
    links = [link.replace("+", "%2B", 1) for link in links]
    (folder / "index.html").write_text("<!DOCTYPE html><html><body>" + "".join(links))


@pytest.fixture
def cpu_index(tmp_path: Path) -> Iterator[str]:
    """An index with the CPU build, as PyTorch's."""
    add_wheel(tmp_path / "cpu", "torch", "2.13.0+cpu")
    with serving(tmp_path / "cpu") as url:
        yield url


@pytest.mark.parametrize("machine", [LINUX, ARM])
@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_machine_without_gpu_gets_the_build_for_cpus(
    cpu_index: str, machine: Machine, wanted: str
) -> None:
    choice = choose(machine, wanted, TORCH, cpu_index)
    assert (choice.build, choice.arguments) == ("cpu", ["--extra-index-url", cpu_index])


@pytest.mark.parametrize(
    ("machine", "wanted"), [(GPU_MACHINE, "auto"), (MAC, "auto"), (MAC, "cpu"), (LINUX, "default")]
)
def test_others_get_the_build_of_pips_own_index(
    cpu_index: str, machine: Machine, wanted: str
) -> None:
    choice = choose(machine, wanted, TORCH, cpu_index)
    assert (choice.build, choice.arguments) == ("default", [])


def test_gpu_machine_may_ask_for_the_build_for_cpus(cpu_index: str) -> None:
    assert choose(GPU_MACHINE, "cpu", TORCH, cpu_index).build == "cpu"


def test_index_out_of_reach_is_told_and_not_used() -> None:
    index = f"http://127.0.0.1:{free_port()}"
    choice = choose(LINUX, "auto", TORCH, index)
    assert (choice.build, choice.arguments) == ("default", [])
    assert index in choice.told
    assert "refused" in choice.told
    with pytest.raises(CpuBuildError, match="TORCH_BUILD=cpu"):
        choose(LINUX, "cpu", TORCH, index)


def test_index_without_this_version_is_not_used(cpu_index: str) -> None:
    choice = choose(LINUX, "auto", "torch==2.13.1", cpu_index)
    assert (choice.build, choice.arguments) == ("default", [])
    assert "has no torch==2.13.1" in choice.told
    assert "404" in str(index_problem(cpu_index, "other==1.0"))


def test_index_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "INDEX_SECONDS", 0.2)
    is_over = threading.Event()

    class Silent(Quiet):
        def do_GET(self) -> None:
            is_over.wait(60)

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        choice = choose(LINUX, "auto", TORCH, f"http://127.0.0.1:{server.server_port}")
        is_over.set()
        server.shutdown()
        thread.join()
    assert choice.build == "default"
    assert "cannot be reached" in choice.told


@pytest.mark.parametrize(
    ("files", "has_gpu"),
    [
        ([], False),
        (["dev/null", "dev/nvidiactl", "dev/nvidia-uvm"], False),
        (["dev/nvidia0"], True),
        (["proc/driver/nvidia/gpus/0000:01:00.0/information"], True),
        (["dev/dxg"], False),  # WSL, where nvidia-smi would be called but is missing
    ],
)
def test_gpu_is_told_by_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], has_gpu: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert has_nvidia_gpu(tmp_path) is has_gpu


@pytest.mark.parametrize(
    ("listed", "has_gpu"), [("GPU 0: NVIDIA RTX (UUID: x)", True), ("No devices found.", False)]
)
def test_wsl_asks_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, has_gpu: bool
) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{listed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert has_nvidia_gpu(tmp_path) is has_gpu


def test_pip_prefers_the_build_for_cpus_with_these_arguments(
    tmp_path: Path, cpu_index: str
) -> None:
    """Both indexes have the version; the one for CPUs sorts higher."""
    add_wheel(tmp_path / "own", "torch", "2.13.0")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--no-cache-dir", "--dest", str(tmp_path / "found")]
    with serving(tmp_path / "own") as own:
        command += ["--index-url", own, *choose(LINUX, "auto", TORCH, cpu_index).arguments, TORCH]
        subprocess.run(command, env=environment, check=True)
    (wheel,) = (tmp_path / "found").iterdir()
    assert wheel.name == "torch-2.13.0+cpu-py3-none-any.whl"


@pytest.mark.parametrize(
    ("machine", "build", "amount"),
    [
        (LINUX, "cpu", " MB for Linux x86_64"),
        (LINUX, "default", " GB for Linux x86_64"),
        (MAC, "default", " MB for Darwin arm64"),
        (Machine("Linux", "riscv64", has_gpu=False), "cpu", "an amount that was not measured"),
    ],
)
def test_amount_is_told_before_it_is_downloaded(machine: Machine, build: str, amount: str) -> None:
    choice = Choice(build, [], "the one that was chosen")
    text = "\n".join(announcement(machine, choice, json.loads(SIZES.read_text())))
    assert "the one that was chosen" in text
    assert amount in text
    assert "MB more for its base model" in text


def test_readme_shows_what_is_told(cpu_index: str) -> None:
    choice = choose(LINUX, "auto", TORCH, cpu_index)
    readme = (ROOT / "README.md").read_text()
    for line in announcement(LINUX, choice, json.loads(SIZES.read_text())):
        assert f"{line}\n" in readme


def test_sizes_were_measured_for_the_pinned_versions() -> None:
    """After `make lock` run `make sizes`."""
    assert json.loads(SIZES.read_text())["pins"] == pins_digest()


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment whose pip only prints its arguments."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f'install.torch_build) exec {sys.executable} "$@" --cpu-index "$CPU_INDEX";;\n'
        'pip) shift 2; echo "pip $*";;\n'
        "esac\n"
    )
    python.chmod(0o755)
    return tmp_path / "venv"


@pytest.mark.parametrize("is_reached", [True, False])
def test_make_tells_and_chooses_before_it_installs(
    environment: Path, cpu_index: str, is_reached: bool
) -> None:
    index = cpu_index if is_reached else f"http://127.0.0.1:{free_port()}"
    command = ["make", "-B", f"VENV={environment}", "TORCH_BUILD=auto"]
    done = subprocess.run(
        [*command, "-o", str(environment / "bin" / "python"), str(environment / ".worker")],
        cwd=ROOT,
        env=os.environ | {"CPU_INDEX": index},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second = [line for line in done.stdout.splitlines() if line.startswith("pip ")]
    chosen = f"--extra-index-url {index} " if is_reached and not has_nvidia_gpu() else ""
    assert first.endswith(f"install --quiet {chosen}{pinned('torch')}")
    assert "-e .[worker]" in second
    assert "Downloads " in done.stderr


def test_make_installs_nothing_where_the_build_that_was_asked_for_is_not_there(
    environment: Path,
) -> None:
    command = ["make", "-B", f"VENV={environment}", "TORCH_BUILD=cpu"]
    done = subprocess.run(
        [*command, "-o", str(environment / "bin" / "python"), str(environment / ".worker")],
        cwd=ROOT,
        env=os.environ | {"CPU_INDEX": f"http://127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "TORCH_BUILD=cpu cannot be installed" in done.stderr
    assert "pip " not in done.stdout
    assert not (environment / ".worker").exists()
