"""Fixtures: a live service for the client commands, and a stand-in for its worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli.commands import app
from app.core.database import make_engine
from app.core.settings import Settings
from tests.services import free_port, wait_until
from tests.world import World

Run = Callable[..., Result]


def environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """Return the environment of this process with only these settings of Plaudit."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PLAUDIT_")}
    given = {f"PLAUDIT_{name.upper()}": str(value) for name, value in settings.items()}
    return {**kept, "PLAUDIT_DATA_DIR": str(data_dir), **given}


@contextmanager
def serving(
    data_dir: Path, *options: str, **settings: object
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``plaudit serve``, wait until it responds, and yield the process and its URL."""
    port = settings.setdefault("port", free_port())
    url = f"http://127.0.0.1:{port}"
    with (data_dir / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", *options],
            env=environment(data_dir, **settings),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until("the service", lambda: _answers(process, url, data_dir), seconds=120)
        yield process, url
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], url: str, data_dir: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError((data_dir / "serve.log").read_text())
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def service_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def url(service_dir: Path) -> Iterator[str]:
    """Run a service without a worker for the module, whose tests together send many requests."""
    rates = {"rate_per_second": 200, "rate_burst": 1000}
    with serving(service_dir, "--no-worker", preflight_wait_seconds=0, **rates) as (_, url):
        yield url


@pytest.fixture(scope="module")
def world(url: str, service_dir: Path) -> Iterator[World]:
    """Return the service's state with a stand-in for the worker."""
    with live_world(url, service_dir) as world:
        yield world


@contextmanager
def live_world(url: str, data_dir: Path) -> Iterator[World]:
    """Yield a live service with a stand-in for the worker."""
    settings = Settings(data_dir=data_dir)
    key = (data_dir / "api-key").read_text().strip()
    engine = make_engine(settings.database)
    headers = {"Authorization": f"Bearer {key}"}
    # Shorter than the keep-alive of the service, which may close a connection during a request.
    limits = httpx.Limits(keepalive_expiry=1)
    with httpx.Client(base_url=url, headers=headers, limits=limits) as client:
        yield World(client, engine, settings)  # type: ignore[arg-type]
    engine.dispose()


@pytest.fixture
def run(url: str, service_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command on the machine of the service."""
    monkeypatch.setenv("PLAUDIT_URL", url)
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(service_dir))
    monkeypatch.delenv("PLAUDIT_API_KEY", raising=False)

    def invoke(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], **options)

    return invoke
