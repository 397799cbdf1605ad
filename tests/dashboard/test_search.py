"""The list of jobs is searched, filtered and sorted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium.webdriver.support.select import Select
from sqlalchemy import insert, select

from app.core.database import new_id, transaction
from app.models import Job
from tests.dashboard.adapters import METRICS, publish
from tests.dashboard.browser import Browser
from tests.services import wait_until
from tests.world import World

MANY = 520


@pytest.fixture
def names(signed_in: Browser) -> Callable[[], list[str]]:
    """The names in the list."""
    script = "return [...document.querySelectorAll('#rows td.name > a')].map((a) => a.innerText)"
    return lambda: list(signed_in.js(script))


def test_jobs_are_searched_by_name_and_tag_and_sorted(
    signed_in: Browser, world: World, names: Callable[[], list[str]]
) -> None:
    dataset = world.upload()["id"]
    for name, team in (("beta", "search"), ("alpha", "search"), ("gamma", "chat")):
        world.submit(name=name, metadata={"team": team}, train_dataset=dataset)

    signed_in.get("/?q=ALP")
    wait_until("one job", lambda: names() == ["alpha"])
    signed_in.all("#rows a.label")[0].click()
    wait_until("the jobs of the tag", lambda: names() == ["alpha", "beta"])
    Select(signed_in.id("sort")).select_by_value("name")
    wait_until(
        "the order", lambda: "sort=name" in signed_in.driver.current_url and len(names()) == 2
    )
    assert names() == ["alpha", "beta"]
    signed_in.all("#filters a")[2].click()  # queued
    wait_until("the status", lambda: "status=queued" in signed_in.driver.current_url)
    wait_until("the same jobs", lambda: names() == ["alpha", "beta"])


def test_name_like_a_tag_is_found(
    signed_in: Browser, world: World, names: Callable[[], list[str]]
) -> None:
    dataset = world.upload()["id"]
    world.submit(name="run:7b", train_dataset=dataset)
    world.submit(name="run 8: long", metadata={"team": " search"}, train_dataset=dataset)
    signed_in.get("/?sort=unknown")
    signed_in.wait_for_text("run:7b", "#rows")
    signed_in.all("#rows a.label")[0].click()
    wait_until("the job of the tag", lambda: names() == ["run 8: long"])
    _search(signed_in, "run 8: lo")
    wait_until("the job of the name", lambda: names() == ["run 8: long"])
    _search(signed_in, "run:7")
    signed_in.wait_for_text("No jobs match", "#empty")
    signed_in.id("search-names").click()
    wait_until("the job of the name", lambda: names() == ["run:7b"])
    signed_in.expected_errors.append("422 (Unprocessable")
    signed_in.get(f"/?q={'x' * 129}")
    signed_in.wait_for_text("128", "#refusal")


def _search(browser: Browser, text: str) -> None:
    browser.id("search").clear()
    browser.id("search").send_keys(text)
    browser.id("search-form").submit()


def test_job_is_found_among_more_than_are_loaded(
    signed_in: Browser, world: World, names: Callable[[], list[str]]
) -> None:
    job = world.submit(name="the 100% needle")
    with transaction(world.engine) as session:
        row = session.execute(select(Job.__table__).where(Job.id == job["id"])).mappings().one()
        copies = [{**row, "id": new_id("job"), "name": f"copy {i:03}"} for i in range(MANY)]
        session.execute(insert(Job.__table__), copies)
    signed_in.get("/")
    signed_in.wait_for_text("copy 519", "#rows")
    signed_in.id("search").send_keys("100% NEEDLE")
    signed_in.id("search").submit()
    wait_until("the oldest job", lambda: names() == ["the 100% needle"])
    signed_in.assert_accessible()
    signed_in.get("/?q=copy")
    signed_in.wait_for_text("copy 495", "#rows")
    signed_in.id("older").click()
    signed_in.wait_for_text("copy 470", "#rows")
    assert len(names()) == 25
    signed_in.get("/?sort=name")
    signed_in.wait_for_text("The newest 500 jobs are sorted.", "#search-note")
    signed_in.wait_for_text("copy 044", "#rows")
    assert names() == [f"copy {i:03}" for i in range(20, 45)]
    signed_in.id("older").click()
    wait_until("the next page", lambda: names() == [f"copy {i:03}" for i in range(45, 70)])
    signed_in.get("/?sort=name&after=475")
    signed_in.wait_for_text("copy 519", "#rows")
    assert names() == [f"copy {i:03}" for i in range(495, MANY)]
    assert not signed_in.id("older").is_displayed()
    signed_in.id("newest").click()
    wait_until("the first page", lambda: names() == [f"copy {i:03}" for i in range(20, 45)])
    signed_in.assert_accessible()
    signed_in.get("/?sort=name&q=copy+00")
    signed_in.wait_for_text("copy 009", "#rows")
    assert names() == [f"copy {i:03}" for i in range(10)]
    assert not signed_in.id("pages").is_displayed()
    assert not signed_in.id("search-note").is_displayed()
    signed_in.get("/?q=copy%25")  # a wildcard is treated as text
    signed_in.wait_for_text("No jobs match", "#empty")


def test_jobs_are_sorted_by_accuracy(
    signed_in: Browser,
    world: World,
    names: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = world.upload()["id"]
    for accuracy in (0.9, 0.08, 0.7):
        world.submit(name=str(accuracy), train_dataset=dataset)
        monkeypatch.setitem(METRICS, "eval/accuracy", accuracy)
        publish(world, world.claim())
    signed_in.get("/")
    signed_in.wait_for_text("70.0 %", "#rows")
    Select(signed_in.id("sort")).select_by_value("accuracy")
    wait_until("the order", lambda: names() == ["0.9", "0.7", "0.08"])
