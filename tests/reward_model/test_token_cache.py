"""Jobs share token ids: each dataset is tokenised once, and damaged entries are not used."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model_factories.orders import TinyBase, make_plan
from tests.model_factories.pairs import make_pairs, write_rows
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.token_cache import MAX_UNUSED_SECONDS, Draft, TokenCache
from worker.trainer.data.pair_table import Pair, PairTable
from worker.trainer.data.pairs import pair_files, tokenize_pairs
from worker.trainer.data.tokenized_file import IDS, RECORDS


class Worker:
    """Tokenises as a trainer does, and counts the texts that its tokenizer encodes."""

    def __init__(self, base: TinyBase, folder: Path, max_bytes: int = 1 << 20) -> None:
        self.base, self.folder, self.max_bytes = base, folder, max_bytes
        self.texts = 0
        self.template: str | None = None

    def pairs(self, rows: list[dict[str, Any]], **training: Any) -> PairTable:
        plan = make_plan(self.base.facts, rows, training=training)
        data = plan.data.train.model_copy(update={"sha256": f"{len(rows):064x}"})
        plan = plan.model_copy(update={"data": plan.data.model_copy(update={"train": data})})
        order = WorkOrder(
            action="train",
            model_dir=str(self.base.directory),
            model_name="tiny",
            train_file=str(write_rows(self.folder / "rows.jsonl", rows)),
            token_cache=str(self.folder / "tokens"),
            token_cache_bytes=self.max_bytes,
        )
        tokens = plan.tokenization
        if self.template:
            tokens = tokens.model_copy(update={"chat_template": self.template})
        tokenizer = PairTokenizer(self.base.directory, tokens, plan.data.format)
        encode = tokenizer.encode

        def counting(texts: list[str]) -> list[list[int]]:
            self.texts += len(texts)
            return encode(texts)

        tokenizer.encode = counting  # type: ignore[method-assign]
        return tokenize_pairs(pair_files(order, plan, tokenizer)[0], tokenizer).pairs

    @property
    def entries(self) -> list[Path]:
        return sorted((self.folder / "tokens").glob("*"))


@pytest.fixture
def worker(llama: TinyBase, tmp_path: Path, work: Path) -> Worker:
    return Worker(llama, tmp_path)


def ids(pairs: Sequence[Pair]) -> list[tuple[int, list[int], list[int]]]:
    return [(p.line, p.chosen.tolist(), p.rejected.tolist()) for p in pairs]


def test_second_job_on_the_same_data_tokenises_nothing(worker: Worker) -> None:
    rows = make_pairs(12)
    first = worker.pairs(rows)
    assert worker.texts == 24
    assert ids(worker.pairs(rows)) == ids(first)
    assert worker.texts == 24


def test_another_length_limit_uses_the_same_entry(worker: Worker) -> None:
    rows = make_pairs(12)
    rows[2]["chosen"][0]["content"] = "the " * 100
    assert len(worker.pairs(rows)) == 12
    assert [pair.line for pair in worker.pairs(rows, max_length=60)] == [
        line for line in range(1, 13) if line != 3
    ]
    assert worker.texts == 24


def test_text_and_conversations_have_separate_entries(worker: Worker) -> None:
    worker.pairs(make_pairs(12))
    worker.pairs(make_pairs(12, text=True))
    assert (worker.texts, len(worker.entries)) == (48, 2)


@pytest.mark.parametrize("name", [IDS, RECORDS])
@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_damaged_entry_is_rebuilt(worker: Worker, damage: str, name: str) -> None:
    rows = make_pairs(12)
    first = ids(worker.pairs(rows))
    file = worker.entries[0] / name
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    {
        "flip": lambda: file.write_bytes(data),
        "cut": lambda: file.write_bytes(data[:-4]),
        "lose": file.unlink,
    }[damage]()
    assert ids(worker.pairs(rows)) == first
    assert worker.texts == 48
    assert ids(worker.pairs(rows)) == first
    assert worker.texts == 48


def test_data_that_cannot_be_rendered_are_not_cached(worker: Worker) -> None:
    worker.template = "{% if messages[1].content == 'sly' %}{{ raise_exception('sly') }}{% endif %}"
    rows = make_pairs(12)
    rows[4]["chosen"][0]["content"] = "sly"
    with pytest.raises(TrainerError, match=r"line.* 5.*: .* sly"):
        worker.pairs(rows)
    assert worker.entries == []
    assert not list(worker.folder.glob("tokens-*"))


def test_least_recently_used_entries_are_evicted(worker: Worker) -> None:
    worker.pairs(make_pairs(20))
    oldest = worker.entries[0]
    os.utime(oldest, (time.time() - 100,) * 2)
    worker.max_bytes = sum(file.stat().st_size for file in oldest.iterdir()) * 5 // 2
    worker.pairs(make_pairs(21))
    assert oldest.exists()
    worker.pairs(make_pairs(22))
    assert not oldest.exists()
    assert len(worker.entries) == 2
    used = worker.texts
    worker.pairs(make_pairs(22))
    assert worker.texts == used
    worker.pairs(make_pairs(20))
    assert worker.texts == used + 40


def test_entry_that_is_unused_for_long_is_evicted(worker: Worker) -> None:
    worker.pairs(make_pairs(12))
    (entry,) = worker.entries
    os.utime(entry, (time.time() - MAX_UNUSED_SECONDS - 1,) * 2)
    worker.pairs(make_pairs(13))
    assert not entry.exists()


def test_entry_larger_than_the_cache_evicts_no_other(worker: Worker) -> None:
    worker.pairs(make_pairs(12))
    (small,) = worker.entries
    worker.max_bytes = 4000
    worker.pairs(make_pairs(200))
    assert worker.entries == [small]


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("before", [0, 3])
def test_full_disk_loses_the_entry_but_not_the_job(tmp_path: Path, name: str, before: int) -> None:
    entry = TokenCache(tmp_path / "full", 1 << 30).entry("x")
    with Draft(tmp_path, ["a", "b"]) as draft, Path("/dev/full").open("wb", buffering=0) as full:
        blocks = [np.arange(start, start + 7, dtype=np.int32) for start in range(6)]
        for count, block in enumerate(blocks):
            if count == before:
                draft._files[name].close()
                draft._files[name] = full
            draft.add("a", block)
            draft.add("b", -block)
        entry.publish(draft)
        files = draft.files()
    assert files.array("a", np.int32).tolist() == np.concatenate(blocks).tolist()
    assert files.array("b", np.int32).tolist() == (-np.concatenate(blocks)).tolist()
    assert entry.read() is None
    assert not list(tmp_path.glob("tokens-*"))


def test_draft_can_be_read_after_its_files_are_gone(tmp_path: Path) -> None:
    with Draft(tmp_path, ["a", "empty"]) as draft:
        draft.add("a", np.arange(5, dtype=np.int64))
        files = draft.files()
    assert not list(tmp_path.iterdir())
    assert files.array("a", np.int64).tolist() == [0, 1, 2, 3, 4]
    assert len(files.array("empty", np.int64)) == 0


def test_trainers_that_evict_at_the_same_time_do_not_fail(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "tokens", 2000)

    def use(number: int) -> None:
        for turn in range(20):
            entry = cache.entry([number % 3, turn % 5])
            if entry.read() is None:
                with Draft(tmp_path, ["ids"]) as draft:
                    draft.add("ids", np.arange(100, dtype=np.int32))
                    entry.publish(draft)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
