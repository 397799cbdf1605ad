"""RM-Bench, JudgeBench and PPE."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.judging.best_of_n import expected_gold
from app.domain.judging.score_table import ScoredRow
from app.domain.judging.suites.base import Figures, Suite, mean, sides

_DOMAINS = ("chat", "math", "code", "safety")
_STYLES = 3
_SOURCES = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
_A_WINS, _B_WINS = "A>B", "B>A"


def _rm_bench(rows: Sequence[ScoredRow]) -> Figures:
    """Compare three styles of a right and of a wrong reply (arXiv 2410.16184, ``utils.py``).

    ``hard`` is the mean over the comparisons in which the wrong reply has the richer style.
    """
    metrics: dict[str, float] = {}
    problems: list[str] = []
    for domain in _DOMAINS:
        members = [row for row in rows if (row.slice or "").startswith(domain)]
        matrices = []
        for row in members:
            chosen, rejected = sides(row)
            if len(chosen) != _STYLES or len(rejected) != _STYLES:
                problems.append(f"line {row.line} has not three chosen and three rejected replies")
                continue
            matrices.append([[float(c > r) for r in rejected] for c in chosen])
        if not matrices:
            continue
        cells = [
            [mean([matrix[i][j] for matrix in matrices]) for j in range(_STYLES)]
            for i in range(_STYLES)
        ]
        parts = {
            "hard": mean([cells[0][1], cells[0][2], cells[1][2]]),
            "normal": mean([cells[i][i] for i in range(_STYLES)]),
            "easy": mean([cells[1][0], cells[2][0], cells[2][1]]),
        }
        metrics[domain] = mean(list(parts.values()))
        metrics |= {f"{domain}/{name}": value for name, value in parts.items()}
    whole = [metrics[domain] for domain in _DOMAINS if domain in metrics]
    overall = mean(whole) if len(whole) == len(_DOMAINS) else None
    return Figures(metrics, overall, tuple(problems[:10]))


def _judge_bench(rows: Sequence[ScoredRow]) -> Figures:
    """Decide ``A>B`` if A has the higher score, else ``B>A``, also for a tie.

    ``overall`` is the mean over all rows, not over the sources.
    """
    hits: dict[str, list[float]] = {}
    problems: list[str] = []
    for row in rows:
        if row.id not in (_A_WINS, _B_WINS):
            problems.append(f"line {row.line} has no label {_A_WINS} or {_B_WINS} as its id")
            continue
        (chosen, *_), (rejected, *_) = sides(row)
        is_right = chosen > rejected or (chosen == rejected and row.id == _B_WINS)
        known = (source for source in _SOURCES if (row.slice or "").startswith(source))
        hits.setdefault(next(known, row.slice or ""), []).append(float(is_right))
    everything = [hit for each in hits.values() for hit in each]
    metrics = {source: mean(each) for source, each in hits.items()}
    return Figures(metrics, mean(everything) if everything else None, tuple(problems[:10]))


def _ppe_human(rows: Sequence[ScoredRow]) -> Figures:
    """Return the share of human preferences, without ties, whose preferred reply scores higher."""
    hits: dict[str, list[float]] = {}
    for row in rows:
        (chosen, *_), (rejected, *_) = sides(row)
        hits.setdefault(row.slice or "all", []).append(float(chosen > rejected))
    everything = [hit for each in hits.values() for hit in each]
    metrics = {name: mean(each) for name, each in hits.items()}
    return Figures(metrics, mean(everything) if everything else None)


def _ppe_correctness(rows: Sequence[ScoredRow]) -> Figures:
    """Return, by benchmark, the accuracy over pairs of a right and a wrong sample, and the area
    under the best-of-k curve.
    """
    metrics: dict[str, float] = {}
    of_benchmarks: list[float] = []
    benchmarks: dict[str, list[ScoredRow]] = {}
    for row in rows:
        benchmarks.setdefault(row.slice or "all", []).append(row)
    for name, members in benchmarks.items():
        accuracies = []
        for row in members:
            pairs = [float(row.scores[i] > row.scores[j]) for i, j in row.pairs()]
            if pairs:
                accuracies.append(mean(pairs))
        if accuracies:
            metrics[name] = mean(accuracies)
            of_benchmarks.append(metrics[name])
        curves = [
            mean([expected_gold(row.scores, row.gold, k) for k in range(1, len(row.gold) + 1)])
            for row in members
            if row.gold
        ]
        if curves:
            metrics[f"{name}/best_of_k_area"] = mean(curves)
    return Figures(metrics, mean(of_benchmarks) if of_benchmarks else None)


RM_BENCH = Suite(
    name="rm-bench",
    version=1,
    title="RM-Bench",
    rule="Three styles of a right reply against three styles of a wrong one, nine strict "
    "comparisons. A domain is the mean of hard, normal and easy; the overall figure is the mean of "
    "the four domains, whatever their size.",
    source="THU-KEG/RM-Bench",
    licence="ODC-BY, see the dataset's card",
    row_form="ranked",
    upload={"columns[slice]": "domain"},
    counts={"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157},
    figures=_rm_bench,
)
JUDGE_BENCH = Suite(
    name="judge-bench",
    version=1,
    title="JudgeBench",
    rule="A row is right if the labelled reply scores higher; a tie counts as B. The overall "
    "figure is the share of right rows, not the mean of the four sources.",
    source="ScalerLab/JudgeBench, split gpt or split claude",
    licence="MIT, see the dataset's card",
    row_form="pairs",
    upload={
        "columns[prompt]": "question",
        "columns[response_a]": "response_A",
        "columns[response_b]": "response_B",
        "columns[label]": "label",
        "labels[a]": _A_WINS,
        "labels[b]": _B_WINS,
        "columns[slice]": "source",
        "columns[id]": "label",
    },
    counts={},
    totals=(350, 270),
    figures=_judge_bench,
)
PPE_HUMAN = Suite(
    name="ppe-human",
    version=0,
    title="PPE human preference",
    rule="Share of pairs with a winner in which the winner scores higher; a tie counts 0. "
    "Provisional: the rule comes from the paper (arXiv 2410.14872), not from the published code. "
    "Its votes come from Chatbot Arena, so training sets with Arena data are contaminated.",
    source="lmarena-ai/PPE-Human-Preference-V1",
    licence="see the dataset's card",
    row_form="pairs",
    upload={"columns[response_a]": "response_1", "columns[response_b]": "response_2",
            "columns[label]": "winner", "labels[a]": "model_a", "labels[b]": "model_b",
            "labels[tie]": "tie,tie (bothbad)", "ignore_columns": "longer_won"},
    counts={},
    figures=_ppe_human,
    is_provisional=True,
)  # fmt: skip
PPE_CORRECTNESS = Suite(
    name="ppe-correctness",
    version=0,
    title="PPE correctness",
    rule="Per benchmark the accuracy over pairs of a right and a wrong sample of a prompt, and the "
    "area under the best-of-k curve. Provisional: the published figure uses a fixed sample of the "
    "pairs, this one all of them. Each of the five files is a dataset of its own.",
    source="lmarena-ai/PPE-MMLU-Pro-Best-of-K, …-MATH-…, …-GPQA-…, …-IFEval-…, …-MBPP-Plus-…",
    licence="see the datasets' cards",
    row_form="ranked",
    upload={"ignore_columns": "answer,question,Question"},
    counts={},
    totals=(512, 507),
    figures=_ppe_correctness,
    is_provisional=True,
)
