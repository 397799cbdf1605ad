from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.progress import Noted
from tests.model_factories.architectures import make_base_model
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import CHATML
from tests.model_factories.trainer_process import RecordingChannel
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.preparation import DataInputs, prepare_data
from worker.trainer.data.template_coverage import SAMPLED_PAIRS

#: Templates that remove reasoning like DeepSeek-R1's (everywhere) and Qwen3's (before the last
#: turn), one that ignores system messages, and one that only changes whitespace.
R1 = CHATML.replace("message.content", "message.content.split('</think>')[-1]")
QWEN3 = CHATML.replace(
    "message.content", "(message.content if loop.last else message.content.split('</think>')[-1])"
)
NO_SYSTEM = CHATML.replace(
    "for message in messages", "for message in messages if message.role != 'system'"
)
TRIMMED = CHATML.replace("message.content", "message.content.strip() | replace('  ', '\n')")


def notes(
    base: TinyBase,
    channel: RecordingChannel,
    template: str,
    rows: list[dict[str, Any]],
    code: str = "text_left_out",
) -> list[Noted]:
    facts = base.facts.model_copy(update={"chat_template": template})
    order = replace(base, facts=facts).order(rows=rows, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(base.directory, order.plan.tokenization, "conversational")
    prepare_data(DataInputs(order, order.plan, None, tokenizer, channel))
    return [note for note in channel.of(Noted) if note.code == code]


def reasoning(count: int, *, in_prompt: bool = False) -> list[dict[str, Any]]:
    rows = make_pairs(count)
    for row in rows:
        row["prompt"] = [{"role": "system", "content": " be kind  "}, *row["prompt"]]
        thought = {"role": "assistant", "content": "<think> maps </think> answer"}
        if in_prompt:
            row["prompt"] += [thought, {"role": "user", "content": "please"}]
        else:
            for reply in ("chosen", "rejected"):
                row[reply][0]["content"] = "<think> stars </think> " + row[reply][0]["content"]
    return rows


@pytest.mark.parametrize(
    ("template", "in_prompt", "in_replies"),
    [(R1, False, 3), (R1, True, 0), (QWEN3, True, 0), (NO_SYSTEM, False, 0)],
    ids=["r1", "r1-earlier", "qwen3-earlier", "no-system"],
)
def test_text_that_the_template_leaves_out_is_warned_of(
    template: str, in_replies: int, llama: TinyBase, channel: RecordingChannel, *, in_prompt: bool
) -> None:
    (note,) = notes(llama, channel, template, reasoning(3, in_prompt=in_prompt))
    assert note.is_warning
    assert note.data == {
        "dataset": "training", "count": 3, "in_replies": in_replies, "lines": [1, 2, 3],
    }  # fmt: skip


@pytest.mark.parametrize("template", [CHATML, TRIMMED, QWEN3], ids=["plain", "trims", "qwen3"])
def test_complete_text_is_not_warned_of(
    template: str, llama: TinyBase, channel: RecordingChannel
) -> None:
    assert not notes(llama, channel, template, reasoning(3))


def test_large_dataset_is_sampled_evenly(llama: TinyBase, channel: RecordingChannel) -> None:
    (note,) = notes(llama, channel, R1, reasoning(2 * SAMPLED_PAIRS))
    assert note.data["count"] == SAMPLED_PAIRS
    assert note.data["lines"][:3] == [1, 3, 5]


def test_template_with_random_choices_is_refused(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    random_template = CHATML + "{{ ['tea', 'cars'] | random }}"
    with pytest.raises(TrainerError, match="gives other tokens each time"):
        notes(llama, channel, random_template, make_pairs(SAMPLED_PAIRS))


def test_tokenizer_with_dropout_is_refused(tmp_path: Path, channel: RecordingChannel) -> None:
    directory = make_base_model(tmp_path / "base", "llama")
    file = directory / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"]["dropout"] = 0.5
    file.write_text(json.dumps(document))
    order = TinyBase.of(directory, tmp_path / "files").order(count=8, text=True, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(directory, order.plan.tokenization, "text")
    with pytest.raises(TrainerError, match=r"tokenizer\.json uses dropout"):
        prepare_data(DataInputs(order, order.plan, None, tokenizer, channel))


@pytest.mark.parametrize(
    ("template", "is_warned"), [(CHATML, True), ("{{ bos_token }}" + CHATML, False)]
)
def test_template_without_the_start_token_of_the_tokenizer_is_warned_of(
    template: str, tmp_path: Path, channel: RecordingChannel, *, is_warned: bool
) -> None:
    directory = make_base_model(tmp_path / "base", "llama")  # its tokenizer begins with <s>
    base = TinyBase.of(directory, tmp_path / "files")
    found = notes(base, channel, template, make_pairs(3), "start_left_out")
    assert [("'<s>'" in note.message, note.is_warning) for note in found] == [
        (True, True)
    ] * is_warned


@pytest.mark.parametrize("model", ["llama", "minilm"])
def test_no_start_token_is_missed_without_one_or_with_the_plain_template(
    model: str, channel: RecordingChannel, request: pytest.FixtureRequest
) -> None:
    base: TinyBase = request.getfixturevalue(model)
    order = base.order(count=3, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(base.directory, order.plan.tokenization, "conversational")
    prepare_data(DataInputs(order, order.plan, None, tokenizer, channel))
    assert not channel.of(Noted)
