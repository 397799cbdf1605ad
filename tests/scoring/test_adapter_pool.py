"""Adapters in a scorer's memory are verified, bounded, and never evicted during a request."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.base_models.catalogue import load_catalogue
from app.core.database import transaction
from app.models import StoredFile
from tests.model_factories.orders import TinyBase
from tests.scoring.stage import Stage, publish, train_adapter
from worker.scorer.adapter_pool import AdapterPool, ResidentAdapter
from worker.scorer.errors import ScoreRefusedError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def make_pool(stage: Stage, **settings: Any) -> AdapterPool:
    settings_ = stage.settings.model_copy(update=settings)
    return AdapterPool(stage.engine, settings_, load_catalogue(stage.settings.base_models))


def load(pool: AdapterPool, adapter_id: str) -> ResidentAdapter:
    if found := pool.find(adapter_id):
        return found
    loading = pool.reserve(pool.fetch(adapter_id))
    pool.load(loading)
    return pool.add(loading)


def test_least_recently_used_adapter_leaves_unless_a_request_needs_it(stage: Stage) -> None:
    room = make_pool(stage)
    load(room, stage.chat)
    pool = make_pool(stage, scorer_memory_bytes=room.bytes)
    first = load(pool, stage.chat)
    first.pins = 1
    load(pool, stage.other_chat)
    assert list(pool.adapters) == [stage.chat, stage.other_chat]
    first.pins = 0
    load(pool, stage.text)
    assert stage.chat not in pool.adapters
    assert stage.text in pool.adapters
    assert pool.base_count == 1


def test_room_is_made_before_an_adapter_is_loaded(stage: Stage) -> None:
    room = make_pool(stage)
    for adapter in (stage.chat, stage.other_chat, stage.text):
        load(room, adapter)
    pool = make_pool(stage, scorer_memory_bytes=room.bytes - 1)
    load(pool, stage.chat)
    load(pool, stage.other_chat)
    before = pool.bytes
    loading = pool.reserve(pool.fetch(stage.text))
    assert stage.chat not in pool.adapters
    pool.load(loading)
    pool.add(loading)
    assert stage.text in pool.adapters
    assert pool.bytes < room.bytes
    pool.give_up(pool.reserve(pool.fetch(stage.chat)))  # that could not be loaded
    assert pool.bytes <= before
    assert pool.base_count == 1


def test_file_that_does_not_match_its_hash_is_refused(stage: Stage) -> None:
    adapter = publish(stage.engine, stage.settings, stage.trained["chat"])
    with transaction(stage.engine) as session:
        session.execute(
            update(StoredFile)
            .where(StoredFile.owner_id == adapter, StoredFile.name == "adapter_config.json")
            .values(sha256="0" * 64)
        )
    with pytest.raises(ScoreRefusedError) as refusal:
        make_pool(stage).fetch(adapter)
    assert refusal.value.problem.code == "adapter_not_verified"


def test_probes_are_truncated_as_in_training(
    stage: Stage, tiny: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    limits = {"max_length": 20, "overlong": "truncate_left"}
    trained = train_adapter(tiny, tmp_path, training=limits)
    pool = make_pool(stage)
    adapter = load(pool, publish(stage.engine, stage.settings, trained))
    lengths = [len(adapter.tokenizer._pairs.encode([text])[0]) for text in trained.texts]
    assert max(lengths) > limits["max_length"]
    assert adapter.model.is_packed(adapter.id)


def test_adapter_whose_probes_get_other_scores_is_refused(stage: Stage, tmp_path: Path) -> None:
    trained = stage.trained["chat"]
    copy = Path(shutil.copytree(trained.directory, tmp_path / "adapter"))
    probes = trained.probes
    probes[0]["chosen_score"] += 0.001
    (copy / "probes.jsonl").write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    adapter = publish(stage.engine, stage.settings, replace(trained, directory=copy))
    pool = make_pool(stage)
    with pytest.raises(ScoreRefusedError, match="probes get other scores"):
        load(pool, adapter)
    assert not pool.adapters
    assert pool.base_count == 0
