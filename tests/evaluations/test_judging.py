"""Run docs/judging.md unchanged on a service that trains, and recompute every figure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

import plaudit
from tests.cli.conftest import serving
from tests.evaluations.figures import assert_equal, check_metrics, hits_of
from tests.model_factories.tiny_models import make_decoder
from tests.recompute_judging import Scorer, compare, probes
from tests.reports.content import Content
from tests.services import wait_until

pytestmark = [
    pytest.mark.train,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "judging.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
IDS = """
import json
ids = {"first": first.id, "second": second.id, "judged": judged.id, "job": jobs[1].id}
print(json.dumps(ids))
"""


@dataclass(frozen=True)
class Judged:
    """Results of running the page."""

    directory: Path
    client: plaudit.Plaudit
    ids: dict[str, str]
    key: str


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    directory = tmp_path_factory.mktemp("judging")
    base_model = make_decoder(directory / "base")
    catalogue = directory / "models.yaml"
    catalogue.write_text(f"tiny:\n  source: local:{base_model}\n")
    program = directory / "page.py"
    program.write_text("\n".join([*BLOCKS, IDS]))
    data = directory / ".plaudit"
    data.mkdir()
    with serving(data, base_models=catalogue, preflight_wait_seconds=120) as (_, url):
        wait_until("a worker", lambda: httpx.get(f"{url}/readyz").json()["workers"], seconds=120)
        key = (data / "api-key").read_text().strip()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
        done = subprocess.run(
            [sys.executable, program],
            cwd=directory,
            env=environment | {"PLAUDIT_URL": url, "PLAUDIT_API_KEY": key},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with plaudit.Plaudit(url, key) as client:
            yield Judged(directory, client, json.loads(done.stdout.splitlines()[-1]), key)


def test_every_figure_is_that_of_an_independent_computation(judged: Judged) -> None:
    evaluation = judged.client.evaluations.get(judged.ids["second"])
    assert evaluation.result
    assert evaluation.result["models"][0]["adapter"] == "base:untrained"
    for model in evaluation.result["models"]:
        rows = judged.client.evaluations.scores(evaluation.id, model["adapter"])
        check_metrics(rows, model["metrics"])
        assert model["left_out"] == {}
    rows = judged.client.evaluations.scores(evaluation.id)
    for name, sign in (("longest", 1), ("shortest", -1)):
        scored = [{**row, "scores": [sign * length for length in row["lengths"]]} for row in rows]
        expected = hits_of(scored).mean()
        assert evaluation.result["baselines"][name]["accuracy"]["value"] == pytest.approx(expected)


def test_comparison_is_that_of_the_score_files(judged: Judged) -> None:
    first, second = judged.ids["first"], judged.ids["second"]
    found = judged.client.comparisons.get(first, second)
    scores = [judged.client.evaluations.scores(each) for each in (first, second)]
    assert_equal(found.model_dump(), compare(*scores, seed=0))
    assert len(found.slices) == 5
    assert found.dataset_uses == 2


def test_probes_are_recomputed_from_rows_and_adapter(judged: Judged, tmp_path: Path) -> None:
    evaluation = judged.client.evaluations.get(judged.ids["second"])
    assert evaluation.result
    model = evaluation.result["models"][1]
    judged.client.adapters.download(model["adapter"], tmp_path / "adapter")
    judged.client.datasets.download(evaluation.dataset, tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    scorer = Scorer(judged.directory / "base", tmp_path / "adapter")
    names = [probe["probe"] for probe in model["probes"]]
    assert len(names) == 12
    expected = probes(rows, scorer, names, wanted=40, seed=0)
    certain = 0
    for found, own in zip(model["probes"], expected, strict=True):
        assert found["shift"] == pytest.approx(own.pop("shift"), abs=1e-3), found["probe"]
        if not own.pop("close_calls"):  # otherwise noise determines the order of a pair
            assert_equal(found, own, found["probe"])
            certain += 1
    assert certain > 6


def test_benchmark_of_other_rows_has_no_overall(judged: Judged) -> None:
    result = judged.client.evaluations.get(judged.ids["judged"]).result
    assert result
    for model in result["models"]:
        rows = judged.client.evaluations.scores(judged.ids["judged"], model["adapter"])
        focus = [
            (max(s) == s[0]) / s.count(max(s)) for s in (row["scores"] for row in rows)
        ]  # fmt: skip
        assert model["suite"]["metrics"] == {"Focus": pytest.approx(np.mean(focus))}
        assert (model["suite"]["complete"], model["suite"]["overall"]) == (False, None)


@pytest.mark.parametrize("name", ["evaluation", "comparison", "training"])
def test_page_needs_nothing_else(judged: Judged, name: str) -> None:
    html = (judged.directory / f"{name}.html").read_text()
    content = Content(html)
    assert len(html.encode()) < 2_000_000
    assert all(each.startswith("data:image/svg+xml;base64,") for each in content.addresses)
    assert content.tags & {"script", "iframe", "link", "object", "form"} == set()
    assert len(content.addresses) >= {"evaluation": 6, "comparison": 0, "training": 4}[name]


def test_page_has_the_numbers_of_its_document(judged: Judged) -> None:
    numbers = set(Content((judged.directory / "evaluation.html").read_text()).numbers)
    result = judged.client.evaluations.get(judged.ids["second"]).result
    assert result
    for model in result["models"]:
        metrics = model["metrics"]
        values = [
            metrics["accuracy"]["value"], *metrics["accuracy"]["interval"],
            metrics["margin"]["mean"], metrics["calibration"]["ece"],
            metrics["calibration"]["temperature"], metrics["length"]["controlled"]["value"],
            *(entry["accuracy"]["value"] for entry in metrics["slices"]),
            *(probe["accuracy_attacked"] for probe in model["probes"]),
        ]  # fmt: skip
        assert {value for value in values if value is not None} <= numbers
    training = Content((judged.directory / "training.html").read_text())
    document = judged.client.jobs.full_report(judged.ids["job"])
    assert document.model
    assert document.model["metrics"]["accuracy"]["value"] in training.numbers
    assert document.certificate
    assert document.data


def test_page_is_served_in_a_sandbox(judged: Judged) -> None:
    url = f"{judged.client.url}/v1/evaluations/{judged.ids['second']}/reports/full.html"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {judged.key}"})
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "sandbox" in policy
    assert "script" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def command_line(judged: Judged, *arguments: str, fails: bool = False) -> str:
    """Run ``plaudit``; return its output, or its error if it must fail."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")} | {
        "PLAUDIT_URL": judged.client.url,
        "PLAUDIT_API_KEY": judged.key,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=judged.directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def test_command_line_writes_report_and_results_for_the_hub(judged: Judged) -> None:
    def run(*arguments: str) -> str:
        return command_line(judged, *arguments)

    evaluation = judged.client.evaluations.get(judged.ids["second"])
    printed = run("report", evaluation.id, "cli.html", "--hub", "repository")
    assert printed.strip() == "cli.html"
    page = (judged.directory / "evaluation.html").read_text()
    assert (judged.directory / "cli.html").read_text() == page
    (file,) = (judged.directory / "repository" / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert evaluation.result
    accuracy = evaluation.result["models"][1]["metrics"]["accuracy"]["value"]
    assert (entry.task_id, entry.value) == ("accuracy", accuracy)
    assert entry.dataset_id == evaluation.dataset
    compared = json.loads(run("compare", judged.ids["first"], evaluation.id, "--json"))
    assert compared["pairs"] == 100
    adapter = evaluation.adapters[0]
    again = run(
        "evaluate", adapter, "base:untrained", "--dataset", evaluation.dataset, "--no-probes"
    )
    assert f"{100 * accuracy:.1f} %" in again
    assert "longest" in again


def test_command_line_compares_models_by_their_short_names(judged: Judged) -> None:
    ids = (judged.ids["first"], judged.ids["second"])
    adapter = judged.client.evaluations.get(ids[1]).adapters[0]
    models = ("--a-adapter", "base:untrained", "--b-adapter", adapter[:-1])
    found = json.loads(command_line(judged, "compare", *ids, *models, "--json"))
    assert (found["a"]["adapter"], found["b"]["adapter"]) == ("base:untrained", adapter)


def test_command_line_shows_a_benchmark_without_an_overall_figure(judged: Judged) -> None:
    judgement = judged.client.evaluations.get(judged.ids["judged"])
    printed = command_line(
        judged, "evaluate", *judgement.adapters, "--dataset", judgement.dataset,
        "--suite", "reward-bench-2@1", "--no-probes",
    )  # fmt: skip
    assert judgement.result
    (*_, row) = (line for line in printed.splitlines() if line.startswith("Focus "))
    for model in judgement.result["models"]:
        assert f"{100 * model['suite']['metrics']['Focus']:.1f} %" in row


def test_results_are_added_to_the_card_of_a_downloaded_adapter(judged: Judged) -> None:
    repository = judged.directory / "downloaded"
    evaluations = [judged.client.evaluations.get(judged.ids[each]) for each in ("second", "judged")]
    adapter = evaluations[0].adapters[0]
    judged.client.adapters.download(adapter, repository)
    card = ModelCard.load(repository / "README.md")
    (own,) = card.data.eval_results
    report = judged.client.jobs.full_report(judged.ids["job"])
    assert report.model
    assert own.metric_value == pytest.approx(report.model["metrics"]["accuracy"]["value"])
    for _ in range(2):  # repeating the command adds nothing
        for evaluation in evaluations:
            command_line(
                judged, "report", evaluation.id, "page.html", "--hub", "downloaded",
                "--adapter", adapter,
            )  # fmt: skip
    changed = ModelCard.load(repository / "README.md")
    assert changed.text == card.text
    values = {(r.dataset_type, r.metric_name): r.metric_value for r in changed.data.eval_results}
    results = [each.result for each in evaluations]
    assert results[0]
    assert results[1]
    model = next(m for m in results[1]["models"] if m["adapter"] == adapter)
    assert values == {
        (own.dataset_type, own.metric_name): own.metric_value,
        (evaluations[0].dataset, "accuracy"): results[0]["models"][1]["metrics"]["accuracy"][
            "value"
        ],
        (evaluations[1].dataset, "Focus"): model["suite"]["metrics"]["Focus"],
    }
    assert len(list((repository / ".eval_results").iterdir())) == 2


def test_results_of_several_adapters_need_the_name_of_one(judged: Judged) -> None:
    done = command_line(
        judged, "report", judged.ids["judged"], "page.html", "--hub", "r", fails=True
    )
    assert "judged 2 adapters" in done
    assert "--adapter ad_" in done
    assert not (judged.directory / "r").exists()
