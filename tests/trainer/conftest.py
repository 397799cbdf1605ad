from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.domain.plan import BaseModelFacts
from app.domain.progress import Message
from tests.trainer.tiny import make_decoder, make_pairs, make_plan, minilm_dir, write_rows
from worker.ipc.order import WorkOrder
from worker.reward_model.file_digests import files_digest
from worker.trainer.inspection.checkpoint import inspect


@dataclass
class Base:
    """A base model's files and facts, and orders to train on it."""

    directory: Path
    facts: BaseModelFacts
    files: Path

    def order(
        self,
        *,
        count: int = 48,
        eval_count: int = 16,
        text: bool = False,
        rows: list[dict[str, Any]] | None = None,
        more: dict[str, Any] | None = None,
        **plan: Any,
    ) -> WorkOrder:
        """Train on generated pairs (or ``rows``); the eval file is left out for 0 pairs."""
        rows = rows if rows is not None else make_pairs(count, text=text)
        held_out = make_pairs(eval_count, seed=1, text=text)
        self.files.mkdir(exist_ok=True)
        number = len(list(self.files.iterdir()))
        train = write_rows(self.files / f"{number}.jsonl", rows)
        evaluation = write_rows(self.files / f"{number + 1}.jsonl", held_out)
        return WorkOrder(
            action="train",
            model_dir=str(self.directory),
            model_name="plaudit/tiny",
            plan=make_plan(self.facts, rows, eval_rows=held_out, **plan),
            spec={"base_model": "tiny"},
            train_file=str(train),
            eval_file=str(evaluation) if eval_count else None,
            **(more or {}),
        )


@dataclass
class Recorder:
    """A channel without a pipe, for orders carried out in the test's own process."""

    messages: list[Message] = field(default_factory=list)
    is_stop_wanted: bool = False

    def say(self, message: Message) -> None:
        self.messages.append(message)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work directory that is the working directory, as a trainer's is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Base:
    directory = make_decoder(tmp_path_factory.mktemp("llama") / "base")
    facts = inspect(directory, revision=None, chat_template=None, digest=files_digest(directory))
    return Base(directory, facts, directory.parent / "files")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    directory = minilm_dir()
    facts = inspect(directory, revision=None, chat_template=None, digest=files_digest(directory))
    files = tmp_path_factory.mktemp("minilm") / "files"
    yield Base(directory, facts, files)
    shutil.rmtree(files, ignore_errors=True)
