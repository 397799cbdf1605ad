"""Secrets of a production service do not appear in files, logs, processes, messages or rows."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import URL, create_engine, make_url, text

from app.core.settings import Settings
from app.models import Base
from tests.base_models.model_sources import COMMIT, Hub, hub  # noqa: F401 - a fixture
from tests.deployed import RunningService, download, production_service, upload
from tests.model_factories.architectures import make_base_model
from tests.model_factories.pairs import make_pairs
from tests.services import RedisServer, fresh_database, wait_until
from tests.supervisor.workshop import trainers_below
from tests.webhooks.receiver import receiving

#: Columns that hold webhook secrets in plain text, because messages are signed with them.
SIGNING = {"secret", "old_secret"}


@dataclass
class SecretSearch:
    """Search bytes for secrets and remember which places were searched."""

    secrets: dict[str, str]
    searched: set[str] = field(default_factory=set)
    found: set[tuple[str, str]] = field(default_factory=set)

    def search(self, place: str, data: bytes) -> None:
        """Search ``data``, which was found at ``place``."""
        self.searched.add(place)
        self.found |= {
            (place, name) for name, value in self.secrets.items() if value.encode() in data
        }

    def search_files(self, directory: Path) -> None:
        """Search every file below ``directory``, except those deleted in the meantime."""
        for path in directory.rglob("*"):
            try:
                if path.is_file():
                    self.search(path.name, path.read_bytes())
            except FileNotFoundError:
                continue

    def search_trainers(self, directory: Path) -> None:
        """Search environment and arguments of the trainers that work below ``directory``."""
        for trainer in trainers_below(directory):
            # Between fork and exec, a process shows the environment of the worker.
            if time.time() - trainer.create_time() < 1:
                continue
            for name in ("environ", "cmdline"):
                try:
                    data = Path(f"/proc/{trainer.pid}/{name}").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                self.search(f"trainer's {name}", data)

    def search_database(self, url: str) -> None:
        """Search every row of every table, blobs included."""
        engine = create_engine(url)
        with engine.connect() as connection:
            for table in Base.metadata.sorted_tables:
                columns = ", ".join(c.name for c in table.columns if c.name not in SIGNING)
                for row in connection.execute(text(f"SELECT {columns} FROM {table.name}")):
                    self.search(f"table {table.name}", repr(tuple(row)).encode())
        engine.dispose()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A private Redis with a password; its append-only file keeps every message."""
    server = RedisServer(tmp_path / "redis", password=secrets.token_hex(12))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(postgres_server: str) -> Iterator[URL]:
    """A new database with a password in its URL; a private server accepts any."""
    server = make_url(postgres_server)
    if not server.password:
        server = server.set(password=secrets.token_hex(12))
    with fresh_database(
        server.render_as_string(hide_password=False), f"secrets_{secrets.token_hex(4)}"
    ) as url:
        yield make_url(url)


@pytest.fixture
def model_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:  # noqa: F811
    """A hub with a gated decoder."""
    monkeypatch.undo()  # the hub's fixture replaces time.sleep
    base_model = make_base_model(tmp_path / "base", "gpt2")  # PEFT's warning of it is logged
    hub.commits[COMMIT] = {path.name: path.read_bytes() for path in base_model.iterdir()}
    hub.token = f"hf_{secrets.token_hex(12)}"
    return hub


@pytest.mark.train
@pytest.mark.services
def test_secrets_stay_where_they_belong(
    database: URL, broker: RedisServer, model_hub: Hub, tmp_path: Path
) -> None:
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text("tiny:\n  source: hub:acme/tiny@main\n")
    url = database.render_as_string(hide_password=False)
    environment = {
        "PLAUDIT_DATABASE_URL": url,
        "PLAUDIT_REDIS_URL": broker.url,
        "PLAUDIT_HUB_TOKEN": model_hub.token,
        "PLAUDIT_HUB_ENDPOINT": model_hub.endpoint,
        "PLAUDIT_BASE_MODELS": str(catalogue),
        "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "120",
        "PLAUDIT_WEBHOOK_HOSTS": "127.0.0.1",
        "PLAUDIT_WEBHOOK_ALLOW_LOOPBACK": "true",
    }
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        service = stack.enter_context(production_service(environment, tmp_path))
        client = service.client
        webhook = client.post("/v1/webhooks", json={"url": receiver.url}).json()
        search = SecretSearch(
            {
                "database": database.password or "",
                "redis": broker.password,
                "hub": model_hub.token,
                "API key": service.key.split("_")[2],
                "webhook": webhook["secret"].removeprefix("whsec_"),
            }
        )
        assert all(search.secrets.values())
        job = run_job(service, search, tmp_path / "worker")
        assert f"Bearer {model_hub.token}" in model_hub.authorizations
        adapter = client.get(f"/v1/adapters/{job['adapter_id']}").json()
        download(client, adapter, tmp_path / "adapter")
        wait_until("the webhook's message", lambda: bool(receiver.requests))
        provoke_broker_errors(client, broker, job, tmp_path)
        search.search_database(url)
        messages = [repr(message).encode() for message in receiver.requests]

    for message in messages:
        search.search("webhook's message", message)
    search.search_files(tmp_path)
    assert b"jobs.train" in b"".join(p.read_bytes() for p in (tmp_path / "redis").rglob("*.aof"))
    assert search.found == set()
    assert search.searched >= {
        *("serve.log", "worker.log", "order.json", "manifest.json", "run.lock.json"),
        *("trainer's environ", "trainer's cmdline", "webhook's message"),
        *(f"table {name}" for name in ("jobs", "job_events", "job_logs", "job_metrics")),
        *(f"table {name}" for name in ("api_keys", "audit_log", "blob_chunks", "webhooks")),
    }


def run_job(
    service: RunningService, search: SecretSearch, worker_directory: Path
) -> dict[str, Any]:
    """Train a job and search the worker's files and processes while it runs."""
    client = service.client
    spec = {
        "base_model": "tiny",
        "train_dataset": upload(client, make_pairs(48)),
        "eval_dataset": {"fraction": 0.2},
        "training": {"max_steps": 12, "checkpoint_steps": 3, "max_length": 128},
    }
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 201, response.text
    job: dict[str, Any] = response.json()
    while job["status"] in ("queued", "running"):
        search.search_trainers(worker_directory)
        search.search_files(worker_directory)
        time.sleep(0.2)
        job = client.get(response.headers["location"]).json()
    assert job["status"] == "succeeded", job
    return job


def provoke_broker_errors(
    client: httpx.Client, broker: RedisServer, job: dict[str, Any], directory: Path
) -> None:
    """Stop Redis and submit a job: secrets leak most easily in error messages."""
    broker.stop()
    clone = client.post(f"/v1/jobs/{job['id']}/clone", json={}).json()
    for log, event in (("serve.log", "ticket_not_sent"), ("worker.log", "Cannot connect to")):
        path = directory / log
        wait_until(event, lambda path=path, event=event: event in path.read_text())
    client.post(f"/v1/jobs/{clone['id']}/cancel")


def test_rejected_settings_do_not_show_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_REDIS_URL", "redis://:p4ssw0rd@localhost/0")
    monkeypatch.setenv("PLAUDIT_LEASE_SECONDS", "1")
    with pytest.raises(ValidationError, match="lease") as raised:
        Settings()
    assert "redis:" not in str(raised.value)
    assert "p4ssw0rd" not in str(raised.value)
