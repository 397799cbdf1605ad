"""Measure the time from submitting a job to its first optimiser step, against a cold `trl reward`.

Both arms train the same tiny decoder on the same pairs and run alternately. Plaudit is timed from
the HTTP request until the step can be read back over HTTP, TRL from the start of its process until
it prints the first loss.

    python -m bench.start --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from app.api_keys.service import first_key
from app.core.logging import configure_logging
from app.core.migrations import migrate
from app.core.settings import Settings
from app.main import create_app
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder

PAIRS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    configure_logging(open(os.devnull, "w"))  # noqa: SIM115 - a line for every poll otherwise
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_decoder(folder / "model")
        pairs = folder / "pairs"
        pairs.mkdir()
        lines = [json.dumps({k: v for k, v in p.items() if k != "line"}) for p in make_pairs(PAIRS)]
        (pairs / "train.jsonl").write_text("\n".join(lines) + "\n")
        ours, theirs = [], []
        with _service(folder, model) as client:
            dataset = _upload(client, pairs / "train.jsonl")
            _first_step_seconds(client, dataset)  # the first job also inspects the base model
            for number in range(rounds):
                ours.append(_first_step_seconds(client, dataset))
                theirs.append(_trl_first_loss_seconds(folder / f"trl-{number}", model, pairs))
                print(f"plaudit {ours[-1]:.2f} s   trl reward {theirs[-1]:.2f} s", flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"median: plaudit {statistics.median(ours):.2f} s, trl reward "
        f"{statistics.median(theirs):.2f} s, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {rounds} rounds"
    )


@contextmanager
def _service(folder: Path, model: Path) -> Iterator[TestClient]:
    """Run the API in this process, and a worker with its fork server."""
    catalogue = folder / "models.yaml"
    catalogue.write_text(f"tiny:\n  source: local:{model}\n")
    # The client polls every 20 ms, which the default rate limit would reject.
    settings = Settings(data_dir=folder / "data", base_models=catalogue, rate_burst=1_000_000)
    app = create_app(settings)
    migrate(app.state.engine)
    key = first_key(app.state.engine, settings.data_dir)
    env = os.environ | {
        "PLAUDIT_DATA_DIR": str(settings.data_dir),
        "PLAUDIT_BASE_MODELS": str(catalogue),
    }
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-m", "worker"], env=env, stderr=log)
    try:
        with TestClient(app, headers={"Authorization": f"Bearer {key}"}) as client:
            time.sleep(30)  # until the fork server has imported its libraries
            yield client
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def _upload(client: TestClient, file: Path) -> str:
    response = client.post(
        "/v1/datasets", content=file.read_bytes(), headers={"Content-Type": "application/x-ndjson"}
    )
    response.raise_for_status()
    return str(response.json()["id"])


def _first_step_seconds(client: TestClient, dataset: str) -> float:
    """Run a job to its end and return the seconds until its first step was visible."""
    started = time.monotonic()
    spec: dict[str, Any] = {
        "base_model": "tiny",
        "train_dataset": dataset,
        "training": {"max_steps": 2, "max_length": 128},
    }
    response = client.post("/v1/jobs", json=spec)
    response.raise_for_status()
    job_id = response.json()["id"]
    seconds = None
    while True:
        job = client.get(f"/v1/jobs/{job_id}").json()
        if job["status"] == "failed":
            raise RuntimeError(job["failure"])
        if seconds is None and (job["progress"] or {}).get("step"):
            seconds = time.monotonic() - started
        if job["status"] == "succeeded":
            assert seconds is not None
            return seconds
        time.sleep(0.02)


def _trl_first_loss_seconds(output: Path, model: Path, pairs: Path) -> float:
    """Run `trl reward` to its end and return the seconds until it printed a loss."""
    started = time.monotonic()
    trl = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("trl")), "reward",
            "--model_name_or_path", str(model), "--dataset_name", str(pairs),
            "--output_dir", str(output), "--use_peft", "--lora_task_type", "SEQ_CLS",
            "--lora_target_modules", "all-linear", "--max_steps", "2", "--logging_steps", "1",
            "--max_length", "128", "--use_cpu", "True", "--bf16", "False", "--report_to", "none",
            "--save_strategy", "no",
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert trl.stdout is not None
    seconds, output_lines = None, []
    for line in trl.stdout:
        output_lines.append(line)
        if seconds is None and "'loss'" in line:
            seconds = time.monotonic() - started
    if trl.wait() or seconds is None:
        raise RuntimeError("trl reward failed:\n" + "".join(output_lines[-30:]))
    return seconds


if __name__ == "__main__":
    main()
