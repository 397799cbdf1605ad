"""How long until a job trains: submit to first optimiser step, against the cold `trl reward`.

Both arms train the same tiny decoder on the same pairs and run in turn. Plaudit's clock starts
before the HTTP request and stops when the step can be read back; TRL's starts with its process and
stops when it prints the first loss.

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
from app.core.migrations import migrate
from app.core.settings import Settings
from app.main import create_app
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder

PAIRS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
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
            _first_step(client, dataset)  # the first submit also inspects the base model
            for number in range(rounds):
                ours.append(_first_step(client, dataset))
                theirs.append(_cold(folder / f"trl-{number}", model, pairs))
                print(f"plaudit {ours[-1]:.2f} s   trl reward {theirs[-1]:.2f} s", flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"median: plaudit {statistics.median(ours):.2f} s, trl reward "
        f"{statistics.median(theirs):.2f} s, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {rounds} rounds"
    )


@contextmanager
def _service(folder: Path, model: Path) -> Iterator[TestClient]:
    """The API in this process and a worker with its warm server beside it."""
    catalogue = folder / "models.yaml"
    catalogue.write_text(f"tiny:\n  source: local:{model}\n")
    # Polled every 20 ms: no limit on requests.
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
            # Warm is what a worker is from its first half minute on.
            time.sleep(30)
            yield client
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def _upload(client: TestClient, file: Path) -> str:
    answer = client.post(
        "/v1/datasets", content=file.read_bytes(), headers={"Content-Type": "application/x-ndjson"}
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def _first_step(client: TestClient, dataset: str) -> float:
    started = time.monotonic()
    spec: dict[str, Any] = {
        "base_model": "tiny",
        "train_dataset": dataset,
        "training": {"max_steps": 2, "max_length": 128},
    }
    answer = client.post("/v1/jobs", json=spec)
    answer.raise_for_status()
    job_id = answer.json()["id"]
    took = None
    while True:
        job = client.get(f"/v1/jobs/{job_id}").json()
        if job["status"] == "failed":
            raise RuntimeError(job["failure"])
        if took is None and (job["progress"] or {}).get("step"):
            took = time.monotonic() - started
        if job["status"] == "succeeded":
            assert took is not None
            return took
        time.sleep(0.02)


def _cold(output: Path, model: Path, pairs: Path) -> float:
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
    took, said = None, []
    for line in trl.stdout:
        said.append(line)
        if took is None and "'loss'" in line:
            took = time.monotonic() - started
    if trl.wait() or took is None:
        raise RuntimeError("trl reward failed:\n" + "".join(said[-30:]))
    return took


if __name__ == "__main__":
    main()
