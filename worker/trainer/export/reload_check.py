"""The verifying phase: a fresh process must score the packaged files as the trainer did."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError


def verify_package(
    directory: Path, base_dir: Path | None, *, device: str, threads: int
) -> dict[str, Any]:
    """Certify the packaged files in a fresh process and return a certificate that holds.

    ``base_dir`` is None for a merged model.

    Raises:
        TrainerError: score_mismatch when the files are bad; trainer_crashed when the process was
            killed; otherwise what the machine lacked (out_of_memory, disk_full, …).
    """
    base = [] if base_dir is None else ["--base", str(base_dir)]
    done = subprocess.run(
        [sys.executable, "-m", "worker.trainer.export.verify", str(directory.resolve()), *base,
         "--device", device, "--threads", str(threads)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )  # fmt: skip
    if not done.stdout:
        raise TrainerError(
            FailureCode.TRAINER_CRASHED,
            f"the verifying process ended with status {done.returncode} and no output (-9: killed, "
            "often by the kernel because memory ran out)",
        )
    certificate: dict[str, Any] = json.loads(done.stdout)
    _check_certificate(certificate)
    return certificate


def _check_certificate(certificate: dict[str, Any]) -> None:
    if failure := certificate.get("failure"):
        code = FailureCode(failure["code"])
        if code is FailureCode.INTERNAL:  # not the machine, but the files
            code = FailureCode.SCORE_MISMATCH
        raise TrainerError(
            code, f"the packaged files could not be loaded and scored: {failure['detail']}"[:8000]
        )
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
        "also of texts alone, so the adapter's files do not hold all that was trained: the "
        "architecture of the base model is the probable cause; use another one"
    )
