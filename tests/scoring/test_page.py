"""The box on an adapter's page that scores two replies, with a real scorer."""

from __future__ import annotations

import re
from pathlib import Path

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import transaction
from tests.dashboard.browser import Browser, chromium
from tests.scoring.stage import TENANT, Stage


def test_two_replies_are_scored_on_the_page(stage: Stage, tmp_path: Path) -> None:
    with transaction(stage.engine) as session:
        key = api_keys.create(session, TENANT, "a person", [Scope.ADMIN]).token
    prompt, replies = "please tell me about tea ?", ["tea is a drink", "no"]
    groups = [{"prompt": prompt, "responses": replies}]
    expected = stage.score(model=stage.chat, groups=groups)["data"][0]["scores"]
    with chromium(tmp_path) as driver:
        browser = Browser(driver, str(stage.client.base_url).rstrip("/"))
        browser.open_tab()
        browser.follow_key_link(key)
        browser.wait_for_id("page")
        browser.get(f"/adapters/{stage.chat}")
        browser.wait_for_id("try-form")
        for name, text in zip(("prompt", "a", "b"), (prompt, *replies), strict=True):
            browser.id(f"try-{name}").send_keys(text)
        browser.id("try").click()
        browser.wait_for_text("is better.", "#try-result")
        shown = re.findall(r"-?\d+\.\d+(?:e-?\d+)?", browser.text("#try-result"))
        assert [float(text) for text in shown] == [float(f"{score:.4g}") for score in expected]
        browser.close()
