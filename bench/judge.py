"""Judge two adapters end to end on a private service, and recompute its figures.

Trains two adapters on generated pairs (or on those of a file), evaluates both on held-out pairs and
on a file shaped like RewardBench 2, compares them and writes the reports. Every figure of the
evaluations and of the comparison is recomputed from the files of scores without the service's code;
the accuracies in the jobs' reports must equal those of the evaluations.

    make judge
    make judge BENCH="--data pairs.jsonl --steps 10 60"
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from app.reports.page import MAX_BYTES
from plaudit import Plaudit
from plaudit.models import EvaluationRead
from tests.cli.conftest import serving
from tests.evaluations.figures import assert_equal, check_metrics
from tests.recompute_judging import compare
from tests.services import wait_until

BASE_MODEL = "all-minilm-l6-v2"
GOOD = ("kind", "clear", "helpful", "exact", "honest", "patient")
BAD = ("rude", "vague", "wrong", "sly", "hasty", "useless")
TOPICS = ("tea", "birds", "rivers", "clocks", "bread", "maps", "stars", "boats")
SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
Rows = list[dict[str, Any]]


def generated(count: int) -> Rows:
    """Return pairs of texts with separate prompts; every tenth pair is labelled wrongly."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        topic = draw.choice(TOPICS)
        sides = [
            f"The answer about {topic} is {' and '.join(draw.sample(words, draw.randint(1, 4)))}."
            for words in (GOOD, BAD)
        ]
        if number % 10 == 0:
            sides.reverse()
        rows.append(
            {
                "prompt": f"Please tell me about {topic}, question {number}.",
                "chosen": sides[0],
                "rejected": sides[1],
                "slice": topic,
            }
        )
    return rows


def read_pairs(path: Path) -> Rows:
    """Return the pairs of a file of JSON lines, with a slice by the length of their prompt."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["slice"] = "long prompt" if len(json.dumps(row["prompt"])) > 800 else "short prompt"
    return rows


def text_of(value: str | Rows) -> str:
    """Return the text of a prompt or a reply."""
    return value if isinstance(value, str) else "\n".join(str(m["content"]) for m in value)


def shaped_like_reward_bench_2(pairs: Rows) -> Rows:
    """Return rows with four replies, three of them worse, and rows with several correct answers."""
    rows: Rows = []
    for number, pair in enumerate(pairs):
        others = [pairs[(number + step) % len(pairs)] for step in (1, 2)]
        worse = [pair["rejected"], *(other["rejected"] for other in others)]
        rows.append(
            {
                "id": str(number),
                "prompt": text_of(pair["prompt"]),
                "chosen": [text_of(pair["chosen"])],
                "rejected": [text_of(each) for each in worse],
                "subset": SUBSETS[number % len(SUBSETS)],
            }
        )
    colours = ["red", "orange", "yellow", "green", "blue"]
    for number in range(10):
        for kind, correct in (("ref", colours[:1]), ("tied", colours)):
            rows.append(
                {
                    "id": f"{kind}:{number}",
                    "prompt": f"Name a colour of the rainbow, please ({number}).",
                    "chosen": correct,
                    "rejected": ["brown", "the sea"],
                    "subset": "Ties",
                }
            )
    return rows


def run(client: Plaudit, pairs: Rows, steps: list[int], directory: Path) -> None:
    """Train, evaluate, compare, report and recompute.

    Raises:
        AssertionError: a recomputed figure differs.
    """
    half = len(pairs) // 2
    train = client.datasets.upload(pairs[:half], name="train")
    held_out = client.datasets.upload(pairs[half:], name="held out")
    benchmark = client.datasets.upload(
        shaped_like_reward_bench_2(pairs[half:]), name="shaped like RewardBench 2"
    )
    jobs = [
        client.jobs.create(
            base_model=BASE_MODEL,
            train_dataset=train.id,
            eval_dataset=held_out.id,
            training={"max_steps": count, "overlong": "truncate_left"},
        )
        for count in steps
    ]
    jobs = [client.jobs.wait(job.id) for job in jobs]
    adapters = [str(job.adapter_id) for job in jobs]
    step(f"trained {adapters}")
    evaluations = [
        client.evaluations.create(adapters=[adapter], dataset=held_out.id, probe_pairs=50)
        for adapter in adapters
    ]
    suite = client.evaluations.create(
        adapters=adapters, dataset=benchmark.id, suite="reward-bench-2@1", probes=[]
    )
    first, second, suite = (client.evaluations.wait(e.id) for e in (*evaluations, suite))
    step("evaluated")
    for job, evaluation in zip(jobs, (first, second), strict=True):
        check_evaluation(client, job.id, evaluation)
    check_suite(client, suite)
    found = client.comparisons.get(first.id, second.id)
    scores = [client.evaluations.scores(each.id) for each in (first, second)]
    assert_equal(found.model_dump(), compare(*scores, seed=0))
    print(f"difference {found.difference.value:+.3f} {found.difference.interval}")
    step("recomputed")
    pages = {
        "evaluation.html": client.evaluations.report_page(second.id),
        "suite.html": client.evaluations.report_page(suite.id),
        "comparison.html": client.comparisons.report_page(first.id, second.id),
        "training.html": client.jobs.report_page(jobs[1].id),
    }
    for name, html in pages.items():
        assert len(html.encode()) <= MAX_BYTES, name
        (directory / name).write_text(html, encoding="utf-8")
        print(f"{directory / name}: {len(html.encode()):,} bytes")


def check_evaluation(client: Plaudit, job_id: str, evaluation: EvaluationRead) -> None:
    """Recompute the figures of an evaluation, and compare them with those of the training."""
    assert evaluation.result, evaluation.failure
    for model in evaluation.result["models"]:
        check_metrics(client.evaluations.scores(evaluation.id, model["adapter"]), model["metrics"])
    trained, name = evaluation.result["models"][1], evaluation.id
    own = client.jobs.full_report(job_id).model
    assert own is not None
    for part in ("accuracy", "margin", "calibration"):
        assert_close(trained["metrics"][part], own["metrics"][part], f"{name}/{part}")
    suspicious = [probe["probe"] for probe in trained["probes"] if probe["is_suspicious"]]
    accuracy = {m["adapter"][:9]: m["metrics"]["accuracy"]["value"] for m in
                evaluation.result["models"]}  # fmt: skip
    print(f"{name}: {accuracy}, suspicious: {suspicious}, left out: {trained['left_out']}, "
          f"overlap {trained['training_overlap']['rows']}")  # fmt: skip


def assert_close(found: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    """Assert that the numbers of two documents agree within the tolerance of a certificate."""
    for key, value in expected.items():
        if isinstance(value, float):
            bound = 1e-3 * max(1.0, abs(value))
            assert abs(found[key] - value) < bound, f"{place}/{key}: {found[key]}, {value}"


def check_suite(client: Plaudit, suite: EvaluationRead) -> None:
    """Recompute the subsets of the benchmark."""
    assert suite.result, suite.failure
    for model in suite.result["models"]:
        rows = client.evaluations.scores(suite.id, model["adapter"])
        for subset in SUBSETS:
            scores = [row["scores"] for row in rows if row["slice"] == subset]
            shares = [(s[0] == max(s)) / s.count(max(s)) for s in scores]
            assert abs(model["suite"]["metrics"][subset] - sum(shares) / len(shares)) < 1e-12
        assert model["suite"]["overall"] is None
        print(model["adapter"][:9], model["suite"]["metrics"])


def step(text: str) -> None:
    """Print a step and its time."""
    print(f"{time.monotonic() - STARTED_AT:6.1f} s {text}", flush=True)


STARTED_AT = time.monotonic()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=2000, help="half of them are held out")
    parser.add_argument("--data", type=Path, help="JSON lines of pairs, instead of generated ones")
    parser.add_argument("--steps", type=int, nargs=2, default=[3, 40], help="of the two trainings")
    parser.add_argument("--directory", type=Path, help="where the reports go")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="judge-"))
    directory.mkdir(exist_ok=True)
    pairs = read_pairs(options.data) if options.data else generated(options.pairs)
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), preflight_wait_seconds=300) as (_, url),
    ):
        wait_until("a worker", lambda: httpx.get(f"{url}/readyz").json()["workers"], seconds=120)
        key = (Path(name) / "api-key").read_text().strip()
        with Plaudit(url, key) as client:
            run(client, pairs, options.steps, directory)
    print("every figure equals the recomputed one")


if __name__ == "__main__":
    sys.exit(main())
