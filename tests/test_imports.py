"""Import boundaries as they hold at run time, for the packages that the import contracts name.

import-linter reads the sources. These tests import every module of a package in a fresh process and
look at what was loaded, which also covers imports inside functions that run at import.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
#: torch imports redis and transformers imports accelerate wherever they are installed.
LOADED_BY_LIBRARIES = {"accelerate", "redis"}

IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""
#: Report every event that opens something while these modules are imported.
WATCH_IMPORTS = """
import json, sys, threading
WATCHED = {"os.mkdir", "os.remove", "os.rename", "socket.bind", "socket.connect", "sqlite3.connect"}
events = []
sys.addaudithook(lambda event, args: events.append(event) if event in WATCHED else None)
import app.main, app.cli.commands, worker.supervisor.celery_task, worker.supervisor.pool
print(json.dumps([events, [thread.name for thread in threading.enumerate()]]))
"""

#: Runs a client command up to its connection, and lists what is loaded.
CLIENT_COMMAND = """
import json, os, sys
os.environ |= {"PLAUDIT_URL": "http://127.0.0.1:9", "PLAUDIT_API_KEY": "plk_x"}
from app.cli.commands import app
from app.cli.client import connect
connect().close()
print(json.dumps(sorted(sys.modules)))
"""
#: They take as long to import as all that a client command needs.
UNUSED_BY_CLIENTS = {"alembic", "celery", "huggingface_hub.hf_api", "redis", "sqlalchemy"}


def forbidden_by_package() -> dict[str, set[str]]:
    """Return for each source package of the "forbidden" contracts what it must not load."""
    forbidden = defaultdict[str, set[str]](set)
    for contract in CONTRACTS["contracts"]:
        if contract["type"] == "forbidden":
            for package in contract["source_modules"]:
                forbidden[package] |= set(contract["forbidden_modules"])
    return forbidden


FORBIDDEN = forbidden_by_package()


def test_contracts_cover_the_service_and_the_worker() -> None:
    assert {
        "app",
        "worker.supervisor",
        "worker.ipc",
        "worker.trainer",
    } <= FORBIDDEN.keys()
    assert {"torch", "worker"} <= FORBIDDEN["app"]
    assert "torch" in FORBIDDEN["worker.supervisor"]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_does_not_load_what_its_contracts_forbid(package: str) -> None:
    loaded = set(json.loads(run_python(IMPORT_ALL, package)))
    assert package in loaded
    by_libraries = LOADED_BY_LIBRARIES if "torch" in loaded else set()
    assert FORBIDDEN[package] & loaded - by_libraries == set()


def test_importing_the_service_opens_nothing() -> None:
    events, threads = json.loads(run_python(WATCH_IMPORTS))
    assert events == []
    assert threads == ["MainThread"]


def test_client_command_loads_neither_database_nor_hub() -> None:
    assert UNUSED_BY_CLIENTS & set(json.loads(run_python(CLIENT_COMMAND))) == set()


def run_python(program: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
