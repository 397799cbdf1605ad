"""Read the headers of a base model's safetensors files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from worker.reward_model.errors import unsupported_model

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_MAX_HEADER_BYTES = 100_000_000


def stored_dtype(model_dir: Path) -> str:
    """Return the dtype of most of the stored weights, from the headers of the files."""
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise unsupported_model(
            "the base model has no *.safetensors file; convert its weights (other formats can "
            "execute code)"
        )
    sizes: Counter[str] = Counter()
    for file in files:
        for name, tensor in _read_header(file).items():
            if name != "__metadata__":
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
    """Return the shapes of the stored tensors by name, from the headers of the files."""
    return {
        name: list(tensor["shape"])
        for file in sorted(model_dir.glob("*.safetensors"))
        for name, tensor in _read_header(file).items()
        if name != "__metadata__"
    }


def _read_header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(file.stat().st_size, _MAX_HEADER_BYTES):
            raise unsupported_model(f"{file.name} is not a safetensors file; download it again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise unsupported_model(f"{file.name} is damaged; download it again") from error
    return header
