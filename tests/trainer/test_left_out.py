from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.progress import Noted
from tests.architectures import make_checkpoint
from tests.trainer.conftest import Base, Recorder
from tests.trainer.tiny import CHATML, make_pairs
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.template_coverage import PAIRS_LOOKED_AT
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.tasks.prepare_data import prepare_data

#: As DeepSeek-R1's, that of Qwen3 for all but the last turn, and one that only trims.
R1 = CHATML.replace("message.content", "message.content.split('</think>')[-1]")
QWEN3 = CHATML.replace(
    "message.content", "(message.content if loop.last else message.content.split('</think>')[-1])"
)
NO_SYSTEM = CHATML.replace(
    "for message in messages", "for message in messages if message.role != 'system'"
)
TRIMMED = CHATML.replace("message.content", "message.content.strip() | replace('  ', '\n')")


def notes(
    base: Base,
    recorder: Recorder,
    template: str,
    rows: list[dict[str, Any]],
    code: str = "text_left_out",
) -> list[Noted]:
    facts = base.facts.model_copy(update={"chat_template": template})
    order = replace(base, facts=facts).order(rows=rows, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(base.directory, order.plan.tokenization, "conversational")
    prepare_data(order, order.plan, None, tokenizer, recorder)  # type: ignore[arg-type]
    return [note for note in recorder.of(Noted) if note.code == code]


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
def test_text_that_the_template_leaves_out_is_noted(
    template: str, in_prompt: bool, in_replies: int, llama: Base, recorder: Recorder
) -> None:
    (note,) = notes(llama, recorder, template, reasoning(3, in_prompt=in_prompt))
    assert note.is_warning
    assert note.data == {
        "dataset": "training", "count": 3, "in_replies": in_replies, "lines": [1, 2, 3],
    }  # fmt: skip


@pytest.mark.parametrize("template", [CHATML, TRIMMED, QWEN3], ids=["plain", "trims", "qwen3"])
def test_nothing_is_noted_of_text_that_is_there(
    template: str, llama: Base, recorder: Recorder
) -> None:
    assert not notes(llama, recorder, template, reasoning(3))


def test_large_dataset_is_looked_at_here_and_there(llama: Base, recorder: Recorder) -> None:
    (note,) = notes(llama, recorder, R1, reasoning(2 * PAIRS_LOOKED_AT))
    assert note.data["count"] == PAIRS_LOOKED_AT
    assert note.data["lines"][:3] == [1, 3, 5]


def test_template_that_draws_by_chance_is_refused(llama: Base, recorder: Recorder) -> None:
    by_chance = CHATML + "{{ ['tea', 'cars'] | random }}"
    with pytest.raises(TrainerError, match="other tokens each time"):
        notes(llama, recorder, by_chance, make_pairs(PAIRS_LOOKED_AT))


def test_tokenizer_that_draws_by_chance_is_refused(tmp_path: Path, recorder: Recorder) -> None:
    directory = make_checkpoint(tmp_path / "base", "llama")
    file = directory / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["dropout"] = 0.5
    file.write_text(json.dumps(tokenizer))
    facts = inspect(directory, revision=None, chat_template=None, digest="0" * 64)
    rows = make_pairs(8, text=True)
    order = Base(directory, facts, tmp_path / "files").order(rows=rows, eval_count=0)
    assert order.plan
    ours = PairTokenizer(directory, order.plan.tokenization, "text")
    with pytest.raises(TrainerError, match=r"dropout in tokenizer\.json"):
        prepare_data(order, order.plan, None, ours, recorder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "is_noted"), [(CHATML, True), ("{{ bos_token }}" + CHATML, False)]
)
def test_template_without_the_token_that_begins_every_text_is_noted(
    template: str, is_noted: bool, tmp_path: Path, recorder: Recorder
) -> None:
    directory = make_checkpoint(tmp_path / "base", "llama")  # its tokenizer begins with <s>
    facts = inspect(directory, revision=None, chat_template=None, digest="0" * 64)
    base = Base(directory, facts, tmp_path / "files")
    found = notes(base, recorder, template, make_pairs(3), "start_left_out")
    assert [("'<s>'" in note.message, note.is_warning) for note in found] == [
        (True, True)
    ] * is_noted


@pytest.mark.parametrize("model", ["llama", "minilm"])
def test_start_is_never_missed_where_none_is_or_the_plain_template_has_it(
    model: str, recorder: Recorder, request: pytest.FixtureRequest
) -> None:
    base: Base = request.getfixturevalue(model)
    order = base.order(count=3, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(base.directory, order.plan.tokenization, "conversational")
    prepare_data(order, order.plan, None, tokenizer, recorder)  # type: ignore[arg-type]
    assert not recorder.of(Noted)
