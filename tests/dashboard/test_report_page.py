"""Report pages as files in a browser: no request, no error, no hostile code, complete in print."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver

from app.domain.judging.metrics import evaluate
from app.domain.judging.probes import PROBES, ProbeScores, probe_metrics
from app.domain.judging.score_table import ScoredRow
from app.domain.progress import MAX_LINE_BYTES, Reported
from app.domain.spec import MAX_EVAL_DATASETS
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from app.reports.page import MAX_BYTES
from tests.dashboard.browser import Browser
from tests.world import World
from worker.trainer.evaluation.plots import model_plots
from worker.trainer.evaluation.training_report import WORST_PAIRS, WORST_PAIRS_NAMED

HOSTILE = (
    "<script>document.title='hacked'</script><img src='http://evil.example/x' onerror='alert(1)'>"
    "\"'&amp;</pre></td><style>body{display:none}</style>"
)
#: Of a dataset that is no benchmark: its slices have long names.
SUITE = {
    "suite": "reward-bench@1",
    "metrics": {f"subset/{'W' * 64}": 0.5, f"subset/{HOSTILE[:64]}": 0.25},
    "overall": None,
    "complete": False,
    "problems": [f"200 rows of {'W' * 64} instead of 0"],
}
#: A4 within the margins of 1 cm that Chromium prints with, in CSS pixels.
PRINTED_WIDTH = 718
CHARACTERS = 1000
#: Returns the elements that exceed the page on the right.
_OUTSIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")]
  .filter((node) => node.getBoundingClientRect().right > width + 1)
  .map((node) => `${node.tagName} ${node.textContent.trim().slice(0, 60)}`);
"""


def hostile_text(number: int) -> str:
    """Return a long text with markup, and with words too long for a line."""
    text = f"{number} {HOSTILE} {'unbroken' * 30} \u202e\U0001f600 "
    return (text * 9)[:CHARACTERS]


def table(skill: float, rows: int = 400) -> list[ScoredRow]:
    """Return ranked rows with gold scores and as many slices as an evaluation reports."""
    draw, lengths = np.random.default_rng(int(10 * skill)), np.random.default_rng(0)
    return [
        ScoredRow(
            line,
            str(line // 3),
            (1, 2, 3),
            tuple(draw.normal((skill, 0, -skill)).tolist()),
            tuple(lengths.integers(1, 4000, size=3).tolist()),
            gold=(1.0, 0.5, 0.0),
            slice=f"{line % 32} {HOSTILE}"[:64],
        )
        for line in range(1, rows + 1)
    ]


def found_by_probes(rows: list[ScoredRow]) -> list[dict[str, Any]]:
    first, last = (np.array([row.scores[i] for row in rows]) for i in (0, -1))
    scores = ProbeScores(first, last, first - 0.1, last + 0.2, tuple(r.prompt for r in rows))
    return [probe_metrics(probe, scores, 0) for probe in PROBES.values()]


def worst(count: int) -> list[dict[str, Any]]:
    return [
        {
            "line": number,
            "slice": HOSTILE[:64],
            "margin": -1.5,
            "chosen_score": 0.25,
            "rejected_score": 1.75,
            "prompt": hostile_text(number),
            "chosen": hostile_text(number),
            "rejected": hostile_text(number),
        }
        for number in range(count)
    ]


@pytest.fixture
def evaluations(world: World) -> list[dict[str, Any]]:
    """Return two evaluations with the maximum number of adapters and with hostile texts."""
    world.know_base_model()
    dataset = world.upload()["id"]
    adapters = []
    for _ in range(8):
        world.submit(train_dataset=dataset)
        adapters.append(world.publish(world.claim(), {"adapter_config.json": b"{}"}))
    found = []
    for skill in (0.2, 0.6):
        evaluation = world.request_evaluation(
            adapters=adapters, dataset=dataset, name=HOSTILE[:128]
        )
        context = world.claim()
        names = ["base:untrained", *adapters]
        tables = {name: table(skill + 0.1 * number) for number, name in enumerate(names)}
        rows = tables[adapters[0]]
        reason = {"rows": 1234, "lines": list(range(1_000_000, 1_000_020))}
        plots = {name: model_plots(each, evaluate(each, seed=0)) for name, each in tables.items()}
        world.publish_scores(
            context,
            tables,
            more={
                "suite": SUITE,
                "probes": found_by_probes(rows),
                "left_out": {"overlong": reason, "not_rendered": reason},
                "truncated": reason,
                "training_overlap": {"rows": 12, "share": 0.03, "lines": list(range(20))},
            },
            reports={
                "worst_pairs": {"models": {name: worst(20) for name in names}},
                "full": {"plots": plots},
            },
        )
        found.append(evaluation)
    return found


def evaluation_page(world: World, evaluations: list[dict[str, Any]]) -> str:
    return f"/v1/evaluations/{evaluations[0]['id']}/reports/full.html"


def comparison_page(world: World, evaluations: list[dict[str, Any]]) -> str:
    a, b = (each["id"] for each in evaluations)
    return f"/v1/comparisons/full.html?a={a}&b={b}"


def part_of_report(rows: list[ScoredRow], worst_pairs: int) -> dict[str, Any]:
    metrics = evaluate(rows, seed=0)
    return {
        "plots": model_plots(rows, metrics),
        "model": {"adapter": "held-out pairs", "metrics": metrics},
        "baselines": {"longest": {"accuracy": {"value": 0.25, "interval": None}}},
        "worst_pairs": worst(worst_pairs),
    }


def training_page(world: World, evaluations: list[dict[str, Any]]) -> str:
    """With as many named evaluation datasets as a job may have."""
    datasets = {f"n{number}": world.upload()["id"] for number in range(MAX_EVAL_DATASETS)}
    job = world.submit(name=HOSTILE[:128], eval_datasets=datasets)
    context = world.claim()
    for step in range(1, 30):
        accuracies = {f"eval_{name}__accuracy": 0.5 + step / 99 for name in datasets}
        world.step(context, step, 30, train__loss=1 / step, eval__accuracy=0.5, **accuracies)
    rows = table(0.4)
    document: dict[str, Any] = {
        **part_of_report(rows, WORST_PAIRS),
        "eval_datasets": {name: part_of_report(rows, WORST_PAIRS_NAMED) for name in datasets},
    }
    assert len(Reported(name="full", document=document).model_dump_json()) < MAX_LINE_BYTES
    finding = {"count": 999_999, "lines": list(range(1_000_000, 1_000_020))}
    data = {
        "rows": 1_000_000,
        "prompts": 1_000_000,
        "max_length": 1024,
        "findings": {"duplicates": finding, "contradictions": finding},
        "tokens": {"chosen": {"count": 9, "mean": 4.2, "p50": 4, "p99": 6, "max": 7}},
    }
    reports = [Reported(name="full", document=document), Reported(name="dataset", document=data)]
    worker_api.record_progress(context, Progress(reports=reports))
    world.publish(context, {"adapter_config.json": b"{}"})
    return f"/v1/jobs/{job['id']}/reports/full.html"


PAGES = (evaluation_page, comparison_page, training_page)


@pytest.fixture(scope="module")
def made_pages() -> dict[str, bytes]:
    """The pages, which take long to make, by the names of the functions that return their paths."""
    return {}


@pytest.fixture
def pages(made_pages: dict[str, bytes], request: pytest.FixtureRequest) -> dict[str, bytes]:
    """The pages; the first test makes them with a service of its own."""
    if not made_pages:
        world: World = request.getfixturevalue("world")
        evaluations = request.getfixturevalue("evaluations")
        for path in PAGES:
            answer = world.client.get(path(world, evaluations))
            assert answer.status_code == 200, answer.text
            made_pages[path.__name__] = answer.content
    return made_pages


@pytest.fixture(params=[path.__name__ for path in PAGES])
def page(
    request: pytest.FixtureRequest,
    pages: dict[str, bytes],
    chromium: webdriver.Chrome,
    tmp_path: Path,
) -> Iterator[Browser]:
    """A tab with the page opened as a file; an error or a request makes it fail at the end."""
    content = pages[request.param]
    assert len(content) <= MAX_BYTES
    file = tmp_path / "report.html"
    file.write_bytes(content)
    browser = Browser(chromium, "file://")
    browser.open_tab()
    browser.get(str(file))
    yield browser
    assert browser.requests() == [file.as_uri()]
    browser.close()


def test_page_opens_without_a_request_and_fits(page: Browser) -> None:
    assert page.js("return document.title") != "hacked"
    assert (
        page.js("return document.scripts.length + document.querySelectorAll('iframe').length") == 0
    )
    assert page.js("return getComputedStyle(document.body).display") == "block"
    sources = page.js("return [...document.images].map((image) => image.src.slice(0, 26))")
    assert set(sources) <= {"data:image/svg+xml;base64,"}
    assert page.js("return [...document.images].every((image) => image.naturalWidth > 0)")
    assert not page.is_wider_than_screen()
    assert page.js(_OUTSIDE) == []


def test_training_page_keeps_the_plots_of_every_dataset(pages: dict[str, bytes]) -> None:
    html = pages["training_page"].decode()
    assert html.count("<figcaption>Margins</figcaption>") == 1 + MAX_EVAL_DATASETS


def test_hostile_text_is_shown_as_text(page: Browser) -> None:
    shown = page.text()
    if "Comparison" not in page.js("return document.title"):
        assert "<script>document.title='hacked'</script>" in shown
    # A bold tag of a slice would make the rest of the page bold.
    assert page.js("return document.querySelectorAll('td *, pre *, h1 *, h2 *, h3 *').length") == 0


def test_page_is_whole_in_print(page: Browser) -> None:
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.emulate_width(PRINTED_WIDTH)
    assert page.js(_OUTSIDE) == []
    assert not page.is_wider_than_screen()  # also by a word
    printed = page.driver.execute_cdp_cmd(
        "Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69}
    )
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    height = page.js("return document.documentElement.scrollHeight")
    assert pages >= height / 1200
    assert pages > 0
