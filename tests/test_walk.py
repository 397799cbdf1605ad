"""The walk of docs/browser.md, from a file to a policy trained with its rewards.

A real service with a worker and a scorer, a real Chromium, and the real client libraries.
"""

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
import pytest
from huggingface_hub import snapshot_download
from selenium.webdriver.support.select import Select

import plaudit
from plaudit.scoring import load_reward_model
from tests.cli.conftest import environment, serving
from tests.dashboard.browser import Browser, chromium
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
from tests.scoring.test_documentation import SET_UP, TEAR_DOWN, blocks
from tests.services import wait_until

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]
BASE = "tiny"
PROMPT, REPLIES = "please tell me about tea ?", ["the answer about tea is kind", "tea is rude"]


@dataclass(frozen=True)
class Service:
    """A running service, its first key, and the files of its base model."""

    url: str
    key: str
    base: Path


@dataclass(frozen=True)
class Walked:
    """Results of the walk in the browser."""

    dataset_id: str
    job_id: str
    adapter_id: str
    report: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`plaudit serve` with a catalogue of one small model."""
    directory = tmp_path_factory.mktemp("walk")
    base = make_decoder(directory / "base")
    catalogue = directory / "models.yaml"
    catalogue.write_text(f"{BASE}: {{source: 'local:{base}'}}\n")
    data = directory / "data"
    data.mkdir()
    settings = {"base_models": catalogue, "preflight_wait_seconds": 120}
    with serving(data, **settings) as (_, url):
        wait_until("a worker", lambda: httpx.get(f"{url}/readyz").json()["workers"], seconds=120)
        yield Service(url, (data / "api-key").read_text().strip(), base)


@pytest.fixture(scope="module")
def ultrafeedback(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the columns of HuggingFaceH4/ultrafeedback_binarized."""
    path = tmp_path_factory.mktemp("file") / "train_prefs.jsonl"
    rows = []
    for pair in make_pairs(60):
        (user,) = pair["prompt"]
        chosen, rejected = ([user, *pair[side]] for side in ("chosen", "rejected"))
        rows.append(
            {
                "prompt": user["content"],
                "prompt_id": f"{len(rows):064x}",
                "chosen": chosen,
                "rejected": rejected,
                "messages": chosen,
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def walked(
    service: Service, ultrafeedback: Path, tmp_path_factory: pytest.TempPathFactory
) -> Walked:
    """The walk in the browser: sign in, upload, inspect, submit, watch, read the report."""
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        browser = Browser(driver, service.url)
        browser.open_tab()
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )
        browser.get("/")
        browser.wait_for_id("api-key")
        browser.id("api-key").send_keys(service.key)
        browser.id("sign-in-form").submit()
        browser.wait_for_text("No jobs yet")
        browser.get("/datasets")
        browser.wait_for_id("upload-file")
        browser.id("upload-file").send_keys(str(ultrafeedback))
        browser.id("upload-button").click()
        browser.wait_for_text("60", "#facts")
        browser.wait_for_text(str(make_pairs(1)[0]["prompt"][0]["content"]), ".prompt")
        dataset_id = browser.text("#dataset-id")
        browser.id("train").click()
        browser.wait_for_id("field-base_model")
        Select(browser.id("field-base_model")).select_by_value(BASE)
        for name, value in (
            ("name", "first walk"),
            ("eval_dataset", '{"fraction": 0.25}'),
            ("training-max_steps", "4"),
            ("training-max_length", "64"),
        ):
            _fill(browser, name, value)
        wait_until(
            "the dry run",
            lambda: "The spec is valid." in browser.text("#dry-run-state"),
            seconds=240,
        )
        browser.id("submit").click()
        browser.wait_for_text("first walk", "#title")
        job_id = driver.current_url.rpartition("/")[2]
        wait_until("success", lambda: browser.text("#status") == "succeeded", seconds=300)
        browser.wait_for_text("verified", "#certificate")
        browser.wait_for_text("Loss", "#charts")
        assert re.fullmatch(r"\d+\.\d %", browser.text("#accuracy-after"))
        browser.id("report").click()
        report = downloads / f"{job_id}.html"
        wait_until("the report", report.is_file)
        href = browser.id("adapter-link").get_attribute("href") or ""
        browser.close()
    return Walked(dataset_id, job_id, href.rpartition("/")[2], report.read_text())


def _fill(browser: Browser, name: str, value: str) -> None:
    script = "document.getElementById(arguments[0]).closest('details')?.setAttribute('open', '')"
    browser.js(script, f"field-{name}")
    field = browser.id(f"field-{name}")
    field.clear()
    field.send_keys(value)


def test_report_of_the_job_needs_nothing_else(walked: Walked) -> None:
    assert "first walk" in walked.report
    assert not re.search(r'(src|href)="https?://', walked.report)


def test_adapter_from_the_hub_routes_scores_as_the_service(
    service: Service, walked: Walked, tmp_path: Path
) -> None:
    folder = snapshot_download(
        walked.adapter_id, endpoint=f"{service.url}/hub", token=service.key, cache_dir=tmp_path
    )
    message = [{"role": "user", "content": PROMPT}]
    at_home = load_reward_model(folder, base=service.base).score(message, REPLIES)
    groups = [{"prompt": message, "responses": REPLIES}]
    with plaudit.Plaudit(service.url, service.key) as client:
        served = client.score(walked.adapter_id, groups=groups)
    assert at_home[0] != at_home[1]
    assert served.data[0].scores == pytest.approx(at_home, abs=1e-5)


def test_policy_is_trained_with_its_rewards(
    service: Service, walked: Walked, tmp_path: Path
) -> None:
    """The program of docs/scoring.md, with the adapter of the walk."""
    make_decoder(tmp_path / "policy")
    program = tmp_path / "page.py"
    program.write_text("\n".join([SET_UP, *blocks("python"), TEAR_DOWN]))
    variables = environment(tmp_path) | {
        "PLAUDIT_URL": service.url,
        "PLAUDIT_API_KEY": service.key,
        "ADAPTER": walked.adapter_id,
        "DATASET": walked.dataset_id,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rewards 2 True" in done.stdout
