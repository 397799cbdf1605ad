"""The jobs that are submitted while the service is struck."""

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
#: Steps of a job: most are short, so that many end; a quarter would outlast lease and grace twice.
SHORT, LONG = (20, 120), (500, 800)
REAL_STEPS = 60


@dataclass
class Wanted:
    """A submitted job and what may become of it."""

    id: str
    steps: int
    ends: set[str] = field(default_factory=lambda: {"succeeded"})
    is_real: bool = False


class Load:
    """Submits jobs and remembers them."""

    def __init__(self, stack: Stack, draws: random.Random, *, outlive: bool) -> None:
        self._stack, self._draws, self._outlive = stack, draws, outlive
        self.jobs: dict[str, Wanted] = {}

    def submit(self) -> None:
        """A fake job; some are cancelled or paused."""
        draws, soon = self._draws, self._stack.soon
        job_id = self.start(draws.randint(*(LONG if draws.random() < 0.25 else SHORT)))
        draw = draws.random()
        if draw < 0.1:
            self.jobs[job_id].ends = {"cancelled", "succeeded"}
            soon(draws.uniform(0, 8), lambda: self._ask(job_id, "cancel"))
        elif draw < 0.25:
            soon(draws.uniform(0, 8), lambda: self._ask(job_id, "pause"))
            soon(draws.uniform(9, 15), lambda: self._ask(job_id, "resume"))

    def start(self, steps: int) -> str:
        """A fake job of so many steps; its id."""
        metadata = {
            "steps": steps,
            "step_ms": STEP_MS,
            "checkpoint_steps": self._draws.randint(3, 20),
        }
        if self._outlive:
            metadata["fault"] = "outlive"
        job_id = self._stack.shop.submit(metadata=metadata)
        self.jobs[job_id] = Wanted(job_id, steps)
        return job_id

    def resume_paused(self) -> None:
        """Whatever was paused when nobody was left to ask for more."""
        for job_id in self.jobs:
            if self._stack.status(job_id) == "paused":
                self._ask(job_id, "resume")

    def _ask(self, job_id: str, what: str) -> None:
        try:
            was_heard = self._stack.client.post(f"/v1/jobs/{job_id}/{what}").status_code < 500
        except httpx.HTTPError:
            was_heard = False
        if not was_heard:
            self._stack.soon(1, lambda: self._ask(job_id, what))

    # -- jobs of the real trainer ------------------------------------------------------------

    def add_real_base_model(self) -> None:
        """A tiny decoder in the catalogue; before the API reads that."""
        shop = self._stack.shop
        decoder = shop.base_model.parent / "decoder"
        transformers.logging.disable_progress_bar()
        make_decoder(decoder)
        with Path(shop.settings.base_models or "").open("a") as file:
            file.write(f"decoder:\n  source: local:{decoder}\n")

    def submit_real(self, count: int) -> None:
        """So many, after one that is the twin of them all and ends before the first fault."""
        pairs = "".join(
            json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) + "\n"
            for row in make_pairs(64)
        )
        answer = self._stack.client.post(
            "/v1/datasets", content=pairs, headers={"Content-Type": "application/x-ndjson"}
        )
        answer.raise_for_status()
        spec = {
            "base_model": "decoder",
            "train_dataset": answer.json()["id"],
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
            answer = self._stack.client.post("/v1/jobs", json=spec, timeout=60)
            if answer.is_error:
                raise RuntimeError(answer.text)
            job_id = answer.json()["id"]
            self.jobs[job_id] = Wanted(job_id, REAL_STEPS, is_real=True)
            if number == 0:
                self._until_succeeded(job_id)

    def _until_succeeded(self, job_id: str) -> None:
        self._stack.until("the twin", lambda: self._stack.status(job_id) == "succeeded", 600)
