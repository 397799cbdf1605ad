"""A directory with a base model in it: which of its files count, and whether it is safe to load.

Nothing here trusts the publisher: no code, no pickles, no file that points out of the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.base_models.errors import BadSnapshotError, ModelNotFoundError

MAX_FILES = 2_000
MAX_JSON_BYTES = 32 << 20
#: What a model is made of; anything else in a repository is not fetched and not looked at.
_MODEL_FILE = re.compile(r"model[\w.-]*\.safetensors|\w[\w.-]*\.(?:json|jinja|txt|model)")
_WEIGHTS_NAME = re.compile(r"[\w.-]+\.safetensors")
#: Keys that make transformers import code: of the repository, or (with `kernels` there) of another.
_FORBIDDEN_KEY = re.compile(r"auto_map|_?(?:attn|experts)_implementation\w*")
#: JSON whose keys are tokens or tensors, which may have any name.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json"}
_INDEX = ".safetensors.index.json"


def is_model_file(name: str) -> bool:
    """Whether a file of this path (relative to the model) is part of a base model."""
    return _MODEL_FILE.fullmatch(name) is not None and ".." not in name


def check_listing(sizes: Mapping[str, int], max_bytes: int) -> None:
    """Refuse a repository by its file list (relative path to bytes), before anything is fetched."""
    if len(sizes) > MAX_FILES:
        raise BadSnapshotError(f"It has {len(sizes)} files, more than {MAX_FILES}.")
    for name in sizes:
        if name.startswith("/") or "\\" in name or "\x00" in name or ".." in name.split("/"):
            raise BadSnapshotError(f"A file has the path {name[:200]!r}, which leaves the model.")
        if name.endswith(".py"):
            raise BadSnapshotError(
                f"It brings Python code ({name[:200]!r}), which is never run here.",
                hint="Use a revision, or a local copy, without Python files.",
            )
    total = sum(size for name, size in sizes.items() if is_model_file(name))
    if total > max_bytes:
        raise BadSnapshotError(
            f"Its files have {total} bytes, more than the operator's limit of {max_bytes}."
        )
    if "adapter_config.json" in sizes:
        raise BadSnapshotError("It is an adapter, not a base model.")
    if "config.json" not in sizes:
        raise BadSnapshotError("It has no config.json.")
    if not {"model.safetensors", f"model{_INDEX}"} & set(sizes):
        raise BadSnapshotError(
            "It has no model.safetensors; other weight formats are never loaded.",
            hint="Convert the weights to safetensors and add the result as a local: entry.",
        )


def check_directory(path: Path, max_bytes: int) -> None:
    """Refuse a model directory that is not safe or not complete (BadSnapshotError says why)."""
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no directory {path}.")
    check_listing(dict(_regular_files(path)), max_bytes)
    for name in model_files(path):
        if name.endswith(_INDEX):
            _check_index(path, name)
        elif name.endswith(".json") and name not in _VOCABULARIES:
            _check_config(name, read_json(path / name))


def model_files(path: Path) -> list[str]:
    """Names of the files that make up the model, sorted."""
    return sorted(entry.name for entry in path.iterdir() if is_model_file(entry.name))


def digest(path: Path) -> str:
    """The identity of a base model, however it came here: sha256 over "<name> <sha256>\\n" of its
    model files, sorted by name. Reads every byte."""
    lines = (f"{name} {file_sha256(path / name)}\n" for name in model_files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """A bounded JSON file of a model; BadSnapshotError if it is none."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BadSnapshotError(f"{path.name} has more than {MAX_JSON_BYTES} bytes.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BadSnapshotError(f"{path.name} is not JSON.") from None


def _regular_files(root: Path) -> Iterator[tuple[str, int]]:
    """Relative path and bytes of every file; links may point at files inside only."""
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            entry = Path(folder, name)
            relative = str(entry.relative_to(root))
            if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
                raise BadSnapshotError(
                    f"{relative!r} is a link that leaves the directory.",
                    hint="Copy the model with its links followed: cp -rL.",
                )
            mode = entry.stat().st_mode
            if stat.S_ISREG(mode):
                yield relative, entry.stat().st_size
            elif not stat.S_ISDIR(mode):
                raise BadSnapshotError(f"{relative!r} is not a regular file.")


def _check_index(path: Path, name: str) -> None:
    index = read_json(path / name)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise BadSnapshotError(f"{name} has no weight_map.")
    for shard in {str(value) for value in weights.values()}:
        if not _WEIGHTS_NAME.fullmatch(shard):
            raise BadSnapshotError(f"{name} names the file {shard[:200]!r}, which is refused.")
        if not (path / shard).is_file():
            raise BadSnapshotError(f"{name} names {shard}, which is missing.")


def _check_config(name: str, content: Any) -> None:
    if name == "config.json" and not isinstance(content, dict):
        raise BadSnapshotError("config.json is not an object.")
    for key, value in _keys(content):
        if _FORBIDDEN_KEY.fullmatch(key) and value is not None:
            raise BadSnapshotError(f"{name} has {key!r}, which would load foreign code.")
        if key == "quantization_config" and value is not None:
            raise BadSnapshotError(
                f"{name} has a quantization_config; adapters are trained on unquantised weights.",
                hint="Use the original checkpoint and ask for quantization in the job.",
            )


def _keys(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON with its value. json.loads has bounded the depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _keys(value)
    elif isinstance(content, list):
        for item in content:
            yield from _keys(item)
