"""Sign-in and the handling of the API key. ``Browser.close`` checks every test as well."""

from __future__ import annotations

from collections.abc import Callable

from selenium.webdriver.common.keys import Keys

from app.auth.scopes import Scope
from tests.dashboard.browser import Browser
from tests.world import World


def test_key_in_the_fragment_signs_in_and_is_removed_from_the_url(
    browser: Browser, key: str, world: World
) -> None:
    world.submit(name="first")
    browser.follow_key_link(key)
    browser.wait_for_text("first", "#rows")
    assert browser.driver.current_url == f"{browser.origin}/"
    assert not any(key in url.partition("#")[0] for url in browser.requests())
    assert browser.js("return localStorage.length + document.cookie.length") == 0
    browser.get("/queue")
    browser.wait_for_text("No worker is running")  # the tab has kept the key


def test_page_without_a_key_shows_only_the_sign_in_form(
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
    browser.press("plk_…", Keys.ENTER)  # no header can hold it
    browser.wait_for_text("no key has", "#sign-in-reason")
    browser.press(key, Keys.ENTER)  # replaces the wrong key, which is selected
    browser.wait_for_text("secret name", "#title")


def test_sign_out_removes_the_key(signed_in: Browser) -> None:
    signed_in.id("sign-out").click()
    signed_in.wait_for_id("sign-in")
    assert signed_in.js("return sessionStorage.length") == 0


def test_other_tabs_are_signed_in_and_out_too(signed_in: Browser) -> None:
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


def test_revoked_key_returns_to_the_sign_in_form(
    browser: Browser, key_for: Callable[..., str], world: World
) -> None:
    key = key_for("acme", Scope.JOBS_READ)
    browser.follow_key_link(key)
    browser.wait_for_text("No jobs yet")
    browser.expected_errors.append("401 (Unauthorized)")
    assert world.client.delete(f"/v1/api-keys/key_{key.split('_')[1]}").status_code == 204
    browser.wait_for_text("not valid", "#sign-in-reason")
    assert browser.js("return sessionStorage.length") == 0


def test_key_without_a_scope_sees_the_lists_without_their_forms(
    browser: Browser, key_for: Callable[..., str]
) -> None:
    browser.expected_errors.append("403 (Forbidden)")
    browser.follow_key_link(key_for("acme", Scope.JOBS_READ))
    for path, form in (("/evaluations", "new-evaluation"), ("/score-batches", "new-batch")):
        browser.get(path)
        browser.wait_for_id("empty")
        assert not browser.id(form).is_displayed()


def test_key_without_the_scope_sees_the_missing_scope(
    browser: Browser, key_for: Callable[..., str]
) -> None:
    browser.follow_key_link(key_for("acme", Scope.ARTIFACTS_READ))
    browser.expected_errors.append("403 (Forbidden)")
    browser.wait_for_text("lacks the scope jobs:read", "#refusal")


def test_link_with_another_key_is_asked_about_and_can_be_declined(
    signed_in: Browser, key: str, key_for: Callable[..., str]
) -> None:
    foreign = key_for("mallory")
    question = signed_in.follow_key_link(foreign, accept=False)
    assert "replace the API key" in question
    signed_in.wait_for_id("page")
    assert signed_in.js("return sessionStorage.getItem('plaudit.key')") == key
    assert foreign not in signed_in.driver.current_url
