"""A service with trained adapters of tiny base models, which starts its own scorer."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import yaml
from sqlalchemy import Engine

from app.adapters.archive import archive_digest
from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, new_id, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.models import Adapter, Job
from app.storage.artifact_files import file_rows, store
from tests.deployed import embedded_service, upload
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import RecordingChannel
from worker.reward_model.file_digests import file_entries
from worker.reward_model.loading import device_config_for
from worker.trainer.tasks.train import _train_and_package

TENANT = "acme"
#: Scopes of the key: score replies, and request score batches.
SCOPES = [Scope.SCORES_WRITE, Scope.JOBS_READ, Scope.JOBS_WRITE]


@dataclass(frozen=True)
class Trained:
    """An adapter's files, and the probes with their certified scores."""

    directory: Path
    summary: dict[str, Any]
    certificate: dict[str, Any]
    metrics: dict[str, float]

    @property
    def probes(self) -> list[dict[str, Any]]:
        lines = (self.directory / "probes.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def texts(self) -> dict[str, float]:
        """Return every text of the probes with its certified score."""
        return {
            probe[side]: probe[f"{side}_score"]
            for probe in self.probes
            for side in ("chosen", "rejected")
        }


def train_adapter(
    base: TinyBase, work: Path, training: dict[str, Any] | None = None, **order: Any
) -> Trained:
    """Train and package in this process, which takes a second; ``work`` is its directory."""
    training = {"max_steps": 3, **(training or {})}
    todo = base.order(count=24, eval_count=8, training=training, **order)
    assert todo.plan
    torch.set_num_threads(1)  # as a trainer does; more threads would wait for each other here
    with warnings.catch_warnings():
        # As ``prepare_environment`` does for a trainer.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        config = device_config_for(todo.plan)
        summary, metrics = _train_and_package(todo, todo.plan, config, RecordingChannel())
    return Trained(work / "adapter", summary, {"tolerance": 1e-5}, metrics)


def publish(
    engine: Engine, settings: Settings, trained: Trained, tenant: str = TENANT, **summary: Any
) -> str:
    """Store an adapter as a finished job does; return its id."""
    blobs = store(engine, settings, trained.directory, file_entries(trained.directory))
    sha256, size = archive_digest(engine, blobs)
    adapter_id, job_id = new_id("ad"), new_id("job")
    with transaction(engine) as session:
        session.add(
            Job(
                id=job_id,
                tenant_id=tenant,
                queue=settings.queue,
                status="succeeded",
                spec={},
                spec_sha256="0" * 64,
                base_model="tiny",
                adapter_id=adapter_id,
                plan=json.loads((trained.directory / "run.lock.json").read_text())["plan"],
            )
        )
        session.flush()
        session.add(
            Adapter(
                id=adapter_id,
                tenant_id=tenant,
                job_id=job_id,
                base_model="tiny",
                revision=None,
                bytes=sum(blob.size for blob in blobs.values()),
                archive_sha256=sha256,
                archive_bytes=size,
                metrics=trained.metrics,
                certificate=trained.certificate,
                summary=trained.summary | summary,
            )
        )
        session.add_all(file_rows(adapter_id, blobs))
    return adapter_id


@dataclass(frozen=True)
class Stage:
    """The running service, and the ids of its adapters."""

    client: httpx.Client
    engine: Engine
    settings: Settings
    key: str
    chat: str
    other_chat: str
    text: str
    damaged: str
    trained: dict[str, Trained]

    def upload(self, rows: list[dict[str, Any]]) -> str:
        """Upload rows as a dataset; return its id."""
        return upload(self.client, rows)

    def score(self, expected: int = 200, **body: Any) -> dict[str, Any]:
        """POST /v1/score."""
        answer = self.client.post("/v1/score", json=body)
        assert answer.status_code == expected, answer.text
        return dict(answer.json())


@contextmanager
def running_stage(
    tiny: TinyBase,
    trained: dict[str, Trained],
    folder: Path,
    *,
    options: Sequence[str] = (),
    **settings: object,
) -> Iterator[Stage]:
    """Run `plaudit serve` on SQLite with these adapters; ``settings`` are of the service."""
    catalogue = folder / "models.yaml"
    catalogue.write_text(yaml.safe_dump({"tiny": {"source": f"local:{tiny.directory}"}}))
    own = Settings(data_dir=folder / "data", base_models=catalogue)
    engine = make_engine(own.database)
    migrate(engine)
    ids = {name: publish(engine, own, adapter) for name, adapter in trained.items()}
    # Its certificate names other files of the base model.
    damaged = publish(engine, own, trained["chat"], base_model_sha256="0" * 64)
    with transaction(engine) as session:
        key = api_keys.create(session, TENANT, "a test", SCOPES).token
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PLAUDIT_")},
        "PLAUDIT_BASE_MODELS": str(catalogue),
        "PLAUDIT_SCORING_MODEL": ids["chat"],
        "OMP_NUM_THREADS": "1",
        **{f"PLAUDIT_{name.upper()}": str(value) for name, value in settings.items()},
    }
    with embedded_service(environment, folder, options) as running:
        running.client.headers["Authorization"] = f"Bearer {key}"
        yield Stage(running.client, engine, own, key, damaged=damaged, trained=trained, **ids)
    engine.dispose()
