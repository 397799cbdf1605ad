"""Jobs through the client: create, read, control and follow."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.domain.lifecycle import FailureCode
from app.domain.progress import Reported
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from plaudit import (
    ConflictError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    WaitTimeoutError,
)
from tests.site import Site
from tests.world import BASE_MODEL, World

NO_JOB = f"job_{'0' * 32}"
FILES = {"reward_model.json": b'{"format": 1}', "README.md": b"# Card"}


@pytest.fixture
def dataset(world: World) -> str:
    return str(world.upload()["id"])


def test_job_is_made_of_a_spec_or_of_its_fields(client: Any, dataset: str) -> None:
    fields = {"base_model": BASE_MODEL, "train_dataset": dataset, "training": {"epochs": 2}}
    by_fields = client.jobs.create(**fields)
    by_spec = client.jobs.create(fields)
    assert by_fields.id != by_spec.id
    for job in (by_fields, by_spec):
        assert (job.status, job.base_model) == ("queued", BASE_MODEL)
        assert (job.spec.training.epochs, job.spec.lora.r) == (2.0, 16)
    again = client.jobs.create(by_spec.spec)
    assert again.spec == by_spec.spec


def test_spec_and_fields_are_not_mixed(client: Any, dataset: str) -> None:
    with pytest.raises(TypeError, match="priority"):
        client.jobs.create({"base_model": BASE_MODEL, "train_dataset": dataset}, priority=1)
    assert list(client.jobs.list()) == []


def test_same_idempotency_key_gives_the_same_job(client: Any, dataset: str) -> None:
    spec = {"base_model": BASE_MODEL, "train_dataset": dataset}
    first, second = (client.jobs.create(spec, idempotency_key="mine") for _ in range(2))
    assert first.id == second.id
    with pytest.raises(InvalidRequestError) as caught:
        client.jobs.create({**spec, "priority": 1}, idempotency_key="mine")
    assert caught.value.code == "idempotency_key_reused"


def test_refused_spec_names_its_fields(client: Any, dataset: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.jobs.create(base_model=BASE_MODEL, train_dataset=dataset, lora={"r": 0}, colour=1)
    error = caught.value
    assert error.status == 422
    found = {field.pointer: field for field in error.errors}
    assert found.keys() == {"/lora/r", "/colour"}
    assert found["/lora/r"].code == "out_of_range"
    assert all(field.message and field.hint for field in error.errors)
    assert error.request_id
    assert "/lora/r" in str(error)
    assert "/colour" in str(error)


def test_preview_stores_nothing(client: Any, world: World, dataset: str) -> None:
    world.know_base_model()
    preview = client.jobs.preview(base_model=BASE_MODEL, train_dataset=dataset)
    assert preview.adapter_config["task_type"] == "SEQ_CLS"
    assert preview.total_parameters == 22_000_000
    assert list(client.jobs.list()) == []


def test_list_gives_all_pages_and_only_what_is_asked_for(client: Any, dataset: str) -> None:
    spec = {"base_model": BASE_MODEL, "train_dataset": dataset}
    made = [client.jobs.create({**spec, "name": f"n{i}"}).id for i in range(5)]
    client.jobs.create({**spec, "metadata": {"team": "search"}})
    named = [job.id for job in client.jobs.list(page_size=2) if job.name]
    assert named == made[::-1]
    (found,) = client.jobs.list(metadata={"team": "search"})
    assert found.get().metadata == {"team": "search"}
    assert [job.id for job in client.jobs.list(name="n3")] == [made[3]]
    assert [job.id for job in client.jobs.list(q="N3")] == [made[3]]
    assert list(client.jobs.list(status="running")) == []
    page = client.jobs.list(page_size=2).page()
    assert len(page.data) == 2
    assert page.next == page.data[-1].id


def test_job_is_steered(client: Any, dataset: str) -> None:
    job = client.jobs.create(base_model=BASE_MODEL, train_dataset=dataset)
    assert job.update(name="new", priority=3).name == "new"
    assert job.priority == 3
    assert job.update(notes="line 1\nline 2").notes == "line 1\nline 2"
    assert job.pause().status == "paused"
    assert job.status == "paused"
    assert job.resume().status == "queued"
    clone = job.clone(overrides={"training": {"epochs": 3}})
    assert (clone.parent_job_id, clone.spec.training.epochs) == (job.id, 3.0)
    assert job.cancel().status == "cancelled"
    with pytest.raises(ConflictError) as caught:
        job.resume()
    assert caught.value.code == "job_finished"
    assert "clone" in str(caught.value.hint)
    job.delete()
    with pytest.raises(NotFoundError):
        job.refresh()


def test_wait_ends_with_the_job(client: Any, world: World) -> None:
    job = client.jobs.get(world.submit()["id"])
    seen: list[tuple[str, int | None]] = []
    lease = world.claim()
    watched = threading.Event()

    def work() -> None:
        watched.wait(30)
        world.step(lease, 4, train__loss=0.5)
        world.publish(lease, FILES)

    def look(state: Any) -> None:
        seen.append((state.status, state.progress.step))
        watched.set()

    worker = threading.Thread(target=work)
    worker.start()
    ended = job.wait(progress=look)
    worker.join()
    assert (ended.status, job.status) == ("succeeded", "succeeded")
    assert seen[0] == ("running", None)
    assert seen[-1] == ("succeeded", 4)
    assert job.raise_for_status().adapter_id


def test_wait_without_progress_is_one_long_poll(client: Any, world: World) -> None:
    job = world.submit()
    lease = world.claim()
    timer = threading.Timer(0.5, world.publish, (lease, FILES))
    timer.start()
    assert client.jobs.wait(job["id"]).status == "succeeded"
    timer.join()


def test_wait_ends_at_a_pause_and_at_the_timeout(client: Any, dataset: str) -> None:
    job = client.jobs.create(base_model=BASE_MODEL, train_dataset=dataset)
    with pytest.raises(WaitTimeoutError, match="queued") as caught:
        job.wait(timeout=0.2)
    assert caught.value.job.id == job.id
    with pytest.raises(JobFailedError, match="queued"):
        job.raise_for_status()
    job.pause()
    assert job.wait().status == "paused"


def test_failed_job_says_why(client: Any, world: World) -> None:
    job = client.jobs.get(world.submit()["id"])
    world.fail(world.claim(), FailureCode.NAN_LOSS, "loss is nan")
    with pytest.raises(JobFailedError, match="loss is nan") as caught:
        job.wait().raise_for_status()
    assert caught.value.code == "nan_loss"
    assert caught.value.hint == FailureCode.NAN_LOSS.failure[2]


def test_progress_is_shown_on_stderr(
    client: Any, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    job = client.jobs.get(world.submit()["id"])
    lease = world.claim()
    world.step(lease, 7, total=9)
    world.publish(lease, FILES)
    job.wait(progress=True)
    assert f"{job.id}  succeeded  step 7 of 9\n" in capsys.readouterr().err


def test_wait_and_events_outlive_a_restart(client: Any, world: World, site: Site) -> None:
    job = world.submit()
    results: dict[str, Any] = {}
    waiting = threading.Thread(
        target=lambda: results.update(job=client.jobs.wait(job["id"], progress=lambda _: None))
    )
    seen = threading.Event()

    def listen() -> None:
        events = []
        for event in client.jobs.events(job["id"]):
            events.append(event)
            seen.set()
        results["events"] = events

    listening = threading.Thread(target=listen)
    waiting.start()
    listening.start()
    assert seen.wait(30)
    site.stop()
    lease = world.claim()
    world.publish(lease, FILES)
    site.start()
    waiting.join(60)
    listening.join(60)
    assert results["job"].status == "succeeded"
    numbers = [event.id for event in results["events"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [results["events"][0].type, results["events"][-1].type] == ["queued", "succeeded"]


def test_past_events_are_read_without_following(client: Any, world: World) -> None:
    job = world.submit()
    world.claim()
    events = list(client.jobs.events(job["id"], follow=False))
    assert events[0].type == "queued"
    later = list(client.jobs.events(job["id"], after=events[0].id, follow=False))
    assert later == events[1:]


def test_events_of_an_ended_job_end(client: Any, world: World) -> None:
    job = client.jobs.get(world.submit()["id"])
    world.publish(world.claim(), FILES)
    events = list(job.events())
    assert events[-1].type == "succeeded"
    assert list(job.events(after=events[-1].id)) == []


def test_metrics_checkpoints_and_reports(client: Any, world: World) -> None:
    job = client.jobs.get(world.submit()["id"])
    lease = world.claim()
    for step in (1, 2, 3):
        world.step(lease, step, train__loss=1 / step)
    world.checkpoint(lease, 2)
    worst = {"pairs": [{"line": 3, "margin": -1.5}]}
    reports = [Reported(name="worst_pairs", document=worst)]
    worker_api.record_progress(lease, Progress(reports=reports))
    metrics = job.metrics()
    assert metrics.columns["step"] == [1, 2, 3]
    assert metrics.latest() == {"train/loss": pytest.approx(1 / 3)}
    frame = metrics.to_pandas()
    assert frame.index.tolist() == [1, 2, 3]
    assert frame["train/loss"].tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert client.jobs.metrics(job.id, from_step=2, keys="train/loss").columns["step"] == [2, 3]
    assert [checkpoint.step for checkpoint in job.checkpoints()] == [2]
    assert job.worst_pairs() == worst["pairs"]
    assert job.report("worst_pairs") == worst
    with pytest.raises(NotFoundError) as caught:
        job.report("memory")
    assert caught.value.code == "report_not_found"


def test_logs_are_followed_to_the_end(client: Any, world: World) -> None:
    job = client.jobs.get(world.submit()["id"])
    lease = world.claim()
    for seq in range(3):
        worker_api.record_log(lease, seq, f"line {seq}\n")
    assert [piece.text for piece in job.logs(tail=1)] == ["line 2\n"]
    found = []
    for piece in job.logs(follow=True):
        found.append(piece.text)
        if piece.text == "line 2\n":
            worker_api.record_log(lease, 3, "line 3\n")
            world.fail(lease, FailureCode.NAN_LOSS, "over")
    assert found == [f"line {seq}\n" for seq in range(4)]


def test_unknown_job_shows_at_once(client: Any) -> None:
    for ask in (client.jobs.get, client.jobs.wait, lambda id_: list(client.jobs.events(id_))):
        with pytest.raises(NotFoundError) as caught:
            ask(NO_JOB)
        assert caught.value.code == "job_not_found"


@pytest.mark.parametrize("name", ["", "../keys", "job_1?x=1", ".."])
def test_what_is_no_id_goes_to_no_address(client: Any, name: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        client.jobs.get(name)


def test_adapter_id_of_an_unfinished_job_is_no_id(client: Any) -> None:
    with pytest.raises(TypeError, match="NoneType"):
        client.adapters.get(None)
