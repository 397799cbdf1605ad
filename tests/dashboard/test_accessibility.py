"""Accessibility of the pages: keyboard, contrast, small screens and screen readers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from app.domain.lifecycle import FailureCode
from app.domain.progress import Noted
from app.domain.warnings import WarningCode
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from tests.dashboard.adapters import publish
from tests.dashboard.browser import Browser
from tests.world import World

CANARY = "<img src=x onerror=\"document.title='canary'\"><script>canary()</script>&amp;"
PAGES = [
    "/",
    "/jobs/new",
    "/queue",
    "/usage",
    "/datasets",
    "/adapters",
    "/evaluations",
    "/score-batches",
    "/compare",
    "/admin",
    "/docs",
    "/formats",
]
AA = 4.5  # WCAG 2.2, 1.4.3


def test_text_of_users_is_never_interpreted_as_markup(signed_in: Browser, world: World) -> None:
    line = {"prompt": CANARY, "chosen": f"good {CANARY}", "rejected": f"bad {CANARY}"}
    answer = world.client.post(
        "/v1/datasets",
        params={"name": CANARY},
        content=json.dumps(line) + "\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 201, answer.text
    world.know_base_model()
    job = world.submit(
        name=CANARY, metadata={"label": CANARY}, train_dataset=answer.json()["id"]
    )  # fmt: skip
    lease = world.claim()
    note = Noted(code=WarningCode.EVAL_LEAKED, message=f"note {CANARY}", is_warning=True)
    worker_api.record_progress(lease, Progress(notes=[note]))
    worker_api.record_log(lease, 0, f"log {CANARY}")

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
    signed_in.get(f"/datasets/{answer.json()['id']}")
    for place in (".prompt", ".chosen", ".rejected"):
        is_text_in(place)
    waiting = world.submit(name=f"waits {CANARY}")
    signed_in.get("/queue")
    is_text_in("#queue")
    publish(world, world.claim(), summary={CANARY: CANARY})
    signed_in.get(f"/adapters/{world.get(waiting)['adapter_id']}")
    is_text_in("#reward-model")
    assert "canary" not in signed_in.driver.title.replace(CANARY, "")


def test_keyboard_reaches_all_controls_with_visible_focus(signed_in: Browser, world: World) -> None:
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
    assert signed_in.focused() == "by keyboard"  # a refresh keeps the focus
    signed_in.press(Keys.ENTER)
    signed_in.wait_for_text("step 6 / 10", ".state")
    assert signed_in.driver.current_url.endswith(job["id"])

    signed_in.tab_to("pause")
    assert _has_visible_focus(signed_in)
    signed_in.js("document.querySelector('.chart').focus()")
    signed_in.press(Keys.HOME)
    signed_in.wait_for_text("Step 1: training 0.9", ".readout")
    signed_in.press(Keys.ARROW_RIGHT)
    signed_in.wait_for_text("Step 2: training 0.8", ".readout")
    signed_in.tab_to("Trainer output")
    signed_in.press(Keys.ENTER)
    signed_in.wait_for_text("No output yet.", "#logs")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_and_pages_fit_a_phone(
    signed_in: Browser, world: World, scheme: str
) -> None:
    world.know_base_model()
    for path in [*PAGES, *_jobs_of_all_kinds(world)]:
        signed_in.emulate(scheme=scheme)
        signed_in.get(path)
        signed_in.wait_for_id("page")
        signed_in.js("for (const d of document.querySelectorAll('details')) d.open = true")
        if path.startswith("/jobs/job_"):
            signed_in.wait_for_text("Queued.", "#events")
        if path.startswith("/datasets/"):
            signed_in.wait_for_text("Good 0", ".chosen")
        poor = [found for found in signed_in.contrasts() if found[0] < AA]
        assert not poor, (path, poor)
        signed_in.emulate(scheme=scheme, width=320, height=740)
        assert not signed_in.is_wider_than_screen(), path


def test_every_control_has_an_accessible_name(signed_in: Browser, world: World) -> None:
    for path in [*PAGES, *_jobs_of_all_kinds(world)]:
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
        signed_in.assert_accessible()


def _has_visible_focus(browser: Browser) -> bool:
    style: dict[str, Any] = browser.js(
        """const style = getComputedStyle(document.activeElement);
        return {width: parseFloat(style.outlineWidth), kind: style.outlineStyle}"""
    )
    return style["kind"] != "none" and style["width"] >= 2


def _jobs_of_all_kinds(world: World) -> list[str]:
    """Create jobs in different states; return the paths of their pages and of an adapter's."""
    dataset = world.upload()["id"]
    done, failed, running = (
        world.submit(name=name, train_dataset=dataset, metadata={"team": "search"})
        for name in ("done", "failed", "running")
    )
    lease = world.claim()
    world.step(lease, 1, 2, train__loss=0.5, eval_before__accuracy=0.5)
    world.step(lease, 2, 2, train__loss=0.4, eval__accuracy=0.9)
    adapter_id = publish(world, lease)
    world.fail(world.claim(), FailureCode.NAN_LOSS, "no number")
    warning = Noted(code=WarningCode.EVAL_LEAKED, message="3 prompts leaked", is_warning=True)
    worker_api.record_progress(world.claim(), Progress(phase="tokenizing", notes=[warning]))
    waiting = world.submit(name="waiting")
    jobs = [f"/jobs/{job['id']}" for job in (done, failed, running, waiting)]
    compared = ",".join(job["id"] for job in (done, running))
    return [*jobs, f"/adapters/{adapter_id}", f"/datasets/{dataset}", f"/compare?jobs={compared}"]
