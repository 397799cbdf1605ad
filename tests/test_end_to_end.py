"""A training job through real processes: embedded on SQLite, and as docker-compose.yml runs it."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from app.cli.commands import app
from app.cli.output import size
from tests.deployed import download, embedded_service, production_service, upload
from tests.evaluations.figures import check_metrics
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
from tests.reports.content import Content
from tests.services import fresh_database, wait_until

pytestmark = [pytest.mark.train, pytest.mark.timeout(1200)]

#: Score the probes as a user of the adapter does: with plain PEFT and without this service.
SCORE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
base, adapter = sys.argv[1:3]
torch.manual_seed(99)
spec = json.load(open(f"{adapter}/reward_model.json"))
tokenizer = AutoTokenizer.from_pretrained(adapter)
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32")
model.config.pad_token_id = spec["pad_token_id"]
model = PeftModel.from_pretrained(model, adapter).eval()
found = []
for line in open(f"{adapter}/probes.jsonl"):
    probe = json.loads(line)
    for side in ("chosen", "rejected"):
        ids = tokenizer(probe[side], add_special_tokens=spec["add_special_tokens"]).input_ids
        with torch.no_grad():
            score = model(input_ids=torch.tensor([ids])).logits.item()
        found.append(abs(score - probe[f"{side}_score"]))
print(len(found), max(found))
"""


_PAIRS = make_pairs(48)
_REVERSED = {"chosen": _PAIRS[1]["rejected"], "rejected": _PAIRS[1]["chosen"]}
#: One pair occurs again, another one in reverse. Some pairs are longer than max_length.
TRAIN = [*_PAIRS, _PAIRS[0], _PAIRS[1] | _REVERSED]
EVAL = make_pairs(24, seed=1)
#: Some of its prompts are trained on.
MATHS = make_pairs(15, seed=2)
DATASETS = {"training": TRAIN, "eval": EVAL, "eval_maths": MATHS}
EVALUATIONS = ("eval", "eval_maths")


@dataclass(frozen=True)
class TrainedJob:
    """A job that succeeded, and what the service returned on the way."""

    client: httpx.Client
    spec: dict[str, Any]
    preview: dict[str, Any]  # of the dry run
    job: dict[str, Any]
    adapter: dict[str, Any]
    directory: Path  # the adapter's files
    base_model: Path
    datasets: dict[str, str]  # ids


@pytest.fixture(scope="module", params=["embedded", "production"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrainedJob]:
    """Train one job on a service of each kind; the tests of this module only read it."""
    directory = tmp_path_factory.mktemp(request.param)
    base_model = make_decoder(directory / "base")
    catalogue = directory / "models.yaml"
    catalogue.write_text(f"tiny:\n  source: local:{base_model}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")} | {
        "PLAUDIT_BASE_MODELS": str(catalogue),
        "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "120",
    }
    with ExitStack() as stack:
        if request.param == "embedded":
            service = stack.enter_context(embedded_service(environment, directory))
        else:
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(fresh_database(server, f"e2e_{secrets.token_hex(4)}"))
            environment["PLAUDIT_DATABASE_URL"] = url
            environment["PLAUDIT_REDIS_URL"] = request.getfixturevalue("redis_server")
            service = stack.enter_context(production_service(environment, directory))
        yield train(service.client, directory, base_model)


def train(client: httpx.Client, directory: Path, base_model: Path) -> TrainedJob:
    """Dry-run a spec, train it, and download the adapter."""
    datasets = {name: upload(client, rows) for name, rows in DATASETS.items()}
    spec = {
        "base_model": "tiny",
        "train_dataset": datasets["training"],
        "eval_dataset": datasets["eval"],
        "eval_datasets": {"maths": datasets["eval_maths"]},
        "training": {"max_steps": 6, "max_length": 23, "learning_rate": 1e-3, "eval_steps": 2},
    }
    preview = client.post("/v1/jobs?dry_run=true", json=spec)
    assert preview.status_code == 200, preview.text
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 201, response.text
    job = wait_for_end(client, response.headers["location"])
    assert job["status"] == "succeeded", job
    adapter = client.get(f"/v1/adapters/{job['adapter_id']}").json()
    files = download(client, adapter, directory / "adapter")
    return TrainedJob(client, spec, preview.json(), job, adapter, files, base_model, datasets)


def wait_for_end(client: httpx.Client, location: str) -> dict[str, Any]:
    """Return the job at ``location`` when it has ended."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(location, params={"wait": 30, "until": "terminal"}).json()
        if is_terminal(job["status"]):
            return job
    raise AssertionError(job)


def is_terminal(status: str) -> bool:
    return status in ("succeeded", "failed", "cancelled")


def test_job_runs_as_the_dry_run_said(trained: TrainedJob) -> None:
    assert trained.preview["plan"]["lora"]["task_type"] == "SEQ_CLS"
    assert trained.job["progress"]["step"] == 6
    reports = {
        name: trained.client.get(f"/v1/jobs/{trained.job['id']}/reports/{name}").json()["document"]
        for name in ("estimate", "dataset", "memory")
    }
    assert reports["estimate"]["steps"] == 6
    assert reports["dataset"] == trained.preview["reports"]["dataset"]
    assert reports["memory"].pop("measured_peak_bytes") > 100 << 20
    assert reports["memory"] == trained.preview["reports"]["memory"]


def test_estimate_of_the_command_is_the_one_that_the_job_recorded(
    trained: TrainedJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLAUDIT_URL", str(trained.client.base_url))
    monkeypatch.setenv(
        "PLAUDIT_API_KEY", trained.client.headers["Authorization"].removeprefix("Bearer ")
    )
    (tmp_path / "spec.json").write_text(json.dumps(trained.spec))
    estimate = ["estimate", str(tmp_path / "spec.json")]
    recorded = trained.client.get(f"/v1/jobs/{trained.job['id']}/reports/memory").json()["document"]
    peak = recorded.pop("measured_peak_bytes")
    told = CliRunner().invoke(app, [*estimate, "--json"])
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout) == recorded
    # The share of the tiny model is small: most memory belongs to the libraries.
    assert recorded["overhead_bytes"] / 2 < peak < 4 * recorded["total_bytes"]

    shown = CliRunner().invoke(app, estimate).stdout.splitlines()
    fields = {name: value for name, _, value in (line.partition("  ") for line in shown)}
    assert fields.keys() == {
        "weights", "optimizer", "activations", "overhead", "total", "this worker's device", "fits",
    }  # fmt: skip
    assert fields["total"].strip() == size(recorded["total_bytes"])
    assert fields["fits"].strip() == "24 GB, 48 GB, 80 GB, 141 GB"

    job = CliRunner().invoke(app, ["jobs", "get", trained.job["id"]]).stdout
    memory = f"{size(peak)}, estimated {size(recorded['total_bytes'])}"
    assert re.search(rf"^peak memory +{re.escape(memory)} *$", job, re.MULTILINE), job
    assert re.search(r"^time spent .*training \d+\.\d s.*verifying \d+\.\d s", job, re.MULTILINE)


def test_adapter_scores_its_probes_with_plain_peft(trained: TrainedJob) -> None:
    scored = subprocess.run(
        [sys.executable, "-c", SCORE, str(trained.base_model), str(trained.directory)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert scored.returncode == 0, scored.stderr
    count, difference = scored.stdout.split()
    assert int(count) >= 32
    assert float(difference) < 1e-5


@pytest.fixture(scope="module")
def recomputed(trained: TrainedJob, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures that an independent program computes from the datasets and the adapter."""
    directory = tmp_path_factory.mktemp("datasets")
    files = []
    for name, rows in DATASETS.items():
        path = directory / f"{name}.jsonl"
        path.write_bytes(
            trained.client.get(f"/v1/datasets/{trained.datasets[name]}/content").content
        )
        stored = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["chosen"] for row in stored] == [row["chosen"] for row in rows]
        files.append(f"{name}={path}")
    done = subprocess.run(
        [sys.executable, "tests/recompute.py", trained.base_model, trained.directory, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_metrics_can_be_recomputed(trained: TrainedJob, recomputed: dict[str, Any]) -> None:
    assert recomputed["probes"] < 1e-5
    reported = {name: dict[str, float]() for name in EVALUATIONS}
    earlier = {name: dict[str, float]() for name in EVALUATIONS}
    for name, value in trained.adapter["metrics"].items():
        group, _, figure = name.partition("/")
        if group in reported:
            reported[group][figure] = value
        elif group.startswith("eval_before"):
            earlier[group.replace("eval_before", "eval")][figure] = value
    for group in EVALUATIONS:
        for found, expected in (
            (reported[group], recomputed["metrics"][group]),
            (earlier[group], recomputed["before"][group]),
        ):
            assert found.pop("max_length") == 23
            low, high = found.pop("accuracy_low"), found.pop("accuracy_high")
            assert low <= found["accuracy"] <= high
            if group != "eval":  # slices are measured on the eval_dataset
                expected = {k: v for k, v in expected.items() if not k.startswith("slice/")}
            assert found == pytest.approx(expected, abs=1e-5)
            if found is reported[group]:
                # Both ends move by at most one pair between different draws.
                step = 1 / found["pairs"] + 1e-9
                assert [low, high] == pytest.approx(recomputed["intervals"][group], abs=step)
    assert 0 < reported["eval"]["left_out"] < 1


def test_counts_and_reports_can_be_recomputed(
    trained: TrainedJob, recomputed: dict[str, Any]
) -> None:
    lock = json.loads((trained.directory / "run.lock.json").read_text())
    found = {"training": lock["pairs"]["train"], "eval": lock["pairs"]["eval"]}
    found |= {f"eval_{name}": each for name, each in lock["pairs"]["eval_datasets"].items()}
    for name, counts in recomputed["counts"].items():
        pairs = found[name]
        assert (pairs["uploaded"], pairs["used"]) == (counts["uploaded"], counts["used"])
        assert pairs["dropped"]["overlong"] == counts["overlong"]

    reports = f"/v1/jobs/{trained.job['id']}/reports"
    dataset = trained.client.get(f"{reports}/dataset").json()["document"]
    assert dataset["pairs"] == lock["pairs"]
    expected = recomputed["report"]
    lines = {name: dataset["findings"][name]["lines"] for name in expected["findings"]}
    assert lines == expected["findings"]
    maths = dataset["eval_datasets"]["maths"]
    assert (maths["rows"], maths["leaked"]["lines"]) == (
        len(MATHS),
        expected["leaked"]["eval_maths"],
    )
    assert (dataset["rows"], dataset["longer_is_better"]) == (
        expected["rows"],
        expected["longer_is_better"],
    )
    worst = trained.client.get(f"{reports}/worst_pairs").json()["document"]
    for group, pairs in (("eval", worst["pairs"]), ("eval_maths", worst["eval_datasets"]["maths"])):
        wrong = recomputed["worst"][group]
        assert [pair["line"] for pair in pairs] == [line for line, _ in wrong]
        margins = [margin for _, margin in wrong]
        assert [pair["margin"] for pair in pairs] == pytest.approx(margins, abs=1e-5)
    codes = {warning["code"] for warning in trained.job["warnings"]}
    assert {"pairs_dropped", "pairs_contradictory"} <= codes


@pytest.fixture(scope="module")
def report(trained: TrainedJob) -> dict[str, Any]:
    return dict(trained.client.get(f"/v1/jobs/{trained.job['id']}/reports/full.json").json())


@pytest.mark.parametrize("group", EVALUATIONS)
def test_report_of_each_evaluation_dataset_can_be_recomputed(
    trained: TrainedJob, recomputed: dict[str, Any], report: dict[str, Any], group: str
) -> None:
    part = report if group == "eval" else report["eval_datasets"]["maths"]
    check_metrics(recomputed["scores"][group], part["model"]["metrics"], seed=42, tolerance=1e-5)
    metrics = recomputed["metrics"][group]
    longest = metrics["length_baseline"]
    expected = {
        "longest": longest,
        "shortest": 1 - longest,
        "untrained": recomputed["before"][group]["accuracy"],
    }
    found = {name: each["accuracy"]["value"] for name, each in part["baselines"].items()}
    assert 0 <= found.pop("random") <= 1
    assert found == pytest.approx(expected)
    wrong = recomputed["worst"][group][: 20 if group == "eval" else 10]
    assert [pair["line"] for pair in part["worst_pairs"]] == [line for line, _ in wrong]
    assert part["plots"].keys() == {"margins", "calibration", "length"}
    curves = [report["curves"][f"{group}/{name}"] for name in ("loss", "accuracy")]
    assert [[step for step, _ in curve] for curve in curves] == [[2, 4, 6]] * 2
    assert [curve[-1][1] for curve in curves] == pytest.approx(
        [metrics["loss"], metrics["accuracy"]], abs=1e-5
    )
    if group != "eval":
        figures = {name: part[name] for name in ("accuracy", "loss", "left_out", "pairs")}
        assert figures == pytest.approx({name: metrics[name] for name in figures}, abs=1e-5)


def test_page_of_the_report_has_the_numbers_of_its_document(
    trained: TrainedJob, report: dict[str, Any]
) -> None:
    html = trained.client.get(f"/v1/jobs/{trained.job['id']}/reports/full.html").text
    numbers = set(Content(html).numbers)
    pairs = report["data"]["pairs"]
    for part, counts in (
        (report, pairs["eval"]),
        (report["eval_datasets"]["maths"], pairs["eval_datasets"]["maths"]),
    ):
        metrics = part["model"]["metrics"]
        values = [
            metrics["accuracy"]["value"], *metrics["accuracy"]["interval"],
            metrics["margin"]["mean"], metrics["calibration"]["ece"],
            metrics["length"]["shorter_chosen"]["value"], metrics["reward"]["std"],
            *(each["accuracy"]["value"] for each in metrics["slices"]),
            *(each["accuracy"]["value"] for each in part["baselines"].values()),
            counts["uploaded"], counts["dropped"]["overlong"], counts["used"],
            counts["left_out_share"],
        ]  # fmt: skip
        assert set(values) <= numbers
        assert f"Measured on {counts['used']} pairs of at most 23 tokens." in html
    assert {points[-1][1] for points in report["curves"].values()} <= numbers
    rows = ("training pairs", "held-out pairs", "maths")
    titles = {f"{figure} on {each}" for figure in ("Loss", "Accuracy") for each in rows}
    assert {title for title in titles if f'alt="{title}"' not in html} == set()


def test_card_and_digests_can_be_recomputed(
    trained: TrainedJob, recomputed: dict[str, Any]
) -> None:
    card = (trained.directory / "README.md").read_text()
    counts, metrics = recomputed["counts"], recomputed["metrics"]
    assert f"trained on {counts['training']['used']} preference pairs" in card
    assert f"Measured on {counts['eval']['used']} held-out pairs of at most 23 tokens" in card
    for name in ("accuracy", "loss", "margin_mean", "brier", "length_baseline"):
        shown = re.search(rf"^\| {name} \| (\S+) \| (\S+) \|$", card, re.MULTILINE)
        assert shown
        both = (recomputed["before"]["eval"][name], metrics["eval"][name])
        assert [float(text) for text in shown.groups()] == pytest.approx(both, rel=1e-3)
    index = {each.dataset_type: each.metric_value for each in ModelCard(card).data.eval_results}
    assert index == pytest.approx(
        {trained.datasets[group]: metrics[group]["accuracy"] for group in EVALUATIONS}
    )
    shown = re.search(r"^\| maths \| (\d+) \| \S+ \| (\S+) \| (\S+) \|", card, re.MULTILINE)
    assert shown
    figures = [recomputed[when]["eval_maths"]["accuracy"] for when in ("before", "metrics")]
    assert [float(text) for text in shown.groups()] == pytest.approx(
        [counts["eval_maths"]["used"], *figures], rel=1e-3
    )

    lock = json.loads((trained.directory / "run.lock.json").read_text())
    facts = json.loads((trained.directory / "reward_model.json").read_text())
    digests = recomputed["digests"]
    assert lock["datasets"] == {
        "train": digests["training"],
        "eval": digests["eval"],
        "eval_datasets": {"maths": digests["eval_maths"]},
    }
    assert lock["base_model_sha256"] == facts["base_model_sha256"] == digests["base_model"]
    assert facts["chat_template_sha256"] == digests["chat_template"]
    assert lock["plan"]["data"]["train"]["sha256"] == digests["training"]


def test_adapter_has_no_files_of_the_training_run(trained: TrainedJob) -> None:
    assert not {"config.json", "training_args.bin"} & set(os.listdir(trained.directory))


def test_clone_produces_the_same_bytes(trained: TrainedJob) -> None:
    client = trained.client
    response = client.post(f"/v1/jobs/{trained.job['id']}/clone", json={})
    twin = wait_for_end(client, response.headers["location"])
    adapter = client.get(f"/v1/adapters/{twin['adapter_id']}").json()
    assert adapter["archive"]["sha256"] == trained.adapter["archive"]["sha256"]


def test_adapter_is_merged_once(trained: TrainedJob) -> None:
    client, merge = trained.client, f"/v1/adapters/{trained.adapter['id']}/merge"
    assert client.get(merge).status_code == 404
    first = client.post(merge)
    assert first.status_code == 202, first.text
    assert client.post(merge).json()["id"] == first.json()["id"]
    wait_until("the merge", lambda: is_terminal(client.get(merge).json()["status"]), seconds=300)
    merged = client.get(merge).json()
    assert merged["status"] == "succeeded", merged
    files = client.get(f"/v1/adapters/{merged['adapter_id']}").json()["files"]
    assert {"config.json", "model.safetensors"} <= {file["name"] for file in files}
