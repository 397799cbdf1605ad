"""Base models and adapters in memory: loaded on demand, verified, and dropped when unused.

An adapter is added in two steps. First, any thread fetches and hashes the files of the adapter and
its base model while the engine scores. Then the scoring thread loads them, because loading uses the
resident model and temporarily changes the default dtype of the process.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine, select

from app.base_models.catalogue import BaseModelEntry, Catalogue, HubSource, UnknownBaseModelError
from app.base_models.errors import BaseModelError
from app.base_models.sources import fetch
from app.core.database import reader, transaction
from app.core.settings import Settings
from app.domain.plan import TrainingPlan
from app.domain.scoring import ScoreProblem
from app.models import Adapter, StoredFile
from app.storage import artifact_files
from app.storage.artifact_files import ArtifactDamagedError
from worker.reward_model.file_digests import model_digest
from worker.reward_model.packaged_adapter import SUMMARY
from worker.reward_model.probe_check import ScoresDifferError, check_probes
from worker.reward_model.reply_tokenizer import ReplyTokenizer
from worker.reward_model.resident_model import ResidentModel
from worker.scorer.errors import ScoreRefusedError

log = structlog.get_logger()

LOCK, PROBES = "run.lock.json", "probes.jsonl"
_NEEDED_FILES = ("adapter_config.json", "adapter_model.safetensors", SUMMARY, LOCK, PROBES)


@dataclass
class ResidentAdapter:
    """An adapter in memory, the model that holds it, and how its texts are tokenised."""

    id: str
    model: ResidentModel
    tokenizer: ReplyTokenizer
    bytes: int
    used_at: int = 0
    #: Requests in the queue that need it. While there are any it is not dropped.
    pins: int = 0


@dataclass(frozen=True)
class FetchedAdapter:
    """Fetched files of an adapter, with the data that loading needs."""

    row: Adapter
    folder: tempfile.TemporaryDirectory[str]
    base_dir: Path
    plan: TrainingPlan


@dataclass
class AdapterPool:
    """Base models and adapters in memory, at most ``settings.scorer_memory_bytes``.

    Not thread-safe, except for ``fetch``.
    """

    engine: Engine
    settings: Settings
    catalogue: Catalogue
    device: str = "cpu"
    adapters: dict[str, ResidentAdapter] = field(default_factory=dict)
    _models: dict[str, ResidentModel] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)
    _uses: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the parameters of all base models and adapters."""
        return sum(model.base_bytes for model in self._models.values()) + sum(
            adapter.bytes for adapter in self.adapters.values()
        )

    @property
    def base_count(self) -> int:
        """Base models in memory."""
        return len(self._models)

    def find(self, adapter_id: str) -> ResidentAdapter | None:
        """Return an adapter that is in memory."""
        found = self.adapters.get(adapter_id)
        if found is not None:
            self._uses += 1
            found.used_at = self._uses
        return found

    def fetch(self, adapter_id: str) -> FetchedAdapter:
        """Fetch the files of an adapter and of its base model, and check their hashes.

        Any thread may call it. ``add`` deletes the files after it has loaded them.

        Raises:
            ScoreRefusedError: the adapter does not exist, or its files have changed since training.
        """
        with transaction(reader(self.engine)) as session:
            row = session.get(Adapter, adapter_id)
            files = list(
                session.scalars(select(StoredFile).where(StoredFile.owner_id == adapter_id))
            )
        if row is None:
            raise _refused(f"there is no adapter {adapter_id}")
        if row.summary.get("is_merged"):
            raise _refused(f"{adapter_id} is a merged model; score with the adapter it came from")
        folder = tempfile.TemporaryDirectory(dir=self._directory())
        try:
            plan = self._fetch_files(adapter_id, files, Path(folder.name))
            return FetchedAdapter(row, folder, self._fetch_base(row, plan), plan)
        except BaseException:
            folder.cleanup()
            raise

    def _fetch_files(
        self, adapter_id: str, files: Sequence[StoredFile], directory: Path
    ) -> TrainingPlan:
        """Write the files that scoring needs; return the plan, which is one of them."""
        try:
            for file in files:
                if file.name in _NEEDED_FILES:
                    target = directory / file.name
                    artifact_files.fetch(self.engine, file.blob_id, file.size, target, file.sha256)
            lock = json.loads((directory / LOCK).read_text())
            return TrainingPlan.model_validate(lock["plan"])
        except (ArtifactDamagedError, LookupError, OSError, ValueError) as error:
            raise _not_verified(f"{adapter_id} is damaged: {error}") from error

    def add(self, fetched: FetchedAdapter) -> ResidentAdapter:
        """Load an adapter and score its probes.

        Raises:
            ScoreRefusedError: its scores differ from those of its certificate.
        """
        with fetched.folder as name:
            return self._add(fetched, Path(name))

    def _add(self, fetched: FetchedAdapter, directory: Path) -> ResidentAdapter:
        row, base_dir = fetched.row, fetched.base_dir
        summary = row.summary
        key = json.dumps(
            [str(base_dir), *(summary[name] for name in ("dtype", "quantization", "pad_token_id"))]
        )
        self._make_room(row.bytes, key)
        if key not in self._models:
            self._models[key] = ResidentModel(
                base_dir, summary, self.device, self.settings.scorer_batch_tokens
            )
        model = self._models[key]
        size = model.add(row.id, directory)
        adapter = ResidentAdapter(row.id, model, ReplyTokenizer(base_dir, fetched.plan), size)
        self.adapters[row.id] = adapter
        self.find(row.id)
        try:
            check_probes(model, row.id, adapter.tokenizer, directory / PROBES, row.certificate)
        except ScoresDifferError as error:
            self._drop(adapter)
            raise _not_verified(f"{row.id}: {error}") from error
        log.info("adapter_loaded", adapter=row.id, bytes=size, is_packed=model.is_packed(row.id))
        adapter.pins = 1  # do not evict the adapter that was just loaded
        self._make_room(0, key)
        adapter.pins = 0
        return adapter

    def _fetch_base(self, row: Adapter, plan: TrainingPlan) -> Path:
        try:
            entry = self.catalogue.get(row.base_model)
            fetched = fetch(
                entry,
                self.settings.model_cache,
                token=self.settings.hub_token,
                revision=plan.base_model.revision if isinstance(entry.source, HubSource) else None,
                endpoint=self.settings.hub_endpoint,
                max_bytes=self.settings.max_base_model_bytes,
            )
        except (BaseModelError, UnknownBaseModelError) as error:
            raise _refused(f"the base model {row.base_model}: {error.detail}") from error
        self._check_unchanged(entry, fetched.path, row.summary)
        return fetched.path

    def _check_unchanged(self, entry: BaseModelEntry, path: Path, summary: dict[str, Any]) -> None:
        """Raise unless the files are those of training. Hub revisions never change: skip them."""
        expected = summary.get("base_model_sha256")
        if isinstance(entry.source, HubSource) or expected is None:
            return
        if path not in self._digests:
            self._digests[path] = model_digest(path)
        if self._digests[path] != expected:
            raise _not_verified(
                f"the files of {entry.id} have changed since the adapter was trained"
            )

    def _make_room(self, needed: int, keep: str) -> None:
        """Drop the least recently used adapters and unused base models, until there is room."""
        for adapter in sorted(self.adapters.values(), key=lambda adapter: adapter.used_at):
            if self.bytes + needed <= self.settings.scorer_memory_bytes:
                return
            is_last = len(adapter.model.adapters) == 1
            if adapter.pins or (is_last and self._models.get(keep) is adapter.model):
                continue
            self._drop(adapter)
            log.info("adapter_dropped", adapter=adapter.id)

    def _drop(self, adapter: ResidentAdapter) -> None:
        del self.adapters[adapter.id]
        if len(adapter.model.adapters) > 1:
            adapter.model.remove(adapter.id)
            return
        self._models = {k: model for k, model in self._models.items() if model is not adapter.model}

    def _directory(self) -> Path:
        directory = self.settings.data_dir / "scorer"
        directory.mkdir(0o700, parents=True, exist_ok=True)
        return directory


def _refused(detail: str) -> ScoreRefusedError:
    return ScoreRefusedError(ScoreProblem(code="adapter_unusable", detail=detail))


def _not_verified(detail: str) -> ScoreRefusedError:
    return ScoreRefusedError(ScoreProblem(code="adapter_not_verified", detail=detail))
