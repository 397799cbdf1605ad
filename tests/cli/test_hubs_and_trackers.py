"""Commands that copy adapters and metrics to other systems."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plaudit import trackers
from tests.cli.conftest import Run, live_world, serving
from tests.client.test_trackers import scalars
from tests.pushes.hub import COMMIT, PART_BYTES, TOKEN, Hub
from tests.services import wait_until
from tests.world import World

FILES = {"README.md": b"# Card", "adapter_model.safetensors": b"weight" * PART_BYTES}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub to push to."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_adapter_is_pushed_by_the_worker_of_the_service(
    run: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of its own: the worker that pushes would train the jobs of the other tests."""
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path))
    with (
        serving(tmp_path, "--no-worker", preflight_wait_seconds=0) as (_, url),
        live_world(url, tmp_path) as world,
    ):
        world.submit()
        adapter_id = world.publish(world.claim(), FILES)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # other tests set it as well
    given = {"push_targets": "hub:acme/*", "hub_endpoint": hub.url, "hub_token": TOKEN}
    with serving(tmp_path, **given) as (_, url):
        monkeypatch.setenv("PLAUDIT_URL", url)
        refused = run("adapters", "push", adapter_id, "other/rewards")
        assert refused.exit_code == 5
        assert "Ask the operator" in refused.stderr
        done = run("adapters", "push", adapter_id, "acme/rewards", "--watch")
        assert done.exit_code == 0, done.stdout + done.stderr
        shown = dict(line.strip().split(maxsplit=1) for line in done.stdout.splitlines())
        assert (shown["status"], shown["to"]) == ("succeeded", "acme/rewards")
        assert shown["commit"] == COMMIT
        assert hub.files == FILES
        assert hub.repositories["acme/rewards"]["visibility"] == "private"
        hub.status = 403
        failed = run("adapters", "push", adapter_id, "acme/rewards", "--watch")
        assert failed.exit_code == 1
        assert "gated_no_access" in failed.stdout
        hub.status = 200
        asked = run("adapters", "push", adapter_id, "acme/others", "--public", "--json")
        assert json.loads(asked.stdout)["status"] == "queued"
        wait_until("the repository", lambda: "acme/others" in hub.repositories)
        assert hub.repositories["acme/others"]["visibility"] == "public"


def test_tensorboard_reads_a_running_job_that_is_mirrored(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "POLL_SECONDS", 0.05)
    job_id = world.submit(priority=100)["id"]
    lease = world.claim()
    world.step(lease, 1, train__loss=0.7)
    world.step(lease, 2, train__loss=0.5)

    def work() -> None:
        is_there = lambda: (tmp_path / job_id).is_dir() and scalars(tmp_path / job_id)  # noqa: E731
        wait_until("the first step", lambda: is_there() == {"train/loss": [(1, 0.7)]})
        world.step(lease, 2, eval__accuracy=0.9)
        world.publish(lease, FILES)

    worker = threading.Thread(target=work)
    worker.start()
    done = run("jobs", "mirror", job_id, "--to", "tensorboard", "--target", tmp_path)
    worker.join()
    assert done.exit_code == 0, done.stderr
    assert done.stderr == f"{job_id} is succeeded; its metrics were copied to tensorboard.\n"
    assert scalars(tmp_path / job_id) == {
        "train/loss": [(1, 0.7), (2, 0.5)],
        "eval/accuracy": [(2, 0.9)],
    }


def test_tensorboard_reads_a_finished_job_that_is_mirrored(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = world.submit(priority=100)["id"]
    lease = world.claim()
    for step in range(1, 6):
        world.step(lease, step, train__loss=1 / step, train__grad_norm=step)
    world.publish(lease, FILES)
    monkeypatch.chdir(tmp_path)
    done = run("jobs", "mirror", job_id[:-4], "--to", "tensorboard")
    assert done.exit_code == 0, done.stderr
    found = scalars(tmp_path / "runs" / job_id)
    assert found["train/loss"] == [(step, round(1 / step, 4)) for step in range(1, 6)]
    assert found["train/grad_norm"] == [(step, float(step)) for step in range(1, 6)]
    again = run("jobs", "mirror", job_id, "--to", "tensorboard")
    assert again.exit_code != 0
    assert "already contains a run" in again.stderr
    assert scalars(tmp_path / "runs" / job_id) == found


def test_unknown_tracker_is_a_usage_error(run: Run) -> None:
    done = run("jobs", "mirror", f"job_{'0' * 32}", "--to", "excel")
    assert done.exit_code == 2
    assert "tensorboard, mlflow, wandb, trackio" in done.stderr
