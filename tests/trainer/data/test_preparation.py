"""Inspections and training jobs reject the same data and warn of the same problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed, Inspected, Noted, Reported, RowsDone
from tests.model_factories.failures import run_to_failure
from tests.model_factories.orders import TinyBase, with_plan
from tests.model_factories.pairs import make_pairs
from tests.model_factories.trainer_process import RecordingChannel, run_trainer
from worker.ipc.order import EXIT_DONE, EXIT_FAILED, WorkOrder
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.truncation import truncate_left
from worker.trainer.data import memory_report, preparation
from worker.trainer.data.preparation import DataInputs, prepare_data
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.usefixtures("work"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


def inspection_of(order: WorkOrder) -> WorkOrder:
    return order.model_copy(update={"action": "inspect"})


def with_long_reply(count: int, length: int) -> list[dict[str, Any]]:
    rows = make_pairs(count)
    rows[4]["chosen"][0]["content"] = "the " * length
    return rows


def overlong(base: TinyBase) -> WorkOrder:
    limit = {"max_length": 64, "overlong": "error"}
    return base.order(rows=with_long_reply(12, 200), eval_count=0, training=limit)


def all_overlong(base: TinyBase) -> WorkOrder:
    return with_plan(base.order(count=8, eval_count=0), tokenization={"max_length": 3})


def unrenderable(base: TinyBase) -> WorkOrder:
    strict = {"chat_template": "{{ raise_exception('no such role') }}"}
    return with_plan(base.order(count=8, eval_count=0), tokenization=strict)


def rendered_to_nothing(base: TinyBase) -> WorkOrder:
    silent = {"chat_template": "{# nothing #}"}
    return with_plan(base.order(count=8, eval_count=0), tokenization=silent)


def ends_in_pad_token(base: TinyBase) -> WorkOrder:
    rows = make_pairs(8, text=True)
    rows[2]["rejected"] += " <pad>"
    order = base.order(rows=rows, eval_count=0, text=True)
    return with_plan(order, tokenization={"append_eos": False})


def one_prompt(base: TinyBase) -> WorkOrder:
    rows = [row | {"prompt": make_pairs(1)[0]["prompt"]} for row in make_pairs(8)]
    order = base.order(rows=rows, eval_count=0)
    return with_plan(order, data={"eval": None, "eval_fraction": 0.25})


@pytest.mark.parametrize(
    ("make_order", "code", "reason"),
    [
        (overlong, "pairs_overlong", "line 5: longer than max_length=64 tokens"),
        (all_overlong, "pairs_overlong", "all 8 pairs are longer than max_length=3 tokens"),
        (
            unrenderable,
            "dataset_invalid",
            "cannot render this pair: no such role. This holds for all 8 rows, so the cause is "
            "probably the chat template",
        ),
        (
            rendered_to_nothing,
            "dataset_invalid",
            "a reply has no tokens. This holds for all 8 rows, so the cause is probably the chat",
        ),
        (ends_in_pad_token, "dataset_invalid", "line 3: a text ends in '<pad>'"),
        (one_prompt, "dataset_invalid", "every pair has the same prompt"),
    ],
)
def test_inspection_refuses_the_data_that_a_job_refuses(
    llama: TinyBase,
    channel: RecordingChannel,
    make_order: Callable[[TinyBase], WorkOrder],
    code: str,
    reason: str,
) -> None:
    order = make_order(llama)
    failure = run_to_failure(order, channel)
    assert failure.code == code
    assert reason in failure.detail
    inspection = RecordingChannel()
    assert run_to_failure(inspection_of(order), inspection) == failure
    assert not inspection.of(Inspected)
    assert [m.name for m in inspection.of(Reported)] == ["dataset", "memory"]


def test_inspection_process_reports_the_data_that_it_refuses(
    llama: TinyBase, tmp_path: Path
) -> None:
    done = run_trainer(tmp_path / "work", inspection_of(overlong(llama)))
    assert done.status == EXIT_FAILED
    assert done.last(Failed).code is FailureCode.PAIRS_OVERLONG
    assert done.messages[-1] == done.last(Failed)
    report = next(m.document for m in done.of(Reported) if m.name == "dataset")
    assert report["rows"] == 12
    assert report["findings"]["overlong"] == {"count": 1, "lines": [5]}


def test_inspection_returns_the_facts_and_both_reports(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    assert run_task(inspection_of(llama.order()), channel) == EXIT_DONE
    assert channel.of(Inspected)[0].facts == llama.facts
    assert {m.name for m in channel.of(Reported)} == {"dataset", "memory"}


def test_dropped_pairs_are_counted_and_named(llama: TinyBase, channel: RecordingChannel) -> None:
    order = inspection_of(llama.order(rows=with_long_reply(12, 300), eval_count=0))
    order = with_plan(order, tokenization={"max_length": 256})
    assert run_task(order, channel) == EXIT_DONE
    note = next(m for m in channel.of(Noted) if m.code == "pairs_dropped")
    assert note.is_warning
    assert note.message.startswith("1 of 12 training pairs are longer than 256 tokens")
    assert note.data["lines"] == [5]


def test_what_became_of_every_pair_is_counted(llama: TinyBase, channel: RecordingChannel) -> None:
    order = llama.order(rows=with_long_reply(12, 300), eval_count=8)
    order = with_plan(order, tokenization={"max_length": 25})
    for fraction, eval_file in ((None, order.eval_file), (0.25, None), (None, None)):
        data = {"eval_fraction": fraction, "eval": None}
        if eval_file:
            data["eval"] = {"id": "ds_" + "e" * 32, "sha256": "e" * 64, "pair_count": 8}
        made = with_plan(order, data=data).model_copy(update={"eval_file": eval_file})
        assert made.plan
        tokenizer = PairTokenizer(made.model_dir, made.plan.tokenization, "conversational")
        prepared = prepare_data(DataInputs(made, made.plan, None, tokenizer, channel))
        train, evaluation = prepared.counts["train"], prepared.counts["eval"]
        assert train["uploaded"] == 12
        assert train["dropped"]["overlong"] > 0
        assert train["used"] == len(prepared.train)
        gone = sum(train["dropped"].values()) + train["held_out"]
        assert train["uploaded"] == train["used"] + gone
        assert (evaluation or {}).get("used", 0) == len(prepared.eval)
        if eval_file:
            left_out = evaluation["dropped"]["overlong"]
            assert evaluation["used"] == 8 - left_out
            assert prepared.eval_sets()[0].left_out == left_out / 8
        elif fraction:
            assert train["held_out"] == len(prepared.eval)
            assert prepared.eval_sets()[0].left_out == train["dropped"]["overlong"] / 12
        reported = channel.of(Reported)[-1].document
        assert reported["pairs"] == prepared.counts


def test_overlong_pairs_are_cut_at_the_beginning_of_their_prompt(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    rows = make_pairs(12)
    rows[2]["prompt"][0]["content"] = "the " * 100
    rows[4]["chosen"][0]["content"] = "the " * 100  # a reply is never cut
    order = llama.order(
        rows=rows, eval_count=0, training={"max_length": 40, "overlong": "truncate_left"}
    )
    assert order.plan
    tokenizer = PairTokenizer(order.model_dir, order.plan.tokenization, "conversational")
    prepared = prepare_data(DataInputs(order, order.plan, None, tokenizer, channel))
    assert prepared.counts["train"]["truncated"] == 1
    assert prepared.counts["train"]["dropped"]["overlong"] == 1
    (pair,) = (p for p in prepared.train if p.line == 3)
    for ids, text in zip((pair.chosen, pair.rejected), tokenizer.render(rows[2]), strict=True):
        whole = tokenizer.encode([text])[0]
        assert len(ids) == 40
        assert ids.tolist() == whole[-40:]
    codes = {m.code: m.message for m in channel.of(Noted)}
    assert codes["pairs_truncated"].startswith("1 of 12 training pairs are longer than 40 tokens")
    assert codes["pairs_dropped"].startswith("1 of 12 training pairs have replies that alone are")


def test_first_special_token_is_kept_when_a_text_is_cut(minilm: TinyBase) -> None:
    rows = make_pairs(4)
    order = minilm.order(rows=rows, eval_count=0, training={"overlong": "truncate_left"})
    assert order.plan
    tokenizer = PairTokenizer(order.model_dir, order.plan.tokenization, "conversational")
    assert tokenizer.kept_tokens == 1  # [CLS], at which the score is read
    assert truncate_left([101, 1, 2, 3, 102], kept=1, max_length=3) == [101, 3, 102]
    assert truncate_left([101, 102], kept=1, max_length=3) == [101, 102]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda rows: rows[:4] * 2 + rows[4:], "pairs_repeated"),
        (
            lambda rows: [
                *rows,
                rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]},
            ],
            "pairs_contradictory",
        ),
    ],
    ids=["repeated", "contradictory"],
)
def test_repetition_is_warned_of(
    llama: TinyBase, channel: RecordingChannel, change: Callable[[Any], Any], code: str
) -> None:
    order = inspection_of(llama.order(rows=change(make_pairs(12)), eval_count=0))
    assert run_task(order, channel) == EXIT_DONE
    (note,) = (m for m in channel.of(Noted) if m.is_warning)
    assert note.code == code


def test_eval_prompts_in_the_training_pairs_are_counted_and_named(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    order = inspection_of(llama.order(rows=make_pairs(12), eval_count=4))
    assert order.train_file
    lines = Path(order.train_file).read_text().splitlines(keepends=True)
    Path(str(order.eval_file)).write_text("".join(lines[:3]))
    assert run_task(order, channel) == EXIT_DONE
    note = next(m for m in channel.of(Noted) if m.code == "eval_leaked")
    assert note.is_warning
    assert note.message.startswith("3 of 3 eval pairs")
    assert note.data["lines"] == [1, 2, 3]


@pytest.mark.parametrize(("eval_steps", "is_warned"), [(5, True), (4, False)])
def test_eval_steps_beyond_the_end_of_training_are_warned_of(
    llama: TinyBase, channel: RecordingChannel, eval_steps: int, *, is_warned: bool
) -> None:
    training = {"max_steps": 4, "eval_steps": eval_steps, "early_stopping": {}}
    assert run_task(inspection_of(llama.order(training=training)), channel) == EXIT_DONE
    messages = [m.message for m in channel.of(Noted) if m.code == "eval_steps_unreached"]
    assert bool(messages) == is_warned
    if messages:
        assert messages[0].startswith("eval_steps 5 is more than the 4 steps")
        assert messages[0].endswith("early_stopping has no effect")


def test_large_dataset_is_reported_from_a_sample_first(
    llama: TinyBase, channel: RecordingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SAMPLE_ROWS", 20)
    monkeypatch.setattr(preparation, "LARGE_ROWS", 40)
    monkeypatch.setattr(preparation, "PROGRESS_SECONDS", 0.0)
    assert run_task(inspection_of(llama.order(count=41, eval_count=41)), channel) == EXIT_DONE
    sample, whole = (m.document for m in channel.of(Reported) if m.name == "dataset")
    assert (sample["rows_looked_at"], sample["rows_in_all"], sample["rows"]) == (20, 41, 20)
    assert (whole["rows_looked_at"], whole["rows_in_all"], whole["rows"]) == (41, 41, 41)
    assert (sample["eval_rows"], whole["eval_rows"]) == (20, 41)
    assert [(m.done, m.total) for m in channel.of(RowsDone)] == [(41, 82), (82, 82)]
    assert not list(Path().glob("sample-*"))


def test_fault_outside_of_the_sample_is_found_by_the_whole_pass(
    llama: TinyBase, channel: RecordingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SAMPLE_ROWS", 1)
    monkeypatch.setattr(preparation, "LARGE_ROWS", 4)
    failure = run_to_failure(inspection_of(overlong(llama)), channel)
    assert failure.code is FailureCode.PAIRS_OVERLONG
    looked_at = [m.document["rows_looked_at"] for m in channel.of(Reported) if m.name == "dataset"]
    assert looked_at == [1, 12]


def test_template_with_todays_date_renders_the_same_text_every_day(
    llama: TinyBase, channel: RecordingChannel
) -> None:
    assert llama.facts.chat_template
    today = "{{ strftime_now('%Y-%m-%d') }}"
    facts = llama.facts.model_copy(update={"chat_template": today + llama.facts.chat_template})
    order = replace(llama, facts=facts).order(count=1, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(llama.directory, order.plan.tokenization, "conversational")
    prepare_data(DataInputs(order, order.plan, None, tokenizer, channel))
    assert all(text.startswith("2024-07-26") for text in tokenizer.render(make_pairs(1)[0]))
    (note,) = channel.of(Noted)
    assert (note.code, note.is_warning) == ("template_date_fixed", True)
    assert "always writes 2024-07-26" in note.message


@pytest.mark.parametrize(
    ("precision", "parameters", "gpus", "found"),
    [
        ("auto", 10**6, 1, None),
        ("fp32", 10**6, 0, None),
        ("bf16", 10**6, 1, "this worker has no GPU: most CPUs compute in bfloat16 more slowly"),
        ("bf16", 10**6, 0, "resources.gpus is 0: most CPUs compute in bfloat16 more slowly"),
        ("auto", 4 * 10**9, 1, "this worker has no GPU: with the base model's 4.0 billion"),
    ],
)
def test_slow_run_on_a_cpu_is_warned_of(
    llama: TinyBase,
    channel: RecordingChannel,
    precision: str,
    parameters: int,
    gpus: int,
    found: str | None,
) -> None:
    order = llama.order(count=8, eval_count=0, training={"precision": precision})
    order = with_plan(order, total_parameters=parameters, gpus=gpus)
    assert order.plan is not None
    memory_report.report_memory(order.plan, llama.facts, 32, None, channel)
    messages = [note.message for note in channel.of(Noted) if note.code == "trained_on_cpu"]
    assert [str(found) in message for message in messages] == ([] if found is None else [True])
    channel.messages.clear()
    memory_report.report_memory(order.plan, llama.facts, 32, None, channel, measured=1)
    assert channel.of(Noted) == []  # no warning after the end of a run
