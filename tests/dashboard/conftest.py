"""Fixtures: the service on a port, its clients and workers, and a real Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from sqlalchemy import Engine

from app.core.settings import Settings
from tests.conftest import empty_database
from tests.dashboard.browser import Browser
from tests.dashboard.browser import chromium as open_chromium
from tests.site import Site
from tests.world import World


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated SQLite database. The dashboard uses HTTP only, so one kind suffices."""
    return empty_database("sqlite", request, tmp_path)


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    site = Site(settings)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def key(key_for: Callable[..., str]) -> str:
    """The admin key of tenant "acme"."""
    return key_for("acme")


@pytest.fixture
def world(site: Site, key: str, engine: Engine, settings: Settings) -> Iterator[World]:
    """Clients and workers of the service."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=site.url, headers=headers, trust_env=False, timeout=30) as client:
        yield World(client, engine, settings)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A Chromium for all tests, with a temporary profile."""
    with open_chromium(tmp_path_factory.mktemp("chromium")) as chrome:
        yield chrome


@pytest.fixture
def browser(chromium: webdriver.Chrome, site: Site) -> Iterator[Browser]:
    """A new tab that is not signed in."""
    browser = Browser(chromium, site.url)
    browser.open_tab()
    yield browser
    browser.close()


@pytest.fixture
def downloads(browser: Browser, tmp_path: Path) -> Path:
    """The directory where the tab saves downloads."""
    directory = tmp_path / "downloads"
    browser.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(directory)}
    )
    return directory


@pytest.fixture
def signed_in(browser: Browser, key: str) -> Browser:
    """A tab that was signed in by the link that ``plaudit serve`` prints."""
    browser.follow_key_link(key)
    browser.wait_for_id("page")
    return browser
