"""Self-test of this machine: ``python -m worker.trainer.self_test``."""

from __future__ import annotations

import os
import sys
import tempfile

import torch

from worker.reward_model.loading import unusable_gpu


def find_problem() -> str | None:
    """Check a matrix product on the GPU, or else on the CPU, and write 16 MiB to disk.

    Returns the problem, or None if the machine passes. A GPU that the environment names must be the
    one that CUDA uses, and torch must have kernels for it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if problem := _wrong_gpu() if device == "cuda" else unusable_gpu():
        return problem
    ones = torch.ones(256, 256, device=device)
    if (ones @ ones).sum().item() != 256**3:
        return f"wrong result of a matrix product on {device}"
    with tempfile.TemporaryFile() as file:
        file.write(bytes(16 << 20))
        file.flush()
        os.fsync(file.fileno())
    return None


def main() -> int:
    """Run the test; return the exit status."""
    if problem := find_problem():
        print(problem, file=sys.stderr)  # noqa: T201 - the supervisor logs it
        return 1
    return 0


def _wrong_gpu() -> str | None:
    given, seen = os.environ.get("CUDA_VISIBLE_DEVICES", ""), torch.cuda.get_device_properties(0)
    # The name of a MIG device in CUDA depends on the driver.
    if given.startswith("GPU-") and not f"GPU-{seen.uuid}".startswith(given):
        return f"this process was given {given}, and CUDA uses GPU-{seen.uuid}"
    architectures = torch.cuda.get_arch_list()
    # Kernels run on later devices of the same major capability.
    names = {f"sm_{seen.major}{minor}" for minor in range(seen.minor + 1)}
    if not names.intersection(architectures):
        return (
            f"torch has no kernels for {seen.name} (sm_{seen.major}{seen.minor}), only for "
            f"{', '.join(architectures)}"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
