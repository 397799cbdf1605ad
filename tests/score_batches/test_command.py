"""`plaudit score --dataset` on both databases: a repeated call finds the batch of the first one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from app.cli.exit_codes import ExitCode
from app.core.settings import Settings
from app.domain.lifecycle import FailureCode
from tests.site import Site
from tests.world import SCORES, World

SECONDS = 120
# SIGINT is ignored in what a shell starts in the background, pytest included.
PROGRAM = """
import signal, sys
from app.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


@dataclass
class Command:
    """The command for one adapter and dataset, against the running service."""

    world: World
    environment: dict[str, str]
    arguments: list[str]
    out: Path

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "score", *self.arguments, "--out", str(self.out)],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def batches(self) -> list[str]:
        """The ids of all batches, the first one first."""
        listed = self.world.client.get("/v1/score/batches").json()["data"]
        return [batch["id"] for batch in reversed(listed)]

    def finish(self) -> None:
        """Score the waiting batch, as a worker does."""
        self.world.publish_batch(self.world.claim())


def said(process: subprocess.Popen[str]) -> str:
    """Wait for the next line of a command."""
    assert process.stderr is not None
    return process.stderr.readline()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a command; return its exit code and the rest of what it says."""
    _, rest = process.communicate(timeout=SECONDS)
    return process.returncode, rest


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    site = Site(settings)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def command(
    site: Site, key_for: Callable[..., str], engine: Engine, settings: Settings, tmp_path: Path
) -> Iterator[Command]:
    key = key_for("acme")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=site.url, headers=headers, trust_env=False, timeout=30) as client:
        world = World(client, engine, settings)  # type: ignore[arg-type]
        world.know_base_model()
        job = world.submit()
        adapter = world.publish(world.claim(), {"adapter_config.json": b"{}"})
        arguments = [adapter, "--dataset", job["spec"]["train_dataset"]]
        environment = {**os.environ, "PLAUDIT_URL": site.url, "PLAUDIT_API_KEY": key}
        yield Command(world, environment, arguments, tmp_path / "scores.jsonl")


def test_interrupted_command_is_continued_by_the_next_one(command: Command) -> None:
    first = command.start()
    assert "is queued" in said(first)
    first.send_signal(signal.SIGINT)
    code, rest = ended(first)
    assert code != 0
    assert "The batch continues." in rest
    second = command.start()
    (batch,) = command.batches()
    assert said(second) == f"{batch} is queued.\n"
    command.finish()
    assert ended(second)[0] == 0
    assert command.out.read_bytes() == SCORES
    assert command.batches() == [batch]


def test_batch_that_ended_in_vain_is_not_continued(command: Command) -> None:
    for number in range(2):
        failing = command.start()
        assert "is queued" in said(failing)
        command.world.fail(command.world.claim(), FailureCode.NAN_LOSS, "no number")
        code, rest = ended(failing)
        assert code == ExitCode.FAILED
        assert "no number" in rest
        assert len(command.batches()) == number + 1
    good = command.start()
    assert "is queued" in said(good)
    command.finish()
    assert ended(good)[0] == 0
    assert len(command.batches()) == 3
    assert command.out.read_bytes() == SCORES


@pytest.mark.parametrize("left", [SCORES[:7], b"other: "], ids=["cut off", "of other content"])
def test_download_that_was_cut_off_is_completed_and_never_mixed(
    command: Command, left: bytes
) -> None:
    first = command.start()
    assert "is queued" in said(first)
    command.finish()
    assert ended(first)[0] == 0
    command.out.unlink()
    digest = hashlib.sha256(SCORES).hexdigest()[:12]
    part = command.out.with_name(f"{command.out.name}.{digest}.part")
    part.write_bytes(left)
    assert ended(command.start())[0] == 0
    assert command.out.read_bytes() == SCORES
    assert not part.exists()
    assert len(command.batches()) == 1


def test_file_of_other_content_is_kept_and_no_batch_is_made(command: Command) -> None:
    command.out.write_text("my notes\n")
    code, rest = ended(command.start())
    assert code == ExitCode.USAGE
    assert "exists" in rest
    assert command.out.read_text() == "my notes\n"
    assert command.batches() == []
