"""Factories for API tests: acts as clients over HTTP and as workers through the worker API."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.adapters import publishing
from app.base_models.catalogue import load_catalogue
from app.base_models.facts import store_facts
from app.core.broker import preflight_queue
from app.core.database import transaction
from app.core.settings import Settings
from app.domain.judging.metrics import evaluate
from app.domain.judging.score_table import ScoredRow
from app.domain.lifecycle import FailureCode
from app.domain.plan import BaseModelFacts
from app.domain.progress import CheckpointSaved, Evaluated, FileEntry, Packaged, Reported, Stepped
from app.evaluations import publishing as evaluations
from app.job_queue import checkpoints, worker_api
from app.job_queue.lease import WriteContext
from app.job_queue.worker_api import AttemptFailure, Progress
from app.score_batches import publishing as score_batches
from tests.services import wait_until

BASE_MODEL = "all-minilm-l6-v2"
SCORES = b'{"line": 1, "scores": [1.0, 0.0]}\n'
FACTS = BaseModelFacts(
    model_type="bert",
    architecture="BertForSequenceClassification",
    digest="d" * 64,
    parameter_count=22_000_000,
    hidden_size=32,
    layer_count=1,
    vocab_rows=100,
    max_positions=256,
    new_modules=["classifier"],
    modules={"": 1000, "bert.encoder.query": 1024, "bert.encoder.value": 1024, "classifier": 33},
    linear_modules={"bert.encoder.query": (32, 32), "bert.encoder.value": (32, 32)},
    attention_modules=["bert.encoder.query", "bert.encoder.value"],
    is_causal=False,
    supports_gradient_checkpointing=True,
    pad_token="[PAD]",
    pad_token_id=0,
    eos_token=None,
    eos_token_id=None,
    max_token_id=99,
)


def pairs(count: int = 20, salt: str = "") -> bytes:
    """Return text pairs as JSONL."""
    rows = (
        {"prompt": f"Question {i}{salt}?", "chosen": f"Good {i}", "rejected": f"Bad {i}"}
        for i in range(count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class World:
    """The clients and workers of one service."""

    def __init__(self, client: TestClient, engine: Engine, settings: Settings) -> None:
        self.client, self.engine, self.settings = client, engine, settings
        self._uploads = 0

    def upload(self, count: int = 20) -> dict[str, Any]:
        """Upload a new dataset."""
        self._uploads += 1
        answer = self.client.post(
            "/v1/datasets",
            content=pairs(count, f" of {self._uploads}"),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def spec(self, **fields: Any) -> dict[str, Any]:
        """Return a spec that uses a new dataset, unless ``fields`` name one."""
        train = fields.pop("train_dataset", None) or self.upload()["id"]
        return {"base_model": BASE_MODEL, "train_dataset": train, **fields}

    def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a job."""
        answer = self.client.post("/v1/jobs", json=self.spec(**fields))
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def get(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the current state of a job."""
        answer = self.client.get(f"/v1/jobs/{job['id']}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def know_base_model(self) -> None:
        """Store facts about the base model, as if a worker had inspected it."""
        entry = load_catalogue().get(BASE_MODEL)
        with transaction(self.engine) as session:
            store_facts(session, entry, FACTS)

    def claim(self, queue: str | None = None) -> WriteContext:
        """Claim the next job as a worker."""
        claimed = worker_api.claim(
            self.engine, self.settings, queue or self.settings.queue, "host-ab/0:lease", "host"
        )
        assert claimed is not None
        return claimed.context

    def claim_inspection(self) -> WriteContext:
        """Claim an inspection as a worker."""
        return self.claim(preflight_queue(self.settings))

    def step(self, context: WriteContext, number: int, total: int = 10, **metrics: float) -> None:
        """Report a training step; ``train__loss=…`` is the metric ``train/loss``."""
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        message = Stepped(step=number, total_steps=total, epoch=number / total, metrics=named)
        worker_api.record_progress(context, Progress(phase="training", steps=[message]))

    def checkpoint(self, context: WriteContext, step: int) -> None:
        """Save a checkpoint."""
        with tempfile.TemporaryDirectory() as name:
            files = _write(Path(name), {"trainer_state.json": b'{"step": %d}' % step})
            saved = CheckpointSaved(step=step, directory="checkpoint", files=files)
            checkpoints.save(context, Path(name), saved)

    def publish(self, context: WriteContext, files: dict[str, bytes], **summary: Any) -> str:
        """End a job as succeeded with these files, and return the adapter's id."""
        with tempfile.TemporaryDirectory() as name:
            packaged = Packaged(
                directory="adapter",
                files=_write(Path(name), files),
                metrics={"eval/accuracy": 0.9},
                certificate={"max_difference": 0.0},
                summary={"format": 1} | summary,
            )
            return publishing.publish(context, Path(name), packaged)

    def request_evaluation(self, **spec: Any) -> dict[str, Any]:
        """Request an evaluation, of a new adapter on a new dataset unless ``spec`` names some."""
        if "adapters" not in spec:
            self.know_base_model()  # only then has the job a plan
            job = self.submit()
            spec["adapters"] = [self.publish(self.claim(), {"adapter_config.json": b"{}"})]
            spec.setdefault("dataset", job["spec"]["train_dataset"])
        answer = self.client.post("/v1/evaluations", json=spec)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def publish_scores(
        self,
        context: WriteContext,
        tables: dict[str, list[ScoredRow]],
        *,
        more: dict[str, Any] | None = None,
        reports: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """End an evaluation with these scores of each model, the untrained head first.

        ``more`` is added to the result of each model; ``reports`` are sent by name.
        """
        files = {
            f"{name.replace(':', '-')}.jsonl": "".join(f"{r.to_json()}\n" for r in rows).encode()
            for name, rows in tables.items()
        }
        models: list[Any] = [
            {
                **{"adapter": name, "metrics": evaluate(rows, seed=0), "suite": None, "probes": []},
                **{"left_out": {}, "truncated": {"rows": 0, "lines": []}, "training_overlap": None},
                **(more or {}),
            }
            for name, rows in tables.items()
        ]
        with tempfile.TemporaryDirectory() as name:
            evaluated = Evaluated(
                directory="scores",
                files=_write(Path(name), files),
                result={"rows": 1, "models": models, "baselines": {}},
            )
            documents: dict[str, Any] = {"worst_pairs": {"models": {}}, **(reports or {})}
            sent = [Reported(name=name, document=each) for name, each in documents.items()]
            worker_api.record_progress(context, Progress(reports=sent))
            evaluations.publish(context, Path(name), evaluated)

    def request_score_batch(self, **spec: Any) -> dict[str, Any]:
        """Request the scoring of a dataset, with a new adapter unless ``spec`` names one."""
        if "adapter" not in spec:
            self.know_base_model()  # only then has the job a plan
            job = self.submit()
            spec["adapter"] = self.publish(self.claim(), {"adapter_config.json": b"{}"})
            spec.setdefault("dataset", job["spec"]["train_dataset"])
        answer = self.client.post("/v1/score/batches", json=spec)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def publish_batch(self, context: WriteContext, scores: bytes = SCORES) -> None:
        """End a score batch with this file of scores."""
        nothing: dict[str, Any] = {"rows": 0, "lines": []}
        with tempfile.TemporaryDirectory() as name:
            scored = Evaluated(
                directory="scores",
                files=_write(Path(name), {"scores.jsonl": scores}),
                result={
                    "rows": 1, "scored": 1, "left_out": {}, "truncated": nothing,
                    "score_spec": "sha256:0", "bytes": len(scores),
                    "sha256": hashlib.sha256(scores).hexdigest(),
                },
            )  # fmt: skip
            score_batches.publish(context, Path(name), scored)

    def fail(self, context: WriteContext, code: FailureCode, detail: str) -> None:
        """End an attempt with a failure."""
        worker_api.fail(context, AttemptFailure(code, detail))

    def release(self, context: WriteContext) -> None:
        """Release a job after a cancel or pause request."""
        worker_api.release(context, "stopped on request")


def claim_when_there(world: World) -> WriteContext:
    """Wait for an inspection and claim it as a worker."""
    found: list[WriteContext] = []

    def claim() -> bool:
        queue = preflight_queue(world.settings)
        claimed = worker_api.claim(world.engine, world.settings, queue, "host-ab/p:lease", "host")
        found.extend([claimed.context] if claimed else [])
        return claimed is not None

    wait_until("an inspection", claim)
    return found[0]


def _write(directory: Path, files: dict[str, bytes]) -> list[FileEntry]:
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return [
        FileEntry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    ]
