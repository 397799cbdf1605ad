"""Text is split as tokenizer.json splits it, even if transformers would do otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed, Noted, Packaged
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import CHATML, SPECIAL, make_decoder
from tests.model_factories.trainer_process import RecordingChannel, certificate_of
from worker.ipc.order import WorkOrder
from worker.reward_model.base_tokenizer import TOKENIZER_FILE, differs_from_file
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.run_task import run_task

#: Splits off up to three digits; transformers' Qwen tokenizer splits off one.
WORDS = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
TEXT = "user assistant 2024 202 4 123 456 the answer is kind and clear please tell me about tea . "


def make_base(directory: Path, kind: str) -> TinyBase:
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
    return TinyBase.of(directory, directory.parent / "files")


@pytest.fixture
def qwen(tmp_path: Path) -> TinyBase:
    return make_base(tmp_path / "qwen", "qwen2")


def test_numbers_are_split_as_in_the_file(qwen: TinyBase, tmp_path: Path) -> None:
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


def test_tokenizer_of_transformers_is_used_when_it_gives_the_same_ids(tmp_path: Path) -> None:
    assert not make_base(tmp_path / "llama", "llama").facts.tokenizer_from_file


def test_special_tokens_are_never_split(tmp_path: Path) -> None:
    directory = make_decoder(tmp_path / "split")
    config = directory / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "split_special_tokens": True}))
    assert AutoTokenizer.from_pretrained(directory)("tea<eos>")["input_ids"][-1] != 1
    plan = TinyBase.of(directory, tmp_path / "files").order(text=True).plan
    assert plan
    ours = PairTokenizer(directory, plan.tokenization, plan.data.format)
    assert [ids[-1] for ids in ours.encode(ours.render(make_pairs(1, text=True)[0]))] == [1, 1]
    ours.tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("tea<eos>")["input_ids"][-1] == 1


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_adapter_contains_the_tokenizer_and_cannot_be_merged_without_it(
    qwen: TinyBase, work: Path, channel: RecordingChannel
) -> None:
    rows = make_pairs(16)
    for row in rows:
        row["chosen"][0]["content"] += " 2024"
    order = qwen.order(rows=rows, eval_count=0)
    assert run_task(order, channel) == 0
    (packaged,) = channel.of(Packaged)
    assert certificate_of(order, work / packaged.directory)["is_verified"]
    assert "tokenizer_from_file" in [note.code for note in channel.of(Noted)]
    assert not differs_from_file(AutoTokenizer.from_pretrained("adapter"), qwen.directory)
    assert (work / "adapter" / TOKENIZER_FILE).exists()
    merge = WorkOrder(
        action="merge", model_dir=order.model_dir, model_name="plaudit/tiny", adapter="adapter"
    )
    run_task(merge, channel)
    (failed,) = channel.of(Failed)
    assert failed.code is FailureCode.INVALID_SPEC
    assert "another tokenizer" in failed.detail
