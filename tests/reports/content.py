"""What a report page contains: its numbers, its elements, and what it would load."""

from __future__ import annotations

from html.parser import HTMLParser


class Content(HTMLParser):
    """Addresses, exact numbers and scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.numbers: list[float] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.addresses.append(value or "")
            if name == "data-value" and value not in (None, "True", "False"):
                self.numbers.append(float(str(value)))
