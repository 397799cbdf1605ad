"""Check the files of a base model before they are loaded.

The publisher is not trusted: code, pickles and links that leave the directory are rejected.
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
#: Names of the files that make up a model. Other files are neither downloaded nor read.
#: LLaMA-Factory stores the head of a reward model in a file of its own, value_head.safetensors.
_MODEL_FILE = re.compile(
    r"(?:model[\w.-]*|value_head)\.safetensors|\w[\w.-]*\.(?:json|jinja|txt|model)"
)
_WEIGHTS_NAME = re.compile(r"[\w.-]+\.safetensors")
#: Key that makes transformers import code from the repository.
_CODE_KEY = "auto_map"
#: Keys that make transformers import code by `kernels`, if they name a repository. Most name an
#: implementation of transformers itself, such as "flash_attention_2"; the worker chooses its own.
_KERNEL_KEY = re.compile(r"_?(?:attn|experts)_implementation\w*")
#: JSON files whose keys are tokens, which may have any name.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json"}
_INDEX = ".safetensors.index.json"
_GGUF = ".gguf"
_UNQUANTIZED = (
    "Use the original checkpoint in safetensors, or a copy whose weights were dequantised to "
    "bfloat16."
)


def is_model_file(name: str) -> bool:
    """Return whether a path, relative to the model, names a file that belongs to a base model."""
    return _MODEL_FILE.fullmatch(name) is not None and ".." not in name


def check_listing(sizes: Mapping[str, int], max_bytes: int) -> None:
    """Check the file list of a repository before anything is downloaded.

    Args:
        sizes: Size in bytes by relative path.
        max_bytes: The operator's limit for the files of the model.

    Raises:
        BadSnapshotError: A file is unsafe, a required one is missing, or a limit is exceeded.
    """
    if len(sizes) > MAX_FILES:
        raise BadSnapshotError(f"The model has {len(sizes)} files; the maximum is {MAX_FILES}.")
    for name in sizes:
        _check_name(name)
    total = sum(size for name, size in sizes.items() if is_model_file(name))
    if total > max_bytes:
        raise BadSnapshotError(
            f"The files of the model have {total} bytes; the operator's limit is {max_bytes}."
        )
    if "adapter_config.json" in sizes:
        raise BadSnapshotError("The files are an adapter, not a base model.")
    has_weights = not {"model.safetensors", f"model{_INDEX}"}.isdisjoint(sizes)
    if not has_weights and any(name.endswith(_GGUF) for name in sizes):
        raise BadSnapshotError(
            "The model's weights are in GGUF files, a format for inference that is never loaded.",
            hint=_UNQUANTIZED,
        )
    if "config.json" not in sizes:
        raise BadSnapshotError("The model has no config.json.")
    if not has_weights:
        raise BadSnapshotError(
            "The model has no model.safetensors. Other weight formats are never loaded.",
            hint="Convert the weights to safetensors and add the result as a local: entry.",
        )


def check_directory(path: Path, max_bytes: int) -> None:
    """Check that a model directory is safe and complete.

    Raises:
        ModelNotFoundError: The directory does not exist.
        BadSnapshotError: The directory is unsafe, incomplete or too large.
    """
    if not path.is_dir():
        raise ModelNotFoundError("The directory of the model does not exist.")
    # Check this first: errors about a directory that is not a model must not name its files.
    is_model = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    if not is_model and not any(path.glob(f"*{_GGUF}")):
        raise BadSnapshotError("The model has no config.json.")
    check_listing(dict(_regular_files(path)), max_bytes)
    for name in model_files(path):
        if name.endswith(_INDEX):
            _check_index(path, name)
        elif name.endswith(".json") and name not in _VOCABULARIES:
            _check_config(name, read_json(path / name))


def model_files(path: Path) -> list[str]:
    """Return the sorted names of the files that make up the model."""
    return sorted(entry.name for entry in path.iterdir() if is_model_file(entry.name))


def digest(path: Path) -> str:
    """Return the identity of a base model, which does not depend on its source.

    It is the sha256 over a line "<name> <sha256>\\n" per model file, sorted by name.
    """
    lines = (f"{name} {file_sha256(path / name)}\n" for name in model_files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Parse a JSON file of a model.

    Raises:
        BadSnapshotError: The file is not JSON or exceeds ``MAX_JSON_BYTES``.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BadSnapshotError(f"{path.name} has more than {MAX_JSON_BYTES} bytes.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BadSnapshotError(f"{path.name} is not valid JSON.") from None


def _check_name(name: str) -> None:
    if name.startswith("/") or "\\" in name or "\x00" in name or ".." in name.split("/"):
        raise BadSnapshotError(f"The path {name[:200]!r} leaves the directory of the model.")
    if name.endswith(".py"):
        raise BadSnapshotError(
            f"The model contains Python code ({name[:200]!r}), which the service never runs.",
            hint="Use a revision, or a local copy, without Python files.",
        )


def _regular_files(root: Path) -> Iterator[tuple[str, int]]:
    """Yield relative path and size of every file. Links must not leave the directory."""
    real_root = os.path.realpath(root)
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            entry = Path(folder, name)
            relative = str(entry.relative_to(root))
            # os.path.realpath accepts broken links and link loops; stat reports them.
            if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(real_root):
                raise BadSnapshotError(
                    f"{relative!r} is a link that leaves the directory.",
                    hint="Copy the model with cp -rL, which replaces links by their targets.",
                )
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink():
                    raise
                raise BadSnapshotError(
                    f"{relative!r} is a broken link: {error.strerror}."
                ) from error
            mode = status.st_mode
            if stat.S_ISREG(mode):
                yield relative, status.st_size
            elif not stat.S_ISDIR(mode):
                raise BadSnapshotError(f"{relative!r} is not a regular file.")


def _check_index(path: Path, name: str) -> None:
    index = read_json(path / name)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise BadSnapshotError(f"{name} has no weight_map.")
    for shard in {str(value) for value in weights.values()}:
        if not _WEIGHTS_NAME.fullmatch(shard):
            raise BadSnapshotError(
                f"{name}: {shard[:200]!r} is not a safetensors file in the directory of the model."
            )
        if not (path / shard).is_file():
            raise BadSnapshotError(f"{name} refers to {shard}, which is missing.")


def _check_config(name: str, content: Any) -> None:
    if name == "config.json" and not isinstance(content, dict):
        raise BadSnapshotError("config.json is not a JSON object.")
    for key, value in _keys(content):
        is_code = key == _CODE_KEY and value is not None
        if is_code or (_KERNEL_KEY.fullmatch(key) and _names_repository(value)):
            raise BadSnapshotError(f"{name} has the key {key!r}, which would load foreign code.")
        if key == "quantization_config" and value is not None:
            raise BadSnapshotError(
                f"{name} has a quantization_config, but adapters are trained on unquantised "
                "weights.",
                hint=f"{_UNQUANTIZED} A job can quantise it again.",
            )


def _names_repository(value: Any) -> bool:
    """Whether a value is the name of a repository, or has one in it: "owner/kernel@v1"."""
    if isinstance(value, dict):
        return any(_names_repository(part) for part in value.values())
    if isinstance(value, list):
        return any(_names_repository(part) for part in value)
    return isinstance(value, str) and "/" in value


def _keys(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested JSON with its value; json.loads has limited the depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _keys(value)
    elif isinstance(content, list):
        for item in content:
            yield from _keys(item)
