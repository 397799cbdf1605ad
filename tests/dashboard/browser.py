"""Helpers to operate a browser, with checks that hold in every test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import alert_is_present
from selenium.webdriver.support.wait import WebDriverWait

from tests import services

TIMEOUT_SECONDS = 30
#: axe-core; defines `axe`. Scripts of the driver are not subject to the page's security policy.
AXE = (Path(__file__).parent / "axe.min.js").read_text()
#: Returns the contrast of every text on the page with its background (WCAG 2.2, 1.4.3).
_CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = (color) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b]
  .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = rgb(getComputedStyle(node).backgroundColor);
    if (color[3] === 255) return color;
  }
  return [255, 255, 255];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text = walker.nextNode(); text; text = walker.nextNode()) {
  const node = text.parentElement;
  if (!text.data.trim() || !node.checkVisibility()) continue;
  const style = getComputedStyle(node);
  const [a, b] = [light(rgb(node.namespaceURI.endsWith("svg") ? style.fill : style.color)),
                  light(behind(node))];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.data.trim().slice(0, 60)]);
}
return found;
"""


CHROMIUM_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A Chromium with this directory for its profile."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        services.skip_or_fail("no chromium and chromedriver (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(browser)
    for argument in CHROMIUM_ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(str(driver)))
    yield chrome
    chrome.quit()


class Browser:
    """A tab of Chromium on one site."""

    def __init__(self, driver: webdriver.Chrome, origin: str) -> None:
        self.driver, self.origin = driver, origin
        self.expected_errors: list[str] = []

    def open_tab(self) -> None:
        """Replace the tab by a new one with empty storage."""
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        new = self.driver.current_window_handle
        self.driver.switch_to.window(old)
        self.driver.close()
        self.driver.switch_to.window(new)
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.emulate()

    def close(self) -> None:
        """Leave the site. Fail if the tab logged an error or sent a request to another server."""
        self.driver.get("about:blank")
        errors = [entry["message"] for entry in self.driver.get_log("browser")]
        unexpected = [
            text for text in errors if not any(known in text for known in self.expected_errors)
        ]
        assert not unexpected, unexpected
        foreign = [url for url in self.requests() if not url.startswith(self.origin + "/")]
        assert not foreign, foreign

    def requests(self) -> list[str]:
        """Return the URLs of the requests since the last call."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            str(entry["params"]["request"]["url"])
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        ]
        inside = (f"blob:{self.origin}/", "data:")  # nothing leaves the page for these
        return [url for url in urls if not url.startswith(inside)]

    def emulate(self, *, scheme: str = "light", width: int = 1280, height: int = 900) -> None:
        """Emulate a colour scheme and a screen size."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        self.emulate_width(width, height)

    def emulate_width(self, width: int, height: int = 900) -> None:
        """Emulate a screen size."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def touch(self, *moves: list[tuple[float, float]]) -> None:
        """Touch the screen with one finger per point, move the fingers, and lift them."""
        size = {"enabled": True, "maxTouchPoints": max(map(len, moves))}
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", size)
        for number, points in enumerate([*moves, []]):
            kind = "touchMove" if number else "touchStart"
            fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            self.driver.execute_cdp_cmd(
                "Input.dispatchTouchEvent",
                {"type": kind if points else "touchEnd", "touchPoints": fingers},
            )
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})

    def get(self, path: str) -> None:
        """Open a page of the site."""
        self.driver.get(self.origin + path)

    def follow_key_link(self, key: str, *, accept: bool = True) -> str:
        """Open a link with an API key, answer the confirmation, and return its text."""
        self.get(f"/#key={key}")
        alert = WebDriverWait(self.driver, TIMEOUT_SECONDS).until(alert_is_present())
        question: str = alert.text
        if accept:
            alert.accept()
        else:
            alert.dismiss()
        return question

    def id(self, name: str) -> WebElement:
        """Return the element with this id."""
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements that match a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str = "body") -> str:
        """Return the visible text of an element."""
        found: str = self.js("return document.querySelector(arguments[0])?.innerText", selector)
        return found or ""

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return its result."""
        return self.driver.execute_script(script, *arguments)

    def wait_for_text(self, text: str, selector: str = "body") -> None:
        """Wait until an element contains a text."""
        WebDriverWait(self.driver, TIMEOUT_SECONDS, 0.1).until(
            lambda _: text in self.text(selector),
            f"{text!r} is not in {selector}: {self.text(selector)[:3000]}",
        )

    def press(self, *keys: str) -> None:
        """Press keys, one after another, in the focused element."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> str:
        """Return the id of the focused element, or its text if it has no id."""
        active = "const a = document.activeElement; return a.id || a.innerText.trim()"
        return str(self.js(active))

    def tab_to(self, name: str) -> None:
        """Press Tab until the element with this id or text has the focus."""
        for _ in range(60):
            self.press(Keys.TAB)
            if self.focused() == name:
                return
        raise AssertionError(f"Tab never reached {name}")

    def wait_for_id(self, name: str) -> None:
        """Wait until the element with this id is visible."""
        WebDriverWait(self.driver, TIMEOUT_SECONDS, 0.1).until(
            lambda _: self.id(name).is_displayed(), f"#{name} is not shown"
        )

    def contrasts(self) -> list[tuple[float, str]]:
        """Return contrast ratio and beginning of every visible text, lowest ratio first."""
        return sorted((round(ratio, 2), text) for ratio, text in self.js(_CONTRASTS))

    def serious_findings(self) -> list[Any]:
        """Return axe's serious and critical findings: impact, rule and elements."""
        found = self.js(
            AXE + "; return axe.run().then((r) => r.violations.map((v) => "
            "[v.impact, v.id, v.nodes.map((n) => n.html)]))"
        )
        return [finding for finding in found if finding[0] in ("serious", "critical")]

    def assert_accessible(self) -> None:
        """Check the open page with axe on a light desktop and on a dark phone, which it fits."""
        for scheme, width in (("light", 1280), ("dark", 320)):
            self.emulate(scheme=scheme, width=width)
            assert self.serious_findings() == [], (scheme, self.driver.current_url)
            assert not self.is_wider_than_screen(), (width, self.driver.current_url)
        self.emulate()

    def is_wider_than_screen(self) -> bool:
        """Return whether the page needs horizontal scrolling."""
        return bool(
            self.js(
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )
