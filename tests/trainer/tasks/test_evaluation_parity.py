"""An evaluation of a job's held-out pairs gives the results of the job's own evaluation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.domain.judging.score_table import ScoredRow
from app.domain.progress import Evaluated, Packaged
from app.domain.text_format import DataForm
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import BAD, GOOD, make_pairs, with_implicit_prompts, write_rows
from tests.trainer.tasks.test_evaluate import (
    CLEAN,
    Trained,
    evaluation,
    model,
    read_lines,
    run_here,
)
from worker.ipc.order import WorkOrder

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
#: Not more than an adapter has probes, so that every held-out pair is one of them.
HELD_OUT = 12
STEPS = {"learning_rate": 0.01, "batch_size": 8, "max_steps": 4}
CHAT = DataForm(has_texts=True)
#: Every space is a token: a text with white space around it has other ids than one without.
SPACED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content | replace(' ', ' . ') | replace('\n', ' : ') }}<|im_end|>\n{% endfor %}"
)
WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{{ tone }} "
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
)
Rows = list[dict[str, Any]]


def messages(count: int, seed: int) -> Rows:
    return make_pairs(count, seed=seed)


def texts(count: int, seed: int) -> Rows:
    return make_pairs(count, seed=seed, text=True)


def spaced_texts(count: int, seed: int) -> Rows:
    """Texts with white space before and behind prompts and replies."""
    draw = random.Random(seed)
    rows = texts(count, seed)
    for row in rows:
        for part in ("prompt", "chosen", "rejected"):
            around = [draw.choice(["", " ", "\n", "  \n "]) for _ in range(2)]
            row[part] = f"{around[0]}{row[part]}{around[1]}"
    return rows


def with_system(count: int, seed: int) -> Rows:
    rows = messages(count, seed)
    for row in rows:
        row["prompt"].insert(0, {"role": "system", "content": "the system is kind ."})
    return rows


def without_common_prompt(count: int, seed: int) -> Rows:
    """Conversations whose first messages differ."""
    rows = messages(count, seed)
    for row in rows:
        prompt = row.pop("prompt")[0]
        for side in ("chosen", "rejected"):
            more = "please" if side == "chosen" else "tell"
            row[side] = [{**prompt, "content": f"{prompt['content']} {more}"}, *row[side]]
    return rows


def several_turns(count: int, seed: int) -> Rows:
    rows = messages(count, seed)
    for row in rows:
        row["prompt"] += [
            {"role": "assistant", "content": "the answer is clear ."},
            {"role": "user", "content": "  and the other ? "},
        ]
    return rows


def with_tools(count: int, seed: int) -> Rows:
    draw = random.Random(seed)
    rows = messages(count, seed)
    for row in rows:
        names = draw.sample([*GOOD, *BAD], draw.randint(1, 3))
        row["tools"] = [
            {"type": "function", "function": {"name": f"{name}_tool", "parameters": {}}}
            for name in names
        ]
        row["chat_template_kwargs"] = {"tone": draw.choice(GOOD)}
    return rows


def some_long(count: int, seed: int) -> Rows:
    """Every third prompt is too long, every fifth reply as well."""
    rows = messages(count, seed)
    for number, row in enumerate(rows):
        if number % 3 == 0:
            content = row["prompt"][0]["content"]
            row["prompt"][0]["content"] = f"{'please ' * 60}{content}"
        if number % 5 == 4:
            row["rejected"][0]["content"] = "rude " * 90
    return rows


def ranked(count: int, seed: int, make: Callable[[int, int], Rows] = messages) -> Rows:
    """Rows with three replies of three ranks; with those of other rows as the worst ones."""
    pairs = make(count // 3, seed)
    worst = [pair["rejected"] for pair in pairs[1:] + pairs[:1]]
    rows = []
    for pair, other in zip(pairs, worst, strict=True):
        replies = [pair.pop("chosen"), pair.pop("rejected"), other]
        ranks = [{"rank": i, "reply": reply} for i, reply in enumerate(replies, 1)]
        rows.append({**pair, "replies": ranks})
    return rows


def ranked_texts(count: int, seed: int) -> Rows:
    return ranked(count, seed, spaced_texts)


@dataclass(frozen=True)
class Shape:
    """Rows, and how a job tokenises them."""

    rows: Callable[[int, int], Rows]
    training: dict[str, Any] = field(default_factory=dict)
    form: DataForm | None = None
    base: str = "llama"

    def trained(self, base: TinyBase, path: Path, **plan: Any) -> Trained:
        """Train on some of the rows and hold others out."""
        training = {**STEPS, **self.training}
        order = base.order(rows=self.rows(24, 0), training=training, form=self.form, **plan)
        rows = self.rows(HELD_OUT, 1)
        eval_file = write_rows(path / "held-out.jsonl", rows)
        if order.eval_file is not None:
            order = order.model_copy(update={"eval_file": str(eval_file)})
        return Trained.by(order, path / "training")


CUT = {"max_length": 40, "overlong": "truncate_left"}
SHAPES = {
    "messages": Shape(messages),
    "system": Shape(with_system),
    "several turns": Shape(several_turns, {"chat_template": SPACED}),
    "implicit conversations": Shape(without_common_prompt),
    "raw": Shape(texts),
    "raw with spaces": Shape(spaced_texts),
    "raw, implicit": Shape(lambda count, seed: with_implicit_prompts(texts(count, seed))),
    "chat": Shape(texts, {"chat_template": SPACED}, CHAT),
    "chat with spaces": Shape(spaced_texts, {"chat_template": SPACED}, CHAT),
    "chat asked for": Shape(spaced_texts, {"chat_template": SPACED, "text_format": "chat"}, CHAT),
    "tools": Shape(with_tools, {"chat_template": WITH_TOOLS}),
    "dropped": Shape(some_long, {"max_length": 40}),
    "cut": Shape(some_long, CUT),
    "cut behind [CLS]": Shape(some_long, CUT, base="minilm"),
    "ranked": Shape(ranked),
    "ranked texts": Shape(ranked_texts, {"chat_template": SPACED}, CHAT),
}


def evaluated(
    trained: Trained, path: Path, rows: Rows, **spec: Any
) -> tuple[dict[str, Any], list[ScoredRow]]:
    """Evaluate the adapter on rows; return its result and its table of scores."""
    order = evaluation(
        path, [trained.judged(CLEAN)], rows, model_dir=trained.order.model_dir, **spec
    )
    outcome = run_here(path / "evaluation", order)
    done = outcome.last(Evaluated)
    lines = read_lines(outcome.work / done.directory / f"{CLEAN}.jsonl")
    return model(outcome, CLEAN), [ScoredRow.from_json(line) for line in lines]


def held_out_scores(trained: Trained) -> list[tuple[float, ...]]:
    """Line and scores of every held-out pair, as the job packaged them with the adapter."""
    package = trained.outcome.work / trained.outcome.last(Packaged).directory
    order: WorkOrder = trained.order
    dataset = "eval" if order.eval_file else "training"
    probes = [p for p in read_lines(package / "probes.jsonl") if p["dataset"] == dataset]
    assert len(probes) < 16
    return sorted((p["line"], p["chosen_score"], p["rejected_score"]) for p in probes)


@pytest.mark.parametrize("name", SHAPES)
def test_job_and_evaluation_agree_on_held_out_pairs(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shape = SHAPES[name]
    trained = shape.trained(request.getfixturevalue(shape.base), tmp_path)
    found, table = evaluated(trained, tmp_path, read_lines(tmp_path / "held-out.jsonl"))
    pairs = sorted(
        (row.line, row.scores[i], row.scores[j]) for row in table for i, j in row.pairs()
    )
    expected = held_out_scores(trained)
    assert [line for line, *_ in pairs] == [line for line, *_ in expected]
    for ours, theirs in zip(pairs, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    metrics, own = found["metrics"], trained.outcome.last(Packaged).metrics
    assert metrics["accuracy"]["value"] == pytest.approx(own["eval/accuracy"], abs=1e-12)
    assert metrics["pairs"] == own["eval/pairs"] == len(pairs) > 3
    figures = {
        "margin_mean": metrics["margin"]["mean"],
        "margin_std": metrics["margin"]["std"],
        "ece": metrics["calibration"]["ece"],
        "brier": metrics["calibration"]["brier"],
    }
    assert figures == pytest.approx({key: own[f"eval/{key}"] for key in figures}, abs=1e-5)


@pytest.mark.parametrize("name", ["dropped", "cut"])
def test_evaluation_leaves_out_what_training_left_out(
    name: str, llama: TinyBase, tmp_path: Path
) -> None:
    trained = SHAPES[name].trained(llama, tmp_path)
    rows = read_lines(tmp_path / "held-out.jsonl")
    for overlong, left in (("as_trained", 2 if name == "cut" else 5), ("drop", 5)):
        (path := tmp_path / overlong).mkdir()
        found, table = evaluated(trained, path, rows, overlong=overlong)
        assert found["left_out"]["overlong"]["rows"] == left
        assert len(table) == HELD_OUT - left


def test_pairs_that_the_job_held_out_are_no_training_prompts(
    llama: TinyBase, tmp_path: Path
) -> None:
    order = llama.order(
        rows=texts(60, 0), eval_count=0, training={**STEPS, "chat_template": SPACED}, form=CHAT
    )
    assert order.plan
    data = order.plan.data.model_copy(update={"eval": None, "eval_fraction": 0.2, "eval_seed": 3})
    order = order.model_copy(update={"plan": order.plan.model_copy(update={"data": data})})
    trained = Trained.by(order, tmp_path / "training")
    probes = trained.outcome.work / trained.outcome.last(Packaged).directory / "probes.jsonl"
    own = trained.outcome.last(Packaged).metrics
    rows = read_lines(Path(str(order.train_file)))
    found, table = evaluated(trained, tmp_path, rows)
    learned = set(found["training_overlap"]["lines"])
    assert found["training_overlap"]["rows"] == 60 - own["eval/pairs"]
    held_out = {row.prompt for row in table if row.line not in learned and row.line <= 20}
    assert held_out
    for row in table[:20]:
        assert (row.prompt in held_out) == (row.line not in learned)
    scores = {row.line: row.scores for row in table}
    for probe in read_lines(probes):
        expected = (probe["chosen_score"], probe["rejected_score"])
        assert scores[probe["line"]] == pytest.approx(expected, abs=1e-5)
