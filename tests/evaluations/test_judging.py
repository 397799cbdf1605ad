"""docs/judging.md, run as it stands on a service that trains; every figure is recomputed."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

import plaudit
from tests.cli.conftest import serving
from tests.model_factories.tiny_models import make_decoder
from tests.services import wait_until

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]
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
    """What running the page left behind."""

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


def hits_of(rows: list[dict[str, Any]]) -> Any:
    margins = np.array([row["scores"][0] - row["scores"][1] for row in rows])
    return (margins > 0) + 0.5 * (margins == 0)


def check_metrics(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Recompute the figures of pairs from the file of scores, without the service's code."""
    margins = np.array([row["scores"][0] - row["scores"][1] for row in rows])
    difference = np.array([row["lengths"][0] - row["lengths"][1] for row in rows])
    hits = hits_of(rows)
    order: dict[str, int] = {}
    prompt = np.array([order.setdefault(row["prompt"], len(order)) for row in rows])
    drawn = np.random.default_rng(0).integers(len(order), size=(1000, len(order)))

    def interval(chosen: Any) -> list[float]:
        members = [np.flatnonzero(chosen & (prompt == p)) for p in range(len(order))]
        means = []
        for resample in drawn:
            picked = np.concatenate([members[p] for p in resample])
            if len(picked):
                means.append(hits[picked].mean())
        return list(np.quantile(means, [0.025, 0.975]))

    everything = np.ones(len(rows), bool)
    near = {"rel": 1e-9, "abs": 1e-9}
    assert (found["rows"], found["pairs"], found["prompts"]) == (len(rows), len(rows), len(order))
    assert found["accuracy"]["value"] == pytest.approx(hits.mean(), **near)
    assert found["accuracy"]["interval"] == pytest.approx(interval(everything), **near)
    assert found["accuracy_strict"] == pytest.approx((margins > 0).mean(), **near)
    assert found["ties"] == pytest.approx((margins == 0).mean(), **near)
    margin = found["margin"]
    quantiles = np.quantile(margins, [0.05, 0.5, 0.95])
    assert [margin["low"], margin["median"], margin["high"]] == pytest.approx(list(quantiles))
    assert (margin["mean"], margin["std"]) == pytest.approx((margins.mean(), margins.std()))
    edges = margin["histogram"]["edges"]
    inside = np.clip(margins, edges[0], edges[-1])
    assert margin["histogram"]["counts"] == np.histogram(inside, bins=edges)[0].tolist()
    scores = np.array([row["scores"] for row in rows])
    reward = found["reward"]
    assert (reward["mean"], reward["std"]) == pytest.approx((scores.mean(), scores.std()))
    within = math.sqrt(np.mean((scores - scores.mean(axis=1, keepdims=True)) ** 2))
    assert reward["within_prompt_std"] == pytest.approx(within)
    check_calibration(margins, hits, found["calibration"])
    length = found["length"]
    lengths = np.array([row["lengths"] for row in rows])
    centered = [a - a.mean(axis=1, keepdims=True) for a in (scores, lengths)]
    assert length["spearman"] == pytest.approx(rank_correlation(scores, lengths))
    assert length["within_prompt_spearman"] == pytest.approx(rank_correlation(*centered))
    for name, chosen in (("shorter_chosen", difference < 0), ("longer_chosen", difference > 0)):
        assert length[name]["value"] == pytest.approx(hits[chosen].mean(), **near)
        assert length[name]["interval"] == pytest.approx(interval(chosen), **near)
        assert length[name]["pairs"] == chosen.sum()
    both = (hits[difference < 0].mean() + hits[difference > 0].mean()) / 2
    assert length["balanced"]["value"] == pytest.approx(both, **near)
    assert length["controlled"]["value"] == pytest.approx(controlled(hits, difference), abs=1e-5)
    for entry in found["slices"]:
        chosen = np.array([row["slice"] == entry["slice"] for row in rows])
        assert entry["pairs"] == chosen.sum()
        assert entry["accuracy"]["value"] == pytest.approx(hits[chosen].mean(), **near)
        assert entry["accuracy"]["interval"] == pytest.approx(interval(chosen), **near)
    assert sum(entry["pairs"] for entry in found["slices"]) == len(rows)


def check_calibration(margins: Any, hits: Any, found: dict[str, Any]) -> None:
    def error(probability: Any) -> float:
        confidence = np.maximum(probability, 1 - probability)
        edges = np.linspace(0.5, 1, 11)
        place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, 9)
        return float(
            sum(
                abs(hits[place == b].mean() - confidence[place == b].mean()) * (place == b).mean()
                for b in set(place.tolist())
            )
        )

    probability = 1 / (1 + np.exp(-margins))
    assert found["ece"] == pytest.approx(error(probability), abs=1e-9)
    assert found["brier"] == pytest.approx(np.mean((1 - probability) ** 2))
    t = found["temperature"]
    if t > 999:  # wrong more often than right: no finite temperature is best
        return
    at = error(1 / (1 + np.exp(-margins / t)))
    assert found["ece_at_temperature"] == pytest.approx(at, abs=1e-6)
    losses = [np.log1p(np.exp(-margins / (t * f))).mean() for f in (0.97, 1, 1.03)]
    assert losses[1] <= min(losses) + 1e-12


def rank_correlation(a: Any, b: Any) -> float:
    def ranks(values: Any) -> Any:
        flat = values.ravel()
        return np.array([(flat < x).sum() + ((flat == x).sum() - 1) / 2 for x in flat])

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def controlled(hits: Any, difference: Any) -> float:
    """By plain gradient ascent on the penalised likelihood."""
    x = np.stack([np.ones(len(hits)), np.tanh(difference / difference.std())])
    weights = np.zeros(2)
    for _ in range(200_000):
        step = x @ (hits - 1 / (1 + np.exp(-(weights @ x)))) - 0.01 * weights
        weights += step * 2 / len(hits)
        if np.abs(step).max() < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def test_comparison_is_that_of_the_score_files(judged: Judged) -> None:
    first, second = judged.ids["first"], judged.ids["second"]
    found = judged.client.comparisons.get(first, second)
    hits = [hits_of(judged.client.evaluations.scores(each)) for each in (first, second)]
    assert found.difference.value == pytest.approx((hits[1] - hits[0]).mean())
    worse, better = int((hits[1] < hits[0]).sum()), int((hits[1] > hits[0]).sum())
    assert (found.disagreements.a_better, found.disagreements.b_better) == (worse, better)
    n, k = worse + better, min(worse, better)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert found.mcnemar.p == pytest.approx(min(1, 2 * tail))
    assert found.dataset_uses == 2


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


class Content(HTMLParser):
    """Addresses, exact numbers and scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.numbers: list[float] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.addresses.append(value or "")
            if name == "data-value" and value not in (None, "True", "False"):
                self.numbers.append(float(str(value)))


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


def test_command_line_writes_report_and_results_for_the_hub(judged: Judged) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")} | {
        "PLAUDIT_URL": judged.client.url,
        "PLAUDIT_API_KEY": judged.key,
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=judged.directory,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    evaluation = judged.client.evaluations.get(judged.ids["second"])
    printed = run("report", evaluation.id, "cli.html", "--hub", "repository")
    assert printed.strip() == "cli.html"
    page = (judged.directory / "evaluation.html").read_text()
    assert (judged.directory / "cli.html").read_text() == page
    (file,) = (judged.directory / "repository" / ".eval_results").iterdir()
    (entry,) = yaml.safe_load(file.read_text())
    assert evaluation.result
    accuracy = evaluation.result["models"][1]["metrics"]["accuracy"]["value"]
    assert entry["value"] == accuracy
    assert entry["dataset"]["id"] == evaluation.dataset
    compared = json.loads(run("compare", judged.ids["first"], evaluation.id, "--json"))
    assert compared["pairs"] == 100
    adapter = evaluation.adapters[0]
    again = run("evaluate", adapter, "--dataset", evaluation.dataset, "--no-probes")
    assert f"{100 * accuracy:.1f} %" in again
    assert "longest" in again
