"""The client commands against a live service."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.core.database import transaction
from app.domain.lifecycle import FailureCode, JobStatus
from app.domain.progress import Reported
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from app.models import BlobChunk, Job, StoredFile
from tests.cli.conftest import Run, live_world, serving
from tests.client.scripted import Answer, problem, scripted
from tests.job_queue.factories import read_job
from tests.services import free_port, wait_until
from tests.world import BASE_MODEL, World, claim_when_there, pairs

FILES = {
    "reward_model.json": b'{"format": 1}',
    "adapter_model.safetensors": Random(0).randbytes(3_000_000),
}


@pytest.fixture
def spec_file(world: World, tmp_path: Path) -> Path:
    """Return a valid spec."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(world.spec(name="from a file")))
    return path


def test_submitted_job_is_listed_and_shown(run: Run, spec_file: Path) -> None:
    job = json.loads(run("jobs", "submit", spec_file, "--json").stdout)
    assert job["status"] == "queued"
    assert job["spec"] | json.loads(spec_file.read_text()) == job["spec"]
    listed = run("jobs", "list", "--search", "FROM A")
    assert listed.exit_code == 0
    assert f"{job['id']}  from a file  queued" in listed.stdout
    page = json.loads(run("jobs", "list", "--limit", 1, "--json").stdout)
    assert [item["id"] for item in page["data"]] == [job["id"]]
    shown = run("jobs", "get", job["id"])
    assert "all-minilm-l6-v2" in shown.stdout
    assert json.loads(run("jobs", "get", job["id"], "--json").stdout)["id"] == job["id"]


def test_spec_is_read_from_stdin(run: Run, spec_file: Path) -> None:
    done = run("jobs", "submit", "-", "--json", input=spec_file.read_text())
    assert json.loads(done.stdout)["name"] == "from a file"


def test_dry_run_shows_what_would_be_trained(run: Run, world: World, spec_file: Path) -> None:
    world.know_base_model()
    done = run("jobs", "submit", spec_file, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "SEQ_CLS" in done.stdout
    assert "of 22,000,000 parameters" in done.stdout


@pytest.mark.parametrize("text", ["{", None])
def test_spec_that_cannot_be_read_is_a_usage_error(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.json"
    if text is not None:
        path.write_text(text)
    assert run("jobs", "submit", path).exit_code == 2


def test_refused_spec_names_its_fields(run: Run, spec_file: Path) -> None:
    document = json.loads(spec_file.read_text()) | {"lora": {"r": 0, "alpha": 0}, "colour": "red"}
    spec_file.write_text(json.dumps(document))
    done = run("jobs", "submit", spec_file)
    assert done.exit_code == 5
    assert "/lora/r" in done.stderr
    assert "/lora/alpha" in done.stderr  # with the same message
    assert "/colour" in done.stderr
    assert done.stdout == ""


def test_refusal_says_what_to_do_about_each_field_and_nothing_twice(
    run: Run, spec_file: Path
) -> None:
    missing = f"ds_{'0' * 32}"
    document = json.loads(spec_file.read_text())
    unknown = {"colour": "red", "shape": "round"}
    spec_file.write_text(json.dumps(document | unknown))
    done = run("jobs", "submit", spec_file)
    first, second, third = done.stderr.splitlines()
    assert first.startswith("/colour: ")
    assert second.startswith("  /shape: ")
    assert third == "Remove it, or use one of the known fields."
    assert third not in first + second

    document |= {"base_model": "none", "train_dataset": missing, "eval_dataset": missing}
    spec_file.write_text(json.dumps(document))
    first, second, third, *_ = run("jobs", "submit", spec_file).stderr.splitlines()
    advice = "GET /v1/datasets lists your datasets."
    assert first.startswith("/base_model: ")
    assert second == f"  /train_dataset: There is no dataset {missing}; {advice}"
    assert third == f"  /eval_dataset: There is no dataset {missing}."


def test_unknown_job_is_refused(run: Run) -> None:
    done = run("jobs", "get", f"job_{'0' * 32}")
    assert done.exit_code == 5


def test_absent_service_is_told_from_a_refusal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_URL", f"http://127.0.0.1:{free_port()}")
    done = run("jobs", "list")
    assert done.exit_code == 6
    assert "plaudit serve" in done.stderr


def test_key_of_this_machine_is_sent_to_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_URL", "http://plaudit.example")
    done = run("jobs", "list")
    assert done.exit_code == 2
    assert "PLAUDIT_API_KEY" in done.stderr


def test_wrong_key_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_API_KEY", "plk_wrong")
    assert run("jobs", "list").exit_code == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLAUDIT_URL", "http://[::1"),
        ("PLAUDIT_URL", "localhost:8000"),
        ("PLAUDIT_API_KEY", "plk_\x7fsecret"),
        ("PLAUDIT_API_KEY", "plk_secret…"),
        ("PLAUDIT_PORT", "abc"),
    ],
)
def test_setting_that_cannot_be_used_is_named_and_not_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    done = run("jobs", "list", "--json")
    assert (done.exit_code, done.stdout) == (2, ""), done.exception
    assert name in done.stderr
    assert "secret" not in done.stderr


def test_line_end_after_a_key_is_left_out(
    run: Run, service_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (service_dir / "api-key").read_text().strip()
    monkeypatch.setenv("PLAUDIT_API_KEY", f"{key}\r\n")
    assert run("jobs", "list").exit_code == 0


def test_somebody_elses_page_is_no_answer(
    run: Run, web_page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_URL", web_page)
    done = run("jobs", "list")
    assert done.exit_code == 6, done.exception
    assert "PLAUDIT_URL" in done.stderr


@pytest.fixture
def web_page() -> Iterator[str]:
    """A web server that returns an HTML page to every request, like the sign-in page of a proxy."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Sign in</html>")

        def log_message(self, *_: object) -> None:
            pass

    with answering(Page) as url:
        yield url


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the URL of the web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_remarks_are_not_folded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    job_id = f"job_{'0' * 32}"
    assert f"There is no job {job_id}." in run("jobs", "get", job_id).stderr


def test_client_that_asks_too_often_waits_and_asks_again(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"rate_per_second": 0.3, "rate_burst": 4, "preflight_wait_seconds": 0}
    with serving(tmp_path, "--no-worker", **settings) as (_, url):
        monkeypatch.setenv("PLAUDIT_URL", url)
        monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path))
        with live_world(url, tmp_path) as world:
            world.submit()
            adapter_id = world.publish(world.claim(), FILES)
        told = []
        for name in ("one", "two"):  # six requests, of which four are free at most
            done = run("adapters", "download", adapter_id, tmp_path / name)
            assert done.exit_code == 0, done.stderr
            told.append(done.stderr.count(": Too many requests with this API key."))
        assert run("jobs", "list").exit_code == 0
    assert max(told) == 1
    assert '"status": 429' in (tmp_path / "serve.log").read_text()


def test_service_that_is_away_for_a_while_is_told_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service returns 503 while its database restarts."""
    away = problem(503, "unavailable", **{"Retry-After": "0"})
    with scripted(away, away, Answer(200, {"data": [], "has_more": False})) as server:
        monkeypatch.setenv("PLAUDIT_URL", server.url)
        done = run("jobs", "list")
    assert (done.exit_code, done.stderr) == (0, "Waiting up to 2 min: This is unavailable.\n")
    assert len(server.asked) == 3


def test_exit_status_says_how_a_watched_job_ended(run: Run, world: World) -> None:
    ended = {name: world.submit(priority=100) for name in ("succeeded", "failed")}
    world.publish(world.claim(), FILES)
    world.fail(world.claim(), FailureCode.NAN_LOSS, "loss is nan")
    for name in ("cancelled", "paused"):
        ended[name] = world.submit()
        verb = {"cancelled": "cancel", "paused": "pause"}[name]
        assert run("jobs", verb, ended[name]["id"]).exit_code == 0
    results = {name: run("jobs", "watch", job["id"]) for name, job in ended.items()}
    assert {name: done.exit_code for name, done in results.items()} == {
        "succeeded": 0,
        "failed": 1,
        "cancelled": 3,
        "paused": 4,
    }
    for shown in (results["failed"], run("jobs", "get", ended["failed"]["id"])):
        assert "failure     nan_loss: loss is nan" in shown.stdout
        assert f"what to do  {FailureCode.NAN_LOSS.failure[2]}" in shown.stdout
    assert json.loads(run("jobs", "resume", ended["paused"]["id"], "--json").stdout)["id"]
    run("jobs", "cancel", ended["paused"]["id"])


def test_watching_shows_steps_and_metrics_until_the_job_ends(
    run: Run, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(world.spec(name="watched", priority=100)))

    def work() -> None:
        wait_until("the job", lambda: "watched" in run_names(world))
        lease = world.claim()
        world.step(lease, 1, train__loss=0.7, eval_before__accuracy=0.5)
        world.step(lease, 10, train__loss=0.25, eval__accuracy=0.875)
        world.publish(lease, FILES)

    worker = threading.Thread(target=work)
    worker.start()
    done = run("jobs", "submit", path, "--watch", "--json")
    worker.join()
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert "accuracy 0.875" in done.stderr
    assert "step 10 of 10" in done.stderr


def run_names(world: World) -> set[str]:
    """Return the names of the queued jobs."""
    with world.engine.connect() as connection:
        return set(connection.scalars(select(Job.name).where(Job.status == JobStatus.QUEUED)))


def test_logs_cannot_steer_the_terminal(run: Run, world: World) -> None:
    job = world.submit(priority=100)
    lease = world.claim()
    for seq in range(3):
        text = f"line {seq}\n\x1b[2Jred\x1b[0m\n"
        worker_api.record_log(lease, seq, text)
    world.fail(lease, FailureCode.NAN_LOSS, "over")
    followed = run("jobs", "logs", job["id"], "--follow")
    assert followed.exit_code == 0
    assert "\x1b" not in followed.stdout
    assert followed.stdout.splitlines()[::2] == ["line 0", "line 1", "line 2"]
    assert "line 0" not in run("jobs", "logs", job["id"], "--tail", 1).stdout


def test_gzipped_dataset_is_uploaded_and_listed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl.gz"
    path.write_bytes(gzip.compress(pairs(30, " zipped"), mtime=0))
    dataset = json.loads(run("datasets", "upload", path, "--json").stdout)
    assert (dataset["pair_count"], dataset["name"]) == (30, "more.jsonl.gz")
    assert f"{dataset['id']}  more.jsonl.gz" in run("datasets", "list").stdout


def test_shards_are_uploaded_with_a_mapping_and_what_was_left_out_is_shown(
    run: Run, tmp_path: Path
) -> None:
    row = '{"question": "q%d", "good": "a", "bad": "%s", "note": "n%d"}\n'
    for number in (1, 2):
        text = row % (number, "b", number) + row % (number, "a", number)
        (tmp_path / f"{number}.jsonl").write_text(text)
    mapping = [f"--column={part}" for part in ("prompt=question", "chosen=good", "rejected=bad")]
    options = (*mapping, "--ignore-column=note", "--on-invalid=skip")
    done = run("datasets", "upload", tmp_path, *options)
    assert done.exit_code == 0, done.stderr
    shown = dict(line.strip().split(maxsplit=1) for line in done.stdout.splitlines())
    assert (shown["pairs"], shown["skipped"]) == ("2", "2 identical_pair")
    assert "Warning: " in done.stderr
    wrong = run("datasets", "upload", tmp_path, "--column=prompt")
    assert wrong.exit_code == 2
    assert "prompt=question" in wrong.stderr


def test_file_that_was_uploaded_before_is_told_from_a_new_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "again.jsonl"
    path.write_bytes(pairs(7, " again"))
    first = run("datasets", "upload", path, "--name", "first")
    second = run("datasets", "upload", path, "--name", "second")
    assert (first.exit_code, first.stderr) == (0, "")
    assert second.exit_code == 0
    assert second.stdout == first.stdout
    assert second.stderr.startswith("This file was already uploaded at ")
    assert second.stderr.endswith(" with the name first.\n")


def test_name_that_was_given_is_never_cut(run: Run, tmp_path: Path) -> None:
    path = tmp_path / f"{'f' * 140}.jsonl"
    path.write_bytes(pairs(8, " long"))
    for name in ("n" * 129, ""):
        refused = run("datasets", "upload", path, "--name", name)
        assert refused.exit_code == 5
        assert "name" in refused.stderr
    dataset = json.loads(run("datasets", "upload", path, "--json").stdout)
    assert dataset["name"] == "f" * 128


def test_dataset_with_bad_lines_is_refused_with_their_numbers(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(pairs(2) + b'{"chosen": "a"}\n' * 12)
    done = run("datasets", "upload", path)
    assert done.exit_code == 5
    assert all(f"/lines/{number}/" in done.stderr for number in range(3, 13))
    assert "rejected" in done.stderr


def test_report_counts_with_the_base_model_that_was_asked_for_or_the_first(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses its own service, because the report waits for the test's stand-in for a worker."""
    lengths = {"count": 20, "mean": 29.038095, "min": 3, "p50": 28, "p90": 44, "p99": 55, "max": 58}
    report = {
        "rows": 20,
        "eval_rows": 0,
        "prompts": 19,
        "max_length": 64,
        "invalid": {"count": 1, "rows": [{"dataset": "train", "line": 7, "error": "no text"}]},
        "findings": {
            "duplicates": {"count": 0, "lines": []},
            "special_tokens": {"count": 12, "lines": list(range(1, 13))},
        },
        "tokens": {"prompt": {"count": 0}, "chosen": lengths},
        "longer_is_better": 2 / 3,
    }
    with serving(tmp_path, "--no-worker", preflight_wait_seconds=60) as (_, url):
        monkeypatch.setenv("PLAUDIT_URL", url)
        monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path))
        with live_world(url, tmp_path) as world:
            dataset = world.upload()["id"]
            specs: list[Any] = []

            def inspect() -> None:
                lease = claim_when_there(world)
                specs.append(read_job(world.engine, lease.job_id).spec)
                said = [Reported(name="dataset", document=report)]
                worker_api.record_progress(lease, Progress(reports=said))
                worker_api.complete(lease, {})

            worker = threading.Thread(target=inspect)
            worker.start()
            done = run("datasets", "report", dataset, "--max-length", 64)
            worker.join()
        assert done.exit_code == 0, done.stderr
        assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
            f"dataset {dataset}",
            f"tokens of {BASE_MODEL}",
            "max length 64",
            "pairs 20",
            "prompts 19",
            "longer is better 0.667",
            "",
            "finding pairs first lines",
            "duplicates 0",
            "special tokens 12 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …",
            "invalid 1 7",
            "",
            "tokens mean p50 p90 p99 max",
            "prompt – – – – –",
            "chosen 29 28 44 55 58",
        ]
        assert f"tokens of {BASE_MODEL}; choose another with --base-model" in done.stderr
        assert (specs[0]["base_model"], specs[0]["training"]) == (BASE_MODEL, {"max_length": 64})
        asked = ("--base-model", BASE_MODEL, "--max-length", 64, "--json")
        again = run("datasets", "report", dataset, *asked)
        assert json.loads(again.stdout)["report"] == report
        assert again.stderr == ""
        unknown = run("datasets", "report", dataset, "--base-model", "none-such")
        assert (unknown.exit_code, BASE_MODEL in unknown.stderr) == (5, True)


@pytest.fixture
def adapter_id(world: World) -> str:
    """Return an adapter with unique content."""
    world.submit(priority=100)
    lease = world.claim()
    return world.publish(lease, FILES | {"job.txt": lease.job_id.encode()})


def test_directory_that_cannot_be_written_is_named(
    run: Run, adapter_id: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = run("adapters", "download", adapter_id, tmp_path / "file" / "below")
    assert done.exit_code == 2, done.exception
    assert f"{tmp_path / 'file' / 'below'} cannot be written" in done.stderr


def test_adapter_is_downloaded_whole(run: Run, adapter_id: str, tmp_path: Path) -> None:
    done = run("adapters", "download", adapter_id, tmp_path / "deep" / "files")
    assert done.exit_code == 0, done.stderr
    for name, content in FILES.items():
        assert (tmp_path / "deep" / "files" / name).read_bytes() == content
        assert hashlib.sha256(content).hexdigest() in done.stdout
    assert adapter_id in run("adapters", "list").stdout


def test_accuracy_of_a_listed_adapter_has_three_digits(run: Run, adapter_id: str) -> None:
    (line,) = [x for x in run("adapters", "list").stdout.splitlines() if adapter_id in x]
    assert "  0.900  " in line


def test_download_that_breaks_off_goes_on_where_it_was(
    run: Run, url: str, adapter_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = []

    class Breaking(BaseHTTPRequestHandler):
        """Forward to the service, and close every connection after one megabyte."""

        def do_GET(self) -> None:
            ranges.append(self.headers["Range"])
            answer = httpx.get(f"{url}{self.path}", headers=dict(self.headers))
            self.send_response(answer.status_code)
            for name in ("Content-Length", "Content-Type", "Content-Range"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content[:1_000_000])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with answering(Breaking) as broken:
        monkeypatch.setenv("PLAUDIT_URL", broken)
        done = run("adapters", "download", adapter_id, tmp_path)
    assert done.exit_code == 0, done.stderr
    for name, content in FILES.items():
        assert (tmp_path / name).read_bytes() == content
    assert [r for r in ranges if r] == ["bytes=1000000-", "bytes=2000000-"]
    assert done.stderr.count(f"Waiting up to 10 min: The connection to {broken} was lost") == 1


@pytest.mark.parametrize("option", [[], ["--archive"]], ids=["files", "archive"])
def test_model_card_is_spoken_of_where_there_is_one(
    run: Run, world: World, adapter_id: str, tmp_path: Path, option: list[str]
) -> None:
    world.submit(priority=100)
    with_card = world.publish(world.claim(), FILES | {"README.md": b"# Card"})
    said = {
        name: run("adapters", "download", name, tmp_path / name, *option).stderr
        for name in (adapter_id, with_card)
    }
    assert said == {
        adapter_id: "The sha256 of every file is correct.\n",
        with_card: "The sha256 of every file is correct.\n"
        "The model card, README.md, shows how to score with it.\n",
    }


def test_archive_holds_the_same_files(run: Run, adapter_id: str, tmp_path: Path) -> None:
    assert run("adapters", "download", adapter_id, tmp_path, "--archive").exit_code == 0
    with tarfile.open(tmp_path / f"{adapter_id}.tar") as archive:
        assert FILES.keys() < {Path(member.name).name for member in archive}


@pytest.mark.parametrize("option", [[], ["--archive"]], ids=["files", "archive"])
def test_damaged_adapter_is_noticed_and_not_kept(
    run: Run, world: World, adapter_id: str, tmp_path: Path, option: list[str]
) -> None:
    with transaction(world.engine) as session:
        blob = session.scalar(
            select(StoredFile.blob_id).where(
                StoredFile.owner_id == adapter_id, StoredFile.name == "job.txt"
            )
        )
        old = session.scalar(select(BlobChunk.data).where(BlobChunk.blob_id == blob))
        changed = bytes([old[0] ^ 1]) + old[1:]
        session.execute(update(BlobChunk).where(BlobChunk.blob_id == blob).values(data=changed))
    done = run("adapters", "download", adapter_id, tmp_path, *option)
    assert done.exit_code == 1
    assert "sha256" in done.stderr
    assert not (tmp_path / "job.txt").exists()
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.tar"))


def test_watching_outlives_a_restart_of_the_service(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("PLAUDIT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path))
    settings = {"port": port, "preflight_wait_seconds": 0}
    with serving(tmp_path, "--no-worker", **settings):
        upload = tmp_path / "pairs.jsonl"
        upload.write_bytes(pairs())
        dataset = json.loads(run("datasets", "upload", upload, "--json").stdout)
        spec = {"base_model": "all-minilm-l6-v2", "train_dataset": dataset["id"]}
        job = json.loads(run("jobs", "submit", "-", "--json", input=json.dumps(spec)).stdout)
        watcher = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "jobs", "watch", job["id"]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        events = f"/v1/jobs/{job['id']}/events"
        wait_until("the watch", lambda: events in (tmp_path / "serve.log").read_text())
    with serving(tmp_path, "--no-worker", **settings):
        assert run("jobs", "cancel", job["id"]).exit_code == 0
        _, shown = watcher.communicate(timeout=120)
    assert watcher.returncode == 3, shown
    assert b"Waiting up to 10 min: " in shown
