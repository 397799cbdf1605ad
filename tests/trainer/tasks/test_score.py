"""Scoring of whole datasets: the certificate's scores, one line for each row, and resume."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.domain.progress import CheckpointSaved, Evaluated, Failed, Packaged, Stepped
from app.domain.rows import as_conversation
from app.domain.score_batch import SCORES_FILE, ScoreBatchOrder, ScoreBatchSpec
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs, write_rows
from tests.model_factories.trainer_process import RecordingChannel, StoppingChannel
from worker.ipc.order import EXIT_DONE, EXIT_STOPPED, WorkOrder
from worker.trainer.run_task import run_task

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@dataclass(frozen=True)
class Trained:
    """An adapter's files and the order that made them."""

    order: WorkOrder
    package: Path

    def to_score(self, path: Path, rows: list[dict[str, Any]], **spec: Any) -> WorkOrder:
        """An order to score rows."""
        assert self.order.plan
        spec = {"adapter": "ad_" + "c" * 32, "dataset": "ds_" + "0" * 32, **spec}
        return WorkOrder(
            action="score",
            model_dir=self.order.model_dir,
            model_name="plaudit/tiny",
            eval_file=str(write_rows(path / "rows-to-score.jsonl", rows)),
            score_batch=ScoreBatchOrder(
                spec=ScoreBatchSpec(**spec),
                directory=str(self.package),
                plan=self.order.plan,
                dataset_sha256="e" * 64,
                score_spec="sha256:0",
            ),
        )


@pytest.fixture(scope="module")
def trained(llama: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    order = llama.order(count=24, eval_count=20, training={"max_steps": 2})
    work = tmp_path_factory.mktemp("adapter")
    channel = RecordingChannel()
    with contextlib.chdir(work):
        assert run_task(order, channel) == EXIT_DONE, channel.of(Failed)
    return Trained(order, work / channel.of(Packaged)[0].directory)


def score(
    trained: Trained, path: Path, rows: list[dict[str, Any]], **spec: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score rows in this process; return the result and the lines."""
    channel = RecordingChannel()
    with contextlib.chdir(path):
        assert run_task(trained.to_score(path, rows, **spec), channel) == EXIT_DONE, (
            channel.of(Failed)
        )  # fmt: skip
    (done,) = channel.of(Evaluated)
    assert channel.of(Stepped)[-1].step == channel.of(Stepped)[-1].total_steps
    assert [file.name for file in done.files] == [SCORES_FILE]
    lines = (path / done.directory / SCORES_FILE).read_text().splitlines()
    return done.result, [json.loads(line) for line in lines]


def test_scores_are_those_of_the_certificate(trained: Trained, tmp_path: Path) -> None:
    """The rows are those of the adapter's eval file, from which its package has probes."""
    eval_rows = [json.loads(x) for x in Path(str(trained.order.eval_file)).read_text().splitlines()]
    result, lines = score(trained, tmp_path, eval_rows)
    table = {line["line"]: line["scores"] for line in lines}
    assert len(table) == result["rows"] == result["scored"] == len(eval_rows)
    probes = (trained.package / "probes.jsonl").read_text().splitlines()
    assert probes
    for probe in map(json.loads, probes):
        expected = [probe["chosen_score"], probe["rejected_score"]]
        assert table[probe["line"]] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_row_that_cannot_be_scored_has_a_reason_and_never_a_number(
    trained: Trained, tmp_path: Path, overlong: str
) -> None:
    rows = make_pairs(12, seed=4)
    rows[4]["rejected"][0]["content"] = "rude " * 2000
    rows[7]["id"] = "the eighth"
    result, lines = score(trained, tmp_path, rows, overlong=overlong)
    assert [line["line"] for line in lines] == [row["line"] for row in rows]
    assert lines[7]["id"] == "the eighth"
    named = {"rows": 1, "lines": [5]}
    if overlong == "drop":
        assert lines[4] == {"line": 5, "scores": None, "reason": "overlong"}
        assert (result["scored"], result["left_out"]) == (11, {"overlong": named})
        return
    assert lines[4]["truncated"] == [False, True]
    assert (result["scored"], result["truncated"]) == (12, named)


def test_ranked_texts_get_a_score_for_each_reply(trained: Trained, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for pair in make_pairs(3, seed=3, text=True):
        texts = [pair["chosen"], pair["rejected"], "rude"]
        replies = [{"rank": rank, "reply": text} for rank, text in enumerate(texts, 1)]
        rows.append({"prompt": pair["prompt"], "replies": replies, "line": pair["line"]})
    chats = [as_conversation(row) for row in rows]
    tables = []
    for name, given in (("texts", rows), ("chats", chats)):
        (tmp_path / name).mkdir()
        tables.append(score(trained, tmp_path / name, given)[1])
    assert tables[0] == tables[1]
    assert [len(line["scores"]) for line in tables[0]] == [3, 3, 3]


def test_interrupted_batch_resumes_with_the_same_bytes(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_pairs(450, seed=8)
    whole = tmp_path / "whole"
    whole.mkdir()
    score(trained, whole, rows)
    monkeypatch.chdir(tmp_path)
    order = trained.to_score(tmp_path, rows)
    checkpoints: list[str] = []
    for limit in (1, 4, None):  # chunks until the stop
        channel = StoppingChannel(chunks=limit)
        status = run_task(order.model_copy(update={"checkpoints": checkpoints}), channel)
        if limit is None:
            assert status == EXIT_DONE, channel.of(Failed)
            break
        assert status == EXIT_STOPPED
        saved = channel.of(CheckpointSaved)[-1]
        assert saved.step < 900
        shutil.copytree(saved.directory, f"resume-{limit}")
        checkpoints = [f"resume-{limit}"]
    ours, theirs = (p / "scores" / SCORES_FILE for p in (tmp_path, whole))
    assert ours.read_bytes() == theirs.read_bytes()
