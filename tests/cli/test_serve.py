"""``plaudit serve``: preparation, refusals, the worker process and shutdown."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from app.cli.environment import report_ignored
from app.core.database import make_engine
from app.core.migrations import migrate
from app.core.settings import Settings
from tests.cli.conftest import environment, serving
from tests.services import free_port, wait_until
from tests.world import pairs

KEY_FILE = "api-key"


def test_embedded_service_makes_a_first_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    with serving(tmp_path, "--no-worker") as (_, url):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = path.read_text().strip()
        assert status_of(url, key) == 200
        assert status_of(url, key[:-1]) == 401
    with serving(tmp_path, "--no-worker") as (_, url):
        assert path.read_text().strip() == key
        assert status_of(url, key) == 200


def test_links_lead_to_where_it_listens(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-worker") as (_, url):
        assert httpx.get(f"{url}/v1/jobs").json()["type"].startswith(f"{url}/")


def test_service_can_be_called_as_soon_as_its_address_is_printed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--no-worker"],
        env=environment(tmp_path, port=free_port()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            url = next(line.split()[1] for line in process.stderr if line.startswith("Plaudit "))
            assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("settings", "client"),
    [({}, "127.0.0.1"), ({"trusted_proxies": "127.0.0.0/8"}, "203.0.113.9")],
)
def test_forwarded_address_counts_only_from_a_trusted_proxy(
    tmp_path: Path, settings: dict[str, object], client: str
) -> None:
    with serving(tmp_path, "--no-worker", **settings) as (process, url):
        headers = {**key_of(process), "X-Forwarded-For": "203.0.113.9"}
        body = {"name": "ci", "scopes": ["jobs:read"]}
        httpx.post(f"{url}/v1/api-keys", json=body, headers=headers).raise_for_status()
        acts = httpx.get(f"{url}/v1/audit", headers=headers).json()["data"]
    assert acts[0]["client"] == client


def test_free_port_that_was_taken_is_told(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--no-worker", "--port", "0"],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = said.split()[-1]
        assert not url.endswith(":0")
        wait_until("the service", lambda: answers(url), seconds=120)
    finally:
        process.kill()
        process.communicate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_production_refuses_a_database_that_is_not_migrated(tmp_path: Path, command: str) -> None:
    database_url = f"sqlite:///{tmp_path / 'own.db'}"
    done = refused(tmp_path, command, database_url=database_url, redis_url="redis://127.0.0.1:9")
    assert done.returncode == 1
    assert "plaudit migrate" in done.stderr


def test_migrate_makes_the_tables_that_serve_wants(tmp_path: Path) -> None:
    settings = {
        "database_url": f"sqlite:///{tmp_path / 'own.db'}",
        "redis_url": "redis://127.0.0.1:9",  # no broker: not ready, but it serves
    }
    done = refused(tmp_path, "migrate", **settings)
    assert (done.returncode, done.stdout) == (0, "")
    assert "is migrated" in done.stderr
    assert "up to date" in refused(tmp_path, "migrate", **settings).stderr
    with serving(tmp_path, **settings) as (process, url):
        assert httpx.get(f"{url}/readyz").json()["checks"]["database"] == "ok"
        assert psutil.Process(process.pid).children() == []
        assert not (tmp_path / KEY_FILE).exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "PLAUDIT_DATABSE_URL",
            "PLAUDIT_DATABSE_URL is not a setting and is ignored. "
            "Did you mean PLAUDIT_DATABASE_URL?\n",
        ),
        ("PLAUDIT_COLOUR", "PLAUDIT_COLOUR is not a setting and is ignored.\n"),
        ("PLAUDIT_API_KEY", ""),
        ("plaudit_slots", ""),
        ("PLAUDIT_TEST_PROGRAMS", ""),
    ],
)
def test_variable_that_is_no_setting_is_named(tmp_path: Path, name: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "migrate"],
        env=environment(tmp_path) | {name: "9"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, f"{said}The database is migrated.\n")


def test_variables_of_the_other_programs_here_are_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Variables that deployment, examples, benchmarks and tests read are not reported."""
    root = Path(__file__).parents[2]
    places = ("docker-compose.yml", "Dockerfile", "Makefile", "app", "worker", "bench", "examples")
    found = {
        name
        for place in places
        for path in (root / place, *(root / place).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
        for name in re.findall(r"PLAUDIT_[A-Z_]*[A-Z]\b", path.read_text(errors="replace"))
    }
    report_ignored(found)
    assert found > {"PLAUDIT_URL", "PLAUDIT_REDIS_PASSWORD"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [("", "connection failed"), ("?pgbouncer=true", "invalid connection option")],
)
def test_database_that_cannot_be_reached_is_told(tmp_path: Path, options: str, said: str) -> None:
    done = refused(
        tmp_path,
        "serve",
        database_url=f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none{options}",
        redis_url="redis://127.0.0.1:9",
    )
    assert done.returncode == 6
    assert done.stderr.startswith(f"The database cannot be used: {said}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slots": 0}, "PLAUDIT_SLOTS: Input should be greater than or equal to 1"),
        ({"intent_seconds": 11}, "PLAUDIT: two trainers could run the same job"),
        (
            {"database_url": "mysql://me:secret@db/a"},
            "PLAUDIT_DATABASE_URL: found mysql://…; use postgresql+psycopg://…",
        ),
        (
            {"database_url": "me:secret@db/a"},
            "PLAUDIT_DATABASE_URL: the value is not a URL; use postgresql+psycopg://…",
        ),
        (
            {"database_url": "postgres://me:secret@db:secret/a"},
            "PLAUDIT_DATABASE_URL: cannot read host and port",
        ),
        ({"redis_url": "foo"}, "PLAUDIT_REDIS_URL: the value is not a URL; use redis://…"),
        (
            {"redis_url": "redis://:secret/@db"},
            "PLAUDIT_REDIS_URL: cannot read host and port",
        ),
        (
            {"trusted_proxies": "10.0.0.7,10.0.0.1/8"},
            "PLAUDIT_TRUSTED_PROXIES: 10.0.0.1/8 has host bits set",
        ),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    done = refused(tmp_path, "serve", **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert "secret" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("tiny: {sauce: 'local:/tiny'}", "sauce: Extra inputs are not permitted"),
        ("tiny: {source: nonsense}", "source: should be package:"),
        ("{", "while parsing"),
    ],
)
def test_catalogue_that_cannot_be_used_is_told_before_anything_starts(
    tmp_path: Path, command: str, text: str | None, said: str
) -> None:
    path = tmp_path / "models.yaml"
    if text is not None:
        path.write_text(text)
    done = refused(tmp_path, command, base_models=path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"The catalogue of base models is invalid: {path}: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "plaudit.db").exists()


@pytest.mark.parametrize("command", ["serve", "worker", "migrate"])
def test_data_directory_that_is_a_file_is_named(tmp_path: Path, command: str) -> None:
    path = tmp_path / "file"
    path.touch()
    done = refused(path, command)
    assert done.returncode == 2
    assert done.stderr.startswith(str(path))
    assert "cannot be used: " in done.stderr.partition("\n")[0]
    assert "PLAUDIT_DATA_DIR" in done.stderr


def test_data_directory_of_a_worker_that_is_a_file_is_named(tmp_path: Path) -> None:
    settings = {"database_url": f"sqlite:///{tmp_path / 'own.db'}"}
    assert refused(tmp_path, "migrate", **settings).returncode == 0
    path = tmp_path / "file"
    path.touch()
    done = refused(path, "worker", **settings)
    assert done.returncode == 2
    assert done.stderr.startswith(str(path))
    assert "cannot be used: " in done.stderr.partition("\n")[0]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_database_url_as_hosts_hand_it_out_is_taken(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PLAUDIT_DATABASE_URL", f"{scheme}://me:secret@db:5433/plaudit?sslmode=require"
    )
    assert Settings().database == "postgresql+psycopg://me:secret@db:5433/plaudit?sslmode=require"


def test_port_in_use_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-worker") as (_, url):
        done = refused(tmp_path, "serve", "--port", url.rpartition(":")[2])
    assert done.returncode == 1
    assert "Is another service running there? Choose another port with --port." in done.stderr


@pytest.mark.parametrize("host", ["nope.invalid", "192.0.2.1"])
def test_address_that_is_not_this_machine_s_is_told(tmp_path: Path, host: str) -> None:
    done = refused(tmp_path, "serve", "--host", host)
    assert done.returncode == 1
    assert f"Cannot listen on {host}, port 8000" in done.stderr
    assert done.stderr.endswith("Give an address of this machine with --host.\n")


def test_dead_worker_is_started_anew(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        first = worker_of(process, url)
        first.kill()
        wait_until("its end", lambda: not first.is_running(), seconds=60)
        assert worker_of(process, url).pid != first.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_service(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as (process, url):
        worker_of(process, url)
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        status = process.wait(timeout=120)
        gone, alive = psutil.wait_procs(tree, timeout=60)
    assert alive == []
    assert gone
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)


#: Serves, counts its reconcilers as soon as it answers, and stops.
COUNTING = """
import os, signal, sys, threading, time, urllib.request
from app.cli.commands import app

def count():
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/healthz").close()
            break
        except OSError:
            time.sleep(0.1)
    print(sum(thread.name == "reconciler" for thread in threading.enumerate()), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=count).start()
app(["serve", "--no-worker", "--port", sys.argv[1]])
"""


def test_service_has_one_reconciler(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, str(free_port())],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_stopping_service_ends_streams_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-worker", preflight_wait_seconds=0) as (process, url):
        with httpx.Client(base_url=url, headers=key_of(process), timeout=60) as client:
            dataset = client.post("/v1/datasets?format=jsonl", content=pairs()).json()["id"]
            spec = {"base_model": "all-minilm-l6-v2", "train_dataset": dataset}
            job_id = client.post("/v1/jobs", json=spec).json()["id"]
            accept = {"Accept": "text/event-stream"}
            with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=accept) as stream:
                lines = stream.iter_lines()
                assert any(line.startswith("event: queued") for line in lines)
                process.terminate()
                assert not any(line.startswith("event: ") for line in lines)
        assert process.wait(timeout=60) == 0
    assert '"error"' not in (tmp_path / "serve.log").read_text()


def test_worker_does_not_outlive_a_service_that_was_killed_before_it_was_up(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'plaudit.db'}")
    migrate(engine)
    engine.dispose()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    worker = subprocess.run(
        [sys.executable, "-m", "worker", "--with-parent", dead.stdout.decode().strip()],
        env=environment(tmp_path),
        timeout=120,
    )
    assert worker.returncode == 1


def status_of(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code


def refused(data_dir: Path, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *command],
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=120,
    )


def worker_of(process: subprocess.Popen[bytes], url: str) -> psutil.Process:
    """Return the worker of the service after it has registered."""

    def find() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(process.pid).children()
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]

    def is_heard() -> bool:
        found = find()
        workers = httpx.get(f"{url}/v1/workers", headers=key_of(process)).json()["data"]
        return bool(found) and any(w["id"].endswith(f"-{found[0].pid}") for w in workers)

    wait_until("a worker", is_heard, seconds=120)
    return find()[0]


def key_of(process: subprocess.Popen[bytes]) -> dict[str, str]:
    directory = psutil.Process(process.pid).environ()["PLAUDIT_DATA_DIR"]
    return {"Authorization": f"Bearer {Path(directory, KEY_FILE).read_text().strip()}"}
