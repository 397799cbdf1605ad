"""Dockerfile, docker-compose.yml and pins, tested without a container engine.

The files are parsed, and the commands that they run are run here.
"""

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

import pytest
import yaml
from sqlalchemy import update

from app.core.database import make_engine, now_ms, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from app.models import Worker
from tests.deployed import COMPOSE, ROOT
from tests.deployed import COMPOSE_SERVICES as SERVICES

WORKERS = ["worker", "worker-gpu"]
SCORERS = ["scorer", "scorer-gpu"]
OURS = ["migrate", "api", *WORKERS, *SCORERS]
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def stages() -> dict[str, list[list[str]]]:
    """Return the Dockerfile's instructions by stage, each as words, the instruction first."""
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


def instructions_of(target: str) -> list[list[str]]:
    """Return the instructions of a target and, before them, of the stages it is built from."""
    own = stages()[target]
    base = own[0][1]
    return (instructions_of(base) if base in stages() else []) + own[1:]


def pins() -> dict[str, str]:
    """Return the versions in constraints.txt by package name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("target", ["api", "worker"])
def test_image_runs_plaudit_without_root(target: str) -> None:
    instructions = instructions_of(target)
    users = [words[1] for words in instructions if words[0] == "USER"]
    entry_points = [words[1:] for words in instructions if words[0] == "ENTRYPOINT"]
    assert users == ["10001:10001"]
    assert entry_points == [['["plaudit"]']]
    assert any(words[0] == "HEALTHCHECK" for words in instructions)
    assert not any(words[0] == "ADD" for words in instructions)
    started = [" ".join(words[1:]) for words in instructions if words[0] in ("CMD", "ENTRYPOINT")]
    # A list is the exec form. The shell form would not pass SIGTERM on.
    assert [text for text in started if not isinstance(yaml.safe_load(text), list)] == []


@pytest.mark.parametrize("target", ["build-api", "build-worker"])
def test_image_installs_pinned_versions(target: str) -> None:
    installs = [
        words for words in instructions_of(target) if words[:3] == ["RUN", "pip", "install"]
    ]
    assert installs
    assert all("-c constraints.txt" in " ".join(words) for words in installs)


def test_copied_files_exist_and_are_not_ignored() -> None:
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


def test_every_pin_is_exact() -> None:
    assert pins()["torch"] == "2.13.0"
    assert len(pins()) > 50
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*")
    written = [f"{name}=={version}" for name, version in pins().items()]
    assert [text for text in written if not pin.fullmatch(text)] == []


@pytest.mark.parametrize("variable", ["PLAUDIT_POSTGRES_PASSWORD", "PLAUDIT_REDIS_PASSWORD"])
def test_password_has_no_default(variable: str) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    uses = re.findall(rf"\$\{{{variable}([^}}]*)\}}", text)
    assert uses
    assert all(use.startswith(":?") for use in uses)


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name: str) -> None:
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
        assert port.startswith("127.0.0.1:") or name == "proxy"


def test_redis_is_durable_and_never_evicts() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert options["--requirepass"].startswith("${PLAUDIT_REDIS_PASSWORD:?")


def test_data_network_is_internal() -> None:
    assert COMPOSE["networks"]["data"]["internal"] is True


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_database_is_not_reachable_from_outside(name: str) -> None:
    assert SERVICES[name]["networks"] == ["data"]
    assert "ports" not in SERVICES[name]
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", ["api", *WORKERS, *SCORERS])
def test_service_starts_after_databases_and_migration(name: str) -> None:
    conditions = {on: how["condition"] for on, how in SERVICES[name]["depends_on"].items()}
    assert conditions == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "redis": "service_healthy",
    }


@pytest.mark.parametrize("name", WORKERS)
def test_worker_has_time_to_drain(name: str) -> None:
    grace_seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace_seconds >= Settings().drain_seconds + 60


@pytest.mark.parametrize("name", [*WORKERS, *SCORERS])
def test_workers_share_only_the_model_cache(name: str) -> None:
    """Otherwise `--scale worker=2` would run two workers on one data directory."""
    assert SERVICES[name]["volumes"] == ["/var/lib/plaudit", "models:/var/lib/plaudit/models"]


def test_image_creates_the_model_cache_that_workers_share() -> None:
    created = next(
        words for words in instructions_of("worker") if "install" in words and "-d" in words
    )
    assert str(Settings(data_dir=Path("/var/lib/plaudit")).model_cache) in created


def test_proxy_is_optional_and_serves_the_documented_configuration() -> None:
    """tests/test_reverse_proxy.py runs it."""
    service = SERVICES["proxy"]
    assert service["profiles"] == ["proxy"]
    assert service["networks"] == ["outside"]  # no connection to the databases
    mounted = dict(volume.rpartition(":")[0].rsplit(":", 1) for volume in service["volumes"])
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert mounted["./deploy/nginx.conf"] == "/etc/nginx/conf.d/default.conf"
    configuration = (ROOT / "deploy" / "nginx.conf").read_text()
    keys = re.findall(r"ssl_certificate\w* +(\S+)/plaudit\.\w+;", configuration)
    assert set(keys) == {mounted["${PLAUDIT_TLS_DIR:-/etc/ssl/plaudit}"]}
    (listens,) = re.findall(r"listen (\d+) ssl;", configuration)
    assert service["ports"] == [f"${{PLAUDIT_HTTPS_PORT:-443}}:{listens}"]
    assert f"https://127.0.0.1:{listens}/healthz" in service["healthcheck"]["test"]
    (upstream,) = re.findall(r"server ([a-z]+):8000;", configuration)
    assert upstream in service["depends_on"]
    assert SERVICES[upstream]["ports"][0].endswith(":8000")


@pytest.mark.parametrize(("name", "profile"), [("worker-gpu", "gpu"), ("scorer-gpu", "scorer-gpu")])
def test_gpu_worker_has_a_profile_and_reserves_a_gpu(name: str, profile: str) -> None:
    service = SERVICES[name]
    assert service["profiles"] == [profile]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_gpu_worker_has_all_gpus_and_what_cuda_needs() -> None:
    """Two containers with a count of 1 would both get the first GPU."""
    service = SERVICES["worker-gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == "all"
    assert "PLAUDIT_SLOTS" in service["environment"]
    assert service["ulimits"]["memlock"] == -1
    assert ["ENV", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"] in instructions_of("worker")


@pytest.mark.parametrize("name", OURS)
def test_environment_of_a_service_contains_only_settings(name: str) -> None:
    service = SERVICES[name]
    known = {f"PLAUDIT_{field.upper()}" for field in Settings.model_fields}
    assert set(service["environment"]) <= known
    target = service["build"]["target"]
    instructions = instructions_of(target)
    in_image = {
        assignment.partition("=")[0]
        for words in instructions
        if words[0] == "ENV"
        for assignment in words[1:]
    }
    assert {variable for variable in in_image if variable.startswith("PLAUDIT_")} <= known
    assert target == ("worker" if name in (*WORKERS, *SCORERS) else "api")


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_is_healthy_on_the_port_that_it_listens_on(name: str) -> None:
    port = SERVICES[name]["environment"]["PLAUDIT_SCORER_PORT"]
    assert f"127.0.0.1:{port}/healthz" in SERVICES[name]["healthcheck"]["test"][-1]
    assert Settings(scorer_token="").scorer_token is None  # as Compose passes an unset variable


@pytest.mark.parametrize("name", OURS)
def test_command_of_a_service_exists(name: str) -> None:
    command = [sys.executable, "-c", "from app.cli import main; main()"]
    subprocess.run(
        [*command, *SERVICES[name]["command"], "--help"], check=True, capture_output=True, cwd=ROOT
    )


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="needs docker compose",
)
def test_docker_compose_accepts_the_file() -> None:
    environment = os.environ | dict.fromkeys(
        ("PLAUDIT_POSTGRES_PASSWORD", "PLAUDIT_REDIS_PASSWORD"), "abc"
    )
    subprocess.run(
        ["docker", "compose", "--profile", "gpu", "--profile", "proxy", "config", "--quiet"],
        check=True,
        cwd=ROOT,
        env=environment,
    )


def test_api_installs_and_imports_without_torch(tmp_path: Path) -> None:
    """Run the install command of the image in a new virtual environment."""
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
    freeze = _output(python, "-m", "pip", "freeze", "--exclude-editable", cwd=tmp_path)
    # Without what was installed from a directory of this repository ("name @ file://…").
    installed = dict(line.split("==") for line in freeze.splitlines() if "==" in line)
    assert installed
    assert not set(HEAVY) & set(installed)
    assert {name: pins().get(name.lower()) for name in installed} == installed


def _is_ci() -> bool:
    return os.environ.get("PLAUDIT_TEST_REQUIRE_SERVICES") == "1"


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_worker_is_healthy_while_it_reports(tmp_path: Path) -> None:
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
    migrate(engine)
    assert status() == 1
    with transaction(engine) as session:
        session.add(Worker(id="w", host=socket.gethostname(), queue="plaudit.default", slots=1))
    assert status() == 0
    with transaction(engine) as session:
        session.execute(update(Worker).values(seen_at=now_ms() - 120_000))
    assert status() == 1
    engine.dispose()
