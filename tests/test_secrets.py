"""Secrets of a service in production shape: looked for wherever a run writes anything."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, make_url, text

from app.core.settings import Settings
from app.models import Base
from tests.base_models.model_sources import COMMIT, Hub, hub  # noqa: F401 - a fixture
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tiny_models import make_decoder
from tests.services import RedisServer, free_port, fresh_database, wait_until
from tests.supervisor.workshop import trainers_below
from tests.test_deployment import SERVICES
from tests.test_end_to_end import answers, download, own_data, run_cli, running, upload
from tests.webhooks.receiver import receiving

#: Readable where they are kept, because messages are signed with them.
SIGNING = {"secret", "old_secret"}


@dataclass
class Search:
    """Looks for secrets in bytes, and remembers where it looked."""

    secrets: dict[str, str]
    looked_at: set[str] = field(default_factory=set)
    found: set[tuple[str, str]] = field(default_factory=set)

    def look(self, where: str, data: bytes) -> None:
        """Search what was found at a place."""
        self.looked_at.add(where)
        self.found |= {
            (where, name) for name, value in self.secrets.items() if value.encode() in data
        }

    def look_below(self, directory: Path) -> None:
        """Every file; what goes away meanwhile is not there to be read by anybody else either."""
        for path in directory.rglob("*"):
            try:
                if path.is_file():
                    self.look(path.name, path.read_bytes())
            except FileNotFoundError:
                continue

    def look_at_trainers(self, directory: Path) -> None:
        """What the processes that work there were given."""
        for trainer in trainers_below(directory):
            for name in ("environ", "cmdline"):
                try:
                    self.look(f"trainer's {name}", Path(f"/proc/{trainer.pid}/{name}").read_bytes())
                except (FileNotFoundError, ProcessLookupError):
                    continue

    def look_in_database(self, url: str) -> None:
        """Every row, blobs too."""
        engine = create_engine(url)
        with engine.connect() as connection:
            for table in Base.metadata.sorted_tables:
                columns = ", ".join(c.name for c in table.columns if c.name not in SIGNING)
                for row in connection.execute(text(f"SELECT {columns} FROM {table.name}")):
                    self.look(f"table {table.name}", repr(tuple(row)).encode())
        engine.dispose()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, with a password; its log keeps every message."""
    server = RedisServer(tmp_path / "redis", password=secrets.token_hex(12))
    server.start()
    yield server
    server.stop()


@pytest.mark.train
@pytest.mark.services
def test_secrets_are_nowhere_but_where_they_belong(
    postgres_server: str,
    broker: RedisServer,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.undo()  # the hub's fixture has no process sleep
    base = make_decoder(tmp_path / "base")
    hub.commits[COMMIT] = {path.name: path.read_bytes() for path in base.iterdir()}
    hub.token = f"hf_{secrets.token_hex(12)}"
    (tmp_path / "models.yaml").write_text("tiny:\n  source: hub:acme/tiny@main\n")
    server = make_url(postgres_server)
    if not server.password:  # a private server asks for none
        server = server.set(password=secrets.token_hex(12))
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        url = stack.enter_context(
            fresh_database(
                server.render_as_string(hide_password=False), f"secrets_{secrets.token_hex(4)}"
            )
        )
        environment = {
            "PLAUDIT_DATABASE_URL": url,
            "PLAUDIT_REDIS_URL": broker.url,
            "PLAUDIT_HUB_TOKEN": hub.token,
            "PLAUDIT_HUB_ENDPOINT": hub.endpoint,
            "PLAUDIT_BASE_MODELS": str(tmp_path / "models.yaml"),
            "PLAUDIT_PORT": str(free_port()),
            "PLAUDIT_QUEUE": f"secrets.{secrets.token_hex(4)}",
            "PLAUDIT_PREFLIGHT_WAIT_SECONDS": "120",
            "PLAUDIT_WEBHOOK_HOSTS": "127.0.0.1",
            "PLAUDIT_WEBHOOK_ALLOW_LOOPBACK": "true",
        }
        run_cli(SERVICES["migrate"]["command"], environment | own_data(tmp_path / "migrate"))
        key = run_cli(["keys", "create"], environment | own_data(tmp_path / "api")).strip()
        for name in ("api", "worker"):
            own = environment | own_data(tmp_path / name)
            stack.enter_context(running(SERVICES[name]["command"], own, tmp_path))
        client = stack.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{environment['PLAUDIT_PORT']}",
                headers={"Authorization": f"Bearer {key}"},
                timeout=180,
            )
        )
        wait_until("the API", lambda: answers(client), seconds=120)
        webhook = client.post("/v1/webhooks", json={"url": receiver.url}).json()
        search = Search(
            {
                "database": server.password or "",
                "redis": broker.password,
                "hub": hub.token,
                "API key": key.split("_")[2],
                "webhook": webhook["secret"].removeprefix("whsec_"),
            }
        )

        spec = {
            "base_model": "tiny",
            "train_dataset": upload(client, make_pairs(48)),
            "eval_dataset": {"fraction": 0.2},
            "training": {"max_steps": 12, "checkpoint_steps": 3, "max_length": 128},
        }
        answer = client.post("/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        job = answer.json()
        while job["status"] in ("queued", "running"):
            search.look_at_trainers(tmp_path / "worker")
            search.look_below(tmp_path / "worker")
            time.sleep(0.2)
            job = client.get(answer.headers["location"]).json()
        assert job["status"] == "succeeded", job
        assert f"Bearer {hub.token}" in hub.authorizations
        adapter = client.get(f"/v1/adapters/{job['adapter_id']}").json()
        download(client, adapter, tmp_path / "adapter")
        wait_until("the webhook's message", lambda: bool(receiver.heard))

        broker.stop()  # errors are what most likely tells
        clone = client.post(f"/v1/jobs/{job['id']}/clone", json={}).json()
        for log, event in (("serve.log", "ticket_not_sent"), ("worker.log", "Cannot connect to")):
            wait_until(event, lambda log=log, event=event: event in (tmp_path / log).read_text())
        client.post(f"/v1/jobs/{clone['id']}/cancel")
        search.look_in_database(url)
        heard = [repr(message).encode() for message in receiver.heard]

    for message in heard:
        search.look("webhook's message", message)
    search.look_below(tmp_path)
    assert b"jobs.train" in b"".join(p.read_bytes() for p in (tmp_path / "redis").rglob("*.aof"))
    assert search.found == set()
    assert search.looked_at >= {
        *("serve.log", "worker.log", "order.json", "manifest.json", "run.lock.json"),
        *("trainer's environ", "trainer's cmdline", "webhook's message"),
        *(f"table {name}" for name in ("jobs", "job_events", "job_logs", "job_metrics")),
        *(f"table {name}" for name in ("api_keys", "audit_log", "blob_chunks", "webhooks")),
    }


def test_refused_settings_do_not_show_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_REDIS_URL", "redis://:p4ssw0rd@localhost/0")
    monkeypatch.setenv("PLAUDIT_LEASE_SECONDS", "1")
    with pytest.raises(ValidationError, match="must rise") as raised:
        Settings()
    assert "redis:" not in str(raised.value)
