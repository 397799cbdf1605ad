"""Base models and adapters in memory: loaded on demand, verified, and dropped when unused.

An adapter comes in four steps, so that others are scored meanwhile:

1. ``fetch``, in any thread: get its files and its base model's, and check their hashes.
2. ``reserve``, in the thread that scores: make room for it.
3. ``load``, in another thread, one adapter at a time: read its tensors and the base model.
4. ``add``, in the thread that scores: put the tensors into the base model, and score the probes.
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
from app.models import Adapter, StoredFile
from app.storage import artifact_files
from app.storage.artifact_files import ArtifactDamagedError
from worker.reward_model.file_digests import model_digest
from worker.reward_model.packaged_adapter import SUMMARY, AdapterWeights
from worker.reward_model.probe_check import ScoresDifferError, check_probes
from worker.reward_model.reply_tokenizer import ReplyTokenizer
from worker.reward_model.resident_model import ResidentModel
from worker.scorer.errors import not_verified, refused

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
class _Base:
    """A base model in memory, or on its way there."""

    bytes: int
    model: ResidentModel | None = None
    #: Adapters on their way that need it. While there are any it is not dropped.
    awaited: int = 0


@dataclass
class LoadingAdapter:
    """An adapter that has its place in memory."""

    fetched: FetchedAdapter
    base: _Base
    #: What ``load`` has read.
    parts: tuple[ResidentModel, AdapterWeights, ReplyTokenizer] | None = None


@dataclass
class AdapterPool:
    """Base models and adapters in memory, at most ``settings.scorer_memory_bytes``.

    For one thread, apart from ``fetch`` and ``load``.
    """

    engine: Engine
    settings: Settings
    catalogue: Catalogue
    device: str = "cpu"
    adapters: dict[str, ResidentAdapter] = field(default_factory=dict)
    _bases: dict[str, _Base] = field(default_factory=dict)
    _reserved: int = 0
    _digests: dict[Path, str] = field(default_factory=dict)
    _uses: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the parameters of all base models and adapters, also of those that come."""
        bases = sum(base.bytes for base in self._bases.values())
        return self._reserved + bases + sum(adapter.bytes for adapter in self.adapters.values())

    @property
    def base_count(self) -> int:
        """Base models in memory."""
        return sum(base.model is not None for base in list(self._bases.values()))

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
            raise refused(f"there is no adapter {adapter_id}")
        if row.summary.get("is_merged"):
            raise refused(f"{adapter_id} is a merged model; score with the adapter it came from")
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
            raise not_verified(f"{adapter_id} is damaged: {error}") from error

    def reserve(self, fetched: FetchedAdapter) -> LoadingAdapter:
        """Take the place of an adapter that was fetched; drop others if there is no room.

        Either ``add`` or ``give_up`` must follow.
        """
        row, base_dir = fetched.row, fetched.base_dir
        parts = (row.summary[name] for name in ("dtype", "quantization", "pad_token_id"))
        key = json.dumps([str(base_dir), *parts])
        base = self._bases.get(key) or _Base(_weight_bytes(base_dir))
        base.awaited += 1
        self._make_room(row.bytes + (0 if key in self._bases else base.bytes))
        self._bases[key] = base
        self._reserved += row.bytes
        return LoadingAdapter(fetched, base)

    def load(self, loading: LoadingAdapter) -> None:
        """Read the tensors and the tokenizer of an adapter, and its base model if that is not here.

        One thread at a time may call it, while another one scores. ``add`` must not run meanwhile:
        both would change how torch creates modules.
        """
        fetched, base = loading.fetched, loading.base
        if base.model is None:
            base.model = ResidentModel(
                fetched.base_dir,
                fetched.row.summary,
                self.device,
                self.settings.scorer_batch_tokens,
            )
        weights = AdapterWeights.read(Path(fetched.folder.name), self.device)
        tokenizer = ReplyTokenizer(fetched.base_dir, fetched.plan)
        loading.parts = base.model, weights, tokenizer

    def add(self, loading: LoadingAdapter) -> ResidentAdapter:
        """Put an adapter that was loaded into use once its probes get their scores.

        Raises:
            ScoreRefusedError: its scores differ from those of its certificate.
        """
        try:
            adapter = self._add(loading)
        finally:
            self.give_up(loading)
        adapter.pins = 1  # what was loaded just now is not what leaves
        self._make_room(0)
        adapter.pins = 0
        return adapter

    def give_up(self, loading: LoadingAdapter) -> None:
        """Free the place of an adapter, and its files."""
        loading.fetched.folder.cleanup()
        self._reserved -= loading.fetched.row.bytes
        loading.base.awaited -= 1
        if all(adapter.model is not loading.base.model for adapter in self.adapters.values()):
            self._drop_base(loading.base)

    def _add(self, loading: LoadingAdapter) -> ResidentAdapter:
        assert loading.parts is not None
        model, weights, tokenizer = loading.parts
        row = loading.fetched.row
        loading.base.bytes = model.base_bytes
        size = model.add(row.id, weights)
        adapter = ResidentAdapter(row.id, model, tokenizer, size)
        self.adapters[row.id] = adapter
        self.find(row.id)
        probes = Path(loading.fetched.folder.name) / PROBES
        try:
            check_probes(model, row.id, tokenizer, probes, row.certificate)
        except ScoresDifferError as error:
            self._drop(adapter)
            raise not_verified(f"{row.id}: {error}") from error
        log.info("adapter_loaded", adapter=row.id, bytes=size, is_packed=model.is_packed(row.id))
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
            raise refused(f"the base model {row.base_model}: {error.detail}") from error
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
            raise not_verified(
                f"the files of {entry.id} have changed since the adapter was trained"
            )

    def _make_room(self, needed: int) -> None:
        """Drop the least recently used adapters, and base models without any, until it fits."""
        awaited = [base.model for base in self._bases.values() if base.awaited]
        for adapter in sorted(self.adapters.values(), key=lambda adapter: adapter.used_at):
            if self.bytes + needed <= self.settings.scorer_memory_bytes:
                return
            is_last = len(adapter.model.adapters) == 1
            if adapter.pins or (is_last and adapter.model in awaited):
                continue
            self._drop(adapter)
            log.info("adapter_dropped", adapter=adapter.id)

    def _drop(self, adapter: ResidentAdapter) -> None:
        del self.adapters[adapter.id]
        if len(adapter.model.adapters) > 1:
            adapter.model.remove(adapter.id)
            return
        for base in list(self._bases.values()):
            if base.model is adapter.model:
                self._drop_base(base)

    def _drop_base(self, base: _Base) -> None:
        """Drop a base model without adapters; one that is awaited will be loaded again."""
        base.model = None
        if not base.awaited:
            self._bases = {key: other for key, other in self._bases.items() if other is not base}

    def _directory(self) -> Path:
        directory = self.settings.data_dir / "scorer"
        directory.mkdir(0o700, parents=True, exist_ok=True)
        return directory


def _weight_bytes(base_dir: Path) -> int:
    """Return what a base model takes at most, as long as it is not loaded."""
    return sum(file.stat().st_size for file in base_dir.glob("*.safetensors"))
