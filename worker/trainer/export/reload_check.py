"""The verifying phase: a fresh process must score the packaged files as the trainer did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError


def verified_certificate(
    directory: Path, base_dir: Path | None, *, device: str, threads: int
) -> dict[str, Any]:
    """The certificate of a package that holds.

    Raises:
        TrainerFailure: score_mismatch; what the machine lacked (out_of_memory, disk_full, …);
            trainer_crashed when the process was killed. Only the first says that the files
            are bad.
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
            f"the process that verifies ended with status {done.returncode} and said nothing (-9: "
            "killed, often by the kernel, out of memory)",
        )
    certificate: dict[str, Any] = json.loads(done.stdout)
    if failure := certificate.get("failure"):
        code = FailureCode(failure["code"])
        if code is FailureCode.INTERNAL:  # nothing of the machine's: the files themselves
            code = FailureCode.SCORE_MISMATCH
        raise TrainerError(
            code, f"the packaged files could not be loaded and scored: {failure['detail']}"[:8000]
        )
    if lost := certificate["tensors_lost"]:
        raise TrainerError(
            FailureCode.SCORE_MISMATCH,
            f"after a reload the model does not have the adapter's {', '.join(lost[:5])}",
        )
    if not certificate["is_verified"]:
        raise TrainerError(
            FailureCode.SCORE_MISMATCH,
            f"after a reload scores differ by up to {certificate['max_abs_difference']:.3g} "
            f"({certificate['max_relative_difference']:.1e} of 1 + |score|, allowed are "
            f"{certificate['tolerance']:.0e})",
        )
    return certificate
