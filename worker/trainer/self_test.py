"""Self-test of this machine: ``python -m worker.trainer.self_test``."""

from __future__ import annotations

import os
import sys
import tempfile

import torch

from worker.reward_model.loading import unusable_gpu


def main() -> int:
    """Check a matrix product on the GPU, or else on the CPU, and write 16 MiB to disk.

    A GPU that the environment names and that CUDA cannot use fails the test.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and (problem := unusable_gpu()):
        print(problem, file=sys.stderr)  # noqa: T201 - the supervisor logs it
        return 1
    ones = torch.ones(256, 256, device=device)
    if (ones @ ones).sum().item() != 256**3:
        print(f"wrong result of a matrix product on {device}", file=sys.stderr)  # noqa: T201 - the supervisor logs it
        return 1
    with tempfile.TemporaryFile() as file:
        file.write(bytes(16 << 20))
        file.flush()
        os.fsync(file.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
