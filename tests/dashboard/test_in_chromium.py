"""The dashboard in a real browser. Every test also fails on a console error, on a request that
leaves the service, and on a violation of the content security policy (see ``Browser.close``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from sqlalchemy.orm import Session

from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted
from app.jobs import leases
from app.models import Worker
from app.security import Scope
from tests.api.world import World
from tests.dashboard.browser import Browser
from tests.dashboard.conftest import Site
from tests.dashboard.play import publish
from tests.services import wait_until

CANARY = "<img src=x onerror=\"document.title='canary'\"><script>canary()</script>&amp;"
AA = 4.5  # WCAG 2.2, 1.4.3


def test_key_in_the_fragment_signs_in_and_leaves_the_address(
    browser: Browser, key: str, world: World
) -> None:
    world.submit(name="first")
    browser.get(f"/#key={key}")
    browser.wait_for_text("first", "#rows")
    assert browser.driver.current_url == f"{browser.origin}/"
    assert not any(key in url.partition("#")[0] for url in browser.requests())
    assert browser.js("return localStorage.length + document.cookie.length") == 0
    browser.get("/queue")
    browser.wait_for_text("No worker is running")  # the tab still knows the key


def test_without_a_key_the_page_asks_for_one_and_shows_nothing(
    browser: Browser, key: str, world: World
) -> None:
    job = world.submit(name="secret name")
    browser.get(f"/jobs/{job['id']}")
    browser.wait_for_id("sign-in")
    assert not [url for url in browser.requests() if "/v1/" in url]
    assert browser.focused() == "api-key"
    browser.press("plk_wrong", Keys.ENTER)
    browser.expected_errors.append("401 (Unauthorized)")
    browser.wait_for_text("not valid", "#sign-in-reason")
    browser.press(key, Keys.ENTER)  # what was wrong is selected and typed over
    browser.wait_for_text("secret name", "#title")


def test_signing_out_forgets_the_key(signed_in: Browser) -> None:
    signed_in.id("sign-out").click()
    signed_in.wait_for_id("sign-in")
    assert signed_in.js("return sessionStorage.length") == 0


def test_another_tab_is_signed_in_and_out_along(signed_in: Browser) -> None:
    driver = signed_in.driver
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        signed_in.get("/")
        signed_in.wait_for_text("No jobs yet")
        signed_in.id("sign-out").click()
        signed_in.wait_for_id("sign-in")
    finally:
        driver.close()
        driver.switch_to.window(first)
    signed_in.wait_for_id("sign-in")


def test_revoked_key_leads_back_to_the_sign_in(
    browser: Browser, key_for: Callable[..., str], world: World
) -> None:
    key = key_for("acme", Scope.JOBS_READ)
    browser.get(f"/#key={key}")
    browser.wait_for_text("No jobs yet")
    browser.expected_errors.append("401 (Unauthorized)")
    assert world.client.delete(f"/v1/api-keys/key_{key.split('_')[1]}").status_code == 204
    browser.wait_for_text("not valid", "#sign-in-reason")
    assert browser.js("return sessionStorage.length") == 0


def test_key_that_may_not_read_jobs_is_told_so(
    browser: Browser, key_for: Callable[..., str]
) -> None:
    browser.get(f"/#key={key_for('acme', Scope.ARTIFACTS_READ)}")
    browser.expected_errors.append("403 (Forbidden)")
    browser.wait_for_text("lacks the scope jobs:read", "#refusal")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "No jobs yet"),
        ("/datasets", "No datasets yet"),
        ("/queue", "No job waits."),
        ("/?status=failed", "No failed jobs"),
    ],
)
def test_empty_page_says_so_and_what_to_do(signed_in: Browser, path: str, text: str) -> None:
    signed_in.get(path)
    signed_in.wait_for_text(text)


def test_unknown_job_is_said_to_be_missing(signed_in: Browser) -> None:
    signed_in.expected_errors += ["404 (Not Found)", "422 (Unprocessable"]
    for job_id in ("job_" + "0" * 32, "nonsense"):
        signed_in.get(f"/jobs/{job_id}")
        signed_in.wait_for_text("There is nothing here", "#refusal")


def test_list_shows_newest_first_and_follows_what_happens(signed_in: Browser, world: World) -> None:
    world.submit(name="older")
    signed_in.get("/")
    signed_in.wait_for_text("older", "#rows")
    world.submit(name="newer")
    signed_in.wait_for_text("newer", "#rows")
    names = [link.text for link in signed_in.all("#rows a")]
    assert names == ["newer", "older"]

    lease = world.claim()  # the older one comes first
    world.step(lease, 3, 12, train__loss=0.6)
    signed_in.wait_for_text("3 / 12", "#rows")
    signed_in.wait_for_text("running", "#rows")
    publish(world, lease)
    signed_in.wait_for_text("92.5 %", "#rows")


def test_long_list_has_pages_with_addresses(signed_in: Browser, world: World) -> None:
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
    signed_in.wait_for_text("Numbers appear here with the first step.")
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
    assert signed_in.js("return document.querySelectorAll('svg polyline.training').length") == 2
    assert signed_in.id("bar").get_attribute("value") == "0.25"
    assert signed_in.driver.title.startswith("25 % · live")

    warning = Noted(code="pairs_dropped", message="2 pairs are too long", is_warning=True)
    leases.record(world.engine, world.settings, lease, notes=[warning])
    signed_in.wait_for_text("2 pairs are too long", "#warnings")
    world.step(lease, 40, 40, eval__accuracy=0.925, eval__loss=0.25, eval__length_baseline=0.55)
    publish(world, lease)
    signed_in.wait_for_text("succeeded", "#status")
    signed_in.wait_for_text("92.5 %", "#accuracy-after")
    signed_in.wait_for_text("Always preferring the longer reply: 55.0 %", "#accuracy")
    signed_in.wait_for_text("verified", "#certificate")
    signed_in.wait_for_text("The adapter is published.", "#events")


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


def test_failed_job_says_why_and_what_to_do(signed_in: Browser, world: World) -> None:
    job = world.submit()
    signed_in.get(f"/jobs/{job['id']}")
    world.fail(world.claim(), FailureCode.NAN_LOSS, "loss is nan at step 3")
    signed_in.wait_for_text("failed", "#status")
    signed_in.wait_for_text("loss is nan at step 3", "#failure")
    signed_in.wait_for_text("Not one step was done.")
    signed_in.wait_for_text("learning_rate", "#failure-hint")


def test_running_job_is_cancelled_from_its_page(signed_in: Browser, world: World) -> None:
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


def test_output_of_the_trainer_is_shown_when_asked_for(signed_in: Browser, world: World) -> None:
    job = world.submit()
    leases.record_log(world.engine, world.settings, world.claim(), 0, "loading weights\nready\n")
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("logs")
    signed_in.all("#logs summary")[0].click()
    signed_in.wait_for_text("loading weights\nready", "#log-text")


def test_lost_connection_is_said_and_found_again(
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
    signed_in.wait_for_text("What you see may be old", "#banner")
    assert "step 1 / 20" in signed_in.text(".state")
    world.step(lease, 2, 20, train__loss=0.6)
    site.start()
    signed_in.id("banner-retry").click()
    signed_in.wait_for_text("step 2 / 20", ".state")
    wait_until("the banner to go", lambda: not signed_in.id("banner").is_displayed())
    world.step(lease, 3, 20, train__loss=0.5)
    signed_in.wait_for_text("step 3 / 20", ".state")  # live again


def test_adapter_page_shows_worth_and_gives_the_very_bytes(
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
    known = world.client.get(f"/v1/adapters/{adapter_id}").json()["archive"]
    wait_until("all of it", lambda: archive.stat().st_size == known["bytes"])
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == known["sha256"]


def test_dataset_shows_its_first_pairs(signed_in: Browser, world: World) -> None:
    world.upload(12)
    signed_in.get("/datasets")
    signed_in.wait_for_text("12 pairs", "#list")
    signed_in.all("#list summary")[0].click()
    signed_in.wait_for_text("Good 0", ".chosen")
    assert len(signed_in.all(".pairs > li")) == 5
    signed_in.all(".dataset button")[0].click()
    signed_in.wait_for_text("Bad 11")


def test_queue_shows_who_waits_why_and_who_works(
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


def test_text_of_users_is_shown_as_text(signed_in: Browser, world: World) -> None:
    line = {"prompt": CANARY, "chosen": f"good {CANARY}", "rejected": f"bad {CANARY}"}
    answer = world.client.post(
        "/v1/datasets",
        params={"name": CANARY},
        content=json.dumps(line) * 1 + "\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 201, answer.text
    world.know_base_model()
    job = world.submit(
        name=CANARY, metadata={"label": CANARY}, train_dataset=answer.json()["id"]
    )  # fmt: skip
    lease = world.claim()
    note = Noted(code="odd", message=f"note {CANARY}", is_warning=True)
    leases.record(world.engine, world.settings, lease, notes=[note])
    leases.record_log(world.engine, world.settings, lease, 0, f"log {CANARY}")

    def is_text_in(selector: str) -> None:
        signed_in.wait_for_text(CANARY, selector)
        assert signed_in.all("img[src=x], main script") == []

    signed_in.get("/")
    is_text_in("#rows")
    signed_in.get(f"/jobs/{job['id']}")
    for place in ("#title", "#labels", "#warnings", "#events"):
        is_text_in(place)
    signed_in.all("#logs summary")[0].click()
    is_text_in("#log-text")
    world.fail(lease, FailureCode.NAN_LOSS, f"failed {CANARY}")
    is_text_in("#failure-detail")
    signed_in.get("/datasets")
    is_text_in("#list")
    signed_in.all("#list summary")[0].click()
    for place in (".prompt", ".chosen", ".rejected"):
        is_text_in(place)
    waiting = world.submit(name=f"waits {CANARY}")
    signed_in.get("/queue")
    is_text_in("#queue")
    publish(world, world.claim(), summary={CANARY: CANARY})
    signed_in.get(f"/adapters/{world.get(waiting)['adapter_id']}")
    is_text_in("#reward-model")
    assert "canary" not in signed_in.driver.title.replace(CANARY, "")


def test_everything_is_reached_and_seen_without_a_mouse(signed_in: Browser, world: World) -> None:
    job = world.submit(name="by keyboard")
    lease = world.claim()
    for step in range(1, 6):
        world.step(lease, step, 10, train__loss=1 - step / 10)
    signed_in.get("/")
    signed_in.wait_for_text("by keyboard", "#rows")
    signed_in.press(Keys.TAB)
    assert signed_in.focused() == "Skip to the content"
    signed_in.press(Keys.ENTER)
    signed_in.tab_to("by keyboard")
    assert _has_visible_focus(signed_in)
    signed_in.wait_for_text("5 / 10", "#rows")
    world.step(lease, 6, 10, train__loss=0.4)
    signed_in.wait_for_text("6 / 10", "#rows")
    assert signed_in.focused() == "by keyboard"  # a refresh takes no focus away
    signed_in.press(Keys.ENTER)
    signed_in.wait_for_text("step 6 / 10", ".state")
    assert signed_in.driver.current_url.endswith(job["id"])

    signed_in.tab_to("pause")
    assert _has_visible_focus(signed_in)
    signed_in.js("document.querySelector('svg.chart').focus()")
    signed_in.press(Keys.HOME)
    signed_in.wait_for_text("Step 1: training 0.9", ".readout")
    signed_in.press(Keys.ARROW_RIGHT)
    signed_in.wait_for_text("Step 2: training 0.8", ".readout")
    signed_in.tab_to("Output of the trainer")
    signed_in.press(Keys.ENTER)
    signed_in.wait_for_text("There is none.", "#logs")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_and_every_phone_has_room(
    signed_in: Browser, world: World, scheme: str
) -> None:
    world.know_base_model()
    paths = ["/", "/queue", "/datasets", *_jobs_of_all_kinds(world)]
    for path in paths:
        signed_in.emulate(scheme=scheme)
        signed_in.get(path)
        signed_in.wait_for_id("page")
        signed_in.js("for (const d of document.querySelectorAll('details')) d.open = true")
        if path.startswith("/jobs/"):
            signed_in.wait_for_text("Queued.", "#events")
        if path == "/datasets":
            signed_in.wait_for_text("Good 0", ".chosen")
        poor = [found for found in signed_in.contrasts() if found[0] < AA]
        assert not poor, (path, poor)
        signed_in.emulate(scheme=scheme, width=360, height=740)
        assert not signed_in.is_wider_than_screen(), path


def test_pages_name_their_parts_for_those_who_hear_them(signed_in: Browser, world: World) -> None:
    for path in ["/", "/queue", "/datasets", *_jobs_of_all_kinds(world)]:
        signed_in.get(path)
        signed_in.wait_for_id("page")
        assert len(signed_in.all("h1:not([hidden] *)")) == 1, path
        nameless = signed_in.js(
            """return [...document.querySelectorAll("a, button, input, progress, svg, summary")]
            .filter((node) => node.checkVisibility())
            .filter((node) => !(node.innerText?.trim() || node.ariaLabel || node.labels?.length))
            .map((node) => node.outerHTML)"""
        )
        assert nameless == [], path


def _has_visible_focus(browser: Browser) -> bool:
    style: dict[str, Any] = browser.js(
        """const style = getComputedStyle(document.activeElement);
        return {width: parseFloat(style.outlineWidth), kind: style.outlineStyle}"""
    )
    return style["kind"] != "none" and style["width"] >= 2


def _jobs_of_all_kinds(world: World) -> list[str]:
    """Addresses of a succeeded, a failed, a running and a queued job, and of an adapter."""
    done, failed, running = (world.submit(name=n) for n in ("done", "failed", "running"))
    lease = world.claim()
    world.step(lease, 1, 2, train__loss=0.5, eval_before__accuracy=0.5)
    world.step(lease, 2, 2, train__loss=0.4, eval__accuracy=0.9)
    adapter_id = publish(world, lease)
    world.fail(world.claim(), FailureCode.NAN_LOSS, "no number")
    warning = Noted(code="odd", message="worth knowing", is_warning=True)
    leases.record(world.engine, world.settings, world.claim(), phase="tokenizing", notes=[warning])
    waiting = world.submit(name="waiting")
    jobs = [f"/jobs/{job['id']}" for job in (done, failed, running, waiting)]
    return [*jobs, f"/adapters/{adapter_id}"]
