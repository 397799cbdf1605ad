"""The commands that control jobs and download adapters, against a live service."""

from __future__ import annotations

import json
import re
import threading
import tomllib
import uuid
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from sqlalchemy import delete, update

from app.cli.commands import app
from app.cli.exit_codes import ExitCode
from app.cli.spec_files import commented_spec
from app.core.database import transaction
from app.domain.judging.metrics import evaluate
from app.domain.judging.score_table import ScoredRow
from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted, Reported
from app.domain.spec import RewardJobSpec
from app.domain.warnings import WarningCode
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from app.models import Job, Worker
from app.usage.service import record_stored_bytes
from tests.cli.conftest import Run
from tests.dashboard.adapters import publish
from tests.job_queue.factories import register_worker
from tests.world import BASE_MODEL, World, pairs

FILES = {"README.md": b"# Card", "adapter_model.safetensors": b"weights" * 1000}
DATASET = f"ds_{'0' * 32}"


def submitted(run: Run, *options: object) -> dict[str, Any]:
    done = run("jobs", "submit", *options, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def dataset(world: World) -> str:
    return str(world.upload()["id"])


@pytest.fixture
def job(run: Run, dataset: str) -> dict[str, Any]:
    return submitted(run, "--dataset", dataset, "--base-model", BASE_MODEL)


def test_job_is_submitted_without_a_file(job: dict[str, Any], dataset: str) -> None:
    assert (job["base_model"], job["spec"]["train_dataset"]) == (BASE_MODEL, dataset)


def test_options_replace_fields_of_the_file(run: Run, dataset: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"base_model": "none", "train_dataset": DATASET, "priority": -7}))
    made = submitted(run, path, "--dataset", dataset, "--base-model", BASE_MODEL)
    assert (made["priority"], made["spec"]["train_dataset"]) == (-7, dataset)


def test_evaluation_datasets_are_options(
    run: Run, world: World, dataset: str, tmp_path: Path
) -> None:
    maths, held_out = (str(world.upload()["id"]) for _ in range(2))
    path = tmp_path / "spec.json"
    spec = {"base_model": BASE_MODEL, "train_dataset": dataset, "eval_datasets": {"code": dataset}}
    path.write_text(json.dumps(spec))
    made = submitted(run, path, "--eval-dataset", held_out, "--eval-dataset", f"maths={maths}")
    assert made["spec"]["eval_dataset"] == held_out
    assert made["spec"]["eval_datasets"] == {"code": dataset, "maths": maths}
    shown = run("jobs", "get", made["id"]).stdout
    assert re.search(rf"… maths +{maths}", shown)
    clone = run("jobs", "clone", made["id"], "--eval-dataset", f"code={maths}", "--json")
    assert json.loads(clone.stdout)["spec"]["eval_datasets"] == {"code": maths, "maths": maths}
    refused = run("jobs", "submit", path, "--eval-dataset", f"={maths}")
    assert refused.exit_code == 2
    assert "has no name" in refused.stderr


def test_accuracy_stands_beside_what_it_leaves_out_and_is_that_of_the_published_step(
    run: Run, world: World, dataset: str
) -> None:
    maths = str(world.upload()["id"])
    spec = {"train_dataset": dataset, "eval_dataset": maths, "eval_datasets": {"maths": maths}}
    job = world.submit(**spec, name="stopped early", priority=100)
    context = world.claim()
    limits = {"eval__left_out": 0.25, "eval__max_length": 64}
    world.step(context, 2, 9, eval__accuracy=0.75, eval_maths__accuracy=0.5, **limits)
    world.step(context, 4, 9, eval__accuracy=0.6, eval_maths__accuracy=0.4, **limits)
    data = {"published_step": 2, "steps": 4}
    note = Noted(code=WarningCode.STOPPED_EARLY, message="stopped early", data=data)
    worker_api.record_progress(context, Progress(notes=[note]))
    metrics = {"eval/accuracy": 0.75, "eval/left_out": 0.25, "eval/max_length": 64.0}
    publish(world, context, metrics=metrics)
    shown = " ".join(run("jobs", "get", job["id"]).stdout.split())
    assert "published step 2 of 4 completed steps" in shown
    assert "eval/accuracy 0.750 (25% left out, limit 64 tokens)" in shown
    assert "eval_maths/accuracy 0.500" in shown
    (line,) = (x for x in run("jobs", "list").stdout.splitlines() if "stopped early" in x)
    assert "0.750 (25% left out, limit 64 tokens)" in line


def test_notes_are_written_extended_and_removed(run: Run, job: dict[str, Any]) -> None:
    def noted(*text: str, **options: Any) -> tuple[str, str]:
        done = run("jobs", "note", job["id"], *text, **options)
        assert done.exit_code == 0, done.stderr
        return done.stdout, done.stderr

    assert noted() == ("", f"{job['id']} has no notes.\n")
    assert noted("first line") == ("", f"The notes of {job['id']} are saved.\n")
    noted("--append", "-", input="second line\n\tthird line\n")
    text = "first line\nsecond line\n\tthird line"
    assert noted()[0] == f"{text}\n"
    assert json.loads(run("jobs", "get", job["id"], "--json").stdout)["notes"] == text
    assert json.loads(noted("other", "--json")[0])["notes"] == "other"
    noted("")
    assert json.loads(noted("--json")[0])["notes"] is None


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [(["--append"], 2, "needs a text"), (["x" * 10_001], 5, "at most 10000 characters")],
)
def test_notes_that_cannot_be_saved_are_refused(
    run: Run, job: dict[str, Any], options: list[str], exit_code: int, message: str
) -> None:
    done = run("jobs", "note", job["id"], *options)
    assert (done.exit_code, message in done.stderr) == (exit_code, True), done.stderr


@pytest.mark.parametrize("options", [(), ("--dataset", DATASET), ("--base-model", BASE_MODEL)])
def test_submitting_nothing_is_a_usage_error(run: Run, options: tuple[str, ...]) -> None:
    done = run("jobs", "submit", *options)
    assert done.exit_code == 2
    assert "plaudit jobs init" in done.stderr


def test_page_is_an_address_for_a_browser(
    run: Run, world: World, url: str, dataset: str, job: dict[str, Any]
) -> None:
    page = f"{url}/jobs/{job['id']}"
    options = ("--dataset", dataset, "--base-model", BASE_MODEL, "--json")
    done = run("jobs", "submit", *options)
    made = json.loads(done.stdout)["id"]
    assert done.stderr == f"{made}  {url}/jobs/{made}\n"
    assert page in run("jobs", "get", job["id"]).stdout
    answer = world.client.get(page, headers={"Authorization": ""})
    assert (answer.status_code, answer.headers["content-type"][:9]) == (200, "text/html")


def test_clone_changes_what_is_set(run: Run, job: dict[str, Any]) -> None:
    done = run(
        "jobs", "clone", job["id"], "--json",
        "--set", "training.epochs=2.5", "--set", "training.precision=fp32", "--set", "name=again",
        "--set", 'metadata={"a": "b"}',
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["parent_job_id"], made["name"]) == (job["id"], "again")
    assert made["spec"]["training"]["epochs"] == 2.5
    assert made["spec"]["training"]["precision"] == "fp32"
    assert made["metadata"] == {"a": "b"}


def test_clone_that_is_refused_names_the_field(run: Run, job: dict[str, Any]) -> None:
    done = run("jobs", "clone", job["id"], "--set", "lora.r=0")
    assert done.exit_code == 5
    assert "/lora/r" in done.stderr
    continued = run("jobs", "clone", job["id"], "--from-checkpoint")
    assert continued.exit_code == 5
    assert "no checkpoint" in continued.stderr


@pytest.mark.parametrize("change", ["epochs", "=3", "training.=3", ".epochs=3"])
def test_change_that_is_none_is_a_usage_error(run: Run, job: dict[str, Any], change: str) -> None:
    done = run("jobs", "clone", job["id"], "--set", change)
    assert done.exit_code == 2
    assert change in done.stderr


def test_change_below_a_value_is_a_usage_error(run: Run, job: dict[str, Any]) -> None:
    done = run("jobs", "clone", job["id"], "--set", "name=a", "--set", "name.b=c")
    assert done.exit_code == 2


def test_metrics_are_a_table(run: Run, world: World) -> None:
    made = world.submit(priority=100)
    lease = world.claim()
    for step in (1, 2, 3):
        world.step(lease, step, train__loss=1 / step)
    world.step(lease, 4, eval__accuracy=0.75)
    shown = run("jobs", "metrics", made["id"]).stdout
    assert [line.split() for line in shown.splitlines()] == [
        ["step", "eval/accuracy"],
        ["4", "0.75"],
        [],
        ["step", "train/loss"],
        ["1", "1"],
        ["2", "0.5"],
        ["3", "0.3333"],
    ]
    few = run("jobs", "metrics", made["id"], "--keys", "train/loss", "--from-step", 2, "--json")
    assert json.loads(few.stdout)["columns"]["step"] == [2, 3]
    world.fail(lease, FailureCode.NAN_LOSS, "over")


def test_group_of_many_metrics_at_few_steps_has_a_row_per_metric(run: Run, world: World) -> None:
    made = world.submit(priority=100)
    lease = world.claim()
    names = [f"figure_{number:02}" for number in range(20)]
    world.step(lease, 1, train__loss=0.5)
    for step in (1, 2):
        world.step(lease, step, **dict.fromkeys((f"eval__{name}" for name in names), step))
    shown = run("jobs", "metrics", made["id"]).stdout
    evaluated, trained = (part.splitlines() for part in shown.split("\n\n"))
    assert [line.split() for line in evaluated] == [
        ["step", "1", "2"],
        *([f"eval/{name}", "1", "2"] for name in names),
    ]
    assert [line.split() for line in trained] == [["step", "train/loss"], ["1", "0.5"]]
    world.fail(lease, FailureCode.NAN_LOSS, "over")


def test_job_without_metrics_says_so(run: Run, job: dict[str, Any]) -> None:
    done = run("jobs", "metrics", job["id"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "No metrics" in done.stderr


@pytest.mark.parametrize("code", FailureCode)
def test_every_failure_is_shown_with_its_hint(
    run: Run, world: World, job: dict[str, Any], code: FailureCode
) -> None:
    failed = {"status": "failed", "failure_code": code, "failure_detail": "a [bold]cause[/]"}
    with transaction(world.engine) as session:
        session.execute(update(Job).where(Job.id == job["id"]).values(**failed))
    shown = " ".join(run("jobs", "get", job["id"]).stdout.split())
    assert f"failure {code}: a [bold]cause[/] what to do {code.failure.hint}" in shown
    watched = run("jobs", "watch", job["id"])
    assert watched.exit_code == ExitCode.FAILED
    assert code.failure.hint in " ".join(watched.stdout.split())


def test_things_are_deleted(run: Run, world: World, dataset: str) -> None:
    made = world.submit(priority=100, train_dataset=dataset)
    in_use = run("datasets", "delete", dataset)
    assert in_use.exit_code == 5
    assert run("jobs", "delete", made["id"]).exit_code == 5  # it is not finished
    adapter_id = world.publish(world.claim(), FILES)
    for kind, name in (("adapters", adapter_id), ("jobs", made["id"]), ("datasets", dataset)):
        done = run(kind, "delete", name)
        assert (done.exit_code, done.stderr) == (0, f"{name} is deleted.\n")
    assert run("jobs", "get", made["id"]).exit_code == 5
    assert run("datasets", "get", dataset).exit_code == 5


def test_estimate_without_a_worker_says_what_to_do(run: Run, dataset: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"base_model": BASE_MODEL, "train_dataset": dataset}))
    done = run("estimate", path)
    assert done.exit_code == ExitCode.AWAY
    assert done.stdout == ""
    assert "worker" in done.stderr


def test_queue_says_why_jobs_wait(run: Run, job: dict[str, Any]) -> None:
    done = run("queue")
    (line,) = [line for line in done.stdout.splitlines() if job["id"] in line]
    assert "no worker is running" in line
    assert done.stderr == "No worker is running.\n"
    waiting = json.loads(run("queue", "--json").stdout)["data"]
    assert job["id"] in [item["job_id"] for item in waiting]


@pytest.fixture
def evaluation(run: Run, world: World) -> dict[str, Any]:
    """Return a queued evaluation, requested on the command line."""
    world.know_base_model()
    world.submit(priority=100)
    adapter_id = world.publish(world.claim(), FILES | {"a.txt": uuid.uuid4().bytes})
    dataset = str(world.upload()["id"])
    done = run(
        "evaluate", adapter_id, "--dataset", dataset, "--no-wait", "--json", "--name", "judged",
        "--probe", "reply_empty", "--probe-pairs", 7, "--seed", 3, "--overlong", "drop",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_options_of_an_evaluation_are_sent(evaluation: dict[str, Any]) -> None:
    spec = evaluation["spec"]
    fields = ("name", "probes", "probe_pairs", "seed", "overlong")
    assert [spec[name] for name in fields] == ["judged", ["reply_empty"], 7, 3, "drop"]


def test_slices_of_an_evaluation_are_sent(run: Run, evaluation: dict[str, Any]) -> None:
    names = (evaluation["adapters"][0], "--dataset", evaluation["dataset"])
    done = run("evaluate", *names, "--slice", "no such slice")
    assert done.exit_code == ExitCode.REFUSED
    assert "/slices/0" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--no-probes", "--probe", "reply_empty"),
        ("--no-probes", "--probe-pairs", 5),
        ("--truncate", "--overlong", "drop"),
    ],
)
def test_options_of_an_evaluation_that_contradict_each_other_are_refused(
    run: Run, options: tuple[object, ...]
) -> None:
    done = run("evaluate", f"ad_{'0' * 32}", "--dataset", DATASET, *options)
    assert done.exit_code == ExitCode.USAGE
    assert str(options[0]) in done.stderr


def test_evaluation_is_listed_shown_and_cancelled(run: Run, evaluation: dict[str, Any]) -> None:
    name = evaluation["id"]
    (line,) = [line for line in run("evaluations", "list").stdout.splitlines() if name in line]
    assert line.split()[1:3] == ["judged", "queued"]
    page = json.loads(run("evaluations", "list", "--limit", 1, "--json").stdout)
    assert [item["id"] for item in page["data"]] == [name]
    assert re.search(r"status +queued", run("evaluations", "get", name[:-4]).stdout)
    (waiting,) = [line for line in run("queue").stdout.splitlines() if name in line]
    assert "no worker is running" in waiting
    assert run("evaluations", "delete", name).exit_code == ExitCode.REFUSED
    cancelled = run("evaluations", "cancel", name, "--json")
    assert json.loads(cancelled.stdout)["status"] == "cancelled"
    watched = run("evaluations", "watch", name)
    assert watched.exit_code == ExitCode.CANCELLED
    assert "cancelled" in watched.stderr
    assert run("evaluations", "delete", name).exit_code == 0
    assert run("evaluations", "get", name).exit_code == ExitCode.REFUSED


def test_evaluation_is_watched_to_its_result(
    run: Run, world: World, evaluation: dict[str, Any]
) -> None:
    while (lease := world.claim()).job_id[4:] != evaluation["id"][5:]:
        world.fail(lease, FailureCode.NAN_LOSS, "not this one")
    rows = [ScoredRow(i, str(i), (1, 2), (1.0, 0.0), (5, 4)) for i in range(1, 5)]
    models = ("base:untrained", *evaluation["adapters"])
    world.publish_scores(lease, dict.fromkeys(models, rows))
    watched = run("evaluations", "watch", evaluation["id"])
    assert watched.exit_code == 0, watched.stderr
    assert watched.stdout == run("evaluations", "get", evaluation["id"]).stdout
    (line,) = [x for x in watched.stdout.splitlines() if evaluation["adapters"][0] in x]
    assert "100.0 %" in line


@pytest.mark.parametrize(
    ("status", "shown"), [("passed", "passed"), ("failed", "failed: forked trainers"), (None, "–")]
)
def test_workers_are_listed_with_their_checks(
    run: Run, world: World, status: str | None, shown: str
) -> None:
    check = {"check": "forked trainers", "status": status, "detail": "no kernels for sm_61"}
    found = [check] if status else None
    register_worker(world.engine, "plaudit.default", id=f"box-ab-{status}", doctor=found)
    try:
        done = run("workers")
        (line,) = [line for line in done.stdout.splitlines() if "plaudit.default" in line]
        assert "H200" in line
        assert line.split("H200")[1].strip() == shown
        assert ("no kernels for sm_61" in done.stderr) is (status == "failed")
        (told,) = json.loads(run("workers", "--json").stdout)["data"]
        assert told["doctor"] == (found or [])
    finally:
        with transaction(world.engine) as session:
            session.execute(delete(Worker))


def test_queue_counts_the_slots_of_each_queue(run: Run, world: World) -> None:
    """A job waits, although a worker of another queue is idle."""
    for queue, slots, busy in (("default", 2, 2), ("default", 1, 1), ("default.preflight", 2, 0)):
        name = f"box-{slots}-{queue}"
        register_worker(world.engine, f"plaudit.{queue}", id=name, slots=slots, busy=busy)
    try:
        told = run("queue").stderr
    finally:
        with transaction(world.engine) as session:
            session.execute(delete(Worker))
    assert sorted(told.splitlines()) == [
        "queue plaudit.default.preflight: 0 of 2 slots busy",
        "queue plaudit.default: 3 of 3 slots busy",
    ]


def test_base_models_are_listed_and_shown(run: Run) -> None:
    assert "22M parameters" in run("base-models").stdout
    shown = run("base-models", BASE_MODEL).stdout
    assert "apache-2.0" in shown
    assert json.loads(run("base-models", BASE_MODEL, "--json").stdout)["id"] == BASE_MODEL
    listed = json.loads(run("base-models", "--json").stdout)["data"]
    assert BASE_MODEL in [entry["id"] for entry in listed]
    unknown = run("base-models", "none-such")
    assert unknown.exit_code == 5


def test_merge_is_asked_for_and_watched(run: Run, world: World) -> None:
    world.submit(priority=100)
    adapter_id = world.publish(world.claim(), FILES)
    asked = run("adapters", "merge", adapter_id)
    assert asked.exit_code == 0
    assert "queued" in asked.stdout
    assert "--watch" in asked.stderr
    merging = json.loads(run("adapters", "merge", adapter_id, "--json").stdout)

    def work() -> None:
        while (lease := world.claim()).lease.job_id != merging["id"]:
            world.fail(lease, FailureCode.NAN_LOSS, "not this one")
        world.publish(lease, {"model.safetensors": b"whole"}, is_merged=True)

    worker = threading.Timer(0.5, work)
    worker.start()
    done = run("adapters", "merge", adapter_id, "--watch", "--json")
    worker.join()
    merged = json.loads(done.stdout)
    assert (done.exit_code, merged["status"]) == (0, "succeeded")
    shown = run("adapters", "merge", adapter_id)
    assert f"plaudit adapters download {merged['adapter_id']} DIR" in shown.stderr


@pytest.fixture
def adapter_id(world: World) -> str:
    """Return an adapter with unique content."""
    world.submit(priority=100)
    lease = world.claim()
    return world.publish(lease, FILES | {"job.txt": lease.lease.job_id.encode()})


def test_directory_with_other_files_is_refused_without_force(
    run: Run, adapter_id: str, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine too")
    done = run("adapters", "download", adapter_id, tmp_path)
    assert done.exit_code == 2
    assert "README.md, notes.txt" in done.stderr
    assert "--force" in done.stderr
    assert (tmp_path / "README.md").read_text() == "mine"
    forced = run("adapters", "download", adapter_id, tmp_path, "--force")
    assert forced.exit_code == 0, forced.stderr
    assert (tmp_path / "README.md").read_bytes() == FILES["README.md"]
    assert (tmp_path / "notes.txt").read_text() == "mine too"


def test_download_goes_on_in_a_directory_of_its_own(
    run: Run, world: World, adapter_id: str, tmp_path: Path
) -> None:
    assert run("adapters", "download", adapter_id, tmp_path).exit_code == 0
    weights = tmp_path / "adapter_model.safetensors"
    sha256 = {
        file["name"]: file["sha256"]
        for file in world.client.get(f"/v1/adapters/{adapter_id}").json()["files"]
    }
    weights.unlink()
    partial = weights.with_name(f"{weights.name}.{sha256[weights.name][:12]}.part")
    partial.write_bytes(FILES[weights.name][:100])
    again = run("adapters", "download", adapter_id, tmp_path)
    assert again.exit_code == 0, again.stderr
    assert weights.read_bytes() == FILES[weights.name]
    assert not partial.exists()


def test_first_digits_of_an_id_are_enough(
    run: Run, world: World, adapter_id: str, job: dict[str, Any], dataset: str
) -> None:
    def shown(*words: object) -> str:
        return str(json.loads(run(*words, "--json").stdout)["id"])

    for text in (job["id"][:24], job["id"].removeprefix("job_")[:20], job["id"]):
        assert shown("jobs", "get", text) == job["id"]
    assert shown("datasets", "get", dataset[:24]) == dataset
    assert shown("jobs", "clone", job["id"][:24], "--dataset", dataset[3:24]) != job["id"]
    assert run("adapters", "delete", adapter_id[:24]).stderr == f"{adapter_id} is deleted.\n"


def test_digits_of_many_ids_or_of_none_are_refused(
    run: Run, job: dict[str, Any], dataset: str
) -> None:
    submitted(run, "--dataset", dataset, "--base-model", BASE_MODEL)
    many = run("jobs", "get", job["id"][:8])
    assert many.exit_code == 5
    assert "Give more digits." in many.stderr
    assert len(re.findall(r"job_[0-9a-f]{32}", many.stderr)) == 2
    none = run("jobs", "get", "job_ffff")
    assert none.exit_code == 5
    assert "job_ffff" in none.stderr


@pytest.mark.parametrize("text", ["", "job_", "abc", "ds_01a2", "../keys", "job_xyz1", "G" * 8])
def test_what_is_no_id_is_a_usage_error(run: Run, text: str) -> None:
    done = run("jobs", "get", text)
    assert done.exit_code == 2, done.exception
    assert "is not the id of a job" in done.stderr


def test_written_spec_is_submitted(run: Run, dataset: str, tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    options = ("--dataset", dataset, "--base-model", BASE_MODEL)
    done = run("jobs", "init", path, *options)
    assert done.exit_code == 0, done.stderr
    assert f"plaudit jobs submit {path}" in done.stderr
    made = submitted(run, path)
    assert made["spec"]["train_dataset"] == dataset
    written = path.read_text()
    assert run("jobs", "init", path).exit_code == 2
    assert path.read_text() == written
    assert run("jobs", "init", path, "--force").exit_code == 0
    assert run("jobs", "init", tmp_path / "spec.yaml").exit_code == 2
    assert run("jobs", "init", tmp_path / "none" / "spec.toml").exit_code == 2
    printed = run("jobs", "init", "-", *options).stdout
    assert tomllib.loads(printed) == tomllib.loads(written)


def test_written_spec_shows_every_field_and_its_default() -> None:
    """Without the "#" characters the spec is valid, and its values are the defaults."""
    text = commented_spec("spec.toml", {"base_model": BASE_MODEL, "train_dataset": DATASET})
    commented = re.findall(r"^# [a-z_]+ = .*$", text, re.MULTILINE)
    document = tomllib.loads(re.sub(r"^# ([a-z_]+ = )", r"\1", text, flags=re.MULTILINE))
    spec = RewardJobSpec.model_validate(document)
    assert set(document) == set(RewardJobSpec.model_fields)
    assert set(document["training"]) == set(type(spec.training).model_fields)
    assert set(document["lora"]) == set(type(spec.lora).model_fields) - {"task_type"}
    defaults = RewardJobSpec(base_model=BASE_MODEL, train_dataset=DATASET).model_dump()
    unset = {re.findall(r"[a-z_]+", line)[0] for line in commented if line.endswith("# not set")}
    shown = spec.model_dump()
    for part in ("training", "lora", "resources"):
        differing = {k for k, v in shown[part].items() if v != defaults[part][k]}
        assert differing == unset & set(defaults[part])
    assert tomllib.loads(text) == {
        "base_model": BASE_MODEL, "train_dataset": DATASET,
        "lora": {}, "training": {}, "resources": {},
    }  # fmt: skip
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "base_model = "),
        ("a.toml", "x = 1\nx = 2"),
        ("a.toml", "x = nan"),
        ("a.toml", "x = 2026-11-24"),
        ("a.json", '{"x": NaN}'),
        ("a.json", "[1]"),
    ],
)
def test_spec_that_cannot_be_read_is_told(run: Run, tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    done = run("jobs", "submit", path)
    assert done.exit_code == 2, done.exception
    assert str(path) in done.stderr


@pytest.mark.parametrize("form", ["json", "toml"])
def test_stdin_holds_either_form(run: Run, dataset: str, form: str) -> None:
    spec = {"base_model": BASE_MODEL, "train_dataset": dataset}
    toml = "".join(f'{key} = "{value}"\n' for key, value in spec.items())
    text = json.dumps(spec) if form == "json" else toml
    done = run("jobs", "submit", "-", "--json", input=text)
    assert done.exit_code == 0, done.stderr


COMMANDS = typer.main.get_command(app)


def leaves(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    children = getattr(command, "commands", None)
    if children is None:
        return [words]
    found = [leaf for name, child in children.items() for leaf in leaves(child, (*words, name))]
    return [words, *found]


@pytest.mark.parametrize("words", leaves(COMMANDS), ids=" ".join)
def test_help_lists_the_exit_codes(run: Run, words: tuple[str, ...]) -> None:
    shown = " ".join(run(*words, "--help").stdout.split())
    assert "Exit codes: 0 done" in shown
    for code in ExitCode:
        assert re.search(rf"\b{code.value} (?:the|done)\b", shown), code


def test_upload_that_cannot_be_read_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(pairs())
    done = run("datasets", "upload", path / "below")
    assert done.exit_code == 2


def test_usage_is_shown_by_day(run: Run, world: World, dataset: str) -> None:
    record_stored_bytes(world.engine)
    done = run("usage", "--days", "1")
    assert done.exit_code == 0, done.stderr
    assert "device hours" in done.stdout
    (day,) = json.loads(run("usage", "--json").stdout)["data"]
    assert day["stored_bytes"] > 0


def test_results_of_a_job_on_all_of_its_datasets_are_written_for_the_hub(
    run: Run, world: World, dataset: str, tmp_path: Path
) -> None:
    """A dataset under two names has one result, with the share of its pairs that is left out."""
    world.know_base_model()
    maths = str(world.upload()["id"])
    named = {"again": maths, "maths": maths, "old": dataset}
    job = world.submit(train_dataset=dataset, eval_datasets=named, priority=100)
    context = world.claim()
    scores = [(1.0, 0.0), (2.0, 0.5), (0.0, 1.0), (0.5, -1.0)]
    rows = [ScoredRow(i, str(i), (1, 2), each, (5, 4)) for i, each in enumerate(scores, 1)]
    nothing = {"plots": {}, "baselines": {}, "worst_pairs": []}
    parts = {
        name: {**nothing, "model": {"adapter": name, "metrics": evaluate(rows[:count], seed=0)}}
        for name, count in (("again", 4), ("maths", 4), ("old", 2))
    }
    documents: dict[str, Any] = {
        "full": {**nothing, "model": None, "eval_datasets": parts},
        "dataset": {"pairs": {"max_length": 64, "train": {"used": 1}, "eval": None}},
    }
    reports = [Reported(name=name, document=each) for name, each in documents.items()]  # type: ignore[arg-type]
    worker_api.record_progress(context, Progress(reports=reports))
    publish(world, context, metrics={"eval_again/left_out": 0.25, "eval_old/left_out": 0.0})
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    for _ in range(2):  # repeating it adds nothing
        done = run("report", job["id"], tmp_path / "page.html", "--hub", repository)
        assert done.exit_code == 0, done.stderr
    text = (repository / ".eval_results" / f"{job['id']}.yaml").read_text()
    found = parse_eval_result_entries(yaml.safe_load(text))
    assert [(e.dataset_id, e.task_id, e.value, e.notes) for e in found] == [
        (maths, "accuracy", 0.75, "25.0% of the pairs left out: over 64 tokens, or not rendered"),
        (dataset, "accuracy", 1.0, None),
    ]
    index = ModelCard.load(repository / "README.md").data.eval_results
    assert [(each.dataset_type, each.dataset_name, each.metric_value) for each in index] == [
        (maths, "Held-out pairs: again", 0.75),
        (dataset, "Held-out pairs: old", 1.0),
    ]
