"""The charts: zoom by mouse, touch and keyboard, in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from app.job_queue.lease import WriteContext
from tests.dashboard.browser import Browser
from tests.services import wait_until
from tests.world import World

STEPS = 100


@pytest.fixture
def lease(world: World, job: dict[str, Any]) -> WriteContext:
    """A running job that has logged its loss to the last step."""
    assert job["status"] == "queued"
    lease = world.claim()
    for step in range(1, STEPS + 1, 3):
        world.step(lease, step, STEPS, train__loss=1 / step)
    return lease


@pytest.fixture
def chart(signed_in: Browser, lease: WriteContext) -> Browser:
    """The page of the running job, with one chart."""
    signed_in.get(f"/jobs/{lease.job_id}")
    signed_in.wait_for_text("training 0.01", ".legend")
    return signed_in


def shown_steps(browser: Browser) -> tuple[int, int] | None:
    """Return the first and the last step that the chart shows; None if it shows all."""
    found = re.search(r"steps (\d+) to (\d+)", browser.text(".reset-zoom:not([hidden])"))
    return (int(found[1]), int(found[2])) if found else None


def drag_over_the_middle(browser: Browser) -> None:
    """Drag from a quarter to half of the plot."""
    plot = browser.all(".u-over")[0]
    width = plot.size["width"]
    actions = ActionChains(browser.driver).move_to_element_with_offset(plot, -width // 4, 0)
    actions.click_and_hold().move_by_offset(width // 4, 0).release().perform()


def wait_for_all_steps(browser: Browser) -> None:
    wait_until("all steps", lambda: shown_steps(browser) is None)


@pytest.mark.parametrize("width", [1280, 360])
def test_dragging_zooms_and_the_button_or_a_double_click_resets(chart: Browser, width: int) -> None:
    chart.emulate(width=width)
    wait_until("the width", lambda: chart.all(".u-over")[0].size["width"] < width)
    for reset in (
        lambda: chart.all(".reset-zoom")[0].click(),
        lambda: ActionChains(chart.driver).double_click(chart.all(".u-over")[0]).perform(),
    ):
        assert shown_steps(chart) is None
        drag_over_the_middle(chart)
        chart.wait_for_text("Reset zoom", "#charts")
        first, last = shown_steps(chart) or (0, 0)
        assert 20 <= first <= 30
        assert 45 <= last <= 55
        reset()
        wait_for_all_steps(chart)


@pytest.fixture
def phone(chart: Browser) -> Callable[..., list[tuple[float, float]]]:
    """Show the chart on a phone; return a function from shares of the plot's width to points."""
    chart.emulate(width=360)
    wait_until("the width", lambda: chart.all(".u-over")[0].size["width"] < 360)
    chart.js("document.querySelector('.u-over').scrollIntoView({block: 'center'})")

    def points(*shares: float, down: float = 0) -> list[tuple[float, float]]:
        box = chart.js("return document.querySelector('.u-over').getBoundingClientRect().toJSON()")
        y = box["y"] + box["height"] / 2 + down
        return [(box["x"] + share * box["width"], y) for share in shares]

    return points


def test_two_fingers_zoom_and_move(
    chart: Browser, phone: Callable[..., list[tuple[float, float]]]
) -> None:
    chart.touch(phone(0.45, 0.55), phone(0.4, 0.7), phone(0.25, 0.75))
    chart.wait_for_text("Reset zoom", "#charts")
    assert shown_steps(chart) == (40, 60)  # 45 to 55 on half of the plot
    chart.touch(phone(0.5, 0.75), phone(0.25, 0.5))
    wait_until("the later steps", lambda: shown_steps(chart) == (45, 65))
    chart.touch(phone(0.2, 0.8), phone(0.45, 0.5))
    wait_for_all_steps(chart)


def test_finger_reads_steps_and_swipes_scroll(
    chart: Browser, phone: Callable[..., list[tuple[float, float]]]
) -> None:
    chart.touch(phone(0.2), phone(0.3), phone(0.5))
    chart.wait_for_text("Step 49:", ".readout")
    assert shown_steps(chart) is None
    before = chart.js("return scrollY")
    chart.touch(*(phone(0.5, down=-10 * i) for i in range(12)))
    wait_until("the page to scroll", lambda: chart.js("return scrollY") > before)


def test_zoom_survives_new_metrics(chart: Browser, world: World, lease: WriteContext) -> None:
    drag_over_the_middle(chart)
    chart.wait_for_text("Reset zoom", "#charts")
    before = shown_steps(chart)
    world.step(lease, STEPS, STEPS, train__loss=0.25)
    chart.wait_for_text("training 0.25", ".legend")
    assert shown_steps(chart) == before
    chart.assert_accessible()


def test_keys_zoom_around_the_step_that_is_read(chart: Browser) -> None:
    chart.js("document.querySelector('.chart').focus()")
    chart.press(Keys.END, "+", "+")
    wait_until("the last quarter", lambda: shown_steps(chart) == (75, 100))
    chart.press("-")
    wait_until("the second half", lambda: shown_steps(chart) == (50, 100))
    chart.press("0")
    wait_for_all_steps(chart)
    chart.press("+")
    chart.wait_for_text("Reset zoom", "#charts")
    chart.js("document.querySelector('.reset-zoom').focus()")
    chart.press(Keys.ENTER)
    wait_for_all_steps(chart)
    assert chart.js("return document.activeElement.className") == "chart"


def test_values_of_a_job_that_diverges_stay_readable(
    chart: Browser, world: World, lease: WriteContext
) -> None:
    """Labels of the axis that are wider than its default width are not cut off."""
    narrow = chart.all(".u-over")[0].size["width"]
    world.step(lease, STEPS, STEPS, train__loss=-1e28)
    chart.wait_for_text("training -1e+28", ".legend")
    wait_until("a wider axis", lambda: chart.all(".u-over")[0].size["width"] < narrow)
    assert chart.js(
        "return import('/static/format.js').then(({ duration, number }) => "
        "[duration(7199), number(2 ** 60), number(1234567)])"
    ) == ["2 h 0 min", "1.2e+18", "1,234,567"]
