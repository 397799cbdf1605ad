"""Image, compose file and pins, as far as they can be held to their word without a container
engine: what they say is parsed, and what they run is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from app.database import make_engine, now_ms, transaction
from app.models import Base, Worker
from app.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["migrate", "api", "worker", "worker-gpu"]
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def stages() -> dict[str, list[list[str]]]:
    """The Dockerfile's instructions, as words, by stage; the first word is the instruction."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[list[str]]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if words := line.split():
            if words[0] == "FROM":
                name = words[3]
                assert words[2] == "AS"
                assert name not in found, "a stage's name is used twice"
                assert words[1] in found or ":" in words[1], "an unknown base"
                found[name] = [words]
            else:
                list(found.values())[-1].append(words)
    return found


def lineage(target: str) -> list[list[str]]:
    """Every instruction that shapes a target, its bases' first."""
    own = stages()[target]
    base = own[0][1]
    return (lineage(base) if base in stages() else []) + own[1:]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("target", ["api", "worker"])
def test_image_runs_plaudit_as_nobody_special(target):
    instructions = lineage(target)
    users = [words[1] for words in instructions if words[0] == "USER"]
    entry_points = [words[1:] for words in instructions if words[0] == "ENTRYPOINT"]
    assert users == ["10001:10001"]
    assert entry_points == [['["plaudit"]']]
    assert any(words[0] == "HEALTHCHECK" for words in instructions)
    assert not any(words[0] == "ADD" for words in instructions)
    for words in instructions:
        if words[0] in ("CMD", "ENTRYPOINT"):
            assert isinstance(yaml.safe_load(" ".join(words[1:])), list), "exec form"


@pytest.mark.parametrize("target", ["build-api", "build-worker"])
def test_image_installs_from_the_pins(target):
    installs = [words for words in lineage(target) if words[:3] == ["RUN", "pip", "install"]]
    assert installs
    assert all("-c constraints.txt" in " ".join(words) for words in installs)


def test_copied_files_exist_and_reach_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    copied = {
        Path(word)
        for instructions in stages().values()
        for words in instructions
        if words[0] == "COPY" and not words[1].startswith("--from")
        for word in words[1:-1]
    }
    assert {path.parts[0] for path in copied} == allowed
    for path in copied:
        assert (ROOT / path).exists(), path


def test_every_pin_is_exact_and_torch_is_the_tested_one():
    assert pins()["torch"] == "2.13.0"
    assert len(pins()) > 50
    for name, version in pins().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_compose_has_no_default_password():
    text = (ROOT / "docker-compose.yml").read_text()
    for variable in ("PLAUDIT_POSTGRES_PASSWORD", "PLAUDIT_REDIS_PASSWORD"):
        uses = re.findall(rf"\$\{{{variable}([^}}]*)\}}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses)


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("root", "0", "0:0")
    assert "/tmp" in service["tmpfs"]
    assert service["stop_grace_period"]
    assert "privileged" not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_redis_never_evicts_and_keeps_what_it_was_told():
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert options["--requirepass"].startswith("${PLAUDIT_REDIS_PASSWORD:?")


def test_databases_are_not_reachable_from_outside():
    assert COMPOSE["networks"]["data"]["internal"] is True
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["data"]
        assert "ports" not in SERVICES[name]
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_services_start_in_order_and_workers_have_time_to_drain():
    for name in ("api", "worker", "worker-gpu"):
        waits = {on: how["condition"] for on, how in SERVICES[name]["depends_on"].items()}
        assert waits["migrate"] == "service_completed_successfully"
        assert waits["postgres"] == waits["redis"] == "service_healthy"
    for name in ("worker", "worker-gpu"):
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= Settings().drain_seconds + 60


def test_workers_can_be_scaled_because_only_the_model_cache_is_shared():
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["volumes"] == [
            "/var/lib/plaudit",
            "models:/var/lib/plaudit/models",
        ]
    made = next(words for words in lineage("worker") if "install" in words and "-d" in words)
    assert Settings(data_dir="/var/lib/plaudit").model_cache == Path(made[-2])


def test_gpu_worker_waits_for_its_profile_and_reserves_a_gpu():
    service = SERVICES["worker-gpu"]
    assert service["profiles"] == ["gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", OURS)
def test_environment_of_a_service_is_one_that_settings_read(name):
    service = SERVICES[name]
    known = {f"PLAUDIT_{field.upper()}" for field in Settings.model_fields}
    assert set(service["environment"]) <= known
    target = service["build"]["target"]
    instructions = lineage(target)
    in_image = {
        assignment.partition("=")[0]
        for words in instructions
        if words[0] == "ENV"
        for assignment in words[1:]
    }
    assert {variable for variable in in_image if variable.startswith("PLAUDIT_")} <= known
    assert target == ("worker" if name.startswith("worker") else "api")


@pytest.mark.parametrize("name", OURS)
def test_command_of_a_service_is_one_that_plaudit_knows(name):
    command = [sys.executable, "-c", "from app.cli import main; main()"]
    subprocess.run(
        [*command, *SERVICES[name]["command"], "--help"], check=True, capture_output=True, cwd=ROOT
    )


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="needs docker compose",
)
def test_compose_file_is_one_for_compose():
    environment = os.environ | dict.fromkeys(
        ("PLAUDIT_POSTGRES_PASSWORD", "PLAUDIT_REDIS_PASSWORD"), "abc"
    )
    subprocess.run(
        ["docker", "compose", "--profile", "gpu", "config", "--quiet"],
        check=True,
        cwd=ROOT,
        env=environment,
    )


def test_api_installs_and_imports_without_torch(tmp_path):
    """What the image's build does, in a fresh environment."""
    (install,) = (
        words for words in stages()["build-api"] if words[:3] == ["RUN", "pip", "install"]
    )
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    command = shlex.split(" ".join(install[2:]))
    result = subprocess.run(
        [python, "-m", "pip", "--quiet", *command], cwd=ROOT, capture_output=True, text=True
    )
    if result.returncode and "Retrying" in result.stderr and not _is_ci():
        pytest.skip("needs a package index")
    assert result.returncode == 0, result.stderr
    program = "import sys, app.main; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = _output(python, "-c", program, cwd=tmp_path).split()
    assert not set(HEAVY) & set(loaded)
    installed = dict(
        line.split("==")
        for line in _output(
            python, "-m", "pip", "freeze", "--exclude-editable", cwd=tmp_path
        ).splitlines()
    )
    assert not set(HEAVY) & set(installed)
    assert {name: pins().get(name.lower()) for name in installed} == installed


def _is_ci() -> bool:
    return os.environ.get("PLAUDIT_TEST_REQUIRE_SERVICES") == "1"


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_worker_is_healthy_while_it_is_heard_of(tmp_path):
    (check,) = (words for words in stages()["worker"] if words[0] == "HEALTHCHECK")
    command = yaml.safe_load(" ".join(check).partition("CMD ")[2])
    assert command[0] == "python"

    def status() -> int:
        return subprocess.run(
            [sys.executable, *command[1:]],
            cwd=ROOT,
            env=os.environ | {"PLAUDIT_DATA_DIR": str(tmp_path)},
            capture_output=True,
        ).returncode

    engine = make_engine(f"sqlite:///{tmp_path / 'plaudit.db'}")
    Base.metadata.create_all(engine)
    assert status() == 1
    with transaction(engine) as session:
        session.add(Worker(id="w", host=socket.gethostname(), queue="plaudit.default", slots=1))
    assert status() == 0
    with transaction(engine) as session:
        session.execute(update(Worker).values(seen_at=now_ms() - 120_000))
    assert status() == 1
    engine.dispose()
