"""The GPUs of this machine."""

from __future__ import annotations

import shutil
import subprocess


def gpu_count() -> int:
    return len(list_devices())


def list_devices() -> list[dict[str, str]]:
    """GPUs as nvidia-smi lists them; torch is not asked, it lives in the trainer only."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    lines = listed.stdout.strip().splitlines() if listed.returncode == 0 else []
    return [
        {"name": name.strip(), "memory": memory.strip()}
        for name, _, memory in (line.partition(",") for line in lines)
    ]
