"""What a person does in a browser, and what a browser must never do meanwhile."""

from __future__ import annotations

import json
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import alert_is_present
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE_SECONDS = 30
#: For every text on the page: its contrast with what lies behind it (WCAG 2.2, 1.4.3).
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


class Browser:
    """One tab of Chromium on one site."""

    def __init__(self, driver: webdriver.Chrome, origin: str) -> None:
        self.driver, self.origin = driver, origin
        self.expected_errors: list[str] = []

    def open_tab(self) -> None:
        """A tab with nothing in its storage."""
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        new = self.driver.current_window_handle
        self.driver.switch_to.window(old)
        self.driver.close()
        self.driver.switch_to.window(new)
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.emulate()

    def close(self) -> None:
        """Leave the site; fails when the tab talked to others or complained."""
        self.driver.get("about:blank")
        complaints = [entry["message"] for entry in self.driver.get_log("browser")]
        unexpected = [
            text for text in complaints if not any(known in text for known in self.expected_errors)
        ]
        assert not unexpected, unexpected
        strangers = [url for url in self.requests() if not url.startswith(self.origin + "/")]
        assert not strangers, strangers

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            str(entry["params"]["request"]["url"])
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(f"blob:{self.origin}/")]

    def emulate(self, *, scheme: str = "light", width: int = 1280, height: int = 900) -> None:
        """Another colour scheme, another screen."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def get(self, path: str) -> None:
        """Go to a page of the site."""
        self.driver.get(self.origin + path)

    def follow_key_link(self, key: str, *, accept: bool = True) -> str:
        """Open a link that contains a key and answer the page's question, which is returned."""
        self.get(f"/#key={key}")
        alert = WebDriverWait(self.driver, PATIENCE_SECONDS).until(alert_is_present())
        question: str = alert.text
        if accept:
            alert.accept()
        else:
            alert.dismiss()
        return question

    def id(self, name: str) -> WebElement:
        """The element of this id."""
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        """The elements of this CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str = "body") -> str:
        """What can be read there now."""
        found: str = self.js("return document.querySelector(arguments[0])?.innerText", selector)
        return found or ""

    def js(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def wait_for_text(self, text: str, selector: str = "body") -> None:
        """Until it can be read there."""
        WebDriverWait(self.driver, PATIENCE_SECONDS, 0.1).until(
            lambda _: text in self.text(selector),
            f"{text!r} is not in {selector}: {self.text(selector)[:3000]}",
        )

    def press(self, *keys: str) -> None:
        """Keys, one after another, for whatever has the focus."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> str:
        """What has the focus: its id, or else its text."""
        active = "const a = document.activeElement; return a.id || a.innerText.trim()"
        return str(self.js(active))

    def tab_to(self, name: str) -> None:
        """Press Tab until this has the focus."""
        for _ in range(60):
            self.press(Keys.TAB)
            if self.focused() == name:
                return
        raise AssertionError(f"Tab never reached {name}")

    def wait_for_id(self, name: str) -> None:
        """Until the element is shown."""
        WebDriverWait(self.driver, PATIENCE_SECONDS, 0.1).until(
            lambda _: self.id(name).is_displayed(), f"#{name} is not shown"
        )

    def contrasts(self) -> list[tuple[float, str]]:
        """Contrast ratio and beginning of every visible text, worst first."""
        return sorted((round(ratio, 2), text) for ratio, text in self.js(_CONTRASTS))

    def is_wider_than_screen(self) -> bool:
        """Whether one has to scroll sideways."""
        return bool(
            self.js(
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )
