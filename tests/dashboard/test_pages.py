"""The pages in a real Chromium, while jobs run.

Every browser test also fails on a console error, on a request to another server, and on a violation
of the content security policy (``Browser.close``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.core.database import transaction
from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted, Reported
from app.domain.warnings import WarningCode
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from app.models import Job, Worker
from tests.dashboard.adapters import publish
from tests.dashboard.browser import Browser
from tests.services import wait_until
from tests.site import Site
from tests.world import World

PHASES_DONE = ["fetching", "checking", "tokenizing"]
WORST = {
    "line": 7,
    "margin": -2.5,
    "chosen_score": -1.0,
    "rejected_score": 1.5,
    "slice": "algebra",
}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "No jobs yet"),
        ("/datasets", "No datasets yet"),
        ("/queue", "No jobs are waiting."),
        ("/adapters", "No adapters yet."),
        ("/compare", "Add jobs, up to eight."),
        ("/?status=failed", "No failed jobs"),
    ],
)
def test_empty_page_says_that_it_is_empty(signed_in: Browser, path: str, text: str) -> None:
    signed_in.get(path)
    signed_in.wait_for_text(text)


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense", "%"])
def test_unknown_job_is_reported_as_not_found(signed_in: Browser, job_id: str) -> None:
    signed_in.expected_errors += ["404 (Not Found)", "422 (Unprocessable"]
    signed_in.get(f"/jobs/{job_id}")
    signed_in.wait_for_text("Not found", "#refusal")


def test_list_of_jobs_is_ordered_and_updated(signed_in: Browser, world: World) -> None:
    world.submit(name="older")
    signed_in.get("/")
    signed_in.wait_for_text("older", "#rows")
    world.submit(name="newer")
    signed_in.wait_for_text("newer", "#rows")
    names = [link.text for link in signed_in.all("#rows a")]
    assert names == ["newer", "older"]

    lease = world.claim()  # claims the older job
    world.step(lease, 3, 12, train__loss=0.6)
    signed_in.wait_for_text("3 / 12", "#rows")
    signed_in.wait_for_text("running", "#rows")
    publish(world, lease)
    signed_in.wait_for_text("92.5 %", "#rows")


def test_long_list_has_pages_with_their_own_urls(signed_in: Browser, world: World) -> None:
    dataset = world.upload()["id"]
    for number in range(27):
        world.submit(name=f"job {number:02}", train_dataset=dataset)
    signed_in.get("/")
    signed_in.wait_for_text("job 26", "#rows")
    signed_in.id("older").click()
    signed_in.wait_for_text("job 01", "#rows")
    assert len(signed_in.all("#rows tr")) == 2
    signed_in.driver.back()
    signed_in.wait_for_text("job 26", "#rows")


def test_job_page_follows_a_job_from_the_queue_to_the_adapter(
    signed_in: Browser, world: World
) -> None:
    world.know_base_model()
    job = world.submit(name="live", metadata={"team": "search"}, eval_dataset={"fraction": 0.1})
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_text("queued", "#status")
    signed_in.wait_for_text("Metrics appear here after the first step.")
    signed_in.wait_for_text("team: search", "#labels")
    signed_in.wait_for_text("classifier", "#plan")

    lease = world.claim()
    signed_in.wait_for_text("running", "#status")
    signed_in.wait_for_text("Attempt 1 starts on host.", "#events")
    signed_in.wait_for_text("host-ab/0", "#run")
    world.step(lease, 0, 40, eval_before__accuracy=0.51, eval_before__loss=0.69)
    signed_in.wait_for_text("51.0 %", "#accuracy")
    for step in range(1, 11):
        world.step(lease, step, 40, train__loss=0.7 - step / 50, train__accuracy=0.5 + step / 30)
    signed_in.wait_for_text("step 10 / 40", ".state")
    signed_in.wait_for_text("training 0.5", "#charts")
    assert len(signed_in.all("#charts figure:not([hidden]) canvas")) == 2
    assert signed_in.id("bar").get_attribute("value") == "0.25"
    assert signed_in.driver.title.startswith("25 % · live")

    warning = Noted(code=WarningCode.PAIRS_DROPPED, message="2 pairs are too long", is_warning=True)
    worker_api.record_progress(lease, Progress(notes=[warning]))
    signed_in.wait_for_text("2 pairs are too long", "#warnings")
    world.step(lease, 40, 40, eval__accuracy=0.925, eval__loss=0.25, eval__length_baseline=0.55)
    publish(world, lease)
    signed_in.wait_for_text("succeeded", "#status")
    signed_in.wait_for_text("92.5 %", "#accuracy-after")
    signed_in.wait_for_text("Always preferring the longer reply: 55.0 %", "#accuracy")
    signed_in.wait_for_text("verified", "#certificate")
    signed_in.wait_for_text("The adapter is published.", "#events")


def test_named_evaluation_datasets_have_their_accuracies(signed_in: Browser, world: World) -> None:
    job = world.submit(name="several", eval_datasets={"maths": world.upload()["id"]})
    signed_in.get(f"/jobs/{job['id']}")
    lease = world.claim()
    world.step(lease, 0, 4, eval_before_maths__accuracy=0.52, eval_before_maths__left_out=0.25)
    signed_in.wait_for_text("52.0 %", "#accuracy-rows")
    assert not signed_in.id("accuracy-main").is_displayed()
    after = {"accuracy": 0.83, "pairs": 12, "left_out": 0.25, "loss": 0.4}
    world.step(lease, 4, 4, **{f"eval_maths__{name}": value for name, value in after.items()})
    signed_in.wait_for_text("maths\t52.0 %\t83.0 %\t12\t25.0 %", "#accuracy-rows")
    report = {"pairs": [], "eval_datasets": {"maths": [WORST]}}
    worst = Reported(name="worst_pairs", document=report)
    worker_api.record_progress(lease, Progress(reports=[worst]))
    publish(world, lease)
    signed_in.wait_for_text("succeeded", "#status")
    signed_in.wait_for_id("worst")
    signed_in.all("#worst summary")[0].click()
    signed_in.wait_for_text("7\t-2.5\t-1\t1.5\tmaths · algebra", "#worst-rows")


def test_accuracy_stands_beside_the_pairs_that_it_leaves_out(
    signed_in: Browser, world: World
) -> None:
    world.submit(name="partly")
    publish(world, world.claim())
    for page in ("/", "/adapters"):
        signed_in.get(page)
        signed_in.wait_for_text("92.5 % (25 % left out, limit 256 tokens)", "#rows")


def test_jobs_are_sorted_by_accuracy(signed_in: Browser, world: World) -> None:
    dataset = world.upload()["id"]
    for name, accuracy in (("good", 0.9), ("bad", 0.1), ("middle", 0.5)):
        world.submit(name=name, train_dataset=dataset)
        publish(world, world.claim(), metrics={"eval/accuracy": accuracy})
    signed_in.get("/?sort=accuracy")
    signed_in.wait_for_text("90.0 %", "#rows")
    names = [link.text for link in signed_in.all("#rows td.name > a")]
    assert names == ["good", "middle", "bad"]


def test_events_are_shown_once_and_newest_first(signed_in: Browser, world: World) -> None:
    job = world.submit()
    lease = world.claim()
    world.checkpoint(lease, 5)
    world.checkpoint(lease, 9)
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_text("Checkpoint at step 9.", "#events")
    world.checkpoint(lease, 12)
    signed_in.wait_for_text("Checkpoint at step 12.", "#events")
    numbers = [int(item.get_attribute("value") or 0) for item in signed_in.all("#events > li")]
    assert numbers == list(range(numbers[0], 0, -1))


def test_phases_to_come_are_not_ticked(signed_in: Browser, world: World) -> None:
    """Held-out pairs are evaluated before training too."""
    job = world.submit()
    lease = world.claim()
    worker_api.record_progress(lease, Progress(phase="evaluating"))
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_text("evaluating before", "#phases [aria-current]")
    assert [item.text for item in signed_in.all("#phases .done")] == PHASES_DONE
    assert "evaluating" not in signed_in.text("#events")


def test_failed_job_shows_its_cause_and_hint(signed_in: Browser, world: World) -> None:
    job = world.submit()
    signed_in.get(f"/jobs/{job['id']}")
    world.fail(world.claim(), FailureCode.NAN_LOSS, "loss is nan at step 3")
    signed_in.wait_for_text("failed", "#status")
    signed_in.wait_for_text("loss is nan at step 3", "#failure")
    signed_in.wait_for_text("The job ended before its first step.")
    signed_in.wait_for_text("learning_rate", "#failure-hint")


def test_every_failure_has_its_title_and_its_hint(signed_in: Browser, world: World) -> None:
    job = world.submit()
    shown, expected = {}, {}
    for code in FailureCode:
        failed = {"status": "failed", "failure_code": code, "failure_detail": f"about {code}"}
        with transaction(world.engine) as session:
            session.execute(update(Job).where(Job.id == job["id"]).values(**failed))
        signed_in.get(f"/jobs/{job['id']}")
        signed_in.wait_for_text(f"about {code}", "#failure-detail")
        shown[code] = (signed_in.text("#failure-title"), signed_in.text("#failure-hint"))
        expected[code] = (f"Failed: {code.replace('_', ' ')}", code.failure.hint)
    assert shown == expected


def test_exact_times_are_in_the_zone_of_the_browser_and_in_utc(
    signed_in: Browser, world: World
) -> None:
    job = world.submit()
    with transaction(world.engine) as session:
        session.execute(update(Job).where(Job.id == job["id"]).values(created_at=1_790_000_000_000))
    driver = signed_in.driver
    driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    try:
        signed_in.get("/")
        signed_in.wait_for_text("ago", "#rows")
        (title,) = signed_in.js(
            "return [...document.querySelectorAll('#rows time')].map((t) => t.title)"
        )
    finally:
        driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    assert "7:43:20" in title
    assert "GMT+5:30" in title
    assert title.endswith("(2026-09-21 14:13:20 UTC)")


def test_running_job_is_cancelled_after_confirmation(signed_in: Browser, world: World) -> None:
    job = world.submit()
    lease = world.claim()
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("cancel")
    signed_in.id("cancel").click()
    signed_in.driver.switch_to.alert.dismiss()
    assert world.get(job)["status"] == "running"
    signed_in.id("cancel").click()
    signed_in.driver.switch_to.alert.accept()
    signed_in.wait_for_text("cancelling", "#status")
    world.release(lease)
    signed_in.wait_for_text("cancelled", "#status")


def test_trainer_output_is_shown_on_demand(signed_in: Browser, world: World) -> None:
    job = world.submit()
    worker_api.record_log(world.claim(), 0, "loading weights\nready\n")
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("logs")
    signed_in.all("#logs summary")[0].click()
    signed_in.wait_for_text("loading weights\nready", "#log-text")


def test_lost_connection_is_shown_and_restored(
    signed_in: Browser, world: World, site: Site
) -> None:
    signed_in.expected_errors += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_"]
    job = world.submit(name="patient")
    lease = world.claim()
    world.step(lease, 1, 20, train__loss=0.7)
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_text("step 1 / 20", ".state")
    site.stop()
    signed_in.wait_for_id("banner")
    signed_in.wait_for_text("This page may be out of date", "#banner")
    assert "step 1 / 20" in signed_in.text(".state")
    world.step(lease, 2, 20, train__loss=0.6)
    site.start()
    signed_in.id("banner-retry").click()
    signed_in.wait_for_text("step 2 / 20", ".state")
    wait_until("the banner to disappear", lambda: not signed_in.id("banner").is_displayed())
    world.step(lease, 3, 20, train__loss=0.5)
    signed_in.wait_for_text("step 3 / 20", ".state")  # the event stream works again


def test_adapter_page_shows_metrics_and_downloads_the_archive(
    signed_in: Browser, world: World, downloads: Path
) -> None:
    world.submit()
    adapter_id = publish(world, world.claim())
    signed_in.get(f"/adapters/{adapter_id}")
    signed_in.wait_for_text("verified", "#certificate")
    signed_in.wait_for_text("92.5 %", "#metrics")
    signed_in.wait_for_text("adapter_model.safetensors", "#files")
    signed_in.id("download").click()
    archive = downloads / f"{adapter_id}.tar"
    wait_until("the download", archive.exists)
    expected = world.client.get(f"/v1/adapters/{adapter_id}").json()["archive"]
    wait_until("the whole file", lambda: archive.stat().st_size == expected["bytes"])
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == expected["sha256"]


def test_dataset_shows_its_first_pairs(signed_in: Browser, world: World) -> None:
    world.upload(12)
    signed_in.get("/datasets")
    signed_in.wait_for_text("12", "#rows .number")
    signed_in.all("#rows a")[0].click()
    signed_in.wait_for_text("Good 0", ".chosen")
    assert len(signed_in.all(".pairs > li")) == 5
    signed_in.id("more-pairs").click()
    signed_in.wait_for_text("Bad 11")


def test_queue_shows_waiting_jobs_and_workers(
    signed_in: Browser, world: World, session: Session
) -> None:
    signed_in.get("/queue")
    world.submit(name="running one")
    lease = world.claim()
    world.submit(name="waiting one", priority=3)
    signed_in.wait_for_text("No worker of its queue is running", "#queue")
    session.add(
        Worker(
            id="host-ab-77",
            host="gpu-box",
            queue=world.settings.queue,
            slots=1,
            busy=1,
            devices=[{"name": "NVIDIA H200", "memory": "143771 MiB"}],
        )
    )
    session.commit()
    signed_in.wait_for_text("NVIDIA H200", "#workers")
    signed_in.wait_for_text("waiting one", "#queue")
    signed_in.wait_for_text("All workers are busy", "#queue")
    assert any(lease.job_id in str(a.get_attribute("href")) for a in signed_in.all("#workers a"))


def test_checks_of_a_worker_are_shown_with_the_failed_ones_first(
    signed_in: Browser, world: World, session: Session
) -> None:
    queue = world.settings.queue
    found = [
        {"check": "torch", "status": "passed", "detail": "2.13"},
        {"check": "kernels", "status": "left_out", "detail": "no GPU"},
        {"check": "disk", "status": "failed", "detail": "2 MB/s, at least 50 are needed"},
    ]
    session.add_all(
        [
            Worker(id="checked", host="a-box", queue=queue, slots=1, doctor=found),
            Worker(id="silent", host="b-box", queue=queue, slots=1),
        ]
    )
    session.commit()
    signed_in.get("/queue")
    signed_in.wait_for_text("1 check of 3 failed", "#workers")
    (summary,) = [node for node in signed_in.all(".doctor summary") if node.is_displayed()]
    summary.click()
    signed_in.wait_for_text("2 MB/s, at least 50 are needed", ".doctor[open]")
    checks = [node.text for node in signed_in.all(".doctor[open] li")]
    assert [text.split()[0] for text in checks] == ["failed", "passed", "left"]
    signed_in.assert_accessible()
