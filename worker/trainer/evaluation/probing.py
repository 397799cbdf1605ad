"""Apply the probes to a model: change replies, score them, and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.evaluation import EvaluationSpec
from app.domain.judging.probes import PROBES, Probe, ProbeScores, probe_metrics, swapped
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.row_encoder import encode_rows
from worker.trainer.evaluation.judged_rows import (
    JudgedRow,
    cut,
    only_pair,
    prompt_key,
    prompt_text,
    reply_text,
    unscorable,
    with_replies,
)

#: Scores sequences of token ids; the text names the stage of the evaluation.
Score = Callable[[str, Sequence[list[int]]], list[float]]


def run_probes(
    spec: EvaluationSpec,
    rows: Sequence[JudgedRow],
    scores: Sequence[Sequence[float]],
    tokenizer: PairTokenizer,
    score: Score,
) -> list[dict[str, Any]]:
    """Return the metrics of each wanted probe on up to ``probe_pairs`` rows.

    For a row with many replies, the best and the worst one are used; a row in which they are equal
    is not. A changed reply that exceeds the length limit is truncated. If a changed reply cannot be
    rendered or scored, its row is left out of the probe.

    Raises:
        TrainerError: model_unsupported when the chat template or the tokenizer exceeds a limit.
    """
    # Equal replies form no pair: see ScoredRow.pairs.
    distinct = [i for i, row in enumerate(rows) if row.replies[0] != row.replies[-1]]
    chosen = [distinct[i] for i in sample(len(distinct), spec.probe_pairs, spec.seed)]
    pairs = [only_pair(rows[i]) for i in chosen]
    before = np.array([(scores[i][0], scores[i][-1]) for i in chosen], dtype=np.float64)
    found = []
    for name in spec.probes:
        usable, ids = _changed(PROBES[name], pairs, tokenizer, spec)
        if not usable:
            continue
        flat = [each for row in ids for each in row]
        after = np.array(score(name, flat)).reshape(-1, 2)
        found.append(
            probe_metrics(
                PROBES[name],
                ProbeScores(
                    before[usable, 0],
                    before[usable, 1],
                    after[:, 0],
                    after[:, 1],
                    tuple(prompt_key(pairs[i].row) for i in usable),
                ),
                spec.seed,
            )
        )
    return found


def sample(count: int, wanted: int, seed: int) -> list[int]:
    """Return up to ``wanted`` random numbers below ``count``, ascending."""
    if count <= wanted:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())


def _changed(
    probe: Probe, pairs: Sequence[JudgedRow], tokenizer: PairTokenizer, spec: EvaluationSpec
) -> tuple[list[int], list[list[list[int]]]]:
    """Return the numbers of the pairs that the probe applies to, and the ids of both replies."""
    prompts = [prompt_key(pair.row) for pair in pairs]
    others = swapped(prompts, spec.seed) if probe.swaps_prompt else list(range(len(pairs)))
    numbers, changed = list[int](), list[dict[str, Any]]()
    for number, pair in enumerate(pairs):
        row = pair.row
        if probe.swaps_prompt:
            other = pairs[others[number]].row
            if others[number] == number or "prompt" not in other or "prompt" not in row:
                continue
            row = {**row, "prompt": other["prompt"]}
        prompt = prompt_text(row)
        replies = [_change_reply(probe, prompt, reply) for reply in pair.replies]
        numbers.append(number)
        changed.append(with_replies(row, replies))
    usable, ids = [], []
    for encoded in encode_rows(changed, tokenizer, lambda _line, _problem: None):
        texts = [cut(each, tokenizer, spec.overlong) for each in encoded.texts]
        if unscorable(texts, tokenizer) is None:
            usable.append(numbers[encoded.place])
            ids.append(texts)
    return usable, ids


def _change_reply(probe: Probe, prompt: str, reply: Any) -> Any:
    if isinstance(reply, str):
        return probe.change(prompt, reply)
    last = reply[-1]
    return [*reply[:-1], {**last, "content": probe.change(prompt, last.get("content") or "")}]


def worst_pairs(
    rows: Sequence[JudgedRow], scores: Sequence[Sequence[float]], count: int, characters: int
) -> list[dict[str, Any]]:
    """Return the pairs in the wrong order with the largest margins, with their texts.

    Texts are truncated to ``characters``.
    """
    found: list[tuple[float, int, int, int]] = []
    for number, (row, values) in enumerate(zip(rows, scores, strict=True)):
        worst = [
            (values[i] - values[j], number, i, j)
            for i, j in row.scored(values).pairs()
            if values[i] < values[j]
        ]
        found += sorted(worst)[:1]
    result = []
    for margin, number, i, j in sorted(found)[:count]:
        row = rows[number]
        result.append(
            {
                "line": row.row["line"],
                "slice": row.row.get("slice"),
                "margin": margin,
                "chosen_score": scores[number][i],
                "rejected_score": scores[number][j],
                "prompt": prompt_text(row.row)[:characters],
                "chosen": reply_text(row.replies[i])[:characters],
                "rejected": reply_text(row.replies[j])[:characters],
            }
        )
    return result


def write_scores(path: Path, rows: Sequence[JudgedRow], scores: Sequence[Sequence[float]]) -> None:
    """Write the score table, one line per row."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row, values in zip(rows, scores, strict=True):
            file.write(row.scored(values).to_json() + "\n")
