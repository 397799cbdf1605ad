"""Proof that a packaged adapter scores what the trainer scored.

Runs in a process of its own, from the packaged files alone, with plain PEFT and another seed: a
head that is not in the files would be drawn anew and give itself away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.loading import DeviceConfig, quantization_config
from worker.reward_model.scoring import score
from worker.trainer.export.adapter_files import PROBES, SUMMARY
from worker.trainer.training.checkpoints import CONFIG, WEIGHTS, versions

#: Allowed difference of a score s, as a share of 1 + |s|. fp32 leaves room for another order of
#: the same sums (padded batches, another machine); bf16 keeps 8 bits of every number.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2}
CUDA_FP32_TOLERANCE = 1e-4
QUANTIZED_TOLERANCE = 1e-1
#: A merged model adds the same numbers in another order, and rounds them once more.
MERGED_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1}
OTHER_SEED = 20_251_122


def certify(directory: Path, base_dir: Path | None, device: str) -> dict[str, Any]:
    """Score the probes of a packaged adapter (or merged model, without a base) afresh.

    Returns the certificate; ``is_verified`` says whether every tensor of the adapter's file arrived
    in the model bit by bit, and every score, alone and in one padded batch, lies within the
    tolerance. Of a base in few bits that is wide: a small random head might slip through it.

    Raises:
        TrainerFailure: host_error when a file is missing or damaged: it was written a moment ago.
    """
    with _read(directory / SUMMARY) as path:
        summary = json.loads(path.read_text())
    with _read(directory / PROBES) as path:
        probes = [json.loads(line) for line in path.read_text().splitlines()]
    _check_model_files(directory, is_merged=base_dir is None)
    tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    set_seed(OTHER_SEED)
    model = _load(directory, base_dir, summary, device)
    texts = [text for probe in probes for text in (probe["chosen"], probe["rejected"])]
    ids = tokenizer(
        texts,
        add_special_tokens=summary["add_special_tokens"],
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    expected = [s for probe in probes for s in (probe["chosen_score"], probe["rejected_score"])]
    pad = summary["pad_token_id"]
    alone = score(model, ids, pad_token_id=pad, batch_size=1)
    padded = score(model, ids, pad_token_id=pad, batch_size=max(1, len(ids)))
    tolerance = _tolerance(summary, device, is_merged=base_dir is None)
    differences = [
        max(abs(a - e), abs(p - e)) for a, p, e in zip(alone, padded, expected, strict=True)
    ]
    shares = [d / (1 + abs(e)) for d, e in zip(differences, expected, strict=True)]
    lost = tensors_lost(model, directory) if isinstance(model, PeftModel) else []
    return {
        "certificate_version": 1,
        "is_verified": not lost and all(share <= tolerance for share in shares),
        "tensors_lost": lost,
        "max_abs_difference": max(differences, default=0.0),
        "max_relative_difference": max(shares, default=0.0),
        "tolerance": tolerance,
        "device": device,
        "dtype": summary["dtype"],
        "seed": OTHER_SEED,
        "probes": [
            {
                "dataset": probe.get("dataset"),  # adapters made before it was said are merged too
                "line": probe["line"],
                "chosen": _three(expected, alone, padded, 2 * i),
                "rejected": _three(expected, alone, padded, 2 * i + 1),
            }
            for i, probe in enumerate(probes)
        ],
        "files": {entry.name: entry.sha256 for entry in file_entries(directory)},
        "tensors": tensor_hashes(directory),
        "versions": versions(),
    }


def tensors_lost(model: PeftModel, directory: Path) -> list[str]:
    """Names of the adapter file's tensors that a loaded model has otherwise, or not at all.

    PEFT loads a head in the type of its base, so that is what the file's is compared in.
    """
    loaded = get_peft_model_state_dict(model)

    def arrived(name: str, saved: torch.Tensor) -> bool:
        return name in loaded and torch.equal(loaded[name].cpu(), saved.to(loaded[name].dtype))

    with safe_open(directory / WEIGHTS, framework="pt") as file:
        return [n for n in file.keys() if not arrived(n, file.get_tensor(n))]  # noqa: SIM118


def tensor_hashes(directory: Path) -> dict[str, str]:
    """sha256 over dtype, shape and bytes of every tensor in the directory's safetensors files."""
    hashes = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name).contiguous()
                digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.view(torch.uint8).numpy().tobytes())
                hashes[name] = digest.hexdigest()
    return hashes


@contextmanager
def _read(path: Path) -> Iterator[Path]:
    """Name the file that is missing or damaged: the libraries often do not."""
    try:
        yield path
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
        raise TrainerError(FailureCode.HOST_ERROR, f"{path.name} {what}") from error


def _check_model_files(directory: Path, *, is_merged: bool) -> None:
    with _read(directory / ("config.json" if is_merged else CONFIG)) as path:
        json.loads(path.read_text())
    merged = sorted(directory.glob("*.safetensors")) or [directory / "model.safetensors"]
    for weights in merged if is_merged else [directory / WEIGHTS]:
        with _read(weights) as path, safe_open(path, framework="pt"):
            pass  # its header says how long the file is


def _load(
    directory: Path, base_dir: Path | None, summary: dict[str, Any], device: str
) -> torch.nn.Module:
    numerics = DeviceConfig(device, summary["dtype"] == "bfloat16", summary["quantization"])
    more: dict[str, Any] = {"device_map": {"": 0}} if device == "cuda" else {}
    if numerics.quantization != "none":
        more["quantization_config"] = quantization_config(numerics, summary["head_modules"])
    model = AutoModelForSequenceClassification.from_pretrained(
        str(base_dir or directory),
        num_labels=1,
        dtype=numerics.dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=base_dir is not None,
        **more,
    )
    text_config = model.config.get_text_config()
    text_config.pad_token_id = summary["pad_token_id"]
    text_config.use_cache = False
    return model if base_dir is None else PeftModel.from_pretrained(model, str(directory))


def _tolerance(summary: dict[str, Any], device: str, *, is_merged: bool) -> float:
    if summary["quantization"] != "none":
        return QUANTIZED_TOLERANCE
    if is_merged:
        return MERGED_TOLERANCE[summary["dtype"]]
    if device == "cuda" and summary["dtype"] == "float32":
        return CUDA_FP32_TOLERANCE
    return TOLERANCE[summary["dtype"]]


def _three(
    expected: list[float], alone: list[float], padded: list[float], i: int
) -> dict[str, float]:
    return {"expected": expected[i], "alone": alone[i], "padded": padded[i]}
