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
from typer.testing import CliRunner

from app.cli import app
from app.cli.output import size
from tests.deployed import download, embedded_service, production_service, upload
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
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


@dataclass(frozen=True)
class TrainedJob:
    """A job that succeeded, and what the service returned on the way."""

    client: httpx.Client
    preview: dict[str, Any]  # of the dry run
    job: dict[str, Any]
    adapter: dict[str, Any]
    directory: Path  # the adapter's files
    base_model: Path


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
    spec = {
        "base_model": "tiny",
        "train_dataset": upload(client, TRAIN),
        "eval_dataset": upload(client, EVAL),
        "training": {"max_steps": 6, "max_length": 23, "learning_rate": 1e-3},
    }
    preview = client.post("/v1/jobs?dry_run=true", json=spec)
    assert preview.status_code == 200, preview.text
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 201, response.text
    job = wait_for_end(client, response.headers["location"])
    assert job["status"] == "succeeded", job
    adapter = client.get(f"/v1/adapters/{job['adapter_id']}").json()
    files = download(client, adapter, directory / "adapter")
    return TrainedJob(client, preview.json(), job, adapter, files, base_model)


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
    (tmp_path / "spec.json").write_text(json.dumps(trained.job["spec"]))
    estimate = ["estimate", str(tmp_path / "spec.json")]
    recorded = trained.client.get(f"/v1/jobs/{trained.job['id']}/reports/memory").json()["document"]
    peak = recorded.pop("measured_peak_bytes")
    told = CliRunner().invoke(app, [*estimate, "--json"])
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout) == recorded
    # The tiny model's share is small: both consist of what the libraries take.
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
    assert re.search(rf"^peak memory +{re.escape(memory)}$", job, re.MULTILINE), job
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


def test_everything_that_is_reported_can_be_recomputed(trained: TrainedJob, tmp_path: Path) -> None:
    files = []
    for name, rows in (("train", TRAIN), ("eval", EVAL)):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = [sys.executable, "tests/recompute.py"]
    done = subprocess.run(
        [*program, *files, trained.base_model, trained.directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["probes"] < 1e-5

    metrics = {
        name.removeprefix("eval/"): value
        for name, value in trained.adapter["metrics"].items()
        if name.startswith("eval/")
    }
    assert metrics.pop("max_length") == 23
    assert metrics.pop("accuracy_low") <= metrics["accuracy"] <= metrics.pop("accuracy_high")
    assert metrics == pytest.approx(found["metrics"], abs=1e-5)
    assert 0 < metrics["left_out"] < 1

    lock = json.loads((trained.directory / "run.lock.json").read_text())
    for name, counts in found["counts"].items():
        pairs = lock["pairs"][name]
        assert (pairs["uploaded"], pairs["used"]) == (counts["uploaded"], counts["used"])
        assert pairs["dropped"]["overlong"] == counts["overlong"]

    reports = f"/v1/jobs/{trained.job['id']}/reports"
    dataset = trained.client.get(f"{reports}/dataset").json()["document"]
    assert dataset["pairs"] == lock["pairs"]
    lines = {name: dataset["findings"][name]["lines"] for name in found["report"]["findings"]}
    assert lines == found["report"]["findings"]
    assert (dataset["rows"], dataset["longer_is_better"]) == (
        found["report"]["rows"],
        found["report"]["longer_is_better"],
    )
    worst = trained.client.get(f"{reports}/worst_pairs").json()["document"]["pairs"]
    assert [pair["line"] for pair in worst] == [line for line, _ in found["worst"]]
    assert [pair["margin"] for pair in worst] == pytest.approx(
        [margin for _, margin in found["worst"]], abs=1e-5
    )

    card = (trained.directory / "README.md").read_text()
    counts = found["counts"]
    assert f"trained on {counts['train']['used']} preference pairs" in card
    assert f"Measured on {counts['eval']['used']} held-out pairs of at most 23 tokens" in card
    for name in ("accuracy", "loss", "margin_mean", "brier", "length_baseline"):
        shown = re.search(rf"^\| {name} \| \S+ \| (\S+) \|$", card, re.MULTILINE)
        assert shown
        assert float(shown[1]) == pytest.approx(found["metrics"][name], rel=1e-3)
    codes = {warning["code"] for warning in trained.job["warnings"]}
    assert {"pairs_dropped", "pairs_contradictory"} <= codes


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
