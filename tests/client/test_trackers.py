"""Metrics of jobs are copied to experiment trackers."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plaudit import DirectoryError, MissingDependencyError, Plaudit, trackers
from plaudit.trackers import mirror, open_tracker
from tests.site import Site
from tests.world import World


@pytest.fixture
def kind() -> list[str]:
    """Use the synchronous client, which the trackers require."""
    return ["sync", "sqlite"]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "POLL_SECONDS", 0.05)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the values that TensorBoard reads."""
    events = EventAccumulator(str(directory)).Reload()
    return {
        tag: [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_a_job_that_is_mirrored_live(
    client: Plaudit, world: World, tmp_path: Path
) -> None:
    job_id = world.submit()["id"]
    lease = world.claim()
    world.step(lease, 1, train__loss=0.7)
    job = client.jobs.get(job_id)
    seen = threading.Event()

    def follow() -> None:
        with open_tracker("tensorboard", job, str(tmp_path)) as tracker:
            mirror(client, job_id, tracker, on_step=lambda _step: seen.set())

    thread = threading.Thread(target=follow)
    thread.start()
    world.step(lease, 2, train__loss=0.5)
    assert seen.wait(60)
    assert scalars(tmp_path / job_id) == {"train/loss": [(1, 0.7)]}  # the last is held back
    world.step(lease, 2, eval__accuracy=0.9)
    world.publish(lease, {"adapter_config.json": b"{}"})
    thread.join(60)
    assert scalars(tmp_path / job_id) == {
        "train/loss": [(1, 0.7), (2, 0.5)],
        "eval/accuracy": [(2, 0.9)],
    }
    with pytest.raises(DirectoryError):
        open_tracker("tensorboard", job, str(tmp_path))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_run_of_a_wandb_like_library_has_spec_and_metrics(
    client: Plaudit, world: World, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    calls: list[Any] = []
    library = SimpleNamespace(
        init=lambda **given: calls.append(given),
        log=lambda metrics, step: calls.append((step, metrics)),
        finish=lambda: calls.append("finished"),
    )
    monkeypatch.setitem(sys.modules, name, library)
    job_id = world.submit(name="first")["id"]
    lease = world.claim()
    world.step(lease, 1, train__loss=0.5)
    world.publish(lease, {"adapter_config.json": b"{}"})
    job = client.jobs.get(job_id)
    with open_tracker(name, job, "rewards") as tracker:
        assert mirror(client, job_id, tracker).status == "succeeded"
    begun, *logged = calls
    assert (begun["project"], begun["name"]) == ("rewards", "first")
    assert begun["config"]["base_model"] == job.base_model
    assert logged == [(1, {"train/loss": 0.5}), "finished"]


def test_missing_library_is_named(
    site: Site, client: Plaudit, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    job = client.jobs.get(world.submit()["id"])
    with pytest.raises(MissingDependencyError, match="wandb"):
        open_tracker("wandb", job)
