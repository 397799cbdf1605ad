"""Chooses the build of torch that `make` installs, and says how much will be downloaded.

    python -m install.torch_build --torch torch==2.13.0

prints the arguments for ``pip install`` on stdout, and what was chosen on stderr. PyPI's torch for
Linux includes CUDA, which is most of the download. On a Linux machine without an NVIDIA GPU, the
CPU build from PyTorch's own index is chosen instead, if that index can be reached.

This module uses the standard library only, because it runs before the installation.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: Seconds after which an index that has not responded counts as unreachable.
INDEX_SECONDS = 5.0
MAX_INDEX_BYTES = 8 << 20
SIZES = Path(__file__).with_name("sizes.json")


class CpuBuildError(Exception):
    """The CPU build is not available."""


@dataclass(frozen=True)
class Choice:
    """The chosen build, pip's arguments for it, and a text about it."""

    build: str  # "cpu", or "default": the build of pip's own index
    arguments: list[str]
    told: str


@dataclass(frozen=True)
class Machine:
    """Properties of the machine that determine the choice."""

    system: str
    architecture: str
    has_gpu: bool

    @classmethod
    def this(cls) -> Machine:
        """Return the machine that runs this program."""
        return cls(platform.system(), platform.machine(), has_nvidia_gpu())


def choose(machine: Machine, wanted: str, requirement: str, cpu_index: str = CPU_INDEX) -> Choice:
    """Decide which build of torch to install.

    Args:
        machine: The machine that will use it.
        wanted: "auto", "cpu" or "default".
        requirement: A requirement for pip, such as ``torch==2.13.0``.
        cpu_index: The package index with the CPU builds.

    Raises:
        CpuBuildError: "cpu" is wanted, but the index does not have it.
    """
    if wanted == "default":
        return Choice("default", [], "the one of pip's own index, as TORCH_BUILD=default asks for")
    if machine.system != "Linux":
        return Choice("default", [], "the one of pip's own index, which is made without CUDA")
    if wanted == "auto" and machine.has_gpu:
        return Choice("default", [], "the one with CUDA: this machine has an NVIDIA GPU")
    if problem := index_problem(cpu_index, requirement):
        if wanted == "cpu":
            raise CpuBuildError(f"TORCH_BUILD=cpu cannot be installed: {problem}.")
        told = f"the one of pip's own index. No NVIDIA GPU is here, but {problem}"
        return Choice("default", [], told)
    told = "the one for CPUs (TORCH_BUILD=default takes the one of pip's own index)"
    return Choice("cpu", ["--extra-index-url", cpu_index], told)


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Return whether this machine has an NVIDIA GPU with its driver."""
    if any(root.glob("dev/nvidia[0-9]*")) or any(root.glob("proc/driver/nvidia/gpus/*")):
        return True
    if not (root / "dev/dxg").exists():  # WSL has no device of its own for each GPU
        return False
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.stdout.startswith("GPU ")


def index_problem(index: str, requirement: str) -> str | None:
    """Return why the CPU build cannot be installed from an index, or None."""
    name, _, version = requirement.partition("==")
    found: list[bytes | str] = []
    # Use a thread, because a resolver without a network has no timeout.
    thread = threading.Thread(target=_read, args=(f"{index}/{name}/", found), daemon=True)
    thread.start()
    thread.join(INDEX_SECONDS)
    page = found[0] if found else f"no answer within {INDEX_SECONDS:.0f} seconds"
    if isinstance(page, str):
        return f"{index} cannot be reached ({page})"
    if not any(f"-{version}{plus}cpu-".encode() in page for plus in ("+", "%2B", "%2b")):
        return f"{index} has no {requirement}"
    return None


def _read(url: str, found: list[bytes | str]) -> None:
    give_up_at = time.monotonic() + INDEX_SECONDS
    page = b""
    try:
        with urllib.request.urlopen(url, timeout=INDEX_SECONDS) as response:
            while piece := response.read(64 << 10):
                page += piece
                if len(page) > MAX_INDEX_BYTES or time.monotonic() > give_up_at:
                    break
        found.append(page)
    except urllib.error.HTTPError as error:
        found.append(str(error)[:200])
    except urllib.error.URLError as error:
        found.append(str(error.reason)[:200])
    except (OSError, ValueError) as error:
        found.append(str(error)[:200] or type(error).__name__)


def announcement(machine: Machine, choice: Choice, sizes: dict[str, Any]) -> list[str]:
    """Return the text that is shown before the download."""
    key = f"{machine.system}-{machine.architecture}".lower()
    measured = sizes["bytes"].get(key, {}).get(choice.build)
    amount = "an amount that was not measured" if measured is None else f"up to {_shown(measured)}"
    return [
        f"Build of torch: {choice.told}.",
        f"Downloads {amount} for {machine.system} {machine.architecture}, and `make demo` "
        f"{_shown(sizes['demo_model'])} more for its base model.",
    ]


def _shown(count: int) -> str:
    """Return a size with two digits, so that a patch release does not change the text."""
    amount = float(f"{count:.1e}")
    return f"{amount / 1e9:g} GB" if amount >= 1e9 else f"{amount / 1e6:g} MB"


def main() -> None:
    """Print pip's arguments on stdout, and the choice on stderr."""
    parser = argparse.ArgumentParser(prog="python -m install.torch_build", description=__doc__)
    parser.add_argument("--torch", required=True, help="the requirement, torch==VERSION")
    parser.add_argument("--build", choices=["auto", "cpu", "default"], default="auto")
    parser.add_argument("--cpu-index", default=CPU_INDEX)
    options = parser.parse_args()
    machine = Machine.this()
    try:
        choice = choose(machine, options.build, options.torch, options.cpu_index)
    except CpuBuildError as error:
        sys.exit(str(error))
    for line in announcement(machine, choice, json.loads(SIZES.read_text())):
        print(line, file=sys.stderr)
    print(*choice.arguments)


if __name__ == "__main__":
    main()
