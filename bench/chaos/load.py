"""The jobs that are submitted while faults are injected."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import transformers

from bench.chaos.stack import Stack
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder

STEP_MS = 50
#: Ranges of steps. Most jobs are short, so that many end. A quarter of them takes more than twice
#: the lease and the grace period, so that an orphaned trainer would be detected.
SHORT, LONG = (20, 120), (500, 800)
LONG_SHARE = 0.25
REAL_STEPS = 60


@dataclass
class ExpectedJob:
    """A submitted job and the statuses in which it may end."""

    id: str
    steps: int
    final_statuses: set[str] = field(default_factory=lambda: {"succeeded"})
    is_real: bool = False  # trained with torch


class Load:
    """Submits jobs and records their expected results."""

    def __init__(self, stack: Stack, draws: random.Random, *, with_orphans: bool) -> None:
        self._stack, self._draws, self._with_orphans = stack, draws, with_orphans
        self.jobs: dict[str, ExpectedJob] = {}

    def submit_random(self) -> None:
        """Submit a job of the fake trainer; cancel or pause some of them later."""
        draws, schedule = self._draws, self._stack.schedule
        job_id = self.submit(draws.randint(*(LONG if draws.random() < LONG_SHARE else SHORT)))
        draw = draws.random()
        if draw < 0.1:
            self.jobs[job_id].final_statuses = {"cancelled", "succeeded"}
            schedule(draws.uniform(0, 8), lambda: self._request(job_id, "cancel"))
        elif draw < 0.25:
            schedule(draws.uniform(0, 8), lambda: self._request(job_id, "pause"))
            schedule(draws.uniform(9, 15), lambda: self._request(job_id, "resume"))

    def submit(self, steps: int) -> str:
        """Submit a job of the fake trainer with so many steps and return its id."""
        metadata: dict[str, str | int] = {
            "steps": steps,
            "step_ms": STEP_MS,
            "checkpoint_steps": self._draws.randint(3, 20),
        }
        if self._with_orphans:
            metadata["fault"] = "outlive"
        job_id = self._stack.workshop.submit(metadata=metadata)
        self.jobs[job_id] = ExpectedJob(job_id, steps)
        return job_id

    def resume_paused(self) -> None:
        """Resume every paused job, because no further request will."""
        for job_id in self.jobs:
            if self._stack.job_status(job_id) == "paused":
                self._request(job_id, "resume")

    def _request(self, job_id: str, action: str) -> None:
        """Send an action, and again every second until the API has processed it."""
        try:
            is_done = self._stack.client.post(f"/v1/jobs/{job_id}/{action}").status_code < 500
        except httpx.HTTPError:
            is_done = False
        if not is_done:
            self._stack.schedule(1, lambda: self._request(job_id, action))

    # -- jobs of the real trainer ------------------------------------------------------------

    def add_real_base_model(self) -> None:
        """Add a tiny decoder to the catalogue; call this before the API reads it."""
        workshop = self._stack.workshop
        decoder = workshop.base_model.parent / "decoder"
        transformers.logging.disable_progress_bar()
        make_decoder(decoder)
        with Path(workshop.settings.base_models or "").open("a") as file:
            file.write(f"decoder:\n  source: local:{decoder}\n")

    def submit_real(self, count: int) -> None:
        """Submit one reference job, wait until it has ended, and submit ``count`` equal jobs."""
        pairs = "".join(
            json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) + "\n"
            for row in make_pairs(64)
        )
        response = self._stack.client.post(
            "/v1/datasets", content=pairs, headers={"Content-Type": "application/x-ndjson"}
        )
        response.raise_for_status()
        spec = {
            "base_model": "decoder",
            "train_dataset": response.json()["id"],
            "eval_dataset": {"fraction": 0.2},
            "lora": {"r": 4, "dropout": 0.1},
            "training": {
                "max_steps": REAL_STEPS, "batch_size": 8, "per_device_batch_size": 4,
                "eval_steps": 5, "checkpoint_steps": 5, "early_stopping": {"patience": 50},
                "learning_rate": 0.01,
            },
            "resources": {"gpus": 0},
            "metadata": {"real": "yes"},
        }  # fmt: skip
        for number in range(count + 1):
            response = self._stack.client.post("/v1/jobs", json=spec, timeout=60)
            if response.is_error:
                raise RuntimeError(response.text)
            job_id = response.json()["id"]
            self.jobs[job_id] = ExpectedJob(job_id, REAL_STEPS, is_real=True)
            if number == 0:
                self._wait_for_success(job_id)

    def _wait_for_success(self, job_id: str) -> None:
        self._stack.wait_until(
            "the reference job", lambda: self._stack.job_status(job_id) == "succeeded", 600
        )
