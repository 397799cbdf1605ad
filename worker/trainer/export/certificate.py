"""Certify a packaged adapter: check that it reproduces the trainer's scores.

This runs in a separate process, from the packaged files alone, with plain PEFT and another seed. A
head that is missing from the files would therefore be random and give other scores.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer, set_seed

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.packaged_adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    SUMMARY,
    encode_rendered,
    load_packaged,
)
from worker.reward_model.scoring import ALONE, BATCH_TOKENS, score
from worker.trainer.export.adapter_files import PROBES
from worker.trainer.export.score_comparison import ScoreComparison
from worker.trainer.library_versions import library_versions

#: Difference of a score s that is always allowed, as a share of 1 + |s|; four times the noise of
#: the training's own scores is allowed too. In fp32 it covers another order of the same sums
#: (padded batches, another machine); bf16 keeps 8 bits of every number.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2}
CUDA_FP32_TOLERANCE = 1e-4
QUANTIZED_TOLERANCE = 1e-1
#: A merged model adds the same numbers in another order, with one more rounding.
MERGED_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1}
OTHER_SEED = 20_251_122


def certify(directory: Path, base_dir: Path | None, device: str) -> dict[str, Any]:
    """Load a packaged adapter, or without a base a merged model, score its probes, and compare.

    Returns the certificate. Its ``is_verified`` is true if every tensor of the adapter's file is in
    the loaded model bit for bit, and every score, alone and in padded batches, is within the
    tolerance. If the noise of the scores is large, a random head could pass this test, but not the
    comparison of tensors.

    Raises:
        TrainerError: host_error if a file is missing or damaged: this machine has just written it.
    """
    summary, probes = _read_package(directory)
    _check_model_files(directory, is_merged=base_dir is None)
    tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    set_seed(OTHER_SEED)
    model = load_packaged(directory, base_dir, summary, device)
    texts = [text for probe in probes for text in (probe["chosen"], probe["rejected"])]
    ids = encode_rendered(tokenizer, texts, summary)
    scores = _compare_scores(model, ids, summary, probes, floor=_floor(summary, device, base_dir))
    lost = lost_tensors(model, directory) if isinstance(model, PeftModel) else []
    return {
        "certificate_version": 1,
        "is_verified": not lost and scores.is_within,
        "tensors_lost": lost,
        "max_abs_difference": float(scores.differences.max(initial=0.0)),
        "max_relative_difference": float(scores.relative_differences.max(initial=0.0)),
        "tolerance": scores.floor,
        "noise": scores.noise,
        "noise_tolerance": scores.allowed_noise,
        "rank_correlation": scores.correlation,
        "required_rank_correlation": scores.required_correlation,
        "device": device,
        **{key: summary[key] for key in ("dtype", "head_start", "head_tensors") if key in summary},
        "seed": OTHER_SEED,
        "probes": [
            {
                "dataset": probe.get("dataset"),  # absent in older adapters, which can be merged
                "line": probe["line"],
                "chosen": _scores_of_text(scores, 2 * i),
                "rejected": _scores_of_text(scores, 2 * i + 1),
            }
            for i, probe in enumerate(probes)
        ],
        "files": {entry.name: entry.sha256 for entry in file_entries(directory)},
        "tensors": tensor_digests(directory),
        "versions": library_versions(),
    }


def check_certificate(certificate: dict[str, Any]) -> None:
    """Raise TrainerError, score_mismatch, if the certificate does not hold."""
    if lost := certificate["tensors_lost"]:
        raise TrainerError(
            FailureCode.SCORE_MISMATCH,
            f"after a reload the model lacks the adapter's {', '.join(lost[:5])}",
        )
    if not certificate["is_verified"]:
        correlation = certificate["rank_correlation"]
        required = certificate["required_rank_correlation"]
        order = "" if correlation is None else f", their rank correlation is {correlation:.4f}"
        raise TrainerError(
            FailureCode.SCORE_MISMATCH,
            f"after a reload scores differ by up to {certificate['max_abs_difference']:.3g} "
            f"({certificate['max_relative_difference']:.1e} of 1 + |score|{order}); allowed are "
            f"{certificate['tolerance']:.0e} of 1 + |score| or "
            f"{certificate['noise_tolerance']:.3g}, and a rank correlation of "
            f"{required or 0:.4f} or more: {_cause(certificate)}",
        )


def _cause(certificate: dict[str, Any]) -> str:
    """Return the most probable reason for other scores after a reload."""
    texts = [probe[reply] for probe in certificate["probes"] for reply in ("chosen", "rejected")]

    def moved(how: str) -> bool:
        share, noise = certificate["tolerance"], certificate["noise_tolerance"]
        return any(
            not abs(text[how] - text["expected"]) <= max(share * (1 + abs(text["expected"])), noise)
            for text in texts
        )

    if not all(math.isfinite(text[how]) for text in texts for how in ("alone", "padded")):
        return "some scores are not finite after the reload; train with a lower learning rate"
    if not moved("alone"):
        return (
            "each text alone has its score, and only a padded batch moves it: padding changes the "
            "scores of this base model; use a model of another architecture"
        )
    if certificate["dtype"] != "float32":
        return (
            "this can be the rounding of bfloat16 where scores are large; train with a lower "
            'learning rate, with center_rewards_coefficient, or with precision "fp32"'
        )
    return (
        "also of texts alone, so the adapter's files lack some of the trained weights: the "
        "architecture of the base model is the probable cause; use another one"
    )


def _compare_scores(
    model: nn.Module,
    ids: list[list[int]],
    summary: dict[str, Any],
    probes: list[dict[str, Any]],
    *,
    floor: float,
) -> ScoreComparison:
    def of_training(name: str) -> NDArray[np.float64]:
        return np.array([p[f"{side}_{name}"] for p in probes for side in ("chosen", "rejected")])

    def reloaded(batch_tokens: int) -> NDArray[np.float64]:
        pad_token_id = summary["pad_token_id"]
        return np.array(score(model, ids, pad_token_id=pad_token_id, batch_tokens=batch_tokens))

    expected = of_training("score")
    has_padded = all("chosen_padded_score" in probe for probe in probes)  # not in older adapters
    return ScoreComparison(
        expected=expected,
        expected_padded=of_training("padded_score") if has_padded else expected,
        alone=reloaded(ALONE),
        padded=reloaded(BATCH_TOKENS),
        floor=floor,
    )


def _scores_of_text(scores: ScoreComparison, i: int) -> dict[str, float]:
    return {
        "expected": float(scores.expected[i]),
        "alone": float(scores.alone[i]),
        "padded": float(scores.padded[i]),
    }


def lost_tensors(model: PeftModel, directory: Path) -> list[str]:
    """Return the names of the adapter file's tensors that the loaded model lacks or has changed.

    PEFT loads a head in the dtype of its base model, so the file's tensors are compared in that
    dtype.
    """
    # With "auto", PEFT looks for the base model on the hub.
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)

    def is_loaded(name: str, saved: torch.Tensor) -> bool:
        return name in loaded and torch.equal(loaded[name].cpu(), saved.to(loaded[name].dtype))

    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as file:
        return [n for n in file.keys() if not is_loaded(n, file.get_tensor(n))]  # noqa: SIM118


def tensor_digests(directory: Path) -> dict[str, str]:
    """Return the digest over dtype, shape and bytes of every tensor in the safetensors files."""
    digests = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name).contiguous()
                digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.view(torch.uint8).numpy().tobytes())
                digests[name] = digest.hexdigest()
    return digests


def _read_package(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the package's summary and its probes."""
    with _naming_file(directory / SUMMARY) as path:
        summary = json.loads(path.read_text())
    with _naming_file(directory / PROBES) as path:
        probes = [json.loads(line) for line in path.read_text().splitlines()]
    return summary, probes


@contextmanager
def _naming_file(path: Path) -> Iterator[Path]:
    """Name a missing or damaged file, which the libraries often do not."""
    try:
        yield path
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
        raise TrainerError(FailureCode.HOST_ERROR, f"{path.name} {what}") from error


def _check_model_files(directory: Path, *, is_merged: bool) -> None:
    with _naming_file(directory / ("config.json" if is_merged else ADAPTER_CONFIG)) as path:
        json.loads(path.read_text())
    merged = sorted(directory.glob("*.safetensors")) or [directory / "model.safetensors"]
    for weights in merged if is_merged else [directory / ADAPTER_WEIGHTS]:
        with _naming_file(weights) as path, safe_open(path, framework="pt"):
            pass  # opening checks the header, which contains the length of the file


def _floor(summary: dict[str, Any], device: str, base_dir: Path | None) -> float:
    if summary["quantization"] != "none":
        return QUANTIZED_TOLERANCE
    if base_dir is None:
        return MERGED_TOLERANCE[summary["dtype"]]
    if device == "cuda" and summary["dtype"] == "float32":
        return CUDA_FP32_TOLERANCE
    return TOLERANCE[summary["dtype"]]
