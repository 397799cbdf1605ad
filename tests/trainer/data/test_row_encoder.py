"""Rows are encoded in several processes as in one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from app.domain.lifecycle import FailureCode
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs, write_rows
from tests.model_factories.tokenized import make_pair_tokenizer
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data import row_encoder, row_files
from worker.trainer.data.tokenized_file import PairFile, TokenizedFile, tokenize_file


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_encoder, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(row_files, "CHUNK_ROWS", 7)


def rows() -> list[dict[str, Any]]:
    """Pairs with slices that later chunks add, and a row that a template rejects."""
    found = make_pairs(60)
    for number, row in enumerate(found):
        row["slice"] = f"slice {number // 20}"
    found[33]["chosen"][0]["content"] = "sly"
    return found


def tokenize(
    base: TinyBase, path: Path, processes: int, template: str
) -> tuple[TokenizedFile, list[tuple[int, str]], list[int]]:
    invalid: list[tuple[int, str]] = []
    done: list[int] = []
    file = PairFile(path, processes=processes, draft_dir=path.parent)
    tokenizer = make_pair_tokenizer(base, make_pairs(1), chat_template=template)
    tokenized = tokenize_file(file, tokenizer, lambda *row: invalid.append(row), done.append)
    return tokenized, invalid, done


STRICT = (
    "{% for m in messages %}{% if m.content == 'sly' %}{{ raise_exception('no sly') }}{% endif %}"
    "{{ m.content }}<|im_end|>{% endfor %}"
)


@pytest.mark.usefixtures("small_chunks")
def test_several_processes_give_what_one_gives(llama: TinyBase, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows())
    one, invalid, done = tokenize(llama, path, 1, STRICT)
    many, invalid_of_many, done_of_many = tokenize(llama, path, 3, STRICT)
    assert (invalid, done) == (invalid_of_many, done_of_many)
    assert [line for line, _ in invalid] == [34]
    assert done[-1] == 60
    assert np.array_equal(one.ids, many.ids)
    assert np.array_equal(one.ends, many.ends)
    assert one.records.tobytes() == many.records.tobytes()
    assert one.slices == many.slices == ["slice 0", "slice 1", "slice 2"]
    assert [int(place) for place in one.records["row"]] == [n for n in range(60) if n != 33]


@pytest.mark.usefixtures("small_chunks")
def test_error_of_an_encoder_process_is_that_of_the_job(llama: TinyBase, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows())
    with pytest.raises(TrainerError) as failure:
        tokenize(llama, path, 2, "{{ 'x' * 10**7 }}")
    assert failure.value.code is FailureCode.MODEL_UNSUPPORTED
    assert "for the pair in line 1" in failure.value.detail


def die(_lines: list[bytes]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def endless(_texts: list[str]) -> list[list[int]]:
    while True:
        pass


@pytest.mark.usefixtures("small_chunks")
def test_tokenizer_over_its_processor_time_is_the_fault_of_the_base_model(
    llama: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel ends the encoder process, so the process cannot report the reason."""
    monkeypatch.setattr(row_encoder, "ENCODING_SECONDS", 0.1)
    monkeypatch.setattr(row_encoder, "MIN_CHARACTERS_PER_SECOND", 1e9)
    monkeypatch.setattr(PairTokenizer, "encode", lambda _, texts: endless(texts))
    path = write_rows(tmp_path / "rows.jsonl", rows())
    with pytest.raises(TrainerError, match="tokenizer needs more processor time") as failure:
        tokenize(llama, path, 2, STRICT)
    assert failure.value.code is FailureCode.MODEL_UNSUPPORTED
    assert not failure.value.code.failure.is_retryable


@pytest.mark.usefixtures("small_chunks")
def test_tokenizer_that_makes_texts_too_long_is_no_fault_of_the_machine(
    llama: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten replacements turn one character into ten billion; Rust's allocator aborts."""
    monkeypatch.setattr(row_encoder, "ENCODING_BYTES", 64 << 20)
    path = write_rows(tmp_path / "rows.jsonl", rows())
    growing = [normalizers.Replace("a", "a" * 10)] * 10
    tokenizer = make_pair_tokenizer(llama, make_pairs(1), chat_template=STRICT)
    tokenizer.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(growing)
    with pytest.raises(TrainerError, match="exceeded its memory limit") as failure:
        list(row_encoder.encode_file(path, tokenizer, 2))
    assert failure.value.code is FailureCode.OUT_OF_MEMORY
    assert not failure.value.code.failure.is_retryable


@pytest.mark.usefixtures("small_chunks")
def test_killed_encoder_process_fails_the_job(
    llama: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_encoder, "_encode", die)
    path = write_rows(tmp_path / "rows.jsonl", rows())
    with pytest.raises(TrainerError, match="a tokenisation process was killed") as failure:
        tokenize(llama, path, 2, STRICT)
    assert failure.value.code is FailureCode.HOST_ERROR
