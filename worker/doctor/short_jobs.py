"""Checks with short real jobs: each step runs in a trainer process, as a worker starts them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import BaseModelFacts, DatasetRef
from app.domain.progress import (
    MESSAGE,
    CheckpointSaved,
    Failed,
    Inspected,
    Message,
    Packaged,
    Reported,
    Verified,
)
from app.domain.spec import RewardJobSpec
from app.domain.text_format import DataForm
from worker.doctor.engine import SHAPES, word_tokenizer
from worker.doctor.forks import fork_server
from worker.ipc.order import EXIT_DONE, EXIT_STOPPED, ORDER_FILE, VERIFY, WorkOrder
from worker.supervisor.check_results import require
from worker.supervisor.devices import Device, visible_devices
from worker.supervisor.fork_client import ForkClient
from worker.supervisor.trainer_process import Child, TrainerProcess, spawn_cold

QUANTIZATIONS = {"cuda": ("none", "8bit", "4bit"), "cpu": ("none",)}
WORDS = 512
PAIRS, STEPS = 64, 24
#: Words of a reply and of a prompt: short ones, and long ones for the peak of the memory.
SHORT, LONG = (8, 24), (200, 1600)
#: A GPU adds in an order that is not fixed, so that a resumed run may differ.
MAX_RESUME_DIFFERENCE = {"cpu": 0.0, "cuda": 5e-2}
MIN_PEAK_SHARE, MAX_PEAK_SHARE = 0.5, 1.0
T = TypeVar("T")


def verified_jobs(device: str) -> str:
    """Train on the base model in each number format; a fresh process must give the same scores."""
    figures = []
    with _workshop(device) as workshop:
        for quantization in QUANTIZATIONS[device]:
            order = workshop.order(SHORT, quantization=quantization)
            adapter = _last(workshop.run(order), Packaged).directory
            verify = {"action": VERIFY, "adapter": str(workshop.last_work / adapter)}
            certificate: Any = _last(
                workshop.run(order.model_copy(update=verify)), Verified
            ).certificate
            figures.append(
                f"{quantization}: scores differ by {certificate['max_relative_difference']:.1e} "
                f"of 1 + |score|, of {certificate['tolerance']:.0e}"
            )
    return "; ".join(figures)


def stop_and_resume(device: str) -> str:
    """Stop a job at its first checkpoint, resume it, and compare the adapter's weights."""
    with _workshop(device) as workshop:
        order = workshop.order(SHORT, training={"checkpoint_steps": 2})
        expected = workshop.weights(order)
        stopped = workshop.run(order, stops_at_checkpoint=True)
        step = _last(stopped, CheckpointSaved).step
        require(
            step < STEPS, f"the job went on to step {step} of {STEPS} after the request to stop"
        )
        saved = workshop.last_work / _last(stopped, CheckpointSaved).directory
        found = workshop.weights(order.model_copy(update={"checkpoints": [str(saved)]}))
    difference = float((found - expected).norm() / expected.norm())
    limit = MAX_RESUME_DIFFERENCE[device]
    figures = f"after a stop at step {step} of {STEPS} weights differ by {difference:.1e}"
    return require(difference <= limit, f"{figures}, of {limit:.0e}")


def peak_memory(device: str) -> str:
    """Compare the peak of two jobs, with short and with long pairs, with its estimate."""
    shares = []
    with _workshop(device) as workshop:
        for words in (SHORT, LONG):
            reports = [m for m in workshop.run(workshop.order(words)) if isinstance(m, Reported)]
            memory: Any = [report.document for report in reports if report.name == "memory"][-1]
            shares.append(memory["measured_peak_bytes"] / memory["total_bytes"])
    figures = " and ".join(f"{share:.2f}" for share in shares)
    is_met = all(MIN_PEAK_SHARE <= share <= MAX_PEAK_SHARE for share in shares)
    limits = f"{MIN_PEAK_SHARE} to {MAX_PEAK_SHARE}"
    return require(is_met, f"{figures} × the estimate, of {limits}")


@dataclass
class _Workshop:
    """A base model with random weights, and a directory for jobs that train on it."""

    directory: Path
    server: ForkClient
    device: Device | None
    facts: BaseModelFacts | None = None
    runs: int = 0

    @property
    def last_work(self) -> Path:
        """Work directory of the last run."""
        return self.directory / f"run-{self.runs}"

    def order(self, words: tuple[int, int], **spec: Any) -> WorkOrder:
        """Return an order to train on new pairs with so many words in replies and prompts."""
        base = {"model_dir": str(self.directory / "base"), "model_name": "doctor"}
        if self.facts is None:
            self.facts = _last(self.run(WorkOrder(action="inspect", **base)), Inspected).facts
        file = self.directory / f"pairs-{self.runs}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in _rows(*words)))
        data = DatasetRef(id="ds_" + "0" * 32, sha256="0" * 64, pair_count=PAIRS)
        training = {"max_steps": STEPS, "batch_size": 8, "max_length": sum(words) + 8}
        full_spec = RewardJobSpec.model_validate(
            {
                "base_model": "doctor",
                "train_dataset": data.id,
                "resources": {"gpus": int(self.device is not None)},
                **spec,
                "training": training | spec.get("training", {}),
            }
        )
        form = DataForm(has_texts=True, texts_have_prompts=False)
        return WorkOrder(
            action="train",
            **base,
            spec={"base_model": "doctor"},
            plan=compile_plan(full_spec, "local:doctor", self.facts, JobData(data, None, form)),
            facts=self.facts,
            train_file=str(file),
            watchdog_seconds=3600,  # this process sends no keep-alives
        )

    def run(self, order: WorkOrder, *, stops_at_checkpoint: bool = False) -> list[Message]:
        """Run a trainer to its end; return its messages.

        Raises:
            CheckFailedError: it failed.
        """
        self.runs += 1
        self.last_work.mkdir()
        (self.last_work / ORDER_FILE).write_text(order.model_dump_json())
        trainer = TrainerProcess(self.last_work, self._spawn, (), self.device)
        messages: list[Message] = []
        for line in iter(trainer.lines.get, None):
            messages.append(MESSAGE.validate_json(line))
            if stops_at_checkpoint and isinstance(messages[-1], CheckpointSaved):
                trainer.ask_to_stop()
        status = trainer.wait()
        failed = [m.detail for m in messages if isinstance(m, Failed)]
        reason = failed[0] if failed else trainer.take_log(1 << 16)[-300:]
        is_done = status == EXIT_DONE or (stops_at_checkpoint and status == EXIT_STOPPED)
        require(is_done, f"{order.action} ended with status {status}: {reason}")
        return messages

    def weights(self, order: WorkOrder) -> torch.Tensor:
        """Train; return all weights of the adapter as one vector."""
        packaged = _last(self.run(order), Packaged)
        tensors = load_file(self.last_work / packaged.directory / "adapter_model.safetensors")
        return torch.cat([tensors[name].float().flatten() for name in sorted(tensors)])

    def _spawn(
        self, directory: Path, environment: Mapping[str, str], keep: tuple[int, ...]
    ) -> Child:
        forked = self.server.spawn(directory, environment, keep)
        return forked or spawn_cold(directory, environment, keep)


@contextmanager
def _workshop(device: str) -> Iterator[_Workshop]:
    gpu = visible_devices(os.environ)[0] if device == "cuda" else None
    with tempfile.TemporaryDirectory() as name, fork_server([gpu]) as server:
        _save_base(Path(name) / "base", device)
        yield _Workshop(Path(name), server, gpu)


def _last(messages: list[Message], kind: type[T]) -> T:
    found: list[T] = [message for message in messages if isinstance(message, kind)]
    require(bool(found), f"a trainer sent no message of the type {kind.__name__}")
    return found[-1]


def _save_base(directory: Path, device: str) -> None:
    torch.manual_seed(7)
    tokenizer = word_tokenizer([f"w{i}" for i in range(WORDS)])
    config = AutoConfig.for_model(
        "qwen3", vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1,
        max_position_embeddings=8192, **SHAPES[device],
    )  # fmt: skip
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(directory)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(directory)


def _rows(reply_words: int, prompt_words: int) -> list[dict[str, Any]]:
    """Return rows of text; the words of better replies are from the first half of all words."""
    draw = torch.Generator().manual_seed(0)

    def text(count: int, first: int, last: int) -> str:
        return " ".join(f"w{i}" for i in torch.randint(first, last, (count,), generator=draw))

    return [
        {
            "prompt": text(prompt_words, 0, WORDS) + " ",
            "chosen": text(reply_words, 0, WORDS // 2),
            "rejected": text(reply_words, WORDS // 2, WORDS),
            "line": line,
        }
        for line in range(1, PAIRS + 1)
    ]
