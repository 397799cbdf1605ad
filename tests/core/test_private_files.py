"""Files and rows that several threads or processes make at their first use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

from sqlalchemy import Engine

from app.api_keys.defaults import FIRST_KEY_FILE
from app.api_keys.service import first_key
from app.base_models.catalogue import load_catalogue
from app.base_models.facts import facts_for, store_facts
from app.core import private_files
from app.core.database import transaction
from tests.world import BASE_MODEL, FACTS
from worker.supervisor.pool import _directory_id

T = TypeVar("T")

THREADS = 8


def at_once(call: Callable[[], T]) -> set[T]:
    """Call a function in several threads at the same time; return its results."""
    barrier = Barrier(THREADS)

    def run(_: int) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(THREADS) as pool:
        return set(pool.map(run, range(THREADS)))


def test_workers_that_start_at_once_find_the_same_id(tmp_path: Path) -> None:
    """As two containers, which have the same process ids."""
    for number in range(20):
        folder = tmp_path / str(number)
        (found,) = at_once(lambda folder=folder: _directory_id(folder))  # type: ignore[misc]
        assert found == (folder / "place").read_text()
        assert [file.name for file in folder.iterdir()] == ["place"]


def test_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    private_files.replace(path, "old")
    with path.open() as reader:
        private_files.replace(path, "new")
        assert (reader.read(), path.read_text()) == ("old", "new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_services_that_start_at_once_leave_a_valid_first_key(
    engine: Engine, tmp_path: Path
) -> None:
    tokens = at_once(lambda: first_key(engine, tmp_path))
    assert (tmp_path / FIRST_KEY_FILE).read_text().strip() in tokens


def test_workers_that_inspect_a_model_at_once_store_its_facts(engine: Engine) -> None:
    entry = load_catalogue().get(BASE_MODEL)

    def store() -> None:
        with transaction(engine) as session:
            store_facts(session, entry, FACTS)

    at_once(store)
    with transaction(engine) as session:
        assert facts_for(session, entry) == FACTS
