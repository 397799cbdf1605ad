"""Read the headers of a base model's safetensors files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from worker.reward_model.errors import unsupported_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
#: LLaMA-Factory stores the head of a reward model in a file that transformers does not load.
HEAD_FILE = "value_head.safetensors"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_MAX_HEADER_BYTES = 100_000_000


def weight_files(model_dir: Path) -> list[Path]:
    """Return the files that transformers loads: one file, or the parts that an index names.

    Other safetensors files may hold an adapter, or the same weights under other names.

    Raises:
        TrainerError: model_unsupported; a file is missing.
    """
    if (whole := model_dir / WEIGHTS).is_file():
        return [whole]
    if not any(model_dir.glob("*.safetensors")):
        raise unsupported_model(
            "the base model has no *.safetensors file; convert its weights (other formats can "
            "execute code)"
        )
    try:
        index = json.loads((model_dir / INDEX).read_text("utf-8"))
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise unsupported_model(
            f"the base model has no {WEIGHTS}, and no {INDEX} that names its parts; download it "
            "again"
        ) from error
    if missing := [name for name in names if not (model_dir / name).is_file()]:
        raise unsupported_model(
            f"the base model lacks {', '.join(missing[:5])}, which {INDEX} names; download it again"
        )
    return [model_dir / name for name in names]


def stored_dtype(model_dir: Path) -> str:
    """Return the dtype of most of the stored weights, from the headers of the files."""
    sizes: Counter[str] = Counter()
    for file in weight_files(model_dir):
        for tensor in read_header(file).values():
            first, end = tensor["data_offsets"]
            sizes[tensor["dtype"]] += end - first
    if not sizes:
        raise unsupported_model("the *.safetensors files contain no tensors; download them again")
    stored = sizes.most_common(1)[0][0]
    if stored not in _DTYPES:
        raise unsupported_model(
            f"the weights are stored as {stored}; use the unquantised model (F32, F16, BF16)"
        )
    return _DTYPES[stored]


def stored_shapes(model_dir: Path) -> dict[str, list[int]]:
    """Return the shapes of the stored tensors by name, from the headers of the files.

    The tensors of a file for the head alone are included.
    """
    return {
        name: list(tensor["shape"])
        for file in head_files(model_dir)
        for name, tensor in read_header(file).items()
    }


def head_files(model_dir: Path) -> list[Path]:
    """Return the files in which a trained head may be, in ascending order of precedence."""
    head = model_dir / HEAD_FILE
    return [*([head] if head.is_file() else []), *weight_files(model_dir)]


def read_header(file: Path) -> dict[str, Any]:
    """Return the description of each tensor of a safetensors file by its name.

    Raises:
        TrainerError: model_unsupported; the file is damaged or incomplete.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size, _MAX_HEADER_BYTES):
            raise unsupported_model(f"{file.name} is not a safetensors file; download it again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            header = {name: _checked(tensor) for name, tensor in header.items()}
            needed = 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0)
        except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
            raise unsupported_model(f"{file.name} is damaged; download it again") from error
    if size != needed:
        raise unsupported_model(
            f"{file.name} has {size} bytes and not {needed}, as its header says: it is incomplete "
            "or damaged; download it again"
        )
    return header


def _checked(tensor: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a tensor; raise LookupError or TypeError if a part is missing."""
    first, end = tensor["data_offsets"]
    return {
        "dtype": str(tensor["dtype"]),
        "shape": [*tensor["shape"]],
        "data_offsets": (first, end),
    }
