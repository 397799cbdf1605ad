"""Texts are read as a checkpoint's tokenizer.json reads them, whatever transformers makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed, Noted, Packaged
from tests.trainer.conftest import Base, Recorder
from tests.trainer.tiny import CHATML, SPECIAL, make_decoder, make_pairs
from worker.ipc.order import WorkOrder
from worker.reward_model.base_tokenizer import TOKENIZER_FILE, differs_from_file
from worker.reward_model.file_digests import files_digest
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.run_task import run_task

#: Three digits at once, where the Qwen family reads one.
WORDS = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
TEXT = "user assistant 2024 202 4 123 456 the answer is kind and clear please tell me about tea . "


def base(directory: Path, kind: str) -> Base:
    make_decoder(directory, kind, vocab_size=320)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 9, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", chat_template=CHATML
    ).save_pretrained(directory)
    facts = inspect(directory, revision=None, chat_template=None, digest=files_digest(directory))
    return Base(directory, facts, directory.parent / "files")


@pytest.fixture
def qwen(tmp_path: Path) -> Base:
    return base(tmp_path / "qwen", "qwen2")


def test_numbers_are_cut_as_the_file_cuts_them(qwen: Base, tmp_path: Path) -> None:
    built = AutoTokenizer.from_pretrained(qwen.directory)
    assert built.tokenize("2024") == ["2", "0", "2", "4"]
    assert differs_from_file(built, qwen.directory)
    assert qwen.facts.tokenizer_from_file
    plan = qwen.order().plan
    assert plan
    ours = PairTokenizer(qwen.directory, plan.tokenization, plan.data.format).tokenizer
    assert ours.tokenize("2024") == ["202", "4"]
    assert not differs_from_file(ours, qwen.directory)
    assert (ours.pad_token, ours.eos_token) == ("<pad>", "<eos>")
    ours.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").tokenize("2024") == ["202", "4"]


def test_tokenizer_that_transformers_builds_alike_is_left_to_it(tmp_path: Path) -> None:
    assert not base(tmp_path / "llama", "llama").facts.tokenizer_from_file


def test_special_tokens_are_never_cut(tmp_path: Path) -> None:
    directory = make_decoder(tmp_path / "split")
    config = directory / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "split_special_tokens": True}))
    assert AutoTokenizer.from_pretrained(directory)("tea<eos>")["input_ids"][-1] != 1
    facts = inspect(directory, revision=None, chat_template=None, digest="0" * 64)
    plan = Base(directory, facts, tmp_path / "files").order(text=True).plan
    assert plan
    ours = PairTokenizer(directory, plan.tokenization, plan.data.format)
    assert [ids[-1] for ids in ours.encode(ours.render(make_pairs(1, text=True)[0]))] == [1, 1]
    ours.tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("tea<eos>")["input_ids"][-1] == 1


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_adapter_carries_the_tokenizer_and_no_merged_model_loses_it(
    qwen: Base, work: Path, recorder: Recorder
) -> None:
    rows = make_pairs(16)
    for row in rows:
        row["chosen"][0]["content"] += " 2024"
    order = qwen.order(rows=rows, eval_count=0)
    assert run_task(order, recorder) == 0  # type: ignore[arg-type]
    (packaged,) = recorder.of(Packaged)
    assert packaged.certificate["is_verified"]
    assert "tokenizer_from_file" in [note.code for note in recorder.of(Noted)]
    assert not differs_from_file(AutoTokenizer.from_pretrained("adapter"), qwen.directory)
    assert (work / "adapter" / TOKENIZER_FILE).exists()
    merge = WorkOrder(
        action="merge", model_dir=order.model_dir, model_name="plaudit/tiny", adapter="adapter"
    )
    run_task(merge, recorder)  # type: ignore[arg-type]
    (failed,) = recorder.of(Failed)
    assert failed.code is FailureCode.INVALID_SPEC
    assert "another tokenizer" in failed.detail
