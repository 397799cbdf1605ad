"""Report pages hold hostile texts and stay small."""

from __future__ import annotations

import pytest
from markupsafe import escape

from app.reports.page import MAX_BYTES, Page, Plot, Section, Table, render

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'); alert(1)//",
    "{{ 7 * 7 }}",
    "</pre></body><iframe src=//evil.example>",
    "\u202e\u0000 &amp; <b>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_and_never_markup(text: str) -> None:
    pair = {"line": 1, "margin": -1.0, "slice": text, "texts": [(text, text)]}
    section = Section(
        text, notes=[text], warnings=[text], tables=[Table(text, (text,), [(text,)])],
        plots=[Plot(text, f"<svg>{text}</svg>")], pairs=[pair],
    )  # fmt: skip
    html = render(Page(text, [section]))
    clean = render(Page("x", [Section("x", notes=["x"], warnings=["x"],
                    tables=[Table("x", ("x",), [("x",)])], plots=[Plot("x", "<svg/>")],
                    pairs=[{**pair, "slice": "x", "texts": [("x", "x")]}])]))  # fmt: skip
    assert html.count("<") == clean.count("<")
    assert str(escape(text)) in html


def test_large_page_loses_texts_and_then_plots() -> None:
    pair = {"line": 1, "margin": -1.0, "slice": None, "texts": [("prompt", "x" * 100_000)]}
    plots = [Plot("p", "<svg>" + "y" * 500_000)] * 4
    html = render(Page("t", [Section("s", pairs=[pair] * 30)]))
    assert 100_000 < len(html.encode()) <= MAX_BYTES
    assert "15 of 30 pairs are shown" in html
    html = render(Page("t", [Section("s", notes=["kept"], plots=plots, pairs=[pair] * 30)]))
    assert len(html.encode()) <= MAX_BYTES
    assert "kept" in html
    assert "data:image" not in html
    assert "The plots are left out" in html


def test_short_words_are_not_broken() -> None:
    table = Table("", ("a", "b", "c"), [("paragraph_repeated", "two words", f"ad_{'0' * 32}")])
    html = render(Page("t", [Section("s", tables=[table])]))
    assert '<td class="whole">paragraph_repeated</td><td>two words</td><td>ad_0' in html


def test_numbers_keep_their_exact_value() -> None:
    html = render(
        Page("t", [Section("s", tables=[Table("", ("a",), [(1 / 3,), (None,), (True,)])])])
    )
    assert 'data-value="0.3333333333333333">0.3333<' in html
    assert "<td>–</td>" in html
    assert "<td>yes</td>" in html
