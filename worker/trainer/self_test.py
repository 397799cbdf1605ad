"""Self-test of this machine: ``python -m worker.trainer.self_test``."""

from __future__ import annotations

import os
import sys
import tempfile

import torch


def main() -> int:
    """Check a matrix product on the GPU, or else on the CPU, and write 16 MiB to disk."""
    has_device = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-"))
    if has_device and not torch.cuda.is_available():
        print("CUDA cannot use this worker's GPU", file=sys.stderr)  # noqa: T201 - the supervisor logs it
        return 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
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
