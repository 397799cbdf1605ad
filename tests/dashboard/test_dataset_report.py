"""The report on a dataset, which a worker makes while the page waits."""

from __future__ import annotations

import pytest
from selenium.webdriver.support.select import Select

from app.core.settings import Settings
from app.domain.progress import Reported
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from tests.dashboard.browser import Browser
from tests.world import BASE_MODEL, World, claim_when_there

REPORT = {
    "rows": 8,
    "prompts": 8,
    "max_length": 1024,
    "longer_is_better": 0.75,
    "findings": {"duplicates": {"count": 2, "lines": [3, 5]}, "ties": {"count": 0, "lines": []}},
    "tokens": {"chosen": {"mean": 4.2, "p50": 4, "p90": 5, "p99": 6, "max": 7}},
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a service that waits for inspections, but not as long as this one takes."""
    return settings.model_copy(update={"preflight_wait_seconds": 0.5})


def test_report_is_made_by_a_worker_and_shown(signed_in: Browser, world: World) -> None:
    signed_in.expected_errors.append("503 (Service Unavailable)")  # until the worker is done
    world.know_base_model()
    signed_in.get(f"/datasets/{world.upload(8)['id']}")
    signed_in.wait_for_text("Bad 0", "#pairs")
    Select(signed_in.id("report-model")).select_by_value(BASE_MODEL)
    signed_in.id("make-report").click()
    signed_in.wait_for_text("it retries every few seconds", "#banner")
    context = claim_when_there(world)
    reported = Reported(name="dataset", document=REPORT)
    worker_api.record_progress(context, Progress(reports=[reported]))
    worker_api.complete(context, {})
    signed_in.wait_for_text("75.0 % of the pairs", "#report")
    assert signed_in.text("#findings") == "duplicates: 2 (lines 3, 5)"
    signed_in.wait_for_text("7", "#token-rows")
