"""Keys, webhooks, the audit log and usage on the pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.support.select import Select

from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.settings import Settings
from app.models import UsageDay
from app.usage import service as usage
from tests.dashboard.browser import Browser
from tests.services import wait_until
from tests.webhooks.receiver import Receiver, receiving
from tests.world import World


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a service that sends messages to this machine."""
    return settings.model_copy(update={"webhook_allow_loopback": True})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that refuses the first message."""
    with receiving() as receiver:
        receiver.answer(500, b"out of order")
        yield receiver


def test_admin_creates_and_revokes_keys_and_sees_the_audit_log(signed_in: Browser) -> None:
    signed_in.get("/admin")
    signed_in.wait_for_id("key-name")
    signed_in.id("key-name").send_keys("pipeline of the team with the longest name of all")
    scopes = Select(signed_in.id("key-scopes"))
    assert [option.text for option in scopes.options] == [scope.value for scope in Scope]
    scopes.select_by_visible_text("jobs:read")
    scopes.select_by_visible_text("scores:write")
    signed_in.id("key-form").submit()
    signed_in.wait_for_text("plk_", "#new-key")
    signed_in.wait_for_text("api_key.create", "#audit")
    signed_in.emulate(width=320)
    assert not signed_in.is_wider_than_screen()
    signed_in.emulate()
    row = next(row for row in signed_in.all("#keys tr") if "pipeline" in row.text)
    row_text = row.text
    row.find_element("tag name", "button").click()
    signed_in.driver.switch_to.alert.accept()
    signed_in.wait_for_text("api_key.revoke", "#audit")
    assert "pipeline" not in signed_in.text("#keys")
    assert "jobs:read, scores:write" in row_text


def test_deliveries_of_a_webhook_are_shown_with_the_last_error(
    signed_in: Browser, world: World, receiver: Receiver
) -> None:
    answer = world.client.post("/v1/webhooks", json={"url": receiver.url})
    assert answer.status_code == 201, answer.text
    path = f"/v1/webhooks/{answer.json()['id']}"
    signed_in.get("/admin")
    signed_in.wait_for_text(receiver.url, "#webhooks")
    signed_in.all(".deliveries summary")[0].click()
    signed_in.wait_for_text("No messages in the last 30 days.", ".deliveries")
    for status in ("failed", "delivered"):
        world.client.post(f"{path}/test")
        wait_until(
            "the outcome",
            lambda now=status: (
                world.client.get(f"{path}/deliveries").json()["data"][0]["status"] == now
            ),
        )
    signed_in.all(".deliveries button")[0].click()
    signed_in.wait_for_text("delivered", ".deliveries tbody tr:nth-child(1)")
    signed_in.wait_for_text("204", ".deliveries tbody tr:nth-child(1)")
    for text in ("webhook.test", "failed", "500", "status 500"):
        signed_in.wait_for_text(text, ".deliveries tbody tr:nth-child(2)")
    signed_in.assert_accessible()


def test_usage_is_shown_per_day_of_this_tenant(signed_in: Browser, world: World) -> None:
    signed_in.get("/usage")
    signed_in.wait_for_text("Nothing was used in this period.")
    with transaction(world.engine) as session:
        usage.add(session, "acme", device_ms=7_500_000, scored_tokens=1_234_567)
        usage.add(session, "other", scored_tokens=999)
        session.flush()
        (today,) = usage.list_days(session, "acme", 1)
        earlier = {"device_ms": 60_000, "stored_bytes": 2 << 30, "scored_tokens": 3}
        session.add(UsageDay(tenant_id="acme", day=today.day - 20, **earlier))
    signed_in.get("/usage")
    signed_in.wait_for_text("1,234,567", "#usage-rows")
    signed_in.wait_for_text("2 h 5 min", "#usage-rows")
    signed_in.wait_for_text("2.0 GiB", "#usage-rows")
    signed_in.wait_for_text("1,234,570", "#usage-sum")
    signed_in.assert_accessible()
    signed_in.all("#periods a")[0].click()
    signed_in.wait_for_text("1,234,567", "#usage-sum")
    assert len(signed_in.all("#usage-rows tr")) == 1
