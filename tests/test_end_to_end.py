"""The main job through real processes: embedded on SQLite, and as docker-compose.yml runs it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
from tests.services import free_port, fresh_database, wait_until
from tests.test_deployment import SERVICES

#: What a consumer does with an adapter: plain PEFT, nothing of this service.
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


@pytest.fixture(params=["embedded", "production"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    """The service's processes, and a client with a key."""
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text(f"tiny:\n  source: local:{make_decoder(tmp_path / 'base')}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")} | {
        "PLAUDIT_BASE_MODELS": str(catalogue),
        "PLAUDIT_PORT": str(free_port()),
        "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "120",
    }
    with ExitStack() as stack:
        if request.param == "embedded":
            environment["PLAUDIT_DATA_DIR"] = str(tmp_path / "data")
            stack.enter_context(running(["serve"], environment, tmp_path))
            key_file = tmp_path / "data" / "api-key"
            wait_until("the first key", key_file.is_file, seconds=120)
            key = key_file.read_text().strip()
        else:
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(fresh_database(server, f"e2e_{secrets.token_hex(4)}"))
            environment["PLAUDIT_DATABASE_URL"] = url
            environment["PLAUDIT_REDIS_URL"] = request.getfixturevalue("redis_server")
            environment["PLAUDIT_QUEUE"] = f"e2e.{secrets.token_hex(4)}"
            run_cli(SERVICES["migrate"]["command"], environment | own_data(tmp_path / "migrate"))
            key = run_cli(["keys", "create"], environment | own_data(tmp_path / "api")).strip()
            for name in ("api", "worker"):
                own = environment | own_data(tmp_path / name)
                stack.enter_context(running(SERVICES[name]["command"], own, tmp_path))
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{environment['PLAUDIT_PORT']}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=180,
        )
        stack.enter_context(client)
        wait_until("the API", lambda: answers(client), seconds=120)
        client.headers["x-test-base"] = str(tmp_path / "base")
        yield client


@pytest.mark.train
@pytest.mark.timeout(1200)
def test_job_is_submitted_trained_downloaded_and_merged(
    service: httpx.Client, tmp_path: Path
) -> None:
    dataset = upload(service, make_pairs(48))
    held_out = upload(service, make_pairs(24, seed=1))
    spec = {
        "base_model": "tiny",
        "train_dataset": dataset,
        "eval_dataset": held_out,
        "training": {"max_steps": 6, "max_length": 128, "learning_rate": 1e-3},
    }
    preview = service.post("/v1/jobs?dry_run=true", json=spec)
    assert preview.status_code == 200, preview.text
    assert preview.json()["plan"]["lora"]["task_type"] == "SEQ_CLS"

    answer = service.post("/v1/jobs", json=spec)
    assert answer.status_code == 201, answer.text
    job = ended(service, answer.headers["location"])
    assert job["status"] == "succeeded", job
    assert job["progress"]["step"] == 6
    foreseen = {
        name: service.get(f"/v1/jobs/{job['id']}/reports/{name}").json()["document"]
        for name in ("estimate", "dataset", "memory")
    }
    assert foreseen["estimate"]["steps"] == 6
    assert foreseen["dataset"] == preview.json()["reports"]["dataset"]
    assert foreseen["memory"] == preview.json()["reports"]["memory"]

    adapter = service.get(f"/v1/adapters/{job['adapter_id']}").json()
    directory = download(service, adapter, tmp_path / "adapter")
    assert not {"config.json", "training_args.bin"} & set(os.listdir(directory))
    base = service.headers["x-test-base"]
    scored = subprocess.run(
        [sys.executable, "-c", SCORE, base, str(directory)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert scored.returncode == 0, scored.stderr
    count, difference = scored.stdout.split()
    assert int(count) >= 32
    assert float(difference) < 1e-5

    again = service.post(f"/v1/jobs/{job['id']}/clone", json={})
    twin = ended(service, again.headers["location"])
    twin_adapter = service.get(f"/v1/adapters/{twin['adapter_id']}").json()
    assert twin_adapter["archive"]["sha256"] == adapter["archive"]["sha256"]

    merge = f"/v1/adapters/{adapter['id']}/merge"
    assert service.get(merge).status_code == 404
    first = service.post(merge)
    assert first.status_code == 202, first.text
    assert service.post(merge).json()["id"] == first.json()["id"]
    wait_until("the merge", lambda: _is_over(service.get(merge).json()["status"]), seconds=300)
    merged = service.get(merge).json()
    assert merged["status"] == "succeeded", merged
    files = service.get(f"/v1/adapters/{merged['adapter_id']}").json()["files"]
    assert {"config.json", "model.safetensors"} <= {file["name"] for file in files}


def upload(client: httpx.Client, pairs: list[dict[str, Any]]) -> str:
    """The id of a new dataset."""
    lines = [json.dumps({k: v for k, v in pair.items() if k != "line"}) for pair in pairs]
    answer = client.post(
        "/v1/datasets",
        content="\n".join(lines).encode(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ended(client: httpx.Client, location: str) -> dict[str, Any]:
    """The job when it is over."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(location, params={"wait": 30, "until": "terminal"}).json()
        if _is_over(job["status"]):
            return job
    raise AssertionError(job)


def _is_over(status: str) -> bool:
    return status in ("succeeded", "failed", "cancelled")


def download(client: httpx.Client, adapter: dict[str, Any], directory: Path) -> Path:
    """An adapter's files, each with the digest that the service says."""
    data = client.get(adapter["archive"]["url"]).content
    assert hashlib.sha256(data).hexdigest() == adapter["archive"]["sha256"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(directory, filter="data")
    for file in adapter["files"]:
        found = hashlib.sha256((directory / file["name"]).read_bytes()).hexdigest()
        assert found == file["sha256"]
    return directory


def own_data(directory: Path) -> dict[str, str]:
    """The setting that gives a process its own directory."""
    return {"PLAUDIT_DATA_DIR": str(directory)}


def run_cli(command: list[str], environment: dict[str, str]) -> str:
    """What a command that succeeds prints."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(command: list[str], environment: dict[str, str], directory: Path) -> Iterator[None]:
    """A service's process; asked to end as its container would be, and gone with its children."""
    log = directory / f"{command[0]}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *command],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert status in (0, -15), log.read_text()[-3000:]


def answers(client: httpx.Client) -> bool:
    """Whether the API is ready."""
    try:
        return client.get("/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False
