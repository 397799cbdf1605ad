"""Score every reply of a dataset with one adapter, a chunk of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from app.domain.lifecycle import FailureCode, Phase
from app.domain.progress import Evaluated, PhaseChanged
from app.domain.rows import replies_of
from app.domain.score_batch import SCORES_FILE
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.row_files import read_rows
from worker.trainer.evaluation.judged_rows import MAX_LINES, unscorable
from worker.trainer.evaluation.resumable_scoring import (
    ResumableScoring,
    packaged_model,
    resume_fingerprint,
)
from worker.trainer.inspection.base_model_files import check_base_model_unchanged

#: Number of rows in memory. The chunks, and therefore the scores, are the same in every run.
CHUNK_ROWS = 200


@dataclass
class _Row:
    """A row with its token ids, or the reason why it cannot be scored."""

    known: dict[str, Any]
    ids: list[list[int]] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    reason: str | None = None

    def line(self, scores: Iterator[float]) -> str:
        """Return its line of the result from the scores of its replies."""
        if self.reason is not None:
            return _json({**self.known, "scores": None, "reason": self.reason})
        return _json(
            {
                **self.known,
                "scores": [next(scores) for _ in self.ids],
                "tokens": [len(each) for each in self.ids],
                "truncated": self.truncated,
            }
        )


def run(order: WorkOrder, channel: Channel) -> None:
    """Score every row, and send ``evaluated`` at the end.

    Raises:
        StoppedError: the supervisor requested a stop.
        TrainerError: with the code with which the job fails.
    """
    wanted = order.score_batch
    if wanted is None or order.eval_file is None:
        raise TrainerError(FailureCode.INTERNAL, "the order to score has no dataset")
    plan = wanted.plan
    check_base_model_unchanged(order, plan.base_model.digest)
    channel.send(PhaseChanged(phase=Phase.EVALUATING))
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    count = sum(len(replies_of(row)) for row in read_rows(order.eval_file))
    fingerprint = resume_fingerprint(order, wanted, plan)
    scoring = ResumableScoring(order, channel, fingerprint, count)
    model = packaged_model(order, Path(wanted.directory), plan)
    directory = Path("scores")
    directory.mkdir(exist_ok=True)
    result: dict[str, Any] = {
        "rows": 0,
        "scored": 0,
        "left_out": {},
        "truncated": {"rows": 0, "lines": []},
        "score_spec": wanted.score_spec,
    }
    rows = read_rows(order.eval_file)
    with (directory / SCORES_FILE).open("w", encoding="utf-8") as out:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            encoded = _encode(chunk, tokenizer, is_cut=wanted.spec.overlong == "truncate")
            sequences = [ids for row in encoded for ids in row.ids]
            scores = iter(scoring.score(model, f"rows/{result['rows']}", sequences))
            out.writelines(row.line(scores) for row in encoded)
            _count(encoded, result)
    scoring.finish()
    files = file_entries(directory)
    result |= {"bytes": files[0].size, "sha256": files[0].sha256}
    channel.send(Evaluated(directory=directory.name, files=files, result=result))


def _encode(rows: list[dict[str, Any]], tokenizer: PairTokenizer, *, is_cut: bool) -> list[_Row]:
    """Tokenise the rows, each reply with its prompt, as in training."""
    found = [_Row({key: row[key] for key in ("line", "id") if key in row}) for row in rows]
    rendered: list[tuple[_Row, list[str]]] = []
    for row, target in zip(rows, found, strict=True):
        try:
            rendered.append((target, tokenizer.render(row)))
        except Exception:  # noqa: BLE001 - a template may raise anything
            target.reason = "not_rendered"
    if not rendered:
        return found
    encoded = iter(tokenizer.encode([text for _, texts in rendered for text in texts]))
    limit = tokenizer.plan.max_length
    for target, texts in rendered:
        ids = list(islice(encoded, len(texts)))
        truncated = [len(each) > limit for each in ids]
        cut = [each[:limit] for each in ids]
        if any(truncated) and not is_cut:
            target.reason = "overlong"
        elif (reason := unscorable(cut, tokenizer)) is not None:
            target.reason = reason
        else:
            target.ids, target.truncated = cut, truncated
    return found


def _count(rows: list[_Row], result: dict[str, Any]) -> None:
    result["rows"] += len(rows)
    for row in rows:
        if row.reason is None:
            result["scored"] += 1
            places = [result["truncated"]] if any(row.truncated) else []
        else:
            places = [result["left_out"].setdefault(row.reason, {"rows": 0, "lines": []})]
        for place in places:
            place["rows"] += 1
            if len(place["lines"]) < MAX_LINES:
                place["lines"].append(row.known["line"])


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False) + "\n"
