"""Evaluations of trained adapters: scores, figures, probes, resume."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.evaluation import EvaluationOrder, EvaluationSpec, JudgedAdapter
from app.domain.judging.suites import SUITES
from app.domain.lifecycle import FailureCode
from app.domain.progress import (
    CheckpointSaved,
    Evaluated,
    Failed,
    Packaged,
    Reported,
    Stepped,
    Stopped,
)
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import GOOD, OTHER, TOPICS, make_pairs, write_rows
from tests.model_factories.trainer_process import Outcome, RecordingChannel, StoppingChannel
from worker.ipc.order import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, WorkOrder
from worker.trainer.evaluation.resumable_scoring import LazyModel
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    # Trainer processes ignore it as well (worker.trainer.environment).
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
CLEAN, HACKED = "ad_" + "c" * 32, "ad_" + "d" * 32
#: Enough steps for the tiny model to learn its signal.
TRAINING = {"learning_rate": 0.01, "batch_size": 16, "max_steps": 60}


def longer_wins(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs whose chosen reply is the longer one, with any words."""
    draw = random.Random(seed)
    rows = []
    for line in range(1, count + 1):
        prompt = f"please tell me about {draw.choice(TOPICS)} ?"
        short, long = sorted(draw.sample(range(2, 30), 2))
        replies = [" ".join(draw.choice(OTHER) for _ in range(n)) for n in (long, short)]
        rows.append(
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": replies[0]}],
                "rejected": [{"role": "assistant", "content": replies[1]}],
                "line": line,
            }
        )
    return rows


def run_here(work: Path, order: WorkOrder) -> Outcome:
    """Run an order in this process: starting another takes longer than the work."""
    channel = RecordingChannel()
    work.mkdir()
    with contextlib.chdir(work):
        status = run_task(order, channel)
    return Outcome(status, channel.messages, "", work)


def robust_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs with meaningless words on both sides, and with the prompt as a bad reply."""
    draw = random.Random(0)
    rows = make_pairs(count)
    for row in rows:
        if row["line"] % 8 == 0:
            row["rejected"][0]["content"] = row["prompt"][0]["content"]
        for side in ("chosen", "rejected"):
            if draw.random() < 0.4:
                words = " ".join(f"word{draw.randint(0, 99)}" for _ in range(draw.randint(3, 14)))
                row[side][0]["content"] += f" {words} !"
    return rows


@dataclass(frozen=True)
class Trained:
    """An adapter that a trainer process made, and the order that it got."""

    order: WorkOrder
    outcome: Outcome

    @classmethod
    def by(cls, order: WorkOrder, work: Path) -> Trained:
        return cls(order, run_here(work, order))

    def judged(self, adapter_id: str) -> JudgedAdapter:
        assert self.order.plan
        directory = self.outcome.work / self.outcome.last(Packaged).directory
        return JudgedAdapter(
            id=adapter_id,
            directory=str(directory),
            plan=self.order.plan,
            train_file=str(self.order.train_file),
        )


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def clean(llama: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    order = llama.order(rows=robust_pairs(160), eval_count=40, training=TRAINING)
    return Trained.by(order, tmp_path_factory.mktemp("clean") / "work")


@pytest.fixture(scope="module")
def hacked(llama: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    order = llama.order(rows=longer_wins(160), eval_count=0, training=TRAINING)
    return Trained.by(order, tmp_path_factory.mktemp("hacked") / "work")


def evaluation(
    path: Path, adapters: list[JudgedAdapter], rows: list[dict[str, Any]], **spec: Any
) -> WorkOrder:
    """An order to evaluate adapters of the tiny base on rows."""
    spec = {"probes": [], "dataset": "ds_" + "0" * 32, **spec}
    is_text = isinstance(rows[0].get("prompt", ""), str)
    model_dir = spec.pop("model_dir")
    return WorkOrder(
        action="evaluate",
        model_dir=model_dir,
        model_name="plaudit/tiny",
        eval_file=str(write_rows(path / "eval-rows.jsonl", rows)),
        evaluation=EvaluationOrder(
            spec=EvaluationSpec(adapters=[each.id for each in adapters], **spec),
            adapters=adapters,
            dataset_sha256="e" * 64,
            dataset_format="text" if is_text else "conversational",
        ),
    )


def evaluate(
    channel: RecordingChannel, path: Path, trained: Trained, rows: list[dict[str, Any]], **spec: Any
) -> tuple[Evaluated, list[dict[str, Any]]]:
    """Evaluate an adapter in this process; return the message and the lines of its scores."""
    order = evaluation(
        path, [trained.judged(CLEAN)], rows, model_dir=trained.order.model_dir, **spec
    )
    assert run_task(order, channel) == EXIT_DONE, channel.of(Failed)
    (done,) = channel.of(Evaluated)
    lines = (path / done.directory / f"{CLEAN}.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def both(
    clean: Trained, hacked: Trained, tmp_path_factory: pytest.TempPathFactory
) -> tuple[WorkOrder, Outcome]:
    """Both adapters on rows that neither was trained on, with all probes."""
    path = tmp_path_factory.mktemp("both")
    order = evaluation(
        path,
        [clean.judged(CLEAN), hacked.judged(HACKED)],
        make_pairs(120, seed=1),
        model_dir=clean.order.model_dir,
        probes=["double_spaces", "trailing_newlines", "markdown_stripped", "filler_added",
                "paragraph_repeated", "reply_empty", "reply_is_prompt", "prompt_swapped"],
    )  # fmt: skip
    return order, run_here(path / "work", order)


def model(outcome: Outcome, adapter: str) -> dict[str, Any]:
    models: Any = outcome.last(Evaluated).result["models"]
    return next(each for each in models if each["adapter"] == adapter)


def test_scores_are_those_of_the_certificate(clean: Trained, tmp_path: Path) -> None:
    """The rows are those of the adapter's eval file, from which its package has probes."""
    eval_rows = read_lines(Path(str(clean.order.eval_file)))
    order = evaluation(
        tmp_path, [clean.judged(CLEAN)], eval_rows, model_dir=clean.order.model_dir
    )  # fmt: skip
    outcome = run_here(tmp_path / "work", order)
    done = outcome.last(Evaluated)
    table = {
        row["line"]: row["scores"]
        for row in read_lines(outcome.work / done.directory / f"{CLEAN}.jsonl")
    }
    package = clean.outcome.work / clean.outcome.last(Packaged).directory
    probes = read_lines(package / "probes.jsonl")
    assert len(probes) == 16
    for probe in probes:
        expected = [probe["chosen_score"], probe["rejected_score"]]
        assert table[probe["line"]] == pytest.approx(expected, abs=1e-5)


def test_trained_adapter_beats_the_untrained_head(both: tuple[WorkOrder, Outcome]) -> None:
    _, outcome = both
    trained, untrained = (model(outcome, name)["metrics"] for name in (CLEAN, "base:untrained"))
    assert trained["accuracy"]["value"] > 0.9 > untrained["accuracy"]["value"]
    baselines: Any = outcome.last(Evaluated).result["baselines"]
    assert baselines.keys() == {"random", "longest", "shortest"}
    assert {each["slice"] for each in trained["slices"]} == {"short", "long"}


def test_length_hacked_adapter_is_found_and_the_clean_one_is_not(
    both: tuple[WorkOrder, Outcome],
) -> None:
    _, outcome = both
    found = {
        name: {p["probe"] for p in model(outcome, name)["probes"] if p["is_suspicious"]}
        for name in (CLEAN, HACKED)
    }
    assert "paragraph_repeated" in found[HACKED]
    assert found[CLEAN] == set()
    lengths = {name: model(outcome, name)["metrics"]["length"]["spearman"] for name in found}
    assert lengths[HACKED] > 0.6 > lengths[CLEAN]


def test_worst_pairs_have_their_texts(both: tuple[WorkOrder, Outcome]) -> None:
    _, outcome = both
    reports: dict[str, Any] = {r.name: r.document for r in outcome.of(Reported)}
    worst = reports["worst_pairs"]["models"][HACKED]
    assert reports["full"]["plots"][HACKED].keys() == {"margins", "calibration", "length"}
    rows = {row["line"]: row for row in make_pairs(120, seed=1)}
    assert worst == sorted(worst, key=lambda pair: pair["margin"])
    for pair in worst:
        row = rows[pair["line"]]
        assert pair["margin"] == pair["chosen_score"] - pair["rejected_score"] < 0
        assert pair["prompt"] == row["prompt"][0]["content"]
        assert pair["chosen"] == row["chosen"][0]["content"]
        assert pair["rejected"] == row["rejected"][0]["content"]


def test_interrupted_evaluation_resumes_with_the_same_bytes(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, whole = both
    monkeypatch.chdir(tmp_path)
    checkpoints: list[str] = []
    for limit in (2, 7, 12, None):  # chunks until the stop
        channel = StoppingChannel(chunks=limit)
        status = run_task(order.model_copy(update={"checkpoints": checkpoints}), channel)
        if limit is None:
            assert status == EXIT_DONE, channel.of(Failed)
            break
        assert status == EXIT_STOPPED
        saved = channel.of(CheckpointSaved)[-1]
        assert channel.of(Stopped)[0].step == saved.step
        shutil.copytree(saved.directory, f"resume-{limit}")
        checkpoints = [f"resume-{limit}"]
    done, expected = channel.of(Evaluated)[0], whole.last(Evaluated)
    assert done == expected
    for entry in expected.files:
        ours, theirs = (p / expected.directory / entry.name for p in (tmp_path, whole.work))
        assert ours.read_bytes() == theirs.read_bytes()


def test_stop_does_not_wait_for_the_end_of_a_chunk(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for chunks in (0, 1):
        channel = StoppingChannel(chunks=chunks, checks=10)
        assert run_task(both[0], channel) == EXIT_STOPPED
        assert channel.checks_left == -1  # checked often enough, and obeyed at once
        assert len(channel.of(Stepped)) == chunks
        steps = [saved.step for saved in channel.of(CheckpointSaved)]
        assert steps == [each.step for each in channel.of(Stepped)]
        assert channel.of(Stopped)[0].step == sum(steps)


def test_stop_does_not_wait_until_a_model_is_loaded(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process exits on a request, so the scores of the models before are saved first."""
    channel = RecordingChannel()

    def load(*_: object) -> None:
        assert channel._exits_on_stop
        (saved,) = channel.of(CheckpointSaved)
        assert saved.step == channel.of(Stepped)[-1].step > 0
        raise MemoryError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("worker.trainer.evaluation.resumable_scoring.load_packaged", load)
    assert run_task(both[0], channel) == EXIT_FAILED
    assert [failed.code for failed in channel.of(Failed)] == [FailureCode.OUT_OF_MEMORY]
    assert not channel._exits_on_stop


def test_stop_before_a_model_is_loaded_is_obeyed(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopsBeforeLoading(RecordingChannel):
        @property
        def is_stop_wanted(self) -> bool:  # type: ignore[override]
            return self._exits_on_stop

        @is_stop_wanted.setter
        def is_stop_wanted(self, value: bool) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("worker.trainer.tasks.evaluate.load_base")
    assert run_task(both[0], StopsBeforeLoading()) == EXIT_STOPPED


def test_stop_after_a_checkpoint_does_not_write_its_files_again(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor may read them, and the process may exit in the middle."""

    class StopsAfterCheckpoint(RecordingChannel):
        @property
        def is_stop_wanted(self) -> bool:  # type: ignore[override]
            return bool(self.of(CheckpointSaved))

        @is_stop_wanted.setter
        def is_stop_wanted(self, value: bool) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    channel = StopsAfterCheckpoint()
    assert run_task(both[0], channel) == EXIT_STOPPED
    (saved,) = channel.of(CheckpointSaved)
    assert channel.of(Stopped)[0].step == saved.step > 0


def test_stop_does_not_wait_until_all_rows_are_tokenised(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_rows(*_: Any) -> Any:
        raise AssertionError("it was asked to stop before")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("worker.trainer.evaluation.judged_rows.encode_rows", encode_rows)
    assert run_task(both[0], StoppingChannel(chunks=0)) == EXIT_STOPPED


def test_score_that_is_not_finite_ends_the_evaluation_with_its_cause(
    both: tuple[WorkOrder, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(_: LazyModel, sequences: Sequence[list[int]]) -> list[float]:
        return [float("nan"), *[1.0] * (len(sequences) - 1)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LazyModel, "score", score)
    channel = RecordingChannel()
    assert run_task(both[0], channel) == EXIT_FAILED
    (failed,) = channel.of(Failed)
    assert failed.code == FailureCode.MODEL_UNSUPPORTED
    assert "1 of 128 scores of base:untrained/rows are NaN" in failed.detail


@pytest.mark.usefixtures("work")
def test_ranked_rows_follow_the_rule_of_their_suite(
    clean: Trained, tmp_path: Path, channel: RecordingChannel
) -> None:
    rows: list[dict[str, Any]] = []
    for pair in make_pairs(12, seed=3, text=True):
        worse = [pair["rejected"], f"{pair['rejected']} {pair['rejected']}", "rude"]
        ranks = [(1, pair["chosen"]), *((2, text) for text in worse)]
        replies = [{"rank": rank, "reply": text} for rank, text in ranks]
        rows.append({"prompt": pair["prompt"], "replies": replies, "slice": "Focus",
                     "line": pair["line"]})  # fmt: skip
    kind = [f"{word} and {word}" for word in GOOD[:3]]
    for number, (label, good) in enumerate((("ref", kind[:1]), ("tied", kind))):
        replies = [{"rank": 1, "reply": text} for text in good]
        replies += [{"rank": 2, "reply": "rude and vague"}, {"rank": 2, "reply": "wrong"}]
        rows.append({"prompt": "about tea ?", "replies": replies, "slice": "Ties",
                     "id": f"{label}:1", "line": 13 + number})  # fmt: skip
    done, table = evaluate(channel, tmp_path, clean, rows, suite="reward-bench-2@1")
    suite = done.result["models"][1]["suite"]  # type: ignore[index, call-overload]
    focus = [
        1 / row["scores"].count(max(row["scores"])) * (row["scores"][0] == max(row["scores"]))
        for row in table[:12]
    ]
    assert suite["metrics"]["Focus"] == pytest.approx(sum(focus) / 12, abs=1e-12)
    assert suite["metrics"].keys() == {"Focus", "Ties"}
    assert suite["complete"] is False
    assert suite["overall"] is None
    assert "12 rows of Focus instead of 495" in suite["problems"]
    assert done.result["baselines"]["shortest"]["suite"]["metrics"]["Focus"] == 0  # type: ignore[index, call-overload]
    assert [row.get("id") for row in table[12:]] == ["ref:1", "tied:1"]


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(("top", "has_gold"), [(1.0, True), (1.7e308, False)])
def test_rows_whose_ends_are_equal_are_not_probed(
    clean: Trained, tmp_path: Path, channel: RecordingChannel, top: float, has_gold: bool
) -> None:
    rows: list[dict[str, Any]] = []
    for pair in make_pairs(8, seed=5, text=True):
        last = pair["chosen"] if pair["line"] <= 3 else "rude"
        replies = [
            {"rank": rank, "reply": text, "score": top / rank}
            for rank, text in ((1, pair["chosen"]), (2, pair["rejected"]), (2, last))
        ]
        rows.append({"prompt": pair["prompt"], "replies": replies, "line": pair["line"]})
    done, _ = evaluate(channel, tmp_path, clean, rows, probes=["filler_added", "reply_empty"])
    entry: Any = done.result["models"][1]  # type: ignore[index, call-overload]
    assert entry["metrics"]["pairs"] == 3 + 2 * 5
    assert [probe["pairs"] for probe in entry["probes"]] == [5, 5]
    # Sums of larger gold scores would be infinite.
    assert (entry["metrics"]["best_of_n"] is not None) == has_gold


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(("overlong", "left"), [("drop", 11), ("truncate", 12)])
def test_overlong_rows_are_left_out_or_cut_and_counted(
    clean: Trained, tmp_path: Path, channel: RecordingChannel, overlong: str, left: int
) -> None:
    rows = make_pairs(12, seed=4)
    rows[4]["rejected"][0]["content"] = "rude " * 2000
    done, table = evaluate(channel, tmp_path, clean, rows, overlong=overlong)
    entry: Any = done.result["models"][1]  # type: ignore[index, call-overload]
    assert len(table) == left
    told = entry["left_out"]["overlong"] if overlong == "drop" else entry["truncated"]
    assert told == {"rows": 1, "lines": [5]}
    assert any(any(row["truncated"]) for row in table) == (overlong == "truncate")


@pytest.mark.usefixtures("work")
def test_rest_of_a_larger_benchmark_is_not_complete(
    clean: Trained, tmp_path: Path, channel: RecordingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = replace(SUITES["judge-bench@1"], totals=(11,))
    monkeypatch.setitem(SUITES, suite.id, suite)
    rows = [{**row, "id": "A>B"} for row in make_pairs(12, seed=4)]
    rows[4]["rejected"][0]["content"] = "rude " * 2000
    done, table = evaluate(channel, tmp_path, clean, rows, overlong="drop", suite=suite.id)
    assert len(table) == 11
    result: Any = done.result
    for found in (*result["models"], *result["baselines"].values()):
        assert found["suite"]["problems"] == ["1 rows of the dataset were left out"]
        assert (found["suite"]["complete"], found["suite"]["overall"]) == (False, None)


@pytest.mark.usefixtures("work")
def test_prompts_of_the_training_are_counted(
    clean: Trained, tmp_path: Path, channel: RecordingChannel
) -> None:
    rows = make_pairs(12, seed=5)
    for row in rows[:3]:
        row["prompt"] = [{"role": "user", "content": "a prompt of its own"}]
    done, _ = evaluate(channel, tmp_path, clean, rows)
    entry: Any = done.result["models"][1]  # type: ignore[index, call-overload]
    assert entry["training_overlap"]["rows"] == 9
    assert entry["training_overlap"]["lines"] == [row["line"] for row in rows[3:]]


@pytest.mark.usefixtures("work")
def test_texts_are_scored_as_conversations_by_an_adapter_of_conversations(
    clean: Trained, tmp_path: Path, channel: RecordingChannel
) -> None:
    chats, texts = make_pairs(8, seed=6), make_pairs(8, seed=6, text=True)
    for row in texts:
        row["prompt"] = row["prompt"].strip()
    tables = []
    for name, rows in (("chats", chats), ("texts", texts)):
        (tmp_path / name).mkdir()
        order = evaluation(
            tmp_path / name, [clean.judged(CLEAN)], rows, model_dir=clean.order.model_dir
        )  # fmt: skip
        assert run_task(order, channel) == EXIT_DONE, channel.of(Failed)
        tables.append((tmp_path / "scores" / f"{CLEAN}.jsonl").read_text())
    scores = [[json.loads(line)["scores"] for line in t.splitlines()] for t in tables]
    assert scores[0] == scores[1]


@pytest.mark.usefixtures("work")
def test_evaluation_without_a_row_to_score_fails(
    clean: Trained, tmp_path: Path, channel: RecordingChannel
) -> None:
    rows = make_pairs(2)
    for row in rows:
        row["chosen"][0]["content"] = "kind " * 3000
    order = evaluation(tmp_path, [clean.judged(CLEAN)], rows, model_dir=clean.order.model_dir)
    assert run_task(order, channel) == EXIT_FAILED
    failure = channel.of(Failed)[0]
    assert failure.code is FailureCode.PAIRS_OVERLONG
    assert "2 overlong" in failure.detail
