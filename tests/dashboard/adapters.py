"""Publishes adapters with the metrics and certificate that the dashboard shows."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from app.adapters import publishing
from app.domain.progress import FileEntry, Packaged
from app.job_queue.lease import WriteContext
from tests.world import World

FILES = {
    "README.md": b"# How to score\n",
    "adapter_config.json": b'{"task_type": "SEQ_CLS"}',
    "adapter_model.safetensors": b"weights" * 1000,
    "reward_model.json": b'{"format_version": 1}',
}
CERTIFICATE: dict[str, Any] = {
    "certificate_version": 1,
    "is_verified": True,
    "max_abs_difference": 2.4e-7,
    "max_relative_difference": 1e-7,
    "tolerance": 1e-4,
    "device": "cpu",
    "dtype": "float32",
    "probes": [{"line": 1}, {"line": 2}],
}
METRICS = {
    "eval_before/accuracy": 0.51,
    "eval_before/loss": 0.694,
    "eval/accuracy": 0.925,
    "eval/accuracy_low": 0.87,
    "eval/accuracy_high": 0.97,
    "eval/length_baseline": 0.55,
    "eval/loss": 0.251,
    "eval/pairs": 120.0,
    "eval/left_out": 0.25,
    "eval/max_length": 256.0,
}


def publish(
    world: World,
    context: WriteContext,
    summary: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
) -> str:
    """End a job with a verified adapter and return the adapter's id."""
    with tempfile.TemporaryDirectory() as name:
        files = []
        for file_name, data in FILES.items():
            (Path(name) / file_name).write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            files.append(FileEntry(name=file_name, size=len(data), sha256=digest))
        packaged = Packaged(
            directory="adapter",
            files=files,
            metrics=metrics or METRICS,
            certificate=CERTIFICATE,
            summary=summary or {"format_version": 1, "max_length": 256, "vllm_servable": False},
        )
        return publishing.publish(context, Path(name), packaged)
